"""How the messages of a class endpoint are received, and to which hook they go.

`on_message` registers a method for one kind of message; what a class has
registered, and its ``encoding`` and ``message_type``, are checked and made a
`Dispatch` once, when the class is created.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from inspect import iscoroutinefunction, isfunction, signature, unwrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from .annotations import members, name_of

if TYPE_CHECKING:
    from .endpoints import BaseEndpoint
    from .messages import TaggedUnion

Encoding: TypeAlias = Literal["text", "bytes", "json"]

_ENCODINGS = ("text", "bytes", "json", None)
# How many arguments each hook has beside the WebSocket.
_HOOKS = MappingProxyType(
    {"on_connect": 0, "on_receive": 1, "on_disconnect": 1, "on_unknown_message": 1}
)
_REGISTERED = "unisock_message_type"

MethodT = TypeVar("MethodT", bound=Callable[..., Awaitable[None]])


def on_message(type: Any) -> Callable[[MethodT], MethodT]:
    """Register a method of a class endpoint for the messages of one type.

    ::

        class Chat(WebSocketEndpoint):
            @on_message(Join)
            async def join(self, ws: WebSocket, message: Join) -> None: ...

            @on_message(Say)
            async def say(self, ws: WebSocket, message: Say) -> None: ...

    The types of a class are told apart by their tag: a field
    ``type: Literal["join"]`` that all of them have, or msgspec's ``tag=``.

    Args:
        type: a dataclass, `TypedDict`, msgspec `Struct` or pydantic model with a
            tag, or a union of them.

    Raises:
        TypeError: the method is no ``async def``, or the type was left out.
    """
    if isfunction(type):
        raise TypeError(f"write @on_message(Type) above {type.__qualname__}")

    def register(method: MethodT) -> MethodT:
        registered = (*getattr(method, _REGISTERED, ()), *members(type))
        _check_async(method, getattr(method, "__qualname__", repr(method)))
        setattr(method, _REGISTERED, registered)
        return method

    return register


class Dispatch:
    """How the messages of an endpoint's class are received, and to whom they go."""

    def __init__(self, cls: type[BaseEndpoint]) -> None:
        _check_class(cls)
        self._methods = _registered(cls)
        self._type = cls.message_type
        self._tags = self._make_tags(cls)
        self.receive = self._choose(cls)
        """Receive one message, and call the hook that it is for."""

    def _make_tags(self, cls: type[BaseEndpoint]) -> TaggedUnion | None:
        """What tells the types of messages apart, if there are several."""
        declared = () if self._type is Any else members(self._type)
        if not self._methods:
            return _tags_if_tagged(declared)
        from .messages import TaggedUnion  # noqa: PLC0415  # as said in `unisock.options`

        for type_, method in self._methods.items():
            if declared and type_ not in declared:
                raise TypeError(
                    f"{cls.__name__}.{method} is for a type that is not one of message_type: "
                    f"{name_of(type_)}"
                )
        return TaggedUnion(declared or self._methods)

    def _choose(
        self, cls: type[BaseEndpoint]
    ) -> Callable[[BaseEndpoint], Coroutine[Any, Any, None]]:
        encoding = cls.encoding
        is_typed = self._tags is not None or self._type is not Any
        if is_typed and encoding not in ("json", None):
            raise TypeError(
                f"{cls.__name__} has typed JSON messages, but its encoding is {encoding!r}"
            )
        if self._tags is not None:
            return self._receive_tagged
        if is_typed:
            from .messages import check_type  # noqa: PLC0415  # as above

            check_type(self._type)
        if is_typed or encoding == "json":
            return self._receive_json
        return {"text": _receive_text, "bytes": _receive_bytes, None: _receive}[encoding]

    async def _receive_json(self, endpoint: BaseEndpoint) -> None:
        data = await endpoint.websocket.receive_json(self._type)
        await endpoint._unisock_call("on_receive", data)

    async def _receive_tagged(self, endpoint: BaseEndpoint) -> None:
        assert self._tags is not None
        ws = endpoint.websocket
        message = await ws.receive()
        options = ws._options
        type_, decoded = self._tags.decode_member(message, options.json, options.json_limit)
        known = self._methods.get(type_, "on_receive")
        hook = "on_unknown_message" if type_ is None else known
        await endpoint._unisock_call(hook, decoded)


async def _receive(endpoint: BaseEndpoint) -> None:
    await endpoint._unisock_call("on_receive", await endpoint.websocket.receive())


async def _receive_text(endpoint: BaseEndpoint) -> None:
    await endpoint._unisock_call("on_receive", await endpoint.websocket.receive_text())


async def _receive_bytes(endpoint: BaseEndpoint) -> None:
    await endpoint._unisock_call("on_receive", await endpoint.websocket.receive_bytes())


def _check_class(cls: type[BaseEndpoint]) -> None:
    if cls.encoding not in _ENCODINGS:
        raise ValueError(
            f"{cls.__name__}.encoding is 'text', 'bytes', 'json' or None, not {cls.encoding!r}"
        )
    for hook, count in _HOOKS.items():
        if hasattr(cls, hook):
            _check_async(getattr(cls, hook), f"{cls.__name__}.{hook}")
            _check_arguments(cls, hook, count)


def _check_arguments(cls: type[BaseEndpoint], hook: str, count: int) -> None:
    """Check that a hook takes so many arguments, and the WebSocket if `cls` passes it."""
    arguments = [None] * (1 + cls._unisock_passes_websocket + count)
    try:
        signature(getattr(cls, hook)).bind(*arguments)
    except TypeError as exc:
        raise TypeError(
            f"{cls.__name__}.{hook}: {exc}; the hooks of a WebSocketEndpoint take the WebSocket "
            "first, those of a SocketView do not"
        ) from exc


def _check_async(method: object, name: str) -> None:
    if iscoroutinefunction(method):
        return
    if callable(method) and iscoroutinefunction(unwrap(method)):
        raise TypeError(
            f"{name} is `async def`, but a decorator makes a plain function of it: "
            "decorate what is mounted instead"
        )
    raise TypeError(f"{name} must be `async def`")


def _registered(cls: type[BaseEndpoint]) -> Mapping[Any, str]:
    """The names of the methods of `on_message`, by type; a subclass may override them."""
    types: dict[str, tuple[Any, ...]] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isfunction(value) and hasattr(value, _REGISTERED):
                types[name] = getattr(value, _REGISTERED)
    methods: dict[Any, str] = {}
    for name, registered in types.items():
        _check_async(getattr(cls, name), f"{cls.__name__}.{name}")
        _check_arguments(cls, name, 1)
        for type_ in registered:
            if methods.setdefault(type_, name) != name:
                raise TypeError(
                    f"{cls.__name__}.{methods[type_]} and .{name} are for the same messages: "
                    f"{name_of(type_)}"
                )
    return MappingProxyType(methods)


def _tags_if_tagged(types: tuple[type, ...]) -> TaggedUnion | None:
    """What tells `types` apart, if they are several, and each has a tag."""
    if len(types) < 2:
        return None
    from .messages import TaggedUnion  # noqa: PLC0415  # as above

    try:
        return TaggedUnion(types)
    except TypeError:  # as `int | str`: decoded as they are
        return None
