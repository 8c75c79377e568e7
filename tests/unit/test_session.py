"""How a handler ends, and how its connection does."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from tests.unit.memory import (
    FrameworkError,
    MemoryTransport,
    Running,
    rejection,
    run,
    serve,
    settle,
    turn,
    without_accept,
)
from unisock import (
    Capabilities,
    HandshakeRejected,
    InvalidMessage,
    SyncWebSocket,
    UnisockError,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
    WebSocketException,
)
from unisock.handlers import check_handler, prepare
from unisock.testing import connect
from unisock.testing.wires import MemoryHandshake
from unisock.transport import HTTPError, HTTPResponse

EMPTY = [("content-length", "0")]
Sent = list[tuple[object, ...]]


def raising(exc: BaseException, accept: bool) -> Callable[[WebSocket], Any]:
    async def handler(ws: WebSocket) -> None:
        if accept:
            await ws.accept()
        raise exc

    return handler


def rejected(status_code: int) -> Sent:
    return [("reject", status_code, b"", EMPTY)]


def translating(translation: UnisockError | Exception) -> Callable[[MemoryTransport], None]:
    def prepare(transport: MemoryTransport) -> None:
        transport.translations[FrameworkError] = translation

    return prepare


class TestReturns:
    def test_before_accept(self, caplog: pytest.LogCaptureFixture) -> None:
        async def forgetful(ws: WebSocket) -> None:
            ws.state.seen = True

        assert rejection(forgetful) == rejected(403)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "forgetful, path '/', client " in record.getMessage()
        assert ": returned without accept()" in record.getMessage()

    def test_open(self, caplog: pytest.LogCaptureFixture) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()

        with connect(handler) as peer:
            assert peer.wait_closed() == (1000, "")
        assert not caplog.records

    def test_after_it_has_closed(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.close(4000)

        with connect(handler) as peer:
            assert peer.wait_closed() == (4000, "")

    def test_after_the_peer_has_gone(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            transport = MemoryTransport()

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                transport.peer_leaves()
                await ws.wait_closed()

            assert await Running(handler, transport).end() == []

        asyncio.run(main())
        assert not caplog.records

    def test_before_accept_after_the_peer_has_gone(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            transport = MemoryTransport()
            transport.peer_leaves(1006)

            async def handler(ws: WebSocket) -> None:
                await ws.wait_closed()
                transport.lose()

            assert await Running(handler, transport).end() == []

        asyncio.run(main())
        assert not caplog.records


class TestRaises:
    @pytest.mark.parametrize(
        ("exc", "before", "after"),
        [
            (WebSocketException(4001, "why"), rejected(403), [("close", 4001, "why")]),
            (
                WebSocketException(1008, "é" * 100),
                rejected(403),
                [("close", 1008, "é" * 61)],
            ),
            (
                WebSocketException(1008, "a\ud800"),
                rejected(403),
                [("close", 1008, "a?")],
            ),
            (HandshakeRejected(401), rejected(401), [("close", 4401, "")]),
            (
                HandshakeRejected(429, b"slow", {"Retry-After": "5", "Content-Type": "x/y"}),
                [
                    (
                        "reject",
                        429,
                        b"slow",
                        [("retry-after", "5"), ("content-type", "x/y"), ("content-length", "4")],
                    )
                ],
                [("close", 4429, "")],
            ),
            (InvalidMessage(1003, "text", "x"), rejected(403), [("close", 1003, "text")]),
            (WebSocketDisconnect(1001), rejected(403), [("close", 1000, "")]),
            (HTTPError(404, "Not Found"), rejected(404), [("close", 4404, "Not Found")]),
            (
                ExceptionGroup("g", [WebSocketException(4001)]),
                rejected(403),
                [("close", 4001, "")],
            ),
            (
                ExceptionGroup(
                    "g",
                    [
                        WebSocketDisconnect(1001),
                        ExceptionGroup("h", [HandshakeRejected(401), WebSocketDisconnect()]),
                    ],
                ),
                rejected(401),
                [("close", 4401, "")],
            ),
            (
                ExceptionGroup("g", [WebSocketDisconnect(), WebSocketDisconnect()]),
                rejected(403),
                [("close", 1000, "")],
            ),
        ],
        ids=lambda value: str(value) if isinstance(value, Exception) else "",
    )
    def test_an_ending(self, exc: Exception, before: Sent, after: Sent) -> None:
        assert rejection(raising(exc, accept=False)) == before
        with connect(raising(exc, accept=True)) as peer:
            assert [("close", *peer.wait_closed())] == after

    @pytest.mark.parametrize(
        "exc",
        [
            KeyError("secret"),
            RuntimeError(),
            ConnectionResetError("of something else"),
            TimeoutError(),
            ExceptionGroup("g", [WebSocketException(4001), KeyError()]),
            ExceptionGroup("g", [WebSocketException(4001), HandshakeRejected(401)]),
            FrameworkError("not translated"),
            UnisockError(),
        ],
        ids=repr,
    )
    def test_anything_else_goes_on_once(self, exc: Exception) -> None:
        transports: list[MemoryTransport] = []
        for accept, sent in ((False, rejected(500)), (True, [("close", 1011, "")])):
            with pytest.raises(type(exc)) as caught:
                serve(raising(exc, accept), prepare=transports.append)
            assert caught.value is exc
            assert without_accept(transports.pop()) == sent

    def test_a_disconnect_of_a_gone_peer_sends_nothing_and_is_no_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "unisock")

        async def main() -> None:
            transport = MemoryTransport()

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                transport.peer_leaves(4005)
                await ws.receive()

            assert await Running(handler, transport).end() == []

        asyncio.run(main())
        (record,) = [r for r in caplog.records if r.name == "unisock"]
        assert record.levelname == "DEBUG"
        assert record.exc_info is None

    def test_an_invalid_message_is_one_warning_without_a_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive_json(int)

        with connect(handler) as peer:
            peer.send_text('"x"')
            peer.wait_closed()
        assert peer.close_code == 1007
        (record,) = caplog.records
        assert (record.levelname, record.exc_info) == ("WARNING", None)

    @pytest.mark.parametrize(
        "exc",
        [
            HandshakeRejected(99),
            HandshakeRejected(1200),
            HandshakeRejected(401, "text"),  # type: ignore[arg-type]  # that is the test
            HandshakeRejected(401, b"", {"bad name": "x"}),
            WebSocketException(4000, None),  # type: ignore[arg-type]  # that is the test
        ],
        ids=repr,
    )
    def test_one_that_cannot_be_sent_still_ends_the_connection(self, exc: Exception) -> None:
        transports: list[MemoryTransport] = []
        for accept in (False, True):
            with suppress(TypeError, ValueError, AttributeError):
                serve(raising(exc, accept), prepare=transports.append)
            (sent,) = without_accept(transports.pop())
            assert sent[0] == ("close" if accept else "reject")

    def test_a_status_beyond_all_is_an_error_that_goes_on(self) -> None:
        transports: list[MemoryTransport] = []
        with pytest.raises(ValueError, match="5200"):
            serve(raising(HandshakeRejected(1200), True), prepare=transports.append)
        assert without_accept(transports.pop()) == [("close", 1011, "")]
        with pytest.raises(ValueError, match="1200"):
            serve(raising(HandshakeRejected(1200), False), prepare=transports.append)
        assert transports.pop().sent == rejected(500)

    def test_after_it_has_closed_itself(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.close(4000)
            raise KeyError

        with connect(handler, raises=KeyError) as peer:
            assert peer.wait_closed() == (4000, "")


class TestFrameworkErrors:
    def test_with_a_response_of_its_own(self) -> None:
        error = HTTPError(404, "Not Found", HTTPResponse(b"{}", (("content-type", "a/b"),)))
        headers = [("content-type", "a/b"), ("content-length", "2")]
        prepare = translating(error)
        transport = serve(raising(FrameworkError(), False), prepare=prepare)
        assert transport.sent == [("reject", 404, b"{}", headers)]
        transport = serve(raising(FrameworkError(), True), prepare=prepare)
        assert without_accept(transport) == [("close", 4404, "Not Found")]

    def test_the_framework_answers_itself(self) -> None:
        exc = FrameworkError("answer me")
        transports: list[MemoryTransport] = []

        def prepare(transport: MemoryTransport) -> None:
            transports.append(transport)
            translating(HTTPError(404, "Not Found"))(transport)

        with pytest.raises(FrameworkError) as caught:
            serve(raising(exc, False), prepare=prepare)
        assert caught.value is exc
        assert transports[0].sent == []

    def test_in_a_group_it_is_what_goes_on(self) -> None:
        exc = FrameworkError("answer me")
        with pytest.raises(FrameworkError) as caught:
            serve(
                raising(ExceptionGroup("g", [exc, WebSocketDisconnect()]), False),
                prepare=translating(HTTPError(404, "Not Found")),
            )
        assert caught.value is exc

    def test_a_server_without_such_responses_gets_the_rejection(self) -> None:
        transport = serve(
            raising(FrameworkError(), False),
            prepare=translating(HTTPError(404, "Not Found")),
            capabilities=Capabilities(http_rejection=False),
        )
        assert transport.sent == rejected(404)

    def test_a_peer_that_has_gone_gets_nothing(self) -> None:
        async def main() -> None:
            transport = MemoryTransport()
            transport.peer_leaves(1006)
            translating(HTTPError(404, "Not Found"))(transport)

            async def handler(ws: WebSocket) -> None:
                await ws.wait_closed()
                transport.lose()
                raise FrameworkError

            assert await Running(handler, transport).end() == []

        asyncio.run(main())

    def test_one_that_closes(self) -> None:
        prepare = translating(WebSocketException(4001, "why"))
        transport = serve(raising(FrameworkError(), True), prepare=prepare)
        assert without_accept(transport) == [("close", 4001, "why")]

    def test_one_that_cannot_be_translated_still_ends_the_connection(self) -> None:
        transports: list[MemoryTransport] = []

        def prepare(transport: MemoryTransport) -> None:
            transports.append(transport)
            translating(ValueError("close code 1005 may not be sent"))(transport)

        with pytest.raises(ValueError, match="1005"):
            serve(raising(FrameworkError(), True), prepare=prepare)
        assert without_accept(transports[0]) == [("close", 1011, "")]


class TestCancelled:
    @pytest.mark.parametrize(
        ("accept", "sent"), [(False, rejected(500)), (True, [("close", 1011, "")])]
    )
    def test_what_the_handler_waits_for_is_no_stop_of_the_server(
        self, accept: bool, sent: Sent
    ) -> None:
        async def main() -> None:
            async def handler(ws: WebSocket) -> None:
                if accept:
                    await ws.accept()
                child = asyncio.create_task(asyncio.Event().wait())
                child.cancel()
                await child

            transport = MemoryTransport()
            running = Running(handler, transport)
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert without_accept(transport) == sent

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("accept", "sent"), [(False, rejected(503)), (True, [("close", 1012, "")])]
    )
    def test_the_server_stops(self, accept: bool, sent: Sent) -> None:
        async def main() -> None:
            reached = []

            async def handler(ws: WebSocket) -> None:
                if accept:
                    await ws.accept()
                try:
                    await asyncio.Event().wait()
                finally:
                    reached.append("finally")

            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert reached == ["finally"]
            assert without_accept(transport) == sent
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    def test_again_while_the_last_frame_waits(self) -> None:
        async def main() -> None:
            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                await asyncio.Event().wait()

            transport = MemoryTransport()
            running = Running(handler, transport)
            await settle()
            transport.flowing.clear()
            running.task.cancel()
            await transport.blocked.wait()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    @pytest.mark.parametrize("turns", range(8))
    def test_at_any_turn_nothing_is_left(self, turns: int) -> None:
        async def main() -> None:
            async def handler(ws: WebSocket) -> None:
                await turn()
                await ws.accept()
                await ws.send("a")
                await turn()
                await ws.receive()

            transport = MemoryTransport()
            running = Running(handler, transport)
            for _ in range(turns):
                await turn()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())


class TestOrigin:
    @pytest.mark.parametrize(
        "origins",
        [
            ["http://evil.example"],
            ["null"],
            ["http://app.example", "http://app.example"],
            [""],
        ],
    )
    def test_another_host_is_rejected_before_the_handler_runs(
        self, origins: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(ws: WebSocket) -> None:
            raise AssertionError("the handler ran")

        headers = [("Origin", origin) for origin in origins]
        (answer,) = rejection(handler, "ws://app.example/", headers=headers)
        assert answer[:3] == ("reject", 403, b"origin not allowed")
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert f"origins=[{', '.join(origins)!r}]" in record.getMessage()
        assert "the Host header says 'app.example'" in record.getMessage()

    def test_what_a_peer_writes_stays_on_its_line_of_the_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It comes from anybody: an escape sequence would write to the reader's terminal."""
        strange = "evil\x1b[2K\x85"

        async def handler(ws: WebSocket) -> None:
            raise AssertionError("the handler ran")

        async def main() -> None:
            lines = [("Origin", strange), ("Host", strange)]
            transport = MemoryTransport(MemoryHandshake(raw_headers=lines))
            await prepare(handler, {}).serve(transport)

        asyncio.run(main())
        assert caplog.records[0].getMessage().isprintable()
        assert f"the Host header says {strange!r}" in caplog.records[0].getMessage()

    @pytest.mark.parametrize(
        ("origin", "options"),
        [
            (None, {}),
            ("http://app.example", {}),
            ("http://evil.example", {"origins": "*"}),
            ("http://other.example", {"origins": ["http://other.example"]}),
        ],
    )
    def test_others_pass(self, origin: str | None, options: dict[str, Any]) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()

        headers = {"Origin": origin} if origin else {}
        with connect(handler, "ws://app.example/", headers=headers, **options) as peer:
            assert peer.wait_closed() == (1000, "")


class TestLastFrame:
    def test_a_peer_that_never_reads_is_not_waited_for(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive()

        with connect(handler, close_timeout=0.001) as peer:
            peer.pause_reading()
            peer.send("go on")
            assert peer.wait_closed() == (1006, "")

    def test_nor_one_that_takes_no_rejection(self) -> None:
        async def handler(ws: WebSocket) -> None:
            raise HandshakeRejected(401)

        def prepare(transport: MemoryTransport) -> None:
            transport.accepting.clear()

        assert serve(handler, prepare=prepare, close_timeout=0.001).sent == []

    def test_a_connection_that_is_lost_meanwhile(self) -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            ws._transport.lost = True  # type: ignore[attr-defined]  # in memory

        assert without_accept(serve(handler)) == []

    def test_what_outlives_the_handler_sees_the_end(self) -> None:
        async def main() -> None:
            late: list[asyncio.Task[int]] = []

            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                late.append(asyncio.create_task(ws.wait_closed()))

            await run(handler, MemoryTransport())
            assert await late[0] == 1000

        asyncio.run(main())


class Endpoint:
    async def __call__(self, ws: WebSocket) -> None:
        await ws.accept()

    async def method(self, ws: WebSocket) -> None:
        await ws.accept()


class SyncEndpoint:
    def __call__(self, ws: WebSocket) -> None:
        raise AssertionError


async def with_default(ws: WebSocket, room: str = "lobby") -> None:
    await ws.accept()


async def two(ws: WebSocket, room: str) -> None:
    await ws.accept()


async def required_keyword(ws: WebSocket, *, room: str) -> None:
    await ws.accept()


async def none_at_all() -> None:
    raise AssertionError


async def generator(ws: WebSocket) -> Any:
    yield ws


def synchronous(ws: WebSocket) -> None:
    raise AssertionError


class TestCheckHandler:
    @pytest.mark.parametrize(
        "handler",
        [
            with_default,
            Endpoint(),
            Endpoint().method,
            functools.partial(two, room="x"),
            functools.partial(required_keyword, room="x"),
        ],
    )
    def test_handlers(self, handler: Any) -> None:
        assert check_handler(handler) is handler
        with connect(handler) as peer:
            assert peer.wait_closed() == (1000, "")

    @pytest.mark.parametrize(
        ("handler", "message"),
        [
            (None, "not None"),
            ("handler", "not 'handler'"),
            (5, "not 5"),
            (Endpoint, "Endpoint is a class"),
            (generator, "does not yield, as generator"),
            (none_at_all, "none_at_all.*too many"),
            (functools.partial(two, cast("WebSocket", None), "x"), "too many|multiple"),
        ],
    )
    def test_what_is_none(self, handler: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            check_handler(handler)


async def _beside() -> None:
    await asyncio.Event().wait()


def _abandoned_handlers(told: list[str]) -> dict[str, Any]:
    """One of each form that waits; it tells what of it has run."""

    async def function(ws: WebSocket) -> None:
        await ws.accept()
        ws.start_soon(_beside)
        try:
            await ws.receive()
        finally:
            told.append("finally")

    async def raises(ws: WebSocket) -> None:
        await ws.accept()
        try:
            await ws.receive()
        finally:
            told.append("finally")
            raise ValueError("of the handler's own")

    class Endpoint(WebSocketEndpoint):
        async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
            told.append("a hook, which could not wait")

    def plain(ws: SyncWebSocket) -> None:
        ws.accept()
        with suppress(WebSocketDisconnect):
            ws.receive()

    return {"function": function, "raises": raises, "endpoint": Endpoint, "plain": plain}


@pytest.mark.parametrize("where", ["no loop", "another task"])
@pytest.mark.parametrize("form", ["function", "raises", "endpoint", "plain"])
def test_a_coroutine_that_is_closed_awaits_nothing(form: str, where: str) -> None:
    """As where an event loop has ended, and the garbage collection takes what it has left."""
    told: list[str] = []
    begun: list[asyncio.Task[None]] = []  # the loop holds it weakly
    handler = _abandoned_handlers(told)[form]

    async def main() -> Any:
        transport = MemoryTransport()
        serving = prepare(handler, {}).serve(transport)

        async def begin() -> None:
            await serving

        begun.append(asyncio.create_task(begin()))
        # A thread that has not called yet could call a loop that is closed meanwhile.
        await transport.until(lambda: transport.inbox and transport.inbox.is_awaited)
        await settle()
        if where == "another task":
            _close(serving, form)
        return serving

    loop = asyncio.new_event_loop()
    try:
        serving = loop.run_until_complete(main())
        if where == "no loop":
            _close(serving, form)
        # What is left of the test.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()
    for thread in threading.enumerate():
        if "_abandoned_handlers" in thread.name:
            thread.join(10)
            assert not thread.is_alive()
    assert told == (["finally"] if form in ("function", "raises") else [])


def _close(serving: Any, form: str) -> None:
    """Close it; Python complains of a coroutine that awaits then."""
    if form == "raises":
        with pytest.raises(ValueError, match="of the handler's own"):
            serving.close()
    else:
        serving.close()
