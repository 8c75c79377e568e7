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
from .markers import Cookie, Depends, Header, Query
from .options import Options
from .routing import Router, mount, route
from .sync_websocket import SyncWebSocket
from .transport import Capabilities
from .websocket import WebSocket
from .wire.deflate import Deflate

__all__ = [
    "URL",
    "Address",
    "Capabilities",
    "Cookie",
    "Deflate",
    "Depends",
    "Handler",
    "HandshakeRejected",
    "Header",
    "InvalidMessage",
    "InvalidState",
    "JSONCodec",
    "Options",
    "Query",
    "Router",
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
    "route",
]

__version__ = "0.1.0"
