"""The table at the end of the run: clauses by rows, and what is lacking where."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_letters
from typing import Any

import pytest

from .harness import NOTES
from .rows import Row

_NAME = "unisock-conformance-table"


def register_table(session: pytest.Session) -> None:
    """Have the table printed when this run ends."""
    plugins = session.config.pluginmanager
    if not plugins.has_plugin(_NAME):
        plugins.register(Table(session.items), _NAME)


class Table:
    """What each clause came to on each row."""

    def __init__(self, items: Iterable[pytest.Item]) -> None:
        self._tests: dict[str, tuple[Row, str, tuple[str, ...]]] = {}
        for item in items:
            callspec = getattr(item, "callspec", None)
            clauses: tuple[str, ...] | None = getattr(getattr(item, "obj", None), "clauses", None)
            if clauses and callspec and isinstance(callspec.params.get("row"), Row):
                name: str = item.originalname  # type: ignore[attr-defined]  # of functions
                self._tests[item.nodeid] = (callspec.params["row"], name, clauses)
        self._passed: set[str] = set()
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test went."""
        if report.nodeid in self._tests:
            if report.when == "call" and report.passed:
                self._passed.add(report.nodeid)
            elif report.failed:
                self._failed.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table."""
        terminalreporter.section("conformance")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """The table, with its legend."""
        rows = list(dict.fromkeys(row for row, _, _ in self._tests.values()))
        clauses = sorted({c for _, _, cs in self._tests.values() for c in cs}, key=_clause_key)
        letters = self._letters()
        cells = {
            (clause, row): self._cell(row, clause, letters) for clause in clauses for row in rows
        }
        width = max([3, *(len(cell) + 1 for cell in cells.values())])
        lines = ["clause " + "".join(f"{n:>{width}}" for n, _ in enumerate(rows, 1))]
        for clause in clauses:
            cell_texts = (f"{cells[clause, row]:>{width}}" for row in rows)
            lines.append(f"{clause:<7}" + "".join(cell_texts))
        lines.append("")
        lines += [f"{n:>3}  {row.name}" for n, row in enumerate(rows, 1)]
        lines.append("")
        lines.append(
            "ok: as the contract says   FAIL: it does not   --: some test of it did not run"
        )
        lines += [f"  {letter}: {key}: {reason}" for (key, reason), letter in letters.items()]
        ran = {self._tests[nodeid][0] for nodeid in self._passed | self._failed}
        lines.append(f"{len(ran)} of {len(rows)} rows ran, {len(clauses)} clauses")
        return lines

    def _letters(self) -> dict[tuple[str, str], str]:
        """A letter for each lack, with its reason, that some test has met."""
        met: dict[tuple[str, str], str] = {}
        for row, test, _ in self._tests.values():
            for key in sorted(NOTES.get((row.name, test), ())):
                met.setdefault((key, row.lacks[key]), _letter(len(met)))
        return met

    def _cell(self, row: Row, clause: str, letters: dict[tuple[str, str], str]) -> str:
        nodes = {
            nodeid: test
            for nodeid, (r, test, clauses) in self._tests.items()
            if r is row and clause in clauses
        }
        if not nodes:
            return ""
        if self._failed & nodes.keys():
            return "FAIL"
        if not nodes.keys() <= self._passed:
            return "--"
        keys = {key for test in nodes.values() for key in NOTES.get((row.name, test), ())}
        return "".join(sorted(letters[key, row.lacks[key]] for key in keys)) or "ok"


def _letter(number: int) -> str:
    rounds, letter = divmod(number, len(ascii_letters))
    return ascii_letters[letter] + (str(rounds) if rounds else "")


def _clause_key(clause: str) -> list[int]:
    return [int(part) for part in clause.split(".")]
