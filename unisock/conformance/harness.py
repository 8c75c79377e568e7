"""What the clauses are written with: handlers, servers, clients.

Handlers are mounted by the server process, which imports neither pytest nor a
client; the tests stand beside them and run in the process of pytest::

    @mounted("/receiving/echo")
    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        async for message in ws:
            await ws.send(message)

    @clause("4.1")
    async def test_text_is_str(server: Server) -> None:
        async with server.connect("/receiving/echo") as client:
            await client.send("x")
            assert await client.recv() == "x"

What a handler sees it tells with `journal`, and the test waits for that with
``client.journal(event)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
    Sequence,
)
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import parse_qs

import unisock
from unisock import Handler, SyncWebSocket, WebSocket

from . import rows
from .rows import Row

CLAUSE_MODULES = (
    "mounting",
    "handshake",
    "opening",
    "receiving",
    "sending",
    "ending",
    "closing",
    "limits",
    "policy",
    "endpoints",
    "sync",
    "parameters",
)
"""The modules ``clauses_…`` of this package."""

PATIENCE = float(os.environ.get("UNISOCK_PATIENCE", "1"))
"""How much longer than on a fast machine everything may take."""

_HOST = "127.0.0.1"
_START_TIMEOUT = 40 * PATIENCE
_STOP_TIMEOUT = 15 * PATIENCE
_TEST_TIMEOUT = 40 * PATIENCE
_EVENT_TIMEOUT = 12 * PATIENCE
_LATE = 1.2  # seconds that a row without ``prompt_log`` may take to log an error
_JOURNAL = "UNISOCK_JOURNAL"
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="

HandlerT = TypeVar("HandlerT", bound=Handler)
Headers: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]


# In the server process


class Mounted(NamedTuple):
    """A handler of the suite."""

    path: str
    handler: Handler
    options: dict[str, Any]


MOUNTED: list[Mounted] = []
"""The handlers of the clause modules that were imported."""


def mounted(path: str, **options: Any) -> Callable[[HandlerT], HandlerT]:
    """Have servers mount a handler at `path` with the options of `unisock.mount`."""

    def register(handler: HandlerT) -> HandlerT:
        MOUNTED.append(Mounted(path, handler, options))
        return handler

    return register


def load_clauses() -> list[Mounted]:
    """Import every clause module; return all handlers."""
    for name in CLAUSE_MODULES:
        importlib.import_module(f".clauses_{name}", __package__)
    return MOUNTED


def mount_all(app: Any) -> None:
    """Mount every handler of the suite on `app` with `unisock.mount`."""
    for path, handler, options in load_clauses():
        unisock.mount(app, path, handler, **options)


def journal(ws: WebSocket | SyncWebSocket, event: str, **data: Any) -> None:
    """Tell the test that `event` happened on this connection, at any time of its life."""
    journal_as(ws.query_params["id"], event, **data)


def journal_as(connection_id: str, event: str, **data: Any) -> None:
    """As `journal`, where there is no `WebSocket`: in a framework's own hook."""
    line = json.dumps({"id": connection_id, "event": event, "data": data}) + "\n"
    fd = os.open(os.environ[_JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def pause(seconds: float) -> None:
    """Sleep in a plain function, as its users do: under gevent the hub goes on."""
    gevent: Any = sys.modules.get("gevent")
    (time if gevent is None else gevent).sleep(seconds)


_http_error_factories: list[Callable[[int], Exception]] = []


def use_http_error(factory: Callable[[int], Exception]) -> None:
    """Say how the framework's own HTTP error of a status is made."""
    _http_error_factories.append(factory)


def http_error(status: int) -> Exception:
    """The framework's own HTTP error, to be raised by a handler.

    Bare ASGI has none (its rows lack ``http_error``): there it is a
    `unisock.HandshakeRejected`.
    """
    if not _http_error_factories:
        return unisock.HandshakeRejected(status)
    return _http_error_factories[-1](status)


class OwnError(Exception):
    """An exception of the application's, which has an error handler for it.

    That tells of it with `tell_own_error`, and answers with `OWN_ANSWER`.  Bare ASGI has
    no error handlers (its rows lack ``error_handler``).
    """


OWN_ANSWER = (409, b"answered by the error handler", {"x-answered": "by the error handler"})
"""Status, body and headers."""


def tell_own_error(query: str) -> None:
    """Journal that an error handler was called for the request with this query."""
    for connection_id in parse_qs(query).get("id", ()):
        journal_as(connection_id, "own-error")


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="")
"""Set by what runs before a handler, and told of by what runs after it."""


@contextlib.contextmanager
def around_handler(query: str) -> Generator[None]:
    """Set `VARIABLE`, and journal at the end what a handler has made of it.

    For middleware of a framework, or what it has like that.
    """
    VARIABLE.set("before")
    try:
        yield
    finally:
        for connection_id in parse_qs(query).get("id", ()):
            if VARIABLE.get() != "before":
                journal_as(connection_id, "variable", value=VARIABLE.get())


@mounted("/ready")
async def ready(ws: WebSocket) -> None:
    """What the harness itself connects to."""
    await ws.accept()


# Tests

Test: TypeAlias = Callable[["Server"], Coroutine[Any, Any, None]]

NOTES: dict[tuple[str, str], set[str]] = {}
"""The lacks that tests have met, by row and test."""


def clause(*numbers: str, timeout: float = _TEST_TIMEOUT) -> Callable[[Test], Callable[..., None]]:
    """Make an async function a test of the contract's clauses `numbers`."""

    def decorate(test: Test) -> Callable[..., None]:
        @functools.wraps(test)
        def run(server: Server) -> None:
            rows.noted.clear()
            errors = server.errors_told()
            try:
                asyncio.run(_run_within(test(server), timeout))
            finally:
                if "prompt_log" in server.row.lacks and server.errors_told() > errors:
                    time.sleep(_LATE)  # so that their lines are not the next test's
                NOTES[server.row.name, test.__name__] = set(rows.noted)

        run.clauses = numbers  # type: ignore[attr-defined]  # for the table
        return run

    return decorate


async def _run_within(test: Awaitable[None], timeout: float) -> None:
    async with asyncio.timeout(timeout):
        await test


def leftovers(log: str) -> list[str]:
    """The lines in a log that tell of something left behind by a connection."""
    signs = ("never retrieved", "was destroyed but it is pending", "was never awaited", "unclosed ")
    return [line for line in log.splitlines() if any(sign in line for sign in signs)]


# Servers


@dataclass
class Server:
    """A running server of a row."""

    row: Row
    port: int
    _process: subprocess.Popen[bytes]
    _directory: Path
    host: str = _HOST
    _events: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    _journal_read: int = 0

    @property
    def pid(self) -> int:
        """The process that was started; a server may have workers below it."""
        return self._process.pid

    def url(self, path: str, scheme: str = "ws") -> str:
        """The URL of a path."""
        return f"{scheme}://{self.host}:{self.port}{path}"

    # Clients

    @contextlib.asynccontextmanager
    async def connect(
        self, path: str, *, id: str | None = None, **options: Any
    ) -> AsyncGenerator[Client]:
        """A client on an open connection; options as of `websockets.connect`.

        Raises:
            websockets.exceptions.InvalidStatus: the handshake was rejected.
        """
        from websockets.asyncio.client import connect
        from websockets.version import version

        connection_id = id or _new_id()
        defaults: dict[str, Any] = {
            "compression": None,
            "max_size": None,
            "ping_interval": None,
            "close_timeout": _EVENT_TIMEOUT,
            "open_timeout": _EVENT_TIMEOUT,
        }
        if int(version.partition(".")[0]) >= 15:
            defaults["proxy"] = None  # the environment's proxy is not asked
        url = self.url(_with_id(path, connection_id))
        async with connect(url, **(defaults | options)) as ws:
            yield Client(self, ws, connection_id)

    @contextlib.asynccontextmanager
    async def raw(
        self, path: str, *, id: str | None = None, expect: int | None = 101, **request: Any
    ) -> AsyncGenerator[RawClient]:
        """A client that writes by hand, with the handshake done.

        Args:
            path: the path, with its query.
            id: the connection's, for the journal; a new one otherwise.
            expect: the status that must come; `None` to read no response yet.
            **request: as of `write_request`.
        """
        connection_id = id or _new_id()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        raw = RawClient(self, reader, writer, connection_id)
        try:
            await raw.send(self._request(_with_id(path, connection_id), **request))
            if expect is not None:
                await raw.read_head()
                assert raw.response.status == expect, f"{raw.response}\n{self.log()[-2000:]}"
            yield raw
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _request(self, path: str, **request: Any) -> bytes:
        request.setdefault("host", f"{self.host}:{self.port}")
        return write_request(path, **request)

    async def handshake(self, path: str, **request: Any) -> Response:
        """The whole answer to a handshake that is to be rejected."""
        return await self._exchange(path, request)

    async def check_rejected(
        self,
        path: str,
        status: int,
        body: bytes | None = None,
        having: Headers = (),
        **request: Any,
    ) -> Response:
        """Assert that a handshake is answered so, or as this row declares.

        Args:
            path: the path.
            status: the status that the handler gave.
            body: the body that it gave; `None` for any.
            having: headers that the response must have.
            **request: as of `write_request`.
        """
        if self.row.without("deferred_upgrade"):
            self.row.without("http_rejection")
            async with self.raw(path, **request) as raw:
                code, _ = await raw.closed()
                assert code == (1008 if status == 403 else 4000 + status), path
                return dataclasses.replace(raw.response, id=raw.id)
        response = await self.handshake(path, **request)
        if self.row.without("http_rejection"):
            assert (response.status, response.body) == (403, b""), path
            return response
        assert response.status == status, f"{path}: {response}"
        if body is not None:
            assert response.body == body, path
        for name, value in having.items() if isinstance(having, Mapping) else having:
            assert (name.lower(), value) in response.headers, path
        return response

    async def http(self, path: str, headers: Headers = (), method: str = "GET") -> Response:
        """The whole answer to a plain HTTP request."""
        plain = {"headers": headers, "method": method, "websocket": False}
        return await self._exchange(path, plain)

    async def _exchange(self, path: str, request: dict[str, Any]) -> Response:
        async with self.raw(path, expect=None, **request) as raw:
            await raw.read_head()
            await raw.read_body(request.get("method") == "HEAD")
            return raw.response

    # What the process tells

    def log(self) -> str:
        """All that the process has printed."""
        return self._log.read_text(errors="replace")

    def log_mark(self) -> int:
        """A place in the log, for `log_since`."""
        return self._log.stat().st_size

    def log_since(self, mark: int) -> str:
        """What the process has printed since; see `settled` for a race to mind."""
        return self._log.read_bytes()[mark:].decode(errors="replace")

    async def wait_log(self, text: str, mark: int = 0) -> str:
        """Wait until the log since `mark` holds `text`; return it."""
        with _explained(lambda: f"{text!r} is not in the log:\n{self.log_since(mark)}"):
            async with asyncio.timeout(_EVENT_TIMEOUT):
                while text not in (log := self.log_since(mark)):
                    await asyncio.sleep(0.01)
        return log

    async def settled(self, mark: int = 0) -> str:
        """The log since `mark`, once the server has done with what clients saw by now.

        A server may print after a client has read the last byte; a connection
        that begins and ends after it leaves time for that.  Without `mark` it waits for
        lines that come late as well, so that they are not those of the next step.
        """
        if not mark and "prompt_log" in self.row.lacks:
            await asyncio.sleep(_LATE)
        for _ in range(2):
            async with self.connect("/ready") as client:
                await client.closed()
        return self.log_since(mark)

    def events(self, connection_id: str) -> list[tuple[str, dict[str, Any]]]:
        """What was journalled for a connection so far: names and data."""
        self._read_journal()
        return self._events.get(connection_id, [])

    async def journal(self, connection_id: str, event: str) -> dict[str, Any]:
        """Wait for the first such event of a connection; return its data."""
        with _explained(
            lambda: (
                f"no {event!r} in the journal, but {self.events(connection_id)}; "
                f"the log ends with:\n{self.log()[-3000:]}"
            )
        ):
            async with asyncio.timeout(_EVENT_TIMEOUT):
                while True:
                    for name, data in self.events(connection_id):
                        if name == event:
                            return data
                    await asyncio.sleep(0.01)

    def errors_told(self) -> int:
        """How many errors have reached the framework."""
        self._read_journal()
        names = (name for events in self._events.values() for name, _ in events)
        return sum(name == "framework-error" for name in names)

    def _read_journal(self) -> None:
        with self._journal.open("rb") as file:
            file.seek(self._journal_read)
            new = file.read()
        whole, newline, _ = new.rpartition(b"\n")
        self._journal_read += len(whole) + len(newline)
        for line in whole.splitlines():
            entry = json.loads(line)
            self._events.setdefault(entry["id"], []).append((entry["event"], entry["data"]))

    # Its life

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    @property
    def _journal(self) -> Path:
        return self._directory / "journal"

    def send_signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process that was started, as an operator does."""
        self._process.send_signal(number)

    terminate = send_signal

    async def wait_exited(self) -> int:
        """Wait for the process's end; return its exit status."""
        with _explained(lambda: f"{self.row.name} does not end:\n{self.log()[-2000:]}"):
            async with asyncio.timeout(_STOP_TIMEOUT):
                while (status := self._process.poll()) is None:
                    await asyncio.sleep(0.02)
        return status

    def _wait_ready(self) -> None:
        until = time.monotonic() + _START_TIMEOUT
        answer = "nothing"
        while not answer.startswith("HTTP/1.1 101"):
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"{self.row.name} ended with {self._process.returncode} "
                    f"before it served:\n{self.log()[-4000:]}"
                )
            if time.monotonic() > until:
                raise RuntimeError(
                    f"{self.row.name} answers a handshake with {answer!r}:\n{self.log()[-4000:]}"
                )
            time.sleep(0.05)  # for a process that starts there is nothing to wait on
            with contextlib.suppress(OSError):
                answer = self._probe()

    def _probe(self) -> str:
        """The status line of a handshake, from one connection to its end or its reset."""
        with socket.create_connection((self.host, self.port), timeout=5) as probe:
            probe.sendall(self._request("/ready?id=ready"))
            answer = b""
            # Daphne 4.2 ends the connection with a reset; what has come before it counts.
            with contextlib.suppress(ConnectionError):
                while part := probe.recv(4096):
                    answer += part
                    if b"\r\n\r\n\x88" in answer:
                        probe.sendall(frame(8, b"\x03\xe8"))
            return answer.partition(b"\r\n")[0].decode(errors="replace")

    def _stop(self) -> None:
        # As an operator first: a server that is measured writes its data then.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_TIMEOUT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # workers that are left
        self._process.wait()


@contextlib.contextmanager
def running(row: Row) -> Generator[Server]:
    """A server of `row` in a process group of its own, that is ended in any case."""
    with tempfile.TemporaryDirectory(prefix="unisock-") as name:
        directory = Path(name)
        directory.joinpath("journal").touch()
        server = _start(row, directory)
        with _ended_with_us(server.pid):
            try:
                server._wait_ready()
                yield server
            finally:
                server._stop()


@contextlib.contextmanager
def _ended_with_us(group: int) -> Generator[None]:
    """Have a process group killed if this process is, which then ends nothing itself."""
    # A shell that reads from a pipe: the pipe's end tells it of ours.
    command = f"read -r line || kill -s KILL -- -{group}"
    watch = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        watch.communicate(b"ended\n")


def _start(row: Row, directory: Path) -> Server:
    with socket.create_server((_HOST, 0)) as free:
        port: int = free.getsockname()[1]
    env = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        _JOURNAL: str(directory / "journal"),
        **row.env,
    }
    with directory.joinpath("log").open("ab") as log:
        process = subprocess.Popen(
            row.command(port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
    return Server(row, port, process, directory)


@contextlib.asynccontextmanager
async def spare_server(row: Row) -> AsyncGenerator[Server]:
    """Another server of `row`, for a test that stops it."""
    spare = running(row)
    server = await asyncio.to_thread(spare.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(spare.__exit__, None, None, None)


def _new_id() -> str:
    return str(uuid.uuid4())


def _with_id(path: str, connection_id: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}id={connection_id}"


@contextlib.contextmanager
def _explained(explain: Callable[[], str]) -> Generator[None]:
    try:
        yield
    except TimeoutError:
        raise AssertionError(explain()) from None


# Clients


class Closed(tuple[int, str]):  # noqa: SLOT001  # a tuple cannot have slots of its own
    """The code and the reason of a close that the server has sent.

    Equal to what the contract has there; where the row declares that the server cannot
    send that, to what it sends instead.
    """

    row: Row

    def __new__(cls, row: Row, code: int, reason: str) -> Closed:  # noqa: PYI034  # it is final
        closed = super().__new__(cls, (code, reason))
        closed.row = row
        return closed

    def __eq__(self, other: object) -> bool:
        if isinstance(other, tuple) and not isinstance(other, Closed):
            other = self.row.sends(*other)
        return tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


class _Journalled:
    """What both clients have: the journal of their connection."""

    def __init__(self, server: Server, connection_id: str) -> None:
        self.server = server
        self.id = connection_id

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """What the handler has journalled so far: names and data."""
        return self.server.events(self.id)

    def _closed(self, code: int, reason: str) -> Closed:
        return Closed(self.server.row, code, reason)

    async def journal(self, event: str) -> dict[str, Any]:
        """Wait until the handler journals `event`; return its data."""
        return await self.server.journal(self.id, event)


class Client(_Journalled):
    """A decent client.

    Attributes:
        ws: the connection of the `websockets` package.
        id: the connection's name in the journal.
    """

    def __init__(self, server: Server, ws: Any, connection_id: str) -> None:
        super().__init__(server, connection_id)
        self.ws = ws

    async def send(self, message: str | bytes) -> None:
        """Send one message."""
        await self.ws.send(message)

    async def recv(self, timeout: float = _EVENT_TIMEOUT) -> str | bytes:
        """The next message."""
        with _explained(lambda: f"no message came; journal: {self.events()}"):
            async with asyncio.timeout(timeout):
                message: str | bytes = await self.ws.recv()
        return message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and wait for the answer."""
        await self.ws.close(code, reason)

    async def closed(self, timeout: float = _EVENT_TIMEOUT) -> Closed:
        """Wait until the server closes; the code and the reason that came.

        1005 for a close frame without a code, 1006 for none.  Messages that
        come before are dropped.
        """
        from websockets.exceptions import ConnectionClosed

        with _explained(lambda: f"the server does not close; journal: {self.events()}"):
            async with asyncio.timeout(timeout):
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await self.ws.recv()
                await self.ws.wait_closed()
        return self._closed(self.ws.close_code, self.ws.close_reason)


@dataclass
class Response:
    """A response to a request.

    Attributes:
        status: its status.
        headers: names in lower case and values, in order.
        body: its body, as far as it was read.
        id: the connection's name in the journal.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    id: str = ""

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for n, value in self.headers if n == name.lower()), None)


class Frame(NamedTuple):
    """A frame that was read (RFC 6455, section 5.2)."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


class RawClient(_Journalled):
    """A client that can do what no decent one does.

    Attributes:
        response: the response to its request, as far as it was read.
    """

    response: Response

    def __init__(
        self,
        server: Server,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection_id: str,
    ) -> None:
        super().__init__(server, connection_id)
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write bytes as they are; wait while the server does not read."""
        self.writer.write(data)
        await self.writer.drain()

    async def send_frame(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        mask: bool = True,
        rsv: int = 0,
    ) -> None:
        """Write one frame."""
        await self.send(frame(opcode, payload, fin=fin, mask=mask, rsv=rsv))

    async def send_frames(self, *frames: tuple[int, bytes]) -> None:
        """Write several frames, of opcode and payload, in one piece."""
        await self.send(b"".join(frame(opcode, payload) for opcode, payload in frames))

    async def read_head(self) -> Response:
        """Read the response's head into `response`.

        Raises:
            EOFError: the connection ended without one.
        """
        with _explained(lambda: "no response came"):
            async with asyncio.timeout(_EVENT_TIMEOUT):
                head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        self.response = Response(int(status_line.split(" ")[1]), headers, id=self.id)
        return self.response

    async def read_body(self, no_body: bool = False) -> bytes:
        """Read the response's body into `response`."""
        response = self.response
        length = response.header("content-length")
        with _explained(lambda: f"the body does not end: {response}"):
            async with asyncio.timeout(_EVENT_TIMEOUT):
                if no_body or response.status in (101, 204, 304):
                    response.body = b""
                elif response.header("transfer-encoding") == "chunked":
                    response.body = await self._read_chunks()
                elif length is not None:
                    response.body = await self.reader.readexactly(int(length))
                else:
                    response.body = await self.reader.read()
        return response.body

    async def _read_chunks(self) -> bytes:
        body = b""
        while True:
            size = int((await self.reader.readline()).split(b";")[0], 16)
            body += (await self.reader.readexactly(size + 2))[:size]
            if size == 0:
                return body

    async def recv_frame(self, timeout: float = _EVENT_TIMEOUT) -> Frame:
        """The next frame.

        Raises:
            EOFError: the connection ended.
        """
        with _explained(lambda: f"no frame came; journal: {self.events()}"):
            async with asyncio.timeout(timeout):
                first, second = await self.reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    (size,) = struct.unpack("!H", await self.reader.readexactly(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
                assert not second & 0x80, "a server masks no frame (RFC 6455, section 5.1)"
                payload = await self.reader.readexactly(size)
        return Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7)

    async def skip_to(self, data: bytes) -> None:
        """Read on to these bytes, and perhaps some more: faster than frame by frame.

        Raises:
            EOFError: the connection ended.
        """
        seen = b""
        with _explained(lambda: f"{data!r} did not come; journal: {self.events()}"):
            async with asyncio.timeout(_EVENT_TIMEOUT):
                while data not in seen:
                    if not (more := await self.reader.read(65536)):
                        raise EOFError
                    seen = seen[-len(data) :] + more

    async def closed(self) -> Closed:
        """Read on to the close frame: its code and reason, as of `Client.closed`."""
        try:
            while (got := await self.recv_frame()).opcode != 8:
                continue
        except (EOFError, ConnectionError):
            return self._closed(1006, "")
        if not got.payload:
            return self._closed(1005, "")
        return self._closed(int.from_bytes(got.payload[:2], "big"), got.payload[2:].decode())

    async def ended(self) -> None:
        """Wait until the server has ended the TCP connection."""
        with _explained(lambda: "the server does not end the TCP connection"):
            async with asyncio.timeout(_EVENT_TIMEOUT):
                with contextlib.suppress(ConnectionError):
                    while await self.reader.read(65536):
                        continue

    async def eof(self) -> None:
        """End the stream from this side, without a close frame."""
        with contextlib.suppress(OSError):  # the server was first
            await self.writer.drain()
            self.writer.write_eof()

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def write_request(
    path: str,
    *,
    host: str | None,
    headers: Headers = (),
    method: str = "GET",
    http: str = "1.1",
    websocket: bool = True,
    key: str | None = _KEY,
    version: str | None = "13",
) -> bytes:
    """A request written by hand, an opening handshake unless `websocket` is false.

    What is `None` is left out; nothing is checked.
    """
    lines: list[tuple[str, str | None]] = [("Host", host)]
    if websocket:
        lines += [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Version", version),
        ]
    lines += headers.items() if isinstance(headers, Mapping) else headers
    head = f"{method} {path} HTTP/{http}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines if value is not None)
    return f"{head}\r\n".encode("latin-1")


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0
) -> bytes:
    """The bytes of a frame (RFC 6455, section 5.2); nothing is checked."""
    first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head = bytes([mask_bit | size])
    elif size < 65536:
        head = struct.pack("!BH", mask_bit | 126, size)
    else:
        head = struct.pack("!BQ", mask_bit | 127, size)
    if not mask:
        return first + head + payload
    key = secrets.token_bytes(4)
    return first + head + key + _masked(payload, key)


def _masked(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
