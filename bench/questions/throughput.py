"""How many messages a second does each design carry?

Closed loop: as fast as possible, with a limited number of unconfirmed messages. The clock runs from the first
publish to the last receipt. One publisher, one consumer, messages of 18 bytes. "name" is `publish` and
`async for`; "many" is `publish_many` and `batches`. Each chart compares one guarantee only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from bench import pictures, tables
from bench.model import JAVA, PERFTEST, Cell, Settings, rank, title_of
from bench.pictures import Dots, Picture
from greet import Guarantee
from greet.designs import named

FIRST = {"bare queue": "name", "aio-pika": "name", "aiormq": "many", "aiokafka": "many", "confluent-kafka": "many"}
"""The peers of the default run, each in one way."""


def first(settings: Settings) -> list[Cell]:
    """greet and a few peers with the strongest guarantee of each design; and A/A with the brokers."""
    asked = [one for one in settings.of() if one.name == "greet" or FIRST.get(one.name) == one.way]
    found = [Cell(one, each) for one in asked for each in settings.guarantees(one, one.guarantees[-1])]
    own = [one for one in found if one.contender.name == "greet" and one.contender.way == "name"]
    return found + [replace(one, again=True) for one in own if not named(one.contender.design).in_process]


def cells(settings: Settings) -> list[Cell]:
    """greet at every guarantee, its peers at the strongest; A/A; in the full profile publishing and reading apart.

    Designs that are not the usual ones are asked at their strongest guarantee alone.
    """
    usual = tuple(Guarantee) if settings.full else (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)
    own = [
        Cell(one, each)
        for one in settings.of(name="greet")
        for each in settings.guarantees(one, *(usual if named(one.design).usual else one.guarantees[-1:]))
    ]
    peers = [
        Cell(one, each, phase="publish" if one.name == JAVA else "together")
        for one in settings.of()
        if one.name != "greet"
        for each in settings.guarantees(one, one.guarantees[-1])
    ]
    usual_own = [one for one in own if named(one.contender.design).usual]
    by_name = [one for one in usual_own if one.contender.way == "name"]
    twice = [one for one in by_name if one.guarantee is Guarantee.AT_LEAST_ONCE] or by_name
    apart: list[Cell] = []
    if settings.full:  # the cells that show the noise are measured more often
        more: dict[str, Any] = {"rounds": 2 * settings.rounds}
        apart = apart_of(settings, [one for one in [*own, *peers] if one.guarantee is Guarantee.DURABLE])
        twice += [one for one in usual_own if one.contender.way == "many" and one.guarantee is Guarantee.DURABLE]
        own = [replace(one, **more) if one in twice else one for one in own]
        twice = [replace(one, **more) for one in twice]
    return own + peers + [replace(one, again=True) for one in twice] + apart


APART = ("greet", "aio-pika", "aiormq", PERFTEST, "aiokafka", "confluent-kafka", "confluent-kafka aio")
"""The peers whose publishing and reading are also timed separately, if a broker keeps messages that nobody reads."""


def apart_of(settings: Settings, together: list[Cell]) -> list[Cell]:
    """Publishing while nobody reads, and reading the backlog.

    How fast a log is read depends on the batches in which it was written, as with Kafka, so there all read what
    greet's `publish_many` has written.
    """
    found = []
    for one in together:
        design = named(one.contender.design)
        if design.in_process or not design.usual or one.contender.name not in APART:
            continue
        if not design.keeps_unread:
            found.append(replace(one, phase="apart"))
        else:
            supply = settings.of(design=design.name, way="many", name="greet")[0]
            # The messages of one second are read too fast.
            long = replace(one, seconds=2 * (one.seconds or settings.seconds))
            found.append(replace(long, phase="publish"))
            found.append(replace(long, phase="consume", supply=supply))
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, and the CPU time of a million: the median of the repetitions. "min–max" is their spread."""
    return tables.summary(rows)


def picture(rows: pd.DataFrame) -> Picture:
    """Each design with its strongest guarantee: greet and the fastest peer, one at a time and in batches."""
    rows = pictures.strongest(pictures.measured(rows[rows["params.phase"].eq("together")]))
    rows = rows.assign(hollow=rows["params.way"].eq("name"), row="")
    shown = [rows[:0]]
    for design in sorted(set(rows["design"]), key=rank):
        part = rows[rows["design"].eq(design)]
        own = part["contender"].eq("greet")
        shown.append(part[own].assign(row=f"{title_of(design)}, greet"))
        best = {
            str(way): str(peers.groupby("contender")["value"].median().idxmax())
            for way, peers in part[~own].groupby("params.way")
        }
        called = " or ".join(dict.fromkeys(best[way] for way in ("name", "many") if way in best))
        shown += [
            part[part["params.way"].eq(way) & part["contender"].eq(peer)].assign(row=f"{title_of(design)}, {called}")
            for way, peer in best.items()
        ]
    return Dots(
        title=pictures.headline(pictures.carried(rows), __doc__),
        rows=pd.concat(shown),
        unit="messages a second",
        note="Hollow: one by one, hundreds unconfirmed. Filled: in batches. Below greet its fastest peers.",
    )
