"""gunicorn: a worker class whose connections wait with the upgrade for the handler.

::

    gunicorn -k unisock.adapters.gunicorn.WebSocketWorker app:app
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

from .gevent_handler import WebSocketHandler


class GunicornWebSocketHandler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]  # untyped
    """The request handler, with gunicorn's access log."""

    def log_request(self) -> None:
        """As gunicorn's own request handler, which needs an environ and headers."""
        if self.environ is None:  # the head did not come to its end
            WebSocketHandler.log_request(self)
            return
        self.response_headers = self.response_headers or []  # those of a handshake are not here
        PyWSGIHandler.log_request(self)


class WebSocketWorker(GeventPyWSGIWorker):
    """gunicorn's gevent worker with unisock's request handler.

    It restarts after ``--max-requests``, which gunicorn 27's own workers with pywsgi do not
    count.  A WebSocket connection counts as one request, when it begins.
    """

    wsgi_handler = GunicornWebSocketHandler

    def load_wsgi(self) -> None:
        """As gunicorn's, with a count of the requests."""
        super().load_wsgi()
        self.wsgi = _Counted(self.wsgi, self._count)

    def _count(self) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False


class _Counted:
    """An application whose requests are counted, with its own attributes."""

    def __init__(self, application: Any, count: Callable[[], None]) -> None:
        self._application = application
        self._count = count

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self._count()
        return self._application(environ, start_response)

    def __getattr__(self, name: str) -> Any:
        # As `app_protocol` of a `geventwebsocket.Resource`, which the request handler reads.
        return getattr(self._application, name)
