"""The seam: what a framework's adapter gives to the core.

An adapter subclasses `Transport` (or `PullTransport` where the framework is
asked for the next message) and translates a handful of verbs.  It knows
nothing of states, JSON, waiting receives or close policy: those are the
core's, above this line.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from .asyncio_runtime import ASYNCIO
from .errors import (
    InvalidState,
    UnisockError,
    WebSocketDisconnect,
    is_disconnect,
    is_foreign,
)
from .handshake import Handshake
from .printing import MOST_OF_TEXT
from .runtime import Runtime, Waiter
from .sizes import MAX_UTF8, exceeds

logger = logging.getLogger("unisock")

# How long a connection that fails waits for its close frame to be written.
_FAIL_TIMEOUT = 1.0


class ConnectionLost(Exception):
    """Raised by a transport's verbs when the connection is gone.

    For adapters only: the core turns it into `WebSocketDisconnect`.
    """


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can do of what the contract promises."""

    accept_headers: bool = True
    """``accept(headers=…)`` reaches the client."""
    subprotocol: bool = True
    """``accept(subprotocol=…)`` reaches the client."""
    http_rejection: bool = True
    """``reject()`` is an HTTP response with its own status and body."""
    close_code: bool = True
    """The peer's close code is known (else it is 1006)."""
    close_reason: bool = True
    """The peer's close reason is known (else it is ``""``)."""
    own_close_code: bool = True
    """``close(code)`` reaches the client.

    If not, only 1000 and 3000 to 4999 do, and 3000 is added to the others.
    """
    own_close_reason: bool = True
    """``close(reason=…)`` reaches the client."""


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """A response to a handshake that is not accepted."""

    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class HTTPError(UnisockError):
    """A framework's HTTP error, as `Transport.translate` gives it to the core.

    Attributes:
        status_code: the HTTP status.
        title: a short phrase, the reason if the connection is open.
        response: what to answer before ``accept()``; `None` if the framework
            answers itself when the error goes on to it.
    """

    def __init__(self, status_code: int, title: str, response: HTTPResponse | None = None) -> None:
        super().__init__(f"{status_code} {title}")
        self.status_code = status_code
        self.title = title
        self.response = response


class Disconnect(NamedTuple):
    """The end of a connection."""

    code: int
    reason: str = ""


class Inbox:
    """Messages that have arrived and nobody has received yet, then the end.

    Fed by the transport, emptied by the handler; both in one thread.
    Bounded by count and bytes: `put` says when it is full, and the transport
    then stops reading until it is called back.  What is held is at most the bound,
    the message that filled it, one that a cancelled receive has given back, and
    what the transport had read together with them.
    """

    __slots__ = (
        "_create_waiter",
        "_dropped",
        "_end_callbacks",
        "_max_messages",
        "_max_size",
        "_messages",
        "_room_callback",
        "_size",
        "_waiter",
        "closed_by",
        "ended",
        "handshake",
        "max_message_size",
        "send_timeout",
        "times_sends",
    )

    def __init__(
        self,
        *,
        max_messages: int,
        max_size: int,
        max_message_size: int,
        send_timeout: float | None = None,
        runtime: Runtime = ASYNCIO,
    ) -> None:
        self._create_waiter = runtime.waiter_factory()
        # Made when the first message comes that nobody waits for: it takes half a KiB.
        self._messages: deque[str | bytes] | None = None
        self._size = 0
        self._dropped = False
        self._max_messages = max_messages
        self._max_size = max_size
        self._waiter: Waiter[str | bytes | None] | None = None
        self._room_callback: Callable[[], None] | None = None
        self._end_callbacks: list[Callable[[], None]] | None = None
        self.max_message_size = max_message_size
        """The largest message, in bytes, that the connection may carry."""
        self.send_timeout = send_timeout
        """Seconds that a send may wait while the peer takes nothing, if there is a limit."""
        self.times_sends = False
        """Whether the transport minds that itself, by the bytes that the peer takes."""
        self.closed_by: object = None
        """The task that ended the connection from this side."""
        self.ended: Disconnect | None = None
        """How the connection ended, as soon as that is known."""
        self.handshake: Handshake | None = None
        """The connection's; a disconnect is named after it."""

    # The transport's side

    def put(self, message: str | bytes) -> bool:
        """Add a message; return whether the transport may go on reading.

        On `False` the transport stops reading and hands `call_on_room` a
        callback.  The message that filled the inbox is kept.
        """
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(message)  # right into the hands of who waits
            return True
        if self.ended is not None:
            return True
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)
        self._size += sys.getsizeof(message)
        return self._has_room()

    def call_on_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, as soon as there is room (or no more need of it)."""
        if self.ended is not None or self._has_room():
            callback()
        else:
            self._room_callback = callback

    def disconnect(self, code: int, reason: str = "") -> None:
        """The connection has ended; the first call counts.

        Messages that came before are still delivered.
        """
        if self.ended is not None:
            return
        self.ended = Disconnect(code, reason)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self._give_room()
        callbacks, self._end_callbacks = self._end_callbacks, None
        for callback in callbacks or ():
            callback()

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended, and all that came before was received."""
        return self.ended is not None and not self._messages

    @property
    def is_awaited(self) -> bool:
        """Whether a receive waits, and so all that came before was received."""
        return self._waiter is not None and not self._waiter.done()

    def pause(self) -> None:
        """The transport does not read for now, though there may be room."""

    def resume(self) -> None:
        """It reads again."""

    # The handler's side

    def opened(self) -> None:
        """The handler has accepted."""

    def close(self, code: int, reason: str, by: object = None) -> None:
        """End it from this side, by the task `by`: what nobody received is dropped."""
        self._messages = None
        self._size = 0
        self._dropped = True
        self.closed_by = by
        self.disconnect(code, reason)

    def unbound(self) -> None:
        """Take whatever comes from now on.

        For a connection that is known to be lost: its end stands behind what
        the server still holds, which is finite.
        """
        self._max_messages = self._max_size = 1 << 62
        self._give_room()

    def disconnected(self) -> WebSocketDisconnect:
        """What to raise when the connection has ended."""
        # Its path and client, and no reference: an error that is kept must not keep
        # the connection.
        code, reason = self.ended or Disconnect(1006)
        if self.handshake is None:
            return WebSocketDisconnect(code, reason)
        path, client = self.handshake.raw_path, self.handshake.client
        return WebSocketDisconnect(code, reason, path=path, client=client)

    def is_normal_end(self, exc: BaseException) -> bool:
        """Whether `exc` is a disconnect, or a group of such, and no error of a handler."""
        return is_disconnect(exc) and not is_foreign(exc, is_open=self.ended is None)

    async def get(
        self,
        convert: Callable[[str | bytes], Any] | None = None,
        at_end: Callable[[Any], Exception] = disconnected,
    ) -> Any:
        """The next message.  Cancelling loses none.

        Args:
            convert: what is made of it; here, for a coroutine more around this one
                would cost each message its part.
            at_end: makes of this inbox what is raised when the connection has ended
                and all is delivered.

        Raises:
            InvalidState: another call is waiting.
        """
        if self._waiter is not None and not self._waiter.cancelled():
            raise InvalidState(
                "another receive is already waiting on this WebSocket: "
                "receive in one task, and pass messages on with an asyncio.Queue"
            )
        message: str | bytes | None
        if self._messages:
            message = self._take(self._messages)
        elif self.ended is not None:
            raise at_end(self)
        else:
            waiter: Waiter[str | bytes | None] = self._create_waiter()
            self._waiter = waiter
            try:
                message = await waiter
            except BaseException:
                self._put_back(waiter)
                raise
            finally:
                # Not that of another, who came when this was cancelled already.
                if self._waiter is waiter:
                    self._waiter = None
            if message is None or self._dropped:
                raise at_end(self)
        return message if convert is None else convert(message)

    def _take(self, messages: deque[str | bytes]) -> str | bytes:
        message = messages.popleft()
        self._size -= sys.getsizeof(message)
        if self._room_callback is not None and self._has_room():
            self._give_room()
        return message

    def _put_back(self, waiter: Waiter[str | bytes | None]) -> None:
        """Keep what was handed to a receive that is cancelled before it has taken it."""
        if waiter.done() and not waiter.cancelled() and not self._dropped:
            message = waiter.result()
            if message is not None:
                self._messages = self._messages or deque()
                self._messages.appendleft(message)
                self._size += sys.getsizeof(message)

    def call_on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` at the end; at once if that has come."""
        if self.ended is not None:
            callback()
        else:
            self._end_callbacks = self._end_callbacks or []
            self._end_callbacks.append(callback)

    def forget_on_end(self, callback: Callable[[], None]) -> None:
        """Undo `call_on_end`; nothing happens if it was called already."""
        if self._end_callbacks and callback in self._end_callbacks:
            self._end_callbacks.remove(callback)

    async def wait_ended(self) -> Disconnect:
        """Wait for the end, and return it.  Cancelling is safe."""
        if self.ended is None:
            waiter = self._create_waiter()

            def wake() -> None:
                if not waiter.done():
                    waiter.set_result(None)

            self.call_on_end(wake)
            try:
                await waiter
            finally:
                self.forget_on_end(wake)
        assert self.ended is not None
        return self.ended

    def _has_room(self) -> bool:
        return self._size < self._max_size and len(self._messages or ()) < self._max_messages

    def _give_room(self) -> None:
        callback, self._room_callback = self._room_callback, None
        if callback is not None:
            callback()


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Transport(ABC):
    """One connection on one framework.

    Every verb may raise `ConnectionLost` and nothing else that has to do with
    the connection.  The core calls `accept` or `reject` at most once, and the
    others only after `accept`.
    """

    handshake: Handshake
    """The opening handshake; to be set on each instance."""
    capabilities: Capabilities = Capabilities()
    """What the server can do: all, unless an adapter says otherwise."""
    runtime: Runtime = ASYNCIO
    """What the verbs wait with, and so the whole connection."""
    framework_answers: bool = False
    """Whether the framework answers the handshake when an error of the handler goes on to it.

    Else the core answers 500 before the error goes on.
    """

    _handler_name = "?"  # a session knows it
    _is_checked = False  # one instance of the class was

    @property
    def injected(self) -> Mapping[str, Any]:
        """What the framework has injected: the values of the handler's parameters, by name."""
        return _NOTHING

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass defines.

        Raises:
            TypeError: a plain function that is to be a coroutine function, or the reverse.
        """
        super().__init_subclass__(**kwargs)
        cls._is_checked = False
        for name, method in vars(cls).items():
            _check_method(f"{cls.__name__}.{name}", name, method)

    def check(self) -> None:
        """Check what an adapter has set, before anything is served.

        Of a class that was checked only the handshake is looked at again.

        Raises:
            TypeError: an attribute that is not set, or of another type.
        """
        if self._is_checked and isinstance(getattr(self, "handshake", None), Handshake):
            return
        for name, kind in _ATTRIBUTES.items():
            value = getattr(self, name, _UNSET)
            if not isinstance(value, kind):
                found = "not set" if value is _UNSET else repr(value)
                raise TypeError(
                    f"{type(self).__name__}.{name} is {found}: "
                    f"set it to an instance of {kind.__name__}"
                )
        type(self)._is_checked = True

    @abstractmethod
    async def accept(self, subprotocol: str | None, headers: list[tuple[str, str]]) -> None:
        """Complete the handshake.  Arguments are checked, names in lower case."""

    @abstractmethod
    async def reject(self, status_code: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        """Answer the handshake with an HTTP response, or the nearest the server can."""

    @abstractmethod
    def send(self, data: str | bytes) -> Awaitable[None]:
        """Send one message whole; wait while the peer does not read, and not beyond its end.

        Calls from several tasks must not interleave.
        """

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Send a close frame.  Arguments are checked; the reason fits."""

    @abstractmethod
    def start(self, inbox: Inbox) -> None:
        """Begin to feed `inbox`, and go on until its end, whatever the handler does.

        Called before `accept`, so that a peer that leaves during the
        handshake is noticed where the server tells.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Stop feeding, and leave nothing behind."""

    def translate(self, exc: Exception) -> UnisockError | None:
        """What a framework's exception means: `HTTPError`, `WebSocketException` or `None`."""
        return None

    def _describe(self) -> str:
        """The handler, the path and the client: what each line of the log about it begins with.

        What comes from the peer is quoted and escaped, so that it can forge no line.
        """
        path, client = self.handshake.url.path, self.handshake.client
        who = "unknown" if client is None else repr(f"{client.host[:MOST_OF_TEXT]}:{client.port}")
        return f"handler {self._handler_name}, path {path[:MOST_OF_TEXT]!r}, client {who}"


_ATTRIBUTES = {"handshake": Handshake, "capabilities": Capabilities, "runtime": Runtime}
_UNSET = object()
_VERBS = ("accept", "reject", "send", "close", "stop")
_NEVER_AWAITED = ("start", "translate", "message_of")


def _check_method(qualified: str, name: str, method: object) -> None:
    if not inspect.isfunction(method):
        return
    function = inspect.unwrap(method)
    is_async = inspect.iscoroutinefunction(function)
    if name in _NEVER_AWAITED and is_async:
        raise TypeError(
            f"{qualified} is a coroutine function: nobody awaits it; write a plain `def`"
        )
    # One that says what it returns may return a coroutine of somebody else.
    if name in _VERBS and not is_async and function.__annotations__.get("return") in (None, "None"):
        raise TypeError(f"{qualified} is a plain function: it is awaited; write `async def`")


class PullTransport(Transport):
    """A transport whose framework is asked for the next message."""

    _reader: asyncio.Task[None] | None = None

    @abstractmethod
    def receive(self) -> Awaitable[Any]:
        """The next message or the end; or what `message_of` makes one of.

        Called by one task only, and not again after the end.  Must stand
        being cancelled when the connection is over.
        """

    def message_of(self, received: Any) -> str | bytes | Disconnect:
        """The message, or the end, that `receive` has given.

        For a framework whose own coroutine can be what `receive` returns: one more
        around it would cost each message its part.
        """
        message: str | bytes | Disconnect = received
        return message

    def start(self, inbox: Inbox) -> None:
        """Read in a task of its own until the end."""
        self._reader = asyncio.create_task(self._read(inbox), name="unisock reader")

    async def stop(self) -> None:
        """Cancel the reading task and wait for it."""
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self, inbox: Inbox) -> None:
        certain = inbox.max_message_size // MAX_UTF8
        receive, message_of = self.receive, self.message_of
        try:
            while True:
                message = message_of(await receive())
                if isinstance(message, Disconnect):
                    inbox.disconnect(message.code, message.reason)
                    return
                # Most are so small that nobody need look at how large they are.
                if len(message) > certain and exceeds(message, inbox.max_message_size):
                    await self._fail(inbox, 1009, f"over {inbox.max_message_size} bytes")
                elif not inbox.put(message):
                    await self._room(inbox)
        except Exception:
            logger.exception(
                "%s: reading from the server failed; the connection counts as broken",
                self._describe(),
            )
        finally:
            inbox.disconnect(1006)

    async def _fail(self, inbox: Inbox, code: int, reason: str) -> None:
        """Fail the connection from this side (RFC 6455, section 7.1.7)."""
        try:
            # Before the handler learns of it: its end would cancel this.
            async with asyncio.timeout(_FAIL_TIMEOUT):
                await self.close(code, reason)
        except (ConnectionLost, TimeoutError):
            return
        finally:
            inbox.disconnect(code, reason)

    async def _room(self, inbox: Inbox) -> None:
        room = asyncio.Event()
        inbox.call_on_room(room.set)
        await room.wait()
