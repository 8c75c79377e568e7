"""pytest's plugin: fixtures that connect a test to a handler.

It is installed as the package ``pytest_unisock``, outside of ``unisock``: pytest
imports its plugins in every run, and this one imports nothing of unisock until a
test asks for a fixture.
"""

from __future__ import annotations

import importlib.util
import re
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

    from unisock.testing import Connect

_MEMORY = "memory"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings."""
    parser.addini(
        "unisock_adapters",
        "adapters that unisock_client runs on, as falcon,flask; memory may be one of them "
        "(default: every one that is installed)",
        type="args",  # a TOML array too
    )
    parser.addini("unisock_timeout", "seconds that each wait of a peer may take (default: 1)")


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line(
        "markers",
        "unisock_adapters(*names): the adapters that the test's unisock_client runs on",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `unisock_client` once on each adapter."""
    if "unisock_adapter" not in metafunc.fixturenames:
        return
    from unisock.frameworks import names, why_not  # noqa: PLC0415  # see above

    frameworks = {name: why_not(name) for name in names()}
    asked = _names(" ".join(metafunc.config.getini("unisock_adapters")))
    marker = metafunc.definition.get_closest_marker("unisock_adapters")
    named = [str(name) for name in marker.args] if marker else asked
    for name in (*asked, *named):
        if name not in frameworks and name != _MEMORY:
            known = ", ".join((*frameworks, _MEMORY))
            raise pytest.Collector.CollectError(f"unisock_adapters: {name!r} is none of {known}")
    installed = [name for name, reason in frameworks.items() if not reason]
    chosen = [name for name in named or installed if not asked or name in asked]
    parameters = [_parameter(name, frameworks.get(name, "")) for name in chosen]
    if not parameters:
        both = f"the marker has {', '.join(named)}, the setting {', '.join(asked)}"
        parameters = [_skipped("none", f"unisock_adapters: {both}: no adapter is in both")]
    metafunc.parametrize("unisock_adapter", parameters)


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]


def _parameter(name: str, why_not: str) -> str | ParameterSet:
    if why_not:
        return _skipped(name, why_not)
    if name != _MEMORY and importlib.util.find_spec("websockets") is None:
        return _skipped(name, "a peer on a socket needs a client: pip install websockets")
    return name


def _skipped(name: str, reason: str) -> ParameterSet:
    return pytest.param(name, marks=pytest.mark.skip(reason=reason))


@pytest.fixture
def unisock_connect(pytestconfig: pytest.Config) -> Connect:
    """`unisock.testing.connect`, with the timeout of ``unisock_timeout``."""
    from unisock.testing import connect  # noqa: PLC0415  # see above

    timeout = str(pytestconfig.getini("unisock_timeout"))
    try:
        return partial(connect, timeout=float(timeout)) if timeout else connect
    except ValueError:
        raise pytest.UsageError(f"unisock_timeout: {timeout!r} is no number") from None


@pytest.fixture
def unisock_client(unisock_connect: Connect, unisock_adapter: str) -> Connect:
    """`unisock_connect` on an adapter, behind its server: the test runs once on each."""
    return partial(unisock_connect, on=unisock_adapter)
