"""The rooms of the pages: nobody waits for who is slow, and no room is left when all have gone."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.docs.documents import ROOT, files, page
from tests.servers import RawClient, Server, frame

LINE = "x" * 65536
# So many fill the kernel's buffers and an outbox of a hundred; twice as many one of a thousand.
ENOUGH_LINES = 300
MOST_LINES = 2000
# An echo comes at once, in order of magnitude; the tutorial once had it wait for 5 and 15 s.
AT_ONCE = 2.0


class Chat(NamedTuple):
    """A chat of a page, and what its clients say."""

    source: Callable[[], str]
    handler: str
    counted: str
    """What has an item for each room, or for each member where there is one room."""
    query: str
    join: Callable[[str], str | None]
    joined: Callable[[str], str]
    say: Callable[[str], str]
    said: Callable[[str, str], str]
    gone: str
    """What tells that Bob has left: a message, or the count; nothing where he is not closed."""
    patch: bool = False
    """Whether gevent has to be patched."""


def compact(**message: object) -> str:
    return json.dumps(message, separators=(",", ":"))


def nothing(_name: str) -> None:
    return None


BOARD = Chat(
    source=lambda: files(page("docs/how-to/plain-functions.md"))["board.py"],
    handler="board",
    counted="members",
    query="",
    join=str,
    joined=str,
    say=str,
    said=lambda _, text: text,
    gone="count",
    patch=True,
)
CHATS = {
    "tutorial": Chat(
        source=lambda: files(page("docs/tutorial.md"))["chat.py"],
        handler="chat",
        counted="rooms",
        query="?name={}",
        join=nothing,
        joined="{} is here".format,
        say=str,
        said="{}: {}".format,
        gone="Bob has left",
    ),
    "class-endpoints": Chat(
        source=lambda: files(page("docs/how-to/class-endpoints.md"))["chat.py"],
        handler="Chat",
        counted="rooms",
        query="",
        join=lambda name: compact(type="join", name=name),
        joined=lambda name: compact(joined=name),
        say=lambda text: compact(type="say", text=text),
        said=lambda name, text: compact(**{"from": name, "text": text}),
        gone=compact(left="Bob"),
    ),
    "example": Chat(
        source=(ROOT / "examples" / "chat.py").read_text,
        handler="Chat",
        counted="rooms",
        query="",
        join=lambda name: compact(type="join", name=name),
        joined=lambda name: f'"{name}"],"type":"members"}}',
        say=lambda text: compact(type="say", text=text),
        said=lambda name, text: compact(name=name, text=text, type="said"),
        gone=compact(names=["Ada", "Eve"], type="members"),
    ),
    "plain-functions": BOARD,
    "background-work": BOARD._replace(
        source=lambda: files(page("docs/how-to/background-work.md"))["feed.py"],
        handler="feed",
        counted="queues",
        gone="",
        patch=False,
    ),
    "background-work, plain": BOARD._replace(
        source=lambda: files(page("docs/how-to/background-work.md"))["plain_feed.py"],
        handler="feed",
        counted="queues",
        gone="",
    ),
}

APPS = {
    "fastapi": """
        import os, unisock, uvicorn
        from fastapi import FastAPI
        import shown
        app = FastAPI()
        unisock.mount(app, "/rooms/{room}", shown.HANDLER, close_timeout=0.5)
        @app.get("/count")
        async def count():
            return len(shown.COUNTED)
        uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
    """,
    "flask": """
        import os, sys
        if os.environ["PATCH"] == "True":
            from gevent import monkey
            monkey.patch_all()
        import unisock
        from flask import Flask
        from unisock.adapters.flask import WSGIServer
        import shown
        app = Flask(__name__)
        unisock.mount(app, "/rooms/{room}", shown.HANDLER, close_timeout=0.5)
        @app.get("/count")
        def count():
            return str(len(shown.COUNTED))
        address = ("127.0.0.1", int(os.environ["PORT"]))
        WSGIServer(address, app, log=None).serve_forever()
    """,
}


class Shown(NamedTuple):
    """A chat that is served."""

    chat: Chat
    server: Server

    def path(self, room: str, name: str) -> str:
        """Where a member connects."""
        return f"/rooms/{room}{self.chat.query.format(name)}"

    def enter(self, stack: ExitStack, room: str, name: str) -> ClientConnection:
        """Join a room, and hear of it."""
        url = self.server.url(self.path(room, name))
        client = stack.enter_context(connect(url, max_size=None, close_timeout=1))
        if (joining := self.chat.join(name)) is not None:
            client.send(joining)
        while not client.recv(10).endswith(self.chat.joined(name)):  # type: ignore[arg-type]  # text
            pass
        return client

    def enter_and_read_nothing(self, stack: ExitStack, room: str, name: str) -> RawClient:
        """Join a room with a socket that nobody reads."""
        client = stack.enter_context(self.server.raw(self.path(room, name)))
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert b"101" in client.read_head()
        if (joining := self.chat.join(name)) is not None:
            client.write(frame(1, joining.encode()))
        return client

    def slow_one_has_gone(self, heard: list[str], after: int) -> bool:
        """Whether that is told by what was heard, or by how many there are."""
        if self.chat.gone == "count":
            return self.server.get("/count") == (200, "2")
        if not self.chat.gone:
            return after == ENOUGH_LINES
        of_bob = [number for number, message in enumerate(heard) if "Bob" in message]
        return self.chat.gone in heard[max(of_bob, default=len(heard)) :]

    def wait_for_count(self, count: int) -> None:
        """Wait until there are so many rooms, or members."""
        until = time.monotonic() + 20
        while (found := self.server.get("/count")) != (200, str(count)):
            assert time.monotonic() < until, found
            time.sleep(0.05)


CASES = [(name, framework) for name in CHATS for framework in APPS]


@pytest.fixture(scope="module", params=CASES, ids=" on ".join)
def shown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    """Each chat on a server on asyncio, and on gevent's."""
    name, framework = request.param
    chat = CHATS[name]
    folder = tmp_path_factory.mktemp("shown")
    (folder / "shown.py").write_text(chat.source())
    source = APPS[framework].replace("HANDLER", chat.handler).replace("COUNTED", chat.counted)
    with Server(folder, source, PATCH=str(chat.patch)) as server:
        yield Shown(chat, server)
    assert "Traceback" not in server.log()


def hear(client: ClientConnection, wanted: str) -> tuple[float, list[str]]:
    """Wait for a message; return how long it took, and what came before it."""
    began, before = time.monotonic(), []
    while (message := client.recv(20)) != wanted:
        before.append(str(message))
    return time.monotonic() - began, before


def test_who_speaks_waits_for_no_slow_member(shown: Shown) -> None:
    with ExitStack() as stack:
        speaker = shown.enter(stack, "tea", "Ada")
        listener = shown.enter(stack, "tea", "Eve")
        shown.enter_and_read_nothing(stack, "tea", "Bob")
        heard: list[str] = []
        for number in range(MOST_LINES):
            text = f"{number} {LINE}"
            speaker.send(shown.chat.say(text))
            for client in (speaker, listener):
                seconds, before = hear(client, shown.chat.said("Ada", text))
                assert seconds < AT_ONCE
                heard += before
            if shown.slow_one_has_gone(heard, after=number):
                break
        else:
            pytest.fail("who does not read was not closed")
        # The two who read are there still.
        listener.send(shown.chat.say("bye"))
        hear(speaker, shown.chat.said("Eve", "bye"))


@pytest.mark.parametrize("shown", [case for case in CASES if CHATS[case[0]].gone], indirect=True)
def test_who_sends_much_at_once_closes_nobody(shown: Shown) -> None:
    with ExitStack() as stack:
        speaker = shown.enter(stack, "many", "Ada")
        listener = shown.enter(stack, "many", "Eve")
        for number in range(1000):
            speaker.send(shown.chat.say(str(number)))
        for client in (speaker, listener):
            for number in range(1000):
                hear(client, shown.chat.said("Ada", str(number)))


def test_of_those_who_have_gone_nothing_is_left(shown: Shown) -> None:
    shown.wait_for_count(0)
    with ExitStack() as stack:
        for number in range(20):
            shown.enter(stack, f"room-{number}", "Ada")
        vanishing = [
            shown.enter_and_read_nothing(stack, f"other-{number}", "Bob") for number in range(5)
        ]
        shown.wait_for_count(25)
        for client in vanishing:
            client.reset()
        shown.wait_for_count(20)
    shown.wait_for_count(0)
