"""Section 11 of the contract: parameters and dependencies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any
from uuid import UUID

from unisock import (
    Cookie,
    Depends,
    HandshakeRejected,
    Header,
    Query,
    SocketView,
    SyncWebSocket,
    WebSocket,
    WebSocketException,
)

from .harness import RawClient, Server, clause, journal, mounted

# 11.1 and 11.2 Parameters

_ID = "12345678-1234-5678-1234-567812345678"


def _told(*values: object) -> list[Any]:
    return [str(value) if isinstance(value, UUID) else value for value in values]


@mounted("/parameters/async/{room}/{n:int}/{uid:uuid}")
async def tell(
    ws: WebSocket,
    room: str,
    n: int,
    uid: UUID,
    since: int,
    user_agent: Annotated[str, Header()],
    session: Annotated[int, Cookie()],
    tags: Annotated[list[str], Query(alias="tag")] = [],  # noqa: B006  # it is not changed
    limit: int | None = None,
) -> None:
    """Answer with all parameters."""
    await ws.accept()
    await ws.send_json(_told(room, n, uid, since, user_agent, session, tags, limit))


@mounted("/parameters/plain/{room}/{n:int}/{uid:uuid}")
def tell_plainly(
    ws: SyncWebSocket,
    room: str,
    n: int,
    uid: UUID,
    since: int,
    user_agent: Annotated[str, Header()],
    session: Annotated[int, Cookie()],
    tags: Annotated[list[str], Query(alias="tag")] = [],  # noqa: B006  # as above
    limit: int | None = None,
) -> None:
    """Answer with all parameters."""
    ws.accept()
    ws.send_json(_told(room, n, uid, since, user_agent, session, tags, limit))


@mounted("/parameters/class/{room}/{n:int}/{uid:uuid}")
class Telling(SocketView):
    """Answers with all parameters."""

    def __init__(
        self,
        room: str,
        n: int,
        uid: UUID,
        since: int,
        user_agent: Annotated[str, Header()],
        session: Annotated[int, Cookie()],
        tags: Annotated[list[str], Query(alias="tag")] = [],  # noqa: B006  # as above
        limit: int | None = None,
    ) -> None:
        self.told = _told(room, n, uid, since, user_agent, session, tags, limit)

    async def on_connect(self) -> None:
        await self.websocket.accept()
        await self.websocket.send_json(self.told)


async def _told_by(raw: RawClient) -> Any:
    return json.loads((await raw.recv_frame()).payload)


_FORMS = ("async", "plain", "class")
_HEADERS = {"User-Agent": "me", "Cookie": "session=7; other=x"}


@clause("11.1")
async def test_parameters_are_found_by_name(server: Server) -> None:
    """Those of the path, the query, headers and cookies, converted."""
    for form in _FORMS:
        path = f"/parameters/{form}/caf%C3%A9/5/{_ID}"
        wanted: list[Any] = ["café", 5, _ID, 3, "me", 7, [], None]
        async with server.raw(f"{path}?since=3&other=1", headers=_HEADERS) as raw:
            assert await _told_by(raw) == wanted, form
        wanted[3], wanted[6:] = 4, [["a", "b&"], 9]
        query = "tag=a&since=4&tag=b%26&limit=9&since=5"
        async with server.raw(f"{path}?{query}", headers=_HEADERS) as raw:
            assert await _told_by(raw) == wanted, form


@clause("11.2")
async def test_what_does_not_fit_is_400(server: Server) -> None:
    """A parameter that is missing or wrong rejects before the handler runs; all are told."""
    for form in _FORMS:
        path = f"/parameters/{form}/lobby/5/{_ID}"
        for query, cookie, told in (
            ("", "session=7", ['query parameter "since" is missing']),
            ("?since=", "session=7", ['query parameter "since": expected int, got ""']),
            ("?since=%FF", "session=7", ['query parameter "since": expected int, got "�"']),
            ("?since=%0a", "session=7", [r'query parameter "since": expected int, got "\n"']),
            ("?since=1", "other=7", ['cookie "session" is missing']),
            ("?limit=a", "session=x", [
                'query parameter "since" is missing',
                'cookie "session": expected int, got "x"',
                'query parameter "limit": expected int | null, got "a"',
            ]),
        ):  # fmt: skip
            headers = {"User-Agent": "me", "Cookie": cookie}
            body = "".join(f"{line}\n" for line in told).encode()
            await server.check_rejected(path + query, 400, body, headers=headers)
        # It is healthy afterwards.
        async with server.raw(f"{path}?since=3", headers=_HEADERS) as raw:
            assert (await _told_by(raw))[3] == 3


# 11.3 and 11.4 Dependencies


def opened(ws: WebSocket | SyncWebSocket, name: str = "nobody") -> Iterator[str]:
    """A plain generator."""
    journal(ws, "opened")
    try:
        yield name
    except BaseException as exc:
        journal(ws, "seen", error=type(exc).__name__)
        raise
    finally:
        journal(ws, "closed")


async def async_opened(ws: WebSocket, name: Annotated[str, Depends(opened)]) -> AsyncIterator[str]:
    """An async one, which needs the other."""
    await asyncio.sleep(0)
    journal(ws, "async opened")
    try:
        yield name.upper()
    finally:
        await asyncio.sleep(0)
        journal(ws, "async closed")


async def allowed(token: Annotated[str, Header(alias="x-token")] = "") -> bool:
    """An async function that may reject."""
    if token == "bad":
        raise HandshakeRejected(401, b"no such token")
    if token == "broken":
        raise LookupError(token)
    return token == "good"


def allowed_plainly(token: Annotated[str, Header(alias="x-token")] = "") -> bool:
    """The same, as a plain function."""
    if token == "bad":
        raise HandshakeRejected(401, b"no such token")
    if token == "broken":
        raise LookupError(token)
    return token == "good"


class Count:
    """A class, which takes a parameter itself."""

    def __init__(self, n: int = 0) -> None:
        self.n = n


@mounted("/dependencies/async/{ending}")
async def depend(
    ws: WebSocket,
    ending: str,
    count: Annotated[Count, Depends(Count)],
    same: Annotated[Count, Depends(Count)],
    name: Annotated[str, Depends(opened)],
    upper: Annotated[str, Depends(async_opened)],
    is_allowed: Annotated[bool, Depends(allowed)],
    is_allowed_plainly: Annotated[bool, Depends(allowed_plainly)],
) -> None:
    """Answer with what the dependencies give, and end as the path says."""
    assert count is same
    await ws.accept()
    await ws.send_json([count.n, name, upper, is_allowed, is_allowed_plainly])
    if ending == "exception":
        raise WebSocketException(4001)
    if ending == "error":
        raise KeyError(ending)
    if ending == "receives":
        await ws.receive()


@mounted("/dependencies/plain/{ending}")
def depend_plainly(
    ws: SyncWebSocket,
    ending: str,
    count: Annotated[Count, Depends(Count)],
    same: Annotated[Count, Depends(Count)],
    name: Annotated[str, Depends(opened)],
    is_allowed: Annotated[bool, Depends(allowed_plainly)],
) -> None:
    """The same as a plain function."""
    assert count is same
    ws.accept()
    ws.send_json([count.n, name, name.upper(), is_allowed, is_allowed])
    if ending == "exception":
        raise WebSocketException(4001)
    if ending == "error":
        raise KeyError(ending)
    if ending == "receives":
        ws.receive()


@mounted("/dependencies/class/{ending}")
class Depending(SocketView):
    """The same as a class."""

    def __init__(
        self,
        ending: str,
        count: Annotated[Count, Depends(Count)],
        same: Annotated[Count, Depends(Count)],
        name: Annotated[str, Depends(opened)],
        upper: Annotated[str, Depends(async_opened)],
        is_allowed: Annotated[bool, Depends(allowed)],
        is_allowed_plainly: Annotated[bool, Depends(allowed_plainly)],
    ) -> None:
        assert count is same
        self.ending = ending
        self.told = [count.n, name, upper, is_allowed, is_allowed_plainly]

    async def on_connect(self) -> None:
        await self.websocket.accept()
        await self.websocket.send_json(self.told)
        if self.ending == "exception":
            raise WebSocketException(4001)
        if self.ending == "error":
            raise KeyError(self.ending)
        if self.ending == "returns":
            await self.websocket.close()

    async def on_disconnect(self, close_code: int) -> None:
        journal(self.websocket, "on_disconnect")


@clause("11.3")
async def test_what_dependencies_give(server: Server) -> None:
    """Functions, generators and classes; each is called once a connection."""
    for form in _FORMS:
        path = f"/dependencies/{form}/returns?n=5&name=ann"
        async with server.connect(path, additional_headers={"X-Token": "good"}) as client:
            assert json.loads(await client.recv()) == [5, "ann", "ANN", True, True], form
            await client.closed()
            await client.journal("closed")
            assert [event for event, _ in client.events()].count("opened") == 1
        for token, status, body in (("bad", 401, b"no such token"), ("broken", 500, None)):
            headers = {"X-Token": token}
            response = await server.check_rejected(path, status, body, headers=headers)
            error = "HandshakeRejected" if token == "bad" else "LookupError"
            assert (await server.journal(response.id, "seen")) == {"error": error}, form
            await server.journal(response.id, "closed")
        told = b'query parameter "n": expected int, got "x"\n'
        response = await server.check_rejected(f"/dependencies/{form}/returns?n=x", 400, told)
        assert server.events(response.id) == []


@clause("11.4")
async def test_what_yields_is_closed_at_the_end(server: Server) -> None:
    """The last first, after the connection, with what has ended the handler."""
    for form in _FORMS:
        for ending, code, error in (
            ("returns", 1000, None),
            ("exception", 4001, "WebSocketException"),
            ("error", 1011, "KeyError"),
            ("receives", 4000, None if form == "class" else "WebSocketDisconnect"),
        ):
            async with server.connect(f"/dependencies/{form}/{ending}") as client:
                await client.recv()
                if ending == "receives":
                    await client.close(code)
                else:
                    assert await client.closed() == (code, ""), (form, ending)
                await client.journal("closed")
                events = [
                    (event, data.get("error"))
                    for event, data in client.events()
                    if event != "framework-error"
                ]
            wanted: list[tuple[str, str | None]] = [("opened", None)]
            if form != "plain":
                wanted += [("async opened", None)]
            if form == "class":
                wanted += [("on_disconnect", None)]
            if form != "plain":
                wanted += [("async closed", None)]
            wanted += [("seen", error)] if error else []
            assert events == [*wanted, ("closed", None)], (form, ending)
