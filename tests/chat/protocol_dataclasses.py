"""The messages of the chat as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(kw_only=True)
class Mention:
    """Somebody named in a text."""

    name: str
    at: int


@dataclass(kw_only=True)
class Join:
    """Enter a room."""

    type: Literal["join"] = "join"
    room: str
    name: str


@dataclass(kw_only=True)
class Say:
    """Say something there."""

    type: Literal["say"] = "say"
    text: str
    mentions: list[Mention] = field(default_factory=list)


@dataclass(kw_only=True)
class Leave:
    """Leave it."""

    type: Literal["leave"] = "leave"


Message: TypeAlias = Join | Say | Leave


@dataclass(kw_only=True)
class Joined:
    """Somebody has entered."""

    type: Literal["joined"] = "joined"
    name: str
    members: list[str]


@dataclass(kw_only=True)
class Said:
    """Somebody has said something."""

    type: Literal["said"] = "said"
    name: str
    text: str
    mentions: list[Mention]


@dataclass(kw_only=True)
class Left:
    """Somebody has left."""

    type: Literal["left"] = "left"
    name: str
