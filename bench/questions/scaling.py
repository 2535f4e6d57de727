"""Do two and three brokers carry two and three times as much as one?

Private clusters of one, two and three brokers. Each broker is limited to 20 % of a core, so the brokers are the limit,
not their clients and not the cores of this machine. The load is the same for each broker: two publishers and two
readers of greet, one by one. Kafka has a topic with two partitions for each broker, RabbitMQ has two topics for each,
with a queue each. They are spread over the brokers. Nothing is replicated. RabbitMQ's clients connect to the broker
that has their queue, Kafka's drivers do so by themselves.

Kafka is measured by each way to choose a partition. Each publisher sends to one partition, as RabbitMQ's send to one
queue. Or each sends to all partitions, by a hash of the message, as greet does: then a publisher sends requests to each
broker, and each request has fewer messages. If confluent-kafka is installed, its producers do so too, with a linger of
1 ms; and they send messages without a key, to one partition for 10 ms, then to another. The readers are always greet's.

A cluster stays up for all rounds. In each round messages flow without the limit first, as many for each broker; then
the limit is set, and they are counted for five seconds. Before the first round there is one that does not count, with
many more messages, in which Java compiles what is used often. A message counts when it is accepted and when it is
received; the lower of the two rates is shown. It needs 4 GB of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from bench import pictures, stats, tables
from bench.contenders import confluent_peers
from bench.measure.carry import Hand, Publish, Read, Stamps, now
from bench.measure.sites import used
from bench.model import Cell, Contender, Figures, Place, Publisher, Session, Settings, breaches, thrown_away, title_of
from bench.pictures import Lines, Picture
from bench.stats import short
from greet import Guarantee, brokers
from greet.brokers import Broker, quota
from greet.designs import KAFKA, named

RUNGS = {1: "1 broker", 2: "2 brokers", 3: "3 brokers"}
SHARE = 0.2
"""Of a core, for each broker."""
LANES = 2
"""Partitions or queues, publishers, and readers of each broker, so that each has the same load in a larger cluster."""
WINDOW = 50
"""Messages of a publisher that are not confirmed, at most. Many in one request would cost Kafka no more than one."""
WARM, AGAIN = 150_000, 5_000
"""Messages for each broker before the limit is set: in the round that does not count, and in the others."""
WARM_S, SETTLE_S, COUNT_S = 120.0, 2.0, 5.0
READY_S, DRAIN_S = 60.0, 30.0
LEAD_S, LOOK_S = 0.3, 0.05
MOST = 400_000
"""Messages of a publisher, at most."""
ROUNDS = 4
TO_ALL = "to all partitions"
BY_HASH, IN_TURN = f"{TO_ALL}, confluent-kafka", "to one partition after another, confluent-kafka"
OTHERS = {BY_HASH: confluent_peers.BY_HASH, IN_TURN: confluent_peers.IN_TURN}
"""In the rung of a row whose publishers do not send to one partition each; the others with another client."""
DRAWN = {"": "", TO_ALL: f", {TO_ALL}", IN_TURN: ", in turn (confluent-kafka)"}
"""What the picture says of such a row."""
ENDS = ["".join(pair) for pair in product("abcdefghijklmnop", repeat=2)]
ONCE = dict.fromkeys(
    (
        *("default.replication.factor", "min.insync.replicas", "offsets.topic.replication.factor"),
        *("transaction.state.log.replication.factor", "transaction.state.log.min.isr"),
    ),
    "1",
)
"""greet's cluster of three would keep each message three times."""


def lacking(settings: Settings) -> str:
    """Why nothing of this is measured; "" where it is."""
    if not settings.full:
        return "it takes minutes: use `--profile full`"
    return "" if quota.find() else quota.MISSING


def cells(settings: Settings) -> list[Cell]:
    """greet over each usual broker, for each size of a cluster, in the full profile."""
    return [
        Cell(
            *(one, guarantee),
            publishers=LANES * size,
            partitions=LANES * size if named(one.design).partitioned else 1,
            window=WINDOW,
            rung=rung,
            loop="select",
            rounds=settings.at_most(ROUNDS),
            measure=carried,
        )
        for one in settings.of(name="greet", way="name")
        if settings.full and named(one.design).usual and not named(one.design).in_process
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        for size, rung in RUNGS.items()
    ]


@dataclass
class _Cluster:
    """Brokers that stay up until they are measured so many times."""

    broker: Broker
    opened: AsyncExitStack
    rounds: int = 0


@asynccontextmanager
async def _cluster(design: str, size: int) -> AsyncIterator[_Cluster]:
    async with AsyncExitStack() as opened:
        kind = named(design).product
        assert kind
        options: dict[str, Any] = {"config": ONCE} if kind is KAFKA else {}
        yield _Cluster(await opened.enter_async_context(brokers.private(kind, nodes=size, **options)), opened)


async def carried(session: Session, cell: Cell, names: int) -> list[Figures]:  # noqa: ARG001
    """The rows of a cluster; after its last round it ends."""
    design, size = cell.contender.design, int(cell.rung.split()[0])
    key = f"scaling {design} {cell.guarantee.name} {size}"
    cluster = await session.kept(key, partial(_cluster, design, size))
    if not cluster.rounds:
        warm = await _round(session, cell, cluster.broker, WARM * size)
        if broken := [thrown_away(one) for one in warm if breaches(one.fields, one.params)]:
            return broken
    found = await _round(session, cell, cluster.broker, AGAIN * size)
    cluster.rounds += 1
    if cluster.rounds >= session.settings.rounds_of(cell):
        await cluster.opened.aclose()
    return found


async def _round(session: Session, cell: Cell, broker: Broker, before: int) -> list[Figures]:
    """A row for each way to spread the messages. The limit is set after so many of them."""
    found = []
    for spread, publishes in _publishing(session.settings, cell):
        with TemporaryDirectory() as folder:
            load = _Load(cell.contender, publishes, session.place(cell), broker, Path(folder))
            try:
                one = await load.run(before)
            finally:
                load.end()
        params = {"rung": f"{cell.rung}, {spread}"} if spread else {}
        found.append(replace(one, fields={**one.fields, "survives": cell.guarantee.value}, params=params))
    return found


def _publishing(settings: Settings, cell: Cell) -> list[tuple[str, list[Contender]]]:
    """The ways to spread messages over the partitions, each with its publishers."""
    own, lanes = cell.contender, cell.publishers
    if not named(own.design).partitioned:
        return [("", [own] * lanes)]
    said = (own.design, own.way, own.guess, own.defaults)
    found: list[tuple[str, list[Contender]]] = [
        ("", [Keyed(*said, of=own, partition=lane) for lane in range(lanes)]),
        (TO_ALL, [own] * lanes),
    ]
    for spread, one in OTHERS.items():
        if settings.includes(one) and cell.guarantee in one.guarantees:
            found.append((spread, [one] * lanes))
    return found


@dataclass(frozen=True)
class Keyed(Contender):
    """A publisher all of whose messages go to one partition: their last two characters see to that."""

    of: Contender | None = None
    partition: int = 0

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """The other contender's."""
        assert self.of
        async with self.of.publisher(place) as inner:

            async def publish(name: str) -> None:
                await inner.publish(name + self.end(name, place.partitions))

            yield Publisher(publish, place.window)

    def end(self, name: str, partitions: int) -> str:
        """What to add to `name`: greet's partition of a name is its crc32 modulo their number."""
        begun = crc32(name.encode())
        return next(end for end in ENDS if crc32(end.encode(), begun) % partitions == self.partition)

    def consumer(self, place: Place, group: str) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """The other contender's."""
        assert self.of
        return self.of.consumer(place, group)


@dataclass(frozen=True)
class Story:
    """What became of the messages; stamps of one clock, in nanoseconds."""

    sent: Stamps
    """When each was sent, by publisher and number; 0 of one that was not."""
    accepted: Stamps
    """When each was accepted; 0 or less of one that was not."""
    handled: Stamps
    """The places of messages in `sent`, as they were received, as often as they were."""
    done: Stamps
    """When that was."""


class _Load:
    """The publishers in one process, the readers in another one, and their journals."""

    def __init__(
        self, contender: Contender, publishes: list[Contender], place: Place, broker: Broker, folder: Path
    ) -> None:
        self._broker = broker
        design, tag = named(contender.design), place.topic[-4:]
        due, bodies = np.zeros(MOST, np.int64), [0] * MOST
        self._publishes: list[Publish] = []
        self._reads: list[Read] = []
        for lane, who in enumerate(publishes):
            own = replace(place, url=design.url(broker.url))
            if not design.partitioned:
                url = design.url(broker.urls[lane % len(broker.urls)])
                own = replace(own, url=url, topic=f"{place.topic}-{lane}")
            published, read = (_journal(folder / f"{what} {lane}") for what in ("published", "read"))
            self._publishes.append(Publish(who, own, f"{tag}{lane:02d}", due, bodies, published))
            self._reads.append(Read(contender, own, "g0", tag, 2 * MOST, journal=read))
        self._publisher, self._reader = self._hands = (Hand(), Hand())

    async def run(self, warm: int) -> Figures:
        """Let so many messages flow, set the limit, and count."""
        await _ready(self._reader, self._reads)
        await _ready(self._publisher, self._publishes)
        self._publisher.tell("start", now() + int(LEAD_S * 1e9))
        await self._until(lambda: self._handled() >= warm, WARM_S)
        with quota.limited([node.family() for node in self._broker.nodes], SHARE):
            await asyncio.sleep(SETTLE_S)
            begin, before = now(), self._used()
            await asyncio.sleep(COUNT_S)
            end, after = now(), self._used()
        self._publisher.tell("stop")
        async with asyncio.timeout(DRAIN_S):
            await self._publisher.says("published")
        accepted = int((self._story().accepted > 0).sum())
        await self._until(lambda: self._handled() >= accepted, DRAIN_S)
        found = figures(self._story(), begin, end)
        cpu_s = {side: after[side] - before[side] for side in after}
        return replace(found, fields={**found.fields, "cpu_s": cpu_s, "error": self._errors() or None})

    async def _until(self, there: Callable[[], bool], seconds: float) -> None:
        """Look again and again, for so long at most, or until something went wrong."""
        limit = now() + int(seconds * 1e9)
        while not there() and not self._errors() and now() < limit:  # noqa: ASYNC110, others write what is looked at
            await asyncio.sleep(LOOK_S)

    def _handled(self) -> int:
        return sum(int(np.memmap(read.journal, np.int64, "r")[0]) for read in self._reads)

    def _story(self) -> Story:
        published = [np.fromfile(one.journal, np.int64).reshape(-1, 2) for one in self._publishes]
        sent, accepted = np.concatenate(published).T
        read = [np.memmap(one.journal, np.int64, "r") for one in self._reads]
        rows = np.concatenate([np.array(one[1 : 1 + 3 * one[0]]).reshape(-1, 3) for one in read])
        publisher, number = np.divmod(rows[:, 0], 10**10)
        return Story(sent, accepted, publisher * MOST + number, rows[:, 2])

    def _used(self) -> dict[str, float]:
        """CPU seconds of both sides so far."""
        return {"client": sum(hand.used()[0] for hand in self._hands), "broker": used(self._broker)[0] or 0.0}

    def _errors(self) -> str:
        """What went wrong with any of them."""
        return "; ".join(dict.fromkeys(error for hand in self._hands for error in hand.errors))

    def end(self) -> None:
        """Nobody is left."""
        for hand in self._hands:
            hand.kill()


def _journal(path: Path) -> str:
    """An empty file with room for what a publisher or a reader has to write."""
    with path.open("wb") as file:
        file.truncate(8 * (1 + 6 * MOST if path.name.startswith("read") else 2 * MOST))
    return str(path)


async def _ready(hand: Hand, jobs: list[Publish] | list[Read]) -> None:
    hand.do(jobs)
    async with asyncio.timeout(READY_S):
        if await hand.says("ready", "error") != "ready":
            raise RuntimeError(hand.errors[0] if hand.errors else "a process ended before it was ready")


def figures(story: Story, begin: int, end: int) -> Figures:
    """What became of all messages, and how many a second were carried from `begin` to `end`."""
    elapsed = (end - begin) / 1e9
    accepted, got = story.accepted > 0, np.zeros(len(story.sent), bool)
    got[story.handled] = True
    each = [int(((stamps >= begin) & (stamps < end)).sum()) for stamps in (story.accepted, story.done)]
    return Figures(
        {
            "sent": int((story.sent > 0).sum()),
            "accepted": int(accepted.sum()),
            "received": int(got.sum()),
            "lost": int((accepted & ~got).sum()),
            "duplicates": len(story.handled) - int(got.sum()),
            "elapsed_s": elapsed,
            "messages_per_s": min(each) / elapsed or None,
        }
    )


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second, and what the CPU was used for.

    "times one broker" is the speed divided by that of one broker, paired by round, with the 95 % interval: ideally, the
    number of brokers. "% of the limit" is how much the brokers used of the CPU time that they may use: at 100, they are
    the bottleneck. 100 % CPU of the clients is one core.
    """
    parts = [(line, part) for line, part in tables.lines(rows, "params.rung")]
    ones = {_key(line): part for line, part in parts if line["rung"].partition(", ")[0] == RUNGS[1]}
    found = []
    for line, part in parts:
        one = ones.get(_key(line), rows[:0])
        rung, _, spread = line.pop("rung").partition(", ")
        line["brokers"] = size = int(rung.split()[0])
        line["each publisher"] = spread or "to one queue or partition"
        line["messages/s"] = short(tables.figures(part, "messages_per_s").median())
        line["times one broker"] = "" if size == 1 else str(stats.beside(part, one) or "–")
        seconds = tables.figures(part, "elapsed_s")
        busy = {side: 100 * tables.figures(part, f"cpu_s.{side}") / seconds for side in tables.SIDES}
        line["% of the limit, brokers"] = short((busy["broker"] / (SHARE * size)).median())
        line["CPU %, clients"] = short(busy["client"].median())
        found.append(line | {"count": tables.counted(part)})
    return pd.DataFrame(found)


def _key(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["guarantee"], line["contender"], line["rung"].partition(", ")[2]


def picture(rows: pd.DataFrame) -> Picture:
    """How many times as much as one broker, over the number of brokers, beside the ideal line."""
    rows = pictures.measured(rows)
    rungs = rows["params.rung"].astype(str)
    size, spread = rungs.str.split().str[0], rungs.map(lambda rung: rung.partition(", ")[2])
    rows = rows.assign(x=size.astype(int) if len(rows) else 0, spread=spread)
    rows = rows[rows["spread"].ne(BY_HASH)]  # one broker carries too little that way to compare more with it
    one = rows[rows["x"].eq(1)]
    rows = rows.assign(value=pictures.relative(rows, one, "design", "guarantee", "spread"), panel="")
    lines = rows["design"].map(title_of) + rows["spread"].map(DRAWN)
    rows = rows.assign(line=lines)[rows["value"].notna()]
    most = rows["x"].max()
    said = pictures.ranked(pictures.medians(rows[rows["x"].eq(most) & rows["spread"].eq("")]))
    return Lines(
        title=pictures.headline(said and f"{most} brokers carry so many times as much as one: {said}", __doc__),
        rows=rows,
        what="brokers of a cluster",
        unit="times as much as one broker",
        form="{} times",
        note=f"Each broker may use {SHARE:.0%} of a core. greet, one by one. Where nothing else is said, a "
        "publisher sends to one queue or partition; in turn: to each for 10 ms. Nothing is replicated.",
        ideal=(1.0, "ideal"),
    )
