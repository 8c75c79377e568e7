"""gevent's WSGI server, with WebSockets, and with an end that handlers see.

Beside the two it tells where it listens: what a program needs that is run by hand,
by systemd or in a container.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import pywsgi

from unisock.addresses import url_host

from .gevent_handler import WebSocketHandler

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WSGIServer(pywsgi.WSGIServer):
    """`gevent.pywsgi.WSGIServer` with `WebSocketHandler`, to be run to its end.

    ::

        WSGIServer(("127.0.0.1", 8000), app).serve_forever()

    Takes the arguments of pywsgi's.

    Attributes:
        stop_timeout: seconds that open connections have to end when it stops.
    """

    handler_class = WebSocketHandler
    stop_timeout: float = 5.0

    def set_listener(self, listener: Any) -> None:
        """As pywsgi's; a socket may be one of Python's own, which would block all."""
        super().set_listener(listener)
        if hasattr(listener, "setblocking"):
            listener.setblocking(False)

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until `stop`; in the main thread until SIGINT or SIGTERM too.

        Then open WebSockets are closed with 1012, the ``finally`` blocks of their handlers
        run, and this returns.  Where it listens is written to the log at the start.

        Args:
            stop_timeout: as the attribute, in its place.
        """
        if stop_timeout is not None:
            self.stop_timeout = stop_timeout
        if not self.started:
            self.start()
        with _stopped_by_signals(self):
            self.log.write(f"serving on {self._url()}\n")
            super().serve_forever()

    def _url(self) -> str:
        """Where to find it from this machine."""
        if self.family == socket.AF_UNIX:
            return f"unix:{self.address}"
        scheme = "https" if self.ssl_enabled else "http"
        host, is_every = url_host(str(self.server_host))
        note = ", and on every address of this machine" if is_every else ""
        return f"{scheme}://{host}:{self.server_port}/{note}"


# Those that serve for ever in the main thread.
_serving: list[WSGIServer] = []


@contextmanager
def _stopped_by_signals(server: WSGIServer) -> Generator[None]:
    """Within the block SIGINT and SIGTERM stop `server`; not in a thread, which gets none."""
    if not gevent.get_hub().main_hub:
        yield
        return
    _serving.append(server)
    watchers = [gevent.signal_handler(number, server.stop) for number in _STOP_SIGNALS]
    try:
        yield
    finally:
        for watcher in watchers:
            watcher.cancel()
        _serving.remove(server)
        if not _serving:
            _restore_signals()


def _restore_signals() -> None:
    """Have Python's own handlers called again.

    gevent's loop sets a signal that it watches no more to the system's default.
    """
    for number in _STOP_SIGNALS:
        handler: Any = signal.getsignal(number)
        signal.signal(number, handler)
