"""Origins that no browser writes, proxies, and pages of other origins in a real browser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.examples.conftest import browser
from tests.examples.test_echo_page import stranger
from tests.faults.kinds import KINDS, KindServer, handshake

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_PATIENCE = 20.0
HOST = "app.example:8000"


@pytest.fixture(scope="module", params=KINDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KindServer]:
    folder = tmp_path_factory.mktemp(request.param)
    with KindServer(folder, request.param, ORIGINS='["https://public.example"]') as server:
        yield server


def status_of(server: KindServer, host: str, *headers: str, path: str = "/origins") -> int:
    """The status of a handshake with these header lines."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=_PATIENCE) as sock:
        sock.sendall(handshake(path, *headers, host=host))
        answer = sock.recv(12)
    assert answer.startswith(b"HTTP/1."), answer
    return int(answer[9:])


# What the conformance suite's tables do not have, which every adapter goes through as well:
# other ports, schemes, letters' case, IPv6, "null", none, several.  Host, Origin:
_PASSES = [
    ("app.example.:8000", "http://app.example.:8000"),
    (HOST, "  http://app.example:8000\t"),  # the white space around a value is not of it
    (HOST, "http://app.example:08000"),
    ("xn--pp-yia.example", "https://xn--pp-yia.example"),
]
_STOPPED = [
    # A browser takes these for two hosts, as it would with cookies.
    (HOST, "http://app.example.:8000"),
    ("app.example.:8000", "http://app.example:8000"),
    (HOST, "http://app.example:8000/"),
    (HOST, "//app.example:8000"),
    (HOST, "http://app.example:8000@"),
    (HOST, "http://app.example:8000#"),
    (HOST, "http://app.example:8000\\.evil.example"),
    (HOST, "http://app%2Eexample:8000"),
    (HOST, "http://\xe4pp.example:8000"),
    (HOST, "http://app.example:8000, http://evil.example"),
    (HOST, "http://" + "a" * 4000),
    ("user@app.example:8000", "http://user@app.example:8000"),
    ("127.0.0.1:8000", "http://127.1:8000"),
    ("[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000"),
]


def test_origins_that_no_browser_writes(server: KindServer) -> None:
    for statuses, table in ((101, _PASSES), (403, _STOPPED)):
        found = {each: status_of(server, each[0], f"Origin: {each[1]}") for each in table}
        assert found == dict.fromkeys(table, statuses)


def test_a_space_that_is_none_in_http_is_of_the_value(server: KindServer) -> None:
    assert status_of(server, HOST, f"Origin: http://{HOST}\xa0") == 403


def test_the_host_is_one(server: KindServer) -> None:
    """Without a Host there is no own host, and of two neither is."""
    own, evil = f"Origin: http://{HOST}", "evil.example"
    assert status_of(server, "", own) in (400, 403)
    assert status_of(server, evil, own, f"Host: {HOST}") in (400, 403)
    assert status_of(server, HOST, own, f"Host: {evil}") in (400, 403)


def test_what_a_proxy_says_of_the_host_is_not_believed(server: KindServer) -> None:
    """Anybody can send these; uvicorn believes 127.0.0.1 the scheme and the client alone."""
    public = "Origin: https://public.example"
    for forwarded in ("X-Forwarded-Host: public.example", "Forwarded: host=public.example"):
        more = (forwarded, "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1")
        assert status_of(server, "internal:8000", public, *more) == 403, forwarded
        # Listed, or with the Host that the browser sent, it is as without a proxy.
        assert status_of(server, "internal:8000", public, *more, path="/origins/listed") == 101
        assert status_of(server, "public.example", public, *more) == 101


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_trusted_proxy_says_of_the_host_is_believed(kind: str, tmp_path: Path) -> None:
    """Where the application's own middleware does, no server does it by itself.

    That is Werkzeug's ``ProxyFix``, a middleware of aiohttp that clones the request, and
    one of ASGI.  What comes through no proxy is as without.
    """
    said = "X-Forwarded-Host: public.example"
    with KindServer(tmp_path, kind, TRUST="yes") as trusting:
        for origin, status in (("public", 101), ("internal", 403), ("evil", 403)):
            line = f"Origin: https://{origin}.example"
            assert status_of(trusting, "internal.example", line, said) == status, origin
        assert status_of(trusting, HOST, f"Origin: http://{HOST}") == 101


# The fixtures; under their own names arguments would hide the imports.
chromium, page = browser, stranger


@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_other_origins(kind: str, page: int, chromium: Chrome, tmp_path: Path) -> None:
    """Another port, and another name of the same address: each is let in where it is listed."""
    from selenium.webdriver.support.wait import WebDriverWait

    numeric, named = f"http://127.0.0.1:{page}", f"http://localhost:{page}"

    def comes_to(origin: str, path: str) -> str:
        chromium.get("about:blank")  # a change of the fragment alone loads nothing
        # What the page puts after it is then of the query.
        chromium.get(f"{origin}/#127.0.0.1:{running.port}{path}?")
        WebDriverWait(chromium, _PATIENCE).until(lambda _: chromium.title != "waiting")
        return chromium.title

    with KindServer(tmp_path, kind, ORIGINS=f'["{named}"]') as running:
        for origin in (numeric, named):
            assert comes_to(origin, "/origins") == "refused"
            assert f"origin {origin!r} is not this host" in running.log()
            assert comes_to(origin, "/origins/any") == "open"
        assert comes_to(named, "/origins/listed") == "open"
        assert comes_to(numeric, "/origins/listed") == "refused"
