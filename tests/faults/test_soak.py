"""The soak run itself: what it prints, and that it finds what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _soak(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=90,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_short_run_prints_its_figures() -> None:
    status, out = _soak("--seconds", "6", "--on", "falcon", "flask")
    assert status == 0, out
    for kind in ("falcon", "flask"):
        last = re.findall(rf"^{kind} \d+s (.*)$", out, re.MULTILINE)[-1]
        figures = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", last)}
        assert figures["connections"] > 20 and figures["echoed"] > 200
        assert (figures["wrong"], figures["websockets"]) == (0, 1), "the one of the census"
        total = rf"^{kind} TOTAL: (\d+) connections, (\d+) messages echoed, 0 wrong; memory \S+ MiB"
        assert re.findall(total, out, re.MULTILINE) == [
            (str(figures["connections"]), str(figures["echoed"]))
        ]
        assert {"rss", "fds", "tasks", "threads", "greenlets"} < figures.keys()


def test_a_short_load() -> None:
    status, out = _soak("--load", "--idle", "100", "--seconds", "1", "--on", "starlette")
    assert status == 0, out
    assert "'idle': 100" in out
    assert "connections=601" in out, "the idle and the busy, twice, and one before"
    assert re.search(
        r"^starlette TOTAL: 601 .*, \d+\.\d KiB an idle connection$", out, re.MULTILINE
    )


def test_what_is_lost_and_what_is_left_are_found() -> None:
    """In a server that drops every fourth message, and lets go of no connection."""
    brief = ("--seconds", "1", "--patience", "2")
    status, out = _soak(*brief, "--on", "falcon", LOSE="4", KEEP="yes")
    assert status == 1
    assert re.search(r"^falcon WRONG, \d+ times: .* '3 4 xx", out, re.MULTILINE), out
    assert re.search(r"^falcon WRONG, 1 times: left behind: .*'websockets'", out, re.MULTILINE), out
