"""`SyncWebSocket` says of each method what `WebSocket` says, and takes what it takes."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Signature, iscoroutinefunction, signature
from types import FunctionType
from typing import Any, get_overloads

import pytest

from unisock import SyncWebSocket, WebSocket

# A block is cancelled; a thread cannot be.
ASYNC_ONLY = {"while_connected"}
TWINS = {"__aiter__": "__iter__"}
# What its function is, and what becomes of it, differs.
OF_ITS_OWN = {"start_soon"}


def names(cls: type) -> set[str]:
    """What a user may call or read: public names, and special methods."""
    found: set[str] = set()
    for base in cls.__mro__[:-1]:
        for name, value in vars(base).items():
            if not name.startswith("_") or (name.endswith("__") and callable(value)):
                found.add(name)
    return found


ALIKE = sorted(names(WebSocket) - ASYNC_ONLY)
METHODS = [name for name in ALIKE if isinstance(getattr(WebSocket, name), FunctionType)]
PROPERTIES = [name for name in ALIKE if isinstance(getattr(WebSocket, name), property)]


def twins(name: str) -> tuple[Any, Any]:
    """The attribute of `WebSocket`, and that of `SyncWebSocket`."""
    return getattr(WebSocket, name), getattr(SyncWebSocket, TWINS.get(name, name))


def without_async(annotation: str) -> str:
    """An annotation of `WebSocket`, as `SyncWebSocket` has it."""
    return annotation.replace("AsyncIterator[", "Iterator[").replace(
        "Coroutine[Any, Any, object]", "object"
    )


def translated(function: Callable[..., Any]) -> Signature:
    """The signature of a method of `WebSocket`, as `SyncWebSocket` has it."""
    original = signature(function)
    return original.replace(
        parameters=[
            p.replace(annotation=without_async(p.annotation)) if p.name != "self" else p
            for p in original.parameters.values()
        ],
        return_annotation=without_async(original.return_annotation),
    )


def test_the_same_names() -> None:
    expected = {TWINS.get(name, name) for name in names(WebSocket) - ASYNC_ONLY}
    assert names(SyncWebSocket) == expected
    assert names(WebSocket) > ASYNC_ONLY
    assert len(METHODS) >= 16
    assert len(PROPERTIES) >= 14
    assert set(ALIKE) == {*METHODS, *PROPERTIES}


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"__init__"}))
class TestMethods:
    def test_parameters_and_what_is_returned(self, name: str) -> None:
        there, here = twins(name)
        assert signature(here) == translated(there)

    def test_overloads(self, name: str) -> None:
        there, here = twins(name)
        expected = [translated(overload) for overload in get_overloads(there)]
        assert [signature(overload) for overload in get_overloads(here)] == expected
        assert bool(expected) == (name.startswith("receive") or name == "iter_json")

    def test_no_coroutine_is_left(self, name: str) -> None:
        assert not iscoroutinefunction(twins(name)[1])

    def test_docstrings(self, name: str) -> None:
        there, here = twins(name)
        assert here.__doc__
        if name in OF_ITS_OWN:
            assert here.__doc__ != there.__doc__
        else:
            assert here.__doc__ == there.__doc__


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties(name: str) -> None:
    there, here = twins(name)
    assert isinstance(here, property)
    assert here.__doc__ == there.__doc__
    assert here.fset is there.fset is None
    assert signature(here.fget) == signature(there.fget)  # type: ignore[arg-type]  # it has one


def test_only_what_is_there_twice_may_differ() -> None:
    """A name that is not there (any more) would weaken the comparisons unseen."""
    assert {*ASYNC_ONLY, *TWINS, *OF_ITS_OWN} <= names(WebSocket)
