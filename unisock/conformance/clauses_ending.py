"""Section 6 of the contract: noticing the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from unisock import SyncWebSocket, UnisockError, WebSocket, WebSocketDisconnect

from .clauses_sending import resident_bytes
from .harness import Client, Server, clause, frame, journal, mounted

logger = logging.getLogger("suite")

# 6.1 Always reading


@mounted("/ending/sleep")
async def sleep_until_the_end(ws: WebSocket) -> None:
    """Sleep, and do nothing else, until the connection has ended."""
    await ws.accept()
    while ws.close_code is None:
        await asyncio.sleep(0.01)
    journal(ws, "noticed", code=ws.close_code, reason=ws.close_reason)


@mounted("/ending/only-send")
async def only_send(ws: WebSocket) -> None:
    """Send, and never receive, until that fails."""
    await ws.accept()
    try:
        while True:
            await ws.send_text("tick")
            await asyncio.sleep(0.01)
    except WebSocketDisconnect as exc:
        journal(ws, "noticed", code=exc.code, reason=exc.reason)


@mounted("/ending/wait-elsewhere")
async def wait_elsewhere(ws: WebSocket) -> None:
    """Wait for another thing than a message: for the end."""
    await ws.accept()
    code = await ws.wait_closed()
    journal(ws, "noticed", code=code, reason=ws.close_reason)


_NOT_RECEIVING = ("/ending/sleep", "/ending/only-send", "/ending/wait-elsewhere")


@clause("6.1")
async def test_pings_are_answered_whatever_the_handler_does(server: Server) -> None:
    """With unread messages before each ping."""
    for path in _NOT_RECEIVING:
        async with server.raw(path) as raw:
            for number in range(5):
                await raw.send_frames((1, b"unread"), (2, b"unread"), (9, b"%d" % number))
                while (answer := await raw.recv_frame()).opcode == 1:
                    assert answer.payload == b"tick"
                assert (answer.opcode, answer.payload) == (10, b"%d" % number), path


@clause("6.1")
async def test_a_disconnect_is_noticed_whatever_the_handler_does(server: Server) -> None:
    """Behind unread messages, by a handler that sleeps, sends or waits."""
    for path in _NOT_RECEIVING:
        async with server.connect(path) as client:
            for message in ("unread", b"unread", ""):
                await client.send(message)
            await client.close(4001, "left")
            code, reason = server.row.sees(4001, "left")
            assert await client.journal("noticed") == {"code": code, "reason": reason}, path


@mounted("/ending/send-without-pause")
async def send_without_pause(ws: WebSocket) -> None:
    """Send in a loop that awaits nothing else, until that fails."""
    await ws.accept()
    try:
        while True:
            await ws.send_text("tick")
    except WebSocketDisconnect as exc:
        journal(ws, "noticed", code=exc.code, reason=exc.reason)


@clause("6.1", "5.4")
async def test_a_loop_that_only_sends_stops_nothing_else(server: Server) -> None:
    """Its peer reads as fast as it sends: pings, other connections and the end are noticed."""
    async with server.raw("/ending/send-without-pause") as raw:
        for number in range(3):
            await raw.send_frames((1, b"unread"), (9, b"%d" % number))
            # In large pieces: a peer that is slower than the server does not read.
            await raw.skip_to(b"\x81\x04tick\x8a\x01%d" % number)
        # The other is answered while this one is read.
        other = asyncio.create_task(_one_echo(server))
        while not other.done():
            await raw.skip_to(b"\x81\x04tick")
            await asyncio.sleep(0)  # what is in the buffer is read without a pause
        await other
        raw.reset()
        assert await raw.journal("noticed") == {"code": 1006, "reason": ""}


async def _one_echo(server: Server) -> None:
    async with server.connect("/ending/while/ends") as client:
        assert await client.recv() == "ended"


_UNREAD = b"\xcd" * 16384
_UNREAD_COUNT = 4096

_draining: dict[str, asyncio.Event] = {}


async def drain_when_told(ws: WebSocket) -> None:
    """Receive nothing until another connection says so, then everything."""
    name = ws.query_params["name"]
    drain = _draining[name] = asyncio.Event()
    await ws.accept()
    await drain.wait()
    del _draining[name]
    count = 0
    wrong = 0
    async for message in ws:
        assert isinstance(message, bytes)
        wrong += message[:4] != count.to_bytes(4) or message[4:] != _UNREAD
        count += 1
    journal(ws, "drained", count=count, wrong=wrong, code=ws.close_code)


mounted("/ending/full/count", max_queue=4, max_queue_size=1 << 40)(drain_when_told)
mounted("/ending/full/bytes", max_queue=1 << 40, max_queue_size=65536)(drain_when_told)


@mounted("/ending/drain")
async def drain(ws: WebSocket) -> None:
    """Answer with this process' memory; on "drain" tell the handler above to receive."""
    await ws.accept()
    async for message in ws:
        if message == "drain":
            _draining[ws.query_params["name"]].set()
        await ws.send_json(resident_bytes())


@clause("6.1")
async def test_a_full_inbox_pauses_reading_and_drops_nothing(server: Server) -> None:
    """By count and by bytes: the server's memory is bounded; later all arrives in order."""
    for bound in ("count", "bytes"):
        async with (
            server.connect(f"/ending/drain?name={bound}") as other,
            server.connect(f"/ending/full/{bound}?name={bound}", ping_interval=None) as client,
        ):
            before = await _memory(other)
            sending = _Sending(client)
            await sending.until_it_stands_still()
            # What is on its way is in the kernel's buffers, and not in the process.
            is_bounded = await _memory(other) - before < _UNREAD_COUNT * len(_UNREAD) // 3
            assert is_bounded or server.row.without("pauses"), bound
            await other.send("drain")
            await sending.task
            await client.close()
            drained = await client.journal("drained")
            code, _ = server.row.sees(1000, "")
            assert drained == {"count": _UNREAD_COUNT, "wrong": 0, "code": code}, bound


async def _memory(watcher: Client) -> int:
    await watcher.send("memory")
    async with asyncio.timeout(5):
        return int(await watcher.recv())


class _Sending:
    """A task that sends all the unread messages."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sent = 0
        self.task = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        for number in range(_UNREAD_COUNT):
            await self._client.send(number.to_bytes(4) + _UNREAD)
            self._sent += 1

    async def until_it_stands_still(self) -> None:
        """Wait until the peer takes no more."""
        last, same = -1, 0
        while same < 20:
            same = same + 1 if self._sent == last else 0
            last = self._sent
            await asyncio.sleep(0.02)


@mounted("/ending/full-and-only-send", max_queue=2)
async def only_send_with_a_full_inbox(ws: WebSocket) -> None:
    """As `only_send`, while more messages wait than the inbox takes; then receive them."""
    await ws.accept()
    raised = None
    try:
        for _ in range(200):
            await ws.send_text("tick")
            await asyncio.sleep(0.005)
    except WebSocketDisconnect as exc:
        raised = [exc.code, exc.reason]
    got = [message async for message in ws]
    journal(ws, "noticed", raised=raised, got=got, after=[ws.close_code, ws.close_reason])


@clause("6.2")
async def test_a_send_notices_the_end_behind_a_full_inbox(server: Server) -> None:
    """The code is the peer's, though unread messages stand before it; they are not lost."""
    async with server.raw("/ending/full-and-only-send") as raw:
        sent = [f"unread {number}" for number in range(6)]
        close = (4006).to_bytes(2) + b"left"
        await raw.send_frames(*((1, message.encode()) for message in sent), (8, close))
        await raw.eof()
        end = [*server.row.sees(4006, "left")]
        noticed = await raw.journal("noticed")
        raised = None if server.row.without("failing_send") else end
        if server.row.without("unsure_send"):
            raised = noticed["raised"] and end
        assert noticed == {"raised": raised, "got": sent, "after": end}


# 6.2 The same code and reason everywhere


async def _outcome(call: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The name of what a call raises, with code and reason."""
    try:
        result = await call()
    except WebSocketDisconnect as exc:
        kinds = isinstance(exc, ConnectionError) and isinstance(exc, UnisockError)
        return ["WebSocketDisconnect" if kinds else "of the wrong kind", exc.code, exc.reason]
    except BaseException as exc:  # noqa: BLE001  # its type is compared by the test
        return [type(exc).__name__, 0, str(exc)]
    return ["returned", 0, repr(result)]


async def _enter_while_connected(ws: WebSocket) -> None:
    async with ws.while_connected():
        raise AssertionError("the body began")


def _calls(ws: WebSocket) -> dict[str, Callable[[], Awaitable[Any]]]:
    return {
        "receive": ws.receive,
        "send": lambda: ws.send("x"),
        "receive_text": ws.receive_text,
        "receive_bytes": ws.receive_bytes,
        "receive_json": ws.receive_json,
        "send_text": lambda: ws.send_text("x"),
        "send_bytes": lambda: ws.send_bytes(b"x"),
        "send_json": lambda: ws.send_json([]),
        "while_connected": lambda: _enter_while_connected(ws),
    }


async def _all_outcomes(ws: WebSocket) -> list[list[Any]]:
    """What each call raises, twice over, where they differ."""
    outcomes = []
    for _ in range(2):
        for call in _calls(ws).values():
            outcome = await _outcome(call)
            if outcome not in outcomes:
                outcomes.append(outcome)
    await ws.close(4999, "too late")
    outcomes.append(["ws", await ws.wait_closed(), ws.close_reason])
    outcomes.append(["ws", ws.close_code, ws.close_reason])
    return outcomes


@mounted("/ending/outcomes/{first}")
async def report_outcomes(ws: WebSocket) -> None:
    """Notice the end by one call, and journal what that and all others raise."""
    await ws.accept()
    await ws.send_text("open")
    notice = _calls(ws).get(ws.path_params["first"])
    if notice is None:
        await ws.wait_closed()
        journal(ws, "outcomes", outcomes=await _all_outcomes(ws))
        return
    while (outcome := await _outcome(notice))[0] == "returned":
        await asyncio.sleep(0.005)
    journal(ws, "outcomes", outcomes=[outcome, *await _all_outcomes(ws)])


async def _check_outcomes(outcomes: list[list[Any]], code: int, reason: str) -> None:
    expected = {("WebSocketDisconnect", code, reason), ("ws", code, reason)}
    assert {tuple(outcome) for outcome in outcomes} == expected


_FIRSTS = ("receive", "send", "wait")


@clause("6.2")
async def test_the_peers_code_and_reason_everywhere(server: Server) -> None:
    """Whatever notices the end first, everything after it raises the same."""
    for first in _FIRSTS:
        for code, reason in ((4005, "gr\u00fcnde"), (1000, ""), (1001, "away"), (3000, "r" * 123)):
            async with server.connect(f"/ending/outcomes/{first}") as client:
                await client.close(code, reason)
                outcomes = (await client.journal("outcomes"))["outcomes"]
                await _check_outcomes(outcomes, *server.row.sees(code, reason))


_FORGED = "bye\n2026 CRITICAL paid \x1b[31m\u202e"


@mounted("/ending/forged/{first}")
async def log_the_end(ws: WebSocket) -> None:
    """Notice the end by one call, log what it raises, and journal it."""
    await ws.accept()
    notice = _calls(ws)[ws.path_params["first"]]
    try:
        while True:
            await notice()
            await asyncio.sleep(0.005)
    except WebSocketDisconnect as exc:
        logger.warning("left: %s", exc)
        logger.warning("how", exc_info=exc)
        journal(ws, "logged", text=str(exc), reason=exc.reason)


@clause("6.2")
async def test_a_close_reason_forges_no_line(server: Server) -> None:
    """Neither in the exception's text nor in a traceback; `reason` is as it came."""
    for first in ("receive", "send"):
        mark = server.log_mark()
        async with server.connect(f"/ending/forged/{first}") as client:
            await client.close(4005, _FORGED)
            logged = await client.journal("logged")
        code, reason = server.row.sees(4005, _FORGED)
        assert logged["reason"] == reason
        assert logged["text"].isprintable()
        log = await server.wait_log("WebSocketDisconnect: ", mark)
        shown = r" bye\n2026 CRITICAL paid \x1b[31m\u202e" if reason else ""
        assert f"left: {code}{shown} (the connection from " in log, log
        assert f"WebSocketDisconnect: {code}{shown} (the connection from " in log, log
        assert "\x1b" not in log, log
        assert "\n2026" not in log, log


@clause("6.2")
async def test_a_close_frame_without_a_code_is_1005(server: Server) -> None:
    """An empty close frame."""
    for first in _FIRSTS:
        async with server.raw(f"/ending/outcomes/{first}") as raw:
            assert (await raw.recv_frame()).payload == b"open"
            await raw.send_frame(8, b"")
            outcomes = (await raw.journal("outcomes"))["outcomes"]
            await _check_outcomes(outcomes, *server.row.sees(1005))


@clause("6.2")
async def test_a_broken_connection_is_1006(server: Server) -> None:
    """A reset, the end of the stream, and that in the middle of a frame."""
    for first in _FIRSTS:
        for how in ("reset", "eof", "mid-frame"):
            async with server.raw(f"/ending/outcomes/{first}") as raw:
                assert (await raw.recv_frame()).payload == b"open"
                if how == "mid-frame":
                    await raw.send(frame(1, b"never whole")[:-4])
                if how == "reset":
                    raw.reset()
                else:
                    await raw.eof()
                outcomes = (await raw.journal("outcomes"))["outcomes"]
                await _check_outcomes(outcomes, 1006, "")


# 6.3 closed and wait_closed


@mounted("/ending/closed")
async def watch_closed(ws: WebSocket) -> None:
    """Journal `closed` before and after the end, and what several waiters got.

    After it, once with a message unread and once when that is received.
    """
    await ws.accept()
    early = asyncio.create_task(ws.wait_closed())
    try:
        async with asyncio.timeout(0.01):
            await ws.wait_closed()
    except TimeoutError:
        await ws.send_text("waiting")
    before = ws.closed
    codes = [await ws.wait_closed(), await early, await ws.wait_closed()]
    unread = ws.closed
    await ws.receive()
    journal(ws, "closed", before=before, unread=unread, after=ws.closed, codes=codes)


@mounted("/ending/until-closed/async")
async def receive_until_closed(ws: WebSocket) -> None:
    """The loop of gevent-websocket's handlers, when the peer has left already."""
    await ws.accept()
    await ws.wait_closed()
    got = []
    while not ws.closed:
        got.append(await ws.receive())
    journal(ws, "got", messages=got)


@mounted("/ending/until-closed/plain")
def receive_until_closed_plainly(ws: SyncWebSocket) -> None:
    """The same in a plain function."""
    ws.accept()
    ws.wait_closed()
    got = []
    while not ws.closed:
        got.append(ws.receive())
    journal(ws, "got", messages=got)


@clause("6.3", "4.7")
async def test_a_loop_until_closed_receives_all(server: Server) -> None:
    """`closed` is false as long as there is something to receive."""
    for form in ("async", "plain"):
        for count in (0, 1, 5):
            async with server.connect(f"/ending/until-closed/{form}") as client:
                sent = [str(number) for number in range(count)]
                for message in sent:
                    await client.send(message)
                await client.close(4003)
                assert await client.journal("got") == {"messages": sent}, form


@clause("6.3")
async def test_closed_turns_true_and_wait_closed_gives_the_code(server: Server) -> None:
    """For several waiters, before and after the end; one that is cancelled harms none."""
    async with server.connect("/ending/closed") as client:
        assert await client.recv() == "waiting"
        await client.send("unread")
        await client.close(4003)
        code, _ = server.row.sees(4003, "")
        closed = await client.journal("closed")
        wanted = {"before": False, "unread": False, "after": True, "codes": [code] * 3}
        assert closed == wanted


@mounted("/ending/before-accept", handler_timeout=6)
async def wait_before_accept(ws: WebSocket) -> None:
    """Wait for the end, and never accept."""
    start = time.monotonic()
    journal(ws, "waiting")
    code = await ws.wait_closed()
    journal(ws, "noticed", code=code, seconds=time.monotonic() - start)


async def _leave_before_accept(server: Server, early: bytes, how: str) -> bool:
    """Leave; return whether the handler learned of it by the end of its time alone."""
    async with server.raw("/ending/before-accept", expect=None) as raw:
        await raw.journal("waiting")
        await raw.send(early)
        if how == "reset":
            raw.reset()
        else:
            await raw.eof()
        noticed = await raw.journal("noticed")
        assert noticed["code"] == 1006, (len(early), how)
        return float(noticed["seconds"]) > 5


@clause("6.3", "10.3")
async def test_an_end_before_accept_is_noticed_behind_what_came_early(server: Server) -> None:
    """Behind a small message and a large one; by the stream's end and by a reset."""
    sizes = (1,) if server.row.without("large_early_end") else (1, 200_000)
    cases = [(frame(2, bytes(size)), how) for size in sizes for how in ("eof", "reset")]
    late = await asyncio.gather(*(_leave_before_accept(server, *case) for case in cases))
    assert any(late) is server.row.without("early_end"), late


@mounted("/ending/before-accept/plain")
def wait_plainly_before_accept(ws: SyncWebSocket) -> None:
    """The same in a plain function."""
    journal(ws, "waiting")
    journal(ws, "left", code=ws.wait_closed())


@clause("6.3", "9.2")
async def test_a_plain_function_notices_an_end_before_accept(server: Server) -> None:
    """Also behind what the peer has sent too early."""
    sizes = (None, 1) if server.row.without("large_early_end") else (None, 1, 200_000)
    for size in sizes:
        if server.row.without("deferred_upgrade") or server.row.without("early_end"):
            return
        async with server.raw("/ending/before-accept/plain", expect=None) as raw:
            await raw.journal("waiting")
            if size is not None:
                await raw.send_frame(2, bytes(size))
            await raw.eof()
            assert (await raw.journal("left"))["code"] == 1006, size


# 6.4 while_connected


@mounted("/ending/while/left")
async def body_until_the_peer_leaves(ws: WebSocket) -> None:
    """A body that would never end, with a finally that awaits."""
    await ws.accept()
    steps = []
    try:
        async with ws.while_connected():
            try:
                await ws.send_text("in the body")
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                steps.append("cancelled")
                raise
            finally:
                await asyncio.sleep(0.01)
                steps.append("finally")
    except WebSocketDisconnect as exc:
        steps.append("disconnect")
        task = asyncio.current_task()
        assert task is not None
        # The cancellation is over: what comes after the block may wait.
        await asyncio.sleep(0.01)
        journal(ws, "left", steps=steps, code=exc.code, reason=exc.reason, left=task.cancelling())


@clause("6.4")
async def test_the_body_is_cancelled_when_the_peer_leaves(server: Server) -> None:
    """Where it stands, with its `finally` run; the block raises the disconnect."""
    async with server.connect("/ending/while/left") as client:
        assert await client.recv() == "in the body"
        await client.send("unread")
        await client.close(4004, "left")
        code, reason = server.row.sees(4004, "left")
        assert await client.journal("left") == {
            "steps": ["cancelled", "finally", "disconnect"],
            "code": code,
            "reason": reason,
            "left": 0,
        }


@mounted("/ending/while/ends")
async def body_that_ends(ws: WebSocket) -> None:
    """Bodies that end by themselves, or by an error, a timeout or a close of their own."""
    await ws.accept()
    async with ws.while_connected():
        await ws.send_text("ended")
    with suppress(KeyError):
        async with ws.while_connected():
            raise KeyError("own")
    await ws.send_text("own error")
    try:
        async with ws.while_connected(), asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        await ws.send_text("timeout within")
    try:
        async with asyncio.timeout(0.01), ws.while_connected():
            await asyncio.Event().wait()
    except TimeoutError:
        await ws.send_text("timeout without")
    async with ws.while_connected(), ws.while_connected():
        await ws.send(await ws.receive())
    body = asyncio.create_task(body_that_never_ends(ws))
    await asyncio.sleep(0.01)
    body.cancel()
    with suppress(asyncio.CancelledError):
        await body
    await ws.send_text("cancelled from elsewhere" if body.cancelled() else "not cancelled")
    async with ws.while_connected():
        await ws.close(4008, "own")
        journal(ws, "closed")
        await asyncio.sleep(0.05)
        journal(ws, "body went on")


async def body_that_never_ends(ws: WebSocket) -> None:
    """Wait for ever, as long as the peer is there."""
    async with ws.while_connected():
        await asyncio.Event().wait()


@clause("6.4")
async def test_a_body_that_ends_leaves_the_connection_open(server: Server) -> None:
    """By its end, an error, a timeout on either side, a cancellation from elsewhere."""
    async with server.connect("/ending/while/ends") as client:
        for expected in ("ended", "own error", "timeout within", "timeout without"):
            assert await client.recv() == expected
        await client.send("echo")
        assert await client.recv() == "echo"
        assert await client.recv() == "cancelled from elsewhere"
        assert await client.closed() == (4008, "own")
        await client.journal("body went on")


@mounted("/ending/while/nested")
async def nested_bodies(ws: WebSocket) -> None:
    """The disconnect passes timeouts, blocks in blocks and task groups."""
    await ws.accept()
    caught = []
    try:
        async with asyncio.timeout(60), ws.while_connected():
            async with asyncio.timeout(60):
                try:
                    async with ws.while_connected(), asyncio.TaskGroup() as group:
                        group.create_task(asyncio.Event().wait())
                        await ws.send_text("in the body")
                finally:
                    caught.append("inner left")
    except WebSocketDisconnect as exc:
        caught.append(f"disconnect {exc.code}")
    async with asyncio.timeout(1):
        await asyncio.sleep(0.01)
    journal(ws, "caught", caught=caught)


@clause("6.4")
async def test_the_disconnect_passes_timeouts_and_nested_blocks(server: Server) -> None:
    """No timeout is mistaken for the end, nor the end for a timeout."""
    async with server.connect("/ending/while/nested") as client:
        assert await client.recv() == "in the body"
        await client.close(4009)
        code, _ = server.row.sees(4009, "")
        caught = await client.journal("caught")
        assert caught == {"caught": ["inner left", f"disconnect {code}"]}


# 6.5 The own close


@mounted("/ending/own-close")
async def close_then_call(ws: WebSocket) -> None:
    """Close with messages unread, while a receive waits; then call everything."""
    await ws.accept()
    await ws.receive()
    waiting = asyncio.create_task(_outcome(ws.receive))
    await asyncio.sleep(0)
    await ws.send_text("go on")
    await waiting
    waiting = asyncio.create_task(_outcome(ws.receive))
    await asyncio.sleep(0)
    await ws.close(4010, "own")
    outcomes = [await waiting, *await _all_outcomes(ws)]
    journal(ws, "outcomes", outcomes=outcomes, closed=ws.closed)


@clause("6.5")
async def test_after_the_own_close_everything_raises_its_code(server: Server) -> None:
    """A receive that waits, and all calls after it."""
    async with server.connect("/ending/own-close") as client:
        await client.send("first")
        assert await client.recv() == "go on"
        await client.send("second")
        assert await client.closed() == (4010, "own")
        outcomes = await client.journal("outcomes")
        assert outcomes["closed"] is True
        await _check_outcomes(outcomes["outcomes"], 4010, "own")


@mounted("/ending/own-close-unread")
async def close_with_unread(ws: WebSocket) -> None:
    """Close while messages wait to be received."""
    await ws.accept()
    await ws.receive()
    await asyncio.sleep(0.05)
    await ws.close(4011, "own")
    journal(ws, "outcomes", outcomes=await _all_outcomes(ws))


@clause("6.5")
async def test_after_the_own_close_no_unread_message_is_given(server: Server) -> None:
    """A receive raises, though messages had come."""
    async with server.raw("/ending/own-close-unread") as raw:
        await raw.send_frames((1, b"first"), (1, b"unread"), (2, b"unread"))
        assert await raw.closed() == (4011, "own")
        await raw.send_frame(8, (4011).to_bytes(2))
        outcomes = (await raw.journal("outcomes"))["outcomes"]
        await _check_outcomes(outcomes, 4011, "own")
