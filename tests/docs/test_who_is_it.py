"""The examples of *Who is it?* let those in who say who they are, and nobody else."""

from __future__ import annotations

import http.cookiejar
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.docs.documents import commands, files, page
from tests.docs.test_servers_in_pages import assert_closed, module_of, says, serving, status_of

PAGE = "docs/how-to/who-is-it.md"
TOKEN = "t0ken-of-ada"
EVERYWHERE = ("starlette", "fastapi", "falcon", "flask", "aiohttp")

QUERY = [f"unisock serve query:chat --on {framework} --path /chat" for framework in EVERYWHERE]
DECORATED = [
    f"unisock serve decorated:chat --on {framework} --path /chat" for framework in EVERYWHERE
]
BY_COOKIE = ["python aiohttp_app.py", "uvicorn falcon_app:app", *QUERY[:2]]
BY_LOGIN = {
    "uvicorn starlette_app:app": (403, b"log in first"),
    "uvicorn fastapi_app:app": (401, b'{"detail":"log in first"}'),
    "python flask_app.py": (401, b"log in first\n"),
    "python flask_login_app.py": (401, None),
    "gunicorn -k unisock.adapters.gunicorn.WebSocketWorker flask_login_app:app": (401, None),
}


def test_every_file_and_every_command_is_tried() -> None:
    tried = [*QUERY, *DECORATED, *BY_COOKIE, *BY_LOGIN, "unisock serve subprotocol:chat"]
    modules = {module_of(command) for command in tried} | {"first_message", "users"}
    assert {name.removesuffix(".py") for name in files(page(PAGE))} == modules
    assert {module_of(command) for command in commands(page(PAGE))} <= modules


@pytest.mark.parametrize("command", QUERY + DECORATED)
def test_a_token_in_the_query(command: str, tmp_path: Path) -> None:
    with serving(PAGE, command, tmp_path) as port:
        for path in ("/chat", "/chat?token=other"):
            assert status_of(port, path) == (401, b"who are you?\n")
        with connect(f"ws://127.0.0.1:{port}/chat?token={TOKEN}") as client:
            says("ada")(client)


@pytest.mark.parametrize("command", BY_COOKIE)
def test_a_cookie(command: str, tmp_path: Path) -> None:
    with serving(PAGE, command, tmp_path) as port:
        status, body = status_of(port, "/chat")
        assert (status, body.strip()) == (401, b"who are you?")
        with connect(
            f"ws://127.0.0.1:{port}/chat", additional_headers={"Cookie": f"token={TOKEN}"}
        ) as client:
            says("ada")(client)


@pytest.mark.parametrize("framework", ["flask", "starlette"])
def test_a_token_among_the_subprotocols(framework: str, tmp_path: Path) -> None:
    command = f"unisock serve subprotocol:chat --on {framework} --path /chat"
    with serving(PAGE, command, tmp_path) as port:
        url = f"ws://127.0.0.1:{port}/chat"
        chat, token = Subprotocol("chat"), Subprotocol(TOKEN)
        for offered in ([chat], [token], [chat, Subprotocol("other")]):
            with pytest.raises(InvalidStatus) as caught, connect(url, subprotocols=offered):
                pass
            assert caught.value.response.status_code == 401
        with connect(url, subprotocols=[chat, token]) as client:
            assert client.subprotocol == "chat"
            says("ada")(client)


def test_a_token_in_the_first_message(tmp_path: Path) -> None:
    with serving(PAGE, "uvicorn first_message:app", tmp_path) as port:
        url = f"ws://127.0.0.1:{port}/chat"
        with connect(url) as client:
            client.send(TOKEN)
            says("ada")(client)
        with connect(url) as client:
            client.send("other")
            assert_closed(client, 4401, "who are you?")


@pytest.mark.parametrize("command", BY_LOGIN)
def test_a_login(command: str, tmp_path: Path) -> None:
    status, body = BY_LOGIN[command]
    with serving(PAGE, command, tmp_path) as port:
        answer = status_of(port, "/chat")
        assert answer[0] == status
        assert body in (None, answer[1])
        jar = http.cookiejar.CookieJar()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        with opener.open(f"http://127.0.0.1:{port}/login?token={TOKEN}") as response:
            assert b"welcome" in response.read()
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)
        with connect(
            f"ws://127.0.0.1:{port}/chat", additional_headers={"Cookie": cookies}
        ) as client:
            says("ada")(client)
            assert client.response is not None
            if "flask_app" in command:  # it changes the session before it accepts
                assert "session=" in client.response.headers["Set-Cookie"]
