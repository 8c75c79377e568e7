"""The server process of one of the project's own rows.

    python -m unisock.conformance.serve FRAMEWORK SERVER PORT

`unisock.conformance.frameworks` has a module for each framework.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from urllib.parse import parse_qs

from .harness import journal_as

LEFT = "left_by_middleware"
GRACE = 3  # seconds that a server waits for connections when it stops


def tell_error(query: str, exc: BaseException | None) -> None:
    """Note for a connection, by its query, that an error has reached the framework."""
    for connection_id in parse_qs(query).get("id", ()):
        journal_as(connection_id, "framework-error", type=type(exc).__name__)


def configure_logging() -> None:
    """Log to stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def main(framework: str, server: str, port: int) -> None:
    """Serve until a signal comes."""
    configure_logging()
    import_module(f"unisock.conformance.frameworks.{framework}").serve(server, port)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
