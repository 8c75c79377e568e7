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
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from tests.servers import frame

from .conftest import App, Peer, check_echo, handshake
from .kinds import UVICORN
from .strategies import Attack, on_frames, on_handshakes

MIB = 1 << 20
LIMIT = 16 * MIB
# What one peer can make a server hold: a message at the limit, what it was made of,
# and what the allocator keeps of both.
MEMORY = 4 * LIMIT
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


@pytest.mark.parametrize("app", ["starlette", "flask", "aiohttp"], indirect=True)
@pytest.mark.parametrize("what", _FLOODS)
def test_floods(app: App, what: str) -> None:
    """Many parts of next to nothing are taken; too much is not, nor is it held."""
    flood, end = _FLOODS[what]
    with app.undisturbed(), app.peer("/echo") as peer:
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
        # uvicorn 0.54 holds some hundred bytes for each fragment, be it empty.
        of_uvicorn = 100 * FLOOD if app.row == "starlette" and what == "empty fragments" else 0
        assert app.peak() - before < MEMORY + of_uvicorn


def _write(peer: Peer, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the server does not wait for too much
        peer.write(data)


@pytest.mark.parametrize("app", ["starlette", "aiohttp", "hypercorn"], indirect=True)
@pytest.mark.parametrize("what", ["a bomb", "never compressed"])
def test_compression(app: App, what: str) -> None:
    """A message is inflated up to the limit, by hypercorn 0.18 whole; one that cannot be is 1007.

    Or 1002, as uvicorn has it; hypercorn gives no code.
    """
    deflate = zlib.compressobj(wbits=-12)
    block = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    payload = (block * (BOMB // MIB))[:-4] if what == "a bomb" else b"\xff" * 20
    offer = f"{EXTENSIONS}: permessage-deflate; client_max_window_bits"
    with app.undisturbed(), app.peer("/echo", offer, accepted=False) as peer:
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
