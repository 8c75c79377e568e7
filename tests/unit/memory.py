"""A connection in memory: the transport that the core's own tests run on.

The test is the peer and the framework at once: it says what comes, sees what
goes, and breaks things at the moment it chooses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeVar, cast

from unisock import Address, Capabilities, Handler, UnisockError, WebSocket
from unisock.handlers import prepare
from unisock.handshake import Handshake
from unisock.options import OptionsDict
from unisock.transport import ConnectionLost, Disconnect, PullTransport, Transport

T = TypeVar("T")

CLIENT = Address("192.0.2.1", 50000)


class MemoryHandshake(Handshake):
    """A handshake made of plain values."""

    def __init__(
        self,
        *,
        scheme: str = "ws",
        raw_path: str = "/",
        query_string: str = "",
        raw_headers: Iterable[tuple[str, str]] = (("Host", "app.example"),),
        path_params: Mapping[str, Any] | None = None,
        client: Address | None = CLIENT,
        request: Any = None,
    ) -> None:
        self._scheme = scheme
        self._raw_path = raw_path
        self._query_string = query_string
        self._raw_headers = raw_headers
        self._path_params = path_params or {}
        self._client = client
        self._request = request

    @property
    def scheme(self) -> str:
        """As given."""
        return self._scheme

    @property
    def raw_path(self) -> str:
        """As given."""
        return self._raw_path

    @property
    def query_string(self) -> str:
        """As given."""
        return self._query_string

    @property
    def raw_headers(self) -> Iterable[tuple[str, str]]:
        """As given."""
        return self._raw_headers

    @property
    def path_params(self) -> Mapping[str, Any]:
        """As given."""
        return self._path_params

    @property
    def client(self) -> Address | None:
        """As given."""
        return self._client

    @property
    def request(self) -> Any:
        """As given."""
        return self._request


class StatefulHandshake(MemoryHandshake):
    """A handshake whose framework keeps something for the request."""

    def __init__(self, kept: MutableMapping[str, Any]) -> None:
        super().__init__()
        self.kept = kept

    @property
    def framework_state(self) -> MutableMapping[str, Any]:
        """What the framework keeps."""
        return self.kept


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
        reading: whether `receive` has been called and waits.
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

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Record it."""
        await self._pass(self.accepting)
        self.sent.append(("accept", subprotocol, headers))

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Record it."""
        await self._pass(self.accepting)
        self.sent.append(("reject", status_code, body, headers))

    async def send(self, data: str | bytes) -> None:
        """Record it."""
        await self._pass(self.flowing)
        self.sent.append(("send", data))

    async def close(self, code: int, reason: str) -> None:
        """Record it."""
        await self._pass(self.flowing)
        self.sent.append(("close", code, reason))

    async def receive(self) -> str | bytes | Disconnect:
        """What the peer has sent."""
        message = await self.incoming.get()
        self.received += 1
        if isinstance(message, Exception):
            raise message
        return message

    def translate(self, exc: Exception) -> UnisockError | None:
        """What the test has set for the exception's type."""
        translation = self.translations.get(type(exc))
        if translation is not None and not isinstance(translation, UnisockError):
            raise translation
        return translation or super().translate(exc)

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


async def settle() -> None:
    """Let every task run until all of them wait."""
    loop = asyncio.get_running_loop()
    # A pass of the loop runs what was ready when it began; a chain of wake-ups
    # in these tests is a handful of passes long.
    for _ in range(20):
        idle = loop.create_future()
        loop.call_soon(idle.set_result, None)
        await idle


async def until(condition: Callable[[], object]) -> None:
    """Wait until another thread has made `condition` true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
