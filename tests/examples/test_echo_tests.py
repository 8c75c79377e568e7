"""The tests of the echo example, run as its users would: green, on every framework."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

from tests.examples.app import ROOT
from tests.frameworks import FRAMEWORKS

TESTS = ROOT / "examples" / "echo" / "test_echo.py"


def test_the_example_s_tests_are_green_on_every_framework() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(TESTS)],
        cwd=ROOT,
        env={**os.environ, "PYTEST_ADDOPTS": ""},  # not with the options of this run
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout
    nodes = ast.parse(TESTS.read_text()).body
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    passed = set(re.findall(r"::(\w+)\[(\w+)\] PASSED", result.stdout))
    assert passed == {(name, framework) for name in names for framework in FRAMEWORKS}
