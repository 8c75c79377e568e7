"""Write the README's table of servers from the rows that the conformance suite declares.

python docs/servers.py
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields
from pathlib import Path

from unisock import Capabilities
from unisock.conformance.matrix import ROWS
from unisock.conformance.rows import Row

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN = "<!-- servers: begin (written by docs/servers.py) -->\n"
END = "<!-- servers: end -->"

COLUMNS = {
    "accept_headers": "headers of `accept`",
    "subprotocol": "subprotocol",
    "http_rejection": "HTTP rejection",
    "close_code": "peer's code",
    "close_reason": "peer's reason",
    "own_close_code": "own code",
    "own_close_reason": "own reason",
}


def table(rows: Iterable[Row]) -> str:
    """One line a server; what it lacks has its reason below."""
    assert COLUMNS.keys() == {field.name for field in fields(Capabilities)}
    servers: dict[str, list[Row]] = {}
    for row in rows:
        servers.setdefault(row.server, []).append(row)
    # Those come first that most frameworks run on.
    groups = sorted(servers.items(), key=lambda group: -len(group[1]))
    reasons = Reasons()
    lines = [
        f"| server | frameworks | {' | '.join(COLUMNS.values())} |",
        "|---|---" + "|:-:" * len(COLUMNS) + "|",
        *(line(server, group, reasons) for server, group in groups),
    ]
    return "\n".join([*lines, "", *reasons.notes(), ""])


def line(server: str, group: list[Row], reasons: Reasons) -> str:
    """A server, the frameworks that run on it, and a cell for each capability."""
    # What is no capability is the server's if all rows have it, else the framework's.
    others = [{text for name, text in row.lacks.items() if name not in COLUMNS} for row in group]
    shared = set.intersection(*others) if len(group) > 1 else set[str]()
    name = f"{server}{reasons.mark(shared)}"
    frameworks = [
        f"{row.framework}{reasons.mark(own - shared)}"
        for row, own in zip(group, others, strict=True)
    ]
    cells = [cell(capability, group, reasons) for capability in COLUMNS]
    return f"| {' | '.join([name, ', '.join(frameworks), *cells])} |"


def cell(capability: str, group: list[Row], reasons: Reasons) -> str:
    """Whether a server has a capability."""
    found = {row.lacks.get(capability) for row in group}
    assert len(found) == 1, f"{group[0].server}: {capability} differs between frameworks"
    (reason,) = found
    return "yes" if reason is None else f"no{reasons.mark({reason})}"


class Reasons:
    """Footnotes, numbered as they come."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, texts: Collection[str]) -> str:
        """The numbers of some reasons."""
        self._texts += sorted(text for text in texts if text not in self._texts)
        numbers = sorted(self._texts.index(text) + 1 for text in texts)
        return f" <sup>{', '.join(map(str, numbers))}</sup>" if texts else ""

    def notes(self) -> list[str]:
        """All of them, as a list."""
        return [f"{number}. {text}" for number, text in enumerate(self._texts, 1)]


def update(readme: str) -> str:
    """The README with the table of today."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, "the README has no place for the table"
    return f"{before}{BEGIN}\n{table(ROWS)}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(update(README.read_text()))
