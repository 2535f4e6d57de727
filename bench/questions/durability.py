"""How much speed does each guarantee cost?

Every guarantee of each design, and for RabbitMQ classic and quorum queues. There is one node, so the cost of
replication over a network is not included. A quorum queue writes to disk before it confirms.
"""

from __future__ import annotations

import pandas as pd

from bench import pictures, tables
from bench.model import Cell, Settings, rank, title_of
from bench.pictures import Dots, Picture
from greet import Guarantee
from greet.designs import named


def cells(settings: Settings) -> list[Cell]:
    """greet's fast way with each guarantee."""
    found = [
        Cell(one, each)
        for one in settings.of(name="greet", way="many")
        for each in settings.guarantees(one, *Guarantee)
    ]
    return found + [
        Cell(one.contender, one.guarantee, options=(_option(design.quorum),))
        for one in found
        if (design := named(one.contender.design)).quorum in design.variants and one.guarantee is Guarantee.DURABLE
    ]


def _option(said: str) -> tuple[str, str]:
    """The part of a URL's query, such as "queue_type=quorum"."""
    key, _, value = said.partition("=")
    return key, value


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, and what a message survives: the median of the repetitions."""
    found = tables.summary(
        rows.assign(survives=tables.kept_by(rows)),
        "survives",
        *(["params.queue_type"] if "params.queue_type" in rows else []),
    )
    return found.drop(columns=["CPU s/M, client + broker"]).astype(object).fillna("")


def picture(rows: pd.DataFrame) -> Picture:
    """The speed with each guarantee, as a share of that with the weakest one; one row each."""
    rows = pictures.measured(rows)
    weakest = rows["guarantee"].eq(Guarantee.AT_MOST_ONCE.name)
    others = rows[~weakest]
    kept = others.assign(value=100 * pictures.relative(others, rows[weakest], "design"))
    kind = kept["params.queue_type"] if "params.queue_type" in kept else pd.Series(None, kept.index, dtype=object)
    label = kept["design"].map(title_of) + ", " + kept["guarantee"]
    shown = kept.assign(row=label + kind.map(", {} queue".format, na_action="ignore").fillna(""))
    said = pictures.ranked(pictures.medians(pictures.strongest(kept[kind.isna()])), " %")
    left = f"The strongest guarantee, in per cent of the speed with the weakest: {said}"
    return Dots(
        title=pictures.headline(said and left, __doc__),
        rows=tables.in_order(shown, "row").sort_values("design", key=lambda names: names.map(rank), kind="stable"),
        unit=f"per cent of the messages a second of {Guarantee.AT_MOST_ONCE.name}",
        form="{} %",
        note="greet, many at a time.",
        log=False,
        base=100,
    )
