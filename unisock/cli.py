"""The command line: ``unisock serve MODULE:HANDLER --on FRAMEWORK``, ``unisock doctor``.

Whatever is wrong with the arguments is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import operator
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, doctor
from .handlers import Handler, check_handler
from .options import normalise_origin
from .paths import PathTemplate
from .serving import FRAMEWORKS, STOP_SIGNALS, ServeError, Service, bind, prepare
from .workers import reporting, serve_all

_DESCRIPTION = """\
Run a WebSocket handler on a framework, with the server that its users run:
uvicorn, gevent's WSGIServer for flask, aiohttp's own for aiohttp.  The current
directory is searched for MODULE first.  Ctrl-C or SIGTERM stops it.
"""
_EPILOG = f"""\
--on all starts one process for each framework, on consecutive ports from
--port on, in this order: {", ".join(FRAMEWORKS)}.
With --port 0 each takes a free one.

examples:
  unisock serve chat:room --on fastapi
  unisock serve chat:room --on all --path /rooms/{{room}} --port 9000
"""
_DOCTOR = """\
Tell what is installed and what each framework can do on each server, and warn
of what is in the way.  With MODULE:APP that application is imported, and looked
at too.  The exit status is 1 if there is a warning.
"""
# An application comes first, as where it is served: only so it is seen whether
# gevent patches in time.  What it prints is not the report.
_APP_FIRST = """\
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path.insert(0, "")
stdout, sys.stdout = sys.stdout, sys.stderr
failure = None
try:
    __import__(sys.argv[-1].partition(":")[0])
except (Exception, SystemExit) as exc:
    failure = exc
sys.stdout = stdout
from unisock.cli import doctor_of_app
sys.exit(doctor_of_app(sys.argv[1:], failure))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    args = _parser().parse_args(argv)
    try:
        # The inner `finally` may be interrupted itself, so the outer `except` is around it.
        with _StopSignals():
            status: int = args.run(args)
            return status
    except ServeError as exc:
        print(f"unisock {args.command}: {exc}", file=sys.stderr)
        return exc.status
    except KeyboardInterrupt:
        return 0 if args.command == "serve" else 130


class _StopSignals:
    """Within the block the first signal to stop raises `KeyboardInterrupt`, no other does.

    A terminal's Ctrl-C and the parent's SIGTERM often come together: the second
    must not strike while the first is handled.  After the block both are ignored,
    for the process is about to end.
    """

    def __enter__(self) -> None:
        self._is_armed = True
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        self._is_armed = False
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, *_: object) -> None:
        if self._is_armed:
            self._is_armed = False
            raise KeyboardInterrupt


def _serve(args: argparse.Namespace) -> int:
    name = f"{args.on} " if args.worker else ""
    logging.basicConfig(
        level=args.log_level.upper(), format=f"{name}%(levelname)s %(name)s: %(message)s"
    )
    if args.on == "all":
        load_handler(args.handler)  # what is wrong with it is said once
        serve_all(args.host, args.port, _worker_arguments(args), lambda ports: _tell(args, ports))
    elif args.worker:
        listener, parent = _inherited(args.worker)
        with reporting(parent) as on_started:
            prepare(args.on, _service(args)).run(listener, on_started)
    else:
        server = prepare(args.on, _service(args))
        listener = bind(args.host, args.port)
        ports = {args.on: listener.getsockname()[1]}
        server.run(listener, lambda: _tell(args, ports))
    return 0


def _service(args: argparse.Namespace) -> Service:
    return Service(load_handler(args.handler), args.path, {"origins": _origins(args)})


def _origins(args: argparse.Namespace) -> Any:
    listed = [origin for group in args.origins for origin in group]
    return "*" if "*" in listed else listed


def _worker_arguments(args: argparse.Namespace) -> list[str]:
    origins = [f"--origins={','.join(group)}" for group in args.origins]
    return [
        "serve",
        args.handler,
        f"--path={args.path}",
        f"--log-level={args.log_level}",
        *origins,
    ]


def _inherited(descriptors: list[int]) -> list[socket.socket]:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # not the handler's processes too
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    sockets[0].setblocking(False)
    return sockets


def _tell(args: argparse.Namespace, ports: dict[str, int]) -> None:
    host = f"[{args.host}]" if ":" in args.host else args.host
    for name, port in ports.items():
        label = f"{name:<10} " if args.on == "all" else ""
        print(f"{label}ws://{host}:{port}{args.path}", flush=True)


def _doctor(args: argparse.Namespace) -> int:
    if args.app and not args.imported:
        options = ["--json"] if args.json else []
        return subprocess.call([sys.executable, "-c", _APP_FIRST, *options, args.app])
    with redirect_stdout(sys.stderr):
        report = doctor.examine(args.app, _load(args.app) if args.app else None)
    print(report.as_json() if args.json else report.as_text())
    return 1 if report.warnings else 0


def doctor_of_app(argv: Sequence[str], failure: BaseException | None) -> int:
    """The rest of ``unisock doctor MODULE:APP``, when the module was imported.

    Args:
        argv: its arguments.
        failure: what the import has raised; it is not tried a second time.
    """
    if failure is None:
        return main(["doctor", "--imported", *argv])
    reason = _why_not_imported(failure, argv[-1].partition(":")[0])
    print(f"unisock doctor: {' '.join(reason.split())}", file=sys.stderr)
    return 2


# What is named


def load_handler(spec: str) -> Handler:
    """Import the handler that ``MODULE:HANDLER`` names.

    Raises:
        ServeError: there is none, or its module cannot be imported.
    """
    handler = _load(spec)
    try:
        return check_handler(handler)
    except TypeError as exc:
        raise ServeError(f"{spec}: {exc}") from exc


def _load(spec: str) -> Any:
    module_name, _, attribute = spec.partition(":")
    sys.path.insert(0, "")  # the current directory
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:
        raise ServeError(_why_not_imported(exc, module_name)) from exc
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError as exc:
        raise ServeError(f"{spec}: {exc}{_suggestion(exc)}") from exc


def _why_not_imported(exc: BaseException, module_name: str) -> str:
    missing = exc.name if isinstance(exc, ModuleNotFoundError) else None
    if missing and f"{module_name}.".startswith(f"{missing}."):
        hint = ": leave out the .py" if module_name.endswith(".py") else ""
        return f"there is no module {missing!r} in {Path.cwd()} or where Python looks{hint}"
    return f"importing {module_name} failed: {type(exc).__name__}: {_what_and_where(exc)}"


def _what_and_where(exc: BaseException) -> str:
    if isinstance(exc, SyntaxError):
        return str(exc)  # it says where
    # The innermost module that was being imported, not a function that it called.
    lines = [f for f in traceback.extract_tb(exc.__traceback__) if f.name == "<module>"]
    where = f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""
    return f"{exc}{where}"


def _suggestion(exc: AttributeError) -> str:
    close = difflib.get_close_matches(str(exc.name), dir(exc.obj), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


# The arguments


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        self.exit(2, f"{self.prog}: {line} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="unisock", description="One WebSocket handler for every framework.")
    parser.add_argument("--version", action="version", version=f"unisock {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    _add_doctor(commands)
    serve = commands.add_parser(
        "serve",
        help="run a handler on a framework",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument(
        "handler",
        metavar="MODULE:HANDLER",
        type=_spec,
        help="the handler: a function, async or plain, or a WebSocketEndpoint class",
    )
    serve.add_argument(
        "--on", required=True, choices=[*FRAMEWORKS, "all"], help="the framework, or all of them"
    )
    serve.add_argument("--host", type=_host, default="127.0.0.1", help="default: %(default)s")
    serve.add_argument(
        "--port", type=_port, default=8000, help="0 for any that is free; default: %(default)s"
    )
    serve.add_argument(
        "--path",
        type=_path,
        default="/",
        help="where the handler is mounted, as /rooms/{room}; default: %(default)s",
    )
    serve.add_argument(
        "--origins",
        type=_origin_list,
        action="append",
        default=[],
        metavar="ORIGIN[,ORIGIN]",
        help="origins of web pages allowed beside the own host, or * for all; may be repeated",
    )
    serve.add_argument(
        "--log-level",
        choices=("critical", "error", "warning", "info", "debug"),
        default="info",
        help="default: %(default)s",
    )
    serve.add_argument("--worker", type=_descriptors, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)
    return parser


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="tell what is installed, and what is in the way", description=_DOCTOR
    )
    parser.add_argument(
        "app", metavar="MODULE:APP", nargs="?", type=_app_spec, help="an application to look at"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--imported", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=_doctor)


def _argument(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type of `check`, whose message argparse would hide."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    return convert


@_argument
def _spec(text: str) -> str:
    if not _is_spec(text):
        raise ValueError(f"{text!r} is not MODULE:HANDLER: write it as chat:room or app.chat:room")
    return text


@_argument
def _app_spec(text: str) -> str:
    if not _is_spec(text):
        raise ValueError(f"{text!r} is not MODULE:APP: write it as app:app or shop.app:app")
    return text


def _is_spec(text: str) -> bool:
    module, colon, attribute = text.partition(":")
    names = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(name.isidentifier() for name in names)


@_argument
def _host(text: str) -> str:
    host = text.removeprefix("[").removesuffix("]")
    if not host:
        raise ValueError("it is empty: use 0.0.0.0 for every address of this machine")
    return host


@_argument
def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"{text!r} is no port: use 0 to 65535")
    return int(text)


@_argument
def _path(text: str) -> str:
    PathTemplate.parse(text)
    return text


@_argument
def _origin_list(text: str) -> list[str]:
    origins = [origin.strip() for origin in text.split(",")]
    for origin in origins:
        try:
            normalise_origin(origin if origin != "*" else "null")
        except ValueError:
            raise ValueError(
                f"{origin!r} is not an origin: write it as https://app.example, or * for all"
            ) from None
    return origins


@_argument
def _descriptors(text: str) -> list[int]:
    return [int(number) for number in text.split(":")]
