"""A handler on a `Wire`: pauses, back-pressure, and who ends what, when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from unisock import WebSocket, WebSocketDisconnect
from unisock.transport import ConnectionLost

from .peer import BINARY, CLOSE, PING, PONG, TEXT, Frame, Session, close, frame, text

MiB = 1024 * 1024
Handler = Callable[[WebSocket], Awaitable[None]]
NORMAL = Frame(CLOSE, b"\x03\xe8")


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for message in ws:
        await ws.send(message)


def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


# Before accept


def test_what_comes_before_accept_is_received_after_it() -> None:
    async def test() -> None:
        may = asyncio.Event()

        async def handler(ws: WebSocket) -> None:
            await may.wait()
            await echo(ws)

        session = Session(handler)
        await session.feed(text("a"), text("b")[:3])
        assert session.carrier.reading
        may.set()
        await session.open()
        await session.feed(text("b")[3:] + text("c"))
        await session.settle()
        assert [answer.payload for answer in session.answers()] == [b"a", b"b", b"c"]
        await session.end()

    run(test)


def test_it_is_bounded_and_the_end_behind_it_is_noticed() -> None:
    async def test() -> None:
        codes: list[int] = []

        async def handler(ws: WebSocket) -> None:
            codes.append(await ws.wait_closed())

        session = Session(handler, max_queue_size=1000)
        await session.feed(text("early") * 50)
        assert session.carrier.reading
        session.wire.eof_received()
        await asyncio.wait_for(session.task, 5)
        assert codes == [1006]
        assert session.carrier.ended == ["close"]

        session = Session(handler, max_queue_size=1000)
        session.wire.data_received(text("early") * 100)
        await asyncio.sleep(0)
        session.wire.data_received(text("early") * 100)
        assert not session.carrier.reading
        await session.end()

    run(test)


def test_a_rejection_ends_the_stream_and_drops_what_comes() -> None:
    async def test() -> None:
        may = asyncio.Event()

        async def handler(ws: WebSocket) -> None:
            await may.wait()
            await ws.reject(403, b"no")

        session = Session(handler, max_queue_size=10)
        await asyncio.sleep(0)
        session.wire.data_received(text("early"))
        assert not session.carrier.reading
        may.set()
        await asyncio.wait_for(session.task, 5)
        head, _, body = session.carrier.sent.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert body == b"no"
        assert session.carrier.ended == ["eof"]
        assert session.carrier.reading
        session.wire.data_received(text("late"))
        session.wire.eof_received()
        assert session.carrier.ended == ["eof", "close"]

    run(test)


@pytest.mark.parametrize("verb", ["accept", "reject"])
def test_the_peer_has_left_before_the_answer(verb: str) -> None:
    async def test() -> None:
        may = asyncio.Event()
        ends: list[object] = []

        async def handler(ws: WebSocket) -> None:
            await may.wait()
            try:
                await getattr(ws, verb)()
            except WebSocketDisconnect as exc:
                ends.append(exc.code)

        session = Session(handler)
        session.carrier.lose()
        await session.settle()
        may.set()
        await asyncio.wait_for(session.task, 5)
        assert session.carrier.sent == b""
        assert ends == ([1006] if verb == "accept" else [])

    run(test)


@pytest.mark.parametrize("verb", ["accept", "reject"])
def test_an_answer_after_another_one_is_none(verb: str) -> None:
    async def test() -> None:
        may = asyncio.Event()

        async def handler(ws: WebSocket) -> None:
            await may.wait()
            with suppress(WebSocketDisconnect):
                await getattr(ws, verb)()

        session = Session(handler)
        session.wire.refuse(b"HTTP/1.1 503 \r\n\r\n")  # as a server that stops
        may.set()
        await asyncio.wait_for(session.task, 5)
        assert session.carrier.sent == b"HTTP/1.1 503 \r\n\r\n"

    run(test)


def test_the_peer_has_left_before_the_handler_began() -> None:
    async def test() -> None:
        codes: list[int] = []

        async def handler(ws: WebSocket) -> None:
            codes.append(await ws.wait_closed())

        session = Session(handler)
        session.wire.connection_lost()
        await asyncio.wait_for(session.task, 5)
        assert codes == [1006]

    run(test)


def test_what_the_server_has_written_is_taken_before_the_answer() -> None:
    async def test() -> None:
        may = asyncio.Event()

        async def handler(ws: WebSocket) -> None:
            await may.wait()
            await echo(ws)

        session = Session(handler)
        session.carrier.takes = False
        session.carrier.write(b"x" * 70_000)
        session.carrier.take()
        may.set()
        await session.open()
        await session.feed(text("a"))
        await session.settle()
        assert [answer.payload for answer in session.answers()] == [b"a"]
        await session.end()

    run(test)


def test_a_server_that_has_sent_the_101_already() -> None:
    async def test() -> None:
        session = Session(echo)
        session.transport.open = lambda response: type(session.transport).open(  # type: ignore[method-assign]  # as an adapter's own class would
            session.transport, b""
        )
        session.carrier.takes = False
        session.carrier.write(b"x" * 70_000)  # what the server itself has sent
        await session.settle()
        assert session.carrier.sent == b""
        await session.feed(frame(PING))
        session.carrier.take()
        assert session.carrier.sent[70_000:] == b"\x8a\x00"
        await session.end()

    run(test)


# Reading


def test_a_full_inbox_pauses_reading_and_loses_nothing() -> None:
    async def test() -> None:
        may = asyncio.Event()
        got: list[str | bytes] = []

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await may.wait()
            got.extend([message async for message in ws])

        session = Session(handler, max_queue=3)
        await session.open()
        large = [str(n) * 70_000 for n in range(10)]
        session.wire.data_received(b"".join(map(text, large)))
        await asyncio.sleep(0)
        assert not session.carrier.reading
        inbox = session.wire._inbox
        assert inbox is not None
        assert len(inbox._messages or ()) == 3
        may.set()
        await session.settle()
        assert session.carrier.reading
        await session.feed(close())
        await asyncio.wait_for(session.task, 5)
        assert got == large

    run(test)


def test_a_flood_leaves_the_others_their_turns() -> None:
    async def test() -> None:
        session = Session(echo)
        await session.open()
        turns: list[float] = []

        async def other() -> None:
            while True:
                turns.append(time.monotonic())
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        session.wire.data_received(frame(PING) * 50_000)
        assert not session.carrier.reading
        while not session.carrier.reading:
            await asyncio.sleep(0)
        beside.cancel()
        assert len(turns) > 10
        assert len(session.answers()) == 50_000
        assert session.carrier.writes < 500  # the pongs of a turn are one write
        await session.end()

    run(test)


def test_the_end_waits_for_the_answers_but_not_for_ever() -> None:
    async def test() -> None:
        noticed: list[float] = []

        async def slow(ws: WebSocket) -> None:
            await ws.accept()
            started = time.monotonic()
            await ws.wait_closed()
            noticed.append(time.monotonic() - started)

        # One that answers after some turns of the loop, and one that never receives.
        async def answer(ws: WebSocket) -> None:
            await ws.accept()
            async for message in ws:
                await asyncio.sleep(0.005)
                await ws.send(message)

        session = Session(answer)
        await session.open()
        await session.feed(text("a") + text("b") + frame(3))
        await asyncio.wait_for(session.task, 5)
        answers = session.answers()
        assert [a.payload for a in answers[:2]] == [b"a", b"b"]
        assert answers[2].code == 1002

        session = Session(slow)
        await session.open()
        await session.feed(text("a") + close(4000))
        await asyncio.wait_for(session.task, 5)
        assert noticed[0] < 2
        assert [answer.code for answer in session.answers()] == [4000]

    run(test)


# Writing


def test_replies_to_messages_that_came_together_are_one_write() -> None:
    async def test() -> None:
        session = Session(echo)
        await session.open()
        session.carrier.writes = 0
        await session.feed(b"".join(text(f"{n}") for n in range(32)))
        await session.settle()
        assert [a.payload for a in session.answers()] == [f"{n}".encode() for n in range(32)]
        assert session.carrier.writes <= 4
        session.carrier.writes = 0
        await session.feed(text("alone"))
        await session.settle()
        assert session.carrier.writes == 1
        await session.end()

    run(test)


def test_a_close_frame_goes_behind_joined_replies() -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            for reply in ("first", "joined"):
                await ws.receive()
                await ws.send(reply)
            await ws.close()

        session = Session(handler)
        await session.open()
        await session.feed(text("a") + text("b") + text("c"))
        await asyncio.wait_for(session.task, 5)
        answers = [answer.payload for answer in session.answers()]
        assert answers == [b"first", b"joined", b"\x03\xe8"]

    run(test)


def test_the_stream_ends_amid_joined_replies() -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            for reply in ("first", "joined"):
                await ws.receive()
                await ws.send(reply)
            session.wire.eof_received()
            await ws.wait_closed()

        session = Session(handler)
        await session.open()
        await session.feed(text("a") + text("b") + text("c"))
        await asyncio.wait_for(session.task, 5)
        await session.settle()
        assert [answer.payload for answer in session.answers()] == [b"first"]

    run(test)


def test_a_reply_is_not_held_back_by_a_handler_that_waits() -> None:
    async def test() -> None:
        may = asyncio.Event()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive()
            await ws.send("first")
            await may.wait()

        session = Session(handler)
        await session.open()
        await session.feed(text("a") + text("b"))
        await session.settle()
        assert [answer.payload for answer in session.answers()] == [b"first"]
        may.set()
        await asyncio.wait_for(session.task, 5)

    run(test)


@pytest.mark.parametrize("size", [10, 2000, 70_000])
def test_the_order_is_that_of_the_sends(size: int) -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive()
            for n in range(20):
                await ws.send_text(f"{n}")
                await ws.send_bytes(b"%d" % n * size)
            await ws.close(4000)

        session = Session(handler)
        await session.open()
        await session.feed(text("go") * 50)
        await asyncio.wait_for(session.task, 5)
        answers = session.answers()
        assert [int(a.payload) for a in answers if a.opcode == TEXT] == [*range(20)]
        assert [a.opcode for a in answers] == [TEXT, BINARY] * 20 + [CLOSE]

    run(test)


def test_a_send_waits_while_the_peer_does_not_read() -> None:
    async def test() -> None:
        sent: list[int] = []

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive()
            for n in range(100):
                await ws.send(bytes(10_000))
                sent.append(n)

        session = Session(handler)
        await session.open()
        session.carrier.takes = False
        await session.feed(text("go"))
        await session.settle()
        count = len(sent)
        await session.settle()
        assert len(sent) == count
        assert 0 < count < 50
        assert len(session.carrier.kept) < 100_000
        session.carrier.take()
        await asyncio.wait_for(session.task, 5)
        assert [a.opcode for a in session.answers()] == [BINARY] * 100 + [CLOSE]

    run(test)


def test_a_peer_that_takes_nothing_is_cut() -> None:
    async def test() -> None:
        ends: list[WebSocketDisconnect] = []

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            try:
                while True:
                    await ws.send(bytes(10_000))
            except WebSocketDisconnect as exc:
                ends.append(exc)

        session = Session(handler, send_timeout=0.1)
        session.carrier.takes = False
        await session.open()
        await asyncio.wait_for(session.task, 5)
        (end,) = ends
        assert (end.code, end.reason) == (1006, "the peer took nothing for 0.1 seconds")
        assert session.carrier.ended == ["abort"]

    run(test)


@pytest.mark.parametrize("seconds", [0.3, None])
def test_a_byte_that_is_taken_is_progress(seconds: float | None) -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive()
            for _ in range(2):
                await ws.send(bytes(100_000))

        session = Session(handler, send_timeout=seconds)
        await session.open()
        carrier = session.carrier
        carrier.takes = False
        await session.feed(text("go"))
        for _ in range(12):  # for longer than the limit, and never enough to write again
            await asyncio.sleep(0.05)
            taken = 1000 if seconds else 0
            carrier.kept, carrier.sent = carrier.kept[taken:], carrier.sent + carrier.kept[:taken]
            carrier._gauge.taken(taken)
        assert not session.task.done()
        assert not carrier.ended
        carrier.take()
        await asyncio.wait_for(session.task, 5)
        assert [a.opcode for a in session.answers()] == [BINARY] * 2 + [CLOSE]

    run(test)


def test_a_send_that_waits_and_is_cancelled_sends_nothing() -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.send(bytes(70_000))
            try:
                async with asyncio.timeout(0.01):
                    await ws.send("cancelled")
            except TimeoutError:
                assert not session.wire._write_waiters
                await ws.send("after")

        session = Session(handler)
        session.carrier.takes = False
        await asyncio.sleep(0.05)
        session.carrier.take()
        await asyncio.wait_for(session.task, 5)
        await session.open()
        assert [a.payload for a in session.answers()] == [bytes(70_000), b"after", b"\x03\xe8"]

    run(test)


# The close


def test_a_close_waits_until_its_frame_is_taken() -> None:
    async def test() -> None:
        closed: list[float] = []

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            stuck = asyncio.create_task(ws.send(bytes(10)))
            await ws.receive()
            started = time.monotonic()
            await ws.close(4000, "enough")
            closed.append(time.monotonic() - started)
            with pytest.raises(WebSocketDisconnect, match="4000"):
                await stuck

        for takes_after in (0.2, None):
            session = Session(handler, close_timeout=0.5)
            session.carrier.takes = False
            session.carrier.write(bytes(70_000))
            await session.feed(text("go"))
            await session.settle()
            assert closed == []
            if takes_after is not None:
                await asyncio.sleep(takes_after)
                session.carrier.take()
            await asyncio.wait_for(session.task, 5)
            if takes_after is not None:
                assert takes_after * 0.9 < closed.pop() < 0.45
                await session.feed(close(4000, b"enough"))
                assert session.carrier.ended == ["close"]
            else:
                # Of a peer that does not read the connection is cut.
                assert 0.4 < closed.pop() < 3
                assert session.carrier.ended == ["abort"]

    run(test)


def test_a_peer_that_does_not_answer_a_close_is_cut() -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()

        session = Session(handler, close_timeout=0.1)
        await session.open()
        await asyncio.wait_for(session.task, 5)
        assert session.answers() == [NORMAL]
        assert session.carrier.ended == []
        await asyncio.wait_for(session.wire.wait_lost(), 5)
        await session.wire.wait_lost()
        assert session.carrier.ended == ["abort"]

    run(test)


def test_who_waits_for_the_loss_may_be_cancelled() -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.wait_closed()

        session = Session(handler)
        await session.open()
        waiting = asyncio.create_task(session.wire.wait_lost())
        await session.settle()
        waiting.cancel()
        session.wire.connection_lost()  # before the task has seen that it is cancelled
        await asyncio.wait([waiting, session.task], timeout=5)
        assert waiting.cancelled()
        assert session.task.done()

    run(test)


def test_a_close_of_the_peer_wakes_a_send_that_waits() -> None:
    async def test() -> None:
        ends: list[tuple[int, str]] = []

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            try:
                while True:
                    await ws.send(bytes(50_000))
            except WebSocketDisconnect as exc:
                ends.append((exc.code, exc.reason))

        session = Session(handler, close_timeout=0.2)
        session.carrier.takes = False
        await session.settle()
        await session.feed(close(4001, b"enough"))
        await asyncio.wait_for(session.task, 5)
        assert ends == [(4001, "enough")]
        # The answer waits behind what the peer does not read, and no longer than that.
        assert session.carrier.ended == ["close"]
        await asyncio.wait_for(session.wire.wait_lost(), 5)
        assert session.carrier.ended == ["close", "abort"]

    run(test)


def test_a_close_that_is_done_twice() -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.receive()
            await asyncio.gather(ws.close(4000), ws.close(4001))

        session = Session(handler)
        await session.open()
        await session.feed(text("go"))
        await asyncio.wait_for(session.task, 5)
        assert [a.code for a in session.answers()] == [4000]
        with pytest.raises(ConnectionLost):
            await session.transport.close(1000, "")

    run(test)


def test_the_end_of_the_stream_in_the_midst_of_it() -> None:
    async def test() -> None:
        ends: list[int] = []

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.wait_closed()
            ends.append(ws.close_code or 0)
            with pytest.raises(WebSocketDisconnect):
                await ws.send("late")

        session = Session(handler)
        await session.open()
        await session.feed(text("half", fin=False), frame(PING))
        session.wire.eof_received()
        await asyncio.wait_for(session.task, 5)
        assert ends == [1006]
        assert session.answers() == [Frame(PONG, b"")]
        assert session.carrier.ended == ["close"]

    run(test)


def test_what_was_read_before_the_connection_broke_is_received() -> None:
    async def test() -> None:
        got: list[str | bytes] = []

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await ws.wait_closed()
            got.extend([message async for message in ws])

        session = Session(handler, max_queue=2)
        await session.open()
        large = [str(n) * 70_000 for n in range(6)]
        session.wire.data_received(b"".join(map(text, large)))
        session.carrier.lose()
        await asyncio.wait_for(session.task, 5)
        assert got == large

    run(test)


def test_the_connection_breaks_amid_joined_replies() -> None:
    async def test() -> None:
        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            for reply in ("first", "joined"):
                await ws.receive()
                await ws.send(reply)
            session.wire.connection_lost()
            with pytest.raises(WebSocketDisconnect):
                await ws.send("late")

        session = Session(handler)
        await session.open()
        await session.feed(text("a") + text("b") + text("c"))
        await asyncio.wait_for(session.task, 5)
        assert [answer.payload for answer in session.answers()] == [b"first"]

    run(test)


# Keepalive


@pytest.mark.parametrize("timeout", [0.15, 0.02])
def test_a_silent_peer_is_gone(timeout: float) -> None:
    async def test() -> None:
        session = Session(echo, ping_interval=0.05, ping_timeout=timeout)
        await session.open()
        started = time.monotonic()
        await asyncio.wait_for(session.task, 5)
        assert time.monotonic() - started > timeout
        *pings, last = session.answers()
        assert {ping.opcode for ping in pings} == {PING}
        assert (last.code, last.payload[2:]) == (1011, b"keepalive ping timeout")
        assert session.carrier.ended == ["eof", "close"]

    run(test)


def test_any_byte_is_a_sign_of_life() -> None:
    async def test() -> None:
        session = Session(echo, ping_interval=0.05, ping_timeout=0.1)
        await session.open()
        large = frame(BINARY, bytes(200))
        for start in range(0, len(large), 10):
            session.wire.data_received(large[start : start + 10])
            await asyncio.sleep(0.02)
        assert not session.task.done()
        answers = session.answers()
        assert Frame(BINARY, bytes(200)) in answers
        assert Frame(PING, b"") in answers
        await session.end()

    run(test)


def test_a_peer_that_we_do_not_read_from_is_not_gone() -> None:
    async def test() -> None:
        may = asyncio.Event()

        async def handler(ws: WebSocket) -> None:
            await ws.accept()
            await may.wait()
            await echo_on(ws)

        async def echo_on(ws: WebSocket) -> None:
            async for message in ws:
                await ws.send(message)

        session = Session(handler, max_queue=1, ping_interval=0.03, ping_timeout=0.03)
        await session.open()
        session.wire.data_received(text("a") + text("b"))
        await asyncio.sleep(0.3)
        assert not session.task.done()
        may.set()
        await session.settle()
        assert [a.payload for a in session.answers() if a.opcode == TEXT] == [b"a", b"b"]
        assert not session.task.done()
        await session.end()

    run(test)


def test_without_a_timeout_pings_go_on() -> None:
    async def test() -> None:
        session = Session(echo, ping_interval=0.02, ping_timeout=None)
        await session.open()
        await asyncio.sleep(0.3)
        assert len(session.answers()) > 3
        assert not session.task.done()
        await session.feed(close())
        await asyncio.wait_for(session.task, 5)

    run(test)
