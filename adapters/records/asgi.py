"""Bare ASGI.  It has no applications to mount on: `ASGIApp` is one."""

from __future__ import annotations

from typing import Any

from unisock.adapters.asgi import SERVERS, ASGIApp
from unisock.frameworks import UVICORN, Framework, Service, Uvicorn


def application(service: Service) -> Any:
    """An `ASGIApp`."""
    return ASGIApp(service.handler, path=service.path, **service.options)


FRAMEWORK = Framework(
    application=application,
    server=Uvicorn,
    packages=UVICORN,
    command="uvicorn {}",
    capabilities=SERVERS,
)
