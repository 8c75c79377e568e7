"""One chat in three forms, over messages of any library.

Somebody joins a room, and is told who is there; what somebody says goes to all in
the room.  A bad message is answered by nobody here: it closes the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

from unisock import SyncWebSocket, WebSocket, WebSocketDisconnect, WebSocketEndpoint, on_message
from unisock.handlers import Handler

NOT_JOINED = (4000, "join a room first")


class Rooms:
    """Who is in which room, by connection; for one chat."""

    def __init__(self) -> None:
        self._members: dict[Any, tuple[str, str]] = {}

    def join(self, ws: object, room: str, name: str) -> None:
        """Enter a room; whoever is in another one leaves that."""
        self._members[ws] = room, name

    def leave(self, ws: object) -> None:
        """Leave, if in any."""
        self._members.pop(ws, None)

    def name_of(self, ws: object) -> str | None:
        """Who this is, if in a room."""
        return self._members[ws][1] if ws in self._members else None

    def beside(self, ws: object) -> Iterator[tuple[Any, str]]:
        """All in the same room with their names, in the order in which they came."""
        room = self._members[ws][0]
        yield from [(m, name) for m, (r, name) in list(self._members.items()) if r == room]


def make_function(protocol: ModuleType) -> Handler:
    """The chat as a coroutine function."""
    rooms = Rooms()

    async def tell_all(ws: WebSocket, message: object) -> None:
        for member, _ in rooms.beside(ws):
            with suppress(WebSocketDisconnect):
                await member.send_json(message)

    async def chat(ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                message = await ws.receive_json(protocol.Message)
                name = rooms.name_of(ws)
                if isinstance(message, protocol.Join):
                    rooms.join(ws, message.room, message.name)
                    members = [name for _, name in rooms.beside(ws)]
                    await tell_all(ws, protocol.Joined(name=message.name, members=members))
                elif name is None:
                    await ws.close(*NOT_JOINED)
                elif isinstance(message, protocol.Say):
                    said = protocol.Said(name=name, text=message.text, mentions=message.mentions)
                    await tell_all(ws, said)
                else:
                    await tell_all(ws, protocol.Left(name=name))
                    rooms.leave(ws)
        finally:
            rooms.leave(ws)

    return chat


def make_endpoint(protocol: ModuleType) -> Handler:
    """The chat as a class."""
    rooms = Rooms()

    class Chat(WebSocketEndpoint):
        async def tell_all(self, message: object) -> None:
            for member, _ in rooms.beside(self.websocket):
                with suppress(WebSocketDisconnect):
                    await member.send_json(message)

        @on_message(protocol.Join)
        async def join(self, ws: WebSocket, message: Any) -> None:
            rooms.join(ws, message.room, message.name)
            members = [name for _, name in rooms.beside(ws)]
            await self.tell_all(protocol.Joined(name=message.name, members=members))

        @on_message(protocol.Say)
        async def say(self, ws: WebSocket, message: Any) -> None:
            name = rooms.name_of(ws)
            if name is None:
                await ws.close(*NOT_JOINED)
            else:
                said = protocol.Said(name=name, text=message.text, mentions=message.mentions)
                await self.tell_all(said)

        @on_message(protocol.Leave)
        async def leave(self, ws: WebSocket, message: Any) -> None:
            name = rooms.name_of(ws)
            if name is None:
                await ws.close(*NOT_JOINED)
            else:
                await self.tell_all(protocol.Left(name=name))
                rooms.leave(ws)

        async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
            rooms.leave(ws)

    return Chat


def make_sync(protocol: ModuleType) -> Handler:
    """The chat as a plain function."""
    rooms = Rooms()

    def tell_all(ws: SyncWebSocket, message: object) -> None:
        for member, _ in rooms.beside(ws):
            with suppress(WebSocketDisconnect):
                member.send_json(message)

    def chat(ws: SyncWebSocket) -> None:
        ws.accept()
        try:
            for message in ws.iter_json(protocol.Message):
                name = rooms.name_of(ws)
                if isinstance(message, protocol.Join):
                    rooms.join(ws, message.room, message.name)
                    members = [name for _, name in rooms.beside(ws)]
                    tell_all(ws, protocol.Joined(name=message.name, members=members))
                elif name is None:
                    ws.close(*NOT_JOINED)
                elif isinstance(message, protocol.Say):
                    said = protocol.Said(name=name, text=message.text, mentions=message.mentions)
                    tell_all(ws, said)
                else:
                    tell_all(ws, protocol.Left(name=name))
                    rooms.leave(ws)
        finally:
            rooms.leave(ws)

    return chat


FORMS: dict[str, Callable[[ModuleType], Handler]] = {
    "function": make_function,
    "endpoint": make_endpoint,
    "sync": make_sync,
}
