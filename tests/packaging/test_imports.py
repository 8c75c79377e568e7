"""What importing unisock imports, and what is said where a package is missing."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points

import pytest

import unisock
from tests.frameworks import FRAMEWORKS
from unisock.frameworks import find

RECORDS = {name: find(name) for name in FRAMEWORKS}
PACKAGES = {
    *(module for record in RECORDS.values() for module in record.packages.values()),
    *(server.partition(",")[0] for record in RECORDS.values() for server in record.capabilities),
    "werkzeug", "wsproto",
}  # fmt: skip
COMMAND_LINE = {
    "argparse",
    "unisock.cli",
    "unisock.frameworks",
    "unisock.serving",
    "unisock.workers",
}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python that nobody measures, for measuring imports packages too."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def imported(statement: str) -> set[str]:
    """The modules that a statement imports, in a process of its own."""
    result = python("-X", "importtime", "-c", statement)
    assert result.returncode == 0, result.stderr
    names = set(
        re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+([\w.]+)$", result.stderr, re.MULTILINE)
    )
    assert "unisock.websocket" in names  # the report was understood
    return names


def test_unisock_imports_no_framework_no_server_and_no_command_line() -> None:
    names = imported("import unisock")
    tops = {name.partition(".")[0] for name in names}
    assert not tops & PACKAGES
    assert not names & COMMAND_LINE
    assert not [name for name in names if name.startswith("unisock.adapters")]


# What a framework brings with it.
BRINGS = {"fastapi": {"starlette"}, "flask": {"werkzeug"}}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_record_imports_no_framework_and_no_server(name: str) -> None:
    names = imported(f"from unisock.frameworks import find; find({name!r})")
    assert not {each.partition(".")[0] for each in names} & PACKAGES


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_adapter_imports_its_own_framework_only(name: str) -> None:
    tops = {each.partition(".")[0] for each in imported(f"import unisock.adapters.{name}")}
    assert tops & {*FRAMEWORKS, "werkzeug"} == {name, *BRINGS.get(name, ())} - {"asgi"}


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

class App:
    pass

App.__module__ = "{framework}.app"  # how `mount` finds the adapter
sys.meta_path.insert(0, Blocker())
import unisock

async def handler(ws): ...

try:
    unisock.mount(App(), "/ws", handler)
except ModuleNotFoundError as exc:
    print(exc)
"""


MOUNTABLE = {name: record for name, record in RECORDS.items() if record.adapter}


@pytest.mark.parametrize(
    ("framework", "package"),
    [
        (name, module)
        for name, record in MOUNTABLE.items()
        for module in record.packages.values()
        # an ASGI application needs no server to be mounted on
        if "uvicorn" not in record.packages or module == name
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    framework: str, package: str
) -> None:
    result = python("-c", BLOCKED.format(framework=framework, package=package))
    assert result.returncode == 0, result.stderr
    assert f"needs the package {package}" in result.stdout
    assert f"pip install 'unisock[{framework}]'" in result.stdout


@pytest.mark.parametrize("name", MOUNTABLE)
def test_a_record_names_its_adapter(name: str) -> None:
    adapter = MOUNTABLE[name].adapter
    assert adapter is not None
    assert callable(importlib.import_module(adapter).mount)


def test_the_command_is_installed() -> None:
    (entry,) = entry_points(group="console_scripts", name="unisock")
    assert callable(entry.load())


PUBLIC = {
    "Address", "Capabilities", "Cookie", "Deflate", "Depends", "Handler", "HandshakeRejected",
    "Header", "InvalidMessage", "InvalidState", "JSONCodec", "Options", "Query", "Router",
    "SocketView", "State", "SyncWebSocket", "URL", "UnisockError",
    "WebSocket", "WebSocketDisconnect", "WebSocketEndpoint", "WebSocketException", "mount",
    "on_message", "route",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert set(unisock.__all__) == PUBLIC
    assert all(hasattr(unisock, name) for name in PUBLIC)


def test_a_star_import_gives_them_and_nothing_else() -> None:
    names: dict[str, object] = {}
    exec("from unisock import *", names)
    del names["__builtins__"]
    assert names.keys() == PUBLIC


@pytest.mark.parametrize(
    ("adapter", "names"),
    [
        ("asgi", {"ASGIApp"}),
        ("starlette", {"endpoint", "mount"}),
        ("fastapi", {"endpoint", "mount"}),
        ("falcon", {"WebSocketResource", "mount", "responder"}),
        ("flask", {"WebSocketHandler", "mount", "view"}),
        ("gunicorn", {"WebSocketWorker"}),
    ],
)
def test_an_adapter_has_the_names_that_are_documented(adapter: str, names: set[str]) -> None:
    # Not imported here: gunicorn's worker patches the process that imports it.
    result = python("-c", f"import unisock.adapters.{adapter} as a; print(*dir(a))")
    assert result.returncode == 0, result.stderr
    assert names <= set(result.stdout.split())


def test_what_takes_long_is_imported_when_a_handler_is_mounted() -> None:
    """And then at once: a first message does not wait for it."""
    slow = ("msgspec", "uuid", "difflib")
    source = f"""
        import sys, unisock
        from unisock.adapters.asgi import ASGIApp
        print(*(name for name in {slow} if name in sys.modules))
        async def handler(ws): ...
        ASGIApp(handler)
        print("unisock.messages" in sys.modules)
    """
    result = python("-c", textwrap.dedent(source))
    assert result.stdout == "\nTrue\n", result.stderr
