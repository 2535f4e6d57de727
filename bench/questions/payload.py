"""What does the size of a message do?

16 bytes to 64 KiB, which is the longest name; many at a time. In the full profile beside the peers, and publishing
and reading apart too.
"""

from __future__ import annotations

import pandas as pd

from bench import tables
from bench.model import JAVA, PERFTEST, Cell, Contender, Settings
from bench.pictures import Growth, Picture
from bench.questions.throughput import apart_of
from greet import Guarantee
from greet.designs import named

SIZES = (16, 256, 1024, 4096, 16_384, 65_536)
QUICK = (16, 256, 4096, 65_536)
APART = (1024, 65_536)
"""The sizes at which publishing and reading are timed apart."""
PEERS = ("bare queue", "aio-pika", "aiormq", PERFTEST, "aiokafka", "confluent-kafka", JAVA)
FIRST = ("aiormq", "confluent-kafka")
"""The peers of a first look: greet alone says nothing of a broker."""


def first(settings: Settings) -> list[Cell]:
    """The largest messages over the brokers, of greet and a peer."""
    return [
        Cell(one, guarantee, size=SIZES[-1], seconds=settings.brief)
        for one in settings.of(way="many")
        if not named(one.design).in_process and (one.name == "greet" or one.name in FIRST)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
    ]


def cells(settings: Settings) -> list[Cell]:
    """The fast ways over each design."""
    found = [
        Cell(one, guarantee, size=size, seconds=settings.brief, phase="publish" if one.name == JAVA else "together")
        for one in settings.of(way="many")
        if one.name == "greet" or (settings.full and one.name in PEERS)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for size in _sizes(settings, one)
    ]
    if settings.full:
        found += apart_of(settings, [one for one in found if one.size in APART and one.contender.name != PERFTEST])
    return found


def _sizes(settings: Settings, one: Contender) -> tuple[int, ...]:
    """A tool of a broker takes long to start, and designs that are not the usual ones are asked at fewer sizes."""
    if settings.full and one.name in (JAVA, PERFTEST):
        return (SIZES[0], *APART)
    return SIZES if settings.full and named(one.design).usual else QUICK


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
