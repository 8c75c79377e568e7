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
