"""The opening handshake as a handler reads it: URL, headers, cookies, client.

An adapter subclasses `Handshake` with a handful of raw reads; everything that
is derived from them is here, once, and is built when it is first asked for.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import cached_property
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from multidict import CIMultiDict, CIMultiDictProxy, MultiDict, MultiDictProxy

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What the target of a request is (RFC 9112, section 3.2): the visible characters of
# ASCII, without a fragment.
_TARGET = re.compile(r"[!\"$-~]*")
_ABSOLUTE = re.compile(r"(?:http|ws)s?://(?:[^/?@]*@)?([^/?]*)", re.IGNORECASE)
# What would end the authority of a URL (RFC 3986, section 3.2) or is no URL's.
_NO_HOST = re.compile(r"[/?#@\\\s]")
# Written by the server; from outside they would break the response.
_FORBIDDEN = frozenset({"connection", "upgrade", "content-length", "transfer-encoding"})
# What a proxy writes for a client: a host, and maybe a port (RFC 7239, section 6).
_NODE = re.compile(r'"?(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::([0-9]+))?"?')
_SECURE = frozenset({"https", "wss"})
_QUOTED_PAIR = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")

_Pairs: TypeAlias = Iterable[tuple[str, str]]


class Address(NamedTuple):
    """A peer's address; the port is 0 where it is not known."""

    host: str
    port: int


def client_address(host: str | None, port: object = 0) -> Address | None:
    """The `Address` of a client, from what a server or a proxy's middleware says of it.

    A port that stands behind the host, as in ``203.0.113.9:4711`` and
    ``[2001:db8::9]:4711``, is taken from there.  The port is 0 where nobody names
    one.  Without a host there is no address: the client came over a unix socket.
    """
    if not host:
        return None
    node = _NODE.fullmatch(host)
    if node is None:
        return Address(host, _port_of(str(port)))
    return Address(node[1] or node[2], _port_of(str(node[3] or port)))


def _port_of(text: str) -> int:
    # A limit of digits first: int() raises for thousands of them.
    number = int(text) if len(text) <= 5 and text.isascii() and text.isdigit() else 0
    return number if number <= 65535 else 0


class URL(str):
    """The URL that the client asked for, as a `str` with its parts to read."""

    __slots__ = ()

    @property
    def scheme(self) -> str:
        """``"ws"`` or ``"wss"``."""
        return self.partition("://")[0].lower()

    @property
    def hostname(self) -> str | None:
        """The host in lower case, without port or brackets, or `None`."""
        try:
            return urlsplit(self).hostname
        except ValueError:  # a malformed IPv6 address in the Host header
            return None

    @property
    def port(self) -> int | None:
        """The port if the URL names one."""
        try:
            return urlsplit(self).port
        except ValueError:  # not a number, or out of range
            return None

    @property
    def path(self) -> str:
        """The whole path, percent-decoded, with the prefix of any mount."""
        return unquote(_split_target(self)[0])

    @property
    def query(self) -> str:
        """What follows the question mark, as it was sent, or ``""``."""
        return _split_target(self)[1]


def _split_target(url: str) -> tuple[str, str]:
    # By hand: urlsplit raises for a malformed host, whatever it is asked for.
    target = url.partition("://")[2].partition("#")[0]
    before, _, query = target.partition("?")
    _, slash, path = before.partition("/")
    return slash + path, query


class State:
    """A namespace for one connection: attributes and items are the same.

    Reading what was never set raises `AttributeError` (`KeyError` as an item).
    It has no methods, so that every name is free: ``len``, ``in``
    and iteration over the names work.
    """

    __slots__ = ("_data",)

    _data: MutableMapping[str, Any]

    def __init__(self, data: MutableMapping[str, Any] | None = None) -> None:
        object.__setattr__(self, "_data", {} if data is None else data)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._data[name]
        except KeyError:
            raise AttributeError(f"state has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._data[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self._data[name]
        except KeyError:
            raise AttributeError(f"state has no attribute {name!r}") from None

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._data[name] = value

    def __delitem__(self, name: str) -> None:
        del self._data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __contains__(self, name: object) -> bool:
        return name in self._data

    def __len__(self) -> int:
        return len(self._data)

    def __copy__(self) -> State:
        return State(dict(self._data))

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return State(copy.deepcopy(dict(self._data), memo))

    def __repr__(self) -> str:
        return f"State({dict(self._data)!r})"


class Handshake(ABC):
    """One opening handshake.

    Subclasses give the raw reads (the abstract members); all are cheap and
    none may raise for what a client sent.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass defines.

        Raises:
            TypeError: a method where a property is expected.
        """
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if isinstance(value, FunctionType) and isinstance(vars(Handshake).get(name), property):
                raise TypeError(
                    f"{cls.__name__}.{name} is a method: it is read without a call; "
                    "write @property above it"
                )

    @property
    @abstractmethod
    def scheme(self) -> str:
        """What the server says: ``"wss"`` or ``"https"`` with TLS, else anything."""

    @property
    @abstractmethod
    def raw_path(self) -> str:
        """The whole path, still percent-encoded, with any mount prefix."""

    @property
    @abstractmethod
    def query_string(self) -> str:
        """What follows the question mark, still percent-encoded, or ``""``."""

    @property
    @abstractmethod
    def raw_headers(self) -> Iterable[tuple[str, str]]:
        """Every header line in order; values decoded as latin-1."""

    @property
    @abstractmethod
    def path_params(self) -> Mapping[str, Any]:
        """The path's parameters, converted."""

    @property
    @abstractmethod
    def client(self) -> Address | None:
        """The client's address, or `None` (unix sockets); see `client_address`."""

    @property
    @abstractmethod
    def request(self) -> Any:
        """The framework's own request object."""

    @property
    def removed_prefix(self) -> str:
        """What a proxy has removed from the beginning of the path, decoded, or ``""``."""
        return ""

    @property
    def framework_state(self) -> MutableMapping[str, Any] | None:
        """What the framework keeps for this request, to be seen in `state`."""
        return None

    def header_values(self, name: str) -> list[str]:
        """All values of one header, its name in lower case, without making `headers`."""
        return [value for header, value in self.raw_headers if header.lower() == name]

    @cached_property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers, names in lower case."""
        return CIMultiDictProxy(CIMultiDict((n.lower(), v) for n, v in self.raw_headers))

    @property
    def is_secure(self) -> bool:
        """Whether the server, or a proxy that it believes, says that the client has TLS."""
        return self.scheme.lower() in _SECURE

    @cached_property
    def url(self) -> URL:
        """The URL as the client sent it; without a host that is none."""
        host = self.headers.get("host", "")
        if _NO_HOST.search(host):
            host = ""
        scheme = "wss" if self.is_secure else "ws"
        path = quote(self.removed_prefix) + self.raw_path
        query = self.query_string
        return URL(f"{scheme}://{host}{path}{'?' if query else ''}{query}")

    @cached_property
    def query_params(self) -> MultiDictProxy[str]:
        """The query's parameters, decoded; blank values are kept."""
        return MultiDictProxy(MultiDict(parse_qsl(self.query_string, keep_blank_values=True)))

    @cached_property
    def cookies(self) -> dict[str, str]:
        """The cookies; the first of a repeated name wins."""
        cookies: dict[str, str] = {}
        for header in self.headers.getall("cookie", ()):
            for name, value in _parse_cookies(header):
                cookies.setdefault(name, value)
        return cookies

    @cached_property
    def subprotocols(self) -> tuple[str, ...]:
        """What the client offers, in its order, from all header lines.

        From the headers, not from the server: hypercorn 0.18 gives the last
        line only, and WSGI servers the raw string.
        """
        return tuple(filter(None, self.offered(self.hosts_and_subprotocols()[1])))

    def hosts_and_subprotocols(self) -> tuple[list[str], list[str]]:
        """The values of ``Host`` and of ``Sec-WebSocket-Protocol``, by one walk over the lines."""
        hosts: list[str] = []
        lines: list[str] = []
        for header, value in self.raw_headers:
            name = header.lower()
            if name == "host":
                hosts.append(value)
            elif name == "sec-websocket-protocol":
                lines.append(value)
        return hosts, lines

    def offered(self, lines: list[str]) -> list[str]:
        """The elements of the subprotocols' header lines as they came, empty ones too."""
        return [element.strip(" \t") for line in lines for element in line.split(",")]

    def problem(self) -> str | None:
        """What makes this a request to be answered with 400, or `None`.

        Servers look at some of it, and each at something else: RFC 9112, section 3.2,
        and RFC 6455, section 4.2.1.
        """
        path = self.raw_path
        if not (path.startswith("/") and _TARGET.fullmatch(path)):
            return "the path of the request is malformed"
        if not _TARGET.fullmatch(self.query_string):
            return "the query of the request is malformed"
        hosts, lines = self.hosts_and_subprotocols()
        if len(hosts) > 1:
            return "there is more than one Host"
        offered = self.offered(lines)
        return _problem_of(offered) if offered else None

    @cached_property
    def state(self) -> State:
        """The connection's namespace, over what the framework keeps."""
        return State(self.framework_state)


def _problem_of(offered: list[str]) -> str | None:
    # RFC 9110, section 5.6.1: empty elements are left out, but not all may be empty.
    named = [name for name in offered if name]
    if not named:
        return "the list of subprotocols is empty"
    if not all(map(_TOKEN.fullmatch, named)):
        return "a subprotocol is not a token"
    return None


def split_target(target: str) -> tuple[str | None, str]:
    """The host that a request's target names, if any, and the path with its query.

    In absolute form (RFC 9112, section 3.2.2) it names one, and the ``Host`` header is
    passed over.
    """
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return None, target
    rest = target[absolute.end() :]
    return absolute[1], rest if rest.startswith("/") else f"/{rest}"


def _parse_cookies(header: str) -> Iterator[tuple[str, str]]:
    """Names and values in one Cookie header (RFC 6265, section 4.2.1).

    What has no ``=``, a name that is not a token or a control character in
    its value is no cookie, and is left out.
    """
    for pair in header.split(";"):
        name, equals, value = (part.strip(" \t") for part in pair.partition("="))
        if equals and _TOKEN.fullmatch(name) and not _CONTROL.search(value):
            yield name, _unquote_cookie(value)


def _unquote_cookie(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _QUOTED_PAIR.sub(lambda m: chr(int(m[1], 8)) if m[1] else m[2], value[1:-1])


def check_headers(
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None,
) -> list[tuple[str, str]]:
    """Check the headers of a response; return them as pairs, names in lower case.

    Raises:
        TypeError: not a mapping or pairs of `str`.
        ValueError: a name that is no token, is the server's to write or
            begins with ``sec-websocket-``; a value with a line break, another control
            character or one outside latin-1 (RFC 9110, section 5.5).
    """
    if headers is None:
        return []
    if isinstance(headers, (str, bytes)):
        raise TypeError("headers are a mapping or pairs of str, not one string")
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [_check_header(name, value) for name, value in cast(_Pairs, pairs)]


def check_header_name(name: str) -> None:
    """Check the name of a header.

    Raises:
        ValueError: it is not a token (RFC 9110, section 5.1).
    """
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name")


def _check_header(name: str, value: str) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"a header's name and value are str: {name!r}, {value!r}")
    check_header_name(name)
    lower = name.lower()
    if lower.startswith("sec-websocket-"):
        raise ValueError(
            f"{name} belongs to the handshake itself; for the subprotocol use accept(subprotocol=…)"
        )
    if lower in _FORBIDDEN:
        raise ValueError(f"{name} is written by the server and may not be set")
    if _CONTROL.search(value):
        raise ValueError(f"the value of {name} holds a line break or another control character")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError as exc:
        raise ValueError(f"the value of {name} is not latin-1: percent-encode it") from exc
    return lower, value.strip(" \t")
