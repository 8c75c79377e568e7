"""What is in the wheel and in the source distribution.

A wheel without the adapters passes every other test, for those run on the
checkout.
"""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.frameworks import FRAMEWORKS

ROOT = Path(__file__).parents[2]
NOT_SOURCE = (
    ".git",
    ".venv",
    ".*_cache",
    ".coverage*",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist, and the wheel that is built from it."""
    tree = tmp_path_factory.mktemp("tree") / "unisock"
    target = tmp_path_factory.mktemp("dist")
    # Without what earlier builds have left: setuptools takes up their list of files.
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", target, tree], check=True, timeout=300
    )
    (sdist,) = target.glob("*.tar.gz")
    (wheel,) = target.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="session")
def wheel_files(distributions: tuple[Path, Path]) -> set[str]:
    """The names in the wheel."""
    with zipfile.ZipFile(distributions[1]) as archive:
        return set(archive.namelist())


def modules(folder: str) -> set[str]:
    """The Python files that the checkout has in one folder."""
    return {path.name for path in (ROOT / folder).glob("*.py")}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("folder", "installed"),
    [
        ("unisock", "unisock"),
        ("adapters", "unisock/adapters"),
        ("adapters/records", "unisock/adapters/records"),
        ("unisock/conformance", "unisock/conformance"),
        ("unisock/conformance/frameworks", "unisock/conformance/frameworks"),
    ],
)
def test_the_wheel_holds_every_module(wheel_files: set[str], folder: str, installed: str) -> None:
    assert modules(folder)
    assert {f"{installed}/{name}" for name in modules(folder)} <= wheel_files


def test_the_wheel_is_typed(wheel_files: set[str]) -> None:
    assert "unisock/py.typed" in wheel_files


def test_the_wheels_top_level_packages(wheel_files: set[str]) -> None:
    """And pytest's plugin is not in the wheel a second time."""
    tops = {name.partition("/")[0] for name in wheel_files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"unisock", "pytest_unisock"}
    assert not [name for name in wheel_files if name.startswith("unisock/testing/pytest_unisock")]


def test_the_wheel_requires_two_packages_and_no_more(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    required = metadata.get_all("Requires-Dist") or []
    core = {entry for entry in required if "extra ==" not in entry}
    assert {entry.split(">=")[0] for entry in core} == {"msgspec", "multidict"}
    extras = {*FRAMEWORKS, "all", "dev"}
    assert extras <= set(metadata.get_all("Provides-Extra") or [])
    (everything,) = (entry for entry in required if re.search(r"extra == ['\"]all['\"]", entry))
    assert everything.startswith(f"unisock[{','.join(FRAMEWORKS)}]")


@pytest.mark.parametrize(
    "path",
    [
        "adapters/starlette.py",
        "unisock/py.typed",
        "tests/packaging/test_distribution.py",
        "examples/echo/handler.py",
        "docs/reference/contract.md",
        "CHANGELOG.md",
        "LICENSE",
    ],
)
def test_the_sdist_holds(distributions: tuple[Path, Path], path: str) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert path in names
