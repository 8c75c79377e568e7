"""Flask on gevent: a handler as a view function.

For ``gevent.pywsgi.WSGIServer`` with `WebSocketHandler` (or gevent-websocket's
own handler class), and for gunicorn with `unisock.adapters.gunicorn`.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Unpack, cast

from flask import Blueprint, Flask, Response, g, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from unisock import Handler, UnisockError
from unisock.handlers import prepare
from unisock.options import OptionsDict
from unisock.paths import CONVERTERS, Converter, Parameter, PathTemplate
from unisock.transport import HTTPError

from .gevent import (
    GeventHandshake,
    GeventTransport,
    UpgradedTransport,
    WebSocketHandler,
    request_handler,
    serve,
)

__all__ = ["WebSocketHandler", "mount", "view"]


class FlaskHandshake(GeventHandshake):
    """The handshake with Flask's request."""

    @property
    def request(self) -> Any:
        """Flask's request, itself and not the proxy."""
        return request._get_current_object()  # type: ignore[attr-defined]  # of the proxy

    @property
    def framework_state(self) -> MutableMapping[str, Any]:
        """``flask.g``, where ``before_request`` functions leave what they found."""
        state: MutableMapping[str, Any] = vars(g._get_current_object())
        return state


class _FlaskErrors:
    def translate(self, exc: Exception) -> UnisockError | None:
        """Werkzeug's `HTTPException`, as `flask.abort` raises it."""
        if not isinstance(exc, HTTPException):
            return None
        # `abort(response)` has no code of its own.
        code = exc.code or (exc.response.status_code if exc.response is not None else None)
        return None if code is None else HTTPError(code, exc.name)


class FlaskTransport(_FlaskErrors, GeventTransport):
    """A connection whose handler may raise Werkzeug's exceptions."""


class UpgradedFlaskTransport(_FlaskErrors, UpgradedTransport):
    """The same on gevent-websocket's own handler class."""


def view(
    handler: Handler,
    *,
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    **options: Unpack[OptionsDict],
) -> Callable[..., Response]:
    """A view for ``app.add_url_rule("/ws", view_func=view(handler), websocket=True)``.

    Args:
        handler: as `unisock.mount` takes it.
        ping_interval: seconds between keepalive pings, `None` for none.
        ping_timeout: seconds until a peer that does not answer one counts as
            gone, `None` for never.
        **options: those of `unisock.Options`.

    Raises:
        TypeError: not a handler, or an unknown option.
        ValueError: an option's value.
    """
    mounted = prepare(handler, options)
    for name, value in (("ping_interval", ping_interval), ("ping_timeout", ping_timeout)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}= is above 0 or None, not {value!r}")

    def websocket_view(**path_params: Any) -> Response:
        environ = request.environ
        server_handler = request_handler(environ)
        # The server's own handler class has upgraded, or what the application did with it.
        is_upgraded = server_handler.websocket is not None
        transport_class = UpgradedFlaskTransport if is_upgraded else FlaskTransport
        transport = transport_class(
            FlaskHandshake(environ, path_params),
            server_handler,
            mounted,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
        )
        serve(mounted, transport, server_handler.server)
        return Response()  # for WSGI; the connection is answered

    websocket_view.__name__ = mounted.name
    return websocket_view


def mount(
    app: Flask | Blueprint,
    template: PathTemplate,
    handler: Handler,
    *,
    name: str | None = None,
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    **options: Unpack[OptionsDict],
) -> None:
    """Add a URL rule; see `unisock.mount` and `view`.

    Args:
        app: a Flask application or a blueprint.
        template: the path.
        handler: as `unisock.mount` takes it.
        name: the endpoint, for ``url_for``; the handler's name if that is free.
        ping_interval: as `view`.
        ping_timeout: as `view`.
        **options: as `view`.
    """
    websocket_view = view(
        handler, ping_interval=ping_interval, ping_timeout=ping_timeout, **options
    )
    rule = template.render(_parameter)

    def add(target: Flask | BlueprintSetupState, flask_app: Flask, prefix: str) -> None:
        flask_app.url_map.converters.update(_CONVERTERS)
        endpoint = name or _free_endpoint(flask_app, prefix, websocket_view.__name__)
        target.add_url_rule(rule, endpoint, websocket_view, websocket=True, methods=["GET"])

    if isinstance(app, Flask):
        add(app, app, "")
    else:
        # A blueprint has no URL map: it is told when it is registered.
        app.record(lambda state: add(state, cast(Flask, state.app), f"{state.name}."))


def _free_endpoint(app: Flask, prefix: str, name: str) -> str:
    name = name.strip("<>")  # a lambda's
    endpoint, number = name, 1
    while f"{prefix}{endpoint}" in app.view_functions:
        number += 1
        endpoint = f"{name}_{number}"
    return endpoint


def _parameter(parameter: Parameter) -> str:
    return f"<{_flask_name(parameter.converter)}:{parameter.name}>"


def _flask_name(converter: Converter) -> str:
    return f"unisock_{converter.name}"


def _flask_converter(neutral: Converter) -> type[BaseConverter]:
    """A converter that matches what the neutral one does; Werkzeug's match less."""

    class NeutralConverter(BaseConverter):
        regex = neutral.regex
        part_isolating = neutral.name != "path"

        def to_python(self, value: str) -> Any:
            return neutral.convert(value)

    return NeutralConverter


_CONVERTERS = {_flask_name(neutral): _flask_converter(neutral) for neutral in CONVERTERS.values()}
