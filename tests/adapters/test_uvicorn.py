"""uvicorn with unisock's class: as an ASGI server for any application, and past ASGI."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator
from contextlib import closing as closed_after
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from uvicorn.config import WS_PROTOCOLS
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, connect, unix_connect

from tests.servers import RawClient, Server, frame

from .client import closing, rejection, say, talk
from .conftest import Serve

CLASS = "unisock.adapters.uvicorn:WebSocketProtocol"
_PATIENCE = 30.0

# Before 0.36 uvicorn takes a class, by `Config(ws=…)`, and no name of one.
_TAKES_NAMES = tuple(map(int, uvicorn.__version__.split(".")[:2])) >= (0, 36)
by_name = pytest.mark.skipif(not _TAKES_NAMES, reason="--ws takes no class in this uvicorn")
# Before 0.35 it has no class like ours, and the others differ in a few more things.
_IS_OLD = "websockets-sansio" not in WS_PROTOCOLS
_NAMED = f"""
import uvicorn.config
uvicorn.config.WS_PROTOCOLS.setdefault({CLASS!r}, {CLASS!r})
"""

# What an application does, by the path; one that raises is told of in the log.
ASGI = (
    _NAMED
    + """
import asyncio, json, logging
logging.basicConfig(level=logging.INFO)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = ["yes"]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a page"})
        return
    name = scope["path"].removeprefix(scope["root_path"]).strip("/").replace("-", "_")
    assert (await receive())["type"] == "websocket.connect"
    try:
        return await CASES[name](scope, receive, send)
    except Exception as exc:
        print("RAISED", name, type(exc).__mro__[-4].__name__, exc, flush=True)
        raise

async def echo(scope, receive, send):
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            print("ENDED", json.dumps(event), json.dumps(await receive()), flush=True)
            return
        await send({**event, "type": "websocket.send"})

async def tell_scope(scope, receive, send):
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0],
                "headers": [(b"x-own", b"yes")]})
    told = {k: v for k, v in scope.items() if k not in ("headers", "app")}
    told["headers"] = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]]
    told["raw_path"] = told["raw_path"].decode()
    told["query_string"] = told["query_string"].decode()
    await send({"type": "websocket.send", "text": json.dumps(told)})
    await send({"type": "websocket.close"})

async def return_before_accept(scope, receive, send):
    pass

async def return_something(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close"})
    return "something"

async def return_open(scope, receive, send):
    await send({"type": "websocket.accept"})

async def raise_before_accept(scope, receive, send):
    raise ValueError("mine")

async def raise_open(scope, receive, send):
    await send({"type": "websocket.accept"})
    raise ValueError("mine")

async def close_before_accept(scope, receive, send):
    await send({"type": "websocket.close", "code": 4000})

async def send_before_accept(scope, receive, send):
    await send({"type": "websocket.send", "text": "early"})

async def accept_twice(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.accept"})

async def unknown(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.unknown"})

async def unknown_first(scope, receive, send):
    await send({"type": "websocket.unknown"})

async def send_after_close(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
    await send({"type": "websocket.send", "text": "late"})

async def send_after_reject(scope, receive, send):
    await send({"type": "websocket.close"})
    await send({"type": "websocket.send", "text": "late"})

async def accept_after_reject(scope, receive, send):
    await send({"type": "websocket.close"})
    await send({"type": "websocket.accept"})

async def accept_after_close(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
    await send({"type": "websocket.accept"})

async def close_twice(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
    await send({"type": "websocket.close", "code": 4001, "reason": "again"})

async def unknown_after_close(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
    await send({"type": "websocket.unknown"})

async def reject_after_accept(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})

async def body_first(scope, receive, send):
    await send({"type": "websocket.http.response.body", "body": b"early"})

async def reject_twice(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    await send({"type": "websocket.http.response.start", "status": 419, "headers": []})

async def close_amid_rejection(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    await send({"type": "websocket.close"})

async def send_amid_rejection(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    await send({"type": "websocket.send", "text": "early"})

async def body_after_the_last(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"all"})
    await send({"type": "websocket.http.response.body", "body": b"more"})

async def accept_after_a_rejection(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"all"})
    await send({"type": "websocket.accept"})

async def no_type(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"text": "of no type"})

async def no_type_first(scope, receive, send):
    await send({"text": "of no type"})

async def send_what_is_no_text(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": 3})

async def send_bytes_like(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": bytearray(b"\\x01")})
    await send({"type": "websocket.send", "bytes": memoryview(b"\\x02")})
    await send({"type": "websocket.close", "code": 4000, "reason": ""})

async def close_with_no_code_that_may_be_sent(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1005})

async def close_with_a_long_reason(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4000, "reason": "x" * 124})

async def send_nothing(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send"})
    await send({"type": "websocket.send", "text": None, "bytes": b"\\x01"})
    await send({"type": "websocket.close", "code": 4000, "reason": None})

async def reject(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418,
                "headers": [(b"x-own", b"yes"), (b"content-type", b"text/x")]})
    await send({"type": "websocket.http.response.body", "body": b"a ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"teapot"})

async def reject_without_body(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})

async def reject_and_accept(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    await send({"type": "websocket.accept"})

async def reject_with_no_status(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 1000, "headers": []})

async def send_until_it_fails(scope, receive, send):
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "bytes": bytes(10000)})
        await asyncio.sleep(0)

async def accept_when_told(scope, receive, send):
    event = await receive()
    print("GONE", event, flush=True)
    await send({"type": "websocket.accept"})

async def answer_too_late(scope, receive, send):
    event = await receive()
    await send({"type": "websocket.accept"})

async def receive_two(scope, receive, send):
    await send({"type": "websocket.accept"})
    await asyncio.sleep(0.3)
    for _ in range(2):
        event = await receive()
        await send({**event, "type": "websocket.send"})
    await send({"type": "websocket.close"})

CASES = {name: value for name, value in globals().items() if asyncio.iscoroutinefunction(value)}
"""
)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Server:
    """The applications' cases on the class."""
    return serve(ASGI, ws=CLASS, root_path="/root", headers=[("x-default", "yes")])


@pytest.fixture(scope="module")
def native(serve: Serve) -> Server:
    """The same on uvicorn's own class."""
    ws = "wsproto" if _IS_OLD else "websockets-sansio"
    return serve(ASGI, ws=ws, root_path="/root", headers=[("x-default", "yes")])


def outcome(server: Server, name: str) -> tuple[object, ...]:
    """What a client sees of a case."""
    try:
        with talk(server, f"/{name}") as client:
            got = []
            try:
                while True:
                    got.append(client.recv(_PATIENCE))
            except ConnectionClosed as exc:
                end = (exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else (1006, "")
                return "open", *got, *end
    except InvalidStatus as exc:
        return "rejected", exc.response.status_code
    except (InvalidMessage, EOFError, ConnectionError):
        return ("nothing",)


def raised(server: Server, name: str) -> list[str]:
    """What the application saw raised, and what the server says of it."""
    case = name.replace("-", "_")
    said = re.findall(rf"^RAISED {case} (.*)$", server.log(), re.MULTILINE)
    # The classes differ in words, and not in the type.
    return [line.split(" ", 1)[0] for line in said]


@pytest.mark.parametrize(
    "name",
    [
        "return-before-accept",
        "raise-before-accept",
        "close-before-accept",
        "send-before-accept",
        "accept-twice",
        "unknown",
        "unknown-first",
        "send-after-close",
        "send-after-reject",
        "send-nothing",
        "return-something",
        "reject",
        "reject-and-accept",
        "reject-with-no-status",
    ],
)
def test_what_an_application_does_is_answered_as_by_uvicorns_own(
    name: str, server: Server, native: Server
) -> None:
    ours, theirs = outcome(server, name), outcome(native, name)
    if name in {"accept-twice", "unknown"}:
        # uvicorn ends the TCP connection without a close frame; a client knows as much of that
        # as of a broken network.
        assert (ours, theirs) == (("open", 1011, ""), ("open", 1006, ""))
    elif name == "send-nothing" and _IS_OLD:
        assert ours == ("open", b"\1", 4000, "")
        return
    elif name == "reject-and-accept":
        assert (ours, theirs) == (("rejected", 500), ("nothing",))
    else:
        assert ours == theirs
    deadline = time.monotonic() + 5  # the log may come later than the answer
    while raised(server, name) != raised(native, name):
        assert time.monotonic() < deadline, (raised(server, name), raised(native, name))
        time.sleep(0.05)


class Wrong(NamedTuple):
    """What becomes of an application's mistake."""

    seen: tuple[object, ...]
    raised: str = "RuntimeError"
    natively: tuple[object, ...] | None = None
    """What the client sees with uvicorn's own class, where that is not the same."""
    natively_raised: str | None = None


_FAILS, _CUT = ("open", 1011, ""), ("open", 1006, "")
_IS_500, _NOTHING = ("rejected", 500), ("nothing",)
_CLOSED = ("open", 4000, "bye")
WRONG = {
    "accept-after-reject": Wrong(("rejected", 403)),
    "accept-after-close": Wrong(_CLOSED),
    "close-twice": Wrong(_CLOSED),
    "unknown-after-close": Wrong(_CLOSED),
    "reject-after-accept": Wrong(_FAILS, natively=_CUT),
    "body-first": Wrong(_IS_500),
    "reject-without-body": Wrong(_IS_500, "", _NOTHING),
    "reject-twice": Wrong(_IS_500, natively=_NOTHING),
    "close-amid-rejection": Wrong(_IS_500, natively=_NOTHING),
    "send-amid-rejection": Wrong(_IS_500, natively=_NOTHING),
    "accept-after-a-rejection": Wrong(("rejected", 418)),
    "body-after-the-last": Wrong(("rejected", 418), natively_raised="AssertionError"),
    "no-type": Wrong(_FAILS, "LookupError", _CUT),
    "no-type-first": Wrong(_IS_500, "LookupError"),
    "send-what-is-no-text": Wrong(_FAILS, "TypeError", _CUT, "AttributeError"),
    "send-bytes-like": Wrong(("open", b"\1", b"\2", 4000, ""), ""),
    "close-with-no-code-that-may-be-sent": Wrong(_FAILS, "ValueError", _CUT, "WebSocketException"),
    "close-with-a-long-reason": Wrong(("open", 4000, "x" * 123), "", _CUT, "WebSocketException"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_an_application_does_wrong(name: str, server: Server, native: Server) -> None:
    wrong = WRONG[name]
    expected = [(server, wrong.seen, wrong.raised)]
    if not _IS_OLD:
        natively = wrong.raised if wrong.natively_raised is None else wrong.natively_raised
        expected.append((native, wrong.natively or wrong.seen, natively))
    for one, seen, what in expected:
        assert outcome(one, name) == seen
        if what:
            one.wait_for_log(f"RAISED {name.replace('-', '_')} ")
        assert raised(one, name) == ([what] if what else [])


def test_a_rejection_without_its_body_is_told_of(server: Server) -> None:
    assert outcome(server, "reject-without-body") == ("rejected", 500)
    server.wait_for_log("ASGI callable returned without completing handshake.")


def test_an_application_that_ends_too_early_is_told_of(server: Server) -> None:
    assert outcome(server, "return-open") == ("open", 1000, "")
    assert outcome(server, "raise-open") == ("open", 1011, "")
    log = server.wait_for_log("ValueError: mine")
    assert "Exception in ASGI application" in log
    assert outcome(server, "return-something") == ("open", 1000, "")
    server.wait_for_log("ASGI callable should return None, but returned 'something'.")


def test_the_scope_is_that_of_uvicorn(server: Server, native: Server) -> None:
    import json

    scopes: list[Any] = []
    for one in (server, native):
        with talk(
            one,
            "/tell%2Dscope?a=%20b",
            subprotocols=["chat", "superchat"],
            compression=None,
            additional_headers={"X-Latin": "h\xe9"},
        ) as client:
            scope = json.loads(client.recv(_PATIENCE))
            assert client.subprotocol == "chat"
            assert client.response is not None
            assert client.response.headers["x-own"] == "yes"
            assert client.response.headers["x-default"] == "yes"
            assert client.response.headers["server"] == "uvicorn"
        assert scope["client"][0] == "127.0.0.1"
        assert scope["server"] == ["127.0.0.1", one.port]
        for field in ("client", "server"):
            del scope[field]
        scope["headers"] = [
            (name, value)
            for name, value in scope["headers"]
            if name not in {"host", "sec-websocket-key"}
        ]
        scopes.append(scope)
    if _IS_OLD:
        del scopes[0]["headers"], scopes[1]["headers"]  # in which wsproto leaves out some
    assert scopes[0] == scopes[1]
    assert scopes[0]["state"] == {"started": ["yes"]}


def test_the_ends_that_an_application_sees(server: Server) -> None:
    for code, reason in ((4001, "bye"), (1000, ""), (1005, "")):
        with talk(server, "/echo") as client:
            client.send("hello")
            assert client.recv(_PATIENCE) == "hello"
            client.send(b"\0\1")
            assert client.recv(_PATIENCE) == b"\0\1"
            if code == 1005:
                client.socket.sendall(b"\x88\x80\0\0\0\0")
                with pytest.raises(ConnectionClosed):
                    client.recv(_PATIENCE)
            else:
                client.close(code, reason)
        event = f'{{"type": "websocket.disconnect", "code": {code}, "reason": "{reason}"}}'
        server.wait_for_log(f"ENDED {event} {event}")  # asked again, it says so again
    with server.raw("/echo") as raw:
        raw.read_head()
    server.wait_for_log('ENDED {"type": "websocket.disconnect", "code": 1006, "reason": ""}')


def test_an_application_learns_that_the_client_has_gone(server: Server) -> None:
    with server.raw("/send-until-it-fails") as raw:
        raw.read_head()
        raw.reset()
    log = server.wait_for_log("RAISED send_until_it_fails")
    # Of which nothing is said: a client may go at any time.
    assert "OSError" in re.findall(r"RAISED send_until_it_fails (\S+)", log)
    server.raw("/accept-when-told").reset()
    server.wait_for_log("GONE {'type': 'websocket.disconnect', 'code': 1006, 'reason': ''}")
    assert "Exception in ASGI application\n\n" not in server.log()


def test_bad_handshakes(server: Server) -> None:
    def status(head: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), _PATIENCE) as sock:
            sock.sendall(head)
            return sock.makefile("rb").readline().split(b" ")[1]

    good = (
        b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert status(good) == b"101"
    assert status(good.replace(b": 13", b": 8")) == b"426"
    assert status(good.replace(b"dGhl", b"?Ghl")) == b"400"
    assert status(good.replace(b"GET", b"PUT")) == b"405"
    assert status(good.replace(b"Host: x", b"Host: x\r\nX-Long: " + b"x" * 70_000)) in {
        b"431",
        b"400",  # uvicorn's own answer, where the head does not come in one piece
    }
    assert status(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b"200"


def test_unread_messages_pause_the_peer_and_none_is_lost(serve: Serve) -> None:
    server = serve(ASGI, ws=CLASS, ws_max_queue=1, ws_max_size=100_000, ws_ping_interval=None)
    with talk(server, "/receive-two", compression=None) as client:
        client.send("a" * 100_000)
        client.send("b" * 100_000)
        assert [client.recv(_PATIENCE)[:1], client.recv(_PATIENCE)[:1]] == ["a", "b"]
    with talk(server, "/echo", compression=None) as client:
        client.send("a" * 100_001)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(_PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


def test_pings_and_their_timeout(serve: Serve) -> None:
    server = serve(ASGI, ws=CLASS, ws_ping_interval=0.2, ws_ping_timeout=0.3)
    with server.raw("/echo") as raw:
        raw.read_head()
        seen = []
        while (answer := raw.read_frame())[0] != -1:
            seen.append(answer)
    assert seen[0] == (9, b"")
    assert seen[-1] == (8, (1011).to_bytes(2, "big") + b"keepalive ping timeout")
    # One that answers is not closed; the client of `websockets` does.
    with talk(server, "/echo") as client:
        time.sleep(1)
        client.send("still there")
        assert client.recv(_PATIENCE) == "still there"


def test_a_large_frame_that_comes_slowly_is_a_sign_of_life(serve: Serve) -> None:
    server = serve(
        HANDLERS + APPS["starlette"], ws=CLASS, ws_ping_interval=0.4, ws_ping_timeout=0.4
    )
    with server.raw("/ws") as raw:
        raw.read_head()
        large = frame(2, bytes(40_000))
        for start in range(0, len(large), len(large) // 20):
            raw.write(large[start : start + len(large) // 20])
            time.sleep(0.1)
        while (answer := raw.read_frame())[0] in {1, 9}:
            """The greeting, and pings."""
        assert answer == (2, bytes(40_000))


# In a process of its own, for it takes all the time that it gets.
ATTACK = """
import sys
from tests.servers import RawClient
flood = bytes.fromhex(sys.argv[2]) * 20_000
with RawClient(int(sys.argv[1]), "/ws") as raw:
    raw.read_head()
    raw.send_frame(1, b"begins", fin=False)
    raw.socket.setblocking(False)
    print("begins", flush=True)
    while True:
        try:
            flood = flood[raw.socket.send(flood):] or bytes.fromhex(sys.argv[2]) * 20_000
        except BlockingIOError:
            pass
        try:
            raw.socket.recv(1 << 20)
        except BlockingIOError:
            pass
"""


@pytest.mark.parametrize("flood", [frame(9, b""), frame(0, b"", fin=False), frame(10, b"x")])
def test_another_connection_is_served_during_a_flood(serve: Serve, flood: bytes) -> None:
    server = serve(HANDLERS + APPS["starlette"], ws=CLASS)
    with subprocess.Popen(
        [sys.executable, "-c", ATTACK, str(server.port), flood.hex()],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as attacker:
        try:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == b"begins\n"
            with talk(server) as client:
                client.recv(_PATIENCE)
                waits = []
                for _ in range(50):
                    started = time.monotonic()
                    client.send("hello")
                    assert client.recv(_PATIENCE) == "hello"
                    waits.append(time.monotonic() - started)
            assert attacker.poll() is None
        finally:
            attacker.kill()
    # Some milliseconds where the machine is free; with uvicorn's own class up to a second.
    assert sorted(waits)[25] < 0.5


@pytest.mark.parametrize("deflates", [True, False])
def test_compression(serve: Serve, deflates: bool) -> None:
    server = serve(ASGI, ws=CLASS, ws_per_message_deflate=deflates)
    with talk(server, "/echo") as client:
        assert client.response is not None
        header = client.response.headers.get("sec-websocket-extensions")
        assert (header is not None) == deflates
        for message in ("hello", "hello " * 20_000, b"\xfe" * 70_000, ""):
            client.send(message)
            assert client.recv(_PATIENCE) == message


@pytest.mark.parametrize("level", ["info", "trace", "warning"])
def test_log_lines(serve: Serve, level: str) -> None:
    server = serve(ASGI, ws=CLASS, log_level=level)
    assert say(server, "/echo?a=b") == "hello"
    assert rejection(server, "/reject?why").status == 418
    assert outcome_of_root(server, "close-before-accept") == 403
    if level == "trace":
        server.wait_for_log("WebSocket connection lost")
        assert re.search(r"127.0.0.1:\d+ - WebSocket connection made", server.log())
    if level == "warning":
        assert "WebSocket" not in server.log()
    else:
        log = server.wait_for_log('"WebSocket /close-before-accept" 403')
        assert re.search(r'127.0.0.1:\d+ - "WebSocket /echo\?a=b" \[accepted\]', log)
        assert re.search(r'127.0.0.1:\d+ - "WebSocket /reject\?why" 418', log)


def test_a_client_forges_no_log_line(serve: Serve) -> None:
    """The address that a proxy names may hold what a terminal takes for an order."""
    server = serve(ASGI, ws=CLASS)
    with closed_after(server.raw("/echo", "X-Forwarded-For: 192.0.2.7\x9b2K")) as raw:
        assert b" 101 " in raw.read_head()
    log = server.wait_for_log("[accepted]")
    assert r'192.0.2.7\x9b2K:0 - "WebSocket /echo" [accepted]' in log
    assert "\x9b" not in log


def outcome_of_root(server: Server, name: str) -> int:
    return rejection(server, f"/{name}").status


def test_a_server_that_stops_closes_with_1012(serve: Serve) -> None:
    server = serve(ASGI, ws=CLASS, timeout_graceful_shutdown=5)
    with talk(server, "/echo") as client:
        with (
            server.raw("/answer-too-late") as waiting,
            socket.create_connection(("127.0.0.1", server.port), _PATIENCE) as refused,
        ):
            refused.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            )
            assert refused.recv(100).startswith(b"HTTP/1.1 426 ")
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            assert waiting.read_head().startswith(b"HTTP/1.1 503 ")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(_PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
    log = server.stop()
    assert "Finished server process" in log
    assert '"code": 1012' in log
    # It is told that the client has gone, which is no error of its own.
    assert "RAISED answer_too_late OSError" in log
    assert "Exception in ASGI application" not in log


# Past ASGI

HANDLERS = (
    _NAMED
    + """
import logging
import unisock
logging.basicConfig(level=logging.INFO)

async def echo(ws):
    await ws.accept()
    is_direct = ws._transport._direct is not None
    await ws.send(f"direct: {is_direct}")
    async for message in ws:
        await ws.send(message)
"""
)
APPS = {
    "asgi": "from unisock.adapters.asgi import ASGIApp\napp = ASGIApp(echo)",
    "starlette": "from starlette.applications import Starlette\napp = Starlette()\n"
    "unisock.mount(app, '/ws', echo)",
    "starlette below another": "from starlette.applications import Starlette\n"
    "from starlette.routing import Mount\nbelow = Starlette()\n"
    "app = Starlette(routes=[Mount('/', below)])\nunisock.mount(below, '/ws', echo)",
    "fastapi": "from fastapi import FastAPI\napp = FastAPI()\nunisock.mount(app, '/ws', echo)",
    "fastapi with a dependency": "from fastapi import Depends, FastAPI\napp = FastAPI()\n"
    "async def needed(): return 1\n"
    "unisock.mount(app, '/ws', echo, dependencies=[Depends(needed)])",
    "falcon": "import falcon.asgi\napp = falcon.asgi.App()\nunisock.mount(app, '/ws', echo)",
}
WRAPS = (
    "from starlette.applications import Starlette\nfrom starlette.middleware import Middleware\n"
    "class Wraps:\n"
    "    def __init__(self, app): self.app = app\n"
    "    async def __call__(self, scope, receive, send):\n"
    "        async def wrapped(event): await send(event)\n"
    "        await self.app(scope, receive, wrapped)\n"
    "app = Starlette(middleware=[Middleware(Wraps)])\nunisock.mount(app, '/ws', echo)"
)
WRAPS_RECEIVE = WRAPS.replace(
    "wrapped(event): await send(event)", "wrapped(): return await receive()"
).replace("receive, wrapped)", "wrapped, send)")


@pytest.mark.parametrize("name", APPS)
def test_a_handler_is_reached_without_events(serve: Serve, name: str) -> None:
    server = serve(HANDLERS + APPS[name], ws=CLASS)
    with talk(server) as client:
        assert client.recv(_PATIENCE) == "direct: True"
        client.send("hello")
        assert client.recv(_PATIENCE) == "hello"
    assert '"WebSocket /ws" [accepted]' in server.log()


@pytest.mark.parametrize("source", [WRAPS, WRAPS_RECEIVE])
def test_what_wraps_the_callables_sees_events(serve: Serve, source: str) -> None:
    server = serve(HANDLERS + source, ws=CLASS)
    with talk(server) as client:
        assert client.recv(_PATIENCE) == "direct: False"
        client.send("hello")
        assert client.recv(_PATIENCE) == "hello"


FILLS = """
import asyncio, time
async def fills(ws):
    await ws.accept()
    stuck = asyncio.create_task(fill(ws))
    await ws.receive()
    started = time.monotonic()
    await ws.close(4000, "enough")
    print("CLOSED after", round(time.monotonic() - started, 2), flush=True)
    await asyncio.wait([stuck])
    print("STUCK", type(stuck.exception()).__name__, flush=True)

async def fill(ws):
    while True:
        await ws.send(bytes(100_000))

unisock.mount(app, "/fills", fills, close_timeout=3.0)
"""


@pytest.mark.parametrize("reads", [True, False])
def test_a_close_waits_until_the_peer_takes_it(serve: Serve, reads: bool) -> None:
    server = serve(HANDLERS + APPS["starlette"] + FILLS, ws=CLASS)
    with server.raw("/fills") as raw:
        raw.read_head()
        time.sleep(0.5)  # by now what the system holds for it is full
        raw.send_frame(1, b"close")
        time.sleep(1)
        assert "CLOSED" not in server.log()
        if reads:
            while (answer := raw.read_frame())[0] == 2:
                assert len(answer[1]) == 100_000
            assert answer == (8, (4000).to_bytes(2, "big") + b"enough")
        log = server.wait_for_log("STUCK WebSocketDisconnect")
        seconds = float(re.findall(r"CLOSED after (\S+)", log)[0])
        assert 0.9 < seconds < 2.9 if reads else 2.9 < seconds < 10
        if not reads:  # it is cut: what was under way comes, and the end
            with suppress(ConnectionError):
                while raw.socket.recv(1 << 20):
                    """The system sends that yet."""


def test_native_handlers(serve: Serve) -> None:
    source = """
        import falcon.asgi
        from fastapi import FastAPI
        from starlette.applications import Starlette
        from starlette.routing import WebSocketRoute, Mount
        from starlette.websockets import WebSocket

        async def echo(ws):
            await ws.accept()
            async for text in ws.iter_text():
                await ws.send_text(text)

        api = FastAPI()

        @api.websocket("/ws")
        async def api_echo(ws: WebSocket):
            await echo(ws)

        class Echo:
            async def on_websocket(self, req, ws):
                await ws.accept()
                while True:
                    await ws.send_text(await ws.receive_text())

        other = falcon.asgi.App()
        other.add_route("/falcon/ws", Echo())
        starlette = Starlette(routes=[WebSocketRoute("/ws", echo), Mount("/api", api)])

        async def app(scope, receive, send):
            is_falcon = scope.get("path", "").startswith("/falcon")
            await (other if is_falcon else starlette)(scope, receive, send)
    """
    server = serve(_NAMED + textwrap.dedent(source), ws=CLASS)
    for path in ("/ws", "/api/ws", "/falcon/ws"):
        assert say(server, path) == "hello"
    assert "Traceback" not in server.log()


# By command

APP_SOURCE = HANDLERS + APPS["starlette"]


@contextmanager
def command(folder: Path, *arguments: str, source: str = APP_SOURCE) -> Generator[Path]:
    """``uvicorn`` with the class and more arguments, in a folder with ``app.py``."""
    (folder / "app.py").write_text(source)
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--ws", CLASS, *arguments, "app:app"],
            cwd=folder,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )
        try:
            yield log
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_PATIENCE)
            finally:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def until(connecting: Callable[[], ClientConnection]) -> ClientConnection:
    """Connect as soon as the server is there."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return connecting()
        except (OSError, InvalidStatus):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def greet(client: ClientConnection) -> None:
    with client:
        assert client.recv(_PATIENCE) == "direct: True"
        client.send("hello")
        assert client.recv(_PATIENCE) == "hello"


@by_name
def test_workers(tmp_path: Path) -> None:
    port = free_port()
    with command(tmp_path, "--workers", "2", "--port", str(port)):
        for _ in range(4):
            greet(until(lambda: connect(f"ws://127.0.0.1:{port}/ws")))


def _change_until_it_ends(file: Path, client: ClientConnection) -> None:
    """Again and again: uvicorn sees no change of a file that it has not looked at before."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        file.write_text(APP_SOURCE.replace('f"direct', 'f"new, direct'))
        with suppress(TimeoutError):
            client.recv(1)


@by_name
def test_reload(tmp_path: Path) -> None:
    port = free_port()
    with command(tmp_path, "--reload", "--reload-dir", ".", "--port", str(port)) as log:
        greet(until(lambda: connect(f"ws://127.0.0.1:{port}/ws")))
        with until(lambda: connect(f"ws://127.0.0.1:{port}/ws")) as client:
            client.recv(_PATIENCE)
            with pytest.raises(ConnectionClosed) as caught:
                _change_until_it_ends(tmp_path / "app.py", client)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012

        deadline = time.monotonic() + _PATIENCE
        greeting: str | bytes = ""
        while greeting != "new, direct: True":
            assert time.monotonic() < deadline
            with until(lambda: connect(f"ws://127.0.0.1:{port}/ws")) as client:
                greeting = client.recv(_PATIENCE)
    assert "Traceback" not in log.read_text()


@by_name
def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with command(tmp_path, "--uds", path):
        greet(until(lambda: unix_connect(path, "ws://localhost/ws")))


@by_name
def test_tls(tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    certificate.private_key_pem.write_to_path(key)
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(cert, append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = free_port()
    source = APP_SOURCE.replace('f"direct', 'f"{ws.url.scheme} direct') + textwrap.dedent(
        """
        async def large(ws):
            await ws.accept()
            for _ in range(20):
                await ws.send(bytes(200_000))
            await ws.close(4000, "all of it")
        unisock.mount(app, "/large", large)
        """
    )
    arguments = ["--ssl-keyfile", str(key), "--ssl-certfile", str(cert), "--port", str(port)]
    with command(tmp_path, *arguments, source=source) as log:
        url = f"wss://localhost:{port}"
        with until(lambda: connect(f"{url}/ws", ssl=context)) as client:
            assert client.recv(_PATIENCE) == "wss direct: True"
            client.send("hello" * 50_000)
            assert client.recv(_PATIENCE) == "hello" * 50_000
            client.socket.sendall(b"\x83\x80\0\0\0\0")
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(_PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1002
        with connect(f"{url}/large", ssl=context) as client:
            for _ in range(20):
                assert len(client.recv(_PATIENCE)) == 200_000
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(_PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.reason == "all of it"
        with pytest.raises(InvalidStatus) as rejected:
            connect(f"{url}/none", ssl=context).close()
        assert rejected.value.response.status_code == 403
    assert "Traceback" not in log.read_text()
    assert "without completing" not in log.read_text()


@by_name
def test_proxy_headers(tmp_path: Path) -> None:
    port = free_port()
    source = APP_SOURCE.replace('f"direct', 'f"{ws.request.client.host} {ws.url.scheme} direct')
    with command(tmp_path, "--proxy-headers", "--port", str(port), source=source):
        headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
        client = until(lambda: connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers))
        with client:
            assert client.recv(_PATIENCE) == "192.0.2.7 wss direct: True"


@by_name
def test_uvloop(tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    port = free_port()
    with command(tmp_path, "--loop", "uvloop", "--port", str(port)) as log:
        greet(until(lambda: connect(f"ws://127.0.0.1:{port}/ws")))
        with closed_after(RawClient(port, "/ws")) as raw:
            raw.read_head()
            raw.write(b"\x83\x80\0\0\0\0")
            raw.read_frame()
            assert raw.read_frame()[1][:2] == (1002).to_bytes(2, "big")
            assert raw.read_frame() == (-1, b"")
    assert "Traceback" not in log.read_text()


def test_the_class_by_config(serve: Serve) -> None:
    server = serve(
        HANDLERS + APPS["starlette"] + "\n"
        "from unisock.adapters.uvicorn import WebSocketProtocol\n"
        "import os, uvicorn\n"
        "config = uvicorn.Config(app, port=int(os.environ['PORT']), ws=WebSocketProtocol)\n"
        "uvicorn.Server(config).run()\n"
        "raise SystemExit\n"
    )
    with talk(server) as client:
        assert client.recv(_PATIENCE) == "direct: True"
    assert closing(server, "/ws", max_size=1).code in {1006, 1009}
