"""`Peer`: the client's end of a connection, whose every wait has a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NamedTuple, TypeVar, overload

from multidict import CIMultiDictProxy

from unisock.errors import InvalidMessage, WebSocketDisconnect, check_close_code
from unisock.messages import decode, encode
from unisock.transport import ConnectionLost

from .errors import ConnectionRejected, LeakedTasks, PeerError, PeerTimeout, UnexpectedMessage
from .watching import describe_task
from .wires import Answer, Wire

__tracebackhide__ = True  # pytest shows the lines of the test, and of the handler

T = TypeVar("T")

# How much of a message is shown.
_SHOWN = 60
# After so many turns of the loop a task that waits for nothing else has ended.
_TURNS = 20


class _Awaited(NamedTuple):
    """What a wait is for, and what to do if it does not come."""

    what: str
    hint: str


_ANSWER = _Awaited(
    "the handler to call accept() or reject()",
    "have it call one of them before it waits for anything else",
)
_MESSAGE = _Awaited(
    "a message from the handler",
    "send it what it waits for, or expect no more than it sends; if it is only slow, "
    "raise timeout=",
)
_ROOM = _Awaited(
    "the handler to receive, so that more can be sent to it",
    "have it receive in a loop, or beside what it does (ws.start_soon)",
)
_CLOSE = _Awaited(
    "the handler to close", "have it call close() or return; if it is only slow, raise timeout="
)
_CLOSE_ANSWER = _Awaited("the close to be answered", "see whether the handler blocks its server")
_END = _Awaited(
    "the handler to end, as its connection has ended",
    "let the WebSocketDisconnect of its receives and sends end it; put other waits into "
    "ws.while_connected(), or in a plain function give them a timeout",
)


class Peer:
    """The client's end of a connection, as `unisock.testing.connect` gives it.

    Every coroutine raises `PeerTimeout` when it has waited for the timeout, and
    `unisock.WebSocketDisconnect` when the connection has ended; cancelling one
    loses no message.
    """

    def __init__(self, wire: Wire, timeout: float) -> None:
        self._wire = wire
        self._timeout = timeout
        self._answer: Answer | None = None
        self._is_paused = False
        self._put_back: list[str | bytes] = []  # by `receive_nothing`

    # The handshake

    @property
    def accepted_subprotocol(self) -> str | None:
        """The subprotocol that the handler has accepted."""
        return self._accepted.subprotocol

    @property
    def accepted_headers(self) -> CIMultiDictProxy[str]:
        """The headers that the handshake was answered with."""
        return self._accepted.headers

    @property
    def _accepted(self) -> Answer:
        assert self._answer is not None
        return self._answer

    # The end

    @property
    def closed(self) -> bool:
        """Whether the connection has ended; what came before may still be received."""
        return self._wire.inbox.ended is not None

    @property
    def close_code(self) -> int | None:
        """The code that it ended with: 1005 for a close without one, 1006 for no close."""
        return None if self._wire.inbox.ended is None else self._wire.inbox.ended.code

    @property
    def close_reason(self) -> str | None:
        """The reason that it ended with."""
        return None if self._wire.inbox.ended is None else self._wire.inbox.ended.reason

    @property
    def exception(self) -> BaseException | None:
        """What the handler has raised, and went on to the framework."""
        return None if self._wire.watch is None else self._wire.watch.failure

    # Sending

    async def send(self, message: str | bytes) -> None:
        """Send `str` as a text message, `bytes` as a binary one.

        Waits while the handler does not receive and much is under way.

        Raises:
            TypeError: another type.
        """
        if not isinstance(message, str | bytes):
            raise TypeError(f"send() takes str or bytes, not {type(message).__name__}")
        await self._send(self._wire.send(message))

    async def send_text(self, text: str) -> None:
        """Send a text message."""
        if not isinstance(text, str):
            raise TypeError(f"send_text() takes str, not {type(text).__name__}")
        await self.send(text)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message."""
        if not isinstance(data, bytes):
            raise TypeError(f"send_bytes() takes bytes, not {type(data).__name__}")
        await self.send(data)

    async def send_json(self, obj: Any, binary: bool = False) -> None:
        """Send an object as JSON: as text, or in a binary message."""
        encoded = encode(obj, None)
        data = encoded if isinstance(encoded, bytes) else encoded.encode()
        await self.send(data if binary else data.decode())

    async def send_fragments(self, *fragments: str | bytes) -> None:
        """Send one message in several frames, all `str` or all `bytes`.

        In memory, where there are no frames, it is one message like any other.
        """
        kinds = {type(fragment) for fragment in fragments}
        if kinds not in ({str}, {bytes}):
            raise TypeError("send_fragments() takes one or more fragments, all str or all bytes")
        await self._send(self._wire.send_fragments(fragments))  # type: ignore[arg-type]  # all of one kind

    async def _send(self, sending: Coroutine[Any, Any, None]) -> None:
        try:
            await self._within(sending, _ROOM)
        except ConnectionLost:
            raise await self._disconnect("the peer sent a message") from None

    # Receiving

    async def receive(self) -> str | bytes:
        """The next message: text as `str`, binary as `bytes`."""
        if self._put_back:
            return self._put_back.pop()
        try:
            return await self._within(self._wire.inbox.get(), _MESSAGE)
        except WebSocketDisconnect:
            raise await self._disconnect("the peer waited for a message") from None

    async def receive_text(self) -> str:
        """The next message, which must be text.

        Raises:
            UnexpectedMessage: it is binary.
        """
        message = await self.receive()
        if isinstance(message, str):
            return message
        raise _unexpected("text", "binary", "bytes", message)

    async def receive_bytes(self) -> bytes:
        """The next message, which must be binary.

        Raises:
            UnexpectedMessage: it is text.
        """
        message = await self.receive()
        if isinstance(message, bytes):
            return message
        raise _unexpected("binary", "text", "text", message)

    @overload
    async def receive_json(self) -> Any: ...
    @overload
    async def receive_json(self, type: type[T]) -> T: ...
    @overload
    async def receive_json(self, type: Any) -> Any: ...
    async def receive_json(self, type: Any = Any) -> Any:
        """The next message, text or binary, decoded from JSON.

        Args:
            type: what it must be, as of `WebSocket.receive_json`.

        Raises:
            UnexpectedMessage: it is not JSON, or does not fit `type`.
        """
        message = await self.receive()
        try:
            return decode(message, type, None)
        except InvalidMessage as exc:
            text = f"the handler sent {_show(message)}, which is not the JSON expected: {exc}"
            raise UnexpectedMessage(text, message) from exc

    async def receive_nothing(self, seconds: float = 0.1) -> bool:
        """Wait so long, or until the connection ends; return whether no message came.

        One that came is what the next receive gives.
        """
        if self._put_back:
            return False
        try:
            async with asyncio.timeout(seconds):
                self._put_back.append(await self._wire.inbox.get())
        except (TimeoutError, WebSocketDisconnect):
            return True
        return False

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Each message as it comes, until the connection ends."""
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[str | bytes]:
        while True:
            try:
                message = await self.receive()
            except WebSocketDisconnect:
                return
            yield message

    # Ending

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection; again is a no-op.

        Args:
            code: as of `WebSocket.close`; `None` for a close without a code.
            reason: the reason.

        Raises:
            ValueError: a code that may not be sent.
        """
        if code is not None:
            check_close_code(code)
        if not self.closed:
            await self._within(self._wire.close(code, reason), _CLOSE_ANSWER)

    async def wait_closed(self) -> tuple[int, str]:
        """Wait until the handler closes; return the code and the reason.

        What it has sent before can still be received.
        """
        return await self._within(self._wire.inbox.wait_ended(), _CLOSE)

    # What no decent client does

    def vanish(self) -> None:
        """Break the connection without a close, as a client that loses its network."""
        self._wire.vanish()

    def pause_reading(self) -> None:
        """Read no more, so that the handler's sends wait; leaving the block reads on."""
        self._is_paused = True
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._is_paused = False
        self._wire.resume_reading()

    async def stop_server(self) -> None:
        """Stop the server that the handler runs on."""
        await self._wire.stop_server()  # which has a time of its own

    # Of `connect`

    async def _open(self) -> None:
        """Make the connection.

        Raises:
            ConnectionRejected: the handshake was rejected; its cause is what the
                handler has raised, if that is why.
        """
        await self._wire.prepare()
        self._answer = answer = await self._within(self._wire.open(), _ANSWER)
        if answer.status_code == 101:
            return
        await self._ended()
        shown = f": {_show(answer.body)}" if answer.body else ""
        text = f"the handshake was rejected with {answer.status_code}{shown}"
        raise ConnectionRejected(
            "\n".join([text, *self._hints()]), answer.status_code, answer.headers, answer.body
        ) from self.exception

    async def _finish(self, check_leaks: bool) -> PeerError | None:
        """Close, and wait for the handler's end; return what is wrong with that."""
        self.resume_reading()
        try:
            await self.close()
            await self._ended()
        except PeerError as exc:
            return exc
        watch = self._wire.watch
        if not check_leaks or watch is None or not watch.left():
            return None
        names = "\n".join(f"  {describe_task(task)}" for task in watch.left())
        return LeakedTasks(
            f"the handler {watch.name} has ended, but not what it started:\n{names}\n"
            "start it with ws.start_soon() or in an asyncio.TaskGroup, or cancel it in a `finally`"
        )

    def _not_raised(
        self, expected: type[BaseException] | tuple[type[BaseException], ...]
    ) -> PeerError:
        """The error for a handler that has ended, and not by what was expected of it."""
        classes = expected if isinstance(expected, tuple) else (expected,)
        names = " or ".join(each.__name__ for each in classes)
        return PeerError("\n".join([f"the handler has not raised {names}", *self._hints()]))

    def _hints(self) -> list[str]:
        return [] if self._wire.watch is None else self._wire.watch.hints()

    async def _ended(self) -> None:
        """Wait for the handler's end, and for what ends with it by itself."""
        watch = self._wire.watch
        if watch is None:
            return
        done = asyncio.wrap_future(watch.done)
        waiting = asyncio.shield(done)  # a timeout must not cancel what others wait for
        await self._within(_wait(waiting), _END)
        for _ in range(_TURNS):
            if not watch.left() or not await watch.turn():
                return

    async def _within(self, waiting: Coroutine[Any, Any, T], awaited: _Awaited) -> T:
        """Wait for what should come."""
        timeout = asyncio.timeout(self._timeout)
        try:
            async with timeout:
                return await waiting
        except TimeoutError:
            if not timeout.expired():
                raise
            if self._wire.watch is not None and self._wire.watch.struck is not None:
                raise self._wire.watch.struck from None
            raise PeerTimeout(self._explain(awaited)) from None

    def _explain(self, awaited: _Awaited) -> str:
        waited = f"waited {self._timeout:g} s for {awaited.what}"
        return "\n".join([waited, *self._state(), f"hint: {awaited.hint}"])

    def _state(self) -> list[str]:
        """What is known of the handler, as lines."""
        wire = self._wire
        lines = []
        if wire.watch is not None:
            lines += [wire.watch.describe(), *wire.watch.hints()]
        shown = ", ".join(_show(message) for message in wire.last_sent)
        dots = "…, " if wire.sent > len(wire.last_sent) else ""
        number = f"{wire.sent} message{'' if wire.sent == 1 else 's'}"
        lines.append(f"it has sent {number}: {dots}{shown}" if shown else "it has sent no message")
        if wire.watch is None:
            lines[-1] += "; where it is, is known if you connect() to the handler itself"
        if self._is_paused:
            lines.append("the peer does not read: it knows of no more until resume_reading()")
        return lines

    async def _disconnect(self, when: str) -> WebSocketDisconnect:
        """The disconnect to raise, with what is known of it."""
        watch = self._wire.watch
        for _ in range(_TURNS):  # the peer may have learnt of it first
            if watch is None or watch.done.done() or not await watch.turn():
                break
        ended = self._wire.inbox.ended
        assert ended is not None
        exc = WebSocketDisconnect(*ended)
        exc.add_note("\n".join([f"the connection had ended when {when}", *self._state()]))
        return exc


async def _wait(future: asyncio.Future[T]) -> T:
    return await future


def _unexpected(expected: str, kind: str, method: str, message: str | bytes) -> UnexpectedMessage:
    return UnexpectedMessage(
        f"expected a {expected} message, but the handler sent a {kind} one: {_show(message)}; "
        f"receive it with receive_{method}(), or have the handler send the other kind",
        message,
    )


def _show(message: str | bytes) -> str:
    text = repr(message[:_SHOWN])
    return f"{text}… ({len(message)} in all)" if len(message) > _SHOWN else text
