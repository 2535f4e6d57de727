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
- A name that takes longer than 5 s to handle while members come and go may come again too, and so
  may what is in hand of a member whose event loop stands still for 6 s: it is taken for dead.
- What the topic's retention deletes (by default after 7 days) is gone, read or not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import Any, Self
from zlib import crc32

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    BrokerResponseError,
    CommitFailedError,
    KafkaError,
    NoError,
    OutOfOrderSequenceNumber,
    TopicAlreadyExistsError,
    UnknownProducerId,
    for_code,
)

from greet.designs.kafka_driver import (
    DRIVER_ERRORS,
    Fetched,
    answers,
    close,
    codec,
    commit,
    connecting,
    fill,
    hand_over,
    insist,
    login,
    settings,
    start_producer,
    take,
)
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
UNDER_WAY = 2  # batches of a partition that `publish_many` sends: one at the broker, one behind it
LARGEST_BODY = 2**26  # a message that is no name may be larger than any name, and is kept as it is
COMMIT_SECONDS = 0.1
FAREWELL_SECONDS = 1.0
HOLD_SECONDS = 5.0  # how long a rebalance waits for the names in hand
JOIN_SECONDS = 1.0  # how long entering waits for a share of the partitions: less than a rebalance may


class KafkaLine(Line):
    """`kafka://host:9092,host:9092?partitions=1&replication=1`, or `kafka+ssl://` for TLS.

    `partitions` and `replication` count when the topic is made, which is when it is first connected
    to. Besides: `compression=gzip`; `sasl=PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512` for the user and
    password; `token_file=` for OAUTHBEARER; `ca=`, `cert=` and `key=`, files for TLS.
    """

    port = 9092
    keys = ("partitions", "replication", "compression", "sasl", "ca", "cert", "key", "token_file")

    def __init__(self, url: str, topic: str, guarantee: Guarantee | None) -> None:
        super().__init__(url, topic, guarantee)
        self._partitions = int(self.address.number("partitions", 1))
        self._replicas = int(self.address.number("replication", 1)) if "replication" in self.address.options else -1
        self._codec = codec(self.address)
        self._dead = f"{self.topic}.dead"
        login(self.address)

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewing = asyncio.Lock()
        self._broken = self._closed = self._can_bury = False
        async with connecting(self.address):
            count = await insist(self.address, lambda: self._make_topic(self.topic, self._partitions))
            if "partitions" in self.address.options and count != self._partitions:
                raise ConnectFailed(f"topic {self.topic} has partitions={count}: say so, or use another topic")
            self._producer = await insist(self.address, self._start_producer)
        self.outboxes = [_Outbox(self, TopicPartition(self.topic, number)) for number in range(count)]
        self._watching = asyncio.create_task(self._watch()) if self.guarantee is Guarantee.AT_MOST_ONCE else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._watching:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await close(self._producer, self.timeout)
        await asyncio.gather(*self._tasks)  # each ends with its batch

    async def _make_topic(self, topic: str, partitions: int, config: dict[str, str] | None = None) -> int:
        """Make `topic` unless it is there, wait until its partitions have leaders, and count them."""
        admin = AIOKafkaAdminClient(**settings(self.address))
        try:
            await admin.start()
            if topic not in await admin.list_topics():
                # -1, the broker's default, is let through only with an assignment of replicas.
                new = NewTopic(topic, partitions, self._replicas, {} if self._replicas < 0 else None, config)
                _, code, message = (await admin.create_topics([new])).topic_errors[0]
                if for_code(code) not in (NoError, TopicAlreadyExistsError):
                    raise for_code(code)(message)
            while True:
                (found,) = await admin.describe_topics([topic])
                if found["partitions"] and all(one["leader"] >= 0 for one in found["partitions"]):
                    return len(found["partitions"])
                await asyncio.sleep(0.02)
        finally:
            with suppress(TimeoutError):  # over TLS it waits for the broker's farewell
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await admin.close()

    # ------------------------------------------------------------------------------------ publishing

    async def publish(self, name: str) -> None:
        check(name)
        body = name.encode()
        await self.outboxes[crc32(body) % len(self.outboxes)].post(body)

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

    def batch(self) -> Any:
        """An empty batch, for any partition."""
        return self._producer.create_batch()

    async def producer(self) -> AIOKafkaProducer:
        """The producer; a new one when the last one cannot go on."""
        if self._broken:
            async with self._renewing:
                if self._broken and not self._closed:
                    fresh = await self._start_producer()
                    if self._closed:  # meanwhile
                        await close(fresh, 0)
                        return self._producer
                    broken, self._producer = self._producer, fresh
                    self._broken = False
                    await close(broken, 0)
        return self._producer

    async def _start_producer(self) -> AIOKafkaProducer:
        return await start_producer(
            self.address,
            self.topic,
            acks=ACKS[self.guarantee],
            enable_idempotence=self.guarantee is Guarantee.DURABLE,
            compression_type=self._codec,
            max_batch_size=BATCH_BYTES,
            max_request_size=LARGEST_BODY,
        )

    async def _watch(self) -> None:
        """Of AT_MOST_ONCE: no broker answers what is sent, so ask now and then whether it is there at all."""
        while True:
            await asyncio.sleep(self.timeout / 4)
            producer = self._producer
            if not await answers(producer):
                self.failed(producer)

    @asynccontextmanager
    async def answered(self, what: str) -> AsyncIterator[None]:
        """Calls of the driver that end by the deadline, or in `ConnectionLost`."""
        try:
            async with asyncio.timeout(self.timeout):
                yield
        except GreetError:
            raise
        except DRIVER_ERRORS as error:
            raise ConnectionLost(f"{what}, {self._why(error)}: try again when that is mended") from error

    def _why(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self.address} has not answered for {self.timeout:g} s"
        return one_line(error)

    def failed(self, producer: AIOKafkaProducer) -> None:
        """An idempotent producer numbers its batches, so it cannot go on when one has failed."""
        self._broken = self._broken or producer is self._producer

    def failure(self, error: Exception, handed_over: bool) -> GreetError:
        """What to raise for `error`: whether a batch may have been accepted is what counts."""
        if handed_over and not _refused(error):
            return PublishUnknown(f"{self._why(error)}: publish it again, if a double does no harm")
        return PublishFailed(f"{self._why(error)}: publish it again when that is mended")

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which ends by itself, beside the caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ----------------------------------------------------------------------------------- subscribing

    def subscribe(self, group: str, *, replay: bool = False) -> KafkaSubscription:
        """As promised; `replay` of a group that exists goes on where the group was."""
        return KafkaSubscription(self, plain("group", group), replay=replay)

    # ---------------------------------------------------------------------------------- dead letters

    async def bury(self, letter: DeadLetter) -> None:
        """Keep what is no name, and its origin, in the topic of the dead letters."""
        headers = [(key, str(getattr(letter, key)).encode()) for key in ("group", "origin", "reason")]
        async with self.answered("a message that is no name could not be kept"):
            if not self._can_bury:
                config = {"retention.ms": "-1", "max.message.bytes": str(LARGEST_BODY)}
                await self._make_topic(self._dead, 1, config)
                self._can_bury = True
            producer = await self.producer()
            try:
                await producer.send_and_wait(self._dead, letter.body, headers=headers, partition=0)
            except KafkaError:
                self.failed(producer)
                raise

    async def dead_letters(self) -> list[DeadLetter]:
        async with self._graveyard() as (_, _, letters):
            return list(letters.values())

    async def resend_dead_letters(self) -> int:
        sent = 0
        async with self._graveyard() as (sent_to, end, letters):
            origins: set[str] = set()
            try:
                for offset, letter in letters.items():
                    if letter.origin not in origins:  # each group has kept a letter of its own
                        await self.outboxes[crc32(letter.body) % len(self.outboxes)].post(letter.body)
                        origins |= {letter.origin} - {""}
                        sent += 1
                    await sent_to(offset + 1)
                if letters:
                    await sent_to(end)
            except GreetError as error:
                error.accepted = sent
                raise
            return sent

    @asynccontextmanager
    async def _graveyard(self) -> AsyncIterator[_Graveyard]:
        """The dead letters, by offset, from the position on up to which they were sent again."""
        partition = TopicPartition(self._dead, 0)
        consumer = AIOKafkaConsumer(**settings(self.address), group_id=self._dead, enable_auto_commit=False)

        async def sent_to(offset: int) -> None:
            async with self.answered("it is not written down up to where the dead letters were sent"):
                await commit(consumer, {partition: offset})

        end, letters = 0, dict[int, DeadLetter]()
        try:
            async with self.answered("the dead letters cannot be read"):
                await consumer.start()
                if self._dead in await consumer.topics():
                    consumer.assign([partition])
                    start = (await consumer.beginning_offsets([partition]))[partition]
                    end = (await consumer.end_offsets([partition]))[partition]
                    consumer.seek(partition, max(start, await consumer.committed(partition) or 0))
                    letters = await _letters(consumer, partition, end)
            yield sent_to, end, letters
        finally:
            await close(consumer, self.timeout)


_Graveyard = tuple[Callable[[int], Awaitable[None]], int, dict[int, DeadLetter]]


async def _letters(consumer: AIOKafkaConsumer, partition: TopicPartition, end: int) -> dict[int, DeadLetter]:
    letters: dict[int, DeadLetter] = {}
    known = set()
    while await consumer.position(partition) < end:
        for record in (await consumer.getmany(partition, timeout_ms=1000)).get(partition, []):
            headers = {key: value.decode(errors="replace") for key, value in record.headers}
            group, origin, reason = (headers.get(key, "") for key in ("group", "origin", "reason"))
            # A member that died after it buried a letter left it to be buried once more.
            if not origin or (group, origin) not in known:
                letters[record.offset] = DeadLetter(record.value or b"", group, origin, reason)
            known.add((group, origin))
    return letters


class _Outbox:
    """The way out to one partition: a lone name leaves at once; names that come meanwhile share a batch.

    So a thousand publishers fill a batch while the last one is under way, and none waits for a linger.
    """

    def __init__(self, line: KafkaLine, partition: TopicPartition) -> None:
        self._line = line
        self._partition = partition
        self._lane = asyncio.Lock()  # one batch of `post` is under way at a time
        self._turn = asyncio.Lock()  # batches are handed over in order
        self._crowded = False  # the last batch was shared, so who comes now is hardly alone
        self._bodies: list[bytes] = []  # what waits for the lane,
        self._posted: list[asyncio.Future[None]] = []  # and its publishers

    def post(self, body: bytes) -> Awaitable[None]:
        """Send a name; what is returned is done when it is acknowledged."""
        if not (self._bodies or self._crowded or self._lane.locked()):
            return self._send_alone(body)
        if not self._bodies:
            self._line.start(self._send_posted(self._deadline()))
        posted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bodies.append(body)
        self._posted.append(posted)
        return posted

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._line.timeout

    async def _send_alone(self, body: bytes) -> None:
        batch = self._line.batch()
        fill(batch, [body], 0)
        async with self._lane:
            await self.send(batch, self._deadline())

    async def _send_posted(self, deadline: float) -> None:
        """Send what waits by then, in as many batches as it fills."""
        async with self._lane:  # who holds it began earlier, so its deadline comes earlier too
            bodies, self._bodies = self._bodies, []
            posted, self._posted = self._posted, []
            failure: GreetError = PublishUnknown("the line was closed: publish it again, if a double does no harm")
            try:
                start = 0
                while start < len(bodies):
                    batch = self._line.batch()
                    end = fill(batch, bodies, start)
                    await self.send(batch, deadline)
                    self._crowded = len(bodies) > 1
                    # Only now: what they publish next is then sent together.
                    _answer(posted[start:end], None)
                    start = end
            except GreetError as error:
                failure = error
            finally:
                _answer(posted, failure)

    async def send(self, batch: Any, deadline: float) -> None:
        """Hand `batch` to the broker when its turn comes; return when it is acknowledged.

        aiokafka repeats an idempotent batch for ever. So when one is not acknowledged by the deadline,
        nobody can tell: it may still get through. Those behind it are not handed over before it has,
        so when their deadline comes they have surely failed.
        """
        handed_over, producer = False, None
        try:
            async with asyncio.timeout_at(deadline):
                async with self._turn:
                    producer = await self._line.producer()
                    acknowledged = await hand_over(producer, batch, self._partition)
                    handed_over = True
                await acknowledged
        except DRIVER_ERRORS as error:
            if producer and not isinstance(error, TimeoutError):
                self._line.failed(producer)
            raise self._line.failure(error, handed_over) from error


def _answer(posted: Iterable[asyncio.Future[None]], failure: GreetError | None) -> None:
    """Tell the publishers that still wait what became of their batch."""
    for one in posted:
        if one.done():
            continue  # it was told, or its publisher was cancelled
        if failure is None:
            one.set_result(None)
        else:
            copy = type(failure)(*failure.args)  # each publisher's traceback is its own
            copy.__cause__ = failure.__cause__
            one.set_exception(copy)


def _refused(error: Exception) -> bool:
    """Whether the broker has surely not written a batch that was handed to it."""
    numbering = isinstance(error, OutOfOrderSequenceNumber | UnknownProducerId)
    return isinstance(error, BrokerResponseError) and not error.retriable and not numbering


class _Bulk:
    """What one `publish_many` has under way: a batch fills for each partition, others are sent."""

    def __init__(self, line: KafkaLine) -> None:
        self.accepted = 0
        self._line = line
        self._filling = [line.batch() for _ in line.outboxes]
        self._under_way: deque[tuple[int, asyncio.Task[None]]] = deque()

    async def publish(self, names: Iterable[str]) -> None:
        """Send them all; when one is no name, those before its chunk."""
        try:
            for chunk in chunks(names):
                for number, bodies in self._shares([name.encode() for name in chunk]):
                    start = 0
                    while (start := fill(self._filling[number], bodies, start)) < len(bodies):
                        await self._send(number)
        except BadName:
            await self._finish()
            raise
        await self._finish()

    def _shares(self, bodies: list[bytes]) -> Iterable[tuple[int, list[bytes]]]:
        """The bodies of each partition."""
        if len(self._filling) == 1:
            return [(0, bodies)]
        shares: list[list[bytes]] = [[] for _ in self._filling]
        for body in bodies:
            shares[crc32(body) % len(shares)].append(body)
        return enumerate(shares)

    async def _send(self, number: int) -> None:
        batch, self._filling[number] = self._filling[number], self._line.batch()
        if len(self._under_way) == UNDER_WAY * len(self._filling):
            await self._acknowledged()
        deadline = asyncio.get_running_loop().time() + self._line.timeout
        task = asyncio.create_task(self._line.outboxes[number].send(batch, deadline))
        self._under_way.append((batch.record_count(), task))

    async def _acknowledged(self) -> None:
        count, task = self._under_way.popleft()
        await task
        self.accepted += count

    async def _finish(self) -> None:
        for number, batch in enumerate(self._filling):
            if batch.record_count():
                await self._send(number)
        while self._under_way:
            await self._acknowledged()

    async def drain(self) -> None:
        """After a failure: count what else is accepted."""
        while self._under_way:
            with suppress(GreetError):
                await self._acknowledged()

    async def close(self) -> None:
        """After a cancellation: wait for nothing more."""
        tasks = [task for _, task in self._under_way]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class _Run:
    """Messages of one partition in a row: all of them names, or none of them."""

    partition: TopicPartition
    offsets: list[int]
    names: list[str]
    bodies: list[bytes | None]
    """What is no name; empty for names."""


class KafkaSubscription(Subscription):
    """A member of a consumer group."""

    def __init__(self, line: KafkaLine, group: str, *, replay: bool) -> None:
        super().__init__()
        self._line = line
        self._group = group
        self._replay = replay

    async def __aenter__(self) -> Self:
        self._batch, self._taken, self._settled = [], 0, 0
        self._generation = 0  # counts the rebalances
        self._runs: deque[_Run] = deque()  # fetched, not yet handed out
        self._run: _Run | None = None  # what `_batch` came from
        self._positions: dict[TopicPartition, int] = {}  # of the runs that are settled
        self._committed: dict[TopicPartition, int] = {}
        self._committing = asyncio.Lock()
        self._free = asyncio.Event()  # nothing is in hand
        self._free.set()
        self._handed_out = asyncio.Event()
        self._joined = asyncio.Event()
        self._heard: dict[TopicPartition, tuple[int | None, float]] = {}
        self._behind = False  # a commit has failed
        self._consumer = AIOKafkaConsumer(
            **settings(self._line.address),
            group_id=f"{self._line.topic}:{self._group}",
            enable_auto_commit=False,  # it would commit what is still in hand
            auto_offset_reset="earliest",  # of a partition that was added to the topic
            max_partition_fetch_bytes=BATCH_BYTES,
            fetch_max_bytes=16 * BATCH_BYTES,
            fetch_max_wait_ms=200,  # a rebalance waits for a fetch to return
            session_timeout_ms=6000,  # the least that brokers allow: so soon is a dead member replaced
            heartbeat_interval_ms=250,  # so soon does a member learn of a rebalance
            rebalance_timeout_ms=int(HOLD_SECONDS * 2000),
            max_poll_interval_ms=2**31 - 1,  # a slow handler is no dead one
        )
        try:
            async with connecting(self._line.address):
                await self._consumer.start()
                await insist(self._line.address, self._write_start)
                self._consumer.subscribe([self._line.topic], listener=_Rebalance(self))
            # Its names reach the group from here on. It need not wait for its share of them: another
            # member may hold a name in the very task that waits here.
            with suppress(TimeoutError):
                async with asyncio.timeout(JOIN_SECONDS):
                    await self._joined.wait()
        except BaseException:
            await close(self._consumer, JOIN_SECONDS / 2)
            raise
        self._committer = asyncio.create_task(self._keep_committing())
        return self

    async def _write_start(self) -> None:
        """Write down where a new group starts, in all partitions: what comes from now on is its.

        The ends are read first. So if two members start a group at once, both write a position that
        is no later than the entry of either.
        """
        consumer = self._consumer
        partitions = [TopicPartition(self._line.topic, number) for number in range(len(self._line.outboxes))]
        consumer.assign(partitions)
        consumer.pause(*partitions)
        find = consumer.beginning_offsets if self._replay else consumer.end_offsets
        starts = await find(partitions)
        while all([await consumer.committed(partition) is None for partition in partitions]):
            with suppress(CommitFailedError):  # the group has members: one of them has written it down
                await commit(consumer, starts)
                break
        consumer.unsubscribe()

    # --------------------------------------------------------------------------------- handing out

    async def _receive(self) -> list[str]:
        self._positions = self._reached()
        self._run = None
        self._free.set()
        while True:
            if self._behind:
                await self._commit()
            if not self._runs:
                self._runs.extend(_runs(await self._fetch()))
            run = self._runs.popleft()
            if run.bodies:
                await self._bury(run)
            elif self._line.guarantee is not Guarantee.AT_MOST_ONCE or await self._settled_ahead(run):
                self._run = run
                self._free.clear()
                if self._line.guarantee is not Guarantee.AT_MOST_ONCE:  # that is settled already
                    self._handed_out.set()
                return run.names

    async def _fetch(self) -> Fetched:
        """The next messages; raises `ConnectionLost` when the broker has not answered for too long."""
        with translated(DRIVER_ERRORS, ConnectionLost, "the group cannot be read, ask again when that is mended"):
            while True:
                fetched = await take(self._consumer, min(1.0, self._line.timeout / 4))
                if fetched is not None:
                    return fetched
                await self._check_alive()

    async def _check_alive(self) -> None:
        """Each fetch is answered within 0.2 s, with names or without; who cannot fetch asks the group's broker."""
        assigned = self._consumer.assignment()
        if not assigned or not self._joined.is_set():
            self._heard.clear()
            async with self._line.answered("the group does not answer"):
                await self._consumer.committed(TopicPartition(self._line.topic, 0))
            return
        now = asyncio.get_running_loop().time()
        for partition in assigned:
            last = self._consumer.last_poll_timestamp(partition)
            if partition not in self._heard or self._heard[partition][0] != last:
                self._heard[partition] = (last, now)
            elif now - self._heard[partition][1] > self._line.timeout:
                self._heard.clear()
                raise ConnectionLost(f"{self._line.address} has not answered for {self._line.timeout:g} s: ask again")

    async def _settled_ahead(self, run: _Run) -> bool:
        """AT_MOST_ONCE: commit a run before it is handed out; False if it is not this member's any more."""
        generation = self._generation
        self._free.clear()
        try:
            self._positions[run.partition] = end = run.offsets[-1] + 1
            await self._commit()
            ahead = generation == self._generation and self._committed.get(run.partition) == end
            if not ahead and (generation == self._generation or not self._joined.is_set()):
                self._positions[run.partition] = run.offsets[0]  # not handed out, so given back
        except BaseException:
            if generation == self._generation:
                self._positions[run.partition] = run.offsets[0]
                self._runs.appendleft(run)
            raise
        finally:
            self._free.set()
        return ahead

    async def _bury(self, run: _Run) -> None:
        """Keep what is no name in the dead letters. A rebalance waits for it, so it is kept once."""
        generation = self._generation
        self._free.clear()
        try:
            while run.bodies:
                body, offset = run.bodies[0], run.offsets[0]
                origin = f"{run.partition.topic}-{run.partition.partition}@{offset}"
                await self._line.bury(DeadLetter(body or b"", self._group, origin, _reason(body)))
                del run.bodies[0], run.offsets[0]
                if generation != self._generation and self._joined.is_set():
                    return  # it took too long: the partition may have another owner
                self._positions[run.partition] = offset + 1
            await self._commit()
        finally:
            if run.bodies and generation == self._generation:
                self._runs.appendleft(run)
            self._free.set()

    # ---------------------------------------------------------------------------------- committing

    def _reached(self) -> dict[TopicPartition, int]:
        """Up to where each partition is settled."""
        settled = self._taken if self._line.guarantee is Guarantee.AT_MOST_ONCE else self._settled
        if self._run is None or not settled:
            return self._positions
        return {**self._positions, self._run.partition: self._run.offsets[settled - 1] + 1}

    async def _commit(self) -> None:
        """Write down what is settled."""
        async with self._committing:
            reached, mine = self._reached(), self._consumer.assignment()
            news = {key: reached[key] for key in reached.keys() & mine if reached[key] != self._committed.get(key)}
            if not news:
                return
            try:
                async with self._line.answered("what was handled could not be settled"):
                    with suppress(CommitFailedError):  # the group rebalances: see there
                        await commit(self._consumer, news)
                        self._committed.update(news)
                self._behind = False
            except ConnectionLost:
                self._behind = True
                raise

    async def _keep_committing(self) -> None:
        """Ten times a second while names are in hand: nobody waits for it, and a slow handler is settled too."""
        while True:
            await self._handed_out.wait()
            self._handed_out.clear()
            while self._run is not None or self._positions != self._committed:
                if self._joined.is_set():
                    with suppress(ConnectionLost):  # raised when the next names are asked for
                        await self._commit()
                await asyncio.sleep(COMMIT_SECONDS)

    # --------------------------------------------------------------------------------- rebalancing

    async def revoked(self) -> None:
        """The group shares out its partitions anew: settle what is in hand, and drop what is not.

        The names in hand are waited for, so that they do not come again to the next owner.
        """
        self._generation += 1
        self._joined.clear()
        self._runs.clear()
        del self._batch[self._taken :]
        if self._run is not None:
            del self._run.offsets[self._taken :]
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD_SECONDS):
                await self._free.wait()
        with suppress(ConnectionLost):
            await self._commit()

    async def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Go on where this member was in the partitions that it has kept, or where another member was."""
        consumer = self._consumer
        consumer.pause(*partitions)  # nothing is fetched before it is clear from where
        if self._run is not None and self._run.partition not in partitions:
            self._run = None  # its handler took too long: it comes again, to another member
        self._positions = {key: offset for key, offset in self._reached().items() if key in partitions}
        self._committed.clear()
        self._heard.clear()
        starts = dict(self._positions)
        if self._run is not None:
            starts[self._run.partition] = self._run.offsets[-1] + 1
        try:
            for partition, offset in starts.items():
                consumer.seek(partition, max(offset, await consumer.committed(partition) or 0))
        finally:
            consumer.resume(*partitions)
            self._joined.set()

    # -------------------------------------------------------------------------------------- leaving

    async def _leave(self) -> None:
        self._free.set()  # a rebalance need not wait any longer
        self._committer.cancel()
        try:
            await asyncio.wait([self._committer])
            await self._commit()
        except ConnectionLost:
            if self._clean:
                raise
        finally:
            await close(self._consumer, self._line.timeout)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    """What aiokafka calls when the group shares out its partitions anew."""

    def __init__(self, member: KafkaSubscription) -> None:
        self._member = member

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002
        await self._member.revoked()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._member.assigned(assigned)


def _runs(fetched: Fetched) -> list[_Run]:
    """Names apart from what is no name, in the order of the partition."""
    try:
        # One pass in C; a line feed inside a body makes one name too many.
        names = b"\n".join(fetched.bodies).decode().split("\n")  # type: ignore[arg-type]
        check_all(names)
        if len(names) == len(fetched.bodies):
            return [_Run(fetched.partition, fetched.offsets, names, [])]
    except (TypeError, UnicodeDecodeError, BadName):
        pass
    runs = []
    pairs = zip(fetched.bodies, fetched.offsets, strict=True)
    for bad, group in groupby(pairs, lambda pair: bool(_reason(pair[0]))):
        bodies, offsets = map(list, zip(*group, strict=True))
        names = [] if bad else [decode(body) for body in bodies]
        runs.append(_Run(fetched.partition, offsets, names, bodies if bad else []))
    return runs


def _reason(body: bytes | None) -> str:
    """Why `body` is no name; empty if it is one."""
    if body is None:
        return "a message without a body"
    try:
        decode(body)
    except BadName as error:
        return str(error)
    return ""
