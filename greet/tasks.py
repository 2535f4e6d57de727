"""Helpers for tasks of asyncio: run one in the background, or wait for one to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`. If the caller is cancelled meanwhile, wait until it has ended all the same, and then raise that.

    So a member that is cancelled while it leaves gives back what it has, and its connection is closed.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        looked_at(task)  # the cancellation is raised: not its error too
        raise


def beside(work: Coroutine[Any, Any, None], kept: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    """Run `work` as a task in the background. `kept` refers to it until it ends: else it may be garbage-collected."""
    task = asyncio.create_task(work)
    kept.add(task)
    task.add_done_callback(kept.discard)
    task.add_done_callback(looked_at)
    return task


def looked_at(future: asyncio.Future[Any]) -> None:
    """A callback for `future`, so that asyncio does not print "exception was never retrieved"."""
    if not future.cancelled():
        future.exception()


def left(deadline: float) -> float:
    """The seconds until `deadline`, a time of the event loop; 0 when it has passed."""
    return max(0.0, deadline - asyncio.get_running_loop().time())
