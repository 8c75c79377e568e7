"""Sockets to serve on, with errors that say what to do."""

from __future__ import annotations

import errno
import socket

from .frameworks import ServeError


def bind(host: str, port: int) -> socket.socket:
    """A listening socket: from now on no other process can take the port.

    Raises:
        ServeError: the host or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        created = socket.create_server(address, family=family)
    except (OSError, UnicodeError) as exc:
        raise ServeError(_why_not_bound(exc, host, port)) from exc
    # Python asks the system for the protocol only of a descriptor.  Without it asyncio sets
    # no TCP_NODELAY, and small messages wait for the peer's acknowledgement.
    listener = socket.socket(fileno=created.detach())
    listener.setblocking(False)  # gevent takes a socket as it is
    return listener


def _why_not_bound(exc: Exception, host: str, port: int) -> str:
    if isinstance(exc, socket.gaierror | UnicodeError):
        return f"cannot resolve the host {host!r}: give a name or an address with --host"
    match getattr(exc, "errno", None):
        case errno.EADDRINUSE:
            return f"port {port} on {host} is taken: choose another with --port"
        case errno.EACCES:
            return f"port {port} needs more rights: choose one above 1023 with --port"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine: choose another with --host"
        case _:
            return f"cannot listen on {host}, port {port}: {exc}"
