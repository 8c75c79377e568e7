"""The suite on every framework and server of the project's own matrix."""

from __future__ import annotations

import pytest

from unisock.conformance.rows import ROWS, Row
from unisock.conformance.suite import *  # noqa: F403  # its tests are this module's


@pytest.fixture(scope="session", params=ROWS, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    """A row of the matrix; the suite's tests run on each."""
    given: Row = request.param
    return given


def test_no_row_is_left_out() -> None:
    """Each ASGI framework on each ASGI server, and Flask on each of its own."""
    frameworks = ("asgi", "starlette", "fastapi", "falcon")
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
    expected = [(f, s) for f in frameworks for s in servers] + [("flask", s) for s in flask]
    # What wraps the server's callables is the same for all.
    expected.append(("starlette", "uvicorn unisock wrapped"))
    assert sorted((row.framework, row.server) for row in ROWS) == sorted(expected)
