"""What unisock raises, and what a handler may raise.

::

    UnisockError
    ├── InvalidState (RuntimeError)          a method was called at the wrong moment
    ├── InvalidMessage (ValueError)          a message of the wrong kind, or bad JSON
    ├── WebSocketDisconnect (ConnectionError)  the connection has ended
    ├── WebSocketException                   raise it: close with this code and reason
    └── HandshakeRejected                    raise it: answer the handshake with this response

The last two are for handlers to raise; the other three are raised by a
`WebSocket` and may be caught.  What each does when it escapes from a handler
is the table of `unisock.session`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from .printing import escaped, printable

HeadersInput: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
"""Headers as a caller gives them: a mapping, or pairs of name and value."""


class UnisockError(Exception):
    """The base of every error that unisock defines.

    As text it is one line: what a peer has chosen can forge no line of a log.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


class InvalidState(UnisockError, RuntimeError):
    """A method was called in a state that does not allow it.

    Raised for a send or a receive before ``accept()``, a second ``accept()``,
    a ``reject()`` after it, a receive while another one waits, and a send,
    ``close()`` or ``start_soon()`` on another event loop than the handler's.
    Nothing was sent, and the connection is as it was.
    """


class InvalidMessage(UnisockError, ValueError):
    """A message arrived that is not what the handler asked for.

    The message is consumed and the connection is untouched: a handler may
    catch this and go on.  If it escapes, the connection is closed with `code`.

    Attributes:
        code: 1003 for a message of the other kind, 1007 for text that is not
            JSON or does not fit the type, 1009 for JSON that is larger than the
            option ``max_json_size`` allows (RFC 6455, section 7.4.1).
        reason: what is wrong, fit to be sent to the peer.
        message: the payload as it came.
    """

    def __init__(self, code: int, reason: str, message: str | bytes) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.message = message


class WebSocketDisconnect(UnisockError, ConnectionError):
    """A connection has ended.

    The methods of a connection raise it when that connection has ended.  One that
    escapes from a handler is a normal end of the handler's own connection.  If it is
    of another connection, and the handler's own is open, it is an error like any
    other.

    Attributes:
        code: the peer's close code; 1005 if its close frame had none; 1006 if
            the connection broke; the own code after the handler's own
            ``close()`` (RFC 6455, section 7.4).
        reason: the reason in the close frame, or ``""``.
        path: the path that the client of the ended connection asked for, as it sent
            it, without the query; `None` for a disconnect that no connection has
            raised.
        client: host and port of that client, or `None` (unix sockets).
    """

    def __init__(
        self,
        code: int = 1000,
        reason: str = "",
        *,
        path: str | None = None,
        client: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(f"{code} {reason}" if reason else f"{code}")
        self.code = code
        self.reason = reason
        self.path = path
        self.client = client

    def __str__(self) -> str:
        # Made here, for most are never printed.  The peer has chosen the texts: they can
        # forge no line of a log.
        text = f"{self.code} {printable(self.reason)}" if self.reason else f"{self.code}"
        if self.path is None:
            return text
        peer = "" if self.client is None else " from {}:{}".format(*self.client)
        return f"{text} (the connection{printable(peer)} to {printable(self.path)})"


def is_disconnect(exc: BaseException) -> bool:
    """Whether `exc` is a `WebSocketDisconnect`, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return all(is_disconnect(inner) for inner in exc.exceptions)
    return isinstance(exc, WebSocketDisconnect)


def is_foreign(exc: BaseException, *, is_open: bool) -> bool:
    """Whether `exc` holds a `WebSocketDisconnect` of another connection.

    Args:
        exc: an exception, or a group.
        is_open: whether this connection is open.  As long as it is, no disconnect
            can be its own.
    """
    if isinstance(exc, BaseExceptionGroup):
        return any(is_foreign(inner, is_open=is_open) for inner in exc.exceptions)
    return is_open and isinstance(exc, WebSocketDisconnect) and exc.path is not None


class WebSocketException(UnisockError):
    """Raise it in a handler to close the connection with a code and a reason.

    Before ``accept()`` the handshake is rejected with 403.

    Raises:
        ValueError: `code` may not be sent (see `WebSocket.close`).
    """

    def __init__(self, code: int, reason: str = "") -> None:
        check_close_code(code)
        super().__init__(f"{code} {reason}" if reason else f"{code}")
        self.code = code
        self.reason = reason


class HandshakeRejected(UnisockError):
    """Raise it in a handler to answer the handshake with an HTTP response.

    After ``accept()`` it closes the connection with 4000 + `status_code`.
    """

    def __init__(
        self,
        status_code: int = 403,
        body: bytes = b"",
        headers: HeadersInput | None = None,
    ) -> None:
        super().__init__(str(status_code))
        self.status_code = status_code
        self.body = body
        self.headers = headers


def check_close_code(code: int) -> None:
    """Raise unless an endpoint may send `code` in a close frame.

    RFC 6455, section 7.4, and the IANA registry that it opens: 1000-1003,
    1007-1014 and 3000-4999.

    Raises:
        TypeError: `code` is not an int.
        ValueError: `code` may not be sent.
    """
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"a close code is an int, not {type(code).__name__}")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ValueError(
            f"close code {code} may not be sent: use 1000-1003, 1007-1014 or 3000-4999"
        )
