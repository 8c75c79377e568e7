"""Servers for the adapters' tests, and a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.servers import Server, uvicorn

Serve: TypeAlias = Callable[..., Server]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start a source whose ``app`` runs on uvicorn; all stop when the module is done."""
    with ExitStack() as servers:

        def start(source: str, **options: Any) -> Server:
            folder: Path = tmp_path_factory.mktemp("server")
            return servers.enter_context(uvicorn(folder, source, **options))

        yield start
