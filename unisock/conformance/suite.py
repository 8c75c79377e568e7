"""The suite as tests: import everything from here, and say which rows there are.

A third party's whole test file::

    import sys
    import pytest
    from unisock.conformance.rows import Row
    from unisock.conformance.suite import *  # noqa: F403

    ROWS = [
        Row(
            name="quart on hypercorn",
            framework="quart",
            server="hypercorn",
            command=lambda port: [sys.executable, "tests/serve.py", str(port)],
            by_hand={"view": "/by-hand/{}"},
        )
    ]

    @pytest.fixture(scope="session", params=ROWS, ids=lambda row: row.name)
    def row(request):
        return request.param

The server process calls `unisock.conformance.harness.mount_all` with its
application; `unisock.conformance.frameworks` has one for each framework.
"""

from __future__ import annotations

import importlib as _importlib
from collections.abc import Iterator as _Iterator

import pytest

from .harness import CLAUSE_MODULES as _CLAUSE_MODULES
from .harness import Server as _Server
from .harness import running as _running
from .rows import Row as _Row
from .table import register_table as _register_table

for _name in _CLAUSE_MODULES:
    pytest.register_assert_rewrite(f"{__package__}.clauses_{_name}")
for _name in _CLAUSE_MODULES:
    _module = _importlib.import_module(f".clauses_{_name}", __package__)
    for _test, _value in vars(_module).items():
        if _test.startswith("test_"):
            if _test in globals():
                raise ImportError(f"two tests are called {_test}")
            globals()[_test] = _value


@pytest.fixture(scope="session")
def server(row: _Row, request: pytest.FixtureRequest) -> _Iterator[_Server]:
    """The server of a row, started once."""
    _register_table(request.session)
    with _running(row) as running_server:
        yield running_server
