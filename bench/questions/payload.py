"""What does the size of a name do?

16 bytes to 64 KiB, which is the longest name; many at a time.
"""

from __future__ import annotations

import pandas as pd

from bench import tables
from bench.model import Cell, Settings
from bench.pictures import Growth, Picture
from greet import Guarantee


def cells(settings: Settings) -> list[Cell]:
    """greet's fast way over each design."""
    return [
        Cell(one, guarantee, size=size, seconds=settings.brief)
        for one in settings.of(name="greet", way="many")
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for size in (16, 256, 4096, 65_536)
    ]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Names and megabytes a second."""
    return tables.growth(rows, "size", "MB/s")


def picture(rows: pd.DataFrame) -> Picture:
    """Megabytes a second over the size."""
    rows = rows.assign(megabytes=rows["names_per_s"] * rows["params.size"] / 1e6)
    return Growth(rows, "params.size", "bytes of a name", value="megabytes", unit="MB a second")
