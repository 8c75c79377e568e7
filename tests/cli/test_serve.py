"""A handler is served on each framework until a signal, and on all of them together."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.cli.command import Command, Start, hide
from unisock.serving import FRAMEWORKS

QUIET = "--log-level=warning"
SIGNALS = [signal.SIGINT, signal.SIGTERM]
SERVER_STOPS = (1001, 1012)


def echoes(connection: ClientConnection) -> bool:
    connection.send("hello")
    return connection.recv(timeout=10) == "hello"


def pid(connection: ClientConnection) -> int:
    connection.send("pid")
    return int(connection.recv(timeout=10))


def close_code(connection: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as caught:
        connection.recv(timeout=10)
    assert caught.value.rcvd is not None, "it ended without a close frame"
    return caught.value.rcvd.code


def connect_all(stack: ExitStack, urls: dict[str, str]) -> dict[str, ClientConnection]:
    return {name: stack.enter_context(connect(url)) for name, url in urls.items()}


def accepts(url: str) -> bool:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    with socket.socket() as client:
        return client.connect_ex((parts.hostname, parts.port)) == 0


def refusal(url: str, origin: str) -> int | None:
    """The status that a page of `origin` is refused with."""
    try:
        with connect(url, origin=Origin(origin)):
            return None
    except InvalidStatus as exc:
        return exc.response.status_code


# One framework


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_serves_until_a_signal(
    unisock: Start, echo: str, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    command = unisock("serve", echo, f"--on={name}", "--port=0", QUIET)
    url = command.line()
    assert url.startswith("ws://127.0.0.1:") and url.endswith("/")
    with connect(url) as connection:
        assert echoes(connection)
        server = pid(connection)
        command.send(number)
        assert close_code(connection) in SERVER_STOPS
    assert command.wait() == 0
    assert command.errors() == ""
    assert (tmp_path / "ended").read_text() == f"{server}\n"  # its finally block ran


TELLS_WHETHER_DIRECT = """\
async def tell(ws):
    await ws.accept()
    await ws.send(f"direct: {ws._transport._direct is not None}")
"""


@pytest.mark.parametrize("name", ["asgi", "starlette", "fastapi", "falcon"])
def test_on_uvicorn_a_handler_is_reached_without_events(
    unisock: Start, tmp_path: Path, name: str
) -> None:
    (tmp_path / "telling.py").write_text(TELLS_WHETHER_DIRECT)
    command = unisock("serve", "telling:tell", f"--on={name}", "--port=0", QUIET)
    with connect(command.line()) as connection:
        assert connection.recv(timeout=10) == "direct: True"


SLEEPS = """\
import asyncio
async def sleeps(ws):
    await ws.accept()
    await ws.send("asleep")
    await asyncio.Event().wait()
"""


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_handler_that_notices_nothing_does_not_hold_the_end_up(
    unisock: Start, tmp_path: Path, name: str
) -> None:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    command = unisock("serve", "sleeps:sleeps", f"--on={name}", "--port=0", QUIET)
    with connect(command.line()) as connection:
        assert connection.recv(timeout=10) == "asleep"
        command.send(signal.SIGTERM)
        assert close_code(connection) in SERVER_STOPS
    assert command.wait() == 0
    assert "Traceback" not in command.errors()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_second_interrupt_ends_the_wait(unisock: Start, tmp_path: Path, name: str) -> None:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    command = unisock("serve", "sleeps:sleeps", f"--on={name}", "--port=0", QUIET)
    with connect(command.line()) as connection:
        assert connection.recv(timeout=10) == "asleep"
        command.send(signal.SIGINT)
        assert close_code(connection) in SERVER_STOPS
        command.send(signal.SIGINT)
    assert command.wait() == 0
    assert command.errors() == ""  # uvicorn tells when the time was up


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_second_interrupt_when_all_is_over(unisock: Start, tmp_path: Path, name: str) -> None:
    (tmp_path / "late.py").write_text(
        "import atexit, os, signal\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "async def late(ws): ...\n"
    )
    command = unisock("serve", "late:late", f"--on={name}", "--port=0", QUIET)
    command.line()
    command.send(signal.SIGINT)
    assert command.wait() == 0
    assert command.errors() == ""


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_port_asked_for(unisock: Start, echo: str, free_ports: int, name: str) -> None:
    command = unisock("serve", echo, f"--on={name}", f"--port={free_ports}", QUIET)
    assert command.line() == f"ws://127.0.0.1:{free_ports}/"


def test_a_name_for_a_host(unisock: Start, echo: str) -> None:
    command = unisock("serve", echo, "--on=asgi", "--port=0", "--host=localhost", QUIET)
    url = command.line()
    assert url.startswith("ws://localhost:")
    with connect(url) as connection:
        assert echoes(connection)


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6(unisock: Start, echo: str, name: str, host: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    command = unisock("serve", echo, f"--on={name}", "--port=0", f"--host={host}", QUIET)
    url = command.line()
    assert url.startswith("ws://[::1]:")
    with connect(url) as connection:
        assert echoes(connection)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_origins(unisock: Start, echo: str, name: str) -> None:
    command = unisock(
        "serve", echo, f"--on={name}", "--port=0", "--log-level=error",
        "--origins=https://a.example,https://b.example", "--origins=https://c.example",
    )  # fmt: skip
    url = command.line()
    for origin in ("https://a.example", "https://b.example", "https://c.example"):
        assert refusal(url, origin) is None
    assert refusal(url, "https://d.example") == 403


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_origin(unisock: Start, echo: str, name: str) -> None:
    command = unisock("serve", echo, f"--on={name}", "--port=0", "--origins=*", QUIET)
    assert refusal(command.line(), "https://any.example") is None


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_path_and_dotted_attribute(unisock: Start, echo: str, name: str) -> None:
    command = unisock(
        "serve", f"{echo}.room", f"--on={name}", "--port=0", "--path=/rooms/{n:int}", QUIET
    )
    url, template = command.line().split()
    assert url.endswith("/rooms/1")
    assert template == "(/rooms/{n:int})"
    with connect(url) as connection:
        assert connection.recv(timeout=10) == '{"n":1}'
    with pytest.raises(InvalidStatus), connect(f"{url}x"):
        pytest.fail("a path that does not match was accepted")


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_what_is_printed_can_be_opened(unisock: Start, echo: str, name: str) -> None:
    """Whatever the parameters are, and where it listens on every address."""
    path = "/r\u00e4ume/{room}/{n:int}/{x:float}/{id:uuid}/{rest:path}"
    command = unisock(
        "serve", f"{echo}.rooms", f"--on={name}", "--port=0", "--host=0.0.0.0", f"--path={path}",
        QUIET,
    )  # fmt: skip
    url, _, note = command.line().partition("  ")
    assert urlsplit(url).hostname == "127.0.0.1"
    assert note == f"({path}; on all addresses, 0.0.0.0)"
    with connect(url) as connection:
        told = json.loads(connection.recv(timeout=10))
    assert told == ["room", 1, 1.5, "00000000-0000-4000-8000-000000000000", "rest"]


def test_every_address_of_ipv6(unisock: Start, echo: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    command = unisock("serve", echo, "--on=asgi,flask", "--port=0", "--host=::", QUIET)
    for name, url in command.labelled_urls(2).items():
        assert url.startswith("ws://[::1]:"), name
        with connect(url) as connection:
            assert echoes(connection), name


TELLS_CLIENT = """\
async def tell(ws):
    await ws.accept()
    await ws.send_json([ws.client.host, ws.url.scheme])
"""


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_what_a_proxy_would_say_is_not_believed(unisock: Start, tmp_path: Path, name: str) -> None:
    (tmp_path / "telling.py").write_text(TELLS_CLIENT)
    served = unisock("serve", "telling:tell", "--on", name, "--port", "0", QUIET)
    said = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    with connect(served.url(), additional_headers=said) as connection:
        assert json.loads(connection.recv(timeout=10)) == ["127.0.0.1", "ws"]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_error_in_a_handler_is_logged_once(unisock: Start, tmp_path: Path, name: str) -> None:
    (tmp_path / "fails.py").write_text(
        "async def fails(ws):\n    await ws.accept()\n    raise ValueError('oh no')\n"
    )
    command = unisock("serve", "fails:fails", f"--on={name}", "--port=0", QUIET)
    with connect(command.line()) as connection:
        assert close_code(connection) == 1011
    command.send(signal.SIGTERM)
    assert command.wait() == 0
    assert command.errors().count("ValueError: oh no") == 1


@pytest.mark.parametrize("name", [*FRAMEWORKS, "all"])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_during_the_import_of_the_handler(
    unisock: Start, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(
        "import threading\nprint('importing', flush=True)\nthreading.Event().wait()\n"
    )
    command = unisock("serve", "slow:slow", f"--on={name}", "--port=0", QUIET)
    assert command.line() == "importing"
    command.send(number)
    assert command.wait() == 0
    assert command.errors() == ""


# Several of them


def test_a_list_of_frameworks(unisock: Start, echo: str, free_ports: int) -> None:
    """Consecutive ports in the list's own order, and one end for all."""
    names = ["flask", "aiohttp", "starlette"]
    command = unisock("serve", echo, f"--on={','.join(names)}", f"--port={free_ports}", QUIET)
    urls = command.labelled_urls(3)
    assert urls == {name: f"ws://127.0.0.1:{free_ports + n}/" for n, name in enumerate(names)}
    with ExitStack() as stack:
        connections = connect_all(stack, urls)
        assert all(echoes(connection) for connection in connections.values())
        command.send(signal.SIGTERM)
        assert {close_code(each) for each in connections.values()} <= set(SERVER_STOPS)
    assert command.wait_for_parent() == 0
    assert command.errors() == ""


def test_all_are_those_that_are_installed(
    unisock: Start, echo: str, tmp_path: Path, free_ports: int
) -> None:
    hide(tmp_path, "falcon", "gevent")
    command = unisock("serve", echo, "--on=all", f"--port={free_ports}", QUIET)
    names = ["asgi", "starlette", "fastapi", "aiohttp"]
    urls = command.labelled_urls(4)
    assert urls == {name: f"ws://127.0.0.1:{free_ports + n}/" for n, name in enumerate(names)}
    for url in urls.values():
        with connect(url) as connection:
            assert echoes(connection)
    assert command.errors() == (
        "unisock serve: not installed, and left out: falcon, flask "
        "(pip install 'unisock[falcon,flask]')\n"
    )


# All of them


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("group", [False, True], ids=["parent", "group"])
def test_all_serve_and_stop_together(
    unisock: Start,
    echo: str,
    tmp_path: Path,
    free_ports: int,
    number: signal.Signals,
    group: bool,
) -> None:
    command = unisock("serve", echo, "--on=all", f"--port={free_ports}", QUIET)
    urls = command.urls()
    assert urls == {
        name: f"ws://127.0.0.1:{free_ports + offset}/" for offset, name in enumerate(FRAMEWORKS)
    }
    with ExitStack() as stack:
        connections = connect_all(stack, urls)
        assert all(echoes(connection) for connection in connections.values())
        pids = {pid(connection) for connection in connections.values()}
        assert len(pids) == len(FRAMEWORKS)
        command.send(number, group=group)
        codes = {name: close_code(connection) for name, connection in connections.items()}
    assert all(code in SERVER_STOPS for code in codes.values()), codes
    assert command.wait_for_parent() == 0
    assert command.errors() == ""
    assert {int(line) for line in (tmp_path / "ended").read_text().split()} == pids
    assert not any(accepts(url) for url in urls.values())


def test_all_take_a_free_port_each(unisock: Start, echo: str) -> None:
    command = unisock(
        "serve", f"{echo}.room", "--on=all", "--port=0", "--path=/rooms/{n:int}",
        "--origins=https://a.example", "--origins=https://b.example", "--log-level=error",
    )  # fmt: skip
    urls = command.urls()
    assert len(set(urls.values())) == len(FRAMEWORKS)
    for name, room in urls.items():
        with connect(room) as connection:
            assert connection.recv(timeout=10) == '{"n":1}', name
        assert refusal(room, "https://a.example") is None
        assert refusal(room, "https://b.example") is None
        assert refusal(room, "https://c.example") == 403


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_all_stop_when_one_dies(unisock: Start, echo: str, name: str) -> None:
    command = unisock("serve", echo, "--on=all", "--port=0", QUIET)
    with ExitStack() as stack:
        connections = connect_all(stack, command.urls())
        killed = pid(connections[name])
        os.kill(killed, signal.SIGKILL)
        others = [connections[other] for other in connections if other != name]
        assert all(close_code(connection) in SERVER_STOPS for connection in others)
    assert command.wait() == 1
    assert command.errors() == f"unisock serve: {name} died: killed by SIGKILL\n"


def test_all_stop_when_one_ends(unisock: Start, echo: str) -> None:
    command = unisock("serve", echo, "--on=all", "--port=0", QUIET)
    with connect(command.urls()["falcon"]) as connection:
        os.kill(pid(connection), signal.SIGTERM)
    assert command.wait() == 1
    assert command.errors() == "unisock serve: falcon died: exit status 0\n"


def test_all_end_with_a_parent_that_was_killed(unisock: Start, echo: str, tmp_path: Path) -> None:
    command = unisock("serve", echo, "--on=all", "--port=0", QUIET)
    with ExitStack() as stack:
        connections = connect_all(stack, command.urls())
        pids = {pid(connection) for connection in connections.values()}
        command.send(signal.SIGKILL)
        assert all(close_code(each) in SERVER_STOPS for each in connections.values())
    assert command.wait() == -signal.SIGKILL
    assert command.errors() == ""
    assert {int(line) for line in (tmp_path / "ended").read_text().split()} == pids


BLOCKS = """\
import os, threading
async def blocks(ws):
    await ws.accept()
    await ws.send("ready")
    await ws.receive()
    os.write(1, b"blocked\\n")  # whole, for others write as well
    threading.Event().wait()
"""


def test_all_end_though_a_handler_blocks(unisock: Start, tmp_path: Path) -> None:
    with ExitStack() as stack:
        command = all_blocked(stack, unisock, tmp_path)
        command.send(signal.SIGTERM)
        assert command.wait_for_parent() == 0


def test_all_end_with_a_parent_that_was_killed_though_a_handler_blocks(
    unisock: Start, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        command = all_blocked(stack, unisock, tmp_path)
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL


def all_blocked(stack: ExitStack, start: Start, directory: Path) -> Command:
    """Every framework, with a handler that does not let its server do anything."""
    (directory / "blocks.py").write_text(BLOCKS)
    command = start("serve", "blocks:blocks", "--on=all", "--port=0", QUIET)
    for connection in connect_all(stack, command.urls()).values():
        assert connection.recv(timeout=10) == "ready"
        connection.close_timeout = 0
        connection.send("block")
    for _ in FRAMEWORKS:
        assert command.line() == "blocked"
    return command


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_the_workers_start(
    unisock: Start, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, sys, threading\n"
        "if any(argument.startswith('--worker') for argument in sys.argv):\n"
        "    os.write(1, b'importing\\n')\n"
        "    threading.Event().wait()\n"
        "async def slow(ws): ...\n"
    )
    command = unisock("serve", "slow:slow", "--on=all", "--port=0", QUIET)
    assert command.line() == "importing"  # in one; the others may not have come so far
    command.send(number, group=True)
    assert command.wait() == 0
    assert command.errors() == ""


@pytest.mark.parametrize("on", ["--on=starlette", "--on=all"])
def test_a_second_signal_while_the_first_is_handled(
    unisock: Start, tmp_path: Path, on: str
) -> None:
    # The second comes while the first is handled, when the command begins to ignore both.
    (tmp_path / "struck.py").write_text(
        "import os, signal, sys\n"
        "def signal_late(number, action, signal_=signal.signal):\n"
        "    if action is signal.SIG_IGN:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return signal_(number, action)\n"
        "if '--on=all' not in sys.argv:\n"
        "    signal.signal = signal_late\n"
        "    if any(argument.startswith('--worker') for argument in sys.argv):\n"
        "        os.kill(os.getppid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "async def struck(ws): ...\n"
    )
    command = unisock("serve", "struck:struck", on, "--port=0", QUIET)
    assert command.wait() == 0
    assert command.errors() == ""


def test_an_interrupt_before_the_workers_can_handle_it(
    unisock: Start, echo: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if any(argument.startswith('--worker') for argument in sys.orig_argv):\n"
        "    for process in (os.getppid(), os.getpid()):\n"
        "        os.kill(process, signal.SIGINT)\n"
    )
    command = unisock("serve", echo, "--on=all", "--port=0", QUIET)
    assert command.wait() == 0
    assert command.errors() == ""


def test_all_say_which_could_not_start_and_why(unisock: Start, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(
        "import os, sys\n"
        "if '--on=starlette' in sys.argv:\n"
        "    os._exit(7)\n"
        "async def fails(ws): ...\n"
    )
    command = unisock("serve", "fails:fails", "--on=all", "--port=0", QUIET)
    assert command.wait() == 2
    assert command.errors() == "unisock serve: starlette failed to start: exit status 7\n"
