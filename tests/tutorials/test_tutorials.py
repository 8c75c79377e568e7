"""The frameworks' own WebSocket tutorials, ported by a few lines, on every framework.

``originals/`` has the programs as the frameworks teach them, ``ported/`` their handlers
on unisock, and ``apps/`` applications with all of the ported ones: of a framework with
the tutorials' pages beside, or `apps.mounted` of any other.
The page of `PAGE` shows each edit; that it shows the true one is tested here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.docs.documents import blocks, page
from tests.frameworks import FRAMEWORKS
from tests.servers import Server, uvicorn
from tests.tutorials.edits import HERE, Edit, edit
from unisock.frameworks import find

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PATIENCE = 30
ROOT = HERE.parents[1]
PAGE = page("docs/how-to/migrate.md")

IMPORT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.tutorials.%s import app
"""
OWN = """
import os
from unisock.frameworks import GRACE, find
from unisock.serving import bind
server = find(os.environ["FRAMEWORK"]).server(app, GRACE, True)
server.run(bind("127.0.0.1", int(os.environ["PORT"])), lambda: None)
"""
STOCK = """
import os
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler
address = ("127.0.0.1", int(os.environ["PORT"]))
WSGIServer(address, app, handler_class=WebSocketHandler).serve_forever()
"""
WITH_PAGES = [name for name in FRAMEWORKS if (HERE / "apps" / f"{name}_app.py").exists()]
"""The frameworks whose applications have the tutorials' pages beside the handlers."""
PORTED = {
    **{
        name: (f"apps.{f'{name}_app' if name in WITH_PAGES else 'mounted'}", OWN)
        for name in FRAMEWORKS
        if find(name).adapter
    },
    "flask stock": ("apps.flask_app", STOCK),
}
"""The applications, each with what serves it."""

CLASS = "unisock.adapters.uvicorn:WebSocketProtocol"
ON_CLASS = " on our class"

NATIVE = {
    "starlette_endpoint": ("originals.starlette_endpoint", None),
    "falcon_resource": ("originals.falcon_resource", None),
    "fastapi_page": ("originals.fastapi_page", None),
    "gevent_echo": ("originals.gevent_echo", STOCK),
    f"starlette_endpoint{ON_CLASS}": ("originals.starlette_endpoint", CLASS),
    f"falcon_resource{ON_CLASS}": ("originals.falcon_resource", CLASS),
    f"fastapi_page{ON_CLASS}": ("originals.fastapi_page", CLASS),
}
"""The originals that run, on uvicorn's default class and on unisock's."""

ServerOf: TypeAlias = Callable[[str], Server]


@pytest.fixture(scope="module")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerOf]:
    """The server of an application or of an original, by its name; started when asked for."""
    with ExitStack() as stack:

        @cache
        def start(name: str) -> Server:
            module, serve = (PORTED | NATIVE)[name]
            folder = tmp_path_factory.mktemp("server")
            source = IMPORT % module
            if serve in (None, CLASS):
                server = uvicorn(folder, source, ws=serve or "auto")
            else:
                server = Server(folder, source + serve, FRAMEWORK=name)
            stack.callback(stop, name, server)
            return server

        yield start


def stop(name: str, server: Server) -> None:
    """Stop a server; a ported handler has raised nothing."""
    log = server.stop()
    assert name in NATIVE or "Traceback" not in log, log


class End(NamedTuple):
    """How a conversation ends."""

    code: int | None
    """The code of the server's close frame; `None` where it sends none."""
    logged: str = ""
    """What the server's log tells of it."""


class Conversation(NamedTuple):
    """What a client says, and what it gets."""

    tutorial: str
    path: str
    says: tuple[str | bytes | None, ...]
    """Each has an answer; `None` is to wait for one without a word."""
    hears: tuple[str | bytes, ...]
    last: int | str | bytes | None
    """What it says for the server to close, or the code that it closes with, or no code."""
    end: End
    native: End | None = None
    """How the original ends, where that is not the same."""

    def __str__(self) -> str:
        return f"{self.path} {self.last!r}"


CONVERSATIONS = (
    Conversation(
        tutorial="starlette_endpoint",
        path="/endpoint",
        says=("hello", "", "żółw 🐢"),
        hears=("You said: hello", "You said: ", "You said: żółw 🐢"),
        last=4001,
        end=End(4001, "Echo ended with 4001"),
    ),
    Conversation(
        tutorial="starlette_endpoint",
        path="/endpoint",
        says=("hello",),
        hears=("You said: hello",),
        last=b"binary",
        end=End(1003, "Echo ended with 1003"),
        native=End(1003, "Echo ended with 1011"),
    ),
    Conversation(
        tutorial="fastapi_page",
        path="/ws",
        says=("hello", ""),
        hears=("Message text was: hello", "Message text was: "),
        last=4002,
        end=End(4002),
        native=End(4002, "starlette.websockets.WebSocketDisconnect"),
    ),
    Conversation(
        tutorial="fastapi_page",
        path="/ws",
        says=("hello",),
        hears=("Message text was: hello",),
        last=b"binary",
        end=End(1003),
        native=End(None, "KeyError: 'text'"),
    ),
    Conversation(
        tutorial="falcon_resource",
        path="/hello/Ada",
        says=(None, "hi", ""),
        hears=("Hello, Ada!", "Ada: hi", "Ada: "),
        last=4003,
        end=End(4003, "Ada has left"),
    ),
    Conversation(
        tutorial="falcon_resource",
        path="/hello/Bob",
        says=(None, "hi"),
        hears=("Hello, Bob!", "Bob: hi"),
        last=b"binary",
        end=End(1003),
        native=End(1011, "falcon.errors.PayloadTypeError"),
    ),
    Conversation(
        tutorial="gevent_echo",
        path="/echo",
        says=("hello", b"\0\xff", ""),
        hears=("hello", b"\0\xff", ""),
        last=None,
        end=End(1005),
        native=End(1005, "WebSocketError: Socket is dead"),
    ),
    Conversation(
        tutorial="gevent_echo",
        path="/echo",
        says=("hello",),
        hears=("hello",),
        last=4004,
        end=End(4004),
        native=End(1005, "WebSocketError: Socket is dead"),
    ),
    Conversation(
        tutorial="index_py",
        path="/simple_echo",
        says=('{"a": [1, null]}', '"żółw"', b"5"),
        hears=('{"a":[1,null]}', '"żółw"', "5"),
        last=4005,
        end=End(4005),
    ),
    Conversation(
        tutorial="index_py",
        path="/simple_echo",
        says=("1",),
        hears=("1",),
        last="{",
        end=End(1000),  # its own, in the `finally`
    ),
    Conversation(
        tutorial="index_py",
        path="/socket_view",
        says=('{"a": [1, null]}', '"żółw"', b"5"),
        hears=('{"a":[1,null]}', '"żółw"', "5"),
        last=4006,
        end=End(4006, "EchoView ended with 4006"),
    ),
    Conversation(
        tutorial="index_py",
        path="/socket_view",
        says=("1",),
        hears=("1",),
        last="{",
        end=End(1007, "EchoView ended with 1007"),
    ),
)


def places(tutorial: str) -> list[str]:
    """Where a tutorial runs: ported on every framework, and as it was on its own."""
    return [*PORTED, *(name for name in NATIVE if name.removesuffix(ON_CLASS) == tutorial)]


@pytest.mark.parametrize(
    ("conversation", "place"),
    [
        pytest.param(c, place, id=f"{c}-{place.replace(c.tutorial, 'native')}")
        for c in CONVERSATIONS
        for place in places(c.tutorial)
    ],
)
def test_the_same_conversation(conversation: Conversation, place: str, server_of: ServerOf) -> None:
    server = server_of(place)
    with connect(server.url(conversation.path), close_timeout=PATIENCE) as client:
        assert tuple(talk(client, conversation)) == conversation.hears
        close(client, conversation.last)
    expected = conversation.native if place in NATIVE else None
    code, logged = expected or conversation.end
    if code is None and place.endswith(ON_CLASS):
        code = 1011  # where uvicorn's own class sends no close frame
    received = client.protocol.close_rcvd
    assert (received and received.code) == code
    server.wait_for_log(logged)


def talk(client: ClientConnection, conversation: Conversation) -> Iterator[str | bytes]:
    """Say what is to be said, each when the one before is answered."""
    for said in conversation.says:
        if said is not None:
            client.send(said)
        yield client.recv(PATIENCE)


def close(client: ClientConnection, last: str | bytes | int | None) -> None:
    """Close, or make the server close."""
    if isinstance(last, str | bytes):
        client.send(last)
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)
    else:
        client.close(last)  # type: ignore[arg-type]  # None: as a browser's `close()` does


def places_with_pages(tutorial: str) -> list[str]:
    """Those whose application has pages too."""
    return [p for p in places(tutorial) if p in NATIVE or p.partition(" ")[0] in WITH_PAGES]


@pytest.mark.parametrize("place", places_with_pages("falcon_resource"))
def test_a_page_at_the_path_of_the_handler(place: str, server_of: ServerOf) -> None:
    assert server_of(place).get("/hello/Ada") == (200, "Hello, Ada!")


@pytest.mark.parametrize("place", places_with_pages("fastapi_page"))
def test_the_page_in_a_browser(place: str, server_of: ServerOf, browser: Chrome) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    def find(selector: str) -> list[str]:
        return [found.text for found in browser.find_elements("css selector", selector)]

    browser.get(f"http://127.0.0.1:{server_of(place).port}/")
    waiting = WebDriverWait(browser, PATIENCE)
    waiting.until(lambda _: find("button:enabled"))
    browser.find_element("id", "text").send_keys("by <b>Enter</b>\n")
    waiting.until(lambda _: len(find("li")) == 1)
    browser.find_element("id", "text").send_keys("by the button")
    browser.find_element("css selector", "button").click()
    waiting.until(lambda _: len(find("li")) == 2)
    assert find("li") == ["Message text was: by <b>Enter</b>", "Message text was: by the button"]


@pytest.mark.parametrize("path", sorted(HERE.glob("ported/*.py")), ids=lambda path: path.stem)
def test_a_ported_handler_imports_unisock_alone(path: Path) -> None:
    imports = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert [getattr(node, "module", None) for node in imports] == ["unisock"]


EDITS = {
    "Starlette": edit("originals/starlette_endpoint.py", "ported/starlette_endpoint.py", "Echo"),
    "FastAPI": edit("originals/fastapi_page.py", "ported/fastapi_page.py", "websocket_endpoint"),
    "Falcon": edit(
        "originals/falcon_resource.py",
        "ported/falcon_resource.py",
        "HelloResource.on_websocket",
    ),
    "gevent-websocket": edit("originals/gevent_echo.py", "ported/gevent_echo.py", "echo"),
    "Flask-Sockets": edit("originals/flask_sockets.txt", "ported/gevent_echo.py", "echo"),
    "Index.py, function": edit("originals/index_py.txt", "ported/index_py.py", "simple_echo"),
    "Index.py, class": edit("originals/index_py.txt", "ported/index_py.py", "EchoView"),
}
"""The edits, in the page's order."""


def shown() -> list[Edit]:
    """The page's edits: two blocks side by side, and the changed lines under them."""
    found = list(blocks(PAGE))
    ends = [number for number, block in enumerate(found) if block.language == "diff"]
    return [Edit(*(block.text for block in found[end - 2 : end + 1])) for end in ends]


def test_the_page_shows_the_edits_and_no_others() -> None:
    assert shown() == list(EDITS.values())


def test_the_page_s_other_code_is_that_of_the_applications() -> None:
    sources = [path.read_text("utf-8") for path in HERE.glob("apps/*.py")]
    in_edits = {text for each in EDITS.values() for text in each}
    others = [block.text for block in blocks(PAGE) if block.text not in in_edits]
    assert others
    for text in others:
        paragraphs = text.strip("\n").split("\n\n")
        assert any(all(p in source for p in paragraphs) for source in sources), text
