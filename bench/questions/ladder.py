"""How fast can Python be with each design, and what does each step give up?

The steps lead from the loop of a first tutorial to the fast path. Each step changes one thing of another step,
mostly of the one above it. The last step of asyncio is the same loop without the bench's own code around it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from bench import pictures, stats, tables
from bench.measure.loops import bare
from bench.model import BARE, LOOP, Cell, Figures, Session, Settings, title_of
from bench.pictures import Dots, Picture


class Rung(NamedTuple):
    """A step: which client, how, and its name with what it gives up."""

    design: str
    contender: str
    way: str
    window: int | None
    said: str
    loop: str = LOOP
    above: int = 1
    """How many steps above it is the step that it changes."""


LISTS = "in lists: acknowledged by the list"
LONG = 3_000_000
"""Messages of a repetition that shows the cost of the bench's own code."""
RUNGS = (
    Rung("asyncio", "bare queue", "name", None, "bare queue: a cancelled reader loses its message"),
    Rung("asyncio", "greet", "name", None, "greet, one by one: nothing"),
    Rung("asyncio", "greet", "name", None, "one by one on uvloop: one more dependency", "uvloop"),
    Rung("asyncio", "greet", "many", None, LISTS, above=2),
    Rung("asyncio", "greet", "many", None, "uvloop: one more dependency", "uvloop"),
    Rung("asyncio", "greet", "many", None, BARE, above=2),
    Rung("rabbitmq", "aio-pika", "name", 1, "await each confirm, acks by 50: up to 50 come twice"),
    Rung("rabbitmq", "aio-pika", "name", 500, "500 unconfirmed: up to 500 in doubt"),
    Rung("rabbitmq", "aiormq", "name", 500, "aiormq: it does not reconnect"),
    Rung("rabbitmq", "greet", "name", 500, "greet, one by one, acks each 0.1 s: up to 500 come twice"),
    Rung("rabbitmq", "greet", "name", 500, "one by one on uvloop: one more dependency", "uvloop"),
    Rung("rabbitmq", "greet", "many", None, "frames written together: nothing more", above=2),
    Rung("rabbitmq", "greet", "many", None, "uvloop: one more dependency", "uvloop"),
    Rung("kafka", "aiokafka", "name", 1, "await each answer, commits each 0.1 s: what came since comes twice"),
    Rung("kafka", "aiokafka", "name", 1000, "1,000 in flight: up to 1,000 in doubt"),
    Rung("kafka", "aiokafka", "many", 1000, "send_batch and getmany: committed by the list"),
    Rung("kafka", "greet", "name", 1000, "greet, one by one: nothing more", above=2),
    Rung("kafka", "greet", "name", 1000, "one by one on uvloop: one more dependency", "uvloop"),
    Rung("kafka", "greet", "many", None, "batches built by us: nothing more", above=2),
    Rung("kafka", "greet", "many", None, "uvloop: one more dependency", "uvloop"),
)


def first(design: str) -> Rung:
    """The loop of a first tutorial."""
    return next(rung for rung in RUNGS if rung.design == design)


def cells(settings: Settings) -> list[Cell]:
    """The available steps, with the strongest guarantee of each design."""
    found = [
        Cell(one, guarantee, window=rung.window, loop=rung.loop, rung=rung.said)
        for rung in RUNGS
        for one in settings.of(design=rung.design, name=rung.contender, way=rung.way)
        for guarantee in settings.guarantees(one, one.guarantees[-1])
    ]
    if settings.full:  # the cost of the bench's own code is small: it is measured more often
        long: dict[str, Any] = {"names": LONG, "rounds": 2 * settings.rounds}
        found = [replace(one, **long) if one.rung in (LISTS, BARE) else one for one in found]
    return [replace(one, measure=_bare) if one.rung == BARE else one for one in found]


async def _bare(session: Session, cell: Cell, names: int) -> list[Figures]:
    names = names or LONG // 3
    elapsed, cpu = await session.submit(bare, names)
    fields = {
        "sent": names,
        "accepted": names,
        "received": names,
        "lost": 0,
        "duplicates": 0,
        "error": None,
        "elapsed_s": elapsed,
        "messages_per_s": names / elapsed,
        "cpu_s": {"client": cpu, "broker": None},
        "survives": cell.guarantee.value,
    }
    return [Figures(fields)]


def _place(rows: pd.DataFrame) -> pd.Series[int]:
    """The step of a row; those that this kit does not know, from an older run, come last."""
    order = {(rung.design, rung.said): place for place, rung in enumerate(RUNGS)}
    keys = zip(rows["design"], rows["params.rung"], strict=True)
    return pd.Series([order.setdefault(key, len(order)) for key in keys], rows.index, dtype=int)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """For each step, messages a second. After the colon stands what it gives up.

    "times the step that it changes": a step changes one thing of an earlier one, mostly of the one above it; this is
    its speed divided by that of the earlier one, paired by round, with the 95 % interval.
    """
    places, sound = _place(rows), stats.is_sound(rows)
    parts = {place: rows[places == place] for place in sorted(set(places))}
    found = pd.concat([tables.summary(part, "params.rung") for part in parts.values()], ignore_index=True)
    ratios = []
    for place, part in parts.items():
        known = place < len(RUNGS)
        changed = place - RUNGS[place].above if known else -1
        same = changed >= 0 and RUNGS[changed].design == RUNGS[place].design
        ratio = None
        if same and changed in parts:
            ours, theirs = (one[sound.loc[one.index]] for one in (part, parts[changed]))
            ratio = stats.beside(ours, theirs)
        ratios.append(str(ratio or ""))
    found.insert(4, "times the step that it changes", ratios)
    return found.drop(columns=["MB, client + broker"])


def _medians(rows: pd.DataFrame) -> dict[int, float]:
    """The median "value" of each "place"."""
    found: Any = rows.groupby("place")["value"].median()
    return {int(place): float(value) for place, value in found.items()}


def picture(rows: pd.DataFrame) -> Picture:
    """Relative to the first step of the design: the first step, the fastest, and the steps that change most."""
    rows = pictures.measured(rows[rows["params.rung"].ne(BARE)])
    rows = rows.assign(place=_place(rows)).sort_values("place", kind="stable")
    rows = rows[rows["place"].lt(len(RUNGS))]
    speeds = _medians(rows)
    firsts = {RUNGS[place].design: place for place in sorted(speeds, reverse=True)}
    rows = rows.assign(value=pictures.relative(rows, rows[rows["place"].isin(firsts.values())], "design"))
    times = _medians(rows)
    fastest = {RUNGS[place].design: place for place in sorted(times, key=times.__getitem__)}
    steps = {
        place: times[place] / times[changed]
        for place in times
        if place not in firsts.values() and (changed := place - RUNGS[place].above) in times
        if RUNGS[changed].design == RUNGS[place].design
    }
    most = sorted(steps, key=lambda place: -abs(math.log(steps[place])))
    kept = [*dict.fromkeys([*firsts.values(), *fastest.values(), *most])][: pictures.MOST]
    told = {place: f"{pictures.number(times[place])} ×" for place in kept}
    told |= {place: f"1 = {stats.short(speeds[place])} messages a second" for place in firsts.values()}
    shown = rows[rows["place"].isin(kept)]
    label = shown["design"].map(title_of) + ", " + shown["params.rung"]
    said = pictures.ranked({design: times[place] for design, place in fastest.items()}, " times")
    most_of = f"From a tutorial's loop to the fastest way: {said} as many messages"
    return Dots(
        title=pictures.headline(said and most_of, __doc__),
        rows=shown.assign(row=label.str.replace(": ", ":\n", n=1), said=shown["place"].map(told)),
        unit="times as many messages a second as the first loop of the same design",
        note="After the colon: what a step gives away. The table of RESULTS.md has all steps.",
        base=1,
    )
