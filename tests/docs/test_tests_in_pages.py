"""The tests that the pages show are green, and the red one says what its page says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import blocks, files, page

PAGES = ["README.md", "docs/how-to/test-handlers.md"]
HOW_TO = page("docs/how-to/test-handlers.md")
# pytest-asyncio would want a setting of its own, and no test of the pages is for it.
OPTIONS = ["-p", "no:cacheprovider", "-p", "no:asyncio"]
IMPORTS = "from chat import chat\nfrom unisock.testing import connect\n\n\n"


def run_pytest(folder: Path, *arguments: str) -> str:
    """Run pytest in a folder with warnings as errors; return what it prints."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "-v", "-rA", *arguments],
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    ).stdout


def names_of_tests(name: str, text: str) -> set[str]:
    """The ids of a file's tests, without parameters."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        f"{name}::{node.name}"
        for node in ast.parse(text).body
        if isinstance(node, functions) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("name", PAGES)
def test_the_tests_of_a_page_pass(name: str, tmp_path: Path) -> None:
    texts = files(page(name))
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
    expected = {each for file, text in texts.items() for each in names_of_tests(file, text)}
    output = run_pytest(tmp_path)
    assert expected
    assert set(re.findall(r"^PASSED ([\w.:]+)", output, re.MULTILINE)) == expected, output
    assert re.search(r"^=+ \d+ passed in [\d.]+s[^,]*=+$", output, re.MULTILINE), output


def test_a_test_that_fails_says_what_the_page_says(tmp_path: Path) -> None:
    shown = list(blocks(HOW_TO))
    (number,) = (n for n, block in enumerate(shown) if block.language == "text")
    (tmp_path / "chat.py").write_text(files(HOW_TO)["chat.py"])
    (tmp_path / "test_red.py").write_text(IMPORTS + shown[number - 1].text)
    output = run_pytest(tmp_path).replace(f"{tmp_path}/", "")
    assert shown[number].text in output
    assert "unisock/testing" not in output  # of the library there is not a line


def test_settings_of_the_page_narrow_the_adapters(tmp_path: Path) -> None:
    (settings,) = (block.text for block in blocks(HOW_TO) if block.language == "toml")
    for file in ("chat.py", "test_everywhere.py"):
        (tmp_path / file).write_text(files(HOW_TO)[file])
    (tmp_path / "pyproject.toml").write_text(settings)
    output = run_pytest(tmp_path, "-c", "pyproject.toml", "--strict-config")
    assert set(re.findall(r"^PASSED .*\[(\w+)\]", output, re.MULTILINE)) == {"falcon", "flask"}
