"""Text of a peer, for the log and for exceptions: in one line, and not long."""

from __future__ import annotations

MOST_OF_TEXT = 200
"""How many characters of a peer's text are written."""


def escaped(text: str) -> str:
    """`text` in one line: what is not printable is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable(text: str) -> str:
    """As `escaped`, and what is too long is cut."""
    shown = escaped(text[:MOST_OF_TEXT])
    return shown if len(text) <= MOST_OF_TEXT else f"{shown}…"
