"""The echo service on Flask, on gevent's WSGI server."""

import os
from pathlib import Path

from flask import Flask, Response, send_file
from gevent.pywsgi import WSGIServer

import unisock
from unisock.adapters.flask import WebSocketHandler

from .handler import echo

app = Flask(__name__)
unisock.mount(app, "/ws", echo)


@app.get("/")
def page() -> Response:
    return send_file(Path(__file__).with_name("index.html"))


if __name__ == "__main__":
    address = ("127.0.0.1", int(os.environ.get("PORT", "8000")))
    print("Serving on http://{}:{}".format(*address), flush=True)
    WSGIServer(address, app, handler_class=WebSocketHandler).serve_forever()
