"""Section 7 of the contract: closing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from pathlib import Path

from unisock import (
    HandshakeRejected,
    InvalidMessage,
    SyncWebSocket,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
    WebSocketException,
)

from .harness import (
    OWN_ANSWER,
    Client,
    OwnError,
    RawClient,
    Server,
    clause,
    http_error,
    journal,
    leftovers,
    mounted,
    pause,
    spare_server,
)

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
    if server.row.without("send_waits"):
        return
    async with server.raw("/closing/beside-a-send") as raw:
        await raw.journal("closing")
        while (got := await raw.recv_frame()).opcode == 2:
            assert got.payload == b"x" * 65536
        assert (got.opcode, got.payload) == (8, (4012).to_bytes(2) + b"own")
        await raw.send_frame(8, got.payload)
        assert await raw.journal("send ended") == {"code": 4012, "reason": "own"}
        await raw.journal("closed")


@mounted("/closing/unread/soon", close_timeout=1.5)
@mounted("/closing/unread/late", close_timeout=60)
async def close_unread(ws: WebSocket) -> None:
    """Close when the peer has ceased to read, with a send that still waits or without."""
    await ws.accept()
    sent = 0

    async def send_all() -> None:
        nonlocal sent
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await ws.send_bytes(b"x" * 65536)
                sent += 1

    sending = asyncio.create_task(send_all())
    last = -1
    while sent != last or not sent:
        last = sent
        await asyncio.sleep(0.2)
    if "alone" in ws.query_params:
        sending.cancel()
        await asyncio.wait([sending])
    journal(ws, "closing")
    start = time.monotonic()
    await ws.close(4012, "own")
    journal(ws, "closed", seconds=time.monotonic() - start)
    await asyncio.wait([sending])


_BESIDE = ("", "?alone=yes")


@clause("7.1")
async def test_a_close_waits_for_a_peer_that_does_not_read(server: Server) -> None:
    """As long as the close timeout says; with a send of another task that waits, and without."""
    if server.row.without("send_waits"):
        return
    for query in _BESIDE:
        async with server.raw(f"/closing/unread/soon{query}") as raw:
            seconds = (await raw.journal("closed"))["seconds"]
            is_early = query == "" and server.row.without("close_waits")
            assert 1.0 * (not is_early) < seconds < 10.0, query


@clause("7.1")
async def test_a_close_is_over_when_its_frame_is_written(server: Server) -> None:
    """Long before the close timeout, which is a minute."""
    if server.row.without("send_waits"):
        return
    for query in _BESIDE:
        async with server.raw(f"/closing/unread/late{query}") as raw:
            await raw.journal("closing")
            while (got := await raw.recv_frame()).opcode == 2:
                assert got.payload == b"x" * 65536
            assert (got.opcode, got.payload) == (8, (4012).to_bytes(2) + b"own"), query
            await raw.send_frame(8, got.payload)
            assert (await raw.journal("closed"))["seconds"] < 30.0, query


@mounted("/closing/unread/plain", close_timeout=1.5)
def close_unread_plainly(ws: SyncWebSocket) -> None:
    """The same in a plain function."""
    ws.accept()
    sent = 0

    def send_all() -> None:
        nonlocal sent
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                ws.send_bytes(b"x" * 65536)
                sent += 1

    ws.start_soon(send_all)
    last = -1
    while sent != last or not sent:
        last = sent
        pause(0.2)
    start = time.monotonic()
    ws.close(4012, "own")
    journal(ws, "closed", seconds=time.monotonic() - start)


@clause("7.1", "9.2")
async def test_a_plain_close_waits_for_a_peer_that_does_not_read(server: Server) -> None:
    """As long as the close timeout says, though a send is stuck as well."""
    if server.row.without("send_waits"):
        return
    async with server.raw("/closing/unread/plain") as raw:
        seconds = (await raw.journal("closed"))["seconds"]
        assert 1.0 * (not server.row.without("close_waits")) < seconds < 10.0


# 7.2 How a handler ends

# What a handler of any form may raise.
_ERRORS: dict[str, Callable[[], Exception]] = {
    "exception": lambda: WebSocketException(4321, "as told"),
    "invalid": lambda: InvalidMessage(1007, "not as agreed", "x"),
    "raised-disconnect": lambda: WebSocketDisconnect(1000),
    "rejected": lambda: HandshakeRejected(429, b"slow down", {"retry-after": "5"}),
    "http-error": lambda: http_error(404),
    "error": lambda: LookupError(SECRET),
    "own-error": OwnError,
}


def _raise(how: str) -> None:
    if how != "return":
        error = _ERRORS[how]()
        raise error


async def _end(how: str, ws: WebSocket) -> None:
    """End as told."""
    if how == "disconnect":
        await ws.wait_closed()
        await ws.receive()
    elif how == "cancelled":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()
    elif how in _USES:
        other = _left[ws.query_params["other"]]
        assert isinstance(other, WebSocket)
        await _use(how, other, ws)
    else:
        _raise(how)


def _end_sync(how: str, ws: SyncWebSocket) -> None:
    """End as told."""
    if how == "disconnect":
        ws.wait_closed()
        ws.receive()
    elif how in _USES:
        other = _left[ws.query_params["other"]]
        assert isinstance(other, SyncWebSocket)
        if how == "foreign-at-end":
            ws.wait_closed()
        other.send_text("you have left")
    else:
        _raise(how)


# Connections that have ended, for others to use.
_left: dict[str, WebSocket | SyncWebSocket] = {}
_USES = ("foreign", "foreign-at-end", "foreign-in-group", "foreign-and-own")


async def _use(how: str, other: WebSocket, ws: WebSocket) -> None:
    """Let the disconnect of a connection that has ended escape."""
    if how == "foreign":
        await other.send_text("you have left")
    elif how == "foreign-at-end":
        await ws.wait_closed()
        await other.receive()
    elif how == "foreign-in-group":
        async with asyncio.TaskGroup() as group:
            group.create_task(other.receive_text())
            group.create_task(other.send(b"you have left"))
    else:
        await ws.wait_closed()
        async with asyncio.TaskGroup() as group:
            group.create_task(other.send_json("you have left"))
            group.create_task(ws.receive())


@mounted("/closing/leaves/async")
async def leave(ws: WebSocket) -> None:
    """Let others use the connection when its client has left."""
    await ws.accept()
    await ws.wait_closed()
    _left[ws.query_params["id"]] = ws
    journal(ws, "left")


@mounted("/closing/leaves/sync")
def leave_sync(ws: SyncWebSocket) -> None:
    """Let others use the connection when its client has left."""
    ws.accept()
    ws.wait_closed()
    _left[ws.query_params["id"]] = ws
    journal(ws, "left")


def _told(ws: WebSocket | SyncWebSocket) -> tuple[bool, str]:
    """Whether to accept, and how to end."""
    return ws.path_params["when"] == "open", ws.path_params["how"]


@mounted("/closing/ends/async/{when}/{how}")
async def end_as_told(ws: WebSocket) -> None:
    """Accept or not, then end."""
    accepts, how = _told(ws)
    if accepts:
        await ws.accept()
    await _end(how, ws)


@mounted("/closing/ends/grouped/{when}/{how}")
async def end_in_a_group(ws: WebSocket) -> None:
    """Accept or not, then end in a task group within another one."""
    accepts, how = _told(ws)
    if accepts:
        await ws.accept()
    async with asyncio.TaskGroup() as outer:
        outer.create_task(_in_a_group(how, ws))
        outer.create_task(asyncio.Event().wait())


async def _in_a_group(how: str, ws: WebSocket) -> None:
    async with asyncio.TaskGroup() as inner:
        inner.create_task(_end(how, ws))
        inner.create_task(asyncio.Event().wait())


@mounted("/closing/ends/task/{when}/{how}")
async def end_in_a_task(ws: WebSocket) -> None:
    """Accept or not, then have a task end while this waits."""
    accepts, how = _told(ws)
    if accepts:
        await ws.accept()
    ws.start_soon(_end, how, ws)
    await asyncio.Event().wait()


class _Telling(WebSocketEndpoint):
    """Tells what the last hook got; accepts or not, by the path."""

    async def on_connect(self, ws: WebSocket) -> None:
        if _told(ws)[0]:
            await ws.accept()

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        journal(ws, "on_disconnect", code=close_code)


@mounted("/closing/ends/on_connect/{when}/{how}")
class EndOnConnect(_Telling):
    """Accept or not, then end in `on_connect`."""

    async def on_connect(self, ws: WebSocket) -> None:
        await super().on_connect(ws)
        await _end(_told(ws)[1], ws)


@mounted("/closing/ends/on_receive/{when}/{how}")
class EndOnReceive(_Telling):
    """End in `on_receive`."""

    async def on_receive(self, ws: WebSocket, data: str | bytes) -> None:
        await _end(_told(ws)[1], ws)


@mounted("/closing/ends/task-of-hook/{when}/{how}")
class EndInTaskOfHook(_Telling):
    """Have a task end that a hook has started, while this waits or receives."""

    async def on_connect(self, ws: WebSocket) -> None:
        await super().on_connect(ws)
        ws.start_soon(_end, _told(ws)[1], ws)
        if not _told(ws)[0]:
            await asyncio.Event().wait()


@mounted("/closing/ends/on_disconnect/{when}/{how}")
class EndOnDisconnect(_Telling):
    """Reject, or fail at a message; then end in `on_disconnect` as told."""

    async def on_connect(self, ws: WebSocket) -> None:
        await super().on_connect(ws)
        if not _told(ws)[0]:
            await ws.reject(418)

    async def on_receive(self, ws: WebSocket, data: str | bytes) -> None:
        _raise("error")

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        await super().on_disconnect(ws, close_code)
        await _end(_told(ws)[1], ws)


@mounted("/closing/ends/sync/{when}/{how}")
def end_sync_as_told(ws: SyncWebSocket) -> None:
    """Accept or not, then end."""
    accepts, how = _told(ws)
    if accepts:
        ws.accept()
    _end_sync(how, ws)


@mounted("/closing/ends/thread/{when}/{how}")
def end_in_a_thread(ws: SyncWebSocket) -> None:
    """Accept or not, then have another thread or greenlet end while this waits."""
    accepts, how = _told(ws)
    if accepts:
        ws.accept()
    ws.start_soon(_end_sync, how, ws)
    ws.wait_closed()
    try:
        if accepts:
            ws.receive()
        else:
            ws.accept()
    except WebSocketDisconnect:
        journal(ws, "disconnect seen")
        raise


_RAISED = ("exception", "invalid", "rejected", "http-error")
_ALL = ("return", "raised-disconnect", *_RAISED)
# The forms of a handler, and the lines of the table that each can come to.
_FORMS: dict[str, tuple[str, ...]] = {
    "async": _ALL,
    "grouped": _RAISED,
    "task": _RAISED,
    "on_connect": _ALL,
    "on_receive": ("raised-disconnect", *_RAISED),
    "task-of-hook": _RAISED,
    "sync": _ALL,
    "thread": _RAISED,
}


def _forms(when: str, *hows: str) -> Iterator[tuple[str, str]]:
    """Each form with each of `hows` that it can come to."""
    for form, possible in _FORMS.items():
        if when == "open" or form != "on_receive":
            # An endpoint whose `on_connect` has accepted and returned goes on.
            goes_on = {"return"} if (when, form) == ("open", "on_connect") else set[str]()
            for how in (*possible, "error"):
                if how in hows and how not in goes_on:
                    yield form, how


def _framework_errors(server: Server, connection_id: str) -> list[str]:
    """The types of the errors that the framework has seen."""
    events = server.events(connection_id)
    return [data["type"] for event, data in events if event == "framework-error"]


async def _check_rejection(server: Server, form: str, how: str, status: int) -> str:
    """Check the answer to a handshake; return the connection's name in the journal."""
    async with server.raw(f"/closing/ends/{form}/before/{how}", expect=None) as raw:
        response = await raw.read_head()
        if server.row.without("http_rejection"):
            if response.status == 101:
                code, reason = await raw.closed()
                expected = 1008 if status == 403 else 4000 + status
                assert (code, reason) == (expected, ""), (form, how)
            else:
                assert response.status == 403, (form, how)
        else:
            body = await raw.read_body()
            assert response.status == status, (form, how)
            assert SECRET.encode() not in body
            if how == "rejected":
                assert body == b"slow down"
                assert response.header("retry-after") == "5"
        return raw.id


_BEFORE = {
    "return": 403,
    "exception": 403,
    "raised-disconnect": 403,
    "rejected": 429,
    "http-error": 404,
}


@clause("7.2")
async def test_how_a_handler_ends_before_accept(server: Server) -> None:
    """The status of the table, and not a word in the log but the one warning."""
    for form, how in _forms("before", *_BEFORE):
        mark = server.log_mark()
        connection_id = await _check_rejection(server, form, how, _BEFORE[how])
        if form == "thread":
            await server.journal(connection_id, "disconnect seen")
        log = await server.settled(mark)
        assert "Traceback" not in log, (form, how, log)
        warned = log.count("returned without accept() or reject()")
        assert warned == (how == "return"), (form, how, log)
        # What the framework answers itself goes on to it, and no further.
        if how != "http-error":
            assert _framework_errors(server, connection_id) == [], (form, how)


@clause("7.2")
async def test_an_error_before_accept_is_500_and_goes_on_once(server: Server) -> None:
    """Without a word of it to the client; the framework sees it, once."""
    for form, how in _forms("before", "error"):
        connection_id = await _check_rejection(server, form, how, 500)
        await server.journal(connection_id, "framework-error")
        await server.settled()
        kind = "ExceptionGroup" if form == "grouped" else "LookupError"
        assert _framework_errors(server, connection_id) == [kind], form


# A group is no `OwnError`, to a framework.
_FORMS_OF_OWN_ERROR = tuple(form for form in _FORMS if form != "grouped")


@clause("7.2")
async def test_an_error_before_accept_is_answered_by_the_applications_error_handler(
    server: Server,
) -> None:
    """Status, headers and body are its; it sees the error once, and nobody else does."""
    status, body, headers = OWN_ANSWER
    if server.row.without("http_rejection"):
        status = 500
    for form in _FORMS_OF_OWN_ERROR:
        if form == "on_receive":
            continue
        path = f"/closing/ends/{form}/before/own-error"
        mark = server.log_mark()
        if server.row.without("error_handler"):
            response = await server.check_rejected(path, 500)
            await server.journal(response.id, "framework-error")
            await server.settled()
            assert _framework_errors(server, response.id) == ["OwnError"], form
            continue
        response = await server.check_rejected(path, status, body, headers)
        await server.journal(response.id, "own-error")
        log = await server.settled(mark)
        assert "Traceback" not in log, (form, log)
        assert "ASGI callable returned" not in log, (form, log)
        assert _count(server, response.id, "own-error") == 1, form
        assert _framework_errors(server, response.id) == [], form


@clause("7.2")
async def test_an_error_handler_that_comes_too_late_is_not_heard(server: Server) -> None:
    """With the connection open, it sees the error once; what it answers leaves no traceback."""
    if server.row.without("error_handler"):
        return  # as any error
    for form in _FORMS_OF_OWN_ERROR:
        mark = server.log_mark()
        async with _ending(server, form, "own-error") as client:
            assert await client.closed() == (1011, ""), form
        await client.journal("own-error")
        log = await server.settled(mark)
        assert "Traceback" not in log, (form, log)
        assert _count(server, client.id, "own-error") == 1, form
        assert _framework_errors(server, client.id) == [], form


def _count(server: Server, connection_id: str, event: str) -> int:
    return [name for name, _ in server.events(connection_id)].count(event)


@contextlib.asynccontextmanager
async def _ending(server: Server, form: str, how: str) -> AsyncGenerator[Client]:
    """A client of a handler that ends by itself, or once it was sent a message."""
    async with server.connect(f"/closing/ends/{form}/open/{how}") as client:
        if form == "on_receive":
            await client.send("end")
        yield client


_OPEN = {
    "return": (1000, ""),
    "exception": (4321, "as told"),
    "invalid": (1007, "not as agreed"),
    "raised-disconnect": (1000, ""),
    "rejected": (4429, ""),
    "http-error": (4404, "Not Found"),
}


@clause("7.2")
async def test_how_a_handler_ends_with_the_connection_open(server: Server) -> None:
    """The code and the reason of the table, and not a word in the log but the one warning."""
    for form, how in _forms("open", *_OPEN):
        code, reason = _OPEN[how]
        if how == "http-error" and server.row.without("http_error"):
            reason = ""
        mark = server.log_mark()
        async with _ending(server, form, how) as client:
            assert await client.closed() == (code, reason), (form, how)
        if form == "thread":
            await client.journal("disconnect seen")
        log = await server.settled(mark)
        assert "Traceback" not in log, (form, how, log)
        assert log.count("closing with 1007") == (how == "invalid"), (form, how, log)
        assert how == "invalid" or "unisock:" not in log, (form, how, log)
        assert _framework_errors(server, client.id) == [], (form, how)


@clause("7.2")
async def test_an_error_with_the_connection_open_is_1011_and_goes_on_once(server: Server) -> None:
    """Without a word of it to the client; the framework sees it, once."""
    for form, how in _forms("open", "error"):
        async with _ending(server, form, how) as client:
            assert await client.closed() == (1011, ""), form
        await client.journal("framework-error")
        await server.settled()
        kind = "ExceptionGroup" if form == "grouped" else "LookupError"
        assert _framework_errors(server, client.id) == [kind], form


@clause("7.2")
async def test_an_escaping_disconnect_is_a_normal_end(server: Server) -> None:
    """Not a word of it in the log, though a receive or `on_receive` raises it."""
    for form in ("async", "grouped", "on_connect", "on_receive", "sync"):
        mark = server.log_mark()
        async with _ending(server, form, "disconnect") as client:
            await client.close(4004, "left")
        log = await server.settled(mark)
        assert "Traceback" not in log, (form, log)
        assert "unisock:" not in log, (form, log)
        assert _framework_errors(server, client.id) == [], form


async def _left_connection(server: Server, form: str) -> str:
    """Have a client leave; return the name under which handlers of `form` find its connection."""
    kind = "sync" if form in ("sync", "thread") else "async"
    async with server.connect(f"/closing/leaves/{kind}") as client:
        await client.close(4001, "left")
    await client.journal("left")
    return client.id


@clause("6.2", "7.2")
async def test_the_disconnect_of_another_connection_is_an_error(server: Server) -> None:
    """While this one is open: 1011, or 500 before `accept`; the framework sees it, once."""
    cases = [(form, "foreign") for form in _FORMS]
    cases += [("async", "foreign-in-group"), ("task", "foreign-in-group")]
    for form, how in cases:
        other = await _left_connection(server, form)
        mark = server.log_mark()
        async with _ending(server, form, f"{how}?other={other}") as client:
            assert await client.closed() == (1011, ""), (form, how)
        await client.journal("framework-error")
        log = await server.settled(mark)
        grouped = form == "grouped" or how == "foreign-in-group"
        kind = "ExceptionGroup" if grouped else "WebSocketDisconnect"
        assert _framework_errors(server, client.id) == [kind], (form, how)
        if "Traceback" in log:
            # Whose it is stands there; some servers do not show what a group holds.
            assert grouped or "to /closing/leaves/" in log, (form, how, log)
        if form != "on_receive":
            path = f"/closing/ends/{form}/before/{how}?other={other}"
            response = await server.check_rejected(path, 500)
            await server.journal(response.id, "framework-error")
            await server.settled()
            assert _framework_errors(server, response.id) == [kind], (form, how)


@clause("7.2")
async def test_the_disconnect_of_another_connection_after_the_own_end(server: Server) -> None:
    """It is a normal end then, alone and together with the own one."""
    cases = [(form, "foreign-at-end") for form in ("async", "task", "on_connect", "sync", "thread")]
    cases += [("async", "foreign-and-own"), ("on_receive", "foreign-and-own")]
    for form, how in cases:
        other = await _left_connection(server, form)
        mark = server.log_mark()
        async with _ending(server, form, f"{how}?other={other}") as client:
            await client.close(4004, "left")
        log = await server.settled(mark)
        assert "Traceback" not in log, (form, how, log)
        assert "unisock:" not in log, (form, how, log)
        assert _framework_errors(server, client.id) == [], (form, how)


@clause("7.2")
async def test_a_cancelled_handler(server: Server) -> None:
    """503 before `accept`, 1012 with the connection open; nothing beside it is touched."""
    async with server.connect("/closing/ends/async/open/disconnect") as other:
        for form in ("async", "on_connect"):
            await _check_rejection(server, form, "cancelled", 503)
        for form in ("async", "on_connect", "on_receive"):
            async with _ending(server, form, "cancelled") as client:
                assert await client.closed() == (1012, ""), form
        await (await other.ws.ping())
        await server.settled()  # its traceback is not the next test's


@clause("7.2", "8.2")
async def test_how_the_last_hook_ends(server: Server) -> None:
    """The connection is over: what goes on to the framework still does, all else is quiet."""
    for when in ("open", "before"):
        for how in _ALL:
            mark = server.log_mark()
            connection_id = await _until_on_disconnect(server, when, how)
            log = await server.settled(mark)
            assert "Traceback" not in log, (how, log)
            assert how == "invalid" or "unisock:" not in log, (how, log)
            assert _framework_errors(server, connection_id) == [], how
        connection_id = await _until_on_disconnect(server, when, "error")
        await server.journal(connection_id, "framework-error")
        await server.settled()
        assert _framework_errors(server, connection_id) == ["LookupError"], when
    # The last hook's error after one of `on_receive`: still one.
    for how in ("error", "exception", "return"):
        async with server.connect(f"/closing/ends/on_disconnect/open/{how}") as client:
            await client.send("fail")
            assert await client.closed() == (1011, "")
        await client.journal("framework-error")
        await server.settled()
        assert _framework_errors(server, client.id) == ["LookupError"], how
    await _until_on_disconnect(server, "open", "cancelled")
    await server.settled()  # its traceback is not the next test's


async def _until_on_disconnect(server: Server, when: str, how: str) -> str:
    """Have a connection end by its peer, or before it was open; return its name."""
    path = f"/closing/ends/on_disconnect/{when}/{how}"
    if when == "before":
        connection_id = (await server.check_rejected(path, 418)).id
    else:
        async with server.connect(path) as client:
            await client.close(4005)
        connection_id = client.id
    await server.journal(connection_id, "on_disconnect")
    return connection_id


# 7.2 What a handler has started


@mounted("/closing/beside/task/{how}")
async def go_on_beside_a_task(ws: WebSocket) -> None:
    """Echo while a task ends; then leave another one behind, which says last words."""
    await ws.accept()
    ws.start_soon(_end, ws.path_params["how"], ws)
    ws.start_soon(_say_last_words, ws)
    async for message in ws:
        if message == "return":
            return
        await ws.send(message)


async def _say_last_words(ws: WebSocket) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        await ws.send_text("last words")
        journal(ws, "ended")


@mounted("/closing/beside/thread/{how}")
def go_on_beside_a_thread(ws: SyncWebSocket) -> None:
    """Echo while a function ends; then leave another one behind, which receives."""
    ws.accept()
    ws.start_soon(_end_sync, ws.path_params["how"], ws)
    ws.start_soon(_wait_until_closed, ws)
    for message in ws:
        if message == "return":
            return
        ws.send(message)


def _wait_until_closed(ws: SyncWebSocket) -> None:
    ws.wait_closed()
    try:
        ws.send_text("too late")
    except WebSocketDisconnect as exc:
        journal(ws, "ended", code=exc.code)
        raise


@clause("7.2", "7.4")
async def test_what_a_handler_has_started_ends_with_it(server: Server) -> None:
    """One that ends by itself leaves the handler alone; others do not outlive the handler.

    A task is cancelled before the connection is closed, a function learns of the close.
    """
    for kind in ("task", "thread"):
        for how in ("return", "raised-disconnect", "cancelled"):
            if (kind, how) == ("thread", "cancelled"):
                continue
            mark = server.log_mark()
            async with server.connect(f"/closing/beside/{kind}/{how}") as client:
                for message in ("still", "here"):
                    await client.send(message)
                    assert await client.recv() == message
                await client.send("return")
                if kind == "task":
                    assert await client.recv() == "last words"
                assert await client.closed() == (1000, "")
            ended = await client.journal("ended")
            assert ended == ({} if kind == "task" else {"code": 1000})
            log = await server.settled(mark)
            assert "Traceback" not in log, log
            assert "unisock:" not in log, log
            assert _framework_errors(server, client.id) == [], (kind, how)


# 7.3 Shutdown


@contextlib.contextmanager
def _telling_the_end(ws: WebSocket | SyncWebSocket) -> Generator[None]:
    """Journal how the body ended."""
    try:
        yield
    except WebSocketDisconnect as exc:
        journal(ws, "ended", by="disconnect", code=exc.code)
        raise
    except BaseException as exc:
        journal(ws, "ended", by=type(exc).__name__)
        raise


@mounted("/closing/shutdown/async/{how}")
async def run_until_shutdown(ws: WebSocket) -> None:
    """Receive, sleep, wait or send; journal how that ended, and the `finally`."""
    try:
        with _telling_the_end(ws):
            await _run_until_shutdown(ws.path_params["how"], ws)
    finally:
        await asyncio.sleep(0)
        journal(ws, "finally")


async def _run_until_shutdown(how: str, ws: WebSocket) -> None:
    if how == "before":
        journal(ws, "ready")
        await asyncio.Event().wait()
    await ws.accept()
    await ws.send_text("ready")
    match how:
        case "receive":
            await ws.receive()
        case "sleep":
            while not ws.closed:
                await asyncio.sleep(0.01)
            await ws.receive()
        case "while-connected":
            async with ws.while_connected():
                await asyncio.Event().wait()
        case "elsewhere":
            await asyncio.Event().wait()
        case "flood":
            while True:
                await ws.send_bytes(_FLOOD)
                journal(ws, "sent")
        case _:
            while True:
                await ws.send_text("ready")
                await asyncio.sleep(0.01)


_FLOOD = b"x" * 262_144


class _Stopped(WebSocketEndpoint):
    """Tells how it ended."""

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        journal(ws, "ended", by="disconnect", code=close_code)
        await asyncio.sleep(0)
        journal(ws, "finally")


@mounted("/closing/shutdown/endpoint/{how}")
class RunUntilShutdown(_Stopped):
    """Do it in `on_connect`, where a message is waited for in the endpoint itself."""

    async def on_connect(self, ws: WebSocket) -> None:
        if ws.path_params["how"] == "receive":
            await ws.accept()
            await ws.send_text("ready")
        else:
            await _run_until_shutdown(ws.path_params["how"], ws)


@mounted("/closing/shutdown/sync/{how}")
def run_sync_until_shutdown(ws: SyncWebSocket) -> None:
    """As `run_until_shutdown`."""
    try:
        with _telling_the_end(ws):
            _run_sync_until_shutdown(ws.path_params["how"], ws)
    finally:
        journal(ws, "finally")


def _run_sync_until_shutdown(how: str, ws: SyncWebSocket) -> None:
    if how == "before":
        journal(ws, "ready")
        ws.wait_closed()
        ws.accept()
    ws.accept()
    ws.send_text("ready")
    match how:
        case "receive":
            ws.receive()
        case "timeout":
            ws.receive(timeout=3600)
        case "wait":
            ws.wait_closed()
            ws.receive()
        case "sleep":
            while not ws.closed:
                pause(0.01)
            ws.receive()
        case "beside":
            ws.start_soon(_receive_beside, ws)
            ws.wait_closed()
            ws.send_text("too late")
        case "elsewhere":
            pause(3600)
        case "flood":
            while True:
                ws.send_bytes(_FLOOD)
                journal(ws, "sent")
        case _:
            while True:
                ws.send_text("ready")
                pause(0.01)


def _receive_beside(ws: SyncWebSocket) -> None:
    try:
        ws.receive()
    finally:
        journal(ws, "ended beside")


_SHUTDOWN = {
    "async": ("receive", "sleep", "while-connected", "send"),
    "endpoint": ("receive", "sleep", "send"),
    "sync": ("receive", "timeout", "wait", "sleep", "beside", "send"),
}


@clause("7.3", timeout=60)
async def test_shutdown_closes_every_connection(server: Server) -> None:
    """On SIGTERM and SIGINT: close frames, the handlers' ends, and a process that ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        async with spare_server(server.row) as spare, contextlib.AsyncExitStack() as stack:
            clients: dict[tuple[str, str], Client] = {}
            for form, hows in _SHUTDOWN.items():
                for how in hows:
                    connecting = spare.connect(f"/closing/shutdown/{form}/{how}")
                    clients[form, how] = await stack.enter_async_context(connecting)
            for client in clients.values():
                assert await client.recv() == "ready"
            spare.send_signal(number)
            quick = number == signal.SIGINT and server.row.without("sigint")
            await _check_shutdown(clients, quick or server.row.without("shutdown"))
            await spare.wait_exited()
            assert leftovers(spare.log()) == []


async def _check_shutdown(clients: dict[tuple[str, str], Client], cut: bool) -> None:
    codes = [(await client.closed())[0] for client in clients.values()]
    if cut:
        assert codes == [1006] * len(clients)
        return
    assert set(codes) <= {1001, 1012}
    for (form, how), client in clients.items():
        ended = await client.journal("ended")
        await client.journal("finally")
        # Where a handler is cancelled, or its greenlet killed, wherever it waits.
        others = ("CancelledError",) if form == "async" else ()
        if form == "sync" and how in ("sleep", "send"):
            others = ("GreenletExit",)
        assert ended["by"] in ("disconnect", *others), (form, how)
        assert ended.get("code") in (None, 1001, 1012), (form, how)
        if (form, how) == ("sync", "beside"):
            await client.journal("ended beside")


@clause("7.3", timeout=60)
async def test_shutdown_ends_what_waits_elsewhere(server: Server) -> None:
    """Before `accept`, on a peer that does not read, and in a sleep that does not look.

    The process ends in its grace though a thread cannot be ended; what can be, is.
    """
    async with spare_server(server.row) as spare, contextlib.AsyncExitStack() as stack:
        raws: dict[tuple[str, str], RawClient] = {}
        # A flood that never waits fills the memory.
        floods = () if server.row.without("send_waits") else ("flood",)
        for how in ("before", *floods, "elsewhere"):
            for form in _SHUTDOWN:
                path = f"/closing/shutdown/{form}/{how}"
                early = how == "before" and not server.row.without("deferred_upgrade")
                connecting = spare.raw(path, expect=None if early else 101)
                raws[form, how] = await stack.enter_async_context(connecting)
        # Their peers answer the close frame and leave at once; they sleep on.
        left = [
            await stack.enter_async_context(spare.connect(f"/closing/shutdown/{form}/elsewhere"))
            for form in ("async", "endpoint")
        ]
        for client in left:
            assert await client.recv() == "ready"
        for (form, how), raw in raws.items():
            if how == "before":
                await raw.journal("ready")
            elif how == "elsewhere":
                assert (await raw.recv_frame()).payload == b"ready", form
        flooded = [raw for (_, how), raw in raws.items() if how == "flood"]
        await _until_all_stand_still(flooded)
        spare.terminate()
        if server.row.without("unread_shutdown"):
            for raw in flooded:
                raw.reset()
        await spare.wait_exited()
        assert leftovers(spare.log()) == []
        if server.row.without("shutdown"):
            return
        for (form, how), raw in raws.items():
            if (form, how) == ("sync", "elsewhere") and server.row.framework != "flask":
                assert not raw.events(), "a thread that sleeps cannot be ended"
                continue
            # No more is asked: a server may cancel a second time while `finally` waits.
            names = [name for name, _ in raw.events()]
            assert names.count("ended") == 1, (form, how, spare.log()[-3000:])
        for client in left:
            assert [name for name, _ in client.events()].count("ended") == 1


@clause("7.3", timeout=60)
async def test_shutdown_rejects_who_waits_for_an_answer(server: Server) -> None:
    """A handshake that the handler has not answered gets a 503, and the handler sees its end."""
    async with spare_server(server.row) as spare, contextlib.AsyncExitStack() as stack:
        late = server.row.without("deferred_upgrade")
        raws: dict[str, RawClient] = {}
        for form in _SHUTDOWN:
            path = f"/closing/shutdown/{form}/before"
            connecting = spare.raw(path, expect=101 if late else None)
            raws[form] = await stack.enter_async_context(connecting)
            await raws[form].journal("ready")
        spare.terminate()
        if server.row.without("shutdown"):
            await spare.wait_exited()
            return
        for form, raw in raws.items():
            if late:
                assert (await raw.closed())[0] in (1001, 4503), form  # by the server, or for a 503
            else:
                status = 500 if server.row.without("status_at_stop") else 503
                assert (await raw.read_head()).status == status, form
        await spare.wait_exited()
        assert leftovers(spare.log()) == []
        for form, raw in raws.items():
            names = [name for name, _ in raw.events()]
            # An endpoint that was cancelled in a hook is told of the end by another one.
            assert names.count("ended") == 1, (form, spare.log()[-3000:])


async def _until_all_stand_still(raws: list[RawClient]) -> None:
    """Wait until no handler has sent more for a while: their peers do not read."""
    last: list[int] = []
    same = 0
    while same < 15:
        sent = [sum(name == "sent" for name, _ in raw.events()) for raw in raws]
        same = same + 1 if sent == last and all(sent) else 0
        last = sent
        await asyncio.sleep(0.02)


# 7.4 Nothing is left


@mounted("/closing/census")
async def census(ws: WebSocket) -> None:
    """Answer each message with what there is in this process."""
    await ws.accept()
    async for _ in ws:
        gc.collect()
        objects = gc.get_objects()
        await ws.send_json(
            {
                "tasks": len(asyncio.all_tasks()),
                "threads": threading.active_count(),
                "files": _count_files(),
                "websockets": sum(type(o) is WebSocket for o in objects),
                "sync websockets": sum(type(o) is SyncWebSocket for o in objects),
                "endpoints": sum(isinstance(o, WebSocketEndpoint) for o in objects),
                "greenlets": _count_greenlets(),
            }
        )
        del objects


def _count_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def _count_greenlets() -> int:
    return sum(type(o).__name__ == "Greenlet" and not o.dead for o in gc.get_objects())


async def _every_ending(server: Server) -> None:
    for path in (
        "async/open/return",
        "async/open/error",
        "async/open/exception",
        "async/open/cancelled",
        "on_connect/open/error",
        "task/open/error",
        "sync/open/return",
        "sync/open/error",
        "thread/open/error",
    ):
        async with server.connect(f"/closing/ends/{path}") as client:
            await client.closed()
    for form in ("async", "on_connect", "sync"):
        for how, status in (("return", 403), ("error", 500), ("rejected", 429)):
            await _check_rejection(server, form, how, status)
    for path in (
        "/ending/sleep",
        "/ending/only-send",
        "/ending/while/left",
        "/ending/closed",
        "/closing/ends/on_receive/open/return",
        "/closing/ends/sync/open/disconnect",
        "/closing/beside/task/return",
        "/closing/beside/thread/return",
    ):
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


# 7.5 The peer's close frame


@mounted("/closing/by-peer/{how}")
async def wait_for_the_peers_close(ws: WebSocket) -> None:
    """Receive, or wait for something else."""
    await ws.accept()
    if ws.path_params["how"] == "receives":
        async for message in ws:
            await ws.send(message)
    else:
        await ws.wait_closed()


@clause("7.5")
async def test_a_close_frame_is_answered_with_its_own_code_and_reason(server: Server) -> None:
    """Or with neither where it has none, whatever the handler does."""
    payloads = [b""]
    for code, reason in ((1000, ""), (1001, "gr\u00fcnde"), (3999, "r" * 123), (4011, "bye")):
        payloads.append(code.to_bytes(2) + reason.encode())
    for how in ("receives", "waits"):
        for payload in payloads:
            async with server.raw(f"/closing/by-peer/{how}") as raw:
                await raw.send_frame(8, payload)
                expected = b"\x03\xe8" if server.row.without("close_echo") else payload
                got = await raw.recv_frame()
                assert (got.opcode, got.payload) == (8, expected), how
                await raw.ended()
