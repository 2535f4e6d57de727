"""An estimate for a workload that was not measured: which designs can do it, and how much capacity is left.

It is computed from separate figures of a run: how many messages a second the best client of a design carries, how
their size changes that, and how many the readers' work allows. `python -m bench workload` measures it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from bench.judge.claims import ALONE, Figures, Missing, _lightly
from bench.judge.workload import ENOUGH, forgets, handled, hands, more_members, ms, unable, workers
from bench.measure.workload import Workload
from bench.questions.payload import SIZES
from bench.stats import short
from greet import Guarantee
from greet.designs import DESIGNS, Design

LARGE = 256
"""Messages of more bytes on average are estimated from figures of such messages only."""


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
    late: str = ""
    """Why messages are later than they may be, although it carries as many."""
    evenly: float = 1.0
    """Which part of what its readers could handle they were measured to handle: a hash fills partitions unevenly."""

    @property
    def enough(self) -> bool:
        """Whether it can do it, the load is less than what it carries, and nothing says that it is late."""
        return not self.unable and self.room is not None and self.room > 1 and not self.late


class Remembered(Figures):
    """The figures of a run, each cell looked for once: a form asks for the same ones at each change."""

    def __init__(self, rows: pd.DataFrame) -> None:
        super().__init__(rows)
        self._known: dict[tuple[object, ...], pd.DataFrame | Missing] = {}

    def rows(self, question: str, design: str, contender: str = "greet", **params: Any) -> pd.DataFrame:
        """As of `Figures`."""
        cell = (question, design, contender, *sorted(params.items()))
        if cell not in self._known:
            try:
                self._known[cell] = super().rows(question, design, contender, **params)
            except Missing as missing:
                self._known[cell] = missing
        found = self._known[cell]
        if isinstance(found, Missing):
            raise found
        return found


def estimates(run: pd.DataFrame | Figures, workload: Workload) -> list[Estimate]:
    """One for each design, in the order of their table, from the rows of a run or its figures."""
    run = run if isinstance(run, Figures) else Remembered(run)
    return [_estimate(run, workload, one) for one in DESIGNS]


def _estimate(run: Figures, workload: Workload, design: Design) -> Estimate:
    reasons = tuple(unable(workload, design))
    alone = None
    with suppress(Missing):
        alone = run.median(ALONE, **run.quickest(**_lightly(design.name)))
    limits: dict[str, float] = {}
    evenly = _evenly(run, workload, design)
    if not reasons:
        with suppress(Missing):
            way, how = ("many", "in lists") if workload.lists else ("name", "one by one")
            limits[f"messages {how}"] = _speed(run, workload, design, way)
        with suppress(Missing):
            limits[_sized(workload, design)] = _speed_of_size(run, workload, design)
        if workload.work_ms:
            uneven = f" ({evenly:.0%} of it: a hash fills their partitions unevenly)" if evenly < 1 else ""
            limits[workers(workload, design) + uneven] = handled(workload, design) * evenly
        if not design.in_process and workload.mean_size > LARGE and _sized(workload, design) not in limits:
            return Estimate(design, reasons, alone_ms=alone)  # the speed of short messages is not that of long ones
    unmeasured = not any(one.startswith("messages") for one in limits)
    if reasons or (unmeasured and handled(workload, design) > max(workload.rates)):
        return Estimate(design, reasons, alone_ms=alone)
    limit = min(limits, key=limits.__getitem__)
    room = limits[limit] / max(workload.rates)
    return Estimate(design, reasons, limits[limit], limit, room, alone, _late(workload, limits[limit], alone), evenly)


def _evenly(run: Figures, workload: Workload, design: Design) -> float:
    """Which part of what they could do the readers of partitions do, by *work*; 1 for all others, or without figures.

    Of each number of members the longest work counts, as it leaves the least to the client itself. Between the measured
    numbers it is interpolated (logarithmic), and above them it is that of the highest.
    """
    readers = design.at_work(workload.members, workload.partitions)
    if not design.partitioned or design.deals_out or readers == 1 or hands(workload, design) < readers:
        return 1.0
    parts = {1: 1.0}
    with suppress(Missing):
        rows = run.rows("work", design.name)
        rows = rows[rows["params.members"].eq(rows["params.partitions"]) & rows["params.members"].gt(1)]
        work_ms = rows["params.rung"].str.removesuffix(" ms").astype(float)
        for members in map(int, rows["params.members"].unique()):
            longest = work_ms[rows["params.members"].eq(members)].max()
            speed = rows.loc[rows["params.members"].eq(members) & work_ms.eq(longest), "messages_per_s"].median()
            parts[members] = min(1.0, float(speed) * longest / 1000 / members)
    found = sorted(parts)
    return float(np.interp(np.log(readers), np.log(found), [parts[one] for one in found]))


def _late(workload: Workload, carried: float, alone: float | None) -> str:
    """Whether the p99 of a burst, or half of all messages that come alone, take longer than they may; how long."""
    last = (0.99 * workload.burst - 1) * 1000 / carried
    if last > workload.p99_ms:
        return f"the last of {workload.burst:,} that come at once wait {ms(last)}; the limit is {workload.p99_ms:g} ms"
    if alone and alone > workload.p99_ms:
        return f"{_alone(alone)}; the limit is {workload.p99_ms:g} ms"
    return ""


def _speed(run: Figures, workload: Workload, design: Design, way: str) -> float:
    """Messages a second of the best client, with the weakest sufficient guarantee that was measured.

    With several groups, a message is one, however many of them get it: see `_share`.
    """
    grades = list(Guarantee)
    enough = [one for one in grades[grades.index(workload.guarantee) :] if one in design.guarantees]
    for guarantee in enough:
        cell = {"question": "throughput", "design": design.name, "way": way, "guarantee": guarantee.name}
        with suppress(Missing):
            return run.speed(**run.best(**cell, phase="together")) * _share(run, workload, design)
    raise Missing(f"this run has no throughput of {design.name}")


def _speed_of_size(run: Figures, workload: Workload, design: Design) -> float:
    """Messages a second of that size: between two measured sizes, the time of a message grows with its bytes.

    If they were measured in lists only, a message one by one is taken to need as much longer than a short one as it
    does in a list.
    """
    alone = replace(workload, groups=1)
    way = "many" if workload.lists else "name"
    short_s = 1 / _speed(run, alone, design, way)
    longer_s = _longer_s(run, alone, design, way) or _longer_s(run, alone, design, "many")
    if not longer_s and workload.mean_size > LARGE:
        raise Missing("this run has no larger messages")
    sizes, times = [18, *longer_s], [0.0, *longer_s.values()]
    return _share(run, workload, design) / (short_s + float(np.interp(workload.mean_size, sizes, times)))


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
            speeds = rows.groupby("params.groups")["messages_per_s"].median().astype(float)
            if 1 in speeds.index and len(speeds) > 1:
                most = min(workload.groups, int(speeds.index.max()))
                at = np.interp(np.log(most), np.log(speeds.index.to_numpy(float)), np.log(speeds.to_numpy()))
                return float(np.exp(at) / speeds[1]) * most / workload.groups
    return 1 / workload.groups


def said(workload: Workload, found: Sequence[Estimate]) -> list[str]:
    """Which design to take, and why, in a few sentences."""
    fitting = sorted((one for one in found if one.enough), key=_rank)
    lines = []
    if fitting:
        best, *others = fitting
        lines.append(f"Take {best.design.title}: {_why(best)}.{_forgets(workload, best)}")
        lines += [f"{one.design.title} is enough too: {_why(one)}.{_forgets(workload, one)}" for one in others]
    elif all(one.unable or one.room is not None for one in found):
        lines.append("None of them: the reasons are below. Give up one need, or change the workload.")
    for one in found:
        if one.unable:
            lines.append(f"Not {one.design.title}: {'; '.join(one.unable)}.")
        elif one.room is None:
            lines.append(f"{one.design.title} can do it, but this run has no figures for it.")
        elif not one.enough:
            more = more_members(workload, one.design, one.evenly)
            lines.append(f"Not {one.design.title}: {one.late or _why(one)}{f'; have {more}' if more else ''}.")
    lines.append(f"An estimate. `{command(workload)}` measures it.")
    return lines


def _forgets(workload: Workload, one: Estimate) -> str:
    lost = forgets(workload, one.design)
    return f" {lost[0].upper()}{lost[1:]}." if lost else ""


def _rank(one: Estimate) -> tuple[bool, bool, float]:
    """First designs without a server, then those with enough capacity, then those that are quick with one message."""
    return not one.design.in_process, (one.room or 0) < ENOUGH, one.alone_ms or float("inf")


def _why(one: Estimate) -> str:
    room = "more than 100" if (one.room or 0) > 100 else short(one.room)
    why = f"it can carry {room} times this load, limited by {one.limit}"
    return why + (f"; {_alone(one.alone_ms)}" if one.alone_ms else "")


def _alone(milliseconds: float) -> str:
    """The median of a message that comes alone, with the guarantee that was measured."""
    return f"at 100 messages a second each takes {ms(milliseconds)}, measured as {Guarantee.AT_LEAST_ONCE.name}"


def command(workload: Workload) -> str:
    """The command that measures this workload."""
    usual, words = Workload(), ["python -m bench workload"]
    for key in fields(workload):
        if (value := getattr(workload, key.name)) != getattr(usual, key.name):
            text = str(value).lower() if isinstance(value, bool) else value
            words.append(f"--{key.name.rstrip('_').replace('_', '-')} {shlex.quote(str(text))}")
    return " ".join(words)
