"""``--on all``: one process for each framework, that start and stop together.

A worker is the same command with ``--on FRAMEWORK`` and ``--worker``, the
descriptors of two sockets that it inherits: its listening socket, and one end
of a pair whose other end is its parent's.  Through the pair a worker says that
it serves, or why it cannot, and each side sees at once that the other is gone,
whatever ended it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from .frameworks import GRACE, STOP_SIGNALS, ServeError
from .serving import bind

_STARTED = b"\n"
_MAX_PORT = 65535
# What a worker has beyond the time that it gives its connections.
_SPARE = 2


# The worker's side


@contextmanager
def reporting(parent: socket.socket) -> Generator[Callable[[], None]]:
    """Run a worker's body; gives what it calls when it serves.

    Signals come through from now on.  Ends the process if the parent goes.

    Raises:
        SystemExit: in place of the body's `ServeError`, which the parent tells.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield lambda: _tell(parent, _STARTED)
    except ServeError as exc:
        _tell(parent, str(exc).encode())
        raise SystemExit(exc.status) from None


def _tell(parent: socket.socket, message: bytes) -> None:
    with suppress(OSError):  # it has gone: `_end_with` sees to that
        parent.sendall(message)


def _end_with(parent: socket.socket) -> None:
    parent.recv(1)  # the parent says nothing: this is its end
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE + _SPARE)
    os._exit(1)


# The parent's side


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    name: str
    process: subprocess.Popen[bytes]
    control: socket.socket

    def stop(self, deadline: float) -> None:
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.control.close()


def serve_all(
    names: Sequence[str],
    host: str,
    port: int,
    arguments: Sequence[str],
    on_started: Callable[[dict[str, int]], None],
) -> None:
    """Serve on several frameworks until SIGINT or SIGTERM; leave no process behind.

    Args:
        names: the frameworks.
        host: where all listen.
        port: that of the first; the others follow.  0: any, for each.
        arguments: the command's, without those of this function.
        on_started: called with the ports when all serve.

    Raises:
        ServeError: one cannot be started (status 2) or has ended (status 1).
    """
    if port + len(names) - 1 > _MAX_PORT:
        last = _MAX_PORT - len(names) + 1
        raise ServeError(
            f"{len(names)} frameworks take {len(names)} ports: --port is {last} at most"
        )
    workers: list[_Worker] = []
    with ExitStack() as stack:
        listeners = {
            name: stack.enter_context(bind(host, port and port + number))
            for number, name in enumerate(names)
        }
        ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
        stopping = stack.enter_context(_stop_signals())
        try:
            for name, listener in listeners.items():
                workers.append(_start(name, listener, arguments))
                listener.close()
            _watch(workers, stopping, lambda: on_started(ports))
        finally:
            _stop(workers)


@contextmanager
def _stop_signals() -> Generator[socket.socket]:
    """A socket that turns readable with the first signal to stop."""
    readable, writable = socket.socketpair()
    with readable, writable:
        writable.setblocking(False)
        signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        try:
            yield readable
        finally:
            signal.set_wakeup_fd(-1)


def _start(name: str, listener: socket.socket, arguments: Sequence[str]) -> _Worker:
    ours, theirs = socket.socketpair()
    inherited = (listener.fileno(), theirs.fileno())
    # Blocked until the worker can handle them: a Ctrl-C goes to it as well.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "unisock", *arguments),
                    f"--on={name}",
                    "--worker={}:{}".format(*inherited),
                ],
                pass_fds=inherited,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return _Worker(name, process, ours)


def _watch(
    workers: Sequence[_Worker], stopping: socket.socket, on_started: Callable[[], None]
) -> None:
    starting = set(workers)
    with selectors.DefaultSelector() as selector:
        selector.register(stopping, selectors.EVENT_READ)
        for worker in workers:
            selector.register(worker.control, selectors.EVENT_READ, worker)
        while True:
            ready = [key.data for key, _ in selector.select()]
            if None in ready:
                return
            for worker in ready:
                _hear(worker, starting)
                if not starting:
                    on_started()


def _hear(worker: _Worker, starting: set[_Worker]) -> None:
    """Take `worker` from `starting`; raise if it has ended."""
    told = worker.control.recv(4096)
    if told == _STARTED:
        starting.remove(worker)
    elif worker in starting:
        why = told.decode() or _how_ended(worker.process)
        raise ServeError(f"{worker.name} failed to start: {why}")
    else:
        raise ServeError(f"{worker.name} died: {_how_ended(worker.process)}", status=1)


def _how_ended(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _stop(workers: Sequence[_Worker]) -> None:
    for each in workers:
        each.process.terminate()
    deadline = time.monotonic() + GRACE + _SPARE
    for each in workers:
        each.stop(deadline)
