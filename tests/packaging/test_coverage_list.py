"""The list of uncovered lines names lines that exist, each with a reason."""

from __future__ import annotations

import importlib.util
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / ".ci").is_dir(), reason="the source distribution has no .ci"
)


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", ROOT / ".ci" / "check_coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_listed_lines_exist() -> None:
    listed = tomllib.loads((ROOT / ".ci" / "uncovered.toml").read_text()).get("uncovered", [])
    for entry in listed:
        lines = [line.strip() for line in (ROOT / entry["file"]).read_text().splitlines()]
        assert entry["line"] in lines, entry
        assert entry["reason"], entry


ENTRY = {"file": "adapters/x.py", "line": "return", "reason": "because"}


@pytest.mark.parametrize(
    ("found", "listed", "problems"),
    [
        (1, [], ["not covered: adapters/x.py: `return`"]),
        (1, [ENTRY], []),
        (2, [ENTRY], ["not covered: adapters/x.py: `return`"]),
        (2, [ENTRY, ENTRY], []),
        (0, [ENTRY], ["listed, but covered or gone: adapters/x.py: `return`"]),
        (0, [{**ENTRY, "sometimes": True}], []),
        (1, [{**ENTRY, "reason": ""}], ["listed without a reason: adapters/x.py: `return`"]),
        (
            1,
            [{**ENTRY, "branch": True}],
            [
                "listed, but covered or gone: adapters/x.py: a branch of `return`",
                "not covered: adapters/x.py: `return`",
            ],
        ),
    ],
)
def test_what_is_uncovered_and_what_is_listed_must_agree(
    check: ModuleType, found: int, listed: list[dict[str, Any]], problems: list[str]
) -> None:
    gaps = Counter({check.Gap("adapters/x.py", "return", False): found})
    assert check.compare(gaps, listed) == problems
