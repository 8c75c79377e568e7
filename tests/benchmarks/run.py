"""The benchmark: unisock beside each framework's own WebSocket, on real servers.

    python -m tests.benchmarks.run --write docs/explanation

All servers are up, and one at a time has a load.  In each round every load is put on
all of them in turn, the two of a pair one after the other, and every second round the
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

from tests.benchmarks import report
from tests.benchmarks.client import LOADS, Sample, measure, measure_connections
from tests.benchmarks.servers import SUBJECTS, start


class Benchmark:
    """The samples taken so far, by load and subject."""

    def __init__(self, subjects: Sequence[str], rounds: int) -> None:
        self._orders = [list(subjects)[:: -1 if n % 2 else 1] for n in range(rounds)]
        self.results: dict[str, dict[str, list[Sample]]] = {}

    def run_loads(self, loads: Sequence[str], seconds: float) -> None:
        """Every load on every subject."""
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            running = {
                name: stack.enter_context(start(name, Path(folder))) for name in self._orders[0]
            }
            for order, load in product(self._orders, loads):
                for subject in order:
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


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="below 15: servers ping")
    parser.add_argument("--connections", type=int, default=2000, help="idle ones")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=[*LOADS])
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=[*SUBJECTS])
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="benchmarks.md and .svg")
    options = parser.parse_args()
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
