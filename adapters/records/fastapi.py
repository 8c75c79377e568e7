"""FastAPI on uvicorn."""

from __future__ import annotations

from typing import Any

from unisock.adapters.asgi import SERVERS
from unisock.frameworks import UVICORN, Framework, Service, Uvicorn


def application(service: Service) -> Any:
    """An application of FastAPI's."""
    from fastapi import FastAPI

    return service.mount_on(FastAPI())


FRAMEWORK = Framework(
    application=application,
    server=Uvicorn,
    packages={"fastapi": "fastapi", **UVICORN},
    adapter="unisock.adapters.fastapi",
    command="uvicorn {}",
    capabilities=SERVERS,
)
