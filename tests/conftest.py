"""Of all tests: what they need, how many run side by side, and on which rows.

Here and not in pyproject.toml, so that a test of a user's own runs in a checkout
with pytest alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

PLUGINS = ("timeout", "xdist")
TIMEOUT = 120  # seconds; a test that hangs fails with the stacks of all threads
_MAX_PROCESSES = 8
_LEFT_OUT = "unisock_left_out"

# Coverage is told to mind greenlets, and not threads (pyproject.toml says why): it
# starts none of its tracers in one.  Here, where nothing is patched, it may.  Each
# thread has a tracer of its own: one that several use at a time corrupts memory.
if sys.gettrace() is not None:
    import coverage

    _measuring = coverage.Coverage.current()
    if _measuring is not None:
        assert _measuring._collector is not None
        threading.settrace(_measuring._collector._installation_trace)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--matrix``."""
    parser.addoption(
        "--matrix",
        choices=("short", "full"),
        default="short",
        help="the rows to test on: one for each adapter, or every row",
    )


@pytest.hookimpl(tryfirst=True)  # before xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Set what the command line leaves open."""
    missing = [name for name in PLUGINS if not config.pluginmanager.has_plugin(name)]
    if missing:
        raise pytest.UsageError(
            f"the tests of unisock need pytest-{' and pytest-'.join(missing)}: "
            "pip install -e '.[dev]'"
        )
    option = config.option
    if option.timeout is None:
        option.timeout = TIMEOUT
    named = [Path(arg) for arg in config.args]
    is_alone = option.usepdb or option.collectonly or hasattr(config, "workerinput")
    if option.numprocesses is None and not is_alone and all(map(Path.is_dir, named)):
        # Most tests wait for servers.
        option.numprocesses = min((os.cpu_count() or 1) + 1, _MAX_PROCESSES)
        if option.dist == "no":
            option.dist = "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and what runs in this process."""
    config.addinivalue_line(
        "markers", "full_matrix: a row that only `--matrix full` runs; others stand for it"
    )
    config.addinivalue_line(
        "markers", "on_lowest: a row that runs on the lowest versions that are admitted"
    )
    config.pluginmanager.register(_Matrix(config), "unisock-matrix")


class _Matrix:
    """Leaves the rows of the full matrix out, and says so."""

    def __init__(self, config: pytest.Config) -> None:
        self._is_full = config.getoption("matrix") == "full"
        self._left_out = 0
        self._start = time.monotonic()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what ``--matrix`` says."""
        if self._is_full:
            return
        left_out = [item for item in items if item.get_closest_marker("full_matrix")]
        if left_out:
            self._left_out = len(left_out)
            items[:] = [item for item in items if not item.get_closest_marker("full_matrix")]
            config.hook.pytest_deselected(items=left_out)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell the process that waits for this one, if there is one."""
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[_LEFT_OUT] = self._left_out

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the number of a process that has ended; all collect the same."""
        self._left_out = getattr(node, "workeroutput", {}).get(_LEFT_OUT, self._left_out)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say how long it took, and what is left to the full run."""
        minutes, seconds = divmod(round(time.monotonic() - self._start), 60)
        what = "every row" if self._is_full else "one row for each adapter"
        left = f"; {self._left_out} tests are left to --matrix full" if self._left_out else ""
        terminalreporter.write_line(f"matrix: {what}, in {minutes}:{seconds:02}{left}")
