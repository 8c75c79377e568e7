"""Messages to types and back: what fits, what does not, and what is said of it."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import json
import math
import operator
import re
import subprocess
import sys
import threading
import traceback
import tracemalloc
import types
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import typing_extensions
from annotated_types import Gt
from msgspec import Meta, Struct
from pydantic import BaseModel, ConfigDict, Field, RootModel

from unisock import InvalidMessage, JSONCodec, messages
from unisock.annotations import members
from unisock.messages import TaggedUnion, decode, encode
from unisock.reasons import reason_of
from unisock.tags import Tags, UnknownTag

T = TypeVar("T")


# One message in each of the ways to say it


@dataclass
class DataJoin:
    type: Literal["join"]
    room: str


@dataclass
class DataSay:
    type: Literal["say"]
    text: str
    at: dt.datetime | None = None


class DictJoin(TypedDict):
    type: Literal["join"]
    room: str


class DictSay(TypedDict):
    type: Literal["say"]
    text: str
    at: typing.NotRequired[dt.datetime | None]


class StructJoin(Struct, tag="join"):
    room: str


class StructSay(Struct, tag="say"):
    text: str
    at: dt.datetime | None = None


class LiteralJoin(Struct):
    type: Literal["join"]
    room: str


class LiteralSay(Struct):
    kind: Literal["say"] = msgspec.field(name="type")
    text: str
    at: dt.datetime | None = None


class ModelJoin(BaseModel):
    type: Literal["join"]
    room: str


class ModelSay(BaseModel):
    kind: Literal["say"] = Field(alias="type")
    text: str
    at: dt.datetime | None = None


@pydantic.dataclasses.dataclass
class CheckedJoin:
    type: Literal["join"]
    room: str


@pydantic.dataclasses.dataclass
class CheckedSay:
    type: Literal["say"]
    text: str
    at: dt.datetime | None = None


KINDS: dict[str, tuple[Any, Any]] = {
    "dataclass": (DataJoin, DataSay),
    "TypedDict": (DictJoin, DictSay),
    "Struct": (StructJoin, StructSay),
    "Struct with Literal": (LiteralJoin, LiteralSay),
    "model": (ModelJoin, ModelSay),
    "pydantic dataclass": (CheckedJoin, CheckedSay),
    "dataclass and TypedDict": (DataJoin, DictSay),
    "Struct and dataclass": (StructJoin, DataSay),
    "Struct and Struct with Literal": (StructJoin, LiteralSay),
    "model and Struct": (ModelJoin, StructSay),
    "TypedDict and pydantic dataclass": (DictJoin, CheckedSay),
}
JOIN = '{"type":"join","room":"a"}'
SAY = '{"type":"say","text":"hi","at":"2026-01-02T03:04:05Z"}'
MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


TypeAlias: Any = typing_extensions.TypeAliasType
OPTIONAL: Any = typing.Optional[DataJoin | DataSay]  # noqa: UP045  # as it was before `|`


def union_of(*types: Any) -> Any:
    """A union of types that no type checker need know."""
    return functools.reduce(operator.or_, types)


class Wrapper:
    """A codec that is no module, writes bytes, and spaces as nobody else does."""

    def dumps(self, obj: Any, /) -> bytes:
        return json.dumps(obj, separators=(" ,", " :")).encode()

    def loads(self, data: str | bytes, /) -> Any:
        if not data:
            raise ValueError("nothing\nin <Wrapper object at 0x7f>")
        return json.loads(data)


OTHER_CODECS: list[JSONCodec] = [json, Wrapper()]
CODECS = pytest.mark.parametrize(
    "codec", [None, json, Wrapper()], ids=["msgspec", "json", "Wrapper"]
)


def look(obj: Any, name: str) -> Any:
    """A field of an object, which may be a dict."""
    return obj[name] if isinstance(obj, dict) else getattr(obj, name)


def reason(message: str | bytes, type_: Any, codec: Any = None) -> str:
    """What is said of a message that does not fit."""
    with pytest.raises(InvalidMessage) as caught:
        decode(message, type_, codec)
    exc = caught.value
    assert (exc.code, exc.message) == (1007, message)
    assert str(exc) == exc.reason
    # The decoder's error is there for a debugger.  A traceback leaves it out: its text may
    # hold parts of the message as they came.
    assert exc.__context__ is not None
    assert exc.__suppress_context__
    return exc.reason


def test_a_message_forges_no_line_of_a_traceback() -> None:
    """Neither by a name nor by a value: pydantic and msgspec put both into their texts."""
    forged = "a\n2026 CRITICAL \x1b[31m"
    for message, type_ in (
        ({forged: 1}, Closed),
        ({forged: "x"}, RootModel[dict[str, int]]),
        ({"type": forged}, RootModel[Annotated[DataJoin | DataSay, Field(discriminator="type")]]),
        (forged, int),
    ):
        with pytest.raises(InvalidMessage) as caught:
            decode(json.dumps(message), type_, None)
        printed = "".join(traceback.format_exception(caught.value))
        assert "\x1b" not in printed, printed
        assert not any(line.startswith("2026") for line in printed.splitlines()), printed


# How much is built


class Empty(BaseModel):
    x: int = 0


MANY = f"[{','.join(['[]'] * 100_000)}]"


def peak_of(message: str, type_: Any) -> int:
    """How many bytes of objects are there at most while a message is decoded that does not fit."""
    reason("[[]]", type_)  # what is made once
    tracemalloc.start()
    try:
        reason(message, type_)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("type_", [list[int], list[DataSay], list[StructJoin]])
def test_nothing_is_built_of_what_does_not_fit(type_: Any) -> None:
    assert peak_of(MANY, type_) < 2 * len(MANY)  # plain objects are ten times the message


def test_pydantic_is_not_asked_for_each_of_many_errors() -> None:
    assert reason(MANY, list[Empty]) == "$: not valid in 100000 places"
    few = f"[{','.join(['[]'] * 1000)}]"
    assert reason(few, list[Empty]).startswith("$[0]: expected object, got array; $[1]: ")


def test_what_fits_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counts:
        count = 0

        def decode(self, message: str | bytes) -> Any:
            self.count += 1
            return msgspec.json.decode(message)

    counts = Counts()
    monkeypatch.setattr(messages, "_PLAIN", counts)
    for message in ('[{"x":1}]', b'[{"x":2e3}]', '[{"x":3,"y":"1.5e10"}]'):
        decode(message, list[Empty], None)
    assert counts.count == 0
    assert decode('[{"x":4,"y":"1e999"}]', list[Empty], None) == [Empty(x=4)]
    assert counts.count == 1  # it may have been a number that is out of range


@pytest.mark.parametrize("number", ["1e999", "-1E+400", "1" * 5000])
def test_a_number_out_of_range_is_none_for_a_model_either(number: str) -> None:
    assert "out of range" in reason(f'{{"at":{number}}}', RootModel[dict[str, float]])


# What is wrong, by msgspec


@dataclass
class User:
    name: str
    age: int = 0


@dataclass
class Team:
    user: User
    users: list[User] = field(default_factory=list)
    by_name: dict[str, User] = field(default_factory=dict)


class Closed(Struct, forbid_unknown_fields=True):
    x: int = 0


class Row(Struct, array_like=True):
    x: int
    y: int


class ArrayJoin(Struct, array_like=True, tag="join"):
    x: int


class ArraySay(Struct, array_like=True, tag="say"):
    x: int


class One(Struct, tag=1):
    x: int


class Two(Struct, tag=2):
    x: int


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Point(NamedTuple):
    x: int
    y: int = 0


class Even(Struct):
    """Checked by its own code, which says what is wrong, or fails."""

    number: int
    whom: str = "you"

    def __post_init__(self) -> None:
        if self.number < 0:
            raise TypeError(f"secrets of {self!r}")
        if self.number == 99:
            int(self.whom, base=1)
        if self.number % 2:
            raise ValueError(f"give an even\nnumber,\t{self.whom}")


class Broken(Struct):
    def __post_init__(self) -> None:
        raise LookupError("a bug")


class OpenBroken(Struct):
    def __post_init__(self) -> None:
        raise UnicodeDecodeError("utf-8", b"secret", 0, 1, "a bug")


class Painted(Struct):
    color: Color = Color.RED
    size: Size = Size.SMALL
    sizes: dict[str, list[Size]] = {}
    pair: tuple[Literal["a", "b"], Annotated[Literal[1], Meta(description="one")] | None] = (
        "a",
        1,
    )
    what: StructJoin | StructSay | None = None
    many: dict[str, list[StructJoin | StructSay]] = {}
    keys: dict[Literal["k"], int] = {}


class Recursive(Struct):
    color: Color = Color.RED
    inner: Recursive | None = None


class Length(NamedTuple):
    """A reason that is longer with a codec: then the length is known."""

    text: str
    got: int


def number(**limits: Any) -> Any:
    return Annotated[int, Meta(**limits)]


def real(**limits: Any) -> Any:
    return Annotated[float, Meta(**limits)]


def text(**limits: Any) -> Any:
    return Annotated[str, Meta(**limits)]


LONG = "y" * 1000
CUT = "y" * 32 + "…"

MSGSPEC: list[tuple[Any, str, str | Length]] = [
    # objects
    (User, "{}", "$.name: missing"),
    (User, "[]", "$: expected object, got array"),
    (User, '{"name":"a","age":"7"}', "$.age: expected int, got str"),
    (Team, '{"user":{"name":"a","age":"7"}}', "$.user.age: expected int, got str"),
    (Team, '{"user":{}}', "$.user.name: missing"),
    (
        Team,
        '{"user":{"name":"a"},"users":[{"name":"a"},{"name":null}]}',
        "$.users[1].name: expected str, got null",
    ),
    (Team, '{"user":{"name":"a"},"users":[{}]}', "$.users[0].name: missing"),
    (Team, '{"user":{"name":"a"},"by_name":{"x":{}}}', "$.by_name[...].name: missing"),
    (DictJoin, '{"type":"join"}', "$.room: missing"),
    (DictJoin, '{"type":"join","room":1}', "$.room: expected str, got int"),
    (Closed, '{"y":1}', "$.y: unknown field"),
    (Closed, '{"a b\\n`":1}', '$["a b\\n`"]: unknown field'),
    # tags
    (StructJoin | StructSay, "{}", "$.type: missing"),
    (StructJoin | StructSay, '{"type":"x"}', '$.type: expected "join" or "say", got "x"'),
    (StructJoin | StructSay, '{"type":5}', "$.type: expected str, got int"),
    (StructJoin | StructSay, '{"type":"join"}', "$.room: missing"),
    (StructJoin | StructSay, "[]", "$: expected object, got array"),
    (StructJoin | StructSay, '{"type":"it\'s"}', '$.type: expected "join" or "say", got "it\'s"'),
    (list[StructJoin | StructSay], "[{}]", "$[0].type: missing"),
    (One | Two, '{"type":3}', "$.type: expected 1 or 2, got 3"),
    (One | Two, '{"type":"x"}', "$.type: expected int, got str"),
    (One | Two, '{"type":true}', "$.type: expected int, got bool"),
    (One | Two, '{"type":1.0}', "$.type: expected int, got float"),
    # values that can be listed
    (Size, '"x"', "$: expected int, got str"),
    # numbers and text
    (int, "1.5", "$: expected int, got float"),
    (int, "true", "$: expected int, got bool"),
    (int, "[]", "$: expected int, got array"),
    (str, "null", "$: expected str, got null"),
    (None, "1", "$: expected null, got int"),
    (int | None, '"a"', "$: expected int | null, got str"),
    (int | str | list[int] | User, "null", "$: expected int | str | object | array, got null"),
    (number(ge=1), "0", "$: expected int >= 1"),
    (number(lt=1), "1", "$: expected int <= 0"),
    (number(multiple_of=3), "2", "$: expected int that's a multiple of 3"),
    (real(ge=1), "0.5", "$: expected float >= 1.0"),
    (real(gt=1), "1", "$: expected float > 1.0"),
    (real(le=1), "2.5", "$: expected float <= 1.0"),
    (real(lt=1), "1", "$: expected float < 1.0"),
    (real(multiple_of=0.5), "0.3", "$: expected float that's a multiple of 0.5"),
    (text(min_length=2), '"a"', "$: expected str of length >= 2"),
    (text(max_length=2), '"abc"', "$: expected str of length <= 2"),
    (Annotated[bytes, Meta(min_length=2)], '""', "$: expected bytes of length >= 2"),
    (Annotated[bytes, Meta(max_length=1)], '"aaaa"', "$: expected bytes of length <= 1"),
    (bytes, '"a"', "$: invalid base64 encoded string"),
    # arrays
    (list[int], '[1,"a"]', "$[1]: expected int, got str"),
    (set[int], "[[]]", "$[0]: expected int, got array"),
    (tuple[int, ...], '["x"]', "$[0]: expected int, got str"),
    (tuple[int, str], "[1,2]", "$[1]: expected str, got int"),
    (tuple[int, str], "[1]", Length("$: expected array of length 2", 1)),
    (Point, "[]", Length("$: expected array of length 1 to 2", 0)),
    (Row, "[1]", "$: expected array of at least length 2, got 1"),
    (Row, '["a",1]', "$[0]: expected int, got str"),
    (Row, "{}", "$: expected array, got object"),
    (Annotated[list[int], Meta(min_length=2)], "[]", "$: expected array of length >= 2"),
    (Annotated[list[int], Meta(max_length=1)], "[1,2]", "$: expected array of length <= 1"),
    # keys
    (dict[str, int], '{"a":"b"}', "$[...]: expected int, got str"),
    (dict[int, int], '{"a":1}', "$: key: expected int, got str"),
    (dict[uuid.UUID, int], '{"a":1}', "$: key: invalid UUID"),
    (list[dict[int, int]], '[{"a":1}]', "$[0]: key: expected int, got str"),
    (Annotated[dict[str, int], Meta(min_length=1)], "{}", "$: expected object of length >= 1"),
    (Annotated[dict[str, int], Meta(max_length=0)], '{"a":1}', "$: expected object of length <= 0"),
    # text that says something else
    (uuid.UUID, '"x"', "$: invalid UUID"),
    (decimal.Decimal, '"x"', "$: invalid decimal string"),
    (decimal.Decimal, "[]", "$: expected decimal, got array"),
    (dt.datetime, '"x"', "$: invalid RFC3339 encoded datetime"),
    (dt.datetime, "1", "$: expected datetime, got int"),
    (dt.date, '"x"', "$: invalid RFC3339 encoded date"),
    (dt.time, '"x"', "$: invalid RFC3339 encoded time"),
    (dt.timedelta, '"x"', "$: invalid ISO8601 duration"),
    (dt.timedelta, '"P99999999999999D"', "$: duration is out of range"),
    (
        Annotated[dt.datetime, Meta(tz=True)],
        '"2020-01-01T00:00:00"',
        "$: expected datetime with a timezone component",
    ),
    (
        Annotated[dt.datetime, Meta(tz=False)],
        '"2020-01-01T00:00:00Z"',
        "$: expected datetime with no timezone component",
    ),
    # what the application says itself, and what it does not mean to say
    (Even, '{"number":1}', "$: give an even number, you"),
    (list[Even], '[{"number":2},{"number":1}]', "$[1]: give an even number, you"),
    (Even, '{"number":-1}', "$: not valid"),
]


# What stands at a place, where it is one of few: the words may be anyone's.
PLACES: list[tuple[Any, str, str]] = [
    (Color, '"green"', "$"),
    (Color | None, '"green"', "$"),
    (Size, "3", "$"),
    (Literal["a", "b"], '"c"', "$"),
    (ArrayJoin | ArraySay, '["x"]', "$[0]"),
    (StructJoin, '{"type":"x"}', "$.type"),
    (list[StructJoin | StructSay], '[{"type":"x"}]', "$[0].type"),
    (Painted, '{"color":"green"}', "$.color"),
    (Painted, '{"color":"a - at `$.b`"}', "$.color"),
    (Painted, '{"sizes":{"x":[1,9]}}', "$.sizes[...][1]"),
    (Painted, '{"pair":["c",1]}', "$.pair[0]"),
    (Painted, '{"pair":["a",2]}', "$.pair[1]"),
    (Painted, '{"what":{"type":"x"}}', "$.what.type"),
    (Painted, '{"many":{"a":[{"type":"x"}]}}', "$.many[...][0].type"),
    (Painted, '{"keys":{"x":1}}', "$.keys: key"),
    (Recursive, '{"inner":{"inner":{"color":"x"}}}', "$.inner.inner.color"),
]


def shown(value: object) -> str:
    """As `repr`, without addresses: the same in each process that runs a part of the tests."""
    return re.sub(r" at 0x\w+", "", repr(value))


def named(case: Any) -> str | None:
    """A short name for a parameter of a test."""
    return case[:40] if isinstance(case, str) else None


class TestWhatIsWrong:
    @pytest.mark.parametrize(("type_", "message", "place"), PLACES, ids=named)
    @CODECS
    def test_the_place_of_a_value_that_is_not_one_of_them(
        self, type_: Any, message: str, place: str, codec: Any
    ) -> None:
        assert reason(message, type_, codec).startswith(f"{place}: ")

    @pytest.mark.parametrize(("type_", "message", "expected"), MSGSPEC, ids=named)
    def test_by_msgspec(self, type_: Any, message: str, expected: str | Length) -> None:
        for kind in (message, message.encode()):
            assert reason(kind, type_) == getattr(expected, "text", expected)

    @pytest.mark.parametrize(("type_", "message", "expected"), MSGSPEC, ids=named)
    def test_the_same_of_what_a_codec_gives(
        self, type_: Any, message: str, expected: str | Length
    ) -> None:
        if isinstance(expected, Length):
            expected = f"{expected.text}, got {expected.got}"
        assert reason(message, type_, json) == expected

    def test_an_error_of_another_kind_is_the_applications(self) -> None:
        with pytest.raises(LookupError, match="a bug"):
            decode("{}", Broken, None)


# What is wrong, by pydantic


class Age(BaseModel):
    name: str
    age: int = 0


class Limits(BaseModel):
    model_config = ConfigDict(extra="forbid")

    color: Color = Color.RED
    word: Literal["q", "r"] = "q"
    slug: str = Field("a", pattern="^a+$")
    count: int = Field(1, ge=1)
    either: int | list[int] = 1
    twice: Annotated[int, Gt(1)] | Annotated[int, Field(le=0)] = 2
    keys: dict[int, int] = {}
    url: pydantic.HttpUrl | None = None
    user: Age | None = None
    users: list[Age] = []
    number: float = 1.0
    by_name: dict[str, Age] = {}

    @pydantic.field_validator("count")
    @classmethod
    def check_count(cls, count: int) -> int:
        if count == 7:
            raise ValueError("seven is\ntaken")
        if count in (8, 9):
            raise AssertionError("eight is taken" if count == 8 else "")
        if count == 10:
            raise LookupError("a bug")
        return count


class SaysOrTells(BaseModel):
    type: Literal["say", "tell"]


class Left(BaseModel):
    kind: Literal["left"]
    size: int
    # The label of the union's member is the name of a field too.
    left: dict[str, Any] | None = None


class Right(BaseModel):
    kind: Literal["right"]
    users: list[Age] = []


class AliasedLeft(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    kind: Literal["left"] = Field(alias="type")


class Bare(BaseModel):
    x: int


class AlsoBare(BaseModel):
    y: int


def side(obj: Any) -> str:
    return str(obj.get("kind") if isinstance(obj, dict) else None)


Sides = Annotated[Left | Right, Field(discriminator="kind")]
Called = Annotated[
    Annotated[Left, pydantic.Tag("left")] | Annotated[Right, pydantic.Tag("right")],
    pydantic.Discriminator(side),
]
Tagged = Annotated[ModelSay | AliasedLeft, Field(discriminator="kind")]
Ids = RootModel[list[int]]
UNPARSED = "expected int, got str"


class Node(BaseModel):
    inner: Node | None = None
    size: Annotated[int, pydantic.BeforeValidator(lambda size: size and f"not {size}")] = 0


@dataclass
class Holder:
    """A dataclass like any, with a model in it."""

    user: Age
    more: list[Age] = field(default_factory=list)


PYDANTIC: list[tuple[Any, str, str]] = [
    (Age, "[]", "$: expected object, got array"),
    (Age, "{}", "$.name: missing"),
    (Age, '{"name":1,"age":"x"}', f"$.name: expected str, got int; $.age: {UNPARSED}"),
    (list[Age], '[{"name":"a"},{}]', "$[1].name: missing"),
    (dict[str, Age], '{"a b":{}}', '$["a b"].name: missing'),
    (Ids, '["x"]', f"$[0]: {UNPARSED}"),
    (Holder, '{"user":{"name":"a"},"more":[{}]}', "$.more[0].name: missing"),
    (Holder, "[]", "$: expected object, got array"),
    (CheckedJoin, "[]", "$: expected object, got array"),
    (CheckedSay, '{"type":"say"}', "$.text: missing"),
    (Limits, '{"slug":"b"}', "$.slug: string should match pattern '^a+$'"),
    (Limits, '{"count":0}', "$.count: input should be greater than or equal to 1"),
    (Limits, '{"count":7}', "$.count: seven is taken"),
    (Limits, '{"count":8}', "$.count: eight is taken"),
    (
        Limits,
        '{"either":{}}',
        "$.either: expected int, got object; $.either: expected array, got object",
    ),
    (Limits, '{"either":["x"]}', f"$.either: expected int, got array; $.either[0]: {UNPARSED}"),
    (Limits, '{"keys":{"a":1}}', f"$.keys.a: {UNPARSED}"),
    (Limits, '{"twice":"x"}', f"$.twice: {UNPARSED}"),
    (Limits, '{"url":"x"}', "$.url: input should be a valid URL, relative URL without a base"),
    (Limits, '{"user":[]}', "$.user: expected object, got array"),
    (Limits, '{"users":[{"name":"a"},{"name":"b","age":"x"}]}', f"$.users[1].age: {UNPARSED}"),
    (Limits, '{"by_name":{"x.y":{}}}', '$.by_name["x.y"].name: missing'),
    (Limits, '{"x":1}', "$.x: unknown field"),
    (
        Limits,
        '{"a":1,"b":2,"c":3,"d":4}',
        "$.a: unknown field; $.b: unknown field; $.c: unknown field",
    ),
    (pydantic.PositiveInt, "0", "$: input should be greater than 0"),
    (Annotated[int, Gt(3)], "3", "$: input should be greater than 3"),
    # unions, with a tag and without
    (Sides, "[]", "$: expected object, got array"),
    (Sides, "{}", "$.kind: missing"),
    (Sides, '{"kind":"up"}', '$.kind: expected "left" or "right", got "up"'),
    (Sides, '{"kind":"left"}', "$.size: missing"),
    (Sides, '{"kind":"left","size":"x","left":{"size":"y"}}', f"$.size: {UNPARSED}"),
    (Sides, '{"kind":"left","left":{"size":1}}', "$.size: missing"),
    (Sides, '{"kind":"right","users":[{"name":"a"},{}]}', "$.users[1].name: missing"),
    (list[Sides], '[{"kind":"left","size":"x"}]', f"$[0].size: {UNPARSED}"),
    (Tagged, '{"type":"up"}', '$.type: expected "say" or "left", got "up"'),
    (Tagged, "{}", "$.type: missing"),
    (Called, '{"kind":"left"}', "$.size: missing"),
    (Left | Right, '{"kind":"up"}', '$.kind: expected "left" or "right", got "up"'),
    (Left | Right, "{}", "$.kind: missing"),
    (Bare | AlsoBare, '{"x":"a"}', f"$.x: {UNPARSED}; $.y: missing"),
    # a long location, and one whose input is not that of the message
    (Node, '{"inner":' * 15 + '{"size":1}' + "}" * 15, f"${'.inner' * 15}.size: {UNPARSED}"),
    (Node, '{"inner":' * 4 + '{"size":1}' + "}" * 4, f"${'.inner' * 4}.size: {UNPARSED}"),
]


class TestWhatIsWrongByPydantic:
    @pytest.mark.parametrize(("type_", "message", "expected"), PYDANTIC, ids=named)
    @CODECS
    def test_reasons(self, type_: Any, message: str, expected: str, codec: Any) -> None:
        assert reason(message, type_, codec) == expected

    def test_an_error_of_another_kind_is_the_applications(self) -> None:
        with pytest.raises(LookupError, match="a bug"):
            decode('{"count":10}', Limits, None)


# What is no JSON

BAD: list[tuple[str | bytes, str]] = [
    ("", "input data was truncated"),
    (b"", "input data was truncated"),
    ("{", "input data was truncated"),
    ("nul", "input data was truncated"),
    ("1 2", "trailing characters (byte 3)"),
    ("'a'", "invalid character (byte 0)"),
    ("NaN", "invalid character (byte 0)"),
    ("-Infinity", "invalid character (byte 1)"),
    ("01", "invalid number (byte 1)"),
    ("[1,]", "trailing comma in array (byte 3)"),
    ('{"a":1,}', "trailing comma in object (byte 7)"),
    ("{1:2}", "object keys must be strings (byte 1)"),
    ('{"a" 1}', "expected ':' (byte 5)"),
    ('"\\x"', "invalid escape character in string (byte 3)"),
    ('"\n"', "invalid character (byte 1)"),
    ('"\\ud800"', "input data was truncated"),
    ('"\\ud800 and more"', "unexpected end of escaped utf-16 surrogate pair (byte 7)"),
    ('"\\ud800\\u0041"', "invalid utf-16 surrogate pair (byte 13)"),
    (b"\xff", "not UTF-8"),
    (b'"\xff"', "not UTF-8"),
    (b'{"\xff":1}', "not UTF-8"),
    (b'{"name":"\xff"}', "not UTF-8"),
    ("\ud800", "not UTF-8"),
]
OPEN = ["[" * 100_000, '{"a":' * 100_000, '[{"inner":' * 50_000]
CLOSED = ["[" * 100_000 + "]" * 100_000, '{"inner":' * 100_000 + "1" + "}" * 100_000]


class TestNotJSON:
    @pytest.mark.parametrize(("message", "expected"), BAD)
    @pytest.mark.parametrize("type_", [Any, Age], ids=["Any", "Age"])
    def test_reasons(self, message: str | bytes, type_: Any, expected: str) -> None:
        assert reason(message, type_).lower() == f"$: not json: {expected}".lower()

    @pytest.mark.parametrize("type_", [User, DictJoin, StructJoin, list[int]])
    def test_the_same_for_types_of_msgspec(self, type_: Any) -> None:
        assert reason("nul", type_).startswith("$: not JSON: ")
        assert reason(b"'", type_) == "$: not JSON: invalid character (byte 0)"

    @pytest.mark.parametrize("message", OPEN + CLOSED, ids=lambda message: message[:10])
    @pytest.mark.parametrize("type_", [Any, list[Any], Recursive, DataJoin | DataSay, Age, Node])
    @CODECS
    def test_nested_deeply(self, message: str, type_: Any, codec: Any) -> None:
        said = reason(message, type_, codec)
        assert said == "$: nested too deeply" or ": expected " in said

    @pytest.mark.parametrize("type_", [Any, float, list[float], Age])
    def test_numbers_that_are_no_floats(self, type_: Any) -> None:
        assert reason("1e999", type_) == "$: number out of range"
        assert reason('{"a":[-1e999]}', Any) == "$[...][0]: number out of range"

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ("", "$: not JSON: expecting value (char 0)"),
            ("[1,", "$: not JSON: expecting value (char 3)"),
            ('{"a" 1}', "$: not JSON: expecting ':' delimiter (char 5)"),
            (b'"\xff"', "$: not JSON: not UTF-8"),
        ],
    )
    def test_by_the_json_module(self, message: str | bytes, expected: str) -> None:
        for type_ in (Any, User, Age, DataJoin | DataSay):
            assert reason(message, type_, json) == expected

    @pytest.mark.parametrize("message", [b'{"a":"\xff"}', b"\xff", b'{x "\xff"', b'["\xc0\x80"]'])
    @pytest.mark.parametrize("type_", [Any, Age])
    def test_what_is_not_utf_8(self, message: bytes, type_: Any) -> None:
        assert reason(message, type_) == "$: not JSON: not UTF-8"

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("JSON is malformed: trailing characters (byte 7)", "trailing characters (byte 7)"),
            ("JSON is malformed: words of a later version (byte 7)", "(byte 7)"),
            ("Words of a later version", ""),
        ],
    )
    def test_words_of_a_later_msgspec_are_left_out(self, words: str, expected: str) -> None:
        said = reason_of(msgspec.DecodeError(words), "[]", lambda: None)
        colon = ":" if expected[:1].isalpha() else ""
        assert said == f"$: not JSON{colon} {expected}".rstrip()

    def test_another_codecs_words_are_not_sent(self) -> None:
        assert reason("", Any, Wrapper()) == "$: not JSON"

    def test_a_codec_of_msgspec(self) -> None:
        class Codec:
            dumps = staticmethod(msgspec.json.encode)
            loads = staticmethod(msgspec.json.decode)

        assert reason("[1,]", User, Codec()) == "$: not JSON: trailing comma in array (byte 3)"

    def test_an_error_of_a_codec_is_its_own(self) -> None:
        class Codec:
            dumps = staticmethod(json.dumps)

            def loads(self, data: str | bytes, /) -> Any:
                raise LookupError("a bug")

        with pytest.raises(LookupError, match="a bug"):
            decode("1", Any, Codec())

    @pytest.mark.parametrize(
        ("message", "decoded"),
        [
            ('{"a":1,"a":2}', {"a": 2}),
            ("9" * 100, int("9" * 100)),
            ("[-0, 1e2, 1.0]", [0, 100.0, 1.0]),
            ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
            (" [ ] ", []),
        ],
    )
    @CODECS
    def test_what_is_json(self, message: str, decoded: object, codec: Any) -> None:
        assert decode(message, Any, codec) == decoded
        assert decode(message.encode(), Any, codec) == decoded

    @pytest.mark.parametrize("type_", [DataJoin, DictJoin, StructJoin, ModelJoin, CheckedJoin])
    @CODECS
    def test_of_a_repeated_key_the_last_counts(self, type_: Any, codec: Any) -> None:
        decoded = decode('{"room":"a","type":"join","room":"b"}', type_, codec)
        assert look(decoded, "room") == "b"

    @pytest.mark.parametrize("type_", [int, Annotated[int, Gt(3)]])
    def test_large_ints(self, type_: Any) -> None:
        assert decode("9" * 100, type_, None) == int("9" * 100)
        assert "out of range" in reason("9" * 5000, type_)


# Tagged unions


class PlainEnum(BaseModel):
    """Whose tag no message has: JSON has strings."""

    type: Literal[Color.RED]


class CamelJoin(BaseModel):
    model_config = ConfigDict(alias_generator=str.upper)

    type: Literal["camel"]


@dataclass
class Versioned:
    """A `Literal` that tells nothing apart stands before the one that does."""

    version: Literal[1, 2]
    color: Literal["red", "blue"]
    type: Literal["versioned"]


@dataclass
class AlsoVersioned:
    version: Literal[1, 2]
    color: Literal["red", "blue"]
    type: Literal["also"]


@dataclass
class First:
    version: Literal[1]
    type: Literal["first"]


@dataclass
class Second:
    version: Literal[1]
    type: Literal["second"]


@dataclass
class Noted:
    type: Annotated[Literal["noted"], "a note"]


@dataclass
class Box(Generic[T]):
    type: Literal["box"]
    content: T


class StructBox(Struct, Generic[T], tag="struct-box"):
    content: T


class StructBag(Struct, Generic[T], tag="struct-bag"):
    content: T


class NullKind(Struct, tag_field="kind", tag="null"):
    pass


@dataclass
class Numbered:
    type: Literal[1]


@dataclass
class Named:
    type: Literal["1"]


@dataclass
class Truth:
    type: Literal[True]


class TestTags:
    @pytest.mark.parametrize(("join", "say"), KINDS.values(), ids=KINDS)
    @CODECS
    def test_a_member_with_its_type(self, join: Any, say: Any, codec: Any) -> None:
        tags = TaggedUnion([join, say])
        for message in (JOIN, JOIN.encode()):
            type_, joined = tags.decode_member(message, codec)
            assert type_ is join
            assert look(joined, "room") == "a"
        type_, said = tags.decode_member(SAY, codec)
        assert type_ is say
        assert (look(said, "text"), look(said, "at")) == ("hi", MOMENT)

    @pytest.mark.parametrize(("join", "say"), KINDS.values(), ids=KINDS)
    @CODECS
    def test_an_unknown_tag(self, join: Any, say: Any, codec: Any) -> None:
        message = '{"at":"2026-01-02T03:04:05Z","type":"x"}'
        plain = {"type": "x", "at": "2026-01-02T03:04:05Z"}
        tags = TaggedUnion([join, say])
        assert tags.decode_member(message, codec) == (None, plain)
        with pytest.raises(UnknownTag) as caught:
            tags.decode(message)
        assert (caught.value.tag, caught.value.message) == ("x", plain)

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ("nul", "$: not JSON"),
            ('{"type":"say","text":"hi"', "$: not JSON"),
            (b'{"type":"say","text":"\xff"}', "$: not JSON"),
            (b'{"type":"x","text":"\xff"}', "$: not JSON"),
            ("[]", "$: expected object, got array"),
            ("null", "$: expected object, got null"),
            ('"say"', "$: expected object, got str"),
            ("{}", "$.type: missing"),
            ('{"text":"hi"}', "$.type: missing"),
            ('{"type":null}', "$.type: expected str, got null"),
            ('{"type":1}', "$.type: expected str, got int"),
            ('{"type":["say"]}', "$.type: expected str, got array"),
            ('{"type":{}}', "$.type: expected str, got object"),
            ('{"type":"join"}', "$.room: missing"),
            ('{"type":"say"}', "$.text: missing"),
            ('{"a":' + "[" * 100_000, "$: nested too deeply"),
            ('{"type":"x","a":' + "[" * 100_000, "$: nested too deeply"),
        ],
        ids=named,
    )
    @pytest.mark.parametrize(("join", "say"), KINDS.values(), ids=KINDS)
    @CODECS
    def test_what_does_not_fit(
        self, join: Any, say: Any, message: str | bytes, expected: str, codec: Any
    ) -> None:
        with pytest.raises(InvalidMessage) as caught:
            TaggedUnion([join, say]).decode_member(message, codec)
        assert (caught.value.code, caught.value.message) == (1007, message)
        assert caught.value.reason.startswith(expected)

    @pytest.mark.parametrize(("join", "say"), KINDS.values(), ids=KINDS)
    def test_of_a_repeated_tag_the_last_counts_or_none(self, join: Any, say: Any) -> None:
        message = '{"type":"join","room":"a","type":"say","text":"hi"}'
        try:
            type_, said = TaggedUnion([join, say]).decode_member(message, None)
        except InvalidMessage as exc:  # msgspec looks at each
            found: Any = exc.reason
        else:
            found = type_, look(said, "text")
        assert found == (say, "hi") or str(found).startswith("$.type: ")

    @pytest.mark.parametrize("type_", [DataJoin, DictJoin, StructJoin, LiteralJoin, ModelJoin])
    @CODECS
    def test_a_single_type(self, type_: Any, codec: Any) -> None:
        tags = TaggedUnion([type_])
        found, joined = tags.decode_member(JOIN, codec)
        assert (found, look(joined, "room")) == (type_, "a")
        with pytest.raises(InvalidMessage, match=r"^\$\.type: missing$"):
            tags.decode_member('{"room":"a"}', codec)
        assert tags.decode_member('{"type":"x"}', codec) == (None, {"type": "x"})

    @pytest.mark.parametrize(
        ("types", "field", "tags"),
        [
            (
                [SaysOrTells, DataJoin],
                "type",
                {"say": SaysOrTells, "tell": SaysOrTells, "join": DataJoin},
            ),
            ([CamelJoin], "TYPE", {"camel": CamelJoin}),
            ([Versioned, AlsoVersioned], "type", {"versioned": Versioned, "also": AlsoVersioned}),
            ([Versioned, DataJoin], "type", {"versioned": Versioned, "join": DataJoin}),
            ([Box[int], DataJoin], "type", {"box": Box[int], "join": DataJoin}),
            ([First, Second], "type", {"first": First, "second": Second}),
            ([Noted, DataJoin], "type", {"noted": Noted, "join": DataJoin}),
            ([One, Two], "type", {1: One, 2: Two}),
            ([One, StructJoin], "type", {1: One, "join": StructJoin}),
            ([Numbered, Named], "type", {1: Numbered, "1": Named}),
            ([Left, Right], "kind", {"left": Left, "right": Right}),
            ([NullKind], "kind", {"null": NullKind}),
        ],
    )
    def test_where_the_tags_are(self, types: list[Any], field: str, tags: dict[Any, Any]) -> None:
        found = Tags(types)
        assert found.field == field
        assert dict(found.types) == tags

    @pytest.mark.parametrize(
        ("types", "expected"),
        [
            ([User], r'User has no tag: give it a field `type: Literal\["join"\]`'),
            ([DataJoin, User], "User has no tag"),
            ([StructJoin, Closed], "Closed has no tag.* or `tag=` if it is a msgspec Struct"),
            ([Bare, ModelJoin], "Bare has no tag"),
            ([Ids], "has no tag"),
            ([RootModel[Literal["a"]]], "has no tag"),
            ([Point], "Point has no tag"),
            ([Truth], "Truth has no tag"),
            ([PlainEnum], "PlainEnum has no tag"),
            ([int], "int has no tag"),
            ([list[DataJoin]], r"list\[.*\] has no tag"),
            ([StructJoin, NullKind], "StructJoin, NullKind have their tags in different fields"),
            ([DataJoin, Left], "DataJoin, Left have their tags in different fields"),
            ([DataJoin, StructJoin], "DataJoin, StructJoin have the same tag in 'type'"),
        ],
        ids=named,
    )
    def test_types_that_cannot_be_told_apart(self, types: list[Any], expected: str) -> None:
        with pytest.raises(TypeError, match=expected):
            Tags(types)

    def test_a_name_that_is_not_there(self) -> None:
        @dataclass
        class Later:
            type: Literal["later"]
            what: NotYet  # type: ignore[name-defined]  # noqa: F821  # that is the test

        with pytest.raises(TypeError, match="Later: name 'NotYet' is not defined: define it"):
            Tags([Later])
        with pytest.raises(TypeError, match=r"Later.*: name 'NotYet' is not defined: define it"):
            decode("{}", Later, None)

    def test_generic_types(self) -> None:
        tags = TaggedUnion([StructBox[int], StructBag[str]])
        assert tags.decode_member('{"type":"struct-box","content":1}', None) == (
            StructBox[int],
            StructBox(1),
        )
        with pytest.raises(InvalidMessage, match=r"^\$\.content: expected str, got int$"):
            tags.decode_member('{"type":"struct-bag","content":1}', None)
        with pytest.raises(InvalidMessage, match=r"^\$\.content: expected int, got str$"):
            TaggedUnion([Box[int], DataJoin]).decode_member('{"type":"box","content":"a"}', None)

    def test_int_tags_are_ints(self) -> None:
        tags = TaggedUnion([Numbered, Named])
        assert tags.decode_member('{"type":1}', None) == (Numbered, Numbered(1))
        assert tags.decode_member('{"type":"1"}', None) == (Named, Named("1"))
        for tag, kind in (("true", "bool"), ("1.0", "float")):
            with pytest.raises(InvalidMessage, match=rf"expected int \| str, got {kind}"):
                tags.decode_member(f'{{"type":{tag}}}', None)

    def test_an_error_of_another_kind_is_the_applications(self) -> None:
        class Bug(Struct, tag="bug"):
            def __post_init__(self) -> None:
                raise LookupError("a bug")

        with pytest.raises(LookupError, match="a bug"):
            TaggedUnion([Bug, StructJoin]).decode_member('{"type":"bug"}', None)


class TestUnions:
    @pytest.mark.parametrize(("join", "say"), KINDS.values(), ids=KINDS)
    @CODECS
    def test_members(self, join: Any, say: Any, codec: Any) -> None:
        for union in (join | say, say | join | None, union_of(join, say, int, list[int])):
            assert look(decode(JOIN, union, codec), "room") == "a"
            assert look(decode(SAY.encode(), union, codec), "at") == MOMENT
            assert look(decode(f" \t\r\n{JOIN}", union, codec), "room") == "a"

    @pytest.mark.parametrize(("join", "say"), KINDS.values(), ids=KINDS)
    @CODECS
    def test_other_members(self, join: Any, say: Any, codec: Any) -> None:
        assert decode("null", join | say | None, codec) is None
        union = union_of(join, say, int, list[int])
        assert decode("5", union, codec) == 5
        assert decode(b" [1]", union, codec) == [1]
        assert reason("null", union, codec).endswith("array, got null")
        assert reason('["a"]', union, codec) == "$[0]: expected int, got str"

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ('{"type":"x"}', '$.type: expected "join" or "say", got "x"'),
            ("{}", "$.type: missing"),
            ('{"type":5}', "$.type: expected str, got int"),
            ("[]", "$: expected object, got array"),
            ('"join"', "$: expected object, got str"),
            ('{"type":"join"}', "$.room: missing"),
        ],
        ids=named,
    )
    @pytest.mark.parametrize(("join", "say"), KINDS.values(), ids=KINDS)
    @CODECS
    def test_what_does_not_fit(
        self, join: Any, say: Any, message: str, expected: str, codec: Any
    ) -> None:
        assert reason(message, join | say, codec) == expected

    @pytest.mark.parametrize(
        "union",
        [
            Annotated[DataJoin | DataSay, "a note"],
            Annotated[DataJoin, "a note"] | DataSay,
            TypeAlias("Alias", DataJoin | DataSay),
            TypeAlias("Alias", DataJoin) | DataSay,
            union_of(Annotated[DataJoin | DataSay, "a note"], None),
            OPTIONAL,
            Annotated[ModelJoin | SaysOrTells, Field(discriminator="type")],
            union_of(Annotated[ModelJoin, Field(description="a note")], ModelSay, None),
            union_of(Annotated[ModelJoin, pydantic.AfterValidator(lambda join: join)], ModelSay),
        ],
    )
    def test_seen_through(self, union: Any) -> None:
        assert look(decode(JOIN, union, None), "room") == "a"

    def test_models_without_a_tag(self) -> None:
        assert decode('{"y":1}', Bare | AlsoBare, None) == AlsoBare(y=1)
        assert decode("[1]", Ids | Bare, None) == Ids([1])
        assert decode('{"x":1}', Ids | Bare, None) == Bare(x=1)

    def test_structs_within_another_type(self) -> None:
        type_ = dict[str, list[StructJoin | StructSay]]
        assert decode(f'{{"a":[{JOIN}]}}', type_, None) == {"a": [StructJoin("a")]}

    def test_models_within_another_type(self) -> None:
        type_ = dict[str, list[ModelJoin | Left]]
        assert decode(f'{{"a":[{JOIN}]}}', type_, None) == {"a": [ModelJoin(type="join", room="a")]}

    def test_an_array_beside_objects(self) -> None:
        union = ArrayJoin | DataJoin | DataSay
        assert decode('["join",1]', union, None) == ArrayJoin(1)
        assert decode(JOIN, union, None) == DataJoin("join", "a")


class TestMembers:
    @pytest.mark.parametrize(
        ("type_", "expected"),
        [
            (DataJoin, (DataJoin,)),
            (int, (int,)),
            (list[int], (list[int],)),
            (Any, (Any,)),
            (DataJoin | DataSay, (DataJoin, DataSay)),
            (DataJoin | None, (DataJoin, type(None))),
            (OPTIONAL, (DataJoin, DataSay, type(None))),
            (Annotated[DataJoin | DataSay, Field()], (DataJoin, DataSay)),
            (Annotated[DataJoin, 1] | Annotated[DataSay, 2], (DataJoin, DataSay)),
            (
                Annotated[union_of(Annotated[DataJoin | DataSay, 1], None), 2],
                (DataJoin, DataSay, type(None)),
            ),
            (Box[int] | DataJoin, (Box[int], DataJoin)),
        ],
    )
    def test_of_a_type(self, type_: Any, expected: tuple[Any, ...]) -> None:
        assert members(type_) == expected

    def test_of_an_alias(self) -> None:
        alias = TypeAlias("alias", DataJoin | DataSay)
        more = TypeAlias("more", alias | Annotated[DictJoin | DataJoin, 1])
        assert members(alias) == (DataJoin, DataSay)
        assert members(more) == (DataJoin, DataSay, DictJoin)
        assert members(Annotated[more, 1]) == members(more)
        assert [type_.__name__ for type_ in Tags(members(alias)).types.values()] == [
            "DataJoin",
            "DataSay",
        ]

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="its syntax is of Python 3.12")
    def test_of_pythons_own_alias(self) -> None:
        names: dict[str, Any] = {"A": DataJoin, "B": DataSay}
        exec("type Both = A | B", names)
        assert members(names["Both"]) == (DataJoin, DataSay)
        assert decode(JOIN, names["Both"], None) == DataJoin("join", "a")


# Types


class Foreign:
    """A class that neither msgspec nor pydantic knows."""


class OfModel(Struct):
    user: Age


class TestUndecodable:
    @pytest.mark.parametrize(
        ("type_", "message", "expected"),
        [
            (5, "1", "cannot decode to 5: Type '5' is not supported; use"),
            ("DataJoin", "1", "cannot decode to DataJoin: .*; use"),
            (User | Closed, "{}", r"cannot decode to .*User \| .*Closed"),
            (Closed | Even, "{}", r"cannot decode to .*Closed \| .*Even"),
            (DataJoin | StructJoin, "{}", "cannot decode to"),
            (list[DataJoin | DataSay], "[]", r"cannot decode to list\[.*DataJoin \| .*DataSay"),
            (DataJoin | Foreign, "{}", "cannot decode to"),
            (OfModel, "{}", "cannot decode to OfModel"),
            (list[StructJoin | ModelSay], "[]", "cannot decode to list"),
        ],
        ids=named,
    )
    @CODECS
    def test_is_a_programmers_error(
        self, type_: Any, message: str, expected: str, codec: Any
    ) -> None:
        for _ in range(2):  # the error is not kept
            with pytest.raises(TypeError, match=expected) as caught:
                decode(message, type_, codec)
            assert str(caught.value)

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="only pydantic before Python 3.12")
    def test_the_typed_dict_that_pydantic_needs(self) -> None:
        class Old(TypedDict):
            user: Age

        with pytest.raises(TypeError, match=r"use `typing_extensions\.TypedDict`"):
            decode("{}", Old, None)

    def test_a_type_that_is_defined_later(self) -> None:
        names: dict[str, Any] = {"dataclass": dataclass}
        exec("@dataclass\nclass First:\n    second: 'Second'", names)
        first = names["First"]
        first.__module__ = module = "tests_of_a_type_that_is_defined_later"
        sys.modules[module] = type(sys)(module)
        try:
            with pytest.raises(TypeError, match="name 'Second' is not defined"):
                decode('{"second":1}', first, None)
            vars(sys.modules[module])["Second"] = int
            assert decode('{"second":1}', first, None).second == 1
        finally:
            del sys.modules[module]


class TestTypesOfBoth:
    @pytest.mark.parametrize(
        ("type_", "message", "expected"),
        [
            (Holder, '{"user":{"name":"a","age":"7"}}', Holder(Age(name="a", age=7))),
            (dict[str, tuple[Age, ...]], '{"x":[{"name":"a"}]}', {"x": (Age(name="a"),)}),
            (Age | None, "null", None),
            (Ids, "[1]", Ids([1])),
            (pydantic.PositiveInt, "1", 1),
            (typing.NewType("Count", int), "1", 1),
            (typing.Sequence[int], "[1]", [1]),
            (object, "[1]", [1]),
        ],
        ids=named,
    )
    @CODECS
    def test_decode(self, type_: Any, message: str, expected: object, codec: Any) -> None:
        assert decode(message, type_, codec) == expected

    def test_a_stdlib_dataclass_is_not_checked_by_pydantic(self) -> None:
        assert reason('{"name":"a","age":"7"}', User) == "$.age: expected int, got str"


class TestCache:
    def test_equal_values_of_a_literal_are_not_the_same(self) -> None:
        assert decode("1", Literal[1], None) == 1
        assert decode("true", list[Literal[1]] | bool, None) is True
        assert reason("true", Literal[1]) == "$: expected int, got bool"

    def test_types_without_a_hash(self) -> None:
        first = Annotated[Left | Right, Field(discriminator="kind"), []]
        second = Annotated[Right | ModelLeft, Field(discriminator="kind"), []]
        for type_ in (first, second):
            with pytest.raises(TypeError):
                hash(type_)
        message = '{"kind":"left","size":1}'
        for _ in range(3):
            assert decode(message, first, None) == Left(kind="left", size=1)
            assert decode(message, second, None) == ModelLeft(kind="left")

    def test_types_without_a_hash_that_are_gone(self) -> None:
        """Their ids are those of others then."""
        for number in range(300):
            for join, say in KINDS.values():
                type_: Any = Annotated[join | say, []]
                assert type(decode(JOIN, type_, None)) in (join, dict)
                del type_
            type_ = Annotated[int, Field(ge=number), []]
            assert decode(str(number), type_, None) == number
            del type_

    def test_in_threads(self) -> None:
        types = [msgspec.defstruct(f"T{i}", [("x", int)]) for i in range(400)]
        start = threading.Barrier(8)
        decoded: list[int] = []

        def work() -> None:
            start.wait()
            for type_ in types:
                decoded.append(decode('{"x":1}', type_, None).x)  # noqa: PERF401  # one by one

        threads = [threading.Thread(target=work) for _ in range(8)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # they take turns in the middle of everything
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert decoded == [1] * 8 * len(types)


class ModelLeft(BaseModel):
    kind: Literal["left"]


WITHOUT_PYDANTIC = """
import sys
from dataclasses import dataclass
from typing import Literal

import msgspec
import unisock
from unisock.messages import TaggedUnion, decode, encode
from unisock.reasons import reason_of

@dataclass
class Join:
    type: Literal["join"]
    ids: list[int]

class Leave(msgspec.Struct, tag="leave"):
    pass

@dataclass
class Say:
    type: Literal["say"]

for type_ in (Join, Join | Say, Join | Leave | None, dict[str, object]):
    decode('{"type":"join","ids":[1]}', type_, None)
try:
    decode('{"type":"x","ids":["1"]}', Join, None)
except unisock.InvalidMessage:
    pass
TaggedUnion([Join, Leave]).decode_member('{"type":"leave"}', None)
encode([Join("join", [None]), Leave()], None)
assert not [name for name in sys.modules if name.partition(".")[0].startswith("pydantic")]
"""
HIDDEN = """
import sys
import annotated_types, typing
sys.modules["pydantic"] = None
from unisock.messages import decode
try:
    decode("1", typing.Annotated[int, annotated_types.Gt(3)], None)
except ImportError as exc:
    assert exc.name == "pydantic", exc
else:
    raise AssertionError("the constraint was passed over")
"""


@pytest.mark.parametrize("program", [WITHOUT_PYDANTIC, HIDDEN])
def test_pydantic_is_imported_for_its_own_types_only(program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


# Sending


class Reading(BaseModel):
    """Numbers that JSON may not have."""

    value: float | None = None
    anything: Any = None
    inner: Reading | None = None


class Aliased(BaseModel):
    kind: str = Field("a", alias="type")
    when: dt.date = dt.date(2026, 1, 2)

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as pydantic's manual has it
    @property
    def year(self) -> int:
        return self.when.year


class Dumped(BaseModel):
    x: int = 1

    def model_dump(self, **kwargs: Any) -> dict[str, Any]:
        return {"dumped": super().model_dump(**kwargs)}


@dataclass
class Envelope:
    body: Any
    seen: bool = False


@dataclass(frozen=True, slots=True)
class Frozen:
    body: Any


class Parcel(Struct, tag="parcel", frozen=True, rename={"body": "b"}):
    body: Any


def aliased() -> Aliased:
    return Aliased.model_validate({})


ALIASED = '{"type":"a","when":"2026-01-02","year":2026}'


class TestEncode:
    @pytest.mark.parametrize(
        ("obj", "expected"),
        [
            (aliased(), ALIASED),
            ([aliased()], f"[{ALIASED}]"),
            ({"x": (aliased(),)}, f'{{"x":[{ALIASED}]}}'),
            (Envelope(aliased()), f'{{"body":{ALIASED},"seen":false}}'),
            (Parcel([aliased()]), f'{{"type":"parcel","b":[{ALIASED}]}}'),
            (Ids([1, 2]), "[1,2]"),
            ([Ids([])], "[[]]"),
            (Dumped(), '{"dumped":{"x":1}}'),
            (Reading(), '{"value":null,"anything":null,"inner":null}'),
            (msgspec.Raw(b"null"), "null"),
            ([None, msgspec.Raw(b'{"x": 1}')], '[null,{"x": 1}]'),
            ({uuid.UUID(int=5): Frozen(1)}, f'{{"{uuid.UUID(int=5)}":{{"body":1}}}}'),
            (math.pi, "3.141592653589793"),
        ],
        ids=shown,
    )
    def test_compact(self, obj: Any, expected: str) -> None:
        assert encode(obj, None) == expected.encode()
        for codec in OTHER_CODECS:
            assert json.loads(encode(obj, codec)) == json.loads(expected)

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda number: number,
            lambda number: [None, {"x": (number,)}],
            lambda number: {1, number},
            Envelope,
            Parcel,
            lambda number: Envelope([Parcel({"x": number})]),
            lambda number: {"value": number},
            lambda number: Reading(value=number),
            lambda number: Reading(anything=number),
            lambda number: Reading(anything={"x": [number]}),
            lambda number: Reading(inner=Reading(anything=(number,))),
            lambda number: [Envelope(Reading(anything=number))],
            RootModel[Any],
        ],
    )
    def test_what_is_no_number(self, wrap: Callable[[float], Any], number: float) -> None:
        with pytest.raises(TypeError, match=r"cannot be sent as JSON: .* is not a JSON number"):
            encode(wrap(number), None)

    @pytest.mark.parametrize(
        "obj",
        [
            object(),
            [Envelope(Foreign())],
            Reading(anything=Foreign()),
            {(1, 2): 3},
            Envelope,
            1j,
            "\ud800",
            Envelope("\ud800"),
        ],
        ids=shown,
    )
    def test_what_json_cannot_say(self, obj: Any) -> None:
        with pytest.raises(TypeError):
            encode(obj, None)

    def test_what_goes_round(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        deep: Any = None
        for _ in range(100_000):
            deep = [deep]
        for obj in (loop, Envelope(loop), Reading(anything=loop), deep):
            for codec in (None, *OTHER_CODECS):
                with pytest.raises(TypeError):
                    encode(obj, codec)

    @CODECS
    def test_keys_are_text(self, codec: Any) -> None:
        class Text(str):
            __slots__ = ()

        class Number(float):
            __slots__ = ()

        class Id(int):
            pass

        keys: dict[Any, str] = {
            True: "true",
            None: "null",
            2: "2",
            -0.0: "-0.0",
            10**30: "1" + "0" * 30,
            1.5: "1.5",
            uuid.UUID(int=5): str(uuid.UUID(int=5)),
            dt.date(2026, 1, 2): "2026-01-02",
            dt.timedelta(1): "P1D",
            decimal.Decimal("1.10"): "1.10",
            Color.RED: "red",
            b"hi": "aGk=",
            Text("t"): "t",
            Number(2.5): "2.5",
            Id(7): "7",
        }
        for key, text in keys.items():
            assert json.loads(encode([{key: 1}], codec)) == [{text: 1}]
            in_text, in_key = (encode(Envelope({k: 1}), codec) for k in (text, key))
            assert in_key == in_text

    @pytest.mark.parametrize("key", [(1, 2), frozenset([1]), object(), 1j], ids=shown)
    @CODECS
    def test_what_is_no_key(self, key: Any, codec: Any) -> None:
        for obj in ({key: 1}, Envelope({key: 1})):
            with pytest.raises(TypeError):
                encode(obj, codec)

    @pytest.mark.parametrize("key", [math.nan, math.inf, -math.inf])
    @CODECS
    def test_a_key_that_is_no_number(self, key: float, codec: Any) -> None:
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            encode({key: 1}, codec)
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            encode({1: {"a": [{key: 1}]}}, codec)

    @CODECS
    def test_subclasses_of_plain_types(self, codec: Any) -> None:
        class Text(str):
            __slots__ = ()

        class Number(float):
            __slots__ = ()

        obj = {"x": [Text("a"), Number(1.5), Size.LARGE, Color.RED, Point(1)]}
        assert json.loads(encode(obj, codec)) == {"x": ["a", 1.5, 2, "red", [1, 0]]}


class Strange(TypeError):
    """An error of a codec's own."""


class Picky:
    """A codec that knows nothing but lists, and no models in them."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def dumps(self, obj: Any, /) -> str:
        self.asked.append(obj)
        if isinstance(obj, (list, tuple)) and not isinstance(obj[0], Aliased):
            return f"list of {len(obj)}"
        raise Strange(f"not for {type(obj).__name__}")

    def loads(self, data: str | bytes, /) -> Any:
        return data


class TestCodec:
    def test_it_is_asked_first(self) -> None:
        codec = Picky()
        obj = [Foreign()]
        assert encode(obj, codec) == "list of 1"
        assert codec.asked == [obj]
        assert codec.asked[0] is obj

    def test_it_is_given_plain_objects_then(self) -> None:
        codec = Picky()
        assert encode([aliased(), dt.date(2026, 1, 2)], codec) == "list of 2"
        assert codec.asked[1] == [json.loads(ALIASED), "2026-01-02"]

    @pytest.mark.parametrize("obj", [Envelope(1), Foreign(), {"x": 1j}, {(1, 2): 3}], ids=shown)
    def test_its_first_error_is_raised(self, obj: Any) -> None:
        with pytest.raises(Strange, match=f"not for {type(obj).__name__}"):
            encode(obj, Picky())

    def test_its_other_errors(self) -> None:
        class Codec(Picky):
            def dumps(self, obj: Any, /) -> str:
                raise obj

        for exc in (ValueError("no"), OverflowError("no"), RecursionError("no")):
            with pytest.raises(TypeError, match="cannot be sent as JSON: no"):
                encode(exc, Codec())
        with pytest.raises(LookupError, match="a bug"):
            encode(LookupError("a bug"), Codec())

    @pytest.mark.parametrize("type_", [Any, int, None])
    def test_it_has_its_own_idea_of_numbers(self, type_: Any) -> None:
        assert math.isnan(decode("NaN", float, json))

    @pytest.mark.parametrize("obj", [[math.nan], {"x": -math.inf}, {math.nan: 1}], ids=shown)
    def test_but_not_of_what_is_no_number(self, obj: Any) -> None:
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            encode(obj, json)

    def test_what_only_the_codec_knows_is_left_to_it(self) -> None:
        class Codec:
            loads = staticmethod(json.loads)

            def __init__(self, known: object) -> None:
                self.known = known

            def dumps(self, obj: Any, /) -> bytes:
                return json.dumps(obj, default=lambda _: self.known).encode()

        assert encode([Foreign()], Codec(None)) == b"[null]"
        assert encode([Foreign()], Codec("NaN null")) == b'["NaN null"]'
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            encode([Foreign()], Codec(math.nan))

    def test_objects_of_its_own(self) -> None:
        class Codec:
            dumps = staticmethod(json.dumps)

            def loads(self, data: str | bytes, /) -> Any:
                return json.loads(data, parse_float=decimal.Decimal)

        assert decode("1.10", decimal.Decimal, Codec()) == decimal.Decimal("1.10")
        assert decode('{"value":1.5}', Reading, Codec()) == Reading(value=1.5)
        assert decode("1.5", Any, Codec()) == decimal.Decimal("1.5")


@dataclass
class Everything:
    none: None
    flag: bool
    number: int
    large: int
    real: float
    text: str
    data: bytes
    moment: dt.datetime
    day: dt.date
    time: dt.time
    span: dt.timedelta
    id: uuid.UUID
    exact: decimal.Decimal
    color: Color
    size: Size
    point: Point
    pair: tuple[int, str]
    some: set[int]
    row: Row
    by_number: dict[int, str]
    by_id: dict[uuid.UUID, User]
    what: StructJoin | StructSay | None
    maybe: User | None = None


class EverythingModel(BaseModel):
    kind: Literal["everything"] = Field("everything", alias="type")
    data: bytes
    moment: dt.datetime
    day: dt.date
    time: dt.time
    span: dt.timedelta
    id: uuid.UUID
    exact: decimal.Decimal
    color: Color
    size: Size
    pair: tuple[int, str]
    some: frozenset[int]
    by_number: dict[int, str]
    url: pydantic.HttpUrl
    checked: CheckedSay
    more: list[CheckedSay]
    users: Ids
    side: Sides


EVERYTHING = {
    "none": None,
    "flag": True,
    "number": -5,
    "large": 10**30,
    "real": 0.1,
    "text": "gr\u00fc\u00df\n\U0001f600",
    "data": "aGk=",
    "moment": "2026-01-02T03:04:05.678Z",
    "day": "2026-01-02",
    "time": "03:04:05",
    "span": "P1DT2S",
    "id": str(uuid.UUID(int=5)),
    "exact": "1.10",
    "color": "blue",
    "size": 2,
    "point": [1, 2],
    "pair": [1, "a"],
    "some": [1, 2],
    "row": [1, 2],
    "by_number": {"1": "a"},
    "by_id": {str(uuid.UUID(int=6)): {"name": "a", "age": 1}},
    "what": {"type": "say", "text": "hi"},
    "type": "everything",
    "url": "http://a.b/c",
    "checked": json.loads(SAY),
    "more": [json.loads(SAY)],
    "users": [1],
    "side": {"kind": "left", "size": 1},
}

ROUND: list[tuple[Any, str]] = [
    *((join, JOIN) for join, _ in KINDS.values()),
    *((say, SAY) for _, say in KINDS.values()),
    *((join | say | None, SAY) for join, say in KINDS.values()),
    *((types.GenericAlias(list, say), f"[{SAY}]") for _, say in KINDS.values()),
    (StructJoin | StructSay, JOIN),
    (dict[str, list[StructJoin | StructSay]], f'{{"a":[{JOIN},{SAY}]}}'),
    (Sides, '{"kind":"right","users":[{"name":"a"}]}'),
    (list[Sides], '[{"kind":"left","size":1}]'),
    (Everything, json.dumps(EVERYTHING)),
    (EverythingModel, json.dumps(EVERYTHING)),
    (Holder, '{"user":{"name":"a"},"more":[{"name":"b","age":2}]}'),
    (Ids, "[1,2]"),
    (Recursive, '{"inner":{"inner":{"color":"blue"}}}'),
    (ArrayJoin | ArraySay, '["say",1]'),
    (Box[User], '{"type":"box","content":{"name":"a"}}'),
    (StructBox[set[int]], '{"type":"struct-box","content":[1]}'),
    (SaysOrTells, '{"type":"tell"}'),
    (CamelJoin, '{"TYPE":"camel"}'),
    (int | None, "null"),
    (Any, json.dumps(EVERYTHING)),
]


@pytest.mark.parametrize(("type_", "message"), ROUND, ids=named)
@CODECS
def test_what_is_decoded_is_encoded_again(type_: Any, message: str, codec: Any) -> None:
    decoded = decode(message, type_, codec)
    encoded = encode(decoded, codec)
    assert decode(encoded, type_, codec) == decoded
    assert encode(decode(encoded, type_, codec), codec) == encoded


NASTY = [
    '{"type":"%s"}',
    '{"type":"say","text":{"%s":1}}',
    '{"%s":"%s"}',
    '{"name":"a","age":"%s"}',
    '[{"type":"%s","%s":1}]',
    '"%s"',
    "%s",
    '{"x":1,"%s":{"%s":[]}}',
    '{"user":{"name":["%s"]}}',
    '{"kind":"%s","size":"%s"}',
]


@pytest.mark.parametrize("nasty", NASTY)
@pytest.mark.parametrize(
    "text",
    [
        "y" * 100_000,
        "a - at `$.b`",
        "`",
        "\\u0000\\n\\r\\u2028\\u001b[31m",
        "\N{RIGHT-TO-LEFT OVERRIDE}\N{ZERO WIDTH SPACE}",
        "%(x)s{y}",
        "http://a.b",
    ],
    ids=named,
)
@CODECS
def test_a_reason_is_fit_to_be_sent(nasty: str, text: str, codec: Any) -> None:
    """Whatever comes: one short line without the names of classes."""
    message = nasty.replace("%s", text)
    types = [type_ for type_, *_ in [*MSGSPEC, *PYDANTIC]]
    types += [join | say for join, say in KINDS.values()]
    reasons = [said for type_ in types if (said := reason_if_any(message, type_, codec))]
    assert reasons
    for said in reasons:
        assert said.startswith("$")
        assert said.isprintable()
        assert len(said) < 800
        assert not any(name in said for name in CLASSES), said


def reason_if_any(message: str, type_: Any, codec: Any) -> str | None:
    try:
        decode(message, type_, codec)
    except InvalidMessage as exc:
        return exc.reason
    return None


CLASSES = [
    name
    for name, value in globals().items()
    if isinstance(value, type) and value.__module__ == __name__ and name not in ("Any", "Left")
]


class Unknown:
    """A class that neither library knows."""


@CODECS
def test_a_class_that_json_is_not_decoded_to(codec: Any) -> None:
    """It is the programmer's error, and not the peer's; its name is not sent."""

    @dataclass
    class Holder:
        type: Literal["holder"]
        value: Unknown

    with pytest.raises(TypeError, match="cannot decode to Unknown: use JSON's own types"):
        decode("[]", Unknown, codec)
    with pytest.raises(TypeError, match="cannot decode to Unknown: use JSON's own types"):
        TaggedUnion([Holder]).decode_member('{"type":"holder","value":{}}', codec)


def test_a_union_without_members() -> None:
    with pytest.raises(TypeError, match="a union of messages has members"):
        TaggedUnion([])


def test_a_validator_beside_a_union_is_run() -> None:
    def refuse(value: BaseModel) -> BaseModel:
        raise ValueError("not this one")

    class Left(BaseModel):
        type: Literal["left"]

    class Right(BaseModel):
        type: Literal["right"]

    checked = Annotated[Left, pydantic.AfterValidator(refuse)] | Right
    assert decode('{"type":"right"}', checked, None) == Right(type="right")
    with pytest.raises(InvalidMessage, match="not this one"):
        decode('{"type":"left"}', checked, None)


def test_subclasses_of_jsons_own_types_are_sent_as_these() -> None:
    class Number(int):
        pass

    class Ratio(float):
        pass

    assert encode([Number(1), Ratio(0.5)], None) == b"[1,0.5]"


def test_a_constraint_of_pydantic_within_a_type() -> None:
    numbers = list[Annotated[int, pydantic.Field(ge=1)]]
    assert decode("[1, 2]", numbers, None) == [1, 2]
    with pytest.raises(InvalidMessage, match=r"\$\[1\]: input should be greater than or equal"):
        decode("[1, 0]", numbers, None)


def test_a_model_and_a_codec_whose_text_is_not_json() -> None:
    class Model(pydantic.BaseModel):
        n: int

    class Words:
        dumps = staticmethod(str)

        @staticmethod
        def loads(message: str | bytes) -> Any:
            return {"n": str(message)}

    with pytest.raises(InvalidMessage, match="expected int, got str"):
        decode("many", Model, Words())
