"""What do headers, JSON and compression cost?

The plain clients send a plain name, a name with ten headers of 16 bytes, or a name in JSON. For Kafka also the
codecs that aiokafka has here, with messages of 1 KiB, because short ones cannot be compressed much.
"""

from __future__ import annotations

import pandas as pd

from bench import pictures, tables
from bench.contenders.kafka_peers import codecs
from bench.model import Cell, Settings, title_of
from bench.pictures import Dots, Picture
from greet import Guarantee
from greet.designs import named

PLAIN = ("bare queue", "aiormq", "aiokafka")
"""The plain client of each design."""
FIRST = ("bare", "10 headers", "JSON", "1 KiB", "1 KiB, gzip", "1 KiB, zstd")
"""The tweaks of the default run."""


def first(settings: Settings) -> list[Cell]:
    """Kafka, because the claim is about Kafka, with a slow codec and a fast one; and RabbitMQ with headers."""
    brokers = [one for one in cells(settings) if not named(one.contender.design).in_process]
    return [one for one in brokers if one.rung in (FIRST if named(one.contender.design).partitioned else FIRST[:2])]


def cells(settings: Settings) -> list[Cell]:
    """A cell for each tweak, with the plain client of each design."""
    plain = [one for one in settings.of(way="name") if one.name in PLAIN]
    found = []
    for one in plain:
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE):
            found += [Cell(one, guarantee, rung="bare"), Cell(one, guarantee, rung="JSON", options=(("body", "json"),))]
            if not named(one.design).in_process:
                found.append(Cell(one, guarantee, rung="10 headers", options=(("headers", "10"),)))
            if "compression" in named(one.design).keys:
                found.append(Cell(one, guarantee, rung="1 KiB", size=1024))
                found += [
                    Cell(one, guarantee, rung=f"1 KiB, {codec}", size=1024, options=(("compression", codec),))
                    for codec in codecs()
                ]
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second with each tweak; "bare" is the name alone."""
    return tables.summary(rows, "params.rung").drop(columns=["MB, client + broker"])


def picture(rows: pd.DataFrame) -> Picture:
    """The speed with each tweak, as a share of that of a plain message of the same size; one row each."""
    rows = pictures.measured(rows)
    rows = rows.assign(plain=rows["params.rung"].map(lambda rung: "1 KiB" if rung.startswith("1 KiB") else "bare"))
    plain = rows["params.rung"].eq(rows["plain"])
    others = rows[~plain]
    kept = others.assign(value=100 * pictures.relative(others, rows[plain], "design", "plain"))
    said = {
        rung: pictures.ranked(pictures.medians(kept[kept["params.rung"].eq(rung)]), " %")
        for rung in ("10 headers", "JSON")
    }
    left = [f"with {rung}, {of}" for rung, of in said.items() if of]
    return Dots(
        title=pictures.headline("What is left of the plain speed: " * bool(left) + "; ".join(left), __doc__),
        rows=tables.in_order(kept.assign(row=kept["design"].map(title_of) + ", " + kept["params.rung"]), "params.rung"),
        unit="per cent of the messages a second of a plain message of the same size",
        form="{} %",
        note=f"One at a time, plain clients: {', '.join(dict.fromkeys(kept['contender']))}.",
        log=False,
        base=100,
    )
