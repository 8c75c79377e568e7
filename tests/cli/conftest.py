"""Fixtures: start the command in an empty directory, with a handler, on free ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.cli.command import Command, Start
from tests.frameworks import FRAMEWORKS


@pytest.fixture
def unisock(tmp_path: Path) -> Iterator[Start]:
    """Start ``unisock`` with arguments, in `tmp_path`."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Command:
            command = Command(tmp_path, *arguments)
            stack.callback(command.clean_up)
            return command

        yield start


@pytest.fixture
def echo(tmp_path: Path) -> str:
    """A handler that echoes, tells its process and writes a line when it has ended."""
    (tmp_path / "service.py").write_text(
        "import os\n"
        "class Echo:\n"
        "    async def __call__(self, ws):\n"
        "        await ws.accept()\n"
        "        try:\n"
        "            async for message in ws:\n"
        "                await ws.send(message if message != 'pid' else str(os.getpid()))\n"
        "        finally:\n"
        "            with open('ended', 'a') as file:\n"
        "                file.write(f'{os.getpid()}\\n')\n"
        "    async def room(self, ws):\n"
        "        await ws.accept()\n"
        "        await ws.send_json(dict(ws.path_params))\n"
        "    async def rooms(self, ws):\n"
        "        await ws.accept()\n"
        "        values = dict(ws.path_params).values()\n"
        "        simple = (str, int, float)\n"
        "        await ws.send_json([v if isinstance(v, simple) else str(v) for v in values])\n"
        "echo = Echo()\n"
    )
    return "service:echo"


@pytest.fixture
def free_ports() -> int:
    """The first of as many free ports in a row as ``--on all`` takes."""
    while True:
        with ExitStack() as stack, suppress(OSError, OverflowError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = first.getsockname()[1]
            for number in range(1, len(FRAMEWORKS)):
                stack.enter_context(socket.create_server(("127.0.0.1", port + number)))
            return port
