"""The inbox, and the reader that feeds it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.unit.memory import MemoryTransport, settle, turn
from unisock import InvalidState, WebSocketDisconnect
from unisock.transport import Disconnect, Inbox


def with_inbox(
    body: Callable[[Inbox], Awaitable[None]], max_messages: int = 3, max_size: int = 1000
) -> None:
    async def main() -> None:
        await body(Inbox(max_messages=max_messages, max_size=max_size, max_message_size=1 << 20))

    asyncio.run(main())


def with_reader(
    body: Callable[[Inbox, MemoryTransport], Awaitable[None]],
    max_messages: int = 3,
    max_size: int = 1000,
    max_message_size: int = 100,
) -> None:
    async def main() -> None:
        transport = MemoryTransport()
        inbox = Inbox(
            max_messages=max_messages, max_size=max_size, max_message_size=max_message_size
        )
        transport.start(inbox)
        try:
            await body(inbox, transport)
        finally:
            await transport.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


class TestBounds:
    def test_full_by_count(self) -> None:
        async def body(inbox: Inbox) -> None:
            assert [inbox.put("") for _ in range(4)] == [True, True, False, False]
            assert [await inbox.get() for _ in range(4)] == [""] * 4

        with_inbox(body)

    def test_full_by_bytes_the_message_that_fills_it_is_kept(self) -> None:
        async def body(inbox: Inbox) -> None:
            assert inbox.put(b"x" * 10)
            assert not inbox.put(b"y" * 5000)
            assert await inbox.get() == b"x" * 10
            assert await inbox.get() == b"y" * 5000
            assert inbox.put("again")

        with_inbox(body, max_messages=100)

    def test_many_empty_messages_are_not_free(self) -> None:
        async def body(inbox: Inbox) -> None:
            taken = next(n for n in range(100) if not inbox.put(""))
            assert taken < 30

        with_inbox(body, max_messages=100)

    def test_room_is_called_for_once_and_only_when_there_is_some(self) -> None:
        async def body(inbox: Inbox) -> None:
            calls: list[None] = []
            for text in "abcd":
                inbox.put(text)
            inbox.call_on_room(lambda: calls.append(None))
            await inbox.get()
            assert not calls
            await inbox.get()
            assert len(calls) == 1
            await inbox.get()
            assert len(calls) == 1

        with_inbox(body)

    def test_room_that_is_there_is_told_at_once(self) -> None:
        async def body(inbox: Inbox) -> None:
            calls: list[None] = []
            inbox.call_on_room(lambda: calls.append(None))
            assert calls

        with_inbox(body)

    @pytest.mark.parametrize(
        "let_go",
        [
            lambda inbox: inbox.disconnect(1000),
            lambda inbox: inbox.close(1000, ""),
            lambda inbox: inbox.unbound(),
        ],
    )
    def test_the_end_gives_room(self, let_go: Callable[[Inbox], None]) -> None:
        async def body(inbox: Inbox) -> None:
            calls: list[None] = []
            for text in "abc":
                inbox.put(text)
            inbox.call_on_room(lambda: calls.append(None))
            let_go(inbox)
            assert len(calls) == 1
            inbox.call_on_room(lambda: calls.append(None))
            assert len(calls) == 2

        with_inbox(body)

    def test_unbound_takes_whatever_comes(self) -> None:
        async def body(inbox: Inbox) -> None:
            inbox.unbound()
            assert all(inbox.put(b"x" * 1000) for _ in range(50))

        with_inbox(body)


class TestHandedOver:
    """A message that goes right into the hands of a receive that waits."""

    def test_one_that_is_cancelled_before_it_takes_it_puts_it_back(self) -> None:
        async def body(inbox: Inbox) -> None:
            waiting = asyncio.create_task(inbox.get())
            await turn()
            inbox.put("a")
            inbox.put("b")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            inbox.put("c")
            assert [await inbox.get() for _ in range(3)] == ["a", "b", "c"]

        with_inbox(body)

    def test_what_is_put_back_counts(self) -> None:
        async def body(inbox: Inbox) -> None:
            waiting = asyncio.create_task(inbox.get())
            await turn()
            assert inbox.put(b"x" * 5000)  # in nobody's queue
            waiting.cancel()
            await asyncio.wait([waiting])
            assert not inbox.put("")
            assert [await inbox.get(), await inbox.get()] == [b"x" * 5000, ""]
            assert inbox.put("")

        with_inbox(body)

    @pytest.mark.parametrize("cancelled", [False, True])
    def test_it_is_dropped_with_the_others_by_a_close(self, cancelled: bool) -> None:
        async def body(inbox: Inbox) -> None:
            waiting = asyncio.create_task(inbox.get())
            await turn()
            inbox.put("a")
            inbox.close(4000, "bye")
            if cancelled:
                waiting.cancel()
                await asyncio.wait([waiting])
            else:
                with pytest.raises(WebSocketDisconnect, match="4000 bye"):
                    await waiting
            with pytest.raises(WebSocketDisconnect, match="4000 bye"):
                await inbox.get()

        with_inbox(body)

    def test_it_is_delivered_before_the_end(self) -> None:
        async def body(inbox: Inbox) -> None:
            waiting = asyncio.create_task(inbox.get())
            await turn()
            inbox.put("a")
            inbox.disconnect(4000, "bye")
            assert await waiting == "a"
            with pytest.raises(WebSocketDisconnect, match="4000 bye"):
                await inbox.get()

        with_inbox(body)

    def test_a_cancelled_wait_for_the_end_puts_nothing_back(self) -> None:
        async def body(inbox: Inbox) -> None:
            waiting = asyncio.create_task(inbox.get())
            await turn()
            inbox.disconnect(4000, "bye")
            waiting.cancel()
            await asyncio.wait([waiting])
            with pytest.raises(WebSocketDisconnect, match="4000 bye"):
                await inbox.get()

        with_inbox(body)


class TestEnd:
    def test_messages_before_the_end_are_delivered_in_order(self) -> None:
        async def body(inbox: Inbox) -> None:
            inbox.put("a")
            inbox.put(b"b")
            inbox.disconnect(4000, "bye")
            inbox.put("too late")
            assert [await inbox.get(), await inbox.get()] == ["a", b"b"]
            for _ in range(2):
                with pytest.raises(WebSocketDisconnect, match="4000 bye"):
                    await inbox.get()

        with_inbox(body)

    def test_the_first_end_counts(self) -> None:
        async def body(inbox: Inbox) -> None:
            inbox.disconnect(4000, "bye")
            inbox.disconnect(1006)
            inbox.close(1000, "")
            assert inbox.ended == Disconnect(4000, "bye")

        with_inbox(body)

    def test_closing_drops_what_nobody_received(self) -> None:
        async def body(inbox: Inbox) -> None:
            inbox.put("a")
            inbox.close(1000, "done")
            with pytest.raises(WebSocketDisconnect, match="1000 done"):
                await inbox.get()

        with_inbox(body)

    def test_callbacks_are_called_once_or_forgotten(self) -> None:
        async def body(inbox: Inbox) -> None:
            calls: list[str] = []

            def first() -> None:
                calls.append("first")

            def second() -> None:
                calls.append("second")

            inbox.call_on_end(first)
            inbox.call_on_end(second)
            inbox.forget_on_end(second)
            inbox.forget_on_end(second)
            inbox.disconnect(1000)
            inbox.disconnect(1001)
            assert calls == ["first"]
            inbox.call_on_end(second)
            assert calls == ["first", "second"]

        with_inbox(body)

    def test_many_wait_and_some_give_up(self) -> None:
        async def body(inbox: Inbox) -> None:
            waiters = [asyncio.create_task(inbox.wait_ended()) for _ in range(4)]
            await settle()
            waiters[0].cancel()
            await settle()
            assert waiters[0].cancelled()
            # One more gives up in the turn of the end itself, on either side of it.
            waiters[1].cancel()
            inbox.disconnect(4000, "bye")
            waiters[2].cancel()
            await asyncio.wait(waiters)
            assert waiters[1].cancelled()
            assert waiters[2].cancelled()
            assert waiters[3].result() == await inbox.wait_ended() == (4000, "bye")

        with_inbox(body)


class TestReceivers:
    def test_cancelling_loses_nothing(self) -> None:
        async def body(inbox: Inbox) -> None:
            for cancel_first in (True, False):
                receiver = asyncio.create_task(inbox.get())
                await settle()
                if cancel_first:
                    receiver.cancel()
                    inbox.put("a")
                else:
                    inbox.put("a")
                    receiver.cancel()
                await asyncio.wait([receiver])
                assert receiver.cancelled()
                assert await inbox.get() == "a"

        with_inbox(body)

    def test_one_that_comes_after_a_cancelled_one_waits(self) -> None:
        async def body(inbox: Inbox) -> None:
            first = asyncio.create_task(inbox.get())
            await turn()
            first.cancel()
            second = asyncio.create_task(inbox.get())
            # Both in one turn: the second begins before the first has left.
            await asyncio.wait([first])
            await turn()
            inbox.put("for the second")
            assert await second == "for the second"
            assert first.cancelled()

        with_inbox(body)

    def test_the_second_is_refused_and_the_first_unharmed(self) -> None:
        async def body(inbox: Inbox) -> None:
            first = asyncio.create_task(inbox.get())
            await settle()
            with pytest.raises(InvalidState, match="another receive"):
                await inbox.get()
            inbox.put("a")
            inbox.put("b")
            # The first is woken and has not run: it is still the one that waits.
            with pytest.raises(InvalidState, match="another receive"):
                await inbox.get()
            assert await first == "a"
            assert await inbox.get() == "b"

        with_inbox(body)

    def test_the_end_wakes_the_one_that_waits(self) -> None:
        async def body(inbox: Inbox) -> None:
            receiver = asyncio.create_task(inbox.get())
            await settle()
            inbox.disconnect(1001)
            with pytest.raises(WebSocketDisconnect, match="1001"):
                await receiver

        with_inbox(body)

    def test_closing_after_a_message_woke_it_is_the_end_all_the_same(self) -> None:
        async def body(inbox: Inbox) -> None:
            receiver = asyncio.create_task(inbox.get())
            await settle()
            inbox.put("a")
            inbox.close(1000, "")
            with pytest.raises(WebSocketDisconnect, match="1000"):
                await receiver

        with_inbox(body)


class TestReader:
    def test_it_reads_ahead_until_the_inbox_is_full_and_goes_on_when_there_is_room(self) -> None:
        async def body(inbox: Inbox, transport: MemoryTransport) -> None:
            transport.peer_sends(*"abcdef")
            transport.peer_leaves(4000)
            await settle()
            assert transport.received == 3
            assert await inbox.get() == "a"
            await settle()
            assert transport.received == 4
            assert [await inbox.get() for _ in range(5)] == list("bcdef")
            assert await inbox.wait_ended() == (4000, "")

        with_reader(body)

    def test_it_notices_the_end_though_nobody_receives(self) -> None:
        async def body(inbox: Inbox, transport: MemoryTransport) -> None:
            transport.peer_leaves(4000, "bye")
            assert await inbox.wait_ended() == (4000, "bye")

        with_reader(body)

    def test_it_ends_while_it_waits_for_room(self) -> None:
        async def body(inbox: Inbox, transport: MemoryTransport) -> None:
            transport.peer_sends(*"abcdef")
            await settle()
            await transport.stop()
            assert inbox.ended == (1006, "")

        with_reader(body)

    @pytest.mark.parametrize(
        "message", ["x" * 101, b"x" * 101, "é" * 51, "€" * 34, "\U0001f600" * 26]
    )
    def test_a_message_over_the_limit_closes(self, message: str | bytes) -> None:
        async def body(inbox: Inbox, transport: MemoryTransport) -> None:
            transport.peer_sends("before", message, "after")
            transport.peer_leaves(1009)
            await settle()
            assert transport.sent == [("close", 1009, "over 100 bytes")]
            assert await inbox.get() == "before"
            with pytest.raises(WebSocketDisconnect, match="1009 over 100 bytes"):
                await inbox.get()

        with_reader(body)

    @pytest.mark.parametrize(
        "message", ["x" * 100, b"x" * 100, "é" * 50, "€" * 33, "\U0001f600" * 25, "", b""]
    )
    def test_a_message_of_the_limit_passes(self, message: str | bytes) -> None:
        async def body(inbox: Inbox, transport: MemoryTransport) -> None:
            transport.peer_sends(message)
            assert await inbox.get() == message
            assert not transport.sent

        with_reader(body)

    def test_a_message_over_the_limit_on_a_lost_connection(self) -> None:
        async def body(inbox: Inbox, transport: MemoryTransport) -> None:
            transport.lose()
            transport.peer_sends("x" * 101)
            assert (await inbox.wait_ended()).code == 1009

        with_reader(body)

    def test_a_server_that_fails_is_a_broken_connection_and_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def body(inbox: Inbox, transport: MemoryTransport) -> None:
            transport.peer_sends("a")
            transport.incoming.put_nowait(KeyError("surprise"))
            assert await inbox.get() == "a"
            with pytest.raises(WebSocketDisconnect, match="1006"):
                await inbox.get()

        with_reader(body)
        assert "reading from the server failed" in caplog.text
        assert "surprise" in caplog.text

    def test_stopping_ends_what_has_not_ended_and_again_is_nothing(self) -> None:
        async def body(inbox: Inbox, transport: MemoryTransport) -> None:
            await settle()
            await transport.stop()
            await transport.stop()
            assert inbox.ended == (1006, "")

        with_reader(body)
