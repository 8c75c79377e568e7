"""Write the README's table of servers from the rows that the conformance suite declares.

python docs/servers.py
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from unisock import Capabilities
from unisock.conformance.matrix import ROWS
from unisock.conformance.rows import Row

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- servers: begin (written by docs/servers.py) -->\n"
END = "<!-- servers: end -->"

COLUMNS = {
    "accept_headers": "headers of `accept`",
    "subprotocol": "subprotocol",
    "http_rejection": "HTTP rejection",
    "close_code": "peer's code",
    "close_reason": "peer's reason",
}


def table(rows: Iterable[Row]) -> str:
    """One line a server; what it lacks has its reason below."""
    assert COLUMNS.keys() == {field.name for field in fields(Capabilities)}
    servers: dict[str, list[Row]] = {}
    for row in rows:
        servers.setdefault(row.server, []).append(row)
    reasons: list[str] = []
    lines = [
        f"| server | frameworks | {' | '.join(COLUMNS.values())} |",
        "|---|---" + "|:-:" * len(COLUMNS) + "|",
    ]
    for server, group in servers.items():
        lacks = group[0].lacks
        assert all(row.lacks == lacks for row in group), f"{server} differs between frameworks"
        frameworks = ", ".join(row.framework for row in group)
        cells = [cell(reasons, group[0], name) for name in COLUMNS]
        extra = "".join(note(reasons, group[0], name) for name in lacks if name not in COLUMNS)
        lines.append(f"| {server}{extra} | {frameworks} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes, ""])


def cell(reasons: list[str], row: Row, name: str) -> str:
    """Yes, or no with the number of its reason."""
    return f"no{note(reasons, row, name)}" if name in row.lacks else "yes"


def note(reasons: list[str], row: Row, name: str) -> str:
    """The number of a reason, which is added if it is new."""
    reason = row.lacks[name]
    if reason not in reasons:
        reasons.append(reason)
    return f" <sup>{reasons.index(reason) + 1}</sup>"


def update(readme: str) -> str:
    """The README with the table of today."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, "the README has no place for the table"
    return f"{before}{BEGIN}\n{table(ROWS)}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(update(README.read_text()))
