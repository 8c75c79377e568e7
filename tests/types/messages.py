"""What type checkers make of typed messages.  Not run: checked by mypy and pyright."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypedDict, assert_type

import msgspec
import pydantic

from unisock import WebSocket


@dataclass
class Join:
    """A dataclass."""

    type: Literal["join"]
    room: str


@dataclass
class Say:
    """Another."""

    type: Literal["say"]
    text: str


class Move(TypedDict):
    """A typed dictionary."""

    type: Literal["move"]
    to: list[int]


class Leave(msgspec.Struct, tag="leave"):
    """A Struct."""

    room: str


class User(pydantic.BaseModel):
    """A model."""

    name: str


class Ids(pydantic.RootModel[list[int]]):
    """A model of an array."""


Message: TypeAlias = Join | Say


async def receives_one_type(ws: WebSocket) -> None:
    """A class gives its instances, and so do the generic forms of builtins."""
    assert_type(await ws.receive_json(Join), Join)
    assert_type(await ws.receive_json(type=Join), Join)
    assert_type(await ws.receive_json(Move), Move)
    assert_type(await ws.receive_json(Leave), Leave)
    assert_type(await ws.receive_json(User), User)
    assert_type(await ws.receive_json(Ids), Ids)
    assert_type(await ws.receive_json(list[int]), list[int])
    assert_type(await ws.receive_json(list[User]), list[User])
    assert_type(await ws.receive_json(dict[str, Join]), dict[str, Join])
    assert_type(await ws.receive_json(tuple[int, str]), tuple[int, str])


async def iterates_over_one_type(ws: WebSocket) -> None:
    """As receiving does."""
    assert_type(ws.iter_json(Join), AsyncIterator[Join])
    assert_type(ws.iter_json(Move), AsyncIterator[Move])
    assert_type(ws.iter_json(Leave), AsyncIterator[Leave])
    assert_type(ws.iter_json(User), AsyncIterator[User])
    assert_type(ws.iter_json(list[int]), AsyncIterator[list[int]])
    async for move in ws.iter_json(Move):
        assert_type(move["to"], list[int])


async def receives_a_class_that_is_chosen(ws: WebSocket, chosen: type[Join | Say]) -> None:
    """One of several classes gives an instance of one of them."""
    assert_type(await ws.receive_json(chosen), Join | Say)
    async for message in ws.iter_json(chosen):
        assert_type(message, Join | Say)


async def receives_a_union(ws: WebSocket) -> None:
    """A union is no class: its variable is annotated, and then the members are told apart.

    By itself ``receive_json(Join | Say)`` is Any to mypy, and ``Join | Say`` to
    pyright.
    """
    message: Join | Say = await ws.receive_json(Join | Say)
    assert_type(message, Join | Say)
    if message.type == "join":
        assert_type(message.room, str)
    else:
        assert_type(message.text, str)

    aliased: Message = await ws.receive_json(Message)
    match aliased:
        case Join():
            assert_type(aliased, Join)
        case Say():
            assert_type(aliased, Say)

    optional: Leave | None = await ws.receive_json(Leave | None)
    assert_type(optional, Leave | None)


async def iterates_over_a_union(ws: WebSocket) -> None:
    """The annotation is the iterator's."""
    messages: AsyncIterator[Message] = ws.iter_json(Message)
    async for message in messages:
        assert_type(message, Join | Say)


async def receives_what_no_class_says(ws: WebSocket) -> None:
    """`Annotated` and `Literal` are Any, and so is nothing at all."""
    size: int = await ws.receive_json(Annotated[int, msgspec.Meta(ge=0)])
    assert_type(size, int)
    word: Literal["on", "off"] = await ws.receive_json(Literal["on", "off"])
    assert_type(word, Literal["on", "off"])
    assert_type(await ws.receive_json(), Any)


async def sends(ws: WebSocket) -> None:
    """Anything may be sent; what JSON cannot say is found at run time."""
    assert_type(await ws.send_json(Join("join", "a")), None)
    assert_type(await ws.send_json([User(name="ann"), Leave("a")], binary=True), None)


async def is_not_what_was_asked_for(ws: WebSocket) -> None:
    """What a type checker refuses: an ignore that is not needed would be an error."""
    joined = await ws.receive_json(Join)
    assert joined.text  # type: ignore[attr-defined]  # a field of another class
