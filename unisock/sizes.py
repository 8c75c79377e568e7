"""How many bytes a message has."""

from __future__ import annotations

MAX_UTF8 = 4
"""How many bytes of UTF-8 a code point is at most: most texts need no encoding."""


def exceeds(message: str | bytes, limit: int) -> bool:
    """Whether a message has more than `limit` bytes; a text is of UTF-8."""
    size = len(message)
    if isinstance(message, bytes) or size > limit:
        return size > limit
    return size * MAX_UTF8 > limit and not message.isascii() and len(message.encode()) > limit
