"""Every line of the log about a connection names its handler, its path and its client."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import unisock
from tests.unit.memory import MemoryTransport, serve, settle
from unisock import Capabilities, InvalidMessage, SyncWebSocket, WebSocket, WebSocketEndpoint
from unisock.handlers import prepare
from unisock.handshake import Address
from unisock.testing.wires import MemoryHandshake

PACKAGE = Path(unisock.__file__).parent
ADAPTERS = PACKAGE.parent / "adapters"
# What a stranger may choose: a line of its own must not come of it.
FORGED = "\nERROR unisock: forged"


def hostile(*headers: tuple[str, str]) -> MemoryHandshake:
    """A handshake with a line break wherever a peer can put one."""
    return MemoryHandshake(
        raw_path="/a%0AERROR%20unisock:%20forged",
        raw_headers=[("Host", "app.example"), *headers],
        client=Address(f"10.0.0.1{FORGED}", 5),
    )


WHO = f"path {f'/a{FORGED}'!r}, client {f'10.0.0.1{FORGED}:5'!r}: "


async def forgetful(ws: WebSocket) -> None:
    """Neither accept nor reject."""


async def strict(ws: WebSocket) -> None:
    """Take numbers."""
    await ws.accept()
    await ws.receive_json(int)


async def repeats(ws: WebSocket) -> None:
    """Say of a message what it was."""
    await ws.accept()
    message = await ws.receive_text()
    raise InvalidMessage(1007, f"bad: {message}", message)


class Strict(WebSocketEndpoint):
    """Take JSON."""

    encoding = "json"


async def reads(ws: WebSocket) -> None:
    """Read to the end."""
    await ws.accept()
    async for _ in ws:
        pass


async def headers(ws: WebSocket) -> None:
    """Accept with what the server cannot send."""
    await ws.accept("chat", {"x-a": "b"})


async def fails_twice(ws: WebSocket) -> None:
    """Fail, and a task as well."""
    await ws.accept()
    for error in (ZeroDivisionError, KeyError):
        ws.start_soon(fail, error)
    await asyncio.Event().wait()


async def fails_beside(ws: WebSocket) -> None:
    """Fail at the end of a task that has failed."""
    await ws.accept()
    ws.start_soon(fail, KeyError)
    try:
        await asyncio.Event().wait()
    finally:
        raise ZeroDivisionError


async def fail(error: type[Exception]) -> None:
    """Fail."""
    raise error


def function_fails_beside(ws: SyncWebSocket) -> None:
    """Fail, and a function beside it as well."""
    ws.accept()

    def beside() -> None:
        raise KeyError

    ws.start_soon(beside)
    while not ws.closed:
        pass
    raise ZeroDivisionError


def breaks(transport: MemoryTransport) -> None:
    """The server fails to read."""
    transport.incoming.put_nowait(RuntimeError("broken"))


@pytest.mark.parametrize(
    ("handler", "said", "how"),
    [
        (forgetful, "returned without accept()", {}),
        (strict, "closing with 1007: $: expected int, got str", {"incoming": ['"x"']}),
        (repeats, r"closing with 1007: bad: \nERROR unisock: forged", {"incoming": [FORGED]}),
        (Strict, "closing with 1007: ", {"incoming": ["{"]}),
        (
            reads,
            "closing with 1008: over 1 messages a second",
            {"incoming": ["a", "b"], "max_messages_per_second": 1},
        ),
        (reads, "reading from the server failed", {"prepare": breaks}),
        (
            forgetful,
            "handshake rejected: origin 'http://\\n' is not this host",
            {"handshake": hostile(("Origin", "http://\n"))},
        ),
        (
            headers,
            "this server sends no headers",
            {
                "handshake": hostile(("Sec-WebSocket-Protocol", "chat")),
                "capabilities": Capabilities(accept_headers=False),
            },
        ),
        (
            headers,
            "this server sends no subprotocol",
            {
                "handshake": hostile(("Sec-WebSocket-Protocol", "chat")),
                "capabilities": Capabilities(subprotocol=False),
            },
        ),
        (fails_twice, "another task of the connection failed", {}),
        (fails_beside, "a task of the connection failed as well", {}),
        (function_fails_beside, "a function beside the handler failed as well", {}),
    ],
)
def test_a_warning_says_whose_it_is(
    handler: Any, said: str, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    how = {"handshake": hostile(), **how}
    with suppress(ZeroDivisionError, KeyError):  # which go on to the framework
        serve(handler, *how.pop("incoming", ()), **how)
    (record,) = (r for r in caplog.records if r.levelno >= logging.WARNING)
    message = record.getMessage()
    assert message.startswith(f"handler {handler.__qualname__}, {WHO}{said}"), message
    assert "\n" not in message


@pytest.mark.parametrize("option", ["max_connections", "handler_timeout"])
def test_a_rejection_says_whose_it_is(option: str, caplog: pytest.LogCaptureFixture) -> None:
    async def waits(ws: WebSocket) -> None:
        await ws.wait_closed()

    async def main() -> None:
        limits: dict[str, dict[str, Any]] = {
            "max_connections": {"max_connections": 1},
            "handler_timeout": {"handler_timeout": 0.01},
        }
        mounted = prepare(waits, limits[option])  # type: ignore[arg-type]  # of one key each
        transports = [MemoryTransport(hostile()) for _ in range(2)]
        tasks = [asyncio.create_task(mounted.serve(each)) for each in transports]
        await transports[1].has_sent()
        await settle()
        for transport in transports:
            transport.peer_leaves()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert caplog.records
    for record in caplog.records:
        assert f"waits, {WHO}handshake rejected: " in record.getMessage()


def test_without_a_client(caplog: pytest.LogCaptureFixture) -> None:
    serve(forgetful, handshake=MemoryHandshake(client=None))
    (record,) = caplog.records
    assert "handler forgetful, path '/', client unknown: " in record.getMessage()


LOGS = [f"logger.{level}" for level in ("info", "warning", "error", "exception", "critical")]


def calls(path: Path) -> Iterator[ast.Call]:
    """The calls of a module that log, but those for whoever looks for a mistake."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in LOGS:
            yield node


# Its lines are the server's own, as of uvicorn's classes.
SERVER = ADAPTERS / "uvicorn.py"
MODULES = [
    path for path in sorted([*PACKAGE.glob("*.py"), *ADAPTERS.glob("*.py")]) if path != SERVER
]


def test_there_are_such_calls() -> None:
    assert sum(len(list(calls(path))) for path in MODULES) > 10


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_call_forgets_it(path: Path) -> None:
    for call in calls(path):
        assert str(ast.literal_eval(call.args[0])).startswith("%s: "), ast.unparse(call)
        assert ast.unparse(call.args[1]).endswith("_describe()"), ast.unparse(call)
