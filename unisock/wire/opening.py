"""The opening handshake: the check of the request, and the answers as bytes.

RFC 6455, section 4.2.1 says what a client must send, section 4.2.2 what the server answers.
"""

from __future__ import annotations

import base64
import hashlib
import http
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate

from .deflate import Agreement, Deflate, read_extensions

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile("[A-Za-z0-9+/]{21}[AQgw]==")  # 16 bytes in base64
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}

_ASKED = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)


class Refusal(Exception):
    """A request that is no handshake, and the HTTP response that says so."""

    def __init__(
        self, status_code: int, body: bytes, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(f"{status_code} {body!r}")
        self.status_code = status_code
        self.body = body
        self.headers = headers

    def response(self) -> bytes:
        """The whole response."""
        headers = (("content-type", "text/plain; charset=utf-8"), *self.headers)
        return build_response(self.status_code, self.body, headers)


@dataclass(frozen=True, slots=True)
class Opening:
    """A handshake that may be accepted.

    Attributes:
        key: that of the client.
        deflate: the compression that accepting it agrees on.
    """

    key: str
    deflate: Agreement | None

    def headers(self, subprotocol: str | None) -> list[tuple[str, str]]:
        """The headers of the 101 (section 4.2.2), but for those of the application."""
        digest = hashlib.sha1(f"{self.key}{_GUID}".encode()).digest()  # noqa: S324  # the RFC's
        headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", base64.b64encode(digest).decode()),
        ]
        if subprotocol is not None:
            headers.append(("Sec-WebSocket-Protocol", subprotocol))
        if self.deflate is not None:
            headers.append(("Sec-WebSocket-Extensions", self.deflate.header))
        return headers

    def response(self, subprotocol: str | None, headers: Iterable[tuple[str, str]]) -> bytes:
        """The whole 101."""
        return build_head(101, (*self.headers(subprotocol), *headers))


def check_opening(
    method: str,
    http_version: str,
    headers: Iterable[tuple[str, str]],
    *,
    deflate: Deflate | None = None,
) -> Opening:
    """Check a request (section 4.2.1).

    Args:
        method: as ``"GET"``.
        http_version: as ``"1.1"``.
        headers: every line, values decoded as latin-1.
        deflate: how messages are compressed, if the client offers it.

    Raises:
        Refusal: it is no handshake that can be accepted.
    """
    found = _collect(headers)
    if method != "GET":
        raise Refusal(405, b"a WebSocket handshake is a GET\n", (("allow", "GET"),))
    if http_version != "1.1":
        raise Refusal(400, b"a WebSocket handshake is a request of HTTP/1.1\n")
    if "websocket" not in _tokens(found, "upgrade"):
        raise _upgrade_required(b"this is a WebSocket endpoint\n")
    if "upgrade" not in _tokens(found, "connection"):
        raise Refusal(400, b"a WebSocket handshake has the header Connection: Upgrade\n")
    if len(found.get("host", ())) != 1:
        raise Refusal(400, b"a request has one Host\n")
    if "transfer-encoding" in found or any(n != "0" for n in found.get("content-length", ())):
        # Its bytes would be taken for frames.
        raise Refusal(400, b"a WebSocket handshake has no body\n")
    if found.get("sec-websocket-version") != ["13"]:
        raise _upgrade_required(b"version 13 of the WebSocket protocol is spoken here\n")
    keys = found.get("sec-websocket-key", [])
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise Refusal(400, b"a WebSocket key is 16 bytes in base64\n")
    try:
        extensions = read_extensions(found.get("sec-websocket-extensions", ()))
    except ValueError:
        raise Refusal(400, b"Sec-WebSocket-Extensions is malformed\n") from None
    return Opening(keys[0], None if deflate is None else deflate.negotiate(extensions))


def _upgrade_required(body: bytes) -> Refusal:
    """Section 4.2.2: tell the version that is spoken here."""
    headers = (
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-version", "13"),
    )
    return Refusal(426, body, headers)


def _collect(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The headers that are asked for.

    Raises:
        Refusal: a header that none may send (RFC 9110, section 5).
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        if not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise Refusal(400, b"a header has a character that none may have\n")
        lower = name.lower()
        if lower in _ASKED:
            found.setdefault(lower, []).append(value.strip(" \t"))
    return found


def _tokens(found: dict[str, list[str]], name: str) -> list[str]:
    values = ",".join(found.get(name, ()))
    return [token.strip(" \t").lower() for token in values.split(",")]


def build_response(status_code: int, body: bytes, headers: Iterable[tuple[str, str]]) -> bytes:
    """A whole HTTP response, after which the TCP connection ends."""
    pairs = list(headers)
    names = {name.lower() for name, _ in pairs}
    if "date" not in names:
        pairs.append(("date", formatdate(usegmt=True)))
    if "content-length" not in names and status_code not in {204, 304}:
        pairs.append(("content-length", str(len(body))))
    # No `close` beside the `upgrade` of a 426, which RFC 9110, section 7.8 asks for.
    if "connection" not in names:
        pairs.append(("connection", "close"))
    return build_head(status_code, pairs) + body


def build_head(status_code: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of an HTTP response; a status that is not registered has no phrase."""
    lines = [f"HTTP/1.1 {status_code} {_PHRASES.get(status_code, '')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
