"""Starlette on uvicorn."""

from __future__ import annotations

from typing import Any

from unisock.adapters.asgi import SERVERS
from unisock.frameworks import UVICORN, Framework, Service, Uvicorn


def application(service: Service) -> Any:
    """An application of Starlette's."""
    from starlette.applications import Starlette

    return service.mount_on(Starlette())


FRAMEWORK = Framework(
    application=application,
    server=Uvicorn,
    packages={"starlette": "starlette", **UVICORN},
    adapter="unisock.adapters.starlette",
    command="uvicorn {}",
    capabilities=SERVERS,
)
