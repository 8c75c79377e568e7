"""The benchmark: unisock beside each framework's own WebSocket, on real servers.

    python -m tests.benchmarks.run --write docs/explanation

All servers are up, and one at a time has a load.  In each round every load is put on
new servers in turn, a framework and then unisock on it, and every second round the
other way round: what else the machine does meets both.  A reply that is lost or wrong
is an error.  Linux only.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain, product
from pathlib import Path
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.client import LOADS, Sample, measure, measure_connections
from tests.benchmarks.servers import SUBJECTS, start


class Benchmark:
    """The samples taken so far, by load and subject."""

    def __init__(self, subjects: Sequence[str], rounds: int) -> None:
        self._orders = [list(subjects)[:: -1 if n % 2 else 1] for n in range(rounds)]
        self.results: dict[str, dict[str, list[Sample]]] = {}

    def run_loads(self, loads: Sequence[str], seconds: float) -> None:
        """Every load on every subject.

        In each round on new servers: how a process lies in memory makes more of a difference
        than what is looked for, and lasts as long as the process.
        """
        for order in self._orders:
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                running = {name: stack.enter_context(start(name, Path(folder))) for name in order}
                for load, subject in product(loads, order):
                    server = running[subject]
                    sample = measure(server.port, server.process.pid, LOADS[load], seconds)
                    self._add(load, subject, sample)
                for subject, server in running.items():
                    if log := server.log():
                        print(f"{subject} has written:\n{log}", file=sys.stderr)

    def run_connections(self, number: int) -> None:
        """Many idle connections to every subject, each time in a new process."""
        for subject in chain(*self._orders):
            with tempfile.TemporaryDirectory() as folder, start(subject, Path(folder)) as server:
                sample = measure_connections(server.port, server.process.pid, number)
            self._add(report.CONNECTIONS, subject, sample)

    def _add(self, load: str, subject: str, sample: Sample) -> None:
        self.results.setdefault(load, {}).setdefault(subject, []).append(sample)
        figures = f"{sample.rate():10,.0f} /s {sample.cpu():10.1f} us"
        print(f"{load:12}{subject:22}{figures}", file=sys.stderr)


_SUBJECTS = "in quotes where they have spaces: " + ", ".join(SUBJECTS)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    number = parser.add_argument
    number("--rounds", type=int, default=7, help="how often each load is put on each server (7)")
    number("--seconds", type=float, default=2.0, help="of a load (2); below 15: servers ping")
    number("--connections", type=int, default=2000, help="that are opened, and idle (2000)")
    several: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    number("--loads", choices=LOADS, default=[*LOADS], help=", ".join(LOADS), **several)
    number("--subjects", choices=SUBJECTS, default=[*SUBJECTS], help=_SUBJECTS, **several)
    number("--write", type=Path, metavar="FOLDER", help="write benchmarks.md and .svg there")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, options.connections) <= 0:
        parser.error("--rounds, --seconds and --connections are above 0")
    gc.disable()  # the client makes no cycles
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # which the servers inherit
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, options.connections + 1200), hard))
    measured_on = report.machine()
    benchmark = Benchmark(options.subjects, options.rounds)
    benchmark.run_loads(options.loads, options.seconds)
    benchmark.run_connections(options.connections)
    tables = report.markdown(benchmark.results, measured_on)
    print(tables)
    if options.write is not None:
        report.write(options.write, tables, benchmark.results)


if __name__ == "__main__":
    main()
