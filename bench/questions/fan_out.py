"""What does a message cost when more groups want it?

1, 2, 4 and 8 groups, each of which gets every message; published and read many at a time. In the full profile
beside the peers, with 1 and 8 groups.
"""

from __future__ import annotations

import pandas as pd

from bench import tables
from bench.model import Cell, Settings
from bench.pictures import Growth, Picture
from greet import Guarantee
from greet.designs import named

PEERS = ("bare queue", "aio-pika", "aiormq", "aiokafka", "confluent-kafka")


def first(settings: Settings) -> list[Cell]:
    """Two groups of each broker, once: does each get everything?"""
    return [
        Cell(one, guarantee, groups=2, names=one.guess, rounds=1)
        for one in settings.of(way="many", name="greet")
        if not named(one.design).in_process
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
    ]


def cells(settings: Settings) -> list[Cell]:
    """The fast ways over each design."""
    return [
        Cell(one, guarantee, groups=groups, seconds=settings.brief)
        for one in settings.of(way="many")
        if one.name == "greet" or (settings.full and one.name in PEERS)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for groups in ((1, 2, 4, 8) if one.name == "greet" else (1, 8))
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, greetings a second, and the CPU time of a million messages."""
    return tables.growth(rows, "groups", "greetings/s")


def picture(rows: pd.DataFrame) -> Picture:
    """Greetings a second over the number of groups, of greet."""
    rows = rows[rows["contender"] == "greet"]
    rows = rows.assign(greetings=rows["messages_per_s"] * rows["params.groups"])
    return Growth(rows, "params.groups", "groups", value="greetings", unit="greetings a second, of all groups")
