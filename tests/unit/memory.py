"""A connection in memory for tests that look behind the peer.

What a peer can see is tested with `unisock.testing.connect`.  Here the test is the
framework as well: it sees each call of a verb, and breaks things at the moment it
chooses.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar, cast

import pytest

from unisock import Capabilities, Handler, UnisockError, WebSocket
from unisock.handlers import prepare
from unisock.options import OptionsDict
from unisock.testing import ConnectionRejected, connect
from unisock.testing.wires import MemoryHandshake
from unisock.transport import ConnectionLost, Disconnect, Inbox, PullTransport, Transport

T = TypeVar("T")


def rejection(handler: Any, *args: Any, **options: Any) -> list[tuple[object, ...]]:
    """What a peer gets instead of a connection, in the form of `MemoryTransport.sent`.

    Takes what `connect` does.
    """
    with pytest.raises(ConnectionRejected) as caught, connect(handler, *args, **options):
        pass
    answer = caught.value
    return [("reject", answer.status_code, answer.body, list(answer.headers.items()))]


class FrameworkError(Exception):
    """What `MemoryTransport` may be told to translate."""


class MemoryTransport(PullTransport):
    """A connection whose peer is the test.

    Attributes:
        sent: what went out, as tuples that begin with the verb.
        lost: every verb raises `ConnectionLost` while this is true.
        flowing: sends and closes wait until it is set, as on a peer that does not read.
        blocked: set while something waits for `flowing`.
        accepting: accepts and rejections wait until it is set.
        failure: what a verb raises instead of doing its work.
        received: how many messages have been read.
        inbox: where they are put, once it has started.
    """

    def __init__(
        self,
        handshake: MemoryHandshake | None = None,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.handshake = handshake or MemoryHandshake()
        self.capabilities = capabilities or Capabilities()
        self.incoming: asyncio.Queue[str | bytes | Disconnect | Exception] = asyncio.Queue()
        self.sent: list[tuple[object, ...]] = []
        self.lost = False
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.accepting = asyncio.Event()
        self.accepting.set()
        self.blocked = asyncio.Event()
        self.failure: Exception | None = None
        self.translations: dict[type[Exception], UnisockError | Exception] = {}
        self.received = 0
        self.inbox: Inbox | None = None
        self._change = asyncio.Event()

    # What the test waits for

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until what is sent, read or waited for makes `condition` true."""
        async with asyncio.timeout(10):
            while not condition():
                await self._change.wait()

    async def has_sent(self, count: int = 1) -> None:
        """Wait until so much has gone out, `accept` included."""
        await self.until(lambda: len(self.sent) >= count)

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    # The peer

    def peer_sends(self, *messages: str | bytes) -> None:
        """The peer sends messages."""
        for message in messages:
            self.incoming.put_nowait(message)

    def peer_leaves(self, code: int = 1001, reason: str = "") -> None:
        """The peer closes."""
        self.incoming.put_nowait(Disconnect(code, reason))

    def lose(self) -> None:
        """Lose the connection: verbs raise, and what is blocked does too."""
        self.lost = True
        self.flowing.set()
        self.accepting.set()

    # The framework

    def start(self, inbox: Inbox) -> None:
        """Read, and note who begins to wait for a message or the end."""
        create_waiter = inbox._create_waiter

        def create() -> Any:
            self._changed()
            return create_waiter()

        inbox._create_waiter = create
        self.inbox = inbox
        super().start(inbox)

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Record it."""
        await self._pass(self.accepting)
        self._note("accept", subprotocol, headers)

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Record it."""
        await self._pass(self.accepting)
        self._note("reject", status_code, body, headers)

    async def send(self, data: str | bytes) -> None:
        """Record it."""
        await self._pass(self.flowing)
        self._note("send", data)

    async def close(self, code: int, reason: str) -> None:
        """Record it."""
        await self._pass(self.flowing)
        self._note("close", code, reason)

    async def receive(self) -> str | bytes | Disconnect:
        """What the peer has sent."""
        message = await self.incoming.get()
        self.received += 1
        self._changed()
        if isinstance(message, Exception):
            raise message
        return message

    def translate(self, exc: Exception) -> UnisockError | None:
        """What the test has set for the exception's type."""
        translation = self.translations.get(type(exc))
        if translation is not None and not isinstance(translation, UnisockError):
            raise translation
        return translation or super().translate(exc)

    def _note(self, *verb: object) -> None:
        self.sent.append(verb)
        self._changed()

    async def _pass(self, gate: asyncio.Event) -> None:
        if not gate.is_set():
            self.blocked.set()
            await gate.wait()
            self.blocked.clear()
        if self.lost:
            raise ConnectionLost
        if self.failure is not None:
            raise self.failure


async def run(handler: Handler, transport: Transport, **options: Any) -> None:
    """Run `handler` on one connection, as an adapter does."""
    await prepare(handler, cast(OptionsDict, options)).serve(transport)


class Running:
    """A handler that runs on a `MemoryTransport` in a task of its own."""

    def __init__(self, handler: Handler, transport: MemoryTransport, **options: Any) -> None:
        self.transport = transport
        self.task = asyncio.create_task(run(handler, transport, **options))

    async def end(self) -> list[tuple[object, ...]]:
        """Wait until it has ended; return what was sent, `accept` left out."""
        await self.task
        return without_accept(self.transport)


def without_accept(transport: MemoryTransport) -> list[tuple[object, ...]]:
    """What was sent after the handshake."""
    return [sent for sent in transport.sent if sent[0] != "accept"]


def serve(
    handler: Handler,
    *incoming: str | bytes | Disconnect,
    handshake: MemoryHandshake | None = None,
    capabilities: Capabilities | None = None,
    prepare: Callable[[MemoryTransport], object] = lambda transport: None,
    **options: Any,
) -> MemoryTransport:
    """Run `handler` on one connection to its end, in an event loop of its own."""

    async def main() -> MemoryTransport:
        transport = MemoryTransport(handshake, capabilities)
        for message in incoming:
            transport.incoming.put_nowait(message)
        prepare(transport)
        before = asyncio.all_tasks()
        try:
            await run(handler, transport, **options)
        finally:
            assert asyncio.all_tasks() == before, "tasks were left behind"
        return transport

    return asyncio.run(main())


def with_websocket(
    body: Callable[[WebSocket, MemoryTransport], Awaitable[T]],
    *incoming: str | bytes | Disconnect,
    accept: bool = True,
    handshake: MemoryHandshake | None = None,
    capabilities: Capabilities | None = None,
    **options: Any,
) -> T:
    """Run `body` as a handler that has accepted; return what it returns."""
    results: list[T] = []
    transports: list[MemoryTransport] = []

    async def handler(ws: WebSocket) -> None:
        if accept:
            await ws.accept()
        results.append(await body(ws, transports[0]))

    serve(
        handler,
        *incoming,
        handshake=handshake,
        capabilities=capabilities,
        prepare=transports.append,
        **options,
    )
    return results[0]


@types.coroutine
def turn() -> Generator[None]:
    """Let the others run for one pass of the event loop."""
    yield


async def settle() -> None:
    """Let every task run until all of them wait."""
    # A chain of wake-ups in these tests is a handful of passes long.
    for _ in range(40):
        await turn()
