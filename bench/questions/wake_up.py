"""How long does a message take after an idle time?

One message a second, so that publisher, broker and consumer sleep in between; against a hundred a second, which
keep them awake. The publisher sleeps too, and the machine's timer wakes it up late. This delay has its own column;
the times here count from the actual send. At a hundred a second the full profile also measures the peers, and messages
that survive a broker's kill.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bench import pictures, stats, tables
from bench.model import PERFTEST, Cell, Settings, title_of
from bench.pictures import Dots, Picture
from greet import Guarantee
from greet.designs import named

PEERS = ("bare queue", "aio-pika", "aiormq", "aiokafka", "confluent-kafka", "confluent-kafka aio")

IDLE = 10.0
"""A rate in messages a second below which all processes sleep in between."""


def first(settings: Settings) -> list[Cell]:
    """greet at a hundred a second, over brokers twice (A/A); at one a second only in one process: the claim is about
    asyncio."""
    found = [
        Cell(one, guarantee, rate=rate, names=names)
        for one in settings.of(way="name", name="greet")
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for rate, names in ((1.0, 2), (100.0, 60))
        if rate > 1 or named(one.design).in_process
    ]
    return found + [replace(one, again=True) for one in found if not named(one.contender.design).in_process]


def cells(settings: Settings) -> list[Cell]:
    """Message by message, idle and busy; busy also with the strongest guarantee of the usual brokers, and A/A."""
    found = [
        Cell(one.paced(), guarantee, rate=rate, names=names)
        for one in settings.of(way="name")
        if one.name == "greet" or (settings.full and one.name in PEERS)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for rate, names in ((1.0, 6), (100.0, 200))
        if rate > 1 or one.name == "greet"
    ]
    if settings.full:
        tools = [
            Cell(one, guarantee, rate=100.0)
            for one in settings.of(name=PERFTEST)
            for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        ]
        busy = [one for one in found if one.rate == 100.0 and named(one.contender.design).usual] + tools
        twice = [replace(one, again=True) for one in busy if one.contender.name == "greet"]
        found += (
            tools
            + twice
            + [
                replace(one, guarantee=Guarantee.DURABLE)
                for one in busy
                if Guarantee.DURABLE in one.contender.guarantees and one.guarantee is not Guarantee.DURABLE
            ]
        )
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians in milliseconds: how late a message was sent, how long it took from then, and from when it was due."""
    found = [
        line
        | {
            "sent late, p50 ms": stats.short(stats.clock(part, "late").median()),
            "from the send, p50 ms": stats.short(stats.clock(part, "service").median()),
            "from when it was due, p50 ms": stats.short(stats.clock(part, "intended").median()),
            "count": tables.counted(part),
        }
        for line, part in tables.lines(rows, "params.rate")
    ]
    return pd.DataFrame(found)


def picture(rows: pd.DataFrame) -> Picture:
    """p50 from the actual send, a row for each contender, for messages that come rarely and often."""
    rows = pictures.measured(rows.assign(service=stats.clock(rows, "service")), "service")
    weakest = min(set(rows["guarantee"]), key=[one.name for one in Guarantee].index, default="")
    rows = rows[rows["guarantee"].eq(weakest)]
    idle, own = rows["params.rate"].lt(IDLE), rows["contender"].eq("greet")
    said = pictures.across(pictures.medians(rows[own & ~idle]), " ms")
    asleep = pictures.across(pictures.medians(rows[own & idle]), " ms")
    later = f"; after a second of sleep {asleep}" if asleep else ""
    whose = "greet and its peers" if rows["contender"].ne("greet").any() else "greet"
    return Dots(
        title=pictures.headline(said and f"With greet a message takes {said}{later}", __doc__),
        rows=tables.in_order(rows.assign(row=rows["design"].map(title_of) + ", " + rows["contender"], hollow=idle)),
        unit="ms from the actual send, p50",
        form="{} ms",
        note=f"{whose}. Hollow: one message a second, all asleep. Filled: a hundred a second.",
    )
