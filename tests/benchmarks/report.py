"""What was measured, as tables and as a plot."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import TypeAlias

from tests.benchmarks.client import LOADS, Sample
from tests.benchmarks.servers import PAIRS

# By load and subject, a sample for each round.
Results: TypeAlias = Mapping[str, Mapping[str, list[Sample]]]
# What pairs are compared by: a title, the load, the figure.
Column: TypeAlias = tuple[str, str, Callable[[Sample], float]]

CONNECTIONS = "connections"
PACKAGES = (
    "unisock starlette fastapi falcon flask uvicorn uvloop websockets gevent gevent-websocket "
    "aiohttp"
)


def machine() -> str:
    """What it is measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")]
    installed = {found.name.lower(): found.version for found in distributions()}
    versions = [f"{name} {installed.get(name, '(none)')}" for name in PACKAGES.split()]
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {models[0] if models else '?'}, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, load "
        f"average at the start {os.getloadavg()[0]:.1f}; {', '.join(versions)}"
    )


def _columns(results: Results) -> list[Column]:
    columns: list[Column] = [(load, load, Sample.cpu) for load in LOADS if load in results]
    if CONNECTIONS in results:
        columns += [("opening", CONNECTIONS, Sample.cpu), ("memory", CONNECTIONS, Sample.memory)]
    return columns


def _ratios(results: Results, column: Column, pair: tuple[str, str]) -> list[float]:
    """The first of a pair in terms of the other, round by round; none if one was left out."""
    _, load, figure = column
    first, other = (map(figure, results[load].get(subject, ())) for subject in pair)
    # A server that grew by nothing gives no ratio.
    return [a / b for a, b in zip(first, other, strict=False) if b > 0]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _comparison(results: Results, columns: list[Column]) -> str:
    def cell(values: list[float]) -> str:
        if not values:
            return "-"
        spread = f" ({min(values):.2f}–{max(values):.2f})" if len(values) > 1 else ""
        return f"{median(values):.2f}{spread}"

    rows = [
        [" / ".join(pair), *(cell(_ratios(results, c, pair)) for c in columns)]
        for pair in PAIRS
        if any(_ratios(results, c, pair) for c in columns)
    ]
    return _table(["", *(title for title, _, _ in columns)], rows)


def _medians(results: Results, load: str, columns: dict[str, str]) -> str:
    rows = [
        [subject, *(_number(median(getattr(s, name)() for s in samples)) for name in columns)]
        for subject, samples in results[load].items()
    ]
    return _table(["", *columns.values()], rows)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


COMPARED = """\
Starlette, FastAPI and Falcon are on uvicorn, "our class" is `unisock.adapters.uvicorn` there, and
"wrapped" an application below middleware that sees each event. "Flask" is gevent-websocket's
handler on gevent's WSGIServer, and "unisock on Flask" unisock's own there. aiohttp is on its own
server.

Each cell is the figure of the left one of a pair divided by that of the right one, the median
of the rounds (lowest–highest). The figure is the server's CPU time per message; of "opening"
per connection; of "memory" what an idle connection takes. Below 1.00 the left one takes less.
"""


def markdown(results: Results, measured_on: str) -> str:
    """All tables."""
    rounds = max(len(samples) for load in results.values() for samples in load.values())
    loads = [load for load in LOADS if load in results]
    parts = [
        f"{measured_on}. Rounds: {rounds}.\n",
        COMPARED,
        _comparison(results, _columns(results)),
        "The same for messages per second: above 1.00 the left one is faster.\n",
        _comparison(results, [(load, load, Sample.rate) for load in loads]),
    ]
    columns = {"rate": "messages/s", "cpu": "CPU µs/message", "busy": "server on a CPU, %"}
    for load in loads:
        parts += [f"**{load}**: {LOADS[load].title}\n", _medians(results, load, columns)]
    if CONNECTIONS in results:
        columns = {"rate": "connections/s", "cpu": "CPU µs/connection", "memory": "KiB/connection"}
        parts += [
            "**opening** of connections, and their **memory** when they are idle\n",
            _medians(results, CONNECTIONS, columns),
        ]
    return "\n".join(parts)


BAR, LEFT, SCALE, LIMIT = 14, 170, 280, 2.0
COLOURS = ("#4363d8", "#3cb44b", "#f58231", "#911eb4", "#808080")


def svg(results: Results) -> str:
    """Bars: unisock's CPU time and memory in terms of each framework's own."""
    shapes: list[str] = []
    y = 52
    for column in _columns(results):
        shapes.append(f'<text x="8" y="{y + 11}" font-weight="bold">{column[0]}</text>')
        for pair, colour in zip(PAIRS[: len(COLOURS)], COLOURS, strict=True):
            if values := _ratios(results, column, pair):
                shapes.append(_bar(y, pair[1], values, colour))
                y += BAR
        y += BAR
    one = LEFT + SCALE
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="800" height="{y}" viewBox="0 0 800 {y}"
 font-family="sans-serif" font-size="11">
<rect width="800" height="{y}" fill="white"/>
<text x="8" y="16" font-size="13" font-weight="bold">unisock on a framework, in terms of \
the framework's own WebSocket (1.00); shorter is less</text>
<text x="8" y="32">the server's CPU time per message; opening: per connection; memory: of an \
idle connection</text>
<path d="M{one} 42V{y}" stroke="black" stroke-dasharray="3"/>
{"".join(shapes)}</svg>
"""


def _bar(y: int, name: str, values: list[float], colour: str) -> str:
    """The median, a line over the range of the rounds, and the number."""
    low, middle, high = (
        round(LEFT + SCALE * max(0.0, min(value, LIMIT)))
        for value in (min(values), median(values), max(values))
    )
    cut = " →" if max(values) > LIMIT else ""
    return f"""\
<text x="{LEFT - 6}" y="{y + 11}" text-anchor="end">{name}</text>
<rect x="{LEFT}" y="{y + 2}" width="{middle - LEFT}" height="{BAR - 4}" fill="{colour}"/>
<path d="M{low} {y + 7}H{high}" stroke="black"/>
<text x="{LEFT + SCALE * LIMIT + 20:.0f}" y="{y + 11}">{median(values):.2f}{cut}</text>
"""


def write(folder: Path, tables: str, results: Results) -> None:
    """Write ``benchmarks.md``, and ``benchmarks.svg`` that it shows.

    What stands in the page from its first section on is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "benchmarks.md"
    _, heading, sections = (page.read_text(encoding="utf-8") if page.exists() else "").partition(
        "\n## "
    )
    plot = "![unisock's CPU time and memory beside each framework's own](benchmarks.svg)"
    page.write_text(f"# Benchmarks\n\n{plot}\n\n{tables}{heading}{sections}", encoding="utf-8")
    (folder / "benchmarks.svg").write_text(svg(results), encoding="utf-8")
