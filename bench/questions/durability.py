"""What does it cost that a name survives?

Every guarantee of each design, and for RabbitMQ classic against quorum queues (one node: what replication
costs over a network is not in it). A quorum queue is written to disk before it confirms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from bench import plots, report
from bench.run import Cell, Settings
from greet import Guarantee

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cells(settings: Settings) -> list[Cell]:
    """greet's fast way, each guarantee."""
    found = [
        Cell(one, each)
        for one in settings.of(name="greet", way="many")
        for each in settings.guarantees(one, *Guarantee)
    ]
    quorum = (("queue_type", "quorum"),)
    return found + [
        Cell(one.contender, one.guarantee, options=quorum)
        for one in found
        if one.contender.design == "rabbitmq" and one.guarantee is Guarantee.DURABLE
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Names a second, and what a name survives."""
    found = report.summary(rows, "survives", *(["params.queue_type"] if "params.queue_type" in rows else []))
    return found.drop(columns=["CPU s/M, client + broker"]).astype(object).fillna("")


def picture(rows: pd.DataFrame) -> Figure:
    """A panel for each guarantee."""
    return plots.dots(rows, "names a second")
