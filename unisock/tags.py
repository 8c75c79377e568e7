"""What tells the members of a union of messages apart: their tags.

A tag is the value of a field that all members have: a `Literal` in a dataclass,
`TypedDict` or pydantic model, as ``type: Literal["join"]``, or what msgspec's
``tag=`` gives a `Struct`.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from .annotations import bare, fields_of, is_object, name_of

Tag: TypeAlias = str | int


class UnknownTag(ValueError):
    """A message has a tag that no member of its union has.

    Attributes:
        field: the field that holds the tag.
        tag: the tag.
        known: the tags that there are.
        message: the message, decoded to plain objects.
    """

    def __init__(self, field: str, tag: Tag, known: Iterable[Tag], message: Any) -> None:
        super().__init__(field, tag)
        self.field = field
        self.tag = tag
        self.known = tuple(known)
        self.message = message


class Tags:
    """The members of a tagged union, by tag.

    Attributes:
        field: the field that holds the tag, as JSON names it.
        types: the members.

    Raises:
        TypeError: the members cannot be told apart; the message says what to do.
    """

    def __init__(self, types: Iterable[Any]) -> None:
        tagged = {type_: _tag_fields(type_) for type_ in types}
        self.field = _common_field(tagged)
        self.types: Mapping[Tag, Any] = {
            tag: type_ for type_, fields in tagged.items() for tag in fields[self.field]
        }
        self._kinds = {type(tag) for tag in self.types}
        probe = msgspec.defstruct(
            "Tagged", [("tag", Any, msgspec.UNSET)], rename={"tag": self.field}
        )
        self._probe: msgspec.json.Decoder[Any] = msgspec.json.Decoder(probe)

    def of_json(self, message: str | bytes) -> Tag:
        """The tag of a message, of whatever member it is or of none.

        Raises:
            msgspec.DecodeError, UnicodeError: it is not JSON.
            msgspec.ValidationError: it has no tag.
        """
        return self._checked(self._probe.decode(message).tag)

    def of_object(self, obj: Any) -> Tag:
        """The same of a message that a codec has decoded."""
        if not isinstance(obj, dict):
            raise msgspec.ValidationError(f"Expected `object`, got `{json_kind(obj)}`")
        fields: dict[str, Any] = obj
        return self._checked(fields.get(self.field, msgspec.UNSET))

    def unknown(self, tag: Tag, message: Any) -> UnknownTag:
        """What to raise for a tag that is not one of `types`."""
        return UnknownTag(self.field, tag, self.types, message)

    def _checked(self, tag: Any) -> Tag:
        if tag is msgspec.UNSET:
            raise msgspec.ValidationError(f"Object missing required field `{self.field}`")
        if type(tag) not in self._kinds:  # to a dict `True` and 1.0 are 1
            kinds = " | ".join(sorted(kind.__name__ for kind in self._kinds))
            raise msgspec.ValidationError(
                f"Expected `{kinds}`, got `{json_kind(tag)}` - at `$.{self.field}`"
            )
        checked: Tag = tag
        return checked


def json_kind(obj: Any) -> str:
    """What JSON calls the type of a plain object, in msgspec's words."""
    return {type(None): "null", list: "array", dict: "object"}.get(type(obj), type(obj).__name__)


def _tag_fields(type_: Any) -> Mapping[str, tuple[Tag, ...]]:
    """The fields that may hold a type's tag, with the tags."""
    config = getattr(typing.get_origin(type_) or type_, "__struct_config__", None)
    if config is not None and config.tag is not None and not config.array_like:
        return {config.tag_field: (config.tag,)}
    fields = fields_of(type_) if is_object(type_) else {}
    tags = {name: typing.get_args(bare(hint)) for name, hint in fields.items() if _is_tag(hint)}
    if not tags:
        raise TypeError(
            f'{name_of(type_)} has no tag: give it a field `type: Literal["join"]`, or `tag=` if '
            "it is a msgspec Struct"
        )
    return tags


def _is_tag(hint: Any) -> bool:
    hint = bare(hint)
    values = typing.get_args(hint)
    return typing.get_origin(hint) is Literal and all(type(v) in (str, int) for v in values)


def _common_field(tagged: Mapping[Any, Mapping[str, tuple[Tag, ...]]]) -> str:
    """The first field that all types have, and that tells them apart."""
    if not tagged:
        raise TypeError("a union of messages has members")
    first, *others = tagged.values()
    common = [name for name in first if all(name in fields for fields in others)]
    for name in common:
        tags = [tag for fields in tagged.values() for tag in fields[name]]
        if len(set(tags)) == len(tags):
            return name
    what = f"the same tag in {common[0]!r}" if common else "their tags in different fields"
    raise TypeError(f"{', '.join(map(name_of, tagged))} have {what}: they cannot be told apart")
