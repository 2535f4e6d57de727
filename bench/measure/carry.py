"""One run of a workload: publishers that keep to a timetable, readers that work, and what came of each message.

Publishers and readers are processes of their own, or tasks of one for a design that lives in one process. Each
writes its journal into a mapped file, so that what it did outlives a SIGKILL of it:

    publisher   for each message: when it was sent, and when it was accepted, or REFUSED or UNKNOWN
    reader      how many it has handled; for each: its number, when it came, and when its work was done

Where lists are sent and read, journals are written by the list: what the load itself takes is not to be taken for the
design's. A run of it alone, with `Nothing` in the design's place, tells how much that is.

All stamps are of `time.perf_counter_ns`, which counts from the same moment in every process of a machine.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import secrets
import selectors
import signal
import sys
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.measure.account import SHIFT, filling
from bench.measure.workload import Lines, Offsets, Workload
from bench.model import LINES, Contender, Place, Publisher
from greet import GreetError, PublishFailed, PublishUnknown

now = time.perf_counter_ns
Stamps = NDArray[np.int64]
REFUSED, UNKNOWN = -1, -2
"""What stands in place of the moment of acceptance."""
LEAD_S = 0.3
"""How far ahead a common start is set."""
LOOK_S = 0.05
"""How often the journals of a run are looked at."""
LINGER_S = 0.1
"""How long more messages than there should be are waited for."""
JOIN_S = 60.0
"""How long publishers and readers may take to be ready."""
LEAVE_S = 3.0
"""How long a process may take to end before it is killed."""
PAUSE_S = 0.1
"""Between two tries to join again."""
MOST_AT_ONCE = 5_000
"""Messages that are handed over in one call, where lists are."""
READERS = 8
"""Processes of readers, at most; more readers share them."""


# ------------------------------------------------------------------------------------------- the processes


@dataclass(frozen=True)
class Publish:
    """The work of one publisher."""

    contender: Contender
    place: Place
    head: str
    """The tag of the run and the number of the publisher: the first six characters of its messages."""
    due: Offsets = field(repr=False)
    bodies: Sequence[int] | Sequence[str] = field(repr=False)
    journal: str = ""


@dataclass(frozen=True)
class Read:
    """The work of one reader."""

    contender: Contender
    place: Place
    group: str
    tag: str
    most: int
    """How many messages its journal has room for."""
    work_s: float = 0.0
    computes: bool = False
    journal: str = ""


Job = Publish | Read


@contextmanager
def _journal(path: str) -> Iterator[memoryview]:
    """The numbers of a mapped file."""
    with ExitStack() as stack:
        file = stack.enter_context(Path(path).open("r+b"))
        mapped = stack.enter_context(mmap.mmap(file.fileno(), 0))
        raw = stack.enter_context(memoryview(mapped))
        yield stack.enter_context(raw.cast("q"))


class _Worker:
    """The jobs of one process, and what it is told of them."""

    def __init__(self, tell: Callable[[object], None]) -> None:
        self.tell = tell
        self.start: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.stopped = False
        self.tasks: list[asyncio.Task[None]] = []
        self.publishing = 0

    def begin(self, jobs: Sequence[Job]) -> None:
        """Start the jobs; the parent is told when all of them are ready."""
        number = count(1)

        def ready() -> None:
            if next(number) == len(jobs):
                self.tell("ready")

        for job in jobs:
            doing = self._publish(job, ready) if isinstance(job, Publish) else self._read(job, ready)
            self.publishing += isinstance(job, Publish)
            self.tasks.append(asyncio.create_task(doing))

    def again(self, job: Read) -> None:
        """The first reader dies in the middle of its work, and another takes its place."""
        first = next(task for task in self.tasks if not task.done() and task.get_name() != "publisher")
        first.cancel()
        self.tasks.append(asyncio.create_task(self._read(job, lambda: None)))

    async def _publish(self, job: Publish, ready: Callable[[], None]) -> None:
        task = asyncio.current_task()
        assert task
        task.set_name("publisher")
        try:
            async with job.contender.publisher(job.place) as publisher:
                with _journal(job.journal) as journal:
                    filling(0, 0)  # its text is made now, and not when the first message is due
                    ready()
                    pace = _Pace(job, journal, await self.start, lambda: self.stopped)
                    if job.contender.way == "many":
                        await pace.lists(publisher.publish_all)
                    else:
                        async with asyncio.TaskGroup() as lanes:
                            for lane in range(min(job.place.window, len(job.due))):
                                lanes.create_task(pace.lane(lane, publisher.publish))
        except* Exception as errors:  # noqa: BLE001, of any driver: it is told with the figures
            self.tell(("error", _said(errors)))
        finally:
            self.publishing -= 1
            if not self.publishing:
                self.tell("published")

    async def _read(self, job: Read, ready: Callable[[], None]) -> None:
        """Join, work, and join again whenever the line was lost, until it is cancelled."""
        joined = False
        with _journal(job.journal) as journal:
            while True:
                try:
                    async with job.contender.consumer(job.place, job.group) as names:
                        if not joined:
                            ready()
                        joined = True
                        await _handle(job, names, journal)
                except GreetError as error:
                    if not joined:
                        self.tell(("error", _said(error)))
                        return
                    await asyncio.sleep(PAUSE_S)
                except Exception as error:  # noqa: BLE001, of any driver: it is told with the figures
                    self.tell(("error", _said(error)))
                    return


async def _handle(job: Read, names: AsyncIterator[str], journal: memoryview) -> None:
    """Take each message, do its work, and write down both moments."""
    if job.contender.way == "many":
        await _handle_lists(job, names, journal)
        return
    tag, work_s, computes, place = job.tag, job.work_s, job.computes, journal[0]
    async for name in names:
        came = now()
        if work_s:
            if computes:
                until = time.thread_time() + work_s
                while time.thread_time() < until:
                    pass
            else:
                await asyncio.sleep(work_s)
        if name[:4] != tag or place >= job.most:
            continue
        at = 1 + 3 * place
        journal[at], journal[at + 1] = int(name[4:16]), came
        journal[at + 2] = now() if work_s else came
        place += 1
        journal[0] = place


async def _handle_lists(job: Read, lists: AsyncIterator[Any], journal: memoryview) -> None:
    """The same of lists of messages that take no work."""
    tag, place = job.tag, journal[0]
    async for names in lists:
        came = now()
        numbers = array("q", [int(name[4:16]) for name in names if name[:4] == tag])[: job.most - place]
        rows = array("q", [0, came, 0]) * len(numbers)
        rows[0::3] = numbers
        rows[2::3] = array("q", [now()]) * len(numbers)
        journal[1 + 3 * place : 1 + 3 * (place + len(numbers))] = memoryview(rows)
        place += len(numbers)
        journal[0] = place


_handed: dict[str, dict[str, asyncio.Queue[Any]]] = {}
"""Of each topic the queues of its groups in this process."""


class _Handing(Publisher):
    """What is published is in the queues at once."""

    def __init__(self, queues: Sequence[asyncio.Queue[Any]], window: int) -> None:
        async def hand_over(what: Any) -> None:
            for queue in queues:
                queue.put_nowait(what)

        super().__init__(hand_over, window)

    async def publish_all(self, names: Iterable[str]) -> None:
        """The list as it is."""
        await self.publish(names)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Nothing(Contender):
    """In a design's place: it promises nothing and takes next to no time, so what a run takes is the load's own."""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """Hands over to the readers of this process; where there are none, to nobody."""
        yield _Handing(list(_handed.get(place.topic, {}).values()), place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """Takes what is handed over."""
        queue = _handed.setdefault(place.topic, {}).setdefault(group, asyncio.Queue())

        async def each() -> AsyncIterator[Any]:
            while True:
                yield await queue.get()

        yield each()


class _Pace:
    """The timetable of a publisher: each message when it is due, or at once when it is late."""

    def __init__(self, job: Publish, journal: memoryview, start_ns: int, stopped: Callable[[], bool]) -> None:
        self._head, self._bodies, self._window = job.head, job.bodies, job.place.window
        self._due: list[int] = (job.due + start_ns).tolist()
        self._journal, self._stopped = journal, stopped

    def _message(self, i: int) -> str:
        body = self._bodies[i]
        return f"{self._head}{i:010d}{filling(i, body) if isinstance(body, int) else body}"

    async def lane(self, lane: int, publish: Callable[[str], Awaitable[object]]) -> None:
        """Every so manieth message, each awaited: at most as many are under way as there are lanes."""
        due, journal = self._due, self._journal
        for i in range(lane, len(due), min(self._window, len(due))):
            if due[i] > now():
                await self._until(due[i])
            if self._stopped():
                return
            journal[2 * i] = now()
            journal[2 * i + 1] = await _tried(publish, self._message(i))

    async def lists(self, publish: Callable[[list[str]], Awaitable[object]]) -> None:
        """All that is due, in one call."""
        due, journal, i = self._due, self._journal, 0
        while i < len(due):
            await self._until(due[i])
            if self._stopped():
                return
            end = min(bisect_right(due, now(), i), i + MOST_AT_ONCE)
            sent = now()
            accepted = await _tried(publish, [self._message(k) for k in range(i, end)])
            journal[2 * i : 2 * end] = memoryview(array("q", [sent, accepted]) * (end - i))
            i = end

    async def _until(self, due: int) -> None:
        while (early := due - now()) > 0 and not self._stopped():  # noqa: ASYNC110, a moment is awaited, no state
            await asyncio.sleep(min(early / 1e9, LOOK_S * 10))


async def _tried(publish: Callable[[Any], Awaitable[object]], what: str | list[str]) -> int:
    """When it was accepted, or what became of it instead: nothing is tried twice."""
    try:
        await publish(what)
    except PublishUnknown:
        return UNKNOWN
    except PublishFailed:
        return REFUSED if isinstance(what, str) else UNKNOWN
    return now()


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _precise() -> asyncio.AbstractEventLoop:
    """A loop on select: others round each sleep up to a millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def serve(pipe: Connection) -> None:
    """The life of a process; it ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent to handle
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what a driver complains of while it is hurt is for nobody
    os.dup2(nowhere, 2)
    with asyncio.Runner(loop_factory=_precise) as runner:
        runner.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def hear() -> None:
        while True:
            try:
                what = pipe.recv()
            except (EOFError, OSError):
                os._exit(0)
            loop.call_soon_threadsafe(told.put_nowait, what)

    threading.Thread(target=hear, daemon=True).start()
    worker = _Worker(pipe.send)
    while True:
        word, *rest = await told.get()
        if word == "jobs":
            worker.begin(rest[0])
        elif word == "start":
            worker.start.set_result(rest[0])
        elif word == "stop":
            worker.stopped = True
        elif word == "again":
            worker.again(rest[0])
        else:
            for task in worker.tasks:
                task.cancel()
            await asyncio.gather(*worker.tasks, return_exceptions=True)
            pipe.send("left")


@contextmanager
def unhurt() -> Iterator[None]:
    """A Ctrl-C waits until this has ended: it would also end the server that forks the processes, while it starts."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Hand:
    """A process as its parent sees it."""

    def __init__(self) -> None:
        methods = ("forkserver", "spawn") if sys.platform != "win32" else ("spawn",)
        context: Any = get_context(methods[0])
        if methods[0] == "forkserver":
            context.set_forkserver_preload(["bench.measure.carry", "bench.contenders.greets", *LINES])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        with unhurt():
            self._process.start()
        theirs.close()
        self.pid: int = self._process.pid
        self.jobs: list[Job] = []
        self.heard: set[str] = set()
        self.errors: list[str] = []
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody hears it any more
            while True:
                try:
                    what = self._pipe.recv()
                except (EOFError, OSError):
                    what = "gone"
                self._loop.call_soon_threadsafe(self._hear, what)
                if what == "gone":
                    return

    def _hear(self, what: Any) -> None:
        if isinstance(what, tuple):
            self.errors.append(what[1])
            what = "error"
        self.heard.add(what)
        self._changed.set()

    async def says(self, *words: str) -> str:
        """Wait for one of these words, or the end of the process, "gone"."""
        while not (found := self.heard.intersection([*words, "gone"])):
            self._changed.clear()
            await self._changed.wait()
        return found.pop()

    def tell(self, word: str, *rest: object) -> None:
        """A word for it; a process that is gone does not hear it."""
        with suppress(OSError):
            self._pipe.send((word, *rest))

    def do(self, jobs: Sequence[Job]) -> None:
        """Give it its work."""
        self.jobs = list(jobs)
        self.tell("jobs", self.jobs)

    def used(self) -> tuple[float, float]:
        """Its CPU seconds and its memory in MB; zeros when it is gone."""
        try:
            own = psutil.Process(self.pid)
            times = own.cpu_times()
            return times.user + times.system, own.memory_info().rss / 1e6
        except psutil.Error:
            return 0.0, 0.0

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.join()


# ------------------------------------------------------------------------------------------------ the run


@dataclass(frozen=True)
class Outcome:
    """What came of each message; stamps count from the start of the run, in nanoseconds."""

    due: Stamps = field(repr=False)
    """Of every message, by publisher and then by number."""
    codes: Stamps = field(repr=False)
    sent: Stamps = field(repr=False)
    """When it was sent; 0 of one that was not, as the run was stopped."""
    accepted: Stamps = field(repr=False)
    """When it was accepted; `REFUSED`, `UNKNOWN`, or 0 of one that was under way when all ended."""
    came: tuple[Stamps, ...] = field(repr=False)
    """Of each group: when each message was first in a reader's hands; -1 of one that never was."""
    handled: tuple[Stamps, ...] = field(repr=False)
    """Of each group: the codes in the order in which their work was done, as often as it was."""
    done: tuple[Stamps, ...] = field(repr=False)
    """Of each group: when."""
    shares: tuple[int, ...] = ()
    """How many messages each reader handled."""
    seconds: float = 0.0
    """When the last message was due, or would have been by the timetable."""
    stopped: bool = False
    """It was stopped, as it had fallen too far behind."""
    cut: bool = False
    """Not all that waited was waited for, so what did not come is not lost."""
    hurt: tuple[float, float] | None = None
    """When something was broken, and when that was over, in seconds."""
    cpu_s: tuple[float, float | None] = (0.0, None)
    """Of the clients and of the broker."""
    rss_mb: tuple[float, float | None] = (0.0, None)
    errors: tuple[str, ...] = ()


Look = Callable[[], tuple[float | None, float | None]]
"""CPU seconds so far and memory in MB of a broker, or None."""


@dataclass(frozen=True)
class Run:
    """One run over one design: how much of the workload, for how long, and what is done to it meanwhile."""

    workload: Workload
    publisher: Contender
    reader: Contender | None
    """None: nobody reads, and what is sent counts as received."""
    place: Place
    in_process: bool
    seconds: float
    factor: float = 1.0
    samples: Lines = ()
    used: Look = lambda: (None, None)
    hurt: Callable[[Crew], Awaitable[None]] | None = None
    """What breaks, at `break_at`."""
    patience_s: float = 2.0
    """How long nothing may come before what is missing is taken for lost."""
    behind_s: float | None = None
    """How far it may fall behind, in seconds of its load, before it is stopped; None lets it go on for longer."""
    drain_s: float = 15.0
    """How long is waited for what waits when the publishers are done."""

    async def carried(self) -> Outcome:
        """Carry the messages and count them.

        Raises:
            GreetError: publishers or readers could not begin.
            TimeoutError: they were not ready by their deadline.
        """
        with TemporaryDirectory() as folder:
            async with Crew.gathered(self, Path(folder)) as crew:
                return await crew.work()

    @property
    def limit_s(self) -> float:
        """By when the publishers have to be done."""
        return self.seconds * 1.5 + 2 if self.hurt is None else self.seconds + 60


class Crew:
    """The processes of a run and their journals."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run = run
        self.tag = secrets.token_hex(2)
        self.folder = folder
        due = run.workload.due(run.seconds, run.factor)
        n, bodies = run.workload.publishers, run.workload.bodies(len(due), run.samples)
        place = run.place
        shares = [(k, due[k::n], bodies[k::n]) for k in range(n)]
        self.publishes = [
            Publish(run.publisher, place, f"{self.tag}{k:02d}", own, rest, self._file(f"p{k}", 2 * len(own)))
            for k, own, rest in shares
        ]
        most = 2 * len(due) + 1000
        wait_s = run.workload.work_ms / 1000
        self.reads = [
            Read(
                *(reader, place, f"g{group}", self.tag, most, wait_s, run.workload.work == "compute"),
                self._file(f"r{group}-{member}", 1 + 3 * most),
            )
            for reader in filter(None, [run.reader])
            for group in range(run.workload.groups)
            for member in range(run.workload.members)
        ]
        self.hands: list[Hand] = []
        self.fallen: list[tuple[float, float]] = []
        """What those that were killed had used."""
        self.spare: Hand | None = None
        self.started_ns = 0
        self._counts: dict[str, memoryview] = {}

    def _file(self, name: str, numbers: int) -> str:
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(8 * max(1, numbers))
        return str(path)

    @classmethod
    @asynccontextmanager
    async def gathered(cls, run: Run, folder: Path) -> AsyncIterator[Crew]:
        """Everybody ready to begin, and gone afterwards."""
        crew = cls(run, folder)
        try:
            await crew._gather()
            yield crew
        finally:
            for hand in [*crew.hands, *([crew.spare] if crew.spare else [])]:
                hand.kill()

    async def _gather(self) -> None:
        if self.run.in_process:
            self.hands = [Hand()]
            self.hands[0].do([*self.reads, *self.publishes])
            await self._ready(self.hands)
            return
        if self.run.hurt:
            self.spare = Hand()
        processes = min(READERS, len(self.reads))
        self.hands = [Hand() for _ in range(processes)]
        for k, hand in enumerate(self.hands):
            hand.do(self.reads[k::processes])
        await self._ready(self.hands)
        publishers = [Hand() for _ in self.publishes]
        self.hands += publishers
        for hand, job in zip(publishers, self.publishes, strict=True):
            hand.do([job])
        await self._ready(publishers)

    @staticmethod
    async def _ready(hands: Sequence[Hand]) -> None:
        async with asyncio.timeout(JOIN_S):
            for hand in hands:
                if await hand.says("ready", "error") != "ready":
                    raise GreetError(hand.errors[0] if hand.errors else "a process ended before the first message")

    # ---------------------------------------------------------------------------------- while it runs

    async def work(self) -> Outcome:
        """From the start until all is handled, or what is missing is taken for lost."""
        broker, clients = self.run.used(), [hand.used() for hand in self.hands]
        self.started_ns = now() + int(LEAD_S * 1e9)
        for hand in self.hands:
            hand.tell("start", self.started_ns)
        hurting = asyncio.create_task(self._hurt()) if self.run.hurt else None
        try:
            stopped = await self._published()
            hurt = await hurting if hurting else None
            cut = not await self._drained()
            await asyncio.sleep(LINGER_S)
        finally:
            if hurting:
                hurting.cancel()
        after, last = self.run.used(), [hand.used() for hand in self.hands]
        cpu = sum(one[0] for one in [*last, *self.fallen]) - sum(one[0] for one in clients)
        usage = (cpu, _more(broker[0], after[0])), (sum(one[1] for one in last), after[1])
        await self._left()
        return replace(self._outcome(), stopped=stopped, cut=cut, hurt=hurt, cpu_s=usage[0], rss_mb=usage[1])

    async def _hurt(self) -> tuple[float, float]:
        assert self.run.hurt
        await asyncio.sleep(self.run.workload.break_at - self._elapsed)
        began = self._elapsed
        await self.run.hurt(self)
        return began, self._elapsed

    @property
    def _elapsed(self) -> float:
        return (now() - self.started_ns) / 1e9

    async def _published(self) -> bool:
        """Wait for the publishers, and stop them where they fall too far behind: whether they were."""
        publishing = [hand for hand in self.hands if any(isinstance(job, Publish) for job in hand.jobs)]
        due = np.sort(np.concatenate([job.due for job in self.publishes]))
        allowed = None if self.run.behind_s is None else self.run.behind_s * len(due) / self.run.seconds
        stopped = False
        while not all(hand.heard & {"published", "gone"} for hand in publishing):
            await asyncio.sleep(LOOK_S)
            behind = int(np.searchsorted(due, now() - self.started_ns)) - min(self.so_far().values(), default=0)
            if self._elapsed > self.run.limit_s or (
                allowed is not None and behind > allowed + 2 * self.run.workload.burst
            ):
                stopped = True
                for hand in publishing:
                    hand.tell("stop")
                break
        async with asyncio.timeout(JOIN_S):
            for hand in publishing:
                await hand.says("published")
        return stopped

    def so_far(self) -> dict[str, int]:
        """How many messages each group has handled."""
        found: dict[str, int] = dict.fromkeys((job.group for job in self.reads), 0)
        for job in self.reads:
            with Path(job.journal).open("rb") as file:
                found[job.group] += int.from_bytes(file.read(8), sys.byteorder)
        return found

    async def _drained(self) -> bool:
        """Wait until every group has handled what was accepted, or for long nothing more; False if time is over."""
        if not self.reads:
            return True
        accepted = sum(int((np.fromfile(job.journal, np.int64)[1::2] > 0).sum()) for job in self.publishes)
        moved, before = now(), self.so_far()
        limit = now() + int(self.run.drain_s * 1e9)
        while min(before.values()) < accepted or self._different() < accepted:
            await asyncio.sleep(LOOK_S)
            if (found := self.so_far()) != before:
                moved, before = now(), found
            if now() - moved > self.run.patience_s * 1e9:
                return True
            if now() > limit:
                return False
        return True

    def _different(self) -> int:
        """How many messages the group that is behind has handled, each counted once."""
        codes: dict[str, list[Stamps]] = {}
        for job in self.reads:
            codes.setdefault(job.group, []).append(_handled(job)[:, 0])
        return min(len(np.unique(np.concatenate(parts))) for parts in codes.values())

    async def _left(self) -> None:
        """Have everybody leave; who takes too long is killed."""
        for hand in self.hands:
            hand.tell("end")
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                for hand in self.hands:
                    await hand.says("left")

    async def replace_reader(self) -> None:
        """Kill a reader of the first group in the middle of whatever it does; another one takes its place."""
        if self.run.in_process:
            self.hands[0].tell("again", self.reads[0])
            return
        victim, spare = self.hands[0], self.spare
        assert spare
        self.fallen.append(victim.used())
        await asyncio.to_thread(victim.kill)
        spare.do(victim.jobs)
        self.hands[0], self.spare = spare, None

    # ------------------------------------------------------------------------------------ afterwards

    def _outcome(self) -> Outcome:
        due = np.concatenate([job.due for job in self.publishes])
        codes = np.concatenate([np.arange(len(job.due)) | int(job.head[4:]) << SHIFT for job in self.publishes])
        journals = [np.fromfile(job.journal, np.int64) for job in self.publishes]
        sent, accepted = (np.concatenate([one[k::2][: len(one) // 2] for one in journals]) for k in (0, 1))
        first, order, done = [], [], []
        shares = []
        for group in dict.fromkeys(job.group for job in self.reads):
            parts = [_handled(job) for job in self.reads if job.group == group]
            shares += [len(part) for part in parts]
            rows = np.concatenate(parts)
            rows = rows[np.argsort(rows[:, 1], kind="stable")]
            unique, place = np.unique(rows[:, 0], return_index=True)
            came = np.full(len(due), -1, np.int64)
            index = np.searchsorted(codes, unique)
            came[index] = rows[place, 1] - self.started_ns
            first.append(came)
            order.append(rows[:, 0])
            done.append(rows[:, 2] - self.started_ns)
        errors = tuple(dict.fromkeys(error for hand in self.hands for error in hand.errors))
        sent, accepted = (np.where(one > 0, one - self.started_ns, one) for one in (sent, accepted))
        if not self.reads:
            in_order = np.argsort(sent, kind="stable")
            in_order = in_order[sent[in_order] > 0]
            first, order, done = [np.where(sent > 0, sent, -1)], [codes[in_order]], [sent[in_order]]
        groups = tuple(first), tuple(order), tuple(done), tuple(shares)
        return Outcome(due, codes, sent, accepted, *groups, self.run.seconds, errors=errors)


def _handled(job: Read) -> Stamps:
    """Code, arrival and end of work of each message, in the order in which their work was done."""
    numbers = np.memmap(job.journal, np.int64, "r")
    found = np.array(numbers[1 : 1 + 3 * numbers[0]]).reshape(-1, 3)
    publisher, number = np.divmod(found[:, 0], 10**10)
    found[:, 0] = publisher << SHIFT | number
    return found


def _more(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None or after < before else after - before
