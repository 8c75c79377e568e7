"""Every form of the chat over every library's messages, on one framework.

/dataclasses/function, /pydantic/endpoint, …
"""

from __future__ import annotations

import logging
import os
from types import ModuleType
from typing import Any

import unisock
from tests.chat import protocol_dataclasses, protocol_msgspec, protocol_pydantic
from tests.chat.chats import FORMS

PROTOCOLS: dict[str, ModuleType] = {
    "dataclasses": protocol_dataclasses,
    "pydantic": protocol_pydantic,
    "msgspec": protocol_msgspec,
}


def _app(framework: str) -> Any:
    if framework == "falcon":
        import falcon.asgi

        return falcon.asgi.App()
    if framework == "fastapi":
        import fastapi

        return fastapi.FastAPI()
    if framework == "starlette":
        import starlette.applications

        return starlette.applications.Starlette()
    import flask

    return flask.Flask("chat", static_folder=None)


def main() -> None:
    """Serve until SIGTERM."""
    logging.basicConfig(level=logging.INFO)
    framework, port = os.environ["FRAMEWORK"], int(os.environ["PORT"])
    app = _app(framework)
    for library, protocol in PROTOCOLS.items():
        for form, make in FORMS.items():
            unisock.mount(app, f"/{library}/{form}", make(protocol))
    (_serve_gevent if framework == "flask" else _serve_asgi)(app, port)


def _serve_asgi(app: Any, port: int) -> None:
    import uvicorn

    uvicorn.run(app, port=port, ws=os.environ["WS"])


def _serve_gevent(app: Any, port: int) -> None:
    import signal

    import gevent
    from gevent.pywsgi import WSGIServer

    from unisock.adapters.flask import WebSocketHandler

    server = WSGIServer(("127.0.0.1", port), app, handler_class=WebSocketHandler, log=None)
    gevent.signal_handler(signal.SIGTERM, server.stop)
    server.serve_forever()
