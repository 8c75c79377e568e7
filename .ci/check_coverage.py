"""Compare what the test run measured with the list of what may be uncovered.

Every line and branch of `unisock` and `unisock.adapters` runs in some test, or
stands in ``uncovered.toml`` with its reason.  Lines are listed by their text,
so that the list does not rot when a file grows.  A few that are not listed are
shown and tolerated: see `TOLERATED`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
LIST = ROOT / ".ci" / "uncovered.toml"
DATA = ROOT / ".coverage-data"
SHOWN = 100  # where nothing was measured at all, the last line says it
# Which races a run meets, and which processes are killed before they have
# written what they measured, differs from run to run.
TOLERATED = 30


class Gap(NamedTuple):
    """A line that did not run, or one with a branch that was not taken."""

    file: str
    line: str
    branch: bool


def main() -> int:
    """Combine, report, compare; return the exit status."""
    report = measure()
    problems = compare(gaps(report), tomllib.loads(LIST.read_text()).get("uncovered", []))
    print("\n".join(problems[:SHOWN]))
    totals = report["totals"]
    print(
        f"{totals['percent_covered']:.2f} % of {totals['num_statements']} lines and "
        f"{totals['num_branches']} branches; {len(problems)} problems"
    )
    return 1 if len(problems) > TOLERATED else 0


def measure() -> dict[str, Any]:
    """Combine the data of all processes; return coverage's JSON report."""
    env = {**os.environ, "UNISOCK_ROOT": str(ROOT), "COVERAGE_FILE": str(DATA / ".coverage")}
    command = [sys.executable, "-m", "coverage"]
    subprocess.run([*command, "combine", "--quiet", "--keep"], cwd=ROOT, env=env, check=True)
    subprocess.run([*command, "report"], cwd=ROOT, env=env, check=True)
    output = DATA / "report.json"
    subprocess.run([*command, "json", "--quiet", "-o", output], cwd=ROOT, env=env, check=True)
    report: dict[str, Any] = json.loads(output.read_text())
    missing = {path.relative_to(ROOT).as_posix() for path in sources()} - report["files"].keys()
    if missing:  # a wrong source setting would be a false 100 %
        sys.exit(f"not in the report at all: {', '.join(sorted(missing))}")
    return report


def sources() -> list[Path]:
    """The files that the figure is about."""
    return [*(ROOT / "unisock").glob("*.py"), *(ROOT / "adapters").glob("*.py")]


def gaps(report: dict[str, Any]) -> Counter[Gap]:
    """What did not run, with the number of times that the same text did not."""
    found: Counter[Gap] = Counter()
    for name, file in report["files"].items():
        text = [line.strip() for line in (ROOT / name).read_text().splitlines()]
        missing = set(file["missing_lines"])
        partial = {start for start, _ in file["missing_branches"]} - missing
        for number in missing | partial:
            found[Gap(name, text[number - 1], number in partial)] += 1
    return found


def compare(found: Counter[Gap], listed: list[dict[str, Any]]) -> list[str]:
    """Say what is uncovered and not listed, and what is listed and covered."""
    left = Counter(found)
    problems = []
    for entry in listed:
        gap = Gap(entry["file"], entry["line"], entry.get("branch", False))
        if not entry.get("reason"):
            problems.append(f"listed without a reason: {describe(gap)}")
        if left[gap]:
            left[gap] -= 1
        elif not entry.get("sometimes", False):
            problems.append(f"listed, but covered or gone: {describe(gap)}")
    problems += [f"not covered: {describe(gap)}" for gap in left.elements()]
    return problems


def describe(gap: Gap) -> str:
    """One line for the report."""
    return f"{gap.file}: {'a branch of ' if gap.branch else ''}`{gap.line}`"


if __name__ == "__main__":
    sys.exit(main())
