"""Every command of the documents that starts a server starts it, and the example answers."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.docs.documents import commands, files, page

_START = 60  # seconds for a server to start on a slow machine


class Example(NamedTuple):
    """What to ask an example, and what it answers."""

    path: str
    talk: Callable[[ClientConnection], None]
    headers: Mapping[str, str] = MappingProxyType({})


def echoes(client: ClientConnection) -> None:
    client.send("hello")
    assert client.recv(timeout=10) == "hello"
    client.send(b"\x00")
    assert client.recv(timeout=10) == b"\x00"


def says(prefix: str) -> Callable[[ClientConnection], None]:
    def talk(client: ClientConnection) -> None:
        client.send("hello")
        assert client.recv(timeout=10) == f"{prefix}: hello"

    return talk


def greets(client: ClientConnection) -> None:
    assert client.recv(timeout=10) == "hello, Ada"


def chats(client: ClientConnection) -> None:
    assert client.recv(timeout=10) == "Ada is here"
    says("Ada")(client)


def answers_json(client: ClientConnection) -> None:
    client.send('{"a":1}')
    assert json.loads(client.recv(timeout=10)) == {"a": 1}


def chats_in_json(client: ClientConnection) -> None:
    client.send('{"type": "join", "name": "Ada"}')
    assert json.loads(client.recv(timeout=10)) == {"joined": "Ada"}
    client.send('{"type": "say", "text": "hello"}')
    assert json.loads(client.recv(timeout=10)) == {"from": "Ada", "text": "hello"}
    client.send('{"type": "leave"}')
    assert_closed(client, 1000, "")


def chats_by_kind(client: ClientConnection) -> None:
    client.send('{"type": "join", "name": "Ada"}')
    client.send('{"type": "say", "text": "hello"}')
    assert client.recv(timeout=10) == "Ada: hello"
    client.send('{"type": "shout"}')
    assert_closed(client, 1007, '$.type: expected "join" or "say", got "shout"')


def moves(client: ClientConnection) -> None:
    client.send('{"x": 1}')
    assert client.recv(timeout=10) == '{"x":2,"y":0}'
    client.send('{"x": "1"}')
    assert_closed(client, 1007, "$.x: expected int, got str")


def orders(client: ClientConnection) -> None:
    client.send('{"item": "tea", "n": 2}')
    assert client.recv(timeout=10) == '{"ordered":{"item":"tea","n":2}}'
    client.send('{"item": "tea", "n": 0}')
    assert_closed(client, 1007, "$.n: input should be greater than or equal to 1")


def adds_up(client: ClientConnection) -> None:
    client.send('[1, "2"]')
    assert client.recv(timeout=10) == '{"error":"$[1]: expected int, got str"}'
    client.send("[1, 2]")
    assert client.recv(timeout=10) == '{"sum":3}'


def asks(client: ClientConnection) -> None:
    assert client.recv(timeout=10) == "what is 6 times 7?"
    client.send("42")
    assert client.recv(timeout=10) == "right"
    assert_closed(client, 1000, "")


def knocks(client: ClientConnection) -> None:
    client.send("a long secret")
    client.send("hello")
    assert client.recv(timeout=10) == "hello"
    client.send("x" * 65537)
    assert_closed(client, 1009, "over 65536 bytes")


def notes(client: ClientConnection) -> None:
    for count in (1, 2):
        client.send("hello")
        assert client.recv(timeout=10) == f"tea: {count}"


def ticks(word: str) -> Callable[[ClientConnection], None]:
    def talk(client: ClientConnection) -> None:
        for _ in range(2):
            assert client.recv(timeout=10) == word
        client.send("hello")
        while client.recv(timeout=10) != "hello":
            pass

    return talk


def repeats(client: ClientConnection) -> None:
    for _ in range(2):
        client.send("hello")
        assert client.recv(timeout=10) == "hello"


def assert_closed(client: ClientConnection, code: int, reason: str) -> None:
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)


ROOM = Example("/rooms/tea", says("tea"))
CHAT = Example("/rooms/tea?name=Ada", chats)
EXAMPLES: dict[str, dict[str, Example]] = {
    "README.md": dict.fromkeys(
        ["starlette_app", "fastapi_app", "falcon_app", "aiohttp_app", "flask_app", "handler"], ROOM
    ),
    "docs/tutorial.md": {
        "hello": Example("/?name=Ada", greets),
        **dict.fromkeys(["chat", "fastapi_chat", "flask_chat", "aiohttp_chat"], CHAT),
    },
    "docs/how-to/asgi.md": {"app": Example("/any", echoes)},
    "docs/how-to/uvicorn.md": {"app": Example("/ws", echoes)},
    "docs/how-to/starlette.md": {"app": ROOM, "by_hand": ROOM},
    "docs/how-to/fastapi.md": dict.fromkeys(
        ["app", "by_hand"],
        Example("/rooms/tea", says("Ada"), {"Authorization": "Bearer Ada"}),
    ),
    "docs/how-to/falcon.md": {"app": ROOM, "by_hand": ROOM},
    "docs/how-to/flask.md": {"app": ROOM, "by_hand": ROOM, "beside": ROOM},
    "docs/how-to/aiohttp.md": {"app": ROOM, "by_hand": ROOM},
    "docs/how-to/class-endpoints.md": {
        "counter": Example("/", says("1")),
        "view": Example("/", answers_json),
        **dict.fromkeys(["chat", "app", "flask_app"], Example("/rooms/tea", chats_in_json)),
    },
    "docs/how-to/plain-functions.md": {
        "quiz": Example("/", asks),
        "beat": Example("/", ticks("still here")),
        "board": Example("/", repeats),
        **dict.fromkeys(["notes", "app", "flask_app"], Example("/rooms/tea", notes)),
    },
    "docs/how-to/typed-messages.md": {
        "order": Example("/", orders),
        "chat": Example("/", chats_by_kind),
        "patient": Example("/", adds_up),
        **dict.fromkeys(["move", "sync_board"], Example("/", moves)),
    },
    "docs/how-to/background-work.md": {
        "clock": Example("/", ticks("tick")),
        "watch": Example("/", ticks("tick")),
        **dict.fromkeys(["feed", "plain_feed"], Example("/", repeats)),
        **dict.fromkeys(["flask_app", "flask_feed"], Example("/feed", repeats)),
    },
    "docs/how-to/limits.md": {"limits_app": Example("/chat", knocks)},
    "docs/reference/options.md": {"options": Example("/ws", answers_json)},
}
# Files that no command of their page starts.
MORE = {
    "docs/how-to/starlette.md": ["uvicorn by_hand:app"],
    "docs/how-to/fastapi.md": ["uvicorn by_hand:app"],
    "docs/how-to/falcon.md": ["uvicorn by_hand:app"],
    "docs/how-to/flask.md": ["gunicorn -k unisock.adapters.gunicorn.WebSocketWorker by_hand:app"],
    "docs/how-to/aiohttp.md": ["python by_hand.py"],
    "docs/reference/options.md": ["uvicorn options:app"],
}
PORT_OPTIONS = {
    "uvicorn": ["--port", "{port}"],
    "hypercorn": ["--bind", "127.0.0.1:{port}"],
    "granian": ["--port", "{port}"],
    "gunicorn": ["--bind", "127.0.0.1:{port}"],
    "unisock": ["--port", "{port}"],
    "python": [],  # the port stands in the file
}


def all_commands(name: str) -> list[str]:
    """The commands of a page, each once, and those of `MORE`."""
    return [*dict.fromkeys(commands(page(name))), *MORE.get(name, [])]


CASES = [(name, command) for name in EXAMPLES for command in all_commands(name)]


def module_of(command: str) -> str:
    """The module that a command serves."""
    words = shlex.split(command)
    if words[0] == "python":
        return words[1].removesuffix(".py")
    *_, spec = (word for word in words if word.count(":") == 1 and "/" not in word)
    return spec.partition(":")[0]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serving(name: str, command: str, folder: Path) -> Generator[int]:
    """Run a command of a page on a free port; its output is shown if the test fails."""
    port = free_port()
    for file, text in files(page(name)).items():
        (folder / file).write_text(text.replace("8000", str(port)))
    program, *arguments = shlex.split(command)
    start = [sys.executable] if program == "python" else [sys.executable, "-m", program]
    options = [option.format(port=port) for option in PORT_OPTIONS[program]]
    process = subprocess.Popen([*start, *arguments, *options], cwd=folder, start_new_session=True)
    try:
        wait_until_it_listens(process, port)
        yield port
        process.terminate()
        process.wait(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    """Servers say that they listen each in its own words: ask the port instead."""
    deadline = time.monotonic() + _START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, f"it ended with status {process.returncode}"
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.05)
        else:
            return


def test_every_file_of_a_page_is_served_or_imported_by_one_that_is() -> None:
    for name, examples in EXAMPLES.items():
        assert examples.keys() <= {module_of(c) for c in all_commands(name)}
        texts = files(page(name))
        for file in texts:
            if file.startswith(("test_", "gunicorn_conf")):
                continue  # see test_tests_in_pages, and gunicorn's command
            module = file.removesuffix(".py")
            imported = any(f"from {module} import" in text for text in texts.values())
            assert module in examples or imported, f"{name}: {file}"


@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(n, c, id=f"{Path(n).stem}: {c}") for n, c in CASES]
)
def test_a_command_serves_the_example(name: str, command: str, tmp_path: Path) -> None:
    example = EXAMPLES[name][module_of(command)]
    with (
        serving(name, command, tmp_path) as port,
        connect(
            f"ws://127.0.0.1:{port}{example.path}", additional_headers=example.headers
        ) as client,
    ):
        example.talk(client)


def status_of(port: int, path: str) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as caught, connect(f"ws://127.0.0.1:{port}{path}"):
        pass
    response = caught.value.response
    return response.status_code, bytes(response.body or b"")


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_the_tutorial_s_chat(framework: str, tmp_path: Path) -> None:
    command = f"unisock serve chat:chat --on {framework} --path /rooms/{{room}}"
    with serving("docs/tutorial.md", command, tmp_path) as port:
        assert status_of(port, "/rooms/tea") == (400, b"add ?name= to the address\n")
        url = f"ws://127.0.0.1:{port}/rooms/tea?name="
        with connect(f"{url}Ada") as ada:
            assert ada.recv(timeout=10) == "Ada is here"
            with connect(f"{url}Bob") as bob:
                for client in (ada, bob):
                    assert client.recv(timeout=10) == "Bob is here"
                bob.send("hello")
                assert ada.recv(timeout=10) == "Bob: hello"
            assert ada.recv(timeout=10) == "Bob has left"


@pytest.mark.parametrize("patched", [False, True])
def test_a_view_of_flask_publishes(tmp_path: Path, patched: bool) -> None:
    name = "docs/how-to/background-work.md"
    command = "python flask_feed.py"
    if patched:
        command = "python patched.py"
        (tmp_path / "patched.py").write_text(
            "from gevent import monkey\nmonkey.patch_all()\nimport runpy\n"
            "runpy.run_path('flask_feed.py', run_name='__main__')\n"
        )
    with (
        serving(name, command, tmp_path) as port,
        connect(f"ws://127.0.0.1:{port}/feed") as client,
    ):
        repeats(client)
        with urlopen(f"http://127.0.0.1:{port}/say", b"from a view") as response:
            assert response.read() == b"published\n"
        assert client.recv(timeout=10) == "from a view"


def test_fastapi_s_dependency_rejects(tmp_path: Path) -> None:
    with serving("docs/how-to/fastapi.md", "uvicorn app:app", tmp_path) as port:
        assert status_of(port, "/rooms/tea") == (401, b'{"detail":"who are you?"}')


def test_falcon_s_resource_has_a_page(tmp_path: Path) -> None:
    with serving("docs/how-to/falcon.md", "uvicorn by_hand:app", tmp_path) as port:
        with urlopen(f"http://127.0.0.1:{port}/rooms/tea") as response:
            assert response.read() == b"connect with a WebSocket to /rooms/tea"
        with connect(f"ws://127.0.0.1:{port}/other/tea") as client:
            says("tea")(client)
