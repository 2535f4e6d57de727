"""What carries messages over Kafka by librdkafka: confluent-kafka's blocking classes, and its asyncio ones.

Three things would decide the figure, and the documentation has a better way for each. A delivery report for each
name calls Python for each: for many, only failures are reported. A consumer that has 100,000 messages ahead fetches
again a second later (`fetch.queue.backoff.ms`): here 5 ms. And `consume(n, timeout)` sits its time-out out before
it gives fewer than n: here it takes what is there, and `poll` waits for the first.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from bench.contenders import access
from bench.contenders.kafka_peers import ACKS, COMMITTED, JOIN_S, Commits, make_topic
from bench.model import Contender, Following, Place, Publisher
from greet import Guarantee

LIST = 1000
"""Names that one `consume` asks for, at most."""
AHEAD = 20_000
"""Names that the asyncio producer has unanswered; librdkafka's own buffer takes 100,000."""
LOOK_S = 0.05
"""How long a `poll` waits, before the event loop has a turn."""
FLUSH_S = 60.0
CONNECT_S = 0.3
KNOW_S = 10.0
"""A producer connects in the background, and nothing tells when it has."""


def _producing(place: Place, **more: Any) -> dict[str, Any]:
    durable = place.guarantee is Guarantee.DURABLE
    settings = access.confluent(place.url) | {"acks": ACKS[place.guarantee], "enable.idempotence": durable}
    return settings | {"compression.type": access.compression(place) or "none"} | more


def _consuming(place: Place, group: str) -> dict[str, Any]:
    settings = access.confluent(place.url) | {"group.id": f"{place.topic}:{group}"}
    settings |= {"enable.auto.commit": False, "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 5}
    return settings | {"check.crcs": True}  # as the other clients do


def _name(message: Any) -> str:
    if message.error():
        raise RuntimeError(str(message.error()))
    return str(message.value(), "utf-8")


class _ErrorsOnly(Publisher):
    """`produce` of all, with no report but of what failed, and `flush`; in a thread, as it blocks."""

    def __init__(self, producer: Any, topic: str, failed: Sequence[Any]) -> None:
        super().__init__(self._one)
        self._producer, self._topic, self._failed = producer, topic, failed

    async def _one(self, name: str) -> None:
        await self.publish_all([name])

    async def publish_all(self, names: Iterable[str]) -> None:
        self.accepted = [0]
        await asyncio.to_thread(self._all, names)

    def _all(self, names: Iterable[str]) -> None:
        producer, produce, topic, handed, left = self._producer, self._producer.produce, self._topic, 0, 0
        try:
            for name in names:
                while True:
                    try:
                        produce(topic, name.encode())
                        break
                    except BufferError:
                        producer.poll(0.01)
                handed += 1
                if not handed % LIST:
                    producer.poll(0)
            left = producer.flush(FLUSH_S)
        finally:
            self.accepted = [max(0, handed - len(producer) - len(self._failed))]
        if self._failed or left:
            raise RuntimeError(str(self._failed[0]) if self._failed else f"{left} unanswered after {FLUSH_S:g} s")


async def _know(asking: Awaitable[object]) -> None:
    """Ask for the partitions of the topic, and let it connect: greet does so before its first message too."""
    await asking
    await asyncio.sleep(CONNECT_S)


class _Reported(Publisher):
    """`produce` with a report for each message, a thread polls for them; it wakes the loop once a poll."""

    def __init__(self, producer: Any, place: Place, *, keyed: bool) -> None:
        super().__init__(self._one, place.window)
        self._producer, self._topic, self._keyed = producer, place.topic, keyed
        self._loop = asyncio.get_running_loop()
        self._reported: list[tuple[asyncio.Future[None], Any]] = []

    def _one(self, name: str) -> asyncio.Future[None]:
        accepted, reported, body = self._loop.create_future(), self._reported, name.encode()
        key = body if self._keyed else None
        self._producer.produce(self._topic, body, key, on_delivery=lambda error, _: reported.append((accepted, error)))
        return accepted

    @contextmanager
    def polled(self) -> Iterator[None]:
        """While it is used."""
        over = threading.Event()

        def go_on() -> None:
            while not over.is_set():
                self._producer.poll(LOOK_S)
                if self._reported:
                    told = self._reported[:]
                    del self._reported[: len(told)]
                    self._loop.call_soon_threadsafe(self._tell, told)

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @staticmethod
    def _tell(reported: Iterable[tuple[asyncio.Future[None], Any]]) -> None:
        for accepted, error in reported:
            if error is not None and not accepted.done():
                accepted.set_exception(RuntimeError(str(error)))
            elif not accepted.done():
                accepted.set_result(None)


class _Lists(ABC):
    """What takes lists of messages, and hands them out whole or one by one."""

    commits: Commits

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.held: deque[str] = deque()
        """What was taken, and not handed out."""

    @abstractmethod
    async def _taken(self) -> list[str]:
        """Commit if it is time, and wait for the next list."""

    async def several(self) -> list[str]:
        """A list; first what came while the member joined."""
        if not self.held:
            return await self._taken()
        early, self.held = [*self.held], deque()
        return early

    async def one(self) -> str:
        """The next of a list, which is committed once all of it is handled."""
        if not self.held:
            self.held.extend(await self._taken())
        return self.held.popleft()

    def _keep(self, message: Any) -> None:
        """It came while the member joined."""
        self.held.append(_name(message))
        self.commits.open = True


class _Taking(_Lists):
    """`poll` for the first, and `consume` for what else is there; on the event loop, which has nothing else to do."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        self._asked = False
        self.commits = Commits(lambda: asyncio.to_thread(consumer.commit, asynchronous=False))

    async def joined(self, assigned: Sequence[Any]) -> None:
        """Wait until the group has told this member its partitions; `poll` has to be called for that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(JOIN_S):
                while not assigned:
                    if message := self._consumer.poll(LOOK_S):
                        self._keep(message)
                    await asyncio.sleep(0)

    async def _taken(self) -> list[str]:
        self._asked = True
        if self.commits.due:
            await self.commits.settle()
        message = self._consumer.poll(LOOK_S)
        while message is None:  # it is the poll that waits
            await asyncio.sleep(0)
            message = self._consumer.poll(LOOK_S)
        self._asked, self.commits.open = False, True
        return [_name(message), *map(_name, self._consumer.consume(LIST, 0))]

    def revoked(self, *_: Any) -> None:
        """Commit before another member goes on: where the next is asked for, all before it is handled."""
        from confluent_kafka import KafkaException  # noqa: PLC0415

        if self._asked:  # also where a commit is under way, which nobody may wait for any more
            self.commits.open = False
            with suppress(KafkaException):  # there is none, or the group has gone on without this member
                self._consumer.commit(asynchronous=False)


@dataclass(frozen=True)
class Confluent(Contender):
    """https://docs.confluent.io/kafka-clients/python: `produce`, `consume` and `poll`."""

    settings: tuple[tuple[str, Any], ...] = ()
    """What its consumer is told besides."""
    alone: tuple[tuple[str, Any], ...] = ()
    """What its producer is told besides, one by one."""
    keyed: bool = False
    """One by one, whether the key is the message, so that its hash decides the partition."""

    def paced(self) -> Contender:
        """Without its linger of 5 ms."""
        return replace(self, alone=(("linger.ms", 0),))

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """With its linger of 5 ms, unless it is told otherwise."""
        from confluent_kafka import Producer  # noqa: PLC0415, an extra

        await make_topic(place)
        if self.way == "many":
            failed: list[Any] = []
            reports = {"delivery.report.only.error": True, "on_delivery": lambda error, _: failed.append(error)}
            producer = Producer(_producing(place, **reports))
            await _know(asyncio.to_thread(producer.list_topics, place.topic, KNOW_S))
            yield _ErrorsOnly(producer, place.topic, failed)
        else:
            producer = Producer(_producing(place, **dict(self.alone)))
            publisher = _Reported(producer, place, keyed=self.keyed)
            with publisher.polled():
                await _know(asyncio.to_thread(producer.list_topics, place.topic, KNOW_S))
                yield publisher

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A group that starts at the oldest name of the new topic."""
        from confluent_kafka import Consumer  # noqa: PLC0415

        await make_topic(place)
        consumer = Consumer(_consuming(place, group) | dict(self.settings))
        taking = _Taking(consumer)
        try:
            assigned: list[Any] = []
            consumer.subscribe([place.topic], on_assign=lambda *told: assigned.append(told), on_revoke=taking.revoked)
            await taking.joined(assigned)
            following: Any = Following(taking.several if self.way == "many" else taking.one)
            yield following
            if not taking.held:
                await taking.commits.settle()
        finally:
            taking.revoked()
            await asyncio.to_thread(consumer.close)


class _Futures(Publisher):
    """`await produce`, which gives a future for each message."""

    def __init__(self, producer: Any, topic: str) -> None:
        super().__init__(self._one)
        self._producer, self._topic = producer, topic

    async def _one(self, name: str) -> None:
        await (await self._producer.produce(self._topic, name.encode()))

    async def publish_all(self, names: Iterable[str]) -> None:
        self.accepted, waiting, producer, topic = [0], deque[Any](), self._producer, self._topic
        for name in names:
            waiting.append(await producer.produce(topic, name.encode()))
            while len(waiting) >= AHEAD:
                if waiting[0].done():
                    self._take(waiting)
                else:
                    await producer.poll(LOOK_S)
        await producer.flush(FLUSH_S)
        while waiting:
            self._take(waiting)

    def _take(self, waiting: deque[Any]) -> None:
        waiting.popleft().result()
        self.accepted[0] += 1


class _Held(_Lists):
    """`consume` for what is there, or `poll` for the first, each in a thread of the library's own."""

    def __init__(self, consumer: Any) -> None:
        super().__init__(consumer)
        self.commits = Commits(lambda: consumer.commit(asynchronous=False))

    async def joined(self, assigned: asyncio.Event) -> None:
        """Wait until the group has told this member its partitions; `poll` has to be called for that."""
        give_up = asyncio.get_running_loop().time() + JOIN_S
        while not assigned.is_set() and asyncio.get_running_loop().time() < give_up:
            if message := await self._consumer.poll(LOOK_S):
                self._keep(message)

    async def _taken(self) -> list[str]:
        if self.commits.due:
            await self.commits.settle()
        while not (found := await self._consumer.consume(LIST, 0)):
            if first := await self._consumer.poll(LOOK_S):
                found = [first]
                break
        self.commits.open = True
        return [_name(message) for message in found]


@dataclass(frozen=True)
class ConfluentAio(Contender):
    """https://docs.confluent.io/kafka-clients/python: `AIOProducer` and `AIOConsumer`."""

    batch: int = 100
    """Messages that go to librdkafka in one call, one by one."""

    def paced(self) -> Contender:
        """Each by itself: it would wait for the others of its batch."""
        return replace(self, batch=1)

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """For many in its batches of 1,000; one by one in smaller ones, and a task polls for their reports."""
        from confluent_kafka.aio import AIOProducer  # noqa: PLC0415, an extra

        await make_topic(place)
        if self.way == "many":
            async with AIOProducer(_producing(place)) as producer:
                await _know(producer.list_topics(place.topic, KNOW_S))
                yield _Futures(producer, place.topic)
            return
        async with AIOProducer(
            _producing(place, **{"linger.ms": 0}), batch_size=self.batch, buffer_timeout=0.1
        ) as producer:

            async def publish(name: str) -> None:
                await (await producer.produce(place.topic, name.encode()))

            async def poll() -> None:
                while True:
                    if not await producer.poll(LOOK_S):
                        await producer.flush(0)  # else the last ones wait up to 0.2 s for others of their batch

            polling = asyncio.create_task(poll())
            try:
                await _know(producer.list_topics(place.topic, KNOW_S))
                yield Publisher(publish, place.window)
            finally:
                polling.cancel()
                await asyncio.wait([polling])

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A group that starts at the oldest name of the new topic."""
        from confluent_kafka.aio import AIOConsumer  # noqa: PLC0415

        await make_topic(place)
        async with AIOConsumer(_consuming(place, group)) as consumer:
            taking = _Held(consumer)
            assigned = asyncio.Event()

            async def told(*_: Any) -> None:
                assigned.set()

            await consumer.subscribe([place.topic], on_assign=told)
            await taking.joined(assigned)
            following: Any = Following(taking.several if self.way == "many" else taking.one)
            yield following
            if not taking.held:
                await taking.commits.settle()


CONTENDERS: list[Contender] = [
    Confluent(
        *(
            "kafka",
            "name",
            20_000,
            "10,000 in flight, linger 5 ms (paced: 0), a report each, consume(1000, 0), the commit",
        ),
        name="confluent-kafka",
        window=10_000,
        needs="confluent_kafka",
        guarantees=COMMITTED,
        only_full=True,
    ),
    Confluent(
        *("kafka", "many", 200_000, "100,000 in flight, linger 5 ms, errors only, consume(1000, 0), commit each 0.1 s"),
        name="confluent-kafka",
        needs="confluent_kafka",
        guarantees=COMMITTED,
    ),
    ConfluentAio(
        *(
            "kafka",
            "name",
            5_000,
            "1,000 in flight, linger 0, batches of 100 (paced: 1), consume(1000, 0), commit each 0.1 s",
        ),
        name="confluent-kafka aio",
        window=1_000,
        needs="confluent_kafka",
        guarantees=COMMITTED,
        only_full=True,
    ),
    ConfluentAio(
        *(
            "kafka",
            "many",
            50_000,
            "20,000 in flight, linger 5 ms, batches of 1,000, consume(1000, 0), the same commit",
        ),
        name="confluent-kafka aio",
        needs="confluent_kafka",
        guarantees=COMMITTED,
        only_full=True,
    ),
]

CLASSIC = (("group.protocol", "classic"), ("session.timeout.ms", 6000), ("heartbeat.interval.ms", 250))
"""The session and heartbeat that greet has: by default 45 s and 3 s."""
NEW = (("group.protocol", "consumer"),)
"""KIP-848: the broker says how long a session is, and how often a heartbeat comes; by default 45 s and 5 s."""
MEMBERS: list[Contender] = [
    Confluent(
        *("kafka", "name", 20_000, "as confluent-kafka; session and heartbeat as greet's"),
        name=f"confluent-kafka, {protocol} protocol",
        window=1_000,
        needs="confluent_kafka",
        guarantees=COMMITTED,
        settings=settings,
    )
    for protocol, settings in (("classic", CLASSIC), ("new", NEW))
]
"""By the two protocols of a group: only where groups are compared."""
IN_TURN, BY_HASH = (
    Confluent(
        *("kafka", "name", 20_000, f"linger 1 ms; {what}"),
        name="confluent-kafka",
        window=1_000,
        needs="confluent_kafka",
        guarantees=COMMITTED,
        alone=(("linger.ms", 1), ("sticky.partitioning.linger.ms", 10)),
        keyed=keyed,
    )
    for what, keyed in (
        ("without a key, 10 ms to one partition, then to another", False),
        ("the key is the message, its hash decides the partition", True),
    )
)
"""The two ways of librdkafka to choose a partition by default: only where brokers are compared.

With 50 messages under way, the default linger of 5 ms would limit the publishers, not the brokers; without any, most
requests have one message. The time that it stays with a partition is that of the default, twice 5 ms.
"""
