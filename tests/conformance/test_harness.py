"""The harness of the suite: what it takes for a server that serves, and what it compares."""

from __future__ import annotations

import sys

from unisock import Capabilities
from unisock.conformance.harness import Closed, running
from unisock.conformance.rows import Row

RESETS = """
import socket, struct, sys

with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\n\\r\\n"
                b"\\x88\\x02\\x03\\xe8"
            )
            connection.recv(65536)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""


def row(**lacks: str) -> Row:
    return Row(
        name="it",
        framework="it",
        server="it",
        command=lambda port: [sys.executable, "-c", RESETS, str(port)],
        capabilities=Capabilities(**dict.fromkeys(lacks, False)),
        lacks=lacks,
    )


def test_a_server_that_resets_its_connections_serves() -> None:
    with running(row()) as server:
        assert server.pid


def test_a_close_is_compared_with_what_the_row_can_send() -> None:
    assert Closed(row(), 1011, "why") == (1011, "why")
    assert Closed(row(), 1011, "") != (1011, "why")
    assert Closed(row(), 4011, "why") != (1011, "why")
    lacking = row(own_close_code="it refuses some", own_close_reason="it drops it")
    assert Closed(lacking, 4011, "") == (1011, "why")
    assert Closed(lacking, 1011, "") != (1011, "why")
    for code in (1000, 1005, 1006, 3000, 4999):
        assert Closed(lacking, code, "") == (code, "")
