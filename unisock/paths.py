"""Path templates: one neutral spelling that each adapter translates.

``/rooms/{room}`` with converters ``{n:int}``, ``{x:float}``, ``{id:uuid}`` and
``{rest:path}``.  What a converter matches is defined here, so that the same
path is found, and converted alike, on every framework.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Python refuses to make an `int` of more digits than some thousands, as the process is
# configured, and makes infinity of a `float` with more than 308.  As an expression, for
# some routers know nothing but that.
_DIGITS = r"[0-9]{1,300}"
# Parameters as Flask, Django and Werkzeug spell them, and as Express and others do.
_ANGLED = re.compile(r"<(?:(?P<kind>[a-z]+):)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)>")
_COLON = re.compile(r":[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Converter:
    """What a parameter matches, and what it becomes."""

    name: str
    regex: str
    convert: Callable[[str], Any]
    example: str = ""
    """A text that matches; if it is empty the parameter's name does."""

    def parse(self, text: str) -> Any:
        """The converted value, or `None` if `text` does not match."""
        return self.convert(text) if re.fullmatch(self.regex, text) else None


def _uuid(text: str) -> Any:
    import uuid  # noqa: PLC0415  # which takes as long to import as all of multidict

    return uuid.UUID(text)


CONVERTERS: Mapping[str, Converter] = MappingProxyType(
    {
        "str": Converter("str", r"[^/]+", str),
        "int": Converter("int", _DIGITS, int, "1"),
        "float": Converter("float", rf"{_DIGITS}(?:\.[0-9]+)?", float, "1.5"),
        "uuid": Converter(
            "uuid",
            r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
            _uuid,
            "00000000-0000-4000-8000-000000000000",
        ),
        "path": Converter("path", r"(?s:.*)", str),
    }
)
"""The converters by name."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One ``{name:converter}``, a whole segment of the path."""

    name: str
    converter: Converter


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A checked template.

    Attributes:
        segments: what stands between the slashes, a literal or a parameter;
            ``/a/{b}/`` has three, the last of them ``""``.  None, for the path of a
            router's prefix itself.
    """

    segments: tuple[str | Parameter, ...]

    @classmethod
    def parse(cls, path: str) -> PathTemplate:
        """Check and split `path`.

        Raises:
            TypeError: not a `str`.
            ValueError: malformed; the message says where.
        """
        if not isinstance(path, str):
            raise TypeError(f"a path is a str, not {type(path).__name__}")
        if not path.startswith("/"):
            raise ValueError(f"a path starts with a slash: {path!r}")
        if any(c in path for c in "?#<>\\") or any(c.isspace() for c in path):
            raise ValueError(
                f"a path template holds no query, space, '<', '>' or '\\': {path!r}{_advice(path)}"
            )
        segments = tuple(_parse_segment(segment, path) for segment in path[1:].split("/"))
        names = [s.name for s in segments if isinstance(s, Parameter)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is used twice in {path!r}")
        for segment in segments[:-1]:
            if isinstance(segment, Parameter) and segment.converter.name == "path":
                raise ValueError(
                    f"{{{segment.name}:path}} takes the rest: it comes last in {path!r}"
                )
            if segment == "":
                raise ValueError(f"two slashes follow each other in {path!r}")
        return cls(segments)

    def render(self, parameter: Callable[[Parameter], str]) -> str:
        """The template in a framework's spelling."""
        parts = (s if isinstance(s, str) else parameter(s) for s in self.segments)
        return "".join(f"/{part}" for part in parts)

    def example(self) -> str:
        """A path that matches, as it stands in a URL."""
        return quote(self.render(lambda p: p.converter.example or p.name), safe="/:@!$&'()*+,;=~")

    def match(self, path: str) -> dict[str, Any] | None:
        """The parameters of `path`, converted; `None` if it does not match.

        For where there is no router; a router's adapter uses `render`.
        """
        parts = path.removeprefix("/").split("/", len(self.segments) - 1)
        if len(parts) != len(self.segments) or not path.startswith("/"):
            return None
        params: dict[str, Any] = {}
        for segment, part in zip(self.segments, parts, strict=True):
            if isinstance(segment, str):
                if segment != part:
                    return None
                continue
            value = params[segment.name] = segment.converter.parse(part)
            if value is None:
                return None
        return params


def _advice(path: str) -> str:
    """How a path that was written for another framework is written here, if it can be told."""
    neutral = _ANGLED.sub(_braced, path)
    if neutral == path:
        return ""
    try:
        PathTemplate.parse(neutral)
    except ValueError:
        return ""
    return f"; write {neutral!r}"


def _braced(found: re.Match[str]) -> str:
    kind = found["kind"] if found["kind"] not in (None, "string", "str") else ""
    return f"{{{found['name']}{':' * bool(kind)}{kind}}}"


def _parse_segment(segment: str, path: str) -> str | Parameter:
    if _COLON.fullmatch(segment):
        raise ValueError(f"a parameter is written {{{segment[1:]}}}, not {segment}, in {path!r}")
    if "{" not in segment and "}" not in segment:
        return segment
    if not (segment.startswith("{") and segment.endswith("}") and segment.count("{") == 1):
        raise ValueError(f"a parameter is a whole segment, as in /rooms/{{room}}: {path!r}")
    name, colon, kind = segment[1:-1].partition(":")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):  # Falcon takes no keyword
        raise ValueError(f"{name!r} is not a parameter's name in {path!r}")
    converter = CONVERTERS.get(kind if colon else "str")
    if converter is None:
        known = ", ".join(CONVERTERS)
        raise ValueError(f"unknown converter {kind!r} in {path!r} (known: {known})")
    return Parameter(name, converter)
