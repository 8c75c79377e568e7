"""What is told of where a server listens."""

from __future__ import annotations

from argparse import Namespace

import pytest

from unisock import cli
from unisock.addresses import url_host


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", ("127.0.0.1", True)),
        ("::", ("[::1]", True)),
        ("::1", ("[::1]", False)),
        ("192.0.2.7", ("192.0.2.7", False)),
        ("app.example", ("app.example", False)),
    ],
)
def test_the_host_of_a_url(host: str, expected: tuple[str, bool]) -> None:
    assert url_host(host) == expected


def test_what_the_command_line_tells(capsys: pytest.CaptureFixture[str]) -> None:
    cli._tell(Namespace(host="0.0.0.0", path="/rooms/{n:int}"), {"": 8000})
    told = "ws://127.0.0.1:8000/rooms/1  (/rooms/{n:int}; on all addresses, 0.0.0.0)\n"
    assert capsys.readouterr().out == told
