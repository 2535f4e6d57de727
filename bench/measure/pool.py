"""The worker processes of this machine: a `concurrent.futures` executor that leaves none behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

WORKERS = 16


@contextmanager
def processes() -> Iterator[Executor]:
    """Persistent worker processes, started when needed, all gone afterwards.

    They watch a pipe that this process holds the other end of, so they also end when it is killed.
    Ctrl-C is for the parent to handle.
    """
    context = get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(WORKERS, context, initializer=_attend, initargs=(watched,))
    try:
        yield executor
    finally:
        held.close()
        watched.close()
        executor.shutdown(wait=False, cancel_futures=True)


def _attend(watched: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, args=(watched,), daemon=True).start()


def _leave_with_parent(watched: Connection) -> None:
    watched.poll(None)  # only its end can come
    os._exit(0)
