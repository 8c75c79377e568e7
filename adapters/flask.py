"""Flask on gevent: a handler as a view function.

For `WSGIServer`, which is ``gevent.pywsgi.WSGIServer`` with `WebSocketHandler` (or
gevent-websocket's own handler class), and for gunicorn with `unisock.adapters.gunicorn`.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, MutableMapping, Sequence
from inspect import iscoroutinefunction, unwrap
from typing import Any, TypeAlias, Unpack, cast

from flask import Blueprint, Flask, Response, current_app, g, request, session
from flask.blueprints import BlueprintSetupState
from flask.globals import request_ctx
from flask.sessions import SecureCookieSessionInterface
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import BaseConverter

from unisock import Handler, UnisockError
from unisock.handlers import MountedHandler, functions_of, prepare
from unisock.handshake import check_header_name
from unisock.options import OptionsDict
from unisock.paths import CONVERTERS, Converter, Parameter, PathTemplate
from unisock.transport import HTTPError
from unisock.wire.opening import Refusal
from unisock.wire.options import Compression, WireOptions

from .gevent import Answer, GeventTransport, UpgradedTransport
from .gevent_handler import GeventHandshake, WebSocketHandler, request_handler
from .gevent_server import WSGIServer
from .gevent_sessions import serve

__all__ = ["WSGIServer", "WebSocketHandler", "mount", "view"]

APPLICATIONS = (Flask, Blueprint)

View: TypeAlias = Callable[..., Any]
ViewDecorator: TypeAlias = Callable[[Any], Any]

# In the environ of a request whose response was processed: what the session had then.
_ANSWERED = "unisock.answered"
# Written by the server, or by the handshake.
_NOT_FLASKS = ("connection", "upgrade", "transfer-encoding", "date")
# What nginx logs for a client that has left.
_CLIENT_LEFT = 499


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
    framework_answers = True

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


class _Answering:
    """What Flask does with a response, done when a handshake is answered.

    The functions of ``after_request`` and ``after_this_request`` see the 101, or the
    rejection.  What they return is sent, with the session's cookie.

    Attributes:
        error: what one of them raised.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # of the proxy
        self._flasks: Any = request_ctx._get_current_object()  # type: ignore[attr-defined]  # as above
        self.error: Exception | None = None

    def is_needed(self) -> bool:
        """Whether there are such functions, or a session to save."""
        app, session = self._app, self._flasks.session
        return (
            any(app.after_request_funcs.values())
            # There is no public way to those; seen in flask 3.0 to 3.1.
            or bool(self._flasks._after_request_functions)
            or type(app).process_response is not Flask.process_response
            or type(app.session_interface) is not SecureCookieSessionInterface
            or session.modified
            or len(session) > 0  # where it is permanent, each response renews it
        )

    def __call__(self, answer: Answer, /) -> Answer:
        """As `GeventTransport` calls it, from any greenlet."""
        return self._context.run(self._prepare, answer)

    def _prepare(self, answer: Answer) -> Answer:
        status_code, body, headers = answer
        response: Any = self._app.response_class(body, status_code, headers)
        if not any(name == "content-type" for name, _ in headers):
            del response.headers["Content-Type"]
        process = _processing_of(self._app)
        saved = self._flasks.session
        request.environ[_ANSWERED] = dict(saved)
        try:
            response = process(response)
            # It is saved.  What is changed from now on is saved at the end.
            saved.modified = False
            request.environ[_ANSWERED] = dict(saved)
            sent = response.get_wsgi_headers(request.environ)
            # WSGI takes no others either.
            for name, _ in sent:
                check_header_name(name)
            str(sent).encode("latin-1")
            body = response.get_data()
        except Exception as exc:  # noqa: BLE001  # it goes on to Flask; see `view`
            self.error = exc
            return 500, b"", [("content-length", "0")]
        kept = [
            (name, value)
            for name, value in sent
            if name.lower() not in _NOT_FLASKS and not name.lower().startswith("sec-websocket-")
        ]
        return response.status_code, body, kept


def _processing_of(app: Flask) -> Callable[[Response], Response]:
    """Flask's own `process_response`, which `app` calls once a request from now on.

    It would call it again when the view returns, which is when the connection has ended.
    """
    if "unisock" not in app.extensions:
        process = app.extensions["unisock"] = app.process_response

        def process_response(response: Response) -> Response:
            answered = request.environ.get(_ANSWERED)
            if answered is None:
                return process(response)
            changed = session._get_current_object()  # type: ignore[attr-defined]  # of the proxy
            # An unchanged one would overwrite what other requests have saved meanwhile.  The
            # contents are compared for a session that does not note its changes.
            is_changed = changed.modified or dict(changed) != answered
            if is_changed and not app.session_interface.is_null_session(changed):
                app.session_interface.save_session(app, changed, response)
            return response

        app.process_response = process_response  # type: ignore[method-assign]  # as its docs say
    processing: Callable[[Response], Response] = app.extensions["unisock"]
    return processing


def view(
    handler: Handler,
    *,
    decorators: Sequence[ViewDecorator] = (),
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    compression: Compression = None,
    **options: Unpack[OptionsDict],
) -> View:
    """A view for ``app.add_url_rule("/ws", view_func=view(handler), websocket=True)``.

    Args:
        handler: as `unisock.mount` takes it.
        decorators: decorators of views, as Flask-Login's ``login_required``.  Each is
            applied to the view, in this order, as with Flask's ``View.decorators``.
        ping_interval: seconds between keepalive pings, `None` for none.
        ping_timeout: seconds without a sign of life after one, until the peer counts as
            gone, `None` for never.
        compression: ``"deflate"`` or a `unisock.Deflate`: messages are compressed for a
            client that offers it, which takes memory for each connection; `None`: for none.
        **options: those of `unisock.Options`.

    Raises:
        TypeError: not a handler, or an unknown option; or a decorator of views is on
            the handler itself, where it cannot work.
        ValueError: an option's value.
    """
    wire_options = WireOptions(
        ping_interval=ping_interval, ping_timeout=ping_timeout, compression=compression
    )
    return _view(_prepare(handler, options), decorators, wire_options)


def _prepare(handler: Handler, options: OptionsDict) -> MountedHandler:
    mounted = prepare(handler, options)
    for function in functions_of(handler):
        # Such a decorator has Flask run an async view in an event loop of its own, and
        # answers with a response, which is nothing to a handler.
        is_of_views = "ensure_sync" in function.__code__.co_names
        if is_of_views and iscoroutinefunction(unwrap(function)):
            raise TypeError(
                f"{mounted.name} has a decorator of views, which cannot call an async handler: "
                "take it off, and mount with decorators=[…]"
            )
    return mounted


def _view(
    mounted: MountedHandler, decorators: Sequence[ViewDecorator], wire_options: WireOptions
) -> View:
    if callable(decorators):
        raise TypeError("decorators= is a list of decorators, also if there is one")

    def websocket_view(**path_params: Any) -> Response:
        environ = request.environ
        if environ["PATH_INFO"].startswith("//"):
            raise NotFound  # Werkzeug takes it for the path with one slash
        server_handler = request_handler(environ)
        # The server's own handler class has upgraded, or what the application did with it.
        is_upgraded = server_handler.websocket is not None
        transport_class = UpgradedFlaskTransport if is_upgraded else FlaskTransport
        answering = _Answering()
        handshake = FlaskHandshake(environ, path_params)
        try:
            transport = transport_class(
                handshake, server_handler, mounted, wire_options, prepare=answering
            )
        except Refusal as refusal:
            server_handler.refuse(refusal.response())
        else:
            serve(mounted, transport, server_handler.server)
        if answering.error is not None:
            raise answering.error
        # For Flask alone.  WSGI sends it only if the handshake has no answer.
        return Response(status=server_handler.code if server_handler.headers_sent else _CLIENT_LEFT)

    websocket_view.__name__ = mounted.name
    decorated: View = websocket_view
    for decorator in decorators:
        decorated = decorator(decorated)
    return decorated


def mount(
    app: Flask | Blueprint,
    template: PathTemplate,
    handler: Handler,
    *,
    name: str | None = None,
    decorators: Sequence[ViewDecorator] = (),
    ping_interval: float | None = 20.0,
    ping_timeout: float | None = 20.0,
    compression: Compression = None,
    **options: Unpack[OptionsDict],
) -> None:
    """Add a URL rule; see `unisock.mount` and `view`.

    Args:
        app: a Flask application or a blueprint.
        template: the path.
        handler: as `unisock.mount` takes it.
        name: the endpoint, for ``url_for``; the handler's name if that is free.
        decorators: as `view`.
        ping_interval: as `view`.
        ping_timeout: as `view`.
        compression: as `view`.
        **options: as `view`.
    """
    mounted = _prepare(handler, options)
    wire_options = WireOptions(
        ping_interval=ping_interval, ping_timeout=ping_timeout, compression=compression
    )
    websocket_view = _view(mounted, decorators, wire_options)
    rule = template.render(_parameter)

    def add(target: Flask | BlueprintSetupState, flask_app: Flask, prefix: str) -> None:
        flask_app.url_map.converters.update(_CONVERTERS)
        endpoint = name or _free_endpoint(flask_app, prefix, mounted.name)
        # A client of a WebSocket does not follow the redirect that Werkzeug would answer
        # two slashes with.
        target.add_url_rule(
            rule, endpoint, websocket_view, websocket=True, methods=["GET"], merge_slashes=False
        )

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
