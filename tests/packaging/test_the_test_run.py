"""What a newcomer's test run takes: pinned versions, and nothing for a test of his own."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with the project's configuration, and without the plugins of its tests."""
    none = ("-p", "no:timeout", "-p", "no:xdist", "-p", "no:rerunfailures")
    configuration = ("-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}")
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *none,
            *configuration,
            "-p",
            "no:cacheprovider",
            *arguments,
        ],
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_dev_is_pinned() -> None:
    """Every distribution that `[dev]` brings has one version; `.ci/pin.py` writes them."""
    assert EXTRAS["dev"] == ["unisock[test,pinned]"]
    pinned = [Requirement(line) for line in EXTRAS["pinned"]]
    assert all(str(each.specifier).startswith("==") for each in pinned)
    installed = runpy.run_path(str(ROOT / ".ci" / "pin.py"))["installed"]
    needed = {Requirement(each).name for each in installed("unisock", frozenset({"test"}), set())}
    assert {canonicalize_name(each.name) for each in pinned} == needed


def test_a_user_s_test_runs_in_a_checkout_with_pytest_alone(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine() -> None: ...\n")
    result = run_pytest(tmp_path, "test_mine.py")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


def test_the_project_s_own_tests_say_what_they_need() -> None:
    result = run_pytest(ROOT, "tests/unit/test_paths.py")
    assert result.returncode == 4
    assert "pip install -e '.[dev]'" in result.stderr
