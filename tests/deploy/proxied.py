"""The Deploy page's own files: its applications on their servers, behind its nginx."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import trustme
from websockets import Origin
from websockets.sync.client import ClientConnection, connect

from tests.docs.documents import blocks, files, page
from tests.missing import without

PAGE = page("docs/how-to/deploy.md")
CONFIGURATIONS = {block.name: block.text for block in blocks(PAGE) if block.language == "nginx"}
HOST = "app.example"
# Where the browser is: another address than nginx's own, which is 127.0.0.1.
BROWSER = "127.0.0.2"
SOCKET = "/run/app/app.sock"
PATIENCE = 30.0
# For a process that starts there is no event to wait on.
_POLL = 0.02
_PORT_OPTIONS = {
    "uvicorn": "--port {}",
    "hypercorn": "--bind 127.0.0.1:{}",
    # Without it a worker that a signal strikes while it starts is waited for without end.
    "granian": "--port {} --workers-kill-timeout 5",
    "gunicorn": "--bind 127.0.0.1:{} --no-control-socket",
    "python": "",  # the port stands in the file
}
_MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/conf.d/*.conf;
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Process:
    """A process and its log."""

    def __init__(self, command: list[str], folder: Path, pass_fds: Sequence[int] = ()) -> None:
        self.log_path = folder / f"{Path(command[0]).name}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                pass_fds=pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition is true."""
        until = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"it ended:\n{self.log()}"
            assert time.monotonic() < until, f"it never came to that:\n{self.log()}"
            time.sleep(_POLL)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        """As `wait_for`, for a process that is not yet handed over."""
        try:
            self.wait_for(condition)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it as an operator does."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def accepts(address: tuple[str, int] | str) -> bool:
    """Whether somebody listens there."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


class Service(Process):
    """A command of the page, with the page's files; other files take their places."""

    def __init__(self, command: str, folder: Path, others: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.socket_path = str(folder / "app.sock")
        for name, text in {**files(PAGE), **(others or {})}.items():
            here = text.replace("8000", str(self.port)).replace(SOCKET, self.socket_path)
            folder.joinpath(name).write_text(here)
        program, *arguments = shlex.split(command.replace(SOCKET, self.socket_path))
        start = [sys.executable] if program == "python" else [sys.executable, "-m", program]
        self.on_socket = SOCKET in command or SOCKET in "".join((others or {}).values())
        if not self.on_socket:
            arguments += shlex.split(_PORT_OPTIONS[program].format(self.port))
        elif program == "gunicorn":
            arguments.append("--no-control-socket")
        super().__init__([*start, *arguments], folder)
        self._wait_until(lambda: accepts(self.socket_path if self.on_socket else self.address))

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port


class Nginx(Process):
    """nginx with a configuration of the page, before a service."""

    def __init__(
        self, name: str, service: Service, folder: Path, changes: Mapping[str, str] | None = None
    ) -> None:
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if nginx is None:
            without("there is no nginx on this machine")
        self.port = free_port()
        authority = trustme.CA()
        certificate = authority.issue_cert(HOST)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "app.example.crt"))
        certificate.private_key_pem.write_to_path(str(folder / "app.example.key"))
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)
        # By default its workers have another user, who may not enter the test's folder.
        user = "user root;" if os.geteuid() == 0 else ""
        folder.joinpath("conf.d").mkdir()
        folder.joinpath("nginx.conf").write_text(user + _MAIN.format(folder=folder))
        for target, text in (
            ("websocket.conf", CONFIGURATIONS["websocket.conf"]),
            ("conf.d/app.conf", CONFIGURATIONS[name]),
        ):
            folder.joinpath(target).write_text(self._here(text, service, folder, changes or {}))
        super().__init__([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], folder)
        self._wait_until(lambda: accepts(("127.0.0.1", self.port)))

    def _here(self, text: str, service: Service, folder: Path, changes: Mapping[str, str]) -> str:
        """A configuration with the ports and folders of this test, and its changes."""
        for old, new in changes.items():
            assert old in CONFIGURATIONS["websocket.conf"], old
            text = text.replace(old, new)
        for old, new in (
            ("listen 443", f"listen 127.0.0.1:{self.port}"),
            ("127.0.0.1:8000", f"127.0.0.1:{service.port}"),
            (SOCKET, service.socket_path),
            ("/etc/nginx", str(folder)),
        ):
            text = text.replace(old, new)
        return text

    def log(self) -> str:
        error_log = self.log_path.with_name("error.log")
        return super().log() + (error_log.read_text() if error_log.exists() else "")

    @property
    def origin(self) -> str:
        """That of the pages it serves."""
        return f"https://{HOST}:{self.port}"

    def url(self, path: str) -> str:
        return f"wss://{HOST}:{self.port}{path}"

    def connect(self, path: str, headers: Mapping[str, str] | None = None) -> ClientConnection:
        """Connect as a browser does, from a page of this site, and with these headers too."""
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE, (BROWSER, 0))
        return connect(
            self.url(path),
            sock=sock,
            ssl=self.tls,
            origin=Origin(self.origin),
            additional_headers=headers,
            compression=None,
            open_timeout=PATIENCE,
            ping_interval=None,
        )
