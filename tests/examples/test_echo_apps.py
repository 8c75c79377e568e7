"""Each echo application serves the page and the socket."""

from __future__ import annotations

import urllib.request

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.examples.app import ROOT, App

PAGE = ROOT / "examples" / "echo" / "index.html"


def test_serves_the_page(app: App) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{app.port}/", timeout=10) as response:
        assert response.status == 200
        assert response.headers.get_content_type() == "text/html"
        assert response.headers.get_content_charset() == "utf-8"
        assert response.read() == PAGE.read_bytes()


def test_echoes_text_and_binary(app: App) -> None:
    with connect(f"ws://127.0.0.1:{app.port}/ws") as connection:
        for message in ("hello", "", "żółw 🐢", b"\x00\xff", b""):
            connection.send(message)
            assert connection.recv(timeout=10) == message


def test_takes_its_own_page_and_no_other(app: App) -> None:
    url = f"ws://127.0.0.1:{app.port}/ws"
    with connect(url, origin=Origin(f"http://127.0.0.1:{app.port}")) as connection:
        connection.send("hello")
        assert connection.recv(timeout=10) == "hello"
    with pytest.raises(InvalidStatus) as caught, connect(url, origin=Origin("http://a.example")):
        pytest.fail("a page of another origin was let in")
    assert caught.value.response.status_code == 403


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = PAGE.read_text("utf-8")
    assert "://" not in page.replace("${scheme}//", "")
    assert "src=" not in page
    assert 'href="data:,"' in page and page.count("href=") == 1
