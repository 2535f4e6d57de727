"""What does the size of a message do?

16 bytes to 64 KiB, which is the longest name; many at a time. In the full profile beside the peers, and publishing
and reading apart too.
"""

from __future__ import annotations

import pandas as pd

from bench import tables
from bench.model import JAVA, PERFTEST, Cell, Settings
from bench.pictures import Growth, Picture
from bench.questions.throughput import apart_of
from greet import Guarantee

SIZES = (16, 256, 1024, 4096, 16_384, 65_536)
QUICK = (16, 256, 4096, 65_536)
PEERS = ("bare queue", "aio-pika", "aiormq", PERFTEST, "aiokafka", "confluent-kafka", JAVA)


def cells(settings: Settings) -> list[Cell]:
    """The fast ways over each design."""
    found = [
        Cell(one, guarantee, size=size, seconds=settings.brief, phase="publish" if one.name == JAVA else "together")
        for one in settings.of(way="many")
        if one.name == "greet" or (settings.full and one.name in PEERS)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for size in (SIZES if settings.full else QUICK)
    ]
    if settings.full:
        found += apart_of(settings, [one for one in found if one.contender.name != PERFTEST])
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages and megabytes a second."""
    return tables.growth(rows, "size", "MB/s")


def picture(rows: pd.DataFrame) -> Picture:
    """Megabytes a second over the size: of greet, and of the peer that is the fastest at most sizes."""
    rows = rows.assign(megabytes=rows["messages_per_s"] * rows["params.size"] / 1e6, who="greet")
    rows = rows[rows["params.phase"] == "together"]
    fastest = []
    for _, part in rows[rows["contender"] != "greet"].groupby("design"):
        speeds = part.groupby(["params.size", "contender"])["messages_per_s"].median().unstack()
        fastest.append(part[part["contender"] == speeds.idxmax(axis=1).mode()[0]].assign(who="peers"))
    shown = pd.concat([rows[rows["contender"] == "greet"], *fastest])
    return Growth(shown, "params.size", "bytes of a message", value="megabytes", unit="MB a second", split="who")
