"""Does the speed stay the same in long runs, and with many groups?

One run is ten times as long as the usual one, and is measured second by second. Another one comes after many
groups were created on another topic, and still exist. Messages that nobody reads are another question
(backlog).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pandas as pd

from bench import pictures, stats, tables
from bench.contenders.cleanup import removed
from bench.model import Cell, Figures, Session, Settings, title_of
from bench.pictures import Pace, Picture
from greet import Guarantee
from greet.designs import named

log = logging.getLogger("bench")
USUAL, LONG, GROUPS = "as usual", "ten times as long", 50
AFTER = f"with {GROUPS} more groups"


def cells(settings: Settings) -> list[Cell]:
    """Message by message. asyncio's groups end with their process, so there are none left to measure."""
    found = []
    for one in settings.of(name="greet", way="name"):
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE):
            usual = Cell(one, guarantee, rung=USUAL, lean=True)
            found += [usual, replace(usual, rung=LONG, seconds=settings.seconds * 10)]
            if not named(one.design).in_process:
                found.append(replace(usual, rung=AFTER, measure=after_groups))
    return found


async def after_groups(session: Session, cell: Cell, _: int) -> list[Figures]:
    """The usual run, while the broker also has the groups of another topic. They are removed again."""
    names = await session.names_for(replace(cell, rung=USUAL, measure=None))
    site = session.sites[cell.contender.design]
    before = {*site.made}
    await session.make_groups(replace(cell, groups=GROUPS))
    others = {topic: site.made[topic] for topic in {*site.made} - before}
    try:
        return await session.deliver(cell, names)
    finally:
        try:
            await removed(cell.contender.design, site.url, others)
        except Exception as error:  # noqa: BLE001, of whatever a driver raises: it is tried again in the end
            log.debug("not deleted on %s for now: %s", cell.contender.design, type(error).__name__)
        else:
            for topic in others:
                del site.made[topic]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, in the usual run and in others.

    "beside the usual" is the speed divided by that of the usual run, paired by round, with the 95 % interval. "end /
    beginning" is the speed in the last quarter of a repetition, divided by that in its first.
    """
    found = tables.summary(rows, "params.rung").drop(columns=["CPU s/M, client + broker", "MB, client + broker"])
    parts = list(tables.lines(rows, "params.rung"))
    usual = {line["contender"]: part for line, part in parts if line["rung"] == USUAL}
    ratios = [stats.beside(part, usual.get(line["contender"], rows[:0])) for line, part in parts]
    found.insert(
        5,
        "beside the usual",
        ["" if line["rung"] == USUAL else str(ratio or "–") for (line, _), ratio in zip(parts, ratios, strict=True)],
    )
    found.insert(6, "end / beginning", [tables.steadiness(part) for _, part in parts])
    return found


def picture(rows: pd.DataFrame) -> Picture:
    """The speed of the long runs, second by second."""
    rows = tables.in_order(pictures.measured(rows[rows["params.rung"].eq(LONG)]))
    said = pictures.ranked(pictures.steadiness(rows))
    begun = f"At the end of a run of {rows['elapsed_s'].median():.0f} s, so many times as fast as at its beginning"
    return Pace(
        title=pictures.headline(said and f"{begun}: {said}", __doc__),
        rows=rows.assign(panel=rows["design"].map(title_of)),
        over="seconds",
        note="greet, one by one.",
    )
