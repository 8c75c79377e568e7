"""The selector on which asyncio waits in gevent's hub."""

from __future__ import annotations

import selectors
import socket

import gevent
import pytest

from unisock.adapters.gevent_loop import _HubSelector


def test_it_keeps_the_promises_of_a_selector() -> None:
    ours, theirs = socket.socketpair()
    # The timeout also keeps gevent's loop alive, which the selector does not.
    with ours, theirs, gevent.Timeout(10):
        selector = _HubSelector(gevent.get_hub())
        key = selector.register(ours, selectors.EVENT_READ, "data")
        assert selector.get_map() == {ours.fileno(): key}
        assert selector.get_key(ours) is selector.get_key(ours.fileno()) is key
        with pytest.raises(KeyError, match="registered already"):
            selector.register(ours, selectors.EVENT_READ)
        with pytest.raises(KeyError, match="not registered"):
            selector.get_key(theirs)
        assert selector.select(0) == []
        assert selector.select(0.001) == []
        theirs.send(b"x")
        assert selector.select() == [(key, selectors.EVENT_READ)]
        # Level-triggered, as asyncio takes it: what was not read is told again.
        assert selector.select() == [(key, selectors.EVENT_READ)]
        ours.recv(1)
        gevent.sleep(0)
        selector.close()
        assert not selector.get_map()


def test_a_file_that_is_closed_can_be_unregistered() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        selector = _HubSelector(gevent.get_hub())
        selector.register(theirs, selectors.EVENT_READ)
        key = selector.register(ours, selectors.EVENT_WRITE)
        ours.close()
        assert selector.unregister(ours) is key
        selector.close()


def test_waking_ends_a_wait() -> None:
    selector = _HubSelector(gevent.get_hub())
    waiting = gevent.spawn(selector.select)
    gevent.sleep(0)
    selector.wake()
    assert waiting.get(timeout=10) == []
    selector.wake()  # nobody waits: nothing happens
    selector.close()
