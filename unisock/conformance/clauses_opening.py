"""Section 3 of the contract: opening."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from unisock import HandshakeRejected, InvalidState, SocketView, SyncWebSocket, WebSocket

from .harness import Server, clause, http_error, journal, mounted

# 3.1 accept()

_ACCEPT_HEADERS: dict[str, Any] = {
    "none": None,
    "mapping": {"X-One": "1", "X-Latin": "gr\u00fc\u00df"},
    "pairs": [("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("X-One", "1")],
    "empty": {},
}


@mounted("/opening/accept/{headers}/{subprotocol}")
async def accept_with(ws: WebSocket) -> None:
    """Accept with headers and a subprotocol, and echo."""
    subprotocol = ws.path_params["subprotocol"]
    await ws.accept(
        subprotocol=None if subprotocol == "none" else subprotocol,
        headers=_ACCEPT_HEADERS[ws.path_params["headers"]],
    )
    await ws.send(await ws.receive())


@clause("3.1")
async def test_accept_sends_subprotocol_and_headers(server: Server) -> None:
    """A mapping or pairs, names may repeat; nothing is there that was not given."""
    for kind, headers in _ACCEPT_HEADERS.items():
        for subprotocol in ("chat.v1", "none"):
            path = f"/opening/accept/{kind}/{subprotocol}"
            expected = list(headers.items() if isinstance(headers, dict) else headers or ())
            if expected and server.row.without("accept_headers"):
                expected = []
            mark = server.log_mark()
            async with server.connect(path, subprotocols=["other", "chat.v1"]) as client:
                got = client.ws.response.headers
                sent = [(n.lower(), v) for n, v in expected]
                if not dict(sent).get("x-latin", "").isascii() and server.row.without("latin1"):
                    sent = [(n, v.encode().decode("latin-1")) for n, v in sent]
                names = ("x-one", "x-latin", "set-cookie")
                assert [(n.lower(), v) for n, v in got.raw_items() if n.lower() in names] == sent
                if subprotocol == "none" or server.row.without("subprotocol"):
                    assert "Sec-WebSocket-Protocol" not in got
                else:
                    assert got.get_all("Sec-WebSocket-Protocol") == [subprotocol]
                await client.send("open")
                assert await client.recv() == "open"
            warned = "left out" in await server.settled(mark)
            left_out = bool(headers and not expected)
            left_out |= subprotocol != "none" and not server.row.capabilities.subprotocol
            assert warned == left_out


_BAD_ACCEPTS: list[dict[str, Any]] = [
    {"subprotocol": "not-offered"},
    {"subprotocol": "CHAT"},
    {"subprotocol": ""},
    {"subprotocol": "chat, other"},
    {"headers": {"Sec-WebSocket-Accept": "x"}},
    {"headers": {"sec-websocket-protocol": "chat"}},
    {"headers": [("SEC-WEBSOCKET-EXTENSIONS", "permessage-deflate")]},
    {"headers": {"X-Injected": "x\r\nX-Bad: 1"}},
    {"headers": {"X-Injected": "x\nX-Bad: 1"}},
    {"headers": {"X-Injected": "x\rX-Bad: 1"}},
    {"headers": {"X-Injected": "x\x00"}},
    {"headers": {"X-Injected": "\u20ac"}},
    {"headers": {"X-Injected\r\nX-Bad": "1"}},
    {"headers": {"X Injected": "1"}},
    {"headers": {"": "1"}},
    {"headers": {"Connection": "close"}},
]


@mounted("/opening/bad-accept")
async def accept_badly(ws: WebSocket) -> None:
    """Accept with what must not be sent, all of it; then accept."""
    raised = []
    for arguments in _BAD_ACCEPTS:
        try:
            await ws.accept(**arguments)
        except Exception as exc:  # noqa: BLE001  # which one it is, the test looks at
            raised.append(type(exc).__name__)
        else:
            raised.append(f"none: {arguments}")
    journal(ws, "raised", raised=raised)
    await ws.accept(subprotocol="chat")
    await ws.send(await ws.receive())


@clause("3.1")
async def test_a_bad_accept_raises_before_anything_is_sent(server: Server) -> None:
    """ValueError each; the handshake is open still, and the next accept completes it."""
    async with server.connect("/opening/bad-accept", subprotocols=["chat", "other"]) as client:
        assert (await client.journal("raised"))["raised"] == ["ValueError"] * len(_BAD_ACCEPTS)
        names = {name.lower() for name, _ in client.ws.response.headers.raw_items()}
        assert not names & {"x-injected", "x-bad", "x injected", "sec-websocket-extensions"}
        await client.send("open")
        assert await client.recv() == "open"


# 3.2 reject()


@dataclass(frozen=True)
class _Rejection:
    """What a handler rejects with, and what the client gets."""

    arguments: dict[str, Any]
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


_REJECTIONS = {
    "default": _Rejection({}, 403),
    "body": _Rejection({"body": b"not \xff you\n" * 3}, 403, b"not \xff you\n" * 3),
    "challenge": _Rejection(
        {
            "status_code": 401,
            "body": b'{"who": "are you"}',
            "headers": {"WWW-Authenticate": "Basic", "Content-Type": "application/json"},
        },
        401,
        b'{"who": "are you"}',
        (("www-authenticate", "Basic"), ("content-type", "application/json")),
    ),
    "pairs": _Rejection(
        {"status_code": 429, "headers": [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]},
        429,
        b"",
        (("set-cookie", "a=1"), ("set-cookie", "b=2")),
    ),
    "large": _Rejection({"status_code": 404, "body": b"x" * 100_000}, 404, b"x" * 100_000),
    "server-error": _Rejection({"status_code": 503, "body": b"later"}, 503, b"later"),
    "redirect": _Rejection(
        {"status_code": 307, "headers": {"Location": "/elsewhere"}},
        307,
        b"",
        (("location", "/elsewhere"),),
    ),
    "unregistered": _Rejection({"status_code": 499, "body": b"own"}, 499, b"own"),
}


@mounted("/opening/reject/{kind}")
async def reject_with(ws: WebSocket) -> None:
    """Reject, and tell that this came back."""
    await ws.reject(**_REJECTIONS[ws.path_params["kind"]].arguments)
    journal(ws, "rejected", closed=ws.closed)


@mounted("/opening/close")
async def close_before_accept(ws: WebSocket) -> None:
    """Close what was never open."""
    await ws.close(4001, "never open")
    await ws.close()
    journal(ws, "rejected", closed=ws.closed)


@clause("3.2")
async def test_reject_is_that_http_response(server: Server) -> None:
    """Status, body and headers, and nothing in the log."""
    for kind, rejection in _REJECTIONS.items():
        mark = server.log_mark()
        status, body = rejection.status, rejection.body
        headers = rejection.headers
        if kind == "unregistered" and server.row.without("any_status"):
            status, body, headers = 403, b"", ()
        if len(headers) > len(dict(headers)) and server.row.without("repeated_headers"):
            headers = tuple(dict(headers).items())
        path = f"/opening/reject/{kind}"
        response = await server.check_rejected(path, status, body, headers)
        assert await server.journal(response.id, "rejected") == {"closed": True}
        assert "Traceback" not in await server.settled(mark), kind


@clause("3.2")
async def test_close_before_accept_is_a_403(server: Server) -> None:
    """Whatever code it was given; a second close does nothing."""
    mark = server.log_mark()
    response = await server.check_rejected("/opening/close", 403, b"")
    assert await server.journal(response.id, "rejected") == {"closed": True}
    assert "Traceback" not in await server.settled(mark)


_BAD_REJECTS: list[dict[str, Any]] = [
    {"status_code": 101},
    {"status_code": 199},
    {"status_code": 600},
    {"status_code": 0},
    {"headers": {"X-Injected": "x\r\nX-Bad: 1"}},
    {"headers": {"X-Injected": "\u20ac"}},
    {"headers": {"Sec-WebSocket-Accept": "x"}},
    {"headers": {"Content-Length": "5"}},
]


@mounted("/opening/bad-reject")
async def reject_badly(ws: WebSocket) -> None:
    """Reject with what must not be sent, all of it; then reject."""
    raised = []
    for arguments in _BAD_REJECTS:
        try:
            await ws.reject(**arguments)
        except Exception as exc:  # noqa: BLE001  # which one it is, the test looks at
            raised.append(type(exc).__name__)
        else:
            raised.append(f"none: {arguments}")
    journal(ws, "raised", raised=raised)
    await ws.reject(418, b"teapot")


@clause("3.2")
async def test_a_bad_reject_raises_before_anything_is_sent(server: Server) -> None:
    """ValueError each; the handshake is open still, and the next reject answers it."""
    response = await server.check_rejected("/opening/bad-reject", 418, b"teapot")
    raised = await server.journal(response.id, "raised")
    assert raised["raised"] == ["ValueError"] * len(_BAD_REJECTS)
    assert not {"x-injected", "x-bad"} & {name for name, _ in response.headers}


# 3.3 Wrong moments


async def _raised(call: Callable[[], Awaitable[Any]]) -> list[Any]:
    try:
        await call()
    except InvalidState as exc:
        return ["InvalidState", isinstance(exc, RuntimeError), "accept()" in str(exc)]
    except Exception as exc:  # noqa: BLE001  # which one it is, the test looks at
        return [type(exc).__name__, str(exc)]
    return ["none"]


_RIGHT = ["InvalidState", True, True]


@mounted("/opening/wrong-moments")
async def call_at_wrong_moments(ws: WebSocket) -> None:
    """Send and receive before accept, accept and reject after it."""
    before = [
        await _raised(call)
        for call in (
            lambda: ws.send("x"),
            lambda: ws.send_text("x"),
            lambda: ws.send_bytes(b"x"),
            lambda: ws.send_json({}),
            ws.receive,
            ws.receive_text,
            ws.receive_bytes,
            ws.receive_json,
            lambda: anext(aiter(ws)),
            lambda: anext(ws.iter_text()),
            lambda: anext(ws.iter_bytes()),
            lambda: anext(ws.iter_json()),
        )
    ]
    await ws.accept()
    after = [
        await _raised(call)
        for call in (ws.accept, ws.reject, lambda: ws.accept(headers={"x": "y"}), ws.accept)
    ]
    journal(ws, "raised", before=before, after=after)
    await ws.send(await ws.receive())


@clause("3.3")
async def test_calls_at_the_wrong_moment_raise_and_send_nothing(server: Server) -> None:
    """InvalidState, whose message names accept(); the first message is the first one sent."""
    async with server.connect("/opening/wrong-moments") as client:
        raised = await client.journal("raised")
        assert raised["before"] == [_RIGHT] * 12
        assert raised["after"] == [_RIGHT] * 4
        await client.send("first")
        assert await client.recv() == "first"
        assert await client.closed() == (1000, "")


# 3.4 Origins


async def tell_origin(ws: WebSocket) -> None:
    """Tell that the handler ran."""
    journal(ws, "ran", origin=ws.headers.get("origin"))
    await ws.accept()


mounted("/opening/origins/default")(tell_origin)
mounted("/opening/origins/listed", origins=["https://app.example", "null"])(tell_origin)
mounted("/opening/origins/any", origins="*")(tell_origin)
mounted("/opening/origins/insecure", origins=["http://listed.example"])(tell_origin)
mounted("/opening/hosts", allowed_hosts=["app.example", "*.below.example", "[::1]"])(tell_origin)

_HOST = "app.example:8000"
_OWN_HOST_PASSES = [
    # a Host header, and an Origin of the same host
    (_HOST, "http://app.example:8000"),
    (_HOST, "https://app.example:8000"),
    (_HOST, "HTTP://APP.Example:8000"),
    ("APP.example:8000", "http://app.example:8000"),
    ("app.example", "https://app.example"),
    ("app.example:443", "https://app.example"),
    ("app.example", "http://app.example:80"),
    ("[::1]:8000", "http://[::1]:8000"),
    ("[2001:DB8::1]", "https://[2001:db8::1]"),
    ("127.0.0.1:8000", "http://127.0.0.1:8000"),
]
_OTHERS = [
    (_HOST, "http://other.example:8000"),
    (_HOST, "http://app.example:8001"),
    (_HOST, "http://app.example"),
    (_HOST, "http://sub.app.example:8000"),
    (_HOST, "http://app.example:8000.evil.example"),
    (_HOST, "http://evil.example/app.example:8000"),
    (_HOST, "http://app.example:8000@evil.example"),
    (_HOST, "http://evil@app.example:8000"),
    (_HOST, "http://app.example:8000/path"),
    (_HOST, "http://evil.example http://app.example:8000"),
    (_HOST, "app.example:8000"),
    (_HOST, "null"),
    (_HOST, "file://"),
    (_HOST, "http://app.example:port"),
    (_HOST, ""),
    ("[::1]:8000", "http://[::2]:8000"),
    ("[::1]:8000", "http://[::1]"),
    ("localhost:8000", "http://127.0.0.1:8000"),
]
_NO_URLS = (
    "",
    "nonsense",
    "app.example:8000",
    "http://app.example:port",
    "http://app.example:8000.evil.example",
)


async def _is_odd(server: Server, path: str, host: str, origin: str) -> bool:
    """Whether the server itself finds fault with an Origin; the handler does not run then."""
    if origin not in _NO_URLS or not server.row.without("odd_origin"):
        return False
    response = await server.handshake(path, host=host, headers={"Origin": origin})
    assert response.status == 400
    return True


async def _check_passes(server: Server, path: str, host: str, *origins: str) -> None:
    if any([await _is_odd(server, path, host, origin) for origin in origins]):
        return
    headers = [("Origin", origin) for origin in origins]
    async with server.raw(path, host=host, headers=headers) as raw:
        assert await raw.journal("ran") == {"origin": origins[0] if origins else None}
        assert await raw.closed() == (1000, "")


async def _check_stopped(server: Server, path: str, host: str, origin: str) -> None:
    if await _is_odd(server, path, host, origin):
        return
    mark = server.log_mark()
    headers = {"Origin": origin}
    response = await server.check_rejected(path, 403, host=host, headers=headers)
    log = await server.wait_log("handshake rejected: origin", mark)
    warnings = [line for line in log.splitlines() if "handshake rejected: origin" in line]
    assert len(warnings) == 1
    assert "origins=[" in warnings[0]
    assert origin in warnings[0]
    assert f"the Host header says {host!r}" in warnings[0]
    assert "proxy_set_header Host $http_host" in warnings[0]
    assert "Traceback" not in log
    assert not server.events(response.id), f"{origin}: the handler ran"


@clause("3.4")
async def test_an_origin_of_the_own_host_passes(server: Server) -> None:
    """Whatever the scheme and the case; a default port may be left out; and no Origin at all."""
    for host, origin in _OWN_HOST_PASSES:
        await _check_passes(server, "/opening/origins/default", host, origin)
    await _check_passes(server, "/opening/origins/default", _HOST)


@clause("3.4")
async def test_another_origin_is_stopped_before_the_handler(server: Server) -> None:
    """403, and one warning: which origin, which host, which option, which line of nginx."""
    for host, origin in _OTHERS:
        await _check_stopped(server, "/opening/origins/default", host, origin)


@clause("3.4")
async def test_a_page_without_tls_is_another_origin_for_wss(server: Server) -> None:
    """Where the scheme is known to be `wss`, unless the option lists the origin."""
    if server.row.without("proxy"):
        return
    # granian 2.8 believes the scheme only together with the client.
    believed = [("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "203.0.113.9")]
    path = "/opening/origins/insecure"
    for origin in ("http://own.example", "http://own.example:80"):
        mark = server.log_mark()
        headers = [*believed, ("Origin", origin)]
        response = await server.check_rejected(path, 403, host="own.example", headers=headers)
        log = await server.wait_log("came without TLS", mark)
        assert f"origins=['{origin}']" in log, log
        assert not server.events(response.id), f"{origin}: the handler ran"
    for origin in ("https://own.example", "http://listed.example"):
        headers = [*believed, ("Origin", origin)]
        async with server.raw(path, host="own.example", headers=headers) as raw:
            assert (await raw.journal("ran"))["origin"] == origin
    await _check_passes(server, path, "own.example", "http://own.example")


@clause("3.5")
async def test_a_host_that_is_not_allowed_is_stopped(server: Server) -> None:
    """With 400, before the handler, and one warning that names the option; any without it."""
    path = "/opening/hosts"
    for host in ("evil.example", "app.example.evil.example", "below.app.example", "127.0.0.1:80"):
        mark = server.log_mark()
        response = await server.check_rejected(path, 400, host=host)
        log = await server.wait_log("handshake rejected", mark)
        assert f"the Host header says '{host}', which is none of allowed_hosts=" in log, log
        assert not server.events(response.id), f"{host}: the handler ran"
    for host in ("app.example", "APP.example:8000", "a.below.example", "[::1]:80", "app.example."):
        async with server.raw(path, host=host) as raw:
            await raw.journal("ran")
        async with server.raw("/opening/origins/any", host=host) as raw:
            await raw.journal("ran")


@clause("3.4")
async def test_two_origins_are_stopped(server: Server) -> None:
    """Though one, or both, would pass alone; some servers take them for a bad request."""
    own = f"http://{_HOST}"
    for origins in ((own, "http://evil.example"), ("http://evil.example", own), (own, own)):
        headers = [("Origin", origin) for origin in origins]
        async with server.raw(
            "/opening/origins/default", expect=None, host=_HOST, headers=headers
        ) as raw:
            status = (await raw.read_head()).status
            if server.row.without("deferred_upgrade"):
                assert (status, (await raw.closed())[0]) in ((101, 1008), (400, 1006))
            else:
                assert status in (400, 403)
        await server.settled()
        assert not raw.events(), f"{origins}: the handler ran"


@clause("3.4")
async def test_origins_are_added_by_the_option(server: Server) -> None:
    """Those listed pass, and the own host still; nothing else does."""
    path = "/opening/origins/listed"
    for origin in ("https://app.example", "https://APP.example:443", "null", "http://own.example"):
        await _check_passes(server, path, "own.example", origin)
    for origin in ("http://app.example", "https://app.example:8443", "https://a.app.example"):
        await _check_stopped(server, path, "own.example", origin)


@clause("3.4")
async def test_the_check_can_be_turned_off(server: Server) -> None:
    """Every origin passes, also what is none."""
    for origin in ("http://evil.example", "null", "nonsense", ""):
        await _check_passes(server, "/opening/origins/any", _HOST, origin)


# 3.6 Rejections that a browser can see

_VISIBLE: dict[str, tuple[int, str]] = {
    "reject": (4401, "who are you?"),
    "no-body": (4403, ""),
    "close": (4403, ""),
    "returns": (4403, ""),
    "rejected": (4404, "no such room"),
    "long": (4400, "x" * 122),
    "error": (4500, ""),
}


async def _reject_as(ws: WebSocket, how: str) -> None:
    if how == "reject":
        await ws.reject(401, b"who are you?\n", {"x-header": "x"})
        journal(ws, "rejected", closed=ws.closed, code=ws.close_code)
    elif how == "no-body":
        await ws.reject()
    elif how == "close":
        await ws.close(4001)
    elif how == "rejected":
        raise HandshakeRejected(404, b"no such room")
    elif how == "long":
        raise HandshakeRejected(400, b"x" * 122 + "é".encode() * 5)
    elif how == "error":
        raise LookupError(how)
    elif how == "http-error":
        raise http_error(409)


@mounted("/opening/visible/async/{how}", visible_rejections=True)
async def reject_visibly(ws: WebSocket, how: str) -> None:
    """Reject as the path says."""
    await _reject_as(ws, how)


@mounted("/opening/visible/class/{how}", visible_rejections=True)
class RejectVisibly(SocketView):
    """The same as a class."""

    async def on_connect(self) -> None:
        await _reject_as(self.websocket, self.websocket.path_params["how"])


@mounted("/opening/visible/plain/{how}", visible_rejections=True)
def reject_visibly_and_plainly(ws: SyncWebSocket, how: str) -> None:
    """The same as a plain function."""
    if how == "reject":
        ws.reject(401, b"who are you?\n", {"x-header": "x"})
        journal(ws, "rejected", closed=ws.closed, code=ws.close_code)
    elif how == "no-body":
        ws.reject()
    elif how == "close":
        ws.close(4001)
    elif how == "rejected":
        raise HandshakeRejected(404, b"no such room")
    elif how == "long":
        raise HandshakeRejected(400, b"x" * 122 + "é".encode() * 5)
    elif how == "error":
        raise LookupError(how)
    elif how == "http-error":
        raise http_error(409)


@mounted("/opening/visible/parameter", visible_rejections=True)
async def reject_a_parameter(ws: WebSocket, n: int) -> None:
    """Its parameter is missing."""


@clause("3.6")
async def test_a_rejection_that_a_browser_sees(server: Server) -> None:
    """The handshake is accepted, and closed with 4000 + status and the body."""
    for form in ("async", "class", "plain"):
        for how, (code, reason) in _VISIBLE.items():
            async with server.connect(f"/opening/visible/{form}/{how}") as client:
                assert await client.closed() == (code, reason), (form, how)
            if how == "reject":
                assert await client.journal("rejected") == {"closed": True, "code": 1006}
        if not server.row.without("http_error"):
            async with server.connect(f"/opening/visible/{form}/http-error") as client:
                assert (await client.closed())[0] == server.row.sends(4409)[0], form
    async with server.connect("/opening/visible/parameter") as client:
        assert await client.closed() == (4400, 'query parameter "n" is missing')
    async with server.raw(
        "/opening/visible/async/reject", headers={"Origin": "http://evil.example"}
    ) as raw:
        assert await raw.closed() == (4403, "origin not allowed")
        assert raw.events() == []
