"""What is wrong with a message, in one form, whoever found it.

As ``$.users[2].age: expected int, got str``: the path in the JSON and what is the
matter there, in one line that is fit to be sent to the peer.  Names of the
application's classes are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from .tags import Tag, UnknownTag, json_kind

# Characters, and errors of pydantic.
_MAX_WORDS = 200
_MAX_TAG = 32
_MAX_ERRORS = 3
# Of more errors pydantic is not asked what they are.
_MAX_LISTED = 1000

_WORD = re.compile(r"[\w-]+")
# What msgspec 0.19 to 0.23 say of malformed JSON.  The words of another version are
# left out: what a client sees must not change with a dependency.
_MALFORMED = re.compile(r"JSON is malformed: (?P<words>.+) \(byte (?P<byte>\d+)\)")
_SYNTAX = frozenset(
    {
        "expected '\"'",
        "expected ',' or ']'",
        "expected ',' or '}'",
        "expected ':'",
        "invalid character",
        "invalid character in unicode escape",
        "invalid escape character in string",
        "invalid escaped character",
        "invalid number",
        "invalid utf-16 surrogate pair",
        "object keys must be strings",
        "trailing characters",
        "trailing comma in array",
        "trailing comma in object",
        "unexpected end of escaped utf-16 surrogate pair",
        "unexpected end of hex escape",
    }
)
# What pydantic's errors are in the words of msgspec, where they have one meaning.
_EXPECTED = {
    "bool_parsing": "bool",
    "bool_type": "bool",
    "dataclass_type": "object",
    "dict_type": "object",
    "float_parsing": "float",
    "float_type": "float",
    "int_parsing": "int",
    "int_type": "int",
    "list_type": "array",
    "model_attributes_type": "object",
    "model_type": "object",
    "none_required": "null",
    "string_type": "str",
}
_MEANINGS = {
    "missing": "missing",
    "union_tag_not_found": "missing",
    "extra_forbidden": "unknown field",
    "unexpected_keyword_argument": "unknown field",
    "is_instance_of": "not valid",  # its own words have the class
}


def reason_of(exc: Exception, message: str | bytes, plain: Callable[[], Any]) -> str:
    """Say what `exc`, raised for a message, means.

    Args:
        exc: an error of msgspec, of pydantic, or of a codec.
        message: as it came.
        plain: decodes the message to plain objects, or gives `None`; called where it
            is needed.
    """
    if isinstance(exc, msgspec.ValidationError):
        return _line(_of_msgspec(exc))
    if isinstance(exc, UnknownTag):
        known = " or ".join(map(_quote, exc.known))
        return _line(f"${_step(exc.field)}: expected {known}, got {_quote(exc.tag)}")
    errors_of = getattr(exc, "errors", None)
    if errors_of is not None:  # a ValidationError of pydantic, which is not imported here
        count: int = exc.error_count()  # type: ignore[attr-defined]  # pydantic's
        if count > _MAX_LISTED:  # pydantic lists all or none, at some KiB each
            return _line(f"$: not valid in {count} places")
        errors: Sequence[Any] = errors_of(include_url=False)
        objects = plain()
        words = (_of_pydantic(error, objects) for error in errors[:_MAX_ERRORS])
        return _line("; ".join(dict.fromkeys(words)))
    return _line(f"$: {_not_json(exc, message)}")


def _not_json(exc: Exception, message: str | bytes) -> str:
    match exc:
        case msgspec.DecodeError():
            return _malformed(str(exc), message)
        case json.JSONDecodeError():
            return f"not JSON: {_lower(exc.msg)} (char {exc.pos})"
        case UnicodeError():
            return "not JSON: not UTF-8"
        case RecursionError():
            return "nested too deeply"
        case _:
            return "not JSON"  # a codec's own words may say anything


def _malformed(words: str, message: str | bytes) -> str:
    # msgspec has another error for this from 0.23 on, and finds it at another moment.
    if isinstance(message, bytes) and not _is_utf8(message):
        return "not JSON: not UTF-8"
    if words == "Input data was truncated":
        return "not JSON: input data was truncated"
    found = _MALFORMED.fullmatch(words)
    if found is None:
        return "not JSON"
    where = f"(byte {found['byte']})"
    return (
        f"not JSON: {found['words']} {where}" if found["words"] in _SYNTAX else f"not JSON {where}"
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _of_msgspec(exc: msgspec.ValidationError) -> str:
    """From "Expected `int`, got `str` - at `$.user.age`"."""
    words, _, place = str(exc).rpartition(" - at `")
    if not words or not place.endswith("`"):
        words, place = str(exc), "$`"
    of_key = not place.startswith("$")  # "key in $.ages"
    path = place[place.find("$") : -1]
    for start, meaning in (
        ("Object missing required field `", "missing"),
        ("Object contains unknown field `", "unknown field"),
    ):
        if words.startswith(start):
            return f"{path}{_step(words[len(start) : -1])}: {meaning}"
    if exc.__cause__ is not None and type(exc.__cause__) is not ValueError:
        words = "not valid"  # an accident in a `__post_init__`, and no check
    return f"{path}: {'key: ' if of_key else ''}{_lower(words.replace('`', ''))}"


def _of_pydantic(error: Any, plain: Any) -> str:
    loc = error["loc"]
    missing = loc[-1:] if error["type"] == "missing" else ()
    steps = [*_without_labels(loc[: len(loc) - len(missing)], plain), *missing]
    return f"${''.join(map(_step, steps))}: {_pydantic_words(error)}"


def _pydantic_words(error: Any) -> str:
    kind = error["type"]
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {json_kind(error['input'])}"
    if kind in ("value_error", "assertion_error"):  # the application's own words
        return str(error["ctx"]["error"])
    return _MEANINGS.get(kind) or _lower(error["msg"])


def _without_labels(loc: Iterable[str | int], plain: Any) -> list[str | int]:
    """The steps of a location that lead into the message; others name members of unions."""
    steps: list[str | int] = []
    for step in loc:
        try:
            plain = plain[step]
        except (TypeError, LookupError):
            continue
        steps.append(step)
    return steps


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _WORD.fullmatch(step) else f"[{json.dumps(step, ensure_ascii=False)}]"


def _quote(tag: Tag) -> str:
    return json.dumps(tag if isinstance(tag, int) else tag[:_MAX_TAG], ensure_ascii=False)


def _lower(text: str) -> str:
    """A sentence's words without its capital; "URL" keeps it."""
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def _line(text: str) -> str:
    """One line that UTF-8 can say, and that is not long."""
    text = "".join(char if char.isprintable() else " " for char in text[: _MAX_WORDS + 1])
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…"
