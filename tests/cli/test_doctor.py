"""``unisock doctor`` where packages are missing, old or broken, and on applications.

Each test runs the command in a folder of its own, that comes first on ``sys.path``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest

import unisock as package
from tests.cli.command import TIMEOUT, Start
from unisock.conformance.matrix import ROWS

OF_SERVERS = ("hypercorn-1006", "daphne")  # wherever they are installed


class Result(NamedTuple):
    """What the command has left."""

    status: int
    output: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.output)
        assert self.status == int(bool(report["warnings"])), self.errors
        return report

    @property
    def pairs(self) -> dict[tuple[str, str], dict[str, bool]]:
        pairs = self.report["pairs"]
        return {(each["framework"], each["server"]): each["capabilities"] for each in pairs}

    @property
    def codes(self) -> list[str]:
        """The codes of the warnings, but for those of servers that are installed."""
        codes = [each["code"] for each in self.report["warnings"]]
        return [code for code in codes if code not in OF_SERVERS]

    def said(self, code: str) -> str:
        """The first warning of this code, and its remedy."""
        found = next(each for each in self.report["warnings"] if each["code"] == code)
        return f"{found['text']} -> {found['remedy']}"


Doctor: TypeAlias = Callable[..., Result]
"""Run the command with arguments, and environment variables."""


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    def run(*arguments: str, **environment: str) -> Result:
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "unisock", "doctor", *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "GUNICORN_CMD_ARGS": "",
                "WEB_CONCURRENCY": "",
                "PYTHONPATH": path,
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    return run


def write(folder: Path, **sources: str) -> None:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)


def uninstall(folder: Path, *names: str) -> None:
    """Let every process that starts in `folder` find all packages but these, by links."""
    installed, links = Path(pytest.__file__).resolve().parents[1], folder / "links"
    links.mkdir()
    for entry in installed.iterdir():
        if entry.name.partition("-")[0].lower() not in names:
            (links / entry.name).symlink_to(entry)
    others = f"[each for each in sys.path if os.path.realpath(each) != {str(installed)!r}]"
    write(folder, sitecustomize=f"import os, sys\nsys.path[:] = {others} + [{str(links)!r}]\n")


# What is installed


def told_as(server: str) -> str:
    """What the command calls a server of the matrix."""
    name, _, variant = server.partition(" ")
    return f"{name.replace('WSGIServer', 'gevent')}{', stock handler' * (variant == 'stock')}"


def test_each_pair_can_do_what_the_matrix_declares(doctor: Doctor) -> None:
    # The suite proves for each row of it that a real server's handler is told the same.
    declared = {(row.framework, told_as(row.server)): asdict(row.capabilities) for row in ROWS}
    told = doctor("--json").pairs
    for framework, server in [pair for pair in told if pair not in declared]:
        assert server == "daphne"  # the matrix has two frameworks on it
        assert told.pop((framework, server)) == declared["asgi", "daphne"]
    assert told == declared


def test_versions(doctor: Doctor) -> None:
    report = doctor("--json").report
    assert report["unisock"] == package.__version__
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))
    packages = {each["name"]: each for each in report["packages"]}
    assert all(each["version"] == version(name) for name, each in packages.items())
    assert packages["uvicorn"]["at_least"] is not None


def test_the_text(doctor: Doctor) -> None:
    lines = doctor().output.splitlines()
    uvicorn = f"uvicorn           {version('uvicorn'):<15}WebSockets by websockets-sansio"
    assert any(line.startswith(f"{uvicorn}, ") for line in lines)
    assert "falcon on uvicorn                all capabilities" in lines
    assert "falcon on hypercorn              all but close_code, close_reason" in lines
    assert any(line.startswith("warning: hypercorn ") for line in lines)
    assert lines[-2].startswith("warning: Daphne ")
    assert lines[-1].startswith("     do: ")


def test_no_warnings(doctor: Doctor, tmp_path: Path) -> None:
    uninstall(tmp_path, "hypercorn", "daphne", "gunicorn", "falcon")
    status, output, _ = doctor()
    assert (status, output.splitlines()[-1]) == (0, "no warnings")
    for name in ("hypercorn", "daphne", "gunicorn", "falcon"):
        assert f"{name:<18}not installed\n" in output
        assert f"on {name}" not in output


def test_unisock_that_is_not_installed(doctor: Doctor, tmp_path: Path) -> None:
    uninstall(tmp_path, "unisock")
    (tmp_path / "unisock").symlink_to(Path(package.__file__).parent)
    result = doctor("--json", PYTHONPATH=str(tmp_path))
    assert (result.codes, result.report["packages"]) == (["not-installed"], [])
    assert result.said("not-installed").endswith("-> pip install unisock")


# What is wrong with it


@pytest.mark.parametrize(
    ("hidden", "note"),
    [
        (["websockets", "uvloop"], "WebSockets by wsproto, no uvloop"),
        (["websockets", "wsproto"], "no WebSockets"),
    ],
)
def test_uvicorn(doctor: Doctor, tmp_path: Path, hidden: list[str], note: str) -> None:
    uninstall(tmp_path, *hidden)
    result = doctor("--json")
    assert ["uvicorn", note] in [[e["name"], e["note"]] for e in result.report["packages"]]
    has_none = note == "no WebSockets"
    assert ("uvicorn-no-websockets" in result.codes) is has_none
    assert any("uvicorn" in pair for pair in result.pairs) is not has_none
    assert not has_none or "install websockets" in result.said("uvicorn-no-websockets")


def test_an_adapter_without_what_it_needs(doctor: Doctor, tmp_path: Path) -> None:
    uninstall(tmp_path, "gevent")
    result = doctor("--json")
    assert result.said("import-error").endswith("'gevent' -> pip install 'unisock[flask]'")
    assert not any("flask" in pair for pair in result.pairs)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("granian", "raise RuntimeError('libfoo:\\ncannot open')\n"),
        ("falcon", "import libfoo\n"),
        ("websockets", "raise RuntimeError('libfoo')\n"),
    ],
)
def test_a_package_that_is_broken(doctor: Doctor, tmp_path: Path, name: str, source: str) -> None:
    write(tmp_path, **{name: source})
    result = doctor("--json")
    assert set(result.codes) == {"import-error"}
    assert not any(name in pair for pair in result.pairs)
    assert "libfoo" in result.said("import-error")
    output = doctor().output
    assert f"{name:<18}{version(name):<15}cannot be imported\n" in output
    assert f"\nwarning: importing {name} " in output


@pytest.mark.parametrize(
    ("bound", "installed", "is_old"),
    [
        ("4.0.2", "4.0.1", True),
        ("4.0.2", "3.10.2", True),
        ("4.0.2", "4.0.10", False),
        ("4.0", "4", False),
    ],
)
def test_a_version(
    doctor: Doctor, tmp_path: Path, bound: str, installed: str, is_old: bool
) -> None:
    write_metadata(tmp_path, "unisock", "9", f"Requires-Dist: falcon>={bound}; extra == 'falcon'\n")
    (tmp_path / "unisock-9.dist-info" / "entry_points.txt").write_text(
        "[unisock.adapters]\nfalcon = unisock.adapters.records.falcon\n"
    )
    write_metadata(tmp_path, "falcon", installed)
    result = doctor("--json")
    assert result.codes == (["too-old"] if is_old else [])
    if is_old:
        assert f"falcon {installed} is older" in result.said("too-old")
        assert f"pip install --upgrade 'falcon>={bound}'" in result.said("too-old")


def write_metadata(folder: Path, name: str, installed: str, more: str = "") -> None:
    found = folder / f"{name}-{installed}.dist-info"
    found.mkdir()
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {installed}\n"
    (found / "METADATA").write_text(head + more)


STOCK_WORKER = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"
OWN_WORKER = "unisock.adapters.gunicorn.WebSocketWorker"


@pytest.mark.parametrize(
    ("arguments", "line", "place"),
    [
        (f"-w 2 -k {STOCK_WORKER}", "", "GUNICORN_CMD_ARGS"),
        (f"--worker-class='{STOCK_WORKER}'", "", "GUNICORN_CMD_ARGS"),
        ("", f'worker_class = "{STOCK_WORKER}"', "gunicorn.conf.py"),
        (f"-k {OWN_WORKER}", f'# worker_class = "{STOCK_WORKER}"', ""),
    ],
)
def test_gunicorn_s_worker(
    doctor: Doctor, tmp_path: Path, arguments: str, line: str, place: str
) -> None:
    if line:
        write(tmp_path, **{"gunicorn.conf": f"bind = ':8000'\n{line}\n"})
    result = doctor("--json", GUNICORN_CMD_ARGS=arguments)
    assert result.codes == (["stock-handler"] if place else [])
    for part in (place, f"gunicorn -k {OWN_WORKER}") if place else ():
        assert part in result.said("stock-handler")


DELAY = ["uvicorn-delay"]


@pytest.mark.parametrize(
    ("environment", "has_uvloop", "codes"),
    [
        ({}, False, []),
        ({"WEB_CONCURRENCY": "1", "UVICORN_RELOAD": "false"}, False, []),
        ({"WEB_CONCURRENCY": "4"}, False, DELAY),
        ({"UVICORN_WORKERS": "2"}, False, DELAY),
        ({"UVICORN_RELOAD": "True"}, False, DELAY),
        ({"UVICORN_WORKERS": "2", "UVICORN_RELOAD": "1"}, True, []),
        ({"UVICORN_WORKERS": "2", "UVICORN_LOOP": "asyncio"}, True, DELAY),
        ({"UVICORN_FD": "3"}, False, DELAY),
        ({"UVICORN_FD": "3"}, True, DELAY),
    ],
)
def test_sockets_of_uvicorn_that_delay(
    doctor: Doctor,
    tmp_path: Path,
    environment: dict[str, str],
    has_uvloop: bool,
    codes: list[str],
) -> None:
    uninstall(tmp_path, "uvloop")
    if has_uvloop:
        write(tmp_path, uvloop="")
    result = doctor("--json", **environment)
    assert result.codes == codes
    notes = {each["name"]: each["note"] for each in result.report["packages"]}
    assert notes["uvicorn"].endswith("with uvloop" if has_uvloop else "no uvloop")
    if codes:
        fd = "UVICORN_FD" in environment
        assert ("NoDelay=true" if fd else "pip install uvloop") in result.said("uvicorn-delay")


@pytest.mark.parametrize(
    ("environment", "codes"),
    [
        ({"UVICORN_WS": "websockets"}, ["uvicorn-queue"]),
        ({"UVICORN_WS": "websockets", "UVICORN_WS_MAX_QUEUE": "2"}, []),
        ({"UVICORN_WS": "websockets", "UVICORN_WS_MAX_SIZE": "65536"}, []),
        ({"UVICORN_WS": "websockets-sansio"}, []),
    ],
)
def test_a_queue_of_uvicorn_without_a_bound(
    doctor: Doctor, tmp_path: Path, environment: dict[str, str], codes: list[str]
) -> None:
    uninstall(tmp_path, "uvloop")
    result = doctor("--json", **environment)
    assert result.codes == codes
    if codes:
        assert "UVICORN_WS_MAX_QUEUE=2" in result.said("uvicorn-queue")


UVICORN_WORKER = "uvicorn.workers.UvicornWorker"
GRACE = "def post_fork(server, worker):\n    worker.config.timeout_graceful_shutdown = 9\n"


@pytest.mark.parametrize(
    ("arguments", "settings", "place"),
    [
        (f"-w 2 -k {UVICORN_WORKER}", "", "GUNICORN_CMD_ARGS"),
        ("-k uvicorn_worker.UvicornH11Worker", "", "GUNICORN_CMD_ARGS"),
        ("", f'worker_class = "{UVICORN_WORKER}"\n', "gunicorn.conf.py"),
        ("", f'worker_class = "{UVICORN_WORKER}"\n{GRACE}', ""),
        (f"-k {UVICORN_WORKER}", GRACE, ""),
        ("", f'# worker_class = "{UVICORN_WORKER}"\n', ""),
    ],
)
def test_uvicorn_s_worker_without_an_end(
    doctor: Doctor, tmp_path: Path, arguments: str, settings: str, place: str
) -> None:
    if settings:
        write(tmp_path, **{"gunicorn.conf": settings})
    result = doctor("--json", GUNICORN_CMD_ARGS=arguments)
    assert result.codes == (["uvicorn-worker-grace"] if place else [])
    if place:
        assert f"gunicorn's worker in {place} " in result.said("uvicorn-worker-grace")


def test_a_remedy_names_no_page_of_the_repository() -> None:
    """Where the package is installed there is none."""
    assert package.__file__ is not None
    assert "docs/" not in Path(package.__file__).with_name("doctor.py").read_text()


# Applications

FLASK = """
import functools
from flask import Flask
from unisock.adapters.flask import view

async def room(ws): ...

app = Flask(__name__)
app.add_url_rule("/good", view_func=view(room), websocket=True)
app.add_url_rule("/page", "page", lambda: "a page")
"""
BAD_RULE = 'app.add_url_rule("/bad", "bad", view(room))\n'
DECORATED = 'app.add_url_rule("/bad", "bad", functools.wraps(view(room))(lambda: None))\n'


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        (FLASK, []),
        (FLASK + BAD_RULE, ["flask-rule"]),
        (FLASK + DECORATED, ["flask-rule"]),
        ("from flask import Blueprint as B; app = B('b', 'b')\n", []),
        ("from fastapi import FastAPI as A; app = A()\n", []),
        ("from falcon.asgi import App as A; app = A()\n", []),
        ("from starlette.applications import Starlette as A; app = A()\n", []),
        ("from unisock.adapters.asgi import ASGIApp as A\nasync def f(ws): ...\napp = A(f)\n", []),
        ("app = 5\n", ["unknown-app"]),
        ("async def app(scope, receive, send): ...\n", ["unknown-app"]),
        (FLASK + "from geventwebsocket.handler import WebSocketHandler\n", ["stock-handler"]),
        (FLASK + "from unisock.adapters.flask import WebSocketHandler\n", []),
    ],
)
def test_an_application(doctor: Doctor, tmp_path: Path, source: str, codes: list[str]) -> None:
    write(tmp_path, site_app=source)
    result = doctor("--json", "site_app:app")
    assert (result.codes, result.errors) == (codes, "")


def test_what_an_application_prints_is_not_the_report(doctor: Doctor, tmp_path: Path) -> None:
    write(tmp_path, site_app=FLASK + BAD_RULE + "print('hello')\n")
    result = doctor("site_app:app", "--json")
    assert "the rule /bad " in result.said("flask-rule")
    assert result.errors == "hello\n"


PATCH = "from gevent import monkey\nmonkey.patch_all()\n"


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        ("", []),
        (PATCH, []),
        ("import asyncio\n" + PATCH, ["patched-late"]),
        ("import unisock\n" + PATCH, ["patched-late"]),
    ],
    ids=["not at all", "first", "after asyncio", "after unisock"],
)
def test_the_patch(doctor: Doctor, tmp_path: Path, source: str, codes: list[str]) -> None:
    told = "from unisock import doctor\nprint([each.code for each in doctor.check_process()])\n"
    write(tmp_path, site_app=source + FLASK, process=source + told)
    assert doctor("--json", "site_app:app").codes == codes
    command = [sys.executable, "process.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{codes}\n"


# Arguments


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("app", ["'app' is not MODULE:APP", "app:app"]),
        ("absent:app", ["no module 'absent'"]),
        ("chat:app", ["no attribute 'app'", "did you mean 'api'?"]),
        ("leaves:app", ["SystemExit: bye", "leaves.py, line 1"]),
        ("--jason", ["--jason"]),
        ("--timeout=soon", ["--timeout", "'soon' is no number of seconds above 0"]),
        ("--timeout=0", ["--timeout", "'0' is no number of seconds above 0"]),
        ("--timeout=nan", ["--timeout", "'nan' is no number of seconds above 0"]),
    ],
)
def test_mistake(doctor: Doctor, tmp_path: Path, argument: str, parts: list[str]) -> None:
    write(tmp_path, chat="api = 1\n", leaves="raise SystemExit('bye')\n")
    result = doctor(argument)
    assert (result.status, result.output) == (2, "")
    (line,) = result.errors.splitlines()
    assert line.startswith("unisock")
    for part in parts:
        assert part in line


def test_ctrl_c(unisock: Start, tmp_path: Path) -> None:
    write(tmp_path, hangs="import time\nopen('started', 'w').close()\ntime.sleep(100)\n")
    command = unisock("doctor", "hangs:app")
    until = time.monotonic() + TIMEOUT
    while not (tmp_path / "started").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    command.send(signal.SIGINT, group=True)
    assert command.wait() == 130
    assert command.errors() == ""


# A module as one finds them: it serves when it is imported, and has a process of its own.
SERVES = """
import socket, subprocess, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open("started", "w").write(str(child.pid))
    listener.accept()
"""


def test_a_module_that_serves_when_it_is_imported(unisock: Start, tmp_path: Path) -> None:
    write(tmp_path, site_app=SERVES)
    command = unisock("doctor", "--timeout=5", "site_app:app")
    assert command.wait() == 2  # when each of its processes has let go of stdout
    assert (tmp_path / "started").exists()
    (line,) = command.errors().splitlines()
    assert line == (
        "unisock doctor: importing site_app has not ended within 5 seconds: if it starts the "
        'server, do that below `if __name__ == "__main__":`; if it is only slow, raise --timeout'
    )


def test_a_module_is_imported_once_and_its_own_error_told(doctor: Doctor, tmp_path: Path) -> None:
    """As one with a registry, where a second import fails by itself."""
    source = "import sys\nassert not hasattr(sys, 'seen')\nsys.seen = True\nimport not_there\n"
    tmp_path.joinpath("shop.py").write_text(source)
    status, output, errors = doctor("shop:app")
    assert (status, output) == (2, "")
    assert "importing shop failed: ModuleNotFoundError: No module named 'not_there'" in errors
