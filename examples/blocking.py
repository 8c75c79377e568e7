"""A plain function: ``unisock serve examples.blocking:echo --on all``."""

from unisock import SyncWebSocket


def echo(ws: SyncWebSocket) -> None:
    """Send every message back as it came; the function blocks, and the server does not."""
    ws.accept()
    count = 0
    for message in ws:
        count += 1
        ws.send(message)
    print(f"{count} messages, then {ws.close_code}", flush=True)
