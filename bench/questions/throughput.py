"""How many names a second does each design carry?

Closed loop: as fast as it goes, with a bounded number of names unconfirmed. The clock runs from the
first publish to the last receipt. One publisher, one consumer, names of 18 bytes. "name" is `publish`
and `async for`; "many" is `publish_many` and `batches`. Charts compare at one guarantee only.
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
    """Every contender, together; in the full profile also publishing and consuming apart. And A/A."""
    usual = tuple(Guarantee) if settings.full else (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)
    found = [Cell(one, guarantee) for one in settings.of() for guarantee in settings.guarantees(one, *usual)]
    twice = [Cell(one.contender, one.guarantee, again=True) for one in found if one.contender.name == "greet"]
    matched = [one for one in twice if one.guarantee is Guarantee.AT_LEAST_ONCE and one.contender.way == "name"]
    if not settings.full:
        return found + (matched or twice[:1])
    apart = [
        Cell(one, guarantee, phase="apart")
        for one in settings.of()
        for guarantee in settings.guarantees(one, Guarantee.DURABLE)
        if one.design != "asyncio"
    ]
    return found + matched + apart


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Names a second: median and spread of the repetitions, beside what a million names cost."""
    return report.summary(rows)


def picture(rows: pd.DataFrame) -> Figure:
    """A row of dots for each contender, a panel for each guarantee."""
    return plots.dots(rows[rows["params.phase"] != "consume"], "names a second")
