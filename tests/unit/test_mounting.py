"""Finding the adapter of an application, and wrong arguments to `mount`."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any, Unpack

import pytest

import unisock
import unisock.mounting
from unisock import Options, WebSocket
from unisock.options import OptionsDict
from unisock.paths import PathTemplate


async def handler(ws: WebSocket) -> None:
    await ws.accept()


class App:
    """An application of a framework that nobody knows but these tests."""

    def __init__(self) -> None:
        self.mounted: list[tuple[PathTemplate, object, Options]] = []


def mount(app: App, template: PathTemplate, handler: Any, **options: Unpack[OptionsDict]) -> None:
    """The adapter of that framework."""
    app.mounted.append((template, handler, Options.parse(options)))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make entry points known in place of the installed ones."""

    def make(**values: str) -> None:
        points = [EntryPoint(n, v, unisock.mounting.GROUP) for n, v in values.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points)

    return make


def in_package(name: str, base: type = object) -> type:
    return type("Application", (base,), {"__module__": f"{name}.applications"})


@pytest.fixture
def third_party(known: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> App:
    """An application whose adapter a third party has installed."""
    adapter = types.ModuleType("third_party_adapter")
    adapter.mount = mount  # type: ignore[attr-defined]  # a module made by hand
    monkeypatch.setitem(sys.modules, adapter.__name__, adapter)
    known(thirdparty=adapter.__name__)
    app: App = in_package("thirdparty", App)()
    return app


def test_the_adapter_gets_what_was_checked(third_party: App) -> None:
    unisock.mount(third_party, "/rooms/{room}", handler, origins="*")
    ((template, mounted, options),) = third_party.mounted
    assert template == PathTemplate.parse("/rooms/{room}")
    assert mounted is handler
    assert options.allowed_origins is None


def test_a_subclass_finds_the_adapter_of_its_base(third_party: App) -> None:
    mine: App = in_package("mine", type(third_party))()
    unisock.mount(mine, "/", handler)
    assert mine.mounted


def test_the_nearest_base_wins(third_party: App, known: Callable[..., None]) -> None:
    known(thirdparty="no_such_module", nearer="third_party_adapter")
    nearer: App = in_package("nearer", type(third_party))()
    unisock.mount(nearer, "/", handler)
    assert nearer.mounted


class Inside:
    """What the framework of `Application` and another framework have in common."""


Inside.__module__ = "thirdparty.inside"


@pytest.fixture
def application(third_party: App) -> type[App]:
    """The class of applications that the third party's adapter names."""
    cls: type[App] = type("Named", (App, Inside), {"__module__": "thirdparty.applications"})
    adapter: Any = sys.modules["third_party_adapter"]
    adapter.APPLICATIONS = (cls,)
    return cls


def test_a_subclass_of_a_named_class_is_taken(application: type[App]) -> None:
    for mine in (application(), in_package("mine", application)()):
        unisock.mount(mine, "/", handler)
        assert mine.mounted


def test_what_is_derived_from_a_frameworks_insides_is_none_of_it(application: type[App]) -> None:
    other = in_package("quartlike", Inside)()
    with pytest.raises(TypeError, match=r"quartlike.*mount on one of thirdparty\.Named;.*ASGIApp"):
        unisock.mount(other, "/", handler)


def test_of_two_frameworks_the_nearest_that_takes_it_counts(
    application: type[App], known: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    others: Any = types.ModuleType("others_adapter")
    others.APPLICATIONS = (str,)
    monkeypatch.setitem(sys.modules, others.__name__, others)
    known(thirdparty="third_party_adapter", quartlike=others.__name__)
    both = type("Both", (in_package("quartlike"), application), {"__module__": "mine"})()
    unisock.mount(both, "/", handler)
    assert both.mounted


@pytest.mark.parametrize(
    ("path", "candidate", "options", "error", "message"),
    [
        ("ws", handler, {}, ValueError, "starts with a slash"),
        ("/{n:number}", handler, {}, ValueError, "unknown converter"),
        ("/{a}/{a}", handler, {}, ValueError, "used twice"),
        (None, handler, {}, TypeError, "a path is a str"),
        ("/", None, {}, TypeError, "WebSocketEndpoint class, not None"),
        ("/", lambda: None, {}, TypeError, "takes one argument"),
        ("/", App, {}, TypeError, "is a class"),
        ("/", handler, {"orgins": "*"}, TypeError, "did you mean 'origins'"),
        ("/", handler, {"max_queue": 0}, ValueError, "max_queue"),
    ],
)
def test_wrong_arguments_are_told_at_once(
    third_party: App,
    path: Any,
    candidate: Any,
    options: OptionsDict,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        unisock.mount(third_party, path, candidate, **options)
    assert not third_party.mounted


@pytest.mark.parametrize("app", [None, object(), "app", App(), handler, App])
def test_an_unknown_application_lists_the_frameworks(app: object) -> None:
    with pytest.raises(
        TypeError, match=r"aiohttp, falcon, fastapi, flask, starlette.*unisock.*ASGIApp\(handler\)"
    ) as caught:
        unisock.mount(app, "/", handler)
    assert type(app).__qualname__ in str(caught.value)


def test_a_missing_package_names_the_command(known: Callable[..., None]) -> None:
    known(thirdparty="no_such_package.adapter")
    with pytest.raises(ModuleNotFoundError) as caught:
        unisock.mount(in_package("thirdparty")(), "/", handler)
    assert caught.value.name == "no_such_package"
    assert "needs the package no_such_package" in str(caught.value)
    assert "pip install 'unisock[thirdparty]'" in str(caught.value)


def test_importing_unisock_imports_no_framework_and_no_server() -> None:
    script = "import sys, unisock; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "unisock" in imported
    others = "starlette fastapi falcon flask werkzeug gevent geventwebsocket websockets uvicorn"
    more = {"aiohttp", "pydantic", "anyio", "hypercorn", "granian"}
    assert not set(imported) & {*others.split(), *more}
    assert "unisock.adapters" not in imported


def test_without_an_asyncio_loop_the_error_is_clear() -> None:
    """As under trio, whose loop asyncio does not see either."""
    from unisock.adapters.asgi import ASGIApp

    async def never(*args: object) -> Any:
        raise AssertionError("the connection was touched")

    serving = ASGIApp(handler)({"type": "websocket"}, never, never)
    with pytest.raises(RuntimeError, match="unisock runs on asyncio"):
        serving.send(None)
