"""How many names a second does each design carry?

Closed loop: as fast as it goes, with a bounded number of names unconfirmed. The clock runs from the
first publish to the last receipt. One publisher, one consumer, names of 18 bytes. "name" is `publish`
and `async for`; "many" is `publish_many` and `batches`. Charts compare at one guarantee only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from bench import plots, report
from bench.run import Cell, Settings
from greet import Guarantee

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cells(settings: Settings) -> list[Cell]:
    """greet at every guarantee, its peers at the strongest; A/A; in the full profile also apart."""
    usual = tuple(Guarantee) if settings.full else (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)
    own = [Cell(one, each) for one in settings.of(name="greet") for each in settings.guarantees(one, *usual)]
    peers = [
        Cell(one, each)
        for one in settings.of()
        if one.name != "greet"
        for each in settings.guarantees(one, one.guarantees[-1])
    ]
    by_name = [one for one in own if one.contender.way == "name"]
    matched = [one for one in by_name if one.guarantee is Guarantee.AT_LEAST_ONCE] or by_name
    twice = [replace(one, again=True) for one in matched]
    apart = [
        replace(one, phase="apart")
        for one in [*own, *peers]
        if settings.full
        and one.guarantee is Guarantee.DURABLE
        and one.contender.name not in ("FastStream", "Java's own")
    ]
    return own + peers + twice + apart


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Names a second: median and spread of the repetitions, beside what a million names cost."""
    return report.summary(rows)


def picture(rows: pd.DataFrame) -> Figure:
    """A row of dots for each contender, a panel for each guarantee."""
    return plots.dots(rows, "names a second")
