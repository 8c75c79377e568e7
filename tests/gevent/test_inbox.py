"""The inbox whose receives block greenlets."""

from __future__ import annotations

import gevent
from gevent import Greenlet

from unisock.adapters.gevent_runtime import GreenletRuntime
from unisock.runtime import run_blocking
from unisock.transport import Inbox


class Struck(Exception):
    """What ends a receive from outside, as a `gevent.Timeout` does."""


def _receive(inbox: Inbox, got: list[object]) -> Greenlet[..., None]:
    """A greenlet that waits for a message, and for another if it is struck."""

    def receive() -> None:
        try:
            got.append(run_blocking(inbox.get()))
        except Struck:
            got.append("struck")
            got.append(run_blocking(inbox.get()))

    greenlet = gevent.spawn(receive)
    gevent.sleep(0)  # until it waits
    return greenlet


def _inbox() -> Inbox:
    bounds = {"max_messages": 3, "max_size": 1000, "max_message_size": 1000}
    return Inbox(**bounds, runtime=GreenletRuntime())


def test_a_message_goes_to_the_receive_that_waits() -> None:
    inbox, got = _inbox(), list[object]()
    greenlet = _receive(inbox, got)
    assert inbox.put("a")
    greenlet.join(10)
    assert got == ["a"]


def test_a_message_is_kept_whose_receive_is_struck_before_it_has_taken_it() -> None:
    inbox, got = _inbox(), list[object]()
    greenlet = _receive(inbox, got)

    def in_the_hub() -> None:
        inbox.put("a")
        inbox.put("b")
        greenlet.throw(Struck())

    gevent.get_hub().loop.run_callback(in_the_hub)
    greenlet.join(10)
    assert got == ["struck", "a"]
    assert run_blocking(inbox.get()) == "b"
