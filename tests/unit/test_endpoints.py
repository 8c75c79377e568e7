"""Class endpoints: their hooks, what they get, and how the connection ends with them."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypedDict, TypeVar
from unittest.mock import Mock

import msgspec
import pytest
from pydantic import BaseModel

from tests.unit.memory import (
    FrameworkError,
    MemoryTransport,
    Running,
    rejection,
    serve,
    settle,
    turn,
    without_accept,
)
from unisock import (
    HandshakeRejected,
    InvalidMessage,
    InvalidState,
    SocketView,
    WebSocket,
    WebSocketDisconnect,
    WebSocketEndpoint,
    WebSocketException,
    on_message,
)
from unisock.handlers import prepare
from unisock.testing import connect
from unisock.transport import Disconnect, HTTPError, HTTPResponse

T = TypeVar("T")

EMPTY = [("content-length", "0")]
ACCEPT: tuple[object, ...] = ("accept", None, [])
Sent = list[tuple[object, ...]]
Log = list[tuple[object, ...]]


def rejected(status_code: int) -> Sent:
    return [("reject", status_code, b"", EMPTY)]


class Recorder(WebSocketEndpoint):
    """Notes each call of a hook; a subclass is made for each test, by `recorder`."""

    log: ClassVar[Log]

    async def on_connect(self, ws: WebSocket, /) -> None:
        self.log.append(("connect",))
        await super().on_connect(ws)

    async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
        self.log.append(("receive", data))

    async def on_disconnect(self, ws: WebSocket, close_code: int, /) -> None:
        assert ws.closed
        assert ws.close_code in (close_code, None)
        self.log.append(("disconnect", close_code))

    async def on_unknown_message(self, ws: WebSocket, message: Any, /) -> None:
        self.log.append(("unknown", message))
        await ws.close(4000)


def recorder(**attributes: Any) -> type[Recorder]:
    """A `Recorder` with a log of its own."""
    return type("Endpoint", (Recorder,), {"log": [], **attributes})


def raising(exc: BaseException) -> Callable[..., Awaitable[None]]:
    async def hook(self: Recorder, *args: Any) -> None:
        self.log.append(("raises",))
        raise exc

    return hook


class Codec:
    """A codec of ones own, that notes what it decodes."""

    def __init__(self) -> None:
        self.loaded: list[str | bytes] = []

    def loads(self, data: str | bytes) -> Any:
        self.loaded.append(data)
        return json.loads(data)

    def dumps(self, obj: Any) -> str:
        return json.dumps(obj)


@dataclass
class Join:
    room: str
    type: Literal["join"] = "join"


@dataclass
class Say:
    text: str
    type: Literal["say"] = "say"


@dataclass
class Leave:
    type: Literal["leave"] = "leave"


class JoinDict(TypedDict):
    type: Literal["join"]
    room: str


class SayDict(TypedDict):
    text: str


class SayStruct(msgspec.Struct, tag="say"):
    text: str


class JoinStruct(msgspec.Struct, tag="join"):
    room: str


class JoinModel(BaseModel):
    type: Literal["join"] = "join"
    room: str


class SayModel(BaseModel):
    type: Literal["say"] = "say"
    text: str


class Plain(msgspec.Struct):
    text: str


JOIN = '{"type":"join","room":"lobby"}'
SAY = '{"type":"say","text":"hello"}'
LEAVE = '{"type":"leave"}'
SHOUT = '{"type":"shout","text":"HELLO"}'


class TestHooks:
    def test_the_life_of_a_connection(self) -> None:
        endpoint = recorder()

        with connect(endpoint) as peer:
            for message in ("a", b"b", ""):
                peer.send(message)
            peer.close(4001, "bye")
            assert list(peer) == []
        assert endpoint.log == [
            ("connect",),
            ("receive", "a"),
            ("receive", b"b"),
            ("receive", ""),
            ("disconnect", 4001),
        ]

    def test_the_defaults_accept_and_ignore(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main(endpoint: Any) -> None:
            transport = MemoryTransport()
            transport.peer_sends("a", b"b", "{")
            running = Running(endpoint, transport)
            await settle()
            assert transport.sent == [ACCEPT]
            assert transport.received == 3
            transport.peer_leaves()
            assert await running.end() == []

        class Defaults(WebSocketEndpoint):
            pass

        for endpoint in (WebSocketEndpoint, SocketView, Defaults):
            asyncio.run(main(endpoint))
        assert not caplog.records

    def test_messages_come_one_at_a_time(self) -> None:
        async def main() -> None:
            gate = asyncio.Event()
            log: list[str] = []

            class Endpoint(WebSocketEndpoint):
                encoding = "text"

                async def on_receive(self, ws: WebSocket, data: str, /) -> None:
                    log.append(f"{data} begins")
                    await gate.wait()
                    log.append(f"{data} ends")

            async with connect(Endpoint) as peer:
                await peer.send("a")
                await peer.send("b")
                await settle()
                assert log == ["a begins"]
                gate.set()
            assert log == ["a begins", "a ends", "b begins", "b ends"]

        asyncio.run(main())

    def test_one_instance_a_connection(self) -> None:
        instances: list[Any] = []

        class Endpoint(WebSocketEndpoint):
            def __init__(self) -> None:
                self.received: list[Any] = []
                instances.append(self)

            async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                assert ws is self.websocket
                self.received.append(data)

        async def main() -> None:
            mounted = prepare(Endpoint, {})
            async with connect(mounted) as one, connect(mounted) as other:
                for _ in range(2):
                    await one.send("a")
                    await other.send("b")

        asyncio.run(main())
        assert [instance.received for instance in instances] == [["a", "a"], ["b", "b"]]
        assert instances[0].websocket is not instances[1].websocket

    def test_the_handshake_is_there_from_on_connect_on(self) -> None:
        class Endpoint(WebSocketEndpoint):
            async def on_connect(self, ws: WebSocket, /) -> None:
                assert self.websocket is ws
                await ws.accept(headers={"x-room": str(ws.path_params["room"])})
                await ws.close(4000)

        with connect(Endpoint, "/rooms/7", path="/rooms/{room:int}") as peer:
            assert dict(peer.accepted_headers) == {"x-room": "7"}
            assert peer.wait_closed() == (4000, "")

    def test_an_origin_that_is_not_allowed_creates_none(self) -> None:
        class Endpoint(WebSocketEndpoint):
            def __init__(self) -> None:
                raise AssertionError

        (answer,) = rejection(Endpoint, headers={"Origin": "http://evil.example"})
        assert answer[:2] == ("reject", 403)

    def test_hooks_may_have_any_names_for_their_parameters(self) -> None:
        class Endpoint(WebSocketEndpoint):
            async def on_connect(self, websocket: WebSocket) -> None:
                await websocket.accept()

            async def on_receive(self, socket: WebSocket, message: Any, more: int = 0) -> None:
                await socket.send(message)

            async def on_disconnect(self, *args: Any) -> None:
                assert args[1] == 1001

        with connect(Endpoint) as peer:
            peer.send("a")
            assert peer.receive() == "a"
            peer.close(1001)

    def test_the_disconnect_cancels_no_hook(self) -> None:
        """What is under way goes on to its end, and messages that came before are delivered."""

        async def main() -> None:
            gate = asyncio.Event()
            endpoint = recorder()

            class Slow(endpoint):  # type: ignore[valid-type,misc]  # made at run time
                async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                    if data == "a":
                        assert await ws.wait_closed() == 4005
                        await gate.wait()
                    await super().on_receive(ws, data)

            async with connect(Slow) as peer:
                await peer.send("a")
                await peer.send("b")
                await peer.close(4005)
                await settle()
                assert endpoint.log == [("connect",)]
                gate.set()
            assert endpoint.log[1:] == [("receive", "a"), ("receive", "b"), ("disconnect", 4005)]

        asyncio.run(main())

    def test_a_disconnect_that_a_hook_sees_is_a_normal_end(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            endpoint = recorder()

            class Sends(endpoint):  # type: ignore[valid-type,misc]  # made at run time
                async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                    await ws.wait_closed()
                    await ws.send("too late")

            transport = MemoryTransport()
            transport.peer_sends("a")
            transport.peer_leaves(1001)
            assert await Running(Sends, transport).end() == []
            assert endpoint.log == [("connect",), ("disconnect", 1001)]

        asyncio.run(main())
        assert not caplog.records

    def test_a_hook_may_receive_by_itself(self) -> None:
        endpoint = recorder()

        class Pairs(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                await super().on_receive(ws, (data, await ws.receive_text()))

        with connect(Pairs) as peer:
            for message in "abcd":
                peer.send(message)
        assert endpoint.log[1:3] == [("receive", ("a", "b")), ("receive", ("c", "d"))]


class TestEncoding:
    @pytest.mark.parametrize(
        ("encoding", "message", "data"),
        [
            (None, "a", "a"),
            (None, b"a", b"a"),
            ("text", "", ""),
            ("text", "é", "é"),
            ("bytes", b"", b""),
            ("bytes", b"a", b"a"),
            ("json", '{"a":[1,null]}', {"a": [1, None]}),
            ("json", b"1", 1),
        ],
    )
    @pytest.mark.parametrize("form", [WebSocketEndpoint, SocketView])
    def test_what_on_receive_gets(
        self, encoding: Any, message: str | bytes, data: Any, form: Any
    ) -> None:
        got: list[Any] = []

        async def on_receive(self: Any, *args: Any) -> None:
            got.append(args[-1])

        endpoint = type("Endpoint", (form,), {"encoding": encoding, "on_receive": on_receive})

        with connect(endpoint) as peer:
            peer.send(message)
        assert got == [data]
        assert type(got[0]) is type(data)

    @pytest.mark.parametrize(
        ("encoding", "message", "code"),
        [
            ("text", b"a", 1003),
            ("bytes", "a", 1003),
            ("json", "{", 1007),
            ("json", b"\xff", 1007),
            ("json", "", 1007),
        ],
    )
    @pytest.mark.parametrize("form", [WebSocketEndpoint, SocketView])
    def test_what_is_none_closes_with_a_warning(
        self,
        encoding: Any,
        message: str | bytes,
        code: int,
        form: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        codes: list[int] = []

        async def on_receive(self: Any, *args: Any) -> None:
            raise AssertionError

        async def on_disconnect(self: Any, *args: Any) -> None:
            codes.append(args[-1])

        endpoint = type(
            "Endpoint",
            (form,),
            {"encoding": encoding, "on_receive": on_receive, "on_disconnect": on_disconnect},
        )
        (sent,) = without_accept(serve(endpoint, message, "never seen"))
        assert sent[:2] == ("close", code)
        assert sent[2]
        assert codes == [code]
        (record,) = caplog.records
        assert (record.levelname, record.exc_info) == ("WARNING", None)

    def test_json_takes_the_codec_of_the_mount(self) -> None:
        codec = Codec()
        endpoint = recorder(encoding="json", on_receive=raising(WebSocketException(4000)))
        got: list[Any] = []

        class Endpoint(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                got.append(data)
                await super().on_receive(ws, data)

        with connect(Endpoint, json=codec) as peer:
            peer.send("1")
            assert peer.wait_closed() == (4000, "")
        assert (got, codec.loaded) == ([1], ["1"])

    @pytest.mark.parametrize("encoding", ["str", "TEXT", "", 0, False, b"text", ["json"], "jsons"])
    @pytest.mark.parametrize("form", [WebSocketEndpoint, SocketView])
    def test_another_is_an_error_of_the_class(self, encoding: Any, form: Any) -> None:
        with pytest.raises(ValueError, match=r"Wrong.encoding is 'text', 'bytes', 'json' or None"):
            type("Wrong", (form,), {"encoding": encoding})

    def test_it_is_inherited_and_overridden(self) -> None:
        text = recorder(encoding="text")
        inherits = type("Inherits", (text,), {"log": []})
        overrides = type("Overrides", (text,), {"log": [], "encoding": "json"})
        for endpoint, message, data in ((inherits, "1", "1"), (overrides, "1", 1)):
            # Of a class that type() makes no checker knows the attributes.
            endpoint.on_receive = _then_close(endpoint.on_receive)  # type: ignore[attr-defined]  # above
            with connect(endpoint) as peer:
                peer.send(message)
                assert peer.wait_closed() == (4000, "")
            assert endpoint.log[1] == ("receive", data)  # type: ignore[attr-defined]  # above


def _then_close(hook: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def close(self: Any, ws: WebSocket, *args: Any) -> None:
        await hook(self, ws, *args)
        await ws.close(4000)

    return close


def not_async(self: Any, *args: Any) -> None:
    raise AssertionError


async def async_generator(self: Any, *args: Any) -> Any:
    yield


class TestClassCreation:
    @pytest.mark.parametrize("form", [WebSocketEndpoint, SocketView])
    @pytest.mark.parametrize(
        "hook", ["on_connect", "on_receive", "on_disconnect", "on_unknown_message"]
    )
    @pytest.mark.parametrize(
        "value", [not_async, async_generator, staticmethod(not_async), 5, functools.partial(print)]
    )
    def test_a_hook_that_is_not_async(self, form: Any, hook: str, value: Any) -> None:
        with pytest.raises(TypeError, match=rf"Wrong\.{hook} must be `async def`"):
            type("Wrong", (form,), {hook: value})

    def test_a_hook_that_is_none_is_not_async(self) -> None:
        with pytest.raises(TypeError, match=r"Wrong\.on_receive must be `async def`"):
            type("Wrong", (WebSocketEndpoint,), {"on_receive": None})

    def test_a_mixin_that_is_not_async(self) -> None:
        class Mixin:
            def on_connect(self, ws: WebSocket) -> None:
                raise AssertionError

        with pytest.raises(TypeError, match="on_connect must be `async def`"):
            type("Wrong", (Mixin, WebSocketEndpoint), {})

    def test_what_counts_as_async(self) -> None:
        async def hook(self: Any, *args: Any) -> None:
            pass

        class Other:
            async def method(self, *args: Any) -> None:
                pass

        for value in (
            hook,
            functools.partial(hook),
            Other().method,
            classmethod(hook),
        ):
            type("Right", (WebSocketEndpoint,), {"on_receive": value})

    @pytest.mark.parametrize("form", [WebSocketEndpoint, SocketView])
    @pytest.mark.parametrize(
        ("hook", "least"),
        [("on_connect", 1), ("on_receive", 2), ("on_disconnect", 2), ("join", 2)],
    )
    def test_how_many_arguments_it_takes(self, form: Any, hook: str, least: int) -> None:
        """Those of a view take one less, for there is no WebSocket among them."""

        async def zero(self: Any) -> None:
            pass

        async def one(self: Any, a: Any) -> None:
            pass

        async def two(self: Any, a: Any, b: Any) -> None:
            pass

        async def three(self: Any, a: Any, b: Any, c: Any) -> None:
            pass

        async def more(self: Any, *args: Any, d: int = 0, **kwargs: Any) -> None:
            pass

        async def by_name(self: Any, *args: Any, d: int) -> None:
            pass

        takes = least - (form is SocketView)
        functions: list[Any] = [zero, one, two, three]
        for count, function in enumerate(functions):
            method = on_message(Join)(function) if hook == "join" else function
            if count == takes:
                type("Right", (form,), {hook: method})
            else:
                with pytest.raises(TypeError, match=rf"Wrong\.{hook}"):
                    type("Wrong", (form,), {hook: method})
        type("Right", (form,), {hook: on_message(Join)(more) if hook == "join" else more})
        with pytest.raises(TypeError, match=rf"Wrong\.{hook}"):
            wrong = on_message(Join)(by_name) if hook == "join" else by_name
            type("Wrong", (form,), {hook: wrong})

    def test_on_message_without_a_type(self) -> None:
        """It would be taken for the type, and the method be lost."""

        async def join(self: Any, ws: WebSocket, message: Join) -> None:
            raise AssertionError

        with pytest.raises(TypeError, match=r"write @on_message\(Type\) above .*join"):
            on_message(join)

    @pytest.mark.parametrize("method", [not_async, async_generator, print, 5, None])
    def test_a_method_of_on_message_that_is_not_async(self, method: Any) -> None:
        with pytest.raises(TypeError, match="must be `async def`"):
            on_message(Join)(method)

    def test_an_override_of_a_method_that_is_not_async(self) -> None:
        class Chat(WebSocketEndpoint):
            @on_message(Join)
            async def join(self, ws: WebSocket, message: Join) -> None:
                raise AssertionError

        with pytest.raises(TypeError, match=r"Wrong\.join must be `async def`"):
            type("Wrong", (Chat,), {"join": not_async})
        with pytest.raises(TypeError, match=r"Wrong\.join must be `async def`"):
            type("Wrong", (Chat,), {"join": None})

    @pytest.mark.parametrize("encoding", ["text", "bytes"])
    def test_typed_messages_are_json(self, encoding: Any) -> None:
        class Chat(WebSocketEndpoint):
            @on_message(Join)
            async def join(self, ws: WebSocket, message: Join) -> None:
                raise AssertionError

        with pytest.raises(TypeError, match=rf"JSON messages, but its encoding is '{encoding}'"):
            type("Wrong", (Chat,), {"encoding": encoding})
        type("Right", (Chat,), {"encoding": "json"})

    @pytest.mark.parametrize("encoding", ["text", "bytes"])
    def test_a_message_type_is_of_json(self, encoding: Any) -> None:
        with pytest.raises(TypeError, match=rf"Wrong.*encoding is '{encoding}'"):
            type("Wrong", (WebSocketEndpoint,), {"encoding": encoding, "message_type": Join})

    @pytest.mark.parametrize(
        ("types", "message"),
        [
            ([Plain], "Plain has no tag"),
            ([int], "int has no tag"),
            ([Join, Plain], "Plain has no tag"),
            ([Join, JoinStruct], "the same tag"),
            ([Join, JoinDict], "the same tag"),
            ([Join, JoinModel], "the same tag"),
            (["Join"], "no tag"),
        ],
    )
    def test_types_that_cannot_be_told_apart(self, types: list[Any], message: str) -> None:
        methods = {f"method_{i}": _handles(type_) for i, type_ in enumerate(types)}
        with pytest.raises(TypeError, match=message):
            type("Wrong", (WebSocketEndpoint,), methods)

    @pytest.mark.parametrize("type_", [Join | JoinStruct, Plain | Join, Join | SayDict])
    def test_a_message_type_whose_members_cannot_be_told_apart(self, type_: Any) -> None:
        with pytest.raises(TypeError, match=r"cannot decode to .*Join"):
            type("Wrong", (WebSocketEndpoint,), {"message_type": type_})

    @pytest.mark.parametrize("type_", [object(), "Join", 5])
    def test_a_message_type_that_nothing_is_decoded_to(self, type_: Any) -> None:
        with pytest.raises(TypeError):
            type("Wrong", (WebSocketEndpoint,), {"message_type": type_})

    def test_two_methods_for_one_type(self) -> None:
        methods = {"one": _handles(Join), "two": _handles(Join | Say)}
        with pytest.raises(TypeError, match=r"Wrong\.one and \.two are for the same messages"):
            type("Wrong", (WebSocketEndpoint,), methods)

    def test_a_type_beside_message_type(self) -> None:
        attributes = {"leave": _handles(Leave), "message_type": Join | Say}
        with pytest.raises(TypeError, match=r"Wrong\.leave is for a type that is not one of"):
            type("Wrong", (WebSocketEndpoint,), attributes)

    @pytest.mark.parametrize("kind", ["proxy", "mock"])
    def test_an_attribute_that_has_every_attribute(self, kind: str) -> None:
        """As a proxy of an application that is not there yet has; it is no method."""

        class Proxy:
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError("outside of the application's context")

        attribute: Any = Proxy() if kind == "proxy" else Mock()
        type("Right", (WebSocketEndpoint,), {"app": attribute, "join": _handles(Join)})

    def test_a_generic_class(self) -> None:
        class Endpoint(WebSocketEndpoint, Generic[T]):
            message_type = list[int]

        class Child(Endpoint[int]):
            async def on_receive(self, ws: WebSocket, data: list[int], /) -> None:
                await ws.send_json(sum(data))
                await ws.close(4000)

        with connect(Child) as peer:
            peer.send_json([1, 2])
            assert peer.receive_json() == 3

    def test_arguments_of_the_class_go_on(self) -> None:
        class Base(WebSocketEndpoint):
            def __init_subclass__(cls, *, room: str, **kwargs: Any) -> None:
                super().__init_subclass__(**kwargs)
                cls.room = room  # type: ignore[attr-defined]  # that is the test

        class Child(Base, room="lobby"):
            pass

        assert Child.room == "lobby"  # type: ignore[attr-defined]  # as above
        with pytest.raises(TypeError):
            type("Wrong", (WebSocketEndpoint,), {}, room="lobby")


def _handles(type_: Any) -> Callable[..., Awaitable[None]]:
    """A method for messages of a type; it notes its own name and what it got."""

    async def method(self: Any, *args: Any) -> None:
        self.log.append(("method", args[-1]))

    return on_message(type_)(method)


class TestInheritance:
    def test_hooks_of_bases_and_mixins(self) -> None:
        log: list[str] = []

        class Authenticated:
            """A mixin that is no endpoint itself."""

            async def on_connect(self, ws: WebSocket) -> None:
                log.append("mixin")
                await super().on_connect(ws)  # type: ignore[misc]  # of what it is mixed into

        class Base(WebSocketEndpoint):
            encoding = "text"

            async def on_receive(self, ws: WebSocket, data: str, /) -> None:
                log.append(f"base {data}")
                await ws.close(4000)

        class Child(Authenticated, Base):
            async def on_receive(self, ws: WebSocket, data: str, /) -> None:
                log.append(f"child {data}")
                await super().on_receive(ws, data)

        with connect(Child) as peer:
            peer.send("a")
            assert peer.wait_closed() == (4000, "")
        assert log == ["mixin", "child a", "base a"]

    def test_methods_of_on_message(self) -> None:
        class Joins:
            """A mixin that is no endpoint itself."""

            log: ClassVar[Log]

            @on_message(Join)
            async def join(self, ws: WebSocket, message: Join) -> None:
                self.log.append(("mixin's join", message.room))

        class Base(Joins, Recorder):
            @on_message(Say)
            async def say(self, ws: WebSocket, message: Say) -> None:
                self.log.append(("base's say", message.text))

            @on_message(Leave)
            async def leave(self, ws: WebSocket, message: Leave) -> None:
                await ws.close(4000)

        class Child(Base):
            log: ClassVar[Log] = []

            async def say(self, ws: WebSocket, message: Say) -> None:
                self.log.append(("child's say",))
                await super().say(ws, message)

            @on_message(Leave)
            async def leave(self, ws: WebSocket, message: Leave) -> None:
                self.log.append(("child's leave",))
                await super().leave(ws, message)

        with connect(Child) as peer:
            for message in (JOIN, SAY, LEAVE):
                peer.send(message)
            assert peer.wait_closed() == (4000, "")
        assert Child.log == [
            ("connect",),
            ("mixin's join", "lobby"),
            ("child's say",),
            ("base's say", "hello"),
            ("child's leave",),
            ("disconnect", 4000),
        ]

    def test_a_method_that_is_overridden_for_another_type(self) -> None:
        """The new registration takes the place of the old: the method knows no other type."""

        @dataclass
        class Join2:
            room: int
            type: Literal["join"] = "join"

        class Base(Recorder):
            @on_message(Join)
            async def join(self, ws: WebSocket, message: Any) -> None:
                raise AssertionError

        class Child(Base):
            log: ClassVar[Log] = []

            @on_message(Join2)
            async def join(self, ws: WebSocket, message: Any) -> None:
                self.log.append(("join", message))
                await ws.close(4000)

        with connect(Child) as peer:
            peer.send_json({"type": "join", "room": 7})
            assert peer.wait_closed() == (4000, "")
        assert Child.log[1:] == [("join", Join2(7)), ("disconnect", 4000)]

    def test_bases_are_left_as_they_were(self) -> None:
        base = recorder(join=_handles(Join))
        child: Any = type("Child", (base,), {"log": [], "say": _handles(Say)})
        for endpoint in (base, child):
            serve(endpoint, JOIN, SAY, SHOUT)
        assert base.log[1:3] == [
            ("method", Join("lobby")),
            ("unknown", {"type": "say", "text": "hello"}),
        ]
        assert child.log[1:4] == [
            ("method", Join("lobby")),
            ("method", Say("hello")),
            ("unknown", {"type": "shout", "text": "HELLO"}),
        ]


class TestTypedMessages:
    @pytest.mark.parametrize(
        ("type_", "message", "data"),
        [
            (Join, JOIN, Join("lobby")),
            (JoinDict, JOIN, {"type": "join", "room": "lobby"}),
            (JoinStruct, JOIN, JoinStruct("lobby")),
            (JoinModel, JOIN, JoinModel(room="lobby")),
            (Plain, '{"text":"a"}', Plain("a")),
            (list[int], "[1]", [1]),
            (dict[str, Join], f'{{"a":{JOIN}}}', {"a": Join("lobby")}),
            (int | str, '"a"', "a"),
            (Join | None, "null", None),
            (Join | Say, SAY, Say("hello")),
            (JoinStruct | SayStruct, SAY, SayStruct("hello")),
            (JoinModel | SayModel, SAY, SayModel(text="hello")),
            (Join | SayStruct, JOIN, Join("lobby")),
            (Join | Say | None, SAY, Say("hello")),
            (None, "null", None),
        ],
    )
    @pytest.mark.parametrize("encoding", [None, "json"])
    def test_a_message_type_is_what_on_receive_gets(
        self, type_: Any, message: str, data: Any, encoding: Any
    ) -> None:
        endpoint = recorder(message_type=type_, encoding=encoding)

        with connect(endpoint) as peer:
            peer.send_text(message)
            peer.send_bytes(message.encode())
        assert endpoint.log[1:-1] == [("receive", data)] * 2
        assert type(endpoint.log[1][1]) is type(data)

    @pytest.mark.parametrize(
        ("attributes", "message", "reason"),
        [
            ({"message_type": Plain}, '{"text":1}', "$.text: expected str, got int"),
            ({"message_type": Plain}, "{", "$: not JSON"),
            ({"message_type": Join | Say}, "{", "$: not JSON"),
            ({"message_type": Join | Say}, "[]", "$: expected object, got array"),
            ({"message_type": Join | Say}, "{}", "$.type: missing"),
            ({"message_type": Join | Say}, '{"type":"say"}', "$.text: missing"),
            ({"message_type": Join | Say}, '{"type":5}', "$.type: expected str, got int"),
            ({"join": _handles(Join)}, "{", "$: not JSON"),
            ({"join": _handles(Join)}, "null", "$: expected object, got null"),
            ({"join": _handles(Join)}, '{"type":"join"}', "$.room: missing"),
            ({"join": _handles(JoinModel)}, '{"type":"join"}', "$.room: missing"),
            ({"join": _handles(JoinStruct)}, '{"type":"join","room":1}', "$.room: expected str"),
        ],
    )
    def test_what_does_not_fit_closes_with_1007(
        self,
        attributes: dict[str, Any],
        message: str,
        reason: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        endpoint = recorder(**attributes)
        with connect(endpoint) as peer:
            peer.send(message)
            code, text = peer.wait_closed()
        assert code == 1007
        assert text.startswith(reason)
        assert endpoint.log == [("connect",), ("disconnect", 1007)]
        assert [record.levelname for record in caplog.records] == ["WARNING"]


class TestOnMessage:
    @pytest.mark.parametrize(
        ("join_type", "say_type"),
        [
            (Join, Say),
            (JoinDict, Say),
            (JoinStruct, SayStruct),
            (JoinModel, SayModel),
            (Join, SayStruct),
            (JoinModel, SayStruct),
        ],
    )
    @pytest.mark.parametrize("codec", [None, Codec()])
    def test_each_type_has_its_method(
        self, join_type: Any, say_type: Any, codec: Codec | None
    ) -> None:
        class Chat(Recorder):
            log: ClassVar[Log] = []

            @on_message(join_type)
            async def join(self, ws: WebSocket, message: Any) -> None:
                self.log.append(("join", message))

            @on_message(say_type)
            async def say(self, ws: WebSocket, message: Any) -> None:
                self.log.append(("say", message))
                await ws.send_json(message)
                await ws.close(4000)

        with connect(Chat, json=codec) as peer:
            peer.send_text(JOIN)
            peer.send_bytes(SAY.encode())
            assert peer.receive_json() == json.loads(SAY)
            assert peer.wait_closed() == (4000, "")
        joined = {"type": "join", "room": "lobby"}
        assert Chat.log[1:] == [
            ("join", joined if join_type is JoinDict else join_type(room="lobby")),
            ("say", say_type(text="hello")),
            ("disconnect", 4000),
        ]
        assert codec is None or codec.loaded[-2:] == [JOIN, SAY.encode()]

    def test_a_union_is_each_of_its_members(self) -> None:
        endpoint = recorder(both=_handles(Join | Say), leave=_handles(Leave))
        serve(endpoint, JOIN, SAY, LEAVE, SHOUT)
        assert endpoint.log[1:4] == [
            ("method", Join("lobby")),
            ("method", Say("hello")),
            ("method", Leave()),
        ]

    def test_a_type_of_message_type_without_a_method_goes_to_on_receive(self) -> None:
        endpoint = recorder(join=_handles(Join), message_type=Join | Say | Leave)
        serve(endpoint, SAY, JOIN, LEAVE, SHOUT)
        assert endpoint.log[1:] == [
            ("receive", Say("hello")),
            ("method", Join("lobby")),
            ("receive", Leave()),
            ("unknown", {"type": "shout", "text": "HELLO"}),
            ("disconnect", 4000),
        ]

    def test_two_registrations_of_one_method_both_count(self) -> None:
        class Chat(Recorder):
            log: ClassVar[Log] = []

            @on_message(Join)
            @on_message(Say)
            async def both(self, ws: WebSocket, message: Any) -> None:
                self.log.append(("both", message))

            @on_message(Leave)
            async def leave(self, ws: WebSocket, message: Leave) -> None:
                await ws.close(4000)

        with connect(Chat) as peer:
            for message in (JOIN, SAY, LEAVE):
                peer.send(message)
            assert peer.wait_closed() == (4000, "")
        assert Chat.log[1:-1] == [("both", Join("lobby")), ("both", Say("hello"))]

    def test_a_decorator_around_it(self) -> None:
        def logged(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            @functools.wraps(method)
            async def wrapper(self: Any, *args: Any) -> None:
                self.log.append(("decorator",))
                await method(self, *args)

            return wrapper

        class Chat(Recorder):
            log: ClassVar[Log] = []

            @logged
            @on_message(Join)
            async def join(self, ws: WebSocket, message: Join) -> None:
                self.log.append(("join",))
                await ws.close(4000)

        with connect(Chat) as peer:
            peer.send(JOIN)
            assert peer.wait_closed() == (4000, "")
        assert Chat.log[1:3] == [("decorator",), ("join",)]

    def test_it_returns_the_method_itself(self) -> None:
        async def method(self: Any, ws: WebSocket, message: Join) -> None:
            pass

        assert on_message(Join)(method) is method

    def test_one_message_at_a_time(self) -> None:
        async def main() -> None:
            gate = asyncio.Event()
            log: list[str] = []

            class Chat(WebSocketEndpoint):
                @on_message(Join)
                async def join(self, ws: WebSocket, message: Join) -> None:
                    log.append("join begins")
                    await gate.wait()
                    log.append("join ends")

                @on_message(Say)
                async def say(self, ws: WebSocket, message: Say) -> None:
                    log.append("say")

            async with connect(Chat) as peer:
                await peer.send(JOIN)
                await peer.send(SAY)
                await peer.close()
                await settle()
                assert log == ["join begins"]
                gate.set()
            assert log == ["join begins", "join ends", "say"]

        asyncio.run(main())


class TestUnknownMessage:
    @pytest.mark.parametrize("form", [WebSocketEndpoint, SocketView])
    @pytest.mark.parametrize(
        "attributes",
        [
            {"join": _handles(Join)},
            {"message_type": Join | Say},
            {"message_type": JoinStruct | SayStruct},
            {"message_type": JoinModel | SayModel, "encoding": "json"},
        ],
    )
    def test_it_closes_with_1003(
        self, form: Any, attributes: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        endpoint = type("Chat", (form,), attributes)
        with connect(endpoint) as peer:
            peer.send(SHOUT)
            assert peer.wait_closed() == (1003, "unknown kind of message")
        assert not caplog.records

    @pytest.mark.parametrize("codec", [None, json])
    def test_one_that_takes_it(self, codec: Any) -> None:
        endpoint = recorder(join=_handles(Join))

        class Chat(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_unknown_message(self, ws: WebSocket, message: Any, /) -> None:
                self.log.append(("unknown", message))
                if message["type"] == "last":
                    await ws.close(4000)

        with connect(Chat, json=codec) as peer:
            for message in (SHOUT, JOIN.encode(), '{"type":"last","deep":{"a":[1]}}'):
                peer.send(message)
            assert peer.wait_closed() == (4000, "")
        assert endpoint.log[1:] == [
            ("unknown", {"type": "shout", "text": "HELLO"}),
            ("method", Join("lobby")),
            ("unknown", {"type": "last", "deep": {"a": [1]}}),
            ("disconnect", 4000),
        ]

    def test_an_error_of_it_has_no_context(self) -> None:
        """What the tag was looked up with is not the application's affair."""
        error = LookupError()
        endpoint = recorder(join=_handles(Join), on_unknown_message=raising(error))
        with pytest.raises(LookupError) as caught:
            serve(endpoint, SHOUT)
        assert caught.value is error
        assert error.__context__ is None


class TestSocketView:
    def test_hooks_take_no_websocket(self) -> None:
        log: Log = []

        class View(SocketView):
            async def on_connect(self) -> None:
                log.append(("connect",))
                await self.websocket.accept("chat")

            async def on_receive(self, data: Any) -> None:
                log.append(("receive", data))
                await self.websocket.send(data)

            async def on_disconnect(self, close_code: int) -> None:
                log.append(("disconnect", close_code))

            async def on_unknown_message(self, message: Any) -> None:
                log.append(("unknown", message))
                await self.websocket.close(4000)

        class Chat(View):
            @on_message(Join)
            async def join(self, message: Join) -> None:
                log.append(("join", message))

        with connect(View, subprotocols=["chat"]) as peer:
            assert peer.accepted_subprotocol == "chat"
            peer.send("a")
            assert peer.receive() == "a"
            peer.close(1001)
        assert log == [("connect",), ("receive", "a"), ("disconnect", 1001)]
        log.clear()
        with connect(Chat, subprotocols=["chat"]) as peer:
            peer.send(JOIN)
            peer.send(SHOUT)
            assert peer.wait_closed() == (4000, "")
        assert log == [
            ("connect",),
            ("join", Join("lobby")),
            ("unknown", {"type": "shout", "text": "HELLO"}),
            ("disconnect", 4000),
        ]


ERRORS: list[tuple[Exception, Sent, Sent]] = [
    (WebSocketException(4001, "why"), rejected(403), [("close", 4001, "why")]),
    (InvalidMessage(1003, "text", "x"), rejected(403), [("close", 1003, "text")]),
    (HandshakeRejected(401), rejected(401), [("close", 4401, "")]),
    (FrameworkError(), rejected(418), [("close", 4418, "Teapot")]),
    (WebSocketDisconnect(), rejected(403), [("close", 1000, "")]),
    (LookupError("secret"), rejected(500), [("close", 1011, "")]),
    (TimeoutError(), rejected(500), [("close", 1011, "")]),
    (StopAsyncIteration(), rejected(500), [("close", 1011, "")]),
]
GOES_ON = (LookupError, TimeoutError, StopAsyncIteration)


def attempt(
    endpoint: Any, *incoming: Any, answers_itself: bool = False
) -> tuple[Sent, BaseException | None]:
    """What was sent, and what the framework sees."""
    transports: list[MemoryTransport] = []

    def prepare(transport: MemoryTransport) -> None:
        response = None if answers_itself else HTTPResponse()
        transport.translations[FrameworkError] = HTTPError(418, "Teapot", response)
        transports.append(transport)

    raised: BaseException | None = None
    try:
        serve(endpoint, *incoming, prepare=prepare)
    except Exception as exc:  # noqa: BLE001  # the test says which
        raised = exc
    return without_accept(transports[0]), raised


class TestErrors:
    """The table of how a handler ends holds for each hook."""

    @pytest.mark.parametrize(("exc", "before", "after"), ERRORS, ids=repr)
    def test_in_on_connect_before_accept(self, exc: Exception, before: Sent, after: Sent) -> None:
        endpoint = recorder(on_connect=raising(exc))
        sent, raised = attempt(endpoint, "never seen")
        assert sent == before
        assert raised is (exc if isinstance(exc, GOES_ON) else None)
        assert endpoint.log == [("raises",), ("disconnect", 1006)]

    @pytest.mark.parametrize(("exc", "before", "after"), ERRORS, ids=repr)
    def test_in_on_connect_after_accept(self, exc: Exception, before: Sent, after: Sent) -> None:
        endpoint = recorder()

        class Endpoint(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_connect(self, ws: WebSocket, /) -> None:
                await super().on_connect(ws)
                raise exc

        sent, raised = attempt(Endpoint, "never seen")
        assert sent == after
        assert raised is (exc if isinstance(exc, GOES_ON) else None)
        assert endpoint.log == [("connect",), ("disconnect", after[0][1])]

    @pytest.mark.parametrize(("exc", "before", "after"), ERRORS, ids=repr)
    @pytest.mark.parametrize(
        ("hook", "message"), [("on_receive", "a"), ("method", JOIN), ("on_unknown_message", SHOUT)]
    )
    def test_in_what_takes_messages(
        self, exc: Exception, before: Sent, after: Sent, hook: str, message: str
    ) -> None:
        attributes: dict[str, Any] = {hook: raising(exc)}
        if hook == "method":
            attributes = {hook: on_message(Join)(raising(exc))}
        elif hook == "on_unknown_message":
            attributes["join"] = _handles(Join)
        endpoint = recorder(**attributes)
        sent, raised = attempt(endpoint, message, "never seen")
        assert sent == after
        assert raised is (exc if isinstance(exc, GOES_ON) else None)
        assert endpoint.log == [("connect",), ("raises",), ("disconnect", after[0][1])]

    @pytest.mark.parametrize(("exc", "before", "after"), ERRORS, ids=repr)
    @pytest.mark.parametrize("end", ["peer", "own", "rejected"])
    def test_in_on_disconnect(
        self, exc: Exception, before: Sent, after: Sent, end: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The connection has ended: all that is left is whether the framework sees it."""
        on_connect = {
            "peer": Recorder.on_connect,
            "own": _then_close(Recorder.on_connect),
            "rejected": raising(HandshakeRejected(401)),
        }[end]
        endpoint = recorder(on_connect=on_connect, on_disconnect=raising(exc))
        sent, raised = attempt(endpoint, *([Disconnect(1001)] if end == "peer" else []))
        last: dict[str, Sent] = {
            "peer": [],
            "own": [("close", 4000, "")],
            "rejected": rejected(401),
        }
        assert sent == last[end]
        assert raised is (exc if isinstance(exc, GOES_ON) else None)
        assert endpoint.log[1:] == [("raises",)]

    def test_the_framework_answers_its_own_error(self) -> None:
        """It does once the endpoint has ended, so nothing else may answer before."""
        exc = FrameworkError()
        endpoint = recorder(on_connect=raising(exc))

        class Endpoint(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_disconnect(self, ws: WebSocket, close_code: int, /) -> None:
                self.log.append(("disconnect", close_code))

        sent, raised = attempt(Endpoint, answers_itself=True)
        assert (sent, raised) == ([], exc)
        assert endpoint.log == [("raises",), ("disconnect", 1006)]

    def test_in_a_hook_and_in_on_disconnect(self, caplog: pytest.LogCaptureFixture) -> None:
        """Both are seen, one by the framework and the other with it or in the log."""
        first, second = LookupError("first"), RuntimeError("second")
        endpoint = recorder(on_receive=raising(first), on_disconnect=raising(second))
        sent, raised = attempt(endpoint, "a")
        assert sent == [("close", 1011, "")]
        assert raised in (first, second)
        logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
        assert {first, second} <= {raised, *_contexts(raised), *logged}

    @pytest.mark.parametrize(
        "last",
        [WebSocketException(4002), WebSocketDisconnect(), HandshakeRejected(401), InvalidState()],
        ids=repr,
    )
    def test_on_disconnect_does_not_hide_the_error_of_another_hook(self, last: Exception) -> None:
        first = LookupError("first")
        endpoint = recorder(on_receive=raising(first), on_disconnect=raising(last))
        sent, raised = attempt(endpoint, "a")
        assert sent == [("close", 1011, "")]
        assert raised is not None
        assert first in (raised, *_contexts(raised))

    def test_in_init(self) -> None:
        """No `on_connect` was entered, so there is no `on_disconnect`."""
        error = LookupError()
        endpoint = recorder()

        class Endpoint(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            def __init__(self) -> None:
                raise error

        assert attempt(Endpoint) == (rejected(500), error)
        assert endpoint.log == []

    @pytest.mark.parametrize(
        ("exc", "sent"),
        [(HandshakeRejected(401), rejected(401)), (WebSocketException(4000), rejected(403))],
    )
    def test_an_ending_in_init(self, exc: Exception, sent: Sent) -> None:
        class Endpoint(WebSocketEndpoint):
            def __init__(self) -> None:
                raise exc

        assert attempt(Endpoint) == (sent, None)


def _contexts(exc: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while exc is not None and exc.__context__ is not None:
        exc = exc.__context__
        found.append(exc)
    return found


class TestOnDisconnect:
    """Exactly once, after the end, with its code."""

    @pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1009, 4999])
    def test_the_peers_code(self, code: int) -> None:
        endpoint = recorder()
        with connect(endpoint) as peer:
            if code == 1006:
                peer.vanish()
            else:
                peer.close(None if code == 1005 else code)
        assert endpoint.log == [("connect",), ("disconnect", code)]

    def test_the_code_and_the_reason_can_be_read(self) -> None:
        seen: list[object] = []

        class Endpoint(WebSocketEndpoint):
            async def on_disconnect(self, ws: WebSocket, close_code: int, /) -> None:
                seen.extend([ws.closed, ws.close_code, ws.close_reason])
                for call in (ws.receive(), ws.send("x")):
                    with pytest.raises(WebSocketDisconnect, match="4001 bye"):
                        await call
                await ws.close(4002)  # a no-op, as ever

        with connect(Endpoint) as peer:
            peer.close(4001, "bye")
        assert seen == [True, 4001, "bye"]

    @pytest.mark.parametrize(
        ("hook", "code"), [("on_receive", 4000), ("on_connect", 4000), ("method", 4000)]
    )
    def test_the_own_close(self, hook: str, code: int) -> None:
        async def closes(self: Recorder, ws: WebSocket, *args: Any) -> None:
            if ws._connecting:
                await ws.accept()
            await ws.close(code)

        value = on_message(Join)(closes) if hook == "method" else closes
        endpoint = recorder(**{hook: value})
        assert without_accept(serve(endpoint, JOIN, JOIN)) == [("close", code, "")]
        assert endpoint.log[-1] == ("disconnect", code)
        assert endpoint.log.count(("disconnect", code)) == 1

    @pytest.mark.parametrize(
        ("how", "sent"),
        [
            ("reject", rejected(404)),
            ("close", rejected(403)),
            ("nothing", rejected(403)),
        ],
    )
    def test_never_open(self, how: str, sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
        class Endpoint(recorder()):  # type: ignore[misc]  # made at run time
            async def on_connect(self, ws: WebSocket, /) -> None:
                self.log.append(("connect",))
                if how == "reject":
                    await ws.reject(404)
                elif how == "close":
                    await ws.close(4000)

        assert rejection(Endpoint) == sent
        assert Endpoint.log == [("connect",), ("disconnect", 1006)]
        warnings = [record.getMessage() for record in caplog.records]
        assert len(warnings) == (how == "nothing")
        assert all("Endpoint, path '/', " in text for text in warnings)
        assert all(": returned without accept()" in text for text in warnings)

    def test_the_client_goes_before_accept(self) -> None:
        endpoint = recorder()

        class Waits(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_connect(self, ws: WebSocket, /) -> None:
                await ws.wait_closed()
                await super().on_connect(ws)

        async def main() -> None:
            transport = MemoryTransport()
            transport.peer_leaves(1006)
            transport.lost = True
            assert await Running(Waits, transport).end() == []

        asyncio.run(main())
        assert endpoint.log == [("connect",), ("disconnect", 1006)]

    def test_an_oversize_message(self) -> None:
        endpoint = recorder()
        with connect(endpoint, max_message_size=10) as peer:
            peer.send("x" * 11)
            peer.wait_closed()
        assert peer.close_code == 1009
        assert endpoint.log == [("connect",), ("disconnect", 1009)]

    def test_a_connection_that_is_lost_while_sending(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("unisock.websocket._REASON_TIMEOUT", 0.001)
        endpoint = recorder()

        class Sends(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                ws._transport.lost = True  # type: ignore[attr-defined]  # in memory
                await ws.send("x")

        serve(Sends, "a")
        assert endpoint.log == [("connect",), ("disconnect", 1006)]

    @pytest.mark.parametrize("where", ["on_connect", "accepted", "receiving", "on_receive"])
    def test_the_server_stops(self, where: str) -> None:
        endpoint = recorder()

        class Endpoint(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_connect(self, ws: WebSocket, /) -> None:
                if where == "on_connect":
                    self.log.append(("connect",))
                    await asyncio.Event().wait()
                await super().on_connect(ws)
                if where == "accepted":
                    await asyncio.Event().wait()

            async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                await asyncio.Event().wait()

        async def main() -> None:
            transport = MemoryTransport()
            if where == "on_receive":
                transport.peer_sends("a")
            running = Running(Endpoint, transport)
            await settle()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            last = rejected(503) if where == "on_connect" else [("close", 1012, "")]
            assert without_accept(transport) == last
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        assert endpoint.log == [("connect",), ("disconnect", 1012)]

    def test_the_server_stops_twice(self) -> None:
        """Also where the second cancellation strikes the last frame."""

        async def main() -> None:
            endpoint = recorder()
            transport = MemoryTransport()
            running = Running(endpoint, transport)
            await settle()
            transport.flowing.clear()
            running.task.cancel()
            await transport.blocked.wait()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert endpoint.log == [("connect",), ("disconnect", 1012)]

        asyncio.run(main())

    def test_the_server_stops_while_it_runs(self) -> None:
        """Then it is cancelled itself, and not called again."""

        async def main() -> None:
            log: list[str] = []

            class Endpoint(WebSocketEndpoint):
                async def on_disconnect(self, ws: WebSocket, close_code: int, /) -> None:
                    log.append("begins")
                    try:
                        await asyncio.Event().wait()
                    finally:
                        log.append("finally")

            transport = MemoryTransport()
            transport.peer_leaves()
            running = Running(Endpoint, transport)
            await settle()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert log == ["begins", "finally"]
            assert without_accept(transport) == []

        asyncio.run(main())

    def test_it_may_await_though_the_server_stops(self) -> None:
        async def main() -> None:
            log: list[str] = []

            class Endpoint(WebSocketEndpoint):
                async def on_disconnect(self, ws: WebSocket, close_code: int, /) -> None:
                    await settle()
                    async with asyncio.timeout(10):
                        await turn()
                    log.append("all of it")

            running = Running(Endpoint, MemoryTransport())
            await settle()
            running.task.cancel()
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert log == ["all of it"]

        asyncio.run(main())

    def test_a_cancellation_that_is_none_of_the_servers(self) -> None:
        endpoint = recorder()

        class Endpoint(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                child = asyncio.create_task(asyncio.Event().wait())
                child.cancel()
                await child

        async def main() -> None:
            transport = MemoryTransport()
            transport.peer_sends("a")
            running = Running(Endpoint, transport)
            await asyncio.wait([running.task])
            assert running.task.cancelled()
            assert without_accept(transport) == [("close", 1011, "")]

        asyncio.run(main())
        assert endpoint.log == [("connect",), ("disconnect", 1011)]

    def test_an_interrupt(self) -> None:
        class Endpoint(recorder()):  # type: ignore[misc]  # made at run time
            async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                raise SystemExit(3)

        with pytest.raises(SystemExit):
            serve(Endpoint, "a")
        assert Endpoint.log == [("connect",), ("disconnect", 1011)]

    def test_it_comes_after_the_last_frame_and_the_tasks(self) -> None:
        order: list[object] = []

        class Endpoint(WebSocketEndpoint):
            async def on_connect(self, ws: WebSocket, /) -> None:
                await ws.accept()
                ws.start_soon(self.beside)
                await turn()
                raise WebSocketException(4000)

            async def beside(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    await turn()
                    order.append("task ended")

            async def on_disconnect(self, ws: WebSocket, close_code: int, /) -> None:
                transport = ws._transport
                assert isinstance(transport, MemoryTransport)
                order.extend([transport.sent[-1][:2], "disconnect"])

        serve(Endpoint)
        assert order == ["task ended", ("close", 4000), "disconnect"]

    def test_a_peer_that_does_not_read_its_close_frame(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "unisock")
        endpoint = recorder()

        class Endpoint(endpoint):  # type: ignore[valid-type,misc]  # made at run time
            async def on_receive(self, ws: WebSocket, data: Any, /) -> None:
                raise WebSocketException(4000)

        with connect(Endpoint, close_timeout=0.001) as peer:
            peer.pause_reading()
            peer.send("a")
            assert peer.wait_closed() == (1006, "")
        assert endpoint.log == [("connect",), ("disconnect", 4000)]
