"""The load: what runs in the worker processes. Nothing but stamping happens in a timed loop.

Closed loop: a bounded window of unconfirmed messages, as fast as it goes. Open loop: message i is due at
`start + i / rate`, whatever became of the one before; all that is due at a wake-up is sent at once,
and what was intended, sent and confirmed is stamped apart.

Stamps are nanoseconds of `time.perf_counter_ns`, which on Linux, macOS and Windows counts from the
same moment in every process of a machine (`shared_clock` checks it).

(This file is not called load.py: `bench.load` is the function that loads a run.)

A consumer tells that it is ready through the broker, as a message on a topic of its own, so any
`concurrent.futures.Executor` can place it, also on another machine.
"""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import threading
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

import greet
from bench.measure.account import STRANGER, Codes, Series, codes, letters
from bench.model import LOOP, Contender, Place, Publisher

now = time.perf_counter_ns
Stamps = NDArray[np.int64]
LINGER_S = 0.1
"""How long a consumer that has all its messages looks for more of them, with the clock stopped."""
NO_STAMPS: Stamps = np.empty(0, np.int64)
Progress = tuple[tuple[int, int], ...]
"""(stamp, messages so far), four times a second."""
LOOK_S = 0.25


def _no_stamps() -> Stamps:
    return NO_STAMPS


@dataclass(frozen=True)
class Usage:
    """What a process used between two moments: its CPU clock in ns at both, memory in MB at the second."""

    pid: int
    cpu_from: int
    cpu_to: int
    rss_mb: float
    grown_mb: float | None = None
    """The most memory that it had, above what it had before the first name; None if nobody looked."""


@dataclass(frozen=True)
class Send:
    """The work of one publisher."""

    contender: Contender
    place: Place
    series: Series
    rate: float | None = None
    """Messages a second of the open loop, `math.inf` for all due at once; None is the closed loop."""
    start_ns: int = 0
    """When to start, at the earliest: publishers of one repetition start together."""
    lean: bool = False
    """Make each message when it is asked for, and watch the memory."""


@dataclass(frozen=True)
class Receive:
    """The work of one consumer."""

    contender: Contender
    place: Place
    group: str
    tag: str
    size: int
    expected: int
    """It ends when it has so many, or the members of its group in this process have."""
    ready: str = ""
    """What to publish on the topic `ready_topic` once messages can reach it."""
    ready_topic: str = ""
    stamped: bool = False
    """Stamp each receipt: for latencies, and for the last one where several members share."""
    quiet_s: float = 10.0
    """It also ends when nothing came for so long after some did."""
    first_s: float = 1e9
    """How long it waits for the first."""
    lean: bool = False
    """Keep the letters of the messages only, in memory that was there before, and watch the memory."""


@dataclass(frozen=True)
class Sent:
    """What a publisher did; the three stamps of each message only for the open loop."""

    series: Series
    lanes: tuple[int, ...]
    """How many messages each lane surely got accepted."""
    started_ns: int
    ended_ns: int
    usage: Usage
    error: str | None = None
    intended: Stamps = field(default_factory=_no_stamps, repr=False)
    actual: Stamps = field(default_factory=_no_stamps, repr=False)
    confirmed: Stamps = field(default_factory=_no_stamps, repr=False)
    progress: Progress = field(default=(), repr=False)
    """How many messages were asked for so far; only of a lean one."""
    bound_ns: int = 0
    """How wrong its stamps may be, where they were made by the clock of another machine (bench/measure/clock.py)."""


@dataclass(frozen=True)
class Received:
    """What a consumer got, in order of receipt; `stamps` only where they were asked for."""

    group: str
    codes: Codes = field(repr=False)
    started_ns: int
    last_ns: int
    usage: Usage
    error: str | None = None
    stamps: Stamps = field(default_factory=_no_stamps, repr=False)
    progress: Progress = field(default=(), repr=False)
    bound_ns: int = 0


def work(jobs: Sequence[Send | Receive], loop: str, deadline_s: float) -> list[Sent | Received]:
    """Do `jobs` side by side in this process, on an event loop of its own. Picklable: an executor runs it.

    A worker that hangs past its deadline, also in C code, ends its process: its parent sees a broken
    executor and not an endless wait.
    """
    names = [_names(job) if isinstance(job, Send) else [] for job in jobs]
    last_resort = threading.Timer(deadline_s + 20, os._exit, [70])
    last_resort.daemon = True
    last_resort.start()
    try:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            return runner.run(_together(jobs, names, deadline_s))
    finally:
        last_resort.cancel()


def _names(job: Send) -> Iterable[str]:
    return _Counted(job.series) if job.lean else job.series.names()


class _Counted:
    """Names that are made as they are asked for, and how many were."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self.so_far = 0

    def __iter__(self) -> Iterator[str]:
        for name in self._series.each():
            yield name
            self.so_far += 1


def _precise_loop() -> asyncio.AbstractEventLoop:
    """asyncio's loop, but on select: epoll and uvloop round each sleep up to a millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415, Windows has none

    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    LOOP: asyncio.new_event_loop,
    "select": _precise_loop,
    "uvloop": _uvloop,
}


async def _together(
    jobs: Sequence[Send | Receive], names: Sequence[Iterable[str]], deadline_s: float
) -> list[Sent | Received]:
    """In one process publishers wait until its consumers are ready; there may be none."""
    waiting = [asyncio.Event() for job in jobs if isinstance(job, Receive)]
    ready, groups = iter(waiting), dict[str, list[Receipts]]()
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Sent | Callable[[], Received]]] = []
        for job, series in zip(jobs, names, strict=True):
            if isinstance(job, Receive):
                tasks.append(group.create_task(receive(job, deadline_s, next(ready), groups.setdefault(job.group, []))))
            else:
                tasks.append(group.create_task(send(job, series, deadline_s, waiting)))
    # Counted when all have ended: who still works here would wait for it, and its CPU time would be taken for theirs.
    return [found if isinstance(found, Sent) else found() for found in (task.result() for task in tasks)]


async def send(job: Send, names: Iterable[str], deadline_s: float, consumers: Sequence[asyncio.Event] = ()) -> Sent:
    """Publish the series of `job`, each message once. An error is told in the result, not raised."""
    place, error, started, ended, spent = job.place, None, 0, 0, 0
    publisher, pace, cpu, memory = None, None, time.process_time_ns(), _Memory(job.lean)
    try:
        for consumer in consumers:
            await consumer.wait()
        async with asyncio.timeout(deadline_s), job.contender.publisher(place) as publisher:
            with _undisturbed(), memory.watched(lambda: getattr(names, "so_far", 0)):
                await asyncio.sleep(max(0, job.start_ns - now()) / 1e9)
                cpu, started = time.process_time_ns(), now()
                if job.rate is None:
                    await publisher.publish_all(names)
                else:
                    pace = Pace(publisher, list(names), max(started, job.start_ns), job.rate)
                    await pace.run()
                ended, spent = now(), time.process_time_ns()
    except Exception as trouble:  # noqa: BLE001, of any driver: it is told with the figures
        error, ended = said(trouble), ended or now()
    lanes = tuple(publisher.accepted) if publisher else (0,)
    intended, actual, confirmed = (
        (pace.intended, np.asarray(pace.actual), np.asarray(pace.confirmed)) if pace else (NO_STAMPS,) * 3
    )
    used = _usage(cpu, spent, memory.grown_mb)
    return Sent(job.series, lanes, started or ended, ended, used, error, intended, actual, confirmed, memory.progress)


class Pace:
    """An open loop over `publisher`: lane k of its window has each k-th name, and waits until it is due."""

    def __init__(self, publisher: Publisher, names: Sequence[str], start_ns: int, rate: float) -> None:
        self._publisher = publisher
        self._names = names
        self.intended: Stamps = start_ns + (np.arange(len(names)) * (1e9 / rate)).astype(np.int64)
        self._due = self.intended.tolist()
        self.actual = array("q", bytes(8 * len(names)))
        self.confirmed = array("q", bytes(8 * len(names)))

    async def run(self) -> None:
        """Publish every message when it is due, or at once when it is late."""
        self._publisher.accepted = [0] * self._publisher.window
        async with asyncio.TaskGroup() as lanes:
            for lane in range(self._publisher.window):
                lanes.create_task(self._lane(lane))

    async def _lane(self, lane: int) -> None:
        names, due, actual, confirmed = self._names, self._due, self.actual, self.confirmed
        publish, step, done = self._publisher.publish, self._publisher.window, 0
        try:
            for i in range(lane, len(names), step):
                while (early := due[i] - now()) > 0:  # noqa: ASYNC110, a moment is awaited, no state
                    await asyncio.sleep(early / 1e9)
                actual[i] = now()
                await publish(names[i])
                confirmed[i] = now()
                done += 1
        finally:
            self._publisher.accepted[lane] = done


async def receive(
    job: Receive, deadline_s: float, ready: asyncio.Event, group: list[Receipts]
) -> Callable[[], Received]:
    """Take messages until all are there or no more come; what is returned counts them. An error is told, not raised.

    `group` has the receipts of the members in this process, each its own.
    """
    receipts = LeanReceipts(job.expected * job.size) if job.lean else Receipts(job.stamped)
    error, cpu, began, last, spent, memory = None, time.process_time_ns(), now(), 0, 0, _Memory(job.lean)
    group.append(receipts)
    try:
        with _undisturbed():  # before it joins: a client with threads of its own would read meanwhile
            async with asyncio.timeout(deadline_s) as limit, job.contender.consumer(job.place, job.group) as names:
                if job.ready:
                    await _tell(job)
                ready.set()
                with memory.watched(lambda: receipts.number), receipts.watched(limit, job, group):
                    cpu, began = time.process_time_ns(), now()
                    take = receipts.take_lists if job.contender.way == "many" else receipts.take_names
                    await take(names, job.expected)
                    last, spent = now(), time.process_time_ns()
                if job.expected:
                    await receipts.linger(take, names)
    except TimeoutError as trouble:
        error = None if receipts.quiet else said(trouble)
    except Exception as trouble:  # noqa: BLE001, of any driver: it is told with the figures
        error = said(trouble)
    ready.set()
    used = _usage(cpu, spent or receipts.spent, memory.grown_mb)

    def counted() -> Received:
        stamps, progress = receipts.each(), tuple(receipts.progress)
        end = int(stamps[-1]) if len(stamps) else last or progress[-1][0] if progress else last
        return Received(job.group, receipts.codes(job.tag, job.size), began, end, used, error, stamps, progress)

    return counted


class Receipts:
    """The messages as they came, and when."""

    def __init__(self, stamped: bool) -> None:
        self.names: list[str] = []
        self.progress: list[tuple[int, int]] = []
        self.spent = 0
        """The CPU clock when the last progress was seen."""
        self.quiet = False
        self._stamps = array("q")
        self._sizes: list[int] | None = None
        self._stamped = stamped

    async def take_names(self, names: AsyncIterator[str], expected: int) -> None:
        """One by one, as `async for` does."""
        keep, one, stamp = self.names.append, names.__anext__, self._stamps.append
        if self._stamped:
            for _ in repeat(None, expected):
                name = await one()
                stamp(now())
                keep(name)
        else:
            for _ in repeat(None, expected):
                keep(await one())

    async def take_lists(self, batches: AsyncIterator[list[str]], expected: int) -> None:
        """List by list; a stamp is of the list that a message came in."""
        self._sizes = sizes = [] if self._sizes is None else self._sizes
        names, stamp = self.names, self._stamps.append
        while len(names) < expected:
            batch = await batches.__anext__()
            stamp(now())
            sizes.append(len(batch))
            names.extend(batch)

    async def linger(self, take: Callable[[Any, int], Awaitable[None]], names: Any) -> None:
        """Look whether more comes than should: a message that came twice, or one in whose place another did."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await take(names, 2 * self.number + 1)

    @property
    def number(self) -> int:
        """How many came so far."""
        return len(self.names)

    def codes(self, tag: str, size: int) -> Codes:
        """The code of each message, in order."""
        return codes(self.names, tag, size)

    def each(self) -> Stamps:
        """The stamp of each message, in order; empty when none were asked for."""
        stamps = np.asarray(self._stamps, np.int64)
        return stamps if self._sizes is None else np.repeat(stamps, self._sizes[: len(stamps)])

    @contextmanager
    def watched(self, limit: asyncio.Timeout, job: Receive, group: Sequence[Receipts]) -> Iterator[None]:
        """Note the progress, and end the wait by `limit` when nothing more can come, or has come for long."""
        loop, moved = asyncio.get_running_loop(), now()
        handle: asyncio.TimerHandle

        def look() -> None:
            nonlocal handle, moved
            if came := self.number != (self.progress[-1][1] if self.progress else 0):
                moved, self.spent = now(), time.process_time_ns()
                self.progress.append((moved, self.number))
            patience = job.quiet_s if self.number else job.first_s
            # A message that has just come may still be handled: to end meanwhile is to fail on it, and it comes again.
            all_there = not came and sum(one.number for one in group) >= job.expected
            if now() - moved > patience * 1e9 or all_there:
                self.quiet = True
                limit.reschedule(loop.time())
            else:
                handle = loop.call_later(LOOK_S, look)

        handle = loop.call_later(LOOK_S, look)
        try:
            yield
        finally:
            handle.cancel()


class LeanReceipts(Receipts):
    """The letters of the messages as they came, one message behind the other."""

    def __init__(self, letters: int) -> None:
        super().__init__(stamped=False)
        self._letters = bytearray(b"." * letters)
        self._end = self._number = 0
        self._lengths: set[int] = set()

    @property
    def number(self) -> int:
        """How many came so far."""
        return self._number

    async def take_names(self, names: AsyncIterator[str], expected: int) -> None:
        """One by one, kept by the hundred."""
        one = names.__anext__
        try:
            while self.number < expected:
                for _ in repeat(None, min(100, expected - self.number)):
                    self.names.append(await one())
                self._keep()
        finally:
            self._keep()

    async def take_lists(self, batches: AsyncIterator[list[str]], expected: int) -> None:
        """List by list."""
        while self._number < expected:
            self.names = await batches.__anext__()
            self._keep()

    def _keep(self) -> None:
        text = "".join(self.names).encode()
        self._letters[self._end : self._end + len(text)] = text
        self._end += len(text)
        self._number += len(self.names)
        self._lengths.update(map(len, self.names))
        self.names = []

    def codes(self, tag: str, size: int) -> Codes:
        """The code of each message; where one had another length, all are strangers."""
        if self._lengths - {size}:
            return np.full(self._number, STRANGER, np.int64)
        return letters(memoryview(self._letters)[: self._end], tag, size)


class _Memory:
    """A look at the memory of this process, and at how far it is, from a thread: four times a second."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._seen: list[int] = []
        self._progress: list[tuple[int, int]] = []

    @contextmanager
    def watched(self, so_far: Callable[[], int]) -> Iterator[None]:
        """Look until the end."""
        if not self._wanted:
            yield
            return
        own, over = psutil.Process(), threading.Event()

        def look() -> None:
            self._seen.append(own.memory_info().rss)
            self._progress.append((now(), so_far()))

        def go_on() -> None:
            while not over.wait(LOOK_S):
                look()

        look()
        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            look()

    @property
    def grown_mb(self) -> float | None:
        """The most above the first; None if nobody looked."""
        return (max(self._seen) - self._seen[0]) / 1e6 if self._seen else None

    @property
    def progress(self) -> Progress:
        """How far it was."""
        return tuple(self._progress)


async def _tell(job: Receive) -> None:
    async with greet.connect(job.place.url, job.ready_topic) as line:
        await line.publish(job.ready)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The garbage collector need not look at what was there before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _usage(cpu_from: int, cpu_to: int, grown_mb: float | None) -> Usage:
    """Up to `cpu_to`, or where that is not known, up to now."""
    cpu_to = cpu_to or time.process_time_ns()
    return Usage(os.getpid(), cpu_from, cpu_to, psutil.Process().memory_info().rss / 1e6, grown_mb)


def bare(number: int) -> tuple[float, float]:
    """The loop of the fastest contender with nothing around it: `publish_many`, `batches` and a list.

    Returns the seconds, and the CPU seconds, that `number` messages took. What `work` costs shows beside it.
    """
    names, kept = Series("bare", 0, number).names(), list[str]()

    async def main() -> tuple[float, float]:
        async with greet.connect("asyncio:") as line, line.subscribe("bare") as subscription:

            async def read() -> None:
                async for batch in subscription.batches():
                    kept.extend(batch)
                    if len(kept) == number:
                        return

            reading = asyncio.create_task(read())
            with _undisturbed():
                began, cpu = time.perf_counter(), time.process_time()
                await line.publish_many(names)
                await reading
                return time.perf_counter() - began, time.process_time() - cpu

    return asyncio.run(main())


def said(trouble: BaseException) -> str:
    """An error on one line; of a group the first."""
    while isinstance(trouble, BaseExceptionGroup):
        trouble = trouble.exceptions[0]
    text = " ".join(str(trouble).split())
    return f"{type(trouble).__name__}: {text}" if text else type(trouble).__name__


def moment() -> int:
    """The clock as a worker sees it."""
    return now()


async def shared_clock(run: Callable[[Callable[[], int]], Awaitable[int]]) -> bool:
    """Whether a worker's clock lies between two looks at ours: stamps of both can be subtracted."""
    await run(moment)  # the worker starts
    before = now()
    theirs = await run(moment)
    return before <= theirs <= now()
