"""greet itself: each design, message by message and many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import greet
from bench.contenders.kafka_peers import JOIN_S
from bench.model import Contender, Place, Publisher, with_query
from greet.designs import DESIGNS, KAFKA, RABBITMQ, Design, Product, named


class _Many(Publisher):
    def __init__(self, line: greet.Line) -> None:
        super().__init__(line.publish)
        self._line = line

    async def publish_all(self, names: Iterable[str]) -> None:
        self.accepted = [0]
        try:
            self.accepted = [await self._line.publish_many(names)]
        except greet.GreetError as error:
            self.accepted = [error.accepted]
            raise


@dataclass(frozen=True)
class Greet(Contender):
    """`Line.publish` and `async for`, or `Line.publish_many` and `Subscription.batches`."""

    def line(self, place: Place) -> greet.Line:
        """A line with the options of the place in the query of its URL."""
        options = dict(place.options)
        if named(self.design).partitioned:
            options["partitions"] = str(place.partitions)
        query = "&".join(f"{key}={value}" for key, value in options.items())
        url = with_query(place.url, query)
        return greet.connect(url, place.topic, guarantee=place.guarantee)

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """A line of its own, which has what it publishes over before the clock starts, as those of the peers have."""
        async with self.line(place) as line:
            await line._prepare()
            yield _Many(line) if self.way == "many" else Publisher(line.publish, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A line of its own with one subscription, which has its partitions, as those of the peers have.

        By default a Kafka waits for 3 s before it gives a new group any, and greet does not wait for so long.
        """
        async with self.line(place) as line, line.subscribe(group) as names:
            joined: asyncio.Event | None = getattr(names, "_joined", None)
            if joined:
                with suppress(TimeoutError):
                    async with asyncio.timeout(JOIN_S):
                        await joined.wait()
            yield names.batches() if self.way == "many" else names


@dataclass(frozen=True)
class Start:
    """Where the first warm-up begins, and the settings that are stated."""

    guess: int
    defaults: str
    window: int = 1


Way = Literal["name", "many"]
WAYS: tuple[Way, ...] = ("name", "many")
STARTS: dict[tuple[Product | None, Way], Start] = {
    (None, "name"): Start(500_000, "one process, queue of 1,000 names"),
    (None, "many"): Start(2_000_000, "one process, queue of 1,000 lists of 200 names"),
    (RABBITMQ, "name"): Start(4_000, "500 unconfirmed; greet's prefetch and acks", 500),
    (RABBITMQ, "many"): Start(8_000, "greet's window, prefetch and acks"),
    (KAFKA, "name"): Start(40_000, "1,000 unacknowledged; 1 partition; greet's batches and commits", 1_000),
    (KAFKA, "many"): Start(300_000, "1 partition; greet's batches and commits"),
}
OTHERS: dict[Way, Start] = {"name": Start(1_000, "500 unacknowledged", 500), "many": Start(4_000, "greet's own")}
"""Of another design: too low a guess costs one more warm-up, and too high a one costs minutes."""


def _greet(design: Design, way: Way) -> Greet:
    start = STARTS.get((design.product, way), OTHERS[way]) if design.usual else OTHERS[way]
    defaults = "one process" if design.in_process and not design.deals_out else start.defaults
    return Greet(design.name, way, start.guess, defaults, window=start.window, guarantees=design.guarantees)


CONTENDERS: list[Contender] = [_greet(design, way) for design in DESIGNS for way in WAYS]
