"""Handlers use asyncio while other greenlets go on and use it, too."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as sync_connect

from tests.servers import Server

WANTED = {
    "timeout": "timed out",
    "queue": "from a queue",
    "thread": "from a thread",
    "client": "the page",
}


async def _use_asyncio(server: Server, rounds: int) -> None:
    async with connect(server.url("/asyncio")) as ws:
        for _ in range(rounds):
            await ws.send("go")
            assert json.loads(await ws.recv()) == WANTED


def test_many_handlers_use_all_of_asyncio_at_once(server: Server) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(_use_asyncio(server, 5))

    asyncio.run(main())


def test_a_handler_runs_a_subprocess(server: Server) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), connect(server.url("/asyncio")) as ws:
            await ws.send("subprocess")
            assert json.loads(await ws.recv()) == WANTED | {"subprocess": "child"}

    asyncio.run(main())


def test_other_greenlets_run_event_loops_of_their_own_meanwhile(server: Server) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as pool:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                handlers = [group.create_task(_use_asyncio(server, 10)) for _ in range(5)]
                while not all(task.done() for task in handlers):
                    # One loop at a time: two greenlets of one thread cannot
                    # both be in asyncio.run, unisock or not.
                    ran = await loop.run_in_executor(pool, server.get, "/asyncio-run")
                    assert ran == (200, "ran")
                    view = await loop.run_in_executor(pool, server.get, "/async-view")
                    assert view == (200, "async")

    asyncio.run(main())


def test_no_running_loop_shows_in_other_greenlets(server: Server) -> None:
    async def main() -> None:
        async with connect(server.url("/sleeps")) as ws:
            await ws.recv()
            shown = await asyncio.to_thread(server.get, "/running-loop")
            assert shown == (200, "None")

    asyncio.run(main())


def test_a_greenlet_puts_into_an_asyncio_queue(server: Server) -> None:
    async def main() -> None:
        async with asyncio.timeout(10), connect(server.url("/queued")) as ws:
            assert await ws.recv() == "ready"
            await asyncio.to_thread(server.get, "/put")
            assert await ws.recv() == "from a view"

    asyncio.run(main())


REMEDIES = {
    "send": "loop.call_soon_threadsafe(queue.put_nowait, message)",
    "close": "asyncio.run_coroutine_threadsafe(ws.close(), loop)",
    "start_soon": "loop.call_soon_threadsafe(ws.start_soon, function)",
}


@pytest.mark.parametrize("method", REMEDIES)
def test_a_view_that_uses_a_connection_is_told_how(server: Server, method: str) -> None:
    """At once, though the peer reads nothing; and what it is told works."""
    with sync_connect(server.url("/shared")) as ws:
        ws.send("ready")
        assert ws.recv(10) == "ready"
        for view in ("stray", "async-stray"):
            status, said = server.get(f"/{view}/{method}")
            assert status == 200
            assert "outside of the event loop that the handler runs on" in said
            assert REMEDIES[method] in said
        ws.send("unharmed")
        assert ws.recv(10) == "unharmed"
        assert server.get(f"/remedy/{method}") == (200, "done")
        if method == "close":
            with pytest.raises(ConnectionClosed, match="4000"):
                ws.recv(10)
        else:
            assert ws.recv(10) == "from a view"


def test_sys_exit_in_a_handler_ends_the_process(spare_server: Server) -> None:
    async def main() -> None:
        async with asyncio.timeout(10), connect(spare_server.url("/exits")) as ws:
            await ws.wait_closed()

    asyncio.run(main())
    assert spare_server.process.wait(10) == 3
