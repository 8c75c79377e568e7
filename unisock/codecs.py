"""What may encode and decode JSON in place of msgspec."""

from __future__ import annotations

from typing import Any, Protocol


class JSONCodec(Protocol):
    """What ``json=`` takes: the `json` module, `orjson`, or an object like them."""

    def dumps(self, obj: Any, /) -> str | bytes:
        """Encode; raise `TypeError` for what cannot be encoded."""
        ...

    def loads(self, data: str | bytes, /) -> Any:
        """Decode; raise `ValueError` for what is not JSON."""
