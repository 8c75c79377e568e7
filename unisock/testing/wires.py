"""What carries the messages of a test's peer: memory here, a socket in `sockets`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from unisock.handshake import Address, Handshake
from unisock.transport import Capabilities, ConnectionLost, Disconnect, Inbox, PullTransport

from .watching import Watch, WatchedHandler

# What a peer holds unread before its handler's sends wait, as with a client's
# buffers and the system's; and what is under way to the handler.
_MAX_MESSAGES = 1024
_MAX_SIZE = 16 * 1024 * 1024
_UNDER_WAY = 16
_BROKEN = 1006


CLIENT = Address("192.0.2.1", 50000)
"""Where the client of a test comes from (an address for examples: RFC 5737)."""


class Answer(NamedTuple):
    """The answer to a handshake; 101 is that it was accepted."""

    status_code: int
    headers: CIMultiDictProxy[str]
    body: bytes = b""
    subprotocol: str | None = None


class Wire(ABC):
    """One connection, from the peer's side.

    Attributes:
        inbox: what the handler has sent and the test has not received.
        sent: how many messages the handler has sent.
        last_sent: the last of them.
    """

    def __init__(self) -> None:
        self.inbox = Inbox(
            max_messages=_MAX_MESSAGES, max_size=_MAX_SIZE, max_message_size=_MAX_SIZE
        )
        self.sent = 0
        self.last_sent: deque[str | bytes] = deque(maxlen=5)

    def deliver(self, message: str | bytes) -> bool:
        """Put what the handler has sent into the inbox; return whether there is room for more."""
        self.sent += 1
        self.last_sent.append(message)
        return self.inbox.put(message)

    @property
    @abstractmethod
    def watch(self) -> Watch | None:
        """The watch over the handler, once that runs; `None` for one that is not known."""

    async def prepare(self) -> None:  # noqa: B027  # in memory there is nothing
        """Start what takes its time, before any wait is measured."""

    @abstractmethod
    async def open(self) -> Answer:
        """Send the handshake and wait for the answer."""

    @abstractmethod
    async def send(self, message: str | bytes) -> None:
        """Send a message; wait while the handler does not receive.

        Raises:
            ConnectionLost: the connection has ended.
        """

    async def send_fragments(self, fragments: Iterable[str] | Iterable[bytes]) -> None:
        """Send a message in several frames, where there are frames."""
        parts: list[Any] = list(fragments)
        await self.send(type(parts[0])().join(parts))

    @abstractmethod
    async def close(self, code: int | None, reason: str) -> None:
        """Send a close frame."""

    @abstractmethod
    def vanish(self) -> None:
        """Break the connection."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Stop reading what the handler sends."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Go on reading."""

    @abstractmethod
    async def stop_server(self) -> None:
        """Stop the server, as an operator does; return when the handler has been told."""

    @abstractmethod
    async def end(self, patience: float, cancel_left: bool) -> None:
        """Take everything down; wait so many seconds for a handler that goes on.

        Args:
            patience: the seconds.
            cancel_left: whether what the handler has left is cancelled too.
        """


class MemoryHandshake(Handshake):
    """A handshake of plain values, which are as the properties of the same names."""

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
        framework_state: MutableMapping[str, Any] | None = None,
    ) -> None:
        self._scheme = scheme
        self._raw_path = raw_path
        self._query_string = query_string
        self._raw_headers = raw_headers
        self._path_params = path_params or {}
        self._client = client
        self._request = request
        self._framework_state = framework_state

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

    @property
    def framework_state(self) -> MutableMapping[str, Any] | None:
        """As given."""
        return self._framework_state


class MemoryTransport(PullTransport):
    """A connection in memory: the handler's end of a `MemoryWire`."""

    def __init__(self, handshake: Handshake, wire: MemoryWire) -> None:
        self.handshake = handshake
        self.capabilities = Capabilities()
        self._wire = wire

    def start(self, inbox: Inbox) -> None:
        """Read; and have a connection that breaks end for the peer too."""
        super().start(inbox)
        inbox.call_on_end(lambda: self._wire.handler_ended(inbox.ended))

    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Answer the peer."""
        self._wire.answer(101, headers, subprotocol=subprotocol)

    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Answer the peer."""
        self._wire.answer(status_code, headers, body)

    async def send(self, data: str | bytes) -> None:
        """Hand it to the peer, when that has room."""
        await self._wire.take(data)

    async def close(self, code: int, reason: str) -> None:
        """Tell the peer, when that reads."""
        await self._wire.take_close(code, reason)

    async def receive(self) -> str | bytes | Disconnect:
        """What the peer has sent."""
        return await self._wire.read()


class MemoryWire(Wire):
    """A connection without a socket, in the event loop of the test."""

    def __init__(self, handler: WatchedHandler, handshake: Handshake) -> None:
        super().__init__()
        # What the peer has sent and the server has not read; an end needs no place.
        self._under_way: asyncio.Queue[str | bytes | Disconnect] = asyncio.Queue()
        self._places = asyncio.Semaphore(_UNDER_WAY)
        self._handler = handler
        self._handshake = handshake
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._sending = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()
        self._reading = asyncio.Event()
        self._reading.set()
        self._serving: asyncio.Task[None] | None = None

    @property
    def watch(self) -> Watch | None:
        """The watch over the handler."""
        return next(iter(self._handler.watches.values()), None)

    # The server's side

    def answer(
        self,
        status_code: int,
        headers: list[tuple[str, str]],
        body: bytes = b"",
        subprotocol: str | None = None,
    ) -> None:
        """Answer the handshake."""
        if self.inbox.ended is not None:
            raise ConnectionLost
        answer = Answer(status_code, CIMultiDictProxy(CIMultiDict(headers)), body, subprotocol)
        if not self._answer.done():
            self._answer.set_result(answer)

    async def read(self) -> str | bytes | Disconnect:
        """What the peer has sent next."""
        message = await self._under_way.get()
        self._places.release()
        return message

    async def take(self, message: str | bytes) -> None:
        """Deliver a message, when the peer reads and has room."""
        async with self._sending:
            await self._flow()
            if not self.deliver(message):
                self._room.clear()
                self.inbox.call_on_room(self._room.set)

    def handler_ended(self, end: Disconnect | None) -> None:
        """The connection has ended for the handler; a peer that does not read learns of it."""
        if end is not None and end.code == _BROKEN and self._answer.done():
            self.inbox.disconnect(_BROKEN)
            self._reading.set()
            self._room.set()

    async def take_close(self, code: int, reason: str) -> None:
        """Close, when the peer reads."""
        async with self._sending:
            await self._flow()
            self.inbox.disconnect(code, reason)

    async def _flow(self) -> None:
        while self.inbox.ended is None and not (self._room.is_set() and self._reading.is_set()):
            await self._room.wait()
            await self._reading.wait()
        if self.inbox.ended is not None:
            raise ConnectionLost

    # The peer's side

    async def open(self) -> Answer:
        """Run the handler, and wait for its answer."""
        transport = MemoryTransport(self._handshake, self)
        self._serving = asyncio.create_task(self._handler.serve(transport), name=self._handler.name)
        self._serving.add_done_callback(self._on_served)
        return await asyncio.shield(self._answer)

    def _on_served(self, serving: asyncio.Task[None]) -> None:
        if not serving.cancelled():
            serving.exception()  # the watch has it
        # As a server does when its application has ended without a word.
        if not self._answer.done():
            self._answer.set_result(Answer(500, CIMultiDictProxy(CIMultiDict())))
        self._lose(1006)

    async def send(self, message: str | bytes) -> None:
        """Put it under way."""
        if self.inbox.ended is None:
            await self._places.acquire()
        if self.inbox.ended is not None:
            raise ConnectionLost
        self._under_way.put_nowait(message)

    async def close(self, code: int | None, reason: str) -> None:
        """Tell the handler, behind what is under way."""
        if self.inbox.ended is None:
            code = 1005 if code is None else code
            self._under_way.put_nowait(Disconnect(code, reason))
            self._lose(code, reason)

    def vanish(self) -> None:
        """Tell the handler, behind what is under way."""
        self._under_way.put_nowait(Disconnect(1006))
        self._lose(1006)

    def _lose(self, code: int, reason: str = "") -> None:
        self.inbox.disconnect(code, reason)
        self._reading.set()
        self._room.set()
        for _ in range(_UNDER_WAY):
            self._places.release()

    def pause_reading(self) -> None:
        """Have sends wait."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Let sends go on."""
        self._reading.set()

    async def stop_server(self) -> None:
        """Cancel the handler, as servers do."""
        assert self._serving is not None
        self._serving.cancel()

    async def end(self, patience: float, cancel_left: bool) -> None:
        """Cancel the handler if it goes on, and what it has left."""
        if self._serving is None:
            return
        left = self.watch.left() if cancel_left and self.watch is not None else []
        tasks = {task for task in (self._serving, *left) if not task.done()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
