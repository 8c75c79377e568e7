"""`WebSocket.start_soon`: tasks beside the handler, that live no longer than it."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.unit.memory import (
    FrameworkError,
    MemoryTransport,
    Running,
    run,
    serve,
    settle,
    turn,
    without_accept,
)
from unisock import (
    HandshakeRejected,
    InvalidMessage,
    InvalidState,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
    WebSocketException,
)
from unisock.testing import connect
from unisock.transport import HTTPError, HTTPResponse

EMPTY = [("content-length", "0")]
CLOSED_1011 = [("close", 1011, "")]
Sent = list[tuple[object, ...]]
Handler = Callable[[WebSocket], Awaitable[None]]


def rejected(status_code: int) -> Sent:
    return [("reject", status_code, b"", EMPTY)]


async def forever() -> None:
    await asyncio.Event().wait()


async def fails(exc: BaseException) -> None:
    raise exc


async def record_end(transport: MemoryTransport, name: str = "task ended") -> None:
    """Wait for ever; at the end let others run, then note it among what was sent."""
    try:
        await forever()
    finally:
        await turn()
        transport.sent.append((name,))


def journal(handler: Callable[[WebSocket, MemoryTransport], Awaitable[None]]) -> Any:
    """A handler that gets its transport as well."""

    async def with_transport(ws: WebSocket) -> None:
        transport = ws._transport
        assert isinstance(transport, MemoryTransport)
        await handler(ws, transport)

    return with_transport


class Outcome:
    """What the caller of a handler sees, and what is left."""

    def __init__(self, sent: Sent, raised: BaseException | None) -> None:
        self.sent = sent
        self.raised = raised


def outcome(handler: Any, *incoming: Any, **options: Any) -> Outcome:
    """Serve one connection within a task that goes on."""

    async def main() -> Outcome:
        transport = MemoryTransport()
        transport.translations[FrameworkError] = HTTPError(418, "Teapot", HTTPResponse())
        for message in incoming:
            transport.incoming.put_nowait(message)
        raised: BaseException | None = None
        try:
            await run(handler, transport, **options)
        except BaseException as exc:  # noqa: BLE001  # the test says which
            raised = exc
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await turn()  # nothing is under way that strikes here
        assert asyncio.all_tasks() == {task}
        return Outcome(without_accept(transport), raised)

    return asyncio.run(main())


class TestRuns:
    def test_beside_the_handler_with_its_arguments(self) -> None:
        async def send(ws: WebSocket, text: str, *, times: int = 1) -> None:
            for _ in range(times):
                await ws.send_text(text)

        class Object:
            async def method(self, ws: WebSocket) -> None:
                await ws.send_text("method")

            async def __call__(self, ws: WebSocket) -> None:
                await ws.send_text("object")

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(send, ws, "a")
            ws.start_soon(functools.partial(send, ws, times=2), "b")
            ws.start_soon(lambda text: send(ws, text), "c")
            ws.start_soon(Object().method, ws)
            ws.start_soon(Object(), ws)
            await ws.send_text("handler")
            await ws.receive()
            await ws.send_text("last")

        with connect(handler) as peer:
            for text in ("handler", "a", "b", "b", "c", "method", "object"):
                assert peer.receive() == text
            peer.send("go on")
            assert list(peer) == ["last"]
        assert peer.close_code == 1000

    def test_before_accept_and_by_another_task(self) -> None:
        async def accept(ws: WebSocket) -> None:
            ws.start_soon(ws.send_text, "from a task of a task")
            await ws.accept()

        async def handler(ws: WebSocket) -> None:
            ws.start_soon(accept, ws)
            await settle()

        with connect(handler) as peer:
            assert list(peer) == ["from a task of a task"]
        assert peer.close_code == 1000

    def test_many_come_and_go_and_none_is_kept(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            for i in range(100):
                ws.start_soon(ws.send_text, str(i))
            await settle()
            assert ws._tasks is not None
            assert not ws._tasks._tasks

        sent = without_accept(serve(handler))
        assert sent == [*(("send", str(i)) for i in range(100)), ("close", 1000, "")]

    def test_receiving_is_one_tasks_at_a_time(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(ws.receive)
            await settle()
            with pytest.raises(InvalidState, match="another receive"):
                await ws.receive()

        assert without_accept(serve(handler)) == [("close", 1000, "")]

    def test_the_hooks_of_an_endpoint_may(self) -> None:
        class Endpoint(WebSocketEndpoint):
            async def on_connect(self, ws: WebSocket, /) -> None:
                await ws.accept()
                ws.start_soon(ws.send_text, "task")

            async def on_receive(self, ws: WebSocket, data: str, /) -> None:
                ws.start_soon(fails, LookupError(data))

            async def on_disconnect(self, ws: WebSocket, close_code: int, /) -> None:
                assert close_code == 1011
                with pytest.raises(InvalidState, match="too late"):
                    ws.start_soon(forever)

        with connect(Endpoint, raises=LookupError) as peer:
            peer.send("x")
            assert list(peer) == ["task"]
        assert peer.close_code == 1011


class TestArguments:
    @pytest.mark.parametrize("accept", [False, True])
    @pytest.mark.parametrize(
        ("function", "args", "message"),
        [
            (None, (), "takes a coroutine function, not None"),
            ("forever", (), "not 'forever'"),
            (print, (), "print.* is none"),
            (lambda: None, (), "lambda.* is none"),
            (WebSocketEndpoint, (), "is none"),
            (forever, (1,), "1 was given"),
            (fails, (), "missing"),
        ],
    )
    def test_what_is_none(
        self, function: Any, args: tuple[Any, ...], message: str, accept: bool
    ) -> None:
        async def handler(ws: WebSocket) -> None:
            if accept:
                await ws.accept()
            with pytest.raises(TypeError, match=message):
                ws.start_soon(function, *args)
            assert ws._tasks is None
            await ws.close(4000)

        last = [("close", 4000, "")] if accept else rejected(403)
        assert without_accept(serve(handler)) == last

    def test_a_generator_is_none(self) -> None:
        async def generator() -> AsyncIterator[int]:
            yield 1

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            with pytest.raises(TypeError, match="generator"):
                ws.start_soon(generator)  # type: ignore[arg-type]  # that is the test

        serve(handler)

    def test_a_coroutine_instead_of_a_function(self) -> None:
        """The likeliest mistake: it is told by the error, and only once."""

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            coroutine: Any = forever()
            with pytest.raises(TypeError, match="takes a coroutine function"):
                ws.start_soon(coroutine)
            del coroutine
            gc.collect()  # one that was never awaited says so now, which is an error here

        serve(handler)

    def test_after_the_handler_has_ended(self) -> None:
        kept: list[WebSocket] = []

        async def main() -> None:
            async def handler(ws: WebSocket) -> None:
                kept.append(ws)
                await ws.accept()

            await run(handler, MemoryTransport())
            with pytest.raises(InvalidState, match="the handler has ended"):
                kept[0].start_soon(forever)
            with pytest.raises(InvalidState, match="the handler has ended"):
                kept[0].start_soon(None)  # type: ignore[arg-type]  # which error comes first

        asyncio.run(main())

    def test_by_a_task_that_is_being_ended(self) -> None:
        seen: list[Exception] = []

        async def starts_another(ws: WebSocket) -> None:
            try:
                await forever()
            finally:
                try:
                    ws.start_soon(forever)
                except InvalidState as exc:
                    seen.append(exc)

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(starts_another, ws)
            await settle()

        assert without_accept(serve(handler)) == [("close", 1000, "")]
        assert len(seen) == 1


class TestEnd:
    """The handler ends first: the tasks are cancelled and awaited before the last frame."""

    @pytest.mark.parametrize(
        ("exc", "before", "after"),
        [
            (None, rejected(403), [("close", 1000, "")]),
            (WebSocketException(4001, "why"), rejected(403), [("close", 4001, "why")]),
            (InvalidMessage(1003, "text", "x"), rejected(403), [("close", 1003, "text")]),
            (HandshakeRejected(401), rejected(401), [("close", 4401, "")]),
            (WebSocketDisconnect(), rejected(403), [("close", 1000, "")]),
            (LookupError(), rejected(500), CLOSED_1011),
            (TimeoutError(), rejected(500), CLOSED_1011),
            (ExceptionGroup("g", [LookupError()]), rejected(500), CLOSED_1011),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("accept", [False, True])
    def test_by_itself(
        self, exc: Exception | None, before: Sent, after: Sent, accept: bool
    ) -> None:
        @journal
        async def handler(ws: WebSocket, transport: MemoryTransport) -> None:
            if accept:
                await ws.accept()
            ws.start_soon(record_end, transport)
            ws.start_soon(record_end, transport)
            await settle()
            if exc is not None:
                raise exc

        seen = outcome(handler)
        goes_on = isinstance(exc, (LookupError, TimeoutError, ExceptionGroup))
        assert seen.raised is (exc if goes_on else None)
        assert seen.sent == [("task ended",)] * 2 + (after if accept else before)

    def test_the_peer_leaves(self) -> None:
        async def main() -> None:
            @journal
            async def handler(ws: WebSocket, transport: MemoryTransport) -> None:
                await ws.accept()
                ws.start_soon(record_end, transport)
                await ws.receive()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            transport.peer_leaves(1001)
            assert await running.end() == [("task ended",)]

        asyncio.run(main())

    @pytest.mark.parametrize("how", ["reject", "close", "close before accept"])
    def test_by_a_last_word_of_its_own(self, how: str) -> None:
        @journal
        async def handler(ws: WebSocket, transport: MemoryTransport) -> None:
            if how == "close":
                await ws.accept()
            ws.start_soon(record_end, transport)
            await settle()
            await (ws.reject(404) if how == "reject" else ws.close(4000))
            ws.start_soon(record_end, transport, "not even begun")  # no error: it has not ended

        last: dict[str, Sent] = {"reject": rejected(404), "close": [("close", 4000, "")]}
        assert outcome(handler).sent == [*last.get(how, rejected(403)), ("task ended",)]

    def test_one_that_has_not_begun_never_does(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(ws.send_text, "too late")

        assert without_accept(serve(handler)) == [("close", 1000, "")]

    def test_it_is_cancelled_where_it_stands(self) -> None:
        """Also in a receive and in a send that waits; neither does harm."""

        async def main() -> None:
            ended: list[str] = []

            async def watch(name: str, call: Awaitable[object]) -> None:
                try:
                    await call
                except asyncio.CancelledError:
                    ended.append(name)
                    raise

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(watch, "receive", ws.receive())
                ws.start_soon(watch, "wait_closed", ws.wait_closed())
                transport.flowing.clear()
                ws.start_soon(watch, "send", ws.send("x"))
                await transport.blocked.wait()

            transport = MemoryTransport()
            running = Running(handler, transport)
            while not ended:
                await turn()
            transport.flowing.set()
            assert await running.end() == [("close", 1000, "")]
            assert sorted(ended) == ["receive", "send", "wait_closed"]

        asyncio.run(main())

    def test_one_that_takes_long_is_waited_for(self) -> None:
        async def main() -> None:
            cleaning, cleaned = asyncio.Event(), asyncio.Event()

            async def cleans_up(ws: WebSocket) -> None:
                try:
                    await forever()
                finally:
                    cleaning.set()
                    await cleaned.wait()
                    await ws.send("cleaned")  # the connection is still open

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(cleans_up, ws)
                await settle()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await cleaning.wait()
            await settle()
            assert not running.task.done()
            assert without_accept(transport) == []
            cleaned.set()
            assert await running.end() == [("send", "cleaned"), ("close", 1000, "")]

        asyncio.run(main())

    def test_one_that_closes_the_connection(self) -> None:
        """Its close frame is sent, though the handler, woken by it, ends meanwhile."""

        async def main() -> None:
            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                transport.flowing.clear()
                ws.start_soon(ws.close, 4000, "bye")
                async for _ in ws:
                    raise AssertionError

            transport = MemoryTransport()
            running = Running(handler, transport)
            await transport.blocked.wait()
            await settle()
            transport.flowing.set()
            assert await running.end() == [("close", 4000, "bye")]

        asyncio.run(main())

    def test_one_that_swallows_its_cancellation(self) -> None:
        async def stubborn(ws: WebSocket) -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                await ws.send("still here")

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(stubborn, ws)
            await settle()

        assert without_accept(serve(handler)) == [("send", "still here"), ("close", 1000, "")]

    @pytest.mark.parametrize("how", ["return", "disconnect"])
    def test_an_error_while_it_is_ended_is_the_handlers(self, how: str) -> None:
        error = LookupError("in finally")

        async def breaks() -> None:
            try:
                await forever()
            finally:
                raise error

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(breaks)
            await settle()
            if how == "disconnect":
                raise WebSocketDisconnect

        seen = outcome(handler)
        assert seen.raised is error
        assert seen.sent == CLOSED_1011

    def test_one_that_was_cancelled_by_somebody_is_no_error(self) -> None:
        async def cancels_itself() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await forever()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(cancels_itself)
            ws.start_soon(fails, asyncio.CancelledError())
            await settle()
            await ws.send("unharmed")

        seen = outcome(handler)
        assert (seen.raised, seen.sent) == (None, [("send", "unharmed"), ("close", 1000, "")])

    @pytest.mark.parametrize("accept", [False, True])
    def test_the_server_stops(self, accept: bool) -> None:
        async def main() -> None:
            @journal
            async def handler(ws: WebSocket, transport: MemoryTransport) -> None:
                if accept:
                    await ws.accept()
                ws.start_soon(record_end, transport)
                await forever()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            last = [("close", 1012, "")] if accept else rejected(503)
            assert without_accept(transport) == [("task ended",), *last]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    def test_the_server_stops_while_the_tasks_are_ended(self) -> None:
        async def main() -> None:
            cleaning, cleaned = asyncio.Event(), asyncio.Event()

            async def cleans_up() -> None:
                try:
                    await forever()
                finally:
                    cleaning.set()
                    await cleaned.wait()

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(cleans_up)
                await settle()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await cleaning.wait()
            for _ in range(2):  # it is not broken off, however often
                running.task.cancel()
                await settle()
                assert not running.task.done()
            cleaned.set()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert without_accept(transport) == [("close", 1012, "")]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())


async def in_receive(ws: WebSocket) -> None:
    await ws.receive()


async def in_iteration(ws: WebSocket) -> None:
    async for _ in ws:
        raise AssertionError


async def in_wait_closed(ws: WebSocket) -> None:
    await ws.wait_closed()


async def in_event(ws: WebSocket) -> None:
    await forever()


async def in_timer(ws: WebSocket) -> None:
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=3600)


async def in_timeout(ws: WebSocket) -> None:
    async with asyncio.timeout(3600):
        await ws.receive()


async def in_wait_for(ws: WebSocket) -> None:
    await asyncio.wait_for(ws.receive(), 3600)


async def in_task_group(ws: WebSocket) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(ws.receive())
        group.create_task(forever())


async def in_body_of_task_group(ws: WebSocket) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(forever())
        await ws.receive()


async def in_gather(ws: WebSocket) -> None:
    await asyncio.gather(ws.receive(), forever())


async def in_while_connected(ws: WebSocket) -> None:
    async with ws.while_connected():
        await forever()


async def in_all_of_them(ws: WebSocket) -> None:
    async with ws.while_connected(), asyncio.timeout(3600), asyncio.TaskGroup() as group:
        group.create_task(forever())
        async with ws.while_connected(), asyncio.timeout(3600):
            await ws.receive()


async def in_shield(ws: WebSocket) -> None:
    await asyncio.shield(asyncio.get_running_loop().create_future())


async def in_turn(ws: WebSocket) -> None:
    """Ready to run, and never waiting, when it is cancelled."""
    while True:
        await turn()


OPEN = [
    in_receive,
    in_iteration,
    in_wait_closed,
    in_event,
    in_timer,
    in_timeout,
    in_wait_for,
    in_task_group,
    in_body_of_task_group,
    in_gather,
    in_while_connected,
    in_all_of_them,
    in_shield,
    in_turn,
]
CONNECTING = [in_wait_closed, in_event, in_shield, in_turn]


class TestError:
    """A task fails first: the handler is cancelled where it stands, and ends by its error."""

    @pytest.mark.parametrize("where", OPEN)
    def test_while_the_handler_waits(
        self, where: Handler, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = LookupError("of the task")
        reached: list[str] = []

        @journal
        async def handler(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.accept()
            ws.start_soon(fails, error)
            try:
                await where(ws)
            except asyncio.CancelledError:
                reached.append("cancelled")
                raise
            finally:
                await turn()
                await ws.send("finally")  # it may await, and the connection is still open

        seen = outcome(handler)
        assert seen.raised is error
        assert seen.sent == [("send", "finally"), *CLOSED_1011]
        assert reached == ["cancelled"]
        assert not caplog.records  # the framework is told, and it alone

    @pytest.mark.parametrize("where", CONNECTING)
    def test_before_accept(self, where: Handler) -> None:
        error = LookupError("of the task")

        async def handler(ws: WebSocket) -> None:
            ws.start_soon(fails, error)
            await where(ws)

        seen = outcome(handler)
        assert (seen.raised, seen.sent) == (error, rejected(500))

    def test_while_accept_waits(self) -> None:
        async def main() -> None:
            async def fails_then(ws: WebSocket) -> None:
                await transport.blocked.wait()
                transport.accepting.set()
                raise LookupError

            async def handler(ws: WebSocket) -> None:
                ws.start_soon(fails_then, ws)
                await ws.accept()

            transport = MemoryTransport()
            transport.accepting.clear()
            running = Running(handler, transport)
            with pytest.raises(LookupError):
                await running.task
            assert without_accept(transport) == CLOSED_1011

        asyncio.run(main())

    def test_while_a_send_waits(self) -> None:
        """The last frame waits behind it, but no longer than it may."""
        error = LookupError()

        async def fails_then(transport: MemoryTransport) -> None:
            await transport.blocked.wait()
            raise error

        @journal
        async def handler(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.accept()
            transport.flowing.clear()
            ws.start_soon(fails_then, transport)
            await ws.send("x")

        seen = outcome(handler, close_timeout=0.001)
        assert (seen.raised, seen.sent) == (error, [])

    @pytest.mark.parametrize(
        ("exc", "before", "after"),
        [
            (WebSocketException(4001, "why"), rejected(403), [("close", 4001, "why")]),
            (InvalidMessage(1007, "bad", "x"), rejected(403), [("close", 1007, "bad")]),
            (HandshakeRejected(401), rejected(401), [("close", 4401, "")]),
            (
                FrameworkError(),
                [("reject", 418, b"", EMPTY)],
                [("close", 4418, "Teapot")],
            ),
            (LookupError(), rejected(500), CLOSED_1011),
            (TimeoutError(), rejected(500), CLOSED_1011),
            (ConnectionResetError(), rejected(500), CLOSED_1011),
            (StopAsyncIteration(), rejected(500), CLOSED_1011),
            (InvalidState("misused"), rejected(500), CLOSED_1011),
            (
                ExceptionGroup("g", [HandshakeRejected(401), WebSocketDisconnect()]),
                rejected(401),
                [("close", 4401, "")],
            ),
            (
                ExceptionGroup("g", [LookupError(), WebSocketDisconnect()]),
                rejected(500),
                CLOSED_1011,
            ),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("accept", [False, True])
    def test_each_ends_the_connection_as_the_handlers_own(
        self, exc: Exception, before: Sent, after: Sent, accept: bool
    ) -> None:
        async def handler(ws: WebSocket) -> None:
            if accept:
                await ws.accept()
            ws.start_soon(fails, exc)
            await forever()

        seen = outcome(handler)
        told = (WebSocketException, InvalidMessage, HandshakeRejected, FrameworkError)
        quiet = isinstance(exc, told) or (
            isinstance(exc, ExceptionGroup) and isinstance(exc.exceptions[0], told)
        )
        assert seen.raised is (None if quiet else exc)
        assert seen.sent == (after if accept else before)

    def test_the_error_has_its_own_traceback_and_no_context(self) -> None:
        error = LookupError("of the task")

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(fails, error)
            try:
                await ws.receive()
            finally:
                await turn()

        assert outcome(handler).raised is error
        assert (error.__cause__, error.__context__) == (None, None)
        functions = set()
        traceback = error.__traceback__
        while traceback is not None:
            functions.add(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        assert "fails" in functions

    def test_one_that_ends_the_process(self) -> None:
        reached: list[str] = []

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(fails, SystemExit(3))
            try:
                await ws.receive()
            finally:
                reached.append("finally")

        with pytest.raises(SystemExit):
            serve(handler)
        assert reached == ["finally"]

    @pytest.mark.parametrize(
        "exc",
        [
            WebSocketDisconnect(1001),
            ExceptionGroup("g", [WebSocketDisconnect(), WebSocketDisconnect()]),
            ExceptionGroup("g", [ExceptionGroup("h", [WebSocketDisconnect()])]),
        ],
        ids=repr,
    )
    def test_a_disconnect_ends_the_task_alone(
        self, exc: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(fails, exc)
            await settle()
            await ws.send("unharmed")

        seen = outcome(handler)
        assert (seen.raised, seen.sent) == (None, [("send", "unharmed"), ("close", 1000, "")])
        assert not caplog.records

    def test_a_ticker_ends_with_the_connection(self, caplog: pytest.LogCaptureFixture) -> None:
        """What nearly every task does: it sends until it cannot."""

        async def ticker(ws: WebSocket) -> None:
            while True:
                await ws.send("tick")
                await turn()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(ticker, ws)
            async for message in ws:
                await ws.send(message)
            await settle()  # it need not end at once
            await ws.wait_closed()

        with connect(handler) as peer:
            peer.send("a")
            received = iter(peer)
            assert next(received) == "tick"
            assert "a" in received
            peer.close(1001)
        assert not caplog.records

    def test_the_handler_swallows_its_cancellation(self) -> None:
        error = LookupError()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(fails, error)
            try:
                await ws.receive()
            except asyncio.CancelledError:
                await ws.send("swallowed")
            await turn()

        seen = outcome(handler)
        assert (seen.raised, seen.sent) == (error, [("send", "swallowed"), *CLOSED_1011])

    def test_the_handler_takes_it_back(self) -> None:
        """As what knows of cancellations does: ``uncancel()`` is not called twice too often."""
        error = LookupError()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(fails, error)
            try:
                await ws.receive()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()

        seen = outcome(handler)
        assert (seen.raised, seen.sent) == (error, CLOSED_1011)

    @pytest.mark.parametrize("how", ["return", "own error"])
    def test_the_handler_has_it_asked_for_again(self, how: str) -> None:
        """As a task group does from Python 3.13 on, if a task of its own has failed as well."""
        error, own = LookupError("of the task"), RuntimeError("of the handler")

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(fails, error)
            try:
                await ws.receive()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                task.cancel()  # it strikes at the next await, wherever that is
                if how == "own error":
                    raise own from None

        seen = outcome(handler)
        assert seen.raised is (error if how == "return" else own)
        assert seen.sent == CLOSED_1011

    @pytest.mark.parametrize(
        "how", ["return", WebSocketDisconnect(), WebSocketException(4001), LookupError("own")]
    )
    def test_the_handler_ends_in_the_same_turn(
        self, how: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It was not cancelled yet, and the cancellation must strike nowhere else."""
        error = LookupError("of the task")

        async def main() -> Outcome:
            gate = asyncio.get_running_loop().create_future()

            async def fails_then() -> None:
                await gate
                raise error

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(fails_then)
                await turn()
                gate.set_result(None)
                await turn()  # the task fails in this turn, before this
                if how != "return":
                    raise how

            transport = MemoryTransport()
            raised: BaseException | None = None
            try:
                await run(handler, transport)
            except LookupError as exc:
                raised = exc
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await turn()
            return Outcome(without_accept(transport), raised)

        seen = asyncio.run(main())
        failures = [r for r in caplog.records if r.levelno >= logging.ERROR]
        if how == "return" or isinstance(how, WebSocketDisconnect):
            assert (seen.raised, seen.sent) == (error, CLOSED_1011)
            assert not failures
        else:  # the handler's own error is the one that counts; the other is told
            assert seen.raised is (how if isinstance(how, LookupError) else None)
            assert seen.sent == [("close", 4001, "")] or seen.sent == CLOSED_1011
            (failure,) = failures
            assert failure.exc_info is not None
            assert failure.exc_info[1] is error

    @pytest.mark.parametrize("turns", range(6))
    @pytest.mark.parametrize("how", ["return", "receive"])
    def test_whenever_it_comes_it_is_not_lost(self, turns: int, how: str) -> None:
        error = LookupError("of the task")

        async def fails_later() -> None:
            for _ in range(turns):
                await turn()
            raise error

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(forever)
            ws.start_soon(fails_later)
            for _ in range(3):
                await turn()
            if how == "receive":
                await ws.receive()

        seen = outcome(handler)
        if how == "return" and turns > 2:  # it was cancelled before
            assert (seen.raised, seen.sent) == (None, [("close", 1000, "")])
        else:
            assert (seen.raised, seen.sent) == (error, CLOSED_1011)

    def test_the_handler_fails_because_of_it(self, caplog: pytest.LogCaptureFixture) -> None:
        error, own = LookupError("of the task"), RuntimeError("of the handler")

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(fails, error)
            try:
                await ws.receive()
            except asyncio.CancelledError:
                raise own from None

        seen = outcome(handler)
        assert (seen.raised, seen.sent) == (own, CLOSED_1011)
        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert record.exc_info is not None
        assert record.exc_info[1] is error

    @pytest.mark.parametrize("quiet", [False, True])
    def test_two_tasks_fail(self, quiet: bool, caplog: pytest.LogCaptureFixture) -> None:
        """The first counts, the other is told in the log, once."""
        first, second = LookupError("first"), RuntimeError("second")

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws.start_soon(fails, first)
            ws.start_soon(fails, WebSocketDisconnect() if quiet else second)
            await ws.receive()

        seen = outcome(handler)
        assert (seen.raised, seen.sent) == (first, CLOSED_1011)
        logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
        assert logged == ([] if quiet else [second])

    def test_an_error_beside_a_task_that_takes_long(self) -> None:
        """The others are cancelled as well, and waited for, before the connection is closed."""
        error = LookupError()

        @journal
        async def handler(ws: WebSocket, transport: MemoryTransport) -> None:
            await ws.accept()
            ws.start_soon(record_end, transport)
            await turn()
            ws.start_soon(fails, error)
            await ws.receive()

        seen = outcome(handler)
        assert (seen.raised, seen.sent) == (error, [("task ended",), *CLOSED_1011])

    def test_beside_a_disconnect_in_while_connected(self) -> None:
        """Both cancel the handler in one turn: neither is taken for the other."""
        error = LookupError()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()

            async def fails_at_the_end() -> None:
                await ws.wait_closed()
                raise error

            ws.start_soon(fails_at_the_end)
            await turn()  # it is told of the end before the block
            async with ws.while_connected():
                await forever()

        async def main() -> None:
            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            transport.peer_leaves()
            with pytest.raises(LookupError) as caught:
                await running.task
            assert caught.value is error
            assert without_accept(transport) == []

        asyncio.run(main())

    def test_beside_a_timeout_that_expires(self) -> None:
        error = LookupError()

        async def main() -> None:
            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                timeout = asyncio.timeout(None)

                async def expires() -> None:
                    timeout.reschedule(asyncio.get_running_loop().time())
                    raise error

                async with timeout:
                    ws.start_soon(expires)
                    await ws.receive()

            transport = MemoryTransport()
            with pytest.raises(LookupError) as caught:
                await run(handler, transport)
            assert caught.value is error
            assert without_accept(transport) == CLOSED_1011
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

        asyncio.run(main())

    def test_within_a_timeout_and_a_group_of_the_callers(self) -> None:
        """What counts cancellations outside of the handler sees none."""
        error = LookupError()

        async def main() -> list[BaseException]:
            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(fails, error)
                await ws.receive()

            caught: list[BaseException] = []
            async with asyncio.timeout(3600) as timeout, asyncio.TaskGroup() as group:
                child = group.create_task(settle())
                try:
                    await run(handler, MemoryTransport())
                except LookupError as exc:
                    caught.append(exc)
                await turn()  # not cancelled
            assert not timeout.expired()
            assert not child.cancelled()
            return caught

        assert asyncio.run(main()) == [error]


class TestServerStops:
    """A cancellation from outside wins over whatever the tasks do."""

    @pytest.mark.parametrize("turns", range(12))
    @pytest.mark.parametrize("order", ["task first", "server first"])
    def test_at_the_same_time(
        self, turns: int, order: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = LookupError("of the task")

        async def main() -> None:
            gate = asyncio.Event()

            async def fails_then() -> None:
                await gate.wait()
                raise error

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(fails_then)
                await ws.receive()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            if order == "task first":
                gate.set()
            for _ in range(turns):
                await turn()
            in_time = running.task.cancel()
            gate.set()
            await asyncio.wait([running.task])
            sent = without_accept(transport)
            if in_time:
                assert running.task.cancelled()
                assert sent in ([("close", 1012, "")], CLOSED_1011)
            else:
                assert running.task.exception() is error
                assert sent == CLOSED_1011
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    def test_an_error_of_a_task_is_told_then(self, caplog: pytest.LogCaptureFixture) -> None:
        error = LookupError("of the task")

        async def main() -> None:
            async def breaks() -> None:
                try:
                    await forever()
                finally:
                    raise error

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(breaks)
                await forever()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert without_accept(transport) == [("close", 1012, "")]

        asyncio.run(main())
        assert [r.exc_info[1] for r in caplog.records if r.exc_info] == [error]

    def test_an_error_of_a_task_is_told_if_it_strikes_while_the_others_end(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = LookupError("of the task")

        async def main() -> None:
            cleaning, cleaned = asyncio.Event(), asyncio.Event()

            async def cleans_up() -> None:
                try:
                    await forever()
                finally:
                    cleaning.set()
                    await cleaned.wait()

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(cleans_up)
                await turn()
                ws.start_soon(fails, error)
                await ws.receive()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await cleaning.wait()
            running.task.cancel()
            cleaned.set()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert without_accept(transport) == [("close", 1012, "")]

        asyncio.run(main())
        assert [r.exc_info[1] for r in caplog.records if r.exc_info] == [error]

    def test_the_handler_swallows_it_and_a_task_fails(self) -> None:
        """What was swallowed is over: the task's error is as at any time."""
        error = LookupError("of the task")

        async def main() -> None:
            gate = asyncio.Event()

            async def fails_then() -> None:
                await gate.wait()
                raise error

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(fails_then)
                try:
                    await forever()
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    assert task is not None
                    task.uncancel()
                gate.set()
                await ws.receive()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            running.task.cancel()
            with pytest.raises(LookupError) as caught:
                await running.task
            assert caught.value is error
            assert without_accept(transport) == CLOSED_1011

        asyncio.run(main())

    def test_the_handler_swallows_it_and_a_task_fails_at_its_end(self) -> None:
        """The same without ``uncancel()``: who swallows it need not know of that."""
        error = LookupError("of the task")

        async def main() -> None:
            async def breaks() -> None:
                try:
                    await forever()
                finally:
                    raise error

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                ws.start_soon(breaks)
                with suppress(asyncio.CancelledError):
                    await forever()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            running.task.cancel()
            with pytest.raises(LookupError) as caught:
                await running.task
            assert caught.value is error
            assert without_accept(transport) == CLOSED_1011

        asyncio.run(main())
