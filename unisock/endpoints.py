"""Class endpoints: a connection's life as hooks of an object.

`WebSocketEndpoint` has the hooks of Starlette's class of that name, and
`SocketView` those of Index.py's, which take no WebSocket.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar

from .dispatch import Dispatch, Encoding
from .websocket import WebSocket


class BaseEndpoint:
    """What `WebSocketEndpoint` and `SocketView` have in common.

    Attributes:
        encoding: what `on_receive` gets: ``"text"``, ``"bytes"``, ``"json"``, or
            `None` for text as `str` and binary as `bytes`.  A message of another
            kind closes the connection with 1003, and what is not JSON with 1007.
        message_type: what each JSON message must be, as `WebSocket.receive_json`
            takes it; of a tagged union an unknown tag goes to
            ``on_unknown_message``.  JSON is then the encoding.
        websocket: the connection.

    Raises:
        ValueError: at the creation of a class, another encoding.
        TypeError: at the creation of a class, a hook that is not async or takes
            other arguments, an encoding that does not go with `message_type`, or
            types of messages that cannot be told apart.
    """

    encoding: ClassVar[Encoding | None] = None
    message_type: ClassVar[Any] = Any
    websocket: WebSocket

    # Named so that no subclass takes them for its own.
    _unisock_passes_websocket: ClassVar[bool] = False
    _unisock_dispatch: ClassVar[Dispatch]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._unisock_dispatch = Dispatch(cls)

    def _unisock_call(self, hook: str, *args: Any) -> Awaitable[None]:
        """Call a hook, with the WebSocket or without it."""
        if self._unisock_passes_websocket:
            args = (self.websocket, *args)
        called: Awaitable[None] = getattr(self, hook)(*args)
        return called


class WebSocketEndpoint(BaseEndpoint):
    """A class of hooks that take the WebSocket; one instance serves one connection.

    ::

        class Echo(WebSocketEndpoint):
            encoding = "text"

            async def on_receive(self, ws: WebSocket, data: str) -> None:
                await ws.send_text(data)

    How a hook ends decides how the connection does, as for any handler (see
    `unisock.session`).
    """

    _unisock_passes_websocket = True

    async def on_connect(self, ws: WebSocket, /) -> None:
        """Answer the handshake: accept it, unless overridden."""
        await ws.accept()

    async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
        """Take a message; the next one comes when this has returned."""

    async def on_disconnect(self, ws: WebSocket, close_code: int, /) -> None:
        """Take leave: called once, after the connection has ended, if `on_connect` was.

        Args:
            ws: the connection.
            close_code: the code that it ended with; 1006 if it was never open.
        """

    async def on_unknown_message(self, ws: WebSocket, message: Any, /) -> None:
        """Take a JSON message whose tag no type has; close with 1003, unless overridden.

        Args:
            ws: the connection.
            message: the message, decoded to plain objects.
        """
        await ws.close(1003, "unknown kind of message")


class SocketView(BaseEndpoint):
    """`WebSocketEndpoint` with hooks that take no WebSocket: it is `self.websocket`.

    ::

        class Echo(SocketView):
            encoding = "json"

            async def on_receive(self, data: Any) -> None:
                await self.websocket.send_json(data)
    """

    async def on_connect(self) -> None:
        """As `WebSocketEndpoint.on_connect`."""
        await self.websocket.accept()

    async def on_receive(self, data: Any, /) -> None:
        """As `WebSocketEndpoint.on_receive`."""

    async def on_disconnect(self, close_code: int, /) -> None:
        """As `WebSocketEndpoint.on_disconnect`."""

    async def on_unknown_message(self, message: Any, /) -> None:
        """As `WebSocketEndpoint.on_unknown_message`."""
        await self.websocket.close(1003, "unknown kind of message")


async def serve_endpoint(endpoint: BaseEndpoint) -> None:
    """Call the hooks until the connection ends.

    Raises:
        WebSocketDisconnect: it has ended.
        Exception: what a hook raised.
    """
    await endpoint._unisock_call("on_connect")
    if endpoint.websocket._accepted:
        receive = endpoint._unisock_dispatch.receive
        while True:
            await receive(endpoint)


async def end_endpoint(endpoint: BaseEndpoint) -> None:
    """Call the hook for a connection that has ended."""
    code = endpoint.websocket.close_code
    assert code is not None
    await endpoint._unisock_call("on_disconnect", code)
