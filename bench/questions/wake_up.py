"""How long does a name take that comes when everybody has long been idle?

A name each second, when publisher, broker and consumer have gone to sleep in between, against a hundred
a second, which keep them awake.
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
    """Name by name, idle and busy."""
    return [
        Cell(one, guarantee, rate=rate, names=names)
        for one in settings.of(name="greet", way="name")
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for rate, names in ((1.0, 5), (100.0, 200))
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Percentiles in milliseconds: the median over the repetitions of each."""
    return report.latencies(rows, "params.rate").drop(columns=["names/s", "p99.9 ms"])


def picture(rows: pd.DataFrame) -> Figure:
    """p50 of each repetition."""
    ordered = rows.sort_values("params.rate", kind="stable")
    named = ordered.assign(**{"params.rung": ordered["params.rate"].map("{:g} a second".format)})
    return plots.dots(named, "p50 latency in milliseconds", "latency_ms.p50")
