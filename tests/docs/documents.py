"""The documents, and the code blocks in them.

A block ``python NAME.py`` is a complete file, a block ``python fragment`` is a
part of one.  There is no third kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_BLOCK = re.compile(r"^```(\w*)(?: ([\w.]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# As a line of its own, indented, or within a sentence.
_COMMAND = re.compile(
    r"(?:^    |`)("
    r"(?:uvicorn|hypercorn|granian|gunicorn|unisock serve)\b[^`\n]*\w:\w[^`\n]*"
    r"|python \w+\.py"
    r")",
    re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced block."""

    language: str
    name: str
    text: str


def page(name: str) -> Path:
    """A page by its path in the repository."""
    return ROOT / name


def name_of(path: Path) -> str:
    """A page's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for match in _BLOCK.finditer(path.read_text()):
        yield Block(*match.groups(default=""))


def files(path: Path) -> dict[str, str]:
    """The complete files of a page, by name."""
    return {b.name: b.text for b in blocks(path) if b.name.endswith(".py")}


def commands(path: Path) -> list[str]:
    """The commands of a page that start a server."""
    return _COMMAND.findall(_BLOCK.sub("", path.read_text()))
