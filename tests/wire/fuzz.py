"""A fuzzer of the wire beside `websockets` and `wsproto`, which is led by what it covers.

    pip install atheris
    python -m tests.wire.fuzz --seconds 600
    python -m tests.wire.fuzz --cases 1000000
    python -m tests.wire.fuzz --cases 1000000 --random 7      without atheris

The cases are those of `tests.wire.cases`, the comparison is that of `tests.wire.judges`, as
in the tests; atheris is no part of the extras.  It ends with the first difference that is not
named, and prints the bytes that lead to it: `--input HEX` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

atheris: Any = None
_WITHOUT = {"--random", "--input", "--help", "-h"}
if __name__ == "__main__" and _WITHOUT.isdisjoint(a.partition("=")[0] for a in sys.argv):
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        raise SystemExit(
            "it is led by atheris: pip install atheris; --random SEED does without it"
        ) from None

# The branches of the wire count.
instrumenting = atheris.instrument_imports(["unisock.wire"]) if atheris else None
with instrumenting or contextlib.nullcontext():
    from tests.wire.cases import case_of
    from tests.wire.judges import compare_all

MAX_SIZE = 400
_TOLD_EVERY = 50_000
FIRST = 1000  # random inputs that atheris begins with


class Run:
    """What was tried, and what came of it.

    Args:
        cases: how many are tried at most.
        seconds: for how long at most.
    """

    def __init__(self, cases: int | None, seconds: float | None) -> None:
        self._cases = cases
        self._started = time.monotonic()
        self._until = self._started + seconds if seconds is not None else None
        self.tried = 0
        self.found = Counter[str]()

    @property
    def is_over(self) -> bool:
        if self._cases is not None and self.tried >= self._cases:
            return True
        return self._until is not None and time.monotonic() > self._until

    def one_input(self, data: bytes) -> None:
        """Try one case."""
        self.tried += 1
        try:
            self.found.update(compare_all(case_of(data)))
        except BaseException:
            print(f"\ncase {self.tried}: --input {data.hex()}", file=sys.stderr)
            raise
        if self.tried % _TOLD_EVERY == 0:
            print(f"{self.tried:,} cases", file=sys.stderr, flush=True)

    def report(self) -> str:
        """A line for each verdict."""
        seconds = time.monotonic() - self._started
        lines = [f"{self.tried:,} cases in {seconds:.0f} s, no difference that is not named"]
        lines += [f"{number:12,}  {what}" for what, number in self.found.most_common()]
        return "\n".join(lines)


def random_inputs(seed: int) -> Any:
    """Inputs without end, most of them short."""
    source = random.Random(seed)
    while True:
        yield source.randbytes(source.choice((8, 20, 40, 80, 160, MAX_SIZE)))


def _run_atheris(run: Run) -> NoReturn:
    def one_input(data: bytes) -> None:
        run.one_input(data)
        if run.is_over:
            print(run.report(), flush=True)
            os._exit(0)  # libFuzzer has no way to return

    with tempfile.TemporaryDirectory() as folder:
        for number, data in zip(range(FIRST), random_inputs(0), strict=False):
            Path(folder, str(number)).write_bytes(data)
        options = [f"-max_len={MAX_SIZE}", "-verbosity=0", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *options, folder], one_input)
        atheris.Fuzz()
    raise AssertionError("it does not return")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.wire.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", type=int, help="how many, at most")
    parser.add_argument("--seconds", type=float, help="how long, at most (60, without --cases)")
    parser.add_argument("--random", type=int, metavar="SEED", help="random cases, not led")
    parser.add_argument("--input", metavar="HEX", help="this case alone")
    options = parser.parse_args()
    is_open = options.cases is None and options.seconds is None
    run = Run(options.cases, 60.0 if is_open else options.seconds)
    if options.input is not None:
        run.one_input(bytes.fromhex(options.input))
    elif options.random is not None:
        inputs = random_inputs(options.random)
        while not run.is_over:
            run.one_input(next(inputs))
    else:
        _run_atheris(run)
    print(run.report())


if __name__ == "__main__":
    main()
