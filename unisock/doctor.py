"""``unisock doctor``: what is installed, what it can do, and what is in the way.

Versions are read from the packages' metadata, the lowest that will do from
unisock's own, and what a server can do from the adapters.  A package is
imported only to see whether it can be.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import platform
import re
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import __version__
from .adapters.asgi import SERVERS, ASGIApp
from .mounting import adapter_of
from .transport import Capabilities

_ASGI_FRAMEWORKS = ("falcon", "fastapi", "starlette")
_FRAMEWORKS = (*_ASGI_FRAMEWORKS, "flask", "aiohttp")
_GEVENT_SERVERS = ("gevent", "gunicorn")
_LIBRARIES = ("gevent-websocket", "websockets", "wsproto")
_UVICORN_AUTO = "uvicorn.protocols.websockets.auto"
_NO_WEBSOCKETS = "no WebSockets"
# By which uvicorn 0.54 makes a listening socket itself, without the protocol's number: asyncio
# then sets no TCP_NODELAY.  uvloop does, but for a socket that comes as a descriptor.
_MAKES_SOCKETS = ("WEB_CONCURRENCY", "UVICORN_WORKERS", "UVICORN_RELOAD")
_TRUE = ("1", "true", "t", "yes", "y", "on")  # as click reads them


@dataclass(frozen=True, slots=True)
class Package:
    """A package that matters.

    Attributes:
        name: what it is installed by.
        at_least: the lowest version that unisock is tested with.
        version: `None` where it is not installed.
        error: why it, or the adapter for it, cannot be imported.
        note: what else is to be said.
    """

    name: str
    at_least: str | None
    version: str | None = None
    error: str = ""
    note: str = ""

    @property
    def works(self) -> bool:
        """Whether it is there, can be imported, and has WebSockets."""
        return self.version is not None and not self.error and self.note != _NO_WEBSOCKETS


@dataclass(frozen=True, slots=True)
class Pair:
    """A framework on a server, and what they can do."""

    framework: str
    server: str
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to warn of.

    Attributes:
        code: its name, for machines.
        text: what happens.
        remedy: what to do.
    """

    code: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found."""

    unisock: str
    python: str
    packages: Sequence[Package]
    pairs: Sequence[Pair]
    warnings: Sequence[Finding]

    def as_json(self) -> str:
        """One object, for machines."""
        return json.dumps(asdict(self), indent=2)

    def as_text(self) -> str:
        """Lines for people; what is wrong comes last, where one looks."""
        lines = [f"unisock {self.unisock}, Python {self.python}", ""]
        lines += [_package_line(package) for package in self.packages]
        lines += ["", *map(_pair_line, self.pairs)]
        for warning in self.warnings:
            lines += ["", f"warning: {warning.text}", f"     do: {warning.remedy}"]
        return "\n".join(lines if self.warnings else [*lines, "", "no warnings"])


def _package_line(package: Package) -> str:
    installed = package.version or "not installed"
    remark = "cannot be imported" if package.error else package.note
    return f"{package.name:<18}{installed:<15}{remark}".rstrip()


def _pair_line(pair: Pair) -> str:
    names = [field.name for field in fields(Capabilities)]
    lacks = [name for name in names if not getattr(pair.capabilities, name)]
    can = f"all but {', '.join(lacks)}" if lacks else "all capabilities"
    return f"{f'{pair.framework} on {pair.server}':<33}{can}"


def examine(spec: str | None = None, app: Any = None) -> Report:
    """Look at what is installed, and at an application.

    Args:
        spec: the application as ``MODULE:APP``, if there is one.
        app: the application.
    """
    bounds = _lower_bounds()
    names = (*_FRAMEWORKS, *SERVERS, *_GEVENT_SERVERS, *_LIBRARIES)
    packages = {name: _package(name, bounds.get(name)) for name in names}
    warnings = [*check_process(), *_check_packages(packages.values()), *_check_servers(packages)]
    if spec is not None:
        warnings += _check_app(spec, app, vars(sys.modules[spec.partition(":")[0]]).values())
    pairs = list(_pairs({package.name for package in packages.values() if package.works}))
    return Report(__version__, platform.python_version(), [*packages.values()], pairs, warnings)


# Packages


def _lower_bounds() -> dict[str, str]:
    """The lowest version of each package that unisock's metadata names."""
    try:
        requirements = requires("unisock") or []
    except PackageNotFoundError:  # it was not installed, but is on the path
        return {}
    matches = (re.match(r"([\w.-]+)>=([\w.]+)", requirement) for requirement in requirements)
    return {match[1].lower(): match[2] for match in matches if match}


def _package(name: str, at_least: str | None) -> Package:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Package(name, at_least)
    error = _import_error(_module(name))
    note = _websockets_of_uvicorn() if name == "uvicorn" and not error else ""
    return Package(name, at_least, installed, error, note)


def _module(name: str) -> str:
    """What to import to see whether a package can be used."""
    if name in _FRAMEWORKS:  # its adapter imports it, and what else is needed with it
        return f"unisock.adapters.{name}"
    return _UVICORN_AUTO if name == "uvicorn" else name.replace("-", "")


def _import_error(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as exc:  # noqa: BLE001  # whatever a broken package raises
        return " ".join(f"{type(exc).__name__}: {exc}".split())
    return ""


def _websockets_of_uvicorn() -> str:
    """What uvicorn speaks WebSockets by where it is left to choose."""
    auto = importlib.import_module(_UVICORN_AUTO)
    if auto.AutoWebSocketsProtocol is None:
        return _NO_WEBSOCKETS
    module: str = auto.AutoWebSocketsProtocol.__module__
    library = module.rpartition(".")[2].removesuffix("_impl").replace("_", "-")
    return f"WebSockets by {library}, {'with' if find_spec('uvloop') else 'no'} uvloop"


def _check_packages(packages: Iterable[Package]) -> Iterator[Finding]:
    for package in packages:
        name, bound = package.name, package.at_least
        if package.error:
            what = f"{name} or its adapter" if name in _FRAMEWORKS else name
            remedy = f"'unisock[{name}]'" if name in _FRAMEWORKS else f"--force-reinstall {name}"
            yield Finding(
                "import-error",
                f"importing {what} fails: {package.error}",
                f"pip install {remedy}",
            )
        if package.version and bound and _release(package.version) < _release(bound):
            yield Finding(
                "too-old",
                f"{name} {package.version} is older than what unisock is tested with",
                f"pip install --upgrade '{name}>={bound}'",
            )


def _release(version: str) -> list[int]:
    """Its numbers, without zeros at the end: 23 is 23.0, and 1.0rc1 counts as 1.0."""
    numbers = [int(each) for each in re.split(r"[^\d.]", version)[0].split(".") if each]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


# Servers


def _pairs(working: Collection[str]) -> Iterator[Pair]:
    """What the adapters declare, for what is there."""
    for framework in ("asgi", *_ASGI_FRAMEWORKS):
        for server, capabilities in SERVERS.items():
            if server in working and framework in ("asgi", *working):
                yield Pair(framework, server, capabilities)
    if "flask" in working:
        flask = importlib.import_module("unisock.adapters.flask")
        for server in _GEVENT_SERVERS:
            if server in working:
                yield Pair("flask", server, flask.FlaskTransport.capabilities)
                stock = flask.UpgradedFlaskTransport.capabilities
                yield Pair("flask", f"{server}, stock handler", stock)
    if "aiohttp" in working:
        aiohttp = importlib.import_module("unisock.adapters.aiohttp")
        yield Pair("aiohttp", "aiohttp", aiohttp.AiohttpTransport.capabilities)


def _check_servers(packages: Mapping[str, Package]) -> Iterator[Finding]:
    if packages["uvicorn"].note == _NO_WEBSOCKETS:
        yield Finding(
            "uvicorn-no-websockets",
            "uvicorn has no WebSocket library: each handshake is a plain GET to the application",
            "pip install websockets",
        )
    if packages["hypercorn"].works:
        yield Finding(
            "hypercorn-1006",
            "hypercorn tells no close code and no reason: every end is 1006 to a handler",
            "rely on neither (ws.capabilities tells), or serve with uvicorn",
        )
    if packages["daphne"].works:
        yield Finding(
            "daphne",
            "Daphne holds without a limit what a peer does not read or a handler has not taken, "
            "and drops close codes below 3000, reasons, rejections and headers",
            "serve with uvicorn, which runs the same application",
        )
    if packages["uvicorn"].works:
        yield from _check_uvicorn_sockets()
        yield from _check_uvicorn_queue()
    settings = list(_gunicorn_settings())
    if not any("timeout_graceful_shutdown" in text for _, text in settings):
        for place, text in settings:
            if re.search(r"^[^#\n]*\buvicorn[._]workers?\.", text, re.MULTILINE):
                yield Finding(
                    "uvicorn-worker-grace",
                    f"gunicorn's worker in {place} is uvicorn's, which waits for a handler that "
                    "goes on until gunicorn kills it: its finally block does not run",
                    "write in gunicorn.conf.py: def post_fork(server, worker): worker.config."
                    "timeout_graceful_shutdown = worker.cfg.graceful_timeout // 2",
                )
    for place, text in settings:
        if re.search(r"^[^#\n]*(-k|worker.class)[\s=\"']*geventwebsocket\.", text, re.MULTILINE):
            yield _stock_handler(
                f"gunicorn's worker in {place}",
                "gunicorn -k unisock.adapters.gunicorn.WebSocketWorker",
            )


def _check_uvicorn_sockets() -> Iterator[Finding]:
    """What uvicorn's own environment variables say; the arguments of its command are not known."""
    loop = os.environ.get("UVICORN_LOOP", "auto")
    has_uvloop = find_spec("uvloop") is not None and loop in ("auto", "uvloop")
    found = [] if has_uvloop else [name for name in _MAKES_SOCKETS if _says_so(name)]
    delay = "makes uvicorn listen on a socket whose connections delay small messages by 40 ms"
    for name in found:
        remedy = "serve with uvloop (pip install uvloop), or with gunicorn"
        yield Finding("uvicorn-delay", f"{name} {delay}", remedy)
    if "UVICORN_FD" in os.environ:
        remedy = "serve with gunicorn, or write NoDelay=true in the socket's unit of systemd"
        yield Finding("uvicorn-delay", f"UVICORN_FD {delay}", remedy)


def _check_uvicorn_queue() -> Iterator[Finding]:
    """Whether its environment chooses `websockets`, and bounds nothing of what that holds."""
    bounds = {"UVICORN_WS_MAX_QUEUE", "UVICORN_WS_MAX_SIZE"}
    if os.environ.get("UVICORN_WS") == "websockets" and not bounds & os.environ.keys():
        yield Finding(
            "uvicorn-queue",
            "uvicorn's websockets implementation holds 32 messages of 16 MiB that a handler has "
            "not received: a client's 1 MB, compressed, takes 546 MiB of memory",
            "set UVICORN_WS_MAX_QUEUE=2, and UVICORN_WS_MAX_SIZE to the size of your messages, or "
            "UVICORN_WS=websockets-sansio",
        )


def _says_so(name: str) -> bool:
    value = os.environ.get(name, "").lower()
    return value in _TRUE if name == "UVICORN_RELOAD" else value not in ("", "0", "1")


def _gunicorn_settings() -> Iterator[tuple[str, str]]:
    yield "GUNICORN_CMD_ARGS", os.environ.get("GUNICORN_CMD_ARGS", "")
    file = Path("gunicorn.conf.py")
    if file.is_file():
        yield file.name, file.read_text(errors="replace")


def _stock_handler(what: str, remedy: str) -> Finding:
    return Finding(
        "stock-handler",
        f"{what} is gevent-websocket's own, which sends the 101 before the handler is asked: "
        "a rejection becomes a close frame, and headers and the subprotocol of accept() are lost",
        remedy,
    )


# The application and the process


def _check_app(spec: str, app: Any, names: Iterable[Any]) -> Iterator[Finding]:
    """Look at an application, and at what else its module has."""
    if not isinstance(app, ASGIApp) and adapter_of(app) is None:
        yield Finding(
            "unknown-app",
            f"{spec} is no application of a framework whose adapter is installed, but of type "
            f"{type(app).__module__}.{type(app).__qualname__}",
            "name the application itself, not what wraps or makes it",
        )
    if hasattr(app, "url_map") and hasattr(app, "view_functions"):
        yield from _check_flask_rules(app)
    stock = getattr(sys.modules.get("geventwebsocket.handler"), "WebSocketHandler", None)
    if stock is not None and any(value is stock for value in names):
        yield _stock_handler(
            "the application's WebSocketHandler",
            "serve with WSGIServer of unisock.adapters.flask, which has unisock's handler class",
        )


def _check_flask_rules(app: Any) -> Iterator[Finding]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        # functools.wraps keeps the module of a view that is decorated.
        if getattr(view, "__module__", "") == "unisock.adapters.flask" and not rule.websocket:
            yield Finding(
                "flask-rule",
                f"the rule {rule.rule} has a view of unisock's without websocket=True: "
                "each handshake is answered with 400",
                "add_url_rule(…, websocket=True), or unisock.mount",
            )


def check_process() -> Iterator[Finding]:
    """What is wrong in this process: gevent's patch came after asyncio's import."""
    # asyncio has derived this class from threading.local, which gevent replaces.
    if not issubclass(getattr(asyncio.events, "_RunningLoop", threading.local), threading.local):
        yield Finding(
            "patched-late",
            "gevent patched after asyncio was imported: a lock made before stops every greenlet "
            "while one waits for it, and TLS may end in a RecursionError",
            "make `from gevent import monkey; monkey.patch_all()` the first line of the program",
        )
