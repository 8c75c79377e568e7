"""The options of a mounted handler, and the check of origins."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from unisock import Options
from unisock.options import normalise_origin


def parse(options: Any) -> Options:
    """`Options.parse`, for options that no type checker would let pass."""
    return Options.parse(options)


def allows(origin: str, host: str, **options: Any) -> bool:
    return parse(options).allows_origin(origin, host)


class TestOptions:
    def test_the_defaults(self) -> None:
        options = parse({})
        assert options.max_message_size == 16 * 1024 * 1024
        assert options.json is None
        assert options.allowed_origins == frozenset()

    @pytest.mark.parametrize(
        ("name", "hint"),
        [("origin", "origins"), ("max_messages_size", "max_message_size"), ("orgins", "origins")],
    )
    def test_an_unknown_option_names_the_nearest(self, name: str, hint: str) -> None:
        with pytest.raises(TypeError, match=f"{name}.*did you mean '{hint}'"):
            parse({name: 1})

    def test_an_unknown_option_lists_the_known(self) -> None:
        with pytest.raises(
            TypeError, match=r"'xyz' \(known here: origins, allowed_hosts, json"
        ) as caught:
            parse({"xyz": 1})
        assert "did you mean" not in str(caught.value)

    def test_the_limit_of_json_is_no_more_than_that_of_a_message(self) -> None:
        assert parse({}).json_limit == 1024 * 1024
        assert parse({"max_message_size": 5000}).json_limit == 5000
        assert parse({"max_json_size": 4000, "max_message_size": 5000}).json_limit == 4000
        with pytest.raises(ValueError, match=r"max_json_size=5001 says nothing.*raise that too"):
            parse({"max_json_size": 5001, "max_message_size": 5000})

    def test_what_is_computed_is_no_option(self) -> None:
        with pytest.raises(TypeError, match="unknown option"):
            parse({"allowed_origins": frozenset()})

    @pytest.mark.parametrize(
        "name",
        ["max_messages_per_second", "handler_timeout", "first_message_timeout", "idle_timeout"],
    )
    @pytest.mark.parametrize(
        ("value", "error"),
        [
            (0, ValueError),
            (-1, ValueError),
            ("1", TypeError),
            (math.nan, ValueError),
            (math.inf, ValueError),
        ],
    )
    def test_rates_and_times_are_above_0(
        self, name: str, value: object, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match=name):
            parse({name: value})

    @pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (1, 1), (2.9, 2), (100, 100)])
    def test_the_burst_is_of_a_second(self, rate: float, burst: int) -> None:
        assert parse({"max_messages_per_second": rate}).burst == burst
        assert parse({"max_messages_per_second": rate, "message_burst": 7}).burst == 7

    def test_a_burst_needs_a_rate(self) -> None:
        with pytest.raises(ValueError, match="max_messages_per_second"):
            parse({"message_burst": 7})

    def test_the_idle_close_code_is_one_that_may_be_sent(self) -> None:
        assert parse({"idle_close_code": 4000}).idle_close_code == 4000
        with pytest.raises(ValueError, match="1005"):
            parse({"idle_close_code": 1005})

    @pytest.mark.parametrize(
        "name", ["max_message_size", "max_json_size", "max_queue", "max_queue_size"]
    )
    @pytest.mark.parametrize("value", [True, 1.5, "1", None])
    def test_sizes_are_ints(self, name: str, value: object) -> None:
        with pytest.raises(TypeError, match=name):
            parse({name: value})

    @pytest.mark.parametrize(
        "name",
        ["max_message_size", "max_json_size", "max_queue", "max_queue_size", "close_timeout"],
    )
    @pytest.mark.parametrize("value", [0, -1])
    def test_sizes_are_positive(self, name: str, value: object) -> None:
        with pytest.raises(ValueError, match=name):
            parse({name: value})

    def test_a_time_is_a_number(self) -> None:
        assert parse({"close_timeout": 0.5}).close_timeout == 0.5
        with pytest.raises(ValueError, match="close_timeout"):
            parse({"close_timeout": math.nan})
        with pytest.raises(TypeError, match="close_timeout"):
            parse({"close_timeout": "5"})

    @pytest.mark.parametrize("codec", [object(), "json", type("Half", (), {"dumps": len})()])
    def test_a_codec_has_both_functions(self, codec: object) -> None:
        with pytest.raises(TypeError, match="dumps and loads"):
            parse({"json": codec})

    def test_a_module_is_a_codec(self) -> None:
        assert parse({"json": json}).json is json


class TestOrigins:
    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://app.example", "app.example"),
            ("https://app.example", "app.example"),  # behind a proxy that ends TLS
            ("HTTP://APP.example", "app.EXAMPLE"),
            ("http://app.example", "app.example:80"),
            ("https://app.example", "app.example:443"),
            ("https://app.example:443", "app.example"),
            ("http://app.example:8000", "app.example:8000"),
            ("http://[::1]:8000", "[::1]:8000"),
            ("http://[::1]", "[::1]:80"),
            ("http://[2001:DB8::1]", "[2001:db8::1]"),
        ],
    )
    def test_the_own_host(self, origin: str, host: str) -> None:
        assert allows(origin, host)

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://evil.example", "app.example"),
            ("http://app.example.evil.example", "app.example"),
            ("http://app.example@evil.example", "app.example"),
            ("http://app.example:8000", "app.example"),
            ("http://app.example", "app.example:8000"),
            ("https://app.example", "app.example:80"),
            ("http://app.example", "[::1]"),
            ("http://[::1]", "[::1"),
            ("null", "null"),
            ("null", ""),
            ("", ""),
            ("http://", ""),
            ("http://app.example", ""),
            ("app.example", "app.example"),
            ("http://app.example/", "app.example"),
            ("http://app.example?x", "app.example"),
            ("http://app.example#", "app.example"),
            ("http://app.example http://evil.example", "app.example"),
            ("http://app.example,http://evil.example", "app.example"),
            ("http://app.example:99999", "app.example:99999"),
            ("http://app.example:x", "app.example:x"),
            ("http://[::1", "[::1"),
            ("http://app.example\t", "app.example"),
            ("http://app.example", "app.example/x"),
            ("http://app.example", "user@app.example"),
        ],
    )
    def test_others_are_refused(self, origin: str, host: str) -> None:
        assert not allows(origin, host)

    @pytest.mark.parametrize("origin", ["http://app.example", "http://app.example:80"])
    def test_a_page_without_tls_is_another_origin_where_there_is_tls(self, origin: str) -> None:
        options = parse({})
        assert options.allows_origin(origin, "app.example", is_secure=False)
        assert not options.allows_origin(origin, "app.example", is_secure=True)
        assert not options.allows_origin(origin, "app.example:80", is_secure=True)
        assert options.allows_origin("https://app.example", "app.example", is_secure=True)
        listed = parse({"origins": [origin]})
        assert listed.allows_origin(origin, "app.example", is_secure=True)

    def test_a_list_adds_origins(self) -> None:
        origins = ["https://Other.example:443", "null", "http://[::1]:5000"]
        assert allows("https://other.example", "app.example", origins=origins)
        assert allows("null", "app.example", origins=origins)
        assert allows("http://[::1]:5000", "app.example", origins=iter(origins))
        assert allows("http://app.example", "app.example", origins=origins)
        assert not allows("http://other.example", "app.example", origins=origins)
        assert not allows("http://evil.example", "app.example", origins=origins)

    def test_a_star_allows_whatever_is_sent(self) -> None:
        assert allows("http://evil.example", "app.example", origins="*")
        assert allows("nonsense", "", origins="*")

    @pytest.mark.parametrize("origins", ["https://app.example", b"*", 5])
    def test_a_list_is_wanted(self, origins: object) -> None:
        with pytest.raises(TypeError, match="origins="):
            parse({"origins": origins})

    def test_of_str(self) -> None:
        with pytest.raises(TypeError, match="an origin is a str"):
            parse({"origins": [b"https://app.example"]})

    def test_a_star_in_a_list_is_told(self) -> None:
        with pytest.raises(ValueError, match=r"origins='\*'"):
            parse({"origins": ["*"]})

    @pytest.mark.parametrize(
        "origin",
        [
            "app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://",
            "https://a b",
            "https://a:x",
            "https://*.app.example:*",
            "",
        ],
    )
    def test_what_is_no_origin_is_told_at_mount(self, origin: str) -> None:
        with pytest.raises(ValueError):
            parse({"origins": [origin]})

    @pytest.mark.parametrize(
        ("origin", "normal"),
        [
            ("null", "null"),
            ("ws://h:80", "ws://h"),
            ("wss://h:443", "wss://h"),
            ("https://h:80", "https://h:80"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
            ("http://h:", "http://h"),
        ],
    )
    def test_normal_form(self, origin: str, normal: str) -> None:
        assert normalise_origin(origin) == normal


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        ["app.example", "APP.example", "app.example.", "a.b.example", "a.a.b.example", "::1"],
    )
    def test_those_that_are_listed(self, host: str) -> None:
        assert parse({"allowed_hosts": HOSTS}).allows_host(host)

    @pytest.mark.parametrize(
        "host",
        [
            None,
            "",
            ".",
            "b.example",
            "xb.example",
            "app.example.x",
            "x.app.example",
            "::2",
            "*",
            "a,b",
        ],
    )
    def test_others(self, host: str | None) -> None:
        assert not parse({"allowed_hosts": HOSTS}).allows_host(host)

    def test_any(self) -> None:
        for options in ({}, {"allowed_hosts": None}, {"allowed_hosts": ["*"]}):
            assert parse(options).allows_host("evil.example")
            assert parse(options).allows_host(None)

    def test_none_at_all(self) -> None:
        assert not parse({"allowed_hosts": []}).allows_host("app.example")

    @pytest.mark.parametrize("hosts", ["app.example", b"app.example", 5, [5], [None]])
    def test_a_list_of_text(self, hosts: object) -> None:
        with pytest.raises(TypeError, match=r"allowed_hosts= takes a list|a host is a str"):
            parse({"allowed_hosts": hosts})

    @pytest.mark.parametrize(
        "host",
        ["app.example:80", "https://app.example", "", ".app.example", "*app.example", "a b", "::1"],
    )
    def test_what_is_no_host(self, host: str) -> None:
        with pytest.raises(ValueError, match="is not a host"):
            parse({"allowed_hosts": [host]})


HOSTS = ["App.example", "*.b.example", "[::1]"]


@pytest.mark.parametrize("value", [1, "yes", None])
def test_visible_rejections_is_a_flag(value: Any) -> None:
    with pytest.raises(TypeError, match="visible_rejections= is True or False, not "):
        Options(visible_rejections=value)
