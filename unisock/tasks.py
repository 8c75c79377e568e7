"""The tasks of `WebSocket.start_soon`, which live no longer than their handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

logger = logging.getLogger("unisock")


class ConnectionTasks:
    """Tasks beside a handler; an error of one cancels the handler.

    As `asyncio.TaskGroup`, but that the handler does not wait for them: they end
    with it.

    Args:
        handler: the handler's task.
        is_normal_end: whether what a task raises is no error.
        describe: what a line of the log about the connection begins with.
    """

    def __init__(
        self,
        handler: asyncio.Task[Any],
        is_normal_end: Callable[[BaseException], bool],
        describe: Callable[[], str],
    ) -> None:
        self._is_normal_end = is_normal_end
        self._describe = describe
        self._failure: BaseException | None = None
        self._handler = handler
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending = False
        self._handler_cancelled = False

    def start(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run `coroutine` as a task."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is None or self._is_normal_end(exc):
            return
        if self._failure is not None:
            logger.error(
                "%s: another task of the connection failed", self._describe(), exc_info=exc
            )
            return
        self._failure = exc
        if not self._ending:
            self._handler_cancelled = True
            self._handler.cancel()

    async def end(
        self, handler_error: BaseException | None, before: Awaitable[None]
    ) -> BaseException | None:
        """Cancel and await the tasks; called by the handler's task at its end.

        Args:
            handler_error: what the handler has raised.
            before: what to wait for before.

        Returns:
            The error of a task, if it is how the handler ends.

        Raises:
            asyncio.CancelledError: the handler's task is cancelled by others.
        """
        self._ending = True
        struck = await _is_struck(before)
        struck |= await self._cancel_all()
        is_cancelled = isinstance(handler_error, asyncio.CancelledError)
        if self._handler_cancelled:
            if not is_cancelled:
                struck |= await _is_struck(asyncio.sleep(0))
            self._handler.uncancel()
        by_others = self._handler.cancelling() > 0 and (struck or is_cancelled)
        by_task = is_cancelled and self._handler_cancelled
        normal = handler_error is None or self._is_normal_end(handler_error)
        if (normal or by_task) and not by_others:
            return self._failure
        if self._failure is not None:
            logger.error(
                "%s: a task of the connection failed as well",
                self._describe(),
                exc_info=self._failure,
            )
        if by_others and not is_cancelled:
            raise asyncio.CancelledError
        return None

    async def _cancel_all(self) -> bool:
        """Cancel the tasks and wait for all; return whether this task was struck meanwhile."""
        struck = False
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            try:
                await asyncio.wait(self._tasks)
            except asyncio.CancelledError:
                struck = True
        return struck


async def _is_struck(awaitable: Awaitable[None]) -> bool:
    """Wait, and let a cancellation that is under way strike here; return whether one did."""
    try:
        await awaitable
    except asyncio.CancelledError:
        return True
    return False
