"""Print the lowest versions that pyproject.toml admits, as constraints for pip.

Of what users install: the core's dependencies and the extras of the frameworks.
The tools of the tests stay as they are pinned.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
NOT_OF_USERS = {"conformance", "test", "pinned", "dev"}


def main() -> None:
    """Print one constraint a package."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"]]
    for extra in extras.keys() - NOT_OF_USERS:
        lines += extras[extra]
    for requirement in map(Requirement, sorted(set(lines))):
        for specifier in requirement.specifier:
            if specifier.operator == ">=":
                print(f"{requirement.name}=={specifier.version}")


if __name__ == "__main__":
    main()
