"""What a test is told when a connection does not go as it expects."""

from __future__ import annotations

from typing import Any

from multidict import CIMultiDictProxy

from unisock.messages import decode


class PeerError(AssertionError):
    """The base of these errors; a test runner counts them as failures."""


class PeerTimeout(PeerError):
    """What was awaited did not come.

    The message says what that was, where the handler is, and what it has sent.
    """


class UnexpectedMessage(PeerError):
    """The handler has sent a message of the other kind, or not the JSON that was asked for.

    Attributes:
        message: the message, which is consumed.
    """

    def __init__(self, text: str, message: str | bytes) -> None:
        super().__init__(text)
        self.message = message


class LeakedTasks(PeerError):
    """The handler has ended, and tasks that it started have not."""


class ConnectionRejected(PeerError):
    """The handshake was answered with an HTTP response instead of being accepted.

    Attributes:
        status_code: its status.
        headers: its headers.
        body: its body.
    """

    def __init__(
        self, text: str, status_code: int, headers: CIMultiDictProxy[str], body: bytes
    ) -> None:
        super().__init__(text)
        self.status_code = status_code
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        """The body, decoded from UTF-8."""
        return self.body.decode()

    def json(self, type: Any = Any) -> Any:
        """The body, decoded from JSON to `type`.

        Raises:
            unisock.InvalidMessage: it is not JSON, or does not fit.
        """
        return decode(self.body, type, None)
