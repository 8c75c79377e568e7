"""The command as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pytest

from unisock.serving import FRAMEWORKS

TIMEOUT = 30


class Command:
    """A started ``unisock``; its processes are a group of their own."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._errors = directory / "stderr"
        with self._errors.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "unisock", *arguments],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(directory)},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    def line(self) -> str:
        """The next line of stdout."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.errors()}"
        return line.rstrip("\n")

    def urls(self) -> dict[str, str]:
        """The URLs that ``--on all`` prints, by framework."""
        return self.labelled_urls(len(FRAMEWORKS))

    def url(self) -> str:
        """The URL that is printed for one framework."""
        return self.line().split()[0]

    def labelled_urls(self, count: int) -> dict[str, str]:
        """So many URLs, by framework."""
        lines = [self.line().split()[:2] for _ in range(count)]
        return dict(lines)

    def errors(self) -> str:
        """What is on stderr so far."""
        return self._errors.read_text()

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal, to all of its processes as a terminal does if `group`."""
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status, when every one of its processes has ended.

        All hold stdout, so that its end is theirs.
        """
        self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode

    def wait_for_parent(self) -> int:
        """The exit status; none of its processes is left by then."""
        status = self.process.wait(TIMEOUT)
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        return status

    def clean_up(self) -> None:
        """Leave no process, whatever a test has found."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


Start: TypeAlias = Callable[..., Command]
"""Start ``unisock`` with arguments; a test's fixture, that ends it as well."""


def hide(directory: Path, *packages: str) -> None:
    """Make every process that starts in `directory` fail to import `packages`."""
    lines = [f"sys.modules[{package!r}] = None" for package in packages]
    (directory / "sitecustomize.py").write_text("\n".join(["import sys", *lines, ""]))
