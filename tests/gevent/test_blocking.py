"""Plain functions on gevent: in the request's own greenlet, without an event loop."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from websockets.asyncio.client import connect as asyncio_connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from tests.servers import RawClient, Server, frame

Eventually = Callable[[Callable[[], bool]], None]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

SOURCE = '''
import os
import re

if os.environ["KIND"] == "patched":
    from gevent import monkey

    monkey.patch_all()

import asyncio
import gc
import logging
import queue
import signal
import time
import urllib.request

import flask
import gevent
import gevent.event
import gevent.pool
import gevent.queue
import gevent.socket
from gevent.pywsgi import WSGIServer
from greenlet import greenlet

import unisock
from unisock import InvalidState, WebSocketDisconnect
from unisock.adapters.flask import WebSocketHandler
from unisock.adapters.gevent_loop import HubEventLoop

app = flask.Flask("blocking", static_folder=None)
app.secret_key = "for the tests"
port = int(os.environ["PORT"])
counts = {"begun": 0, "ended": 0, "sent": 0}
told = []
connections = {}
go_on = gevent.event.Event()


def tell(*words):
    told.append(" ".join(map(str, words)))


def counted(handler):
    """Count the handler's beginnings and ends, and tell how it ended."""

    def count(ws):
        connections[handler.__name__] = ws, gevent.getcurrent()
        counts["begun"] += 1
        try:
            handler(ws)
        except BaseException as exc:
            tell(handler.__name__, type(exc).__name__, ws.close_code)
            raise
        else:
            tell(handler.__name__, "returned", ws.close_code)
        finally:
            counts["ended"] += 1

    count.__name__ = handler.__name__
    return count


def echo(ws):
    ws.accept()
    for message in ws:
        ws.send(message)


def knows_flask(ws):
    ws.accept()
    g = flask.g
    for message in ws:
        g.count = g.get("count", 0) + 1
        ws.send_json({
            "session": flask.session.get("name"),
            "arguments": flask.request.args.getlist("x"),
            "is flask's": flask.request._get_current_object() is ws.request,
            "left": g.left,
            "count": g.count,
            "app": flask.current_app.name,
            "url": flask.url_for("page"),
            "greenlet": flask.g.greenlet is gevent.getcurrent(),
            "loops": sum(isinstance(each, asyncio.AbstractEventLoop) for each in gc.get_objects()),
            "running loop": asyncio._get_running_loop() is not None,
        })


def timed(ws):
    """A timeout of the application's own around each receive."""
    ws.accept()
    timeouts = 0
    while True:
        try:
            with gevent.Timeout(0.002):
                message = ws.receive()
        except gevent.Timeout:
            timeouts += 1
            continue
        ws.send(f"{message} {timeouts}")


def impatient(ws):
    ws.accept()
    timeouts = 0
    while True:
        try:
            message = ws.receive(timeout=0.001)
        except TimeoutError:
            timeouts += 1
            continue
        ws.send(f"{message} {timeouts}")


def lets_timeout_escape(ws):
    ws.accept()
    gevent.Timeout.start_new(0.05)
    ws.receive()


def waits(ws):
    ws.accept()
    ws.send("waiting")
    ws.receive()


def sleeps(ws):
    ws.accept()
    ws.send("sleeping")
    go_on.wait()
    for message in ws:
        ws.send(message)


def sleeps_by_time(ws):
    ws.accept()
    ws.send("sleeping")
    time.sleep(0.3)
    ws.send(" ".join(ws.receive() for _ in range(3)))


def wait_closed(ws):
    ws.accept()
    ws.send("waiting")
    tell("code", ws.wait_closed())


def connecting(ws):
    tell("code", ws.wait_closed())


def connecting_elsewhere(ws):
    go_on.wait()
    ws.accept()


def receives_twice(ws):
    ws.accept()
    first = gevent.spawn(ws.receive)
    gevent.sleep(0)
    try:
        ws.receive()
    except InvalidState:
        ws.send("refused")
    ws.send("first got " + first.get())
    ws.send("then " + ws.receive())


def sends_many(ws):
    """From many greenlets, of many sizes."""
    ws.accept()

    def send(letter):
        for _ in range(10):
            for size in (1, 10, 200, 40_000, 3):
                ws.send(letter * size)

    gevent.joinall([gevent.spawn(send, chr(97 + n)) for n in range(20)], raise_error=True)
    ws.close()


def sends_much(ws):
    ws.accept()
    while True:
        ws.send(b"x" * 65536)
        counts["sent"] += 1


def fed_by_queue(ws):
    """What ordinary views and threads put into a queue."""
    ws.accept()
    inbox = queue.Queue() if os.environ["KIND"] == "patched" else gevent.queue.Queue()
    connections["queue"] = inbox
    ws.send("ready")
    while (message := inbox.get()) is not None:
        ws.send(message)


def fetches(ws):
    """By another socket than its own."""
    ws.accept()
    for message in ws:
        if os.environ["KIND"] == "patched":
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/page") as response:
                ws.send(response.read())
        else:
            with gevent.socket.create_connection(("127.0.0.1", port)) as other:
                other.sendall(b"GET /page HTTP/1.0\\r\\n\\r\\n")
                ws.send(other.makefile("rb").read().rpartition(b"\\r\\n\\r\\n")[2])


def called_from_threads(ws):
    """A thread may not; what it tried harms nothing."""
    ws.accept()
    pool = gevent.get_hub().threadpool
    calls = (
        ws.receive,
        ws.close,
        lambda: ws.send("x"),
        lambda: ws.receive(timeout=1),
    )
    for call in calls:
        try:
            pool.spawn(call).get()
        except RuntimeError as exc:
            ws.send(f"{type(exc).__name__}: {exc}")
    ws.send(ws.receive())


def started_by_a_thread(ws):
    ws.accept()
    try:
        gevent.get_hub().threadpool.spawn(ws.start_soon, print).get()
    except RuntimeError as exc:
        ws.send(f"{type(exc).__name__}: {exc}")
    else:
        ws.send("started")
    ws.send(ws.receive())


def has_company(ws):
    """Functions beside the handler, one of which is never done."""
    ws.accept()
    handler = gevent.getcurrent()

    def ticks(number):
        assert gevent.getcurrent() is not handler
        for n in range(number):
            ws.send(f"tick {n}")

    def stays():
        try:
            gevent.sleep(3600)
        except BaseException as exc:
            tell("stays", type(exc).__name__)
            raise

    ws.start_soon(ticks, 3)
    ws.start_soon(stays)
    ws.receive()


def fails_beside(ws):
    ws.accept()

    def fails():
        raise LookupError("a secret")

    ws.start_soon(fails)
    ws.receive()


def knows_flask_beside(ws):
    ws.accept()

    def tell_page():
        ws.send(f"{flask.request.path} {flask.g.left} {flask.current_app.name}")

    ws.start_soon(tell_page)
    ws.receive()


def times_out_beside(ws):
    ws.accept()

    def times_out():
        with gevent.Timeout(0.01):
            gevent.sleep(60)

    ws.start_soon(times_out)
    ws.receive()


def closes_beside(ws):
    """A function closes while the handler waits in a send."""
    ws.accept()

    def close():
        go_on.wait()
        ws.close(4000)

    ws.start_soon(close)
    while True:
        ws.send(b"x" * 65536)
        counts["sent"] += 1


for handler, options in (
    (echo, {}),
    (knows_flask, {}),
    (timed, {}),
    (impatient, {"max_queue": 2}),
    (lets_timeout_escape, {}),
    (waits, {"close_timeout": 0.3}),
    (sleeps, {"ping_interval": 0.05, "ping_timeout": 1, "close_timeout": 0.3}),
    (sleeps_by_time, {}),
    (wait_closed, {}),
    (connecting, {}),
    (connecting_elsewhere, {}),
    (receives_twice, {}),
    (sends_many, {}),
    (sends_much, {}),
    (fed_by_queue, {}),
    (fetches, {}),
    (called_from_threads, {}),
    (started_by_a_thread, {"close_timeout": 0.3}),
    (has_company, {}),
    (knows_flask_beside, {}),
    (times_out_beside, {}),
    (fails_beside, {}),
    (closes_beside, {"close_timeout": 3}),
):
    unisock.mount(app, "/" + handler.__name__, counted(handler), **options)


@app.before_request
def leave_something():
    flask.g.left = "by before_request"
    flask.g.greenlet = gevent.getcurrent()


@app.get("/page")
def page():
    return "the page"


@app.get("/login")
def login():
    flask.session["name"] = "ada"
    return ""


@app.get("/go-on")
def let_go_on():
    go_on.set()
    return ""


@app.get("/hold")
def hold():
    go_on.clear()
    return ""


@app.get("/kill/<name>")
def kill(name):
    """Kill a connection's greenlet, as an application may."""
    connections[name][1].kill(block=False)
    return ""


@app.get("/put/<message>")
def put(message):
    connections["queue"].put(None if message == "end" else message)
    return ""


@app.get("/told")
def show_told():
    return told


def is_ours(each):
    """Whether a greenlet lives, and is none of a thread of gevent's pool."""
    return not each.dead and root_of(each) is root_of(gevent.getcurrent())


def root_of(each):
    while each.parent is not None:
        each = each.parent
    return each


@app.get("/counts")
def show_counts():
    gc.collect()
    every = gc.get_objects()
    return counts | {
        "greenlets": sum(isinstance(each, greenlet) and is_ours(each) for each in every),
        "loops": sum(isinstance(each, HubEventLoop) for each in every),
        "fds": len(os.listdir("/proc/self/fd")),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    options = {"handler_class": WebSocketHandler, "log": None}
    if "CERTIFICATE" in os.environ:
        options |= {"keyfile": os.environ["CERTIFICATE"], "certfile": os.environ["CERTIFICATE"]}
    if "POOL" in os.environ:
        options["spawn"] = gevent.pool.Pool(int(os.environ["POOL"]))
    server = WSGIServer(("127.0.0.1", port), app, **options)
    server.stop_timeout = 5
    server.start()
    if "UNIX" in os.environ:
        listener = gevent.socket.socket(gevent.socket.AF_UNIX)
        listener.bind(os.environ["UNIX"])
        listener.listen()
        WSGIServer(listener, app, handler_class=WebSocketHandler, log=None).start()
    stopping = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, stopping.set)
    stopping.wait()
    server.stop()
'''


@pytest.fixture(scope="module", params=["unpatched", "patched"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server, with and without ``monkey.patch_all()``."""
    folder = tmp_path_factory.mktemp("blocking")
    with Server(folder, SOURCE, KIND=request.param, UNIX=str(folder / "socket")) as running:
        # What the first request of all leaves behind is none of the tests'.
        with _open(running, "echo") as client:
            client.send_frame(CLOSE, b"")
            client.read_frame()
        running.get("/page")
        yield running


@pytest.fixture
def before(server: Server) -> dict[str, int]:
    """What is in the process before the test."""
    return _counts(server)


@pytest.fixture
def log(server: Server) -> Callable[[], str]:
    """What the server prints during the test."""
    start = len(server.log())
    return lambda: server.log()[start:]


@pytest.fixture
def back(
    server: Server, before: dict[str, int], log: Callable[[], str], eventually: Eventually
) -> Callable[[], None]:
    """Wait until all that has begun has ended, and nothing is left of it."""

    def wait() -> None:
        def is_back() -> bool:
            now = _counts(server)
            lasting = ("greenlets", "fds", "loops")
            return now["begun"] == now["ended"] and all(now[n] <= before[n] for n in lasting)

        eventually(is_back)
        for amiss in ("never retrieved", "never awaited", "Exception ignored", "still running"):
            assert amiss not in log()

    return wait


def _counts(server: Server) -> dict[str, int]:
    counts: dict[str, int] = json.loads(server.get("/counts")[1])
    return counts


def _told(server: Server) -> list[str]:
    told: list[str] = json.loads(server.get("/told")[1])
    return told


def _open(server: Server, name: str) -> RawClient:
    client = server.raw(f"/{name}")
    assert b" 101 " in client.read_head()
    return client


def _closing(code: int) -> tuple[int, bytes]:
    return CLOSE, struct.pack("!H", code)


def test_what_flask_knows_is_live_and_no_loop_is_started(
    server: Server, back: Callable[[], None]
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        plain.sendall(b"GET /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = plain.makefile("rb").read().decode()
    cookie = head.partition("Set-Cookie: ")[2].partition(";")[0]
    with connect(
        server.url("/knows_flask?x=1&x=2"), additional_headers=[("Cookie", cookie)]
    ) as client:
        for count in (1, 2):
            client.send("tell")
            assert json.loads(client.recv(10)) == {
                "session": "ada",
                "arguments": ["1", "2"],
                "is flask's": True,
                "left": "by before_request",
                "count": count,
                "app": "blocking",
                "url": "/page",
                "greenlet": True,
                "loops": 0,
                "running loop": False,
            }
    back()


def test_others_go_on_meanwhile(server: Server, back: Callable[[], None]) -> None:
    server.get("/hold")
    with _open(server, "sleeps") as sleeper, connect(server.url("/echo")) as other:
        assert sleeper.read_frame() == (TEXT, b"sleeping")
        for n in range(100):
            other.send(str(n))
            assert other.recv(10) == str(n)
        assert server.get("/page") == (200, "the page")
        server.get("/go-on")
    back()


def _all_answered_in_order(server: Server, name: str) -> None:
    """Send at odd times while the handler times out; every message is answered."""

    async def converse(number: int) -> None:
        async with asyncio_connect(server.url(f"/{name}")) as ws:
            sent = timeouts = 0
            while timeouts < 300:
                # Two at once, and then none for a time that drifts against the handler's.
                for n in (sent, sent + 1):
                    await ws.send(f"{number}-{n}")
                for n in (sent, sent + 1):
                    message, _, counted = str(await ws.recv()).partition(" ")
                    assert message == f"{number}-{n}"
                    timeouts = int(counted)
                sent += 2
                await asyncio.sleep(sent % 37 / 10_000)

    async def main() -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(converse(number))

    asyncio.run(main())


def test_thousands_of_timeouts_lose_no_message(server: Server, back: Callable[[], None]) -> None:
    _all_answered_in_order(server, "impatient")
    back()


def test_timeouts_of_the_application_s_lose_no_message(
    server: Server, back: Callable[[], None]
) -> None:
    _all_answered_in_order(server, "timed")
    back()


def test_a_timeout_that_escapes_is_an_error(server: Server, back: Callable[[], None]) -> None:
    with _open(server, "lets_timeout_escape") as client:
        assert client.read_frame() == _closing(1011)
    back()
    assert _told(server)[-1] == "lets_timeout_escape Timeout None"


@pytest.mark.parametrize(
    ("name", "first"), [("waits", b"waiting"), ("sleeps", b"sleeping"), ("has_company", b"tick 0")]
)
def test_a_killed_greenlet_closes_its_connection(
    server: Server, back: Callable[[], None], name: str, first: bytes
) -> None:
    server.get("/hold")
    with _open(server, name) as client:
        assert client.read_frame() == (TEXT, first)
        killed = server.get(f"/kill/{name}")
        assert killed == (200, "")
        while (received := client.read_frame())[0] in (TEXT, PING):
            continue
        assert received == _closing(1012)
    back()
    assert f"{name} GreenletExit None" in _told(server)[-3:]


def test_a_greenlet_killed_before_accept_is_a_503(
    server: Server, back: Callable[[], None], eventually: Eventually
) -> None:
    server.get("/hold")
    for name in ("connecting", "connecting_elsewhere"):
        begun = _counts(server)["begun"]
        with server.raw(f"/{name}") as client:
            eventually(lambda begun=begun: _counts(server)["begun"] == begun + 1)  # type: ignore[misc]  # bound now
            assert server.get(f"/kill/{name}") == (200, "")
            assert b" 503 " in client.read_head()
        assert _told(server)[-1] == f"{name} GreenletExit None"
    back()


def test_two_receives_at_once(server: Server, back: Callable[[], None]) -> None:
    with connect(server.url("/receives_twice")) as client:
        assert client.recv(10) == "refused"
        client.send("one")
        client.send("two")
        assert [client.recv(10), client.recv(10)] == ["first got one", "then two"]
    back()


def test_sends_of_many_greenlets_do_not_mix(server: Server, back: Callable[[], None]) -> None:
    sizes: dict[str, list[int]] = {}
    # A peer that takes little at a time, so that writes stop in the middle.
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    narrow.connect(("127.0.0.1", server.port))
    with connect(server.url("/sends_many"), sock=narrow, max_size=None) as client:
        for message in client:
            assert isinstance(message, str)
            assert message == message[0] * len(message)
            sizes.setdefault(message[0], []).append(len(message))
    assert len(sizes) == 20
    assert all(each == 10 * [1, 10, 200, 40_000, 3] for each in sizes.values())
    back()


def test_keepalive_and_pings_while_the_handler_sleeps(
    server: Server, back: Callable[[], None]
) -> None:
    server.get("/hold")
    with _open(server, "sleeps") as client:
        assert client.read_frame() == (TEXT, b"sleeping")
        client.send_frame(PING, b"are you there")
        seen: list[int] = []
        while seen.count(PING) < 8 or PONG not in seen:
            opcode, payload = client.read_frame()
            seen.append(opcode)
            if opcode == PING:
                client.send_frame(PONG, payload)
            else:
                assert (opcode, payload) == (PONG, b"are you there")
        client.send_frame(TEXT, b"first")
        server.get("/go-on")
        while (received := client.read_frame())[0] == PING:
            client.send_frame(PONG, received[1])
        assert received == (TEXT, b"first")
    back()


def test_a_peer_that_answers_no_ping_is_gone(server: Server, back: Callable[[], None]) -> None:
    server.get("/hold")
    with _open(server, "sleeps") as client:
        while (received := client.read_frame())[0] != CLOSE:
            continue
        assert received == (CLOSE, struct.pack("!H", 1011) + b"keepalive ping timeout")
    server.get("/go-on")
    back()
    assert _told(server)[-1] == "sleeps returned 1006"


def test_a_slow_peer_blocks_its_own_sender_alone(
    server: Server, back: Callable[[], None], eventually: Eventually
) -> None:
    with _open(server, "sends_much") as slow, connect(server.url("/echo")) as other:

        def stands_still() -> bool:
            before = _counts(server)["sent"]
            for n in range(100):
                other.send(str(n))
                assert other.recv(10) == str(n)
            return 0 < before == _counts(server)["sent"]

        eventually(stands_still)
        for _ in range(100):
            assert slow.read_frame() == (BINARY, b"x" * 65536)
        slow.reset()
    back()


def test_a_close_wakes_a_send_that_waits(
    server: Server, before: dict[str, int], eventually: Eventually
) -> None:
    server.get("/hold")
    with _open(server, "closes_beside") as client:

        def stands_still() -> bool:
            sent = _counts(server)["sent"]
            return before["sent"] < sent == _counts(server)["sent"]

        eventually(stands_still)
        server.get("/go-on")
        eventually(lambda: "closes_beside WebSocketDisconnect 4000" in _told(server))
        # Not because the connection was cut: the peer still has its time to read.
        while (received := client.read_frame())[0] == BINARY:
            continue
        assert received == _closing(4000)


def test_waiting_as_patched_code_does(server: Server, back: Callable[[], None]) -> None:
    with connect(server.url("/fed_by_queue")) as client:
        assert client.recv(10) == "ready"
        for n in range(3):
            server.get(f"/put/{n}")
            assert client.recv(10) == str(n)
        server.get("/put/end")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1000
    with connect(server.url("/fetches")) as client:
        for kind in ("text", b"binary"):
            client.send(kind)
            assert client.recv(10) in ("the page", b"the page")
    back()


def test_a_call_of_a_real_thread_is_refused(server: Server, back: Callable[[], None]) -> None:
    with connect(server.url("/called_from_threads")) as client:
        for _ in range(4):
            assert str(client.recv(10)).startswith("RuntimeError: a SyncWebSocket under gevent")
        client.send("unharmed")
        assert client.recv(10) == "unharmed"
    back()


def test_a_real_thread_starts_nothing(server: Server, back: Callable[[], None]) -> None:
    with connect(server.url("/started_by_a_thread")) as client:
        assert str(client.recv(10)).startswith("RuntimeError: a SyncWebSocket under gevent")
        client.send("unharmed")
        assert client.recv(10) == "unharmed"
    back()


def test_functions_beside_the_handler(
    server: Server, log: Callable[[], str], back: Callable[[], None]
) -> None:
    with connect(server.url("/has_company")) as client:
        assert [client.recv(10) for _ in range(3)] == ["tick 0", "tick 1", "tick 2"]
        client.send("enough")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1000
    back()
    assert _told(server)[-2:] == ["has_company returned None", "stays GreenletExit"]
    with connect(server.url("/fails_beside")) as client:
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(10)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1011
    back()
    assert _told(server)[-1] == "fails_beside WebSocketDisconnect 1011"
    assert log().count("LookupError: a secret") == 1


def test_functions_beside_the_handler_know_flask(server: Server, back: Callable[[], None]) -> None:
    with connect(server.url("/knows_flask_beside")) as client:
        assert client.recv(10) == "/knows_flask_beside by before_request blocking"
    back()


def test_a_timeout_beside_the_handler_is_an_error(server: Server, back: Callable[[], None]) -> None:
    with _open(server, "times_out_beside") as client:
        client.socket.settimeout(5)
        assert client.read_frame() == _closing(1011)
    back()
    assert _told(server)[-1] == "times_out_beside WebSocketDisconnect 1011"


def _close(client: RawClient) -> None:
    client.send_frame(CLOSE, struct.pack("!H", 4001))


def _end_stream(client: RawClient) -> None:
    client.socket.shutdown(socket.SHUT_WR)


def _stop_amid_a_message(client: RawClient) -> None:
    client.write(frame(TEXT, b"half a message")[:-3])
    client.socket.shutdown(socket.SHUT_WR)


LEAVING: list[tuple[Callable[[RawClient], None], int]] = [
    (_close, 4001),
    (_end_stream, 1006),
    (_stop_amid_a_message, 1006),
    (RawClient.reset, 1006),
]


@pytest.mark.parametrize(
    ("leave", "code"), LEAVING, ids=lambda value: getattr(value, "__name__", str(value)).strip("_")
)
def test_peers_that_vanish_in_every_state(
    server: Server,
    before: dict[str, int],
    log: Callable[[], str],
    back: Callable[[], None],
    eventually: Eventually,
    leave: Callable[[RawClient], None],
    code: int,
) -> None:
    server.get("/hold")
    told = len(_told(server))
    names = ("waits", "sleeps", "wait_closed", "has_company", "echo", "sends_much")
    clients = [_open(server, name) for name in names]
    not_yet = [server.raw("/connecting"), server.raw("/connecting_elsewhere")]
    everybody = before["begun"] + len(clients) + len(not_yet)
    eventually(lambda: _counts(server)["begun"] == everybody)
    for client in clients:
        leave(client)
    for client in not_yet:
        client.reset() if leave is RawClient.reset else client.close()
    server.get("/go-on")
    for client in clients:
        client.close()
    back()
    ends = set(_told(server)[told:])
    assert {
        f"waits WebSocketDisconnect {code}",
        f"sleeps returned {code}",
        f"code {code}",
        f"wait_closed returned {code}",
        f"has_company WebSocketDisconnect {code}",
        f"echo returned {code}",
        "connecting returned 1006",
        "connecting_elsewhere WebSocketDisconnect 1006",
    } <= ends
    assert log() == ""


def test_a_pool_is_left_as_each_connection_ends(tmp_path: Path, eventually: Eventually) -> None:
    with Server(tmp_path, SOURCE, KIND="unpatched", POOL="3") as server:
        first = [_open(server, "echo") for _ in range(3)]
        # The pool is full: the fourth waits until one of them has left.
        fourth = server.raw("/echo")
        for client in first:
            client.send_frame(TEXT, b"x")
            assert client.read_frame() == (TEXT, b"x")
        fourth.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            fourth.socket.recv(1)
        fourth.socket.settimeout(30)
        first[0].reset()
        with fourth, first[1], first[2]:
            fourth.file = fourth.socket.makefile("rb")
            assert b" 101 " in fourth.read_head()
            server.process.terminate()
            for client in (fourth, *first[1:]):
                assert client.read_frame() == _closing(1012)
        log = server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in log


def test_a_unix_socket(server: Server, back: Callable[[], None]) -> None:
    path = str(Path(server.log_path).parent / "socket")
    with unix_connect(path, uri="ws://localhost/echo", max_size=None) as client:
        for message in ("text", b"binary", bytes(3_000_000)):
            client.send(message)
            assert client.recv(10) == message
    back()


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = str(tmp_path / "localhost.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def main(server: Server) -> None:
        # On asyncio: of a client in threads one reads while the other writes, and
        # before Python 3.13 nothing keeps the two apart within one TLS connection.
        def open_tls(name: str) -> asyncio_connect:
            url = f"wss://localhost:{server.port}/{name}"
            return asyncio_connect(url, ssl=context, host="127.0.0.1", max_size=None)

        async with open_tls("echo") as ws:
            for message in ("text", b"binary", bytes(3_000_000)):
                await ws.send(message)
                assert await ws.recv() == message
        async with open_tls("sends_many") as ws:
            sizes = [len(message) async for message in ws]
            assert sorted(sizes) == sorted(200 * [1, 10, 200, 40_000, 3])
        async with open_tls("impatient") as ws:
            for n in range(50):
                await ws.send(str(n))
                assert str(await ws.recv()).partition(" ")[0] == str(n)
        async with open_tls("waits") as ws:
            assert await ws.recv() == "waiting"
            server.process.terminate()
            with pytest.raises(ConnectionClosed) as caught:
                await ws.recv()
            assert caught.value.rcvd is not None and caught.value.rcvd.code == 1012

    with Server(tmp_path, SOURCE, KIND="unpatched", CERTIFICATE=certificate) as server:
        asyncio.run(asyncio.wait_for(main(server), 60))
        log = server.stop()
    assert server.process.returncode == 0
    # The wait for the server to start is no TLS handshake, and logged as such.
    assert not re.search(r"unisock/(adapters/)?\w+\.py", log), log


def test_what_may_block_is_called_at_once() -> None:
    """A wait in a greenlet lets the others run, so it needs no other place."""
    from unisock.adapters.gevent_runtime import GreenletRuntime
    from unisock.runtime import run_blocking

    assert run_blocking(GreenletRuntime().run_plain(lambda: 5)) == 5
