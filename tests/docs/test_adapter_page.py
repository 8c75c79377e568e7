"""The adapter that the page builds passes the suite, as its reader would run it."""

from __future__ import annotations

import json
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
    "entry_points.txt": "[unisock.adapters]\ntiny = tiny_record\n",
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


SERVED = """
from unisock.testing import connect

async def echo(ws):
    await ws.accept()
    async for message in ws:
        await ws.send(message)

with connect(echo, on="tiny") as peer:
    peer.send_text("hello")
    assert peer.receive_text() == "hello"
"""


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the project is installed."""
    paths = [str(project), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_page_s_record_serves(project: Path) -> None:
    (project / "served.py").write_text(SERVED)
    result = run(project, "served.py")
    assert result.returncode == 0, result.stderr
    pairs = json.loads(run(project, "-m", "unisock", "doctor", "--json").stdout)["pairs"]
    (pair,) = (each for each in pairs if each["framework"] == "tiny")
    assert pair["server"] == "websockets"
    assert not pair["capabilities"]["http_rejection"]


@pytest.mark.full_matrix
@pytest.mark.timeout(600)
def test_the_page_s_adapter_conforms(project: Path) -> None:
    assert 'tiny = "tiny_record"' in PAGE.read_text()
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=120", ".")
    result = run(project, *arguments)
    assert result.returncode == 0, result.stdout[-10_000:]
    assert "1 of 1 rows ran" in result.stdout
