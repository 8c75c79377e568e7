"""`Row`: one server of the matrix that the suite runs on, and what it cannot do.

A lack is declared here with its reason and the server's version; the tests
assert the fallback, and the table at the end of the run shows it.
"""

from __future__ import annotations

import os
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
        routers: paths of `tell_room` on the framework's routers, by router, as
            ``"/routed/{}"``.
        by_hand: its paths in the framework's own forms, by form.
        request_type: the type of `WebSocket.request`, or a base of it.
        prefix: what stands before the path of an application that is mounted
            below another one.
    """

    name: str
    framework: str
    server: str
    command: Callable[[int], Sequence[str]]
    env: Mapping[str, str] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=Capabilities)
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
        if self.without("close_code") or (code == 1005 and self.without("no_code")):
            code = 1006
        if reason and self.without("close_reason"):
            reason = ""
        return code, reason

    def sends(self, code: int, reason: str = "") -> tuple[int, str]:
        """What the peer gets of the own close with `code` and `reason`."""
        if 1000 < code < 3000 and code not in (1005, 1006) and self.without("own_close_code"):
            code += 3000
        if reason and self.without("own_close_reason"):
            reason = ""
        return code, reason


# The project's own matrix


def _command(framework: str, server: str) -> Callable[[int], Sequence[str]]:
    module = ["unisock.conformance.serve"]
    if server == "WSGIServer patched":
        # As users do: before anything else is imported.
        module = ["gevent.monkey", "--module", *module]
    python = os.environ.get("UNISOCK_SERVER_PYTHON", sys.executable)
    return lambda port: [python, "-m", *module, framework, server, str(port)]


_NO_HTTP_ERROR = "bare ASGI has no HTTP error of its own"
_NO_ERROR_HANDLER = "bare ASGI has no error handlers: what a handler raises goes on to the server"
_NO_MOUNT = "bare ASGI has no router to mount on: ASGIApp is the form"
_FLASKS_OWN = "the clause is of Flask alone; elsewhere nothing imports it"
_ONE_TREE = "Falcon 4.4 has no applications below others"

_ABSOLUTE = "does not understand a target in absolute form"
_H11_1_0 = "uvicorn 0.54 accepts handshakes of HTTP/1.0"
_500_AT_STOP = "uvicorn 0.54 answers 500 to a handshake that is still unanswered when it stops"
_WSPROTO = "wsproto 1.3"

_UVICORN_SANSIO = {
    "absolute_form": f"uvicorn 0.54 {_ABSOLUTE}",
    "http_1_0": _H11_1_0,
    "status_at_stop": _500_AT_STOP,
    "header_answer": "uvicorn 0.54 websockets-sansio does not answer when a header is too long",
    "quiet_utf8": "uvicorn 0.54 websockets-sansio logs a traceback for text that is not UTF-8",
}
_UVICORN_WEBSOCKETS = {
    "absolute_form": f"uvicorn 0.54 {_ABSOLUTE}",
    "http_1_0": _H11_1_0,
    "status_at_stop": _500_AT_STOP,
    "latin1": "uvicorn 0.54 websockets takes no header outside ASCII, and sends one as UTF-8",
    "error_code_told": "uvicorn 0.54 websockets tells the application 1006 for a protocol error",
    "any_status": "uvicorn 0.54 websockets sends registered statuses only: else a 403",
    "unread_close": "uvicorn 0.54 websockets tells nothing of a close of a peer that does not read",
    "unread_shutdown": "uvicorn 0.54 websockets ends the process amid a close that nobody reads",
}
_UVICORN_UNISOCK = {"http_1_0": _H11_1_0}
_UVICORN_WSPROTO = {
    "absolute_form": f"uvicorn 0.54 {_ABSOLUTE}",
    "window_bits": f"{_WSPROTO} fails over a window size of many digits",
    "compressed_fragments": f"{_WSPROTO} does not inflate the fragments that follow a ping",
    "http_1_0": _H11_1_0,
    # h11 0.16 bounds what it holds of a head that is not complete, and no more.
    "header_limit": "uvicorn 0.54 wsproto takes a header of 100 KB that comes in one read",
    "status_at_stop": _500_AT_STOP,
    "key": f"{_WSPROTO} accepts any key",
    "error_codes": "uvicorn 0.54 wsproto ends the TCP connection on a protocol error",
    "frame_length": f"{_WSPROTO} waits for the payload, however long",
}
_HYPERCORN = {
    "absolute_form": f"hypercorn 0.18 {_ABSOLUTE}",
    "window_bits": f"{_WSPROTO} fails over a window size of many digits",
    "close_code": "hypercorn 0.18 tells the application 1006, whatever the peer said",
    "close_reason": "hypercorn 0.18 tells the application no reason",
    "failing_send": "hypercorn 0.18 lets sends to a peer that has gone pass: a receive tells",
    "unread_close": "hypercorn 0.18 tells nothing of a close of a peer that does not read",
    "unread_shutdown": "hypercorn 0.18 does not end while a peer does not read",
    "compressed_fragments": f"{_WSPROTO} does not inflate the fragments that follow a ping",
    "key": f"{_WSPROTO} accepts any key",
    "error_codes": "hypercorn 0.18 ends the TCP connection on a protocol error",
    "frame_length": f"{_WSPROTO} waits for the payload, however long",
}
_GRANIAN = {
    "absolute_host": "granian 2.8 goes by the Host header, whatever host the target names",
    "fragment": "granian 2.8 drops the fragment of a target",
    "no_host": "granian 2.8 takes a request without a Host",
    "accept_headers": "granian 2.8 drops the headers of websocket.accept",
    "repeated_headers": "granian 2.8 dies of a rejection that repeats a header: the last is sent",
    "close_reason": "granian 2.8 tells the application no reason",
    "failing_send": "granian 2.8 lets sends to a peer that has gone pass: a receive tells",
    "shutdown": "granian 2.8 cuts its connections when it stops, and waits for no handler",
    "no_code": "granian 2.8 tells a close without a code as it does a broken connection",
    "http_1_0": "granian 2.8 accepts handshakes of HTTP/1.0",
    "method": "granian 2.8 accepts handshakes that are no GET",
    "header_limit": "granian 2.8 takes a header of 100 KB",
    "key": "granian 2.8 accepts any key",
    "error_codes": "granian 2.8 closes without a code on most protocol errors",
}
_DAPHNE = {
    "accept_headers": "Daphne 4.2 drops the headers of websocket.accept",
    "http_rejection": "Daphne 4.2 answers each rejection with its own 403",
    "close_reason": "Daphne 4.2 tells the application no reason",
    "own_close_code": "Daphne 4.2 takes the codes 1000 and 3000 to 4999: 4011 is sent for 1011",
    "own_close_reason": "Daphne 4.2 drops the reason of websocket.close",
    "send_waits": "Daphne 4.2 holds all that a peer does not read: no send ever waits",
    "pauses": "Daphne 4.2 reads on, and holds all that a handler has not taken",
    "empty_binary": "Daphne 4.2 drops binary messages that are empty",
    "repeated_lines": "Daphne 4.2 joins the lines of a repeated request header, Cookie too",
    "absolute_host": "Daphne 4.2 goes by the Host header, whatever host the target names",
    "proxy": "Daphne 4.2 tells neither scheme nor prefix: its row believes no proxy",
    "empty_subprotocols": "Daphne 4.2 refuses a list of subprotocols with an empty element",
    "malformed_answer": "Daphne 4.2 does not answer a Content-Length of many digits",
    "odd_window_bits": "Daphne 4.2 refuses a window size of many digits",
    "odd_origin": "Daphne 4.2 answers 400 to an Origin that is not a URL",
    "shutdown": "Daphne 4.2 cuts its connections when it stops",
    "prompt_log": "Daphne 4.2 logs an application's error up to a second later",
    "error_codes": "Daphne 4.2 ends the TCP connection on a protocol error",
    "header_answer": "Daphne 4.2 does not answer when a header is too long",
    "version": "Daphne 4.2 accepts version 8",
    "http_1_0": "Daphne 4.2 accepts handshakes of HTTP/1.0",
    "unsure_send": "Daphne 4.2 may let sends to a peer that has gone pass: a receive tells",
}
_GEVENT_RESET = "gevent 26.9 logs tracebacks for a client that resets amid its handshake"
_UPGRADED = "gevent-websocket 0.10 has sent the 101 before the application is asked"
_GUNICORN = {"sigint": "gunicorn's SIGINT is its quick shutdown: it cuts every connection"}
_STOCK = {
    "absolute_form": f"gevent 26.9 {_ABSOLUTE}",
    "no_host": "gevent 26.9 takes a request without a Host",
    "accept_headers": _UPGRADED,
    "subprotocol": _UPGRADED,
    "http_rejection": _UPGRADED,
    "deferred_upgrade": f"{_UPGRADED}: a rejection is a close 1008 or 4000 + status",
    "no_route": f"{_UPGRADED}: what no route matches is closed without a code",
    "version": "gevent-websocket 0.10 accepts versions 7 and 8",
    "http_1_0": "gevent-websocket 0.10 answers HTTP/1.0 with 402",
    "quiet_reset": _GEVENT_RESET,
    "quiet_handshake": "gevent-websocket 0.10 on Python 3 fails while it answers a bad handshake",
}

_FORMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "asgi": {
            "lacks": {
                "http_error": _NO_HTTP_ERROR,
                "error_handler": _NO_ERROR_HANDLER,
                "mount": _NO_MOUNT,
                "page_beside": _NO_MOUNT,
                "flask_context": _FLASKS_OWN,
            },
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
            "lacks": {
                "prefix": _ONE_TREE,
                "flask_context": _FLASKS_OWN,
                "quiet_http_1_0": "Falcon 4.4 raises for HTTP/1.0, where the server tells of it",
            },
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

_SERVERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "uvicorn websockets-sansio": _UVICORN_SANSIO,
        "uvicorn websockets": _UVICORN_WEBSOCKETS,
        "uvicorn wsproto": _UVICORN_WSPROTO,
        "uvicorn unisock": _UVICORN_UNISOCK,
        "uvicorn unisock uvloop": _UVICORN_UNISOCK,
        "uvicorn unisock wrapped": _UVICORN_UNISOCK,
        "hypercorn": _HYPERCORN,
        "granian": _GRANIAN,
        "daphne": _DAPHNE,
        "WSGIServer unpatched": {},
        "WSGIServer patched": {},
        "WSGIServer stock": _STOCK,
        "gunicorn unisock": _GUNICORN,
        "gunicorn stock": {**_STOCK, **_GUNICORN},
    }
)
_ASGI_SERVERS = tuple(_SERVERS)[:9]
_WSGI_SERVERS = tuple(_SERVERS)[9:]
# What Daphne lacks, what stands between a server and a framework, and the event loop have
# nothing to do with a framework: these show it.
_SHOWN_ON: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "daphne": ("asgi", "starlette"),
        "uvicorn unisock uvloop": ("starlette",),
        "uvicorn unisock wrapped": ("starlette",),
    }
)


def _capabilities(lacks: Mapping[str, str]) -> Capabilities:
    return Capabilities(**{f.name: f.name not in lacks for f in fields(Capabilities)})


def _rows() -> Iterator[Row]:
    for framework, forms in _FORMS.items():
        for server in _WSGI_SERVERS if framework == "flask" else _ASGI_SERVERS:
            if framework not in _SHOWN_ON.get(server, (framework,)):
                continue
            lacks = {**_SERVERS[server], **forms.get("lacks", {})}
            yield Row(
                name=f"{framework} on {server}",
                framework=framework,
                server=server,
                command=_command(framework, server),
                capabilities=_capabilities(lacks),
                **{name: value for name, value in forms.items() if name != "lacks"},
                lacks=lacks,
            )


ROWS = tuple(_rows())
"""The frameworks, each on the servers that the suite runs it on."""
