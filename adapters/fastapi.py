"""FastAPI: a handler as the endpoint of an API WebSocket route, with dependencies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from inspect import Parameter, Signature
from typing import Any, Unpack

from fastapi import APIRouter, FastAPI, WebSocket, params
from fastapi.params import Depends
from fastapi.routing import APIWebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

import unisock
from unisock import Handler
from unisock.options import OptionsDict
from unisock.paths import PathTemplate

from .starlette import StarletteEndpoint, StarletteTransport, starlette_path

APPLICATIONS = (FastAPI, APIRouter)

# Where FastAPI keeps the dependencies with ``yield`` that are to be ended, the outer
# ones first; the last is that of before 0.118.
_DEPENDENCIES = ("fastapi_inner_astack", "fastapi_function_astack", "fastapi_astack")


# In the scope: what FastAPI has solved of the handler's own parameters.
_INJECTED = "unisock.injected"


def injects(given: object, /) -> bool:
    """Whether it is one of FastAPI's markers, as its own ``Depends`` and ``Query``."""
    return type(given).__module__ == params.__name__


class FastAPITransport(StarletteTransport):
    """A connection whose handler may have parameters that FastAPI injects."""

    @property
    def injected(self) -> Mapping[str, Any]:
        """What FastAPI has solved."""
        given: Mapping[str, Any] = self.scope.get(_INJECTED, {})
        return given


class FastAPIEndpoint(StarletteEndpoint):
    """As Starlette's; dependencies with ``yield`` see an error before an error handler does."""

    transport_class = FastAPITransport
    injects = staticmethod(injects)

    @property
    def injected(self) -> Sequence[Parameter]:
        """The parameters that FastAPI injects."""
        return () if self._mounted.plan is None else self._mounted.plan.injected

    async def _raise_within(self, exc: Exception, scope: Scope) -> None:
        async with AsyncExitStack() as stack:
            for name in _DEPENDENCIES:
                if name in scope:
                    await stack.enter_async_context(scope[name].pop_all())
            raise exc


def endpoint(
    handler: Handler, **options: Unpack[OptionsDict]
) -> Callable[[WebSocket], Awaitable[None]]:
    """The endpoint for ``add_api_websocket_route(path, endpoint(handler))``.

    Raises:
        TypeError: not a handler, or an unknown option.
        ValueError: an option's value.
    """
    return _endpoint(FastAPIEndpoint(handler, **options))


def _endpoint(app: FastAPIEndpoint) -> Callable[..., Awaitable[None]]:
    async def websocket_endpoint(unisock_websocket: WebSocket, **injected: Any) -> None:
        websocket = unisock_websocket  # a parameter of the handler may be called that
        websocket.scope[_INJECTED] = injected
        # Starlette's state machine is passed by: it would cost time with each
        # message and hide what the server tells.  The two are private; seen
        # from starlette 0.46 to 1.10.
        await app(websocket.scope, websocket._receive, websocket._send)

    websocket_endpoint.__name__ = app.__name__
    own = Parameter("unisock_websocket", Parameter.KEYWORD_ONLY, annotation=WebSocket)
    # What FastAPI looks at to know what to inject.
    websocket_endpoint.__signature__ = Signature([own, *app.injected])  # type: ignore[attr-defined]  # a function has none by itself
    return websocket_endpoint


def mount(
    app: FastAPI | APIRouter,
    template: PathTemplate,
    handler: Handler,
    *,
    name: str | None = None,
    dependencies: Sequence[Depends | unisock.Depends] | None = None,
    **options: Any,
) -> None:
    """Add an API WebSocket route; see `unisock.mount`.

    Args:
        app: an application or a router.
        template: the path.
        handler: as `unisock.mount` takes it.
        name: the route's.
        dependencies: FastAPI's, and unisock's.  One that raises `HTTPException` rejects the
            handshake with its status and body.
        **options: those of `unisock.Options`.
    """
    fastapis = [each for each in dependencies or () if isinstance(each, Depends)]
    others = [each for each in dependencies or () if not isinstance(each, Depends)]
    if others:
        options["dependencies"] = others
    asgi_app = FastAPIEndpoint(handler, **options)
    websocket_endpoint = _endpoint(asgi_app)
    app.add_api_websocket_route(
        starlette_path(template), websocket_endpoint, name=name, dependencies=fastapis
    )
    route = app.routes[-1]
    # A subclass may have put another endpoint around this one, or another route last.
    if (
        isinstance(route, APIWebSocketRoute)
        and route.endpoint is websocket_endpoint
        and not asgi_app.injected
    ):
        route.app = _unless_dependencies(route, asgi_app)


def _unless_dependencies(route: APIWebSocketRoute, app: ASGIApp) -> ASGIApp:
    """The route's own application where FastAPI has something to solve, else `app`.

    For nothing FastAPI takes longer than all of the handshake.  A router that is
    included later makes a route of its own.
    """
    solving = route.app

    def choose(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # With each connection: dependencies may be added to a route that is there.
        return (solving if route.dependant.dependencies else app)(scope, receive, send)

    return choose
