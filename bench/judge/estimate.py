"""An estimate for a workload that was not measured: which designs can do it, and how much capacity is left.

It is computed from separate figures of a run: how many messages a second the best client of a design carries, how
their size changes that, how many the readers' work allows, and how long messages take at such a rate. The design to
take is then found by the rule of the measured answer. `python -m bench workload` measures it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from bench.judge.claims import SOUND, Figures, Missing, _lightly
from bench.judge.workload import (
    ROOMIER,
    Answer,
    handled,
    hands,
    ms,
    ranked,
    remarks,
    told_apart,
    unable,
    workers,
)
from bench.measure.run import HELD_MS
from bench.measure.workload import LATE, Workload
from bench.questions.payload import SIZES
from bench.stats import ALONE, short
from greet import Guarantee
from greet.designs import DESIGNS, Design

LARGE = 256
"""Messages of more bytes on average are estimated from figures of such messages only."""
SURE = 3.0
"""An estimate that carries less than so many times the load is not sure. It was 1.0 to 1.3 times what was measured."""
REASONS = {"process": "it has no broker to run", "room": "it carries more", "wait": "its messages wait less"}
"""Why one comes first, by the criterion of the measured answer."""


@dataclass(frozen=True)
class Times:
    """How long short messages take one by one. None: the run has no figure."""

    alone_ms: float | None = None
    """The median at 100 a second, in milliseconds."""
    curves: tuple[Mapping[float, float], ...] = ()
    """For each client the p99 in milliseconds by the rate at which it was measured."""
    slower: float = 1.0
    """How many times as long the messages of the workload take their clients and their broker.

    Each waits at most so many times as long as a short one does at so many times the rate.
    """

    def at(self, rate: float) -> tuple[tuple[float, float] | None, float]:
        """The p99 with the best client at this rate or above, and at which; and what it is at least.

        It is at least the median at 100 a second, and the p99 at the highest rate below, of who was measured above too.
        """
        above = [(p99, r) for curve in self.curves for r, p99 in curve.items() if r >= rate * self.slower]
        below = [curve[max(r for r in curve if r <= rate)] for curve in self.curves if min(curve) <= rate <= max(curve)]
        return min(above, default=None), max(self.alone_ms or 0.0, min(below, default=0.0))

    def within(self, limit_ms: float) -> float:
        """The highest rate up to which a client's p99 was within the limit; infinite if no rate shows it.

        It counts for lists, too: to keep a limit shorter than `HELD_MS` they must be short, so they go almost one by
        one. No rate above the highest that was measured is taken to keep it: a client held no more.
        """
        kept = []
        for curve in self.curves if limit_ms < HELD_MS else ():
            too_long = min((rate for rate, p99 in curve.items() if p99 > limit_ms), default=math.inf)
            kept += [rate for rate in curve if rate < too_long]
        return max(kept, default=math.inf) / self.slower


@dataclass(frozen=True)
class Estimate:
    """What is expected of a design with a workload. None: the run has no figure."""

    design: Design
    unable: tuple[str, ...]
    """Why it cannot do it at all."""
    carried: float | None = None
    """In messages a second."""
    limit: str = ""
    """What limits it."""
    room: float | None = None
    """How many times the load it can carry."""
    alone_ms: float | None = None
    """The median time of a message at 100 a second, in milliseconds."""
    p99: tuple[float, float] | None = None
    """The p99 of short messages in milliseconds, and the rate at which it was measured."""
    behind_ms: float = 0.0
    """How long one in a hundred waits behind other messages, at most."""
    late: str = ""
    """Why messages are later than they may be, although it carries as many."""
    doubts: tuple[str, ...] = ()
    """Why it is not sure that it can do it."""
    members: int = 0
    """With how many members it is sure; 0 if it is so with those that there are, or if more do not help."""

    @property
    def possible(self) -> bool:
        """Whether it can do it by its capacity, and nothing says that messages are late."""
        return not self.unable and self.room is not None and self.room > 1 and not self.late

    @property
    def enough(self) -> bool:
        """Whether that is sure, too."""
        return self.possible and not self.doubts


def estimates(run: pd.DataFrame | Figures, workload: Workload) -> list[Estimate]:
    """One for each design, in the order of their table, from the rows of a run or its figures.

    Raises:
        Misread: a value of the workload is invalid.
    """
    workload.check()
    run = run if isinstance(run, Figures) else Figures(run)
    return [_estimate(run, workload, one) for one in DESIGNS]


def _estimate(run: Figures, workload: Workload, design: Design) -> Estimate:
    start, times = Estimate(design, tuple(unable(workload, design))), Times()
    if start.unable:
        return start
    limits: dict[str, float] = {}
    with suppress(Missing):
        limits = _speeds(run, workload, design, "many" if workload.lists else "name")
    with suppress(Missing):
        times = replace(times, alone_ms=run.median(ALONE, **run.quickest(**_lightly(design.name))))
    with suppress(Missing):
        times = replace(times, curves=tuple(_curves(run, design)), slower=_slower(run, workload, design))
    if limits:
        limits[f"a p99 of {workload.p99_ms:g} ms"] = times.within(workload.p99_ms)
    found = _expected(workload, design, limits, times)
    if found.room is None or found.enough:
        return found
    for members in range(workload.members + 1, 65):
        more = replace(workload, members=members, partitions=0)
        helps = handled(more, design) > handled(workload, design) and not unable(more, design)
        if helps and _expected(more, design, limits, times).enough:
            return replace(found, members=members)
    return found


def _expected(workload: Workload, design: Design, limits: Mapping[str, float], times: Times) -> Estimate:
    """What is expected, if its clients and its broker have these limits and times."""
    work, peak, limit_ms = handled(workload, design), max(workload.rates), workload.p99_ms
    if not limits and work > peak:
        return Estimate(design, ())
    speed = min(limits.values(), default=math.inf)
    limits = {**limits, workers(workload, design): work}
    limit, carried = min(limits.items(), key=lambda one: one[1])
    start = Estimate(design, (), carried, limit, carried / peak, times.alone_ms)
    if carried <= peak:
        return start
    p99, least = times.at(peak)
    most = p99[0] * times.slower if p99 else math.inf
    last = max(0.0, 0.99 * workload.burst - 1) * 1000
    behind = last / min(speed / SURE, work) + _queueing(workload, design)
    late, doubts = "", []
    if last / carried > limit_ms:
        late = f"the last of {workload.burst:,} that come at once wait {ms(last / carried)}"
    elif (uneven := _uneven(workload, design)) > LATE:
        late = f"at least {uneven:.0%} of the messages wait too long behind another one of their partition"
    elif min(least, most) > limit_ms:
        who = "half of them take" if least == times.alone_ms else "one in a hundred takes"
        late = f"{who} {ms(least)} or more"
    if most > limit_ms:
        doubts.append("its p99 is not known")
    elif most + behind > limit_ms:
        doubts.append(f"the limit is {limit_ms:g} ms")
    if speed <= peak * SURE:
        doubts.append(f"{short(speed / peak)} times by measured speeds, and less than {SURE:g} is not sure")
    if work <= peak * ROOMIER:
        doubts.append("its readers have no time to spare")
    late = late and f"{late}; the limit is {limit_ms:g} ms"
    return replace(start, p99=p99, behind_ms=behind, late=late, doubts=tuple(doubts))


def _queueing(workload: Workload, design: Design) -> float:
    """How long one in a hundred waits for a free reader, in milliseconds: an upper bound.

    Messages come at random times and each takes as long. Such a queue with c readers is one of a single reader that
    gets every c-th message, E(c)/D/1; a partition has one reader, M/D/1. By Kingman (1964) a message waits longer than
    t with a probability of at most exp(-x t / D), where x = c ln(1 + x / (c load)), and D is the time of the work.
    A hash puts more of a burst into some partitions: so many more in 99 of 100 cases (binomial, taken as normal).
    """
    load = max(workload.rates) / handled(workload, design)
    readers = design.at_work(workload.members, workload.partitions)
    servers = 1 if design.partitioned else readers
    works = 2.33 * math.sqrt((workload.burst - 1) * (readers - 1)) / readers if design.partitioned else 0.0
    if load > LATE:  # else a reader is free for 99 of 100
        x = 2 * servers * load * (1 - load)  # from below, so each step is on the safe side
        for _ in range(100):
            x = servers * math.log1p(x / (servers * load))
        works += math.log(1 / LATE) / x
    return works * workload.work_ms * readers / hands(workload, design)


def _uneven(workload: Workload, design: Design) -> float:
    """At least which share of the messages waits longer than it may behind another one of the same partition.

    That one came so little earlier that the reader is still busy with it when the limit is over.
    """
    readers = design.at_work(workload.members, workload.partitions)
    before = math.floor(max(workload.rates) * max(0.0, workload.work_ms - workload.p99_ms) / 1000)
    return 1 - (1 - 1 / readers) ** before if design.partitioned else 0.0


def _curves(run: Figures, design: Design) -> list[dict[float, float]]:
    """The p99 of each client in milliseconds, one by one, by the rate at which it was measured."""
    found = []
    for client in run.measured(question="latency", design=design.name):
        with suppress(Missing):
            values, _ = run.values("latency_ms.p99", "latency", design.name, client)
            rates = run.rows("latency", design.name, client)["target_rate"].astype(float)
            curve = values.groupby(rates[values.index]).median()
            found.append(dict(zip(curve.index.tolist(), curve.tolist(), strict=True)))
    return found


def _held(run: Figures, design: Design) -> float:
    """The highest rate that a client held one by one with a p99 within 100 ms; infinite if that was not measured."""
    held = []
    for client in run.measured(question="latency", design=design.name):
        rows = run.rows("latency", design.name, client)
        held += (rows["target_rate"] / rows["params.load"]).dropna().tolist()
    return max(held, default=math.inf)


def _slower(run: Figures, workload: Workload, design: Design) -> float:
    """How many times as long a message takes one by one as a short one for a single group."""
    short_ones = min(_speed(run, workload, design, "name"), _held(run, design))
    return short_ones / min(_speeds(run, workload, design, "name").values())


def _speeds(run: Figures, workload: Workload, design: Design, way: str) -> dict[str, float]:
    """Messages a second that its clients and its broker carry, by what limits them.

    Between two measured sizes, the time of a message grows with its bytes. If they were measured in lists only, a
    message one by one is taken to need as much longer than a short one as it does in a list.
    """
    speed, share = _speed(run, workload, design, way), _share(run, workload, design)
    limits = {"messages in lists": speed * share}
    if way == "name":
        limits = {"messages one by one": min(speed, _held(run, design)) * share}
    if longer_s := _longer_s(run, workload, design, way) or _longer_s(run, workload, design, "many"):
        sizes, times = [18, *longer_s], [0.0, *longer_s.values()]
        longer = float(np.interp(workload.mean_size, sizes, times))
        limits[_sized(workload, design)] = share / (1 / speed + longer)
    elif not design.in_process and workload.mean_size > LARGE:
        raise Missing("this run has no larger messages")  # the speed of short messages is not that of long ones
    return limits


def _speed(run: Figures, workload: Workload, design: Design, way: str) -> float:
    """Messages a second of the best client, with the weakest sufficient guarantee that was measured, for one group."""
    grades = list(Guarantee)
    enough = [one for one in grades[grades.index(workload.guarantee) :] if one in design.guarantees]
    for guarantee in enough:
        cell = {"question": "throughput", "design": design.name, "way": way, "guarantee": guarantee.name}
        with suppress(Missing):
            return run.speed(**run.best(**cell, phase="together"))
    raise Missing(f"this run has no throughput of {design.name}")


def _longer_s(run: Figures, workload: Workload, design: Design, way: str) -> dict[int, float]:
    """How many seconds longer than a short message the larger ones take, by their size."""
    found = {}
    for size in SIZES[1:]:
        with suppress(Missing):
            cell = {"question": "payload", "design": design.name, "size": size, "phase": "together", "way": way}
            found[size] = max(0.0, 1 / run.speed(**run.best(**cell)) - 1 / _speed(run, workload, design, way))
    return found


def _sized(workload: Workload, design: Design) -> str:
    """What limits by size, and with which guarantee that was measured, if it is a weaker one."""
    weaker = workload.guarantee is Guarantee.DURABLE and workload.mean_size > SIZES[0]
    measured = (
        f", measured as {Guarantee.AT_LEAST_ONCE.name}" if weaker and Guarantee.DURABLE in design.guarantees else ""
    )
    one_by_one = "" if workload.lists else " one by one"
    return f"messages of {workload.size} bytes{one_by_one}{measured}"


def _share(run: Figures, workload: Workload, design: Design) -> float:
    """With several groups, how many times as many messages are published a second as with one, by *fan_out*.

    Without those figures, each group is taken to cost as much as the only one.
    """
    if workload.groups > 1:
        with suppress(Missing):
            rows = run.rows("fan_out", design.name, way="many", contender="greet")
            speeds = rows[rows[SOUND]].groupby("params.groups")["messages_per_s"].median().astype(float)
            if 1 in speeds.index and len(speeds) > 1:
                most = min(workload.groups, int(speeds.index.max()))
                at = np.interp(np.log(most), np.log(speeds.index.to_numpy(float)), np.log(speeds.to_numpy()))
                return float(np.exp(at) / speeds[1]) * most / workload.groups
    return 1 / workload.groups


def said(workload: Workload, found: Sequence[Estimate]) -> list[str]:
    """Which design to take, and why, in a few sentences."""
    possible = _best_first(workload, [one for one in found if one.possible])
    sure, perhaps = ([one for one in possible if one.enough is enough] for enough in (True, False))
    lines = _take(workload, sure)
    if not possible and all(one.unable or one.room is not None for one in found):
        lines.append("None of them: the reasons are below. Give up one need, or change the workload.")
    for one in perhaps:
        doubts = f"{'; '.join(one.doubts)}; measure it{_members(workload, one, ', or')}"
        lines.append(f"Perhaps {one.design.title}: {_why(workload, one)}; {doubts}.{_remarks(workload, one)}")
    for one in found:
        if one.unable:
            lines.append(f"Not {one.design.title}: {'; '.join(one.unable)}.")
        elif one.room is None:
            lines.append(f"{one.design.title} can do it, but this run has no figures for it.")
        elif not one.possible:
            lines.append(f"Not {one.design.title}: {one.late or _capacity(one)}{_members(workload, one, ';')}.")
    lines.append(
        f"An estimate: what carries less than {SURE:g} times the load is not sure. Times are of short messages, "
        f"measured as {Guarantee.AT_LEAST_ONCE.name}. `{command(workload)}` measures it."
    )
    return lines


def _take(workload: Workload, sure: Sequence[Estimate]) -> list[str]:
    """Which to take of those that can certainly do it, the best first."""
    starts = [f"{one.design.title} is enough too: " for one in sure]
    for best in sure[:1]:
        title = best.design.title
        starts[0] = f"Take {title}: "
        if sure[1:] and _kind(workload, best) == _kind(workload, sure[1]):
            found = told_apart(_answer(best), _answer(sure[1]), workload.p99_ms)
            if not found:
                other = sure[1].design.title
                starts[:2] = [f"Take {title} or {other}: they differ in nothing that counts. {title}: ", f"{other}: "]
            elif found[0]:
                starts[0] += f"{REASONS[found[1]]}; "
    return [f"{start}{_why(workload, one)}.{_remarks(workload, one)}" for start, one in zip(starts, sure, strict=True)]


def _best_first(workload: Workload, found: Sequence[Estimate]) -> list[Estimate]:
    """By the rule of the measured answer, among those of a kind."""
    of_design = {one.design: one for one in found}
    order: list[Estimate] = []
    for kind in sorted({_kind(workload, one) for one in found}):
        same = [_answer(one) for one in found if _kind(workload, one) == kind]
        order += [of_design[one.design] for one in ranked(same, workload.p99_ms)]
    return order


def _kind(workload: Workload, one: Estimate) -> tuple[bool, bool]:
    """First those whose members all work, if they are to share keys; then those that are measured by default."""
    idle = one.design.at_work(workload.members, workload.partitions) < workload.members
    return workload.order == "key" and idle, not one.design.usual


def _answer(one: Estimate) -> Answer:
    """As the measured answer takes it. Designs are compared at the same rate: the median of a message alone."""
    return Answer(one.design, room=one.room, searched=True, latency_ms={"p50": (one.alone_ms or 0.0) + one.behind_ms})


def _remarks(workload: Workload, one: Estimate) -> str:
    return "".join(f" {text[0].upper()}{text[1:]}." for text in remarks(workload, one.design))


def _why(workload: Workload, one: Estimate) -> str:
    why = _capacity(one)
    if one.p99:
        why += f"; 99 of 100 take less than {ms(one.p99[0])} at {short(one.p99[1])} a second"
    elif one.alone_ms:
        why += f"; half of them take less than {ms(one.alone_ms)} at 100 a second"
    if one.behind_ms:
        why += f"; {'if they come at random, ' if workload.work_ms else ''}one in a hundred may wait "
        why += f"{ms(one.behind_ms)} behind others"
    return why


def _capacity(one: Estimate) -> str:
    room = "more than 100" if (one.room or 0) > 100 else short(one.room)
    return f"it can carry {room} times this load, limited by {one.limit}"


def _members(workload: Workload, one: Estimate, before: str) -> str:
    both = " and partitions" if one.design.partitioned and workload.partitions else ""
    return f"{before} have {one.members} members{both}" if one.members else ""


def command(workload: Workload) -> str:
    """The command that measures this workload."""
    usual, words = Workload(), ["python -m bench workload"]
    for key in fields(workload):
        if (value := getattr(workload, key.name)) != getattr(usual, key.name):
            text = str(value).lower() if isinstance(value, bool) else value
            words.append(f"--{key.name.rstrip('_').replace('_', '-')} {shlex.quote(str(text))}")
    return " ".join(words)
