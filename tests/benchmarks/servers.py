"""The servers that are measured: each framework's own handlers, and unisock's on it.

The native handlers are as the framework's documentation teaches them.  Imports of
frameworks stand in functions, so that a process loads what it serves and no more.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import unisock
from tests.servers import Server

ROOT = Path(__file__).parents[2]


def _handlers(websocket_class: type) -> dict[str, Any]:
    """Of unisock, Starlette and FastAPI: these lines are the same for all three."""
    members: set[Any] = set()

    async def text(ws: Any) -> None:
        await ws.accept()
        async for message in ws.iter_text():
            await ws.send_text(message)

    async def as_json(ws: Any) -> None:
        await ws.accept()
        async for message in ws.iter_json():
            await ws.send_json(message)

    async def binary(ws: Any) -> None:
        await ws.accept()
        async for message in ws.iter_bytes():
            await ws.send_bytes(message)

    async def push(ws: Any) -> None:
        await ws.accept()
        members.add(ws)
        try:
            async for message in ws.iter_text():
                for member in tuple(members):
                    await member.send_text(message)
        finally:
            members.discard(ws)

    handlers = {"/text": text, "/json": as_json, "/binary": binary, "/push": push}
    for handler in handlers.values():
        handler.__annotations__["ws"] = websocket_class  # FastAPI looks at it
    return handlers


def _mounted(module: str, class_name: str, *arguments: str) -> Any:
    """An application of that class, with unisock's handlers."""
    app = getattr(import_module(module), class_name)(*arguments)
    for path, handler in _handlers(unisock.WebSocket).items():
        unisock.mount(app, path, handler)
    return app


SENDERS: set[Any] = set()


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    """No framework: what the server itself takes."""
    assert scope["type"] == "websocket"  # uvicorn asks for a lifespan, too
    path = scope["path"]
    await receive()
    await send({"type": "websocket.accept"})
    SENDERS.add(send)
    while (message := await receive())["type"] == "websocket.receive":
        if path == "/binary":
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        elif path == "/json":
            value = json.loads(message["text"])
            await send({"type": "websocket.send", "text": json.dumps(value)})
        else:
            for sender in tuple(SENDERS) if path == "/push" else (send,):
                await sender({"type": "websocket.send", "text": message["text"]})
    SENDERS.discard(send)


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket

    return Starlette(routes=[WebSocketRoute(*route) for route in _handlers(WebSocket).items()])


def fastapi() -> Any:
    from fastapi import FastAPI, WebSocket

    app = FastAPI()
    for path, handler in _handlers(WebSocket).items():
        app.websocket(path)(handler)
    return app


def falcon() -> Any:
    """Falcon takes the `WebSocketDisconnected` that ends each loop for a normal end."""
    from falcon.asgi import App, Request, WebSocket

    members: set[WebSocket] = set()

    class Echo:
        async def on_websocket_text(self, req: Request, ws: WebSocket) -> None:
            await ws.accept()
            while True:
                await ws.send_text(await ws.receive_text())

        async def on_websocket_json(self, req: Request, ws: WebSocket) -> None:
            await ws.accept()
            while True:
                await ws.send_media(await ws.receive_media())

        async def on_websocket_binary(self, req: Request, ws: WebSocket) -> None:
            await ws.accept()
            while True:
                await ws.send_data(await ws.receive_data())

        async def on_websocket_push(self, req: Request, ws: WebSocket) -> None:
            await ws.accept()
            members.add(ws)
            try:
                while True:
                    message = await ws.receive_text()
                    for member in tuple(members):
                        await member.send_text(message)
            finally:
                members.discard(ws)

    app: Any = App()
    for name in ("text", "json", "binary", "push"):
        app.add_route(f"/{name}", Echo(), suffix=name)
    return app


def flask() -> Any:
    """With gevent-websocket, whose `receive` returns None at the end."""
    from flask import Flask, request

    app = Flask("native")
    members: set[Any] = set()

    @app.route("/text", endpoint="text", websocket=True)
    @app.route("/binary", endpoint="binary", websocket=True)
    def echo() -> str:
        ws = request.environ["wsgi.websocket"]
        while (message := ws.receive()) is not None:
            ws.send(message)
        return ""

    @app.route("/json", websocket=True)
    def as_json() -> str:
        ws = request.environ["wsgi.websocket"]
        while (message := ws.receive()) is not None:
            ws.send(json.dumps(json.loads(message)))
        return ""

    @app.route("/push", websocket=True)
    def push() -> str:
        ws = request.environ["wsgi.websocket"]
        members.add(ws)
        while (message := ws.receive()) is not None:
            for member in tuple(members):
                member.send(message)
        members.discard(ws)
        return ""

    return app


def aiohttp() -> Any:
    from aiohttp import web

    app = web.Application()
    members: set[web.WebSocketResponse] = set()

    async def opened(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        return ws

    async def text(request: web.Request) -> web.WebSocketResponse:
        ws = await opened(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    async def as_json(request: web.Request) -> web.WebSocketResponse:
        ws = await opened(request)
        async for message in ws:
            await ws.send_json(message.json())
        return ws

    async def binary(request: web.Request) -> web.WebSocketResponse:
        ws = await opened(request)
        async for message in ws:
            await ws.send_bytes(message.data)
        return ws

    async def push(request: web.Request) -> web.WebSocketResponse:
        ws = await opened(request)
        members.add(ws)
        try:
            async for message in ws:
                for member in tuple(members):
                    await member.send_str(message.data)
        finally:
            members.discard(ws)
        return ws

    for handler, path in ((text, "text"), (as_json, "json"), (binary, "binary"), (push, "push")):
        app.router.add_get(f"/{path}", handler)
    return app


def _wrapped(make: Callable[[], Any]) -> Any:
    """An application below middleware that sees each event, as one for sessions does."""
    app = make()

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        async def seen(event: Any) -> None:
            await send(event)

        await app(scope, receive, seen)

    return middleware


_ON_STARLETTE = partial(_mounted, "starlette.applications", "Starlette")
_ON_FASTAPI = partial(_mounted, "fastapi", "FastAPI")
_ON_FALCON = partial(_mounted, "falcon.asgi", "App")

CLASS = ", our class"
"""The end of the names of what uvicorn serves with `unisock.adapters.uvicorn`."""

SUBJECTS: dict[str, Callable[[], Any]] = {
    "bare ASGI": lambda: bare_asgi,
    f"bare ASGI{CLASS}": lambda: bare_asgi,
    "Starlette": starlette,
    "unisock on Starlette": _ON_STARLETTE,
    f"unisock on Starlette{CLASS}": _ON_STARLETTE,
    f"unisock on Starlette, wrapped{CLASS}": partial(_wrapped, _ON_STARLETTE),
    "FastAPI": fastapi,
    "unisock on FastAPI": _ON_FASTAPI,
    f"unisock on FastAPI{CLASS}": _ON_FASTAPI,
    f"unisock on FastAPI, wrapped{CLASS}": partial(_wrapped, _ON_FASTAPI),
    "Falcon": falcon,
    "unisock on Falcon": _ON_FALCON,
    f"unisock on Falcon{CLASS}": _ON_FALCON,
    f"unisock on Falcon, wrapped{CLASS}": partial(_wrapped, _ON_FALCON),
    "Flask": flask,
    "unisock on Flask": partial(_mounted, "flask", "Flask", "mounted"),
    "aiohttp": aiohttp,
    "unisock on aiohttp": partial(_mounted, "aiohttp.web", "Application"),
}
"""What is measured; the two of a pair stand side by side, and run one after the other."""

PAIRS = [
    *((f"unisock on {n}", n) for n in ("Starlette", "FastAPI", "Falcon", "Flask", "aiohttp")),
    ("unisock on Flask", "Starlette"),
    ("unisock on Starlette", "bare ASGI"),
    *((f"unisock on {name}{CLASS}", name) for name in ("Starlette", "FastAPI", "Falcon")),
    *((f"unisock on {name}, wrapped{CLASS}", name) for name in ("Starlette", "FastAPI", "Falcon")),
    (f"bare ASGI{CLASS}", "bare ASGI"),
]
"""What is compared with what; the first five are unisock and the framework it is on."""


def ws_of(subject: str) -> str:
    """What uvicorn's option ``--ws`` is for it."""
    return "unisock.adapters.uvicorn:WebSocketProtocol" if subject.endswith(CLASS) else "auto"


def serve() -> None:
    """Serve the subject, on the port, that the environment names.

    On uvicorn with its ``UVICORN_LOOP``, and with ``PING`` seconds between pings, 0 for none.
    """
    subject, port = os.environ["SUBJECT"], int(os.environ["PORT"])
    app = SUBJECTS[subject]()
    if subject.endswith("Flask"):
        from gevent.pywsgi import WSGIServer

        module = "geventwebsocket.handler" if subject == "Flask" else "unisock.adapters.flask"
        handler_class = import_module(module).WebSocketHandler
        WSGIServer(("127.0.0.1", port), app, handler_class=handler_class, log=None).serve_forever()
    elif subject.endswith("aiohttp"):
        from aiohttp import web

        web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)
    else:
        import uvicorn

        loop: Any = os.environ.get("UVICORN_LOOP", "asyncio")
        uvicorn.run(
            app,
            host="127.0.0.1",
            port=port,
            log_level="warning",
            ws=ws_of(subject),
            loop=loop,
            ws_ping_interval=float(os.environ.get("PING", "20")) or None,
        )


def start(subject: str, folder: Path, **environment: str) -> Server:
    """A subject in a process of its own; `folder` takes its log."""
    source = "from tests.benchmarks.servers import serve\n\nserve()\n"
    return Server(folder, source, SUBJECT=subject, PYTHONPATH=str(ROOT), **environment)
