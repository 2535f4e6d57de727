"""A negative control, no contender for speed: aiokafka as many use it, committing by itself while messages are handled.

`getmany` moves the position past all that it returns, and every 0.1 s that position is committed:
a consumer that is killed in between never sees the rest again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer

from bench.contenders import access
from bench.contenders.kafka_peers import Aiokafka
from bench.model import Contender, Place


@dataclass(frozen=True)
class AutoCommit(Aiokafka):
    """`enable_auto_commit`, which is aiokafka's default, every 0.1 s and not every 5."""

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A group that starts at the oldest name."""
        async with AIOKafkaConsumer(
            place.topic,
            **access.aiokafka(place.url),
            group_id=f"{place.topic}:{group}",
            enable_auto_commit=True,
            auto_commit_interval_ms=100,
            auto_offset_reset="earliest",
            session_timeout_ms=6000,
        ) as consumer:
            yield _one_by_one(consumer)


async def _one_by_one(consumer: AIOKafkaConsumer) -> AsyncIterator[str]:
    while True:
        for messages in (await consumer.getmany(timeout_ms=1000)).values():
            for message in messages:
                yield message.value.decode()


CONTROL: Contender = AutoCommit("kafka", "name", 1_000, "getmany, auto-commit each 0.1 s", name="auto-commit")
