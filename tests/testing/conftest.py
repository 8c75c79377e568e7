"""Nothing is left of a connection: no thread of ours, no task."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

_PATIENCE = 10.0


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("unisock")]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    until = time.monotonic() + _PATIENCE
    while _threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert _threads() == []
