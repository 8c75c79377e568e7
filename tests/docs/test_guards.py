"""What the pages say of the code and of the measurements, where a test can tell."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.docs.documents import page
from tests.frameworks import FRAMEWORKS
from unisock.handshake import Handshake
from unisock.runtime import Background, Runtime, Workers
from unisock.transport import PullTransport, Transport

ADAPTERS = page("docs/reference/adapters.md").read_text()
SPEED = page("docs/explanation/speed.md").read_text()
BENCHMARKS = page("docs/explanation/benchmarks.md").read_text()


def members(cls: type) -> set[str]:
    """The public names of a class and of the bases that unisock defines."""
    classes: list[Any] = [c for c in cls.__mro__ if c.__module__.startswith("unisock.")]
    names = {name for c in classes for name in (*vars(c), *getattr(c, "__annotations__", {}))}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("cls", [Transport, PullTransport, Handshake, Runtime, Workers, Background])
def test_the_reference_has_every_member_of_the_seam(cls: type) -> None:
    code = " ".join(re.findall(r"`([^`\n]+)`", ADAPTERS))
    assert members(cls)
    assert members(cls) - set(re.findall(r"\w+", code)) == set()


def ratios(pair: str) -> dict[str, str]:
    """The medians of a pair's CPU time, by load, as the benchmarks have them."""
    head, row = (
        next(line for line in BENCHMARKS.splitlines() if line.startswith(start))
        for start in ("|  | small |", f"| {pair} |")
    )
    loads = [cell.strip() for cell in head.split("|")[2:-1]]
    return dict(zip(loads, re.findall(r"(\d+\.\d+) \(", row), strict=True))


@pytest.mark.parametrize(
    ("framework", "said"),
    [
        ("Starlette", "{small}, {pipelined}, {batches}, {medium} and {large} on Starlette"),
        ("FastAPI", "{small}, {pipelined}, {batches}, {medium} and {large} on FastAPI"),
        ("Falcon", "{small}, {pipelined}, {batches}, {medium} and {large}."),
        ("Starlette", "**A push** [at most 1.0]: {push} on Starlette"),
        ("FastAPI", "{push} on FastAPI and Falcon"),
        ("Falcon", "{push} on FastAPI and Falcon"),
        ("Flask", "{push} on Flask"),
        ("Starlette", "**Opening** [at most native's]: {opening} on Starlette"),
        ("FastAPI", "{opening} on FastAPI"),
        ("Falcon", "{opening} on Falcon"),
        ("Flask", "{opening} on Flask"),
    ],
)
def test_the_figures_of_two_pages_are_the_same(framework: str, said: str) -> None:
    assert said.format(**ratios(f"unisock on {framework} / {framework}")) in SPEED


def test_idle_connections_take_the_same_on_two_pages() -> None:
    table = BENCHMARKS.partition("| KiB/connection |")[2]
    memory = dict(re.findall(r"^\| ([\w ]+) \| .* \| ([\d.]+) \|$", table, re.MULTILINE))
    for framework in ("Starlette", "FastAPI", "Falcon", "Flask"):
        figures = f"{memory[f'unisock on {framework}']} against {memory[framework]}"
        assert figures in SPEED.replace(" KiB", "")


def test_each_framework_is_in_the_table_and_has_a_page() -> None:
    table = page("README.md").read_text().partition("## Servers")[2]
    assert [each for each in FRAMEWORKS if each not in table] == []
    assert [each for each in FRAMEWORKS if not page(f"docs/how-to/{each}.md").exists()] == []
