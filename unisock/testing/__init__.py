"""Testing a handler: `connect` runs it for one connection, and is its peer.

In memory, or on each framework behind its server and a real socket; in async and
in plain tests; and no wait is for ever.  pytest is not needed; where it is there,
the plugin `pytest_unisock` gives fixtures.
"""

from unisock.errors import WebSocketDisconnect

from .connecting import Connect, connect
from .errors import (
    ConnectionRejected,
    LeakedTasks,
    PeerError,
    PeerTimeout,
    UnexpectedMessage,
)
from .peer import Peer
from .servers import serve
from .sync import SyncPeer

__all__ = [
    "Connect",
    "ConnectionRejected",
    "LeakedTasks",
    "Peer",
    "PeerError",
    "PeerTimeout",
    "SyncPeer",
    "UnexpectedMessage",
    "WebSocketDisconnect",
    "connect",
    "serve",
]
