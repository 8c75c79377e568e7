"""What an author of an adapter may get wrong is told at once, and in words of his."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable
from typing import Any

import pytest

from unisock import Capabilities, Handler, WebSocket
from unisock.handlers import prepare
from unisock.handshake import Handshake
from unisock.runtime import Runtime
from unisock.testing.wires import MemoryHandshake
from unisock.transport import Disconnect, HTTPError, Inbox, PullTransport, Transport


class Smallest(PullTransport):
    """What an adapter must have, and no more."""

    def __init__(self) -> None:
        self.handshake = MemoryHandshake()
        self.sent: list[tuple[object, ...]] = []

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        self.sent.append(("accept",))

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.sent.append(("reject", status_code))

    async def send(self, data: str | bytes) -> None:
        self.sent.append(("send", data))

    async def close(self, code: int, reason: str) -> None:
        self.sent.append(("close", code))

    async def receive(self) -> Disconnect:
        await asyncio.Event().wait()
        raise AssertionError


def serve(transport: Transport, handler: Handler) -> None:
    async def main() -> None:
        await prepare(handler, {}).serve(transport)

    asyncio.run(main())


async def never(ws: WebSocket) -> None:
    raise AssertionError("the handler ran")


def test_capabilities_that_are_not_declared_are_all_of_them() -> None:
    async def ask(ws: WebSocket) -> None:
        assert ws.capabilities == Capabilities()
        await ws.accept(headers={"x-one": "1"})

    transport = Smallest()
    serve(transport, ask)
    assert transport.sent == [("accept",), ("close", 1000)]


def test_without_them_the_error_of_a_handler_is_not_hidden() -> None:
    """One that the framework answers goes on to it."""

    class Translating(Smallest):
        def translate(self, exc: Exception) -> HTTPError:
            return HTTPError(404, "Not Found")

    async def fail(ws: WebSocket) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        serve(Translating(), fail)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("handshake", None, "Smallest.handshake is None"),
        ("handshake", MemoryHandshake, "Smallest.handshake is <class .*set it to an instance"),
        ("capabilities", Capabilities, "Smallest.capabilities is <class .*an instance of Capabil"),
        ("capabilities", {"close_code": False}, "Smallest.capabilities is {'close_code': False}"),
        ("runtime", Runtime, "Smallest.runtime is <class .*an instance of Runtime"),
    ],
)
def test_an_attribute_of_another_type(name: str, value: object, message: str) -> None:
    # A class of its own: most is looked at with the first connection only.
    transport = type("Smallest", (Smallest,), {})()
    setattr(transport, name, value)
    with pytest.raises(TypeError, match=message):
        serve(transport, never)
    assert transport.sent == []


def test_an_attribute_that_was_never_set() -> None:
    Smallest().check()
    transport = Smallest()
    del transport.handshake
    with pytest.raises(TypeError, match=r"Smallest.handshake is not set: set it to an instance"):
        serve(transport, never)


@pytest.mark.parametrize("name", ["accept", "reject", "send", "close", "stop"])
def test_a_verb_that_is_a_plain_function(name: str) -> None:
    def verb(self: Transport, *args: Any) -> None: ...

    with pytest.raises(TypeError, match=rf"Plain\.{name} is a plain function: .* `async def`"):
        type("Plain", (Smallest,), {name: verb})


@pytest.mark.parametrize("name", ["start", "translate", "message_of"])
def test_a_coroutine_function_that_nobody_awaits(name: str) -> None:
    async def start(self: Transport, argument: Inbox) -> None: ...

    with pytest.raises(TypeError, match=rf"Async\.{name} is a coroutine function: .* plain `def`"):
        type("Async", (Smallest,), {name: start})


def test_a_verb_in_other_forms() -> None:
    """One that is decorated, and one that gives another's coroutine."""

    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            return function(*args)

        return call

    class Other(Smallest):
        accept = decorated(Smallest.accept)

        def close(self, code: int, reason: str) -> Awaitable[None]:  # type: ignore[override]  # on purpose
            return super().close(4000, reason)

    async def accept(ws: WebSocket) -> None:
        await ws.accept()

    transport = Other()
    serve(transport, accept)
    assert transport.sent == [("accept",), ("close", 4000)]


@pytest.mark.parametrize("name", ["scheme", "raw_headers", "client", "framework_state"])
def test_a_part_of_the_handshake_that_is_a_method(name: str) -> None:
    def read(self: Handshake) -> str:
        return "ws"

    with pytest.raises(TypeError, match=rf"Methods\.{name} is a method: .* @property"):
        type("Methods", (MemoryHandshake,), {name: read})
