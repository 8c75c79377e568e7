"""The options of a connection whose frames unisock drives."""

from __future__ import annotations

import math
from typing import Any

import pytest

from unisock import Deflate
from unisock.wire.options import WireOptions


@pytest.mark.parametrize("name", ["ping_interval", "ping_timeout"])
def test_seconds_are_above_0_or_none(name: str) -> None:
    assert getattr(WireOptions(**{name: None}), name) is None
    for value in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name}= is above 0 and finite, or None"):
            WireOptions(**{name: value})  # type: ignore[arg-type]  # the name is not a literal
    for other in ("20", True):
        with pytest.raises(TypeError, match=f"{name}= takes a number or None"):
            WireOptions(**{name: other})  # type: ignore[arg-type]  # that is the mistake


@pytest.mark.parametrize(
    ("compression", "deflate"),
    [
        (None, None),
        ("deflate", Deflate()),
        (Deflate(memory_level=1), Deflate(memory_level=1)),
    ],
)
def test_compression(compression: Any, deflate: Deflate | None) -> None:
    assert WireOptions(compression=compression).deflate == deflate


def test_compression_is_deflate_or_none() -> None:
    assert WireOptions().deflate is None
    with pytest.raises(ValueError, match='compression= is "deflate", a Deflate or None'):
        WireOptions(compression="gzip")  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(TypeError, match="not True"):
        WireOptions(compression=True)  # type: ignore[arg-type]  # as above
