"""Falcon: a handler as an ``on_websocket`` responder."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Unpack, cast

import falcon
from falcon.asgi import App, Request
from falcon.asgi import WebSocket as FalconWebSocket
from falcon.asgi.ws import _WebSocketState
from falcon.routing import BaseConverter

from unisock import Handler, InvalidState, UnisockError
from unisock.handlers import prepare
from unisock.options import OptionsDict
from unisock.paths import CONVERTERS, Converter, Parameter, PathTemplate
from unisock.transport import ConnectionLost, HTTPError, HTTPResponse
from unisock.websocket import check_response

from .asgi import ASGIHandshake, ASGITransport, Message, Receive, Send

APPLICATIONS = (falcon.App,)  # of WSGI too, which `mount` refuses; ASGI's is a subclass

# The code with which Falcon closes for an error that no error handler takes.
_SERVER_ERROR = 1011


class FalconHandshake(ASGIHandshake):
    """The handshake with Falcon's request and the route's parameters."""

    def __init__(self, req: Request, params: Mapping[str, Any]) -> None:
        super().__init__(req.scope)
        self._req = req
        self._params = params

    @property
    def path_params(self) -> Mapping[str, Any]:
        """What Falcon's router found, and what hooks made of it."""
        return self._params

    @property
    def request(self) -> Request:
        """Falcon's request."""
        return self._req

    @property
    def framework_state(self) -> MutableMapping[str, Any]:
        """``req.context``."""
        context = self._req.context
        return context if isinstance(context, dict) else vars(context)


class FalconTransport(ASGITransport):
    """A connection that Falcon has routed, and has not accepted."""

    framework_answers = True

    def __init__(self, req: Request, ws: FalconWebSocket, params: Mapping[str, Any]) -> None:
        # Falcon's pump, its lost close reasons and its 403 for every rejection
        # are passed by.  There is no public way to the server's two callables;
        # seen in falcon 4.0 to 4.4.
        receive = cast(Receive, ws._buffered_receiver._asgi_receive)
        send = cast(Send, ws._asgi_send)
        super().__init__(FalconHandshake(req, params), receive, send)

    def translate(self, exc: Exception) -> UnisockError | None:
        """Falcon's `HTTPError` and `HTTPStatus`."""
        if isinstance(exc, falcon.HTTPError):
            headers = (("content-type", "application/json"), *_pairs(exc.headers))
            # By default the title is the status line.
            title = exc.title.removeprefix(f"{exc.status_code} ")
            return HTTPError(exc.status_code, title, HTTPResponse(exc.to_json(), headers))
        if isinstance(exc, falcon.HTTPStatus):
            body = (exc.text or "").encode()
            title = falcon.code_to_http_status(exc.status_code).partition(" ")[2]
            return HTTPError(exc.status_code, title, HTTPResponse(body, _pairs(exc.headers)))
        return None

    async def send_for_error_handler(self, message: Message) -> None:
        """The server's ``send``, for Falcon's error handlers on a handshake without an answer.

        Falcon answers with a close.  The response that the error stands for is sent instead.
        """
        if self.answered or message["type"] != "websocket.close":
            self.answered = True
            await self._asgi_send(message)
            return
        # Falcon calls this while it handles the error that an error handler has raised.
        exc = sys.exception()
        meant = self.translate(exc) if isinstance(exc, Exception) else None
        if isinstance(meant, HTTPError) and meant.response is not None:
            response, status = meant.response, meant.status_code
        else:
            response = HTTPResponse()
            status = 500 if message["code"] == _SERVER_ERROR else 403
        with suppress(ConnectionLost):
            await self.reject(*check_response(status, response.body, response.headers))


def _pairs(headers: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(headers, Mapping):
        headers = headers.items()
    return tuple(headers or ())


def responder(handler: Handler, **options: Unpack[OptionsDict]) -> Callable[..., Awaitable[None]]:
    """An ``on_websocket`` responder, for a class or an instance.

    ::

        class Chat:
            async def on_get(self, req, resp): ...
            on_websocket = responder(chat)

    Middleware and hooks run before it as before any responder.

    Raises:
        TypeError: not a handler, or an unknown option.
        ValueError: an option's value.
    """
    mounted = prepare(handler, options)

    async def on_websocket(*args: Any, **params: Any) -> None:
        req, ws = args[-2:]  # before them is self, where it is a method
        if ws.closed:
            return  # middleware or a hook has rejected the handshake
        if req.path.startswith("//"):
            raise falcon.HTTPRouteNotFound  # Falcon 4.4 takes it for the path with one slash
        if not ws.unaccepted:
            raise InvalidState("middleware or a hook has accepted: leave that to the handler")
        transport = FalconTransport(req, ws, params)
        try:
            await mounted.serve(transport)
        finally:
            if transport.answered:
                # Falcon closes after a responder and in its error handlers; to
                # its object the connection is over by now.
                ws._state = _WebSocketState.CLOSED
            else:
                ws._asgi_send = transport.send_for_error_handler

    return on_websocket


class WebSocketResource:
    """A resource that has a handler for WebSockets; subclass it to add ``on_get``."""

    def __init__(self, handler: Handler, **options: Unpack[OptionsDict]) -> None:
        self._responder = responder(handler, **options)
        # The parameters of a neutral template that are fields of Falcon's own,
        # which match an empty segment as well.
        self._falcons_own: list[str] = []

    async def on_websocket(self, req: Request, ws: FalconWebSocket, /, **params: Any) -> None:
        """Falcon's responder; a parameter of the path may be named ``ws`` as well."""
        if not all(params[name] for name in self._falcons_own):
            raise falcon.HTTPRouteNotFound
        await self._responder(req, ws, **params)


def mount(
    app: App[Any, Any],
    template: PathTemplate,
    handler: Handler,
    **options: Unpack[OptionsDict],
) -> None:
    """Add a route to a `WebSocketResource`; see `unisock.mount`.

    A resource that is at the path already, and has no ``on_websocket``, keeps
    its other responders and gets the handler as that one.

    Raises:
        TypeError: a WSGI application, which has no WebSockets.
        ValueError: the path has a resource with ``on_websocket`` already.
    """
    if not isinstance(app, App):
        raise TypeError("falcon.App is a WSGI application: mount on a falcon.asgi.App")
    path = _falcon_path(app, template)
    # To add a route again would replace the other resource without a word.
    # The router has no public way to what it knows; seen in falcon 4.0 to 4.4.
    found = app._router.find(path, None)
    if found is None or found[3] != path:
        app.add_route(path, _mounted(template, handler, options))
        return
    resource, responders = found[0], cast(dict[str, Any], found[1])
    mounted_before = getattr(responders.get("WEBSOCKET"), "__module__", None) == __name__
    if mounted_before or hasattr(resource, "on_websocket"):
        raise ValueError(f"{path} has a resource with on_websocket already")
    responders["WEBSOCKET"] = _mounted(template, handler, options).on_websocket


def _mounted(template: PathTemplate, handler: Handler, options: OptionsDict) -> WebSocketResource:
    resource = WebSocketResource(handler, **options)
    resource._falcons_own = [
        segment.name
        for segment in template.segments
        if isinstance(segment, Parameter) and segment.converter is CONVERTERS["str"]
    ]
    return resource


def _falcon_path(app: App[Any, Any], template: PathTemplate) -> str:
    for converter in CONVERTERS.values():
        app.router_options.converters[_falcon_name(converter)] = _CONVERTERS[converter.name]
    return template.render(_parameter)


def _parameter(parameter: Parameter) -> str:
    if parameter.converter is CONVERTERS["str"]:
        # Falcon's own, lest it conflict with those of other routes beside it.
        return f"{{{parameter.name}}}"
    return f"{{{parameter.name}:{_falcon_name(parameter.converter)}}}"


def _falcon_name(converter: Converter) -> str:
    return f"unisock_{converter.name}"


def _falcon_converter(neutral: Converter) -> type[BaseConverter]:
    """A converter that matches what the neutral one does; Falcon's match more."""

    class NeutralConverter(BaseConverter):
        CONSUME_MULTIPLE_SEGMENTS = neutral.name == "path"

        def convert(self, value: Any) -> Any:
            text = value if isinstance(value, str) else "/".join(value)
            return neutral.parse(text)

    return NeutralConverter


_CONVERTERS = {name: _falcon_converter(neutral) for name, neutral in CONVERTERS.items()}
