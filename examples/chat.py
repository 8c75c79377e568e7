"""A chat of tagged messages.

``unisock serve examples.chat:Chat --path '/rooms/{room}' --on all``
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from unisock import InvalidState, WebSocket, WebSocketEndpoint, on_message


@dataclass
class Join:
    """From a client: who it is."""

    name: str
    type: Literal["join"] = "join"


@dataclass
class Say:
    """From a client: for all in the room."""

    text: str
    type: Literal["say"] = "say"


@dataclass
class Members:
    """To all: who is in the room."""

    names: list[str]
    type: Literal["members"] = "members"


@dataclass
class Said:
    """To all: what somebody has said."""

    name: str
    text: str
    type: Literal["said"] = "said"


rooms: dict[str, list[Chat]] = {}


class Chat(WebSocketEndpoint):
    """One client in one room; a room is there while it has members."""

    def __init__(self) -> None:
        self.name = ""
        self.room: list[Chat] = []
        self.outbox: asyncio.Queue[Members | Said] = asyncio.Queue(maxsize=100)

    async def on_connect(self, ws: WebSocket) -> None:
        await ws.accept()
        ws.start_soon(self.deliver, ws)

    async def deliver(self, ws: WebSocket) -> None:
        """Send what is told; of all who tell only this one waits for the client."""
        while True:
            await ws.send_json(await self.outbox.get())

    @on_message(Join)
    async def join(self, ws: WebSocket, message: Join) -> None:
        if self not in self.room:
            self.room = rooms.setdefault(ws.path_params["room"], [])
            self.room.append(self)
        self.name = message.name
        await self.tell_members()

    @on_message(Say)
    async def say(self, ws: WebSocket, message: Say) -> None:
        if self in self.room:
            await self.tell(Said(self.name, message.text))
        else:
            await ws.close(4000, "join first")

    async def on_unknown_message(self, ws: WebSocket, message: Any) -> None:
        await ws.send_json({"type": "error", "reason": "unknown kind of message"})

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        if self in self.room:
            self.room.remove(self)
            if not self.room:
                del rooms[ws.path_params["room"]]
            await self.tell_members()

    async def tell_members(self) -> None:
        await self.tell(Members([member.name for member in self.room]))

    async def tell(self, message: Members | Said) -> None:
        for member in self.room:
            if not member.outbox.full():
                member.outbox.put_nowait(message)
            else:
                with suppress(InvalidState):  # its end is on the way
                    member.websocket.start_soon(member.websocket.close, 1008, "too slow")
        await asyncio.sleep(0)  # the tasks have their turn, also if a client sends much at once
