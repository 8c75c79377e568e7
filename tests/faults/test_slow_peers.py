"""Peers that do not read, and peers that dawdle."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from time import perf_counter

from tests.servers import frame

from .conftest import App, Peer, check_echo, handshake, wait_until_stuck

PEERS = 50
MESSAGE = 1 << 20
# For a message that is not read a server holds the frame made of it, or what is left
# of that; hypercorn 0.18 holds the one that waits as well.
PER_CONNECTION = 2.5 * MESSAGE
# What a connection costs that has not begun: buffers, a task or a greenlet.
PER_HANDSHAKE = 128 * 1024
# How much longer the slowest of a hundred echoes may take beside peers that do not read.
SLOWER = 2.0
ROUNDS = 40  # of measuring it, at most


def test_peers_that_never_read(app: App) -> None:
    """Each costs a message or two, however many are sent; those beside them get all echoes."""
    with app.undisturbed() as healthy, ExitStack() as stack:
        before = app.peak()
        peers = [stack.enter_context(app.peer("/waits/send")) for _ in range(PEERS)]
        for _ in range(100):
            check_echo(healthy)
        wait_until_stuck(*peers)
        assert (app.peak() - before) / PEERS < PER_CONNECTION
        check_echo(healthy)
        for peer in peers:
            peer.reset()


def test_the_latency_beside_peers_that_never_read(app: App, tmp_path: Path) -> None:
    """The 99th percentile of 50 peers' echoes is at most twice what it is without 50 such peers.

    Without them is on a second server: the echoes of both are measured in turn, one by one, and
    of many such rounds the quietest counts, for a machine does other things as well.
    """
    rounds = list[list[float]]()
    with app.undisturbed(), App(tmp_path, app.row) as quiet, ExitStack() as stack:
        pairs = [(_open(stack, app), _open(stack, quiet)) for _ in range(PEERS)]
        stuck = [stack.enter_context(app.peer("/waits/send")) for _ in range(PEERS)]
        wait_until_stuck(*stuck)
        _percentiles(pairs)  # the first echoes are slower
        while len(rounds) < 5 or (len(rounds) < ROUNDS and _ratio(rounds) > SLOWER):
            rounds.append(_percentiles(pairs))
        for peer in stuck:
            peer.reset()
    assert _ratio(rounds) <= SLOWER, rounds


def _ratio(rounds: list[list[float]]) -> float:
    return min(beside for beside, _ in rounds) / min(alone for _, alone in rounds)


def _open(stack: ExitStack, app: App) -> Peer:
    return stack.enter_context(app.peer("/echo"))


def _percentiles(pairs: list[tuple[Peer, Peer]]) -> list[float]:
    """The 99th percentiles of the seconds that an echo takes on either server."""
    times = list[float](), list[float]()
    for pair in pairs * 10:
        for peer, its_times in zip(pair, times, strict=True):
            start = perf_counter()
            peer.send_frame(1, b"hello")
            assert peer.read_frame() == (1, b"hello")
            its_times.append(perf_counter() - start)
    return [quantiles(each, n=100)[-1] for each in times]


def test_a_byte_at_a_time(app: App) -> None:
    """Handshakes and messages in single bytes, of peers that take turns."""
    with app.undisturbed() as healthy, ExitStack() as stack:
        peers = [stack.enter_context(Peer(app, b"")) for _ in range(3)]
        for byte, peer in itertools.product(handshake("/echo"), peers):
            peer.write(bytes([byte]))
        check_echo(healthy)
        assert all(peer.read_head().startswith(b"HTTP/1.1 101") for peer in peers)
        for byte, peer in itertools.product(frame(1, b"hello"), peers):
            peer.write(bytes([byte]))
        check_echo(healthy)
        assert all(peer.read_frame() == (1, b"hello") for peer in peers)


def test_handshakes_that_never_end(app: App) -> None:
    """No handler runs, each costs no more than a connection, and all end with their peers.

    Some servers end them sooner, as `WebSocketHandler.head_timeout` does on gevent.
    """
    request = handshake("/echo")
    cuts = itertools.cycle([0, 1, len(request) // 2, len(request) - 1])
    with app.undisturbed() as healthy, ExitStack() as stack:
        before = app.peak()
        for cut in itertools.islice(cuts, 4 * PEERS):
            stack.enter_context(Peer(app, request[:cut]))
        app.eventually(lambda: app.left()["fds"] >= app.before["fds"] + 4 * PEERS)
        assert app.left()["connections"] == 1
        assert (app.peak() - before) / (4 * PEERS) < PER_HANDSHAKE
        check_echo(healthy)
