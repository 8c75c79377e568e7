"""Which packages each module of unisock may import, beside the standard library.

Which modules of unisock it may import is in pyproject.toml, for import-linter.
"""

from __future__ import annotations

import sys

import grimp
import pytest

OF_EVERYONE = {"msgspec", "multidict"}
# Beside these an adapter imports its framework or server, which it is named after.
OF_ADAPTERS = {
    "fastapi": {"starlette"},
    "flask": {"gevent", "werkzeug"},
    "gevent": {"geventwebsocket", "websockets"},
}
OF_OTHERS = {
    "unisock.frameworks": {"uvicorn"},
    "unisock.messages": {"pydantic", "pydantic_core"},
    "unisock.testing.pytest_unisock": {"_pytest", "pytest"},
    "unisock.testing.sockets": {"websockets"},
    "unisock.wire.masks": {"websockets"},
}
NOBODY = "unisock.conformance"  # the suite is tests, and starts every framework


def allowed(module: str) -> set[str]:
    """The packages that a module may import."""
    if module.startswith("unisock.adapters."):
        name = module.rpartition(".")[2].partition("_")[0]  # gevent_loop is gevent's
        return {name, *OF_ADAPTERS.get(name, ())}
    return OF_OTHERS.get(module, set())


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("unisock", include_external_packages=True, cache_dir=None)


def test_each_module_imports_what_it_may(graph: grimp.ImportGraph) -> None:
    """A module that is new may import none: the core and the wire know no framework."""
    found = {
        f"{module} imports {package}"
        for module in graph.modules
        if module.startswith("unisock") and not module.startswith(NOBODY)
        for imported in graph.find_modules_directly_imported_by(module)
        if (package := imported.partition(".")[0]) not in {"unisock", *sys.stdlib_module_names}
        and package not in OF_EVERYONE | allowed(module)
    }
    assert not found


def test_what_is_listed_exists(graph: grimp.ImportGraph) -> None:
    assert OF_OTHERS.keys() <= graph.modules
    assert {f"unisock.adapters.{name}" for name in OF_ADAPTERS} <= graph.modules
