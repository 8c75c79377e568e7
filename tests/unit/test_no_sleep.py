"""The tests of this folder wait for what should come, and never for a time."""

from __future__ import annotations

from pathlib import Path

# Spelled so that a search for it finds nothing here either.
WORD = "peels"[::-1]


def test_no_test_waits_for_a_time() -> None:
    paths = sorted(Path(__file__).parent.rglob("*.py"))
    found = [
        f"{path.name}:{number}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if WORD in line
    ]
    assert Path(__file__) in paths
    assert not found
