"""gunicorn: a worker class whose connections wait with the upgrade for the handler.

::

    gunicorn -k unisock.adapters.gunicorn.WebSocketWorker app:app
"""

from __future__ import annotations

from typing import Any

from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

from .gevent import WebSocketHandler


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
        application = self.wsgi

        def count(environ: Any, start_response: Any) -> Any:
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
            return application(environ, start_response)

        self.wsgi = count
