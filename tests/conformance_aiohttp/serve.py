"""The server process of aiohttp's row: ``python serve.py PORT``."""

from __future__ import annotations

import logging
import sys
from typing import Any

from aiohttp import web
from yarl import URL

import unisock
from unisock.adapters.aiohttp import view
from unisock.conformance.clauses_mounting import tell_room
from unisock.conformance.harness import (
    OWN_ANSWER,
    OwnError,
    around_handler,
    journal_as,
    mount_all,
    tell_own_error,
    use_http_error,
)  # fmt: skip

_HTTP_ERRORS = {403: web.HTTPForbidden, 404: web.HTTPNotFound, 409: web.HTTPConflict}


@web.middleware
async def leave(request: web.Request, handler: Any) -> web.StreamResponse:
    """Believe a proxy, leave something for the handler, and tell of the errors that pass."""
    request = believe(request)
    request["left_by_middleware"] = "yes"
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
        journal_as(request.query.get("id", ""), "framework-error", type=type(exc).__name__)
        raise
    return response


def believe(request: web.Request) -> web.Request:
    """The request as the client has sent it, by what a proxy says."""
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


async def page(request: web.Request) -> web.Response:
    return web.Response(text="the page")


def make_app() -> web.Application:
    """Everything that a row's server has."""
    use_http_error(lambda status: _HTTP_ERRORS[status]())
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


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), shutdown_timeout=3, print=None)
