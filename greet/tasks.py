"""Helpers for tasks of asyncio: run one in the background, wait for one to its end, or end it by a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

LAST = 1.0
"""The longest wait in seconds for cancelled work: over TLS, a driver may wait half a minute for a farewell."""
_patient: set[asyncio.Task[None]] = set()


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`. If the caller is cancelled, that is raised only when the work has ended.

    So a member that is cancelled while it leaves gives back what it has, and its connection is closed.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(looked_at)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:  # perhaps more than once
            cancelled = error
    if cancelled:
        raise cancelled
    task.result()


async def patiently(work: Coroutine[Any, Any, None], patience: float) -> None:
    """Await `work`. If the caller is cancelled, the work is cancelled too, `patience` seconds later.

    So a driver that forgets a connection if it is cancelled while it makes it has the time to finish, and what
    it made can be closed. What does not end within `LAST` then goes on in the background.
    """
    task = beside(work, _patient)

    async def end() -> None:
        await asyncio.wait([task], timeout=patience)
        task.cancel()
        await asyncio.wait([task], timeout=LAST)

    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await to_the_end(end())
        raise
    task.result()


class Lasting:
    """Work that goes on if its caller is cancelled; who calls next waits for the same work.

    So who asks again and again, with a short time-out each time, gets its result or its error too.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin the work if it does not run yet, and wait for its end."""
        if self._task is None:
            self._task = asyncio.create_task(work())
            self._task.add_done_callback(looked_at)
        task = self._task
        await asyncio.wait([task])
        self._task = None
        task.result()

    async def end(self, seconds: float) -> None:
        """Cancel the work, and wait for its end, but no longer than this."""
        if task := self._task:
            task.cancel()
            await asyncio.wait([task], timeout=seconds)


def beside(work: Coroutine[Any, Any, None], kept: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    """Run `work` as a task in the background. `kept` refers to it until it ends: else it may be garbage-collected."""
    task = asyncio.create_task(work)
    kept.add(task)
    task.add_done_callback(kept.discard)
    task.add_done_callback(looked_at)
    return task


def on_interrupt(call: Callable[..., object]) -> None:
    """Have the loop call it, with the signal's number, if the program is to end: Ctrl-C, SIGTERM, a closed terminal.

    On Windows Ctrl-C raises `KeyboardInterrupt`, with or without this. A SIGHUP that is ignored, by `nohup`, stays so.
    """
    if sys.platform == "win32":
        return
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ends.append(signal.SIGHUP)
    for number in ends:
        asyncio.get_running_loop().add_signal_handler(number, call, number)


def looked_at(future: asyncio.Future[Any]) -> None:
    """A callback for `future`, so that asyncio does not print "exception was never retrieved"."""
    if not future.cancelled():
        future.exception()


def left(deadline: float) -> float:
    """The seconds until `deadline`, a time of the event loop; 0 when it has passed."""
    return max(0.0, deadline - asyncio.get_running_loop().time())
