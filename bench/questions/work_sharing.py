"""How far do more members of a group, or more publishers, speed it up?

1, 2 and 4 members that share one group, then 1, 2 and 4 publishers; for Kafka over four partitions, since
a partition has one member at a time. The clock stops at the last receipt of any member.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bench import tables
from bench.model import Cell, Settings
from bench.pictures import Growth, Picture
from greet import Guarantee
from greet.designs import named


def first(settings: Settings) -> list[Cell]:
    """Four members over each broker, once: does each message reach one of them?"""
    four = [one for one in cells(settings) if one.members == 4]
    return [
        replace(one, rounds=1, names=one.contender.guess) for one in four if not named(one.contender.design).in_process
    ]


def cells(settings: Settings) -> list[Cell]:
    """greet's fast way over each design."""
    return [
        Cell(one, guarantee, members=members, publishers=publishers, partitions=partitions, seconds=settings.brief)
        for one in settings.of(name="greet", way="many")
        for partitions in (4 if named(one.design).partitioned else 1,)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for members, publishers in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4))
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, the speed-up, and the share of the member that got least (fair would be 1 of all members)."""
    found = tables.growth(rows, "members", "speed-up", "publishers")
    shares = rows.groupby(["design", "params.members", "params.publishers"])["members"].agg(tables.least_busy)
    keys = zip(found["contender"].str.split().str[0], found["members"], found["publishers"], strict=True)
    return found.assign(**{"least busy": [shares[key] for key in keys]})


def picture(rows: pd.DataFrame) -> Picture:
    """Messages a second over the number of members, and over that of publishers."""
    members = rows[rows["params.publishers"] == 1].assign(who="members", many=rows["params.members"])
    publishers = rows[rows["params.members"] == 1].assign(who="publishers", many=rows["params.publishers"])
    return Growth(pd.concat([members, publishers]), "many", "members or publishers", split="who")
