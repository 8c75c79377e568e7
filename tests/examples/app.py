"""An echo application as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# For a process that starts there is no event to wait on.
POLL = 0.02
PATIENCE = 30.0


class App:
    """A running application; what it prints is its log."""

    def __init__(self, name: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"examples.echo.{name}_app"],
                cwd=ROOT,
                env={**os.environ, "PORT": str(self.port)},
                stdout=log,
                stderr=log,
            )

    def wait_until_it_accepts(self) -> None:
        until = time.monotonic() + PATIENCE
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", self.port)) != 0:
                assert self.process.poll() is None, f"it did not start:\n{self.log()}"
                assert time.monotonic() < until, f"it did not start in time:\n{self.log()}"
                time.sleep(POLL)

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
