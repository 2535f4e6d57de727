"""greet itself: each design, message by message and many at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import greet
from bench.model import Contender, Place, Publisher
from greet import Guarantee


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
        if self.design == "kafka":
            options["partitions"] = str(place.partitions)
        query = "&".join(f"{key}={value}" for key, value in options.items())
        url = f"{place.url}{'&' if '?' in place.url else '?'}{query}" if query else place.url
        return greet.connect(url, place.topic, guarantee=place.guarantee)

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """A line of its own."""
        async with self.line(place) as line:
            yield _Many(line) if self.way == "many" else Publisher(line.publish, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A line of its own with one subscription."""
        async with self.line(place) as line, line.subscribe(group) as names:
            yield names.batches() if self.way == "many" else names


IN_PROCESS = (Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE)

CONTENDERS: list[Contender] = [
    Greet("asyncio", "name", 500_000, "one process, queue of 1,000 names", guarantees=IN_PROCESS),
    Greet("asyncio", "many", 2_000_000, "one process, queue of 1,000 lists of 100 names", guarantees=IN_PROCESS),
    Greet("rabbitmq", "name", 4_000, "500 unconfirmed; greet's prefetch and acks", window=500),
    Greet("rabbitmq", "many", 8_000, "greet's window, prefetch and acks"),
    Greet("kafka", "name", 40_000, "1,000 unacknowledged; 1 partition; greet's batches and commits", window=1_000),
    Greet("kafka", "many", 300_000, "1 partition; greet's batches and commits"),
]
