"""What carries names over Kafka without greet: aiokafka and confluent-kafka as their documentation shows, FastStream.

All of them commit after handling and wait for it: FastStream by itself, the others when 0.1 s have passed
since the last time, as greet does, and at the end. Under DURABLE they are idempotent with acks=all; the topic has one
partition or as many as the question says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.codec import has_gzip, has_lz4, has_snappy, has_zstd
from aiokafka.errors import TopicAlreadyExistsError, for_code

from bench.model import Contender, Following, Place, Publisher
from greet import Guarantee

COMMIT_SECONDS = 0.1
"""How long a name that is handled may wait for its commit: as long as greet's."""
BATCH_BYTES = 256 * 1024
LIST = 1000
"""Names in a list of FastStream's `publish_batch`; with its headers they fill half of a batch as large as greet's."""
ACKS: dict[Guarantee, int | str] = {Guarantee.AT_MOST_ONCE: 0, Guarantee.AT_LEAST_ONCE: 1, Guarantee.DURABLE: "all"}


async def _make_topic(place: Place) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=place.servers)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(place.topic, place.partitions, -1, replica_assignments={})])
        error = for_code(response.topic_errors[0][1])
        if error.errno and error is not TopicAlreadyExistsError:
            raise error(place.topic)
        while not (await admin.describe_topics([place.topic]))[0]["partitions"]:  # noqa: ASYNC110, no event tells it
            await asyncio.sleep(0.02)
    finally:
        await admin.close()


def codecs() -> list[str]:
    """What aiokafka can compress with, here."""
    known = {"gzip": has_gzip, "lz4": has_lz4, "snappy": has_snappy, "zstd": has_zstd}
    return [codec for codec, has in known.items() if has()]


def compiled() -> bool:
    """Whether aiokafka's C extensions are loaded."""
    return find_spec("aiokafka.record._crecords") is not None


async def advertised(url: str) -> str:
    """The first "host:port" to which clients are sent: what Kafka advertises, for RabbitMQ that of the URL."""
    where = url.partition("?")[0].rpartition("@")[2].rpartition("//")[2].partition("/")[0].partition(",")[0]
    if not url.startswith("kafka:"):
        return where if ":" in where else f"{where}:5672"
    admin = AIOKafkaAdminClient(bootstrap_servers=where)
    await admin.start()
    try:
        first = (await admin.describe_cluster())["brokers"][0]
    finally:
        await admin.close()
    return f"{first['host']}:{first['port']}"


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


class _Commits:
    """When to commit what was handed out."""

    def __init__(self, commit: Callable[[], Awaitable[object]]) -> None:
        self._commit = commit
        self._last = monotonic()
        self.open = False
        """Whether something was handed out since."""

    @property
    def due(self) -> bool:
        return self.open and monotonic() - self._last >= COMMIT_SECONDS

    async def settle(self) -> None:
        if self.open:
            self.open = False
            await self._commit()
            self._last = monotonic()


class _Taking:
    """`async for` or `getmany`, committed after handling."""

    def __init__(self, consumer: AIOKafkaConsumer, place: Place) -> None:
        self._consumer = consumer
        self._unwrap = place.unwrap
        self.commits = _Commits(consumer.commit)

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
    """https://aiokafka.readthedocs.io: `send`, `async for` or `getmany`, and `commit`."""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """Default batches of 16 KiB and no linger."""
        await _make_topic(place)
        async with AIOKafkaProducer(
            bootstrap_servers=place.servers,
            acks=ACKS[place.guarantee],
            enable_idempotence=place.guarantee is Guarantee.DURABLE,
            compression_type=dict(place.options).get("compression"),
        ) as producer:
            yield _Sending(producer, place, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A group that starts at the oldest name of the new topic."""
        await _make_topic(place)
        async with AIOKafkaConsumer(
            place.topic,
            bootstrap_servers=place.servers,
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


class _Producing(Publisher):
    """`produce`, `poll` and `flush`, in a thread; a full buffer is waited for."""

    def __init__(self, producer: Any, topic: str) -> None:
        super().__init__(self._one)
        self._producer = producer
        self._topic = topic

    async def _one(self, name: str) -> None:
        await self.publish_all([name])

    async def publish_all(self, names: Iterable[str]) -> None:
        self.accepted = [0]
        await asyncio.to_thread(self._all, names)

    def _all(self, names: Iterable[str]) -> None:
        produce, poll, topic, failed = self._producer.produce, self._producer.poll, self._topic, []

        def delivered(error: Any, _: Any) -> None:
            if error is None:
                self.accepted[0] += 1
            else:
                failed.append(error)

        for name in names:
            while True:
                try:
                    produce(topic, name.encode(), on_delivery=delivered)
                    break
                except BufferError:
                    poll(0.1)
            poll(0)
        self._producer.flush(30)
        if failed:
            raise RuntimeError(str(failed[0]))


@dataclass(frozen=True)
class Confluent(Contender):
    """https://docs.confluent.io/kafka-clients/python: librdkafka's `produce` and `consume(1000)`."""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """Default linger of 5 ms."""
        from confluent_kafka import Producer  # noqa: PLC0415, an extra

        await _make_topic(place)
        durable = place.guarantee is Guarantee.DURABLE
        settings = {"acks": ACKS[place.guarantee], "enable.idempotence": durable, "log_level": 0}
        yield _Producing(Producer({"bootstrap.servers": place.servers, **settings}), place.topic)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A thousand at a time."""
        from confluent_kafka import Consumer  # noqa: PLC0415

        await _make_topic(place)
        settings = {"enable.auto.commit": False, "auto.offset.reset": "earliest", "log_level": 0}
        settings["group.id"] = f"{place.topic}:{group}"
        consumer, held = Consumer({"bootstrap.servers": place.servers, **settings}), deque[str]()
        consumer.subscribe([place.topic])
        commits = _Commits(lambda: asyncio.to_thread(consumer.commit, asynchronous=False))

        fetching: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        fetching.set_result([])

        def fetch() -> list[str]:
            messages = consumer.consume(1000, 0.2)
            for message in messages:
                if message.error():
                    raise RuntimeError(str(message.error()))
            return [(message.value() or b"").decode() for message in messages]

        async def several() -> list[str]:
            nonlocal fetching
            if commits.due:
                await commits.settle()
            while not (names := list(held)):
                fetching = asyncio.ensure_future(asyncio.to_thread(fetch))
                held.extend(await asyncio.shield(fetching))  # a thread cannot be cancelled
            held.clear()
            commits.open = True
            return names

        try:
            while not consumer.assignment():
                held.extend(await asyncio.to_thread(fetch))
            following: Any = Following(several)
            yield following
            await commits.settle()
        finally:
            await asyncio.wait([fetching])
            await asyncio.to_thread(consumer.close)


class _Lists(Publisher):
    """`publish_batch` of lists of names, with a bounded number of them unanswered."""

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

        await _make_topic(place)
        durable = place.guarantee is Guarantee.DURABLE
        settings: dict[str, Any] = {"acks": ACKS[place.guarantee], "enable_idempotence": durable, "logger": None}
        if self.way == "many":
            settings["max_batch_size"] = BATCH_BYTES
        async with KafkaBroker(place.servers, **settings) as broker:

            async def publish(name: str) -> None:
                await broker.publish(name, place.topic)

            yield _Lists(publish, broker, place) if self.way == "many" else Publisher(publish, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A subscriber that hands on what it gets; committed when it returns."""
        from faststream import AckPolicy  # noqa: PLC0415
        from faststream.kafka import KafkaBroker  # noqa: PLC0415

        await _make_topic(place)
        handled: asyncio.Queue[Any] = asyncio.Queue()
        broker = KafkaBroker(place.servers, logger=None)
        settings: dict[str, Any] = {
            "group_id": f"{place.topic}:{group}",
            "auto_offset_reset": "earliest",
            "ack_policy": AckPolicy.ACK,
        }
        if self.way == "many":

            @broker.subscriber(place.topic, batch=True, **settings)  # type: ignore[untyped-decorator]
            async def handle_all(names: list[str]) -> None:
                handled.put_nowait(names)

        else:

            @broker.subscriber(place.topic, **settings)  # type: ignore[untyped-decorator]
            async def handle(name: str) -> None:
                handled.put_nowait(name)

        async with broker:
            await broker.start()
            following: Any = Following(handled.get)
            yield following


COMMITTED = (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)

CONTENDERS: list[Contender] = [
    Aiokafka(
        *(
            "kafka",
            "name",
            20_000,
            "1,000 in flight, batches of 16 KiB, linger 0, async for, awaited commit each 0.1 s",
        ),
        name="aiokafka",
        window=1_000,
    ),
    Aiokafka(
        *("kafka", "many", 40_000, "1,000 in flight, batches of 16 KiB, linger 0, getmany, awaited commit each 0.1 s"),
        name="aiokafka",
        window=1_000,
    ),
    Confluent(
        *("kafka", "many", 80_000, "100,000 in flight, linger 5 ms, consume(1000), awaited commit each 0.1 s"),
        name="confluent-kafka",
        needs="confluent_kafka",
        guarantees=COMMITTED,
    ),
    FastStreamKafka(
        *("kafka", "name", 2_000, "1,000 in flight, linger 0, a function for each name, committed when it returns"),
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
            "2 lists of 1,000 in flight, 256 KiB at most, a function for a batch, committed when it returns",
        ),
        name="FastStream",
        window=2 * LIST,
        needs="faststream",
        guarantees=COMMITTED,
    ),
]
