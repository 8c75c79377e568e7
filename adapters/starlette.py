"""Starlette: a handler as the endpoint of a `WebSocketRoute`.

`WebSocketRoute` takes an ASGI application as its endpoint, so the framework's
own WebSocket object is not in the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Unpack

from starlette import authentication
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.exceptions import WebSocketException as StarletteWebSocketException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import Router, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket
from starlette.websockets import WebSocketState

from unisock import Handler, UnisockError, WebSocketException
from unisock.handlers import functions_of
from unisock.options import OptionsDict
from unisock.paths import CONVERTERS, Converter, PathTemplate
from unisock.transport import ConnectionLost, HTTPError, HTTPResponse

from .asgi import ASGIApp, ASGIHandshake, ASGITransport, FrameworkAnswer, Scope

APPLICATIONS = (Starlette, Router)


class StarletteHandshake(ASGIHandshake):
    """The handshake with Starlette's view of it."""

    @property
    def request(self) -> HTTPConnection:
        """The part of Starlette's requests and WebSockets that only reads."""
        return HTTPConnection(self.scope)


class StarletteTransport(ASGITransport):
    """A connection whose handler may raise Starlette's exceptions."""

    framework_answers = True

    @property
    def fails_as_403(self) -> bool:
        """Whether the server answers 403, and not 500, for an application that raises."""
        return self._is_granian  # 2.8

    async def answer_500(self) -> None:
        """Answer 500, unless the handshake is answered."""
        if not self.answered:
            with suppress(ConnectionLost):
                await self.reject(500, b"", [("content-length", "0")])

    def translate(self, exc: Exception) -> UnisockError | None:
        """`HTTPException` and Starlette's `WebSocketException`."""
        if isinstance(exc, HTTPException):
            return self._http_error(exc)
        if isinstance(exc, StarletteWebSocketException):
            return WebSocketException(exc.code, exc.reason)
        return None

    def _http_error(self, exc: HTTPException) -> HTTPError:
        title = str(exc.detail)
        if "starlette.exception_handlers" in self.scope:
            return HTTPError(exc.status_code, title)
        # A router without an application: nobody above would answer.
        headers = tuple((exc.headers or {}).items())
        return HTTPError(exc.status_code, title, HTTPResponse(title.encode(), headers))


class StarletteEndpoint(ASGIApp):
    """What `endpoint` returns."""

    transport_class = StarletteTransport
    handshake_class = StarletteHandshake

    def __init__(self, handler: Handler, **options: Unpack[OptionsDict]) -> None:
        super().__init__(handler, **options)
        # The function that the decorator makes is of that module, whatever its `__module__` says.
        modules = {function.__globals__.get("__name__") for function in functions_of(handler)}
        if authentication.__name__ in modules:
            raise TypeError(
                "@requires is for handlers of Starlette's own WebSocket, and "
                f"{self.__name__} gets unisock's: ask ws.request.auth.scopes in the handler and "
                "raise unisock.HandshakeRejected(403), or mount with middleware=[…], on FastAPI "
                "with dependencies=[…]"
            )

    async def _hand_on(self, exc: Exception, transport: ASGITransport) -> None:
        """Give an error of the handler to Starlette, and see that somebody answers."""
        assert isinstance(transport, StarletteTransport)
        try:
            await self._ask_framework(exc, transport)
        except Exception:
            # What is around this application may answer; else the server does, with 500.
            if transport.fails_as_403:
                await transport.answer_500()
            raise
        await transport.answer_500()

    async def _ask_framework(self, exc: Exception, transport: ASGITransport) -> None:
        """Ask the error handlers, as Starlette does around each route.

        Drop an answer that comes too late.
        """
        scope, receive = transport.scope, transport._receive
        answer = FrameworkAnswer(transport)
        websocket = StarletteWebSocket(scope, receive, answer.send)
        websocket.client_state = WebSocketState.CONNECTED  # the handshake is received
        is_over = transport.answered
        if is_over:
            websocket.application_state = WebSocketState.CONNECTED

        async def raise_again(*_: object) -> None:
            await self._raise_within(exc, scope)

        # Private; seen from starlette 0.46 to 1.10.
        app = wrap_app_handling_exceptions(raise_again, websocket)
        try:
            await app(scope, receive, answer.send)
        except HTTPException:
            # An error handler's, for Starlette to answer.
            if not is_over:
                raise

    async def _raise_within(self, exc: Exception, scope: Scope) -> None:
        """Raise `exc` where everything between the handler and the error handlers sees it."""
        raise exc


def endpoint(handler: Handler, **options: Unpack[OptionsDict]) -> StarletteEndpoint:
    """The endpoint for ``WebSocketRoute(path, endpoint(handler))``.

    Raises:
        TypeError: not a handler, or an unknown option.
        ValueError: an option's value.
    """
    return StarletteEndpoint(handler, **options)


def mount(
    app: Starlette | Router,
    template: PathTemplate,
    handler: Handler,
    *,
    name: str | None = None,
    middleware: Sequence[Middleware] | None = None,
    **options: Unpack[OptionsDict],
) -> None:
    """Add a `WebSocketRoute`; see `unisock.mount`."""
    route = WebSocketRoute(
        starlette_path(template), endpoint(handler, **options), name=name, middleware=middleware
    )
    app.routes.append(route)


def starlette_path(template: PathTemplate) -> str:
    """The template in Starlette's spelling, with the neutral converters."""
    return template.render(lambda p: f"{{{p.name}:{_starlette_name(p.converter)}}}")


def _starlette_name(converter: Converter) -> str:
    return f"unisock_{converter.name}"


def _starlette_convertor(neutral: Converter) -> Convertor[Any]:
    """What the neutral converter matches; Starlette's own match a line break more."""

    class NeutralConvertor(Convertor[Any]):
        regex = rf"(?:{neutral.regex})(?!\n)"

        def convert(self, value: str) -> Any:
            return neutral.convert(value)

        def to_string(self, value: Any) -> str:
            return str(value)

    return NeutralConvertor()


for _neutral in CONVERTERS.values():
    register_url_convertor(_starlette_name(_neutral), _starlette_convertor(_neutral))
