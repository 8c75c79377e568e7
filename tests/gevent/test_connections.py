"""The socket's side: keepalive, slow peers, limits, what a client sends too early."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.servers import Server, frame

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Eventually = Callable[[Callable[[], bool]], None]


def _counts(server: Server) -> dict[str, int]:
    counts: dict[str, int] = json.loads(server.get("/counts")[1])
    return counts


def test_a_peer_that_answers_pings_stays(server: Server) -> None:
    with server.raw("/pinged") as client:
        client.read_head()
        assert client.read_frame() == (TEXT, b"sleeping")
        for _ in range(3):
            opcode, payload = client.read_frame()
            assert opcode == PING
            client.write(frame(PONG, payload))


def test_a_peer_that_answers_no_ping_is_gone(server: Server) -> None:
    with server.raw("/pinged") as client:
        client.read_head()
        assert client.read_frame() == (TEXT, b"sleeping")
        assert client.read_frame()[0] == PING
        opcode, payload = client.read_frame()
        assert opcode == CLOSE
        assert payload == struct.pack("!H", 1011) + b"keepalive ping timeout"
        assert client.read_frame() == (-1, b"")
    assert _counts(server)["code"] == 1006


def test_without_a_timeout_pings_go_on_unanswered(server: Server) -> None:
    with server.raw("/pinged-untimed") as client:
        client.read_head()
        assert client.read_frame() == (TEXT, b"sleeping")
        assert [client.read_frame()[0] for _ in range(4)] == [PING] * 4


def test_a_pong_behind_unread_messages_is_no_timeout(server: Server) -> None:
    with server.raw("/pinged-late") as client:
        client.read_head()
        assert client.read_frame() == (TEXT, b"accepted")
        # The inbox takes one: from here on the server reads nothing.
        for n in range(3):
            client.write(frame(TEXT, b"%d" % n))
        for _ in range(1):
            opcode, payload = client.read_frame()
            assert opcode == PING
            client.write(frame(PONG, payload))
        # Several timeouts later the connection is still there.
        assert [client.read_frame()[0] for _ in range(6)] == [PING] * 6
        server.get("/read-now")[1]
        texts: list[bytes] = []
        while len(texts) < 3:
            opcode, payload = client.read_frame()
            if opcode == TEXT:
                texts.append(payload)
            elif opcode == PING:
                client.write(frame(PONG, payload))
        assert texts == [b"0", b"1", b"2"]


def test_a_slow_peer_stops_nobody_else(server: Server, eventually: Eventually) -> None:
    async def echo_a_while() -> None:
        async with asyncio.timeout(20), connect(server.url("/echo")) as ws:
            for n in range(200):
                await ws.send(str(n))
                assert await ws.recv() == str(n)

    with server.raw("/much") as slow:
        slow.read_head()

        def stands_still() -> bool:
            before = _counts(server)["sent"]
            asyncio.run(echo_a_while())
            return before > 0 and _counts(server)["sent"] == before

        eventually(stands_still)
        # What waits is bounded: the kernel's buffers and one message over the mark.
        assert _counts(server)["sent"] * 65536 < 32 * 1024 * 1024
        for _ in range(100):
            assert slow.read_frame() == (BINARY, b"x" * 65536)
    eventually(lambda: _counts(server)["sending ended"] > 0)


def test_a_peer_that_never_reads_is_gone_by_keepalive(
    server: Server, eventually: Eventually
) -> None:
    before = _counts(server)["sending ended"]
    with server.raw("/much-pinged") as client:
        client.read_head()
        eventually(lambda: _counts(server)["sending ended"] > before)


def test_the_pongs_of_a_peer_that_does_not_read_are_not_stored(
    server: Server, eventually: Eventually
) -> None:
    before = _counts(server)
    with server.raw("/echo") as client:
        client.read_head()
        pings = frame(PING, b"p" * 125) * 1000
        for _ in range(300):
            client.write(pings)
        client.write(frame(PING, b"the last"))
        assert _counts(server)["KiB"] - before["KiB"] < 16 * 1024
        # Some wait in the sockets, and then the last one of all (RFC 6455, section 5.5.3).
        count = 0
        while (pong := client.read_frame()) != (PONG, b"the last"):
            assert pong in {(PONG, b"p" * 125), (PING, b"")}
            count += 1
        assert count < 200_000
        client.reset()
    eventually(lambda: _counts(server)["echoes ended"] > before["echoes ended"])


def test_a_message_over_the_limit_in_many_fragments(server: Server) -> None:
    with server.raw("/small") as client:
        client.read_head()
        client.write(frame(TEXT, b"x", fin=False))
        for _ in range(2000):
            client.write(frame(0, b"x", fin=False))
        opcode, payload = client.read_frame()
        assert opcode == CLOSE and payload[:2] == struct.pack("!H", 1009)
        assert client.read_frame() == (-1, b"")


def test_a_close_frame_reaches_a_client_that_goes_on_sending(server: Server) -> None:
    with server.raw("/small") as client:
        client.read_head()
        # More than the sockets hold: if it were cut at once, the reset would
        # overtake the close frame.
        client.write(frame(BINARY, bytes(4 * 1024 * 1024)))
        opcode, payload = client.read_frame()
        assert opcode == CLOSE and payload[:2] == struct.pack("!H", 1009)


def test_broken_text_fails_the_connection(server: Server) -> None:
    with server.raw("/echo") as client:
        client.read_head()
        client.write(frame(TEXT, b"\xce", fin=False) + frame(0, b"\xba\xff"))
        opcode, payload = client.read_frame()
        assert opcode == CLOSE and payload[:2] == struct.pack("!H", 1007)


def test_frames_that_come_with_the_handshake_are_read(server: Server) -> None:
    request = (
        b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with server.raw("/echo") as client:
        client.read_head()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as early:
        early.sendall(request + frame(TEXT, b"early") + frame(TEXT, b"bird"))
        answer = b""
        while not answer.endswith(b"\x81\x05early\x81\x04bird"):
            data = early.recv(4096)
            assert data, answer
            answer += data


def test_a_client_that_leaves_before_accept_is_noticed(
    server: Server, eventually: Eventually
) -> None:
    waiting = _counts(server)["waiting"]
    ended = _counts(server)["waiting ended"]
    with server.raw("/waits") as client:
        eventually(lambda: _counts(server)["waiting"] == waiting + 1)
        client.reset()
    eventually(lambda: _counts(server)["waiting ended"] == ended + 1)
    assert _counts(server)["code"] == 1006


def test_bytes_after_a_refused_upgrade_are_no_request(server: Server) -> None:
    smuggled = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.raw("/nowhere") as client:
        client.write(smuggled)
        assert b" 404 " in client.read_head()
        assert b"the page" not in client.file.read()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), b"400"),
        ((b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), b"400"),
        ((b"Version: 13", b"Version: 8"), b"426"),
        ((b"HTTP/1.1", b"HTTP/1.0"), b"400"),
        ((b"GET", b"POST"), b"405"),
        ((b"Connection: Upgrade\r\n", b""), b"400"),
        ((b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello"), b"400"),
        ((b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), b"400"),
    ],
)
def test_a_malformed_handshake_gets_its_status(
    server: Server, change: tuple[bytes, bytes], status: bytes
) -> None:
    request = (
        b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert change[0] in request
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request.replace(*change))
        with client.makefile("rb") as file:
            head = file.read()
        assert head.split(b" ")[1] == status, head
        if status == b"426":
            assert b"sec-websocket-version: 13" in head.lower()
    assert "Traceback" not in server.log()


def test_a_peer_that_does_not_answer_the_close_is_cut(server: Server) -> None:
    with server.raw("/hasty") as client:
        client.read_head()
        client.write(frame(BINARY, bytes([0xFF]), fin=True).replace(b"\x82", b"\x83", 1))
        opcode, payload = client.read_frame()
        assert opcode == CLOSE and payload[:2] == struct.pack("!H", 1002)
        # The client keeps its side open; the server ends it after its timeout.
        assert client.socket.recv(1) == b""


def test_nothing_is_left_after_many_endings(server: Server, eventually: Eventually) -> None:
    async def connect_and_leave() -> None:
        async with connect(server.url("/echo")) as ws:
            await ws.send("x")
            await ws.recv()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(connect_and_leave())

    before = _counts(server)
    asyncio.run(main())
    for _ in range(20):
        client = server.raw("/echo")
        client.read_head()
        client.write(frame(TEXT, b"half a message", fin=False)[:-3])
        client.reset()

    def back() -> bool:
        now = _counts(server)
        return now["tasks"] <= before["tasks"] and now["fds"] <= before["fds"]

    eventually(back)
    assert "never retrieved" not in server.log()


def test_a_stopping_server_tells_its_connections(spare_server: Server) -> None:
    async def main() -> None:
        async with connect(spare_server.url("/sleeps")) as ws:
            assert await ws.recv() == "sleeping"
            stopping = asyncio.create_task(asyncio.to_thread(spare_server.stop))
            with pytest.raises(ConnectionClosed) as caught:
                await ws.recv()
            assert caught.value.rcvd is not None and caught.value.rcvd.code == 1012
            assert "Traceback" not in await stopping

    asyncio.run(main())
    assert spare_server.process.returncode == 0


def test_a_timeout_of_the_application_ends_the_handler(
    server: Server, eventually: Eventually
) -> None:
    before = _counts(server)
    with server.raw("/struck") as client:
        client.read_head()
        opcode, payload = client.read_frame()
        assert opcode == CLOSE and payload == struct.pack("!H", 1012)
    eventually(lambda: _counts(server)["struck"] == before["struck"] + 1)


def test_a_handshake_after_the_server_has_closed_is_refused(spare_server: Server) -> None:
    # A first session, for the server to have any.
    with spare_server.raw("/echo") as client:
        client.read_head()
    with (
        spare_server.raw("/echo") as open_before,
        socket.create_connection(("127.0.0.1", spare_server.port), timeout=10) as kept,
    ):
        open_before.read_head()
        kept.sendall(b"GET /close-server HTTP/1.1\r\nHost: x\r\n\r\n")
        with kept.makefile("rb") as file:
            answer = b""
            while not answer.endswith(b"closed"):
                answer += file.read(1)
            kept.sendall(
                b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert b" 503 " in file.readline()
        assert open_before.read_frame() == (CLOSE, struct.pack("!H", 1012))


def test_sends_that_were_given_up_leave_nothing_waiting(
    server: Server, eventually: Eventually
) -> None:
    before = _counts(server)["given up"]
    with server.raw("/gives-up") as client:
        client.read_head()
        eventually(lambda: _counts(server)["given up"] == before + 1)
    assert _counts(server)["write waiters"] == 0
