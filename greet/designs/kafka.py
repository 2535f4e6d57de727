"""Apache Kafka: a topic with partitions, and a consumer group for each group. Driver: aiokafka.

                            topic "names"
                       ┌─► partition 0 ─┐   ┌─► group "names:hello"   ─► its members
    publish ─► crc32 ──┤                ├───┤
                       └─► partition 1 ─┘   └─► group "names:goodbye" ─► its members
                                                  │
                        topic "names.dead" ◄──────┘ what is no name, with its origin

A partition is a log: a name stays in it after it was read. A group is no queue but a position in
each partition, the offset of its next name, which the broker keeps under the group's id (a topic's
name has no colon, so two topics never share a group). The members of a group share out the
partitions, and a partition has one reader at a time: with one partition, the default, one member
works and the others wait to take over.

Equal names share a partition (crc32 of the name, as in librdkafka), so they keep their order with
any number of partitions; names that differ keep it within a partition.

What is lost or doubled, when:
- DURABLE waits for all in-sync replicas and numbers what it sends: a retry makes no duplicate.
- AT_LEAST_ONCE waits for one; a retry after a lost answer may double what was under way.
- AT_MOST_ONCE waits for none; a group's position moves on before the names are handed out.
- The position is committed behind the handling, at most 0.1 s later, so those of the last 0.1 s
  come again when a member is killed; none do when it leaves, or when members come and go.
- A name that takes longer than 5 s to handle while members come and go may come again too.
- What the topic's retention deletes (by default after 7 days) is gone, read or not.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from zlib import crc32

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    BrokerResponseError,
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoError,
    OutOfOrderSequenceNumber,
    TopicAlreadyExistsError,
    UnknownProducerId,
    for_code,
)

from greet.designs.kafka_driver import DRIVER_ERRORS, close, connecting, settings, start_producer, take
from greet.errors import (
    BadName,
    ConnectFailed,
    ConnectionLost,
    GreetError,
    PublishFailed,
    PublishUnknown,
    one_line,
    translated,
)
from greet.line import DeadLetter, Guarantee, Line, Subscription, chunks, plain
from greet.names import check, check_all, decode

ACKS = {Guarantee.AT_MOST_ONCE: 0, Guarantee.AT_LEAST_ONCE: 1, Guarantee.DURABLE: "all"}
BATCH_BYTES = 256 * 1024  # of a batch that is sent, and of what is fetched of a partition at once
UNDER_WAY = 2  # batches of a partition: one at the broker, one that waits for its turn
LARGEST_BODY = 2**26  # a body that is no name may be larger than any name, and is kept as it is
COMMIT_SECONDS = 0.1
HOLD_SECONDS = 5.0  # how long a rebalance waits for the name in hand
JOIN_SECONDS = 1.0  # how long entering waits for its share of the partitions; less than the above


class KafkaLine(Line):
    """`kafka://host:9092,host:9092?partitions=1&replication=1`, or `kafka+ssl://` for TLS.

    `partitions` and `replication` count when the topic is made, which is when it is first connected
    to. Besides: `compression=gzip`; `sasl=PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512` for the user and
    password; `token_file=` for OAUTHBEARER; `ca=`, `cert=` and `key=`, files for TLS.
    """

    port = 9092
    keys = ("partitions", "replication", "compression", "sasl", "ca", "cert", "key", "token_file")

    async def __aenter__(self) -> Self:
        async with connecting(self.address):
            self.partitions = await self._make_topic(self.topic)
            self._producer = await self._start_producer()
            await self._producer.partitions_for(self.topic)
        self._outboxes = [_Outbox(self, number) for number in range(self.partitions)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close(self._producer, self.address.timeout)
        await asyncio.gather(*self._tasks)  # they end with their batches

    async def _make_topic(self, topic: str, **config: str) -> int:
        """Make `topic` unless it is there, wait until its partitions have leaders, and count them."""
        wanted = int(self.address.number("partitions", 1))
        replicas = int(self.address.number("replication", 1)) if "replication" in self.address.options else -1
        admin = AIOKafkaAdminClient(**settings(self.address))
        try:
            await admin.start()
            if topic not in await admin.list_topics():
                # The broker's default replication (-1) is only let through with replica_assignments.
                new = NewTopic(topic, wanted, replicas, {} if replicas < 0 else None, config)
                (answer,) = (await admin.create_topics([new])).topic_errors
                error = for_code(answer[1])
                if error not in (NoError, TopicAlreadyExistsError):
                    raise error(answer[2])
            while True:
                (found,) = await admin.describe_topics([topic])
                if found["partitions"] and all(one["leader"] >= 0 for one in found["partitions"]):
                    break
                await asyncio.sleep(0.02)
        finally:
            await admin.close()
        count = len(found["partitions"])
        if "partitions" in self.address.options and count != wanted:
            raise ConnectFailed(f"topic {topic} has partitions={count}, not {wanted}: say so, or use another topic")
        return count

    async def _start_producer(self) -> AIOKafkaProducer:
        return await start_producer(
            self.address,
            acks=ACKS[self.guarantee],
            enable_idempotence=self.guarantee is Guarantee.DURABLE,
            compression_type=self.address.options.get("compression"),
            max_batch_size=BATCH_BYTES,
            max_request_size=LARGEST_BODY,
        )

    # ------------------------------------------------------------------------------------ publishing

    async def publish(self, name: str) -> None:
        check(name)
        await self._post(name.encode())

    def _post(self, body: bytes) -> asyncio.Future[None]:
        return self.outboxes[crc32(body) % len(self.outboxes)].post(body)

    async def publish_many(self, names: Iterable[str]) -> int:
        bulk = _Bulk(self)
        try:
            await bulk.publish(names)
        except GreetError as error:
            await bulk.drain()
            error.accepted = bulk.accepted
            raise
        finally:
            await bulk.close()
        return bulk.accepted

    async def producer(self) -> AIOKafkaProducer:
        """The producer, a new one if the last one cannot go on."""
        if self._broken:
            async with self._renewing:
                if self._broken:
                    old, self._producer = self._producer, await self._start_producer()
                    self._broken = False
                    await close(old, 0)
        return self._producer

    def batch(self) -> Any:
        """An empty batch, of any partition."""
        return self._producer.create_batch()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which ends by itself, beside the caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ----------------------------------------------------------------------------------- subscribing

    def subscribe(self, group: str, *, replay: bool = False) -> KafkaSubscription:
        return KafkaSubscription(self, plain("group", group), replay=replay)

    # ---------------------------------------------------------------------------------- dead letters

    async def bury(self, letter: DeadLetter) -> None:
        """Keep what is no name in the topic of the dead letters."""
        topic = f"{self.topic}.dead"
        headers = [(key, getattr(letter, key).encode()) for key in ("origin", "group", "reason")]
        ...


class _Outbox:
    """The way out to one partition: a batch fills while two others are under way.

    So a lone name leaves at once, and thousands of publishers share a batch that none waits for.
    """

    def __init__(self, line: KafkaLine, partition: int) -> None:
        self._line = line
        self._partition = TopicPartition(line.topic, partition)
        self._slots = asyncio.Semaphore(UNDER_WAY)
        self._turn = asyncio.Lock()
        self._batch: Any = None
        self._posted: list[asyncio.Future[None]] = []

    def post(self, body: bytes) -> asyncio.Future[None]:
        """Put a name into the batch that fills; done when it is acknowledged."""
        if self._batch is None or self._batch.append(timestamp=None, key=None, value=body) is None:
            self._batch, self._posted = self._line.batch(), []
            self._batch.append(timestamp=None, key=None, value=body)
            self._line.start(self._send_posted(self._batch, self._posted))
        posted = asyncio.get_running_loop().create_future()
        self._posted.append(posted)
        return posted

    async def _send_posted(self, batch: Any, posted: list[asyncio.Future[None]]) -> None:
        failure: GreetError | None = None
        try:
            await self.send(batch)
        except GreetError as error:
            failure = error
        for one in posted:
            if one.done():
                continue  # its publisher was cancelled
            if failure is None:
                one.set_result(None)
            else:
                copy = type(failure)(str(failure))  # each publisher adds its own traceback
                copy.__cause__ = failure.__cause__
                one.set_exception(copy)

    async def send(self, batch: Any) -> None:
        """Hand `batch` to the broker when its turn comes; return when it is acknowledged.

        aiokafka repeats an idempotent batch for ever. So after the deadline nobody knows: it may
        still arrive, which is `PublishUnknown`. The batches behind it are not handed over before it
        got through; when it does not by their deadline, they have surely failed.
        """
        line = self._line
        handed_over = False
        try:
            async with asyncio.timeout(line.address.timeout), self._slots:
                batch.close()
                async with self._turn:
                    producer = await line.producer()
                    acknowledged = await producer.send_batch(batch, *self._partition)
                    handed_over = True
                await acknowledged
        except TimeoutError as error:
            ...
        finally:
            batch.close()
