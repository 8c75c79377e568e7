"""Section 2 of the contract: the handshake, readable before ``accept()``."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from unisock import URL, Address, WebSocket

from .harness import Client, RawClient, Server, clause, http_error, journal, mounted

Reader = Callable[[WebSocket], Any]


def _tell(path: str, read: Reader) -> None:
    """Mount a handler that journals what `read` gives before, within and after the connection."""

    async def handler(ws: WebSocket) -> None:
        journal(ws, "before", read=read(ws))
        await ws.accept()
        journal(ws, "open", read=read(ws))
        await ws.wait_closed()
        journal(ws, "after", read=read(ws))

    mounted(path)(handler)


async def _told(client: Client | RawClient) -> Any:
    """What the handler has read; it must be the same at all times."""
    if isinstance(client, RawClient):
        await client.send_frame(8, b"\x03\xe8")
        await client.eof()
    else:
        await client.close()
    before = (await client.journal("before"))["read"]
    assert (await client.journal("open"))["read"] == before
    assert (await client.journal("after"))["read"] == before
    return before


# 2.1 URL


def _read_url(ws: WebSocket) -> dict[str, Any]:
    assert type(ws.url) is URL
    assert isinstance(ws.url, str)
    parts = ("scheme", "hostname", "port", "path", "query")
    return {"url": str(ws.url), **{part: getattr(ws.url, part) for part in parts}}


_tell("/handshake/url/{rest:path}", _read_url)


@clause("2.1")
async def test_the_url_as_the_client_sent_it(server: Server) -> None:
    """Its parts, percent-encoding in path and query, with and without a query."""
    for sent, decoded in (("plain", "plain"), ("a%20b/%C3%BC%3F", "a b/\u00fc?")):
        for query in ("x=1&y=%20%C3%BC&x=2", "x"):
            async with server.connect(f"/handshake/url/{sent}?{query}") as client:
                query_sent = f"{query}&id={client.id}"
                assert await _told(client) == {
                    "url": server.url(f"/handshake/url/{sent}?{query_sent}"),
                    "scheme": "ws",
                    "hostname": server.host,
                    "port": server.port,
                    "path": f"/handshake/url/{decoded}",
                    "query": query_sent,
                }


@clause("2.1")
async def test_the_url_has_the_clients_host(server: Server) -> None:
    """The Host header counts, not the address; the port is `None` if it names none."""
    hosts = {
        "App.Example": ("app.example", None),
        "app.example:8080": ("app.example", 8080),
        "[::1]:8080": ("::1", 8080),
    }
    for host, (name, port) in hosts.items():
        async with server.raw("/handshake/url/x", host=host) as raw:
            told = await _told(raw)
            assert (told["hostname"], told["port"]) == (name, port)
            assert told["url"].startswith(f"ws://{host}/handshake/url/x?")


@clause("2.1")
async def test_a_target_in_absolute_form(server: Server) -> None:
    """As a proxy sends it: its path is the path, and its host the host."""
    authorities = [f"{server.host}:{server.port}"]
    if not server.row.without("absolute_host"):
        authorities += ["Other.example", "other.example:81"]
    for authority in authorities:
        target = f"http://{authority}/handshake/url/a%20b"
        async with server.raw(target, expect=None) as raw:
            response = await raw.read_head()
            if server.row.without("absolute_form"):
                if response.status == 101:
                    assert (await raw.closed())[0] in (1005, 1006)
                else:
                    assert response.status == server.row.no_route_status
                continue
            assert response.status == 101
            told = await _told(raw)
            assert told["url"].lower() == (
                f"ws://{authority}/handshake/url/a%20b?id={raw.id}".lower()
            )
            assert told["path"] == "/handshake/url/a b"


_tell(
    "/handshake/decoded/{name}/{rest:path}",
    lambda ws: [ws.path_params["name"], ws.path_params["rest"], ws.url.path],
)


@clause("2.1", "2.2")
async def test_percent_encoding_that_is_no_utf8(server: Server) -> None:
    """U+FFFD in the path and in parameters alike; what is no escape stays as it is."""
    cases = {
        "%FF/%C3%BC%FF/x": ["\ufffd", "\u00fc\ufffd/x"],
        "%E2%82x%C3%28/%F0%9F": ["\ufffdx\ufffd(", "\ufffd"],
        "%25FF%41/%FF%25FF%2541": ["%FFA", "\ufffd%FF%41"],
        "%zz%4/100%": ["%zz%4", "100%"],
        "%2525/%25": ["%25", "%"],
        "a+b%2Bc/%00": ["a+b+c", "\0"],
    }
    for sent, (name, rest) in cases.items():
        async with server.connect(f"/handshake/decoded/{sent}") as client:
            path = f"/handshake/decoded/{name}/{rest}"
            assert await _told(client) == [name, rest, path], sent


@clause("2.1")
async def test_the_path_holds_the_mount_prefix(server: Server) -> None:
    """An application below another one sees the whole path."""
    if server.row.without("prefix"):
        response = await server.handshake("/prefix/handshake/url/x")
        assert response.status == server.row.no_route_status
        return
    path = f"{server.row.prefix}/handshake/url/a%20b"
    async with server.connect(path) as client:
        told = await _told(client)
        assert told["url"] == server.url(f"{path}?id={client.id}")
        assert told["path"] == f"{server.row.prefix}/handshake/url/a b"


async def _believes_no_proxy(server: Server) -> bool:
    """Whether the row lacks that; then check that what anybody may send changes nothing."""
    if not server.row.without("proxy"):
        return False
    lines = {"For": "203.0.113.9", "Proto": "https", "Prefix": "/behind"}
    headers = {f"X-Forwarded-{name}": value for name, value in lines.items()}
    async with server.connect("/handshake/url/x", additional_headers=headers) as client:
        assert (await _told(client))["url"] == server.url(f"/handshake/url/x?id={client.id}")
    async with server.connect("/handshake/client", additional_headers=headers) as client:
        assert await _told(client) == list(client.ws.local_address[:2])
    return True


@clause("2.1")
async def test_the_scheme_that_a_proxy_gives(server: Server) -> None:
    """What a believed proxy calls ``https`` is ``wss``; nothing else but the two comes out."""
    if await _believes_no_proxy(server):
        return
    for said, scheme in (("https", "wss"), ("wss", "wss"), ("http", "ws"), ("ftp", "ws")):
        # granian 2.8 believes the scheme only together with the client.
        headers = {"X-Forwarded-Proto": said, "X-Forwarded-For": "203.0.113.9"}
        async with server.connect("/handshake/url/x", additional_headers=headers) as client:
            told = await _told(client)
            assert told["scheme"] == scheme, said
            assert told["url"] == server.url(f"/handshake/url/x?id={client.id}", scheme), said


@clause("2.1")
async def test_the_prefix_that_a_proxy_has_removed(server: Server) -> None:
    """A believed proxy says what stood before the path when the client sent it."""
    if await _believes_no_proxy(server):
        return
    for prefix in ("/behind", "/be/hind"):
        headers = {"X-Forwarded-Prefix": prefix}
        async with server.connect("/handshake/url/a%20b", additional_headers=headers) as client:
            told = await _told(client)
            assert told["url"] == server.url(f"{prefix}/handshake/url/a%20b?id={client.id}")
            assert told["path"] == f"{prefix}/handshake/url/a b"


# 2.2 Parameters, headers, cookies


def _read_params(ws: WebSocket) -> dict[str, Any]:
    assert isinstance(ws.path_params, Mapping)
    query = ws.query_params
    return {
        "path": {name: [type(v).__name__, str(v)] for name, v in ws.path_params.items()},
        "first": query.get("a"),
        "all": query.getall("a", []),
        "blank": query.get("b"),
        "encoded": query.get("c"),
        "names": sorted(set(query) - {"id"}),
        "missing": query.get("nothing"),
        "writable": hasattr(query, "__setitem__") or hasattr(query, "add"),
    }


_tell("/handshake/params/{n:int}/{name}/{id:uuid}", _read_params)


@clause("2.2")
async def test_parameters_of_path_and_query(server: Server) -> None:
    """Converted and decoded; of a repeated name the first, and all in order."""
    uuid = "c0ffee00-1234-4abc-8def-0123456789ab"
    query = "a=1&b=&a=2&c=%C3%BC+%26&a=1"
    async with server.connect(f"/handshake/params/7/x%20y/{uuid}?{query}") as client:
        assert await _told(client) == {
            "path": {"n": ["int", "7"], "name": ["str", "x y"], "id": ["UUID", uuid]},
            "first": "1",
            "all": ["1", "2", "1"],
            "blank": "",
            "encoded": "\u00fc &",
            "names": ["a", "b", "c"],
            "missing": None,
            "writable": False,
        }


def _read_headers(ws: WebSocket) -> dict[str, Any]:
    headers = ws.headers
    return {
        "first": headers["X-Twice"],
        "all": headers.getall("x-tWICE"),
        "spelled": ["x-other" in headers, "X-OTHER" in headers, "x_other" in headers],
        "names": sorted({name for name in headers if name.startswith("x-")}),
        "latin-1": headers.get("X-Latin"),
        "upgrade": headers["upgrade"].lower(),
        "writable": hasattr(headers, "__setitem__") or hasattr(headers, "add"),
    }


_tell("/handshake/headers", _read_headers)


@clause("2.2")
async def test_headers(server: Server) -> None:
    """Names without regard to case and in lower case; repeated lines stay apart, in order."""
    sent = [
        ("X-Twice", "one"),
        ("X-Other", "between"),
        ("x-twice", "two, three"),
        ("X-TWICE", ""),
    ]
    latin = None if server.row.without("latin1") else "gr\u00fc\u00df"
    if latin is not None:
        sent.append(("X-Latin", latin))
    async with server.raw("/handshake/headers", headers=sent) as raw:
        lines = ["one", "two, three", ""]
        if server.row.without("repeated_lines"):
            lines = [",".join(lines)]
        assert await _told(raw) == {
            "first": lines[0],
            "all": lines,
            "spelled": [True, True, False],
            "names": ["x-latin"] * (latin is not None) + ["x-other", "x-twice"],
            "latin-1": latin,
            "upgrade": "websocket",
            "writable": False,
        }


_tell("/handshake/cookies", lambda ws: ws.cookies)


@clause("2.2")
async def test_cookies(server: Server) -> None:
    """The first of a repeated name wins; what is no valid cookie is left out."""
    cookies = [
        ("Cookie", 'a=1; b="two words"; a=2; nothing; =empty; sp ace=x; c=x=y; d='),
        ("Cookie", "a=3; e=last"),
    ]
    async with server.raw("/handshake/cookies", headers=cookies) as raw:
        last = ",a=3" if server.row.without("repeated_lines") else ""
        told = await _told(raw)
        assert told == {"a": "1", "b": "two words", "c": "x=y", "d": last, "e": "last"}
    async with server.connect("/handshake/cookies") as client:
        assert await _told(client) == {}


# 2.3 Client


def _read_client(ws: WebSocket) -> list[Any]:
    assert type(ws.client) is Address
    return [ws.client.host, ws.client.port]


_tell("/handshake/client", _read_client)


@clause("2.3")
async def test_the_clients_address(server: Server) -> None:
    """Host and port as the client's own socket has them."""
    async with server.connect("/handshake/client") as client:
        assert await _told(client) == list(client.ws.local_address[:2])


@clause("2.3")
async def test_the_client_that_a_proxy_gives(server: Server) -> None:
    """The host that a believed proxy gives, and its port only if the proxy names one."""
    if await _believes_no_proxy(server):
        return
    for said, address in (
        ("203.0.113.9", ["203.0.113.9", 0]),
        ("198.51.100.1, 203.0.113.9", ["203.0.113.9", 0]),
        ("203.0.113.9:4711", ["203.0.113.9", 4711]),
        ("2001:db8::9", ["2001:db8::9", 0]),
        ("[2001:db8::9]", ["2001:db8::9", 0]),
        ("[2001:db8::9]:4711", ["2001:db8::9", 4711]),
        ("unknown", ["unknown", 0]),
        # The host of the proxy itself, whose port is not the client's.
        (server.host, [server.host, 0]),
    ):
        headers = {"X-Forwarded-For": said}
        async with server.connect("/handshake/client", additional_headers=headers) as client:
            assert await _told(client) == address, said


_NO_ADDRESSES = (
    "203.0.113.9:http", "203.0.113.9:70000", "203.0.113.9:-1", f"203.0.113.9:{'9' * 5000}",
    "203.0.113.9:", "[2001:db8::9", "[2001:db8::9]:x", "2001:db8::9]", "[]:1", ":1", "a b", "%",
)  # fmt: skip


@clause("2.3")
async def test_a_proxy_that_gives_no_address(server: Server) -> None:
    """Whatever it is, reading it raises nothing, and the port is one or 0."""
    if await _believes_no_proxy(server):
        return
    for said in _NO_ADDRESSES:
        headers = {"X-Forwarded-For": said}
        async with server.connect("/handshake/client", additional_headers=headers) as client:
            host, port = await _told(client)
            assert host, said
            assert 0 <= port <= 65535, said


# 2.4 Subprotocols


def _read_subprotocols(ws: WebSocket) -> list[Any]:
    assert type(ws.subprotocols) is tuple
    return list(ws.subprotocols)


_tell("/handshake/subprotocols", _read_subprotocols)


@clause("2.4")
async def test_subprotocols_of_all_header_lines(server: Server) -> None:
    """In the client's order, over several lines, with and without spaces."""
    name = "Sec-WebSocket-Protocol"
    cases: list[list[str]] = [["a, b", "c"], ["c,b,a"], ["a", "b", "a.b-c"], ["a,, b", ", c ,"], []]
    for values in cases:
        headers = [(name, value) for value in values]
        offered = [p.strip() for v in values for p in v.split(",")]
        if "" in offered and server.row.without("empty_subprotocols"):
            async with server.raw("/handshake/subprotocols", expect=400, headers=headers):
                continue
        async with server.raw("/handshake/subprotocols", headers=headers) as raw:
            assert await _told(raw) == [p for p in offered if p]


@mounted("/handshake/subprotocol/{name}")
async def accept_subprotocol(ws: WebSocket) -> None:
    """Journal the subprotocol before and after accepting one, or none."""
    before = ws.subprotocol
    name = ws.path_params["name"]
    await ws.accept(None if name == "none" else name)
    journal(ws, "subprotocol", before=before, after=ws.subprotocol)


@clause("2.4")
async def test_the_accepted_subprotocol(server: Server) -> None:
    """`None` before, then what was accepted, on both sides."""
    for name, expected in (("b", "b"), ("a", "a"), ("none", None)):
        path = f"/handshake/subprotocol/{name}"
        async with server.connect(path, subprotocols=["a", "b"]) as client:
            lacks = expected is not None and server.row.without("subprotocol")
            accepted = None if lacks else expected
            assert client.ws.subprotocol == accepted
            told = await client.journal("subprotocol")
            assert told == {"before": None, "after": accepted}


# 2.5 State


@mounted("/handshake/state")
async def use_state(ws: WebSocket) -> None:
    """Write, read and delete; journal what there was."""
    state = ws.state
    found = {name: name in state for name in ("own", "item", "gone")}
    left = state.left_by_middleware
    state.own = ws.query_params["id"]
    state["item"] = 1
    state.gone = 2
    await ws.accept()
    del ws.state.gone
    await ws.receive()
    journal(
        ws,
        "state",
        found=found,
        left=[left, ws.state["left_by_middleware"]],
        own=[ws.state.own, ws.state.item],
        gone=[hasattr(ws.state, "gone"), "gone" in ws.state],
    )


@clause("2.5")
async def test_state_is_the_connections_own(server: Server) -> None:
    """Two connections at once have each their own, with what the middleware left."""
    async with (
        server.connect("/handshake/state") as one,
        server.connect("/handshake/state") as other,
    ):
        for client in (one, other):
            await client.send("go on")
            assert await client.journal("state") == {
                "found": {"own": False, "item": False, "gone": False},
                "left": ["yes", "yes"],
                "own": [client.id, 1],
                "gone": [False, False],
            }


# 2.6 Request


def _read_request(ws: WebSocket) -> list[str]:
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(ws.request).__mro__]


_tell("/handshake/request", _read_request)


@clause("2.6")
async def test_the_frameworks_own_request(server: Server) -> None:
    """An object of the framework's own type, at all times."""
    async with server.connect("/handshake/request") as client:
        assert server.row.request_type in await _told(client)


# 2.7 Flask's context


@mounted("/handshake/flask")
async def use_flask(ws: WebSocket) -> None:
    """Use Flask's context in the handler and in a task of it; elsewhere tell that there is none."""
    if "flask" not in sys.modules:
        journal(ws, "flask", used=None)
        await ws.accept()
        return
    from flask import current_app, g, request, session, url_for

    async def use() -> list[Any]:
        await asyncio.sleep(0.001)
        return [request.args["x"], g.left_by_middleware, session.get("user"), current_app.name]

    used = [await use()]
    g.own = ws.query_params["id"]
    await ws.accept()
    used.append(await asyncio.create_task(use()))
    await ws.receive()
    used.append(await use())
    journal(ws, "flask", used=used, own=g.own, same=ws.request is not None, url=url_for("page"))


@clause("2.7")
async def test_flasks_context_is_live_in_the_handler(server: Server) -> None:
    """`request`, `session`, `g` and `current_app`, of two connections that take turns."""
    if server.row.framework != "flask":
        server.row.without("flask_context")
        async with server.connect("/handshake/flask") as client:
            assert await client.journal("flask") == {"used": None}
        return
    async with (
        server.connect("/handshake/flask?x=1") as one,
        server.connect("/handshake/flask?x=2") as other,
    ):
        for client, x in ((other, "2"), (one, "1")):
            await client.send("go on")
            assert await client.journal("flask") == {
                "used": [[x, "yes", None, "suite"]] * 3,
                "own": client.id,
                "same": True,
                "url": "/page",
            }


@mounted("/handshake/flask-answer/{how}")
async def answer_with_flask(ws: WebSocket) -> None:
    """Change the session, then answer; elsewhere answer only."""
    if "flask" in sys.modules:
        from flask import session

        session["user"] = "ada"
    if ws.path_params["how"] == "accept":
        await ws.accept()
        await ws.receive()
    elif ws.path_params["how"] == "reject":
        await ws.reject(403)
    else:
        raise http_error(409)


@clause("2.7")
async def test_flask_sees_the_answer_when_it_is_given(server: Server) -> None:
    """The session's cookie is sent with it, and `after_request` functions see its status."""
    is_flask = server.row.framework == "flask"
    if not is_flask:
        server.row.without("flask_context")
    async with server.connect("/handshake/flask-answer/accept") as client:
        assert client.ws.response is not None
        has_cookie = "Set-Cookie" in client.ws.response.headers
        assert has_cookie is (is_flask and not server.row.without("accept_headers"))
        if is_flask:
            assert await client.journal("after-request") == {"status": 101}
    for how, status in (("reject", 403), ("raise", 409)):
        response = await server.check_rejected(f"/handshake/flask-answer/{how}", status)
        is_sent = is_flask and not server.row.without("deferred_upgrade")
        assert ("set-cookie" in dict(response.headers)) is is_sent
        if is_flask:
            told = await server.journal(response.id, "after-request")
            assert told == {"status": response.status}


# 2.8 Capabilities


@mounted("/handshake/capabilities")
async def tell_capabilities(ws: WebSocket) -> None:
    """Send the capabilities, and whether they can be written to."""
    try:
        ws.capabilities.close_code = None  # type: ignore[misc,assignment]  # that is the question
        frozen = False
    except AttributeError:
        frozen = True
    await ws.accept()
    await ws.send_json([dataclasses.asdict(ws.capabilities), frozen])


@clause("2.8")
async def test_the_capabilities_are_the_rows(server: Server) -> None:
    """What the row declares, frozen."""
    async with server.connect("/handshake/capabilities") as client:
        told = json.loads(await client.recv())
        assert told == [dataclasses.asdict(server.row.capabilities), True]
