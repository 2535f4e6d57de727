"""Those who carry messages while a fault is injected: processes, stages of three of them, and the scene of a fault.

A stage is a publisher and a member of each of two groups, on a topic of their own. A scene is a broker with
some stages at it, one for each guarantee, which it hurts all at once.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import greet
from bench.faults.duty import Duty, Orders, Word, one_line, serve, work
from bench.faults.journal import GROUPS, MARKERS, Book, Journal, Reader, Window
from bench.faults.proxy import Proxy
from bench.measure.carry import unhurt
from bench.model import LINES
from greet import Guarantee
from greet.brokers import Broker
from greet.designs import DESIGNS, Design, named

if TYPE_CHECKING:  # Windows has none
    from multiprocessing.context import ForkServerProcess

STEADY = 15
"""How many messages that were accepted after a fault each group handles before the next one."""
BACK_S = 240.0
"""How long a fault may keep the messages from flowing again: RabbitMQ takes up to 75 s to give up a silent member, and
its stream up to twice that."""
LEAVE_S = 45.0
"""How long a process may take to end its duty when it is told to."""
POLL_S = 0.05
LATE_S = 5.0
"""How much later than a broker says it may give back what it had lent."""
LANES = 4
"""Names that a publisher has unconfirmed at a time; each lane keeps its order."""
TROUBLE = (TimeoutError, ChildProcessError, greet.GreetError)


async def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Return when it is true; a journal that another process writes has no event to wait for.

    Raises:
        TimeoutError: it is not by then; says what did not come about.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {seconds:.0f} s")
        await asyncio.sleep(POLL_S)


# ------------------------------------------------------------------------------------- the processes


@dataclass(eq=False)
class Hand:
    """A process that does what it is told, one duty after the other."""

    process: ForkServerProcess
    pipe: Connection

    def tell(self, what: Duty | Word) -> None:
        """Tell a duty, or a word for it; a process that is gone does not hear it."""
        with suppress(OSError):
            self.pipe.send(what)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Pool:
    """Processes at hand, forked from one that has imported everything, all gone when its `with` ends."""

    def __init__(self) -> None:
        self._idle: list[Hand] = []
        self._all: list[Hand] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self._all:
            if hand.process.is_alive():
                hand.kill()

    def prepare(self, number: int) -> None:
        """Have so many that wait for a duty, so that none is waited for later."""
        context = get_context("forkserver")
        context.set_forkserver_preload(["bench.faults.duty", *LINES])
        self._all = [hand for hand in self._all if hand.process.is_alive()]
        while len(self._idle) < number:
            theirs, ours = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            with unhurt():
                process.start()
            theirs.close()
            self._idle.append(Hand(process, ours))
            self._all.append(self._idle[-1])

    def hire(self) -> Hand:
        """One that has no duty."""
        self.prepare(1)
        return self._idle.pop(0)

    def release(self, hand: Hand) -> None:
        """It has done its duty and may be given another one."""
        self._idle.append(hand)


@dataclass(eq=False)
class Worker:
    """A duty and who does it: a process or, for a design that lives in one process, a task."""

    duty: Duty
    reader: Reader
    hand: Hand | None = None
    task: asyncio.Task[None] | None = None
    orders: Orders = field(default_factory=Orders)
    dismissed: bool = False
    """It was killed or told to end."""
    leaving: bool = False
    """It was told to end as it should, and was not killed."""
    ready: int = 0
    left: int = 0
    in_hand: float | None = None
    """Since when it is in the middle of handling a message."""
    last_words: str | None = "without a word"
    over: bool = False
    states: list[dict[str, Any]] = field(default_factory=list)

    def look(self, book: Book) -> None:
        """Read on in its journal."""
        if self.over:
            return
        gone = not self.alive
        for event in self.reader.fresh():
            kind = event["event"]
            if kind == "taken":
                self.in_hand = event["t"]
            elif kind == "handled":
                self.in_hand = None
            elif kind == "state":
                self.states.append(event)
            elif kind == "ended":
                self.over, self.last_words = True, event["error"]
            self.ready += kind == "ready"
            self.left += kind == "left"
            book.add(event, self.duty.group)
        self.over = self.over or gone

    @property
    def alive(self) -> bool:
        """Whether it could still do something."""
        return self.hand.process.is_alive() if self.hand else bool(self.task and not self.task.done())

    def tell(self, word: Word) -> None:
        """The word that holds from now on. Who is over does not hear it: another one may have its process by now."""
        if self.over:
            return
        self.dismissed = self.dismissed or word in ("end", "crash")
        self.leaving = self.leaving or word == "end"
        if self.hand:
            self.hand.tell(word)
        else:
            self.orders.tell(word)

    async def kill(self) -> None:
        """End it here and now: SIGKILL for a process, for a task its cancellation."""
        self.dismissed, self.leaving = True, False
        if self.hand:
            await asyncio.to_thread(self.hand.kill)
        elif self.task:
            self.task.cancel()
            await asyncio.wait((self.task,))


# ---------------------------------------------------------------------------------------- the stages


@dataclass(frozen=True)
class Trial:
    """A fault, and what it is injected into."""

    fault: str
    design: str
    guarantee: Guarantee
    contender: str = "greet"

    def __str__(self) -> str:
        return f"{self.design}-{self.contender}-{self.guarantee.name}".lower()


@dataclass(frozen=True)
class Verdict:
    """What became of the messages, over both groups; `reordered` is None where no order is promised."""

    sent: int
    accepted: int
    refused: int
    unknown: int
    received: int
    lost: int | None
    """None of a trial that failed: what waits in the broker then is not lost."""
    duplicates: int
    reordered: int | None
    unexpected: int
    came_though_refused: int
    gap_s: float | None = None
    """The longest time without a message handled after the harm, in either group."""
    gap_median_s: float | None = None
    """The median of that over the injections."""
    publish_gap_s: float | None = None
    """The longest time without a message accepted."""
    recovered: bool = True
    """Whether all that were not killed went on by themselves."""
    raised: str | None = None
    """What greet raised by its deadline instead, as it promises to."""
    error: str | None = None
    """What went wrong besides: a hang, a silent end, an error that is not greet's."""


class Stage:
    """A publisher and the members of two groups on a topic of their own, and what they have written."""

    def __init__(self, trial: Trial, fault: Fault, folder: Path, pool: Pool, *, url: str, around: str) -> None:
        self.trial = trial
        self.fault = fault
        self.topic = f"faults-{secrets.token_hex(4)}"
        self.book = Book()
        self.workers: list[Worker] = []
        self.errors: list[str] = []
        self.failed = False
        self._recovered = True
        self._draining = False
        self._raised: list[str] = []
        self._folder = folder.resolve()
        self._pool = pool
        self._url = url
        self._around = around
        self._tag = secrets.token_hex(2)
        self._lanes = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.log = Journal(folder / "fault.jsonl")

    def fail(self, trouble: BaseException) -> None:
        """Nothing more can come of it; the others go on."""
        self.failed, self._recovered = True, False
        self.errors.append(f"{type(trouble).__name__}: {one_line(trouble)}")

    async def close(self) -> None:
        """Leave no worker behind."""
        for worker in self.workers:
            if not worker.over:
                await worker.kill()
        self.log.close()

    # The workers

    def publisher(self) -> Worker:
        """Start a publisher, with lanes of its own."""
        self._lanes += LANES
        first = self._lanes - LANES
        return self._start(Duty(**self._shared("publisher"), first_lane=first, lanes=LANES, rate=self.fault.rate))

    def member(self, group: str) -> Worker:
        """Start a member of `group`."""
        shared, contender = self._shared("member"), self.trial.contender
        return self._start(Duty(**shared, contender=contender, group=group, handling_s=self.fault.handling_s))

    def flood(self) -> Worker:
        """Start what will publish as fast as it can, once it is told to."""
        self._lanes += 1
        worker = self._start(Duty(**self._shared("flood"), first_lane=self._lanes - 1))
        worker.tell("away")
        return worker

    def _shared(self, role: str) -> dict[str, Any]:
        return {
            "role": role,
            "url": self._url,
            "topic": self.topic,
            "tag": self._tag,
            "journal": str(self._folder / f"{role}-{len(self.workers) + 1}.jsonl"),
            "design": self.trial.design,
            "guarantee": self.trial.guarantee.name,
        }

    def _start(self, duty: Duty) -> Worker:
        worker = Worker(duty, Reader(Path(duty.journal)))
        self.workers.append(worker)
        if named(duty.design).in_process:
            worker.task = asyncio.create_task(work(duty, worker.orders))
        else:
            worker.hand = self._pool.hire()
            worker.hand.tell(duty)
        return worker

    def of(self, role: str, group: str = "") -> list[Worker]:
        """Those at work."""
        return [w for w in self.workers if not w.over and w.duty.role == role and group in ("", w.duty.group)]

    def look(self) -> None:
        """Read on in all journals."""
        for worker in self.workers:
            before = worker.over
            worker.look(self.book)
            if worker.over and not before and worker.hand and worker.alive:
                self._pool.release(worker.hand)

    async def until(self, true: Callable[[], bool], what: str, seconds: float = BACK_S) -> None:
        """Read on until it is true; raises `TimeoutError`."""

        def seen() -> bool:
            self.look()
            return true()

        await until(seen, seconds, what)

    async def ready(self, *workers: Worker) -> None:
        """Return when they have joined; raises `TimeoutError`, or `ChildProcessError` when one ends instead."""

        def joined() -> bool:
            for one in workers:
                if one.over:
                    raise ChildProcessError(f"a {one.duty.role} ended as it started: {one.last_words}")
            return all(one.ready for one in workers)

        await self.until(joined, "a member did not join its group")

    async def begin(self) -> None:
        """Have messages flow."""
        await self.ready(*[self.member(group) for group in GROUPS])
        self.publisher()
        await self.flowing()

    # Faults

    def strike(self) -> None:
        """Note that the harm is done now."""
        self.book.windows.append(Window(time.monotonic()))
        self.log.write("begins", fault=self.trial.fault)

    async def flowing(self) -> None:
        """Return when `STEADY` messages that are accepted from now on are handled in every group.

        Who ended without being told to is replaced: that one did not come back by itself.
        """
        since = time.monotonic()

        def flows() -> bool:
            self._mend()
            return self.book.flows(since, STEADY)

        await self.until(flows, "no messages flow", BACK_S)
        if self.book.windows and self.book.windows[-1].flows is None:
            self.book.windows[-1].flows = time.monotonic()
            self.log.write("flows", fault=self.trial.fault)

    def _mend(self) -> None:
        for worker in list(self.workers):
            if worker.over and not worker.dismissed:
                self._ended(worker)
                if worker.duty.role == "member":
                    self.member(worker.duty.group)
                elif worker.duty.role == "publisher" and not self._draining:
                    self.publisher()

    def _ended(self, worker: Worker) -> None:
        """Note that it ended without being told to."""
        worker.dismissed, self._recovered = True, False
        self._tell(worker, "ended by itself")

    def _tell(self, worker: Worker, what: str) -> None:
        greets = (worker.last_words or "").startswith(tuple(one.__name__ for one in greet.GreetError.__subclasses__()))
        said = f"a {worker.duty.role} {what}: {worker.last_words or 'without an error'}"
        (self._raised if greets else self.errors).append(said)

    # The end

    async def drain(self) -> None:
        """Publish end markers until each group has handled one, then wait for what is still missing."""
        self._draining = True  # what another publisher sends from now on would count as lost
        await self.dismiss("publisher")
        number, deadline = 0, time.monotonic() + BACK_S

        def marked() -> bool:
            self._mend()
            return len(self.book.marked) == len(GROUPS)

        async with greet.connect(self._around, self.topic) as line:
            while True:
                with suppress(greet.GreetError):
                    await line.publish(f"{self._tag}{MARKERS}{number:010d}")
                number += 1
                with suppress(TimeoutError):
                    await self.until(marked, "", 1.0)
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError("no end marker arrived")
        while missing := self.book.missing():
            try:
                await self.until(lambda now=missing: self.book.missing() < now, "", self.quiet_s)  # type: ignore[misc]
            except TimeoutError:
                break

    @property
    def quiet_s(self) -> float:
        """So long after the last name handled, what is missing is lost: until then it may be given back."""
        design = named(self.trial.design)
        settled_ahead = self.trial.guarantee is Guarantee.AT_MOST_ONCE or self.trial.contender != "greet"
        if design.in_process or settled_ahead:
            return 1.0
        return max(self.fault.quiet_s, design.lends_for + LATE_S)

    async def dismiss(self, *roles: str) -> None:
        """Let them finish what they are at and leave; who cannot is killed, which is an error."""
        leaving = [worker for role in roles for worker in self.of(role)]
        for worker in leaving:
            worker.tell("end")
        with suppress(TimeoutError):
            await self.until(lambda: all(one.over for one in leaving), "", LEAVE_S)
        for worker in leaving:
            if not worker.over:
                self.errors.append(f"a {worker.duty.role} did not end within {LEAVE_S:.0f} s")
                await worker.kill()

    def verdict(self) -> Verdict:
        """The accounting, from the journals alone."""
        book = self.book
        self.look()
        for worker in self.workers:
            if worker.over and worker.last_words and not worker.dismissed:
                self._ended(worker)
            elif worker.over and worker.last_words and worker.leaving:
                self._tell(worker, "was told to end, and failed")
        count = book.count(ordered=named(self.trial.design).ordered and not self.fault.shares)
        gaps, publish_gaps = book.gaps(), book.publish_gaps()
        return Verdict(
            sent=len(book.sent),
            accepted=len(book.accepted),
            refused=len(book.refused),
            unknown=len(book.sent) - len(book.accepted) - len(book.refused),
            received=count.received,
            lost=None if self.failed else count.lost,
            duplicates=count.duplicates,
            reordered=count.reordered,
            unexpected=count.strangers,
            came_though_refused=sum(len(book.refused.keys() & seen) for seen in book.seen.values()),
            gap_s=max(gaps, default=None),
            gap_median_s=round(statistics.median(gaps), 3) if gaps else None,
            publish_gap_s=max(publish_gaps, default=None),
            recovered=self._recovered,
            raised="; ".join(dict.fromkeys(self._raised)) or None,
            error="; ".join(dict.fromkeys(self.errors)) or None,
        )


# ---------------------------------------------------------------------------------------- the scenes


@dataclass
class Scene:
    """A broker that is hurt, if there is one, and the stages at it."""

    stages: list[Stage]
    pool: Pool
    random: random.Random
    broker: Broker | None = None
    proxy: Proxy | None = None
    pause_s: float = 3.0
    """How long a broker is stopped, or a connection slow: less than Kafka takes to give a silent broker up."""
    soak_s: float = 600.0
    """How long a soak takes."""

    @property
    def alive(self) -> list[Stage]:
        """The stages that something can still come of."""
        return [stage for stage in self.stages if not stage.failed]

    async def each(self, do: Callable[[Stage], Awaitable[object]]) -> None:
        """Do it to all stages at once; where it goes wrong the stage has failed, and the others go on."""

        async def one(stage: Stage) -> None:
            try:
                await do(stage)
            except TROUBLE as trouble:
                stage.fail(trouble)

        await asyncio.gather(*map(one, self.alive))

    def strike(self) -> None:
        """The harm is done now."""
        for stage in self.alive:
            stage.strike()

    async def flowing(self) -> None:
        """Return when messages flow in all stages."""
        await self.each(Stage.flowing)


def needs_a_broker(design: Design) -> bool:
    """Whether there is a broker, and a network before it, that can be hurt."""
    return not design.in_process


@dataclass(frozen=True)
class Fault:
    """What is done, to whom, and what may come of it."""

    inject: Callable[[Scene], Awaitable[None]]
    meant_for: Callable[[Design], bool] = needs_a_broker
    """Whether it means something to a design."""
    times: int = 3
    """In the full profile."""
    quick: bool = True
    """Whether the quick profile has it too, once."""
    guarantees: tuple[Guarantee, ...] = tuple(Guarantee)
    kills: str = ""
    """What dies: "member", "broker", "connection", or nothing."""
    nodes: int = 1
    """Of the broker."""
    routed: bool = False
    """The connections go through a proxy."""
    shares: bool = False
    """A group has more than one member, so no order is promised."""
    query: str = ""
    """What is added to the query of a design's URL."""
    handling_s: float = 0.002
    rate: float = 40.0
    """Messages a second."""
    quiet_s: float = 20.0
    """So long after the last name handled, what is missing is lost: until then a broker may give back messages
    that a dead connection held."""

    @property
    def designs(self) -> tuple[str, ...]:
        """The names of the designs that it means something to."""
        return tuple(one.name for one in DESIGNS if self.meant_for(one))

    @property
    def means(self) -> set[tuple[str, str]]:
        """The designs and guarantees that it means something to."""
        meant = [(named(name), guarantee) for name in self.designs for guarantee in self.guarantees]
        return {(design.name, guarantee.name) for design, guarantee in meant if guarantee in design.guarantees}

    def allows(self, guarantee: Guarantee) -> set[str]:
        """What may happen to messages without a promise being broken."""
        allowed = set()
        if guarantee is Guarantee.AT_MOST_ONCE or (guarantee is Guarantee.AT_LEAST_ONCE and self.kills == "broker"):
            allowed.add("lost")
        if self.kills and guarantee is not Guarantee.AT_MOST_ONCE:
            allowed.add("duplicates")
        return allowed
