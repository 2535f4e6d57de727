"""The worker processes of a machine: a `concurrent.futures` executor that leaves none behind."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection

WORKERS = 16
CONNECT_S = 10.0


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


# --- for a session on another machine ---


@dataclass(frozen=True)
class Lease:
    """Where a session on another machine is reached. Processes that work for it end with it."""

    host: str
    life_port: int
    """A TCP port: a connection to it stands as long as the lease."""
    clock_port: int
    """A UDP port that tells the time."""
    token: bytes


class Unreached(Exception):
    """The machine of the session cannot be reached."""

    def __init__(self, where: str) -> None:
        super().__init__(where)

    def __str__(self) -> str:
        return (
            f"the machine that runs the bench is not reached at {self.args[0]}: let its workers through to it by "
            "TCP and UDP, on any port, or run the bench on a machine that they reach"
        )


_leased: dict[Lease, Executor] = {}
_one_by_one = threading.Lock()


def seated(lease: Lease, call: bytes) -> bytes:
    """Make a pickled `call`, a function and its arguments, in a worker process of this machine, and pickle the result.

    This is what a Dask worker does. It only waits, so it is not measured.

    Raises:
        Unreached: nobody holds `lease`, or it cannot be reached.
        BrokenProcessPool: the worker process died, or the lease ended.
    """
    return _processes(lease).submit(_made, call).result()


def _made(call: bytes) -> bytes:
    function, arguments = pickle.loads(call)  # noqa: S301, Dask trusts who may talk to its scheduler
    return pickle.dumps(function(*arguments))


def _processes(lease: Lease) -> Executor:
    with _one_by_one:
        if lease not in _leased:
            try:
                life = socket.create_connection((lease.host, lease.life_port), CONNECT_S)
            except OSError as error:
                raise Unreached(f"{lease.host}:{lease.life_port} by TCP") from error
            life.settimeout(None)
            _notice_silence(life)
            # Dask makes its workers daemons, which multiprocessing lets have no children. Ours end by themselves.
            vars(current_process()).get("_config", {})["daemon"] = False
            stack = ExitStack()
            _leased[lease] = stack.enter_context(processes())
            threading.Thread(target=_end_with, args=(lease, life, stack), daemon=True).start()
        return _leased[lease]


def _notice_silence(life: socket.socket) -> None:
    """Let a connection end within a minute when the other machine is cut off; without, that is never seen."""
    life.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            life.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _end_with(lease: Lease, life: socket.socket, stack: ExitStack) -> None:
    with life, suppress(OSError):
        life.recv(1)  # only its end can come
    with _one_by_one:
        del _leased[lease]
    stack.close()
