"""The messages of the chat as pydantic models."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel


class Mention(BaseModel):
    """Somebody named in a text."""

    name: str
    at: int


class Join(BaseModel):
    """Enter a room."""

    type: Literal["join"] = "join"
    room: str
    name: str


class Say(BaseModel):
    """Say something there."""

    type: Literal["say"] = "say"
    text: str
    mentions: list[Mention] = []


class Leave(BaseModel):
    """Leave it."""

    type: Literal["leave"] = "leave"


Message: TypeAlias = Join | Say | Leave


class Joined(BaseModel):
    """Somebody has entered."""

    type: Literal["joined"] = "joined"
    name: str
    members: list[str]


class Said(BaseModel):
    """Somebody has said something."""

    type: Literal["said"] = "said"
    name: str
    text: str
    mentions: list[Mention]


class Left(BaseModel):
    """Somebody has left."""

    type: Literal["left"] = "left"
    name: str
