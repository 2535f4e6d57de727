"""Is it as fast with a thousand connections, most of them idle?

10, 100 and 1,000 publishers in one process, each with its own connection, like many small services. They take turns:
together they send 400 messages a second, so each of a thousand sends one in 2.5 seconds. One member of a group, in
another process, reads. Each repetition has its own private broker, so that the broker's memory is that of these
connections and not of earlier measurements: 10 first, then 100, then 1,000. It is warmed up for 20 s, because a
broker in Java becomes faster while it works. The clients are the plain drivers, aiormq
and aiokafka, or greet if these are left out, with their default settings. The publishers wake up to a millisecond
late, because their event loop counts whole milliseconds. Kafka has its usual heap of 1 GB and fills it in any case,
so its memory says less than RabbitMQ's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd

import greet
from bench import pictures, stats, tables
from bench.measure import account
from bench.measure.loops import Receive, Received, Send, Sent, now, work
from bench.measure.sites import used
from bench.model import (
    LOOP,
    Cell,
    Contender,
    Figures,
    Following,
    Place,
    Publisher,
    Session,
    Settings,
    breaches,
    failure,
    thrown_away,
    title_of,
)
from bench.pictures import Lines, Picture
from bench.stats import short
from greet import Guarantee, brokers
from greet.brokers import Broker
from greet.designs import named

LEVELS = (10, 100, 1_000)
RATE = 400.0
"""Messages a second, of all of them."""
MESSAGES = 1_250
"""Of a repetition: with a tenth left out, enough for a p99."""
SETTLING = MESSAGES // 10
"""Messages at the beginning that are counted, but left out of the latencies."""
ROUNDS = 4
WARM_RATE = 2_000.0
"""Messages a second before the first figure."""
WARM_S = 20.0
"""How long the broker carries messages before its first figure."""
PLAIN = ("aiormq", "aiokafka")
FIRST = "first"
OPENING = 20
"""Connections that are opened at a time."""
READY_S = 30.0
"""How long the reader may take to be there."""
LOOK_S = 0.25
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Crowd(Contender):
    """Publishers with a connection each, which take turns."""

    of: Contender | None = None
    connections: int = 1

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """All of them connected, and each has sent a first message, which sets up what a driver sets up late."""
        assert self.of
        let_open(2 * self.connections)
        async with AsyncExitStack() as stack:
            found: list[Publisher] = []

            async def open_one(contender: Contender) -> None:
                opened = await stack.enter_async_context(contender.publisher(place))
                await opened.publish(FIRST)
                found.append(opened)

            while len(found) < self.connections:
                async with asyncio.TaskGroup() as opening:
                    for _ in range(min(OPENING, self.connections - len(found))):
                        opening.create_task(open_one(self.of))
            turns = cycle(found)

            async def publish(name: str) -> None:
                await next(turns).publish(name)

            yield Publisher(publish, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A member that passes over first messages."""
        assert self.of
        async with self.of.consumer(place, group) as names:

            async def following() -> Any:
                while (name := await names.__anext__()) == FIRST:
                    pass
                return name

            taking: Any = Following(following)
            yield taking


def let_open(files: int) -> None:
    """Let this process, and what it starts, have so many more files open, as far as it may."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415, Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files + 1_024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def cells(settings: Settings) -> list[Cell]:
    """Each usual broker by its plain driver, where the peers are asked, or else by greet."""
    found = []
    for design in (one for one in settings.designs if named(one).usual and not named(one).in_process):
        clients = settings.of(design=design, way="name")
        plain = [one for one in clients if one.name in PLAIN]
        found += [
            Cell(
                one,
                guarantee,
                publishers=LEVELS[-1],
                rate=RATE,
                rounds=settings.at_most(ROUNDS),
                loop=LOOP,
                measure=climb,
            )
            for one in plain or [one for one in clients if one.name == "greet"]
            for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        ]
    return found


async def climb(session: Session, cell: Cell, names: int) -> list[Figures]:  # noqa: ARG001
    """A row for each number of connections, on a broker that was started for them and warmed up."""
    product = named(cell.contender.design).product
    assert product
    let_open(2 * LEVELS[-1])
    async with brokers.private(product) as broker:
        until = monotonic() + WARM_S
        while monotonic() < until:
            warm = thrown_away(await _together(session, cell, broker, LEVELS[0], WARM_RATE))
            if breaches(warm.fields, warm.params):
                return [warm]
        found = [await _together(session, cell, broker, many) for many in LEVELS]
        # The fewest again, on a broker that is as warm as with the others. Its memory is that of the first time.
        last = await _together(session, cell, broker, LEVELS[0])
    first, again = map(thrown_away, (found[0], last))
    if first.fields["error"] or again.fields["error"]:
        found[0] = first if first.fields["error"] else again
    else:
        found[0] = replace(last, fields={**last.fields, "rss_mb": found[0].fields["rss_mb"]})
    return found


async def _together(session: Session, cell: Cell, broker: Broker, connections: int, rate: float = RATE) -> Figures:
    one = cell.contender
    place = replace(session.place(cell), url=named(one.design).url(broker.url))
    crowd = Crowd(one.design, one.way, one.guess, one.defaults, of=one, connections=connections)
    series = account.Series(place.topic[-4:], 0, MESSAGES)
    control = f"{place.topic}.ready"
    read = Receive(crowd, place, "g0", series.tag, series.size, MESSAGES, "ready", control, stamped=True)
    async with greet.connect(place.url, control) as line, line.subscribe("bench") as told:
        reading = session.submit(work, [read], LOOP, DEADLINE_S)
        async with asyncio.timeout(READY_S):
            await anext(told)
    send = Send(crowd, place, series, rate)
    looks: list[tuple[int, float, float]] = []

    async def look() -> None:
        while True:
            cpu_s, mb = used(broker)
            if cpu_s is not None and mb is not None:
                looks.append((now(), cpu_s, mb))
            await asyncio.sleep(LOOK_S)

    looking = asyncio.create_task(look())
    try:
        (sent,), (received,) = await asyncio.gather(session.submit(work, [send], LOOP, DEADLINE_S), reading)
    finally:
        looking.cancel()
    assert isinstance(sent, Sent)
    assert isinstance(received, Received)
    found = figures(sent, received, looks)
    return replace(
        found,
        fields={**found.fields, "survives": cell.guarantee.value},
        params={**found.params, "publishers": connections},
    )


def figures(sent: Sent, received: Received, looks: list[tuple[int, float, float]]) -> Figures:
    """What publishers and reader report, and what the broker had at each look: a moment, CPU seconds so far, and MB."""
    if error := "; ".join(filter(None, [sent.error, received.error])):
        return failure(error)
    accepted, handed = (account.accepted_codes(0, MESSAGES, lanes) for lanes in (sent.lanes, (MESSAGES,)))
    counted = account.count(accepted, handed, [received.codes], ordered=False)
    known = received.codes >= 0
    numbers, first = np.unique(account.numbers(received.codes[known]), return_index=True)
    stamps = received.stamps[known][first][numbers >= SETTLING]
    numbers = numbers[numbers >= SETTLING]
    clocks = {"intended": stamps - sent.intended[numbers], "service": stamps - sent.actual[numbers]}
    latencies = {what: stats.percentiles(samples) for what, samples in clocks.items()}
    ends = [sent.started_ns, received.last_ns if len(received.codes) else sent.ended_ns]
    elapsed = (ends[1] - ends[0]) / 1e9
    moments, cpu, mb = np.array(looks, float).reshape(-1, 3).T
    during = (moments >= ends[0]) & (moments <= ends[1])
    cpu_s = float(np.diff(np.interp(ends, moments, cpu))[0]) if during.any() else None
    strangers = f"{counted.strangers} messages came that nobody had sent" if counted.strangers else None
    return Figures(
        {
            "sent": MESSAGES,
            "accepted": len(accepted),
            "received": counted.received,
            "lost": counted.lost,
            "duplicates": counted.duplicates,
            "elapsed_s": elapsed,
            "messages_per_s": counted.received / elapsed,
            "latency_ms": latencies["intended"],
            "target_rate": RATE,
            "cpu_s": {
                "client": sum(one.usage.cpu_to - one.usage.cpu_from for one in (sent, received)) / 1e9,
                "broker": cpu_s,
            },
            "rss_mb": {"client": None, "broker": float(np.median(mb[during])) if during.any() else None},
            "error": strangers,
        },
        details={
            "latencies": {
                what: {**latencies[what], "samples": len(samples), "tail": stats.tail(samples)}
                for what, samples in clocks.items()
            }
        },
    )


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """How long messages took, and what the broker held and used: the median of the repetitions.

    100 % CPU is one core.
    """
    found = []
    for line, part in tables.lines(rows, "params.publishers"):
        line["connections"] = line.pop("publishers")
        for name in ("p50", "p99"):
            line[f"{name} ms"] = short(tables.figures(part, f"latency_ms.{name}").median())
        seconds = tables.figures(part, "elapsed_s")
        line["MB, broker"] = short(tables.figures(part, "rss_mb.broker").median())
        for side in tables.SIDES:
            line[f"CPU %, {side}"] = short((100 * tables.figures(part, f"cpu_s.{side}") / seconds).median())
        found.append(line | {"count": tables.counted(part)})
    return pd.DataFrame(found)


def picture(rows: pd.DataFrame) -> Picture:
    """The median and the p99 over the connections, a panel each."""
    rows = pictures.measured(rows, "latency_ms.p99")
    rows = rows.assign(x=rows["params.publishers"], line=rows["design"].map(title_of) + ", " + rows["contender"])
    most = rows[rows["x"].eq(rows["x"].max())]
    said = pictures.across(pictures.medians(most), " ms")
    held = pictures.across(pictures.medians(most.assign(value=tables.figures(most, "rss_mb.broker"))), " MB")
    held = f"; the broker holds {held}" if held else ""
    many = f"{rows['x'].max():,.0f} connections" if len(rows) else ""
    return Lines(
        title=pictures.headline(said and f"With {many}, most of them idle, the p99 is {said}{held}", __doc__),
        rows=pd.concat([rows.assign(panel=of, value=rows[f"latency_ms.{of}"].astype(float)) for of in ("p50", "p99")]),
        what="connections that publish in turn",
        unit="ms from when a message was due",
        form="{} ms",
        note=f"{RATE:g} messages a second together.",
        log="xy",
    )
