"""`SyncWebSocket`: what a plain function holds.

Each method is that of `WebSocket` of the same name, run where the connection
lives while the caller blocks; a test compares names, signatures and docstrings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, TypeVar, TypeVarTuple, Unpack, overload

from .connection import Connection
from .errors import HeadersInput, InvalidState, WebSocketDisconnect
from .runtime import Waiter, Workers, WorkersStopped, check_not_awaitable, name_of
from .session import Session
from .websocket import RAISE

logger = logging.getLogger("unisock")

T = TypeVar("T")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")


class SyncWebSocket(Connection):
    """One WebSocket connection (RFC 6455), for a handler that blocks.

    A handler gets one and calls `accept` or `reject` first.  Sends may be called
    from several threads at once, receives from one at a time.  Where the handler
    runs in a greenlet, these are greenlets of the same thread.
    """

    __slots__ = (
        "_ended",
        "_failed",
        "_failing",
        "_failure",
        "_failures_are_logged",
        "_session",
        "_workers",
        "_ws",
    )

    def __init__(self, session: Session, workers: Workers) -> None:
        self._session = session
        self._workers = workers
        self._ws = session.ws
        self._handshake = session.ws._handshake
        self._inbox = session.ws._inbox
        self._transport = session.transport
        self._inbox.call_on_end(workers.break_off)
        self._ended = False
        # How many functions end the connection by their errors now, what is set
        # when one has done so, and the first error that goes on to the framework.
        self._failing = 0
        self._failed: Waiter[None] | None = None
        self._failure: BaseException | None = None
        self._failures_are_logged = False

    # Opening

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was accepted."""
        return self._ws.subprotocol

    def accept(self, subprotocol: str | None = None, headers: HeadersInput | None = None) -> None:
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
        self._call(self._ws.accept, subprotocol, headers)

    def reject(
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
        self._call_to_its_end(self._ws.reject, status_code, body, headers)

    # Receiving

    @overload
    def receive(self, timeout: float | None = None) -> str | bytes: ...
    @overload
    def receive(self, timeout: float | None, default: D) -> str | bytes | D: ...
    def receive(self, timeout: float | None = None, default: Any = RAISE) -> Any:
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
        return self._call(self._ws.receive, timeout, default)

    @overload
    def receive_text(self, timeout: float | None = None) -> str: ...
    @overload
    def receive_text(self, timeout: float | None, default: D) -> str | D: ...
    def receive_text(self, timeout: float | None = None, default: Any = RAISE) -> Any:
        """The next message, which must be text.

        Args:
            timeout: as `receive`.
            default: as `receive`.

        Raises:
            InvalidMessage: it is binary (code 1003); it is consumed.
            TimeoutError, InvalidState, WebSocketDisconnect: as `receive`.
        """
        return self._call(self._ws.receive_text, timeout, default)

    @overload
    def receive_bytes(self, timeout: float | None = None) -> bytes: ...
    @overload
    def receive_bytes(self, timeout: float | None, default: D) -> bytes | D: ...
    def receive_bytes(self, timeout: float | None = None, default: Any = RAISE) -> Any:
        """The next message, which must be binary.

        Args:
            timeout: as `receive`.
            default: as `receive`.

        Raises:
            InvalidMessage: it is text (code 1003); it is consumed.
            TimeoutError, InvalidState, WebSocketDisconnect: as `receive`.
        """
        return self._call(self._ws.receive_bytes, timeout, default)

    @overload
    def receive_json(self, *, timeout: float | None = None) -> Any: ...
    @overload
    def receive_json(self, type: type[T], timeout: float | None = None) -> T: ...
    @overload
    def receive_json(self, type: type[T], timeout: float | None, default: D) -> T | D: ...
    @overload
    def receive_json(
        self, type: Any = Any, timeout: float | None = None, default: Any = RAISE
    ) -> Any: ...
    def receive_json(
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
        return self._call(self._ws.receive_json, type, timeout, default)

    def __iter__(self) -> Iterator[str | bytes]:
        """Each message as it comes, until the connection ends."""
        return _UntilDisconnect(self.receive)

    def iter_text(self) -> Iterator[str]:
        """`receive_text` until the connection ends."""
        return _UntilDisconnect(self.receive_text)

    def iter_bytes(self) -> Iterator[bytes]:
        """`receive_bytes` until the connection ends."""
        return _UntilDisconnect(self.receive_bytes)

    @overload
    def iter_json(self) -> Iterator[Any]: ...
    @overload
    def iter_json(self, type: type[T]) -> Iterator[T]: ...
    @overload
    def iter_json(self, type: Any) -> Iterator[Any]: ...
    def iter_json(self, type: Any = Any) -> Iterator[Any]:
        """`receive_json` until the connection ends."""
        return _UntilDisconnect(partial(self.receive_json, type))

    # Sending

    def send(self, data: str | bytes | bytearray | memoryview) -> None:
        """Send a message: `str` as text, bytes-like as binary.

        Waits while the peer does not read.  One that takes nothing for as long as the
        option ``send_timeout`` says counts as gone.

        Raises:
            TypeError: another type; nothing was sent.
            ValueError: text that UTF-8 cannot say (a lone surrogate).
            InvalidState: before `accept`.
            WebSocketDisconnect: the connection has ended.
        """
        self._call(self._ws.send, data)

    def send_text(self, data: str) -> None:
        """Send a text message; as `send`."""
        self._call(self._ws.send_text, data)

    def send_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """Send a binary message; as `send`."""
        self._call(self._ws.send_bytes, data)

    def send_json(self, data: Any, binary: bool = False) -> None:
        """Send compact JSON in UTF-8, as text, or as binary if `binary`.

        Raises:
            TypeError: what JSON cannot say; nothing was sent.
            InvalidState, WebSocketDisconnect: as `send`.
        """
        self._call(self._ws.send_json, data, binary)

    # The end

    def wait_closed(self) -> int:
        """Wait until the connection has ended; return `close_code`."""
        return self._call(self._ws.wait_closed)

    def close(self, code: int = 1000, reason: str | None = "") -> None:
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
        self._call_to_its_end(self._ws.close, code, reason)

    # Beside the handler

    def start_soon(self, function: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Run ``function(*args)`` in a thread or greenlet of its own.

        It lives no longer than the handler: when that ends the connection is
        closed, so that the function's receives and sends raise
        `WebSocketDisconnect`, and it is waited for as long as the option
        ``close_timeout`` says.  An error of the function ends the connection as
        the handler's own would, and the handler's next call raises
        `WebSocketDisconnect`; a `WebSocketDisconnect` of this connection ends the
        function alone.

        Args:
            function: a plain function.
            *args: its arguments.

        Raises:
            InvalidState: the handler has ended.
            TypeError: `function` cannot be called, or is async.
        """
        if self._ended:
            raise InvalidState("start_soon() came too late: the handler has ended")
        if not callable(function):
            raise TypeError(f"start_soon() takes a function, not {function!r}")
        if iscoroutinefunction(function):
            raise TypeError(
                f"start_soon() of a plain handler takes a plain function; {name_of(function)} is "
                "async"
            )
        try:
            self._workers.start(name_of(function), partial(self._run_beside, function, args))
        except WorkersStopped:
            raise InvalidState("start_soon() came too late: the handler has ended") from None

    def _run_beside(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            check_not_awaitable(function(*args), function)
        except self._workers.killed:
            raise
        except BaseException as exc:  # noqa: BLE001  # what it is decides how the connection ends
            if self._inbox.is_normal_end(exc):
                return
            try:
                self._call_to_its_end(self._fail, exc)
            except WebSocketDisconnect:  # long after the connection's end
                raise exc from None

    async def _fail(self, error: BaseException) -> None:
        """End the connection by the error of a function beside the handler."""
        self._failing += 1
        try:
            await self._session.end_by(error)
        except BaseException as exc:
            if exc is not error and not isinstance(exc, Exception):
                raise  # no doing of the function's: this call is cancelled
            if self._failure is None and not self._failures_are_logged:
                self._failure = exc  # raised to the framework by `_end`
            else:
                logger.exception(
                    "%s: another function of the connection failed", self._transport._describe()
                )
        finally:
            self._failing -= 1
            if self._failed is not None and not self._failed.done():
                self._failed.set_result(None)

    # For the session

    def _call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        try:
            return self._workers.call(function, *args)
        except WorkersStopped:
            raise self._inbox.disconnected() from None

    def _call_to_its_end(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        """Call what ends the connection, and so is not broken off by its end."""
        try:
            self._workers.call(function, *args, to_its_end=True)
        except WorkersStopped:
            raise self._inbox.disconnected() from None

    async def _end(self, grace: float, handler_error: BaseException | None) -> None:
        """The handler has ended: wait for what it has started.

        Raises:
            Exception: the error of a function beside the handler, where it goes
                on to the framework and no other one does.
        """
        self._ended = True
        try:
            while self._failing:
                self._failed = self._ws._runtime.waiter_factory()()
                await self._failed
            await self._workers.stop(grace)
        finally:
            self._failures_are_logged = True  # nobody would see them
        if self._failure is not None and handler_error is None:
            raise self._failure
        if self._failure is not None:
            logger.error(
                "%s: a function beside the handler failed as well",
                self._transport._describe(),
                exc_info=self._failure,
            )


class _UntilDisconnect(Iterator[T]):
    """Messages until the connection ends; as that of `WebSocket`."""

    __slots__ = ("_receive",)

    def __init__(self, receive: Callable[[], T]) -> None:
        self._receive = receive

    def __next__(self) -> T:
        try:
            return self._receive()
        except WebSocketDisconnect:
            raise StopIteration from None
