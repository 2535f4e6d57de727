"""A run: the cells of each question warmed up, then repeated in interleaved rounds, each counted."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
)
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench import stats
from bench.contenders import greets
from bench.contenders.cleanup import removed
from bench.measure import account, clock
from bench.measure.loops import NO_STAMPS, Receive, Received, Send, Sent, Stamps, Usage, now, said, shared_clock, work
from bench.measure.pool import processes
from bench.measure.sites import Site, sites
from bench.measure.workers import Crew, WorkerDied, WorkersLost
from bench.model import (
    Cell,
    Figures,
    Measurement,
    Place,
    Settings,
    Used,
    breaches,
    failure,
    more,
    thrown_away,
    with_error,
)
from greet.designs import Product, named

T = TypeVar("T")
log = logging.getLogger("bench")
SETTLING = 10
"""One in so many of an open loop's messages, the first ones, are counted but left out of the latencies."""
LEAD_NS, FAR_LEAD_NS = 200_000_000, 1_000_000_000
"""How far ahead a common start is set for each publisher, for workers of this machine and of others."""
TOGETHER = 0.05
"""The share of a repetition by which one publisher may start later than another."""
SEATS = 4
"""Processes of the members of a group, at most: where there are more members, each process has several."""
ACROSS = ("intended", "service")
"""Latencies between two processes; the others are of one clock."""
CALM_RATE, CALM = 100.0, 100
"""Messages a second, and how many, where a latency by two clocks is held against one by a single clock."""
ALIKE = 0.5
"""The share by which two readers of the same messages may differ, apart from their clocks."""
QUIET_S = 10.0
"""When nothing came for so long, a consumer takes what is missing for lost."""
SHARED_QUIET_S = 2.0
"""The same of a member that cannot know what the others got."""
MOST_NAMES = 2_000_000
"""Names in each second of a repetition, at most; in the full profile twice as many. Each takes 100 bytes twice."""
MOST_BYTES = 512_000_000
"""Bytes of the messages of one repetition, at most; in the full profile twice as many."""
MANY_BYTES = 250_000_000
"""Bytes of a repetition after which brokers are cleared: what they still have to write slows the next one down."""
FEW_NAMES = 5_000
"""A repetition of slow messages gets so many, but takes no longer than twice the time that was asked for."""
HELD_MS, HELD_STEPS = 100.0, 8
"""When a rate is held: no more than this for 99 of 100 messages; and how many rates are tried to find the highest."""
HIGHER, LOWER = 1.15, 0.85
"""The next rate to be tried, beside one that is held or is not."""
SAMPLES = 1_200
"""A repetition of paced messages has so many at least: enough for a p99, after the first ones are left out."""
PATIENCE = 2
"""So many of its repetitions may fail before a cell is left out: one may be spoilt by chance."""
MARGIN = 1.2
"""How much longer a repetition is planned than it must be: the warm-up finds a speed that is too low."""


class OpenSession:
    """Brokers, workers, and the speeds that the warm-up found, for as long as the run goes on."""

    def __init__(self, settings: Settings, found: dict[str, Site], missing: dict[str, str], seat: _Seat) -> None:
        self.settings = settings
        self.sites = found
        self.missing = missing
        self.folder: Path | None = None
        """Where the run is kept, if it is: a question may add files of its own."""
        self.clock_shared = True
        """Whether the stamps of two workers can be subtracted; where not, there are no latencies.

        Those of other machines can: they were put on the clock of this one, and their bound is known.
        """
        self.doubts: dict[str, str] = {}
        """By design, what makes its latencies by two clocks doubtful; empty where nothing does."""
        self.repeated = 0
        """How many repetitions were added, of cells whose first ones differ much."""
        self.opened = AsyncExitStack()
        self._kept: dict[str, Any] = {}
        self._seat = seat
        self._speeds: dict[Cell, float | Figures] = {}
        self._warm: set[Product] = set()
        self._topic = f"bench-{secrets.token_hex(4)}"
        self._tags = (f"{number:04x}" for number in count(secrets.randbelow(4096)))

    def submit(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run `function` in a worker process."""
        return _awaitable(self._seat.executor().submit(function, *arguments))

    def work(
        self, jobs: Sequence[Send | Receive], loop: str, deadline_s: float
    ) -> asyncio.Future[list[Sent | Received]]:
        """Do `jobs` in a worker process, on the host of their side where there are several."""
        executor = self._seat.executor()
        if isinstance(executor, Crew):
            return _awaitable(executor.work(jobs, loop, deadline_s))
        return self.submit(work, jobs, loop, deadline_s)

    @property
    def far(self) -> bool:
        """Whether the workers are a cluster's."""
        return isinstance(self._seat.executor(), Crew)

    async def let_go(self) -> None:
        """End what was kept."""
        self._kept.clear()
        await self.opened.aclose()

    async def clear(self) -> None:
        """In the full profile, delete from the brokers what was carried so far: it would fill the disk.

        What cannot be deleted is tried again with the next, and in the end on a broker that stays.
        """

        if not self.settings.full:
            return

        async def of(design: str, site: Site) -> None:
            made = {topic: groups for topic, groups in site.made.items() if topic != site.control}
            if not made:
                return
            try:
                await removed(design, site.url, made)
            except Exception as error:  # noqa: BLE001, of whatever a driver raises: the run goes on
                log.debug("not deleted on %s for now: %s", design, type(error).__name__)
                return
            for topic in made:
                del site.made[topic]

        await asyncio.gather(*(of(*one) for one in self.sites.items() if one[1].control and not one[1].lost))

    async def warm(self, design: str) -> None:
        """Carry messages over a broker of ours for as long as its product is slow after a start.

        Once a run, in the full profile: what it finds is to hold for a broker that has been up for long.
        """
        product, ours = named(design).product, self.sites[design].broker is not None
        if not (self.settings.full and ours and product and product.slow_at_first_s) or product in self._warm:
            return
        self._warm.add(product)
        until = time.monotonic() + product.slow_at_first_s
        try:
            while time.monotonic() < until:
                for one in greets.CONTENDERS:
                    if one.design == design:
                        await self.once(Cell(one, one.guarantees[-1]), one.guess)
        except Failed as failed:  # what is measured afterwards tells why, unless a promise was broken
            if failed.broke_a_promise:
                raise

    async def kept(self, key: str, open_it: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """What a question opens once a run, such as a broker of its own, and what is closed when the run ends."""
        if key not in self._kept:
            self._kept[key] = await self.opened.enter_async_context(open_it())
        found: T = self._kept[key]
        return found

    async def clock_is_shared(self) -> bool:
        """Find out whether the stamps of two workers can be subtracted, and keep it."""
        self.clock_shared = self.far or await shared_clock(self.submit)
        return self.clock_shared

    async def names_for(self, cell: Cell) -> int:
        """How many messages a repetition of `cell` takes; the first time, a warm-up finds out and is thrown away.

        Raises:
            Failed: the warm-up did.
        """
        if names := cell.names or cell.contender.names(cell.size):
            await self.once(cell, min(names, cell.contender.guess))
            return names
        rate = cell.rate or await self.maximum(cell) * (cell.load or 1)
        seconds = cell.seconds or self.settings.seconds
        planned = rate * seconds * (MARGIN if self._is_timed(cell) else 1)
        return self._bounded(cell, max(planned, SAMPLES) if cell.load and self.settings.full else planned)

    def _is_timed(self, cell: Cell) -> bool:
        """Whether a repetition has to take a certain time: in the full profile, where messages are not paced."""
        fixed = cell.rate or cell.load or cell.names or cell.measure or cell.contender.names(cell.size)
        return self.settings.full and not fixed

    def _bounded(self, cell: Cell, names: float) -> int:
        """So many messages, or more if they are few, as far as there is memory for them."""
        if self._is_timed(cell):
            names = max(names, min(FEW_NAMES, 2 * names))
        seconds = cell.seconds or self.settings.seconds
        most = min(MOST_NAMES * max(1, seconds), MOST_BYTES / cell.size) * (2 if self.settings.full else 1)
        return max(100, int(min(names, most)))

    def instead(self, cell: Cell, names: int, found: Sequence[Figures]) -> int:
        """How many messages a repetition should have had, if it was too short; else as many as it had."""
        times = [one.fields.get("elapsed_s") for one in found]
        if not self._is_timed(cell) or not all(times):
            return names
        longer = (cell.seconds or self.settings.seconds) / min(filter(None, times))
        return max(names, self._bounded(cell, names * longer * MARGIN)) if longer > 1 else names

    @staticmethod
    def _guess(cell: Cell) -> float:
        slower = 1 if cell.window is None else min(1.0, cell.window / cell.contender.window)
        return cell.contender.guess * min(1, 2000 / cell.size) * max(slower, 0.1)

    async def maximum(self, cell: Cell) -> float:
        """Messages a second that `cell` can do, whatever its load: measured once a run, in the loop that it uses.

        Raises:
            Failed: a warm-up went wrong, or no rate is held: that is found out once a run too.
        """
        key = replace(cell, load=cell.load and math.inf, again=False, names=None, seconds=None, rounds=None)
        if key not in self._speeds:
            speed = self._guess(cell)
            if cell.size > 1000:
                speed = await self._speed(key, 0.02, speed)
            for _ in range(3):  # until it is no surprise: workers and brokers that are cold say too little at first
                before, speed = speed, await self._speed(key, 0.25, speed)
                if before / 1.5 < speed < before * 1.5:
                    break
            try:
                self._speeds[key] = await self._held(key, speed) if cell.load else speed
            except Failed as failed:
                self._speeds[key] = failed.figures
        if isinstance(found := self._speeds[key], Figures):
            raise Failed(found)
        return found

    async def _held(self, cell: Cell, speed: float) -> float:
        """The highest rate at which 99 of 100 messages take less than `HELD_MS` for two seconds.

        The quick profile takes the rate of half a second, without a look at how long the messages take.

        Raises:
            Failed: none is held, down to a quarter of what half a second carried; or it cannot be known.
        """
        if self.settings.full and not self.clock_shared:
            raise Failed(failure("which rate is held is not known: the clocks of two workers differ"))
        rate = await self._speed(cell, 0.5, speed)
        if not self.settings.full:
            return rate
        if not await self._unheld(cell, rate):
            for _ in range(HELD_STEPS):
                if await self._unheld(cell, rate * HIGHER):
                    break
                rate *= HIGHER
            return rate
        why = ""
        for _ in range(HELD_STEPS):
            rate *= LOWER
            if not (why := await self._unheld(cell, rate)):
                return rate
        raise Failed(failure(f"no rate is held: at {rate:,.0f} messages a second {why}"))

    async def _unheld(self, cell: Cell, rate: float) -> str:
        """Why `rate` is not held; "" if it is, at the second try at the latest: other work may spoil one.

        Raises:
            Failed: a promise was broken.
        """
        paced, names = replace(cell, load=None, rate=rate), min(MOST_NAMES, max(SAMPLES, int(2 * rate)))
        why = f"1 in 100 takes over {HELD_MS:.0f} ms"
        for _ in range(2):
            try:
                found = await self.once(paced, names)
            except Failed as failed:
                if failed.broke_a_promise:
                    raise
                why = str(failed)
                continue
            if all(((one.fields["latency_ms"] or {}).get("p99") or math.inf) < HELD_MS for one in found):
                return ""
        return why

    async def _speed(self, cell: Cell, seconds: float, speed: float) -> float:
        """Messages a second of a warm-up of so many seconds, if `speed` is right."""
        names = min(speed * seconds, MOST_NAMES, MOST_BYTES / cell.size)
        found = await self.once(cell, max(100, int(names)))
        speeds = [one.fields["messages_per_s"] for one in found]
        return float(min(filter(None, speeds), default=speed))

    def fresh_workers(self) -> None:
        """Let go of the worker processes; new ones start when needed, without the memory of the old."""
        self._seat.vacate()

    def place(self, cell: Cell) -> Place:
        """A topic of its own for a repetition of `cell`; the last four characters of its name are unique in the run."""
        here, window = self.sites[cell.contender.design], cell.window or cell.contender.window
        topic = f"{self._topic}-{next(self._tags)}"
        here.made[topic] = {f"g{group}" for group in range(cell.groups)}
        return Place(here.url, topic, cell.guarantee, cell.partitions, window, cell.options)

    async def once(self, cell: Cell, names: int) -> list[Figures]:
        """A warm-up. Raises `Failed` when it goes wrong."""
        found = await self.measured(cell, names)
        for figures in map(thrown_away, found):
            if figures.fields["error"]:
                raise Failed(figures)
        return found

    async def make_groups(self, cell: Cell) -> None:
        """Have the groups of `cell` on a topic of its own, with nobody in them."""
        await Delivery(self, cell, 1, self.place(cell)).make_groups()

    async def deliver(self, cell: Cell, names: int, *, sleepers: int = 0) -> list[Figures]:
        """Carry so many messages once, from publishers to consumers, and count them.

        The last `sleepers` of the groups read only when the clock has stopped.
        """
        if lost := self.sites[cell.contender.design].lost:
            return [failure(f"the broker is gone: {lost}")]
        return await Delivery(self, cell, names, self.place(cell)).run(sleepers)

    async def repetition(self, cell: Cell, names: int) -> tuple[list[Figures], int, list[Figures]]:
        """One of `cell`, with how many messages, and what went wrong in one that was too short to count."""
        found, wrong = [*map(_started_together, await self.measured(cell, names))], list[Figures]()
        if (instead := self.instead(cell, names, found)) > names:
            wrong = [one for one in map(thrown_away, found) if one.fields["error"]]
            found, names = [*map(_started_together, await self.measured(cell, instead))], instead
        if names * cell.size > MANY_BYTES:
            await self.clear()
        return found, names, wrong

    async def measured(self, cell: Cell, names: int) -> list[Figures]:
        """What `cell` gives, in its own way or the usual one. What goes wrong is told in a row, and the run goes on."""
        try:
            found = await (cell.measure or cell.contender.measure)(self, cell, names)
            return [_whole(figures) for figures in found]
        except Failed as failed:
            return [failed.figures]
        except WorkersLost:
            raise
        except BrokenExecutor as error:
            self.fresh_workers()
            return [failure(str(error) if isinstance(error, WorkerDied) else "a worker process died")]
        except Exception as error:  # noqa: BLE001, of whatever a library raises
            if self.far:
                self.fresh_workers()  # there are few seats: those who still work here would keep them
            late = "a worker did not answer by its deadline"
            return [failure(late if isinstance(error, TimeoutError) else said(error))]


def _awaitable(future: Future[T]) -> asyncio.Future[T]:
    found = asyncio.wrap_future(future)
    found.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it any more
    return found


def _whole(figures: Figures) -> Figures:
    """The same, or an error where there should be a time and is none: an empty cell would say nothing."""
    fields = figures.fields
    if fields.get("error") or "elapsed_s" not in fields or fields["elapsed_s"]:
        return figures
    return with_error(figures, "no time was measured: nothing came, or all at once")


def _started_together(figures: Figures) -> Figures:
    """The same, or an error where one publisher started much later than another: the clock ran meanwhile."""
    apart, elapsed = figures.details.get("apart_s", 0.0), figures.fields.get("elapsed_s")
    if not elapsed or apart < TOGETHER * elapsed:
        return figures
    return with_error(figures, f"publishers started {apart:.2g} s apart")


class Failed(Exception):
    """A warm-up went wrong; its figures tell how."""

    def __init__(self, figures: Figures) -> None:
        super().__init__(figures.fields["error"])
        self.figures = figures

    @property
    def broke_a_promise(self) -> bool:
        """Whether messages were lost, duplicated or reordered."""
        return bool(breaches(self.figures.fields, self.figures.params))


class _Seat:
    """The executor in use; a broken one is replaced."""

    def __init__(self, make: Callable[[], AbstractContextManager[Executor]]) -> None:
        self._make = make
        self._open = ExitStack()
        self._executor: Executor | None = None

    def executor(self) -> Executor:
        self._executor = self._executor or self._open.enter_context(self._make())
        return self._executor

    def vacate(self) -> None:
        self._executor = None
        self._open.close()


@asynccontextmanager
async def session(
    settings: Settings, executor: Callable[[], AbstractContextManager[Executor]] = processes
) -> AsyncIterator[OpenSession]:
    """Brokers up and workers at hand; another `executor` may place the workers elsewhere.

    The workers go first: who still publishes or reads would make again what is removed from a broker that stays.
    """
    seat = _Seat(executor)
    async with sites(settings.designs) as (found, missing):
        opened = OpenSession(settings, found, missing, seat)
        try:
            async with opened.opened:
                yield opened
        finally:
            seat.vacate()


@dataclass(frozen=True)
class Delivery:
    """One repetition: who sends, who receives, and what came of it."""

    session: OpenSession
    cell: Cell
    names: int
    place: Place

    @property
    def here(self) -> Site:
        """Where the broker is."""
        return self.session.sites[self.cell.contender.design]

    @property
    def tag(self) -> str:
        """The first four characters of its messages."""
        return self.place.topic[-4:]

    async def run(self, sleepers: int = 0) -> list[Figures]:
        """Carry the messages. The last `sleepers` of the groups read only when the clock has stopped."""
        if self.cell.fresh:
            self.session.fresh_workers()
        rate = await self._rate()
        if self.cell.phase != "together":
            return await self._apart()
        sends, receives = self._sends(rate), self._receives(rate is not None)
        if not self.here.control:
            loop = self._loop if rate is None else "select"
            return [self._figures(await self._finish([self._start([*receives, *sends], loop)]), (None, None), rate)]
        if rate is not None and self.session.far:
            await self._hold_clocks_against_one()
        awake = (self.cell.groups - sleepers) * self.cell.members
        if sleepers:
            await self.make_groups(receives[awake:])
        seats = awake if self.cell.members <= SEATS else min(awake, SEATS)
        consumers = [self._start(receives[:awake][seat::seats], self._loop) for seat in range(seats)]
        await self._gathered(consumers, receives[:awake])
        if any(one.done() for one in consumers):
            return [failure(_errors(await self._finish(consumers)) or "a consumer ended before the first name")]
        before = self.here.used()
        outcomes = [*await self._publish(sends, rate), *await self._finish(consumers)]
        after = self.here.used()
        late = await self._finish([self._start([replace(one, ready="")], self._loop) for one in receives[awake:]])
        left = await self._left([*outcomes, *late], receives)
        figures = self._figures(outcomes, before, rate, late=[*late, *left], after=after)
        return [_given_up(figures, left, receives[0].quiet_s)]

    async def _left(
        self, outcomes: Sequence[Sent | Received], receives: Sequence[Receive]
    ) -> Sequence[Sent | Received]:
        """What groups that lack messages get by one more reader each: are those lost, or did the others give up?"""
        accepted = sum(sum(one.lanes) for one in outcomes if isinstance(one, Sent))
        jobs = []
        for first in receives[:: self.cell.members]:
            got = [one.codes for one in outcomes if isinstance(one, Received) and one.group == first.group]
            if (missing := accepted - len(np.unique(np.concatenate(got)))) > 0:
                jobs.append(replace(first, expected=missing, ready="", first_s=QUIET_S, quiet_s=QUIET_S))
        return await self._finish([self._start([one], self._loop) for one in jobs])

    async def _hold_clocks_against_one(self) -> None:
        """Once for each design: say so when a latency by two clocks is not about that by a single clock."""
        session, design = self.session, self.cell.contender.design
        if design in session.doubts:
            return
        calm = replace(self.cell, publishers=1, groups=1, members=1, load=None, rate=CALM_RATE, lean=False)
        session.doubts[design] = found = await Delivery(session, calm, CALM, session.place(calm)).doubt()
        if found:
            log.warning("clocks, %s: %s", design, found)

    async def doubt(self) -> str:
        """Carry messages to a consumer and at once back to their publisher, whose clock alone times those."""
        (send,), (receive,) = self._sends(self.cell.rate), self._receives(stamped=True)
        back = replace(receive, group="back", ready="")
        self.here.made[self.place.topic].add(back.group)
        consumer = [self._start([receive], "select")]
        await self._gathered(consumer, [receive])
        publisher = self._start([back, replace(send, start_ns=now() + FAR_LEAD_NS)], "select")
        outcomes = await self._finish([publisher, *consumer])
        sent = [one for one in outcomes if isinstance(one, Sent)]
        ways = {one.group: _latencies(sent, [one])["service"] for one in outcomes if isinstance(one, Received)}
        alone, two = ways[back.group], ways[receive.group]
        return clock.doubt(alone, two, clock.bound_ns(outcomes), ALIKE)

    async def _apart(self) -> list[Figures]:
        receives = self._receives(stamped=False)
        await self.make_groups(receives)
        before, on_disk = self.here.used(), self.here.disk_mb()
        sent = await self._publish(self._sends(None), None)
        middle, held = self.here.used(), self.here.disk_mb()
        got = await self._finish([self._start([replace(one, ready="")], self._loop) for one in receives])
        after = self.here.used()
        left = await self._left([*sent, *got], receives)
        both, disk = [*sent, *got], (on_disk, held)
        rows = {
            "publish": self._figures(both, before, None, phase="publish", late=left, after=middle, disk=disk),
            "consume": self._figures(both, middle, None, phase="consume", late=left, after=after),
        }
        quiet_s = receives[0].quiet_s
        return [_given_up(row, left, quiet_s) for phase, row in rows.items() if self.cell.phase in ("apart", phase)]

    async def make_groups(self, receives: Sequence[Receive] | None = None) -> None:
        """Have the groups of `receives`, or else of the cell, with nobody in them."""
        first = (self._receives(stamped=False) if receives is None else receives)[:: self.cell.members]
        await self._finish([self._start([replace(one, expected=0, ready="")], self._loop) for one in first])

    async def _rate(self) -> float | None:
        load = self.cell.load
        if load is None:
            return self.cell.rate
        return load if load == math.inf else load * await self.session.maximum(self.cell)

    @property
    def _loop(self) -> str:
        return self.cell.loop or self.session.settings.loop

    def _loops(self, *, paced: bool) -> str:
        """On what it ran: who paces messages needs a loop that wakes to the microsecond."""
        if not paced:
            return self._loop
        return f"{self._loop}, publishers on select" if self.here.control else "select"

    @property
    def _limit(self) -> float:
        """The deadline of each wait, in seconds: thirty times what it is likely to take, and 30 more."""
        cell = self.cell
        slowest = cell.contender.guess * min(1, 2000 / cell.size) / cell.groups / (1 if cell.window is None else 10)
        return 30 + 20 * self.names / slowest / (cell.load or 1) + (self.names / cell.rate if cell.rate else 0)

    def _sends(self, rate: float | None) -> list[Send]:
        cell, n, who = self.cell, self.cell.publishers, self.cell.supply or self.cell.contender
        shares = [self.names // n + (k < self.names % n) for k in range(n)]
        return [
            Send(who, self.place, account.Series(self.tag, k, share, cell.size), rate and rate / n, lean=cell.lean)
            for k, share in enumerate(shares)
        ]

    def _receives(self, stamped: bool) -> list[Receive]:
        cell = self.cell
        shared = cell.members > 1
        return [
            Receive(
                cell.contender,
                self.place,
                f"g{group}",
                self.tag,
                cell.size,
                self.names,
                f"{self.tag}-{group}-{member}" if self.here.control else "",
                self.here.control,
                stamped or shared,
                quiet_s=SHARED_QUIET_S if shared else QUIET_S,
                first_s=6.0 if shared else 1e9,
                lean=cell.lean,
            )
            for group in range(cell.groups)
            for member in range(cell.members)
        ]

    def _start(self, jobs: Sequence[Send | Receive], loop: str) -> asyncio.Future[list[Sent | Received]]:
        return self.session.work(jobs, loop, self._limit)

    async def _finish(self, started: Sequence[asyncio.Future[list[Sent | Received]]]) -> list[Sent | Received]:
        async with asyncio.timeout(self._limit + 60):
            return [one for outcome in await asyncio.gather(*started) for one in outcome]

    async def _gathered(
        self, consumers: Sequence[asyncio.Future[list[Sent | Received]]], receives: Sequence[Receive]
    ) -> None:
        """Wait until all are ready, or one of them ended, which it should not have."""
        ready = asyncio.ensure_future(self.here.wait_ready(one.ready for one in receives))
        waiting: list[asyncio.Future[Any]] = [ready, *consumers]
        try:
            async with asyncio.timeout(self._limit):
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()

    async def _publish(self, sends: Sequence[Send], rate: float | None) -> list[Sent | Received]:
        lead = FAR_LEAD_NS if self.session.far else LEAD_NS
        start = now() + lead * len(sends) if rate is not None or len(sends) > 1 else 0
        loop = self._loop if rate is None else "select"
        return await self._finish([self._start([replace(one, start_ns=start)], loop) for one in sends])

    def _figures(
        self,
        outcomes: Sequence[Sent | Received],
        before: Used,
        rate: float | None,
        *,
        phase: str | None = None,
        late: Sequence[Sent | Received] = (),
        after: Used | None = None,
        disk: tuple[float | None, float | None] = (None, None),
    ) -> Figures:
        """The row, from what publishers and consumers report; what is `late` is counted and not timed."""
        sent = [one for one in outcomes if isinstance(one, Sent)]
        received = [one for one in outcomes if isinstance(one, Received)]
        counted, accepted = self._count(sent, [*received, *(one for one in late if isinstance(one, Received))])
        first, last = min(one.started_ns for one in sent), max(one.last_ns for one in received)
        if phase == "publish":
            last = max(one.ended_ns for one in sent)
        elif phase == "consume":
            first = min(one.started_ns for one in received)
        elapsed = (last - first) / 1e9 if last > first else None
        timed: Sequence[Sent | Received] = sent if phase == "publish" else received if phase == "consume" else outcomes
        used = after or self.here.used()
        error = _errors([*outcomes, *late])
        bound = clock.bound_ns(timed)
        if elapsed and elapsed * 1e9 < clock.FINE * bound:
            blurred = f"{elapsed:.2g} s were measured by clocks that may be {bound / 1e9:.2g} s apart"
            elapsed, error = None, f"{error}; {blurred}".removeprefix("; ")
        if counted.strangers:
            error = f"{counted.strangers} messages came that nobody had sent; {error}".removesuffix("; ")
        latencies = _latencies(sent, received) if rate is not None and self.session.clock_shared else {}
        figures = {what: stats.percentiles(samples) for what, samples in latencies.items()}
        figures |= {what: clock.known(figures[what], bound) for what in ACROSS if what in figures}
        done = accepted if phase == "publish" else counted.received / self.cell.groups
        return Figures(
            {
                "sent": self.names,
                "accepted": accepted,
                "received": counted.received,
                "lost": counted.lost,
                "duplicates": counted.duplicates,
                "reordered": counted.reordered,
                "elapsed_s": elapsed,
                "messages_per_s": done / elapsed if elapsed and done else None,
                "latency_ms": figures.get("intended"),
                "target_rate": rate if rate != math.inf else None,
                "cpu_s": {"client": _client_cpu([one.usage for one in timed]), "broker": more(before[0], used[0])},
                "rss_mb": {
                    # Of a worker that has had other work, the memory is also what that has left behind.
                    "client": sum({one.usage.pid: one.usage.rss_mb for one in timed}.values())
                    if self.cell.fresh
                    else None,
                    "broker": used[1],
                },
                "survives": self.cell.contender.survives or self.cell.guarantee.value,
                "error": error or None,
            },
            ({"phase": phase} if phase else {})
            | {"loop": self._loops(paced=rate is not None)}
            | _blurred(latencies, figures, bound, self.session.doubts.get(self.cell.contender.design, "")),
            {
                "latencies": {
                    what: {**figures[what], "samples": len(samples), "tail": _tail(samples, bound * (what in ACROSS))}
                    for what, samples in latencies.items()
                },
                "members": [len(one.codes) for one in received],
                "progress_s": [
                    [((stamp - first) / 1e9, names) for stamp, names in one.progress]
                    for one in (sent if phase == "publish" else received)
                    if one.progress
                ],
                "grown_mb": max((one.usage.grown_mb for one in timed if one.usage.grown_mb is not None), default=None),
                "disk_mb": more(*disk),
                "apart_s": (max(one.started_ns for one in sent) - first) / 1e9 if self.here.control else 0.0,
                **({"clock_bound_ms": bound / 1e6} if bound else {}),
                **({"broker_elsewhere": True} if self.here.elsewhere else {}),
            },
        )

    def _count(self, sent: Sequence[Sent], received: Sequence[Received]) -> tuple[account.Count, int]:
        series = [one.series for one in sent]
        accepted = np.concatenate(
            [account.accepted_codes(one.series.publisher, one.series.number, one.lanes) for one in sent]
        )
        handed = np.concatenate([account.accepted_codes(one.publisher, one.number, (one.number,)) for one in series])
        groups = [
            np.concatenate([one.codes for one in received if one.group == f"g{group}"])
            for group in range(self.cell.groups)
        ]
        ordered = self.cell.members == 1 and self.cell.partitions == 1 and named(self.cell.contender.design).ordered
        lanes = max(len(one.lanes) for one in sent)
        return account.count(accepted, handed, groups, lanes, ordered=ordered), len(accepted)


def _given_up(figures: Figures, left: Sequence[Sent | Received], quiet_s: float) -> Figures:
    """The same with an error where messages came only to a reader that was started after the others had given up."""
    if not (number := sum(len(one.codes) for one in left if isinstance(one, Received))):
        return figures
    late = "came only to a reader that was started later: the others had heard nothing for"
    return with_error(figures, f"{number} messages {late} {quiet_s:g} s or more")


def _errors(outcomes: Sequence[Sent | Received]) -> str:
    return "; ".join(dict.fromkeys(one.error for one in outcomes if one.error))


def _client_cpu(usages: Sequence[Usage]) -> float:
    by_process: dict[int, list[Usage]] = {}
    for usage in usages:
        by_process.setdefault(usage.pid, []).append(usage)
    spans = [(min(u.cpu_from for u in own), max(u.cpu_to for u in own)) for own in by_process.values()]
    return sum(end - start for start, end in spans) / 1e9


def _latencies(sent: Sequence[Sent], received: Sequence[Received]) -> dict[str, Stamps]:
    """Nanoseconds from the intended and from the actual send to the first receipt of each message, over all
    groups; the publish delay (from actual send to acceptance), and how late messages were sent."""
    found: dict[str, list[Stamps]] = {"intended": [], "service": [], "publish": [], "late": []}
    for one in sent:
        settled = math.ceil(len(one.actual) / SETTLING)
        accepted = one.confirmed[settled:] > 0
        found["publish"].append((one.confirmed - one.actual)[settled:][accepted])
        found["late"].append((one.actual - one.intended)[settled:][accepted])
        for group in dict.fromkeys(receipt.group for receipt in received):
            codes = np.concatenate([receipt.codes for receipt in received if receipt.group == group])
            stamps = np.concatenate([receipt.stamps for receipt in received if receipt.group == group])
            mine = (codes >> account.SHIFT) == one.series.publisher
            numbers, first = np.unique(account.numbers(codes[mine]), return_index=True)
            late = numbers >= settled
            stamps, numbers = stamps[mine][first][late], numbers[late]
            found["intended"].append(stamps - one.intended[numbers])
            found["service"].append(stamps - one.actual[numbers])
    return {what: np.concatenate(parts) if parts else NO_STAMPS for what, parts in found.items()}


def _tail(samples: Stamps, bound: int) -> list[tuple[float, float]]:
    """As far as it is known."""
    return [point for point in stats.tail(samples) if point[1] >= clock.FINE * bound / 1e6]


def _blurred(
    latencies: Mapping[str, Stamps], figures: Mapping[str, Mapping[str, float | None]], bound: int, doubt: str
) -> dict[str, str]:
    """Which percentiles are not known for the clocks' sake, and why; and what makes the others doubtful."""
    found = stats.percentiles(latencies["intended"]) if latencies and bound else {}
    unknown = [name for name, value in found.items() if value is not None and figures["intended"][name] is None]
    said = [f"{', '.join(unknown)}: below ten times the {bound / 1e6:.2g} ms that the clocks may be apart"]
    said = said * bool(unknown) + [doubt] * bool(doubt and latencies)
    return {"clock": "; ".join(said)} if said else {}


def _interleaved(cells: list[Cell], shuffle: Callable[[list[Any]], None]) -> list[Cell]:
    """In an order of its own, but what is compared stands close together: by design, then by phase and guarantee, then
    by size, groups and rate."""
    shuffle(cells)
    keys: list[Callable[[Cell], Any]] = [
        lambda one: (one.size, one.groups, one.rate),
        lambda one: (one.phase, one.guarantee),
        lambda one: one.contender.design,
    ]
    for key in keys:  # a sort keeps the order of what is equal
        kinds = [*dict.fromkeys(map(key, cells))]
        shuffle(kinds)
        cells.sort(key=lambda one, key=key, kinds=kinds: kinds.index(key(one)))  # type: ignore[misc]
    return cells


def _varying(cell: Cell, figures: Figures) -> float:
    """What shows whether a cell is stable: its speed, or the p50 where the rate is set."""
    paced = cell.load or cell.rate
    found = (figures.fields.get("latency_ms") or {}).get("p50") if paced else figures.fields.get("messages_per_s")
    return found or 0.0


Row = tuple[Measurement, Mapping[str, Any]]


async def rounds(session: OpenSession, question: str, cells: Sequence[Cell], run: str) -> AsyncIterator[Row]:
    """Warm every cell up, then repeat all of them in rounds; each row as it comes.

    The order of a round depends on the seed and the question; what is compared stands close together. In the full
    profile, a broker that is slow at first is warmed up once, a repetition that was too short is repeated with more
    messages, a cell whose speeds (or p50, at a set rate) turn out to differ much has as many once more, and before the
    first round, after each of them and after many bytes the brokers are cleared of what was carried.
    A cell that fails a second time is left out from then on, as is what needs a broker that is lost.
    """

    def row(cell: Cell, repetition: int, figures: Figures) -> Row:
        contender = cell.contender
        params = {**cell.params, "loop": cell.loop or session.settings.loop, **figures.params}
        key = (run, question, contender.design, contender.name, cell.guarantee.name, params, repetition)
        return Measurement(*key, **figures.fields), figures.details

    session.fresh_workers()
    shuffle = random.Random(f"{session.settings.seed} {question}").shuffle  # noqa: S311
    names: dict[Cell, int] = {}
    for cell in cells:
        if cell.measure:
            names[cell] = cell.names or 0
        elif (lost := session.sites[cell.contender.design].lost) is None:
            try:
                await session.warm(cell.contender.design)
                names[cell] = await session.names_for(cell)
            except Failed as failed:
                yield row(cell, 0, failed.figures)
        else:
            yield row(cell, 0, failure(f"the broker is gone: {lost}"))
    await session.clear()
    speeds: dict[Cell, dict[Any, list[float]]] = {cell: defaultdict(list) for cell in names}
    failures = Counter[Cell]()

    def has(cell: Cell, repetition: int) -> bool:
        rounds = session.settings.rounds_of(cell)
        repeated = session.settings.full and not cell.measure and rounds < repetition <= 2 * rounds
        return repetition <= rounds or (repeated and any(stats.unstable(one[:rounds]) for one in speeds[cell].values()))

    for repetition in count(1):
        if not (order := _interleaved([one for one in names if has(one, repetition)], shuffle)):
            break
        session.repeated += sum(repetition > session.settings.rounds_of(one) for one in order)
        for cell in order:
            found, names[cell], broken = await session.repetition(cell, names[cell])
            for figures in broken:
                yield row(cell, 0, figures)
            for figures in found:
                yield row(cell, repetition, figures)
                if not figures.fields["error"]:
                    speeds[cell][figures.params.get("phase")].append(_varying(cell, figures))
            failures[cell] += any(figures.fields["error"] for figures in found)
            if failures[cell] == PATIENCE:
                del names[cell]
        await session.clear()
