"""Native WebSocket handlers of the frameworks, on uvicorn with unisock's class.

The programs have what the frameworks' own pages on WebSockets teach.  Each conversation is
had with uvicorn's default class as well: what a client gets is the same.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.servers import Server

from .client import Closed, closing, rejection, talk
from .conftest import Serve
from .test_uvicorn import _NAMED, CLASS

_PATIENCE = 30.0
ON = pytest.mark.parametrize("ws", [CLASS, "auto"], ids=["our class", "uvicorn's default"])

STARLETTE = """
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.exceptions import WebSocketException
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

async def greet(websocket):
    await websocket.accept(subprotocol="chat", headers=[(b"x-own", b"yes")])
    await websocket.send_text(f"Hello, {websocket.path_params['name']}!")
    await websocket.close(4000, "greeted")

async def tell(websocket):
    await websocket.accept()
    await websocket.send_json({
        "url": str(websocket.url.path),
        "query": dict(websocket.query_params),
        "header": websocket.headers["x-asked"],
        "cookie": websocket.cookies["session"],
        "client": websocket.client.host,
    })
    async for message in websocket.iter_json():
        await websocket.send_json({"got": message}, mode="binary")
    print("TOLD", flush=True)

async def end(websocket):
    await websocket.accept()
    try:
        await websocket.receive_bytes()
    except WebSocketDisconnect as exc:
        print("LEFT", exc.code, exc.reason, flush=True)

async def refuse(websocket):
    await websocket.close(1008, "no")

async def deny(websocket):
    await websocket.send_denial_response(JSONResponse({"why": "late"}, status_code=409))

async def fail(websocket):
    await websocket.accept()
    raise WebSocketException(1008, "policy")

class Text(WebSocketEndpoint):
    encoding = "text"
    async def on_connect(self, websocket):
        await websocket.accept()
    async def on_receive(self, websocket, data):
        await websocket.send_text(f"Message text was: {data}")
    async def on_disconnect(self, websocket, close_code):
        print(f"{type(self).__name__} ended with {close_code}", flush=True)

class Bytes(Text):
    encoding = "bytes"
    async def on_receive(self, websocket, data):
        await websocket.send_bytes(b"Message: " + data)

class Json(Text):
    encoding = "json"
    async def on_receive(self, websocket, data):
        await websocket.send_json({"message": data})

app = Starlette(routes=[
    Route("/page", lambda request: JSONResponse("the page")),
    WebSocketRoute("/hello/{name}", greet), WebSocketRoute("/tell", tell),
    WebSocketRoute("/end", end), WebSocketRoute("/refuse", refuse), WebSocketRoute("/deny", deny),
    WebSocketRoute("/fail", fail), WebSocketRoute("/text", Text), WebSocketRoute("/bytes", Bytes),
    WebSocketRoute("/json", Json),
])
"""

FASTAPI = """
from typing import Annotated
from fastapi import (
    APIRouter, Cookie, Depends, FastAPI, Query, WebSocket, WebSocketDisconnect, WebSocketException,
    status,
)

app = FastAPI()

async def cookie_or_token(
    websocket: WebSocket,
    session: Annotated[str | None, Cookie()] = None,
    token: Annotated[str | None, Query()] = None,
):
    if session is None and token is None:
        raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION)
    try:
        yield session or token
    finally:
        print("DEPENDENCY ended", flush=True)

@app.websocket("/items/{item_id}/ws")
async def item(
    websocket: WebSocket,
    item_id: int,
    cookie_or_token: Annotated[str, Depends(cookie_or_token)],
    q: int | None = None,
):
    await websocket.accept()
    while True:
        data = await websocket.receive_text()
        await websocket.send_text(f"Session cookie or query token value is: {cookie_or_token}")
        if q is not None:
            await websocket.send_text(f"Query parameter q is: {q}")
        await websocket.send_text(f"Message text was: {data}, for item ID: {item_id}")

class ConnectionManager:
    def __init__(self):
        self.active = []
    async def connect(self, websocket):
        await websocket.accept()
        self.active.append(websocket)
    def disconnect(self, websocket):
        self.active.remove(websocket)
    async def broadcast(self, message):
        for connection in self.active:
            await connection.send_text(message)

manager = ConnectionManager()
router = APIRouter(prefix="/chat")

@router.websocket("/{client_id}")
async def chat(websocket: WebSocket, client_id: int):
    await manager.connect(websocket)
    try:
        while True:
            data = await websocket.receive_text()
            await websocket.send_text(f"You wrote: {data}")
            await manager.broadcast(f"Client #{client_id} says: {data}")
    except WebSocketDisconnect:
        manager.disconnect(websocket)
        await manager.broadcast(f"Client #{client_id} left the chat")

app.include_router(router)
"""

FALCON = """
import asyncio, json
import falcon.asgi, falcon.media
from falcon import WebSocketDisconnected

class Bytes(falcon.media.BinaryBaseHandlerWS):
    def serialize(self, media):
        return json.dumps(media).encode("utf-16")
    def deserialize(self, payload):
        return json.loads(bytes(payload).decode("utf-16"))

class Accounts:
    async def process_request_ws(self, req, ws):
        if req.path == "/unseen":
            raise falcon.HTTPNotFound()
    async def process_resource_ws(self, req, ws, resource, params):
        req.context.user = req.get_header("x-user")
        if req.context.user is None and "reports" in req.path:
            raise falcon.HTTPForbidden()

class Echo:
    async def on_websocket(self, req, ws):
        await ws.accept(subprotocol="chat" if "chat" in ws.subprotocols else None)
        try:
            while True:
                await ws.send_text(await ws.receive_text())
        except WebSocketDisconnected as exc:
            print("LEFT", exc.code, flush=True)

class Media:
    async def on_websocket(self, req, ws):
        await ws.accept()
        while True:
            media = await ws.receive_media()
            await ws.send_media({"text": media})
            await ws.send_media({"binary": media}, falcon.WebSocketPayloadType.BINARY)

class Reports:
    async def on_websocket(self, req, ws):
        await ws.accept()
        query = await ws.receive_media()

        async def sink():
            while True:
                try:
                    await ws.receive_text()
                except WebSocketDisconnected as exc:
                    print("SINK", exc.code, flush=True)
                    break

        sinking = asyncio.create_task(sink())
        number = 0
        while not sinking.done():
            await ws.send_media({"user": req.context.user, "report": query["report"], "n": number})
            number += 1
            await asyncio.sleep(0.01)

class Closes:
    async def on_websocket(self, req, ws):
        await ws.accept()
        await ws.close(4001, "enough")

class Fails:
    async def on_websocket(self, req, ws):
        await ws.accept()
        raise falcon.HTTPForbidden()

app = falcon.asgi.App(middleware=[Accounts()])
app.ws_options.media_handlers[falcon.WebSocketPayloadType.BINARY] = Bytes()
app.ws_options.max_receive_queue = 2
for path, resource in {"/echo": Echo(), "/media": Media(), "/reports": Reports(),
                       "/closes": Closes(), "/fails": Fails()}.items():
    app.add_route(path, resource)
"""


def received(client: ClientConnection, number: int) -> list[str | bytes]:
    return [client.recv(_PATIENCE) for _ in range(number)]


def end_of(client: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(_PATIENCE)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


@pytest.fixture(scope="module")
def started(serve: Serve) -> Any:
    """The server of a source on a class; started when it is asked for."""
    running: dict[tuple[str, str], Server] = {}

    def start(source: str, ws: str) -> Server:
        if (source, ws) not in running:
            running[source, ws] = serve(_NAMED + source, ws=ws)
        return running[source, ws]

    return start


@ON
def test_starlette_s_functions(started: Any, ws: str) -> None:
    server = started(STARLETTE, ws)
    with talk(server, "/hello/Ada", subprotocols=["news", "chat"]) as client:
        assert client.response is not None
        assert (client.subprotocol, client.response.headers["x-own"]) == ("chat", "yes")
        assert client.recv(_PATIENCE) == "Hello, Ada!"
        assert end_of(client) == (4000, "greeted")
    asked = {"X-Asked": "yes", "Cookie": "session=7"}
    with talk(server, "/tell?a=1", additional_headers=asked) as client:
        told = json.loads(client.recv(_PATIENCE))
        assert told == {"url": "/tell", "query": {"a": "1"}, "header": "yes", "cookie": "7",
                        "client": "127.0.0.1"}  # fmt: skip
        client.send('{"a": [1]}')
        assert client.recv(_PATIENCE) == b'{"got":{"a":[1]}}'
    server.wait_for_log("TOLD")
    with talk(server, "/end") as client:
        client.close(4001, "bye")
    server.wait_for_log("LEFT 4001 bye")
    assert rejection(server, "/refuse").status == 403
    assert rejection(server, "/deny") == (409, "application/json", '{"why":"late"}')
    assert closing(server, "/fail") == Closed(1008, "policy")
    assert rejection(server, "/none").status == 403
    assert server.get("/page") == (200, '"the page"')


@ON
def test_starlette_s_endpoints(started: Any, ws: str) -> None:
    server = started(STARLETTE, ws)
    sent: list[tuple[str, str | bytes, str | bytes]] = [
        ("text", "żółw", "Message text was: żółw"),
        ("bytes", b"\0\xff", b"Message: \0\xff"),
        ("json", '{"a": 1}', '{"message":{"a":1}}'),
        ("json", b'{"a": 1}', '{"message":{"a":1}}'),
    ]
    for name, message, answer in sent:
        with talk(server, f"/{name}") as client:
            client.send(message)
            assert client.recv(_PATIENCE) == answer
            client.close(4002)
        server.wait_for_log(f"{name.capitalize()} ended with 4002")
    wrong: list[tuple[str, str | bytes]] = [("text", b"1"), ("bytes", "1"), ("json", "{")]
    for name, message in wrong:
        with talk(server, f"/{name}") as client:
            client.send(message)
            assert end_of(client) == (1003, "")


@ON
def test_fastapi_s_dependencies(started: Any, ws: str) -> None:
    server = started(FASTAPI, ws)
    for query, cookie, value in (
        ("token=t", "", "t"), ("", "session=c", "c"), ("token=t", "session=c", "c"),
    ):  # fmt: skip
        headers = {"Cookie": cookie} if cookie else {}
        path = f"/items/7/ws?{query}&q=3"
        with talk(server, path, additional_headers=headers) as client:
            client.send("hello")
            assert received(client, 3) == [
                f"Session cookie or query token value is: {value}",
                "Query parameter q is: 3",
                "Message text was: hello, for item ID: 7",
            ]
    server.wait_for_log("DEPENDENCY ended")
    assert rejection(server, "/items/7/ws").status == 403
    assert rejection(server, "/items/seven/ws?token=t").status == 403


@ON
def test_fastapi_s_connection_manager(started: Any, ws: str) -> None:
    server = started(FASTAPI, ws)
    with talk(server, "/chat/2") as bob:
        with talk(server, "/chat/1") as ada:
            ada.send("hi")
            assert received(ada, 2) == ["You wrote: hi", "Client #1 says: hi"]
            assert bob.recv(_PATIENCE) == "Client #1 says: hi"
            bob.send("hello")
            assert received(bob, 2) == ["You wrote: hello", "Client #2 says: hello"]
            assert ada.recv(_PATIENCE) == "Client #2 says: hello"
        assert bob.recv(_PATIENCE) == "Client #1 left the chat"


@ON
def test_falcon_s_resources(started: Any, ws: str) -> None:
    server = started(FALCON, ws)
    with talk(server, "/echo", subprotocols=["chat"]) as client:
        assert client.subprotocol == "chat"
        for text in ("hello", "", "ż" * 70_000):
            client.send(text)
            assert client.recv(_PATIENCE) == text
        client.close(4003)
    server.wait_for_log("LEFT 4003")
    assert closing(server, "/closes") == Closed(4001, "enough")
    assert closing(server, "/fails").code == 3403
    assert rejection(server, "/none").status == 403
    assert rejection(server, "/unseen").status == 403
    assert rejection(server, "/reports").status == 403


@ON
def test_falcon_s_media_handlers(started: Any, ws: str) -> None:
    server = started(FALCON, ws)
    with talk(server, "/media") as client:
        for message in ('{"a":[1,null]}', json.dumps({"a": [1, None]}).encode("utf-16")):
            client.send(message)
            text, binary = received(client, 2)
            assert json.loads(text) == {"text": {"a": [1, None]}}
            assert isinstance(binary, bytes)
            assert json.loads(binary.decode("utf-16")) == {"binary": {"a": [1, None]}}
        client.close()
    with talk(server, "/reports", additional_headers={"X-User": "ada"}) as client:
        client.send('{"report": "sales"}')
        reports = [json.loads(message) for message in received(client, 3)]
        assert reports == [{"user": "ada", "report": "sales", "n": n} for n in range(3)]
        client.close(4004)
    server.wait_for_log("SINK 4004")
