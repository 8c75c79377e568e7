"""A message that arrives in pieces; a text is checked octet by octet.

RFC 6455, section 8.1: the connection fails when a text is not UTF-8.  It fails with
the first octet that cannot belong to any text, and not when the message is whole.
"""

from __future__ import annotations

from codecs import utf_8_decode

from .frames import INVALID_DATA, Failure

NOT_UTF8 = "the text is not UTF-8"

# Pieces are joined when there are more than so many, and one for so many bytes: a million
# small ones would take far more than their bytes.
_FEW = 64
_BYTES = 1024


class BinaryPieces:
    """A binary message of which some pieces have come."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Add the next bytes."""
        self._pieces.append(piece)
        self._size += len(piece)
        if len(self._pieces) > _FEW + self._size // _BYTES:
            self._pieces = [b"".join(self._pieces)]

    def end(self) -> bytes:
        """The whole message."""
        return b"".join(self._pieces)


class TextPieces:
    """A text of which some pieces have come."""

    __slots__ = ("_pieces", "_rest", "_size")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0
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
        self._pieces.append(text)
        self._size += len(text)
        if len(self._pieces) > _FEW + self._size // _BYTES:
            self._pieces = ["".join(self._pieces)]

    def end(self) -> str:
        """The whole text.

        Raises:
            Failure: the last character is not complete.
        """
        if self._rest:
            raise Failure(INVALID_DATA, NOT_UTF8)
        return "".join(self._pieces)
