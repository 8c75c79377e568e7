"""The forms of a handler: what can be mounted, what cannot, and how each is run."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.unit.memory import serve
from unisock import SocketView, SyncWebSocket, WebSocket, WebSocketEndpoint
from unisock.handlers import check_handler, prepare
from unisock.testing import ConnectionRejected, connect


async def asynchronous(ws: WebSocket) -> None:
    await ws.accept()


async def async_with_default(ws: WebSocket, room: str = "lobby") -> None:
    await ws.accept()


async def async_two(ws: WebSocket, room: str) -> None:
    await ws.accept()


async def async_rest(*args: WebSocket, **more: object) -> None:
    await args[0].accept()


def plain(ws: SyncWebSocket) -> None:
    ws.accept()


def plain_with_default(ws: SyncWebSocket, room: str = "lobby") -> None:
    ws.accept()


def plain_two(ws: SyncWebSocket, room: str) -> None:
    ws.accept()


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a decorator does that is written for functions of both kinds."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Async:
    async def __call__(self, ws: WebSocket) -> None:
        await ws.accept()

    async def method(self, ws: WebSocket) -> None:
        await ws.accept()

    async def two(self, ws: WebSocket, room: str) -> None:
        await ws.accept()

    @classmethod
    async def of_class(cls, ws: WebSocket) -> None:
        await ws.accept()

    @staticmethod
    async def static(ws: WebSocket) -> None:
        await ws.accept()


class Plain:
    def __call__(self, ws: SyncWebSocket) -> None:
        ws.accept()

    def method(self, ws: SyncWebSocket) -> None:
        ws.accept()

    @classmethod
    def of_class(cls, ws: SyncWebSocket) -> None:
        ws.accept()

    @staticmethod
    def static(ws: SyncWebSocket) -> None:
        ws.accept()


class Endpoint(WebSocketEndpoint):
    pass


class View(SocketView):
    pass


class WithArguments(WebSocketEndpoint):
    def __init__(self, room: str) -> None:
        self.room = room


class WithDefaults(WebSocketEndpoint):
    def __init__(self, room: str = "lobby", **more: object) -> None:
        self.room = room


class Forgetful:
    def __call__(self, ws: SyncWebSocket) -> None:
        pass

    def plain(self, ws: SyncWebSocket) -> None:
        pass

    async def asynchronous(self, ws: WebSocket) -> None:
        pass


class ForgetfulEndpoint(WebSocketEndpoint):
    async def on_connect(self, ws: WebSocket, /) -> None:
        pass


def none_at_all() -> None:
    raise AssertionError


async def async_none_at_all() -> None:
    raise AssertionError


def required_keyword(ws: SyncWebSocket, *, room: str) -> None:
    ws.accept()


async def async_required_keyword(ws: WebSocket, *, room: str) -> None:
    await ws.accept()


def generator(ws: SyncWebSocket) -> Iterator[SyncWebSocket]:
    yield ws


async def async_generator(ws: WebSocket) -> AsyncIterator[WebSocket]:
    yield ws


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


class Application:
    def __call__(self, environ: Any, start_response: Any) -> None: ...


class Generating:
    def __call__(self, ws: SyncWebSocket) -> Iterator[SyncWebSocket]:
        yield ws


class AsyncGenerating:
    async def __call__(self, ws: WebSocket) -> AsyncIterator[WebSocket]:
        yield ws


ANYTHING: Any = object()
ASYNC = [
    asynchronous,
    async_with_default,
    async_rest,
    Async(),
    Async().method,
    Async.of_class,
    Async.static,
    functools.partial(async_two, room="x"),
    functools.partial(functools.partial(async_two), room="x"),
    functools.partial(Async().two, room="x"),
    functools.partial(async_required_keyword, room="x"),
    functools.partial(Async()),
    wrapped(asynchronous),
    wrapped(Async().method),
    functools.partial(wrapped(async_two), room="x"),
]
PLAIN = [
    plain,
    plain_with_default,
    lambda ws: ws.accept(),
    Plain(),
    Plain().method,
    Plain.of_class,
    Plain.static,
    wrapped(plain),
    functools.partial(plain_two, room="x"),
    functools.partial(required_keyword, room="x"),
    functools.partial(Plain()),
    functools.partial(Plain().__call__),
]
ENDPOINTS = [Endpoint, View, WithDefaults, WebSocketEndpoint, SocketView]


class TestCheckHandler:
    @pytest.mark.parametrize("handler", [*ASYNC, *PLAIN, *ENDPOINTS])
    def test_what_is_mounted_is_returned(self, handler: Any) -> None:
        assert check_handler(handler) is handler

    @pytest.mark.parametrize(
        ("handler", "message"),
        [
            (None, r"async def handler\(ws\)`, a plain `def.*WebSocketEndpoint class, not None"),
            ("handler", "not 'handler'"),
            (5, "not 5"),
            (Endpoint(), "mount the class Endpoint, not an instance"),
            (View(), "mount the class View, not an instance"),
            (Plain, "Plain is a class, and no endpoint: derive it from.*or mount an instance"),
            (int, "int is a class, and no endpoint"),
            (generator, "a handler does not yield, as generator does"),
            (async_generator, "a handler does not yield, as async_generator does"),
            (functools.partial(generator), "does not yield, as partial"),
            (Generating(), "does not yield, as Generating does"),
            (AsyncGenerating(), "does not yield, as AsyncGenerating does"),
            (Generating().__call__, "does not yield, as Generating.__call__ does"),
            (none_at_all, "takes one argument, the WebSocket, .*: none_at_all: too many"),
            (async_none_at_all, "async_none_at_all: too many"),
            (lambda: None, "<lambda>: too many"),
            (functools.partial(plain, ANYTHING), "partial: too many"),
            (functools.partial(async_two, ANYTHING, "x"), "partial: too many"),
            (asgi, "asgi is an ASGI application, and no handler: name the handler itself"),
            (Application(), "Application is a WSGI application, and no handler"),
            # Of which Python knows no signature.
            (max, "."),
        ],
    )
    def test_what_is_none(self, handler: Any, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            check_handler(handler)
        with pytest.raises(TypeError, match=message):
            prepare(handler, {})


class TestPrepare:
    @pytest.mark.parametrize("handler", ASYNC)
    def test_an_async_function_runs_on_the_loop(self, handler: Any) -> None:
        mounted = prepare(handler, {})
        assert not mounted.blocks
        threads = threading.active_count()
        assert serve(handler).sent == [("accept", None, []), ("close", 1000, "")]
        assert threading.active_count() == threads

    @pytest.mark.parametrize("handler", PLAIN)
    def test_a_plain_function_blocks(self, handler: Any) -> None:
        assert prepare(handler, {}).blocks
        with connect(handler) as peer:
            assert (peer.accepted_subprotocol, dict(peer.accepted_headers)) == (None, {})
            assert peer.wait_closed() == (1000, "")

    @pytest.mark.parametrize("handler", ENDPOINTS)
    def test_an_endpoint_runs_on_the_loop(self, handler: Any) -> None:
        assert not prepare(handler, {}).blocks

    @pytest.mark.parametrize(
        ("handler", "name"),
        [
            (asynchronous, "asynchronous"),
            (plain, "plain"),
            (Async().method, "method"),
            (Async(), "Async"),
            (Plain(), "Plain"),
            (Endpoint, "Endpoint"),
            (functools.partial(plain), "partial"),
        ],
    )
    def test_its_name_is_for_routers(self, handler: Any, name: str) -> None:
        assert prepare(handler, {}).name == name

    def test_options(self) -> None:
        mounted = prepare(plain, {"max_threads": 3, "close_timeout": 0.5})
        assert (mounted.options.max_threads, mounted.options.close_timeout) == (3, 0.5)
        with pytest.raises(TypeError, match="did you mean 'max_threads'"):
            prepare(plain, {"max_thread": 3})  # type: ignore[typeddict-unknown-key]  # the test
        for value, error in ((0, ValueError), ("3", TypeError), (1.5, TypeError)):
            for name in ("max_threads", "max_connections"):
                options: Any = {name: value}
                with pytest.raises(error, match=name):
                    prepare(plain, options)

    @pytest.mark.parametrize(
        ("handler", "name"),
        [
            (lambda ws: None, "TestPrepare.<lambda>"),
            (Forgetful().plain, "Forgetful.plain"),
            (Forgetful().asynchronous, "Forgetful.asynchronous"),
            (Forgetful(), "Forgetful"),
            (ForgetfulEndpoint, "ForgetfulEndpoint"),
        ],
    )
    def test_the_log_names_it(
        self, handler: Any, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(ConnectionRejected) as caught, connect(handler):
            pass
        (record,) = caplog.records
        assert record.getMessage().startswith(f"handler {name}, path ")
        assert record.getMessage() in str(caught.value)
