"""How the cost of a message grows with the number of connections.

    python -m tests.benchmarks.growth
    python -m tests.benchmarks.growth --loop uvloop       after pip install uvloop

Small messages on more and more connections, each with one in flight; of the most one in ten
speaks, and the others are idle.  Starlette's own handler on uvicorn as it comes, and unisock's
with our class and without it, in turn, each round in new processes.  What counts is the CPU
time of the server, so the client may be slow.  Linux only.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from tests.benchmarks import report
from tests.benchmarks.client import LOADS, Sample, measure
from tests.benchmarks.servers import CLASS, SUBJECTS, start

NATIVE = "Starlette"
DEFAULT = [NATIVE, f"unisock on Starlette{CLASS}", "unisock on Starlette"]
CONNECTIONS = [50, 500, 2500, 10_000]
# Of so many connections and more one in ten speaks.
MANY, SPEAKS = 10_000, 10
_SPARE = 200  # descriptors for all else

Results = dict[str, dict[int, list[Sample]]]


def run(
    subjects: Sequence[str], numbers: Sequence[int], rounds: int, seconds: float, loop: str
) -> Results:
    """Measure each subject with each number of connections."""
    results: Results = {name: {number: [] for number in numbers} for name in subjects}
    for number_of_round in range(rounds):
        order = list(subjects)[:: -1 if number_of_round % 2 else 1]
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            running = {
                # Without pings: those that are idle do not answer.
                name: stack.enter_context(start(name, Path(folder), UVICORN_LOOP=loop, PING="0"))
                for name in order
            }
            for number in numbers:
                speaking = number // SPEAKS if number >= MANY else number
                load = LOADS["small"]._replace(connections=speaking, idle=number - speaking)
                for name in order:
                    server = running[name]
                    sample = measure(server.port, server.process.pid, load, seconds)
                    results[name][number].append(sample)
                    print(
                        f"{number:7,} {name:34}{sample.cpu():8.1f} us{sample.busy():6.0f} %",
                        file=sys.stderr,
                    )
    return results


def _cpu(samples: list[Sample]) -> float:
    return median(sample.cpu() for sample in samples)


def markdown(results: Results) -> str:
    """A table: microseconds a message, and those in terms of the native handler's.

    The last column is how much the cost has grown, from the first number of connections to the
    last but those of which most are idle.
    """
    numbers = [*next(iter(results.values()))]
    busy = [number for number in numbers if number < MANY] or numbers
    head = ["CPU µs/message", *(f"{number:,}" for number in numbers), "growth"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, measured in results.items():
        growth = _cpu(measured[busy[-1]]) / _cpu(measured[busy[0]])
        lines.append([name, *(f"{_cpu(measured[n]):.1f}" for n in numbers), f"{growth:.2f}"])
    for name, measured in results.items():
        if name == NATIVE or NATIVE not in results:
            continue
        cells: list[str] = []
        for number in numbers:
            pairs = zip(measured[number], results[NATIVE][number], strict=True)
            ratios = [one.cpu() / other.cpu() for one, other in pairs]
            cells.append(f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        lines.append([f"{name} / {NATIVE}", *cells, ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def allow_descriptors(number: int) -> None:
    """Raise the limit of open files, which the servers inherit.

    Raises:
        SystemExit: the machine allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < number:
        raise SystemExit(
            f"{number} open files are needed, and {hard} are allowed: "
            "raise the hard limit, or name fewer --connections"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--connections", type=int, nargs="+", default=CONNECTIONS, metavar="N", help="how many")
    add("--rounds", type=int, default=5, help="how often each is measured (5)")
    add("--seconds", type=float, default=3.0, help="of each (3)")
    add("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="of the servers")
    add("--subjects", choices=SUBJECTS, nargs="+", default=DEFAULT, metavar="NAME")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, *options.connections) <= 0:
        parser.error("--rounds, --seconds and --connections are above 0")
    gc.disable()  # the client makes no cycles
    allow_descriptors(max(options.connections) + _SPARE)
    measured_on = report.machine()
    results = run(
        options.subjects, options.connections, options.rounds, options.seconds, options.loop
    )
    print(f"{measured_on}. Loop: {options.loop}. Rounds: {options.rounds}.\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
