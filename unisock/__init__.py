"""unisock: one WebSocket handler for every framework."""

from .codecs import JSONCodec
from .dispatch import on_message
from .endpoints import SocketView, WebSocketEndpoint
from .errors import (
    HandshakeRejected,
    InvalidMessage,
    InvalidState,
    UnisockError,
    WebSocketDisconnect,
    WebSocketException,
)
from .handlers import Handler
from .handshake import URL, Address, State
from .mounting import mount
from .options import Options
from .sync_websocket import SyncWebSocket
from .transport import Capabilities
from .websocket import WebSocket
from .wire.deflate import Deflate

__all__ = [
    "URL",
    "Address",
    "Capabilities",
    "Deflate",
    "Handler",
    "HandshakeRejected",
    "InvalidMessage",
    "InvalidState",
    "JSONCodec",
    "Options",
    "SocketView",
    "State",
    "SyncWebSocket",
    "UnisockError",
    "WebSocket",
    "WebSocketDisconnect",
    "WebSocketEndpoint",
    "WebSocketException",
    "mount",
    "on_message",
]

__version__ = "0.1.0"
