"""``unisock doctor``: what is installed, what it can do, and what is in the way.

Which packages matter, what a server can do and what may be wrong with a framework is
read from the frameworks' records.  Versions are read from the packages' metadata, the
lowest that will do from that of the adapters' distributions.  A package is imported
only to see whether it can be.
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
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import __version__
from .adapters.asgi import ASGIApp
from .frameworks import Finding, Framework, ServeError, Surroundings, find
from .mounting import adapter_of, adapters, install_command, only
from .transport import Capabilities

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
    records = _records()
    packages = _packages(records)
    settings = list(_gunicorn_settings())
    warnings = [
        *check_process(),
        *_check_adapters(),
        *_check_packages(packages, records),
        *_check_servers(packages, settings),
    ]
    surroundings = Surroundings(settings)
    if spec is not None:
        warnings += _check_app(spec, app)
        surroundings = Surroundings(settings, app, vars(sys.modules[spec.partition(":")[0]]))
    for record in records.values():
        if record.is_installed():
            warnings += record.traps(surroundings)
    pairs = list(_pairs(records, {package.name for package in packages if package.works}))
    return Report(__version__, platform.python_version(), packages, pairs, warnings)


# Frameworks


def _records() -> dict[str, Framework]:
    """The records that can be loaded; `_check_adapters` tells of the others."""
    records: dict[str, Framework] = {}
    for name in adapters():
        with suppress(ServeError):
            records[name] = find(name)
    return records


def _own_package(name: str, record: Framework) -> str | None:
    """What a framework itself is installed by; `None` for bare ASGI, which is no package."""
    return next((each for each, module in record.packages.items() if module == name), None)


def _check_adapters() -> Iterator[Finding]:
    known = adapters()
    if not known:
        yield Finding(
            "not-installed",
            "unisock is on Python's path but not installed, so none of its adapters is found",
            "pip install unisock",
        )
    for name, entries in known.items():
        try:
            entry = only(entries)
        except RuntimeError as exc:
            text, _, remedy = str(exc).partition(": ")
            yield Finding("two-adapters", text, remedy)
            continue
        error = _import_error(entry.module)
        if error:
            yield Finding(
                "import-error",
                f"importing {entry.module}, the adapter of {name}, fails: {error}",
                install_command(entries),
            )


# Packages


def _packages(records: Mapping[str, Framework]) -> list[Package]:
    """What the records name: the frameworks, then their servers, then all else."""
    modules: dict[str, str] = {}
    for name, record in records.items():
        own = _own_package(name, record)
        if own is not None:  # the adapter imports it, and what else is needed with it
            modules[own] = record.adapter or name
    for record in records.values():
        for server in map(_package_of, record.capabilities):
            modules.setdefault(server, record.packages.get(server, server))
    for record in records.values():
        for package, module in record.packages.items():
            modules.setdefault(package, module)
    if "uvicorn" in modules:  # it may speak WebSockets by that
        modules["wsproto"] = "wsproto"
    bounds = _lower_bounds()
    return [_package(name, module, bounds.get(name)) for name, module in modules.items()]


def _package_of(server: str) -> str:
    """The package of ``"gunicorn, stock handler"`` is gunicorn."""
    return server.partition(",")[0]


def _lower_bounds() -> dict[str, str]:
    """The lowest version of each package that an adapter's distribution requires."""
    found = [entry.dist for entries in adapters().values() for entry in entries]
    requirements = [line for each in found if each is not None for line in each.requires or ()]
    matches = (re.match(r"([\w.-]+)>=([\w.]+)", requirement) for requirement in requirements)
    return {match[1].lower(): match[2] for match in matches if match}


def _package(name: str, module: str, at_least: str | None) -> Package:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Package(name, at_least)
    error = _import_error(_UVICORN_AUTO if name == "uvicorn" else module)
    note = _websockets_of_uvicorn() if name == "uvicorn" and not error else ""
    return Package(name, at_least, installed, error, note)


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


def _check_packages(
    packages: Iterable[Package], records: Mapping[str, Framework]
) -> Iterator[Finding]:
    owners = {_own_package(name, record): name for name, record in records.items()}
    for package in packages:
        name, bound = package.name, package.at_least
        if package.error:
            owner = owners.get(name)
            what = name if owner is None else f"{name} or its adapter"
            remedy = (
                f"pip install --force-reinstall {name}"
                if owner is None
                else install_command(adapters()[owner])
            )
            yield Finding("import-error", f"importing {what} fails: {package.error}", remedy)
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


def _pairs(records: Mapping[str, Framework], working: Collection[str]) -> Iterator[Pair]:
    """What the records declare, for what is there."""
    for name, record in records.items():
        if _own_package(name, record) in (None, *working):
            for server, capabilities in record.capabilities.items():
                if _package_of(server) in working:
                    yield Pair(name, server, capabilities)


def _check_servers(
    packages: Iterable[Package], settings: Sequence[tuple[str, str]]
) -> Iterator[Finding]:
    working = {package.name for package in packages if package.works}
    if any(package.note == _NO_WEBSOCKETS for package in packages):
        yield Finding(
            "uvicorn-no-websockets",
            "uvicorn has no WebSocket library: each handshake is a plain GET to the application",
            "pip install websockets",
        )
    if "hypercorn" in working:
        yield Finding(
            "hypercorn-1006",
            "hypercorn tells no close code and no reason: every end is 1006 to a handler",
            "rely on neither (ws.capabilities tells), or serve with uvicorn",
        )
    if "daphne" in working:
        yield Finding(
            "daphne",
            "Daphne holds without a limit what a peer does not read or a handler has not taken, "
            "and drops close codes below 3000, reasons, rejections and headers",
            "serve with uvicorn, which runs the same application",
        )
    if "uvicorn" in working:
        yield from _check_uvicorn_sockets()
        yield from _check_uvicorn_queue()
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


# The application and the process


def _check_app(spec: str, app: Any) -> Iterator[Finding]:
    """See whether it is an application."""
    try:
        is_known = isinstance(app, ASGIApp) or adapter_of(app) is not None
    except RuntimeError:  # `_check_adapters` tells it
        return
    if not is_known:
        yield Finding(
            "unknown-app",
            f"{spec} is no application of a framework whose adapter is installed, but of type "
            f"{type(app).__module__}.{type(app).__qualname__}",
            "name the application itself, not what wraps or makes it",
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
