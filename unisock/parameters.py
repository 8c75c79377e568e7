"""The parameters of a handler: what each stands for, and its value on a connection.

==================================  ==================================================
annotated as a `WebSocket`          the connection; if none is, the first parameter
a name that stands in the path      that parameter of the path
``Annotated[…, Depends(…)]``        see `unisock.dependencies`
``Annotated[…, Header()]``          a header
``Annotated[…, Cookie()]``          a cookie
anything else, or ``Query()``       a parameter of the query
==================================  ==================================================

What a client has sent is converted to the annotated type by msgspec.  A list gets all values of
a repeated name, another type the first.  With `Query`, `Header` or `Cookie` a type with fields,
as a dataclass or a pydantic model, gets a value for each field.
"""

from __future__ import annotations

import json
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, isclass, unwrap
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import inspect as info

from .annotations import fields_of, is_model, is_object, members, name_of
from .connection import Connection
from .handshake import Handshake
from .markers import Cookie, Depends, Header, Query
from .paths import Parameter as PathParameter
from .paths import PathTemplate
from .printing import escaped
from .reasons import reason_of
from .runtime import name_of as name_of_function
from .runtime import passed_to

_MARKERS = (Query, Header, Cookie, Depends)
_MOST_OF_VALUE = 50
_MISSING = object()
_COLLECTIONS = (list, set, frozenset, tuple)
_LISTS = (info.ListType, info.SetType, info.FrozenSetType, info.VarTupleType)
_SCALARS = (
    info.AnyType, info.NoneType, info.BoolType, info.IntType, info.FloatType,
    info.StrType, info.BytesType, info.DecimalType, info.UUIDType,
    info.DateTimeType, info.DateType, info.TimeType, info.TimeDeltaType,
    info.EnumType, info.LiteralType,
)  # fmt: skip
# What a converted parameter of the path may be.
_OF_CONVERTER: Mapping[str, tuple[type[info.Type], ...]] = {
    "int": (
        info.AnyType, info.IntType, info.FloatType, info.DecimalType,
        info.EnumType, info.LiteralType,
    ),
    "float": (info.AnyType, info.FloatType, info.DecimalType),
    "uuid": (info.AnyType, info.UUIDType),
}  # fmt: skip
_GOT = re.compile(r"(expected .*), got [a-z]+")

Place = Literal["path", "query", "header", "cookie"]
Injects: TypeAlias = Callable[[object], bool]
"""Whether what stands in `Annotated`, or is a default, is for the framework to inject."""


def injects_nothing(_: object) -> bool:
    """As most frameworks."""
    return False


class BadParameter(Exception):
    """What a client has sent for a parameter does not fit.

    Attributes:
        problems: what is wrong, a line each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument that a function is called with.

    Attributes:
        name: its name.
        source: a `Value`, a `Depends`, the `Parameter` that the framework injects, or `None`
            for the WebSocket.
        is_positional: whether it has no name for a caller.
    """

    name: str
    source: Value | Depends | Parameter | None
    is_positional: bool


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A value of the handshake.

    Attributes:
        name: the parameter's.
        where: where it is; `None`: in the path if that has the name, else in the query.
        key: its name there.
        type: what it is converted to.
        default: what it is where the client sends none; `_MISSING`: it is required.
        fields: if the type has fields: the key of each, and whether it takes a list.
        takes_list: whether it gets all values of the key.
    """

    name: str
    where: Literal["query", "header", "cookie"] | None
    key: str
    type: Any
    default: Any
    fields: Mapping[str, tuple[str, bool]] | None
    takes_list: bool

    def read(self, handshake: Handshake) -> Any:
        """The value on one connection.

        Raises:
            BadParameter: it is missing, or does not fit the type.
        """
        if self.where is None and self.name in handshake.path_params:
            found = handshake.path_params[self.name]
            return found if self.type is Any else self._convert("path", found)
        where = self.where or "query"
        values_of = _READERS[where]
        if self.fields is not None:
            return self._convert(where, self._object(partial(values_of, handshake)))
        found = values_of(handshake, self.key)
        if not found:
            if self.default is _MISSING:
                raise BadParameter(f"{_describe(where, self.key)} is missing")
            return self.default
        given = found if self.takes_list else found[0]
        return given if self.type in (str, Any) else self._convert(where, given)

    def _object(self, values_of: Callable[[str], Sequence[str]]) -> dict[str, Any]:
        assert self.fields is not None
        found = {field: (values_of(key), many) for field, (key, many) in self.fields.items()}
        return {
            field: values if many else values[0]
            for field, (values, many) in found.items()
            if values
        }

    def _convert(self, where: Place, given: Any) -> Any:
        try:
            if is_model(self.type):
                return self.type.model_validate(given)
            value = msgspec.convert(given, self.type, strict=False)
        except Exception as exc:
            if not isinstance(exc, ValueError):  # what both libraries raise is one
                raise
            # Of an object each field that is wrong is told.
            reasons = reason_of(exc, "", lambda: given).removeprefix("$").split("; $")
            raise BadParameter(*(self._why(where, given, each) for each in reasons)) from exc
        for each in value if self.takes_list else (value,):
            if isinstance(each, float) and not math.isfinite(each):
                words = f"expected a finite float, got {_quote(str(each))}"
                raise BadParameter(f"{_describe(where, self.key)}: {words}")
        return value

    def _why(self, where: Place, given: Any, reason: str) -> str:
        """What is wrong, from a reason as "[1]: expected int, got str"."""
        path, _, words = reason.partition(": ")
        key = self.key
        value = given
        if self.fields is not None:
            field, bracket, path = path.removeprefix(".").partition("[")
            key = self.fields[field][0] if field in self.fields else field
            value = given.get(field)
            path = bracket + path
        number = re.fullmatch(r"\[(\d+)\]", path)
        if number is not None and isinstance(value, list):
            value = value[int(number[1])]
        if words == "missing":
            return f"{_describe(where, key)} is missing"
        got = _GOT.fullmatch(words)
        if got is not None and isinstance(value, str):
            words = f"{got[1]}, got {_quote(value)}"
        return f"{_describe(where, key)}: {words}"


def _quote(text: str) -> str:
    cut = text if len(text) <= _MOST_OF_VALUE else f"{text[:_MOST_OF_VALUE]}…"
    return escaped(json.dumps(cut, ensure_ascii=False))


def _describe(where: Place, key: str) -> str:
    kind = where if where in ("header", "cookie") else f"{where} parameter"
    return f"{kind} {_quote(key)}"


def _query(handshake: Handshake, key: str) -> Sequence[str]:
    return handshake.query_params.getall(key, ())


def _header(handshake: Handshake, key: str) -> Sequence[str]:
    return handshake.header_values(key.lower())


def _cookie(handshake: Handshake, key: str) -> Sequence[str]:
    value = handshake.cookies.get(key)
    return () if value is None else [value]


_READERS: Mapping[str, Callable[[Handshake, str], Sequence[str]]] = {
    "query": _query,
    "header": _header,
    "cookie": _cookie,
}


# At mount


def arguments_of(
    function: Callable[..., Any],
    *,
    owner: str | None = None,
    first_is_websocket: bool = False,
    injects: Injects = injects_nothing,
) -> tuple[Argument, ...]:
    """What `function` is to be called with.

    Args:
        function: a handler, a dependency, or an endpoint's class.
        owner: whose it is, for an error's message; `None`: its name.
        first_is_websocket: whether its first parameter is the WebSocket if no other is.
        injects: tells what is for the framework to inject.

    Raises:
        TypeError: a parameter that cannot be had; the message names it.
        ValueError: its signature is not known.
    """
    owner = owner or name_of_function(function)
    parameters = passed_to(function)
    if not parameters:
        return ()
    hints = _hints_of(function, owner) if len(parameters) > 1 or not first_is_websocket else {}
    websockets = [p.name for p in parameters if _is_websocket(hints.get(p.name))]
    if not websockets and first_is_websocket:
        websockets = [parameters[0].name]
    return tuple(
        Argument(
            parameter.name,
            None
            if parameter.name in websockets
            else _source_of(parameter, hints.get(parameter.name, Any), owner, injects),
            parameter.kind is Parameter.POSITIONAL_ONLY,
        )
        for parameter in parameters
    )


def _hints_of(function: Any, owner: str) -> Mapping[str, Any]:
    function = unwrap(function)
    while isinstance(function, partial):
        function = unwrap(function.func)
    if isclass(function):
        function = function.__init__
    elif not hasattr(function, "__annotations__"):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise TypeError(
            f"{owner}: an annotation cannot be read: {exc}; import it where the module is run, "
            "not only for type checkers"
        ) from exc


def _is_websocket(type_: Any) -> bool:
    return any(isclass(each) and issubclass(each, Connection) for each in members(type_))


def _source_of(
    parameter: Parameter, type_: Any, owner: str, injects: Injects
) -> Value | Depends | Parameter:
    what = f"{owner}: parameter {parameter.name!r}"
    for given in (*getattr(type_, "__metadata__", ()), parameter.default):
        if injects(given):
            return parameter.replace(annotation=type_, kind=Parameter.KEYWORD_ONLY)
        _check_not_foreign(given, what)
    if isinstance(parameter.default, _MARKERS):
        kind = type(parameter.default).__name__
        raise TypeError(
            f"{what}: {kind}(…) is no default: write {parameter.name}: "
            f"Annotated[…, {kind}(…)], and the default behind it"
        )
    metadata = getattr(type_, "__metadata__", ())
    markers = [each for each in metadata if isinstance(each, _MARKERS)]
    if len(markers) > 1:
        raise TypeError(f"{what} has {len(markers)} markers: leave one")
    marker = markers[0] if markers else None
    if isinstance(marker, Depends):
        return marker
    is_annotated = parameter.annotation is not Parameter.empty
    if not is_annotated and parameter.default is not Parameter.empty:
        raise TypeError(
            f"{what} has a default and no type: annotate it, for a client can set it; or bind it "
            "by functools.partial"
        )
    return _value_of(parameter, type_ if is_annotated else Any, marker, what)


def _check_not_foreign(given: Any, what: str) -> None:
    """Raise for a marker of FastAPI's, which means nothing elsewhere."""
    cls = type(given)
    if cls.__module__ == "fastapi.params":
        raise TypeError(
            f"{what} has FastAPI's {cls.__name__}: import unisock's, "
            f"`from unisock import {cls.__name__}`"
            if cls.__name__ in ("Query", "Header", "Cookie", "Depends")
            else f"{what} has FastAPI's {cls.__name__}, which unisock does not know"
        )


def _value_of(
    parameter: Parameter, type_: Any, marker: Query | Header | Cookie | None, what: str
) -> Value:
    where: Any = None if marker is None else type(marker).__name__.lower()
    name = parameter.name
    plain = _without_markers(type_, what)
    fields = None
    takes_list = False
    if where is not None and len(members(plain)) == 1 and is_object(members(plain)[0]):
        plain = members(plain)[0]
        fields = {
            field: (_key(field, where), _takes_list(type_))
            for field, type_ in fields_of(plain).items()
        }
    else:
        _check_kinds(_kinds_of(plain, what), plain, what)
        takes_list = _takes_list(plain)
    default = _MISSING if parameter.default is Parameter.empty else parameter.default
    key = _key(name, where) if marker is None or marker.alias is None else marker.alias
    return Value(name, where, key, plain, default, fields, takes_list)


def _key(name: str, where: str | None) -> str:
    return name.replace("_", "-") if where == "header" else name


def _without_markers(type_: Any, what: str) -> Any:
    """The type with nothing of `Annotated` but msgspec's constraints."""
    metadata = getattr(type_, "__metadata__", ())
    plain = type_.__origin__ if metadata else type_
    for each in metadata:
        if isinstance(each, msgspec.Meta):
            plain = typing.Annotated[plain, each]
        elif type(each).__module__.partition(".")[0] in ("pydantic", "annotated_types"):
            raise TypeError(
                f"{what} has a constraint that is not msgspec's: write Annotated[…, "
                "msgspec.Meta(ge=1)], or give it a pydantic model with Query()"
            )
    return plain


def _kinds_of(type_: Any, what: str) -> tuple[info.Type, ...]:
    try:
        kind = info.type_info(type_)
    except (TypeError, NameError) as exc:
        raise TypeError(f"{what}: {exc}") from exc
    while isinstance(kind, info.Metadata):
        kind = kind.type
    return kind.types if isinstance(kind, info.UnionType) else (kind,)


def _takes_list(type_: Any) -> bool:
    return any((typing.get_origin(each) or each) in _COLLECTIONS for each in members(type_))


def _check_kinds(kinds: tuple[info.Type, ...], type_: Any, what: str) -> None:
    for kind in _items_of(kinds):
        if not isinstance(kind, _SCALARS):
            raise TypeError(
                f"{what} cannot be read from a request as {name_of(type_)}: for what your "
                "application gives write Annotated[…, Depends(…)], for fields of the query "
                "Annotated[…, Query()], or bind it by functools.partial"
            )


def _items_of(kinds: tuple[info.Type, ...]) -> Iterator[info.Type]:
    for kind in kinds:
        if isinstance(kind, info.TupleType):
            yield from _items_of(kind.item_types)
        elif isinstance(kind, _LISTS):
            item: info.Type = kind.item_type
            yield from _items_of(item.types if isinstance(item, info.UnionType) else (item,))
        else:
            yield kind


def check_path(values: Sequence[Value], template: PathTemplate, owner: str) -> None:
    """Raise unless those that stand in the path can be what they are annotated as.

    Raises:
        TypeError: one cannot; the message names it.
    """
    converters = {s.name: s.converter for s in template.segments if isinstance(s, PathParameter)}
    for value in values:
        converter = converters.get(value.name)
        if value.where is not None or converter is None:
            continue
        what = f"{owner}: parameter {value.name!r}"
        kinds = _kinds_of(value.type, what)
        known = _OF_CONVERTER.get(converter.name, _SCALARS)
        if not any(isinstance(kind, known) for kind in kinds):
            raise TypeError(
                f"{what} is {{{value.name}:{converter.name}}} in the path, which is no "
                f"{name_of(value.type)}"
            )
