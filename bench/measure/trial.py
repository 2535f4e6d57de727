"""A workload over one design: as it is asked for, how much more could be carried, and what a break costs."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from bench import stats
from bench.measure import account
from bench.measure.carry import REFUSED, UNKNOWN, Crew, Nothing, Outcome, Run
from bench.measure.workload import LATE, Lines, Workload
from bench.model import Contender, Figures, Measurement, Place, Used, breaches, thrown_away
from greet import GreetError, Guarantee
from greet.designs import Design

SETTLING = 0.1
"""The share of a run whose messages are counted, but left out of the latencies."""
NOISE, GROWTH = 3.0, 0.01
"""A backlog that is larger by so many messages, or by this share of those that came meanwhile, has not grown."""
FEWEST = {"p50": 1, "p90": 100, "p99": 1_000, "p99_9": 10_000, "max": 1}
"""How many samples a figure takes."""
DOUBT = 0.5
"""A load of which less than this share was late may have been carried, had the machine had no other work."""
MAJORITY = 3
"""How often a load is tried that was late at first, so that most of its runs decide."""
UNTOLD = {"about", "samples", "room", "rounds"}
"""Keys that do not change what is measured."""
WARM_S = 1.0
FRESH_RATE = 1000.0
"""Messages a second that a broker which was just started carries first, for as long as its product is slower then.

Without this, Kafka took 22 ms for a message at 300 a second; with it, 8 ms.
"""
STEP_S = 1.5
"""Of a step of the search, at least."""
STEP_MESSAGES = 400
"""In a step of the search, if that takes no longer than `LONGEST_STEP_S`."""
LONGEST_STEP_S = 4.0
SEARCH_S = 60.0
"""How long a search goes on that does not get close: a step takes 3 s, and most searches five or six of them."""
CLOSE = 1.2
"""A search ends when the least that was too much is no more than so many times the most that was carried."""
MOST_RATE = 200_000.0
"""Messages a second that a search goes up to."""
LEAST = 1 / 8
"""The least share of the load that is tried."""
MOST_MESSAGES = 400_000
MOST_BYTES = 256_000_000
DRAIN_S = {(False, False): 15.0, (False, True): 3.0, (True, False): 90.0}
"""How long is waited for what waits at the end: of the load as it is, of a step of the search, and after a break."""
PATIENCE_S = {"broker": 30.0, "consumer": 50.0, "network": 20.0}
"""How long nothing may come after a break before what is missing is taken for lost: Kafka waits 45 s for a reader."""


class Ground(Protocol):
    """Where a design is measured, as far as a trial needs to know."""

    @property
    def design(self) -> Design:
        """What it is a ground of."""

    @property
    def url(self) -> str:
        """The URL of its broker."""

    @property
    def through(self) -> str:
        """The URL of a proxy before it, if there is one."""

    @property
    def made(self) -> dict[str, set[str]]:
        """The groups of each topic that was made."""

    def used(self) -> Used:
        """What its broker has used so far."""

    def not_broken(self, what: str) -> str:
        """Why `what` is not broken here; empty if it can be."""

    async def broken(self, what: str, workload: Workload, crew: Crew) -> None:
        """Break it, and mend it."""


# --------------------------------------------------------------------------------------------- figures


def in_time(found: Figures) -> bool:
    """Whether a load was carried: no backlog grew, and no more than one message in 100 was late."""
    return bool(found.params.get("in_time"))


def _doubtful(tried: Sequence[Figures]) -> bool:
    """Whether all that was tried was late, but not by so much that trying again is of no use."""
    return bool(tried) and all(
        not in_time(one) and not one.fields["error"] and one.params["late"] < DOUBT for one in tried
    )


def figures(outcome: Outcome, workload: Workload, guarantee: Guarantee, lanes: int, *, ordered: bool) -> Figures:
    """The row of a run."""
    accepted, tried = outcome.codes[outcome.accepted > 0], outcome.codes[outcome.sent > 0]
    counted = account.count(np.sort(accepted), np.sort(tried), outcome.handled, lanes, ordered=ordered)
    settled = outcome.due >= SETTLING * outcome.seconds * 1e9
    waits = np.concatenate([(came - outcome.due)[settled & (came >= 0)] for came in outcome.came])
    never = sum(int((settled & (came < 0)).sum()) for came in outcome.came)
    late = (int((waits > workload.p99_ms * 1e6).sum()) + never) / max(1, len(waits) + never)
    ends = max((int(done.max()) for done in outcome.done if len(done)), default=0)
    elapsed = (ends - int(outcome.due.min())) / 1e9
    backlog = max(_backlog(outcome.due, came, outcome.seconds * 1e9) for came in outcome.came)
    rate = len(outcome.due) / outcome.seconds
    allowed = max(5.0, rate * min(workload.p99_ms / 1000, 0.1 * outcome.seconds))
    growing = any(grows(outcome.due, came, outcome.seconds, workload.burst) for came in outcome.came)
    piles = [pile(outcome.due, came, rate) for came in outcome.came]
    refused, unknown = (int((outcome.accepted == what).sum()) for what in (REFUSED, UNKNOWN))
    handed = (outcome.accepted > 0) & (outcome.sent > 0)
    error = "; ".join(outcome.errors)
    if counted.strangers:
        error = f"{counted.strangers} messages came that nobody had sent; {error}".removesuffix("; ")
    percentiles = enough(stats.percentiles(waits), len(waits))
    whole = not refused + unknown + counted.lost and not error
    carried = whole and not outcome.stopped and late <= LATE and backlog <= allowed and not growing
    return Figures(
        {
            "sent": len(tried),
            "accepted": len(accepted),
            "received": counted.received,
            "lost": None if outcome.cut else counted.lost,
            "duplicates": counted.duplicates,
            "reordered": counted.reordered,
            "elapsed_s": elapsed if elapsed > 0 else None,
            "messages_per_s": counted.received / len(outcome.came) / elapsed if elapsed > 0 else None,
            "latency_ms": percentiles,
            "target_rate": rate,
            "cpu_s": dict(zip(("client", "broker"), outcome.cpu_s, strict=True)),
            "rss_mb": dict(zip(("client", "broker"), outcome.rss_mb, strict=True)),
            "survives": guarantee.value,
            "error": error or None,
        },
        {
            "in_time": carried,
            "late": late,
            "samples": len(waits),
            "due": len(outcome.due),
            "backlog": backlog,
            "pile": max(size for size, _ in piles),
            "catch_up_s": _longest(seconds for _, seconds in piles),
            "stopped": outcome.stopped,
            "unread": counted.lost if outcome.cut else 0,
            "refused": refused,
            "unknown": unknown,
            "seconds": outcome.seconds,
            "gap_s": gap(outcome),
        },
        {
            "latencies": {
                what: {**enough(stats.percentiles(found), len(found)), "samples": len(found), "tail": stats.tail(found)}
                for what, found in {
                    "intended": waits,
                    "publish": (outcome.accepted - outcome.sent)[handed],
                    "late": (outcome.sent - outcome.due)[handed],
                }.items()
            },
            "members": list(outcome.shares),
        },
    )


def enough(percentiles: Mapping[str, float | None], samples: int) -> dict[str, float | None]:
    """The same without the figures for which there are too few samples."""
    return {name: value if samples >= FEWEST[name] else None for name, value in percentiles.items()}


def _backlog(due: account.Codes, came: account.Codes, at_ns: float) -> int:
    """How many messages are due and not in a reader's hands at a moment."""
    return int(((due <= at_ns) & ((came < 0) | (came > at_ns))).sum())


def grows(due: account.Codes, came: account.Codes, seconds: float, burst: int = 1) -> bool:
    """Whether readers fall behind: in the last third of the time, more messages always wait than the fewest before.

    "Before" is the middle third. The fewest that wait are compared: readers that keep up come down to what is always
    under way after each burst, and after each pause of a broker. What is under way grows with the rate, where that
    changes. By chance it may be larger by twice its square root (the noise of a count), by `NOISE`, or by the share
    `GROWTH` of what came meanwhile. False where a third is too short for a burst and the time after it.
    """
    wanted, arrived = np.sort(due), np.sort(came[came >= 0])
    waiting = np.searchsorted(wanted, wanted) - np.searchsorted(arrived, wanted)  # just before each message is due
    third = wanted // (seconds * 1e9 / 3)
    middle, last = waiting[third == 1], waiting[third >= 2]
    if len(wanted) < 3 * burst or not len(middle) or not len(last):
        return False
    under_way = float(middle.min()) * len(last) / len(middle)
    return bool(last.min() > under_way + max(NOISE, 2 * math.sqrt(under_way), GROWTH * len(last)))


def pile(due: account.Codes, came: account.Codes, rate: float) -> tuple[int, float | None]:
    """The most messages that waited at a time, and the seconds until they were all gone, or None if they never were.

    Gone is when no more wait than are due within 5 ms, or one.
    """
    arrived, wanted = np.sort(came[came >= 0]), np.sort(due)
    waiting = np.arange(1, len(wanted) + 1) - np.searchsorted(arrived, wanted)
    place = int(np.argmax(waiting))
    since = int(wanted[place])
    later = arrived[np.searchsorted(arrived, since) :]
    left = np.searchsorted(wanted, later, side="right") - np.searchsorted(arrived, later, side="right")
    gone = later[left <= max(1, 0.005 * rate)]
    return int(waiting[place]), (int(gone[0]) - since) / 1e9 if len(gone) else None


def _longest(seconds: Iterable[float | None]) -> float | None:
    """The longest; None if one has no end."""
    found = list(seconds)
    return None if None in found else max(one for one in found if one is not None)


def gap(outcome: Outcome) -> float | None:
    """The longest time from the break on in which messages were due and none was handled, in any group.

    None where nothing was broken, or where it has no end: messages were due or accepted later, and none came.
    """
    if outcome.hurt is None:
        return None
    began = outcome.hurt[0] * 1e9
    if not (outcome.due > began).any():
        return 0.0
    found, due = 0.0, np.sort(outcome.due)
    for handled, done in zip(outcome.handled, outcome.done, strict=True):
        later = np.sort(done[done > began])
        never = np.maximum(outcome.due, outcome.accepted)[~np.isin(outcome.codes, handled)]
        if not len(later) or (never > later[-1]).any():
            return None
        since = np.array([began, *later[:-1]])
        so_far = np.searchsorted(due, since, side="right")
        first = np.sort(done[np.unique(handled, return_index=True)[1]])
        idle = so_far == np.searchsorted(first, since, side="right")  # all that was due is handled
        since[idle] = np.append(due, np.inf)[so_far[idle]]
        found = max(found, float((later - since).max()))
    return found / 1e9


# ------------------------------------------------------------------------------------------------ trial


Progress = Callable[[str], None]
Row = tuple[Measurement, Mapping[str, Any]]


@dataclass(frozen=True)
class Trial:
    """A workload over one design."""

    run: str
    """The run that its rows belong to."""
    ground: Ground
    contender: Contender
    """Who publishes message by message, and reads so."""
    many: Contender
    """Who publishes lists of them, and reads lists where a message takes no work."""
    workload: Workload
    point: int = 0
    """The number of the workload, where a list has made several."""
    samples: Lines = ()
    tell: Progress = lambda _: None
    """Told what goes on."""

    @property
    def partitions(self) -> int:
        """Of the topic: those asked for, or one for each member, or one where all is to keep its order."""
        if not self.ground.design.partitioned:
            return 1
        return self.workload.partitions or (1 if self.workload.order == "all" else self.workload.members)

    @property
    def ordered(self) -> bool:
        """Whether the order of messages is looked at."""
        design = self.ground.design
        one_reader = self.workload.members == 1 or not (design.deals_out or design.partitioned)
        return design.ordered and one_reader and self.partitions == 1

    @property
    def guarantee(self) -> Guarantee:
        """The weakest that is enough, but not `AT_MOST_ONCE` if a member waits for the broker then: that costs more."""
        weakest = self.workload.guarantee
        early = weakest is Guarantee.AT_MOST_ONCE and self.ground.design.waits_to_settle_early
        return Guarantee.AT_LEAST_ONCE if early else weakest

    async def measured(self) -> AsyncIterator[Row]:
        """Every row as it comes. What goes wrong is told in a row."""
        self.tell("warming up")
        warm = await self._warmed()
        if breaches(warm.fields, warm.params) or (warm.fields["error"] and not warm.fields.get("sent")):
            yield self._row("asked", 1, Figures({"error": warm.fields["error"]}))
            return
        seconds = self.workload.for_s
        tried: list[Figures] = []
        while len(tried) < self.workload.rounds or (_doubtful(tried[:1]) and len(tried) < MAJORITY):
            self.tell(f"the load as it is, {seconds:.0f} s")
            found = await self._tried(seconds)
            if not (in_time(found) or found.fields["error"]):
                made = tried[0].params["made"] if tried and "made" in tried[0].params else await self._can_be_made(1.0)
                found = replace(found, params={**found.params, "made": made})
            tried.append(found)
            yield self._row("asked", len(tried), tried[-1])
        asked = sorted(tried, key=lambda one: float(one.params.get("late", 1)))[len(tried) // 2]
        if self.workload.room and not asked.fields["error"]:
            yield self._row("room", 1, await self._room(asked))
        if what := self.workload.break_:
            self.tell(f"what breaks: the {what}")
            if why := self.ground.not_broken(what):
                yield self._row("break", 1, Figures({}, {"broken": what, "not_measured": why}))
            else:
                broken = await self._tried(seconds, broken=what)
                yield self._row("break", 1, replace(broken, params={**broken.params, "broken": what}))

    async def _warmed(self) -> Figures:
        """The load for a moment; over a broker of ours, which was just started, before that a stream of messages."""
        product = self.ground.design.product
        if product and product.slow_at_first_s and not self.ground.not_broken("broker"):
            stream = replace(self.workload, rate=FRESH_RATE, burst=1, work_ms=0)
            found = await replace(self, workload=stream)._tried(product.slow_at_first_s)
            if breaches(found.fields, found.params):
                return thrown_away(found)
        return thrown_away(await self._tried(WARM_S))

    async def _tried(
        self, seconds: float, factor: float = 1.0, *, broken: str = "", behind_s: float | None = None
    ) -> Figures:
        """One run; what goes wrong with it is told in its figures."""
        hurt = None
        if broken:

            async def hurt(crew: Crew) -> None:
                await self.ground.broken(broken, self.workload, crew)

        run = Run(
            *(
                self.workload,
                self.many if self.workload.lists else self.contender,
                self.many if self.workload.lists and not self.workload.work_ms else self.contender,
                self._place(self.ground.through if broken == "network" else self.ground.url),
                self.ground.design.in_process,
                seconds,
                factor,
                self.samples,
            ),
            used=self.ground.used,
            hurt=hurt,
            patience_s=PATIENCE_S[broken] if broken else 2.0 + 2 * self.workload.work_ms / 1000,
            behind_s=behind_s,
            drain_s=DRAIN_S[bool(broken), behind_s is not None],
        )
        lanes = 1 if self.workload.lists else self.contender.window
        try:
            outcome = await run.carried()
        except (GreetError, TimeoutError) as error:
            return Figures({"error": " ".join(str(error).split()) or "publishers or readers did not begin in time"})
        found = figures(outcome, self.workload, self.guarantee, lanes, ordered=self.ordered)
        if broken:
            found = replace(found, params={**found.params, "allowed": self._allowed(broken)})
        elif self.guarantee is Guarantee.AT_MOST_ONCE:
            found = replace(found, params={**found.params, "allowed": ""})
        return found

    async def _can_be_made(self, factor: float) -> bool:
        """Whether the load itself, with nothing in the design's place, keeps to its timetable within half of the limit.

        Where it does not, a design that is late may be late only because of it.
        """
        self.tell(f"whether the load can be made: {factor:.2f} times")
        one = replace(self.workload, work_ms=0, p99_ms=self.workload.p99_ms / 2)
        nobody = Nothing(self.ground.design.name, "many" if one.lists else "name", 0, "", self.contender.window)
        inside = self.ground.design.in_process
        place = self._place("")
        run = Run(
            *(one, nobody, nobody if inside else None, place, inside, self._step_s(factor), factor, self.samples),
            drain_s=DRAIN_S[False, True],
        )
        return in_time(figures(await run.carried(), one, one.guarantee, 1, ordered=False))

    def _place(self, url: str) -> Place:
        """A topic of its own."""
        workload, topic = self.workload, f"bench-{secrets.token_hex(6)}"
        if url:
            self.ground.made[topic] = {f"g{group}" for group in range(workload.groups)}
        return Place(url, topic, self.guarantee, self.partitions, self.contender.window, self._options)

    @property
    def _options(self) -> tuple[tuple[str, str], ...]:
        wanted = self.workload.queue_type
        return (("queue_type", wanted),) if wanted and "queue_type" in self.ground.design.keys else ()

    def _allowed(self, broken: str) -> str:
        """What a break may do to messages under the guarantee: lose them, or deliver them again."""
        survives = {
            "broker": (Guarantee.DURABLE,),
            "consumer": (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE),
            "network": (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE),
        }
        lost = "" if self.guarantee in survives[broken] else "lost, "
        # An acknowledgement can be lost with the connection; greet knows what it had, but another member does not.
        elsewhere = broken == "network" and self.workload.members > 1
        twice = "" if self.guarantee is Guarantee.AT_MOST_ONCE and not elsewhere else "duplicates, "
        return f"{lost}{twice}reordered"

    # ------------------------------------------------------------------------------------- the search

    async def _room(self, asked: Figures) -> Figures:
        """Search the highest multiple of the load that is carried in time: times four until one is not, then halves.

        A step counts as carried by the same rule as the load itself; what is more than the readers' work allows is too
        much without a step. The search ends when it is close enough or its time is over; what it could not find out is
        in the params: "capped" where it went as far as it may, or as the load itself could be made. A step that cannot
        begin, as where the broker is gone, ends it with that error; then no load counts as too much: the broker may
        have been gone already in the step before. So does a step that breaks a promise, with what it broke.
        """
        began, tried = time.monotonic(), list[tuple[float, bool]]()
        most, limit = self._most(), self.workload.handled_at_most(self.ground.design) / self.workload.mean_rate
        best, low, high = None, 0.0, min(limit, 1.0)
        if in_time(asked) and limit >= 1:
            best, low, high = asked, 1.0, limit
        while time.monotonic() - began < SEARCH_S and high > CLOSE * low:
            factor = min(most, min(4 * low, math.sqrt(low * high)) if low else high / 2)
            if factor <= low or factor < LEAST:
                break
            self.tell(f"searching the room: {factor:.2f} times the load")
            found = await self._step(factor)
            broken = ", ".join(breaches(found.fields, found.params))
            if broken or (found.fields["error"] and not found.fields.get("sent")):
                return Figures(
                    {"error": f"{broken} at {factor:.2f} times the load" if broken else found.fields["error"]},
                    {"room": low or None, "too_much": None, "capped": True, "made": True, "steps": len(tried)},
                    {"search": tried},
                )
            tried.append((factor, in_time(found)))
            if in_time(found):
                best, low = found, factor
            else:
                high = factor
        unknown = high == limit and high > CLOSE * low  # nothing that was tried was too much
        made = high == limit or (high == 1.0 and asked.params["made"]) or await self._can_be_made(high)
        rate = self.workload.mean_rate * low if low else None
        fields = {} if best is None else {**best.fields, "messages_per_s": rate, "target_rate": None}
        params = {} if best is None else best.params
        return Figures(
            fields,
            {
                **{key: value for key, value in params.items() if key not in ("in_time", "gap_s")},
                "room": low or None,
                "too_much": high if high < math.inf else None,
                "capped": unknown or not made,
                "made": made,
                "steps": len(tried),
            },
            {"search": tried},
        )

    def _most(self) -> float:
        """The highest multiple that is tried."""
        rate, size = max(self.workload.rates), self.workload.mean_size
        seconds = self._step_s(1.0)
        each = self.workload.mean_rate * seconds
        return min(MOST_RATE / rate, MOST_MESSAGES / each, MOST_BYTES / (each * size))

    def _step_s(self, factor: float) -> float:
        rate = self.workload.mean_rate * factor
        return min(max(STEP_S, STEP_MESSAGES / rate, 3 * self.workload.burst / rate), LONGEST_STEP_S)

    async def _step(self, factor: float) -> Figures:
        """One step of the search; one that was close is tried again: other work may have spoilt it."""
        behind = max(0.3, 2 * min(self.workload.p99_ms / 1000, 0.5))
        found = await self._tried(self._step_s(factor), factor, behind_s=behind)
        if breaches(found.fields, found.params) or not _doubtful([found]):
            return found
        return await self._tried(self._step_s(factor), factor, behind_s=behind)

    def _row(self, rung: str, repetition: int, found: Figures) -> Row:
        one, design, who = self.workload, self.ground.design.name, self.contender
        params = {
            **{key.rstrip("_"): value for key, value in vars(one).items() if key not in UNTOLD},
            "way": who.way, "window": who.window, "size": one.mean_size, "partitions": self.partitions,
            "phase": "together", "load": None, "rate": one.mean_rate if rung != "room" else None, "rung": rung,
            "again": False, "point": self.point, **found.params,
        }  # fmt: skip
        row = Measurement(
            self.run, "workload", design, who.name, self.guarantee.name, params, repetition, **found.fields
        )
        return row, found.details
