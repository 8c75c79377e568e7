"""Dependencies: what is called, where, how often, and how it is closed.

Without postponed annotations, for these name functions within functions.
"""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, NamedTuple, Self

import msgspec
import pydantic
import pytest

from tests.unit.memory import MemoryTransport, settle
from unisock import (
    Depends,
    HandshakeRejected,
    Query,
    SocketView,
    SyncWebSocket,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
    WebSocketException,
)
from unisock.handlers import check_handler, prepare
from unisock.testing import ConnectionRejected, connect

STEPS: list[str] = []


@pytest.fixture(autouse=True)
def _no_steps() -> Iterator[None]:
    STEPS.clear()
    yield
    STEPS.clear()


def value(base: int = 1) -> int:
    return base


async def async_value(base: int = 1) -> int:
    await settle()
    return base


def yielded(base: int = 1) -> Iterator[int]:
    STEPS.append("open")
    try:
        yield base
    except BaseException as exc:
        STEPS.append(type(exc).__name__)
        raise
    finally:
        STEPS.append("close")


def managed() -> Generator[int]:
    yield 1


async def async_yielded(base: int = 1) -> AsyncIterator[int]:
    STEPS.append("open")
    try:
        await settle()
        yield base
    except BaseException as exc:
        STEPS.append(type(exc).__name__)
        raise
    finally:
        await settle()
        STEPS.append("close")


class Value(int):
    def __new__(cls, base: int = 1) -> Self:
        return super().__new__(cls, base)

    def __init__(self, base: int = 1) -> None:
        """As `__new__`."""


class Calling:
    def __call__(self, base: int = 1) -> int:
        return base


class AsyncCallable:
    async def __call__(self, base: int = 1) -> int:
        return base


class Yielding:
    def __call__(self, base: int = 1) -> Iterator[int]:
        yield from yielded(base)


PLAIN = [value, yielded, Value, Calling(), Yielding(), functools.partial(value, 5)]
ASYNC = [async_value, async_yielded, AsyncCallable(), functools.partial(async_value, 5)]


def connected(form: Any, url: str = "/", **options: Any) -> Any:
    with connect(form, url, **options) as peer:
        return peer.receive_json()


@pytest.mark.parametrize("dependency", [*PLAIN, *ASYNC])
def test_what_a_dependency_may_be(dependency: Any) -> None:
    async def handler(ws: WebSocket, x: Annotated[int, Depends(dependency)]) -> None:
        await ws.accept()
        await ws.send_json(x)

    class View(SocketView):
        def __init__(self, x: Annotated[int, Depends(dependency)]) -> None:
            self.x = x

        async def on_connect(self) -> None:
            await self.websocket.accept()
            await self.websocket.send_json(self.x)

    for form in (handler, View):
        assert connected(form, "/?base=5") == 5
        if isinstance(dependency, functools.partial):
            continue
        assert connected(form) == 1
        with pytest.raises(ConnectionRejected) as info:
            connected(form, "/?base=x")
        assert info.value.body == b'query parameter "base": expected int, got "x"\n'
    assert STEPS in ([], ["open", "close"] * 4)


@pytest.mark.parametrize("dependency", PLAIN)
def test_those_of_a_plain_function_run_where_it_runs(dependency: Any) -> None:
    where: list[object] = []

    @functools.wraps(dependency)
    def noting(*args: Any, **kwargs: Any) -> Any:
        where.append(threading.current_thread())
        return dependency(*args, **kwargs)

    given: Any = dependency if isinstance(dependency, type | Yielding) else noting

    def handler(ws: SyncWebSocket, x: Annotated[int, Depends(given)]) -> None:
        where.append(threading.current_thread())
        ws.accept()
        ws.send_json(x)

    assert connected(handler, "/?base=5") == 5
    assert len(set(where)) == 1
    assert STEPS in ([], ["open", "close"])


@pytest.mark.parametrize("dependency", ASYNC[:-1])
def test_a_plain_function_has_no_async_ones(dependency: Any) -> None:
    def nested(x: Annotated[int, Depends(dependency)]) -> int:
        return x

    for given in (dependency, nested):

        def handler(ws: SyncWebSocket, x: Annotated[int, Depends(given)]) -> None: ...

        with pytest.raises(TypeError, match=r"handler is a plain function, and .* is async"):
            check_handler(handler)


def test_a_plain_one_blocks_nobody() -> None:
    """It runs in a thread, and sees context variables."""

    async def main() -> None:
        released = threading.Event()

        def blocking() -> str:
            assert released.wait(10)
            return threading.current_thread().name

        async def handler(ws: WebSocket, x: Annotated[str, Depends(blocking)]) -> None:
            await ws.accept()
            await ws.send_text(x)

        connecting = connect(handler, timeout=10)
        opening = asyncio.create_task(connecting.__aenter__())
        await settle()
        assert not opening.done()
        released.set()
        peer = await opening
        assert await peer.receive_text() != threading.current_thread().name
        await connecting.__aexit__(None, None, None)

    asyncio.run(main())


class TestOnce:
    def test_two_get_the_same(self) -> None:
        def counted() -> list[int]:
            STEPS.append("called")
            return []

        def other(x: Annotated[list[int], Depends(counted)]) -> list[int]:
            return x

        async def handler(
            ws: WebSocket,
            a: Annotated[list[int], Depends(counted)],
            b: Annotated[list[int], Depends(counted)],
            c: Annotated[list[int], Depends(other)],
            d: Annotated[list[int], Depends(counted, use_cache=False)],
        ) -> None:
            await ws.accept()
            await ws.send_json([a is b, a is c, a is d])

        assert connected(handler) == [True, True, False]
        assert STEPS == ["called"] * 2

    def test_each_connection_has_its_own(self) -> None:
        async def handler(ws: WebSocket, x: Annotated[object, Depends(object)]) -> None:
            await ws.accept()
            await ws.send_json(id(x))
            kept.append(x)

        kept: list[object] = []
        assert connected(handler) != connected(handler)

    def test_one_that_needs_itself(self) -> None:
        def first(x: Annotated[int, Depends(lambda: 1)]) -> int:
            return x

        def second(x: Annotated[int, Depends(first)]) -> int:
            return x

        first.__annotations__["x"] = Annotated[int, Depends(second)]

        async def handler(ws: WebSocket, x: Annotated[int, Depends(first)]) -> None: ...

        with pytest.raises(TypeError, match=r"handler: .*first needs .*second needs .*first"):
            check_handler(handler)

    def test_it_must_be_callable(self) -> None:
        with pytest.raises(TypeError, match=r"Depends\(\) takes a function or a class, not 5"):
            Depends(5)  # type: ignore[arg-type]  # that is the mistake

    def test_its_parameters_are_checked(self) -> None:
        def depending(x: object) -> None: ...

        async def handler(ws: WebSocket, y: Annotated[None, Depends(depending)]) -> None: ...

        with pytest.raises(TypeError, match=r"depending, a dependency of .*handler: .*'x' cannot"):
            check_handler(handler)

    def test_it_may_take_the_websocket(self) -> None:
        async def authenticated(
            ws: WebSocket, token: Annotated[str, Query()], socket: WebSocket | SyncWebSocket
        ) -> str:
            assert ws is socket
            if token != "good":
                raise HandshakeRejected(401, b"no")
            return str(ws.query_params["token"])

        async def handler(ws: WebSocket, user: Annotated[str, Depends(authenticated)]) -> None:
            await ws.accept()
            await ws.send_json(user)

        assert connected(handler, "/?token=good") == "good"
        with pytest.raises(ConnectionRejected) as info:
            connected(handler, "/?token=bad")
        assert (info.value.status_code, info.value.body) == (401, b"no")

    def test_nothing_runs_where_a_parameter_does_not_fit(self) -> None:
        def first() -> None:
            STEPS.append("called")

        def second(n: int) -> None: ...

        async def handler(
            ws: WebSocket, a: Annotated[None, Depends(first)], b: Annotated[None, Depends(second)]
        ) -> None: ...

        with pytest.raises(ConnectionRejected):
            connected(handler, "/?n=x")
        assert STEPS == []

    def test_a_plain_one_that_returns_an_awaitable(self) -> None:
        def wrong() -> Any:
            return async_value()

        async def handler(ws: WebSocket, x: Annotated[Any, Depends(wrong)]) -> None: ...

        def plain(ws: SyncWebSocket, x: Annotated[Any, Depends(wrong)]) -> None: ...

        for form in (handler, plain):
            with pytest.raises(TypeError, match="returns an awaitable"):
                connected(form)


def named(name: str, *, is_async: bool) -> Callable[..., Any]:
    """A generator that notes its steps."""

    def plain() -> Iterator[str]:
        STEPS.append(f"{name} opens")
        try:
            yield name
        except BaseException as exc:
            STEPS.append(f"{name} sees {type(exc).__name__}")
            raise
        finally:
            STEPS.append(f"{name} closes")

    async def asynchronous() -> AsyncIterator[str]:
        for _ in plain():
            try:
                yield name
            except BaseException as exc:
                STEPS.append(f"{name} sees {type(exc).__name__}")
                raise
            STEPS.append(f"{name} goes on")

    return asynchronous if is_async else plain


A, B = named("a", is_async=False), named("b", is_async=False)


class TestTheEnd:
    """What yields is closed after the connection, the last first, with what has ended it."""

    @pytest.mark.parametrize("form", ["async", "plain", "class"])
    @pytest.mark.parametrize(
        ("ending", "code", "seen"),
        [
            (None, 1000, None),
            (WebSocketException(4001), 4001, "WebSocketException"),
            (HandshakeRejected(401), 4401, "HandshakeRejected"),
            (KeyError("x"), 1011, "KeyError"),
        ],
    )
    def test_whatever_has_ended_it(
        self, form: str, ending: Exception | None, code: int, seen: str | None
    ) -> None:
        async def handler(
            ws: WebSocket, a: Annotated[str, Depends(A)], b: Annotated[str, Depends(B)]
        ) -> None:
            await ws.accept()
            if ending is not None:
                raise ending

        def plain(
            ws: SyncWebSocket, a: Annotated[str, Depends(A)], b: Annotated[str, Depends(B)]
        ) -> None:
            ws.accept()
            if ending is not None:
                raise ending

        class Endpoint(WebSocketEndpoint):
            def __init__(
                self, a: Annotated[str, Depends(A)], b: Annotated[str, Depends(B)]
            ) -> None: ...

            async def on_connect(self, ws: WebSocket) -> None:
                await ws.accept()
                if ending is not None:
                    raise ending
                await ws.close()

            async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
                STEPS.append("on_disconnect")

        target: Any = {"async": handler, "plain": plain, "class": Endpoint}[form]
        raises = KeyError if isinstance(ending, KeyError) else None
        with connect(target, raises=raises) as peer:
            assert peer.wait_closed()[0] == code
        expected = ["a opens", "b opens"]
        expected += ["on_disconnect"] if form == "class" else []
        for name in ("b", "a"):
            expected += [f"{name} sees {seen}"] if seen else []
            expected += [f"{name} closes"]
        assert expected == STEPS

    def test_the_connection_ends_first(self) -> None:
        async def main() -> None:
            may_close = asyncio.Event()

            async def opened() -> AsyncIterator[None]:
                yield
                await may_close.wait()
                STEPS.append("closed")

            async def handler(ws: WebSocket, x: Annotated[None, Depends(opened)]) -> None:
                await ws.accept()

            async with connect(handler) as peer:
                assert (await peer.wait_closed())[0] == 1000
                assert STEPS == []
                may_close.set()
            assert STEPS == ["closed"]

        asyncio.run(main())

    @pytest.mark.parametrize("is_plain", [False, True])
    def test_one_that_swallows_changes_nothing(self, is_plain: bool) -> None:
        def swallowing() -> Iterator[None]:
            try:
                yield
            except KeyError:
                STEPS.append("swallowed")

        async def handler(ws: WebSocket, x: Annotated[None, Depends(swallowing)]) -> None:
            await ws.accept()
            raise KeyError("x")

        def plain(ws: SyncWebSocket, x: Annotated[None, Depends(swallowing)]) -> None:
            ws.accept()
            raise KeyError("x")

        with connect(plain if is_plain else handler, raises=KeyError) as peer:
            assert peer.wait_closed()[0] == 1011
        assert STEPS == ["swallowed"]

    @pytest.mark.parametrize("is_plain", [False, True])
    def test_an_error_of_one_that_closes_goes_on(self, is_plain: bool) -> None:
        def failing() -> Iterator[None]:
            yield
            raise LookupError("at the end")

        async def handler(ws: WebSocket, x: Annotated[None, Depends(failing)]) -> None:
            await ws.accept()

        def plain(ws: SyncWebSocket, x: Annotated[None, Depends(failing)]) -> None:
            ws.accept()

        with connect(plain if is_plain else handler, raises=LookupError) as peer:
            assert peer.wait_closed()[0] == 1000

    @pytest.mark.parametrize("is_async", [False, True])
    @pytest.mark.parametrize(
        ("error", "status"), [(KeyError("x"), 500), (HandshakeRejected(404), 404)]
    )
    def test_one_that_fails_before_the_handler(
        self, is_async: bool, error: Exception, status: int
    ) -> None:
        def failing() -> None:
            raise error

        async def async_failing() -> None:
            raise error

        dependency = async_failing if is_async else failing

        async def handler(
            ws: WebSocket, a: Annotated[str, Depends(A)], x: Annotated[None, Depends(dependency)]
        ) -> None:
            raise AssertionError

        raises = KeyError if status == 500 else None
        with pytest.raises(ConnectionRejected) as info, connect(handler, raises=raises):
            pass
        assert info.value.status_code == status
        assert ["a opens", f"a sees {type(error).__name__}", "a closes"] == STEPS

    def test_stop_iteration_is_an_error(self) -> None:
        def stops() -> None:
            raise StopIteration

        async def handler(ws: WebSocket, x: Annotated[None, Depends(stops)]) -> None: ...

        with pytest.raises(RuntimeError, match="a dependency has raised StopIteration"):
            connected(handler)

    @pytest.mark.parametrize("is_async", [False, True])
    def test_the_handler_is_cancelled_while_one_opens(self, is_async: bool) -> None:
        """What it has opened meanwhile is closed."""
        opening, may_open = threading.Event(), threading.Event()

        def slow() -> Iterator[None]:
            opening.set()
            assert may_open.wait(10)
            STEPS.append("opened")
            try:
                yield
            finally:
                STEPS.append("closed")

        async def async_slow() -> AsyncIterator[None]:
            opening.set()
            try:
                await asyncio.Event().wait()
                yield
            finally:
                STEPS.append("closed")

        dependency = async_slow if is_async else slow

        async def handler(ws: WebSocket, x: Annotated[None, Depends(dependency)]) -> None:
            raise AssertionError

        async def main() -> None:
            transport = MemoryTransport()
            task = asyncio.create_task(prepare(handler, {}).serve(transport))
            await asyncio.to_thread(opening.wait, 10)
            task.cancel()
            await settle()
            assert task.done() is is_async
            may_open.set()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert (["closed"] if is_async else ["opened", "closed"]) == STEPS


class TestOverrides:
    def test_in_place_of_a_dependency(self) -> None:
        def real(base: int) -> int:
            raise AssertionError

        def fake(other: int = 7) -> int:
            return other

        def nested(x: Annotated[int, Depends(real)]) -> int:
            return x

        async def handler(
            ws: WebSocket, x: Annotated[int, Depends(real)], y: Annotated[int, Depends(nested)]
        ) -> None:
            await ws.accept()
            await ws.send_json([x, y])

        def plain(
            ws: SyncWebSocket, x: Annotated[int, Depends(real)], y: Annotated[int, Depends(nested)]
        ) -> None:
            ws.accept()
            ws.send_json([x, y])

        for form in (handler, plain):
            assert connected(form, overrides={real: fake}) == [7, 7]
            assert connected(form, "/?other=8", overrides={real: fake}) == [8, 8]

    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            ({value: value}, "handler does not depend on value"),
            ([value], "takes a dict of functions"),
            ({value: 5}, "takes a dict of functions"),
        ],
    )
    def test_mistakes(self, overrides: Any, words: str) -> None:
        async def handler(ws: WebSocket, x: Annotated[int, Depends(async_value)]) -> None: ...

        with pytest.raises(TypeError, match=f"overrides=.*{words}"):
            connect(handler, overrides=overrides)


class Fields(msgspec.Struct):
    base: int = 0


class Names(NamedTuple):
    base: int = 0


class Made:
    def __new__(cls, base: int = 0) -> Self:
        made = super().__new__(cls)
        made.base = base
        return made

    base: int


@pytest.mark.parametrize("cls", [Fields, Names, Made])
def test_what_a_class_takes_is_converted(cls: Any) -> None:
    async def handler(ws: WebSocket, x: Annotated[Any, Depends(cls)]) -> None:
        await ws.accept()
        await ws.send_json(x.base)

    assert connected(handler, "/?base=5") == 5
    with pytest.raises(ConnectionRejected) as info:
        connected(handler, "/?base=x")
    assert info.value.body == b'query parameter "base": expected int, got "x"\n'


def test_a_class_whose_types_cannot_be_read() -> None:
    class Model(pydantic.BaseModel):
        limit: int = pydantic.Field(5, alias="other")

    async def handler(ws: WebSocket, x: Annotated[Model, Depends(Model)]) -> None: ...

    with pytest.raises(TypeError, match="the type of parameter 'other' cannot be read: write a"):
        check_handler(handler)


def test_a_generator_that_fails_before_it_yields() -> None:
    def failing() -> Iterator[None]:
        raise LookupError("no database")
        yield

    async def handler(ws: WebSocket, x: Annotated[None, Depends(failing)]) -> None: ...

    with pytest.raises(LookupError, match="no database"):
        connected(handler)


def test_the_disconnect_of_another_connection_is_an_error_of_a_class() -> None:
    class Endpoint(WebSocketEndpoint):
        def __init__(self, a: Annotated[str, Depends(A)]) -> None: ...

        async def on_connect(self, ws: WebSocket) -> None:
            await ws.accept()
            raise WebSocketDisconnect(1001, path="/another", client=("127.0.0.1", 1))

    with connect(Endpoint, raises=WebSocketDisconnect) as peer:
        assert peer.wait_closed()[0] == 1011
    assert STEPS == ["a opens", "a sees WebSocketDisconnect", "a closes"]


class TestRejections:
    @pytest.mark.parametrize("is_plain", [False, True])
    def test_one_that_rejects_by_the_connection(self, is_plain: bool) -> None:
        """Nothing else is called, the handler neither."""

        async def rejecting(ws: WebSocket) -> None:
            await ws.reject(418)

        def rejecting_plainly(ws: SyncWebSocket) -> None:
            ws.reject(418)

        def later() -> None:
            raise AssertionError

        async def handler(
            ws: WebSocket,
            x: Annotated[None, Depends(rejecting)],
            y: Annotated[None, Depends(later)],
        ) -> None:
            raise AssertionError

        def plain(
            ws: SyncWebSocket,
            x: Annotated[None, Depends(rejecting_plainly)],
            y: Annotated[None, Depends(later)],
        ) -> None:
            raise AssertionError

        with pytest.raises(ConnectionRejected) as info:
            connected(plain if is_plain else handler)
        assert info.value.status_code == 418

    def test_a_parameter_of_it_has_a_type(self) -> None:
        def untyped(ws): ...  # type: ignore[no-untyped-def]  # that is what is tested

        async def handler(ws: WebSocket, x: Annotated[None, Depends(untyped)]) -> None: ...

        with pytest.raises(TypeError, match=r"untyped, a dependency .*'ws' has no type: annotate"):
            check_handler(handler)

    def test_a_context_manager(self) -> None:
        async def handler(
            ws: WebSocket, x: Annotated[Any, Depends(contextmanager(managed))]
        ) -> None: ...

        with pytest.raises(TypeError, match="is decorated as a context manager: take the decora"):
            check_handler(handler)

    def test_a_plain_handler_that_returns_an_awaitable(self) -> None:
        def handler(ws: SyncWebSocket, x: Annotated[int, Depends(value)]) -> Any:
            ws.accept()
            return async_value()

        with connect(handler, raises=TypeError) as peer:
            assert peer.wait_closed()[0] == 1011


class TestThreads:
    """The halves of a plain generator."""

    def test_they_have_one_context(self) -> None:
        variable: ContextVar[str] = ContextVar("variable", default="before")

        def setting() -> Iterator[None]:
            token = variable.set("within")
            yield
            variable.reset(token)
            STEPS.append("reset")

        async def handler(ws: WebSocket, x: Annotated[None, Depends(setting)]) -> None:
            await ws.accept()
            await ws.send_json(variable.get())

        assert connected(handler) == "within"
        assert STEPS == ["reset"]

    def test_who_opens_keeps_nobody_from_closing(self) -> None:
        """With one place, which each gives up when it is closed, and fewer threads than wait."""
        places = threading.Semaphore(1)

        def placed() -> Iterator[None]:
            assert places.acquire(timeout=10)
            yield
            places.release()

        async def handler(ws: WebSocket, x: Annotated[None, Depends(placed)]) -> None:
            await ws.accept()

        async def main() -> None:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
            mounted = prepare(handler, {})
            await asyncio.gather(*(mounted.serve(MemoryTransport()) for _ in range(8)))

        asyncio.run(main())

    def test_a_loop_that_ends_leaves_none_open(self) -> None:
        opening, may_open = threading.Event(), threading.Event()

        def slow() -> Iterator[None]:
            opening.set()
            assert may_open.wait(10)
            STEPS.append("opened")
            yield
            STEPS.append("closed")

        def slow_and_sure() -> Iterator[None]:
            try:
                yield from slow()
            finally:
                STEPS.append("finally")

        async def handler(ws: WebSocket, x: Annotated[None, Depends(slow_and_sure)]) -> None: ...

        async def main() -> None:
            kept.append(asyncio.create_task(prepare(handler, {}).serve(MemoryTransport())))
            while not opening.is_set():
                await settle()
            threading.Timer(0.05, may_open.set).start()

        kept: list[asyncio.Task[None]] = []
        asyncio.run(main())
        assert STEPS == ["opened", "finally"]
