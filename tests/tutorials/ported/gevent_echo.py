"""The blocking echo of gevent-websocket, on unisock."""

from unisock import SyncWebSocket


def echo(ws: SyncWebSocket) -> None:
    ws.accept()
    while not ws.closed:
        message = ws.receive()
        ws.send(message)
