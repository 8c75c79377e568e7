"""The project's own matrix: the rows of every module of `unisock.conformance.frameworks`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from . import frameworks
from .rows import Row


def _rows() -> Iterator[Row]:
    for found in iter_modules(frameworks.__path__, f"{frameworks.__name__}."):
        yield from import_module(found.name).ROWS


ROWS = tuple(_rows())
"""The frameworks, each on the servers that the suite runs it on."""
