"""Every form of the chat over every library's messages, on one framework.

/dataclasses/function, /pydantic/endpoint, …
"""

from __future__ import annotations

import logging
import os
from types import ModuleType

import unisock
from tests.chat import protocol_dataclasses, protocol_msgspec, protocol_pydantic
from tests.chat.chats import FORMS
from unisock.frameworks import GRACE, Service, find
from unisock.serving import bind

PROTOCOLS: dict[str, ModuleType] = {
    "dataclasses": protocol_dataclasses,
    "pydantic": protocol_pydantic,
    "msgspec": protocol_msgspec,
}


async def _nobody(ws: unisock.WebSocket) -> None:
    await ws.reject()


def main() -> None:
    """Serve until SIGTERM."""
    logging.basicConfig(level=logging.INFO)
    port = int(os.environ["PORT"])
    framework = find(os.environ["FRAMEWORK"])
    app = framework.application(Service(_nobody, "/unused"))
    for library, protocol in PROTOCOLS.items():
        for form, make in FORMS.items():
            unisock.mount(app, f"/{library}/{form}", make(protocol))
    if "WS" in os.environ:
        import uvicorn

        uvicorn.run(app, port=port, ws=os.environ["WS"])
    else:
        framework.server(app, GRACE, False).run(bind("127.0.0.1", port), lambda: None)
