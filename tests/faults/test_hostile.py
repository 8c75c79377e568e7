"""Peers that mean harm: what no client sends by mistake, and floods of what one may send.

``UNISOCK_FUZZ`` is how many examples the fuzzer tries on each row, and ``UNISOCK_FUZZ_SEED``
which ones; one that fails is printed so that ``@example(...)`` repeats it.  ``UNISOCK_FLOOD``
is how many empty fragments, and how many pings, make a flood.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from tests.servers import frame

from .conftest import CLASS, ON_WIRE, App, Peer, check_echo, handshake
from .kinds import UVICORN
from .strategies import Attack, on_frames, on_handshakes

MIB = 1 << 20
LIMIT = 16 * MIB
# What one peer can make a server hold: a message at the limit, what it was made of,
# and what the allocator keeps of both.
MEMORY = 4 * LIMIT
# What one may make it hold that sends many parts of next to nothing.
LITTLE = 8 * MIB
BOMB = 128 * MIB
FLOOD = int(os.environ.get("UNISOCK_FLOOD", "100000"))
FUZZ = int(os.environ.get("UNISOCK_FUZZ", "50"))
FUZZ_SEED = int(os.environ.get("UNISOCK_FUZZ_SEED", "0"))
EXTENSIONS = "Sec-WebSocket-Extensions"

# What servers log tracebacks of, though only a client is at fault.
# uvicorn 0.54: text that is no UTF-8, the same behind a close frame
_UVICORN = r"UnicodeDecodeError|websockets\.exceptions\.InvalidState"
NOISE = {
    **dict.fromkeys(UVICORN, _UVICORN),
    # 3.14: a request that is none, and a client that has gone before its 100 Continue
    "aiohttp": r"aiohttp\.(http_exceptions\.\w+|client_exceptions\.ClientConnectionResetError)",
}


def _attack(app: App, attack: Attack) -> None:
    """Send it, and see that the server ends it, with the code that it must."""
    with Peer(app, attack.request) as peer:
        try:
            if attack.accepted:
                assert peer.read_head().startswith(b"HTTP/1.1 101")
            with contextlib.suppress(ConnectionError):  # it may end it amid the pieces
                for piece in attack.pieces():
                    peer.write(piece)
            # hypercorn 0.18 reads a message that is too large first.
            if attack.codes and not (app.row == "hypercorn" and 1009 in attack.codes):
                _check_code(app, peer, attack.codes)
            if attack.resets:
                peer.reset()
                return
            peer.socket.shutdown(socket.SHUT_WR)
            while peer.socket.recv(65536):
                pass
        except TimeoutError:
            pytest.fail("the server does not end it")
        except OSError:  # it has ended it already
            pass


def _check_code(app: App, peer: Peer, codes: tuple[int, ...]) -> None:
    """Read up to the server's close frame, which must have one of these codes."""
    while (got := peer.read_frame())[0] not in (8, -1):
        pass
    if got[0] == -1 and app.row == "hypercorn":
        return  # 0.18 ends it without a word
    assert got[0] == 8 and int.from_bytes(got[1][:2], "big") in codes, (got, codes)


# The server is one for all examples, and what one of them has left behind would fail
# whatever follows: no shrinking.  Each run is the same, for each run of CI is.
FUZZING = settings(
    max_examples=FUZZ, deadline=None, database=None, phases=[Phase.explicit, Phase.generate]
)


@pytest.mark.timeout(120 + 2 * FUZZ)
def test_nothing_that_a_peer_sends_harms_anybody_else(app: App) -> None:
    """Neither a handshake nor frames, however they are broken."""
    before = app.peak()
    # hypercorn 0.18 never tells the application of the end where something came behind a
    # handshake before that was accepted: a handler would be left.
    attacks = on_frames() if app.row == "hypercorn" else on_frames() | on_handshakes()

    @seed(FUZZ_SEED)
    @FUZZING
    @given(st.lists(attacks, min_size=2, max_size=6))
    def fuzz(attacks: list[Attack]) -> None:
        with app.undisturbed(NOISE.get(app.row, "")) as healthy:
            for attack in attacks:
                _attack(app, attack)
                check_echo(healthy)

    fuzz()
    assert app.peak() - before < MEMORY


def test_the_gevent_fuzzer() -> None:
    """What `fuzz_gevent` begins with still holds; atheris is not needed for that."""
    code = "from tests.faults.fuzz_gevent import *\nfor each in CORPUS: one_input(each)"
    subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, timeout=100
    )


def test_a_header_with_what_no_header_has(app: App) -> None:
    """A control character: 400 or 101; uvicorn 0.54 does not answer, and ends it with its peer."""
    with (
        app.undisturbed(NOISE.get(app.row, "")),
        app.peer("/echo", "X: \x01", accepted=False) as peer,
    ):
        if NOISE.get(app.row, "") == _UVICORN:
            peer.socket.shutdown(socket.SHUT_WR)
        assert _read_head(peer)[9:12] in (b"400", b"101", b"")


_PART = frame(0, bytes(64 * 1024), fin=False)
_FLOODS: dict[str, tuple[bytes, bytes]] = {
    "empty fragments": (frame(1, b"", fin=False) + frame(0, b"", fin=False) * FLOOD, frame(0, b"")),
    "pings": (frame(9, b"") * FLOOD, frame(1, b"")),
    "a frame over the limit": (frame(1, bytes(LIMIT + 1)), b""),
    "fragments over the limit": (frame(1, b"x", fin=False) + _PART * (LIMIT // 65536), b""),
}


# How long an echo may take beside a flood, in seconds: where others read the frames one peer
# can hold up all.
_BESIDE_WIRE, _BESIDE_OTHERS = 2.0, 20.0


def _beside_a_flood(app: App) -> float:
    return _BESIDE_WIRE if app.row in ON_WIRE else _BESIDE_OTHERS


_FLOODED = pytest.mark.parametrize("app", [CLASS, "starlette", "flask", "aiohttp"], indirect=True)


@_FLOODED
@pytest.mark.parametrize("what", _FLOODS)
def test_floods(app: App, what: str) -> None:
    """Many parts of next to nothing are taken; too much is not, nor is it held."""
    flood, end = _FLOODS[what]
    with app.undisturbed(slowest=_beside_a_flood(app)), app.peer("/echo") as peer:
        before = app.peak()
        peer.socket.settimeout(60)  # for a million, which none answers before the last
        writing = threading.Thread(target=_write, args=[peer, flood + end])
        writing.start()
        pongs = 0
        while (got := peer.read_frame()) == (10, b""):
            pongs += 1
        assert pongs == (FLOOD if what == "pings" else 0)
        # A close frame may be lost, where the server has left before it has read all.
        assert (got[0], got[1][:2]) in ([(1, b"")] if end else [(8, b"\x03\xf1"), (-1, b"")])
        writing.join()
        held = LITTLE if end and app.row in ON_WIRE else MEMORY
        if app.row == "starlette" and what == "empty fragments":
            held += 100 * FLOOD  # uvicorn 0.54 holds some hundred bytes for each, be it empty
        assert app.peak() - before < held


@_FLOODED
def test_pings_of_a_peer_that_does_not_read(app: App) -> None:
    """The server holds no more pongs than a few; when the peer reads on, all is well."""
    with app.undisturbed(slowest=_beside_a_flood(app)), app.peer("/echo") as peer:
        before = app.peak()
        held = LITTLE if app.row in ON_WIRE else MEMORY
        peer.socket.settimeout(60)
        end = frame(9, b"the last") + frame(1, b"hello")
        pings = b"".join(frame(9, b"%0125d" % n) for n in range(FLOOD))
        writing = threading.Thread(target=_write, args=[peer, pings + end])
        writing.start()
        # It takes some of them, and stops to read or to answer.
        writing.join(2.0)
        assert app.peak() - before < held
        numbers: list[int] = []
        while (got := peer.read_frame())[0] == 10 and got[1] != b"the last":
            numbers.append(int(got[1]))
        assert numbers == sorted(set(numbers))
        assert got == (10, b"the last")
        assert peer.read_frame() == (1, b"hello")
        writing.join()
        assert app.peak() - before < held


@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_length_that_no_message_has(app: App, length: int) -> None:
    """It is refused when the head has come, and no byte is held for it."""
    with app.undisturbed(), app.peer("/echo") as peer:
        before = app.peak()
        peer.write(b"\x82\xff" + length.to_bytes(8) + bytes(4))
        if app.row != "hypercorn":  # 0.18 waits for what comes, and ends it without a word
            _check_code(app, peer, (1009,) if length < 1 << 63 else (1002, 1009))
        assert app.peak() - before < LITTLE


def test_what_comes_behind_a_close(app: App) -> None:
    """It is dropped, whatever it is, and the close is answered."""
    late = frame(1, b"late") * 1000 + b"\xff" * 1000 + frame(9, b"?")
    with app.undisturbed(NOISE.get(app.row, "")), app.peer("/echo") as peer:
        with contextlib.suppress(ConnectionError):
            peer.write(frame(1, b"in time") + frame(8, b"\x0f\xa0bye") + late)
        got = list(_rest(peer))
        if app.row in ON_WIRE:
            assert got == [(1, b"in time"), (8, b"\x0f\xa0bye")]
        else:
            # Others do not wait for the handler's answer, or reset the connection.
            assert [opcode for opcode, _ in got] in ([1, 8], [8], [1], [])
        peer.wait_for("finally")


def _rest(peer: Peer) -> Iterator[tuple[int, bytes]]:
    """The frames up to the end."""
    while (got := peer.read_frame())[0] != -1:
        yield got


@pytest.mark.parametrize("last", [b"", frame(1, b"half")[:5], frame(8, b"\x03\xe8")])
def test_half_of_a_close(app: App, last: bytes) -> None:
    """Who sends nothing more has left: the handler ends, and so does the connection."""
    with app.undisturbed(), app.peer("/echo") as peer:
        peer.write(frame(1, b"hello") + last)
        peer.socket.shutdown(socket.SHUT_WR)
        got = list(_rest(peer))
        assert set(got) <= {(1, b"hello"), (8, b"\x03\xe8")}
        if app.row in ON_WIRE and last[:1] == b"\x88":
            assert got == [(1, b"hello"), (8, b"\x03\xe8")]
        peer.wait_for("finally")


_WITHOUT_END = {
    "empty fragments": (frame(1, b"", fin=False), frame(0, b"", fin=False)),
    "pings": (b"", frame(9, b"")),
    "empty messages": (b"", frame(2, b"")),
}


# Those whose frames unisock itself reads, Starlette with our class on uvicorn.
@pytest.mark.parametrize("row", ["starlette", "aiohttp"])
@pytest.mark.parametrize("what", _WITHOUT_END)
def test_the_others_during_a_flood(tmp_path: Path, row: str, what: str) -> None:
    """A peer that sends without end as fast as it can holds up nobody else for a second."""
    first, one = _WITHOUT_END[what]
    piece = one * (262_144 // len(one))
    stop = threading.Event()
    sent: list[int] = []

    def flood(peer: Peer) -> None:
        with contextlib.suppress(OSError):  # its end
            while not stop.is_set():
                peer.write(piece)
                sent.append(len(piece))

    def read(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            while peer.socket.recv(262_144):
                pass

    with (
        App(tmp_path, row, UVICORN_WS="unisock.adapters.uvicorn:WebSocketProtocol") as app,
        app.undisturbed() as healthy,
        app.peer("/echo") as peer,
    ):
        peer.write(first)
        threads = [threading.Thread(target=each, args=[peer]) for each in (flood, read)]
        for thread in threads:
            thread.start()
        app.eventually(lambda: len(sent) > 4)
        before = len(sent)
        waited: list[float] = []
        while len(waited) < 15 or len(sent) == before:
            start = time.perf_counter()
            check_echo(healthy)
            waited.append(time.perf_counter() - start)
        assert threads[0].is_alive(), "it was ended"
        stop.set()
        peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    # The median, for the machine does other things as well.
    assert statistics.median(waited) < 0.5, waited
    assert max(waited) < 2.0, waited


def _write(peer: Peer, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the server does not wait for too much
        peer.write(data)


@pytest.mark.parametrize("app", [CLASS, "starlette", "aiohttp", "hypercorn"], indirect=True)
@pytest.mark.parametrize("what", ["a bomb", "never compressed"])
def test_compression(app: App, what: str) -> None:
    """A message is inflated up to the limit, by hypercorn 0.18 whole; one that cannot be is 1007.

    Or 1002, as uvicorn has it; hypercorn gives no code.
    """
    deflate = zlib.compressobj(wbits=-12)
    block = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    payload = (block * (BOMB // MIB))[:-4] if what == "a bomb" else b"\xff" * 20
    offer = f"{EXTENSIONS}: permessage-deflate; client_max_window_bits"
    slowest = _beside_a_flood(app)
    with app.undisturbed(slowest=slowest), app.peer("/echo", offer, accepted=False) as peer:
        assert b"permessage-deflate" in _read_head(peer)
        before = app.peak()
        peer.write(b"\xc2" + frame(2, payload)[1:])
        code = peer.read_frame()[1][:2]
        holds_all = app.peak() - before > MEMORY
    if what == "a bomb":
        assert (code, holds_all) == (b"\x03\xf1", app.row == "hypercorn")
    else:
        assert code in ((b"",) if app.row == "hypercorn" else (b"\x03\xea", b"\x03\xef"))


def test_a_request_behind_a_handshake_that_is_refused(app: App) -> None:
    """It is not answered, or by an answer of its own, behind one that says where it ends."""
    if app.row == "hypercorn":
        pytest.skip("hypercorn 0.18 answers 400 to both, and leaves the handler behind")
    request = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    refused = {
        "by the handler": handshake("/rejects"),
        "by its origin": handshake("/echo", "Origin: https://elsewhere.example"),
        "by its version": handshake("/echo").replace(b": 13", b": 8"),
        "by its key": handshake("/echo").replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"AAAA"),
        "by no route": handshake("/nowhere"),
    }
    with app.undisturbed():
        for how, sent in refused.items():
            with Peer(app, sent + request) as peer:
                assert _read_refusal(peer), how
                if app.row == "aiohttp" and how == "by no route":
                    assert _read_refusal(peer), how
                assert peer.file.read() == b"", how


def _read_refusal(peer: Peer) -> bool:
    """Read a response, which must say how long it is; whether it refuses."""
    head = _read_head(peer)
    (length,) = re.findall(rb"(?mi)^content-length: (\d+)\r$", head)
    body = peer.file.read(int(length))
    return head[9:10] == b"4" and b"HTTP/" not in body


def _read_head(peer: Peer) -> bytes:
    head = b""
    while line := peer.file.readline().removesuffix(b"\r\n"):
        head += line + b"\r\n"
    return head


def test_a_flood_behind_the_end_of_a_handler(app: App) -> None:
    """Who goes on sending after the close frame is let go of, and leaves nothing."""
    with app.undisturbed(NOISE.get(app.row, "")):
        for _ in range(5):
            with app.peer("/waits/close") as peer, contextlib.suppress(ConnectionError):
                peer.write(frame(1, b"x") * 50)
                while peer.read_frame()[0] not in (8, -1):
                    continue
