"""unisock: one WebSocket handler for every framework."""

from .errors import (
    HandshakeRejected,
    InvalidMessage,
    InvalidState,
    UnisockError,
    WebSocketDisconnect,
    WebSocketException,
)
from .handshake import URL, Address, State
from .mounting import mount
from .options import JSONCodec, Options
from .session import Handler
from .transport import Capabilities
from .websocket import WebSocket

__all__ = [
    "URL",
    "Address",
    "Capabilities",
    "Handler",
    "HandshakeRejected",
    "InvalidMessage",
    "InvalidState",
    "JSONCodec",
    "Options",
    "State",
    "UnisockError",
    "WebSocket",
    "WebSocketDisconnect",
    "WebSocketException",
    "mount",
]

__version__ = "0.1.0"
