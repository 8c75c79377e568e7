"""The suite on every framework and server of the project's own matrix."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.frameworks import FRAMEWORKS
from unisock.conformance.matrix import ROWS
from unisock.conformance.rows import Row
from unisock.conformance.suite import *  # noqa: F403  # its tests are this module's
from unisock.frameworks import find


def _params() -> Iterator[Any]:
    """The rows; the first of each framework is its one in the short matrix."""
    frameworks: set[str] = set()
    for row in ROWS:
        marks = [pytest.mark.full_matrix] if row.framework in frameworks else []
        marks += [pytest.mark.on_lowest] if row.on_lowest else []
        if row.server.endswith("uvloop") and find_spec("uvloop") is None:
            marks.append(pytest.mark.skip(reason="uvloop is not for this platform"))
        frameworks.add(row.framework)
        yield pytest.param(row, id=row.name, marks=marks)


@pytest.fixture(scope="session", params=_params())
def row(request: pytest.FixtureRequest) -> Row:
    """A row of the matrix; the suite's tests run on each."""
    given: Row = request.param
    return given


def test_no_row_is_left_out() -> None:
    """Each framework has rows, an ASGI framework on each ASGI server."""
    servers: dict[str, list[str]] = {}
    for row in ROWS:
        servers.setdefault(row.framework, []).append(row.server)
    assert sorted(servers) == sorted(FRAMEWORKS)
    asgi = [name for name in FRAMEWORKS if "uvicorn" in find(name).packages]
    kinds = ("websockets-sansio", "websockets", "wsproto", "unisock")
    for name in asgi:
        assert servers[name][:6] == [*(f"uvicorn {kind}" for kind in kinds), "hypercorn", "granian"]
    others = [(name, server) for name in asgi for server in servers[name][6:]]
    # Daphne, the event loop, and what wraps the server's callables are the same for all.
    assert others == [
        ("asgi", "daphne"), ("starlette", "daphne"),
        ("starlette", "uvicorn unisock uvloop"), ("starlette", "uvicorn unisock wrapped"),
    ]  # fmt: skip
    for name in set(FRAMEWORKS) - set(asgi):
        told = {server.partition(",")[0] for server in find(name).capabilities}
        ran = {server.partition(" ")[0].replace("WSGIServer", "gevent") for server in servers[name]}
        assert ran == told


def test_the_short_matrix_has_one_row_for_each_framework() -> None:
    short = [param for param in _params() if pytest.mark.full_matrix not in param.marks]
    rows: list[Row] = [param.values[0] for param in short]
    assert [row.framework for row in rows] == list(dict.fromkeys(row.framework for row in ROWS))


def test_each_framework_has_a_row_on_the_lowest_versions() -> None:
    assert {row.framework for row in ROWS if row.on_lowest} == set(FRAMEWORKS)
