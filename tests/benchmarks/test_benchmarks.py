"""The benchmark itself, with tiny numbers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks import client, growth, memory_loop, report, servers
from tests.benchmarks.run import Benchmark
from tests.servers import uvicorn

# Echoes, but for the message with the number 00000005 from the second time on.
BAD_ECHO = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    seen = set()
    while (message := await receive())["type"] == "websocket.receive":
        text = message["text"]
        if text in seen and text.startswith("00000005"):
            text = BAD
        seen.add(text)
        if text:
            await send({"type": "websocket.send", "text": text})
"""

CLOSES = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close"})
"""


@pytest.mark.timeout(400)  # each subject is a process, and has seven loads
def test_every_pair_under_every_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, load in client.LOADS.items():
        monkeypatch.setitem(client.LOADS, name, load._replace(connections=3))
    benchmark = Benchmark([*servers.SUBJECTS], rounds=1)
    benchmark.run_loads([*client.LOADS], seconds=0.01)
    assert list(benchmark.results) == [*client.LOADS]
    for samples in benchmark.results.values():
        assert list(samples) == [*servers.SUBJECTS]
        assert all(s.messages >= 1 and s.server > 0 for (s,) in samples.values())
    assert all(s.messages % 3 == 0 for (s,) in benchmark.results["push"].values())

    report.write(tmp_path, report.markdown(benchmark.results, report.machine()), benchmark.results)
    page = (tmp_path / "benchmarks.md").read_text()
    for pair in servers.PAIRS:
        assert page.count(" / ".join(pair)) == 2
    plot = ET.parse(tmp_path / "benchmarks.svg")
    bars = plot.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + 5 * len(client.LOADS)


def test_idle_connections() -> None:
    pair = ["Starlette", "unisock on Starlette"]
    benchmark = Benchmark(pair, rounds=1)
    benchmark.run_connections(60)
    samples = benchmark.results[report.CONNECTIONS]
    assert list(samples) == pair
    assert all(s.messages == 60 for taken in samples.values() for s in taken)
    assert all(5 < s.memory() < 100 for taken in samples.values() for s in taken)
    table = report.markdown(benchmark.results, "here").splitlines()
    assert "|  | opening | memory |" in table


def test_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "MANY", 40)
    results = growth.run(growth.DEFAULT, [3, 20, 40], rounds=2, seconds=0.01, loop="asyncio")
    assert [*results] == growth.DEFAULT
    for measured in results.values():
        assert {number: len(samples) for number, samples in measured.items()} == {
            3: 2,
            20: 2,
            40: 2,
        }
        assert all(s.messages >= 3 and s.server > 0 for each in measured.values() for s in each)
    table = growth.markdown(results).splitlines()
    assert table[0] == "| CPU µs/message | 3 | 20 | 40 | growth |"
    assert len(table) == 2 + len(growth.DEFAULT) + len(growth.DEFAULT) - 1


def test_the_growth_is_that_of_the_busy_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(*server: float) -> list[client.Sample]:
        return [client.Sample(messages=1000, wall=2.0, server=each) for each in server]

    table = growth.markdown(
        {
            "Starlette": {50: samples(0.1, 0.2, 0.3), 500: samples(0.3), 10_000: samples(0.9)},
            "ours": {50: samples(0.1, 0.1, 0.1), 500: samples(0.1), 10_000: samples(0.3)},
        }
    )
    assert "| Starlette | 200.0 | 300.0 | 900.0 | 1.50 |" in table
    assert (
        "| ours / Starlette | 0.50 (0.33–1.00) | 0.33 (0.33–0.33) | 0.33 (0.33–0.33) |  |" in table
    )


def test_more_descriptors_than_the_machine_allows() -> None:
    with pytest.raises(SystemExit, match="open files are needed"):
        growth.allow_descriptors(1 << 62)


@pytest.mark.parametrize("load", ["waiting", "ready"])
@pytest.mark.parametrize("subject", memory_loop.ON_UVICORN)
def test_what_is_counted_on_uvicorn(subject: str, load: str) -> None:
    asyncio.run(asyncio.wait_for(memory_loop.converse_on_uvicorn(subject, load, 96), 20))


def test_ratios() -> None:
    def sample(server: float) -> client.Sample:
        return client.Sample(messages=1000, wall=2.0, server=server)

    ours, native = [sample(0.1), sample(0.3), sample(0.9)], [sample(0.2)] * 3
    tables = report.markdown({"small": {"unisock on Falcon": ours, "Falcon": native}}, "here")
    assert "| unisock on Falcon / Falcon | 1.50 (0.50–4.50) |" in tables
    assert "| unisock on Falcon | 500 | 300 | 15.0 |" in tables


def test_the_sections_of_the_page_are_kept(tmp_path: Path) -> None:
    results = {"small": {"Falcon": [client.Sample(messages=1, wall=1.0, server=1.0)]}}
    report.write(tmp_path, "first\n", results)
    page = tmp_path / "benchmarks.md"
    page.write_text(page.read_text() + "\n## How to run\n\nSo.\n\n## More\n")
    report.write(tmp_path, "second\n", results)
    assert "first" not in page.read_text()
    assert page.read_text().endswith("second\n\n## How to run\n\nSo.\n\n## More\n")


@pytest.mark.parametrize(
    ("bad", "load", "notice"),
    [
        ("None", "small", "50 replies are lost"),
        ("None", "pipelined", r"instead of reply \d+ came"),
        ("'00000006' + text[8:]", "small", "instead of reply 13 came .*00000006"),
        ("text[:-1]", "pipelined", r"instead of reply \d+ came"),
    ],
)
def test_a_bad_echo_is_noticed(
    bad: str, load: str, notice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 1.0)
    server = uvicorn(tmp_path, BAD_ECHO.replace("BAD", bad), log_level="warning")
    with server, pytest.raises(client.WrongReply, match=notice):
        client.measure(server.port, server.process.pid, client.LOADS[load], 5)


def test_a_closed_connection_is_not_idle(tmp_path: Path) -> None:
    server = uvicorn(tmp_path, CLOSES, log_level="warning")
    with server, pytest.raises(client.WrongReply, match="not left in peace"):
        client.measure_connections(server.port, server.process.pid, 60)


@pytest.mark.parametrize(("bound", "status"), [("0.01", 1), ("100", 0)])
def test_the_bound_of_the_loop_in_memory(bound: str, status: int) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.memory_loop", "--quick", "--bound", bound]
    done = subprocess.run(command, cwd=servers.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert done.stdout.count("EXCEEDS") == 4 * status
