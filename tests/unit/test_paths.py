"""Path templates: what is one, and what its converters match."""

from __future__ import annotations

import sys
import uuid
from urllib.parse import unquote

import pytest

from unisock.paths import CONVERTERS, Parameter, PathTemplate

UUID = "0189dcd5-5311-7d40-8db0-9496a2eef37b"


def names(path: str) -> list[str]:
    return [
        f"{s.name}:{s.converter.name}" if isinstance(s, Parameter) else s
        for s in PathTemplate.parse(path).segments
    ]


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", [""]),
        ("/ws", ["ws"]),
        ("/ws/", ["ws", ""]),
        ("/rooms/{room}", ["rooms", "room:str"]),
        ("/{a:int}/{b:float}/{c:uuid}", ["a:int", "b:float", "c:uuid"]),
        ("/files/{rest:path}", ["files", "rest:path"]),
        ("/{_a1}/{B:str}", ["_a1:str", "B:str"]),
        ("/a.b-c~é/%20", ["a.b-c~é", "%20"]),
        ("/:/:1/a:b/v1:list", [":", ":1", "a:b", "v1:list"]),
    ],
)
def test_templates(path: str, segments: list[str]) -> None:
    assert names(path) == segments


def test_an_example_is_a_url_of_what_matches() -> None:
    path = "/é%20/{room}/{n:int}/{x:float}/{id:uuid}/{rest:path}"
    template = PathTemplate.parse(path)
    example = template.example()
    assert example == f"/%C3%A9%2520/room/1/1.5/{uuid.UUID(int=0x40008000 << 48)}/rest"
    assert template.match(unquote(example)) is not None


def test_rendering() -> None:
    template = PathTemplate.parse("/a/{b:int}/")
    assert template.render(lambda p: f"<{p.converter.name}:{p.name}>") == "/a/<int:b>/"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "starts with a slash"),
        ("ws", "starts with a slash"),
        ("{room}", "starts with a slash"),
        ("http://h/ws", "starts with a slash"),
        ("//", "two slashes"),
        ("/a//b", "two slashes"),
        ("//a", "two slashes"),
        ("/a?b=c", "no query"),
        ("/a#b", "no query"),
        ("/a b", "no query, space"),
        ("/a\n", "no query, space"),
        ("/<a>", "no query.*; write '/{a}'$"),
        ("/<string:a>/<int:b>", "; write '/{a}/{b:int}'$"),
        ("/x/<path:rest>", "; write '/x/{rest:path}'$"),
        ("/<slug:a>", r"no query.*'/<slug:a>'$"),
        ("/x<a>", r"no query.*'/x<a>'$"),
        ("/(?P<a>x)", r"no query.*'/\(\?P<a>x\)'$"),
        ("/:a", "a parameter is written {a}, not :a, in '/:a'"),
        ("/rooms/:room_1/x", "written {room_1}, not :room_1"),
        ("/a\\b", "no query"),
        ("/{}", "not a parameter's name"),
        ("/{:int}", "not a parameter's name"),
        ("/{1a}", "not a parameter's name"),
        ("/{a-b}", "not a parameter's name"),
        ("/{é}", "not a parameter's name"),
        ("/{a\u0661}", "not a parameter's name"),
        ("/{class}", "not a parameter's name"),
        ("/{a}}", "not a parameter's name"),
        ("/{a", "whole segment"),
        ("/a}", "whole segment"),
        ("/}a{", "whole segment"),
        ("/{{a}}", "whole segment"),
        ("/{a}{b}", "whole segment"),
        ("/x{a}", "whole segment"),
        ("/{a}.json", "whole segment"),
        ("/{a/b}", "whole segment"),
        ("/{a:}", "unknown converter"),
        ("/{a:Int}", "unknown converter"),
        ("/{a:number}", "unknown converter 'number'.*known: str, int, float, uuid, path"),
        ("/{a:int:int}", "unknown converter"),
        ("/{a}/{a}", "'a' is used twice"),
        ("/{a:int}/b/{a:path}", "'a' is used twice"),
        ("/{a:path}/b", "comes last"),
        ("/{a:path}/", "comes last"),
    ],
)
def test_malformed_templates(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathTemplate.parse(path)


@pytest.mark.parametrize("path", [None, b"/ws", 5])
def test_a_path_is_a_str(path: object) -> None:
    with pytest.raises(TypeError, match="a path is a str"):
        PathTemplate.parse(path)  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize(
    ("converter", "text", "value"),
    [
        ("str", "a b", "a b"),
        ("str", "\u0661", "\u0661"),
        ("int", "007", 7),
        ("int", "9" * 30, int("9" * 30)),
        ("int", "9" * 300, int("9" * 300)),
        ("float", "9" * 300, float("9" * 300)),
        ("float", "0." + "1" * 5000, 1 / 9),
        ("float", "1", 1.0),
        ("float", "1.50", 1.5),
        ("uuid", UUID, uuid.UUID(UUID)),
        ("uuid", UUID.replace("-", "").upper(), uuid.UUID(UUID)),
        ("path", "", ""),
        ("path", "a/b//c", "a/b//c"),
    ],
)
def test_what_converters_match(converter: str, text: str, value: object) -> None:
    assert CONVERTERS[converter].parse(text) == value


@pytest.mark.parametrize(
    ("converter", "text"),
    [
        ("str", ""),
        ("str", "a/b"),
        ("int", ""),
        ("int", "-1"),
        ("int", "+1"),
        ("int", " 1"),
        ("int", "1\n"),
        ("int", "1_0"),
        ("int", "1.0"),
        ("int", "1" * 301),
        ("int", "1" * 4301),
        ("float", "1" * 400),
        ("float", "1" * 400 + ".5"),
        ("int", "\u0661"),
        ("int", "\uff11"),
        ("float", "1."),
        ("float", ".5"),
        ("float", "1e5"),
        ("float", "nan"),
        ("float", "-1.0"),
        ("float", "\u0661.\u0662"),
        ("uuid", UUID[:-1]),
        ("uuid", f"{{{UUID}}}"),
        ("uuid", f"urn:uuid:{UUID}"),
        ("uuid", UUID + "\n"),
    ],
)
def test_what_converters_do_not_match(converter: str, text: str) -> None:
    assert CONVERTERS[converter].parse(text) is None


def test_an_int_is_one_however_few_digits_python_is_told_to_take() -> None:
    before = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(640)  # the least
        assert CONVERTERS["int"].parse("1" * 300) == int("1" * 300)
        assert CONVERTERS["int"].parse("1" * 641) is None
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize(
    ("template", "path", "params"),
    [
        ("/", "/", {}),
        ("/ws", "/ws", {}),
        ("/ws", "/ws/", None),
        ("/ws", "ws", None),
        ("/ws", "/other", None),
        ("/rooms/{room}", "/rooms/a b", {"room": "a b"}),
        ("/rooms/{room}", "/rooms/", None),
        ("/rooms/{n:int}/log", "/rooms/7/log", {"n": 7}),
        ("/rooms/{n:int}", "/rooms/x", None),
        ("/files/{rest:path}", "/files/a/b/", {"rest": "a/b/"}),
        ("/files/{rest:path}", "/files/", {"rest": ""}),
        ("/files/{rest:path}", "/files", None),
    ],
)
def test_match(template: str, path: str, params: dict[str, object] | None) -> None:
    assert PathTemplate.parse(template).match(path) == params
