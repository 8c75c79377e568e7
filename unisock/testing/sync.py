"""`SyncPeer`: the peer for plain tests, with the connection in a thread beside them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from concurrent import futures
from typing import Any, ClassVar, TypeVar, overload

from multidict import CIMultiDictProxy

from unisock.errors import WebSocketDisconnect

from .errors import PeerTimeout
from .peer import Peer
from .watching import UNBLOCK, format_thread

__tracebackhide__ = True  # pytest shows the lines of the test, and of the handler

T = TypeVar("T")

# Seconds that the loop's own timeouts have, which say more, before it is looked at.
_MARGIN = 0.2
# Seconds that a loop has to end; one whose tasks or threads go on is left to itself.
_PATIENCE = 1.0


class LoopThread:
    """An event loop in a thread of its own, for all the connections that are open at once.

    They share it, as they would in a server: handlers may send to each other's peers.

    Attributes:
        blocked: whether it has stood still for too long, and is given up.
    """

    _shared: ClassVar[LoopThread | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.blocked = False
        self._users = 0
        self._loop = asyncio.new_event_loop()
        self._stopping = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="unisock test", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls) -> LoopThread:
        """The thread that runs, or a new one."""
        with cls._lock:
            if cls._shared is None or cls._shared.blocked:
                cls._shared = LoopThread()
            cls._shared._users += 1
            return cls._shared

    def release(self) -> None:
        """End the loop, if nobody else has it; a thread that is blocked is left."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            if LoopThread._shared is self:
                LoopThread._shared = None
        self._loop.call_soon_threadsafe(self._stopping.set_result, None)
        self._thread.join(_MARGIN if self.blocked else _PATIENCE)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            while not self._stopping.done():
                # What a handler raised to end the process is told by its watch.
                with contextlib.suppress(KeyboardInterrupt, SystemExit):
                    runner.run(_wait(self._stopping))

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run a coroutine, and wait for it.

        Args:
            coroutine: what ends by itself.
            timeout: seconds that the loop may stand still.

        Raises:
            PeerTimeout: the loop stands still.
        """
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        while True:
            futures.wait([running], timeout + _MARGIN)
            if running.done():
                error = running.exception()
                if error is None:
                    return running.result()
                try:
                    raise error  # without the frames that result() adds
                finally:
                    del error
            turned = threading.Event()
            self._loop.call_soon_threadsafe(turned.set)
            if not turned.wait(timeout):
                self.blocked = True
                assert self._thread.ident is not None
                raise PeerTimeout(
                    f"the handler blocks its event loop: for {timeout:g} s nothing else has run; "
                    f"it is at:\n{format_thread(self._thread.ident)}\n{UNBLOCK}"
                )


async def _wait(future: asyncio.Future[None]) -> None:
    await future


class SyncPeer:
    """As `Peer`, for plain tests: every method blocks until it is done."""

    def __init__(self, peer: Peer, thread: LoopThread, timeout: float) -> None:
        self._peer = peer
        self._thread = thread
        self._timeout = timeout

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._thread.call(coroutine, self._timeout)

    # The handshake

    @property
    def accepted_subprotocol(self) -> str | None:
        """The subprotocol that the handler has accepted."""
        return self._peer.accepted_subprotocol

    @property
    def accepted_headers(self) -> CIMultiDictProxy[str]:
        """The headers that the handshake was answered with."""
        return self._peer.accepted_headers

    # The end

    @property
    def closed(self) -> bool:
        """Whether the connection has ended; what came before may still be received."""
        return self._peer.closed

    @property
    def close_code(self) -> int | None:
        """The code that it ended with: 1005 for a close without one, 1006 for no close."""
        return self._peer.close_code

    @property
    def close_reason(self) -> str | None:
        """The reason that it ended with."""
        return self._peer.close_reason

    @property
    def exception(self) -> BaseException | None:
        """What the handler has raised, and went on to the framework."""
        return self._peer.exception

    # Sending

    def send(self, message: str | bytes) -> None:
        """As `Peer.send`."""
        self._call(self._peer.send(message))

    def send_text(self, text: str) -> None:
        """As `Peer.send_text`."""
        self._call(self._peer.send_text(text))

    def send_bytes(self, data: bytes) -> None:
        """As `Peer.send_bytes`."""
        self._call(self._peer.send_bytes(data))

    def send_json(self, obj: Any, binary: bool = False) -> None:
        """As `Peer.send_json`."""
        self._call(self._peer.send_json(obj, binary))

    def send_fragments(self, *fragments: str | bytes) -> None:
        """As `Peer.send_fragments`."""
        self._call(self._peer.send_fragments(*fragments))

    # Receiving

    def receive(self) -> str | bytes:
        """As `Peer.receive`."""
        return self._call(self._peer.receive())

    def receive_text(self) -> str:
        """As `Peer.receive_text`."""
        return self._call(self._peer.receive_text())

    def receive_bytes(self) -> bytes:
        """As `Peer.receive_bytes`."""
        return self._call(self._peer.receive_bytes())

    @overload
    def receive_json(self) -> Any: ...
    @overload
    def receive_json(self, type: type[T]) -> T: ...
    @overload
    def receive_json(self, type: Any) -> Any: ...
    def receive_json(self, type: Any = Any) -> Any:
        """As `Peer.receive_json`."""
        return self._call(self._peer.receive_json(type))

    def receive_nothing(self, seconds: float = 0.1) -> bool:
        """As `Peer.receive_nothing`."""
        return self._call(self._peer.receive_nothing(seconds))

    def __iter__(self) -> Iterator[str | bytes]:
        """Each message as it comes, until the connection ends."""
        while True:
            try:
                message = self.receive()
            except WebSocketDisconnect:
                return
            yield message

    # Ending

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """As `Peer.close`."""
        self._call(self._peer.close(code, reason))

    def wait_closed(self) -> tuple[int, str]:
        """As `Peer.wait_closed`."""
        return self._call(self._peer.wait_closed())

    # What no decent client does

    def vanish(self) -> None:
        """As `Peer.vanish`."""
        self._call(_run(self._peer.vanish))

    def pause_reading(self) -> None:
        """As `Peer.pause_reading`."""
        self._call(_run(self._peer.pause_reading))

    def resume_reading(self) -> None:
        """As `Peer.resume_reading`."""
        self._call(_run(self._peer.resume_reading))

    def stop_server(self) -> None:
        """As `Peer.stop_server`."""
        self._call(self._peer.stop_server())


async def _run(function: Any) -> None:
    function()
