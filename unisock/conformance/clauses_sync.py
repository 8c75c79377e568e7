"""Section 9 of the contract: sync handlers, and the other sections in them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, NoReturn

from unisock import InvalidMessage, SyncWebSocket, WebSocket, WebSocketDisconnect

from .clauses_limits import until_accepted
from .clauses_sending import MIB, resident_bytes, until_blocked
from .harness import Server, clause, frame, journal, mounted, pause


def _start(function: Callable[..., object], *args: Any) -> Callable[[], object]:
    """Run a function beside the handler by the handler's own means; return its join.

    In a greenlet where there are greenlets, else in a thread.
    """
    gevent: Any = sys.modules.get("gevent")
    if gevent is not None:
        join: Callable[[], object] = gevent.spawn(function, *args).join
        return join
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread.join


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        pause(0.002)


def _start_receive(ws: SyncWebSocket, done: Callable[[list[Any]], object]) -> Callable[[], object]:
    """Receive beside the handler; return, once that waits, its join.

    Args:
        ws: the connection.
        done: called with the outcome.
    """

    def receive() -> None:
        # It may meet one of those below.
        while (outcome := _outcome(ws.receive))[0] == "InvalidState":
            pause(0.001)
        done(outcome)

    join = _start(receive)
    # Until it waits these time out, and take nothing.
    _wait_until(lambda: _raised(ws.receive, timeout=0) == "InvalidState")
    return join


# 9.1 Names


@mounted("/sync/names")
def tell_names(ws: SyncWebSocket) -> None:
    """Send the names that the two kinds of WebSocket have."""
    ws.accept()
    for kind in (WebSocket, SyncWebSocket):
        ws.send_json(sorted(name for name in dir(kind) if not name.startswith("_")))
    ws.send_json([hasattr(ws, "__iter__"), hasattr(ws, "__aiter__")])


@clause("9.1")
async def test_the_same_names_without_await(server: Server) -> None:
    """All of them but `while_connected`."""
    async with server.connect("/sync/names") as client:
        names, sync_names, iterates = [json.loads(await client.recv()) for _ in range(3)]
        assert [*sync_names] == [name for name in names if name != "while_connected"]
        assert iterates == [True, False]
        assert await client.closed() == (1000, "")


class Greeter:
    """An object that can be called, and that has a method."""

    def __call__(self, ws: SyncWebSocket) -> None:
        ws.accept()
        ws.send("object")

    def method(self, ws: SyncWebSocket) -> None:
        ws.accept()
        ws.send("method")


mounted("/sync/object")(Greeter())
mounted("/sync/method")(Greeter().method)


@mounted("/sync/returns/{what}")
def return_something(ws: SyncWebSocket) -> Any:
    """Return what no plain function may, or something without meaning."""
    ws.accept()
    if ws.path_params["what"] == "value":
        return "ignored"
    return asyncio.sleep(0)


@clause("1.1", "9.1")
async def test_a_sync_handler_is_anything_plain_of_one_argument(server: Server) -> None:
    """A callable object, a method; one that returns an awaitable is told of it."""
    for name in ("object", "method"):
        async with server.connect(f"/sync/{name}") as client:
            assert await client.recv() == name
            assert await client.closed() == (1000, "")
    async with server.connect("/sync/returns/value") as client:
        assert await client.closed() == (1000, "")
    mark = server.log_mark()
    async with server.connect("/sync/returns/awaitable") as client:
        assert await client.closed() == (1011, "")
    assert await client.journal("framework-error") == {"type": "TypeError"}
    assert "was never awaited" not in await server.settled(mark)


# 9.1 Iteration


@mounted("/sync/iterate/{method}")
def iterate(ws: SyncWebSocket) -> None:
    """Journal what an iteration gives, and how the connection ended after it."""
    ws.accept()
    method = ws.path_params["method"]
    messages = ws if method == "messages" else getattr(ws, method)()
    got: list[str] = []
    going_on = True
    while going_on:
        try:
            for message in messages:
                got.append(repr(message))  # noqa: PERF401  # what came before an error counts
            going_on = False
        except InvalidMessage as exc:
            got.append(f"invalid {exc.code}")
    journal(ws, "after", got=got, code=ws.close_code, reason=ws.close_reason)


_ITERATIONS: dict[str, list[tuple[str | bytes, str]]] = {
    "messages": [("one", "'one'"), (b"two", "b'two'"), ("", "''")],
    "iter_text": [("one", "'one'"), (b"x", "invalid 1003"), ("", "''")],
    "iter_bytes": [(b"one", "b'one'"), ("x", "invalid 1003"), (b"", "b''")],
    "iter_json": [('{"a":1}', "{'a': 1}"), ("{", "invalid 1007"), (b"[null]", "[None]")],
}


@clause("9.1", "4.2", "4.3")
async def test_sync_iteration_ends_with_the_connection(server: Server) -> None:
    """Each iteration gives its messages, goes on after an invalid one, and ends."""
    for method, messages in _ITERATIONS.items():
        async with server.connect(f"/sync/iterate/{method}") as client:
            for message, _ in messages:
                await client.send(message)
            await (await client.ws.ping())
            await client.close(4002, "enough")
            code, reason = server.row.sees(4002, "enough")
            expected = [got for _, got in messages]
            after = await client.journal("after")
            assert after == {"got": expected, "code": code, "reason": reason}, method


# 9.1 Timeouts


@mounted("/sync/timeouts/{method}")
def receive_in_bits(ws: SyncWebSocket) -> None:
    """Receive with timeouts all the while; journal what came."""
    ws.accept()
    receive: Callable[..., Any] = getattr(ws, ws.path_params["method"])
    got: list[Any] = []
    timeouts = 0
    for timeout in itertools.cycle((0.004, 0, 0.001)):
        try:
            got.append(receive(timeout=timeout))
        except TimeoutError:
            timeouts += 1
            if timeouts <= 200:
                with contextlib.suppress(WebSocketDisconnect):
                    ws.send(f"timeout {timeouts}")
        except WebSocketDisconnect as exc:
            got = [m.decode() if isinstance(m, bytes) else m for m in got]
            journal(ws, "end", got=got, code=exc.code)
            return


@clause("9.1", "4.5")
async def test_a_timeout_loses_no_message(server: Server) -> None:
    """Messages that come between, within and after timeouts all arrive, in order."""
    for method in ("receive", "receive_text", "receive_bytes", "receive_json"):
        # With room for every answer: one that waits unread would hold back the close.
        async with server.connect(f"/sync/timeouts/{method}", max_queue=None) as client:
            sent: list[str] = []
            for _ in range(10):
                for _ in range(4):  # timeouts of each length that began after the last message
                    assert str(await client.recv()).startswith("timeout ")
                for _ in range(3):
                    sent.append(f"{len(sent)}")
                    await client.send(sent[-1].encode() if "bytes" in method else sent[-1])
            await client.close(4000)
            code, _ = server.row.sees(4000)
            end = await client.journal("end")
            assert [str(message) for message in end["got"]] == sent, method
            assert end["code"] == code


@mounted("/sync/timeout-at-arrival")
def time_out_at_arrival(ws: SyncWebSocket) -> None:
    """Time out about when the message arrives, later and later; receive it then."""
    ws.accept()
    timeouts = 0
    wrong = []
    for number in range(100):
        ws.send("next")
        try:
            message = ws.receive(timeout=number * 0.00004)
        except TimeoutError:
            timeouts += 1
            message = ws.receive()
        if message != str(number):
            wrong.append([number, message])
    ws.send_json([timeouts, wrong])


@clause("9.1", "4.5")
async def test_a_timeout_at_the_messages_arrival_loses_nothing(server: Server) -> None:
    """Either that receive gives the message or the next one does."""
    async with server.connect("/sync/timeout-at-arrival") as client:
        for number in range(100):
            assert await client.recv() == "next"
            await asyncio.sleep(0.002)  # to meet the timeout somewhere
            await client.send(str(number))
        timeouts, wrong = json.loads(await client.recv())
        assert timeouts > 0
        assert wrong == []


@mounted("/sync/timeout-zero")
def poll(ws: SyncWebSocket) -> None:
    """Receive without waiting; what is there comes, and nothing else happens."""
    raised = _raised(ws.receive, timeout=0)
    ws.accept()
    got: list[Any] = []
    while len(got) < 3:
        try:
            got.append(ws.receive(timeout=0))
        except TimeoutError:
            pause(0.001)
    ws.send_json([raised, got, _raised(ws.receive, timeout=0), _raised(ws.receive, timeout=0.01)])
    _wait_until(lambda: ws.close_code is not None)
    journal(ws, "after", got=ws.receive(timeout=0), then=_raised(ws.receive, timeout=0))


def _raised(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The name of what a call raises."""
    try:
        call(*args, **kwargs)
    except Exception as exc:  # noqa: BLE001  # which one it is, the test looks at
        return type(exc).__name__
    return "nothing"


@clause("9.1")
async def test_a_timeout_of_zero_gives_what_is_there(server: Server) -> None:
    """And the disconnect, when that is there; before `accept` it is no timeout."""
    async with server.connect("/sync/timeout-zero") as client:
        for message in ("a", "b", "c"):
            await client.send(message)
        told = json.loads(await client.recv())
        assert told == ["InvalidState", ["a", "b", "c"], "TimeoutError", "TimeoutError"]
        await client.send("last")
        await client.close()
        after = await client.journal("after")
        assert after == {"got": "last", "then": "WebSocketDisconnect"}


# 9.2 Where it runs


@mounted("/sync/where")
def tell_where(ws: SyncWebSocket) -> None:
    """Tell of the thread, and whether an event loop runs in it."""
    ws.accept()
    thread = threading.current_thread()
    try:
        asyncio.get_running_loop()
        loop = True
    except RuntimeError:
        loop = False
    main = thread is threading.main_thread()
    ws.send_json({"name": thread.name, "daemon": thread.daemon, "main": main, "loop": loop})


@mounted("/sync/idle")
def idle(ws: SyncWebSocket) -> None:
    """Wait for a message, and no more."""
    ws.accept()
    ws.send(ws.receive())


@mounted("/sync/executor")
async def use_executor(ws: WebSocket) -> None:
    """Use the threads that the application has of asyncio."""
    await ws.accept()
    async for message in ws:
        await ws.send(await asyncio.to_thread(str, message))


_IDLE = 60


@clause("9.2")
async def test_idle_sync_connections_starve_nothing(server: Server) -> None:
    """Pages, asyncio's executor and further sync connections answer beside many of them."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(server.connect("/sync/idle")) for _ in range(_IDLE)
        ]
        response = await server.http("/page")
        assert (response.status, response.body) == (200, b"the page")
        async with server.connect("/sync/executor") as client:
            await client.send("answer")
            assert await client.recv() == "answer"
        async with server.connect("/sync/where") as client:
            where = json.loads(await client.recv())
            assert where["loop"] is False
            if server.row.framework != "flask":
                assert where["name"].startswith("unisock ")
                assert (where["daemon"], where["main"]) == (True, False)
        for client in clients:
            await client.send("done")
        for client in clients:
            assert await client.recv() == "done"


mounted("/sync/few", max_threads=2)(idle)


@clause("9.2")
async def test_more_than_max_threads_are_503(server: Server) -> None:
    """With a Retry-After and a warning that names the option; on gevent there is no limit."""
    mark = server.log_mark()
    async with server.connect("/sync/few") as one, server.connect("/sync/few") as other:
        if server.row.framework == "flask":
            async with server.connect("/sync/few") as third:
                await third.send("third")
                assert await third.recv() == "third"
        else:
            for _ in range(2):
                response = await server.check_rejected("/sync/few", 503)
                if not server.row.without("http_rejection"):
                    assert response.header("retry-after")
            log = await server.settled(mark)
            assert log.count("max_threads=") == 2, log
            assert "Traceback" not in log, log
        async with server.connect("/sync/idle") as of_another_limit:
            await of_another_limit.send("mine")
            assert await of_another_limit.recv() == "mine"
        await one.send("end")
        assert await one.closed() == (1000, "")
        await until_accepted(server, "/sync/few")
        await other.send("still")
        assert await other.recv() == "still"


# 9.2 The handshake (section 2)


@mounted("/sync/handshake/{n:int}/{name}")
def tell_handshake(ws: SyncWebSocket) -> None:
    """Journal all that there is to read, before, within and after the connection."""
    found = "own" in ws.state
    ws.state.own = ws.query_params["id"]
    journal(ws, "before", read=_read_handshake(ws))
    ws.accept()
    journal(ws, "open", read=_read_handshake(ws))
    ws.wait_closed()
    journal(ws, "after", read=_read_handshake(ws), found=found)


def _read_handshake(ws: SyncWebSocket) -> dict[str, Any]:
    return {
        "url": str(ws.url),
        "path": [ws.url.path, *((n, type(v).__name__, v) for n, v in ws.path_params.items())],
        "query": ws.query_params.getall("a"),
        "headers": [ws.headers["X-Twice"], ws.headers.getall("x-twice")],
        "cookies": ws.cookies,
        "client": ws.client,
        "subprotocols": ws.subprotocols,
        "state": [ws.state.left_by_middleware, ws.state["own"]],
        "request": [f"{c.__module__}.{c.__qualname__}" for c in type(ws.request).__mro__],
        "capabilities": dataclasses.asdict(ws.capabilities),
    }


@clause("9.2", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.8")
async def test_a_sync_handler_reads_the_handshake(server: Server) -> None:
    """The same, at all times."""
    headers = [
        ("X-Twice", "one"),
        ("Cookie", "a=1; a=2; b=x"),
        ("X-Twice", "two"),
        ("Sec-WebSocket-Protocol", "v1, v2"),
    ]
    path = "/sync/handshake/7/x%20y?a=1&a=2"
    async with server.raw(path, headers=headers) as raw:
        own = list(raw.writer.get_extra_info("sockname")[:2])
        await raw.send_frame(8, b"\x03\xe8")
        await raw.eof()
        after = await raw.journal("after")
        assert after["found"] is False
        read = after["read"]
        assert (await raw.journal("before"))["read"] == read
        assert (await raw.journal("open"))["read"] == read
        assert server.row.request_type in read.pop("request")
        assert read == {
            "url": server.url(f"{path}&id={raw.id}"),
            "path": ["/sync/handshake/7/x y", ["n", "int", 7], ["name", "str", "x y"]],
            "query": ["1", "2"],
            "headers": ["one,two", ["one,two"]]
            if server.row.without("repeated_lines")
            else ["one", ["one", "two"]],
            "cookies": {"a": "1", "b": "x"},
            "client": own,
            "subprotocols": ["v1", "v2"],
            "state": ["yes", raw.id],
            "capabilities": dataclasses.asdict(server.row.capabilities),
        }


@mounted("/sync/flask")
def use_flask(ws: SyncWebSocket) -> None:
    """Use Flask's context here and in a function beside; elsewhere tell that there is none."""
    if "flask" not in sys.modules:
        journal(ws, "flask", used=None)
        ws.accept()
        return
    from flask import current_app, g, request, session, url_for

    used: list[list[Any]] = []

    def use() -> None:
        pause(0.001)
        used.append(
            [request.args["x"], g.left_by_middleware, session.get("user"), current_app.name]
        )

    use()
    ws.accept()
    ws.start_soon(use)
    ws.receive()
    _wait_until(lambda: len(used) == 2)
    use()
    journal(ws, "flask", used=used, url=url_for("page"))


@clause("9.2", "2.7")
async def test_flasks_context_is_live_in_a_sync_handler(server: Server) -> None:
    """`request`, `session`, `g` and `current_app`, of two connections that take turns."""
    if server.row.framework != "flask":
        server.row.without("flask_context")
        async with server.connect("/sync/flask") as client:
            assert await client.journal("flask") == {"used": None}
        return
    async with (
        server.connect("/sync/flask?x=1") as one,
        server.connect("/sync/flask?x=2") as other,
    ):
        for client, x in ((other, "2"), (one, "1")):
            await client.send("go on")
            used = [[x, "yes", None, "suite"]] * 3
            assert await client.journal("flask") == {"used": used, "url": "/page"}


# 9.2 Opening (section 3)


@mounted("/sync/accept")
def accept_with(ws: SyncWebSocket) -> None:
    """Call at the wrong moment and with what may not be sent; then accept, and echo."""
    ws_calls = (
        lambda: ws.send("x"),
        lambda: ws.send_json({}),
        ws.receive,
        ws.receive_text,
        ws.receive_json,
        lambda: next(iter(ws)),
        lambda: next(ws.iter_text()),
    )
    before = [_raised(call) for call in ws_calls]
    before.append(_raised(ws.accept, "not-offered"))
    before.append(_raised(ws.accept, headers={"X-Injected": "x\r\nX-Bad: 1"}))
    ws.accept("v2", {"X-One": "1"})
    after = [_raised(call) for call in (ws.accept, ws.reject)]
    ws.send_json([before, after, ws.subprotocol])
    ws.send(ws.receive())


@clause("9.2", "3.1", "3.3")
async def test_a_sync_handler_accepts_with_subprotocol_and_headers(server: Server) -> None:
    """InvalidState and ValueError first, with nothing sent."""
    async with server.connect("/sync/accept", subprotocols=["v1", "v2"]) as client:
        before, after, subprotocol = json.loads(await client.recv())
        assert before == ["InvalidState"] * 7 + ["ValueError"] * 2
        assert after == ["InvalidState"] * 2
        expected = None if server.row.without("subprotocol") else "v2"
        assert subprotocol == client.ws.subprotocol == expected
        headers = client.ws.response.headers
        assert headers.get("X-One") == (None if server.row.without("accept_headers") else "1")
        assert "X-Injected" not in headers
        await client.send("open")
        assert await client.recv() == "open"


@mounted("/sync/reject/{how}")
def reject(ws: SyncWebSocket) -> None:
    """Reject in one of two ways."""
    if ws.path_params["how"] == "close":
        ws.close(4001)
    else:
        ws.reject(429, b"slow down", {"Retry-After": "5"})
    journal(ws, "rejected", closed=ws.closed, raised=_raised(ws.accept))


@clause("9.2", "3.2", "3.4")
async def test_a_sync_handler_rejects(server: Server) -> None:
    """With that response; a close is a 403; another origin does not reach the handler."""
    mark = server.log_mark()
    headers = {"Retry-After": "5"}
    response = await server.check_rejected("/sync/reject/own", 429, b"slow down", headers)
    told = {"closed": True, "raised": "InvalidState"}
    assert await server.journal(response.id, "rejected") == told
    response = await server.check_rejected("/sync/reject/close", 403, b"")
    assert await server.journal(response.id, "rejected") == told
    origin = {"Origin": "http://other.example"}
    response = await server.check_rejected("/sync/reject/own", 403, headers=origin)
    assert "Traceback" not in await server.settled(mark)
    assert server.events(response.id) == []


# 9.2 Receiving (section 4)


@dataclasses.dataclass
class Point:
    """A dataclass to decode to."""

    x: int


@mounted("/sync/kinds/{method}")
def report_kinds(ws: SyncWebSocket) -> None:
    """Answer each message with its exact type and its content, or what is wrong with it."""
    ws.accept()
    method = ws.path_params["method"]
    while True:
        try:
            message = ws.receive_json(Point) if method == "receive_point" else getattr(ws, method)()
        except InvalidMessage as exc:
            ws.send(f"invalid {exc.code} {exc.message!r}")
        else:
            ws.send(f"{type(message).__name__} {message!r}")


_KINDS: dict[str, list[tuple[str | bytes, str]]] = {
    "receive": [("\u00fc", "str '\u00fc'"), (b"\xff", r"bytes b'\xff'"), ("", "str ''")],
    "receive_text": [("x", "str 'x'"), (b"x", "invalid 1003 b'x'"), ("", "str ''")],
    "receive_bytes": [(b"x", "bytes b'x'"), ("x", "invalid 1003 'x'"), (b"", "bytes b''")],
    "receive_json": [("[1]", "list [1]"), ("{", "invalid 1007 '{'"), (b'"x"', "str 'x'")],
    "receive_point": [('{"x": 1}', f"Point {Point(1)!r}"), ("[]", "invalid 1007 '[]'")],
}


@clause("9.2", "4.1", "4.3", "4.4")
async def test_a_sync_handler_receives_each_kind(server: Server) -> None:
    """Text, binary and JSON; what is invalid leaves the connection untouched."""
    for method, messages in _KINDS.items():
        async with server.connect(f"/sync/kinds/{method}") as client:
            for message, answer in (*messages, messages[0]):
                await client.send(message)
                assert await client.recv() == answer, method


@mounted("/sync/twice")
def receive_twice(ws: SyncWebSocket) -> None:
    """Receive while a receive waits in another thread or greenlet."""
    ws.accept()
    got: list[list[Any]] = []
    join = _start_receive(ws, got.append)
    errors = [
        _raised(call)
        for call in (ws.receive, ws.receive_text, ws.receive_bytes, lambda: next(iter(ws)))
    ]
    journal(ws, "second", errors=errors, first=got)
    join()
    ws.send_json(got)
    ws.send(ws.receive())


@clause("9.2", "4.6")
async def test_a_second_sync_receive_raises_and_the_first_is_unharmed(server: Server) -> None:
    """The second fails at once, with nothing sent by the client yet."""
    async with server.connect("/sync/twice") as client:
        second = await client.journal("second")
        assert second == {"errors": ["InvalidState"] * 4, "first": []}
        await client.send("first")
        assert json.loads(await client.recv()) == [["returned", 0, "'first'"]]
        await client.send("then")
        assert await client.recv() == "then"


@mounted("/sync/late", max_queue=100)
def receive_late(ws: SyncWebSocket) -> None:
    """Receive once all is over; journal all that came and the end."""
    ws.accept()
    ws.wait_closed()
    got: list[str] = []
    try:
        while True:
            got.append(ws.receive_text())
    except WebSocketDisconnect as exc:
        journal(ws, "end", got=got, code=exc.code, reason=exc.reason)


@clause("9.2", "4.7")
async def test_a_sync_handler_gets_the_messages_before_the_end(server: Server) -> None:
    """A burst and a close, or the end of the stream: the burst in order, then the code."""
    sent = [f"message {number}" for number in range(50)]
    messages = [(1, message.encode()) for message in sent]
    for closes in (True, False):
        async with server.raw("/sync/late") as raw:
            close = [(8, (4007).to_bytes(2) + b"done")] if closes else []
            await raw.send_frames(*messages, *close)
            await raw.eof()
            code, reason = server.row.sees(4007, "done") if closes else (1006, "")
            end = await raw.journal("end")
            assert end == {"got": sent, "code": code, "reason": reason}


# 9.2 Sending (section 5)


@mounted("/sync/types")
def send_every_type(ws: SyncWebSocket) -> None:
    """Send with each method what it takes, and what it does not."""
    ws.accept()
    ws.send_text("gr\u00fc\u00df")
    ws.send_bytes(bytearray(b"array"))
    ws.send("text")
    ws.send(memoryview(b"view"))
    ws.send_json({"a": [1, None, "\u00fc"]})
    ws.send_json([1], binary=True)
    wrong: Iterable[tuple[Callable[..., None], Any]] = (
        (ws.send_text, b"x"),
        (ws.send_bytes, "x"),
        (ws.send, 5),
        (ws.send_json, object()),
        (ws.send_json, float("nan")),
    )
    ws.send_json([_raised(send, value) for send, value in wrong])


@clause("9.2", "5.1", "5.2")
async def test_a_sync_handler_sends_each_kind(server: Server) -> None:
    """Text, binary, compact JSON; a TypeError for what is none, and nothing sent."""
    expected: list[str | bytes] = [
        "gr\u00fc\u00df",
        b"array",
        "text",
        b"view",
        '{"a":[1,null,"\u00fc"]}',
        b"[1]",
        json.dumps(["TypeError"] * 5, separators=(",", ":")),
    ]
    async with server.connect("/sync/types") as client:
        assert [await client.recv() for _ in expected] == expected


_SENDERS = 6
_MESSAGES = 8
_SIZE = 300_000


@mounted("/sync/senders")
def send_from_threads(ws: SyncWebSocket) -> None:
    """Several threads or greenlets send large messages of their own letter."""
    ws.accept()

    def send_all(sender: int) -> None:
        letter = chr(ord("a") + sender)
        for number in range(_MESSAGES):
            body = f"{letter}{number:03}" + letter * (_SIZE + sender * 1000)
            (ws.send_text(body) if number % 2 else ws.send_bytes(body.encode()))

    joins = [_start(send_all, sender) for sender in range(_SENDERS)]
    for join in joins:
        join()
    journal(ws, "sent")
    ws.receive()  # not all may have been read


@clause("9.2", "5.3")
async def test_sends_of_several_threads_do_not_interleave(server: Server) -> None:
    """Each message arrives whole though the peer reads slowly, each sender's in order."""
    async with server.connect("/sync/senders", max_queue=1) as client:
        seen: Counter[str] = Counter()
        for _ in range(_SENDERS * _MESSAGES):
            message = await client.recv()
            text = message if isinstance(message, str) else message.decode()
            letter, number = text[0], int(text[1:4])
            assert number == seen[letter]
            assert isinstance(message, str) == bool(number % 2)
            assert len(text) == 4 + _SIZE + (ord(letter) - ord("a")) * 1000
            assert [key for key, _ in groupby(text[4:])] == [letter]
            seen[letter] += 1
        assert set(seen.values()) == {_MESSAGES}
        await client.journal("sent")
        await client.send("all read")


_FLOOD_MESSAGE = b"\xab" * 65536
# What two sockets, a server's own buffers and ours may hold between them.
_FLOOD_BOUND = 48 * MIB
_FLOOD = 2 * _FLOOD_BOUND

_flooding: dict[str, int] = {}


@mounted("/sync/flood/{name}")
def flood(ws: SyncWebSocket) -> None:
    """Send until `_FLOOD` bytes are sent or the peer has gone."""
    name = ws.path_params["name"]
    _flooding[name] = 0
    ws.accept()
    try:
        while _flooding[name] < _FLOOD:
            ws.send_bytes(_FLOOD_MESSAGE)
            _flooding[name] += len(_FLOOD_MESSAGE)
    except WebSocketDisconnect as exc:
        journal(ws, "disconnected", code=exc.code, reason=exc.reason)
    else:
        journal(ws, "finished")
        ws.send("finished")


@mounted("/sync/watch/{name}")
def watch_flood(ws: SyncWebSocket) -> None:
    """Answer each message with it, how much was sent, and this process' memory."""
    ws.accept()
    for message in ws:
        ws.send_json([message, _flooding.get(ws.path_params["name"], -1), resident_bytes()])


@clause("9.2", "5.4")
async def test_a_slow_peer_blocks_its_sync_sender_alone(server: Server) -> None:
    """The flood stands still and memory is bounded; then all arrives, or the end wakes it."""
    async with server.connect("/sync/watch/slow") as watcher:
        await watcher.send("memory")
        _, _, memory_before = json.loads(await watcher.recv())
        async with server.raw("/sync/flood/slow") as raw:
            if server.row.without("send_waits"):
                await raw.journal("finished")
                return
            await until_blocked(watcher)
            await watcher.send("memory")
            _, _, memory_blocked = json.loads(await watcher.recv())
            assert memory_blocked - memory_before < 2 * _FLOOD_BOUND
            received = 0
            while (got := await raw.recv_frame()).opcode == 2:
                assert got.payload == _FLOOD_MESSAGE
                received += len(got.payload)
            assert (received, got.payload) == (_FLOOD, b"finished")
    async with (
        server.connect("/sync/watch/reset") as watcher,
        server.raw("/sync/flood/reset") as raw,
    ):
        await until_blocked(watcher)
        raw.reset()
        assert await raw.journal("disconnected") == {"code": 1006, "reason": ""}


# 9.2 Noticing the end (section 6)


@mounted("/sync/sleep")
def sleep_until_the_end(ws: SyncWebSocket) -> None:
    """Sleep, and do nothing else, until the connection has ended."""
    ws.accept()
    ws.send_text("tick")
    _wait_until(lambda: ws.close_code is not None)
    journal(ws, "noticed", code=ws.close_code, reason=ws.close_reason)


@mounted("/sync/only-send")
def only_send(ws: SyncWebSocket) -> None:
    """Send, and never receive, until that fails."""
    ws.accept()
    try:
        while True:
            ws.send_text("tick")
            pause(0.01)
    except WebSocketDisconnect as exc:
        journal(ws, "noticed", code=exc.code, reason=exc.reason)


@mounted("/sync/wait")
def wait_elsewhere(ws: SyncWebSocket) -> None:
    """Wait for another thing than a message: for the end, here and beside."""
    ws.accept()
    codes: list[int] = []
    joins = [_start(lambda: codes.append(ws.wait_closed())) for _ in range(2)]
    before = ws.closed
    ws.send_text("tick")
    code = ws.wait_closed()
    for join in joins:
        join()
    assert (before, codes, ws.wait_closed()) == (False, [code] * 2, code)
    journal(ws, "noticed", code=code, reason=ws.close_reason)


@clause("9.2", "6.1", "6.3")
async def test_what_a_sync_handler_does_keeps_no_ping_and_no_end_waiting(server: Server) -> None:
    """It sleeps, sends or waits; with unread messages before each."""
    for path in ("/sync/sleep", "/sync/only-send", "/sync/wait"):
        async with server.raw(path) as raw:
            assert (await raw.recv_frame()).payload == b"tick"
            for number in range(3):
                await raw.send_frames((1, b"unread"), (2, b"unread"), (9, b"%d" % number))
                while (answer := await raw.recv_frame()).opcode == 1:
                    assert answer.payload == b"tick"
                assert (answer.opcode, answer.payload) == (10, b"%d" % number), path
            await raw.send_frame(8, (4001).to_bytes(2) + b"left")
            await raw.eof()
            code, reason = server.row.sees(4001, "left")
            assert await raw.journal("noticed") == {"code": code, "reason": reason}, path


def _outcome(call: Callable[[], Any]) -> list[Any]:
    """The name of what a call raises, with code and reason."""
    try:
        result = call()
    except WebSocketDisconnect as exc:
        return ["WebSocketDisconnect", exc.code, exc.reason]
    except BaseException as exc:  # noqa: BLE001  # its type is compared by the test
        return [type(exc).__name__, 0, str(exc)]
    return ["returned", 0, repr(result)]


def _all_outcomes(ws: SyncWebSocket) -> list[list[Any]]:
    """What each call raises, twice over, where they differ."""
    outcomes: list[list[Any]] = []
    calls: tuple[Callable[[], Any], ...] = (
        ws.receive,
        lambda: ws.receive(timeout=5),
        ws.receive_text,
        ws.receive_bytes,
        ws.receive_json,
        lambda: ws.send("x"),
        lambda: ws.send_text("x"),
        lambda: ws.send_bytes(b"x"),
        lambda: ws.send_json([]),
    )
    for call in (*calls, *calls):
        outcome = _outcome(call)
        if outcome not in outcomes:
            outcomes.append(outcome)
    ws.close(4999, "too late")
    outcomes.append(["ws", ws.wait_closed(), ws.close_reason])
    outcomes.append(["ws", ws.close_code, ws.close_reason])
    return outcomes


@mounted("/sync/outcomes/{first}")
def report_outcomes(ws: SyncWebSocket) -> None:
    """Notice the end by one call, and journal what that and all others raise."""
    ws.accept()
    outcomes: list[list[Any]] = []
    match ws.path_params["first"]:
        case "receive":
            outcomes.append(_outcome(ws.receive))
        case "send":
            while (outcome := _outcome(lambda: ws.send("x")))[0] == "returned":
                pause(0.005)
            outcomes.append(outcome)
        case _:
            ws.wait_closed()
    journal(ws, "outcomes", outcomes=[*outcomes, *_all_outcomes(ws)])


async def _check_outcomes(outcomes: list[list[Any]], code: int, reason: str) -> None:
    expected = {("WebSocketDisconnect", code, reason), ("ws", code, reason)}
    assert {tuple(outcome) for outcome in outcomes} == expected


@clause("9.2", "6.2")
async def test_the_same_code_and_reason_everywhere_in_a_sync_handler(server: Server) -> None:
    """The peer's, 1005 without one, 1006 for a break, whatever notices it first."""
    for first in ("receive", "send", "wait"):
        for how in ("close", "no code", "reset", "eof"):
            code, reason = {
                "close": server.row.sees(4005, "gr\u00fcnde"),
                "no code": server.row.sees(1005),
            }.get(how, (1006, ""))
            async with server.raw(f"/sync/outcomes/{first}") as raw:
                match how:
                    case "close":
                        await raw.send_frame(8, (4005).to_bytes(2) + "gr\u00fcnde".encode())
                    case "no code":
                        await raw.send_frame(8)
                    case "eof":
                        await raw.send(frame(1, b"never whole")[:-4])
                    case _:
                        raw.reset()
                if how != "reset":
                    await raw.eof()
                outcomes = (await raw.journal("outcomes"))["outcomes"]
                await _check_outcomes(outcomes, code, reason)


@mounted("/sync/own-close")
def close_then_call(ws: SyncWebSocket) -> None:
    """Close with messages unread, while a receive waits elsewhere; then call everything."""
    ws.accept()
    ws.receive()
    outcomes: list[list[Any]] = []
    join = _start_receive(ws, outcomes.append)
    ws.close(4010, "own")
    join()
    outcomes += _all_outcomes(ws)
    journal(ws, "outcomes", outcomes=outcomes, closed=ws.closed)


@mounted("/sync/own-close-unread")
def close_with_unread(ws: SyncWebSocket) -> None:
    """Close while messages wait to be received."""
    ws.accept()
    ws.receive()
    ws.close(4011, "own")
    journal(ws, "outcomes", outcomes=_all_outcomes(ws))


@clause("9.2", "6.5")
async def test_after_its_own_close_a_sync_handler_gets_its_code(server: Server) -> None:
    """A receive that waits elsewhere, and all calls after it; unread messages are not given."""
    async with server.connect("/sync/own-close") as client:
        await client.send("first")
        assert await client.closed() == (4010, "own")
        outcomes = await client.journal("outcomes")
        assert outcomes["closed"] is True
        await _check_outcomes(outcomes["outcomes"], 4010, "own")
    async with server.raw("/sync/own-close-unread") as raw:
        await raw.send_frames((1, b"unread"), (2, b"unread"), (1, b"first"))
        assert await raw.closed() == (4011, "own")
        await raw.send_frame(8, (4011).to_bytes(2))
        await raw.eof()
        await _check_outcomes((await raw.journal("outcomes"))["outcomes"], 4011, "own")


# 9.2 Closing (section 7)


@mounted("/sync/close")
def close_as_told(ws: SyncWebSocket) -> None:
    """Close with what may not be sent, then as told, then again."""
    ws.accept()
    code, reason = ws.receive_json(tuple[int, str])
    errors = [_raised(ws.close, forbidden) for forbidden in (0, 999, 1005, 1006, 1015, 5000)]
    ws.send_json(errors)
    ws.close(code, reason)
    ws.close()
    ws.close(4002, "again")
    journal(ws, "closed", code=ws.close_code, reason=ws.close_reason)


@clause("9.2", "7.1")
async def test_a_sync_handler_closes_once(server: Server) -> None:
    """ValueError for what may not be sent; a reason is cut at a character; again is a no-op."""
    for code, reason, cut in (
        (1000, "", ""),
        (3999, "gr\u00fcnde", "gr\u00fcnde"),
        (4999, "\u20ac" * 42, "\u20ac" * 41),
    ):
        async with server.connect("/sync/close") as client:
            await client.send(json.dumps([code, reason]))
            assert json.loads(await client.recv()) == ["ValueError"] * 6
            assert await client.closed() == (code, cut)
            assert await client.journal("closed") == {"code": code, "reason": cut}


@mounted("/sync/after")
def call_after_the_end(ws: SyncWebSocket) -> None:
    """Leave a function behind that calls when the handler has long ended."""
    ws.accept()

    def call_late() -> None:
        _wait_until(lambda: ws.query_params["id"] in _told_to_go_on)
        journal(ws, "late", outcomes=[_raised(call) for call in _late_calls(ws)])

    _start(call_late)
    ws.receive()


_told_to_go_on: set[str] = set()


def _late_calls(ws: SyncWebSocket) -> Iterable[Callable[[], Any]]:
    return (
        ws.receive,
        lambda: ws.send("x"),
        lambda: ws.start_soon(_never),
        ws.close,
        ws.wait_closed,
    )


def _never() -> NoReturn:
    raise AssertionError("start_soon() after the handler's end")


@mounted("/sync/go-on")
def go_on(ws: SyncWebSocket) -> None:
    """Let functions go on that another handler has left behind."""
    ws.accept()
    for connection_id in ws:
        _told_to_go_on.add(str(connection_id))


@clause("9.2", "6.2")
async def test_calls_after_a_sync_handler_has_ended(server: Server) -> None:
    """From a thread or greenlet of the application's own: the disconnect, and no wait."""
    async with server.connect("/sync/go-on") as keeper:
        async with server.connect("/sync/after") as client:
            await client.send("end")
            assert await client.closed() == (1000, "")
        await server.settled()
        await keeper.send(client.id)
        late = await client.journal("late")
        disconnects = ["WebSocketDisconnect"] * 2
        assert late == {"outcomes": [*disconnects, "InvalidState", "nothing", "nothing"]}


# 9.2 Limits (section 10)


@mounted("/sync/small", max_message_size=1000)
def echo_sizes(ws: SyncWebSocket) -> None:
    """Answer each message with its size; journal the end."""
    ws.accept()
    for message in ws:
        ws.send_json(len(message))
    journal(ws, "end", code=ws.close_code)


@clause("9.2", "10.1")
async def test_a_message_over_the_limit_closes_a_sync_handler_with_1009(server: Server) -> None:
    """One of the limit is taken."""
    async with server.raw("/sync/small") as raw:
        await raw.send_frame(2, b"x" * 1000)
        assert (await raw.recv_frame()).payload == b"1000"
        await raw.send_frame(2, b"x" * 1001)
        assert (await raw.closed())[0] == server.row.sends(1009)[0]
        await raw.eof()
        assert await raw.journal("end") == {"code": 1009}
