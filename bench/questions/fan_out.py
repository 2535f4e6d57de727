"""What does a name cost when more groups want it?

1, 2, 4 and 8 groups, each of which gets every name; published and read many at a time.
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
    """greet's fast way over each design."""
    return [
        Cell(one, guarantee, groups=groups, seconds=settings.brief)
        for one in settings.of(name="greet", way="many")
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for groups in (1, 2, 4, 8)
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Names a second, greetings a second, and the CPU time of a million names."""
    return report.growth(rows, "groups", "greetings/s")


def picture(rows: pd.DataFrame) -> Figure:
    """Greetings a second over the number of groups."""
    rows = rows.assign(greetings=rows["names_per_s"] * rows["params.groups"])
    return plots.growth(rows, "params.groups", "groups", value="greetings", unit="greetings a second, of all groups")
