"""Workers on other machines, over Dask: a `concurrent.futures` executor, and who sits where.

How Dask gets there is its own business. A worker with the resource "seat" has that many seats: each is a
process that it starts for the load (bench/measure/pool.py) and that is on no clock but its machine's
(bench/measure/clock.py). Publishers and consumers sit on different hosts, unless there is only one. Each piece of
work is given to one worker and done once: when that worker dies, the work has failed.

In Kubernetes, with an image that contains the kit; the last line is run in a pod:

    kubectl create deployment dask --image=IMAGE --port=8786 -- dask scheduler
    kubectl expose deployment dask
    kubectl create deployment load --image=IMAGE --replicas=2 -- \\
        dask worker tcp://dask:8786 --nthreads 8 --resources seat=8
    python -m bench run --workers dask:tcp://dask:8786

In SLURM:

    srun --ntasks=1 dask scheduler --scheduler-file ~/dask.json &
    srun --ntasks=2 dask worker --scheduler-file ~/dask.json --nthreads 8 --resources seat=8 &
    python -m bench run --workers dask:$HOME/dask.json
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import cache, partial
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal, TypeVar

import psutil

from bench.measure.clock import Echo, look, socket_for, worked
from bench.measure.loops import Receive, Received, Send, Sent, said
from bench.measure.pool import Lease, seated

T = TypeVar("T")
Side = Literal["publish", "consume"]
SIDES: tuple[Side, ...] = ("publish", "consume")
SEAT = "seat"
CONNECT_S, GREET_S, CLOSE_S = 10, 60, 5
WATCH_S = 0.5
"""How often it is seen who is still there."""
ANSWER_S, SILENT = 10, 3
"""How long the scheduler may take to say that, and how often it may fail to."""
START = "dask worker {} --nthreads 4 --resources seat=4"


class NoWorkers(Exception):
    """The workers that were asked for cannot be had: why, and what to do."""


class NoSeat(Exception):
    """More work is to be done at once than there are seats."""


class WorkerDied(BrokenExecutor):
    """The worker that had this work is gone."""


class WorkersLost(BrokenExecutor):
    """The scheduler is gone, and all workers with it."""


@contextmanager
def dask(where: str) -> Iterator[Cluster]:
    """The cluster whose scheduler is at `where`: an address, its file, or "" for DASK_SCHEDULER_ADDRESS.

    Raises:
        ValueError: that is no address, or Dask is not installed.
        OSError: the file cannot be read.
        NoWorkers: there is no scheduler, or nobody there who can work.
    """
    address = _address(where)
    try:
        import distributed  # noqa: PLC0415, an extra
    except ImportError:
        raise ValueError("workers on other machines need Dask: pip install -e '.[workers]'") from None
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what goes wrong is raised here
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ImportError) as error:
        raise NoWorkers(
            f"no Dask scheduler answers at {address}: start one with `dask scheduler`, and a worker with "
            f"`{START.format(address)}`"
        ) from error
    cluster = Cluster(client, address)
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.end()


def _address(where: str) -> str:
    found = where or os.environ.get("DASK_SCHEDULER_ADDRESS", "")
    if not found:
        raise ValueError("--workers dask: takes the scheduler's address from DASK_SCHEDULER_ADDRESS: set it")
    if re.fullmatch(r"\w+://\S+:\d+", found):
        return found
    if re.fullmatch(r"[\w.-]+:\d+", found):
        return f"tcp://{found}"
    if "://" in found:
        raise ValueError(f"{found!a} is not the address of a Dask scheduler: give it as tcp://HOST:8786")
    try:
        return str(json.loads(Path(found).read_text())["address"])
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{found!a} is not a file of a Dask scheduler: `dask scheduler --scheduler-file` writes one"
        ) from None


class Cluster:
    """The workers that have seats, and what they were given to do. Hosts are told apart by their addresses."""

    def __init__(self, client: Any, address: str) -> None:
        self.client = client
        self.bound_ns = 0
        """How wrong the clock of a worker was known when it was greeted, at most."""
        self._address = address
        self._lost = False
        self._seats: dict[str, int] = {}
        self._hosts: dict[str, str] = {}
        self._sides: dict[str, tuple[Side, ...]] = {}
        self._waiting: dict[Future[Any], str] = {}
        self._silent = 0
        self._over = Event()

    def begin(self) -> None:
        """See who is there, who is to publish and who to consume, and whether all can work.

        Raises:
            NoWorkers: somebody cannot.
        """
        self._look()
        if not self._seats:
            raise NoWorkers(
                f"the Dask scheduler at {self._address} has no worker with a seat: start one with "
                f"`{START.format(self._address)}`"
            )
        hosts = sorted({self._hosts[worker] for worker in self._seats})
        publishing = len(hosts) // 2
        self._sides = {host: (SIDES[at >= publishing],) if publishing else SIDES for at, host in enumerate(hosts)}
        Thread(target=self._watch, daemon=True).start()
        with self.executor() as crew:
            asked = {worker: crew.ask(worker, greeted, crew.lease(worker)) for worker in self._seats}
            for worker, found in asked.items():
                self.bound_ns = max(self.bound_ns, self._greeting(worker, found))

    def _greeting(self, worker: str, found: Future[tuple[str, int]]) -> int:
        who = f"the worker at {self._hosts[worker]}"
        try:
            theirs, bound = found.result(GREET_S)
        except TimeoutError:
            raise NoWorkers(f"{who} did not answer in {GREET_S} s: is it busy with other work?") from None
        except Exception as error:
            raise NoWorkers(
                f"{who} cannot work, {said(error)}: it and the scheduler need this kit installed, with .[workers]"
            ) from error
        if theirs != kit():
            raise NoWorkers(f"{who} has another version of this kit: install the same there and at the scheduler")
        return bound

    def end(self) -> None:
        """Part from the scheduler, which may be gone."""
        self._over.set()
        with suppress(Exception):  # whatever it says, there is nothing left to be done about it
            self.client.close(CLOSE_S)

    @contextmanager
    def executor(self) -> Iterator[Crew]:
        """Processes at the seats, started when needed; all that they still do ends with this."""
        crew = Crew(self)
        try:
            yield crew
        finally:
            crew.shutdown()

    @property
    def elsewhere(self) -> list[str]:
        """The hosts that are not this machine."""
        return sorted(host for host in self._sides if not on_this_machine(host))

    @property
    def told(self) -> dict[str, Any]:
        """For run.json: no names and no addresses."""
        return {"hosts": len(self._sides), "seats": sum(self._seats.values()), "clock_bound_us": self.bound_ns / 1e3}

    def host(self, worker: str) -> str:
        """The address of its host."""
        return self._hosts[worker]

    def free(self, busy: Mapping[str, int], *sides: Side) -> str:
        """The worker to take: one with a free seat on the least busy host of `sides`.

        Raises:
            NoSeat: there is none.
            WorkersLost: there is no scheduler.
        """
        if self._lost:
            raise self.gone()
        able = {
            worker: number
            for worker, number in self._seats.items()
            if set(sides) & set(self._sides.get(self._hosts[worker], ()))
        }
        at_host: Counter[str] = Counter()
        for worker, number in busy.items():
            at_host[self._hosts[worker]] += number
        found = [worker for worker, number in able.items() if busy.get(worker, 0) < number]
        if not found:
            seats = sum(able.values())
            few = f"all {seats} seats to {sides[0]} are taken" if seats else f"no worker is left to {sides[0]}"
            raise NoSeat(f"{few}: start more, each with `{START.format(self._address)}`")
        return min(found, key=lambda worker: (at_host[self._hosts[worker]], busy.get(worker, 0), worker))

    def expect(self, found: Future[Any], worker: str) -> None:
        """Let `found` fail when `worker` or the scheduler is gone."""
        self._waiting[found] = worker
        found.add_done_callback(lambda done: self._waiting.pop(done, None))

    def settle(self, found: Future[Any], inner: Future[bytes]) -> None:
        """Hand on what became of a call, unless it is known that nothing will."""
        with suppress(InvalidStateError):
            if inner.cancelled():  # by Dask, when its connection is lost
                found.set_exception(self.gone())
            elif error := inner.exception():
                died = type(error).__name__ == "KilledWorker"
                found.set_exception(self._died(self._waiting.get(found, "")) if died else error)
            else:
                found.set_result(pickle.loads(inner.result()))  # noqa: S301, of our own worker

    def gone(self) -> WorkersLost:
        """What is raised when there is no scheduler."""
        return WorkersLost(f"the Dask scheduler at {self._address} is gone")

    def _died(self, worker: str) -> WorkerDied:
        return WorkerDied(f"the worker at {self._hosts.get(worker, 'another host')} died")

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            self._look()

    def _look(self) -> None:
        workers: dict[str, Any] = {}
        try:
            found = self.client.sync(self.client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_S)
            workers, self._silent = found["workers"], 0
        except Exception:  # noqa: BLE001, of a client that is not connected: its status tells
            self._silent += 1
        self._lost = self._lost or self.client.status != "running" or self._silent >= SILENT
        if self._silent and not self._lost:
            return
        if not self._lost:
            self._hosts |= {worker: one["host"] for worker, one in workers.items()}
            self._seats = {
                worker: seats
                for worker, one in workers.items()
                if (seats := min(int(one["resources"].get(SEAT, 0)), one["nthreads"])) and one["status"] == "running"
            }
        for waiting, worker in list(self._waiting.items()):
            if self._lost or worker not in workers:
                with suppress(InvalidStateError):
                    waiting.set_exception(self.gone() if self._lost else self._died(worker))


class Crew(Executor):
    """The seats of a cluster for one stretch of work; `shutdown` ends the processes there, whatever they do."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # Equal calls are two calls, and none is done again.
        self._dask = cluster.client.get_executor(pure=False, retries=0, resources={SEAT: 1})
        self._echoes: dict[str, Echo] = {}
        self._at: dict[Future[Any], str] = {}
        self._calls = count(1)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run `fn` at any free seat."""
        return self.ask(self._cluster.free(self._busy(), *SIDES), partial(fn, **kwargs), *args)

    def work(self, jobs: Sequence[Send | Receive], loop: str, deadline_s: float) -> Future[list[Sent | Received]]:
        """`loops.work` on a host that publishes or one that consumes, with stamps on the clock of this machine."""
        side: Side = "publish" if any(isinstance(job, Send) for job in jobs) else "consume"
        worker = self._cluster.free(self._busy(), side)
        return self.ask(worker, worked, self.lease(worker), next(self._calls), jobs, loop, deadline_s)

    def ask(self, worker: str, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Run `function` at a seat of `worker`, and nowhere else."""
        found: Future[T] = Future()
        found.set_running_or_notify_cancel()  # it ends when the work does, and not before
        self._at[found] = worker
        found.add_done_callback(lambda done: self._at.pop(done, None))
        self._cluster.expect(found, worker)
        call = pickle.dumps((function, arguments))
        try:
            inner = self._dask.submit(seated, self.lease(worker), call, workers=[worker])
        except Exception:  # noqa: BLE001, of a client that is closed
            found.set_exception(self._cluster.gone())
        else:
            inner.add_done_callback(partial(self._cluster.settle, found))
        return found

    def lease(self, worker: str) -> Lease:
        """Where this machine is reached from `worker`."""
        here = _towards(self._cluster.host(worker))
        if here not in self._echoes:
            self._echoes[here] = Echo(here)
        return self._echoes[here].lease

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """End the processes, and forget what they do."""
        for echo in self._echoes.values():
            echo.close()
        with suppress(Exception):  # of a client that is not connected: then nothing is to be forgotten
            self._dask.shutdown(wait=False)

    def _busy(self) -> Counter[str]:
        return Counter(list(self._at.values()))


def greeted(lease: Lease) -> tuple[str, int]:
    """What a worker says when it is greeted: which kit it has, and how well its clock is known."""
    return kit(), look(lease).bound_ns


@cache
def kit() -> str:
    """What tells this kit from one of another version: a digest of its source."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for package in ("greet", "bench") for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def on_loopback(host: str) -> bool:
    """Whether `host` is this machine, whoever asks."""
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def on_this_machine(host: str) -> bool:
    """Whether `host` is one of its addresses."""
    here = {one.address.partition("%")[0] for found in psutil.net_if_addrs().values() for one in found}
    return on_loopback(host) or _resolved(host) in here


def _resolved(host: str) -> str:
    """The address of a host that has a name."""
    return str(socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0][4][0])


def _towards(host: str) -> str:
    """The address of this machine on the way to `host`."""
    there = _resolved(host)
    with socket_for(there, socket.SOCK_DGRAM) as asking:
        asking.connect((there, 9))  # by UDP, so nothing is sent
        return str(asking.getsockname()[0])
