"""The parameters of a handler: found by name, converted, refused."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import logging
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Union

import msgspec
import pydantic
import pytest
from typing_extensions import TypeAliasType

from unisock import (
    Cookie,
    Depends,
    Header,
    Query,
    SocketView,
    SyncWebSocket,
    WebSocket,
    WebSocketEndpoint,
)
from unisock.handlers import check_handler, plan_of
from unisock.paths import PathTemplate
from unisock.testing import ConnectionRejected, connect

if TYPE_CHECKING:
    from collections import OrderedDict


class Colour(enum.Enum):
    RED = "red"


def forms(got: list[Any], annotation: Any, default: tuple[Any, ...]) -> list[Any]:
    """The three forms of a handler; each notes what its parameter ``x`` gets."""

    async def handler(ws: WebSocket, x: Any) -> None:
        got.append(x)
        await ws.accept()

    def plain(ws: SyncWebSocket, x: Any) -> None:
        got.append(x)
        ws.accept()

    class View(SocketView):
        def __init__(self, x: Any) -> None:
            got.append(x)

    for function in (handler, plain, View.__init__):
        function.__annotations__["x"] = annotation
        function.__defaults__ = default
    return [handler, plain, View]


def given(url: str, annotation: Any, *default: Any, **connecting: Any) -> Any:
    """What a parameter ``x`` gets, in all three forms of a handler."""
    got: list[Any] = []
    for form in forms(got, annotation, default):
        with connect(form, url, **connecting):
            pass
    first, *others = got
    assert [(type(each), each) for each in others] == [(type(first), first)] * 2
    return first


def refused(url: str, annotation: Any, **connecting: Any) -> str:
    """What a client is told; nothing of the handler has run."""
    got: list[Any] = []
    told: set[str] = set()
    for form in forms(got, annotation, ()):
        with pytest.raises(ConnectionRejected) as info, connect(form, url, **connecting):
            pass
        assert info.value.status_code == 400
        told.add(info.value.body.decode())
    assert got == []
    (body,) = told
    return body.removesuffix("\n")


IDENTITY = "12345678-1234-5678-1234-567812345678"


class TestQuery:
    @pytest.mark.parametrize(
        ("query", "annotation", "value"),
        [
            ("x=5", int, 5),
            ("x=-5", int, -5),
            ("x=1.5", float, 1.5),
            ("x=hi", str, "hi"),
            ("x=", str, ""),
            ("x=h%C3%A9&y=1", str, "hé"),
            ("x=%FF", str, "\ufffd"),
            ("x=null", str, "null"),
            ("x=true", bool, True),
            ("x=0", bool, False),
            ("x=red", Colour, Colour.RED),
            ("x=b", Literal["a", "b"], "b"),
            ("x=1.50", Decimal, Decimal("1.50")),
            (f"x={IDENTITY}", uuid.UUID, uuid.UUID(IDENTITY)),
            ("x=2026-12-01", dt.date, dt.date(2026, 12, 1)),
            ("x=5", int | None, 5),
            ("x=5", Any, "5"),
            ("x=5", Annotated[int, msgspec.Meta(ge=5)], 5),
            ("x=5", Annotated[int, "a note", Query()], 5),
            # Of a repeated name the first, as with `ws.query_params["x"]`.
            ("x=1&x=2", int, 1),
            ("x=1&x=2", list[int], [1, 2]),
            ("x=1&x=1", Annotated[set[int], Query()], {1}),
            ("x=1&x=2", tuple[int, ...], (1, 2)),
            ("x=1&x=a", tuple[int, str], (1, "a")),
            ("x=1&x=2", list[int] | None, [1, 2]),
            ("y=7", Annotated[int, Query(alias="y")], 7),
        ],
    )
    def test_it_is_converted(self, query: str, annotation: Any, value: Any) -> None:
        got = given(f"/?{query}", annotation)
        assert got == value
        assert type(got) is type(value)

    def test_a_default_is_each_connection_s_own(self) -> None:
        got: list[list[int]] = []

        async def handler(ws: WebSocket, x: list[int] = []) -> None:  # noqa: B006  # as users write it
            x.append(1)
            got.append(x)
            await ws.accept()

        for _ in range(2):
            with connect(handler):
                pass
        assert got == [[1], [1]]

    @pytest.mark.parametrize("annotation", [int, list[int], Annotated[int, Query()], str | None])
    def test_a_default(self, annotation: Any) -> None:
        assert given("/", annotation, 3) == 3
        assert given("/?x=5", annotation, 3) != 3

    @pytest.mark.parametrize(
        ("query", "annotation", "told"),
        [
            ("", int, 'query parameter "x" is missing'),
            ("y=1", str, 'query parameter "x" is missing'),
            ("", int | None, 'query parameter "x" is missing'),
            ("", list[int], 'query parameter "x" is missing'),
            ("", Annotated[int, Query(alias="y-z")], 'query parameter "y-z" is missing'),
            ("x=a", int, 'query parameter "x": expected int, got "a"'),
            ("x=", int, 'query parameter "x": expected int, got ""'),
            ("x=+1", int, 'query parameter "x": expected int, got " 1"'),
            ("x=1_0", int, 'query parameter "x": expected int, got "1_0"'),
            ("x=%D9%A3", int, 'query parameter "x": expected int, got "٣"'),
            ("x=nan", float, 'query parameter "x": expected a finite number, got "nan"'),
            ("x=1&x=inf", list[float], 'query parameter "x": expected a finite number, got "inf"'),
            ("x=1e999", float, 'query parameter "x": number out of range'),
            (f"x={'1' * 5000}", int, 'query parameter "x": integer value out of range'),
            ("x=2", bool, 'query parameter "x": expected bool, got "2"'),
            ("x=a", int | None, 'query parameter "x": expected int | null, got "a"'),
            ("x=1&x=a", list[int], 'query parameter "x": expected int, got "a"'),
            ("x=1", tuple[int, int], 'query parameter "x": expected array of length 2, got 1'),
            ("x=a", uuid.UUID, 'query parameter "x": invalid UUID'),
            ("x=blue", Colour, "query parameter \"x\": invalid enum value 'blue'"),
            ("x=4", Annotated[int, msgspec.Meta(ge=5)], 'query parameter "x": expected int >= 5'),
            ("x=a%0Ab%1B", int, r'query parameter "x": expected int, got "a\nb\u001b"'),
            ("x=%E2%80%AE", int, r'query parameter "x": expected int, got "\u202e"'),
            ("x=" + "a" * 10_000, int, f'query parameter "x": expected int, got "{"a" * 50}…"'),
        ],
    )
    def test_what_does_not_fit_is_400(self, query: str, annotation: Any, told: str) -> None:
        assert refused(f"/?{query}", annotation) == told

    def test_every_form_is_refused_before_it_runs(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "unisock")

        async def handler(ws: WebSocket, x: int) -> None:
            raise AssertionError

        def plain(ws: SyncWebSocket, x: int) -> None:
            raise AssertionError

        class Endpoint(WebSocketEndpoint):
            def __init__(self, x: int) -> None:
                raise AssertionError

        class Disconnects(WebSocketEndpoint):
            def __init__(self, x: int) -> None:
                """It is not created."""

            async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
                raise AssertionError

        for form in (handler, plain, Endpoint, Disconnects):
            caplog.clear()
            with pytest.raises(ConnectionRejected), connect(form, "/?x=%0A"):
                pass
            (record,) = caplog.records
            assert record.levelname == "INFO"
            assert record.getMessage().endswith(
                r'handshake rejected: query parameter "x": expected int, got "\n"'
            )

    def test_all_that_is_wrong_is_told(self) -> None:
        async def handler(
            ws: WebSocket, a: int, b: int, token: Annotated[str, Header(alias="x-token")]
        ) -> None: ...

        with pytest.raises(ConnectionRejected) as info, connect(handler, "/?b=x"):
            pass
        assert info.value.body.decode().splitlines() == [
            'query parameter "a" is missing',
            'query parameter "b": expected int, got "x"',
            'header "x-token" is missing',
        ]


class TestHeadersAndCookies:
    def test_a_header(self) -> None:
        headers = {"User-Agent": "me", "X-Token": "5"}

        async def handler(
            ws: WebSocket,
            user_agent: Annotated[str, Header()],
            x_token: Annotated[int, Header()],
            token: Annotated[int, Header(alias="X-Token")],
            absent: Annotated[str | None, Header()] = None,
        ) -> None:
            await ws.accept()
            await ws.send_json([user_agent, x_token, token, absent])

        with connect(handler, headers=headers) as peer:
            assert peer.receive_json() == ["me", 5, 5, None]

    def test_a_repeated_header(self) -> None:
        headers = [("X-Tag", "1"), ("x-tag", "2")]
        assert given("/", Annotated[list[int], Header(alias="x-tag")], headers=headers) == [1, 2]
        assert given("/", Annotated[int, Header(alias="x-tag")], headers=headers) == 1

    def test_a_cookie(self) -> None:
        cookies = {"session": "5", "other": "x"}
        assert given("/", Annotated[int, Cookie(alias="session")], cookies=cookies) == 5
        assert given("/", Annotated[str | None, Cookie()], None, cookies=cookies) is None

    def test_what_does_not_fit(self) -> None:
        header = Annotated[int, Header(alias="x-n")]
        assert refused("/", header) == 'header "x-n" is missing'
        assert refused("/", header, headers={"X-N": "a"}) == 'header "x-n": expected int, got "a"'
        cookie = Annotated[int, Cookie(alias="n")]
        assert refused("/", cookie) == 'cookie "n" is missing'
        assert refused("/", cookie, cookies={"n": "a"}) == 'cookie "n": expected int, got "a"'


class TestPath:
    def test_a_name_in_the_path(self) -> None:
        path = "/rooms/{x}"
        assert given("/rooms/5", str, path=path) == "5"
        assert given("/rooms/5?x=6", int, path=path) == 5
        assert given("/rooms/5", int | None, None, path=path) == 5
        assert given("/rooms/5", int, path="/rooms/{x:int}") == 5
        assert given("/rooms/5", float, path="/rooms/{x:int}") == 5.0
        assert given(f"/rooms/{IDENTITY}", uuid.UUID, path="/rooms/{x:uuid}") == uuid.UUID(IDENTITY)

    def test_it_is_left_out_of_the_annotations(self) -> None:
        async def handler(ws, x):  # type: ignore[no-untyped-def]  # that is what is tested
            await ws.accept()
            await ws.send_json(x)

        with connect(handler, "/5", path="/{x:int}") as peer:
            assert peer.receive_json() == 5
        with connect(handler, "/?x=5") as peer:
            assert peer.receive_json() == "5"

    def test_query_says_that_it_is_of_the_query(self) -> None:
        annotation = Annotated[int, Query()]
        assert given("/rooms/5?x=6", annotation, path="/rooms/{x}") == 6

    def test_what_does_not_fit(self) -> None:
        told = refused("/rooms/a", int, path="/rooms/{x}")
        assert told == 'path parameter "x": expected int, got "a"'

    @pytest.mark.parametrize(
        ("converter", "good", "bad"),
        [
            ("int", [int, float, Any, Decimal, int | None, Literal[1, 2]], [str, uuid.UUID, bool]),
            ("float", [float, Any], [int, str]),
            ("uuid", [uuid.UUID, Any], [str, int]),
            ("str", [str, int, uuid.UUID, Colour, Any], [list[str]]),
            ("path", [str], [list[int]]),
        ],
    )
    def test_the_converter_and_the_annotation(
        self, converter: str, good: list[Any], bad: list[Any]
    ) -> None:
        template = PathTemplate.parse(f"/{{x:{converter}}}")

        async def handler(ws: WebSocket, x: Any) -> None: ...

        for annotation in good:
            handler.__annotations__["x"] = annotation
            plan = plan_of(handler)
            assert plan is not None
            plan.check_path(template)
        for annotation in bad:
            handler.__annotations__["x"] = annotation
            plan = plan_of(handler)
            assert plan is not None
            with pytest.raises(TypeError, match=rf"'x' is {{x:{converter}}} in"):
                plan.check_path(template)


class Filters(msgspec.Struct):
    limit: int
    tags: list[str] = []  # msgspec copies it
    name: str = "all"


class Numbers(msgspec.Struct):
    limit: int
    tags: list[Annotated[int, msgspec.Meta(le=1)]]


@dataclass
class DataFilters:
    limit: int
    tags: list[str]
    name: str = "all"


class DictFilters(TypedDict):
    limit: int
    tags: list[str]


class ModelFilters(pydantic.BaseModel):
    limit: int
    tags: list[str] = []
    name: str = pydantic.Field("all", alias="filter-name")


class TestObjects:
    @pytest.mark.parametrize("type_", [Filters, DataFilters, DictFilters, ModelFilters])
    def test_a_type_with_fields(self, type_: Any) -> None:
        got = given("/?limit=5&tags=a&tags=b&other=1", Annotated[type_, Query()])
        read = got.__getitem__ if type_ is DictFilters else functools.partial(getattr, got)
        assert (read("limit"), read("tags")) == (5, ["a", "b"])
        assert type(got) is (dict if type_ is DictFilters else type_)

    def test_the_aliases_of_a_model(self) -> None:
        got = given("/?limit=5&filter-name=x", Annotated[ModelFilters, Query()])
        assert got == ModelFilters.model_validate({"limit": 5, "filter-name": "x"})

    @pytest.mark.parametrize("type_", [Filters, ModelFilters])
    def test_what_does_not_fit(self, type_: Any) -> None:
        annotation = Annotated[type_, Query()]
        assert refused("/", annotation) == 'query parameter "limit" is missing'
        told = refused("/?limit=x", annotation)
        assert told == 'query parameter "limit": expected int, got "x"'

    def test_all_fields_that_do_not_fit_are_told(self) -> None:
        class Model(pydantic.BaseModel):
            a: int
            b: int
            c: list[int] = []

        told = refused("/?b=x&c=1&c=y", Annotated[Model, Query()])
        assert told.splitlines() == [
            'query parameter "a" is missing',
            'query parameter "b": expected int, got "x"',
            'query parameter "c": expected int, got "y"',
        ]
        told = refused("/?limit=1&tags=1&tags=2", Annotated[Numbers, Query()])
        assert told == 'query parameter "tags": expected int <= 1'

    def test_a_default_where_nothing_is_sent(self) -> None:
        annotation = Annotated[Filters, Query()]
        default = Filters(7)
        assert given("/?other=1", annotation, default) == default
        assert given("/?limit=5", annotation, default) == Filters(5)

    def test_no_field_is_infinite(self) -> None:
        class Numbers(msgspec.Struct):
            a: float = 0.0
            b: list[Decimal] = []  # msgspec copies it
            c: str | float = ""

        annotation = Annotated[Numbers, Query()]
        for query, key, text in (
            ("a=nan", "a", "nan"), ("b=1&b=-Infinity", "b", "-Infinity")
        ):  # fmt: skip
            told = refused(f"/?{query}", annotation)
            assert told == f'query parameter "{key}": expected a finite number, got "{text}"'
        assert given("/?a=1&c=nan", annotation) == Numbers(1.0, [], "nan")
        told = refused("/?x=NaN", Decimal)
        assert told == 'query parameter "x": expected a finite number, got "NaN"'

    def test_of_headers_and_cookies(self) -> None:
        class Who(msgspec.Struct):
            user_agent: str
            x_count: int = 0

        headers = {"User-Agent": "me", "X-Count": "5"}
        assert given("/", Annotated[Who, Header()], headers=headers) == Who("me", 5)
        assert refused("/", Annotated[Who, Header()]) == 'header "user-agent" is missing'
        cookies = {"user_agent": "me"}
        assert given("/", Annotated[Who, Cookie()], cookies=cookies) == Who("me", 0)


Token = TypeAliasType("Token", Annotated[str, Header(alias="x-token")])
# As `A | None`, which pyright does not take of these as values.
OPTIONAL = Union[Annotated[str, Header()], None]  # noqa: UP007  # as just said
OPTIONAL_TOKEN = Union[Token, None]  # noqa: UP007  # as just said


class Unknown:
    """No type of a request."""


class Holding(msgspec.Struct):
    unknown: Unknown


class TestAtMount:
    @pytest.mark.parametrize(
        ("annotation", "words"),
        [
            (Unknown, "cannot be read from a request as Unknown.*Depends"),
            (list[Unknown], "cannot be read from a request"),
            (dict[str, int], "cannot be read from a request"),
            (Filters, "cannot be read from a request as Filters.*Query"),
            (Annotated[int, Query(), Header()], "has 2 markers: leave one"),
            (Annotated[int, Query], r"has the class Query: write Query\(…\)"),
            (Annotated[int, Depends], r"has the class Depends: write Depends\(…\)"),
            (Annotated[int, print], r"has a function beside its type: write Depends\(…\)"),
            (OPTIONAL, r"Header\(…\) stands within a type"),
            (list[Annotated[str, Query()]], r"Query\(…\) stands within a type"),
            (Annotated[Filters, Query(alias="y")], "has an alias, but is read by the names of"),
            (Annotated[Holding, Query()], "cannot be read from a request as Unknown"),
            (Annotated[int, pydantic.Field(ge=1)], "a constraint that is not msgspec's"),
            ("Missing", "an annotation cannot be read: name 'Missing' is not defined"),
        ],
    )
    def test_what_cannot_be_had(self, annotation: Any, words: str) -> None:
        async def handler(ws: WebSocket, x: Any) -> None: ...

        def plain(ws: SyncWebSocket, x: Any) -> None: ...

        class View(SocketView):
            def __init__(self, x: Any) -> None: ...

        for function in (handler, plain, View.__init__):
            function.__annotations__["x"] = annotation
        for form in (handler, plain, View):
            name = form.__qualname__.rpartition(".")[2]
            with pytest.raises(TypeError, match=rf"{name}: (parameter 'x' )?.*{words}"):
                check_handler(form)

    @pytest.mark.parametrize(
        "default",
        [Query(), Header(), Cookie(alias="x"), Depends(print)],
        ids=lambda d: type(d).__name__,
    )
    def test_a_marker_as_a_default(self, default: Any) -> None:
        async def handler(ws: WebSocket, x: int = default) -> None: ...

        with pytest.raises(TypeError, match=r"'x'.*is no default: write x: Annotated\[…, "):
            check_handler(handler)

    def test_a_marker_s_class_as_a_default(self) -> None:
        async def handler(ws: WebSocket, x: int = Query) -> None: ...  # type: ignore[assignment]  # that is the mistake

        with pytest.raises(TypeError, match=r"'x' has the class Query: write Query\(…\)"):
            check_handler(handler)

    def test_a_name_without_a_type_that_is_not_in_the_path(self) -> None:
        async def handler(ws, x): ...  # type: ignore[no-untyped-def]  # that is what is tested

        plan = plan_of(handler)
        assert plan is not None
        plan.check_path(PathTemplate.parse("/{x}"))
        with pytest.raises(TypeError, match="'x' has no type, and the path has no such name"):
            plan.check_path(PathTemplate.parse("/{y}"))

    def test_a_default_without_a_type(self) -> None:
        async def handler(ws: WebSocket, rooms={}) -> None: ...  # type: ignore[no-untyped-def]  # noqa: B006  # that is what is tested

        with pytest.raises(TypeError, match=r"'rooms'.*annotate it, for a client can set it"):
            check_handler(handler)

    def test_an_import_for_type_checkers_only(self) -> None:
        async def handler(ws: WebSocket, x: OrderedDict[str, str]) -> None: ...

        with pytest.raises(TypeError, match="name 'OrderedDict' is not defined; import it where"):
            check_handler(handler)

    def test_an_alias_of_a_type(self) -> None:
        assert given("/?x=no", Token, headers={"X-Token": "yes"}) == "yes"

        async def handler(ws: WebSocket, x: Any) -> None: ...

        handler.__annotations__["x"] = OPTIONAL_TOKEN
        with pytest.raises(TypeError, match=r"Header\(…\) stands within a type"):
            check_handler(handler)

    def test_an_enum_that_cannot_be_told(self) -> None:
        class Mixed(enum.Enum):
            TEXT = "text"
            NUMBER = 1

        async def handler(ws: WebSocket, x: Any) -> None: ...

        handler.__annotations__["x"] = Mixed
        with pytest.raises(TypeError, match="'x': Enums must contain either all str or all int"):
            check_handler(handler)

    def test_what_is_said_beside_a_type_is_kept(self) -> None:
        described = msgspec.Meta(description="a number", extra_json_schema={"example": 5})
        assert given("/?x=5", Annotated[int, described]) == 5
        assert given("/?x=5", list[Annotated[int, "a note"]]) == [5]

    @pytest.mark.parametrize("wrong", [5, ""])
    def test_an_alias_is_a_name(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="alias= is a name"):
            Query(alias=wrong)


class TestTheWebSocket:
    """It is found by its annotation, else it is the first."""

    def test_by_annotation(self) -> None:
        async def handler(x: int, socket: WebSocket, *, other: WebSocket | SyncWebSocket) -> None:
            assert socket is other
            await socket.accept()
            await socket.send_json(x)

        with connect(handler, "/?x=5") as peer:
            assert peer.receive_json() == 5

    @pytest.mark.parametrize("is_plain", [False, True])
    def test_it_must_be_of_the_handler_s_kind(self, is_plain: bool) -> None:
        async def handler(ws: SyncWebSocket, x: int) -> None: ...

        def plain(ws: WebSocket, x: int) -> None: ...

        kind = "SyncWebSocket" if is_plain else "WebSocket"
        with pytest.raises(TypeError, match=rf"'ws' is a {kind} here: annotate it as that"):
            check_handler(plain if is_plain else handler)  # type: ignore[arg-type]  # that is the mistake

    def test_by_keyword_alone(self) -> None:
        async def handler(*, websocket: WebSocket) -> None:
            await websocket.accept()

        with connect(handler):
            pass

    def test_it_is_the_first(self) -> None:
        async def handler(socket, /, x: int = 3) -> None:  # type: ignore[no-untyped-def]  # as above
            await socket.accept()
            await socket.send_json(x)

        with connect(handler) as peer:
            assert peer.receive_json() == 3

    def test_of_a_class(self) -> None:
        class Endpoint(WebSocketEndpoint):
            def __init__(self, ws: WebSocket, x: int) -> None:
                self.ws, self.x = ws, x

            async def on_connect(self, ws: WebSocket) -> None:
                assert ws is self.ws is self.websocket
                await ws.accept()
                await ws.send_json(self.x)

        with connect(Endpoint, "/?x=5") as peer:
            assert peer.receive_json() == 5

    def test_what_is_bound_is_no_parameter(self) -> None:
        async def handler(ws: WebSocket, rooms: Unknown, x: int = 1) -> None:
            assert isinstance(rooms, Unknown)
            await ws.accept()
            await ws.send_json(x)

        class Handler:
            async def __call__(self, ws: WebSocket, x: int = 1) -> None:
                await ws.accept()
                await ws.send_json(x)

        rest = functools.partial(handler, rooms=Unknown())

        async def left_over(ws: WebSocket, *args: int, x: int = 1, **kwargs: int) -> None:
            assert not args
            assert not kwargs
            await ws.accept()
            await ws.send_json(x)

        @functools.wraps(rest)
        async def decorated(*args: Any, **kwargs: Any) -> None:
            await rest(*args, **kwargs)

        for form in (rest, Handler(), decorated, left_over):
            with connect(form, "/?x=5&rooms=1&kwargs=2") as peer:
                assert peer.receive_json() == 5
