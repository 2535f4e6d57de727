"""What happens when nobody reads?

Names (a million in the full profile) are published with nobody reading, then read. And a group that does
not read at all beside one that does: what the reader loses by it. asyncio's queue is bounded, so there
the publisher would wait for ever: not applicable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from bench import plots, report
from bench.run import Cell, Settings
from greet import Guarantee

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from dataclasses import replace

from bench.run import Delivery, Figures, Session

BACKLOG = {"kafka": 1_000_000, "rabbitmq": 1_000_000}
QUICK = {"kafka": 100_000, "rabbitmq": 10_000}


def cells(settings: Settings) -> list[Cell]:
    """Apart, and together with a group that sleeps, and without it."""
    many = BACKLOG if settings.full else QUICK
    return [
        cell
        for one in settings.of(name="greet", way="many")
        if one.design in many
        for guarantee in settings.guarantees(one, Guarantee.DURABLE)
        for cell in (
            Cell(one, guarantee, names=many[one.design], phase="apart", rounds=1),
            Cell(one, guarantee, names=many[one.design] // 10, rung="alone"),
            Cell(one, guarantee, names=many[one.design] // 10, rung="beside a sleeper", measure=beside_a_sleeper),
        )
    ]


async def beside_a_sleeper(session: Session, cell: Cell, names: int) -> list[Figures]:
    """A second group is there and does not read until the first has everything."""
    return await Delivery(session, replace(cell, groups=2), names, session.place(cell)).run(sleepers=1)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Names a second while publishing, while reading, alone and beside a group that does not read."""
    return report.summary(rows, "params.rung")


def picture(rows: pd.DataFrame) -> Figure:
    """A row of dots for each phase."""
    return plots.dots(rows, "names a second")
