"""Text that arrives in pieces: UTF-8 is checked octet by octet.

RFC 6455, section 8.1: the connection fails when a text is not UTF-8.  It fails with
the first octet that cannot belong to any text, and not when the message is whole.
"""

from __future__ import annotations

from codecs import utf_8_decode
from io import StringIO

from .frames import INVALID_DATA, Failure

NOT_UTF8 = "the text is not UTF-8"


class TextPieces:
    """A text of which some pieces have come."""

    __slots__ = ("_buffer", "_rest")

    def __init__(self) -> None:
        # One buffer: a list of a million pieces takes far more than their text.
        self._buffer = StringIO(newline="")
        # The first octets of a character that is not complete.
        self._rest = b""

    def add(self, piece: bytes) -> None:
        """Add the next octets.

        Raises:
            Failure: they are not those of any text.
        """
        if self._rest:
            piece = self._rest + piece
        try:
            text, used = utf_8_decode(piece, "strict", False)
        except UnicodeDecodeError:
            raise Failure(INVALID_DATA, NOT_UTF8) from None
        rest = self._rest = piece[used:]
        # A surrogate's first two octets; Python waits for the third (seen in 3.11 to 3.14).
        if len(rest) == 2 and rest[0] == 0xED and rest[1] >= 0xA0:
            raise Failure(INVALID_DATA, NOT_UTF8)
        self._buffer.write(text)

    def end(self) -> str:
        """The whole text.

        Raises:
            Failure: the last character is not complete.
        """
        if self._rest:
            raise Failure(INVALID_DATA, NOT_UTF8)
        return self._buffer.getvalue()
