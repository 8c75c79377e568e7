"""The options of a connection whose frames unisock itself sends and reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .deflate import Deflate

Compression: TypeAlias = Literal["deflate"] | Deflate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """Options that mean the same wherever an adapter has the socket.

    Attributes:
        ping_interval: seconds between two keepalive pings; `None`: none are sent.
        ping_timeout: seconds without a sign of life after a ping, until the peer counts as
            gone; `None`: any.
        compression: ``"deflate"`` or a `Deflate`: messages are compressed for a client that
            offers it (RFC 7692); `None`: for none.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value that makes no sense.
    """

    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    compression: Compression = None

    deflate: Deflate | None = field(init=False)
    """`compression`, parsed."""

    def __post_init__(self) -> None:
        for name in ("ping_interval", "ping_timeout"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(f"{name}= takes a number or None, not {value!r}")
            if not 0 < value < math.inf:
                raise ValueError(f"{name}= is above 0 and finite, or None, not {value!r}")
        object.__setattr__(self, "deflate", Deflate.parse(self.compression))
