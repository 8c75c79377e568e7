"""Plain functions that send to a peer which does not read."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import pytest

from tests.servers import Server

CLOSE = 8
LEFT = (CLOSE, struct.pack("!H", 4001))


@pytest.mark.parametrize("kind", ["starlette", "flask"])
def test_a_send_ends_when_the_peer_closes(
    kind: str, start: Callable[..., Server], eventually: Callable[[Callable[[], bool]], None]
) -> None:
    with start(kind) as server, server.raw("/blocks/send") as client:
        client.read_head()
        sent = [-1]

        def stands_still() -> bool:
            sent.append(json.loads(server.get("/left")[1])["sent"])
            return sent[-1] == sent[-2] > 0

        eventually(stands_still)
        client.send_frame(*LEFT)
        server.wait_for_log("told: send disconnect 4001")
        # Not because the connection was cut: what was sent before is still there.
        last = (-1, b"")
        while (received := client.read_frame())[0] != -1:
            last = received
        assert last == LEFT
    assert "Traceback" not in server.log()
