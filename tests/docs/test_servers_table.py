"""The README's table of servers is the one that the matrix gives."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.docs.documents import ROOT
from unisock import Capabilities
from unisock.conformance.rows import Row


@pytest.fixture(scope="module")
def servers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("servers", ROOT / "docs" / "servers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_table_is_up_to_date(servers: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text()
    assert servers.update(readme) == readme, "run: python docs/servers.py"


def row(framework: str, server: str, **lacks: str) -> Row:
    return Row(
        name=f"{framework} on {server}",
        framework=framework,
        server=server,
        command=lambda port: [str(port)],
        capabilities=Capabilities(**{n: False for n in lacks if hasattr(Capabilities, n)}),
        lacks=lacks,
    )


def test_a_lack_is_shown_with_its_reason(servers: ModuleType) -> None:
    rows = [
        row("starlette", "good"),
        row("starlette", "bad", close_code="it says 1006"),
        row("falcon", "bad", close_code="it says 1006"),
    ]
    lines = servers.table(rows).splitlines()
    assert "| good | starlette | yes | yes | yes | yes | yes | yes | yes |" in lines
    assert (
        "| bad | starlette, falcon | yes | yes | yes | no <sup>1</sup> | yes | yes | yes |" in lines
    )
    assert "1. it says 1006" in lines


def test_what_one_framework_lacks_stands_with_it(servers: ModuleType) -> None:
    rows = [
        row("asgi", "x", routers="it has none", slow="it is slow"),
        row("falcon", "x", slow="it is slow"),
    ]
    lines = servers.table(rows).splitlines()
    assert (
        "| x <sup>1</sup> | asgi <sup>2</sup>, falcon | yes | yes | yes | yes | yes | yes | yes |"
        in lines
    )
    assert lines[-2:] == ["1. it is slow", "2. it has none"]


def test_rows_of_one_server_that_differ_are_not_hidden(servers: ModuleType) -> None:
    rows = [row("starlette", "x"), row("falcon", "x", close_code="why")]
    with pytest.raises(AssertionError, match="x: close_code differs"):
        servers.table(rows)
