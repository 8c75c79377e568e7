"""A handler as an ASGI application."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import trio
import trustme
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.adapters.client import rejection, say, talk
from tests.adapters.conftest import Serve
from tests.servers import Server, uvicorn
from unisock import WebSocket
from unisock.adapters.asgi import ASGIApp, ASGIHandshake, capabilities_of

SOURCE = """
from starlette.applications import Starlette
from starlette.routing import Mount
from unisock.adapters.asgi import ASGIApp

async def where(ws):
    await ws.accept()
    await ws.receive()
    await ws.send(f"{ws.url.path} {type(ws.request).__name__}")

app = Starlette(routes=[Mount("/chat", app=ASGIApp(where))])
"""
ROUTED = """
from starlette.applications import Starlette
from starlette.routing import Mount
from unisock.adapters.asgi import ASGIApp

async def tell(ws):
    await ws.accept()
    await ws.send(repr(ws.path_params["n"]))

bare = ASGIApp(tell, path="/rooms/{n:int}")
app = Starlette(routes=[Mount("/chat", app=bare), Mount("/", app=bare)])
"""
BARE = SOURCE + "\napp = ASGIApp(where)\n"


@pytest.fixture(scope="module")
def bare(serve: Serve) -> Server:
    return serve(BARE, lifespan="on")


async def handler(ws: WebSocket) -> None:
    await ws.accept()


def test_the_bare_application(bare: Server) -> None:
    assert say(bare, "/any/where") == "/any/where dict"


def test_a_request_that_is_no_handshake_is_told_so(bare: Server) -> None:
    assert bare.get("/ws") == (426, "this is a WebSocket endpoint\n")


def test_lifespan_is_answered(serve: Serve) -> None:
    server = serve(BARE, lifespan="on")
    log = server.stop()
    assert "Application startup complete" in log
    assert "Application shutdown complete" in log


def test_a_mount_of_a_framework_stays_in_the_path(serve: Serve) -> None:
    server = serve(SOURCE)
    assert say(server, "/chat/room%201") == "/chat/room 1 dict"


@pytest.mark.parametrize(
    ("root_path", "raw_path", "url"),
    [
        (None, "/a%20b", "/a%20b"),
        ("", "/a%20b", "/a%20b"),
        ("/", "/a%20b", "/a%20b"),
        # uvicorn's --root-path, and a Mount: it is in the path
        ("/app", "/app/a%20b", "/app/a%20b"),
        ("/app", "/app", "/app"),
        ("/the app", "/the%20app/a", "/the%20app/a"),
        # hypercorn's and granian's, and FastAPI(root_path=)
        ("/app", "/a%20b", "/app/a%20b"),
        ("/app/", "/a%20b", "/app/a%20b"),
        ("/the app", "/a", "/the%20app/a"),
        ("/app", "/application", "/app/application"),
    ],
)
def test_the_url_below_a_root_path(root_path: str | None, raw_path: str, url: str) -> None:
    scope = {"path": unquote(raw_path), "query_string": b"", "headers": []}
    if root_path is not None:
        scope["root_path"] = root_path
    for more in ({}, {"raw_path": raw_path.encode()}):
        assert ASGIHandshake(scope | more).url == f"ws://{url}"


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (None, None),
        (("", "0"), None),  # granian's unix socket
        (["127.0.0.1", 4711], ("127.0.0.1", 4711)),
        (("127.0.0.1", "4711"), ("127.0.0.1", 4711)),  # granian's
        (("::1", 4711, 0, 0), ("::1", 4711)),
        (("203.0.113.9", 0), ("203.0.113.9", 0)),
        (("203.0.113.9", None), ("203.0.113.9", 0)),
    ],
)
def test_the_client_of_a_scope(client: Any, address: tuple[str, int] | None) -> None:
    assert ASGIHandshake({"client": client}).client == address


def test_a_path_of_its_own(serve: Serve) -> None:
    server = serve(ROUTED)
    for path in ("/rooms/7", "/chat/rooms/7"):
        with talk(server, path) as client:
            assert client.recv(30) == "7"
    for path in ("/rooms/x", "/other", "/rooms/7/"):
        assert rejection(server, path).status == 404
    with pytest.raises(ValueError, match="slash"):
        ASGIApp(handler, path="ws")


def test_trio_is_told_clearly() -> None:
    async def never(*args: Any) -> Any:
        raise AssertionError("the connection was touched")

    async def main() -> None:
        await ASGIApp(handler)({"type": "websocket"}, never, never)

    with pytest.raises(RuntimeError, match="unisock runs on asyncio"):
        trio.run(main)


def test_a_rejected_origin_is_no_error_to_the_server(serve: Serve) -> None:
    server = serve(BARE)
    for _ in range(5):
        assert rejection(server, "/ws", origin="https://evil.example").status == 403
    log = server.stop()
    assert log.count("handshake rejected") == 5
    assert "without completing handshake" not in log


def test_what_is_no_handler_or_option_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="takes one argument"):
        ASGIApp(lambda: None)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(TypeError, match="did you mean 'origins'"):
        ASGIApp(handler, origin="*")  # type: ignore[call-arg]  # that is the test


def test_what_old_servers_do_instead() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        async def rejecting(ws: WebSocket) -> None:
            await ws.reject(418)

        async def connect() -> Any:
            return {"type": "websocket.connect"}

        async def disconnect() -> Any:
            return {"type": "websocket.disconnect", "code": 1006}

        scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": []}
        # No rejection by HTTP: a close, which is a 403.
        await ASGIApp(rejecting)(dict(scope), connect, send)
        assert [message["type"] for message in sent] == ["websocket.close"]
        # A client that has gone before the application was asked.
        await ASGIApp(handler)(dict(scope), disconnect, send)
        assert len(sent) == 1

    asyncio.run(main())


REJECTION: dict[str, Any] = {"websocket.http.response": {}}
GRANIAN: dict[str, Any] = {**REJECTION, "http.response.pathsend": {}}


DAPHNE: dict[str, Any] = {"asgi": {"version": "3.0"}}
OWN = ("own_close_code", "own_close_reason")


@pytest.mark.parametrize(
    ("scope", "lacks"),
    [
        ({"asgi": {"spec_version": "2.4"}, "extensions": REJECTION}, set()),
        ({"asgi": {"spec_version": "2.10"}, "extensions": REJECTION}, set()),
        ({"asgi": {"spec_version": "2.4"}}, {"http_rejection"}),
        (
            {"asgi": {"spec_version": "2.3"}, "extensions": REJECTION},
            {"close_code", "close_reason"},
        ),
        ({"asgi": {}, "extensions": None}, {"close_code", "close_reason", "http_rejection"}),
        ({"asgi": {}, "extensions": GRANIAN}, {"accept_headers", "close_reason"}),
        ({"extensions": REJECTION}, {"close_code", "close_reason"}),
        (DAPHNE, {"accept_headers", "http_rejection", "close_reason", *OWN}),
        # What middleware adds for a proxy makes no other server of it.
        ({**DAPHNE, "scheme": "wss"}, {"accept_headers", "http_rejection", "close_reason", *OWN}),
        (
            {"asgi": {"version": "3.0"}, "http_version": "1.1"},
            {"close_code", "close_reason", "http_rejection"},
        ),
    ],
)
def test_capabilities_are_told_by_the_scope(scope: dict[str, Any], lacks: set[str]) -> None:
    capabilities = capabilities_of(scope)
    names = ("accept_headers", "subprotocol", "http_rejection", "close_code", "close_reason")
    assert {name for name in (*names, *OWN) if not getattr(capabilities, name)} == lacks


@pytest.mark.parametrize("name", [b"origin", b"Origin"])
def test_an_origin_counts_however_its_header_is_spelt(name: bytes) -> None:
    """Middleware may leave what no server does."""
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {
        "type": "websocket", "path": "/", "query_string": b"",
        "headers": [(b"host", b"app.example"), (name, b"https://evil.example")],
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    asyncio.run(ASGIApp(handler)(scope, receive, send))
    assert sent[0]["status"] == 403


def test_a_server_of_before_2_4_is_read_until_the_peer_has_closed() -> None:
    """And left at once where the application is cancelled; there is no reader then."""

    async def main() -> None:
        for last in ("disconnect", "cancel"):
            events = asyncio.Queue[dict[str, Any]]()
            events.put_nowait({"type": "websocket.connect"})
            sent = asyncio.Queue[Any]()
            scope: dict[str, Any] = {
                "type": "websocket", "path": "/", "query_string": b"", "headers": [],
                "asgi": {"spec_version": "2.3"}, "extensions": {"websocket.http.response": {}},
            }  # fmt: skip
            application = asyncio.create_task(ASGIApp(handler)(scope, events.get, sent.put))
            assert (await sent.get())["type"] == "websocket.accept"
            assert (await sent.get())["type"] == "websocket.close"
            for n in range(50):
                events.put_nowait({"type": "websocket.receive", "text": str(n)})
            while not events.empty():
                await asyncio.sleep(0)
            assert not application.done()
            if last == "cancel":
                application.cancel()
            else:
                events.put_nowait({"type": "websocket.disconnect", "code": 1000})
            await asyncio.wait([application])
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/rooms/a b", "rooms/a b"])
def test_a_path_without_its_bytes(path: str) -> None:
    # Litestar mounts an application at a path without the first slash.
    handshake = ASGIHandshake({"type": "websocket", "path": path})
    assert handshake.raw_path == "/rooms/a%20b"


REJECTS = """
import logging
from unisock.adapters.asgi import ASGIApp
logging.basicConfig(level=logging.INFO)

async def rejects(ws):
    await ws.reject(418, b"no")

app = ASGIApp(rejects, path="/ws")
"""


@pytest.mark.parametrize("ws", ["websockets-sansio", "websockets", "wsproto"])
def test_over_tls_a_rejection_is_no_error_to_uvicorn(tmp_path: Path, ws: str) -> None:
    """Over TLS a connection takes longer to close, and uvicorn may miss the answer until then."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    certificate.private_key_pem.write_to_path(str(key))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(cert), append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with uvicorn(
        tmp_path, REJECTS, ws=ws, ssl_keyfile=str(key), ssl_certfile=str(cert), log_config=None
    ) as server:
        for path, status, body in (("ws", 418, b"no"), ("none", 404, b"")) * 3:
            with pytest.raises(InvalidStatus) as rejected:
                connect(f"wss://localhost:{server.port}/{path}", ssl=context).close()
            assert rejected.value.response.status_code == status
            assert rejected.value.response.body == body
    assert "without completing" not in server.log(), server.log()
    assert "Traceback" not in server.log(), server.log()
