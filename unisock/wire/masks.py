"""The mask of a client's frames (RFC 6455, section 5.3).

The one thing of the `websockets` package that is used on the wire: in C, or in Python
where that was not compiled.
"""

from __future__ import annotations

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = ["apply_mask"]
