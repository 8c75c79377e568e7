"""`SyncWebSocket`: a plain function in a thread, and what it has started beside it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent import futures
from typing import Any

import pytest

from tests.unit.memory import (
    FrameworkError,
    MemoryTransport,
    Running,
    serve,
    settle,
    turn,
    with_websocket,
    without_accept,
)
from unisock import (
    Address,
    Capabilities,
    HandshakeRejected,
    InvalidMessage,
    InvalidState,
    Options,
    SyncWebSocket,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from unisock.asyncio_runtime import ThreadWorkers
from unisock.handlers import prepare
from unisock.runtime import run_blocking
from unisock.session import Session
from unisock.testing.wires import MemoryHandshake
from unisock.transport import Disconnect, HTTPError, HTTPResponse, Inbox
from unisock.websocket import RAISE

EMPTY = [("content-length", "0")]
CLOSED_1011 = [("close", 1011, "")]
Sent = list[tuple[object, ...]]
Call = Callable[[SyncWebSocket], object]

RECEIVES: dict[str, Call] = {
    "receive": lambda ws: ws.receive(),
    "receive_text": lambda ws: ws.receive_text(),
    "receive_bytes": lambda ws: ws.receive_bytes(),
    "receive_json": lambda ws: ws.receive_json(),
    "receive_json of a type": lambda ws: ws.receive_json(int),
    "with a timeout": lambda ws: ws.receive(timeout=3600),
}
ITERATIONS: dict[str, Callable[[SyncWebSocket], Iterator[object]]] = {
    "iter": iter,
    "iter_text": lambda ws: ws.iter_text(),
    "iter_bytes": lambda ws: ws.iter_bytes(),
    "iter_json": lambda ws: ws.iter_json(),
}
SENDS: dict[str, Call] = {
    "send": lambda ws: ws.send("x"),
    "send binary": lambda ws: ws.send(b"x"),
    "send_text": lambda ws: ws.send_text("x"),
    "send_bytes": lambda ws: ws.send_bytes(b"x"),
    "send_json": lambda ws: ws.send_json("x"),
}
OTHERS: dict[str, Call] = {
    "accept": lambda ws: ws.accept(),
    "reject": lambda ws: ws.reject(),
    "wait_closed": lambda ws: ws.wait_closed(),
    "close": lambda ws: ws.close(),
    "start_soon": lambda ws: ws.start_soon(print),
}


def threads() -> list[threading.Thread]:
    """Those that are the library's."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("unisock ")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Each test leaves no thread, whether it fails or not."""
    before = threads()
    yield
    for thread in threads():
        if thread not in before:
            thread.join(10)
            assert not thread.is_alive()


def wait(event: threading.Event) -> None:
    """Block the thread until a test says so."""
    assert event.wait(10), "the test did not go on"


async def happened(event: threading.Event) -> None:
    """Wait until a thread says so."""
    await asyncio.to_thread(wait, event)


async def threads_end(name: str = "") -> None:
    """Wait until those whose names hold `name` have ended, and the loop knows it."""
    for thread in threads():
        if name in thread.name:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
    await settle()


def rejected(status_code: int) -> Sent:
    return [("reject", status_code, b"", EMPTY)]


class Served(Running):
    """A plain function that runs in its thread.

    Attributes:
        ws: what it got, once it runs.
        called: set then.
    """

    ws: SyncWebSocket

    def __init__(
        self,
        handler: Callable[[SyncWebSocket], Any],
        transport: MemoryTransport | None = None,
        **options: Any,
    ) -> None:
        self.called = threading.Event()

        @functools.wraps(handler)
        def keep(ws: SyncWebSocket) -> Any:
            self.ws = ws
            self.called.set()
            return handler(ws)

        super().__init__(keep, transport or MemoryTransport(), **options)

    async def accepted(self, *incoming: str | bytes | Disconnect) -> None:
        """Wait until it has accepted; what the peer does comes after that."""
        await self.transport.has_sent()
        for message in incoming:
            self.transport.incoming.put_nowait(message)

    async def in_receive(self) -> None:
        """Wait until somebody waits for a message."""
        await self.transport.until(lambda: self._inbox and self._inbox._waiter)

    async def in_wait_closed(self) -> None:
        """Wait until somebody waits for the end."""
        await self.transport.until(
            lambda: self._inbox and len(self._inbox._end_callbacks or ()) > 1
        )

    @property
    def _inbox(self) -> Inbox | None:
        return self.transport.inbox

    async def handler_ended(self) -> None:
        """Wait until it has ended, whatever goes on beside it."""
        await happened(self.called)
        await threads_end(".handler")
        assert self.ws._ended

    async def stop(self) -> Sent:
        """The server stops; return what was sent."""
        self.task.cancel()
        return await self.stopped()

    async def stopped(self) -> Sent:
        """The same if it stops already."""
        await asyncio.wait([self.task])
        assert self.task.cancelled()
        return without_accept(self.transport)

    async def failure(self) -> BaseException | None:
        """Wait for the end; return what goes on to the framework."""
        await asyncio.wait([self.task])
        return self.task.exception()


def disconnect_of(call: Call, ws: SyncWebSocket) -> tuple[int, str]:
    """The code and the reason of the disconnect that a call raises."""
    with pytest.raises(WebSocketDisconnect) as caught:
        call(ws)
    return caught.value.code, caught.value.reason


def end_of(ws: SyncWebSocket) -> int:
    """Wait for the end, as one may; return its code."""
    try:
        return ws.wait_closed()
    except WebSocketDisconnect as exc:
        return exc.code


class TestThread:
    def test_each_has_one_of_its_own(self) -> None:
        async def main() -> None:
            seen: list[threading.Thread] = []
            everybody = threading.Barrier(51)

            def handler(ws: SyncWebSocket) -> None:
                seen.append(threading.current_thread())
                everybody.wait(10)
                ws.accept()

            running = [Served(handler) for _ in range(50)]  # more than any pool has
            await asyncio.to_thread(everybody.wait, 10)
            for each in running:
                assert await each.end() == [("close", 1000, "")]
            assert len(set(seen)) == 50
            assert threading.current_thread() not in seen
            for thread in seen:
                assert thread.daemon
                assert thread.name.startswith("unisock TestThread.")
                assert thread.name.endswith(".handler")

        asyncio.run(main())

    def test_it_sees_the_context_variables_of_the_request(self) -> None:
        variable = contextvars.ContextVar[str]("variable")

        def beside(ws: SyncWebSocket, ended: threading.Event) -> None:
            ws.send(variable.get())
            variable.set("of the other")
            ended.set()

        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            ws.send(variable.get())
            variable.set("of the thread")
            ended = threading.Event()
            ws.start_soon(beside, ws, ended)
            wait(ended)
            ws.send(variable.get())

        async def main() -> Sent:
            variable.set("of the request")
            sent = await Served(handler).end()
            assert variable.get() == "of the request"
            return sent

        texts = ["of the request", "of the thread", "of the thread"]
        assert asyncio.run(main()) == [*(("send", text) for text in texts), ("close", 1000, "")]

    def test_the_loop_goes_on_meanwhile(self) -> None:
        async def main() -> None:
            go_on = threading.Event()

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                wait(go_on)

            running = Served(handler)
            await running.transport.has_sent()
            running.transport.peer_sends("a")
            running.transport.peer_leaves(4001)
            assert running.transport.inbox is not None
            async with asyncio.timeout(10):  # it is seen though the handler does nothing
                await running.transport.inbox.wait_ended()
            assert running.ws.close_code == 4001
            go_on.set()
            assert await running.end() == []

        asyncio.run(main())


class TestMethods:
    def test_the_handshake(self) -> None:
        handshake = MemoryHandshake(
            scheme="wss",
            raw_path="/rooms/7",
            query_string="x=1",
            raw_headers=[("Host", "h"), ("Cookie", "a=b"), ("Sec-WebSocket-Protocol", "chat")],
            path_params={"room": 7},
            client=Address("192.0.2.9", 9),
            request="the request",
        )

        def handler(ws: SyncWebSocket) -> None:
            assert ws.url == "wss://h/rooms/7?x=1"
            assert ws.path_params == {"room": 7}
            assert ws.query_params["x"] == "1"
            assert ws.headers["HOST"] == "h"
            assert ws.cookies == {"a": "b"}
            assert ws.client == ("192.0.2.9", 9)
            assert ws.subprotocols == ("chat",)
            assert ws.subprotocol is None
            assert ws.request == "the request"
            assert ws.capabilities == Capabilities()
            ws.state.user = "ada"
            assert ws.state.user == "ada"
            assert (ws.closed, ws.close_code, ws.close_reason) == (False, None, None)
            ws.accept("chat", {"X-A": "1"})
            assert ws.subprotocol == "chat"

        sent = serve(handler, handshake=handshake).sent
        assert sent == [("accept", "chat", [("x-a", "1")]), ("close", 1000, "")]

    def test_a_conversation(self) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            assert ws.receive() == "a"
            assert ws.receive() == b"b"
            assert ws.receive_text() == "c"
            assert ws.receive_bytes() == b"d"
            assert ws.receive_json() == {"e": 1}
            assert ws.receive_json(list[int]) == [1]
            assert ws.receive_json(type=int, timeout=10) == 2
            with pytest.raises(InvalidMessage, match="text"):
                ws.receive_text(timeout=10)
            with pytest.raises(InvalidMessage, match="binary"):
                ws.receive_bytes()
            with pytest.raises(InvalidMessage) as caught:
                ws.receive_json(int)
            assert caught.value.code == 1007
            ws.send("text")
            ws.send(b"binary")
            ws.send_text("é")
            ws.send_bytes(memoryview(b"x"))
            ws.send_json({"a": None})
            ws.send_json([1], binary=True)
            with pytest.raises(TypeError):
                ws.send(5)  # type: ignore[arg-type]  # that is the test
            ws.close(4001, "bye")
            ws.close(4002)
            assert (ws.closed, ws.close_code, ws.close_reason) == (True, 4001, "bye")
            assert ws.wait_closed() == 4001

        incoming: list[str | bytes] = ["a", b"b", "c", b"d", '{"e":1}', b"[1]", "2"]
        incoming += [b"x", "x", '"x"']
        assert without_accept(serve(handler, *incoming)) == [
            ("send", "text"),
            ("send", b"binary"),
            ("send", "é"),
            ("send", b"x"),
            ("send", '{"a":null}'),
            ("send", b"[1]"),
            ("close", 4001, "bye"),
        ]

    def test_reject(self) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.reject(429, b"slow", {"Retry-After": "5", "Content-Type": "x/y"})
            for call in (ws.accept, ws.reject, ws.receive):
                with pytest.raises(InvalidState, match="rejected"):
                    call()

        headers = [("retry-after", "5"), ("content-type", "x/y"), ("content-length", "4")]
        assert serve(handler).sent == [("reject", 429, b"slow", headers)]

    def test_reject_is_sent_though_it_takes_long(self) -> None:
        """It ends the connection, which ends the calls; not this one."""

        async def main() -> None:
            order: list[str] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.reject(404)
                order.append("rejected")

            transport = MemoryTransport()
            transport.accepting.clear()
            running = Served(handler, transport)
            await transport.blocked.wait()
            await settle()
            assert running.ws.closed
            order.append("taken")
            transport.accepting.set()
            assert await running.end() == rejected(404)
            assert order == ["taken", "rejected"]

        asyncio.run(main())

    def test_close_returns_when_its_frame_is_sent(self) -> None:
        async def main() -> None:
            order: list[str] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.close(4000, "bye")
                order.append("closed")

            transport = MemoryTransport()
            transport.flowing.clear()
            running = Served(handler, transport)
            await transport.blocked.wait()
            await settle()
            assert running.ws.closed
            order.append("taken")
            transport.flowing.set()
            assert await running.end() == [("close", 4000, "bye")]
            assert order == ["taken", "closed"]

        asyncio.run(main())

    @pytest.mark.parametrize("name", [*RECEIVES, *SENDS])
    def test_before_accept(self, name: str) -> None:
        def handler(ws: SyncWebSocket) -> None:
            with pytest.raises(InvalidState, match=r"accept\(\) it first"):
                {**RECEIVES, **SENDS}[name](ws)
            ws.accept()

        assert without_accept(serve(handler)) == [("close", 1000, "")]

    def test_every_argument_goes_on(self) -> None:
        """Each method is that of `WebSocket`, with all that it was given, in its place."""
        called: list[tuple[str, tuple[Any, ...]]] = []

        class Recording(ThreadWorkers):
            def call(
                self,
                function: Callable[..., Coroutine[Any, Any, Any]],
                *args: Any,
                to_its_end: bool = False,
            ) -> Any:
                called.append((function.__name__, tuple(a for a in args if a is not RAISE)))

        async def main() -> None:
            session = Session("x", MemoryTransport(), Options())
            session.ws = WebSocket(session.transport, session.options)
            ws = SyncWebSocket(session, Recording(str))
            ws.accept("chat", {"a": "b"})
            ws.reject(401, b"body", {"a": "b"})
            ws.receive(1)
            ws.receive_text(2)
            ws.receive_bytes(timeout=3)
            ws.receive_json(int, 4)
            ws.receive_json(timeout=0)
            ws.receive_text(5, "late")
            ws.receive_json(int, 6, default=None)
            ws.receive()
            ws.receive_json()
            next(ws.iter_json(int))
            next(ws.iter_text())
            next(ws.iter_bytes())
            next(iter(ws))
            ws.send_json("x", True)
            ws.close(4000, "why")

        asyncio.run(main())
        assert called == [
            ("accept", ("chat", {"a": "b"})),
            ("reject", (401, b"body", {"a": "b"})),
            ("receive", (1,)),
            ("receive_text", (2,)),
            ("receive_bytes", (3,)),
            ("receive_json", (int, 4)),
            ("receive_json", (Any, 0)),
            ("receive_text", (5, "late")),
            ("receive_json", (int, 6, None)),
            ("receive", (None,)),
            ("receive_json", (Any, None)),
            ("receive_json", (int, None)),
            ("receive_text", (None,)),
            ("receive_bytes", (None,)),
            ("receive", (None,)),
            ("send_json", ("x", True)),
            ("close", (4000, "why")),
        ]

    @pytest.mark.parametrize("name", [*RECEIVES, *SENDS])
    def test_after_the_end(self, name: str) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            assert ws.wait_closed() == 4001
            assert disconnect_of({**RECEIVES, **SENDS}[name], ws) == (4001, "bye")

        async def main() -> None:
            running = Served(handler)
            await running.accepted(Disconnect(4001, "bye"))
            assert await running.end() == []

        asyncio.run(main())

    def test_iterations_end_with_the_connection(self) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            messages = iter(ws)
            assert iter(messages) is messages
            assert next(messages) == "a"
            assert next(ws.iter_bytes()) == b"b"
            assert next(ws.iter_json()) == [1]
            numbers = ws.iter_json(int)
            with pytest.raises(InvalidMessage):
                next(numbers)
            assert next(numbers) == 2  # it goes on after what does not fit
            assert list(ws.iter_text()) == ["c", "d"]
            assert list(messages) == []
            assert (ws.close_code, ws.close_reason) == (4001, "bye")

        async def main() -> None:
            running = Served(handler)
            end = Disconnect(4001, "bye")
            await running.accepted("a", b"b", "[1]", '"x"', "2", "c", "d", end)
            assert await running.end() == []

        asyncio.run(main())

    def test_a_thread_of_the_handlers_own(self) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            thread = threading.Thread(target=ws.send, args=("from a thread",))
            thread.start()
            thread.join()

            async def blocks_a_loop_of_its_own() -> None:
                ws.send("from a loop")

            asyncio.run(blocks_a_loop_of_its_own())

        sent = without_accept(serve(handler))
        assert sent == [("send", "from a thread"), ("send", "from a loop"), ("close", 1000, "")]

    @pytest.mark.parametrize("first", ["receive", "with a timeout"])
    def test_two_threads_receive(self, first: str) -> None:
        async def main() -> None:
            got: list[object] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                got.append(RECEIVES[first](ws))

            running = Served(handler)
            await running.in_receive()

            def second() -> None:
                for call in RECEIVES.values():
                    with pytest.raises(InvalidState, match="another receive"):
                        call(running.ws)

            await asyncio.to_thread(second)
            running.transport.peer_sends("a")
            assert await running.end() == [("close", 1000, "")]
            assert got == ["a"]

        asyncio.run(main())

    def test_many_threads_send(self) -> None:
        """No message is lost, and those of a thread stay in order."""

        def send(ws: SyncWebSocket, name: int) -> None:
            for i in range(40):
                ws.send_json([name, i])

        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            senders = [threading.Thread(target=send, args=(ws, name)) for name in range(10)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()

        *sent, last = without_accept(serve(handler))
        assert last == ("close", 1000, "")
        messages = [json.loads(str(message[1])) for message in sent]
        assert len(messages) == 400
        for name in range(10):
            assert [i for n, i in messages if n == name] == list(range(40))

    def test_a_send_waits_for_a_peer_that_does_not_read(self) -> None:
        async def main() -> None:
            order: list[str] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                order.append("send")
                ws.send("x")
                order.append("sent")

            transport = MemoryTransport()
            transport.flowing.clear()
            running = Served(handler, transport)
            await transport.blocked.wait()
            order.append("read")
            transport.flowing.set()
            assert await running.end() == [("send", "x"), ("close", 1000, "")]
            assert order == ["send", "read", "sent"]

        asyncio.run(main())


class TestTimeout:
    @pytest.mark.parametrize("seconds", [0, -1, 0.001])
    def test_nothing_comes(self, seconds: float) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            calls: list[Callable[[], object]] = [
                lambda: ws.receive(timeout=seconds),
                lambda: ws.receive(seconds),
                lambda: ws.receive_text(timeout=seconds),
                lambda: ws.receive_bytes(timeout=seconds),
                lambda: ws.receive_json(timeout=seconds),
                lambda: ws.receive_json(int, timeout=seconds),
            ]
            for call in calls:
                with pytest.raises(TimeoutError):
                    call()
            ws.send("unharmed")

        assert without_accept(serve(handler)) == [("send", "unharmed"), ("close", 1000, "")]

    @pytest.mark.parametrize("seconds", [0, -1, 0.0, -0.001])
    def test_what_is_there_is_given_however_short(self, seconds: float) -> None:
        async def main() -> None:
            go_on = threading.Event()

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                wait(go_on)
                assert ws.receive(timeout=seconds) == "a"
                assert ws.receive_text(timeout=seconds) == "b"
                assert ws.receive_bytes(timeout=seconds) == b"c"
                assert ws.receive_json(int, timeout=seconds) == 4
                with pytest.raises(TimeoutError):
                    ws.receive(timeout=seconds)

            running = Served(handler)
            running.transport.peer_sends("a", "b", b"c", "4")
            await running.transport.until(lambda: running.transport.received == 4)
            go_on.set()
            assert await running.end() == [("close", 1000, "")]

        asyncio.run(main())

    @pytest.mark.parametrize("seconds", [0, -1, 0.001])
    def test_the_end_is_no_timeout(self, seconds: float) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            ws.wait_closed()
            assert disconnect_of(lambda ws: ws.receive(timeout=seconds), ws) == (4001, "")

        async def main() -> None:
            running = Served(handler)
            await running.accepted(Disconnect(4001))
            assert await running.end() == []

        asyncio.run(main())

    def test_many_lose_nothing(self) -> None:
        async def main() -> None:
            got: list[object] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                while len(got) < 100:
                    try:
                        got.append(ws.receive(timeout=0.0001))
                    except TimeoutError:
                        continue

            running = Served(handler)
            for i in range(100):
                running.transport.peer_sends(str(i))
                for _ in range(i % 7):
                    await turn()
            assert await running.end() == [("close", 1000, "")]
            assert got == [str(i) for i in range(100)]

        asyncio.run(main())

    @pytest.mark.parametrize("turns", range(6))
    @pytest.mark.parametrize("seconds", [0, -1])
    def test_a_message_in_the_moment_of_the_timeout_is_not_lost(
        self, turns: int, seconds: int
    ) -> None:
        async def body(ws: WebSocket, transport: MemoryTransport) -> None:
            receiving = asyncio.create_task(ws.receive(seconds))
            for _ in range(turns):
                await turn()
            ws._inbox.put("a")
            try:
                assert await receiving == "a"
            except TimeoutError:
                assert await ws.receive() == "a"
            assert not ws._inbox._messages

        with_websocket(body)

    def test_one_that_escapes_is_an_error_like_any(self) -> None:
        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.receive(timeout=0)

            running = Served(handler)
            assert isinstance(await running.failure(), TimeoutError)
            assert without_accept(running.transport) == CLOSED_1011

        asyncio.run(main())

    @pytest.mark.parametrize("seconds", ["1", b"", [1]])
    def test_what_is_no_number(self, seconds: Any) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            with pytest.raises(TypeError):
                ws.receive(timeout=seconds)
            assert ws.receive() == "a"

        serve(handler, "a")


class TestLoopThread:
    @pytest.mark.parametrize("name", [*RECEIVES, *SENDS, *OTHERS, *ITERATIONS])
    def test_a_call_would_wait_for_itself(self, name: str) -> None:
        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.receive()

            running = Served(handler)
            await running.in_receive()
            iterations: dict[str, Call] = {
                key: lambda ws, iterate=iterate: next(iterate(ws))  # type: ignore[misc]  # bound
                for key, iterate in ITERATIONS.items()
            }
            call = {**RECEIVES, **SENDS, **OTHERS, **iterations}[name]
            with pytest.raises(RuntimeError, match="on the loop itself it would wait for ever"):
                call(running.ws)
            assert not running.ws.closed
            running.transport.peer_sends("unharmed")
            assert await running.end() == [("close", 1000, "")]

        asyncio.run(main())


GONE_ON = (LookupError, TimeoutError, StopAsyncIteration, ExceptionGroup, futures.CancelledError)


class TestEnd:
    """How a plain function ends, and how its connection does."""

    def test_it_returns(self, caplog: pytest.LogCaptureFixture) -> None:
        assert serve(lambda ws: ws.accept()).sent[1:] == [("close", 1000, "")]
        assert not caplog.records
        assert serve(lambda ws: None).sent == rejected(403)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "returned without accept()" in record.getMessage()

    @pytest.mark.parametrize(
        ("exc", "before", "after"),
        [
            (WebSocketException(4001, "why"), rejected(403), [("close", 4001, "why")]),
            (InvalidMessage(1003, "text", "x"), rejected(403), [("close", 1003, "text")]),
            (HandshakeRejected(401), rejected(401), [("close", 4401, "")]),
            (FrameworkError(), rejected(418), [("close", 4418, "Teapot")]),
            (WebSocketDisconnect(), rejected(403), [("close", 1000, "")]),
            (
                ExceptionGroup("g", [WebSocketException(4001), WebSocketDisconnect()]),
                rejected(403),
                [("close", 4001, "")],
            ),
            (LookupError("secret"), rejected(500), CLOSED_1011),
            (TimeoutError(), rejected(500), CLOSED_1011),
            (StopAsyncIteration(), rejected(500), CLOSED_1011),
            (futures.CancelledError(), rejected(500), CLOSED_1011),
            (ExceptionGroup("g", [LookupError()]), rejected(500), CLOSED_1011),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("accept", [False, True])
    def test_it_raises(
        self,
        exc: Exception,
        before: Sent,
        after: Sent,
        accept: bool,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        transports: list[MemoryTransport] = []

        def prepare(transport: MemoryTransport) -> None:
            transports.append(transport)
            transport.translations[FrameworkError] = HTTPError(418, "Teapot", HTTPResponse())

        def handler(ws: SyncWebSocket) -> None:
            if accept:
                ws.accept()
            raise exc

        raised: BaseException | None = None
        try:
            serve(handler, prepare=prepare)
        except Exception as error:  # noqa: BLE001  # compared below
            raised = error
        goes_on = isinstance(exc, GONE_ON) and "4001" not in repr(exc)
        assert raised is (exc if goes_on else None)
        assert without_accept(transports[0]) == (after if accept else before)
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    def test_the_framework_answers_its_own_error(self) -> None:
        async def main() -> None:
            exc = FrameworkError()

            def handler(ws: SyncWebSocket) -> None:
                raise exc

            transport = MemoryTransport()
            transport.translations[FrameworkError] = HTTPError(418, "Teapot")
            running = Served(handler, transport)
            assert await running.failure() is exc
            assert transport.sent == []

        asyncio.run(main())

    def test_a_stop_iteration(self) -> None:
        """As in an async function: a coroutine cannot raise one (PEP 479)."""

        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            next(iter([]))

        transports: list[MemoryTransport] = []
        with pytest.raises(RuntimeError) as caught:
            serve(handler, prepare=transports.append)
        assert isinstance(caught.value.__cause__, StopIteration)
        assert without_accept(transports[0]) == CLOSED_1011

    @pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt()], ids=repr)
    def test_it_ends_the_process(self, exc: BaseException) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            raise exc

        transports: list[MemoryTransport] = []
        with pytest.raises(type(exc)) as caught:
            serve(handler, prepare=transports.append)
        assert caught.value is exc
        assert without_accept(transports[0]) == CLOSED_1011

    def test_a_cancellation_that_is_none_of_the_servers(self) -> None:
        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                raise asyncio.CancelledError

            running = Served(handler)
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert without_accept(running.transport) == CLOSED_1011

        asyncio.run(main())

    def test_the_error_has_the_traceback_of_the_thread(self) -> None:
        def handler(ws: SyncWebSocket) -> None:
            raise LookupError("of the handler")

        with pytest.raises(LookupError, match="of the handler") as caught:
            serve(handler)
        assert "handler" in [entry.name for entry in caught.traceback]

    @pytest.mark.parametrize("accept", [False, True])
    @pytest.mark.parametrize("kind", ["coroutine", "future", "object"])
    def test_it_returns_an_awaitable(
        self, accept: bool, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def coroutine() -> None:
            raise AssertionError

        class Object:
            def __await__(self) -> Any:
                raise AssertionError

        async def main() -> Sent:
            future = asyncio.get_running_loop().create_future()

            def handler(ws: SyncWebSocket) -> Any:
                if accept:
                    ws.accept()
                return {"coroutine": coroutine, "future": lambda: future, "object": Object}[kind]()

            running = Served(handler)
            error = await running.failure()
            assert isinstance(error, TypeError)
            assert "handler is no async function, but returns an awaitable" in str(error)
            return without_accept(running.transport)

        assert asyncio.run(main()) == (CLOSED_1011 if accept else rejected(500))
        gc.collect()  # a coroutine that was never awaited would say so, which is an error here

    def test_other_values_are_ignored(self) -> None:
        def handler(ws: SyncWebSocket) -> Any:
            ws.accept()
            return 5

        assert without_accept(serve(handler)) == [("close", 1000, "")]

    @pytest.mark.parametrize("first", ["receive", "with a timeout", "iter"])
    def test_what_came_before_the_peer_left_is_received_first(self, first: str) -> None:
        async def main() -> None:
            got: list[object] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                got.append(next(ITERATIONS[first](ws)) if first == "iter" else RECEIVES[first](ws))
                ws.wait_closed()
                got.extend(ws)
                got.append(ws.close_code)

            running = Served(handler)
            await running.in_receive()
            for i in range(20):
                running.transport.peer_sends(str(i))
            running.transport.peer_leaves(4001)
            assert await running.end() == []
            assert got == [*(str(i) for i in range(20)), 4001]

        asyncio.run(main())

    @pytest.mark.parametrize("name", [*SENDS, "accept"])
    def test_the_peer_leaves_while_a_call_waits(self, name: str) -> None:
        """The transport may not know yet; the call ends all the same."""

        async def main() -> None:
            seen: list[object] = []

            def handler(ws: SyncWebSocket) -> None:
                if name != "accept":
                    ws.accept()
                seen.append(disconnect_of({**SENDS, **OTHERS}[name], ws))

            transport = MemoryTransport()
            (transport.accepting if name == "accept" else transport.flowing).clear()
            running = Served(handler, transport)
            await transport.blocked.wait()
            transport.peer_leaves(4001, "bye")
            assert await running.end() == []
            assert seen == [(4001, "bye")]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    def test_the_peer_vanishes_while_it_sends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("unisock.websocket._REASON_TIMEOUT", 0.001)

        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                assert disconnect_of(SENDS["send"], ws) == (1006, "")
                assert ws.wait_closed() == 1006

            transport = MemoryTransport()
            transport.flowing.clear()
            running = Served(handler, transport)
            await transport.blocked.wait()
            transport.lose()
            assert await running.end() == []

        asyncio.run(main())


class TestServerStops:
    @pytest.mark.parametrize("name", [*RECEIVES, *ITERATIONS])
    def test_in_a_receive(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            seen: list[object] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                if name in ITERATIONS:
                    seen.extend([*ITERATIONS[name](ws), ws.close_code])
                else:
                    try:
                        RECEIVES[name](ws)
                    except WebSocketDisconnect as exc:
                        seen.append(exc.code)
                        raise

            running = Served(handler)
            await running.in_receive()
            assert await running.stop() == [("close", 1012, "")]
            assert seen == [1012]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        assert not caplog.records

    def test_in_wait_closed(self) -> None:
        """It returns, as ever: that the end has come is what it waits for."""

        async def main() -> None:
            seen: list[int] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                seen.append(ws.wait_closed())

            running = Served(handler)
            await running.in_wait_closed()
            assert await running.stop() == [("close", 1012, "")]
            assert seen == [1012]

        asyncio.run(main())

    @pytest.mark.parametrize("name", SENDS)
    def test_in_a_send_to_a_peer_that_does_not_read(self, name: str) -> None:
        async def main() -> None:
            seen: list[object] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                seen.append(disconnect_of(SENDS[name], ws))

            transport = MemoryTransport()
            transport.flowing.clear()
            running = Served(handler, transport)
            await transport.blocked.wait()
            running.task.cancel()
            await threads_end()  # though the last frame waits as well
            transport.flowing.set()
            assert await running.stopped() == [("close", 1012, "")]
            assert seen == [(1012, "")]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    def test_in_a_close_that_waits(self) -> None:
        """That is how the connection ends then; nothing is added to it."""

        async def main() -> None:
            seen: list[object] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.close(4000)
                seen.append(ws.close_code)

            transport = MemoryTransport()
            transport.flowing.clear()
            running = Served(handler, transport)
            await transport.blocked.wait()
            running.task.cancel()
            await settle()
            transport.flowing.set()
            assert await running.stopped() == [("close", 4000, "")]
            assert seen == [4000]

        asyncio.run(main())

    @pytest.mark.parametrize("where", ["wait_closed", "elsewhere"])
    def test_before_accept(self, where: str) -> None:
        async def main() -> None:
            seen: list[object] = []
            go_on = threading.Event()

            def handler(ws: SyncWebSocket) -> None:
                if where == "wait_closed":
                    seen.append(end_of(ws))
                else:
                    wait(go_on)
                seen.append(disconnect_of(OTHERS["accept"], ws)[0])

            running = Served(handler)
            if where == "wait_closed":
                await running.in_wait_closed()
            else:
                await happened(running.called)
            running.task.cancel()
            await running.transport.has_sent()
            go_on.set()
            assert await running.stopped() == rejected(503)
            assert seen == ([1012, 1012] if where == "wait_closed" else [1012])

        asyncio.run(main())

    def test_in_accept(self) -> None:
        async def main() -> None:
            seen: list[object] = []

            def handler(ws: SyncWebSocket) -> None:
                seen.append(disconnect_of(OTHERS["accept"], ws)[0])
                seen.append(disconnect_of(RECEIVES["receive"], ws)[0])

            transport = MemoryTransport()
            transport.accepting.clear()
            running = Served(handler, transport)
            await transport.blocked.wait()
            await running.stop()
            assert seen == [1012, 1012]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    @pytest.mark.parametrize("accept", [False, True])
    def test_a_handler_that_goes_on_sees_it_everywhere(self, accept: bool) -> None:
        async def main() -> None:
            seen: dict[str, object] = {}

            def handler(ws: SyncWebSocket) -> None:
                if accept:
                    ws.accept()
                end_of(ws)
                for _ in range(2):
                    calls = {**RECEIVES, **SENDS}
                    if not accept:
                        calls["accept"] = OTHERS["accept"]
                        calls["reject"] = OTHERS["reject"]
                    seen.update({name: disconnect_of(call, ws) for name, call in calls.items()})
                    seen["iterations"] = [list(i(ws)) for i in ITERATIONS.values()]
                    seen["close"] = ws.close(4000)  # type: ignore[func-returns-value]  # None
                    seen["wait_closed"] = ws.wait_closed()
                    seen["state"] = (ws.closed, ws.close_code, ws.close_reason)

            running = Served(handler)
            await running.in_wait_closed()
            last = [("close", 1012, "")] if accept else rejected(503)
            assert await running.stop() == last
            seen_otherwise: dict[str, object] = {
                "iterations": [[], [], [], []],
                "close": None,
                "wait_closed": 1012,
                "state": (True, 1012, ""),
            }
            assert len(seen) == len(RECEIVES) + len(SENDS) + 4 + 2 * (not accept)
            for name, value in seen.items():
                assert value == seen_otherwise.get(name, (1012, "")), name

        asyncio.run(main())

    def test_a_handler_that_comes_while_the_rejection_waits(self) -> None:
        """The same when the answer is still under way."""

        async def main() -> None:
            seen: list[object] = []
            go_on = threading.Event()

            def handler(ws: SyncWebSocket) -> None:
                wait(go_on)
                calls = [OTHERS["accept"], OTHERS["reject"], *RECEIVES.values()]
                seen.extend(disconnect_of(call, ws)[0] for call in calls)
                transport.accepting.set()

            transport = MemoryTransport()
            running = Served(handler, transport)
            await happened(running.called)
            transport.accepting.clear()
            running.task.cancel()
            await transport.blocked.wait()
            go_on.set()
            await threads_end()
            transport.accepting.set()
            assert await running.stopped() == rejected(503)
            assert seen == [1012] * (2 + len(RECEIVES))

        asyncio.run(main())

    @pytest.mark.parametrize("accept", [False, True])
    def test_elsewhere_it_is_waited_for_but_not_for_ever(
        self, accept: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            go_on, reached = threading.Event(), threading.Event()

            def elsewhere(ws: SyncWebSocket) -> None:
                if accept:
                    ws.accept()
                reached.set()
                wait(go_on)

            running = Served(elsewhere, close_timeout=0.01)
            await happened(reached)
            last = [("close", 1012, "")] if accept else rejected(503)
            assert await running.stop() == last
            assert len(threads()) == 1
            assert asyncio.all_tasks() == {asyncio.current_task()}
            (record,) = caplog.records
            assert record.levelname == "WARNING"
            assert "elsewhere is still running 0.01 s after" in record.getMessage()
            go_on.set()
            await threads_end()
            assert len(caplog.records) == 1

        asyncio.run(main())

    def test_elsewhere_it_is_waited_for(self) -> None:
        async def main() -> None:
            go_on, reached = threading.Event(), threading.Event()
            order: list[str] = []

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                try:
                    reached.set()
                    wait(go_on)
                finally:
                    order.append("finally")

            running = Served(handler)
            await happened(reached)
            running.task.cancel()
            await running.transport.has_sent(2)
            order.append("closed")
            assert not running.task.done()
            go_on.set()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert order == ["closed", "finally"]

        asyncio.run(main())

    @pytest.mark.parametrize("quiet", [False, True])
    def test_an_error_of_the_handler_then_is_told(
        self, quiet: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            error = LookupError("in finally")

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                try:
                    ws.receive()
                finally:
                    if not quiet:
                        raise error

            running = Served(handler)
            await running.in_receive()
            assert await running.stop() == [("close", 1012, "")]
            await settle()
            logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
            assert logged == ([] if quiet else [error])

        asyncio.run(main())

    @pytest.mark.parametrize("when", ["after the grace", "after a second stop", "loop is closed"])
    def test_an_error_that_comes_late_is_told(
        self, when: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = LookupError("late")
        go_on, reached = threading.Event(), threading.Event()

        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            reached.set()
            wait(go_on)
            assert disconnect_of(SENDS["send"], ws)[0] in (1012, 1006)
            raise error

        async def main() -> None:
            grace = 10.0 if when == "after a second stop" else 0.001
            running = Served(handler, close_timeout=grace)
            await happened(reached)
            running.task.cancel()
            if when == "after a second stop":
                await running.transport.has_sent(2)
                await settle()
            await running.stop()
            if when != "loop is closed":
                go_on.set()
                await threads_end()

        asyncio.run(main())
        go_on.set()
        for thread in threads():
            thread.join(10)
        logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
        assert logged == [error]

    def test_in_the_turn_in_which_it_ends(self) -> None:
        """Whichever is first, nothing is lost, and nothing is left."""

        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.receive()

            for turns in range(10):
                running = Served(handler)
                await running.in_receive()
                running.transport.peer_sends("a")
                for _ in range(turns):
                    await turn()
                cancelled = running.task.cancel()
                await asyncio.wait([running.task])
                assert running.task.cancelled() == cancelled
                sent = without_accept(running.transport)
                assert sent in ([("close", 1012, "")], [("close", 1000, "")])
                await threads_end()
                assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())


class TestMaxThreads:
    def test_beyond_it_is_a_503(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            started: list[SyncWebSocket] = []

            def handler(ws: SyncWebSocket) -> None:
                started.append(ws)
                ws.accept()
                ws.receive()

            mounted = prepare(handler, {"max_threads": 2})
            transports = [MemoryTransport() for _ in range(4)]
            first, second = (asyncio.create_task(mounted.serve(t)) for t in transports[:2])
            for transport in transports[:2]:
                await transport.has_sent()
            await mounted.serve(transports[2])
            ((verb, status, _, headers),) = transports[2].sent
            assert (verb, status) == ("reject", 503)
            assert ("retry-after", "1") in headers  # type: ignore[operator]  # pairs
            (record,) = caplog.records
            assert record.levelname == "WARNING"
            assert "max_threads=" in record.getMessage()
            assert ".handler, path '/', client " in record.getMessage()
            assert "it runs in 2 threads" in record.getMessage()
            assert len(started) == 2

            transports[0].peer_sends("end")
            await first
            third = asyncio.create_task(mounted.serve(transports[3]))
            await transports[3].has_sent()
            for transport in (transports[1], transports[3]):
                transport.peer_leaves()
            await second
            await third
            assert len(caplog.records) == 1

        asyncio.run(main())

    @pytest.mark.parametrize(
        "ending",
        [
            "returns",
            "raises",
            "raises CancelledError",
            "rejects",
            "disconnect",
            "no accept",
            "awaitable",
            "stopped",
            "stopped before it began",
            "another origin",
            "no more threads",
        ],
    )
    def test_each_ending_gives_its_place_back(
        self, ending: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            def handler(ws: SyncWebSocket) -> Any:
                if hasattr(ws.state, "last"):
                    ws.accept()
                    return None
                if ending == "rejects":
                    raise HandshakeRejected(401)
                if ending == "no accept":
                    return None
                ws.accept()
                if ending == "raises":
                    raise LookupError
                if ending == "raises CancelledError":
                    raise asyncio.CancelledError
                if ending in ("disconnect", "stopped"):
                    ws.receive()
                if ending == "awaitable":
                    return settle()
                return None

            mounted = prepare(handler, {"max_threads": 1})
            for _ in range(3):
                handshake = MemoryHandshake()
                if ending == "another origin":
                    headers = [("Host", "app.example"), ("Origin", "http://evil.example")]
                    handshake = MemoryHandshake(raw_headers=headers)
                transport = MemoryTransport(handshake)
                with monkeypatch.context() as patch:
                    if ending == "no more threads":
                        patch.setattr(threading.Thread, "start", no_more_threads)
                    task = asyncio.create_task(mounted.serve(transport))
                    if ending in ("disconnect", "stopped"):
                        await transport.has_sent()
                    if ending == "disconnect":
                        transport.peer_leaves()
                    if ending.startswith("stopped"):
                        task.cancel()
                    await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()
            transport = MemoryTransport()
            transport.handshake.state.last = True
            await mounted.serve(transport)
            assert transport.sent == [("accept", None, []), ("close", 1000, "")]

        asyncio.run(main())

    def test_a_thread_that_is_left_alone_keeps_its_place(self) -> None:
        """It is a thread as before; what it takes it gives back at its own end."""

        async def main() -> None:
            go_on, reached = threading.Event(), threading.Event()

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                reached.set()
                wait(go_on)

            mounted = prepare(handler, {"max_threads": 1, "close_timeout": 0.001})
            task = asyncio.create_task(mounted.serve(MemoryTransport()))
            await happened(reached)
            task.cancel()
            await asyncio.wait([task])
            transport = MemoryTransport()
            await mounted.serve(transport)
            assert transport.sent[0][:2] == ("reject", 503)
            go_on.set()
            await threads_end()
            transport = MemoryTransport()
            await mounted.serve(transport)
            assert transport.sent[0][0] == "accept"

        asyncio.run(main())

    def test_it_does_so_though_its_loop_is_closed(self) -> None:
        """An application outlives loops: each client of a test has one of its own."""
        go_on, reached = threading.Event(), threading.Event()

        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            reached.set()
            wait(go_on)

        mounted = prepare(handler, {"max_threads": 1, "close_timeout": 0.001})

        async def first() -> None:
            task = asyncio.create_task(mounted.serve(MemoryTransport()))
            await happened(reached)
            task.cancel()
            await asyncio.wait([task])

        async def second() -> object:
            transport = MemoryTransport()
            await mounted.serve(transport)
            return transport.sent[0][0]

        asyncio.run(first())
        go_on.set()
        for thread in threads():
            thread.join(10)
        assert asyncio.run(second()) == "accept"

    def test_no_more_threads_is_503_and_one_warning(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                raise AssertionError

            monkeypatch.setattr(threading.Thread, "start", no_more_threads)
            running = Served(handler)
            await running.task
            (answer,) = running.transport.sent
            assert answer[:2] == ("reject", 503)

        asyncio.run(main())
        (record,) = caplog.records
        assert "needs a thread, and the system has no more: lower max_threads=" in record.message
        assert record.exc_info is None

    def test_each_mount_has_its_own(self) -> None:
        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.receive()

            mounts = [prepare(handler, {"max_threads": 1}) for _ in range(3)]
            transports = [MemoryTransport() for _ in mounts]
            tasks = [
                asyncio.create_task(mounted.serve(transport))
                for mounted, transport in zip(mounts, transports, strict=True)
            ]
            for transport in transports:
                await transport.has_sent()
                transport.peer_leaves()
            await asyncio.gather(*tasks)
            assert [transport.sent[0][0] for transport in transports] == ["accept"] * 3

        asyncio.run(main())

    def test_it_is_none_of_other_forms_and_of_functions_beside(self) -> None:
        async def main() -> None:
            async def handler(ws: WebSocket) -> None:
                await ws.accept()
                await ws.receive()

            mounted = prepare(handler, {"max_threads": 1})
            transports = [MemoryTransport() for _ in range(3)]
            tasks = [asyncio.create_task(mounted.serve(transport)) for transport in transports]
            await settle()
            assert [transport.sent[0][0] for transport in transports] == ["accept"] * 3
            for transport in transports:
                transport.peer_leaves()
            await asyncio.gather(*tasks)

            def starts(ws: SyncWebSocket) -> None:
                ws.accept()
                for _ in range(3):
                    ws.start_soon(ws.send, "beside")
                assert ws.wait_closed() == 1001

            running = Served(starts, max_threads=1)
            await running.transport.has_sent(4)
            running.transport.peer_leaves()
            assert await running.end() == [("send", "beside")] * 3

        asyncio.run(main())


def no_more_threads(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class TestStartSoon:
    def test_it_runs_beside_the_handler_with_its_arguments(self) -> None:
        async def main() -> None:
            names: list[str] = []

            class Object:
                def __call__(self, ws: SyncWebSocket) -> None:
                    names.append(threading.current_thread().name)
                    ws.send("object")

            def beside(ws: SyncWebSocket, text: str, *, times: int = 1) -> str:
                names.append(threading.current_thread().name)
                for _ in range(times):
                    ws.send_text(text)
                return "not seen by anybody"

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside, ws, "a")
                ws.start_soon(functools.partial(beside, ws, times=2), "b")
                ws.start_soon(Object(), ws)
                ws.start_soon(lambda: ws.send("lambda"))
                assert ws.receive() == "go on"

            running = Served(handler)
            await running.transport.has_sent(6)
            running.transport.peer_sends("go on")
            *sent, last = await running.end()
            assert last == ("close", 1000, "")
            assert sorted(str(text) for _, text in sent) == ["a", "b", "b", "lambda", "object"]
            assert all(name.startswith("unisock ") for name in names)
            assert "Object" in " ".join(names)

        asyncio.run(main())

    def test_before_accept_and_by_another_function(self) -> None:
        async def main() -> None:
            def accepts(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(ws.send, "from a function of a function")

            def handler(ws: SyncWebSocket) -> None:
                ws.start_soon(accepts, ws)
                assert ws.wait_closed() == 1001

            running = Served(handler)
            await running.transport.has_sent(2)
            running.transport.peer_leaves()
            assert await running.end() == [("send", "from a function of a function")]

        asyncio.run(main())

    @pytest.mark.parametrize("function", [None, "print", 5, []])
    def test_what_is_no_function(self, function: Any) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            with pytest.raises(TypeError, match=r"start_soon\(\) takes a function, not"):
                ws.start_soon(function)

        assert without_accept(serve(handler)) == [("close", 1000, "")]

    def test_a_coroutine_function_is_none(self) -> None:
        async def coroutine_function() -> None:
            raise AssertionError

        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            for function in (coroutine_function, functools.partial(coroutine_function)):
                with pytest.raises(TypeError, match=r"takes a plain function.* is async"):
                    ws.start_soon(function)

        assert without_accept(serve(handler)) == [("close", 1000, "")]

    def test_one_that_returns_an_awaitable_fails(self) -> None:
        """As a handler that does."""

        async def coroutine_function() -> None:
            raise AssertionError

        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(lambda value: value(), coroutine_function)
                ws.wait_closed()

            running = Served(handler)
            error = await running.failure()
            assert isinstance(error, TypeError)
            assert "returns an awaitable" in str(error)
            assert without_accept(running.transport) == CLOSED_1011

        asyncio.run(main())
        gc.collect()  # one that was never awaited would say so, which is an error here

    def test_wrong_arguments_are_its_error(self) -> None:
        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(ws.send)  # type: ignore[arg-type]  # that is the test
                ws.wait_closed()

            running = Served(handler)
            assert isinstance(await running.failure(), TypeError)
            assert without_accept(running.transport) == CLOSED_1011

        asyncio.run(main())

    def test_after_the_handler_has_ended(self) -> None:
        async def main() -> None:
            seen: list[object] = []

            def beside(ws: SyncWebSocket) -> None:
                wait(ended)
                with pytest.raises(InvalidState, match="the handler has ended"):
                    ws.start_soon(print)
                seen.append("told")

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside, ws)

            ended = threading.Event()
            running = Served(handler)
            await running.handler_ended()
            ended.set()
            assert await running.end() == [("close", 1000, "")]
            assert seen == ["told"]
            with pytest.raises(InvalidState, match="the handler has ended"):
                running.ws.start_soon(print)

        asyncio.run(main())

    def test_no_more_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", no_more_threads)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    ws.start_soon(print)
            ws.send("unharmed")

        assert without_accept(serve(handler)) == [("send", "unharmed"), ("close", 1000, "")]

    def test_many_come_and_go_and_nothing_is_kept(self) -> None:
        async def main() -> None:
            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                for _ in range(20):
                    ws.start_soon(ws.send, "x")
                ws.wait_closed()

            running = Served(handler)
            await running.in_wait_closed()
            await running.transport.has_sent(21)
            await threads_end(".send")
            assert len(threads()) == 1
            workers: Any = running.ws._workers
            # The handler's own, and its call.
            assert [len(kept) for kept in (workers._running, workers._tasks)] == [1, 1]
            assert len(workers._calls) == 1
            running.transport.peer_leaves()
            await running.end()

        asyncio.run(main())

    # The handler ends first

    @pytest.mark.parametrize("how", ["returns", "raises", "disconnect", "rejects", "stopped"])
    def test_it_is_closed_first_then_waited_for(self, how: str) -> None:
        async def main() -> None:
            order: list[object] = []
            beside_ended, told, gate = threading.Event(), threading.Event(), threading.Event()

            def beside(ws: SyncWebSocket) -> None:
                order.append(end_of(ws))
                told.set()
                wait(gate)
                order.append("ended")
                beside_ended.set()

            def handler(ws: SyncWebSocket) -> None:
                if how != "rejects":
                    ws.accept()
                ws.start_soon(beside, ws)
                wait(go_on)
                if how == "raises":
                    raise WebSocketException(4000)
                if how == "rejects":
                    raise HandshakeRejected(401)
                if how in ("disconnect", "stopped"):
                    ws.receive()

            go_on = threading.Event()
            running = Served(handler)
            await running.in_wait_closed()
            go_on.set()
            if how == "disconnect":
                running.transport.peer_leaves(1001)
            if how == "stopped":
                await running.in_receive()
                running.task.cancel()
            await happened(told)
            await running.handler_ended()
            assert not running.task.done()
            assert not beside_ended.is_set()
            gate.set()
            await asyncio.wait([running.task])
            assert beside_ended.is_set()
            expected: dict[str, tuple[int, Sent]] = {
                "returns": (1000, [("close", 1000, "")]),
                "raises": (4000, [("close", 4000, "")]),
                "disconnect": (1001, []),
                "rejects": (1006, rejected(401)),
                "stopped": (1012, [("close", 1012, "")]),
            }
            code, sent = expected[how]
            assert without_accept(running.transport) == sent
            assert order == [code, "ended"]

        asyncio.run(main())

    @pytest.mark.parametrize("name", [*RECEIVES, *SENDS])
    def test_its_calls_end_with_the_connection(
        self, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            seen: list[object] = []

            def beside(ws: SyncWebSocket) -> None:
                try:
                    while True:
                        {**RECEIVES, **SENDS}[name](ws)
                except WebSocketDisconnect as exc:
                    seen.append(exc.code)
                    raise  # as most functions do: it is a normal end

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside, ws)
                wait(go_on)

            go_on = threading.Event()
            transport = MemoryTransport()
            transport.flowing.clear()
            running = Served(handler, transport)
            await (running.in_receive() if name in RECEIVES else transport.blocked.wait())
            go_on.set()
            await threads_end()  # though the last frame waits
            transport.flowing.set()
            assert await running.end() == [("close", 1000, "")]
            assert seen == [1000]
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        assert not caplog.records

    def test_one_that_does_not_end_is_left_alone_with_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            go_on, reached = threading.Event(), threading.Event()

            def stubborn() -> None:
                reached.set()
                wait(go_on)

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(stubborn)
                wait(reached)

            running = Served(handler, close_timeout=0.01)
            assert await running.end() == [("close", 1000, "")]
            (record,) = caplog.records
            assert record.levelname == "WARNING"
            assert "stubborn is still running 0.01 s after" in record.getMessage()
            assert len(threads()) == 1
            go_on.set()
            await threads_end()
            assert len(caplog.records) == 1

        asyncio.run(main())

    # It fails first

    @pytest.mark.parametrize(
        ("exc", "before", "after"),
        [
            (WebSocketException(4001, "why"), rejected(403), [("close", 4001, "why")]),
            (InvalidMessage(1003, "text", "x"), rejected(403), [("close", 1003, "text")]),
            (HandshakeRejected(401), rejected(401), [("close", 4401, "")]),
            (FrameworkError(), rejected(418), [("close", 4418, "Teapot")]),
            (LookupError("secret"), rejected(500), CLOSED_1011),
            (TimeoutError(), rejected(500), CLOSED_1011),
            (InvalidState("misused"), rejected(500), CLOSED_1011),
            (ExceptionGroup("g", [LookupError()]), rejected(500), CLOSED_1011),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("accept", [False, True])
    def test_its_error_ends_the_connection_as_the_handlers_own(
        self,
        exc: Exception,
        before: Sent,
        after: Sent,
        accept: bool,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def main() -> None:
            codes: list[int] = []

            def beside() -> None:
                raise exc

            def handler(ws: SyncWebSocket) -> None:
                if accept:
                    ws.accept()
                ws.start_soon(beside)
                codes.append(ws.wait_closed())
                if accept:
                    codes.append(disconnect_of(SENDS["send"], ws)[0])

            transport = MemoryTransport()
            transport.translations[FrameworkError] = HTTPError(418, "Teapot", HTTPResponse())
            running = Served(handler, transport)
            failure = await running.failure()
            goes_on = isinstance(exc, (LookupError, TimeoutError, InvalidState, ExceptionGroup))
            assert failure is (exc if goes_on else None)
            last = after if accept else before
            assert without_accept(transport) == last
            code = last[0][1] if accept else 1006
            assert codes == ([code, code] if accept else [code])

        asyncio.run(main())
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    @pytest.mark.parametrize("name", [*RECEIVES, *ITERATIONS])
    def test_while_the_handler_receives(self, name: str) -> None:
        async def main() -> None:
            error = LookupError()
            seen: list[object] = []

            def beside() -> None:
                wait(go_on)
                raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside)
                if name in ITERATIONS:
                    seen.extend([*ITERATIONS[name](ws), ws.close_code])
                else:
                    seen.append(disconnect_of(RECEIVES[name], ws)[0])

            go_on = threading.Event()
            running = Served(handler)
            await running.in_receive()
            go_on.set()
            assert await running.failure() is error
            assert without_accept(running.transport) == CLOSED_1011
            assert seen == [1011]

        asyncio.run(main())

    def test_while_the_handler_sends_to_a_peer_that_does_not_read(self) -> None:
        """The call that waits ends too: nothing else would end it."""

        async def main() -> None:
            error = LookupError()
            seen: list[object] = []

            def beside() -> None:
                wait(go_on)
                raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside)
                seen.append(disconnect_of(SENDS["send"], ws)[0])

            go_on = threading.Event()
            transport = MemoryTransport()
            transport.flowing.clear()
            running = Served(handler, transport, close_timeout=0.01)
            await transport.blocked.wait()
            go_on.set()
            ended, _ = await asyncio.wait([running.task], timeout=1)
            transport.lose()
            assert await running.failure() is error
            assert ended
            assert seen == [1011]

        asyncio.run(main())

    def test_while_the_handler_is_elsewhere(self) -> None:
        """It cannot be broken off there: its next call tells it."""

        async def main() -> None:
            error = LookupError()
            seen: list[object] = []

            def beside() -> None:
                raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside)
                wait(go_on)
                seen.append(disconnect_of(SENDS["send"], ws)[0])

            go_on = threading.Event()
            running = Served(handler)
            await running.transport.has_sent(2)
            await settle()
            assert not running.task.done()
            go_on.set()
            assert await running.failure() is error
            assert without_accept(running.transport) == CLOSED_1011
            assert seen == [1011]

        asyncio.run(main())

    def test_the_handler_is_told_also_if_the_framework_answers(self) -> None:
        """The framework does so when the handler has ended; till then that must not accept."""

        async def main() -> None:
            error = FrameworkError()
            seen: list[object] = []

            def beside() -> None:
                raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.start_soon(beside)
                seen.append(ws.wait_closed())
                seen.append(disconnect_of(OTHERS["accept"], ws)[0])

            transport = MemoryTransport()
            transport.translations[FrameworkError] = HTTPError(418, "Teapot")
            running = Served(handler, transport)
            ended, _ = await asyncio.wait([running.task], timeout=1)
            transport.peer_leaves()
            assert await running.failure() is error
            assert ended
            assert transport.sent == []
            assert seen

        asyncio.run(main())

    @pytest.mark.parametrize(
        "exc",
        [
            WebSocketDisconnect(1001),
            ExceptionGroup("g", [WebSocketDisconnect(), WebSocketDisconnect()]),
        ],
        ids=repr,
    )
    def test_a_disconnect_ends_the_function_alone(
        self, exc: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            def beside() -> None:
                raise exc

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside)
                ws.receive()
                ws.send("unharmed")

            running = Served(handler)
            await running.in_receive()
            await threads_end(".beside")
            running.transport.peer_sends("go on")
            assert await running.end() == [("send", "unharmed"), ("close", 1000, "")]

        asyncio.run(main())
        assert not caplog.records

    def test_two_fail(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            errors = [LookupError("one"), LookupError("two")]
            barrier = threading.Barrier(2)

            def beside(error: Exception) -> None:
                barrier.wait(10)
                raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                for error in errors:
                    ws.start_soon(beside, error)
                ws.wait_closed()

            running = Served(handler)
            failure = await running.failure()
            logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
            assert len(logged) == 1
            assert sorted([str(failure), str(logged[0])]) == ["one", "two"]
            assert without_accept(running.transport) == CLOSED_1011

        asyncio.run(main())

    @pytest.mark.parametrize("own", [LookupError("own"), WebSocketException(4001)], ids=repr)
    def test_the_handler_fails_as_well(
        self, own: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            error = LookupError("of the function")

            def beside() -> None:
                raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside)
                ws.wait_closed()
                raise own

            running = Served(handler)
            failure = await running.failure()
            logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
            if isinstance(own, LookupError):
                assert {failure, *logged} == {error, own}
                assert len(logged) == 1
            else:  # it came too late, and says nothing of an error
                assert failure is error
                assert not logged
            assert without_accept(running.transport) == CLOSED_1011

        asyncio.run(main())

    @pytest.mark.parametrize("reads", [True, False])
    def test_an_error_at_the_handlers_end_is_not_lost(
        self, reads: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It fails because the connection is closed, and nobody runs any more but it."""

        async def main() -> None:
            error = LookupError("in finally")

            def beside(ws: SyncWebSocket) -> None:
                try:
                    ws.receive()
                finally:
                    raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside, ws)
                wait(go_on)

            go_on = threading.Event()
            running = Served(handler)
            await running.in_receive()
            if not reads:
                running.transport.flowing.clear()
            go_on.set()
            await threads_end()
            running.transport.flowing.set()
            assert await running.failure() is error
            assert without_accept(running.transport) == [("close", 1000, "")]

        asyncio.run(main())
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    def test_an_error_while_the_peer_does_not_read_is_not_lost(self) -> None:
        """The last frame waits; the handler, woken, ends meanwhile."""

        async def main() -> None:
            error = LookupError("of the function")

            def beside() -> None:
                wait(go_on)
                raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside)
                ws.receive()

            go_on = threading.Event()
            transport = MemoryTransport()
            running = Served(handler, transport, close_timeout=0.05)
            await running.in_receive()
            transport.flowing.clear()
            go_on.set()
            assert await running.failure() is error

        asyncio.run(main())

    def test_its_last_frame_is_sent_though_the_handler_ends_meanwhile(self) -> None:
        async def main() -> None:
            def beside() -> None:
                wait(go_on)
                raise WebSocketException(4001)

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside)
                for _ in ws:
                    raise AssertionError

            go_on = threading.Event()
            transport = MemoryTransport()
            running = Served(handler, transport)
            await running.in_receive()
            transport.flowing.clear()
            go_on.set()
            await transport.blocked.wait()
            (thread,) = (thread for thread in threads() if thread.name.endswith(".handler"))
            await asyncio.to_thread(thread.join, 10)
            await settle()
            assert not running.task.done()
            transport.flowing.set()
            assert await running.end() == [("close", 4001, "")]

        asyncio.run(main())

    @pytest.mark.parametrize("when", ["after the grace", "after a stop", "loop is closed"])
    def test_an_error_long_after_the_end_is_told(
        self, when: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nobody waits for the function any more, so that it is told in the log."""
        error = LookupError("late")
        go_on, reached = threading.Event(), threading.Event()

        def beside() -> None:
            reached.set()
            wait(go_on)
            raise error

        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            ws.start_soon(beside)
            wait(reached)

        async def main() -> None:
            running = Served(handler, close_timeout=10 if when == "after a stop" else 0.001)
            if when == "after a stop":
                await running.handler_ended()
                running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled() == (when == "after a stop")
            if when != "loop is closed":
                go_on.set()
                await threads_end()

        asyncio.run(main())
        go_on.set()
        for thread in threads():
            thread.join(10)
        assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]

    def test_the_server_stops_and_it_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        """The cancellation wins; the error is told in the log."""

        async def main() -> None:
            error = LookupError("in finally")

            def beside(ws: SyncWebSocket) -> None:
                try:
                    ws.receive()
                finally:
                    raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside, ws)
                ws.wait_closed()

            running = Served(handler)
            await running.in_receive()
            assert await running.stop() == [("close", 1012, "")]
            logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
            assert logged == [error]

        asyncio.run(main())

    def test_the_server_stops_while_its_last_frame_waits(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The handler has ended already; the error is told in the log."""

        async def main() -> None:
            error = LookupError("of the function")

            def beside() -> None:
                wait(go_on)
                raise error

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside)
                ws.receive()

            go_on = threading.Event()
            transport = MemoryTransport()
            running = Served(handler, transport)
            await running.in_receive()
            transport.flowing.clear()
            go_on.set()
            await transport.blocked.wait()
            await running.handler_ended()
            running.task.cancel()
            await settle()
            transport.flowing.set()
            await asyncio.wait([running.task])
            await threads_end()
            logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
            assert running.task.cancelled()
            assert logged == [error]

        asyncio.run(main())

    @pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt()], ids=repr)
    def test_one_that_ends_the_process(self, exc: BaseException) -> None:
        """As the handler's own would."""
        seen: list[int] = []

        def beside() -> None:
            raise exc

        def handler(ws: SyncWebSocket) -> None:
            ws.accept()
            ws.start_soon(beside)
            seen.append(ws.wait_closed())

        transports: list[MemoryTransport] = []
        with pytest.raises(type(exc)) as caught:
            serve(handler, prepare=transports.append)
        assert caught.value is exc
        assert without_accept(transports[0]) == CLOSED_1011
        assert seen == [1011]

    def test_one_that_comes_in_the_turn_of_the_handlers_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is too late, or it runs and is waited for; nothing of the inside is seen."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            seen: list[object] = []
            began, start, started = threading.Event(), threading.Event(), threading.Event()
            gate, end = threading.Event(), threading.Event()

            def late() -> None:
                seen.append("begins")
                wait(gate)
                seen.append("ends")

            def beside(ws: SyncWebSocket) -> None:
                began.set()
                wait(start)
                try:
                    ws.start_soon(late)
                except BaseException as exc:  # noqa: BLE001  # compared below
                    seen.append(type(exc))

            def handler(ws: SyncWebSocket) -> None:
                ws.accept()
                ws.start_soon(beside, ws)
                wait(end)

            running = Served(handler)
            await happened(began)
            (thread,) = (thread for thread in threads() if thread.name.endswith(".handler"))

            # Each holds the loop up, so that what threads ask of it comes in this order.
            def handler_ends() -> None:
                end.set()
                thread.join(10)
                loop.call_soon(beside_starts)

            def beside_starts() -> None:
                original = loop.call_soon_threadsafe

                def told(*args: Any, **kwargs: Any) -> asyncio.Handle:
                    handle = original(*args, **kwargs)
                    started.set()
                    return handle

                with monkeypatch.context() as patch:
                    patch.setattr(loop, "call_soon_threadsafe", told)
                    start.set()
                    wait(started)

            loop.call_soon(handler_ends)
            await threads_end(".beside")
            done = running.task.done()
            gate.set()
            assert await running.end() == [("close", 1000, "")]
            assert (done, seen) in ((True, [InvalidState]), (False, ["begins", "ends"]))

        asyncio.run(main())


class TestRunBlocking:
    def test_what_it_returns_and_raises(self) -> None:
        error = LookupError()

        async def returns() -> int:
            return 5

        async def raises() -> None:
            raise error

        assert run_blocking(returns()) == 5
        with pytest.raises(LookupError) as caught:
            run_blocking(raises())
        assert caught.value is error

    def test_a_coroutine_that_suspends(self) -> None:
        ended: list[str] = []

        async def suspends() -> None:
            try:
                await turn()
            finally:
                ended.append("finally")

        coroutine = suspends()
        with pytest.raises(RuntimeError, match="waits for an event loop where there is none"):
            run_blocking(coroutine)
        assert ended == ["finally"]
