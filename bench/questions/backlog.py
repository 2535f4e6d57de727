"""What happens when nobody reads?

Millions of messages (in the full profile ten, for RabbitMQ one) are published from a generator while nobody
reads; then they are read and dropped. Measured are the speed as the backlog grows, and the memory and disk
that each process uses. asyncio's queue is bounded, so its publisher would wait for ever: there, a reader
reads at the same time. Also measured: how much slower a group is beside another group that does not read.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bench import pictures, stats, tables
from bench.model import Cell, Figures, Session, Settings, title_of
from bench.pictures import Pace, Picture
from greet.designs import named

FULL, QUICK = 10_000_000, 1_000_000
FULL_SLOW, QUICK_SLOW = 1_000_000, 20_000
FAST = 100_000
"""A design that carries fewer messages a second than this gets the smaller numbers."""
ASLEEP = 10
"""Beside a sleeping group, one in so many of these messages is published."""
FIRST_NAMES, FIRST_SLOW = 200_000, 20_000


def first(settings: Settings) -> list[Cell]:
    """A small backlog for each broker, and as many messages while a reader works."""
    found = []
    for one in settings.of(name="greet", way="many"):
        if not named(one.design).in_process:
            for guarantee in settings.guarantees(one, one.guarantees[-1]):
                waiting = Cell(one, guarantee, names=FIRST_SLOW if one.guess < FAST else FIRST_NAMES, lean=True)
                found += [replace(waiting, phase="apart", rounds=1), replace(waiting, rung="alone")]
    return found


def cells(settings: Settings) -> list[Cell]:
    """The whole backlog; and messages beside a sleeping group, and without one."""
    found = []
    for one in settings.of(name="greet", way="many"):
        slow, unread = one.guess < FAST, not named(one.design).in_process
        names = (FULL_SLOW if slow else FULL) if settings.full else (QUICK_SLOW if slow else QUICK)
        for guarantee in settings.guarantees(one, one.guarantees[-1]):
            phase = "apart" if unread else "together"
            found.append(Cell(one, guarantee, names=names, phase=phase, lean=True, fresh=True, rounds=1))
            if unread:
                both = Cell(one, guarantee, names=names // ASLEEP, rung="alone")
                found += [both, replace(both, rung="beside a sleeper", measure=beside_a_sleeper)]
    return found


async def beside_a_sleeper(session: Session, cell: Cell, names: int) -> list[Figures]:
    """A second group exists, but does not read until the first has everything."""
    return await session.deliver(replace(cell, groups=2), names, sleepers=1)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, and the memory and disk that they take meanwhile.

    "end / beginning" is the speed in the last quarter of the time, divided by that in the first. "MB gained" is how
    much more memory the client took, "disk MB" how much more disk the broker took: the most of all repetitions. "beside
    a sleeper": a second group exists, and does not read until the first has everything; "alone": there is none.
    """
    found = tables.summary(rows, "params.rung").drop(columns=["min–max", "CPU s/M, client + broker"])
    more = [
        {
            "messages": stats.short(part["sent"].median()),
            "end / beginning": tables.steadiness(part),
            "MB gained, client": stats.short(tables.figures(part, "grown_mb").max()),
            "disk MB, broker": stats.short(tables.figures(part, "disk_mb").max()),
        }
        for _, part in tables.lines(rows, "params.rung")
    ]
    for place, name in ((3, "messages"), (5, "end / beginning"), (6, "MB gained, client"), (8, "disk MB, broker")):
        found.insert(place, name, [line[name] for line in more])
    return found


PHASES = {"together": "beside a reader", "publish": "publishing", "consume": "reading"}


def picture(rows: pd.DataFrame) -> Picture:
    """The speed of publishing and reading, over the number of messages so far."""
    rows = tables.in_order(pictures.measured(rows[rows["params.rung"].eq("")]))
    said = pictures.ranked(pictures.steadiness(rows[rows["params.phase"].eq("publish")]))
    piled = "As messages pile up with nobody reading, publishing ends so many times as fast as it began"
    return Pace(
        title=pictures.headline(said and f"{piled}: {said}", __doc__),
        rows=rows.assign(panel=rows["design"].map(title_of) + ", " + rows["params.phase"].map(PHASES)),
        over="messages",
        note="greet, many at a time: first published with nobody reading, then read.",
    )
