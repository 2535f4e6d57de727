"""What does a message cost when more groups read it?

1, 2, 4 and 8 groups, each of which gets every message. Messages are published and read many at a time. The full
profile also measures the peers, with 1 and 8 groups.
"""

from __future__ import annotations

import pandas as pd

from bench import pictures, tables
from bench.model import Cell, Settings, title_of
from bench.pictures import Dots, Lines, Picture
from greet import Guarantee
from greet.designs import named

PEERS = ("bare queue", "aio-pika", "aiormq", "aiokafka", "confluent-kafka")


def first(settings: Settings) -> list[Cell]:
    """Two groups with each broker, once: does each group get everything?"""
    return [
        Cell(one, guarantee, groups=2, names=one.guess, rounds=1)
        for one in settings.of(way="many", name="greet")
        if not named(one.design).in_process
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
    ]


def cells(settings: Settings) -> list[Cell]:
    """The fast ways of each design."""
    return [
        Cell(one, guarantee, groups=groups)
        for one in settings.of(way="many")
        if one.name == "greet" or (settings.full and one.name in PEERS)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for groups in ((1, 2, 4, 8) if one.name == "greet" else (1, 8))
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, and the CPU time of a million of them.

    "greetings/s" is the messages a second times the groups: each group greets every message.
    """
    return tables.growth(rows, "groups", "greetings/s")


def picture(rows: pd.DataFrame) -> Picture:
    """greet's time for each message with so many groups, relative to one group."""
    rows = pictures.measured(rows[rows["contender"].eq("greet")])
    rows = rows.assign(value=1e6 / rows["value"], x=rows["params.groups"], line=rows["design"].map(title_of))
    most, one = rows["x"].max(), rows[rows["x"].eq(1)]
    if one.empty:
        said = pictures.across(pictures.medians(rows[rows["x"].eq(most)]), " µs")
        return Dots(
            title=pictures.headline(said and f"With {most:g} groups a message takes {said}", __doc__),
            rows=rows.assign(row=rows["line"] + rows["x"].map(", {:g} groups".format)),
            unit="µs a message, by which all groups have it",
            form="{} µs",
            note="greet, many at a time.",
        )
    rows = rows.assign(value=pictures.relative(rows, one, "design"), panel="")
    said = pictures.ranked(pictures.medians(rows[rows["x"].eq(most)]), " times")
    return Lines(
        title=pictures.headline(said and f"Time for a message to {most:g} groups, beside one group: {said}", __doc__),
        rows=rows,
        what="groups, of which each gets every message",
        unit="time a message, times that with one group",
        form="{} ×",
        note="greet, many at a time.",
        ideal=(1.0, "each costs a whole one"),
    )
