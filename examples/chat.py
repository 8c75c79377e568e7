"""A chat of tagged messages.

``unisock serve examples.chat:Chat --path '/rooms/{room}' --on all``
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from unisock import WebSocket, WebSocketDisconnect, WebSocketEndpoint, on_message


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


rooms: defaultdict[str, list[Chat]] = defaultdict(list)


class Chat(WebSocketEndpoint):
    """One client in one room."""

    name = ""

    @on_message(Join)
    async def join(self, ws: WebSocket, message: Join) -> None:
        if self not in self.room:
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
            await self.tell_members()
        if not self.room:
            del rooms[ws.path_params["room"]]

    @property
    def room(self) -> list[Chat]:
        return rooms[self.websocket.path_params["room"]]

    async def tell_members(self) -> None:
        await self.tell(Members([member.name for member in self.room]))

    async def tell(self, message: Members | Said) -> None:
        for member in list(self.room):
            with suppress(WebSocketDisconnect):  # its own on_disconnect sees to that
                await member.websocket.send_json(message)
