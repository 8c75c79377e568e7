"""The options of a mounted handler, checked when it is mounted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

from .codecs import JSONCodec
from .errors import check_close_code
from .markers import Depends

_MESSAGE_LIMITS = ("max_messages_per_second", "first_message_timeout", "idle_timeout")
_LIMITS = (*_MESSAGE_LIMITS, "handler_timeout", "send_timeout")
_SIZES = ("max_message_size", "max_json_size", "max_queue", "max_queue_size", "max_threads")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.?|\[[\da-f:.]+\]", re.IGNORECASE)
_MAX_JSON_SIZE = 1024 * 1024
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class OptionsDict(TypedDict, total=False):
    """The options as keyword arguments, for type checkers."""

    origins: Iterable[str] | Literal["*"] | None
    allowed_hosts: Iterable[str] | None
    json: JSONCodec | None
    max_message_size: int
    max_json_size: int
    max_queue: int
    max_queue_size: int
    close_timeout: float
    send_timeout: float | None
    max_connections: int | None
    max_threads: int
    max_messages_per_second: float | None
    message_burst: int | None
    handler_timeout: float | None
    first_message_timeout: float | None
    idle_timeout: float | None
    idle_close_code: int
    dependencies: Sequence[Depends]
    visible_rejections: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options that mean the same on every framework.

    Attributes:
        origins: origins allowed beside the own host, as
            ``["https://app.example"]`` (``"null"`` may be one), or ``"*"`` for
            no check.
        allowed_hosts: hosts that a handshake may name, as ``["app.example",
            "*.app.example"]``; another one is rejected with 400.  `None`: any.
        json: a codec with ``dumps`` and ``loads`` in place of msgspec.
        max_message_size: bytes; a larger message closes with 1009.
        max_json_size: bytes of a message that is received as JSON, and no more than
            `max_message_size`; a larger one is an `InvalidMessage` of code 1009.
        max_queue: how many messages wait unread before reading pauses.
        max_queue_size: how many bytes do.
        close_timeout: seconds that `WebSocket.close`, `WebSocket.reject` and the
            end of a handler wait for a peer that does not read, and the end of a
            plain function for what it has started.
        send_timeout: seconds that a send may wait while the peer takes nothing; then
            the connection counts as broken, and is cut where there is a socket to cut.
            `None`: for ever.
        max_connections: how many connections of the mounted handler there may be
            at once in one process; others are rejected with 503.  `None`: any.
        max_threads: how many connections of a plain function (``def``) there may
            be at once where each takes a thread; others are rejected with 503.
            On gevent they take none, and there is no limit.
        max_messages_per_second: how many messages a peer may send in the long run;
            one more closes with 1008.  `None`: any.
        message_burst: how many it may send at once; `None`: those of a second, and
            at least one.
        handler_timeout: seconds that a handler may take to accept or reject; then
            the handshake is rejected with 503, and the handler sees a disconnect.
        first_message_timeout: seconds from `WebSocket.accept` within which the
            peer's first message must have come; else the close code is 1008.
        idle_timeout: seconds without a message of the peer, after which the
            connection is closed.  Pings, pongs and what the handler sends do not
            count.
        idle_close_code: the code that `idle_timeout` closes with.
        dependencies: what runs before the handler, which does not see what it gives:
            ``[Depends(authenticated)]``.
        visible_rejections: whether a rejected handshake is accepted and then closed, with
            4000 + status as the code and the body as the reason.  JavaScript in a browser
            sees nothing of an HTTP response.
    """

    origins: Iterable[str] | Literal["*"] | None = None
    allowed_hosts: Iterable[str] | None = None
    json: JSONCodec | None = None
    max_message_size: int = 16 * 1024 * 1024
    max_json_size: int = _MAX_JSON_SIZE
    max_queue: int = 1024
    max_queue_size: int = 1024 * 1024
    close_timeout: float = 10.0
    send_timeout: float | None = 30.0
    max_connections: int | None = None
    max_threads: int = 1000
    max_messages_per_second: float | None = None
    message_burst: int | None = None
    handler_timeout: float | None = None
    first_message_timeout: float | None = None
    idle_timeout: float | None = None
    idle_close_code: int = 1001
    dependencies: Sequence[Depends] = ()
    visible_rejections: bool = False

    allowed_origins: frozenset[str] | None = field(init=False, default=frozenset())
    """The origins, normalised; `None` where all are allowed."""
    host_patterns: frozenset[str] | None = field(init=False, default=None)
    """The hosts, normalised; `None` where all are allowed."""
    json_limit: int = field(init=False, default=_MAX_JSON_SIZE)
    """How many bytes a message may have that is received as JSON."""
    # Those of `unisock.messages`.
    _decode: Callable[[str | bytes, Any, JSONCodec | None, int], Any] = field(
        init=False, repr=False, compare=False
    )
    _encode: Callable[[Any, JSONCodec | None], str | bytes] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in _SIZES:
            _check_positive(name, getattr(self, name), int)
        object.__setattr__(
            self, "json_limit", _json_limit(self.max_json_size, self.max_message_size)
        )
        for name in ("max_connections", "message_burst"):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name), int)
        _check_positive("close_timeout", self.close_timeout, (int, float))
        for name in _LIMITS:
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name), (int, float))
                if math.isinf(getattr(self, name)):
                    raise ValueError(f"{name}= must be finite; for no limit write None")
        if self.message_burst is not None and self.max_messages_per_second is None:
            raise ValueError("message_burst= says nothing without max_messages_per_second=")
        check_close_code(self.idle_close_code)
        _check_dependencies(self.dependencies)
        _check_flag("visible_rejections", self.visible_rejections)
        for method in ("dumps", "loads"):
            if self.json is not None and not callable(getattr(self.json, method, None)):
                raise TypeError(f"json= takes an object with dumps and loads: {self.json!r}")
        object.__setattr__(self, "allowed_origins", _normalise_origins(self.origins))
        object.__setattr__(self, "host_patterns", _normalise_hosts(self.allowed_hosts))
        # Here, for with msgspec it would be half of the time of `import unisock`; and not
        # later, for a first message should not wait for it.
        from .messages import decode, encode  # noqa: PLC0415  # as just said

        object.__setattr__(self, "_decode", decode)
        object.__setattr__(self, "_encode", encode)

    @property
    def limits_messages(self) -> bool:
        """Whether it matters how many messages come, or when."""
        return any(getattr(self, name) is not None for name in _MESSAGE_LIMITS)

    @property
    def burst(self) -> int:
        """`message_burst`, or what it is by default."""
        return self.message_burst or max(1, int(self.max_messages_per_second or 1))

    @classmethod
    def parse(cls, options: OptionsDict) -> Options:
        """Build from keyword arguments.

        Raises:
            TypeError: an option that does not exist, or of the wrong type.
            ValueError: a value that makes no sense.
        """
        known = [f.name for f in fields(cls) if f.init]
        for name in options:
            if name not in known:
                import difflib  # noqa: PLC0415  # for a mistake only

                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise TypeError(f"unknown option {name!r}{hint} (known here: {', '.join(known)})")
        return cls(**options)

    def allows_host(self, host: str | None) -> bool:
        """Whether a handshake to this host, without its port, may go on."""
        patterns = self.host_patterns
        if patterns is None or "*" in patterns:
            return True
        if not host:
            return False
        host = host.lower().removesuffix(".")
        parents = host.split(".")[1:]
        wild = ("*." + ".".join(parents[start:]) for start in range(len(parents)))
        return host in patterns or any(map(patterns.__contains__, wild))

    def allows_origin(self, origin: str, host: str, *, is_secure: bool = False) -> bool:
        """Whether a handshake with these Origin and Host headers may go on.

        The own host is allowed whatever the scheme, for a server behind a
        proxy that ends TLS cannot know it; a port left out is the default
        one of the origin's scheme (RFC 6454, section 4).  Where the connection is
        known to have TLS, a page of the own host without it is another origin:
        whoever is between could have written it.
        """
        allowed = self.allowed_origins
        if allowed is None:
            return True
        try:
            normal = normalise_origin(origin)
        except ValueError:
            return False
        if normal in allowed:
            return True
        is_insecure = is_secure and normal.startswith("http:")
        return normal != "null" and not is_insecure and _is_own_host(normal, host)


def normalise_origin(origin: str) -> str:
    """``scheme://host[:port]`` in lower case, without a default port.

    Raises:
        ValueError: not an origin (RFC 6454, section 7).
    """
    if origin == "null":
        return origin
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError:  # what looks like a port or an IPv6 address, and is none
        host = port = None
        parts = urlsplit("")
    if (
        not parts.scheme
        or not host
        or parts.path
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
        or any(c.isspace() or c in "?#," for c in origin)
    ):
        raise ValueError(f"{origin!r} is not an origin: write it as 'https://app.example'")
    host = f"[{host}]" if ":" in host else host
    default = port is None or port == _DEFAULT_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host}" if default else f"{parts.scheme}://{host}:{port}"


def _is_own_host(origin: str, host: str) -> bool:
    scheme = origin.partition("://")[0]
    try:
        return normalise_origin(f"{scheme}://{host}") == origin
    except ValueError:
        return False


def _normalise_origins(origins: object) -> frozenset[str] | None:
    if origins == "*":
        return None
    if origins is None:
        return frozenset()
    listed = _texts(origins, "origins= takes a list of origins or '*'", "an origin")
    for origin in listed:
        if origin == "*":
            raise ValueError("to allow every origin write origins='*', not a list")
    return frozenset(normalise_origin(origin) for origin in listed)


def _texts(given: object, takes: str, one: str) -> list[str]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(f"{takes}, not {given!r}")
    listed: list[str] = []
    for each in given:
        if not isinstance(each, str):
            raise TypeError(f"{one} is a str: {each!r}")
        listed.append(each)
    return listed


def _normalise_hosts(hosts: object) -> frozenset[str] | None:
    if hosts is None:
        return None
    listed = _texts(hosts, "allowed_hosts= takes a list of hosts", "a host")
    for host in listed:
        if host != "*" and not _HOST.fullmatch(host.removeprefix("*.")):
            raise ValueError(
                f"{host!r} is not a host: write it as 'app.example' or '[::1]', without a port, "
                "or '*.app.example' for all below it"
            )
    return frozenset(host.lower().strip("[]").removesuffix(".") for host in listed)


def _json_limit(max_json_size: int, max_message_size: int) -> int:
    if _MAX_JSON_SIZE != max_json_size > max_message_size:
        raise ValueError(
            f"max_json_size={max_json_size} says nothing: a message has no more than "
            f"max_message_size={max_message_size} bytes; raise that too"
        )
    return min(max_json_size, max_message_size)


def _check_positive(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        number = "a whole number" if kind is int else "a number"
        raise TypeError(f"{name}= takes {number}, not {value!r}")
    if not value > 0:  # type: ignore[operator]  # `kind` is int or float, as just checked
        raise ValueError(f"{name}= must be above 0, not {value!r}")


def _check_dependencies(dependencies: object) -> None:
    if not isinstance(dependencies, Sequence):
        raise TypeError(f"dependencies= takes a list, not {dependencies!r}")
    for each in dependencies:
        if not isinstance(each, Depends):
            raise TypeError(f"dependencies= takes unisock's Depends(function), not {each!r}")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}= is True or False, not {value!r}")
