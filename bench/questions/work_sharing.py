"""How much faster are more members of a group, or more publishers?

1, 2 and 4 members that share one group, then 1, 2 and 4 publishers. Kafka has four partitions, because a partition
has one member at a time. The clock stops at the last receipt of any member.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bench import pictures, tables
from bench.model import Cell, Settings, title_of
from bench.pictures import Dots, Lines, Picture
from greet import Guarantee
from greet.designs import named


def first(settings: Settings) -> list[Cell]:
    """Four members with each broker, once: does each message reach one of them?"""
    four = [one for one in cells(settings) if one.members == 4]
    return [
        replace(one, rounds=1, names=one.contender.guess) for one in four if not named(one.contender.design).in_process
    ]


def cells(settings: Settings) -> list[Cell]:
    """greet's fast way with each design."""
    return [
        Cell(one, guarantee, members=members, publishers=publishers, partitions=partitions)
        for one in settings.of(name="greet", way="many")
        for partitions in (4 if named(one.design).partitioned else 1,)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for members, publishers in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4))
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second by all members and publishers together.

    "speed-up" is the speed divided by that of one member and one publisher. "smallest share" is the part of all
    messages that went to the member with the fewest: 50% would be even between two, 25% among four.
    """
    found = tables.growth(rows, "members", "speed-up", "publishers")
    shares = rows.groupby(["design", "params.members", "params.publishers"])["members"].agg(tables.smallest_share)
    keys = zip(found["contender"].str.split().str[0], found["members"], found["publishers"], strict=True)
    return found.assign(**{"smallest share": [shares[key] for key in keys]})


def picture(rows: pd.DataFrame) -> Picture:
    """The speed-up by more members and by more publishers, beside the ideal line."""
    rows = pictures.measured(rows)
    members, publishers = rows["params.members"], rows["params.publishers"]
    alone = rows[members.eq(1) & publishers.eq(1)]
    if alone.empty:
        most = members.max()
        said = pictures.across(pictures.medians(rows[members.eq(most)]))
        return Dots(
            title=pictures.headline(said and f"{most:g} members together handle {said} messages a second", __doc__),
            rows=rows.assign(row=rows["design"].map(title_of) + members.map(", {:g} members".format)),
            unit="messages a second",
            note="greet, many at a time.",
        )
    faster = rows.assign(value=pictures.relative(rows, alone, "design"), line=rows["design"].map(title_of))
    of = {
        "members": faster[publishers.eq(1)].assign(x=members),
        "publishers": faster[members.eq(1)].assign(x=publishers),
    }
    ends = {who: pictures.medians(part[part["x"].eq(part["x"].max())]) for who, part in of.items()}
    designs = pictures.told(set(ends["members"]) & set(ends["publishers"]))
    many, more = (pictures.listed([pictures.number(at[one]) for one in designs]) for at in ends.values())
    named_ones = pictures.listed([title_of(one) for one in designs])
    faster_by = (
        f"{members.max():g} members are {many} times as fast as one; {publishers.max():g} publishers {more} times"
    )
    return Lines(
        title=pictures.headline(named_ones and f"{named_ones}: {faster_by}", __doc__),
        rows=pd.concat([part.assign(panel=f"more {who}") for who, part in of.items()]),
        what="how many of them share the work",
        unit="times as many messages a second as one",
        form="{} ×",
        note="greet, many at a time.",
        ideal=(1.0, "ideal"),
    )
