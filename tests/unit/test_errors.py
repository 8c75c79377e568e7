"""The errors, and the close codes that may be sent."""

from __future__ import annotations

import enum

import pytest

import unisock
from unisock.errors import check_close_code


def test_every_error_is_a_unisock_error_and_one_of_the_languages_own() -> None:
    assert issubclass(unisock.InvalidState, RuntimeError)
    assert issubclass(unisock.InvalidMessage, ValueError)
    assert issubclass(unisock.WebSocketDisconnect, ConnectionError)
    for name in unisock.__all__:
        public = getattr(unisock, name)
        if isinstance(public, type) and issubclass(public, Exception):
            assert issubclass(public, unisock.UnisockError)


def test_a_disconnect_says_how() -> None:
    assert str(unisock.WebSocketDisconnect(1006)) == "1006"
    disconnect = unisock.WebSocketDisconnect(4003, "bye")
    assert (str(disconnect), disconnect.code, disconnect.reason) == ("4003 bye", 4003, "bye")


def test_a_websocket_exception_says_how_to_close() -> None:
    assert str(unisock.WebSocketException(4000)) == "4000"
    exc = unisock.WebSocketException(1008, "policy")
    assert (str(exc), exc.code, exc.reason) == ("1008 policy", 1008, "policy")


def test_a_websocket_exception_refuses_a_code_that_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="1006"):
        unisock.WebSocketException(1006)


def test_a_rejection_holds_the_response() -> None:
    exc = unisock.HandshakeRejected(401, b"who?", {"www-authenticate": "Basic"})
    assert (exc.status_code, exc.body, exc.headers) == (401, b"who?", {"www-authenticate": "Basic"})
    assert unisock.HandshakeRejected().status_code == 403


def test_an_invalid_message_holds_the_payload() -> None:
    exc = unisock.InvalidMessage(1007, "not JSON", b"{")
    assert (exc.code, exc.reason, exc.message) == (1007, "not JSON", b"{")


class Code(enum.IntEnum):
    GOING_AWAY = 1001


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1010, 1011, 1012, 1014, 3000, 4999, Code.GOING_AWAY]
)
def test_codes_that_may_be_sent(code: int) -> None:
    check_close_code(code)


@pytest.mark.parametrize(
    "code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 1 << 70]
)
def test_codes_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match="may not be sent"):
        check_close_code(code)


@pytest.mark.parametrize("code", [True, 1000.0, "1000", None])
def test_a_code_is_an_int(code: object) -> None:
    with pytest.raises(TypeError, match="a close code is an int"):
        check_close_code(code)  # type: ignore[arg-type]  # that is the test
