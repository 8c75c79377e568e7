"""Flask on gevent-websocket: a blocking function, the connection in the WSGI environment."""

from flask import Flask, request

app = Flask(__name__)


@app.route("/echo", websocket=True)
def echo() -> str:
    ws = request.environ["wsgi.websocket"]
    while not ws.closed:
        message = ws.receive()
        ws.send(message)
    return ""
