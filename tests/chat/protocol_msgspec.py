"""The messages of the chat as msgspec Structs."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class Mention(Struct):
    """Somebody named in a text."""

    name: str
    at: int


class Join(Struct, tag="join"):
    """Enter a room."""

    room: str
    name: str


class Say(Struct, tag="say"):
    """Say something there."""

    text: str
    mentions: list[Mention] = []


class Leave(Struct, tag="leave"):
    """Leave it."""


Message: TypeAlias = Join | Say | Leave


class Joined(Struct, tag="joined"):
    """Somebody has entered."""

    name: str
    members: list[str]


class Said(Struct, tag="said"):
    """Somebody has said something."""

    name: str
    text: str
    mentions: list[Mention]


class Left(Struct, tag="left"):
    """Somebody has left."""

    name: str
