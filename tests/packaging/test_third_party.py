"""A third party's distribution: its framework is served, examined and tested on like unisock's own.

A distribution is a folder on Python's path with a ``.dist-info``, as pip leaves it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.frameworks import FRAMEWORKS

ROOT = Path(__file__).parents[2]
TIMEOUT = 60

ADAPTER = '''
"""Tornado on its own server: the adapter and its record, in one module."""

from tornado.httpserver import HTTPServer
from tornado.web import Application

from tornado_carrier import route
from unisock import Capabilities
from unisock.frameworks import AsyncioServer, Finding, Framework

APPLICATIONS = (Application,)


def mount(app, template, handler, **options):
    pattern = template.render(lambda parameter: f"(?P<{parameter.name}>[^/]+)")
    app.add_handlers(".*", [(pattern, route(handler, **options))])


class Server(AsyncioServer):
    async def serve(self, listener, on_started, stopping):
        server = HTTPServer(self.app)
        server.add_socket(listener)
        on_started()
        await stopping.wait()
        server.stop()


def traps(surroundings):
    if surroundings.app is not None and surroundings.app.settings.get("autoreload"):
        yield Finding("tornado-reload", "autoreload cuts connections", "autoreload=False")


FRAMEWORK = Framework(
    application=lambda service: service.mount_on(Application()),
    server=Server,
    packages={"tornado": "tornado"},
    command="python -m tornado_runner {}",
    capabilities={"tornado": Capabilities(accept_headers=False)},
    traps=traps,
)
'''


class Site:
    """A folder of distributions that comes first on Python's path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, requirements: str = "", **adapters: str) -> None:
        """A distribution, with the modules of its adapters by the framework."""
        found = self.folder / f"{name.replace('-', '_')}-1.0.dist-info"
        found.mkdir()
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        (found / "METADATA").write_text(head + requirements)
        lines = "".join(f"{each} = {module}\n" for each, module in adapters.items())
        (found / "entry_points.txt").write_text(f"[unisock.adapters]\n{lines}")

    def write(self, **sources: str) -> None:
        """Modules."""
        for name, source in sources.items():
            (self.folder / f"{name}.py").write_text(source)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Python with arguments."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
                "PYTEST_ADDOPTS": "",  # not with the options of this run
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run it to its end; status and output."""
        process = self.start(*arguments)
        try:
            output, errors = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
        return process.returncode, output, errors

    @contextmanager
    def serving(self, *arguments: str, count: int = 1) -> Generator[list[str]]:
        """The first lines of ``unisock serve``, that is stopped at the end."""
        process = self.start("-m", "unisock", "serve", "examples.echo:echo", *arguments)
        try:
            assert process.stdout is not None
            yield [process.stdout.readline() for _ in range(count)]
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, errors


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def tornado(site: Site) -> Site:
    """With the adapter of a third party for Tornado."""
    carrier = (ROOT / "tests" / "wire" / "tornado_carrier.py").read_text()
    site.write(tornado_carrier=carrier, tornado_adapter=ADAPTER)
    site.install("unisock-tornado", "Requires-Dist: tornado>=99\n", tornado="tornado_adapter")
    return site


def echoes(url: str) -> None:
    with connect(url) as connection:
        for message in ("hello", b"\x00\xff"):
            connection.send(message)
            assert connection.recv(timeout=TIMEOUT) == message


def test_serve(tornado: Site) -> None:
    with tornado.serving("--on=tornado", "--port=0") as (line,):
        echoes(line.split()[0])


def test_serve_on_all(tornado: Site) -> None:
    names = sorted([*FRAMEWORKS, "tornado"])
    with tornado.serving("--on=all", "--port=0", "--log-level=error", count=len(names)) as lines:
        urls = [line.split()[:2] for line in lines]
        assert [name for name, _ in urls] == names
        echoes(dict(urls)["tornado"])


def test_the_help_names_it(tornado: Site) -> None:
    _, output, _ = tornado.run("-m", "unisock", "serve", "--help")
    assert ", ".join(sorted([*FRAMEWORKS, "tornado"])) in " ".join(output.split())


def test_doctor(tornado: Site) -> None:
    tornado.write(app="from tornado.web import Application\napp = Application(autoreload=True)\n")
    _, output, _ = tornado.run("-m", "unisock", "doctor", "--json", "app:app")
    report = json.loads(output)
    packages = {each["name"]: each for each in report["packages"]}
    assert packages["tornado"]["version"] == version("tornado")
    assert packages["tornado"]["at_least"] == "99"
    (pair,) = (each for each in report["pairs"] if each["framework"] == "tornado")
    assert pair["server"] == "tornado"
    assert [name for name, has in pair["capabilities"].items() if not has] == ["accept_headers"]
    codes = [each["code"] for each in report["warnings"]]
    assert "tornado-reload" in codes
    assert "too-old" in codes
    assert "unknown-app" not in codes


def test_an_application_in_place_of_a_handler(tornado: Site) -> None:
    tornado.write(app="from tornado.web import Application\napp = Application()\n")
    status, _, errors = tornado.run("-m", "unisock", "serve", "app:app", "--on=tornado")
    assert status == 2
    assert "app:app is a tornado.web.Application, and no handler" in errors
    assert "the application itself is run by `python -m tornado_runner app:app`" in errors


SERVING = """
import asyncio
import unisock
from examples.echo import echo
from tornado.web import Application
from unisock.testing import connect, serve
from websockets.sync.client import connect as client

with serve(echo, on="tornado", path="/rooms/{room}") as url:
    with client(url + "/rooms/7") as connection:
        connection.send("hello")
        print(connection.recv(timeout=60))

app = Application()
unisock.mount(app, "/ws", echo)
with serve(app) as url, client(url + "/ws") as connection:
    connection.send("on an application")
    print(connection.recv(timeout=60))

with connect(echo, on="tornado") as peer:
    peer.send_text("by connect")
    print(peer.receive_text())
"""


def test_the_test_servers(tornado: Site) -> None:
    tornado.write(serving=SERVING)
    status, output, errors = tornado.run("serving.py")
    assert (status, output) == (0, "hello\non an application\nby connect\n"), errors


FIXTURE = """
from examples.echo import echo

def test_echo(unisock_client):
    with unisock_client(echo) as peer:
        peer.send_text("hello")
        assert peer.receive_text() == "hello"
"""


def test_the_fixture(tornado: Site) -> None:
    tornado.write(test_user=FIXTURE)
    (tornado.folder / "pytest.ini").write_text("[pytest]\nunisock_adapters = tornado, memory\n")
    status, output, _ = tornado.run("-m", "pytest", "-v", "-p", "no:cacheprovider")
    assert status == 0, output
    for name in ("tornado", "memory"):
        assert f"test_echo[{name}] PASSED" in output


# What may be wrong


def test_its_framework_is_missing(tornado: Site) -> None:
    """It is told where it is asked for, with what installs it, and disturbs no other."""
    tornado.write(sitecustomize="import sys\nsys.modules['tornado'] = None\n", test_user=FIXTURE)
    needs = "serving on tornado needs the package tornado: pip install unisock-tornado"
    status, _, errors = tornado.run("-m", "unisock", "serve", "examples.echo:echo", "--on=tornado")
    assert (status, errors) == (2, f"unisock serve: {needs}\n")
    arguments = ("serve", "examples.echo:echo", "--on=tornado,asgi")
    status, _, errors = tornado.run("-m", "unisock", *arguments)
    assert status == 2
    assert "not installed: tornado (pip install unisock-tornado)" in errors
    with tornado.serving(
        "--on=all", "--port=0", "--log-level=error", count=len(FRAMEWORKS)
    ) as all_:
        assert [line.split()[0] for line in all_] == list(FRAMEWORKS)
    _, output, _ = tornado.run("-m", "unisock", "doctor", "--json")
    told = {each["code"]: each for each in json.loads(output)["warnings"]}
    assert "tornado_adapter, the adapter of tornado, fails" in told["import-error"]["text"]
    assert told["import-error"]["remedy"] == "pip install unisock-tornado"
    (tornado.folder / "pytest.ini").write_text("[pytest]\nunisock_adapters = tornado\n")
    _, output, _ = tornado.run("-m", "pytest", "-rs", "-p", "no:cacheprovider")
    assert needs in " ".join(output.split())


def test_an_adapter_that_cannot_be_loaded(site: Site) -> None:
    site.write(broken="raise RuntimeError('libfoo')\n")
    site.install("unisock-tornado", tornado="broken")
    arguments = ("-m", "unisock", "serve", "examples.echo:echo")
    status, _, errors = site.run(*arguments, "--on=tornado")
    assert status == 2
    assert "the adapter of tornado cannot be loaded: libfoo" in errors
    with site.serving("--on=asgi", "--port=0") as (line,):
        echoes(line.split()[0])


BARE = """
from tornado.web import Application
from tornado_carrier import route
APPLICATIONS = (Application,)
def mount(app, template, handler, **options):
    app.add_handlers(".*", [(template.render(str), route(handler, **options))])
"""
SERVES = """
from tornado.web import Application
from unisock.testing import serve
serve(Application())
"""
MOUNTS = """
import unisock
from examples.echo import echo
from tornado.web import Application
unisock.mount(Application(), "/ws", echo)
print("mounted")
"""


def test_an_adapter_without_a_record_is_mounted_on_and_not_served(tornado: Site) -> None:
    tornado.write(tornado_adapter=BARE, mounts=MOUNTS)
    assert tornado.run("mounts.py")[:2] == (0, "mounted\n")
    tornado.write(serves=SERVES)
    status, _, errors = tornado.run("serves.py")
    assert status == 1
    assert "TypeError: tornado has an adapter, but there is no server for it here" in errors
    arguments = ("-m", "unisock", "serve", "examples.echo:echo")
    for on in ("--on=tornado", "--on=tornado,asgi"):
        status, _, errors = tornado.run(*arguments, on)
        assert status == 2
        assert "tornado has an adapter, but tornado_adapter has no FRAMEWORK" in errors
    with tornado.serving(
        "--on=all", "--port=0", "--log-level=error", count=len(FRAMEWORKS)
    ) as all_:
        assert [line.split()[0] for line in all_] == list(FRAMEWORKS)
    _, output, _ = tornado.run("-m", "unisock", "doctor", "--json")
    assert "tornado" not in {each["framework"] for each in json.loads(output)["pairs"]}
    assert "import-error" not in {each["code"] for each in json.loads(output)["warnings"]}


def test_two_distributions_with_an_adapter_for_one_framework(tornado: Site) -> None:
    """Nobody can tell which is meant, so neither is taken; others are not disturbed."""
    tornado.install("another-tornado", tornado="tornado_adapter")
    tornado.write(mounts=MOUNTS, app="from tornado.web import Application\napp = Application()\n")
    both = "another-tornado and unisock-tornado both have an adapter for tornado"
    status, _, errors = tornado.run("mounts.py")
    assert status == 1
    assert errors.splitlines()[-1] == f"RuntimeError: {both}: uninstall all but one of them"
    status, _, errors = tornado.run("-m", "unisock", "serve", "examples.echo:echo", "--on=tornado")
    assert status == 2
    assert both in errors
    _, output, _ = tornado.run("-m", "unisock", "doctor", "--json", "app:app")
    told = {each["code"]: each for each in json.loads(output)["warnings"]}
    assert told["two-adapters"]["text"] == both
    assert told["two-adapters"]["remedy"] == "uninstall all but one of them"
    assert "unknown-app" not in told
    status, _, errors = tornado.run("-m", "unisock", "serve", "app:app", "--on=asgi")
    assert (status, both in errors) == (2, True)
    with tornado.serving("--on=asgi", "--port=0") as (line,):
        echoes(line.split()[0])


def test_no_adapter_at_all(site: Site) -> None:
    """As where unisock is on the path and was never installed."""
    site.install("unisock")
    status, _, errors = site.run("-m", "unisock", "serve", "examples.echo:echo", "--on=all")
    assert status == 2
    assert "no framework is installed: pip install 'unisock[all]'" in errors
