"""`Row`: one server of the matrix that the suite runs on, and what it cannot do.

A lack is declared here with its reason and the server's version; the tests
assert the fallback, and the table at the end of the run shows it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from unisock import Capabilities

noted: set[str] = set()
"""The lacks that the running test has met, for the table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One framework on one server.

    Attributes:
        name: as ``"falcon on uvicorn websockets"``.
        framework: the framework's name.
        server: the server's name.
        command: the arguments that start it on a port of 127.0.0.1.
        env: environment variables beside those of the test run.
        capabilities: what `WebSocket.capabilities` must say.
        lacks: what this row cannot do, with the reason; each capability that
            is false is among them.
        no_route_status: the status of a handshake that no route matches.
        routers: paths mounted on the framework's routers, by router.
        by_hand: paths registered in the framework's own form, by form.
        request_type: the type of `WebSocket.request`, or a base of it.
        prefix: what stands before the path of an application that is mounted
            below another one.
    """

    name: str
    framework: str
    server: str
    command: Callable[[int], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    capabilities: Capabilities = Capabilities()
    lacks: Mapping[str, str] = field(default_factory=dict)
    no_route_status: int = 404
    routers: Mapping[str, str] = field(default_factory=dict)
    by_hand: Mapping[str, str] = field(default_factory=dict)
    request_type: str = "builtins.object"
    prefix: str = "/prefix"

    def __post_init__(self) -> None:
        for capability in fields(self.capabilities):
            has = getattr(self.capabilities, capability.name)
            if has is (capability.name in self.lacks):
                raise ValueError(f"{self.name}: {capability.name} is {has}: see `lacks`")

    def without(self, key: str) -> bool:
        """Whether `key` is declared as a lack; if so the table shows it.

        For tests, that then assert the fallback.
        """
        if key not in self.lacks:
            return False
        noted.add(key)
        return True

    def sees(self, code: int, reason: str = "") -> tuple[int, str]:
        """What a handler learns of the peer's close with `code` and `reason`."""
        if self.without("close_code"):
            code = 1006
        if reason and self.without("close_reason"):
            reason = ""
        return code, reason

    def sees_broken(self) -> int:
        """The code that a handler learns of a connection that broke."""
        return 1005 if self.without("broken_code") else 1006


# The project's own matrix


def _command(framework: str, server: str) -> Callable[[int], Sequence[str]]:
    module = "unisock.conformance.serve"
    return lambda port: [sys.executable, "-m", module, framework, server, str(port)]


_NO_HTTP_ERROR = "bare ASGI has no HTTP error of its own"
_NO_MOUNT = "bare ASGI has no router to mount on: ASGIApp is the form"
_FLASKS_OWN = "the clause is of Flask alone; elsewhere nothing imports it"
_ONE_TREE = "Falcon 4.4 has no applications below others"

_HYPERCORN_CODE = "hypercorn 0.18 tells the application 1006, whatever the peer said"
_HYPERCORN_REASON = "hypercorn 0.18 tells no reason"
_GRANIAN_HEADERS = "granian 2.8 drops the headers of websocket.accept"
_GRANIAN_REJECTION = "granian 2.8 has no websocket.http.response: every rejection is a 403"
_GRANIAN_REASON = "granian 2.8 tells no reason"
_GRANIAN_BROKEN = "granian 2.8 tells a broken connection as one closed without a code"

_STOCK_UPGRADED = "gevent-websocket 0.10 has sent the 101 before the application is asked"

_FORMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "asgi": {
            "lacks": {"http_error": _NO_HTTP_ERROR, "mount": _NO_MOUNT, "flask_context": _FLASKS_OWN},
            "request_type": "builtins.dict",
            "no_route_status": 403,
            "by_hand": {"ASGIApp": "/by-hand/{}"},
        },
        "starlette": {
            "lacks": {"flask_context": _FLASKS_OWN},
            "request_type": "starlette.requests.HTTPConnection",
            "no_route_status": 403,
            "routers": {"Router": "/routed/{}"},
            "by_hand": {"WebSocketRoute": "/by-hand/{}"},
        },
        "fastapi": {
            "lacks": {"flask_context": _FLASKS_OWN},
            "request_type": "starlette.requests.HTTPConnection",
            "no_route_status": 403,
            "routers": {"APIRouter": "/routed/{}"},
            "by_hand": {"add_api_websocket_route": "/by-hand/{}"},
        },
        "falcon": {
            "lacks": {"prefix": _ONE_TREE, "flask_context": _FLASKS_OWN},
            "request_type": "falcon.asgi.request.Request",
            "no_route_status": 403,
            "by_hand": {
                "on_websocket": "/by-hand/responder/{}",
                "WebSocketResource": "/by-hand/resource/{}",
            },
        },
        "flask": {
            "request_type": "flask.wrappers.Request",
            "no_route_status": 404,
            "routers": {"Blueprint": "/routed/{}"},
            "by_hand": {"add_url_rule": "/by-hand/{}"},
        },
    }
)

_SERVERS: Mapping[str, tuple[Capabilities, Mapping[str, str]]] = MappingProxyType(
    {
        "uvicorn websockets-sansio": (Capabilities(), {}),
        "uvicorn websockets": (Capabilities(), {}),
        "uvicorn wsproto": (Capabilities(), {}),
        "hypercorn": (
            Capabilities(close_code=False, close_reason=False),
            {"close_code": _HYPERCORN_CODE, "close_reason": _HYPERCORN_REASON},
        ),
        "granian": (
            Capabilities(accept_headers=False, http_rejection=False, close_reason=False),
            {
                "accept_headers": _GRANIAN_HEADERS,
                "http_rejection": _GRANIAN_REJECTION,
                "close_reason": _GRANIAN_REASON,
                "broken_code": _GRANIAN_BROKEN,
            },
        ),
        "WSGIServer unpatched": (Capabilities(), {}),
        "WSGIServer patched": (Capabilities(), {}),
        "WSGIServer stock": (
            Capabilities(accept_headers=False, subprotocol=False, http_rejection=False),
            {
                "accept_headers": _STOCK_UPGRADED,
                "subprotocol": _STOCK_UPGRADED,
                "http_rejection": _STOCK_UPGRADED,
            },
        ),
        "gunicorn unisock": (Capabilities(), {}),
        "gunicorn stock": (
            Capabilities(accept_headers=False, subprotocol=False, http_rejection=False),
            {
                "accept_headers": _STOCK_UPGRADED,
                "subprotocol": _STOCK_UPGRADED,
                "http_rejection": _STOCK_UPGRADED,
            },
        ),
    }
)
_ASGI_SERVERS = tuple(_SERVERS)[:5]
_WSGI_SERVERS = tuple(_SERVERS)[5:]


def _rows() -> Iterator[Row]:
    for framework, forms in _FORMS.items():
        for server in _WSGI_SERVERS if framework == "flask" else _ASGI_SERVERS:
            capabilities, lacks = _SERVERS[server]
            yield Row(
                name=f"{framework} on {server}",
                framework=framework,
                server=server,
                command=_command(framework, server),
                capabilities=capabilities,
                **{**forms, "lacks": {**lacks, **forms.get("lacks", {})}},
            )


ROWS = tuple(_rows())
"""Every framework on every server that its users run."""
