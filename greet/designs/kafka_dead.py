"""The dead letters of Kafka: a topic with one partition. A committed offset says which were sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition

from greet.designs.kafka_producer import Attempt
from greet.designs.kafka_settings import insist, settings, trouble
from greet.designs.kafka_topic import committed, make_topic, start
from greet.errors import ConnectionLost, GreetError, PublishFailed
from greet.line import DEAD, DeadLetter

if TYPE_CHECKING:
    from greet.designs.kafka import KafkaLine

LARGEST_BODY = 2**26
"""A message that is not a name may be larger than any name, and is kept unchanged."""
UNREAD = "the dead letters cannot be read: "


class Graveyard:
    """The messages that the groups of a line's topic could not read as a name."""

    def __init__(self, line: KafkaLine) -> None:
        self._line = line
        self._topic = line.topic + DEAD
        self._partition = TopicPartition(self._topic, 0)
        self._made = False  # the topic exists

    async def bury(self, letter: DeadLetter, deadline: float) -> None:
        """Keep a message that is not a name, and its origin."""
        line, address = self._line, self._line.address
        headers = [(key, str(getattr(letter, key)).encode()) for key in ("group", "origin", "reason")]
        what = "a message that is not a name could not be kept: "
        async with trouble(PublishFailed, deadline, address, self._topic, what=what, verb="create"):
            if not self._made:
                config = {"retention.ms": "-1", "max.message.bytes": str(LARGEST_BODY)}
                await insist(address, lambda: make_topic(address, self._topic, 1, line._replicas, config))
                self._made = True
        async with trouble(PublishFailed, deadline, address, self._topic, what=what, verb="write"):
            await line._write(
                Attempt(), lambda producer: producer.send(self._topic, letter.body, headers=headers, partition=0)
            )

    async def letters(self) -> list[DeadLetter]:
        """The dead letters that were not sent again, the oldest first."""
        deadline = self._line._deadline()
        async with self._opened(deadline) as consumer:
            return [letter for _, letter in await self._read(consumer, deadline)]

    async def resend(self) -> int:
        """Publish each of them again; return how many."""
        sent, deadline = 0, self._line._deadline()
        async with self._opened(deadline) as consumer:
            again: set[tuple[str, bytes]] = set()
            try:
                for offset, letter in await self._read(consumer, deadline):
                    if letter.message not in again:  # each group has kept its own copy
                        await self._line._send_bodies([letter.body], self._line._deadline())
                        again |= {letter.message} if letter.origin else set()
                        sent += 1
                    await self._sent_to(consumer, offset + 1)
                if sent:
                    await self._sent_to(consumer, self._end)
            except GreetError as error:
                error.accepted = sent
                raise
        return sent

    @asynccontextmanager
    async def _opened(self, deadline: float) -> AsyncIterator[AIOKafkaConsumer]:
        async with self._trouble(UNREAD, deadline):
            consumer = await insist(self._line.address, self._started)
        try:
            yield consumer
        finally:
            await self._line._stop(consumer, self._line._deadline())

    async def _started(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            **settings(self._line.address), group_id=self._topic, enable_auto_commit=False, max_poll_records=1000
        )
        try:
            await start(consumer)
        except BaseException:
            await self._line._stop(consumer, 0)
            raise
        return consumer

    async def _read(self, consumer: AIOKafkaConsumer, deadline: float) -> list[tuple[int, DeadLetter]]:
        """The letters with their offsets, from the first one that was not sent again."""
        async with self._trouble(UNREAD, deadline):
            return await insist(self._line.address, lambda: self._read_all(consumer))

    async def _read_all(self, consumer: AIOKafkaConsumer) -> list[tuple[int, DeadLetter]]:
        letters = []
        known = set()
        partition = self._partition
        # First: a topic that the user may not see is not listed.
        done = (await committed(self._line.address, self._topic, [partition]))[partition]
        if self._topic not in await consumer.topics():
            return []
        consumer.assign([partition])
        oldest = (await consumer.beginning_offsets([partition]))[partition]
        self._end = (await consumer.end_offsets([partition]))[partition]
        consumer.seek(partition, max(oldest, done))
        while await consumer.position(partition) < self._end:
            for record in (await consumer.getmany(partition, timeout_ms=1000)).get(partition, []):
                headers = {key: (value or b"").decode(errors="replace") for key, value in record.headers}
                group, origin, reason = (headers.get(key, "") for key in ("group", "origin", "reason"))
                letter = DeadLetter(record.value or b"", group, origin, reason)
                # If a member died after it had kept a letter, another member kept it again.
                if not origin or (group, letter.message) not in known:
                    letters.append((record.offset, letter))
                known.add((group, letter.message))
        return letters

    async def _sent_to(self, consumer: AIOKafkaConsumer, offset: int) -> None:
        async with self._trouble("it could not be recorded which dead letters were sent: ", self._line._deadline()):
            await consumer.commit({self._partition: offset})

    def _trouble(self, what: str, deadline: float) -> AbstractAsyncContextManager[None]:
        line, mine = self._line, f"group {self._topic}"
        return trouble(ConnectionLost, deadline, line.address, self._topic, what=what, verb="read", group=mine)
