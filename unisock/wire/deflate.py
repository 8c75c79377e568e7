"""Compression of messages: permessage-deflate (RFC 7692).

`Deflate` is the option, `Deflate.negotiate` answers a client's offer (section 5.1 and
7.1), `Inflater` and `Deflater` do the work (section 7.2).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .frames import INVALID_DATA, Failure

_NAME = "permessage-deflate"
# What a message ends with, and what is left out on the wire (section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
_LARGEST_WINDOW = 15
# zlib compresses raw with windows of 9 bits and more.
_SMALLEST_WINDOW = 9
# Blocks that say to be the last take a new inflater each, and a message that is full of them
# would stop the server: so many may be in it, and one more for so many bytes.
_FEW_LAST_BLOCKS = 16
_BYTES_OF_BLOCK = 1024
LAST_BLOCKS = "compressed data has too many blocks that say to be the last"

# RFC 6455, section 9.1: names and parameters, of which one may be in quotes.
_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = rf'[ \t]*;[ \t]*({_WORD})(?:[ \t]*=[ \t]*(?:({_WORD})|"({_WORD})"))?'
_parameter = re.compile(_PARAMETER)
_extension = re.compile(rf"[ \t]*({_WORD})((?:{_PARAMETER})*)[ \t]*(?:,|\Z)")
_empty = re.compile(r"[ \t]*,")  # as a list may have
_end = re.compile(r"[ \t]*\Z")
_window_bits = re.compile("[89]|1[0-5]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Deflate:
    """How messages are compressed, for a client that offers it.

    A smaller window and less memory compress less.  With the values that are set here
    a connection holds 49 KiB more from its first compressed messages on, 38 of them for what
    it sends.  With windows of 15 bits and a memory level of 8 it is 301 KiB, and with 9 bits
    and a level of 1 it is 16 KiB.

    Attributes:
        server_max_window_bits: the window for what is sent, 9 to 15: two to the power of
            it are its bytes.
        client_max_window_bits: the window for what is received, 9 to 15.  A client that
            does not offer to limit it uses 15.
        server_no_context_takeover: whether each message that is sent is compressed by
            itself: nothing is held between two, and small messages compress badly.
        client_no_context_takeover: whether the client is told to do so.
        memory_level: 1 to 9, zlib's ``memLevel`` for what is sent.

    Raises:
        ValueError: a number that is out of its range.
        TypeError: what is not a whole number.
    """

    server_max_window_bits: int = 12
    client_max_window_bits: int = 12
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    memory_level: int = 5

    def __post_init__(self) -> None:
        for name, least, most in (
            ("server_max_window_bits", _SMALLEST_WINDOW, _LARGEST_WINDOW),
            ("client_max_window_bits", _SMALLEST_WINDOW, _LARGEST_WINDOW),
            ("memory_level", 1, 9),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name}= takes a whole number, not {value!r}")
            if not least <= value <= most:
                raise ValueError(f"{name}= is {least} to {most}, not {value}")

    @classmethod
    def parse(cls, compression: Literal["deflate"] | Deflate | None) -> Deflate | None:
        """What the option ``compression=`` says: ``"deflate"``, a `Deflate` or `None`.

        Raises:
            TypeError, ValueError: something else.
        """
        if compression is None or isinstance(compression, cls):
            return compression
        if not isinstance(compression, str):
            raise TypeError(f'compression= takes "deflate", a Deflate or None, not {compression!r}')
        if compression != "deflate":
            raise ValueError(f'compression= is "deflate", a Deflate or None, not {compression!r}')
        return cls()

    def negotiate(self, offers: Iterable[tuple[str, str]]) -> Agreement | None:
        """Accept the first offer that can be accepted; `None` if there is none.

        Args:
            offers: those of the client, as `read_extensions` gives them.
        """
        for name, parameters in offers:
            if name == _NAME and (agreed := self._answer(parameters)) is not None:
                return agreed
        return None

    def _answer(self, parameters: str) -> Agreement | None:
        offered = _read_parameters(parameters)
        if offered is None:
            return None
        server_bits = self.server_max_window_bits
        if (asked := offered.get("server_max_window_bits")) is not None:
            server_bits = min(server_bits, int(asked))
            if server_bits < _SMALLEST_WINDOW:
                return None
        client_bits = _LARGEST_WINDOW
        if "client_max_window_bits" in offered:
            limit = offered["client_max_window_bits"] or _LARGEST_WINDOW
            client_bits = min(self.client_max_window_bits, int(limit))
        return Agreement(
            server_bits=server_bits,
            client_bits=client_bits,
            tells_client_bits="client_max_window_bits" in offered,
            server_no_takeover=self.server_no_context_takeover
            or "server_no_context_takeover" in offered,
            client_no_takeover=self.client_no_context_takeover
            or "client_no_context_takeover" in offered,
            memory_level=self.memory_level,
        )


def read_extensions(values: Iterable[str]) -> list[tuple[str, str]]:
    """The names in ``Sec-WebSocket-Extensions``, with the text of their parameters.

    Raises:
        ValueError: the header is malformed (RFC 6455, section 9.1).
    """
    return list(_each_extension(",".join(values)))


def _each_extension(value: str) -> Iterator[tuple[str, str]]:
    pos = 0
    while not _end.match(value, pos):
        if (empty := _empty.match(value, pos)) is not None:
            pos = empty.end()
            continue
        match = _extension.match(value, pos)
        if match is None:
            raise ValueError(f"malformed Sec-WebSocket-Extensions: {value!r}")
        yield match[1].lower(), match[2]
        pos = match.end()


def _read_parameters(text: str) -> dict[str, str | None] | None:
    """The parameters of an offer; `None` if one is not as section 7.1 has it."""
    found: dict[str, str | None] = {}
    for name, token, quoted in _parameter.findall(text):
        value = token or quoted or None
        if name in found:
            return None
        if name in {"server_no_context_takeover", "client_no_context_takeover"}:
            is_good = value is None
        elif name in {"server_max_window_bits", "client_max_window_bits"}:
            may_be_left_out = name == "client_max_window_bits"
            is_good = bool(_window_bits.fullmatch(value)) if value else may_be_left_out
        else:
            is_good = False
        if not is_good:
            return None
        found[name] = value
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What client and server have agreed on for one connection."""

    server_bits: int
    client_bits: int
    tells_client_bits: bool
    server_no_takeover: bool
    client_no_takeover: bool
    memory_level: int

    @property
    def header(self) -> str:
        """The value of ``Sec-WebSocket-Extensions`` in the answer."""
        parts = [_NAME]
        if self.server_no_takeover:
            parts.append("server_no_context_takeover")
        if self.client_no_takeover:
            parts.append("client_no_context_takeover")
        if self.server_bits < _LARGEST_WINDOW:
            parts.append(f"server_max_window_bits={self.server_bits}")
        if self.tells_client_bits:
            parts.append(f"client_max_window_bits={self.client_bits}")
        return "; ".join(parts)


class Inflater:
    """Inflates what a client sends, piece by piece; it takes memory from the first piece on."""

    __slots__ = ("_bits", "_keeps_context", "_last_blocks", "_size", "_zlib")

    def __init__(self, agreed: Agreement) -> None:
        # Of the message: its bytes so far, and its blocks that said to be the last.
        self._size = self._last_blocks = 0
        # Some compress with 9 bits where they were told 8.
        self._bits = max(agreed.client_bits, _SMALLEST_WINDOW)
        self._keeps_context = not agreed.client_no_takeover
        self._zlib: zlib._Decompress | None = None

    def add(self, piece: bytes, limit: int) -> bytes:
        """Inflate the next piece of a message (section 7.2.2).

        Args:
            piece: what has come.
            limit: how many bytes may come of it.  One more is returned where there are
                more, and the rest is not inflated.

        Raises:
            Failure: it is broken.
        """
        inflated = b""
        self._size += len(piece)
        while True:
            if self._zlib is None:
                self._zlib = zlib.decompressobj(-self._bits)
            try:
                inflated += self._zlib.decompress(piece, limit + 1 - len(inflated))
            except zlib.error:
                raise Failure(INVALID_DATA, "compressed data is broken") from None
            if len(inflated) > limit or not self._zlib.eof:
                return inflated
            # After a block that says to be the last others may follow (section 7.2.3.4).
            piece = self._zlib.unused_data
            self._zlib = None
            self._last_blocks += 1
            so_far = self._size - len(piece)
            if self._last_blocks > _FEW_LAST_BLOCKS + so_far // _BYTES_OF_BLOCK:
                raise Failure(INVALID_DATA, LAST_BLOCKS)
            if not piece:
                return inflated

    def end(self, limit: int) -> bytes:
        """What is left of the message; as `add`."""
        inflated = b""
        if self._zlib is not None:  # else the last block has ended with the last byte
            inflated = self.add(_TAIL, limit)
        self._size = self._last_blocks = 0
        if not self._keeps_context:
            self._zlib = None
        return inflated


class Deflater:
    """Compresses what is sent; it takes memory from the first message on."""

    __slots__ = ("_bits", "_keeps_context", "_memory_level", "_zlib")

    def __init__(self, agreed: Agreement) -> None:
        self._bits = agreed.server_bits
        self._keeps_context = not agreed.server_no_takeover
        self._memory_level = agreed.memory_level
        self._zlib: zlib._Compress | None = None

    def compress(self, payload: bytes) -> bytes:
        """Compress a message (section 7.2.1), which must not be empty."""
        if self._zlib is None:
            self._zlib = zlib.compressobj(
                wbits=-self._bits, memLevel=self._memory_level, level=zlib.Z_DEFAULT_COMPRESSION
            )
        compressed = self._zlib.compress(payload) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        if not self._keeps_context:
            self._zlib = None
        return compressed.removesuffix(_TAIL)
