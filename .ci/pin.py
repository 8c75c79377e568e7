"""Write the versions that are installed into pyproject.toml, as the extra ``pinned``.

``[dev]`` installs these, so that a release of a dependency does not break the tests
of somebody who has just cloned.  To renew them, when `.ci/run newest` is green::

    python3 -m venv fresh && fresh/bin/pip install -e '.[test]' && fresh/bin/python .ci/pin.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
BEGIN = "# pinned: begin (written by .ci/pin.py)\n"
END = "# pinned: end\n"


def installed(name: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """The distributions that `name` with `extras` needs here, as requirements."""
    for requirement in map(Requirement, distribution(name).requires or ()):
        environments = [{"extra": extra} for extra in extras or {""}]
        marker = requirement.marker
        if marker is not None and not any(map(marker.evaluate, environments)):
            continue
        wanted = canonicalize_name(requirement.name)
        new = {(wanted, extra) for extra in {"", *requirement.extras}} - seen
        if not new:
            continue
        seen |= new
        if wanted != "unisock":
            # What our own extra does not ask for everywhere is not pinned everywhere.
            where = re.sub(r'( and )?extra == "\w+"$', "", str(marker or "")) * (name == "unisock")
            pin = f"{wanted}=={distribution(wanted).version}; {where}".removesuffix("; ")
            yield pin.replace('"', "'")
        yield from installed(wanted, frozenset(requirement.extras), seen)


def main() -> None:
    """Write them between the two marks."""
    pins = sorted(set(installed("unisock", frozenset({"test"}), set())))
    lines = "".join(f'    "{pin}",\n' for pin in pins)
    text = PYPROJECT.read_text()
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    block = f"{BEGIN}pinned = [\n{lines}]\n{END}"
    written, count = re.subn(pattern, lambda _: block, text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{PYPROJECT}: the marks of the pins are not there once")
    PYPROJECT.write_text(written)


if __name__ == "__main__":
    main()
