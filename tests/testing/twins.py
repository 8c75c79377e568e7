"""One test for both twins of `connect`: async, and plain."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from unisock.testing import Peer, SyncPeer, connect

Test = Callable[..., Coroutine[Any, Any, None]]
TWINS = ("async", "plain")


def run(twin: str, test: Test, **arguments: Any) -> None:
    """Run a test on a loop, or without any on the plain twin."""
    if twin == "async":
        asyncio.run(_alone(test(connect, **arguments)))
    else:
        running = test(plain_connect, **arguments)
        with pytest.raises(StopIteration):  # it waits for nothing but the plain peer
            running.send(None)


def twins(test: Test) -> Callable[..., None]:
    """Make two plain tests of an async one, that calls its argument `connect`."""
    parameters = inspect.signature(test).parameters.values()
    asked = [each.replace(kind=each.KEYWORD_ONLY) for each in parameters if each.name != "connect"]

    @functools.wraps(test)
    def both(twin: str, **fixtures: Any) -> None:
        run(twin, test, **fixtures)

    twin = inspect.Parameter("twin", inspect.Parameter.KEYWORD_ONLY)
    both.__signature__ = inspect.Signature([twin, *asked])  # type: ignore[attr-defined]  # for pytest
    marked: Callable[..., None] = pytest.mark.parametrize("twin", TWINS)(both)
    return marked


async def _alone(running: Coroutine[Any, Any, None]) -> None:
    try:
        await running
    finally:
        assert asyncio.all_tasks() == {asyncio.current_task()}


@contextlib.asynccontextmanager
async def plain_connect(*args: Any, **options: Any) -> AsyncGenerator[Any]:
    """The plain twin in the shape of the async one."""
    with connect(*args, **options) as peer:
        yield _PlainPeer(peer)


class _PlainPeer:
    """A `SyncPeer` with the methods of `Peer`, none of which waits for a loop."""

    def __init__(self, peer: SyncPeer) -> None:
        self._peer = peer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._peer, name)
        if not inspect.iscoroutinefunction(getattr(Peer, name)):
            return value

        async def call(*args: Any, **options: Any) -> Any:
            return value(*args, **options)

        return call

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        for message in self._peer:
            yield message
