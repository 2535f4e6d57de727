"""How does the size of a message change the speed?

16 bytes to 64 KiB, the longest name, many at a time. The full profile also measures the peers; and at two of the sizes
one by one, and publishing and reading separately.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bench import pictures, tables
from bench.model import JAVA, PERFTEST, Cell, Contender, Settings, title_of
from bench.pictures import Dots, Lines, Picture
from bench.questions.throughput import apart_of
from greet import Guarantee
from greet.designs import named

SIZES = (16, 256, 1024, 4096, 16_384, 65_536)
QUICK = (16, 256, 4096, 65_536)
APART = (1024, 65_536)
"""The sizes at which publishing and reading are timed separately, and messages are also carried one by one."""
PEERS = ("bare queue", "aio-pika", "aiormq", PERFTEST, "aiokafka", "confluent-kafka", JAVA)
BY_NAME = ("greet", "aio-pika", "aiormq", "aiokafka", "confluent-kafka", "FastStream")
"""Who carries them one by one."""
FIRST = ("aiormq", "confluent-kafka")
"""The peers of the default run: greet alone says nothing about a broker."""


def first(settings: Settings) -> list[Cell]:
    """The largest messages with the brokers, by greet and a peer."""
    return [
        Cell(one, guarantee, size=SIZES[-1])
        for one in settings.of(way="many")
        if not named(one.design).in_process and (one.name == "greet" or one.name in FIRST)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
    ]


def cells(settings: Settings) -> list[Cell]:
    """The fast ways of each design, the largest messages twice (A/A); then one by one, and publishing and reading
    apart."""
    found = [
        Cell(one, guarantee, size=size, phase="publish" if one.name == JAVA else "together")
        for one in settings.of(way="many")
        if one.name == "greet" or (settings.full and one.name in PEERS)
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for size in _sizes(settings, one)
    ]
    if settings.full:
        large = [one for one in found if one.contender.name == "greet" and one.size == SIZES[-1]]
        large = [one for one in large if not (here := named(one.contender.design)).in_process and here.usual]
        found += apart_of(settings, [one for one in found if one.size in APART and one.contender.name != PERFTEST])
        found += [
            Cell(one, guarantee, size=size)
            for one in settings.of(way="name")
            if one.name in BY_NAME and named(one.design).usual and not named(one.design).in_process
            for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
            for size in APART
        ]
        found += [replace(one, again=True) for one in large]
    return found


def _sizes(settings: Settings, one: Contender) -> tuple[int, ...]:
    """Fewer sizes for the brokers' own tools, which take long to start, and for designs that are not usual."""
    if settings.full and one.name in (JAVA, PERFTEST):
        return (SIZES[0], *APART)
    if one.name == "bare queue":  # it copies nothing, whatever the size
        return SIZES[:1]
    return SIZES if settings.full and named(one.design).usual else QUICK


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, and megabytes a second, of messages of so many bytes."""
    return tables.growth(rows, "size", "MB/s")


def picture(rows: pd.DataFrame) -> Picture:
    """Megabytes a second over the size: for each design the client that is the fastest at that size."""
    rows = pictures.measured(rows[rows["params.phase"].eq("together") & rows["params.way"].eq("many")])
    copied = ~rows["design"].map(pictures.in_process).astype(bool)  # a reference has no megabytes
    rows = rows[copied] if copied.any() else rows
    rows = rows.assign(value=rows["value"] * rows["params.size"] / 1e6, hollow=rows["contender"].ne("greet"))
    sizes = sorted(set(rows["params.size"]))
    if len(sizes) == 1:
        most = rows.groupby(["design", "contender"])["value"].median().groupby("design").max()
        said = pictures.across({str(design): float(speed) for design, speed in most.items()}, " MB a second")
        return Dots(
            title=pictures.headline(said and f"Messages of {pictures.size(sizes[0])}: {said}", __doc__),
            rows=tables.in_order(rows.assign(row=rows["design"].map(title_of) + ", " + rows["contender"])),
            unit="MB a second",
            note="Many at a time. Hollow: peers of greet.",
        )
    speeds = rows.groupby(["design", "params.size", "contender"])["value"].median()
    best = speeds.groupby(["design", "params.size"]).idxmax()
    keys = zip(rows["design"], rows["params.size"], rows["contender"], strict=True)
    fastest = rows[pd.Series([key in set(best) for key in keys], rows.index, dtype=bool)]
    return Lines(
        title=pictures.headline(_said(fastest), __doc__),
        rows=fastest.assign(line=fastest["design"].map(title_of), x=fastest["params.size"], panel=""),
        what="size of a message",
        unit="MB a second",
        form="{} MB/s",
        note="Many at a time, the fastest client of each design at each size: filled, greet; hollow, a peer. What hands"
        " over a reference, within one process, is only in the table.",
        log="xy",
        ticks={one: pictures.size(one) for one in sizes},
    )


def _said(fastest: pd.DataFrame) -> str:
    """The ratio of the two brokers, for the smallest and for the largest messages."""
    sizes = sorted(set(fastest["params.size"]))
    of = {one: pictures.medians(fastest[fastest["params.size"].eq(one)]) for one in sizes}
    both = [one for one in sizes if len(pictures.brokers(of[one])) > 1]
    if len(both) < 2:
        said = pictures.across(of[sizes[-1]], " MB a second") if sizes else ""
        return said and f"Messages of {pictures.size(sizes[-1])}: {said}"
    slow, *_, fast = sorted(pictures.brokers(of[both[0]]), key=of[both[0]].__getitem__)
    small, large = (pictures.number(of[one].get(fast, 0) / of[one][slow]) for one in (both[0], both[-1]))
    return (
        f"{title_of(fast)} carries {small} times as many messages as {title_of(slow)} at {pictures.size(both[0])},"
        f" and {large} times as many at {pictures.size(both[-1])}"
    )
