"""Section 7 of the contract: closing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisock import HandshakeRejected, WebSocket, WebSocketDisconnect, WebSocketException

from .harness import Client, Server, clause, http_error, journal, leftovers, mounted, spare_server

SECRET = "the-word-of-the-error"

# 7.1 close()

_FORBIDDEN = [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65536]
_ALLOWED = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]


@mounted("/closing/forbidden")
async def close_with_forbidden_codes(ws: WebSocket) -> None:
    """Close with what may not be sent, then go on."""
    await ws.accept()
    errors = []
    for code in _FORBIDDEN:
        for close in (ws.close(code), _raise_exception(code)):
            try:
                await close
            except Exception as exc:  # noqa: BLE001  # its type is compared by the test
                errors.append(type(exc).__name__)
    await ws.send_json(errors)
    await ws.send(await ws.receive())


async def _raise_exception(code: int) -> None:
    raise WebSocketException(code)


@clause("7.1")
async def test_a_code_that_may_not_be_sent_raises_and_nothing_is_sent(server: Server) -> None:
    """A ValueError each, and the connection goes on."""
    async with server.connect("/closing/forbidden") as client:
        assert json.loads(await client.recv()) == ["ValueError"] * 2 * len(_FORBIDDEN)
        await client.send("still open")
        assert await client.recv() == "still open"
        assert await client.closed() == (1000, "")


@mounted("/closing/with")
async def close_as_told(ws: WebSocket) -> None:
    """Close with the code and the reason received, then again in other words."""
    await ws.accept()
    code, reason = await ws.receive_json(tuple[int, str])
    if code == 1000 and not reason:
        await asyncio.gather(ws.close(), ws.close(4001, "at once"))
    else:
        await ws.close(code, reason)
    await ws.close()
    await ws.close(4002, "again")
    journal(ws, "closed", code=ws.close_code, reason=ws.close_reason)


_REASONS = {
    "": "",
    "gr\u00fcnde": "gr\u00fcnde",
    "r" * 123: "r" * 123,
    "r" * 124: "r" * 123,
    "\u00fc" * 62: "\u00fc" * 61,
    "x" + "\u00fc" * 62: "x" + "\u00fc" * 61,
    "\u20ac" * 42: "\u20ac" * 41,
    "xx" + "\u20ac" * 41: "xx" + "\u20ac" * 40,
    "\U0001f600" * 31: "\U0001f600" * 30,
    "r" * 100_000: "r" * 123,
}


@clause("7.1")
async def test_each_code_and_reason_arrives_and_again_is_a_no_op(server: Server) -> None:
    """The default is 1000; a long reason is cut at a character; the first close counts."""
    closes = [(code, f"reason {code}") for code in _ALLOWED]
    closes += [(4000, reason) for reason in _REASONS]
    for code, reason in (*closes, (1000, "")):
        async with server.connect("/closing/with") as client:
            await client.send(json.dumps([code, reason]))
            expected = (code, _REASONS.get(reason, reason))
            assert await client.closed() == expected
            closed = await client.journal("closed")
            assert (closed["code"], closed["reason"]) == expected


@mounted("/closing/beside-a-send")
async def close_beside_a_send(ws: WebSocket) -> None:
    """Close while a send of another task waits for the peer."""
    await ws.accept()
    sent = 0

    async def send_all() -> None:
        nonlocal sent
        try:
            while True:
                await ws.send_bytes(b"x" * 65536)
                sent += 1
        except WebSocketDisconnect as exc:
            journal(ws, "send ended", code=exc.code, reason=exc.reason)

    sending = asyncio.create_task(send_all())
    last = -1
    while sent != last or not sent:
        last = sent
        await asyncio.sleep(0.2)
    closing = asyncio.create_task(ws.close(4012, "own"))
    await asyncio.sleep(0)
    journal(ws, "closing")
    await closing
    await sending
    journal(ws, "closed")


@clause("7.1", "6.5")
async def test_a_close_beside_a_send_that_waits(server: Server) -> None:
    """What was sent comes whole, then the close frame; the send ends with the same code."""
    async with server.raw("/closing/beside-a-send") as raw:
        await raw.journal("closing")
        while (got := await raw.recv_frame()).opcode == 2:
            assert got.payload == b"x" * 65536
        assert (got.opcode, got.payload) == (8, (4012).to_bytes(2) + b"own")
        await raw.send_frame(8, got.payload)
        assert await raw.journal("send ended") == {"code": 4012, "reason": "own"}
        await raw.journal("closed")


# 7.2 How a handler ends


async def _return(ws: WebSocket) -> None:
    ws.state.returned = True


async def _raise_websocket_exception(ws: WebSocket) -> None:
    raise WebSocketException(4321, "as told")


async def _let_disconnect_escape(ws: WebSocket) -> None:
    await ws.wait_closed()
    await ws.receive()


async def _raise_disconnect(ws: WebSocket) -> None:
    raise WebSocketDisconnect(1000)


async def _reject(ws: WebSocket) -> None:
    raise HandshakeRejected(429, b"slow down", {"retry-after": "5"})


async def _http_error(ws: WebSocket) -> None:
    raise http_error(404)


async def _raise(ws: WebSocket) -> None:
    raise LookupError(SECRET)


async def _cancel(ws: WebSocket) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


_HOWS: dict[str, Callable[[WebSocket], Coroutine[Any, Any, None]]] = {
    "return": _return,
    "exception": _raise_websocket_exception,
    "disconnect": _let_disconnect_escape,
    "raised-disconnect": _raise_disconnect,
    "rejected": _reject,
    "http-error": _http_error,
    "error": _raise,
    "cancelled": _cancel,
}


@mounted("/closing/ends/{when}/{how}")
async def end_as_told(ws: WebSocket) -> None:
    """Accept or not, then end, alone or in a task group."""
    if ws.path_params["when"] == "open":
        await ws.accept()
    how = _HOWS[ws.path_params["how"]]
    if "group" not in ws.query_params:
        await how(ws)
        return
    async with asyncio.TaskGroup() as outer:
        outer.create_task(_in_a_group(how, ws))
        outer.create_task(asyncio.Event().wait())


async def _in_a_group(how: Callable[[WebSocket], Coroutine[Any, Any, None]], ws: WebSocket) -> None:
    async with asyncio.TaskGroup() as inner:
        inner.create_task(how(ws))
        inner.create_task(asyncio.Event().wait())


@dataclass(frozen=True)
class _Before:
    """What a handler that ends before `accept` leads to."""

    how: str
    status: int
    warning: str = ""


_BEFORE = [
    _Before("return", 403, "returned without accept() or reject()"),
    _Before("exception", 403),
    _Before("exception?group", 403),
    _Before("raised-disconnect", 403),
    _Before("rejected", 429),
    _Before("rejected?group", 429),
    _Before("http-error", 404),
    _Before("http-error?group", 404),
]


async def _check_rejection(server: Server, how: str, status: int) -> str:
    """Check the answer to a handshake; return the connection's name in the journal."""
    async with server.raw(f"/closing/ends/before/{how}", expect=None) as raw:
        response = await raw.read_head()
        if server.row.without("http_rejection"):
            if response.status == 101:
                code, reason = await raw.closed()
                assert (code, reason) == (1008 if status == 403 else 4000 + status, ""), how
            else:
                assert response.status == 403, how
        else:
            body = await raw.read_body()
            assert response.status == status, how
            assert SECRET.encode() not in body
            if how.startswith("rejected"):
                assert body == b"slow down"
                assert response.header("retry-after") == "5"
        return raw.id


@clause("7.2")
async def test_how_a_handler_ends_before_accept(server: Server) -> None:
    """The status of the table, and not a word in the log but the one warning."""
    for case in _BEFORE:
        mark = server.log_mark()
        connection_id = await _check_rejection(server, case.how, case.status)
        log = await server.settled(mark)
        assert "Traceback" not in log, log
        assert not case.warning or log.count(case.warning) == 1, log
        # What the framework answers itself goes on to it, and no further.
        assert case.how.startswith("http-error") or not server.events(connection_id), case


@clause("7.2")
async def test_an_error_before_accept_is_500_and_goes_on_once(server: Server) -> None:
    """Without a word of it to the client; the framework sees it, once."""
    for how, kind in (("error", "LookupError"), ("error?group", "ExceptionGroup")):
        connection_id = await _check_rejection(server, how, 500)
        await server.journal(connection_id, "framework-error")
        await server.settled()
        assert server.events(connection_id) == [("framework-error", {"type": kind})]


@dataclass(frozen=True)
class _Open:
    """What a handler that ends with the connection open leads to."""

    how: str
    code: int
    reason: str = ""


_OPEN = [
    _Open("return", 1000),
    _Open("exception", 4321, "as told"),
    _Open("exception?group", 4321, "as told"),
    _Open("raised-disconnect", 1000),
    _Open("rejected", 4429),
    _Open("rejected?group", 4429),
]


@clause("7.2")
async def test_how_a_handler_ends_with_the_connection_open(server: Server) -> None:
    """The code and the reason of the table, and not a word in the log."""
    for case in _OPEN:
        mark = server.log_mark()
        async with server.connect(f"/closing/ends/open/{case.how}") as client:
            assert await client.closed() == (case.code, case.reason), case
        log = await server.settled(mark)
        assert "Traceback" not in log, log
        assert client.events() == [], case


@clause("7.2")
async def test_a_frameworks_http_error_with_the_connection_open(server: Server) -> None:
    """4000 + its status, its title as the reason."""
    for how in ("http-error", "http-error?group"):
        mark = server.log_mark()
        async with server.connect(f"/closing/ends/open/{how}") as client:
            code, reason = await client.closed()
        assert code == 4404
        if server.row.without("http_error"):
            assert reason == ""
        else:
            assert reason == "Not Found"
        log = await server.settled(mark)
        assert "Traceback" not in log, log
        assert client.events() == []


@clause("7.2")
async def test_an_error_with_the_connection_open_is_1011_and_goes_on_once(server: Server) -> None:
    """Without a word of it to the client; the framework sees it, once."""
    for how, kind in (("error", "LookupError"), ("error?group", "ExceptionGroup")):
        async with server.connect(f"/closing/ends/open/{how}") as client:
            assert await client.closed() == (1011, "")
        await client.journal("framework-error")
        await server.settled()
        assert client.events() == [("framework-error", {"type": kind})]


@clause("7.2")
async def test_an_escaping_disconnect_is_a_normal_end(server: Server) -> None:
    """Before `accept` and after it: not a word of it in the log."""
    for path in ("open/disconnect", "open/disconnect?group"):
        mark = server.log_mark()
        async with server.connect(f"/closing/ends/{path}") as client:
            await client.close(4004, "left")
        log = await server.settled(mark)
        assert "Traceback" not in log, log
        assert "unisock:" not in log, log
        assert client.events() == []


@clause("7.2")
async def test_a_cancelled_handler(server: Server) -> None:
    """503 before `accept`, 1012 with the connection open; nothing beside it is touched."""
    async with server.connect("/closing/ends/open/disconnect") as other:
        await _check_rejection(server, "cancelled", 503)
        async with server.connect("/closing/ends/open/cancelled") as client:
            assert await client.closed() == (1012, "")
        await (await other.ws.ping())
        await server.settled()  # its traceback is not the next test's


# 7.3 Shutdown


@mounted("/closing/shutdown/{how}")
async def run_until_shutdown(ws: WebSocket) -> None:
    """Receive, sleep, wait or send; journal how that ended, and the `finally`."""
    await ws.accept()
    await ws.send_text("ready")
    try:
        match ws.path_params["how"]:
            case "receive":
                await ws.receive()
            case "sleep":
                while not ws.closed:
                    await asyncio.sleep(0.01)
                await ws.receive()
            case "while-connected":
                async with ws.while_connected():
                    await asyncio.Event().wait()
            case _:
                while True:
                    await ws.send_text("ready")
                    await asyncio.sleep(0.01)
    except WebSocketDisconnect:
        journal(ws, "ended", by="disconnect")
        raise
    except asyncio.CancelledError:
        journal(ws, "ended", by="cancellation")
        raise
    finally:
        await asyncio.sleep(0)
        journal(ws, "finally")


@clause("7.3")
async def test_shutdown_closes_every_connection(server: Server) -> None:
    """On SIGTERM and SIGINT: close frames, the handlers' ends, and a process that ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        async with spare_server(server.row) as spare, contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(spare.connect(f"/closing/shutdown/{how}"))
                for how in ("receive", "sleep", "while-connected", "send")
            ]
            for client in clients:
                assert await client.recv() == "ready"
            spare.send_signal(number)
            quick = number == signal.SIGINT and server.row.without("sigint")
            await _check_shutdown(clients, quick or server.row.without("shutdown"))
            await spare.wait_exited()
            assert leftovers(spare.log()) == []


async def _check_shutdown(clients: list[Client], cut: bool) -> None:
    codes = [(await client.closed())[0] for client in clients]
    if cut:
        assert codes == [1006] * len(clients)
        return
    assert set(codes) <= {1001, 1012}
    for client in clients:
        ended = await client.journal("ended")
        assert ended["by"] in ("disconnect", "cancellation")
        await client.journal("finally")


# 7.4 Nothing is left


@mounted("/closing/census")
async def census(ws: WebSocket) -> None:
    """Answer each message with what there is in this process."""
    await ws.accept()
    async for _ in ws:
        gc.collect()
        await ws.send_json(
            {
                "tasks": len(asyncio.all_tasks()),
                "threads": threading.active_count(),
                "files": _count_files(),
                "websockets": sum(type(o) is WebSocket for o in gc.get_objects()),
                "greenlets": _count_greenlets(),
            }
        )


def _count_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def _count_greenlets() -> int:
    return sum(type(o).__name__ == "Greenlet" and not o.dead for o in gc.get_objects())


async def _every_ending(server: Server) -> None:
    for path in (
        "ends/open/return",
        "ends/open/error",
        "ends/open/exception",
        "ends/open/cancelled",
    ):
        async with server.connect(f"/closing/{path}") as client:
            await client.closed()
    for how, status in (("return", 403), ("error", 500), ("rejected", 429)):
        await _check_rejection(server, how, status)
    for path in ("/ending/sleep", "/ending/only-send", "/ending/while/left", "/ending/closed"):
        async with server.connect(path) as client:
            await client.send("unread")
            await client.close(4000)
        async with server.raw(path) as raw:
            raw.reset()
        async with server.raw(path) as raw:
            await raw.eof()


@clause("7.4")
async def test_nothing_of_a_connection_is_left(server: Server) -> None:
    """As many tasks, threads, greenlets and files as before, after endings of all kinds."""
    await _every_ending(server)  # what is made once, at the first connections
    async with server.connect("/closing/census") as client:

        async def count() -> dict[str, int]:
            await client.send("count")
            counted: dict[str, int] = json.loads(await client.recv())
            return counted

        before = await count()
        mark = server.log_mark()
        for _ in range(5):
            await _every_ending(server)
        async with asyncio.timeout(15):
            while any(now > before[what] for what, now in (await count()).items()):
                await asyncio.sleep(0.1)
    assert leftovers(await server.settled(mark)) == []
