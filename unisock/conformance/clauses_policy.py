"""Section 10 of the contract: limits that somebody sets when mounting."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack, suppress
from typing import Any

from unisock import Handler, SyncWebSocket, WebSocket, WebSocketDisconnect, WebSocketEndpoint

from .clauses_limits import until_accepted
from .harness import PATIENCE, RawClient, Server, clause, frame, journal, mounted, pause

# The tests compare orders of events; how long a limit is only has to be so much less
# than the patience of a client.
_SOON = 0.3 * PATIENCE
_LATE = 3 * PATIENCE
_BURST = 5
_TWO_A_SECOND: dict[str, Any] = {"max_messages_per_second": 2, "message_burst": _BURST}


def _both(path: str, **options: Any) -> None:
    """Mount a handler of either kind that echoes, and journals what it has received."""
    mounted(f"{path}/async", **options)(_record)
    mounted(f"{path}/sync", **options)(_record_sync)


async def _record(ws: WebSocket) -> None:
    await ws.accept()
    received = []
    try:
        while True:
            received.append(await ws.receive_text())
            with suppress(WebSocketDisconnect):
                await ws.send(received[-1])
    except WebSocketDisconnect as exc:
        journal(ws, "end", code=exc.code, reason=exc.reason, received=received)


def _record_sync(ws: SyncWebSocket) -> None:
    ws.accept()
    received = []
    try:
        while True:
            received.append(ws.receive_text())
            with suppress(WebSocketDisconnect):
                ws.send(received[-1])
    except WebSocketDisconnect as exc:
        journal(ws, "end", code=exc.code, reason=exc.reason, received=received)


_KINDS = ("async", "sync")
_both("/policy/rate", **_TWO_A_SECOND)
_both("/policy/first", first_message_timeout=_SOON)
_both("/policy/idle", idle_timeout=_SOON)
_both("/policy/idle-4000", idle_timeout=_SOON, idle_close_code=4000)
# Of those that must not be struck, for a test may be held up for a while.
_PATIENT = 1.0 * PATIENCE
_both("/policy/patient", first_message_timeout=_PATIENT)
_both("/policy/patient-idle", idle_timeout=_PATIENT)
_both("/policy/all", first_message_timeout=_LATE, idle_timeout=_LATE, handler_timeout=_SOON)


# 10.3 Messages per second


@clause("10.3")
async def test_more_messages_than_may_be_close_with_1008(server: Server) -> None:
    """After the burst, which is delivered; with a warning, and nobody else is touched."""
    async with server.connect("/limits/default") as healthy:
        for kind in _KINDS:
            mark = server.log_mark()
            async with server.raw(f"/policy/rate/{kind}") as raw:
                await raw.send_frames(*[(1, b"%d" % n) for n in range(50)])
                end = await _check_closed(raw, 1008, "over 2 messages a second")
                # More than the burst if it took a while to read them.
                assert _BURST <= len(end["received"]) < 2 * _BURST, kind
                assert end["received"] == [str(n) for n in range(len(end["received"]))], kind
            log = await server.wait_log("over 2 messages a second", mark)
            assert "Traceback" not in log, log
        await healthy.send("still")
        assert await healthy.recv() == '["str",5]'


@clause("10.3")
async def test_a_rate_within_the_limit_is_served(server: Server) -> None:
    """A burst, and as many again when their time has come."""
    for kind in _KINDS:
        async with server.connect(f"/policy/rate/{kind}") as client:
            for n in range(_BURST):
                await client.send(str(n))
                assert await client.recv() == str(n)
            for n in range(2):
                await asyncio.sleep(0.6)
                await client.send(str(n))
                assert await client.recv() == str(n)


@mounted("/policy/slow", max_messages_per_second=20, message_burst=3, max_queue=1)
async def slow(ws: WebSocket) -> None:
    """Take messages more slowly than they may come."""
    await ws.accept()
    async for message in ws:
        await asyncio.sleep(0.15)
        await ws.send(message)


@clause("10.3")
async def test_what_waits_for_a_slow_handler_is_no_flood(server: Server) -> None:
    """A client that keeps to its rate, of a handler that is behind."""
    async with server.connect("/policy/slow") as client:

        async def send() -> None:
            for n in range(15):
                await client.send(str(n))
                await asyncio.sleep(0.08)

        sending = asyncio.create_task(send())
        for n in range(15):
            assert await client.recv() == str(n)
        await sending


@mounted("/policy/streams", max_messages_per_second=20, message_burst=20, idle_timeout=_PATIENT)
async def stream(ws: WebSocket) -> None:
    """Send more than the peer takes, and count what it says meanwhile."""
    await ws.accept()
    ws.start_soon(_send_much, ws)
    for count in itertools.count(1):
        await ws.receive()
        journal(ws, "received", count=count)


async def _send_much(ws: WebSocket) -> None:
    for _ in range(160):
        await ws.send_bytes(b"x" * 65536)


@clause("10.3")
async def test_a_client_that_does_not_read_is_no_flood(server: Server) -> None:
    """Where nobody reads from it either, for what is sent to it waits."""
    async with server.raw("/policy/streams") as raw:
        for _ in range(30):
            await raw.send_frame(1, b"still here")
            await asyncio.sleep(0.1)
        received = 0
        while received < 160 * 65536:
            got = await raw.recv_frame()
            assert got.opcode != 8, got
            received += len(got.payload) if got.opcode == 2 else 0
        await _journalled(raw, 30)


async def _journalled(raw: RawClient, count: int) -> None:
    """Wait until the handler has received so many messages."""
    async with asyncio.timeout(10 * PATIENCE):
        while len([event for event, _ in raw.events() if event == "received"]) < count:
            await asyncio.sleep(0.01)


# 10.3 Silence


@clause("10.3")
async def test_a_first_message_that_does_not_come_closes_with_1008(server: Server) -> None:
    """The handler sees a disconnect; once one has come, time has no end."""
    for kind in _KINDS:
        async with server.raw(f"/policy/first/{kind}") as raw:
            await _check_closed(raw, 1008, f"no message within {_SOON:g} seconds")
        async with server.connect(f"/policy/patient/{kind}") as client:
            await client.send("1")
            await asyncio.sleep(1.5 * _PATIENT)
            await client.send("2")
            assert [await client.recv(), await client.recv()] == ["1", "2"]


@clause("10.3")
async def test_a_silent_client_is_closed_with_1001(server: Server) -> None:
    """Whatever pings it sends; one that speaks now and then is not."""
    for kind in _KINDS:
        async with server.raw(f"/policy/idle/{kind}") as raw:
            pinging = asyncio.create_task(_ping(raw))
            await _check_closed(raw, 1001, f"no message for {_SOON:g} seconds")
            pinging.cancel()
        async with server.connect(f"/policy/patient-idle/{kind}") as client:
            for n in range(4):
                await client.send(str(n))
                assert await client.recv() == str(n)
                await asyncio.sleep(_PATIENT * 0.4)


@clause("10.3")
async def test_a_silent_client_is_closed_as_set(server: Server) -> None:
    """With ``idle_close_code``."""
    for kind in _KINDS:
        async with server.raw(f"/policy/idle-4000/{kind}") as raw:
            await _check_closed(raw, 4000, f"no message for {_SOON:g} seconds")


async def _ping(raw: RawClient) -> None:
    with suppress(ConnectionError):
        for n in itertools.count():
            await raw.send(frame(9, b"%d" % n))
            await asyncio.sleep(_SOON / 5)


async def _check_closed(raw: RawClient, code: int, reason: str) -> dict[str, Any]:
    """Assert that client and handler learn the same end; return what the handler tells."""
    assert await raw.closed() == (code, reason)
    end = await raw.journal("end")
    assert (end["code"], end["reason"]) == (code, reason)
    return end


# 10.3 Handlers that do not answer


@mounted("/policy/handler/async", handler_timeout=_SOON)
async def never_accept(ws: WebSocket) -> None:
    """Wait for the end instead."""
    await ws.wait_closed()
    try:
        await ws.accept()
    except WebSocketDisconnect as exc:
        journal(ws, "end", code=exc.code)


@mounted("/policy/handler/sync", handler_timeout=_SOON)
def never_accept_sync(ws: SyncWebSocket) -> None:
    """Wait for the end instead."""
    while not ws.closed:
        pause(0.01)
    try:
        ws.accept()
    except WebSocketDisconnect as exc:
        journal(ws, "end", code=exc.code)


@clause("10.3")
async def test_a_handler_that_does_not_answer_is_503(server: Server) -> None:
    """With a warning; when it accepts at last it sees a disconnect."""
    for kind in _KINDS:
        mark = server.log_mark()
        response = await server.check_rejected(f"/policy/handler/{kind}", 503)
        assert (await server.journal(response.id, "end"))["code"] == 1006
        log = await server.wait_log(f"has not answered it within {_SOON:g} seconds", mark)
        assert "Traceback" not in log, log


@clause("10.3")
async def test_a_handler_that_has_answered_takes_its_time(server: Server) -> None:
    """No limit strikes while it is not reached."""
    for kind in _KINDS:
        async with server.connect(f"/policy/all/{kind}") as client:
            await client.send("1")
            assert await client.recv() == "1"
            await asyncio.sleep(2 * _SOON)
            await client.send("2")
            assert await client.recv() == "2"
            await client.close()
            assert (await client.journal("end"))["received"] == ["1", "2"]


# 5.4 A peer that takes nothing


_SEND_TIMEOUT = 1 * PATIENCE
_PIECE = b"x" * 16_384


async def _fill(ws: WebSocket) -> None:
    await ws.accept()
    ends = []
    for call in (lambda: ws.send(_PIECE), ws.receive):
        try:
            while True:
                await call()
        except WebSocketDisconnect as exc:
            ends.append(exc.code)
    journal(ws, "filled", ends=ends)


class FillEndpoint(WebSocketEndpoint):
    """The same, as a class."""

    async def on_connect(self, ws: WebSocket) -> None:
        """Fill."""
        await _fill(ws)


def _fill_sync(ws: SyncWebSocket) -> None:
    ws.accept()
    ends = []
    for call in (lambda: ws.send(_PIECE), ws.receive):
        try:
            while True:
                call()
        except WebSocketDisconnect as exc:
            ends.append(exc.code)
    journal(ws, "filled", ends=ends)


_FILLING: dict[str, Handler] = {"async": _fill, "class": FillEndpoint, "sync": _fill_sync}
for _form, _filling in _FILLING.items():
    mounted(f"/policy/fill/{_form}", send_timeout=_SEND_TIMEOUT, max_connections=1)(_filling)


@clause("5.4", "10.3")
async def test_a_peer_that_takes_nothing_is_gone(server: Server) -> None:
    """Sends and receives raise 1006, in each form, and the place of the connection is free."""
    if server.row.without("send_waits"):
        return
    async with AsyncExitStack() as stack:
        healthy = await stack.enter_async_context(server.connect("/limits/default"))
        # All at once, for each takes its time.
        raws = [
            await stack.enter_async_context(server.raw(f"/policy/fill/{form}")) for form in _FILLING
        ]
        await healthy.send("beside")
        assert await healthy.recv() == '["str",6]'
        for raw in raws:
            assert (await raw.journal("filled"))["ends"] == [1006, 1006]
        for form in _FILLING:
            await until_accepted(server, f"/policy/fill/{form}")


@mounted("/policy/slow-reader", send_timeout=_SEND_TIMEOUT)
async def fill_for_a_while(ws: WebSocket) -> None:
    """Send 16 MiB."""
    await ws.accept()
    for _ in range(1024):
        await ws.send(_PIECE)
    journal(ws, "sent")


@clause("5.4", "10.3")
async def test_a_peer_that_reads_slowly_is_not_gone(server: Server) -> None:
    """As long as something is taken each time; all arrives."""
    if server.row.without("send_waits"):
        return
    async with server.raw("/policy/slow-reader") as raw:
        count = 0
        for _ in range(12):  # for three times the limit, and so slowly that sends wait
            count += len(await raw.reader.readexactly(600_000))
            await asyncio.sleep(_SEND_TIMEOUT / 4)
        count += len(await raw.reader.readexactly(1024 * (len(_PIECE) + 4) - count))
        assert await raw.recv_frame()  # the close frame
        await raw.journal("sent")
