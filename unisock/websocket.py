"""`WebSocket`: what a handler holds."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from inspect import iscoroutine
from types import TracebackType
from typing import Any, TypeAlias, TypeVar, TypeVarTuple, Unpack, overload

from .connection import Connection
from .errors import (
    HeadersInput,
    InvalidMessage,
    InvalidState,
    WebSocketDisconnect,
    check_close_code,
)
from .handshake import check_headers
from .limits import LimitedInbox
from .options import Options
from .printing import printable
from .runtime import Background, Waiter
from .sends import SendClock
from .tasks import ConnectionTasks
from .transport import ConnectionLost, Inbox, Transport

logger = logging.getLogger("unisock")

T = TypeVar("T")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")

# How long a failed send waits for the server to tell why, in seconds.
_REASON_TIMEOUT = 1.0
# A send to a peer that takes everything need not wait.  After so many the others
# have their turn, lest a loop that only sends stop the whole server, and never
# notice the end.
_MAX_IN_A_ROW = 32
# RFC 6455, section 5.5: a control frame carries 125 bytes, two are the code.
_MAX_REASON = 123
# RFC 9110, section 8.6: responses that have neither a body nor its length.
_NO_BODY = (204, 304)


# What works from another thread, and from another greenlet.
_STRAY_REMEDIES = {
    "send": "put the message into an asyncio.Queue that a task of the handler sends from, by "
    "loop.call_soon_threadsafe(queue.put_nowait, message)",
    "close": "use asyncio.run_coroutine_threadsafe(ws.close(), loop), and do not wait for it",
    "start_soon": "use loop.call_soon_threadsafe(ws.start_soon, function)",
}

RAISE: Any = object()
"""The default of a receive that raises `TimeoutError`."""
_LATE = object()

_Response: TypeAlias = tuple[int, bytes, list[tuple[str, str]]]


class _Phase(enum.Enum):
    CONNECTING = "accept() it first"
    ACCEPTING = "accept() has not returned yet"
    OPEN = "accept() was already called"
    REJECTED = "the handshake was rejected"
    OVER = "the handshake is over"  # by no doing of the handler's: a disconnect is raised


_OPEN = _Phase.OPEN  # each message asks for it, and an enum is slow to answer on Python 3.11


class WebSocket(Connection):
    """One WebSocket connection (RFC 6455), the same on every framework.

    A handler gets one and calls `accept` or `reject` first.  All coroutines
    may be cancelled: a cancelled receive loses no message, a cancelled send
    has sent its message whole or not at all.  Sends may be called from several
    tasks at once, receives from one at a time.  All tasks are of the event
    loop that the handler runs on: elsewhere a send, `close` and `start_soon` raise
    `InvalidState`.
    """

    __slots__ = (
        "_clock",
        "_finished",
        "_finishing",
        "_handler_task",
        "_options",
        "_phase",
        "_place",
        "_runtime",
        "_sends",
        "_subprotocol",
        "_tasks",
        "_where",
    )

    def __init__(self, transport: Transport, options: Options) -> None:
        self._transport = transport
        self._handshake = transport.handshake
        self._runtime = transport.runtime
        # Called at each send: where that is not the handler's place it would hang, or worse.
        self._where = transport.runtime.place()
        self._place = None if self._where is None else self._where()
        self._options = options
        self._phase = _Phase.CONNECTING
        self._subprotocol: str | None = None
        self._sends = _Sends()
        # Set where the core minds how long sends wait: how many are under way, and whether
        # one was done since the clock looked last.
        self._clock: SendClock | None = None
        # How many tasks are in a last step, and what is set when one has left it.
        self._finishing = 0
        self._finished: Waiter[None] | None = None
        # Set while a handler runs; the tasks when it has started some.
        self._handler_task: asyncio.Task[Any] | None = None
        self._tasks: ConnectionTasks | None = None
        self._inbox = self._create_inbox()
        self._inbox.handshake = transport.handshake

    def _create_inbox(self) -> Inbox:
        options, runtime = self._options, self._runtime
        if options.limits_messages:
            background = runtime.background()
            fail = partial(self._fail_soon, background)
            return LimitedInbox(options, runtime, background, fail, self._transport._describe)
        return Inbox(
            max_messages=options.max_queue,
            max_size=options.max_queue_size,
            max_message_size=options.max_message_size,
            send_timeout=options.send_timeout,
            runtime=runtime,
        )

    # Opening

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was accepted."""
        return self._subprotocol

    async def accept(
        self, subprotocol: str | None = None, headers: HeadersInput | None = None
    ) -> None:
        """Complete the handshake (RFC 6455, section 4.2.2).

        Args:
            subprotocol: one of `subprotocols`, or `None`.
            headers: more headers of the response, a mapping or pairs.

        Raises:
            InvalidState: it was called before, or the handshake was rejected.
            ValueError: a subprotocol that the client did not offer, or a
                header that may not be sent.  Nothing was sent.
            TypeError: an argument of the wrong type.
            WebSocketDisconnect: the client has gone.
        """
        self._require_connecting("accept")
        if subprotocol is not None and not isinstance(subprotocol, str):
            raise TypeError(f"a subprotocol is a str, not {type(subprotocol).__name__}")
        if subprotocol is not None and subprotocol not in self.subprotocols:
            offered = printable(", ".join(self.subprotocols)) or "none"
            raise ValueError(f"the client did not offer {subprotocol!r} (it offered {offered})")
        pairs = check_headers(headers)
        self._raise_if_ended()
        if pairs and not self.capabilities.accept_headers:
            logger.warning(
                "%s: this server sends no headers with accept(): they are left out",
                self._transport._describe(),
            )
            pairs = []
        if subprotocol is not None and not self.capabilities.subprotocol:
            logger.warning(
                "%s: this server sends no subprotocol with accept(): it is left out",
                self._transport._describe(),
            )
            subprotocol = None
        self._phase = _Phase.ACCEPTING
        try:
            await self._transport.accept(subprotocol, pairs)
        except ConnectionLost as exc:
            raise await self._lost(exc) from None
        finally:
            # Also if it was cancelled: then the answer may be on its way, and
            # what is left to do is to close.
            self._phase = _Phase.OPEN
            self._inbox.opened()
            self._time_sends()
        self._subprotocol = subprotocol

    def _time_sends(self) -> None:
        seconds = self._inbox.send_timeout
        if seconds is not None and not self._inbox.times_sends:
            call_later = self._runtime.background().call_later
            end = partial(self._inbox.disconnect, 1006)
            self._clock = SendClock(seconds, call_later, self._was_sent, end)
            self._inbox.call_on_end(self._clock.stop)

    def _was_sent(self) -> bool | None:
        sends = self._sends
        ended, sends.ended = sends.ended, False
        return ended if sends.waiting else None

    async def reject(
        self,
        status_code: int = 403,
        body: bytes = b"",
        headers: HeadersInput | None = None,
    ) -> None:
        """Answer the handshake with an HTTP response instead of accepting it.

        Args:
            status_code: 200 to 599.
            body: bytes; ``text/plain`` unless `headers` say otherwise.
            headers: headers of the response, a mapping or pairs.

        Raises:
            InvalidState: after `accept`, or a second time.
            ValueError: a status or a header that may not be sent.
            TypeError: an argument of the wrong type.
        """
        self._require_connecting("reject")
        await self._answer(check_response(status_code, body, headers), _Phase.REJECTED)

    async def _answer(self, response: _Response, phase: _Phase) -> None:
        """Answer the handshake, which leads to `phase`."""
        self._phase = phase
        # Also if the client has gone: a server may complain of a handshake that
        # nobody answered (uvicorn 0.54 on `websockets` does).
        self._inbox.close(1006, "", self._runtime.current())
        if self._options.visible_rejections:
            await self._finish(self._reject_visibly(*response))
        else:
            await self._finish(self._transport.reject(*response))

    async def _reject_visibly(self, status_code: int, body: bytes, _: object) -> None:
        """Accept and close, for a browser shows nothing else to JavaScript."""
        reason = cut_reason(body.decode(errors="replace").strip())
        await self._transport.accept(None, [])
        await self._transport.close(4000 + status_code, reason)

    # Receiving

    @overload
    async def receive(self, timeout: float | None = None) -> str | bytes: ...
    @overload
    async def receive(self, timeout: float | None, default: D) -> str | bytes | D: ...
    async def receive(self, timeout: float | None = None, default: Any = RAISE) -> Any:
        """The next message: text as `str`, binary as `bytes`.

        Args:
            timeout: seconds to wait at most; `None` for ever.
            default: what is returned where nothing has come in time.

        Raises:
            TimeoutError: nothing has come in time, and there is no `default`.  Nothing is lost.
            InvalidState: before `accept`, or while another receive waits.
            WebSocketDisconnect: the connection has ended, and all that came
                before has been received.
        """
        if self._phase is not _OPEN:
            raise self._not_open("receive")
        if timeout is not None:
            return await self._get_within(timeout, default, None)
        return await self._inbox.get()

    @overload
    async def receive_text(self, timeout: float | None = None) -> str: ...
    @overload
    async def receive_text(self, timeout: float | None, default: D) -> str | D: ...
    async def receive_text(self, timeout: float | None = None, default: Any = RAISE) -> Any:
        """The next message, which must be text.

        Args:
            timeout: as `receive`.
            default: as `receive`.

        Raises:
            InvalidMessage: it is binary (code 1003); it is consumed.
            TimeoutError, InvalidState, WebSocketDisconnect: as `receive`.
        """
        # Not by way of receive(): each coroutine more is paid for by every message.
        if self._phase is not _OPEN:
            raise self._not_open("receive_text")
        if timeout is not None:
            return await self._get_within(timeout, default, _text)
        return await self._inbox.get(_text)

    @overload
    async def receive_bytes(self, timeout: float | None = None) -> bytes: ...
    @overload
    async def receive_bytes(self, timeout: float | None, default: D) -> bytes | D: ...
    async def receive_bytes(self, timeout: float | None = None, default: Any = RAISE) -> Any:
        """The next message, which must be binary.

        Args:
            timeout: as `receive`.
            default: as `receive`.

        Raises:
            InvalidMessage: it is text (code 1003); it is consumed.
            TimeoutError, InvalidState, WebSocketDisconnect: as `receive`.
        """
        if self._phase is not _OPEN:
            raise self._not_open("receive_bytes")
        if timeout is not None:
            return await self._get_within(timeout, default, _bytes)
        return await self._inbox.get(_bytes)

    @overload
    async def receive_json(self, *, timeout: float | None = None) -> Any: ...
    @overload
    async def receive_json(self, type: type[T], timeout: float | None = None) -> T: ...
    @overload
    async def receive_json(self, type: type[T], timeout: float | None, default: D) -> T | D: ...
    @overload
    async def receive_json(
        self, type: Any = Any, timeout: float | None = None, default: Any = RAISE
    ) -> Any: ...
    async def receive_json(
        self, type: Any = Any, timeout: float | None = None, default: Any = RAISE
    ) -> Any:
        """The next message, text or binary, decoded from JSON.

        Args:
            type: what it must be: anything that msgspec decodes to, or a
                pydantic model.
            timeout: as `receive`.
            default: as `receive`.

        Raises:
            InvalidMessage: it is not JSON or does not fit `type` (code 1007), or is
                larger than the option ``max_json_size`` allows (code 1009); it is
                consumed, and `InvalidMessage.reason` says what is wrong.
            TimeoutError, InvalidState, WebSocketDisconnect: as `receive`.
        """
        if self._phase is not _OPEN:
            raise self._not_open("receive_json")
        options = self._options
        if timeout is not None:
            message = await self._get_within(timeout, RAISE if default is RAISE else _LATE, None)
            if message is _LATE:
                return default
        else:
            message = await self._inbox.get()
        return options._decode(message, type, options.json, options.json_limit)

    async def _get_within(
        self, seconds: float, default: Any, convert: Callable[[str | bytes], Any] | None
    ) -> Any:
        if not isinstance(seconds, int | float):
            raise TypeError(f"timeout= takes seconds, not {seconds!r}")
        try:
            async with self._runtime.timeout(seconds):
                return await self._inbox.get(convert)
        except TimeoutError:
            if default is RAISE:
                raise TimeoutError(f"no message within {seconds:g} seconds") from None
            return default

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Each message as it comes, until the connection ends."""
        return self._iterate(None)

    def iter_text(self) -> AsyncIterator[str]:
        """`receive_text` until the connection ends."""
        return self._iterate(_text)

    def iter_bytes(self) -> AsyncIterator[bytes]:
        """`receive_bytes` until the connection ends."""
        return self._iterate(_bytes)

    @overload
    def iter_json(self) -> AsyncIterator[Any]: ...
    @overload
    def iter_json(self, type: type[T]) -> AsyncIterator[T]: ...
    @overload
    def iter_json(self, type: Any) -> AsyncIterator[Any]: ...
    def iter_json(self, type: Any = Any) -> AsyncIterator[Any]:
        """`receive_json` until the connection ends."""
        options = self._options
        return self._iterate(
            lambda message: options._decode(message, type, options.json, options.json_limit)
        )

    def _iterate(self, convert: Callable[[str | bytes], Any] | None) -> _UntilDisconnect:
        return _UntilDisconnect(self, convert)

    # Sending

    async def send(self, data: str | bytes | bytearray | memoryview) -> None:
        """Send a message: `str` as text, bytes-like as binary.

        Waits while the peer does not read.  One that takes nothing for as long as the
        option ``send_timeout`` says counts as gone.

        Raises:
            TypeError: another type; nothing was sent.
            ValueError: text that UTF-8 cannot say (a lone surrogate).
            InvalidState: before `accept`.
            WebSocketDisconnect: the connection has ended.
        """
        await self._send(_checked(data))

    async def send_text(self, data: str) -> None:
        """Send a text message; as `send`."""
        if not isinstance(data, str):
            raise TypeError(f"send_text() takes a str, not {type(data).__name__}")
        if not data.isascii():
            data.encode()  # as in _checked
        # As _send(), without one more coroutine: the most frequent of all calls.
        if self._phase is not _OPEN or self._inbox.ended is not None:
            raise self._cannot_send()
        if self._where is not None and self._where() != self._place:
            raise self._stray("send")
        clock, sends = self._clock, self._sends
        if clock is not None:
            sends.waiting += 1
            if not clock.is_running:
                clock.start()
        try:
            await self._transport.send(data)
            sends.ended = True
        except ConnectionLost as exc:
            raise await self._lost(exc) from None
        finally:
            if clock is not None:
                sends.waiting -= 1
        sends.in_a_row += 1
        if sends.in_a_row == _MAX_IN_A_ROW:
            await self._let_others_run()

    async def send_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """Send a binary message; as `send`."""
        await self._send(data if type(data) is bytes else _to_bytes(data, "send_bytes()"))

    async def send_json(self, data: Any, binary: bool = False) -> None:
        """Send compact JSON in UTF-8, as text, or as binary if `binary`.

        Raises:
            TypeError: what JSON cannot say; nothing was sent.
            InvalidState, WebSocketDisconnect: as `send`.
        """
        encoded = self._options._encode(data, self._options.json)
        if binary:
            await self._send(encoded.encode() if isinstance(encoded, str) else encoded)
        else:
            await self.send_text(encoded if isinstance(encoded, str) else encoded.decode())

    async def _send(self, data: str | bytes) -> None:
        if self._phase is not _OPEN or self._inbox.ended is not None:
            raise self._cannot_send()
        if self._where is not None and self._where() != self._place:
            raise self._stray("send")
        clock, sends = self._clock, self._sends
        if clock is not None:
            sends.waiting += 1
            if not clock.is_running:
                clock.start()
        try:
            await self._transport.send(data)
            sends.ended = True
        except ConnectionLost as exc:
            raise await self._lost(exc) from None
        finally:
            if clock is not None:
                sends.waiting -= 1
        sends.in_a_row += 1
        if sends.in_a_row == _MAX_IN_A_ROW:
            await self._let_others_run()

    def _cannot_send(self) -> Exception:
        if self._phase is not _OPEN:
            return self._not_open("send")
        return self._inbox.disconnected()

    async def _let_others_run(self) -> None:
        self._sends.in_a_row = 0
        await self._runtime.checkpoint()

    # The end

    async def wait_closed(self) -> int:
        """Wait until the connection has ended; return `close_code`."""
        return (await self._inbox.wait_ended()).code

    def while_connected(self) -> _WhileConnected:
        """Run the body of an ``async with`` only as long as the peer is there.

        When the connection ends, the body is cancelled where it stands and
        the block raises `WebSocketDisconnect`.  A ``close()`` within the body
        does not cancel it.
        """
        return _WhileConnected(self._inbox)

    async def close(self, code: int = 1000, reason: str | None = "") -> None:
        """Close the connection (RFC 6455, section 7); again is a no-op, whatever the code.

        Before `accept` it is ``reject(403)``.  Messages not yet received are
        dropped.  Waits until the close frame is written, and no longer than
        the option ``close_timeout`` on a peer that does not read.

        Args:
            code: 1000-1003, 1007-1014 or 3000-4999.
            reason: cut to 123 bytes of UTF-8, at a character; `None` is as ``""``.

        Raises:
            ValueError: a code that may not be sent; nothing was sent.
            TypeError: an argument of the wrong type.
        """
        if self._phase is not _Phase.CONNECTING and self._inbox.ended is not None:
            return
        check_close_code(code)
        reason = "" if reason is None else cut_reason(reason)
        if self._phase is _Phase.CONNECTING:
            await self.reject(403)
        else:
            if self._where is not None and self._where() != self._place:
                raise self._stray("close")
            self._inbox.close(code, reason, self._runtime.current())
            await self._finish(self._transport.close(code, reason))

    # Beside the handler

    def start_soon(
        self, function: Callable[[Unpack[Ts]], Coroutine[Any, Any, object]], *args: *Ts
    ) -> None:
        """Run ``function(*args)`` as a task that lives no longer than the handler.

        When the handler ends the task is cancelled and awaited, before the
        connection is closed.  An error of the task cancels the handler and ends
        the connection as the handler's own would; a `WebSocketDisconnect` of this
        connection ends the task alone.

        Args:
            function: a coroutine function.
            *args: its arguments.

        Raises:
            InvalidState: the handler has ended, or runs on another event loop.
            TypeError: `function` is none, or does not take `args`.
        """
        if self._handler_task is None:
            raise InvalidState("start_soon() came too late: the handler has ended")
        if self._where is not None and self._where() != self._place:
            raise self._stray("start_soon")
        if iscoroutine(function):
            function.close()  # lest Python complain that nobody has awaited it
        if not callable(function):
            raise TypeError(
                f"start_soon() takes a coroutine function, not {function!r}: "
                "write start_soon(function, *args)"
            )
        coroutine = function(*args)
        if not iscoroutine(coroutine):
            raise TypeError(f"start_soon() takes a coroutine function; {function!r} is none")
        if self._tasks is None:
            self._tasks = ConnectionTasks(
                self._handler_task, self._inbox.is_normal_end, self._transport._describe
            )
        self._tasks.start(coroutine)

    # For the session

    async def _finish(self, step: Awaitable[None]) -> None:
        """Wait for a last step, but not for ever on a peer that does not read."""
        self._finishing += 1
        try:
            with suppress(ConnectionLost, TimeoutError):
                async with self._runtime.timeout(self._options.close_timeout):
                    await step
        finally:
            self._finishing -= 1
            if self._finished is not None and not self._finished.done():
                self._finished.set_result(None)

    def _fail_soon(self, background: Background, code: int, reason: str) -> None:
        """End it from beside the handler, which sees a disconnect."""
        self._finishing += 1  # from now on: the handler may end before it begins
        self._inbox.disconnect(code, reason)
        background.start(self._fail(code, reason))

    async def _fail(self, code: int, reason: str) -> None:
        # Here, for on gevent a log that waits must not be written to from the hub.
        logger.debug("%s: closing with %s: %s", self._transport._describe(), code, reason)
        self._finishing -= 1  # `_finish` counts it, and there was no wait between
        await self._finish(self._transport.close(code, reason))

    async def _until_finished(self) -> None:
        """Wait for the last step of another task."""
        # One that is cancelled before it has begun counts for ever.
        with suppress(TimeoutError):
            async with self._runtime.timeout(self._options.close_timeout):
                while self._finishing:
                    self._finished = self._runtime.waiter_factory()()
                    await self._finished

    @property
    def _connecting(self) -> bool:
        return self._phase is _Phase.CONNECTING

    @property
    def _accepted(self) -> bool:
        return self._phase is _Phase.OPEN

    def _hand_over(self) -> None:
        """Leave it to the framework to answer the handshake."""
        self._phase = _Phase.OVER
        self._inbox.disconnect(1006)

    async def _stop(self) -> None:
        """End it because the server stops; a handler that runs on sees a disconnect."""
        if self._phase is _Phase.CONNECTING:
            self._inbox.disconnect(1012)
            await self._refuse(503)
        else:
            await self.close(1012)

    async def _refuse(
        self, status_code: int, body: bytes = b"", headers: HeadersInput | None = None
    ) -> None:
        """As `reject`, but not by the handler: if that goes on, it sees a disconnect."""
        await self._answer(check_response(status_code, body, headers), _Phase.OVER)

    def _require_connecting(self, method: str) -> None:
        if self._phase is _Phase.OVER:
            self._raise_if_ended()
        if self._phase is not _Phase.CONNECTING:
            raise InvalidState(f"{method}() came too late: {self._phase.value}")

    def _stray(self, method: str) -> InvalidState:
        return InvalidState(
            f"{method}() is called outside of the event loop that the handler runs on: "
            f"{_STRAY_REMEDIES[method]}"
        )

    def _not_open(self, method: str) -> InvalidState:
        if self._phase is _Phase.OVER:
            self._raise_if_ended()
        return InvalidState(f"{method}() needs an open connection: {self._phase.value}")

    def _raise_if_ended(self) -> None:
        if self._inbox.ended is not None:
            raise self._inbox.disconnected()

    async def _lost(self, error: ConnectionLost) -> WebSocketDisconnect:
        """What to raise when the transport says that the connection is gone.

        The server tells why in the stream of messages, which may stand still
        behind a full inbox.  It is raised without the server's error, whose text may
        hold the peer's close reason as it came, and would be part of each traceback.
        """
        if logger.isEnabledFor(logging.DEBUG):  # else the text need not be made
            cause = error.__cause__ or error
            logger.debug(
                "%s: the connection counts as lost: %s",
                self._transport._describe(),
                printable(f"{type(cause).__name__}: {cause}"),
            )
        self._inbox.unbound()
        try:
            async with self._runtime.timeout(_REASON_TIMEOUT):
                await self._inbox.wait_ended()
        except TimeoutError:
            self._inbox.closed_by = self._runtime.current()
            self._inbox.disconnect(1006)
        return self._inbox.disconnected()


class _Sends:
    """The sends of a connection.

    An object of its own, for to set an attribute of `Connection` takes longer.

    Attributes:
        waiting: how many are under way.
        ended: whether one has returned since this was looked at last.
        in_a_row: how many there were without a turn for the others.
    """

    __slots__ = ("ended", "in_a_row", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.ended = False
        self.in_a_row = 0


class _UntilDisconnect(AsyncIterator[Any]):
    """Messages until the connection ends.

    No generator, so that an error may be caught and the iteration go on, and
    one that is left early leaves nothing to be finalised.
    """

    __slots__ = ("_convert", "_ws")

    def __init__(self, ws: WebSocket, convert: Callable[[str | bytes], Any] | None) -> None:
        self._ws = ws
        self._convert = convert

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        if self._ws._phase is _OPEN:
            return self._ws._inbox.get(self._convert, _stop_iteration)
        return self._not_open()

    async def _not_open(self) -> Any:
        try:
            message = await self._ws.receive()
        except WebSocketDisconnect:
            raise StopAsyncIteration from None
        # It was accepted between the call and the await.
        return message if self._convert is None else self._convert(message)


def _stop_iteration(_: Inbox) -> Exception:
    return StopAsyncIteration()


class _WhileConnected:
    """The context manager of `WebSocket.while_connected`."""

    __slots__ = ("_cancelled", "_cancelling", "_inbox", "_task")

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._cancelled = False

    async def __aenter__(self) -> None:
        if self._inbox.ended is not None:
            raise self._inbox.disconnected()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._inbox.call_on_end(self._cancel)

    def _cancel(self) -> None:
        if self._inbox.closed_by is not self._task:
            self._cancelled = True
            self._task.cancel()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inbox.forget_on_end(self._cancel)
        if not self._cancelled:
            return
        others = self._task.uncancel() > self._cancelling
        if isinstance(exc, asyncio.CancelledError) and not others:
            raise self._inbox.disconnected() from exc
        if not isinstance(exc, asyncio.CancelledError):
            # The body ended in the same turn: the cancellation that is under
            # way must not strike what comes after the block.  One that
            # somebody else asks for now is not swallowed.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if self._task.cancelling() > self._cancelling:
                    raise
        if exc is None:
            raise self._inbox.disconnected()


def _text(message: str | bytes) -> str:
    if isinstance(message, str):
        return message
    raise InvalidMessage(1003, "expected a text message, got a binary one", message)


def _bytes(message: str | bytes) -> bytes:
    if isinstance(message, bytes):
        return message
    raise InvalidMessage(1003, "expected a binary message, got a text one", message)


def _checked(data: str | bytes | bytearray | memoryview) -> str | bytes:
    """What may be sent: `str` that UTF-8 can say, or bytes."""
    if not isinstance(data, str):
        return data if type(data) is bytes else _to_bytes(data, "send_bytes()")
    if not data.isascii():
        data.encode()  # servers disagree on lone surrogates: none is asked
    return data


def _to_bytes(data: object, what: str) -> bytes:
    try:
        return bytes(memoryview(data))  # type: ignore[arg-type]  # that is what is tried
    except TypeError:
        raise TypeError(
            f"{what} takes bytes, bytearray or memoryview, not {type(data).__name__}"
        ) from None


def cut_reason(reason: str) -> str:
    """Cut a close reason to what a close frame holds, at a character.

    Raises:
        TypeError: not a `str`.
        ValueError: not encodable as UTF-8.
    """
    if not isinstance(reason, str):
        raise TypeError(f"a close reason is a str, not {type(reason).__name__}")
    encoded = reason.encode()
    if len(encoded) <= _MAX_REASON:
        return reason
    return encoded[:_MAX_REASON].decode(errors="ignore")


def check_response(status_code: int, body: bytes, headers: HeadersInput | None) -> _Response:
    """Check what `WebSocket.reject` takes; complete the headers.

    Raises:
        TypeError, ValueError: as `WebSocket.reject`.
    """
    if not isinstance(status_code, int) or isinstance(status_code, bool):
        raise TypeError(f"a status code is an int, not {type(status_code).__name__}")
    if not 200 <= status_code <= 599:
        raise ValueError(f"{status_code} is no status to reject a handshake with: use 200-599")
    body = _to_bytes(body, "reject(body=…)")
    pairs = check_headers(headers)
    names = {name for name, _ in pairs}
    if body and "content-type" not in names:
        pairs.append(("content-type", "text/plain; charset=utf-8"))
    if status_code not in _NO_BODY:
        pairs.append(("content-length", str(len(body))))
    elif body:
        raise ValueError(f"a response of status {status_code} has no body")
    return int(status_code), body, pairs
