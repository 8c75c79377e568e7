"""The adapter that the page builds passes the suite, as its reader would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import files, page

PAGE = page("docs/how-to/write-an-adapter.md")
# What an installer makes of the page's entry point.
INSTALLED = {
    "METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 0\n",
    "entry_points.txt": "[unisock.adapters]\ntiny = tiny_unisock\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of the page's files, with its entry point."""
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text)
    metadata = tmp_path / "tiny-0.dist-info"
    metadata.mkdir()
    for name, text in INSTALLED.items():
        (metadata / name).write_text(text)
    return tmp_path


@pytest.mark.full_matrix
@pytest.mark.timeout(600)
def test_the_page_s_adapter_conforms(project: Path) -> None:
    assert 'tiny = "tiny_unisock"' in PAGE.read_text()
    paths = [str(project), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=120", "."],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-10_000:]
    assert "1 of 1 rows ran" in result.stdout
