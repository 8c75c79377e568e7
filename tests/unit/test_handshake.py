"""What a handler reads of the handshake, and the headers that it may answer with."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest

from unisock import URL, Address, State
from unisock.handshake import check_headers, client_address
from unisock.testing.wires import MemoryHandshake


def cookies(*headers: str) -> dict[str, str]:
    return MemoryHandshake(raw_headers=[("Cookie", h) for h in headers]).cookies


class TestURL:
    def test_it_is_the_url_as_a_str(self) -> None:
        handshake = MemoryHandshake(
            scheme="wss",
            raw_path="/a%20b/%2F",
            query_string="x=%20&y",
            raw_headers=[("host", "App.Example:8443")],
        )
        url = handshake.url
        assert url == "wss://App.Example:8443/a%20b/%2F?x=%20&y"
        assert (url.scheme, url.hostname, url.port) == ("wss", "app.example", 8443)
        assert (url.path, url.query) == ("/a b//", "x=%20&y")

    def test_without_host_and_query(self) -> None:
        url = MemoryHandshake(raw_headers=[]).url
        assert url == "ws:///"
        assert (url.hostname, url.port, url.path, url.query) == (None, None, "/", "")

    @pytest.mark.parametrize(
        ("url", "path", "query"),
        [
            ("ws://h", "", ""),
            ("ws://h?a=1", "", "a=1"),
            ("ws://h/p?a?b", "/p", "a?b"),
            ("ws://h/p?", "/p", ""),
            ("ws://h/?u=ws://x/y", "/", "u=ws://x/y"),
            ("ws://h//x", "//x", ""),
            ("ws://h/%C3%A9", "/é", ""),
            ("ws://h/%ff", "/\ufffd", ""),
            ("ws://h/%zz%", "/%zz%", ""),
            ("ws://h/a+b", "/a+b", ""),
            ("ws://h/a%00b", "/a\0b", ""),
            ("ws://h/p#f", "/p", ""),
        ],
    )
    def test_path_and_query(self, url: str, path: str, query: str) -> None:
        assert (URL(url).path, URL(url).query) == (path, query)

    @pytest.mark.parametrize(
        ("host", "hostname", "port"),
        [
            ("[::1]:80", "::1", 80),
            ("[::1]", "::1", None),
            ("[::1", None, None),
            ("h:99999", "h", None),
            ("h:x", "h", None),
            ("h:", "h", None),
            ("", None, None),
        ],
    )
    def test_no_host_that_a_client_sends_raises(
        self, host: str, hostname: str | None, port: int | None
    ) -> None:
        url = MemoryHandshake(raw_path="/p", query_string="q", raw_headers=[("host", host)]).url
        assert (url.hostname, url.port) == (hostname, port)
        assert (url.scheme, url.path, url.query) == ("ws", "/p", "q")

    @pytest.mark.parametrize(
        "host",
        ["h h", "h@evil.example", "h\t", "h/admin", "h?x=1", "h#f", "h/admin?x", "h\\admin"],
    )
    def test_a_host_that_is_none_is_left_out(self, host: str) -> None:
        url = MemoryHandshake(raw_path="/p", query_string="q", raw_headers=[("host", host)]).url
        assert url == "ws:///p?q"
        assert (url.hostname, url.path, url.query) == (None, "/p", "q")

    @pytest.mark.parametrize(
        ("told", "scheme"),
        [("ws", "ws"), ("wss", "wss"), ("http", "ws"), ("https", "wss"), ("HTTPS", "wss"),
         ("https, http", "ws"), ("ftp", "ws"), ("", "ws")],
    )  # fmt: skip
    def test_the_scheme_is_one_of_two(self, told: str, scheme: str) -> None:
        assert MemoryHandshake(scheme=told).url.scheme == scheme

    def test_a_prefix_that_a_proxy_has_removed(self) -> None:
        class Behind(MemoryHandshake):
            @property
            def removed_prefix(self) -> str:
                return "/gr\xfc\xdfe und %"

        url = Behind(raw_path="/a%20b").url
        assert url == "ws://app.example/gr%C3%BC%C3%9Fe%20und%20%25/a%20b"
        assert url.path == "/gr\xfc\xdfe und %/a b"


class TestClientAddress:
    @pytest.mark.parametrize(
        ("told", "address"),
        [
            # what servers say
            (("127.0.0.1", 4711), ("127.0.0.1", 4711)),
            (("::1", 4711), ("::1", 4711)),
            (("fe80::1%eth0", "4711"), ("fe80::1%eth0", 4711)),
            (("testclient", 50000), ("testclient", 50000)),
            # what proxies say
            (("203.0.113.9", 0), ("203.0.113.9", 0)),
            (("203.0.113.9:4711",), ("203.0.113.9", 4711)),
            (("[2001:db8::9]",), ("2001:db8::9", 0)),
            (("[2001:db8::9]:4711", 0), ("2001:db8::9", 4711)),
            (('"[2001:db8::9]:4711"', 0), ("2001:db8::9", 4711)),
            (("_hidden", 0), ("_hidden", 0)),
            # what anybody may say
            (("203.0.113.9", "http"), ("203.0.113.9", 0)),
            (("203.0.113.9", -1), ("203.0.113.9", 0)),
            (("203.0.113.9", 65536), ("203.0.113.9", 0)),
            (("203.0.113.9", None), ("203.0.113.9", 0)),
            (("203.0.113.9", "\u0661"), ("203.0.113.9", 0)),
            (("203.0.113.9:" + "9" * 5000, 0), ("203.0.113.9", 0)),
            (("203.0.113.9:http", 0), ("203.0.113.9:http", 0)),
            (("[2001:db8::9", 0), ("[2001:db8::9", 0)),
        ],
    )
    def test_what_is_said_of_a_client(self, told: Any, address: tuple[str, int]) -> None:
        assert client_address(*told) == address

    @pytest.mark.parametrize("told", [(None,), ("",), ("", "0")])
    def test_a_unix_socket_has_none(self, told: Any) -> None:
        assert client_address(*told) is None


class TestHeaders:
    def test_names_are_lower_case_and_read_in_any(self) -> None:
        headers = MemoryHandshake(raw_headers=[("X-Tag", "a"), ("x-tag", "b")]).headers
        assert list(headers.items()) == [("x-tag", "a"), ("x-tag", "b")]
        assert headers["X-TAG"] == "a"
        assert headers.getall("x-Tag") == ["a", "b"]
        assert "x-other" not in headers
        with pytest.raises(TypeError):
            headers["a"] = "b"  # type: ignore[index]  # read-only: that is the test

    def test_query_parameters_keep_order_blanks_and_repetitions(self) -> None:
        query = MemoryHandshake(query_string="x=1&y=&x=%C3%A9&z&&w=a+b&bad=%ff").query_params
        assert list(query.items()) == [
            ("x", "1"),
            ("y", ""),
            ("x", "é"),
            ("z", ""),
            ("w", "a b"),
            ("bad", "\ufffd"),
        ]
        assert (query["x"], query.getall("x")) == ("1", ["1", "é"])

    def test_subprotocols_come_from_every_line_in_order(self) -> None:
        name = "Sec-WebSocket-Protocol"
        handshake = MemoryHandshake(raw_headers=[(name, "b, a"), (name, " ,c,"), (name, "")])
        assert handshake.subprotocols == ("b", "a", "c")
        assert MemoryHandshake().subprotocols == ()

    def test_the_client_has_names(self) -> None:
        client = MemoryHandshake(client=Address("::1", 5)).client
        assert client is not None
        assert (client.host, client.port) == ("::1", 5)


class TestCookies:
    def test_the_first_of_a_name_wins_over_all_lines(self) -> None:
        assert cookies("d=1; d=2; e=5", "e=6; f=7") == {"d": "1", "e": "5", "f": "7"}

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("a=1;b=2;;  c = 3 ;", {"a": "1", "b": "2", "c": "3"}),
            ("a=", {"a": ""}),
            ("a=b=c==", {"a": "b=c=="}),
            ('a="x"', {"a": "x"}),
            ('a=""', {"a": ""}),
            ('a="', {"a": '"'}),
            ('a="x', {"a": '"x'}),
            (r'a="q\"q\\\073"', {"a": 'q"q\\;'}),
            (r'a="\351"', {"a": "é"}),
            (r'a="\9\777"', {"a": "9777"}),
            (r"a=\073", {"a": r"\073"}),
            ("token", {}),
            ("=x", {}),
            ("na me=x; ok=1", {"ok": "1"}),
            ("a=b\x00; ok=1", {"ok": "1"}),
            ("a=b\tc", {"a": "b\tc"}),
            ("é=1; a=é", {"a": "é"}),
            ("", {}),
        ],
    )
    def test_what_is_no_cookie_is_left_out(self, header: str, expected: dict[str, str]) -> None:
        assert cookies(header) == expected


class TestState:
    def test_attributes_and_items_are_the_same(self) -> None:
        state = State()
        state.user = "ada"
        state["room"] = 7
        assert (state["user"], state.room, len(state)) == ("ada", 7, 2)
        assert list(state) == ["user", "room"]
        assert repr(state) == "State({'user': 'ada', 'room': 7})"
        del state.user
        del state["room"]
        assert not state
        assert getattr(state, "user", None) is None

    def test_what_was_never_set_is_an_attribute_error(self) -> None:
        state = State()
        with pytest.raises(AttributeError, match="'user'"):
            _ = state.user
        with pytest.raises(AttributeError, match="'user'"):
            del state.user
        with pytest.raises(KeyError):
            _ = state["user"]
        with pytest.raises(KeyError):
            del state["user"]
        assert not hasattr(state, "user")

    def test_every_name_is_free(self) -> None:
        state = State()
        state.items = [1]
        state.get = 2
        assert (state["items"], state.items, state.get) == ([1], [1], 2)

    def test_a_copy_is_a_state(self) -> None:
        state = State({"user": "ada"})
        assert copy.copy(state).user == "ada"
        assert copy.deepcopy(state).user == "ada"

    def test_it_lies_over_what_the_framework_keeps(self) -> None:
        kept = {"user": "ada"}
        handshake = MemoryHandshake(framework_state=kept)
        assert handshake.state.user == "ada"
        handshake.state.user = "eve"
        assert kept == {"user": "eve"}
        assert handshake.state is handshake.state

    def test_two_connections_share_nothing(self) -> None:
        first, second = MemoryHandshake(), MemoryHandshake()
        first.state.x = 1
        assert "x" not in second.state


class TestCheckHeaders:
    def test_pairs_and_mappings(self) -> None:
        pairs = [("X-A", " v\tw "), ("x-a", "")]
        expected = [("x-a", "v\tw"), ("x-a", "")]
        assert check_headers(pairs) == expected
        assert check_headers(iter(pairs)) == expected
        assert check_headers({"X-A": "é"}) == [("x-a", "é")]
        assert check_headers(None) == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("", "x"),
            ("a b", "x"),
            ("a:", "x"),
            ("a\n", "x"),
            ("é", "x"),
            ("a", "x\r\nSet-Cookie: y"),
            ("a", "x\ny"),
            ("a", "x\0"),
            ("a", "x\x7f"),
            ("a", "€"),
            ("a", "\ud800"),
            ("Sec-WebSocket-Protocol", "x"),
            ("sec-websocket-accept", "x"),
            ("SEC-WEBSOCKET-ANYTHING", "x"),
            ("Connection", "close"),
            ("Transfer-Encoding", "chunked"),
        ],
    )
    def test_what_may_not_be_sent(self, name: str, value: str) -> None:
        with pytest.raises(ValueError):
            check_headers([(name, value)])

    @pytest.mark.parametrize(
        "headers", ["a: b", b"a: b", 5, [("a", 1)], [(b"a", b"b")], {"a": None}, [5]]
    )
    def test_wrong_types(self, headers: object) -> None:
        with pytest.raises(TypeError):
            check_headers(
                headers,  # type: ignore[arg-type]  # that is the test
            )


class TestProblem:
    @pytest.mark.parametrize(
        "handshake",
        [
            MemoryHandshake(),
            MemoryHandshake(raw_path="/a%FF/\"<>|^~!$&'()*+,;=:@", query_string="a=%20&?/\\{}"),
            MemoryHandshake(raw_headers=[]),
            MemoryHandshake(raw_headers=[("Host", "")]),
            MemoryHandshake(raw_headers=[("Sec-WebSocket-Protocol", "a,, b.c ,\t!#$%&'*+-.^_`|~")]),
            MemoryHandshake(raw_headers=[("Sec-WebSocket-Protocol", p) for p in ("", "a")]),
        ],
    )
    def test_there_is_none(self, handshake: MemoryHandshake) -> None:
        assert handshake.problem() is None

    @pytest.mark.parametrize(
        ("handshake", "problem"),
        [
            (MemoryHandshake(raw_path=""), "path"),
            (MemoryHandshake(raw_path="*"), "path"),
            (MemoryHandshake(raw_path="a/b"), "path"),
            (MemoryHandshake(raw_path="http://h/"), "path"),
            (MemoryHandshake(raw_path="/a b"), "path"),
            (MemoryHandshake(raw_path="/\xe9"), "path"),
            (MemoryHandshake(raw_path="/a#b"), "path"),
            (MemoryHandshake(raw_path="/\n"), "path"),
            (MemoryHandshake(raw_path="/a\n"), "path"),
            (MemoryHandshake(query_string="a#b"), "query"),
            (MemoryHandshake(query_string="\x7f"), "query"),
            (MemoryHandshake(raw_headers=[("Host", "h"), ("host", "h")]), "Host"),
            *(
                (MemoryHandshake(raw_headers=[("Sec-WebSocket-Protocol", value)]), "subprotocol")
                for value in ("", ",", " ", "a b", "a/b", "a, (b)", "\xe9", "a\xa0", "a;q=1")
            ),
        ],
    )
    def test_there_is_one(self, handshake: MemoryHandshake, problem: str) -> None:
        assert problem in (handshake.problem() or "nothing")


def test_empty_elements_are_no_subprotocols() -> None:
    lines = [("Sec-WebSocket-Protocol", "a,, b"), ("Sec-WebSocket-Protocol", "")]
    assert MemoryHandshake(raw_headers=lines).subprotocols == ("a", "b")


def test_the_headers_are_walked_once_for_all_problems() -> None:
    walks = []

    class Counting(MemoryHandshake):
        @property
        def raw_headers(self) -> Iterable[tuple[str, str]]:
            walks.append(1)
            return super().raw_headers

    handshake = Counting(raw_headers=[("Host", "h"), ("Sec-WebSocket-Protocol", "a")])
    assert handshake.problem() is None
    assert len(walks) == 1
