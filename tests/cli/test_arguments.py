"""Whatever is wrong with the arguments is one line that says what to do, and status 2."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

import unisock as package
from tests.cli.command import Command, Start, hide
from tests.frameworks import FRAMEWORKS
from unisock.frameworks import find

ON = "--on=asgi"

MODULES = {
    "chat.py": (
        "async def room(ws): ...\nasync def none(): ...\nasync def gen(ws): yield\nnumber = 5\n"
    ),
    "raises.py": "def check():\n    raise ValueError('first\\nsecond')\n\ncheck()\n",
    "needs.py": "import no_such_package\n",
    "package/__init__.py": "",
    "package/needs.py": "import package.absent\n",
    "broken.py": "def f(:\n",
    "leaves.py": "import sys\nsys.exit('bye')\n",
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path) -> None:
    for name, source in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["COMMAND", "unisock --help"]),
        (["serve"], ["MODULE:HANDLER", "--on"]),
        (["serve", "chat:room"], ["--on"]),
        (["serve", "chat:room", "--on=django"], ["'django'", "'asgi'", "'flask'", "'all'"]),
        (["serve", "chat:room", "--on=asgi,"], ["'' is none of", "'asgi'"]),
        (["serve", "chat:room", "--on=asgi,flask,asgi"], ["'asgi,flask,asgi'", "twice"]),
        (["serve", "chat:room", "--on=all,flask"], ["'all,flask'", "twice"]),
        (["serve", "chat", ON], ["'chat' is not MODULE:HANDLER", "chat:room"]),
        (["serve", "chat:", ON], ["'chat:' is not MODULE:HANDLER"]),
        (["serve", ":room", ON], ["':room' is not MODULE:HANDLER"]),
        (["serve", "chat:room:x", ON], ["is not MODULE:HANDLER"]),
        (["serve", "./chat.py:room", ON], ["is not MODULE:HANDLER"]),
        (["serve", "chat.py:room", ON], ["no module 'chat.py'", "leave out the .py"]),
        (["serve", "absent:room", ON], ["no module 'absent'"]),
        (["serve", "package.absent:room", ON], ["no module 'package.absent'"]),
        (["serve", "absent.part:room", ON], ["no module 'absent'"]),
        (["serve", "chat:rom", ON], ["no attribute 'rom'", "did you mean 'room'?"]),
        (["serve", "chat:room.x", ON], ["no attribute 'x'"]),
        (["serve", "chat:number", ON], ["async def handler(ws)", "not 5"]),
        (["serve", "chat:gen", ON], ["does not yield, as gen does"]),
        (["serve", "chat:none", ON], ["takes one argument"]),
        (["serve", "raises:room", ON], ["ValueError: first second", "raises.py, line 4"]),
        (["serve", "needs:room", ON], ["importing needs", "'no_such_package'", "needs.py, line 1"]),
        (["serve", "package.needs:room", ON], ["importing package.needs", "'package.absent'"]),
        (["serve", "broken:room", ON], ["SyntaxError", "broken.py, line 1"]),
        (["serve", "leaves:room", ON], ["SystemExit: bye", "leaves.py, line 2"]),
        (["serve", "chat:room", ON, "--port=65536"], ["--port", "'65536'", "0 to 65535"]),
        (["serve", "chat:room", ON, "--port=-1"], ["--port", "0 to 65535"]),
        (["serve", "chat:room", ON, "--port=http"], ["--port", "'http'"]),
        (["serve", "chat:room", "--on=all", "--port=65531"], ["6 ports", "65530"]),
        (["serve", "chat:room", ON, "--path=rooms"], ["--path", "starts with a slash"]),
        (["serve", "chat:room", ON, "--path=/rooms/<room>"], ["--path", "write '/rooms/{room}'"]),
        (["serve", "chat:room", ON, "--path=/:room"], ["--path", "is written {room}, not :room"]),
        (["serve", "chat:room", ON, "--path=/{n:no}"], ["--path", "unknown converter 'no'"]),
        (["serve", "chat:room", ON, "--origins=app"], ["--origins", "'app'", "https://"]),
        (["serve", "chat:room", ON, "--origins=https://a,"], ["--origins", "'' is not"]),
        (["serve", "chat:room", ON, "--origins=https://a:b"], ["--origins", "'https://a:b'"]),
        (["serve", "chat:room", ON, "--log-level=loud"], ["--log-level", "'loud'", "'info'"]),
        (["serve", "chat:room", ON, "--host="], ["--host", "0.0.0.0"]),
        (["serve", "chat:room", ON, "--host=no.invalid"], ["'no.invalid'", "--host"]),
        (["serve", "chat:room", ON, f"--host={'a' * 64}.b"], ["cannot resolve", "--host"]),
        (["serve", "chat:room", ON, "--host=192.0.2.1"], ["192.0.2.1 is not an address"]),
        (["serve", "chat:rom", "--on=all"], ["did you mean 'room'?"]),
    ],
    ids=lambda value: " ".join(value)[:60] if value and value[0] == "serve" else "",
)
def test_mistake(unisock: Start, arguments: list[str], parts: list[str]) -> None:
    command = unisock(*arguments)
    assert command.wait() == 2
    assert_one_line(command, *parts)


def test_the_current_directory_is_searched(tmp_path: Path) -> None:
    # As the installed command is run: -P keeps Python from adding the directory itself.
    command = [sys.executable, "-P", "-m", "unisock", "serve", "chat:rom", ON]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert "did you mean 'room'?" in done.stderr


def assert_one_line(command: Command, *parts: str) -> None:
    lines = command.errors().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("unisock")
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_taken_port(unisock: Start, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        command = unisock("serve", "chat:room", f"--on={name}", f"--port={port}")
        assert command.wait() == 2
    assert_one_line(command, f"port {port} on 127.0.0.1 is taken", "--port")


def test_taken_port_among_those_of_all(unisock: Start, free_ports: int) -> None:
    with socket.create_server(("127.0.0.1", free_ports + 2)):
        command = unisock("serve", "chat:room", "--on=all", f"--port={free_ports}")
        assert command.wait() == 2
    assert_one_line(command, f"port {free_ports + 2} on 127.0.0.1 is taken", "--port")


NEEDED = [(name, module) for name in FRAMEWORKS for module in find(name).packages.values()]


@pytest.mark.parametrize(("name", "package"), NEEDED)
def test_missing_package(unisock: Start, tmp_path: Path, name: str, package: str) -> None:
    hide(tmp_path, package)
    command = unisock("serve", "chat:room", f"--on={name}", "--port=0")
    assert command.wait() == 2
    assert_one_line(command, f"needs the package {package}", f"pip install 'unisock[{name}]'")


def test_missing_package_of_one_of_a_list(unisock: Start, tmp_path: Path) -> None:
    hide(tmp_path, "falcon")
    command = unisock("serve", "chat:room", "--on=asgi,falcon", "--port=0")
    assert command.wait() == 2
    assert_one_line(command, "not installed: falcon", "pip install 'unisock[falcon]'")


def test_all_where_none_is_installed(unisock: Start, tmp_path: Path) -> None:
    hide(tmp_path, *{module for _, module in NEEDED})
    command = unisock("serve", "chat:room", "--on=all", "--port=0")
    assert command.wait() == 2
    assert_one_line(command, f"not installed: {', '.join(FRAMEWORKS)}")


def test_what_needs_websockets_is_left_out_of_all(unisock: Start, tmp_path: Path) -> None:
    hide(tmp_path, "websockets")
    command = unisock("serve", "chat:room", "--on=all", "--port=0", "--log-level=critical")
    assert command.wait() == 2
    need = [name for name in FRAMEWORKS if (name, "websockets") in NEEDED]
    assert need == list(FRAMEWORKS)  # nothing is left, for each has its mask from there
    assert_one_line(command, "not installed", f"'unisock[{','.join(need)}]'")


APPLICATIONS = """
from fastapi import APIRouter, FastAPI
from unisock.adapters.asgi import ASGIApp

class OwnFastAPI(FastAPI): ...

async def handler(ws): ...
async def function(scope, receive, send): ...
def wsgi(environ, start_response): ...

router, own, bare = APIRouter(), OwnFastAPI(), ASGIApp(handler)
"""


@pytest.mark.parametrize(
    ("name", "what", "run"),
    [
        ("own", "apps.OwnFastAPI", "uvicorn"),
        ("router", "fastapi.routing.APIRouter", "uvicorn"),
        ("bare", "ASGI application", "uvicorn"),
        ("function", "ASGI application", "uvicorn"),
        ("wsgi", "WSGI application", "gunicorn"),
    ],
)
def test_an_application_in_place_of_a_handler(
    unisock: Start, tmp_path: Path, name: str, what: str, run: str
) -> None:
    (tmp_path / "apps.py").write_text(APPLICATIONS)
    command = unisock("serve", f"apps:{name}", ON)
    assert command.wait() == 2
    parts = (what, "no handler", "apps:HANDLER", f"`{run} apps:{name}`")
    assert_one_line(command, f"apps:{name} is a", *parts)


FRAMEWORKS_APP = """
from unisock.frameworks import Service, find

async def handler(ws): ...

app = find({!r}).application(Service(handler, "/"))
"""


@pytest.mark.parametrize("name", [name for name in FRAMEWORKS if find(name).adapter])
def test_an_application_of_each_framework_in_place_of_a_handler(
    unisock: Start, tmp_path: Path, name: str
) -> None:
    (tmp_path / "apps.py").write_text(FRAMEWORKS_APP.format(name))
    command = unisock("serve", "apps:app", ON)
    assert command.wait() == 2
    run = (find(name).command or "").format("apps:app")
    assert_one_line(command, f"apps:app is a {name}.", "no handler", "apps:HANDLER", f"`{run}`")


@pytest.mark.parametrize(
    ("arguments", "start", "parts"),
    [
        (["serve", "chat:room", ON, "--prot=1"], "unisock serve: ", ["--prot=1", "mean --port?"]),
        (["serve", "chat:room", ON, "--nothing"], "unisock serve: ", ["--nothing", "serve --help"]),
        (["serve", "chat:room", "x", ON], "unisock serve: ", ["arguments: x (see unisock serve"]),
        (["serve", "chat:room", ON, "--workers"], "unisock serve: ", ["--workers"]),
        (["doctor", "--jsn"], "unisock doctor: ", ["mean --json?", "unisock doctor --help"]),
        (["--verson", "doctor"], "unisock: ", ["mean --version?", "(see unisock --help)"]),
    ],
)
def test_an_unknown_option_is_told_by_its_command(
    unisock: Start, arguments: list[str], start: str, parts: list[str]
) -> None:
    command = unisock(*arguments)
    assert command.wait() == 2
    assert_one_line(command, start, *parts)
    assert "--worker;" not in command.errors()
    assert "mean --worker" not in command.errors()


def test_version(unisock: Start) -> None:
    command = unisock("--version")
    assert command.line() == f"unisock {package.__version__}"
    assert command.wait() == 0


def test_help(unisock: Start) -> None:
    command = unisock("--help")
    assert command.line().startswith("usage: unisock ")
    assert command.wait() == 0
    assert command.errors() == ""


def test_help_tells_the_order_of_ports(unisock: Start) -> None:
    command = unisock("serve", "--help")
    while command.line() != f"{', '.join(FRAMEWORKS)}.":
        continue
    assert command.wait() == 0


def test_core_imports_neither_the_command_nor_a_framework() -> None:
    assert not imported_by("unisock") & {"argparse", "unisock.cli", "unisock.frameworks", *HEAVY}


def test_the_command_imports_no_framework() -> None:
    assert not imported_by("unisock.cli") & HEAVY


HEAVY = {module for _, module in NEEDED}


def imported_by(module: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())
