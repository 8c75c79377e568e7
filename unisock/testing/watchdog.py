"""Strikes a handler that blocks the event loop which its test runs on.

No timeout of the loop's own can end that.  Where the loop runs in the main thread
a signal can: the handler is struck where it blocks, as by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import traceback
from types import FrameType
from typing import Any

from .errors import PeerTimeout
from .watching import UNBLOCK, current, format_frame

__tracebackhide__ = True  # pytest shows the lines of the test, and of the handler

# By default it is ignored, so one that comes too late does no harm.
_SIGNAL = getattr(signal, "SIGURG", None)

_DEBUGGERS = ("bdb", "pdb", "IPython.core.debugger", "pydevd", "_pydevd_bundle.pydevd")

_watching: set[Watchdog] = set()
_previous: Any = None


class Watchdog:
    """Watches over the running event loop, in a thread of its own.

    Args:
        timeout: seconds that the loop may stand still.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._turned = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="unisock watchdog", daemon=True)
        self._main = threading.main_thread().ident
        self.struck = False

    def start(self) -> None:
        """Start, where signals can be used."""
        global _previous  # noqa: PLW0603  # the process has one handler of a signal
        if _SIGNAL is None or threading.current_thread() is not threading.main_thread():
            return
        if not _watching:
            _previous = signal.signal(_SIGNAL, _strike)
        _watching.add(self)
        self._thread.start()

    def stop(self) -> None:
        """Stop."""
        self._stopped.set()
        if self in _watching:
            self._turned.set()  # which the loop does not do meanwhile
            self._thread.join()
            _watching.discard(self)
            if not _watching:
                assert _SIGNAL is not None
                signal.signal(_SIGNAL, _previous)

    def _watch(self) -> None:
        while not self._stopped.is_set():
            self._turned.clear()
            self._loop.call_soon_threadsafe(self._turned.set)
            if self._turned.wait(self._timeout):
                self._stopped.wait(self._timeout / 4)
            elif not self._stopped.is_set():
                assert self._main is not None
                assert _SIGNAL is not None
                self.struck = True
                signal.pthread_kill(self._main, _SIGNAL)


def _strike(_number: int, frame: FrameType | None) -> None:
    """Raise in the main thread, if it is a handler that runs there."""
    watch = current.get()
    dogs = [dog for dog in _watching if dog.struck]
    for dog in dogs:
        dog.struck = False
    if dogs and watch is not None and not watch.done.done() and not _is_debugging(frame):
        watch.struck = PeerTimeout(
            f"the handler {watch.name} blocks the event loop: for {dogs[0]._timeout:g} s nothing "
            f"else has run; it is at:\n{format_frame(frame)}\n{UNBLOCK}"
        )
        raise watch.struck


def _is_debugging(frame: FrameType | None) -> bool:
    """Whether it is a debugger's prompt that blocks."""
    frames = (frame for frame, _ in traceback.walk_stack(frame))
    return any(frame.f_globals.get("__name__") in _DEBUGGERS for frame in frames)
