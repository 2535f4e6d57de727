"""How fast can Python go over each design, and what does each step up give away?

From the loop that a first tutorial shows to the fast path. Each rung is one change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from bench import plots, report
from bench.run import Cell, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# design, contender, way, window, loop, and what it is called: what it gives away
RUNGS = (
    ("asyncio", "bare queue", "name", None, "asyncio", "bare queue: a cancelled reader loses its name"),
    ("asyncio", "greet", "name", None, "asyncio", "greet, one by one: nothing"),
    ("asyncio", "greet", "many", None, "asyncio", "lists of 100: settled by the hundred"),
    ("asyncio", "greet", "many", None, "uvloop", "uvloop: one more dependency"),
    ("rabbitmq", "aio-pika", "name", 1, "asyncio", "await each confirm: nothing"),
    ("rabbitmq", "aio-pika", "name", 500, "asyncio", "500 unconfirmed: up to 500 in doubt"),
    ("rabbitmq", "aiormq", "name", 500, "asyncio", "aiormq, acks by 50: up to 50 come twice"),
    ("rabbitmq", "greet", "name", 500, "asyncio", "greet, one by one: nothing more"),
    ("rabbitmq", "greet", "many", None, "asyncio", "frames written together: nothing more"),
    ("rabbitmq", "greet", "many", None, "uvloop", "uvloop: one more dependency"),
    ("kafka", "aiokafka", "name", 1, "asyncio", "await each answer: nothing"),
    ("kafka", "aiokafka", "name", 1000, "asyncio", "1,000 in flight: up to 1,000 in doubt"),
    ("kafka", "greet", "name", 1000, "asyncio", "greet, one by one: nothing more"),
    ("kafka", "aiokafka", "many", 1000, "asyncio", "getmany: a batch is settled as a whole"),
    ("kafka", "greet", "many", None, "asyncio", "batches built by us: nothing more"),
    ("kafka", "greet", "many", None, "uvloop", "uvloop: one more dependency"),
)


def cells(settings: Settings) -> list[Cell]:
    """The rungs that can be had, at the strongest guarantee of each design."""
    return [
        Cell(one, guarantee, window=window, loop=loop, rung=rung)
        for design, name, way, window, loop, rung in RUNGS
        for one in settings.of(design=design, name=name, way=way)
        for guarantee in settings.guarantees(one, one.guarantees[-1])
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Each rung: names a second, and what it gives away."""
    found = report.summary(rows, "params.rung").drop(columns=["MB, client + broker"])
    order = {rung: place for place, (*_, rung) in enumerate(RUNGS)}
    return found.sort_values("rung", key=lambda rungs: rungs.map(order), kind="stable")


def picture(rows: pd.DataFrame) -> Figure:
    """Names a second, rung by rung."""
    order = {rung: place for place, (*_, rung) in enumerate(RUNGS)}
    rows = rows.sort_values("params.rung", key=lambda rungs: rungs.map(order), kind="stable")
    return plots.dots(rows, "names a second")
