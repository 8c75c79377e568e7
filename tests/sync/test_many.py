"""Plain functions on hundreds of connections at once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.frameworks import FRAMEWORKS
from tests.servers import Server, uvicorn
from tests.sync.crowd import TEXT, Member, crowd

Eventually = Callable[[Callable[[], bool]], None]

GEVENT = ("flask", "flask-patched")
MESSAGES = 5


@pytest.fixture(scope="module", params=[*FRAMEWORKS, "flask-patched"])
def kind(request: pytest.FixtureRequest) -> str:
    """A framework on its server."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def server(kind: str, start: Callable[..., Server]) -> Iterator[Server]:
    """A server of each kind."""
    with start(kind) as running:
        yield running


def _left(server: Server) -> dict[str, int]:
    status, body = server.get("/left")
    assert status == 200, body
    left: dict[str, int] = json.loads(body)
    return left


async def _converse(number: int, member: Member) -> None:
    """Send all at once; every one comes back, in order."""
    said = [f"{number}: {n}" for n in range(MESSAGES)]
    for text in said:
        member.say(text)
    assert [await member.hear() for _ in said] == [(TEXT, text.encode()) for text in said]


async def _converse_all(members: list[Member]) -> None:
    await asyncio.gather(*(_converse(n, member) for n, member in enumerate(members)))


async def _leave_all(members: list[Member]) -> None:
    """In each of the ways there are."""
    await asyncio.gather(*(member.close() for member in members[::2]))
    for member in members[1::4]:
        await member.reset()
    for member in members[3::4]:
        await member.vanish()


def _warm(server: Server) -> dict[str, int]:
    """What is in the process when each thing was there once."""

    async def main() -> None:
        async with crowd(server.port, "/echo", 1) as members:
            await _converse_all(members)
            await _leave_all(members)

    asyncio.run(main())
    server.get("/page")
    server.get("/pool")
    return _left(server)


def test_hundreds_echo_at_once(server: Server, kind: str, eventually: Eventually) -> None:
    size = 1000 if kind in GEVENT else 200
    before = _warm(server)

    async def main() -> None:
        async with asyncio.timeout(60), crowd(server.port, "/echo", size) as members:
            await _converse_all(members)
            await asyncio.to_thread(look_beside)
            await _converse_all(members)
            await _leave_all(members)

    def look_beside() -> None:
        """All are open: each has a thread or greenlets, and the others go on beside."""
        assert server.get("/page") == (200, "the page")
        pool = server.get("/pool")
        assert pool[0] == 200 and not pool[1].startswith(("MainThread", "unisock")), pool
        now = _left(server)
        if kind in GEVENT:
            assert now["greenlets"] >= before["greenlets"] + size
            assert now["unisock threads"] == 0
        else:
            assert now["unisock threads"] == size

    asyncio.run(main())
    eventually(lambda: all(value <= before[name] for name, value in _left(server).items()))
    assert "Traceback" not in server.log()


def test_timeouts_lose_no_message(server: Server) -> None:
    async def converse(number: int, member: Member) -> None:
        sent = timeouts = 0
        while timeouts < 100:
            # Two at once, and then none for a time that drifts against the handler's.
            numbers = (sent, sent + 1)
            for n in numbers:
                member.say(f"{number}-{n}")
            for n in numbers:
                opcode, payload = await member.hear()
                message, _, counted = payload.decode().partition(" ")
                assert (opcode, message) == (TEXT, f"{number}-{n}")
                timeouts = int(counted)
            sent += 2
            await asyncio.sleep(sent % 37 / 10_000)

    async def main() -> None:
        async with asyncio.timeout(60), crowd(server.port, "/impatient", 20) as members:
            await asyncio.gather(*(converse(n, member) for n, member in enumerate(members)))

    asyncio.run(main())


def test_no_more_threads_than_max_threads(
    server: Server, kind: str, eventually: Eventually
) -> None:
    def knock() -> int:
        """The status of one more; it leaves at once if it was let in."""

        async def main() -> int:
            member = await Member.connect(server.port, "/few")
            if member.status == 101:
                await member.close()
            else:
                assert b"\r\nretry-after: 1\r\n" in member.head.lower()
                await member.vanish()
            return member.status

        return asyncio.run(main())

    async def main() -> None:
        async with asyncio.timeout(60), crowd(server.port, "/few", 5) as members:
            assert {member.status for member in members} == {101}
            await _converse_all(members)
            # What is full is one handler, and no other.
            async with crowd(server.port, "/echo", 5) as others:
                await _converse_all(others)
            if kind in GEVENT:
                async with crowd(server.port, "/few", 20) as others:
                    await _converse_all(others)
            else:
                for _ in range(2):
                    assert await asyncio.to_thread(knock) == 503
                assert "max_threads=" in server.log()
            await _converse_all(members)
            await members[0].close()
            await asyncio.to_thread(eventually, lambda: knock() == 101)
            await members[1].reset()
            await members[2].vanish()
            await asyncio.to_thread(eventually, lambda: _left(server)["unisock threads"] <= 2)
            async with crowd(server.port, "/few", 3) as others:
                await _converse_all(others)

    asyncio.run(main())
    assert "Traceback" not in server.log()


NO_THREADS = """
import resource, unisock, logging
from starlette.applications import Starlette
logging.basicConfig(level=logging.INFO)

def talk(ws):
    ws.accept()
    for message in ws:
        ws.send(message)

async def beside(ws):
    await ws.accept()
    await ws.send("here")

app = Starlette()
unisock.mount(app, "/talk", talk)
unisock.mount(app, "/beside", beside)
with open("/proc/self/statm") as statm:
    held = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 400 * 2**20,) * 2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_where_the_system_has_no_thread_left(tmp_path: Path) -> None:
    """503 and one warning each, and those who are there go on."""
    with ExitStack() as stack:
        server = stack.enter_context(uvicorn(tmp_path, NO_THREADS, log_config=None))
        raws = [stack.enter_context(closing(server.raw("/talk"))) for _ in range(100)]
        answers = [int(raw.read_head().split()[1]) for raw in raws]
        assert {*answers} == {101, 503}
        beside = stack.enter_context(closing(server.raw("/beside")))
        beside.read_head()
        assert beside.read_frame() == (TEXT, b"here")
        first = raws[answers.index(101)]
        first.send_frame(TEXT, b"still")
        assert first.read_frame() == (TEXT, b"still")
        log = server.log()
        assert log.count("needs a thread, and the system has no more") == answers.count(503)
        assert "Traceback" not in log
