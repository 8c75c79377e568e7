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
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, doctor
from .addresses import url_host
from .handlers import Handler, application_kind, check_handler
from .mounting import packages_of
from .options import normalise_origin
from .paths import PathTemplate
from .serving import FRAMEWORKS, STOP_SIGNALS, ServeError, Service, bind, prepare
from .workers import reporting, serve_all

_DESCRIPTION = """\
Run a WebSocket handler on a framework.  The server is uvicorn with unisock's
WebSocket class, gevent's WSGIServer for flask, and aiohttp's own for aiohttp.
The current directory is searched for MODULE first.  Ctrl-C or SIGTERM stops it.
"""
_ALL = "all"
_EPILOG = f"""\
--on all starts one process for each framework that is installed, on
consecutive ports from --port on, in this order:
{", ".join(FRAMEWORKS)}.
With a list they have the order of the list.  With --port 0 each takes a free
one.

examples:
  unisock serve chat:room --on fastapi
  unisock serve chat:room --on fastapi,flask
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
    args = _parse(argv)
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
    name = f"{args.on[0]} " if args.worker else ""
    logging.basicConfig(
        level=args.log_level.upper(), format=f"{name}%(levelname)s %(name)s: %(message)s"
    )
    if args.worker:
        listener, parent = _inherited(args.worker)
        with reporting(parent) as on_started:
            prepare(args.on[0], _service(args)).run(listener, on_started)
    elif args.on == [_ALL] or len(args.on) > 1:
        load_handler(args.handler)  # what is wrong with it is said once
        arguments = _worker_arguments(args)
        names = _installed(args.on)
        serve_all(names, args.host, args.port, arguments, lambda ports: _tell(args, ports))
    else:
        server = prepare(args.on[0], _service(args))
        listener = bind(args.host, args.port)
        port = listener.getsockname()[1]
        server.run(listener, lambda: _tell(args, {"": port}))
    return 0


def _installed(asked: list[str]) -> list[str]:
    """The frameworks to serve on; of all of them those that are installed.

    Raises:
        ServeError: one that was asked for by its name is not, or none is.
    """
    names = [*FRAMEWORKS] if asked == [_ALL] else asked
    missing = [name for name in names if not FRAMEWORKS[name].is_installed()]
    if missing:
        text = f"{', '.join(missing)} (pip install 'unisock[{','.join(missing)}]')"
        if asked != [_ALL] or missing == names:
            raise ServeError(f"not installed: {text}")
        print(f"unisock serve: not installed, and left out: {text}", file=sys.stderr)
    return [name for name in names if name not in missing]


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
    """Print URLs that can be opened, and beside them what they stand for."""
    (host, is_every), notes = url_host(args.host), []
    path = PathTemplate.parse(args.path).example()
    if path != args.path:
        notes.append(args.path)
    if is_every:
        notes.append(f"on all addresses, {args.host}")
    note = f"  ({'; '.join(notes)})" if notes else ""
    for name, port in ports.items():
        label = f"{name:<10} " if name else ""
        print(f"{label}ws://{host}:{port}{path}{note}", flush=True)


def _doctor(args: argparse.Namespace) -> int:
    if args.app and not args.imported:
        options = ["--json"] if args.json else []
        command = [sys.executable, "-c", _APP_FIRST, *options, args.app]
        return _call(command, args.app.partition(":")[0], args.timeout)
    with redirect_stdout(sys.stderr):
        report = doctor.examine(args.app, _load(args.app) if args.app else None)
    print(report.as_json() if args.json else report.as_text())
    return 1 if report.warnings else 0


def _call(command: Sequence[str], module_name: str, timeout: float) -> int:
    """Run a process that imports a module; leave nothing of it behind if it is broken off."""
    # A group of its own, for what the module has started belongs to it as well.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait(timeout)
        except BaseException as exc:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(exc, subprocess.TimeoutExpired):
                raise ServeError(_took_too_long(module_name, timeout)) from None
            raise


def _took_too_long(module_name: str, timeout: float) -> str:
    return (
        f"importing {module_name} has not ended within {timeout:g} seconds: if it starts the "
        'server, do that below `if __name__ == "__main__":`; if it is only slow, raise --timeout'
    )


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
        raise ServeError(_application(spec, handler) or f"{spec}: {exc}") from exc


# How an application is run, by its framework or its kind.
_UVICORN = "uvicorn {}"
_RUNS = {
    "falcon": _UVICORN,
    "fastapi": _UVICORN,
    "starlette": _UVICORN,
    "flask": "gunicorn -k unisock.adapters.gunicorn.WebSocketWorker {}",
    "aiohttp": "gunicorn -k aiohttp.GunicornWebWorker {}",
    "an ASGI application": _UVICORN,
    "a WSGI application": "gunicorn {}",
}


def _application(spec: str, named: Any) -> str | None:
    """What to say of an application that was named in place of a handler; else `None`."""
    kind = type(named)
    package = next((each for each in packages_of(kind) if each in _RUNS), None)
    what = f"a {kind.__module__}.{kind.__qualname__}" if package else application_kind(named)
    if what is None:
        return None
    run = _RUNS[package or what].format(spec)
    return (
        f"{spec} is {what}, and no handler: name the handler that is mounted on it, as "
        f"{spec.partition(':')[0]}:HANDLER; the application itself is run by `{run}`"
    )


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


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; what is unknown is told by the command that it was given to."""
    given = sys.argv[1:] if argv is None else [*argv]
    parser, commands = _parser()
    args, unknown = parser.parse_known_args(given)
    if unknown:
        is_before = given.index(unknown[0]) < given.index(args.command)
        command = parser if is_before else commands.choices[args.command]
        command.error(
            f"unrecognized arguments: {' '.join(unknown)}{_option_like(unknown[0], command)}"
        )
    return args


def _option_like(text: str, parser: argparse.ArgumentParser) -> str:
    options = [
        option
        for option, action in parser._option_string_actions.items()
        if action.help != argparse.SUPPRESS
    ]
    close = difflib.get_close_matches(text.partition("=")[0], options, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _parser() -> tuple[argparse.ArgumentParser, Any]:
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
        "--on",
        required=True,
        type=_frameworks,
        metavar="FRAMEWORK[,FRAMEWORK]",
        help=f"{', '.join(FRAMEWORKS)}, several of them, or {_ALL}",
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
    return parser, commands


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="tell what is installed, and what is in the way", description=_DOCTOR
    )
    parser.add_argument(
        "app", metavar="MODULE:APP", nargs="?", type=_app_spec, help="an application to look at"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long the application may take to be imported; default: %(default)g",
    )
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
def _frameworks(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in (*FRAMEWORKS, _ALL):
            known = ", ".join(map(repr, (*FRAMEWORKS, _ALL)))
            raise ValueError(f"{name!r} is none of {known}")
    if len(set(names)) < len(names) or (_ALL in names and len(names) > 1):
        raise ValueError(f"{text!r} names a framework twice")
    return names


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
def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"{text!r} is no number of seconds above 0")
    return seconds


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
