"""What annotations say of types: the members of a union, the fields of an object.

msgspec's and pydantic's own are told by their attributes, so that neither is
imported to look.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NotRequired, Required, Union


def members(type_: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone; aliases and `Annotated` are seen through."""
    found: list[Any] = []  # not every type has a hash
    for member in _members(type_):
        if member not in found:
            found.append(member)
    return tuple(found)


def _members(type_: Any) -> Iterator[Any]:
    type_ = bare(type_)
    if typing.get_origin(type_) in (Union, types.UnionType):
        for part in typing.get_args(type_):
            yield from _members(part)
    else:
        yield type_


def bare(type_: Any) -> Any:
    """A type without aliases (PEP 695), names (`NewType`) and `Annotated` and its like."""
    while True:
        origin = typing.get_origin(type_)
        if origin is Annotated:
            type_ = type_.__origin__
        elif origin in (Required, NotRequired):
            (type_,) = typing.get_args(type_)
        elif hasattr(type_, "__value__"):
            type_ = type_.__value__
        elif hasattr(type_, "__supertype__"):
            type_ = type_.__supertype__
        else:
            return type_


def is_object(type_: Any) -> bool:
    """Whether a type has fields, and is an object in JSON."""
    cls = typing.get_origin(type_) or type_
    if (config := getattr(cls, "__struct_config__", None)) is not None:
        return not config.array_like
    if is_model(cls):
        return not getattr(cls, "__pydantic_root_model__", False)
    # By its attribute, for typing_extensions has a `TypedDict` of its own.
    return dataclasses.is_dataclass(cls) or hasattr(cls, "__required_keys__")


def is_model(type_: Any) -> bool:
    """Whether a class is one of pydantic's, told without importing it."""
    return hasattr(type_, "__pydantic_validator__")


def fields_of(type_: Any) -> Mapping[str, Any]:
    """The types of the fields of what `is_object`, by their names in JSON.

    Raises:
        TypeError: a forward reference to what is not there.
    """
    cls = typing.get_origin(type_) or type_
    if is_model(cls):
        return {_alias(name, info): info.annotation for name, info in _infos(cls)}
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as exc:
        raise TypeError(f"{cls.__qualname__}: {exc}: define it in a module") from exc
    stored: tuple[str, ...] = getattr(cls, "__struct_fields__", ())
    encoded: tuple[str, ...] = getattr(cls, "__struct_encode_fields__", ())
    names = dict(zip(stored, encoded, strict=True))
    return {names.get(name, name): hint for name, hint in hints.items()}


def _infos(model: Any) -> Iterable[tuple[str, Any]]:
    infos: Mapping[str, Any] = model.__pydantic_fields__
    return infos.items()


def _alias(name: str, info: Any) -> str:
    alias = info.validation_alias or info.alias
    return alias if isinstance(alias, str) else name


def name_of(type_: Any) -> str:
    """A type in a message to the programmer."""
    return type_.__qualname__ if isinstance(type_, type) else str(type_)
