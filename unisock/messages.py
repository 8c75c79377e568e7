"""JSON messages and their types.

A type is what msgspec decodes to, what pydantic validates, or a union whose
members are told apart by a tag.  pydantic is imported when a type of its own is
given, and not before.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache, partial, reduce
from operator import or_
from typing import Any, Protocol

import msgspec

from .annotations import bare, fields_of, is_model, is_object, members, name_of
from .codecs import JSONCodec
from .errors import InvalidMessage
from .printing import escaped
from .reasons import reason_of
from .sizes import MAX_UTF8, exceeds
from .tags import Tags, UnknownTag

# Types are few, but they can be made at run time.
_MAX_DECODERS = 256

# Whose metadata in `Annotated` msgspec passes over.
_PYDANTIC = ("pydantic", "annotated_types")
_USE = "use JSON's own types, a dataclass, a TypedDict, a msgspec Struct or a pydantic model"
_PLAIN: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
# Looks at a message, and builds nothing of it.
_UNBUILT = msgspec.json.Decoder(msgspec.Raw)
# What may be out of the range of a number, or stand in a text.
_LARGE_NUMBER = re.compile(r"[eE]\+?\d{3}|\d{1000}")


class _UnknownClass(Exception):
    """A class that JSON is not decoded to.

    No TypeError: of its hook msgspec takes that for what is wrong with a message.
    """


_USE_TAGS = "within another type use msgspec Structs with `tag=`, or pydantic models"

# What decoders raise for a message.  pydantic's errors and those of UTF-8 are
# ValueErrors, and a codec's should be.
_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError, _UnknownClass)


def decode(
    message: str | bytes, type: Any, codec: JSONCodec | None, max_size: int | None = None
) -> Any:
    """Decode a message to `type`.

    Raises:
        InvalidMessage: it is not JSON or does not fit (code 1007), or is larger than
            `max_size` bytes, and was not looked at (code 1009).
        TypeError: no message can be decoded to `type`.
    """
    if max_size is not None and len(message) * MAX_UTF8 > max_size:
        _check_size(message, max_size)
    try:
        decoder = _ANYTHING if type is Any else _decoder_of(type)
        return decoder.decode(message) if codec is None else decoder.convert(codec.loads(message))
    except _ERRORS as exc:
        raise _error(exc, message) from None


def _check_size(message: str | bytes, max_size: int) -> None:
    if exceeds(message, max_size):
        raise InvalidMessage(1009, f"over {max_size} bytes of JSON", message)


def check_type(type: Any) -> None:
    """Raise unless messages can be decoded to `type`.

    Raises:
        TypeError: they cannot; the message says what to do.
    """
    _decoder_of(type)


def encode(obj: Any, codec: JSONCodec | None) -> str | bytes:
    """Encode to compact JSON in UTF-8, or to what the codec writes.

    Raises:
        TypeError: `obj` holds what JSON cannot say.
    """
    try:
        return _encode(obj) if codec is None else _dump(obj, codec)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as exc:
        raise TypeError(f"cannot be sent as JSON: {escaped(str(exc))}") from exc


class _Decoder(Protocol):
    """What decodes to one type; raises one of `_ERRORS`."""

    def decode(self, message: str | bytes, /) -> Any:
        """From JSON."""

    def convert(self, obj: Any, /) -> Any:
        """From plain objects, as a codec gives them."""


class TaggedUnion:
    """Decodes to the members of a union by their tag.

    Args:
        types: the members.

    Raises:
        TypeError: they cannot be told apart, or cannot be decoded to; the message
            says what to do.
    """

    def __init__(self, types: Iterable[Any]) -> None:
        self._tags = Tags(types)
        self._decoders = {tag: _decoder_of(type_) for tag, type_ in self._tags.types.items()}

    def decode_member(
        self, message: str | bytes, codec: JSONCodec | None, max_size: int | None = None
    ) -> tuple[Any, Any]:
        """Decode a message; return which member it is, and the object.

        Where no member has its tag that is `None`, and plain objects.

        Raises:
            InvalidMessage: it is not JSON, is no object, has no tag, or does not
                fit the member that its tag says (code 1007), or is larger than
                `max_size` bytes (code 1009).
        """
        if max_size is not None:
            _check_size(message, max_size)
        try:
            if codec is None:
                return self._decode(message)
            return self._convert(codec.loads(message))
        except UnknownTag as unknown:
            return None, unknown.message
        except _ERRORS as exc:
            raise _error(exc, message) from None

    def decode(self, message: str | bytes, /) -> Any:
        """From JSON."""
        return self._decode(message)[1]

    def convert(self, obj: Any, /) -> Any:
        """From plain objects."""
        return self._convert(obj)[1]

    def _decode(self, message: str | bytes) -> tuple[Any, Any]:
        tag = self._tags.of_json(message)
        if tag not in self._decoders:
            raise self._tags.unknown(tag, _PLAIN.decode(message))
        return self._tags.types[tag], self._decoders[tag].decode(message)

    def _convert(self, obj: Any) -> tuple[Any, Any]:
        tag = self._tags.of_object(obj)
        if tag not in self._decoders:
            raise self._tags.unknown(tag, obj)
        return self._tags.types[tag], self._decoders[tag].convert(obj)


class _Either:
    """Decodes objects to the members of a tagged union, and the rest to other types."""

    def __init__(self, tagged: TaggedUnion, others: _Decoder) -> None:
        self._tagged = tagged
        self._others = others

    def decode(self, message: str | bytes, /) -> Any:
        """From JSON."""
        is_object = message.lstrip().startswith("{" if isinstance(message, str) else b"{")  # type: ignore[arg-type]  # of the same kind
        return (self._tagged if is_object else self._others).decode(message)

    def convert(self, obj: Any, /) -> Any:
        """From plain objects."""
        return (self._tagged if isinstance(obj, dict) else self._others).convert(obj)


class _Msgspec:
    """Decodes to what msgspec knows."""

    def __init__(self, type_: Any) -> None:
        self._type = type_
        try:
            decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type_, dec_hook=_refuse)
        except (TypeError, NameError) as exc:
            use = _USE_TAGS if "unions" in str(exc) else _USE
            raise TypeError(f"cannot decode to {name_of(type_)}: {exc}; {use}") from exc
        self.decode = decoder.decode

    def convert(self, obj: Any, /) -> Any:
        """From plain objects."""
        return msgspec.convert(obj, self._type, str_keys=True, dec_hook=_refuse)


def _refuse(type_: Any, obj: Any) -> Any:
    """What msgspec calls for a class that it does not know, as `object`."""
    if isinstance(type_, type) and isinstance(obj, type_):
        return obj
    raise _UnknownClass(name_of(type_))


class _Pydantic:
    """Decodes to what pydantic validates."""

    def __init__(self, type_: Any) -> None:
        import pydantic  # noqa: PLC0415  # only where a type of its own is given
        import pydantic_core  # noqa: PLC0415  # it comes with pydantic

        try:
            adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(type_)
        except pydantic.PydanticUserError as exc:
            raise TypeError(f"cannot decode to {name_of(type_)}: {exc.message}") from exc
        self._validate = adapter.validate_json
        self._to_json = pydantic_core.to_json

    def decode(self, message: str | bytes, /) -> Any:
        """From JSON."""
        _check_json(message)
        return self._validate(message)

    def convert(self, obj: Any, /) -> Any:
        """From plain objects; as JSON again, for in that a strict model takes text for a date."""
        return self._validate(self._to_json(obj))


def _check_json(message: str | bytes) -> None:
    """Raise for what pydantic takes beyond JSON: NaN, numbers that are out of range.

    What is looked at is not built: with pydantic's own objects that would be twice.
    """
    text = message if isinstance(message, str) else message.decode()
    with suppress(msgspec.MsgspecError):
        _UNBUILT.decode(text)
        if not _LARGE_NUMBER.search(text):
            return
    _PLAIN.decode(message)  # whose words are those for all other types


class _Anything:
    """Decodes to plain objects."""

    decode = staticmethod(_PLAIN.decode)

    def convert(self, obj: Any, /) -> Any:
        """As it is."""
        return obj


_ANYTHING = _Anything()


def _decoder_of(type_: Any) -> _Decoder:
    """What decodes to a type; made once."""
    try:
        hash(type_)
    except TypeError:  # as `Annotated[A | B, Field(discriminator="type")]`
        return _cached_decoder(_Identity(type_))
    return _cached_decoder(type_)


class _Identity:
    """A type that has no hash, as a key."""

    def __init__(self, type_: Any) -> None:
        self.type = type_

    def __hash__(self) -> int:
        return id(self.type)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.type is self.type


@lru_cache(_MAX_DECODERS)
def _cached_decoder(key: Any) -> _Decoder:
    return _make_decoder(key.type if isinstance(key, _Identity) else key)


def _error(exc: Exception, message: str | bytes) -> Exception:
    """What to raise for one of `_ERRORS`."""
    if isinstance(exc, _UnknownClass):
        return TypeError(f"cannot decode to {exc}: {_USE}")
    return InvalidMessage(1007, reason_of(exc, message, partial(_plain_of, message)), message)


def _plain_of(message: str | bytes) -> Any:
    with suppress(*_ERRORS):
        return _PLAIN.decode(message)
    return None


def _make_decoder(type_: Any) -> _Decoder:
    if _has_metadata(type_):  # as validators, which only pydantic runs
        return _Pydantic(type_)
    parts = members(type_)
    objects = [part for part in parts if is_object(part)]
    untagged = ""
    if len(objects) > 1:
        try:
            return _make_union(objects, [part for part in parts if part not in objects])
        except TypeError as exc:  # msgspec or pydantic may do without tags
            untagged = f"; {exc}"
    try:
        return _Pydantic(type_) if _has_model(type_) else _Msgspec(type_)
    except TypeError as exc:
        raise TypeError(f"{exc}{untagged}") from exc


def _make_union(objects: list[Any], others: list[Any]) -> _Decoder:
    tagged = TaggedUnion(objects)
    return _Either(tagged, _decoder_of(reduce(or_, others))) if others else tagged


def _has_model(type_: Any) -> bool:
    """Whether something in it is of pydantic."""
    seen: list[Any] = []
    parts = [type_]
    while parts:
        if _has_metadata(parts[-1]):
            return True
        part = bare(parts.pop())
        if part in seen:
            continue
        seen.append(part)
        if hasattr(part, "__get_pydantic_core_schema__") or is_model(part):
            return True
        parts += typing.get_args(part)
        if is_object(part):
            parts += fields_of(part).values()
    return False


def _has_metadata(type_: Any) -> bool:
    """Whether it, or a member of it, is `Annotated` with something of pydantic's.

    But for ``Field(discriminator="type")``: the tags are found without that.
    """
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        return any(map(_has_metadata, typing.get_args(type_)))
    metadata = getattr(type_, "__metadata__", ())
    return any(
        type(each).__module__.startswith(_PYDANTIC)
        and not isinstance(getattr(each, "discriminator", None), str)
        for each in metadata
    )


def _plain(obj: Any) -> Any:
    """What msgspec does not take by itself: models, subclasses of JSON's own types, some keys."""
    if is_model(type(obj)):
        return obj.model_dump(mode="json", by_alias=True)
    if obj is None or isinstance(obj, bool):  # a key; as Python's json writes it
        return json.dumps(obj)
    if isinstance(obj, str):  # as `URL`
        return str.__str__(obj)
    if isinstance(obj, int):
        return int.__int__(obj)
    if isinstance(obj, float):
        return float.__float__(obj)
    if isinstance(obj, msgspec.Raw):  # taken as JSON; not as a Python object
        return msgspec.json.decode(obj)
    raise TypeError(f"{type(obj).__name__} is not JSON")


def _plain_and_finite(obj: Any) -> Any:
    """As `_plain`; pydantic too makes null of what is no number."""
    if is_model(type(obj)):
        _refuse_non_finite(obj.model_dump(warnings=False))
    return _plain(obj)


# Made once: to make it takes a tenth of what a small message does.
_encode_fast = msgspec.json.Encoder(enc_hook=_plain).encode


def _encode(obj: Any) -> bytes:
    data = _encode_fast(obj)
    # msgspec writes NaN and the infinities as null, and as keys "nan" and "inf", which
    # says another thing.  Only where there is a null, or a first key that is no text, does
    # it cost a second look.  `find`, for on Python 3.11 `in` takes three times as long.
    if data.find(b"null") >= 0 or (type(obj) is dict and type(next(iter(obj), "")) is not str):
        _refuse_non_finite(msgspec.to_builtins(obj, enc_hook=_plain_and_finite))
    return data


def _dump(obj: Any, codec: JSONCodec) -> str | bytes:
    try:
        encoded = codec.dumps(obj)
    except TypeError as exc:
        # What the codec does not know may be what msgspec knows, as a dataclass.
        try:
            return codec.dumps(_PLAIN.decode(_encode(obj)))
        except TypeError:
            raise exc from None
    # The `json` module writes NaN and the infinities by these names, others write null.
    has_names = _has(encoded, "NaN") or _has(encoded, "Infinity")
    if has_names or _has(encoded, "null"):
        try:
            obj = msgspec.to_builtins(obj, enc_hook=_plain_and_finite)
        except TypeError:  # what only the codec knows
            if has_names:
                _PLAIN.decode(encoded)
        _refuse_non_finite(obj)
    return encoded


def _has(encoded: str | bytes, word: str) -> bool:
    return word in encoded if isinstance(encoded, str) else word.encode() in encoded


def _refuse_non_finite(obj: Any) -> None:
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"{obj} is not a JSON number")
    elif isinstance(obj, dict):
        for key, value in obj.items():
            _refuse_non_finite(key)
            _refuse_non_finite(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _refuse_non_finite(value)
