"""The suite on aiohttp, as a third party runs it."""

import os
import sys
from pathlib import Path

import pytest

from unisock.conformance.rows import Row
from unisock.conformance.suite import *  # noqa: F403  # its tests are this module's

python = os.environ.get("UNISOCK_SERVER_PYTHON", sys.executable)
AIOHTTP = Row(
    name="aiohttp", framework="aiohttp", server="aiohttp",
    command=lambda port: [python, str(Path(__file__).with_name("serve.py")), str(port)],
    lacks={"latin1": "aiohttp 3.14 sends headers as UTF-8",
           "quiet_header": "aiohttp 3.14 logs a traceback for a header that is too long"},
    routers={"RouteTableDef": "/routed/{}", "UrlDispatcher": "/dispatched/{}"},
    by_hand={"view": "/by-hand/{}"}, request_type="aiohttp.web_request.Request",
)  # fmt: skip
row = pytest.fixture(scope="session", params=[AIOHTTP], ids=["aiohttp"])(lambda request: AIOHTTP)
