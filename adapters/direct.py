"""The way past ASGI, where the server is unisock's own.

An ASGI message is an event, made by one side and taken apart by the other.  Where an
application's two callables are those of a `DirectServer`, adapter and server speak to each
other without events: messages go from the parser into the inbox, and sends into the socket.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import Any

from unisock.transport import Inbox

# What Starlette puts around `send`: a closure that looks for the beginning of an HTTP
# response, and for nothing else.  Seen in starlette 0.46 to 1.10.
_SENDER_MODULE = "starlette._exception_handler"
_SENDER = "wrap_app_handling_exceptions.<locals>.wrapped_app.<locals>.sender"


class DirectServer(ABC):
    """A connection on a server whose `receive` and `send` are those of ASGI.

    The other verbs are those of `unisock.transport.Transport`, and may be called in place
    of the events that they stand for.
    """

    @abstractmethod
    async def receive(self) -> dict[str, Any]:
        """ASGI's."""

    @abstractmethod
    async def send(self, event: Any) -> None:
        """ASGI's."""

    @abstractmethod
    def attach(self, inbox: Inbox, *, close_timeout: float) -> None:
        """Feed `inbox` in place of `receive`."""

    @abstractmethod
    def accept(self, subprotocol: str | None, headers: list[tuple[bytes, bytes]]) -> None:
        """Complete the handshake."""

    @abstractmethod
    def reject(self, status_code: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer it with an HTTP response."""

    @abstractmethod
    def send_message(self, data: str | bytes) -> Awaitable[None]:
        """Send a message."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Send a close frame."""


def direct_server(receive: Callable[..., Any], send: Callable[..., Any]) -> DirectServer | None:
    """The server whose two callables these are.

    `None` if the server is another one, or if middleware wraps its callables: middleware
    needs the events, so they must be there.
    """
    server = getattr(receive, "__self__", None)
    if not isinstance(server, DirectServer):
        return None
    is_bare = receive == server.receive and _without_sender(send) == server.send
    return server if is_bare else None


def _without_sender(send: Callable[..., Any]) -> Any:
    """What `send` calls, where it is Starlette's closure, of which there may be several."""
    while (
        isinstance(send, FunctionType)
        and send.__qualname__ == _SENDER
        and send.__module__ == _SENDER_MODULE
    ):
        cells = dict(zip(send.__code__.co_freevars, send.__closure__ or (), strict=True))
        send = cells["send"].cell_contents
    return send
