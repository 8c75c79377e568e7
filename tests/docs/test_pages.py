"""Every code block is complete or a fragment, compiles, and every link leads somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import PAGES, ROOT, blocks, files, name_of, page

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }


def test_there_are_pages() -> None:
    assert {"README.md", "docs/tutorial.md", "docs/how-to/flask.md"} <= set(map(name_of, PAGES))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_python_block_is_a_file_or_a_fragment_and_compiles(path: Path) -> None:
    for block in blocks(path):
        if block.language == "python":
            assert block.name.endswith(".py") or block.name == "fragment", block.text
            ast.parse(block.text)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_to_pages_and_headings(path: Path) -> None:
    for link in _LINK.findall(path.read_text()):
        if "://" not in link:
            target, _, anchor = link.partition("#")
            linked = (path.parent / target).resolve() if target else path
            assert linked.exists(), link
            assert not anchor or anchor in anchors(linked), link


@pytest.mark.parametrize(
    ("path", "name"),
    [pytest.param(p, name, id=f"{name_of(p)}:{name}") for p in PAGES for name in files(p)],
)
def test_a_complete_file_runs(path: Path, name: str, tmp_path: Path) -> None:
    for other, text in files(path).items():
        (tmp_path / other).write_text(text)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {name.removesuffix('.py')}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_pages_serve_by_the_server_that_a_signal_stops() -> None:
    """gevent's own dies of SIGTERM; one fragment shows how to use it nevertheless."""
    stock = "from gevent.pywsgi import WSGIServer"
    shown = [(name_of(path), b.name) for path in PAGES for b in blocks(path) if stock in b.text]
    assert shown == [("docs/how-to/flask.md", "fragment")]


def test_the_readme_has_the_two_commands() -> None:
    lines = page("README.md").read_text().splitlines()
    install = "    python3 -m venv .venv && .venv/bin/pip install -e"
    assert f"{install} '.[all]' && .venv/bin/unisock serve examples.echo:echo --on all" in lines
    assert f"{install} '.[dev]' && .venv/bin/pytest" in lines


def test_the_contract_is_linked_from_each_line_of_the_readme_s_table() -> None:
    linked = set(re.findall(r"contract\.md#(\d+)-", page("README.md").read_text()))
    sections = re.findall(
        r"^## (\d+)\. (.+)\n\n(.+)$", page("docs/reference/contract.md").read_text(), re.MULTILINE
    )
    assert len(sections) == 11
    assert linked == {number for number, _, first in sections if first != "*Not yet.*"}


def test_every_option_is_in_the_reference() -> None:
    from dataclasses import fields

    from unisock import Options

    rows = re.findall(
        r"^\| `(\w+)` \| (?:`(.+?)`|(.+?)) \|",
        page("docs/reference/options.md").read_text(),
        re.MULTILINE,
    )
    documented = {name: code or text for name, code, text in rows}
    units = {"16 MiB": 16 * 1024 * 1024, "1 MiB": 1024 * 1024}
    for field in fields(Options):
        if field.init:
            default = documented[field.name]
            assert units.get(default, default) in (field.default, str(field.default)), field.name


def test_the_changelog_has_the_version() -> None:
    import unisock

    assert f"## [{unisock.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
