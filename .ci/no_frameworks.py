"""Fail if a framework or a server can be imported in this environment."""

import importlib.util
import sys

NAMES = [
    "aiohttp",
    "falcon",
    "fastapi",
    "flask",
    "gevent",
    "geventwebsocket",
    "granian",
    "gunicorn",
    "hypercorn",
    "starlette",
    "uvicorn",
    "websockets",
    "werkzeug",
    "wsproto",
]

if found := [name for name in NAMES if importlib.util.find_spec(name)]:
    sys.exit(f"installed, and should not be: {', '.join(found)}")
print("no framework and no server is installed")
