"""`Connection`: what async and sync handlers alike read of a connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from multidict import CIMultiDictProxy, MultiDictProxy

from .handshake import URL, Address, Handshake, State
from .transport import Capabilities, Inbox, Transport


class Connection:
    """The handshake and the end: a base of `WebSocket` and `SyncWebSocket`."""

    __slots__ = ("__weakref__", "_handshake", "_inbox", "_transport")

    _handshake: Handshake
    _inbox: Inbox
    _transport: Transport

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        """What pydantic calls, and so FastAPI for an endpoint that has a unisock parameter.

        Raises:
            TypeError: pydantic has no schema for it; the message says what to write.
        """
        try:
            return handler(source)
        except RuntimeError as exc:  # a base of pydantic's own error
            raise TypeError(
                f"unisock.{cls.__name__} is no parameter of a framework's own endpoint: take the "
                "decorator away, and write unisock.mount(app, path, handler)"
            ) from exc

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an own attribute.  A handler keeps its attributes in `state`.

        Raises:
            AttributeError: the WebSocket has no such attribute.
        """
        try:
            object.__setattr__(self, name, value)
        except AttributeError as exc:
            # Not of a property, which says so itself.
            if hasattr(type(self), name):
                raise
            raise AttributeError(
                f"a WebSocket has no attribute {name!r}: keep it in ws.state.{name}"
            ) from exc

    @property
    def _has_ended(self) -> bool:
        return self._inbox.ended is not None

    # The handshake

    @property
    def url(self) -> URL:
        """The URL as the client sent it, scheme ``ws`` or ``wss``."""
        return self._handshake.url

    @property
    def path_params(self) -> Mapping[str, Any]:
        """The parameters of the path's template, converted."""
        return self._handshake.path_params

    @property
    def query_params(self) -> MultiDictProxy[str]:
        """The query's parameters: ``[]`` gives the first, ``getall()`` all."""
        return self._handshake.query_params

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers: names without regard to case, ``getall()`` for repeated ones."""
        return self._handshake.headers

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies; the first of a repeated name."""
        return self._handshake.cookies

    @property
    def client(self) -> Address | None:
        """The client's host and port, or `None` (unix sockets).

        Where a proxy is believed they are what that says, the port 0 if it names none.
        """
        return self._handshake.client

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order."""
        return self._handshake.subprotocols

    @property
    def state(self) -> State:
        """A namespace for this connection, with what the framework's middleware left."""
        return self._handshake.state

    @property
    def request(self) -> Any:
        """The framework's own request object: the one door to the framework."""
        return self._handshake.request

    @property
    def capabilities(self) -> Capabilities:
        """What this server can do of what the contract promises."""
        return self._transport.capabilities

    # The end

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, and all that came before has been received.

        So ``while not ws.closed: ws.receive()`` receives everything.  To learn of the
        end at once use `wait_closed`, or look whether `close_code` is set.
        """
        return self._inbox.is_over

    @property
    def close_code(self) -> int | None:
        """The code that the connection ended with, as in `WebSocketDisconnect`."""
        return None if self._inbox.ended is None else self._inbox.ended.code

    @property
    def close_reason(self) -> str | None:
        """The reason that the connection ended with."""
        return None if self._inbox.ended is None else self._inbox.ended.reason
