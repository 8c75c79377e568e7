"""A class endpoint: ``unisock serve examples.endpoint:Echo --on all``."""

from unisock import WebSocket, WebSocketEndpoint


class Echo(WebSocketEndpoint):
    """Sends every message back as it came, and counts them; one instance a connection."""

    def __init__(self) -> None:
        self.count = 0

    async def on_receive(self, ws: WebSocket, data: str | bytes) -> None:
        self.count += 1
        await ws.send(data)

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        print(f"{self.count} messages, then {close_code}", flush=True)
