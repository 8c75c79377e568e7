"""Routes by decorator, and routers that hold them until there is an application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .handlers import Handler, check_form
from .mounting import mount as mount_handler
from .paths import PathTemplate

HandlerT = TypeVar("HandlerT", bound=Handler)


class Router:
    """Handlers with their paths and options, to be mounted together.

    ::

        router = Router(prefix="/v1")

        @router.route("/rooms/{room}")
        async def room(ws: WebSocket, room: str) -> None: ...

        unisock.mount(app, "/", router)

    A router may be mounted on several applications, and on another router.  What is added to
    it after that is not in them.

    Args:
        prefix: what each path of it begins with, as ``"/v1"``.
        **options: those of `unisock.mount` for all that is in it.  A handler's own come
            first; only of `dependencies` all count, the router's before the others.

    Raises:
        ValueError: a malformed prefix.
    """

    def __init__(self, prefix: str = "", **options: Any) -> None:
        self.prefix = _checked(prefix)
        self._options = options
        self._routes: list[tuple[str, Handler, dict[str, Any]]] = []

    def route(self, path: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
        """A decorator that adds a handler, which it returns as it is.

        Args:
            path: behind the prefix; ``""`` for the prefix itself.
            **options: those of `unisock.mount`.

        Raises:
            TypeError, ValueError: as `unisock.mount`; what only the framework can tell
                comes when the router is mounted.
        """
        _check_is_path(path, "@router.route")

        def register(handler: HandlerT) -> HandlerT:
            self.add(path, handler, **options)
            return handler

        return register

    def add(self, path: str, handler: Handler | Router, **options: Any) -> None:
        """Add a handler, or all that is in another router; as `unisock.mount` on this one."""
        if isinstance(handler, Router):
            handler._mount_on(self, path, options)
            return
        PathTemplate.parse(_joined(self.prefix, path))
        self._routes.append((path, check_form(handler), options))

    def _mount_on(self, app: Any, path: str, options: dict[str, Any]) -> None:
        """Mount all on an application; see `unisock.mount`."""
        below = "" if path == "/" else _checked(path)
        for own_path, handler, own_options in tuple(self._routes):
            merged = _merged(_merged(options, self._options), own_options)
            whole = f"{below}{self.prefix}{own_path}"
            mount(app, whole or (path and "/"), handler, **merged)


def _check_is_path(path: object, decorator: str) -> None:
    if callable(path):
        raise TypeError(f'{decorator} takes a path: write {decorator}("/path", …)')


def _checked(prefix: str) -> str:
    if prefix:
        PathTemplate.parse(prefix)
    if prefix.endswith("/"):
        raise ValueError(f"a prefix does not end with a slash: {prefix!r}")
    return prefix


def _joined(prefix: str, path: str) -> str:
    return f"{prefix}{path}" or "/"


def _merged(outer: dict[str, Any], inner: dict[str, Any]) -> dict[str, Any]:
    merged = {**outer, **inner}
    if "dependencies" in outer and "dependencies" in inner:
        merged["dependencies"] = [*outer["dependencies"], *inner["dependencies"]]
    return merged


def mount(app: Any, path: str, handler: Handler | Router, **options: Any) -> None:
    """Mount `handler` at `path` on `app`.

    Args:
        app: a Falcon, FastAPI, Starlette or Flask application, or one of their
            routers (`APIRouter`, `Router`, `Blueprint`), or one of any other
            framework whose adapter is installed; or a `unisock.Router`.
        path: ``/rooms/{room}``; see `unisock.paths`.  On a router that has a prefix it may
            be ``""``, for the prefix itself.
        handler: ``async def handler(ws)``, a `WebSocketEndpoint` class, or a plain
            ``def handler(ws)``; see `unisock.handlers`.  Or a `unisock.Router`: all its
            handlers are mounted, below `path`.
        **options: those of `unisock.Options`, and what the framework's own
            way to register a route takes (``name``, ``dependencies`` …).

    Raises:
        TypeError: an `app` of an unknown type, a handler that cannot be
            mounted, an unknown option.
        ValueError: a malformed path, or an option's value.
        ModuleNotFoundError: a package that the adapter needs is missing; the
            message has the command that installs it.
        RuntimeError: two distributions have an adapter for the framework.
    """
    if isinstance(app, Router):
        app.add(path, handler, **options)
    elif isinstance(handler, Router):
        handler._mount_on(app, path, options)
    else:
        mount_handler(app, path, handler, **options)


def route(app: Any, path: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
    """A decorator that mounts a handler, which it returns as it is.

    ::

        @unisock.route(app, "/echo")
        async def echo(ws: WebSocket) -> None: ...

    Args:
        app: as `mount` takes it.
        path: as `mount` takes it.
        **options: as `mount` takes them.

    Raises:
        TypeError, ValueError, ModuleNotFoundError: as `mount`, where the handler is decorated.
    """
    _check_is_path(path, "@unisock.route")

    def register(handler: HandlerT) -> HandlerT:
        mount(app, path, handler, **options)
        return handler

    return register
