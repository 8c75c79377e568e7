"""The one list of frameworks that the suites run on: those that have a record."""

from __future__ import annotations

from unisock.frameworks import names

FRAMEWORKS = tuple(names())
