"""What carries messages over Kafka without greet: aiokafka as its documentation shows, FastStream.

All of them commit after handling and wait for it: FastStream by itself, the others when 0.1 s have passed
since the last time, as greet does, and at the end. Under DURABLE they are idempotent with acks=all; the topic has one
partition or as many as the question says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, islice
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.codec import has_gzip, has_lz4, has_snappy, has_zstd
from aiokafka.errors import NodeNotReadyError, TopicAlreadyExistsError, for_code
from aiokafka.protocol.metadata import MetadataRequest

from bench.contenders import access
from bench.model import Contender, Following, Place, Publisher
from greet import Guarantee

COMMIT_SECONDS = 0.1
"""How long a message that is handled may wait for its commit: as long as greet's."""
FULL_BATCH = 1_000_000
"""Bytes of a batch of our own making: a broker takes 1,048,588 by default."""
BATCHES = 4
"""How many of these wait for their answers, at most."""
LIST = 1000
"""Names in a list of FastStream's `publish_batch`."""
ACKS: dict[Guarantee, int | str] = {Guarantee.AT_MOST_ONCE: 0, Guarantee.AT_LEAST_ONCE: 1, Guarantee.DURABLE: "all"}
JOIN_S = 5.0
"""How long to wait for partitions before a consumer is there, and a clock runs. A member may also get none."""
_made: set[tuple[str, str]] = set()


async def make_topic(place: Place) -> None:
    """Have its topic, with as many partitions as it says, and replicas as the URL says; a process looks once."""
    if (place.servers, place.topic) in _made:
        return
    replicas = int(access.options(place).get("replication", -1))
    new = NewTopic(place.topic, place.partitions, replicas, {} if replicas < 0 else None)
    admin = AIOKafkaAdminClient(**access.aiokafka(place.url))
    await admin.start()
    try:
        response = await admin.create_topics([new])
        error = for_code(response.topic_errors[0][1])
        if error.errno and error is not TopicAlreadyExistsError:
            raise error(place.topic)
    finally:
        await admin.close()
    await _known_to_all(place)
    _made.add((place.servers, place.topic))


async def _known_to_all(place: Place) -> None:
    """Return when every broker that is up knows the topic: they learn it one after the other, and any may be asked."""
    client = AIOKafkaClient(**access.aiokafka(place.url))
    try:
        await client.bootstrap()
        for broker in client.cluster.brokers():
            with suppress(NodeNotReadyError):  # it is down
                while not await _partitions(client, broker.nodeId, place.topic):  # noqa: ASYNC110, no event tells it
                    await asyncio.sleep(0.02)
    finally:
        await client.close()


async def _partitions(client: AIOKafkaClient, broker: int, topic: str) -> list[Any]:
    """Those of `topic` that `broker` knows."""
    answer = await client.send(broker, MetadataRequest([topic]))
    found: list[Any] = answer.to_object()["topics"][0]["partitions"]
    return found


def codecs() -> list[str]:
    """What aiokafka can compress with, here."""
    known = {"gzip": has_gzip, "lz4": has_lz4, "snappy": has_snappy, "zstd": has_zstd}
    return [codec for codec, has in known.items() if has()]


def compiled() -> bool:
    """Whether aiokafka's C extensions are loaded."""
    return find_spec("aiokafka.record._crecords") is not None


class _Sending(Publisher):
    """`send` in a loop, with a bounded number of them unanswered."""

    def __init__(self, producer: AIOKafkaProducer, place: Place, window: int) -> None:
        headers = [(key, value.encode()) for key, value in place.headers.items()]

        async def publish(name: str) -> None:
            await producer.send_and_wait(place.topic, place.wrap(name), headers=headers)

        async def send(name: str) -> Any:
            return await producer.send(place.topic, place.wrap(name), headers=headers)

        super().__init__(publish, window)
        self._send = send

    async def publish_all(self, names: Iterable[str]) -> None:
        if self.window == 1:
            return await super().publish_all(names)
        self.accepted, send, waiting = [0], self._send, deque[Any]()
        for name in names:
            if len(waiting) >= self.window:
                await waiting.popleft()
                self.accepted[0] += 1
            waiting.append(await send(name))
        for answer in waiting:
            await answer
            self.accepted[0] += 1
        return None


class _Batches(Publisher):
    """`create_batch`, `append` and `send_batch`: batches of our own making, in turn to each partition."""

    def __init__(self, producer: AIOKafkaProducer, place: Place) -> None:
        headers = [(key, value.encode()) for key, value in place.headers.items()]

        async def publish(name: str) -> None:
            await producer.send_and_wait(place.topic, place.wrap(name), headers=headers)

        super().__init__(publish)
        self._producer, self._place, self._headers = producer, place, headers

    async def publish_all(self, names: Iterable[str]) -> None:
        wrap = self._place.wrap if self._place.options else str.encode
        self.accepted, waiting = [0], deque[tuple[int, Any]]()
        partitions = cycle(range(self._place.partitions))
        batch = self._producer.create_batch()

        async def send() -> None:
            if len(waiting) >= BATCHES:
                await self._answered(*waiting.popleft())
            number = batch.record_count()
            answer = await self._producer.send_batch(batch, self._place.topic, partition=next(partitions))
            waiting.append((number, answer))

        for body in map(wrap, names):
            if batch.append(key=None, value=body, timestamp=None, headers=self._headers) is None:
                await send()
                batch = self._producer.create_batch()
                batch.append(key=None, value=body, timestamp=None, headers=self._headers)
        await send()
        for number, answer in waiting:
            await self._answered(number, answer)

    async def _answered(self, number: int, answer: Any) -> None:
        await answer
        self.accepted[0] += number


class Commits:
    """When to commit what was handed out."""

    def __init__(self, commit: Callable[[], Awaitable[object]]) -> None:
        self._commit = commit
        self._last = monotonic()
        self.open = False
        """Whether something was handed out since."""

    @property
    def due(self) -> bool:
        """Whether it is time."""
        return self.open and monotonic() - self._last >= COMMIT_SECONDS

    async def settle(self) -> None:
        """Commit, if there is anything to commit."""
        if self.open:
            self.open = False
            await self._commit()
            self._last = monotonic()


class _Taking:
    """`async for` or `getmany`, committed after handling."""

    def __init__(self, consumer: AIOKafkaConsumer, place: Place) -> None:
        self._consumer = consumer
        self._unwrap = place.unwrap if place.options else bytes.decode
        self.commits = Commits(consumer.commit)

    async def one(self) -> str:
        if self.commits.due:
            await self.commits.settle()
        message = await self._consumer.__anext__()
        self.commits.open = True
        return self._unwrap(message.value)

    async def several(self) -> list[str]:
        if self.commits.due:
            await self.commits.settle()
        while not (found := await self._consumer.getmany(timeout_ms=1000)):
            pass
        names = [self._unwrap(message.value) for messages in found.values() for message in messages]
        self.commits.open = True
        return names


@dataclass(frozen=True)
class Aiokafka(Contender):
    """https://aiokafka.readthedocs.io: `send` and `async for`, or `send_batch` and `getmany`; and `commit`."""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """No linger, and batches as large as a broker takes by default: those of 16 KiB would go out one at a time."""
        await make_topic(place)
        many = self.way == "many"
        async with AIOKafkaProducer(
            **access.aiokafka(place.url),
            acks=ACKS[place.guarantee],
            enable_idempotence=place.guarantee is Guarantee.DURABLE,
            compression_type=access.compression(place),
            max_batch_size=FULL_BATCH,
        ) as producer:
            await producer.partitions_for(place.topic)  # greet asks for them before its first message too
            yield _Batches(producer, place) if many else _Sending(producer, place, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A group that starts at the oldest name of the new topic."""
        await make_topic(place)
        async with AIOKafkaConsumer(
            place.topic,
            **access.aiokafka(place.url),
            group_id=f"{place.topic}:{group}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        ) as consumer:
            while not consumer.assignment():  # noqa: ASYNC110, no event tells it
                await asyncio.sleep(0.01)
            taking = _Taking(consumer, place)
            following: Any = Following(taking.several if self.way == "many" else taking.one)
            yield following
            await taking.commits.settle()


class _Lists(Publisher):
    """`publish_batch` of lists of messages, with a bounded number of them unanswered."""

    def __init__(self, publish: Callable[[str], Awaitable[object]], broker: Any, place: Place) -> None:
        super().__init__(publish, place.window)
        self._broker = broker
        self._topic = place.topic

    async def publish_all(self, names: Iterable[str]) -> None:
        self.accepted, rest, waiting = [0], iter(names), deque[tuple[int, Any]]()
        while some := list(islice(rest, LIST)):
            if len(waiting) * LIST >= self.window:
                await self._answered(*waiting.popleft())
            waiting.append((len(some), await self._broker.publish_batch(*some, topic=self._topic, no_confirm=True)))
        for number, answer in waiting:
            await self._answered(number, answer)

    async def _answered(self, number: int, answer: Any) -> None:
        await answer  # `no_confirm` leaves this to the caller: it is the acknowledgement of the whole list
        self.accepted[0] += number


@dataclass(frozen=True)
class FastStreamKafka(Contender):
    """https://faststream.ag2.ai: a subscriber function, `publish`, or for many one for a batch, `publish_batch`."""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """`broker.publish`, which waits for the answer, or `broker.publish_batch`, whose answer we wait for."""
        from faststream.kafka import KafkaBroker  # noqa: PLC0415, an extra

        await make_topic(place)
        durable = place.guarantee is Guarantee.DURABLE
        settings = access.faststream(place.url) | {"acks": ACKS[place.guarantee], "enable_idempotence": durable}
        settings |= {"compression_type": access.compression(place), "max_batch_size": FULL_BATCH, "logger": None}
        async with KafkaBroker(**settings) as broker:

            async def publish(name: str) -> None:
                await broker.publish(name, place.topic)

            yield _Lists(publish, broker, place) if self.way == "many" else Publisher(publish, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A subscriber that hands on what it gets; a list is committed when it returns, others each 0.1 s."""
        from faststream import AckPolicy, Context  # noqa: PLC0415
        from faststream.kafka import KafkaBroker  # noqa: PLC0415

        await make_topic(place)
        handled: asyncio.Queue[Any] = asyncio.Queue()
        broker = KafkaBroker(**access.faststream(place.url), logger=None)
        settings: dict[str, Any] = {"group_id": f"{place.topic}:{group}", "auto_offset_reset": "earliest"}
        last: Any = None

        async def commit() -> None:
            await last.ack()

        commits, its_message = Commits(commit), Context("message")
        if self.way == "many":
            settings |= {"batch": True, "ack_policy": AckPolicy.ACK}

            @broker.subscriber(place.topic, **settings)  # type: ignore[untyped-decorator]
            async def handle_all(names: list[str]) -> None:
                handled.put_nowait(names)

        else:
            settings["ack_policy"] = AckPolicy.MANUAL

            @broker.subscriber(place.topic, **settings)  # type: ignore[untyped-decorator]
            async def handle(name: str, message: Any = its_message) -> None:
                nonlocal last
                handled.put_nowait(name)
                last, commits.open = message, True
                if commits.due:
                    await commits.settle()

        async with broker:
            await broker.start()
            following: Any = Following(handled.get)
            yield following
            await commits.settle()


COMMITTED = (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)

CONTENDERS: list[Contender] = [
    Aiokafka(
        *(
            "kafka",
            "name",
            20_000,
            "1,000 in flight, batches of 1 MB, linger 0, async for, awaited commit each 0.1 s",
        ),
        name="aiokafka",
        window=1_000,
    ),
    Aiokafka(
        *("kafka", "many", 200_000, "4 batches of 1 MB in flight, send_batch, getmany, awaited commit each 0.1 s"),
        name="aiokafka",
    ),
    FastStreamKafka(
        *(
            "kafka",
            "name",
            2_000,
            "1,000 in flight, 1 MB at most, linger 0, a function a message, awaited commit each 0.1 s",
        ),
        name="FastStream",
        window=1_000,
        needs="faststream",
        guarantees=COMMITTED,
    ),
    FastStreamKafka(
        *(
            "kafka",
            "many",
            20_000,
            "2 lists of 1,000 in flight, 1 MB at most, a function for a batch, committed when it returns",
        ),
        name="FastStream",
        window=2 * LIST,
        needs="faststream",
        guarantees=COMMITTED,
    ),
]
