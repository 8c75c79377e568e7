"""The suite on the in-memory transport of `unisock.testing`, behind a bridge."""

import sys

import pytest

from unisock.conformance.rows import Row
from unisock.conformance.suite import *  # noqa: F403  # its tests are this module's

MEMORY = Row(
    name="in memory", framework="unisock.testing", server="memory",
    command=lambda port: [sys.executable, "tests/conformance_memory/serve.py", str(port)],
    lacks={"absolute_form": "in memory: there is no request line, `connect` takes the URL",
           "error_handler": "in memory: no framework, so no error handlers",
           "flask_context": "the clause is of Flask alone; elsewhere nothing imports it",
           "frame_length": "in memory: a message comes whole, there are no frames",
           "http_error": "in memory: no framework, so no HTTP error of one",
           "middleware": "in memory: nothing of a framework runs before a handler or after it",
           "mount": "in memory: no router to mount on, `connect` takes the path",
           "page_beside": "in memory: no pages",
           "proxy": "in memory: there is no server that believes a proxy"},
    by_hand={"connect": "/by-hand/{}"},
)  # fmt: skip
row = pytest.fixture(scope="session", params=[MEMORY], ids=["memory"])(lambda request: MEMORY)
