"""Whatever text a client sends, and whatever keys a message has: no surprise comes of it."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from unisock.codecs import JSONCodec
from unisock.messages import encode
from unisock.paths import CONVERTERS, PathTemplate
from unisock.testing.wires import MemoryHandshake

DIGITS = st.builds(
    lambda text, times: text * times, st.text("0123456789.", min_size=1), st.integers(1, 5000)
)
LATIN_1 = st.text(st.characters(max_codepoint=255), max_size=30)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Host", "Origin", "Cookie", "Sec-WebSocket-Protocol", "X-Other"]), LATIN_1
    ),
    max_size=6,
)
TEMPLATE = PathTemplate.parse("/{a:int}/{b:float}/{c:uuid}/{d}/{e:path}")


@given(st.sampled_from(sorted(CONVERTERS)), st.text() | DIGITS)
@example("int", "1" * 4301)
@example("float", "1" * 400)
@example("float", "1" * 300 + "." + "1" * 5000)
def test_a_parameter_is_a_value_or_no_match(converter: str, text: str) -> None:
    value = CONVERTERS[converter].parse(text)
    if isinstance(value, float):
        assert math.isfinite(value)
    if isinstance(value, int):
        assert str(value) == text.lstrip("0") or value == 0


@given(st.lists(st.text(max_size=8) | DIGITS, max_size=7))
def test_a_path_is_matched_or_not(segments: list[str]) -> None:
    params = TEMPLATE.match("/" + "/".join(segments))
    assert params is None or list(params) == ["a", "b", "c", "d", "e"]


@given(LATIN_1, LATIN_1, HEADERS)
@example("/%FF%", "a=%FF&%", [("Host", "h:" + "9" * 5000)])
@example("/", "", [("Host", "h:\xb2"), ("Cookie", 'a="\\399\\777"')])
def test_all_of_a_handshake_can_be_read(
    path: str, query: str, headers: list[tuple[str, str]]
) -> None:
    handshake = MemoryHandshake(raw_path=path, query_string=query, raw_headers=headers)
    url = handshake.url
    assert url.hostname is None or isinstance(url.hostname, str)
    assert url.port is None or 0 <= url.port <= 65535
    assert isinstance(url.path + url.query, str)
    assert all(handshake.subprotocols)
    assert isinstance(handshake.cookies, dict)
    assert len(handshake.query_params) <= len(query)
    if handshake.problem() is None:
        assert url.isascii() or not handshake.headers.get("host", "").isascii()


KEYS = st.booleans() | st.none() | st.integers() | st.text(st.characters(codec="utf-8"))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_plain_objects_are_what_python_says_of_them(obj: Any) -> None:
    assert json.loads(encode(obj, None)) == json.loads(json.dumps(obj))


@given(st.lists(VALUES), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_no_number_is_never_sent(objs: list[Any], number: float) -> None:
    codecs: list[JSONCodec | None] = [None, json]
    for codec in codecs:
        for obj in ([*objs, number], {"x": {"y": [objs, number]}}, {number: objs}):
            try:
                sent = encode(obj, codec)
            except TypeError:
                continue
            raise AssertionError(sent)
