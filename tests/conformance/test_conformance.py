"""The suite on every framework and server of the project's own matrix."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from unisock.conformance.rows import ROWS, Row
from unisock.conformance.suite import *  # noqa: F403  # its tests are this module's


def _params() -> Iterator[Any]:
    """The rows; the first of each framework is its one in the short matrix."""
    frameworks: set[str] = set()
    for row in ROWS:
        marks = [pytest.mark.full_matrix] if row.framework in frameworks else []
        frameworks.add(row.framework)
        if row.server.endswith("uvloop") and find_spec("uvloop") is None:
            marks.append(pytest.mark.skip(reason="uvloop is not for this platform"))
        yield pytest.param(row, id=row.name, marks=marks)


@pytest.fixture(scope="session", params=_params())
def row(request: pytest.FixtureRequest) -> Row:
    """A row of the matrix; the suite's tests run on each."""
    given: Row = request.param
    return given


def test_no_row_is_left_out() -> None:
    """Each ASGI framework on each ASGI server, two on Daphne, and Flask on each of its own."""
    frameworks = ("asgi", "starlette", "fastapi", "falcon")
    on_daphne = frameworks[:2]
    servers = (
        "uvicorn websockets-sansio",
        "uvicorn websockets",
        "uvicorn wsproto",
        "uvicorn unisock",
        "hypercorn",
        "granian",
    )
    flask = (
        "WSGIServer unpatched",
        "WSGIServer patched",
        "WSGIServer stock",
        "gunicorn unisock",
        "gunicorn stock",
    )
    expected = [
        (f, s) for f in frameworks for s in (*servers, *(["daphne"] if f in on_daphne else []))
    ] + [("flask", s) for s in flask]
    # What wraps the server's callables is the same for all, and so is the event loop.
    expected.append(("starlette", "uvicorn unisock wrapped"))
    expected.append(("starlette", "uvicorn unisock uvloop"))
    assert sorted((row.framework, row.server) for row in ROWS) == sorted(expected)


def test_the_short_matrix_has_one_row_for_each_framework() -> None:
    rows: list[Row] = [param.values[0] for param in _params() if not param.marks]
    assert [row.framework for row in rows] == list(dict.fromkeys(row.framework for row in ROWS))
