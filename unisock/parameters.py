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

import copy
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from inspect import Parameter, isclass, isfunction, ismethod, isroutine, unwrap
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
from .sync_websocket import SyncWebSocket
from .websocket import WebSocket

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
_NUMBERS = (info.FloatType, info.DecimalType)
# As float() and Decimal() take them.
_NOT_FINITE = re.compile(r"[+-]?(s?nan\d*|inf(inity)?)", re.IGNORECASE)
_GOT = re.compile(r"(expected .*), got [a-z]+")

Place = Literal["path", "query", "header", "cookie"]
Injects: TypeAlias = Callable[[object], bool]
"""Whether what stands in `Annotated`, or is a default, is for the framework to inject."""


def injects_nothing(_: object) -> bool:
    """A framework that injects nothing."""
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
        fields: if the type has fields: the key of each, whether it takes a list, and whether
            it is a number.
        takes_list: whether it gets all values of the key.
        is_bare: whether it has no annotation.
    """

    name: str
    where: Literal["query", "header", "cookie"] | None
    key: str
    type: Any
    default: Any
    fields: Mapping[str, tuple[str, bool, bool]] | None
    takes_list: bool
    is_bare: bool

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
            of_fields = self._object(where, partial(values_of, handshake))
            if not of_fields and self.default is not _MISSING:
                return self._own_default()
            return self._convert(where, of_fields)
        found = values_of(handshake, self.key)
        if not found:
            if self.default is _MISSING:
                raise BadParameter(f"{_describe(where, self.key)} is missing")
            return self._own_default()
        given = found if self.takes_list else found[0]
        return given if self.type in (str, Any) else self._convert(where, given)

    def _own_default(self) -> Any:
        """The default, which is not shared with other connections where it can be changed."""
        is_mutable = isinstance(self.default, list | set | dict)
        return copy.copy(self.default) if is_mutable else self.default

    def _object(self, where: Place, values_of: Callable[[str], Sequence[str]]) -> dict[str, Any]:
        assert self.fields is not None
        found: dict[str, Any] = {}
        for field, (key, many, is_number) in self.fields.items():
            values = values_of(key)
            for value in values if is_number else ():
                _check_finite(value, where, key)
            if values:
                found[field] = values if many else values[0]
        return found

    def _convert(self, where: Place, given: Any) -> Any:
        try:
            if is_model(self.type):
                return self.type.model_validate(given)
            value = msgspec.convert(given, self.type, strict=False)
        # That of msgspec is a ValueError from some version on only.
        except (ValueError, msgspec.ValidationError) as exc:
            # Of an object each field that is wrong is told.
            reasons = reason_of(exc, "", lambda: given).removeprefix("$").split("; $")
            raise BadParameter(*(self._why(where, given, each) for each in reasons)) from exc
        for each in value if self.takes_list else (value,):
            if isinstance(each, float | Decimal):
                _check_finite(str(each), where, self.key)
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


def _check_finite(text: str, where: Place, key: str) -> None:
    """Raise for NaN and the infinities, which both libraries take."""
    if _NOT_FINITE.fullmatch(text.strip()):
        words = f"expected a finite number, got {_quote(text)}"
        raise BadParameter(f"{_describe(where, key)}: {words}")


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
    blocks: bool,
    owner: str | None = None,
    first_is_websocket: bool = False,
    injects: Injects = injects_nothing,
) -> tuple[Argument, ...]:
    """What `function` is to be called with.

    Args:
        function: a handler, a dependency, or an endpoint's class.
        blocks: whether the handler is a plain function, whose WebSocket is a
            `SyncWebSocket`.
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
    given = SyncWebSocket if blocks else WebSocket
    for name in websockets:
        if not any(isclass(each) and issubclass(given, each) for each in members(hints[name])):
            raise TypeError(
                f"{owner}: parameter {name!r} is a {given.__name__} here: annotate it as that, or "
                "as WebSocket | SyncWebSocket"
            )
    if not websockets and first_is_websocket:
        websockets = [parameters[0].name]
    for parameter in parameters:
        is_annotated = parameter.annotation is not Parameter.empty
        if not (is_annotated or first_is_websocket or isclass(function)):
            raise TypeError(f"{owner}: parameter {parameter.name!r} has no type: annotate it")
        if is_annotated and parameter.name not in hints and hints:
            raise TypeError(
                f"{owner}: the type of parameter {parameter.name!r} cannot be read: write a "
                "function with annotations that returns the object"
            )
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
    readable = [function]
    if isclass(function):
        # Its constructor, in whichever form; for what has none, as a msgspec Struct, its fields.
        readable = [function, function.__new__, function.__init__]
    elif not isroutine(function):
        readable = [type(function).__call__]
    try:
        return {
            name: hint
            for each in readable
            if isclass(each) or isfunction(each) or ismethod(each)
            for name, hint in typing.get_type_hints(each, include_extras=True).items()
        }
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
    _check_complete(parameter, type_, what)
    while hasattr(type_, "__value__"):  # an alias (PEP 695)
        type_ = type_.__value__
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
    _check_nothing_inside(type_, injects, what)
    if isinstance(marker, Depends):
        return marker
    is_annotated = parameter.annotation is not Parameter.empty
    if not is_annotated and parameter.default is not Parameter.empty:
        raise TypeError(
            f"{what} has a default and no type: annotate it, for a client can set it; or bind it "
            "by functools.partial"
        )
    return _value_of(parameter, type_ if is_annotated else Any, marker, what)


def _check_complete(parameter: Parameter, type_: Any, what: str) -> None:
    """Raise for a marker without parentheses, and for a function that stands alone."""
    for given in (*getattr(type_, "__metadata__", ()), parameter.default):
        if given in _MARKERS:
            raise TypeError(f"{what} has the class {given.__name__}: write {given.__name__}(…)")
    for given in getattr(type_, "__metadata__", ()):
        if isroutine(given):
            raise TypeError(f"{what} has a function beside its type: write Depends(…) around it")


def _check_nothing_inside(type_: Any, injects: Injects, what: str) -> None:
    """Raise for a marker within a type, as in a union, where it would be passed over."""
    for part in typing.get_args(type_):
        while hasattr(part, "__value__"):
            part = part.__value__  # noqa: PLW2901  # the alias is of no interest
        for given in getattr(part, "__metadata__", ()):
            if isinstance(given, _MARKERS) or injects(given):
                kind = type(given).__name__
                raise TypeError(
                    f"{what}: {kind}(…) stands within a type: write "
                    f"Annotated[… | None, {kind}(…)], with the marker outside"
                )
        _check_nothing_inside(part, injects, what)


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
        if marker is not None and marker.alias is not None:
            raise TypeError(f"{what} has an alias, but is read by the names of its fields")
        fields = {
            field: (_key(field, where), _takes_list(each), _is_number(each, plain, what))
            for field, each in fields_of(plain).items()
        }
    else:
        _check_kinds(_kinds_of(plain, what), plain, what)
        takes_list = _takes_list(plain)
    default = _MISSING if parameter.default is Parameter.empty else parameter.default
    key = _key(name, where) if marker is None or marker.alias is None else marker.alias
    is_bare = parameter.annotation is Parameter.empty
    return Value(name, where, key, plain, default, fields, takes_list, is_bare)


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


def _is_number(field: Any, owner: Any, what: str) -> bool:
    """Whether a field is a float or a `Decimal`; a model of pydantic's looks for itself.

    Raises:
        TypeError: it cannot be read from a request.
    """
    if is_model(owner):
        return any(each in (float, Decimal) for each in members(field))
    kinds = _kinds_of(field, what)
    _check_kinds(kinds, field, what)
    items = list(_items_of(kinds))
    return any(isinstance(kind, _NUMBERS) for kind in items) and not any(
        isinstance(kind, info.StrType) for kind in items
    )


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
        what = f"{owner}: parameter {value.name!r}"
        if converter is None and value.is_bare:
            raise TypeError(
                f"{what} has no type, and the path has no such name: annotate it, for a client can "
                "set it; or bind it by functools.partial"
            )
        if value.where is not None or converter is None:
            continue
        kinds = _kinds_of(value.type, what)
        known = _OF_CONVERTER.get(converter.name, _SCALARS)
        if not any(isinstance(kind, known) for kind in kinds):
            raise TypeError(
                f"{what} is {{{value.name}:{converter.name}}} in the path, which does not go with "
                f"{name_of(value.type)}: change one of them"
            )
