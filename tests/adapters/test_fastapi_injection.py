"""FastAPI's own dependencies and parameters: native on FastAPI, an error elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import falcon.asgi
import fastapi
import pytest
from flask import Flask
from starlette.applications import Starlette

import unisock
from unisock.adapters.fastapi import endpoint
from unisock.testing import ConnectionRejected, connect

_steps: list[str] = []


def _opened(token: Annotated[str, fastapi.Header()] = "") -> Iterator[str]:
    if token == "bad":
        raise fastapi.HTTPException(401, "no such token")
    _steps.append("opened")
    try:
        yield token
    finally:
        _steps.append("closed")


async def _injected(
    ws: unisock.WebSocket,
    room: str,
    token: Annotated[str, fastapi.Depends(_opened)],
    n: Annotated[int, fastapi.Query(ge=1)],
    tags: list[str] = fastapi.Query([]),  # noqa: B008  # FastAPI's older form
    since: int = 0,
) -> None:
    await ws.accept()
    await ws.send_json([room, token, n, tags, since])


def _injected_plainly(
    ws: unisock.SyncWebSocket, room: str, token: Annotated[str, fastapi.Depends(_opened)]
) -> None:
    ws.accept()
    ws.send_json([room, token])


class _Injected(unisock.SocketView):
    def __init__(self, room: str, token: Annotated[str, fastapi.Depends(_opened)]) -> None:
        self.told = [room, token]

    async def on_connect(self) -> None:
        await self.websocket.accept()
        await self.websocket.send_json(self.told)


@pytest.mark.parametrize("by_hand", [False, True])
def test_fastapi_injects_what_is_its_own(by_hand: bool) -> None:
    app = fastapi.FastAPI()
    for path, handler in (
        ("/async/{room}", _injected),
        ("/plain/{room}", _injected_plainly),
        ("/class/{room}", _Injected),
    ):
        if by_hand:
            app.add_api_websocket_route(path, endpoint(handler))
        else:
            unisock.mount(app, path, handler)
    for kind, query, told in (
        ("async", "?n=5&tags=a&tags=b&since=7", ["lobby", "good", 5, ["a", "b"], 7]),
        ("plain", "", ["lobby", "good"]),
        ("class", "", ["lobby", "good"]),
    ):
        _steps.clear()
        url = f"/{kind}/lobby{query}"
        with connect(app, url, headers={"token": "good"}) as peer:
            assert peer.receive_json() == told
        assert _steps == ["opened", "closed"]
        with pytest.raises(ConnectionRejected) as info, connect(app, url, headers={"token": "bad"}):
            pass
        assert info.value.status_code == 401
    with pytest.raises(ConnectionRejected) as info, connect(app, "/async/lobby?n=0"):
        pass
    assert info.value.status_code == 403  # FastAPI's answer to what its own does not take


def test_elsewhere_it_is_an_error_at_mount() -> None:
    for app in (Starlette(), falcon.asgi.App(), Flask(__name__)):
        with pytest.raises(TypeError, match="'token' has FastAPI's Depends: import unisock's"):
            unisock.mount(app, "/{room}", _injected)


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        (fastapi.Query(), "has FastAPI's Query: import unisock's"),
        (fastapi.Depends(print), "has FastAPI's Depends: import unisock's"),
        (fastapi.Path(), "has FastAPI's Path, which unisock does not know"),
    ],
)
def test_the_error_of_each(marker: Any, words: str) -> None:
    async def handler(ws: unisock.WebSocket, x: Any) -> None: ...

    async def by_default(ws: unisock.WebSocket, x: int = marker) -> None: ...

    handler.__annotations__["x"] = Annotated[int, marker]
    for each in (handler, by_default):
        with pytest.raises(TypeError, match=f"'x' {words}"):
            unisock.mount(Starlette(), "/", each)


def test_in_a_router() -> None:
    router = unisock.Router()
    router.route("/{room}")(_injected_plainly)
    app = fastapi.FastAPI()
    unisock.mount(app, "/", router)
    with connect(app, "/lobby", headers={"token": "good"}) as peer:
        assert peer.receive_json() == ["lobby", "good"]
    with pytest.raises(TypeError, match="'token' has FastAPI's Depends"):
        unisock.mount(Starlette(), "/", router)


@pytest.mark.parametrize("on", ["fastapi", "starlette"])
def test_a_dependency_is_replaced_on_a_server(on: str) -> None:
    with connect(_depending, on=on, overrides={_value: lambda: 9}) as peer:
        assert peer.receive_json() == 9


def _value() -> int:
    raise AssertionError


async def _depending(ws: unisock.WebSocket, x: Annotated[int, unisock.Depends(_value)]) -> None:
    await ws.accept()
    await ws.send_json(x)
