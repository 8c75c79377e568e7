"""Peers that are gone from one moment to the next, whatever the handler is doing."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import frame

from .conftest import ROWS, App, Peer, handshake, wait_until_stuck
from .kinds import UVICORN

WAITS = ("receive", "send", "sleep", "connected")
STATES = [*(f"/waits/{how}" for how in WAITS), "/plain/receive", "/plain/send"]
# What a peer sends before it is gone, whether that is a reset, and the codes: that of
# a close frame, or of a broken connection, where that was seen before it.
WAYS: list[tuple[bytes, bool, set[int]]] = [
    (b"", True, {1006}),
    (b"", False, {1006}),
    (frame(2, b"x" * 1000)[:500], True, {1006}),
    (frame(1, b"half a mess", fin=False), True, {1006}),
    (frame(8, b"\x03\xe9"), True, {1001, 1006}),
]


@pytest.mark.parametrize("path", [*STATES, "/waits/sleep?early=1"])
def test_a_handler_learns_that_its_peer_has_vanished(app: App, path: str) -> None:
    """In every state, its `finally` runs, and nothing is left."""
    is_open = path != "/waits/sleep?early=1"
    with app.undisturbed():
        ways = WAYS if is_open else WAYS[:2]
        peers = [app.peer(path, accepted=is_open) for _ in ways]
        for peer in peers:
            peer.wait_for("ready")
        if path.endswith("send"):
            wait_until_stuck(*peers)
        for peer, (last, resets, _) in zip(peers, ways, strict=True):
            peer.write(last)
            peer.reset() if resets else peer.close()
        app.ask("release")
        for peer, (_, _, codes) in zip(peers, ways, strict=True):
            peer.wait_for("finally")
            assert peer.wait_for("disconnect")[0] in codes
            assert bool(peer.told("cancelled")) is path.endswith("connected")


@pytest.mark.parametrize("vanish", [Peer.reset, Peer.close])
def test_a_peer_that_vanishes_amid_its_handshake(app: App, vanish: Callable[[Peer], None]) -> None:
    """No handler has begun, and nothing is left."""
    request = handshake("/echo")
    with app.undisturbed():
        peers = [Peer(app, request[:cut]) for cut in range(0, len(request), 20)]
        app.eventually(lambda: app.left()["fds"] >= app.before["fds"] + len(peers))
        assert app.left()["connections"] == 1
        for peer in peers:
            vanish(peer)


@pytest.mark.parametrize("vanish", [Peer.reset, Peer.close])
def test_a_peer_that_is_closed_and_vanishes(app: App, vanish: Callable[[Peer], None]) -> None:
    """It has the close frame and does not answer it: the handler's own code stands.

    Line breaks are nothing special in a reason; of what is no text nothing was sent.
    """
    with app.undisturbed():
        peer = app.peer("/waits/close")
        assert peer.read_frame() == (8, (4000).to_bytes(2) + b"a\r\nb: 1\0")
        vanish(peer)
        peer.wait_for("finally")
        assert peer.wait_for("disconnect") == [4000]


@pytest.mark.parametrize("row", [row for row in ROWS if row != "hypercorn"])
def test_a_half_open_peer(row: str, tmp_path: Path) -> None:
    """It drops every packet and answers none: keepalive finds out, whatever the handler does.

    On uvicorn by the server's options, elsewhere by unisock's.  hypercorn 0.18
    pings too, and does not mind whether an answer comes.  uvicorn 0.54 tells of no such
    peer while anything is left to be written to it: that ends when TCP gives up.
    """
    states = [path for path in STATES if row not in UVICORN or not path.endswith("send")]
    with App(tmp_path, row, PING="0.5") as app, app.undisturbed(), ExitStack() as stack:
        peers = [stack.enter_context(app.peer(path)) for path in states]
        for peer in peers:
            peer.wait_for("ready")
            _drop_packets(peer.socket)
        # The healthy one is left, and that which learns it when it has woken.
        app.eventually(lambda: app.left()["connections"] == 2)
        app.ask("release")
        for peer in peers:
            peer.wait_for("finally")
            assert peer.wait_for("disconnect") == [1006]


def _drop_packets(peer: socket.socket) -> None:
    """Have the kernel drop what comes for a socket, before TCP sees it."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0), 8)  # "return 0"
    address = struct.pack("HxxxxxxQ", 1, ctypes.addressof(program))
    so_attach_filter = 26
    peer.setsockopt(socket.SOL_SOCKET, so_attach_filter, address)
