"""The check of the opening handshake, and what is negotiated."""

from __future__ import annotations

import time
from typing import Any

import pytest

from unisock.wire.deflate import Deflate
from unisock.wire.opening import Opening, Refusal, build_response, check_opening

from .peer import HEADERS, KEY

Headers = list[tuple[str, str]]


def headers(**changes: str | None) -> Headers:
    """Those of a good handshake, some of them changed, left out or more."""
    given = {name.replace("_", "-").lower(): value for name, value in changes.items()}
    good: Headers = [(n, given.pop(n.lower(), v) or "") for n, v in HEADERS]
    return [pair for pair in good if pair[1]] + [(n, v) for n, v in given.items() if v is not None]


def check(pairs: Headers, method: str = "GET", version: str = "1.1", **options: Any) -> Opening:
    return check_opening(method, version, pairs, **options)


def refusal(pairs: Headers, method: str = "GET", version: str = "1.1") -> Refusal:
    with pytest.raises(Refusal) as caught:
        check(pairs, method, version)
    return caught.value


def test_the_answer_is_that_of_the_rfc() -> None:
    # RFC 6455, section 1.3
    opening = check(headers())
    head = opening.response("chat", [("x-more", "\u00e9")]).decode("latin-1").split("\r\n")
    assert head == [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "Sec-WebSocket-Protocol: chat",
        "x-more: \u00e9",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "good",
    [
        headers(Upgrade="WebSocket"),
        headers(Upgrade="h2c, websocket"),
        headers(Connection="close, Upgrade, upgrade"),
        headers(Content_Length="0"),
        headers(Sec_WebSocket_Extensions="x-unknown; a=1, permessage-deflate"),
        headers(Sec_WebSocket_Key=f" {KEY}\t"),
        [*headers(), ("X-Empty", ""), ("User-Agent", "h\xe9llo")],
    ],
)
def test_good_handshakes(good: Headers) -> None:
    assert check(good).key == KEY


@pytest.mark.parametrize(
    ("bad", "status_code"),
    [
        (headers(Host=""), 400),
        ([*headers(), ("Host", "other")], 400),
        (headers(Upgrade=""), 426),
        (headers(Upgrade="h2c"), 426),
        (headers(Connection="keep-alive"), 400),
        (headers(Sec_WebSocket_Version="8"), 426),
        (headers(Sec_WebSocket_Version=""), 426),
        (headers(Sec_WebSocket_Version="\u00b2"), 426),
        ([*headers(), ("Sec-WebSocket-Version", "13")], 426),
        (headers(Sec_WebSocket_Key=""), 400),
        (headers(Sec_WebSocket_Key="AAAA"), 400),
        (headers(Sec_WebSocket_Key="?" * 24), 400),
        (headers(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAB=="), 400),  # it is not canonical
        ([*headers(), ("Sec-WebSocket-Key", KEY)], 400),
        (headers(Content_Length="5"), 400),
        (headers(Content_Length="0_0"), 400),
        (headers(Content_Length="-0"), 400),
        ([*headers(), ("Content-Length", "0"), ("Content-Length", "5")], 400),
        (headers(Transfer_Encoding="chunked"), 400),
        ([*headers(), ("Origin ", "http://evil.example")], 400),
        ([*headers(), ("", "no name")], 400),
        ([*headers(), ("X", "a\rY: b")], 400),
        ([*headers(), ("X", "\0")], 400),
        (headers(Sec_WebSocket_Extensions="permessage-deflate;;="), 400),
        (headers(Sec_WebSocket_Extensions='a; b="'), 400),
    ],
)
def test_bad_handshakes(bad: Headers, status_code: int) -> None:
    found = refusal(bad)
    assert found.status_code == status_code
    head, _, body = found.response().partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0].startswith(f"http/1.1 {status_code} ")
    assert f"content-length: {len(body)}" in lines
    assert body == found.body != b""
    assert ("sec-websocket-version: 13" in lines) == (status_code == 426)
    assert "connection: " + ("upgrade" if status_code == 426 else "close") in lines


def test_it_is_a_get_of_http_1_1() -> None:
    assert refusal(headers(), "POST").headers == (("allow", "GET"),)
    assert refusal(headers(), "POST").status_code == 405
    for version in ("1.0", "2", ""):
        assert refusal(headers(), version=version).status_code == 400


@pytest.mark.parametrize("status_code", [200, 204, 304, 403, 599])
def test_a_response(status_code: int) -> None:
    head = build_response(status_code, b"", [("content-type", "x"), ("Date", "then")]).decode()
    assert head.count("ate: ") == 1
    assert ("content-length: 0" in head) == (status_code not in {204, 304})


# The negotiation of permessage-deflate (RFC 7692, section 7.1)


BOTH_RESET = "server_no_context_takeover; client_no_context_takeover"


def answer(offer: str, **options: Any) -> str | None:
    opening = check(headers(Sec_WebSocket_Extensions=offer), deflate=Deflate(**options))
    return None if opening.deflate is None else opening.deflate.header


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        ("", None),
        ("x-other", None),
        ("permessage-deflate", "permessage-deflate; server_max_window_bits=12"),
        (" , Permessage-Deflate ,", "permessage-deflate; server_max_window_bits=12"),
        (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            'permessage-deflate; client_max_window_bits="8" ; server_max_window_bits=10',
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=8",
        ),
        (
            f"permessage-deflate; {BOTH_RESET}",
            f"permessage-deflate; {BOTH_RESET}; server_max_window_bits=12",
        ),
        # What cannot be accepted is passed over.
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate; server_max_window_bits=12",
        ),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=012", None),
        ("permessage-deflate; client_max_window_bits=x", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
    ],
)
def test_offers(offer: str, expected: str | None) -> None:
    assert answer(offer) == expected


def test_the_servers_own_wishes() -> None:
    offer = "permessage-deflate; client_max_window_bits"
    full = answer(
        offer,
        server_max_window_bits=15,
        client_max_window_bits=15,
        server_no_context_takeover=True,
        client_no_context_takeover=True,
    )
    assert full == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        "client_max_window_bits=15"
    )


@pytest.mark.parametrize(
    ("value", "is_good"),
    [
        ("," * 60_000, True),
        ("a" * 60_000 + "@", False),
        ("a" + " " * 60_000 + "@", False),
        ("a;b" * 20_000 + "@", False),
        ("a" + ";b=c" * 15_000, True),
        ("a," * 30_000, True),
    ],
    ids=range(6),
)
def test_a_long_header_takes_no_time(value: str, is_good: bool) -> None:
    started = time.thread_time()
    found = headers(Sec_WebSocket_Extensions=value)
    assert check(found).key if is_good else refusal(found).status_code == 400
    # What looks again and again at what it has seen takes seconds.
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("server_max_window_bits", 8, ValueError),
        ("client_max_window_bits", 16, ValueError),
        ("memory_level", 0, ValueError),
        ("memory_level", "5", TypeError),
        ("server_max_window_bits", True, TypeError),
    ],
)
def test_bad_options(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        Deflate(**{option: value})


def test_what_compression_may_be() -> None:
    own = Deflate(memory_level=1)
    assert Deflate.parse("deflate") == Deflate()
    assert Deflate.parse(own) is own
    assert Deflate.parse(None) is None
    with pytest.raises(ValueError, match="compression="):
        Deflate.parse("gzip")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match="compression="):
        Deflate.parse(True)  # type: ignore[arg-type]  # the mistake
