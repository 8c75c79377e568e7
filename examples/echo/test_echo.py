"""Tests of the echo handler: pytest runs them on every framework that is installed."""

import pytest

from examples.echo import echo
from unisock.testing import Connect, ConnectionRejected


def test_messages_come_back_as_they_were(unisock_client: Connect) -> None:
    messages: list[str | bytes] = ["hello", "", "żółw 🐢", b"\x00\xff", b""]
    with unisock_client(echo) as peer:
        for message in messages:
            peer.send(message)
        assert [peer.receive() for _ in messages] == messages


def test_two_clients_do_not_hear_each_other(unisock_client: Connect) -> None:
    with unisock_client(echo) as ada, unisock_client(echo) as bob:
        ada.send_text("from Ada")
        bob.send_text("from Bob")
        assert ada.receive_text() == "from Ada"
        assert bob.receive_text() == "from Bob"


def test_it_ends_when_its_client_vanishes(unisock_client: Connect) -> None:
    with unisock_client(echo) as peer:
        peer.vanish()


def test_a_page_of_another_host_is_rejected(unisock_client: Connect) -> None:
    headers = {"Origin": "https://other.example"}
    with pytest.raises(ConnectionRejected) as caught, unisock_client(echo, headers=headers):
        pytest.fail("it was let in")
    assert caught.value.status_code == 403
