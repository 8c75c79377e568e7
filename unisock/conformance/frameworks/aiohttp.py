"""aiohttp on its own server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unisock.conformance.harness import (
    OWN_ANSWER,
    OwnError,
    around_handler,
    mount_all,
    tell_own_error,
    use_http_error,
)
from unisock.conformance.rows import rows_of
from unisock.conformance.serve import GRACE, LEFT, tell_error

if TYPE_CHECKING:
    from aiohttp import web

ROWS = rows_of(
    "aiohttp",
    {
        "aiohttp": {
            "fragment": "aiohttp 3.14 drops the fragment of a target",
            "quiet_malformed": "aiohttp 3.14 logs a traceback for a request that is malformed",
            "latin1": "aiohttp 3.14 sends headers as UTF-8",
            "quiet_header": "aiohttp 3.14 logs a traceback for a header that is too long",
        }
    },
    on_lowest=["aiohttp"],
    request_type="aiohttp.web_request.Request",
    routers={"RouteTableDef": "/routed/{}", "UrlDispatcher": "/dispatched/{}"},
    by_hand={"view": "/by-hand/{}"},
)


def make_app() -> web.Application:
    """The application of the suite."""
    from aiohttp import web

    import unisock
    from unisock.adapters.aiohttp import view
    from unisock.conformance.clauses_mounting import tell_room

    errors = {403: web.HTTPForbidden, 404: web.HTTPNotFound, 409: web.HTTPConflict}
    use_http_error(lambda status: errors[status]())

    @web.middleware
    async def leave(request: web.Request, handler: Any) -> web.StreamResponse:
        """Believe a proxy, leave something for the handler, and tell of the errors that pass."""
        request = _believing(request)
        request[LEFT] = "yes"
        try:
            with around_handler(request.query_string):
                response: web.StreamResponse = await handler(request)
        except web.HTTPException:
            raise
        except OwnError:
            tell_own_error(request.query_string)
            status, body, headers = OWN_ANSWER
            return web.Response(status=status, body=body, headers=headers)
        except Exception as exc:
            tell_error(request.query_string, exc)
            raise
        return response

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="the page")

    app = web.Application(middlewares=[leave])
    app.router.add_get("/mounting/both", page)
    mount_all(app)
    below = web.Application()
    mount_all(below)
    app.add_subapp("/prefix", below)
    routes = web.RouteTableDef()
    unisock.mount(routes, "/routed/{room}", tell_room)
    unisock.mount(app.router, "/dispatched/{room}", tell_room)
    app.add_routes([web.get("/page", page), web.get("/by-hand/{room}", view(tell_room)), *routes])
    return app


def _believing(request: web.Request) -> web.Request:
    """The request as the client has sent it, by what a proxy says."""
    from yarl import URL

    said: dict[str, Any] = {}
    headers = request.headers
    if "X-Forwarded-For" in headers:
        said["remote"] = headers["X-Forwarded-For"].rpartition(",")[2].strip()
    if "X-Forwarded-Proto" in headers:
        said["scheme"] = headers["X-Forwarded-Proto"]
    if "X-Forwarded-Prefix" in headers:
        path = headers["X-Forwarded-Prefix"] + request.rel_url.raw_path_qs
        said["rel_url"] = URL(path, encoded=True)
    return request.clone(**said) if said else request


def serve(server: str, port: int) -> None:
    """Serve until a signal comes."""
    from aiohttp import web

    web.run_app(make_app(), host="127.0.0.1", port=port, shutdown_timeout=GRACE, print=None)
