"""aiohttp-session's middleware around a handler."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp_session import SimpleCookieStorage, get_session, setup

import unisock
from unisock import WebSocket


async def log_in(request: web.Request) -> web.Response:
    (await get_session(request))["user"] = "ada"
    return web.Response(text="in")


async def chat(ws: WebSocket) -> None:
    session = await get_session(ws.request)
    if "user" not in session:
        session["refused"] = "yes"
        await ws.reject(401, b"log in first")
        return
    session["visited"] = "yes"
    await ws.accept()
    await ws.send_text(session["user"])


# aiohttp 3.14 warns of keys that are no `web.RequestKey`, as those of this package.
@pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")
def test_a_session_lets_in_and_one_that_was_changed_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def check() -> None:
        app = web.Application()
        setup(app, SimpleCookieStorage())
        app.router.add_get("/login", log_in)
        unisock.mount(app, "/chat", chat)
        async with TestClient(TestServer(app)) as client:
            async with client.get(
                "/chat",
                headers={
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                    "Sec-WebSocket-Version": "13",
                },
            ) as response:
                assert (response.status, await response.text()) == (401, "log in first")
                assert response.headers["Content-Length"] == "12"
            async with client.get("/login") as response:
                assert await response.text() == "in"
            async with client.ws_connect("/chat") as ws:
                message = await ws.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.TEXT, "ada")

    asyncio.run(check())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
