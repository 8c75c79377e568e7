"""The frame that is made once for all connections."""

from __future__ import annotations

import pytest

from tests.benchmarks.client import frame
from unisock.wire.frames import _MAX_KEPT, _LastFrame

TEXT, BINARY = 1, 2


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, _MAX_KEPT, 1 << 20])
def test_each_message_has_its_frame(size: int) -> None:
    """Whichever was the last, and also if it looks the same."""
    frames = _LastFrame()
    text, data = "x" * size, b"x" * size
    for _ in range(2):
        assert frames.of(text) == frame(TEXT, data)
        assert frames.of(data) == frame(BINARY, data)
        assert frames.of("\u20ac") == frame(TEXT, "\u20ac".encode())


def test_a_frame_is_made_once_unless_it_is_large() -> None:
    frames = _LastFrame()
    small, large = "x" * 1000, "x" * _MAX_KEPT
    first = frames.of(small)
    assert frames.of(small) is first
    frames.of(large)
    assert frames.of(small) is first
    frames.of("another")
    assert frames.of(small) is not first
