"""Falcon on uvicorn."""

from __future__ import annotations

from typing import Any

from unisock.adapters.asgi import SERVERS
from unisock.frameworks import UVICORN, Framework, Service, Uvicorn


def application(service: Service) -> Any:
    """An application of Falcon's."""
    from falcon.asgi import App

    return service.mount_on(App())


FRAMEWORK = Framework(
    application=application,
    server=Uvicorn,
    packages={"falcon": "falcon", **UVICORN},
    adapter="unisock.adapters.falcon",
    command="uvicorn {}",
    capabilities=SERVERS,
)
