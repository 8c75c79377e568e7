"""Each configuration of the Deploy page, in a real nginx before each server that it concerns."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect, unix_connect

from tests.deploy.proxied import BROWSER, CONFIGURATIONS, HOST, PAGE, SOCKET, Nginx, Service
from tests.docs.documents import blocks, commands, files

_STARLETTE = """
import unisock
from seen import seen
from starlette.applications import Starlette

app = Starlette()
unisock.mount(app, "/seen", seen)
"""
_FALCON = """
import falcon.asgi
import unisock
from seen import seen

app = falcon.asgi.App()
unisock.mount(app, "/seen", seen)
"""
_ASGI = """
from seen import seen
from unisock.adapters.asgi import ASGIApp

app = ASGIApp(seen, path="/seen")
"""
GUNICORN = "gunicorn -k unisock.adapters.gunicorn.WebSocketWorker flask_app:app"
GUNICORN_AIOHTTP = "gunicorn -k aiohttp.GunicornWebWorker aiohttp_app:app"
GRANIAN = "granian --interface asgi granian_app:app"


# What stands for the others: each adapter once, and each way in which a server hears of a proxy.
_SHORT = ("fastapi", "falcon", "flask", "aiohttp", "aiohttp on gunicorn")


def rows(*names: str) -> list[Any]:
    """Parameters for these kinds; some are of the full matrix alone."""
    full = pytest.mark.full_matrix
    return [pytest.param(name, marks=() if name in _SHORT else full) for name in names]


class Kind(NamedTuple):
    """A command of the page, and what stands in place of its files."""

    command: str
    others: Mapping[str, str] = MappingProxyType({})


KINDS = {
    "fastapi": Kind("uvicorn app:app"),
    "starlette": Kind("uvicorn app:app", {"app.py": _STARLETTE}),
    "falcon": Kind("uvicorn app:app", {"app.py": _FALCON}),
    "asgi": Kind("uvicorn app:app", {"app.py": _ASGI}),
    "hypercorn": Kind("hypercorn hypercorn_app:app --websocket-ping-interval 20"),
    "granian": Kind(GRANIAN),
    "flask": Kind("python flask_app.py"),
    "flask on gunicorn": Kind(GUNICORN),
    "aiohttp": Kind("python aiohttp_app.py"),
    "aiohttp on gunicorn": Kind(GUNICORN_AIOHTTP),
}
HYPERCORN_ON_SOCKET = f"hypercorn hypercorn_app:app --bind unix:{SOCKET}"
_BELIEVES_PREFIX = {
    "flask_app.py": files(PAGE)["flask_app.py"].replace("x_proto=1)", "x_proto=1, x_prefix=1)")
}
# With the prefix removed; Falcon is told apart below.
PREFIXED = {
    **{
        name: Kind("uvicorn app:app --root-path /app", KINDS[name].others)
        for name in ("fastapi", "starlette", "asgi")
    },
    "hypercorn": Kind("hypercorn hypercorn_app:app --root-path /app"),
    "granian": Kind(f"{GRANIAN} --url-path-prefix /app"),
    "flask": Kind("python flask_app.py", _BELIEVES_PREFIX),
    "flask on gunicorn": Kind(GUNICORN, _BELIEVES_PREFIX),
    "aiohttp": Kind("python aiohttp_prefix.py"),
    "aiohttp on gunicorn": Kind("gunicorn -k aiohttp.GunicornWebWorker aiohttp_prefix:app"),
}
ON_SOCKETS = {
    "fastapi": f"uvicorn app:app --uds {SOCKET} --forwarded-allow-ips '*'",
    "hypercorn": HYPERCORN_ON_SOCKET,
    "granian": f"{GRANIAN} --uds {SOCKET}",
    "flask on gunicorn": f"{GUNICORN} --bind unix:{SOCKET}",
    "aiohttp on gunicorn": f"{GUNICORN_AIOHTTP} --bind unix:{SOCKET}",
}

WORKERS = {
    "uvicorn app:app --workers 2": True,
    "hypercorn hypercorn_app:app --workers 2": False,
    f"{GRANIAN} --workers 2": False,
    f"{GUNICORN} --workers 2": False,
    f"{GUNICORN_AIOHTTP} --workers 2": False,
}
"""Whether small messages are delayed."""


@pytest.fixture(scope="module", params=rows(*KINDS))
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    kind = KINDS[request.param]
    with Service(kind.command, tmp_path_factory.mktemp("service"), kind.others) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of nginx."""
    path = tmp_path / "nginx"
    path.mkdir()
    return path


def told(client: ClientConnection) -> Any:
    """What the handler has seen; and that it answers."""
    seen = json.loads(client.recv(30))
    client.send("hello")
    assert client.recv(30) == "hello"
    return seen


def test_tls(service: Service, folder: Path) -> None:
    """A page of the site gets in, and the handler sees its URL and its client."""
    with (
        Nginx("app.conf", service, folder) as nginx,
        nginx.connect("/seen?q=%20a") as client,
    ):
        assert told(client) == {"url": nginx.url("/seen?q=%20a"), "client": [BROWSER, 0]}


@pytest.mark.parametrize("name", ["app.conf", "prefix.conf", "unix.conf"])
def test_no_other_protocol_passes(name: str, tmp_path: Path, folder: Path) -> None:
    """hypercorn would answer h2c with a 101, and the client would speak past nginx from then on."""
    command = HYPERCORN_ON_SOCKET if name == "unix.conf" else KINDS["hypercorn"].command
    path = "/app/seen" if name == "prefix.conf" else "/seen"
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: h2c\r\n"
        "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    )
    with (
        Service(command, tmp_path) as service,
        Nginx(name, service, folder) as nginx,
        socket.create_connection(("127.0.0.1", nginx.port), 30) as tcp,
        nginx.tls.wrap_socket(tcp, server_hostname=HOST) as client,
    ):
        client.sendall(request.encode())
        # FastAPI has no page there.
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 404")


LIES = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=203.0.113.9;host=evil.example;proto=http",
}


def _believing(name: str) -> tuple[str, Mapping[str, str]]:
    """The command and the files of a server that believes more than nginx says."""
    if "hypercorn" in name:  # by default it believes X-Forwarded-Host
        mode = {"hypercorn, Forwarded": '(inner, "modern")'}.get(name, "(inner)")
        text = files(PAGE)["hypercorn_app.py"].replace("(inner)", mode)
        return KINDS["hypercorn"].command, {"hypercorn_app.py": text}
    command, others = PREFIXED[name]
    return command, {n: t.replace("x_prefix=1", "x_prefix=1, x_host=1") for n, t in others.items()}


def test_what_a_client_says_of_the_proxy_changes_nothing(service: Service, folder: Path) -> None:
    """nginx empties each header that it does not set."""
    with Nginx("app.conf", service, folder) as nginx, nginx.connect("/seen", LIES) as client:
        assert told(client) == {"url": nginx.url("/seen"), "client": [BROWSER, 0]}


@pytest.mark.parametrize("name", rows("flask", "aiohttp", "hypercorn", "hypercorn, Forwarded"))
def test_nor_where_the_server_would_believe_it(name: str, tmp_path: Path, folder: Path) -> None:
    """The middleware that is for a prefix, and the one that believes `Forwarded`."""
    command, others = _believing(name)
    with (
        Service(command, tmp_path, others) as service,
        Nginx("app.conf", service, folder) as nginx,
        nginx.connect("/seen", LIES) as client,
    ):
        assert told(client) == {"url": nginx.url("/seen"), "client": [BROWSER, 0]}


@pytest.mark.parametrize("host", ["", "proxy_set_header Host $host;"])
def test_a_host_that_is_not_the_browser_s(service: Service, folder: Path, host: str) -> None:
    """nginx's default, and without the port: the own page is refused, and the log says why."""
    right = "proxy_set_header Host $http_host;"
    with Nginx("app.conf", service, folder, {right: host}) as nginx:
        with pytest.raises(InvalidStatus) as caught, nginx.connect("/seen"):
            pass
        assert caught.value.response.status_code == 403
        compared = "app.example" if host else f"127.0.0.1:{service.port}"
        reason = f"origin {nginx.origin!r} is not this host: the Host header says {compared!r}"
        service.wait_for(lambda: reason in service.log())
        assert right.rstrip(";") in service.log()


@pytest.mark.parametrize("name", rows(*PREFIXED))
def test_a_prefix_that_is_removed(name: str, tmp_path: Path, folder: Path) -> None:
    """The handler is mounted without it, and sees the URL with it."""
    with (
        Service(PREFIXED[name].command, tmp_path, PREFIXED[name].others) as service,
        Nginx("prefix.conf", service, folder) as nginx,
        nginx.connect("/app/seen") as client,
    ):
        assert told(client) == {"url": nginx.url("/app/seen"), "client": [BROWSER, 0]}


def test_a_prefix_that_is_another_host(tmp_path: Path) -> None:
    """The middleware for aiohttp takes it for none."""
    lie = {"X-Forwarded-Prefix": "//evil.example"}
    with Service("python aiohttp_prefix.py", tmp_path) as service:
        url = f"ws://127.0.0.1:{service.port}/seen"
        with connect(url, additional_headers=lie) as client:
            assert told(client)["url"] == url


def test_falcon_with_a_root_path(tmp_path: Path, folder: Path) -> None:
    """No route matches; without the option one does, and the prefix is not known."""
    for option, status in ((" --root-path /app", 403), ("", 101)):
        part = folder / str(status)
        part.mkdir()
        with (
            Service(f"uvicorn app:app{option}", tmp_path, {"app.py": _FALCON}) as service,
            Nginx("prefix.conf", service, part) as nginx,
        ):
            if status == 101:
                with nginx.connect("/app/seen") as client:
                    assert told(client)["url"] == nginx.url("/seen")
            else:
                with pytest.raises(InvalidStatus, match=str(status)), nginx.connect("/app/seen"):
                    pass


@pytest.mark.parametrize("name", rows(*(name for name in KINDS if "gunicorn" not in name)))
def test_a_prefix_that_stays(name: str, tmp_path: Path, folder: Path) -> None:
    """The handler is mounted with it: that needs no option of any server."""
    kind = KINDS[name]
    sources = {**files(PAGE), **kind.others}
    others = {file: text.replace('"/seen"', '"/app/seen"') for file, text in sources.items()}
    with (
        Service(kind.command, tmp_path, others) as service,
        Nginx("app.conf", service, folder) as nginx,
        nginx.connect("/app/seen") as client,
    ):
        assert told(client) == {"url": nginx.url("/app/seen"), "client": [BROWSER, 0]}


_GEVENT = "WSGIServer(listener, app).serve_forever()"


def _on_socket(name: str) -> tuple[str, dict[str, str]]:
    """The command that serves on a unix socket, and the page's files for it."""
    sources = files(PAGE)
    if name == "flask":
        fragment = next(b.text for b in blocks(PAGE) if _GEVENT in b.text)
        head = sources["flask_app.py"].partition("if __name__")[0]
        return "python flask_app.py", {"flask_app.py": head + fragment}
    if name == "aiohttp":
        call = f'web.run_app(app, path="{SOCKET}")'
        assert call in PAGE.read_text()
        head = sources["aiohttp_app.py"].partition("if __name__")[0]
        return "python aiohttp_app.py", {"aiohttp_app.py": head + call}
    trusting = sources["granian_app.py"].replace('"127.0.0.1"', '"*"')
    return ON_SOCKETS[name], {"granian_app.py": trusting}


@pytest.mark.parametrize("name", rows(*ON_SOCKETS, "flask", "aiohttp"))
def test_a_unix_socket(name: str, tmp_path: Path, folder: Path) -> None:
    """The client that the proxy gives is known; without a proxy there is none."""
    command, others = _on_socket(name)
    with Service(command, tmp_path, others) as service:
        for headers, address in (({}, None), ({"X-Forwarded-For": "203.0.113.9:1"}, 1)):
            with unix_connect(
                service.socket_path, "ws://x/seen", additional_headers=headers
            ) as client:
                assert told(client)["client"] == (address and ["203.0.113.9", address])
        with (
            Nginx("unix.conf", service, folder) as nginx,
            nginx.connect("/seen") as client,
        ):
            assert told(client) == {"url": nginx.url("/seen"), "client": [BROWSER, 0]}


WORKER = "unisock.adapters.gunicorn.WebSocketWorker"


def test_every_command_of_the_page_is_run() -> None:
    prefixed = {kind.command for kind in PREFIXED.values()}
    run = {kind.command for kind in KINDS.values()} | prefixed
    run |= set(ON_SOCKETS.values()) | set(WORKERS)
    assert set(commands(PAGE)) - run == {
        "gunicorn -k uvicorn_worker.UvicornWorker --workers 2 app:app",
        # They are commands that are run, with one more setting of the server.
        f"gunicorn -k {WORKER} flask_app:app --worker-connections 6000",
        "uvicorn app:app --ws websockets --ws-max-queue 2 --ws-max-size 1048576",
    }
    assert prefixed | set(ON_SOCKETS.values()) | set(WORKERS) <= set(commands(PAGE))


def test_every_configuration_of_the_page_is_run() -> None:
    assert set(CONFIGURATIONS) == {"websocket.conf", "app.conf", "prefix.conf", "unix.conf"}
