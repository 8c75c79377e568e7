"""The plugin, in runs of pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks import FRAMEWORKS

HANDLER = """
import asyncio
import pytest

async def echo(ws):
    await ws.accept(headers={"X-Kind": "echo"})
    async for message in ws:
        await ws.send(message)
"""
# A user's tests, the same for every adapter.
SHARED = (
    HANDLER
    + """
def test_text(unisock_client):
    with unisock_client(echo) as peer:
        peer.send_text("hi")
        assert peer.receive_text() == "hi"

def test_headers(unisock_client):
    with unisock_client(echo) as peer:
        assert peer.accepted_headers.get("x-kind") == "echo"
"""
)
MARKED = SHARED.replace("def test_text", "@pytest.mark.unisock_adapters('x')\ndef test_text")
ASYNC = """
async def test_async(unisock_client):
    async with unisock_client(echo) as peer:
        await peer.send_text("hi")
        assert await peer.receive_text() == "hi"
"""


Run = Callable[..., tuple[dict[str, str], str]]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Run:
    """Runs pytest in a folder; returns the outcome of each test, and all that was printed."""

    def run(source: str, *options: str, conftest: str = "", ini: str = "") -> Any:
        (tmp_path / "test_user.py").write_text(source)
        (tmp_path / "conftest.py").write_text(conftest)
        (tmp_path / "pytest.ini").write_text(f"[pytest]\n{ini}")
        command = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", *options]
        # Else it takes the options of the run that it is part of.
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        text = done.stdout + done.stderr
        return dict(re.findall(r"(?m)^test_user\.py::(\S+) ([A-Z]+)", text)), text

    return run


def each(test: str, names: list[str], outcome: str = "PASSED") -> dict[str, str]:
    return {f"{test}[{name}]": outcome for name in names}


def test_every_adapter_and_the_one_that_is_broken(run_pytest: Run) -> None:
    green = each("test_text", list(FRAMEWORKS)) | each("test_headers", list(FRAMEWORKS))
    outcomes, text = run_pytest(SHARED)
    assert outcomes == green, text
    # Falcon's adapter alone loses the headers of the handshake.
    breaks = """
from unisock.adapters.falcon import FalconTransport
async def accept(self, subprotocol, headers):
    await super(FalconTransport, self).accept(subprotocol, [])
FalconTransport.accept = accept
"""
    outcomes, text = run_pytest(SHARED, conftest=breaks)
    assert outcomes == green | {"test_headers[falcon]": "FAILED"}, text


@pytest.mark.parametrize(
    ("options", "ini", "mark", "fixture"),
    [
        (("-p", "no:asyncio"), "", "@pytest.mark.anyio", "anyio_backend"),
        (("-p", "no:anyio"), "asyncio_mode = strict", "@pytest.mark.asyncio", ""),
        (("-p", "no:anyio"), "asyncio_mode = auto", "", ""),
    ],
    ids=["anyio", "asyncio", "asyncio-auto"],
)
def test_async_tests(
    run_pytest: Run, options: tuple[str, ...], ini: str, mark: str, fixture: str
) -> None:
    conftest = "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    source = HANDLER + mark + ASYNC
    ini += "\nunisock_adapters = memory, starlette flask"
    outcomes, text = run_pytest(source, *options, conftest=conftest if fixture else "", ini=ini)
    assert outcomes == each("test_async", ["memory", "starlette", "flask"]), text


def test_the_setting_and_the_marker_narrow(run_pytest: Run) -> None:
    source = (
        SHARED
        + """
@pytest.mark.unisock_adapters("memory", "flask")
def test_marked(unisock_client):
    with unisock_client(echo):
        pass
"""
    )
    outcomes, text = run_pytest(source, "--strict-markers", ini="unisock_adapters = asgi,flask")
    both = ["asgi", "flask"]
    expected = each("test_text", both) | each("test_headers", both) | each("test_marked", ["flask"])
    assert outcomes == expected, text


@pytest.mark.parametrize(
    ("source", "ini", "says"),
    [
        (
            SHARED,
            "unisock_adapters = django",
            "unisock_adapters: 'django' is none of aiohttp, asgi,",
        ),
        (MARKED, "", "unisock_adapters: 'x' is none of "),
        (SHARED, "unisock_timeout = soon", "unisock_timeout: 'soon' is no number"),
    ],
)
def test_what_is_unknown(run_pytest: Run, source: str, ini: str, says: str) -> None:
    _, text = run_pytest(source, ini=ini)
    assert says in text


def test_the_timeout_is_a_setting(run_pytest: Run) -> None:
    source = SHARED.replace('peer.send_text("hi")', "pass")
    ini = "unisock_timeout = 0.125\nunisock_adapters = memory"
    _, text = run_pytest(source, "-k", "test_text", ini=ini)
    assert "waited 0.125 s for a message from the handler" in text


def test_what_is_not_installed_is_skipped(run_pytest: Run) -> None:
    hides = """
import importlib.util as u
find = u.find_spec
u.find_spec = lambda name, *a: None if name == "falcon" else find(name, *a)
"""
    ini = "unisock_adapters = falcon, memory"
    outcomes, text = run_pytest(SHARED, "-k", "test_text", conftest=hides, ini=ini)
    assert outcomes == {"test_text[falcon]": "SKIPPED", "test_text[memory]": "PASSED"}, text
    assert "falcon is not installed: pip install 'unisock[falcon]'" in text


def test_without_a_client_what_needs_a_socket_is_skipped(run_pytest: Run) -> None:
    hides = """
import importlib.util as u
import unisock.frameworks  # which goes on to find it: a framework of others may do without
find = u.find_spec
u.find_spec = lambda name, *a: None if name == "websockets" else find(name, *a)
"""
    ini = "unisock_adapters = asgi, memory"
    outcomes, text = run_pytest(SHARED, "-k", "test_text", conftest=hides, ini=ini)
    assert outcomes == {"test_text[asgi]": "SKIPPED", "test_text[memory]": "PASSED"}, text
    assert "a peer on a socket needs a client: pip install websockets" in text


def test_a_marker_that_the_setting_leaves_nothing_of(run_pytest: Run) -> None:
    source = MARKED.replace("'x'", "'flask'")
    outcomes, text = run_pytest(source, "-k", "test_text", ini="unisock_adapters = falcon")
    assert set(outcomes.values()) == {"SKIPPED"}, text
    assert "the marker has flask, the setting falcon: no adapter is in both" in text


def test_nothing_is_imported_until_it_is_used(run_pytest: Run) -> None:
    source = """
import sys
def test_plain(request):
    assert request.config.pluginmanager.has_plugin("unisock")
    assert [name for name in sys.modules if name.partition(".")[0] == "unisock"] == []
"""
    outcomes, text = run_pytest(source)
    assert outcomes == {"test_plain": "PASSED"}, text
