"""Bare ASGI.  It has no applications to mount on: `ASGIApp` is one."""

from __future__ import annotations

from typing import Any

from unisock.adapters.asgi import SERVERS, ASGIApp
from unisock.frameworks import UVICORN, UVICORN_PROTOCOLS, Framework, Service, Uvicorn


def application(service: Service) -> Any:
    """An `ASGIApp`."""
    return ASGIApp(service.handler, path=service.path, **service.options)


FRAMEWORK = Framework(
    application=application,
    server=Uvicorn,
    packages=UVICORN,
    one_of=UVICORN_PROTOCOLS,
    command="uvicorn {}",
    capabilities=SERVERS,
)
