"""The echo service on Flask, on gevent's WSGI server."""

import os
from pathlib import Path

from flask import Flask, Response, send_file

import unisock
from unisock.adapters.flask import WSGIServer

from .handler import echo

app = Flask(__name__)
unisock.mount(app, "/ws", echo)


@app.get("/")
def page() -> Response:
    return send_file(Path(__file__).with_name("index.html"))


if __name__ == "__main__":
    address = ("127.0.0.1", int(os.environ.get("PORT", "8000")))
    WSGIServer(address, app).serve_forever()
