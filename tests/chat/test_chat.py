"""A chat says the same, to the byte, in every form, library and framework."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.frameworks import FRAMEWORKS
from tests.servers import RawClient, Server
from unisock.frameworks import find

ROOT = Path(__file__).parents[2]
SOURCE = "from tests.chat.server import main\nmain()\n"

# uvicorn's own classes, each on a framework.
WS = {"starlette": "websockets-sansio", "fastapi": "wsproto", "falcon": "websockets"}
LIBRARIES = ("dataclasses", "pydantic", "msgspec")
FORMS = ("function", "endpoint", "sync")

TEXT, BINARY, CLOSE = 1, 2, 8

TRUNCATED = "$: not JSON: input data was truncated"


def _text(payload: str) -> bytes:
    """A frame from the server."""
    return _frame(0x81, payload.encode())


def _close(code: int, reason: str = "") -> bytes:
    return _frame(0x88, struct.pack("!H", code) + reason.encode())


def _frame(first: int, payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes([first, len(payload)]) + payload


JOIN = '{"type":"join","room":"tea","name":"ada"}'
JOINED = _text('{"type":"joined","name":"ada","members":["ada"]}')
LEAVE = '{"type":"leave"}'
LEFT = _text('{"type":"left","name":"ada"}')

Step = tuple[str | bytes | None, bytes]
"""A message, or `None` for a close frame, and every byte that comes in answer."""


def _transcript(form: str) -> dict[str, list[Step]]:
    """All that is said on the wire."""
    unknown = (
        _close(1003, "unknown kind of message")
        if form == "endpoint"
        else _close(1007, '$.type: expected "join" or "say" or "leave", got "shout"')
    )
    return {
        "good messages": [
            (JOIN, JOINED),
            (
                '{"type":"say","text":"hello"}',
                _text('{"type":"said","name":"ada","text":"hello","mentions":[]}'),
            ),
            (
                '{"mentions":[{"at":0,"name":"bob"}],"text":"gr\\u00fc\u00df","type":"say"}',
                _text(
                    '{"type":"said","name":"ada","text":"gr\u00fc\u00df",'
                    '"mentions":[{"name":"bob","at":0}]}'
                ),
            ),
            (b'{"type": "leave"}', LEFT),
            (None, _close(1000)),
        ],
        "again in another room": [
            (JOIN, JOINED),
            (JOIN.replace("tea", "coffee"), JOINED),
            (LEAVE, LEFT),
            (LEAVE, _close(4000, "join a room first")),
        ],
        "not joined": [
            ('{"type":"say","text":"hello"}', _close(4000, "join a room first")),
        ],
        "extra fields": [
            ('{"type":"join","room":"tea","name":"ada","color":{"x":[1]}}', JOINED),
            (LEAVE[:-1] + ',"why":null}', LEFT),
            (None, _close(1000)),
        ],
        "unknown kind": [(JOIN, JOINED), ('{"type":"shout","text":"hello"}', unknown)],
        "unknown kind at once": [(b'{"type":"shout"}', unknown)],
        "missing field": [
            (JOIN, JOINED),
            ('{"type":"say"}', _close(1007, "$.text: missing")),
        ],
        "wrong type": [
            (JOIN, JOINED),
            ('{"type":"say","text":5}', _close(1007, "$.text: expected str, got int")),
        ],
        "wrong type in a list": [
            (JOIN, JOINED),
            (
                '{"type":"say","text":"x","mentions":[{"name":"a","at":0},{"name":"b","at":"x"}]}',
                _close(1007, "$.mentions[1].at: expected int, got str"),
            ),
        ],
        "missing field in a list": [
            (
                '{"type":"say","text":"x","mentions":[{"name":"a"}]}',
                _close(1007, "$.mentions[0].at: missing"),
            ),
        ],
        "not JSON": [
            (JOIN, JOINED),
            ("hello", _close(1007, "$: not JSON: invalid character (byte 0)")),
        ],
        "cut off": [(JOIN[:-1], _close(1007, TRUNCATED))],
        "empty": [(b"", _close(1007, TRUNCATED))],
        "not UTF-8": [(b'{"type":"\xff"}', _close(1007, "$: not JSON: not UTF-8"))],
        "not an object": [('["join"]', _close(1007, "$: expected object, got array"))],
        "no object at all": [("5", _close(1007, "$: expected object, got int"))],
        "tag of a wrong type": [
            ('{"type":5,"text":"x"}', _close(1007, "$.type: expected str, got int")),
        ],
        "no tag": [('{"text":"x"}', _close(1007, "$.type: missing"))],
    }


@pytest.fixture(scope="module", params=[name for name in FRAMEWORKS if find(name).adapter])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of each framework."""
    folder = tmp_path_factory.mktemp(request.param)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ws = {"WS": WS[request.param]} if request.param in WS else {}
    with Server(folder, SOURCE, PYTHONPATH=path, FRAMEWORK=request.param, **ws) as running:
        yield running


def _open(server: Server, path: str) -> RawClient:
    client = server.raw(path)
    client.socket.settimeout(10)
    assert b" 101 " in client.read_head()
    return client


def _answer(client: RawClient, message: str | bytes | None) -> bytes:
    """Send a message, or a close frame; the bytes of the frame that comes."""
    if message is None:
        client.send_frame(CLOSE, struct.pack("!H", 1000))
    elif isinstance(message, str):
        client.send_frame(TEXT, message.encode())
    else:
        client.send_frame(BINARY, message)
    answer = _raw_frame(client)
    if message is not None and answer[0] == 0x88:
        client.send_frame(CLOSE, answer[2:4])
    return answer


def _raw_frame(client: RawClient) -> bytes:
    """The bytes of the next frame, which is a short one."""
    head = client.file.read(2)
    return head + client.file.read(head[1])


def _converse(server: Server, path: str, steps: list[Step]) -> list[bytes]:
    with _open(server, path) as client:
        return [*(_answer(client, message) for message, _ in steps), client.file.read()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_byte(server: Server, library: str, form: str) -> None:
    for name, steps in _transcript(form).items():
        received = _converse(server, f"/{library}/{form}", steps)
        assert received == [*(expected for _, expected in steps), b""], name
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_all_in_a_room_are_told(server: Server, library: str, form: str) -> None:
    path = f"/{library}/{form}"
    together = _text('{"type":"joined","name":"bob","members":["ada","bob"]}')
    said = _text('{"type":"said","name":"bob","text":"hi","mentions":[]}')
    with (
        _open(server, path) as ada,
        _open(server, path) as bob,
        _open(server, path) as eve,
    ):
        assert _answer(ada, JOIN) == JOINED
        assert _answer(eve, '{"type":"join","room":"coffee","name":"eve"}') == _text(
            '{"type":"joined","name":"eve","members":["eve"]}'
        )
        assert _answer(bob, JOIN.replace("ada", "bob")) == together
        assert _raw_frame(ada) == together
        for _ in range(3):
            assert _answer(bob, '{"type":"say","text":"hi"}') == said
            assert _raw_frame(ada) == said
        # One who breaks the rules is gone, for the others too.
        assert _answer(ada, "{}") == _close(1007, "$.type: missing")
        assert ada.file.read() == b""
        ada.close()
        until = time.monotonic() + 15
        alone = _text('{"type":"joined","name":"bob","members":["bob"]}')
        while (told := _answer(bob, JOIN.replace("ada", "bob"))) != alone:
            # The connection ends first, and then its handler.
            assert told == together
            assert time.monotonic() < until
        # Nothing of it came to another room.
        assert _answer(eve, LEAVE) == _text('{"type":"left","name":"eve"}')
    assert "Traceback" not in server.log()
