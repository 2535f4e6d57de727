"""Apache Kafka's share groups (KIP-932): a topic that is consumed like a queue. Driver: confluent-kafka.

The driver calls its share consumer a preview that is not recommended for production (its README, 2.16.1).

                                 ┌─► share group "names:hello:share"   ─► any of its members
    publish ─► topic "names" ────┤
                                 └─► share group "names:goodbye:share" ─► any of its members
                                                  │
                        topic "names.dead" ◄──────┘ messages that are not names, or came too often

A name stays in the log after it was read. For each name, the broker of the group knows whether it is
available, acquired by a member, or acknowledged. So any number of members share a partition. The names
are not in order.

- **Names are delivered in batches.** All names of one publisher's batch go to the same member. So a
  line sends at most `?deal=20` names a batch, and a member asks for as many at once. A larger number is
  faster, but shares the work less evenly. On two busy cores, one member that only reads got 300 names
  a second with `deal=1`, 5,000 with 20, and 50,000 with 200. The last name of a batch waits until its
  member has handled the others. Names of other publishers, also those of `kafka://`, come in the
  batches in which they were published.
- **A member has a name for a limited time**, the acquisition lock: as long as the broker allows, by
  default 60 s. Names that are not handed out after three quarters of it are given back. If handling
  takes longer, another member gets the name too. Then the logger "greet" warns, and a clean end raises.
  If a connection becomes silent, the names that were on their way through it come again after that time.
- **A name is delivered a limited number of times**, by default 10; then Kafka drops it. Each delivery
  counts, also if the member just left. So greet keeps the last two deliveries for itself: it moves the
  name to the dead letters. If handlers are slow or die often, use `?deal=1`: otherwise the names that
  follow in the batch are delivered again each time too.
- If a broker is killed, names that were settled but not confirmed come again, as in the other designs.

DURABLE waits for all in-sync replicas, and its producer is idempotent. AT_LEAST_ONCE waits for the
leader only. AT_MOST_ONCE does not wait, and settles a batch before it is handed out.

The driver's consumer blocks and belongs to one thread. So each member has its own thread, which polls
for 0.1 s at a time, and gets the settlements through a queue. It holds the names of one poll at most.

No Python client can set the start of a share group. By default, a share group starts at the end of the
topic when its first member has joined, which takes some seconds. And a consumer of librdkafka 2.16 that is
closed soon after it joined may stay in its group: names of its partitions would wait for its session time-out,
45 s. So `kafka_share_wire` makes some calls of Kafka's protocol itself. For that reason the only login here is
PLAIN.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from asyncio import get_running_loop
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

from greet.address import Address
from greet.designs import Design
from greet.designs.kafka_share_wire import PASSING, Refused, Wire, coordinator, first
from greet.errors import (
    BadURL,
    ConnectFailed,
    ConnectionLost,
    GreetError,
    PublishFailed,
    PublishUnknown,
    Unsupported,
    one_line,
)
from greet.line import CLOSED, DEAD, Batch, DeadLetter, Guarantee, Line, Poison, Subscription, runs
from greet.names import counted
from greet.tasks import Lasting, left, looked_at, to_the_end

try:
    from confluent_kafka import (
        AcknowledgeType,
        Consumer,
        ConsumerGroupTopicPartitions,
        KafkaError,
        KafkaException,
        Producer,
        ShareConsumer,
        TopicCollection,
        TopicPartition,
    )
    from confluent_kafka.admin import (
        AdminClient,
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        NewTopic,
    )
except ImportError as missing:
    raise Unsupported("kafka+share needs confluent-kafka 2.16 or later: pip install -e '.[share]'") from missing

ACKS = {Guarantee.AT_MOST_ONCE: "0", Guarantee.AT_LEAST_ONCE: "1", Guarantee.DURABLE: "all"}
POLL_SECONDS = 0.1  # a member's thread notices within this time that it must end
WORD_SECONDS = 1.0  # how long a thread waits for an answer of the broker
RETRY_SECONDS = 0.1
YOUNG_SECONDS = 5.0  # a member that leaves sooner may stay in the group
LARGEST_BODY = 2**26  # a message that is not a name may be larger than any name, and is kept unchanged
MOST_DEALT = 1_000_000  # what the driver accepts as the size of a batch
LEND_FOR = 0.75  # after this part of the acquisition lock, names that were not handed out are given back
TO_BURY = 2  # deliveries that are kept for moving a name to the dead letters: a member may die during the first
NEVER_WRITTEN = {
    *(KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED),
    *(KafkaError.INVALID_RECORD, KafkaError.POLICY_VIOLATION, KafkaError.UNKNOWN_TOPIC_OR_PART),
    *(KafkaError.INVALID_TIMESTAMP, KafkaError.UNSUPPORTED_COMPRESSION_TYPE),
    *(KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError._FATAL),
}
LEADERLESS = {
    *(*PASSING, KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN),
    *(KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError._DESTROY_BROKER),
}
"""A partition may have a leader again after these."""
FAILURES = (KafkaException, Refused, OSError, EOFError)

T = TypeVar("T")
Place = tuple[int, int]
"""Where a name stands in the topic: partition and offset."""

log = logging.getLogger("greet")


class KafkaShareLine(Line):
    """`kafka+share://host:9092,host:9092?partitions=1&replication=1&deal=20`, or `kafka+share+ssl://` for TLS.

    `partitions` and `replication` are used when the topic is created. `deal` is the largest number of
    names that one member gets together. The other keys are `compression=gzip`, snappy, lz4 or zstd;
    and `ca=`, `cert=` and `key=`, files for TLS. A user and password log in by PLAIN.
    """

    def __init__(self, design: Design, address: Address, topic: str, guarantee: Guarantee | None) -> None:
        super().__init__(design, address, topic, guarantee)
        self._partitions = int(address.number("partitions", 1))
        self._replicas = int(address.number("replication", 1)) if "replication" in address.options else -1
        self._deal = max(1, int(address.number("deal", 20)))
        if self._deal > MOST_DEALT:
            raise BadURL(f"deal= may be at most {MOST_DEALT:,}")
        self._codec = address.choice("compression", "none", "gzip", "snappy", "lz4", "zstd")
        self._dead = self.topic + DEAD

    async def _connect(self, deadline: float) -> None:
        self._producer: Any = None
        self._fatal: Any = None  # the error after which the producer refuses everything
        self._seconds_left = 0.0
        self._admin: Any = None
        self._made: dict[str, int] = {}  # topics that exist, with their number of partitions
        self._making = asyncio.Lock()
        async with self._trouble(ConnectFailed, deadline):
            (await first(self.address)).close()  # does a broker answer?
            self._admin = AdminClient(settings(self.address))
            count = await self._count(self.topic)
        if count > 0 and "partitions" in self.address.options and count != self._partitions:
            raise ConnectFailed(f"topic {self.topic} has partitions={count}: say so, or use another topic")

    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        self._seconds_left = left(deadline - RETRY_SECONDS)
        ends = [self._serving] if self._producer else []
        self._producer = None  # this ends `_serve`
        admin, self._admin = [self._admin], None
        ends.append(in_thread(admin.clear))  # deleting the client waits for the driver's own threads
        await ended(ends, deadline)

    # ------------------------------------------------------------------------------------- publishing

    async def _prepare(self) -> None:
        await self._ready_for(self.topic, self._deadline())

    async def _send(self, names: list[str], deadline: float) -> int:
        return await self._publish(self.topic, [name.encode() for name in names], deadline)

    async def _publish(
        self, topic: str, bodies: Sequence[bytes], deadline: float, headers: Mapping[str, bytes] | None = None
    ) -> int:
        producer = await self._ready_for(topic, deadline)
        sending = _Sending(len(bodies))
        try:
            async with asyncio.timeout_at(deadline):
                for body in bodies:
                    while not sending.begun(producer, topic, body, headers):  # noqa: ASYNC110 - its buffer is full
                        await asyncio.sleep(RETRY_SECONDS)
                await asyncio.shield(sending.done)
        except TimeoutError:
            sending.error = KafkaError(KafkaError.REQUEST_TIMED_OUT)
        if sending.error is None:
            return sending.accepted
        if self._fatal:
            self._producer = None  # the next publish starts another one
        why, driver = words(KafkaException(self._fatal or sending.error), self.address), KafkaException(sending.error)
        failure: GreetError = PublishUnknown(f"{why}; publish it again if a duplicate does no harm")
        if sending.error.code() in NEVER_WRITTEN:
            failure = PublishFailed(f"{why}; then publish it again")
        failure.accepted = sending.accepted
        raise failure from driver

    async def _ready_for(self, topic: str, deadline: float) -> Any:
        """The producer, once `topic` exists."""
        if topic not in self._made:
            async with self._trouble(PublishFailed, deadline):
                await self._make(topic)
        return await self._started(deadline)

    async def _started(self, deadline: float) -> Any:
        """The producer. It is started on first use, and with it the thread that gets its delivery reports."""
        async with self._making:
            if self._admin is None:
                raise PublishFailed(CLOSED)
            if self._producer is None:
                given = {
                    "acks": ACKS[self.guarantee],
                    "enable.idempotence": self.guarantee is Guarantee.DURABLE,
                    "batch.num.messages": self._deal,
                    "linger.ms": 0,
                    "sticky.partitioning.linger.ms": 0,  # each batch may go to another partition
                    "compression.type": self._codec,
                    "message.max.bytes": LARGEST_BODY,
                    "message.timeout.ms": int(self.timeout * 1000),
                    "queue.buffering.max.kbytes": 2 * LARGEST_BODY // 1024,
                    # With acks=0 only the answers to this show whether a connection still carries anything.
                    "topic.metadata.refresh.interval.ms": min(3_600_000, int(self.timeout * 250)),
                }
                self._fatal = None
                producer = Producer(settings(self.address, given | {"error_cb": self._note}))
                # Without this, an idempotent producer waits half a second for its first connection.
                await ended([in_thread(lambda: producer.list_topics(self.topic, WORD_SECONDS))], deadline)
                if self._admin is None:
                    raise PublishFailed(CLOSED)
                self._producer = producer
                self._serving = in_thread(lambda: self._serve(producer))
        return self._producer

    def _note(self, error: Any) -> None:
        """The producer's thread calls this for its errors."""
        if error.fatal():
            self._fatal = error

    def _serve(self, producer: Any) -> None:
        while producer is self._producer:
            producer.poll(POLL_SECONDS)
        if producer.flush(self._seconds_left):
            producer.purge()
            producer.poll(0)  # report the purged messages to those who wait

    # ----------------------------------------------------------------------------------------- topics

    async def _make(self, topic: str) -> int:
        """Create `topic` if it does not exist, wait for its leaders, and return the number of partitions."""
        async with self._making:
            if topic not in self._made:
                while (count := await self._count(topic)) < 1:
                    await (asyncio.sleep(RETRY_SECONDS / 4) if count else self._create(topic))
                self._made[topic] = count
        return self._made[topic]

    async def _create(self, topic: str) -> None:
        partitions, config = self._partitions, {}
        if topic == self._dead:
            partitions, config = 1, {"retention.ms": "-1", "max.message.bytes": str(LARGEST_BODY)}
        new = NewTopic(topic, partitions, self._replicas, config=config)
        try:
            await answer(lambda: self._asks.create_topics([new], request_timeout=self.timeout)[topic])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    async def _count(self, topic: str) -> int:
        """The number of partitions of `topic`; 0 if it does not exist, -1 if one of them has no leader."""
        this = TopicCollection([topic])
        try:
            found = await answer(lambda: self._asks.describe_topics(this, request_timeout=self.timeout)[topic])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            return 0
        leaders = [one.leader for one in found.partitions]
        return len(leaders) if leaders and all(one and one.id >= 0 for one in leaders) else -1

    @property
    def _asks(self) -> Any:
        """The admin client. Raises `PublishFailed` if the line was left in the meantime."""
        if self._admin is None:
            raise PublishFailed(CLOSED)
        return self._admin

    async def _bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """The oldest and the next offset of each partition of `topic`.

        A consumer asks. While a leader is down, `AdminClient.list_offsets` of confluent-kafka 2.16 either answers
        -1001 without an error, or keeps more than a core busy: two members that joined left the other brokers no
        time to choose a new leader.
        """
        found: dict[int, tuple[int, int]] = {}
        await until_stopped(lambda stop: self._ask_bounds(topic, found, stop))
        return found

    def _ask_bounds(self, topic: str, found: dict[int, tuple[int, int]], stop: threading.Event) -> None:
        consumer = Consumer(settings(self.address, {"group.id": topic}))  # it does not join that group
        try:
            for number in range(self._made[topic]):
                while number not in found and not stop.is_set():
                    try:
                        found[number] = consumer.get_watermark_offsets(TopicPartition(topic, number), WORD_SECONDS)
                    except KafkaException as error:
                        if error.args[0].code() not in LEADERLESS:
                            raise
                        time.sleep(RETRY_SECONDS)
        finally:
            consumer.close()

    async def _config(self, kind: Any, name: str) -> dict[str, str]:
        resource = ConfigResource(kind, name)
        found = await answer(lambda: self._asks.describe_configs([resource], request_timeout=self.timeout)[resource])
        return {key: entry.value for key, entry in found.items()}

    # ------------------------------------------------------------------------------------ dead letters

    async def _bury(self, letter: DeadLetter, deadline: float) -> None:
        """Keep `letter` in the topic of dead letters, as `kafka://` does."""
        headers = {key: str(getattr(letter, key)).encode() for key in ("group", "origin", "reason")}
        try:
            await self._publish(self._dead, [letter.body], deadline, headers)
        except (PublishFailed, PublishUnknown) as error:  # a reader has published nothing: it comes again
            why = words(error.__cause__, self.address) if error.__cause__ else str(error)
            raise PublishFailed(f"a message that is not a name could not be kept: {why}") from error

    async def _dead_letters(self) -> list[DeadLetter]:
        letters, _ = await self._letters()
        return [letter for _, letter in letters]

    async def _resend(self) -> int:
        sent = 0
        again: set[tuple[str, bytes]] = set()
        letters, end = await self._letters()
        try:
            for number, (offset, letter) in enumerate(letters, start=1):
                if letter.message not in again:  # each group has kept its own copy
                    await self._publish(self.topic, [letter.body], self._deadline())
                    again |= {letter.message} if letter.origin else set()
                    sent += 1
                done = end if number == len(letters) else offset + 1
                await self._sent_to(done)
        except GreetError as error:
            error.accepted = sent
            raise
        return sent

    async def _sent_to(self, offset: int) -> None:
        place = ConsumerGroupTopicPartitions(self._dead, [TopicPartition(self._dead, 0, offset)])
        async with self._trouble(ConnectionLost, self._deadline(), "it could not be recorded what was sent: "):
            await answer(lambda: self._asks.alter_consumer_group_offsets([place])[self._dead])

    async def _letters(self) -> tuple[list[tuple[int, DeadLetter]], int]:
        """The dead letters that were not sent again, with their offsets; and the offset after them."""
        deadline = self._deadline()
        async with self._trouble(ConnectionLost, deadline, "the dead letters cannot be read: "):
            if self._dead not in self._made and not await self._count(self._dead):
                return [], 0
            await self._make(self._dead)
            place = ConsumerGroupTopicPartitions(self._dead, [TopicPartition(self._dead, 0)])
            kept = await answer(lambda: self._asks.list_consumer_group_offsets([place])[self._dead])
            (sent,) = kept.topic_partitions
            oldest, end = (await self._bounds(self._dead))[0]
            start = max(sent.offset, oldest)
            found: list[tuple[int, DeadLetter]] = []
            await until_stopped(lambda stop: self._read_dead(start, end, found, stop))
        # If a member died after it had kept a letter, another member kept it again.
        known = {(one.group, one.message if one.origin else offset): (offset, one) for offset, one in reversed(found)}
        return sorted(known.values(), key=lambda one: one[0]), end

    def _read_dead(self, start: int, end: int, found: list[tuple[int, DeadLetter]], stop: threading.Event) -> None:
        consumer = Consumer(settings(self.address, {"group.id": self._dead, "enable.auto.commit": False}))
        try:
            consumer.assign([TopicPartition(self._dead, 0, start)])
            position = start
            while position < end and not stop.is_set():
                if (message := consumer.poll(POLL_SECONDS)) is None:
                    continue
                if message.error():
                    raise KafkaException(message.error())
                position = message.offset() + 1
                headers = {key: (value or b"").decode(errors="replace") for key, value in message.headers() or ()}
                group, origin, reason = (headers.get(key, "") for key in ("group", "origin", "reason"))
                found.append((message.offset(), DeadLetter(message.value() or b"", group, origin, reason)))
        finally:
            consumer.close()

    # ------------------------------------------------------------------------------------ what they use

    def _subscription(self, group: str, *, replay: bool) -> KafkaShareSubscription:
        return KafkaShareSubscription(self, group, replay=replay)

    @asynccontextmanager
    async def _trouble(self, ours: type[GreetError], deadline: float, what: str = "") -> AsyncIterator[None]:
        """Raise failures and a missed deadline as `ours`."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except FAILURES as error:
            raise ours(what + words(error, self.address)) from error

    async def _asked(self, group: str, question: Callable[[Wire], Awaitable[T]], patience: float = inf) -> T:
        """The answer of the coordinator of a share group; the question is repeated while another broker takes over.

        It is also repeated, less and less often, if there is no answer within `patience`: a broker accepts connections
        while it is stopped, and the first question for offsets after its start takes it two seconds.
        """
        while True:
            patience = min(patience, self.timeout / 2)
            try:
                async with coordinator(self.address, group) as wire, asyncio.timeout(patience):
                    return await question(wire)
            except Refused as error:
                if error.code not in PASSING:
                    raise
            except TimeoutError:
                patience *= 2
            await asyncio.sleep(RETRY_SECONDS)


class KafkaShareSubscription(Subscription):
    """A member of a share group. Its thread polls, and passes the names on to the event loop."""

    _line: KafkaShareLine

    async def _join(self, deadline: float) -> None:
        line = self._line
        self._id = f"{line.topic}:{self._group}:share"  # topics and groups have no colon, so ids are unique
        self._client = f"greet-{uuid4().hex}"  # by this the group knows the consumer
        self._orders: SimpleQueue[tuple[Any, int, Sequence[int]] | None] = SimpleQueue()  # to the thread
        self._come: deque[Sequence[Batch | Poison]] = deque()  # from the thread
        self._failed: Exception | None = None  # an error in the thread
        self._heard = asyncio.Event()
        self._heard_at = get_running_loop().time()  # when the broker was last heard
        self._asking_coordinator = Lasting()
        self._told_of = asyncio.Event()
        self._unanswered: set[Place] = set()  # settled, but the broker has not answered yet
        self._missed: set[Place] = set()  # the broker refused to settle these
        self._why = ""
        self._part_of: tuple[Batch | None, int] = (None, 0)  # the last batch, and how many of it were settled
        self._back: asyncio.TimerHandle | None = None
        self._thread: asyncio.Future[None] | None = None
        self._deliveries, self._lent = 5, 30.0
        self._resting = False  # names were given back, as nobody asked: do not poll until somebody does
        async with line._trouble(ConnectFailed, deadline):
            self._partitions = await line._make(line.topic)
            await self._found_group()
        loop = get_running_loop()
        self._entered = loop.time()  # when the consumer was made
        self._thread = in_thread(lambda: self._work(loop))

    async def _found_group(self) -> None:
        """Create the group if it does not exist: then names reach it even before it has a member.

        The ends of the partitions are read before it is checked whether the group exists. So if two
        members create it at the same time, it does not start later than the entry of either of them.
        """
        line = self._line
        bounds = await line._bounds(line.topic)
        begin = {number: oldest if self._replay else end for number, (oldest, end) in bounds.items()}
        known = await line._asked(self._id, self._offsets, WORD_SECONDS / 2)
        if new := all(start < 0 for start in known.values()):
            await self._configure()
            await line._asked(self._id, lambda wire: self._begin_at(wire, begin))
        config = await line._config(ConfigResource.Type.GROUP, self._id)
        if "share.delivery.count.limit" not in config:  # an older Kafka: the broker has one limit for all groups
            broker = await line._config(ConfigResource.Type.BROKER, str(await line._asked(self._id, _broker)))
            config = {key.removeprefix("group."): value for key, value in broker.items()} | config
        self._deliveries = int(config.get("share.delivery.count.limit", self._deliveries))
        self._lent = int(config.get("share.record.lock.duration.ms", self._lent * 1000)) / 1000
        if new and (passed := sum(begin[number] - oldest for number, (oldest, _) in bounds.items())):
            log.warning(
                "group %s is new to topic %s: it starts at the end and skips %s that are kept;"
                " to read them, subscribe as a new group with replay=True",
                self._group,
                line.topic,
                counted(passed),
            )

    async def _begin_at(self, wire: Wire, begin: Mapping[int, int]) -> None:
        """Create the group at `begin`, where it has no start yet: this is repeated if an answer was lost.

        Else it would be moved back, and names that another member has settled since would come again.
        """
        known = await self._offsets(wire)
        missing = {number: start for number, start in begin.items() if known.get(number, -1) < 0}
        if missing:
            await wire.begin(self._id, self._line.topic, missing)

    async def _configure(self) -> None:
        """Set the delivery limit and the lock to the largest values of the broker; skip what an older Kafka lacks."""
        line = self._line
        bounds = await line._config(ConfigResource.Type.BROKER, str(await line._asked(self._id, _broker)))
        wanted = {
            "share.delivery.count.limit": bounds.get("group.share.max.delivery.count.limit"),
            "share.record.lock.duration.ms": bounds.get("group.share.max.record.lock.duration.ms"),
            "share.assignment.interval.ms": bounds.get("group.share.min.assignment.interval.ms"),  # else joining waits
            "share.auto.offset.reset": "earliest",  # for partitions that are added to the topic later
            "share.isolation.level": "read_committed",
        }
        known = await line._config(ConfigResource.Type.GROUP, self._id)
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in wanted.items()
            if value is not None and key in known
        ]
        resource = ConfigResource(ConfigResource.Type.GROUP, self._id, incremental_configs=entries)
        await answer(lambda: line._asks.incremental_alter_configs([resource])[resource])

    # ------------------------------------------------------------------------------- in the thread

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Poll, pass the names on, wait until all are settled or given back, and poll again; until told to leave."""
        topic = self._line.topic
        given = {
            "group.id": self._id,
            "client.id": self._client,
            "share.acknowledgement.mode": "explicit",
            "max.poll.records": self._line._deal,
            "max.poll.interval.ms": 86_400_000,  # a slow handler is not a dead member: the lock limits its time
            "fetch.wait.max.ms": int(POLL_SECONDS * 1000),
        }

        def answered(places: Mapping[Any, set[int]], error: Exception | None) -> None:
            loop.call_soon_threadsafe(self._answered, places, error)

        consumer = ShareConsumer(settings(self._line.address, given))
        held: set[Place] = set()
        try:
            consumer.set_acknowledgement_commit_callback(answered)
            consumer.subscribe([topic])
            while True:
                try:
                    order = self._orders.get(block=bool(held) or self._resting, timeout=POLL_SECONDS)
                except Empty:
                    if held or self._resting:
                        consumer.commit_async()  # commits nothing, but runs the callback for late answers
                    else:
                        held = self._poll(consumer, loop)
                    continue
                if order is None:
                    return
                kind, partition, offsets = order
                for offset in offsets:
                    if (partition, offset) in held:
                        held.discard((partition, offset))
                        try:
                            consumer.acknowledge_offset(topic, partition, offset, kind)
                        except RuntimeError as error:  # the driver has given it up
                            answered({TopicPartition(topic, partition): {offset}}, error)
                if self._orders.empty():
                    consumer.commit_sync(WORD_SECONDS)  # the callback gets the answer
        finally:
            # If the consumer is assigned partitions of a new topic while it closes, `close` of librdkafka 2.16 never
            # returns. It returns if the consumer has unsubscribed. What is settled is sent before that.
            with suppress(KafkaException, RuntimeError):
                consumer.commit_sync(WORD_SECONDS)
            with suppress(KafkaException, RuntimeError):  # raised after a fatal error
                consumer.unsubscribe()
            consumer.close()  # names that are held and not settled go back to the group

    def _poll(self, consumer: Any, loop: asyncio.AbstractEventLoop) -> set[Place]:
        """Pass the names of one poll on; return their places."""
        try:
            messages = consumer.poll(POLL_SECONDS)
        except KafkaException as error:
            if error.args[0].fatal():  # the driver says it only once: this ends the thread
                raise
            loop.call_soon_threadsafe(self._hand_over, [], error)
            time.sleep(RETRY_SECONDS)
            return set()
        came = [one for one in messages if not one.error()]
        failed = next((KafkaException(one.error()) for one in messages if one.error()), None)
        if came or failed:
            loop.call_soon_threadsafe(self._hand_over, came, failed)
        return {(one.partition(), one.offset()) for one in came}

    # --------------------------------------------------------------------------------- in the loop

    def _hand_over(self, messages: Sequence[Any], failed: Exception | None) -> None:
        """Take the messages of a poll. A name that came too often goes to the dead letters before Kafka drops it."""
        found: list[Batch | Poison] = []
        fresh: dict[int, list[Any]] = defaultdict(list)
        for one in messages:
            if (one.delivery_count() or 1) > max(1, self._deliveries - TO_BURY) and not self._early:
                why = f"it came {one.delivery_count()} times and was not settled; Kafka drops it after"
                reason = f"{why} {self._deliveries}"
                found.append(Poison(one.value(), one.offset(), reason, one.partition()))
            else:
                fresh[one.partition()].append(one)
        for partition, some in fresh.items():
            found += runs([one.value() for one in some], [one.offset() for one in some], partition)
        self._failed = failed or self._failed
        self._heard_at = get_running_loop().time()
        if found:
            self._come.append(found)
            if self._back:
                self._back.cancel()
            self._back = get_running_loop().call_later(self._lent * LEND_FOR, self._let_go)
        self._heard.set()

    def _let_go(self) -> None:
        """The acquisition lock ends soon: give back the names that were not handed out.

        If there are any, nobody asks here, so nothing is polled until somebody does: after the last delivery Kafka
        would drop them.
        """
        rest: list[Batch | Poison] = [*self._runs, *(one for some in self._come for one in some)]
        buried = [one for one in rest[:1] if isinstance(one, Poison) and not self._idle.is_set()]  # just now
        rest = rest[len(buried) :]
        batch = self._batch
        if not self._early:
            rest.append(Batch([], batch.origins[self._taken : len(batch.names)], batch.source))
            self._drop()
        self._runs.clear()
        self._runs.extend(buried)
        self._come.clear()
        for one in rest:
            if offsets := one.origins if isinstance(one, Batch) else [one.origin]:
                self._resting = True
                self._orders.put((AcknowledgeType.RELEASE, one.source, offsets))

    async def _next(self) -> Sequence[Batch | Poison]:
        quiet = self._line.timeout / 4
        self._resting = False
        while True:
            if self._come:
                return self._come.popleft()
            if self._thread and self._thread.done():
                error = self._thread.exception()
                why = f": {words(error, self._line.address)}" if isinstance(error, KafkaException) else ""
                raise ConnectionLost(f"this member has failed{why}: subscribe again") from error
            if failed := self._failed:
                self._failed = None
                raise ConnectionLost(words(failed, self._line.address)) from failed
            self._heard.clear()
            if pause := left(self._heard_at + quiet):
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._heard.wait()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):  # names may come meanwhile: the question goes on
                        await self._asking_coordinator.run(self._ask)

    async def _ask(self) -> None:
        """No name has come, and the driver does not say why: ask the group's coordinator until it answers."""
        deadline = get_running_loop().time() + self._line.timeout * 3 / 4
        began = self._heard_at
        while self._heard_at == began:
            try:
                starts = await self._starts(deadline)
            except ConnectionLost as error:
                failure = error
            else:
                if any(one >= 0 for one in starts.values()):
                    self._heard_at = get_running_loop().time()
                    return
                # A broker that has just come back may say so too: ask again.
                failure = ConnectionLost(
                    f"group {self._group} no longer exists at {self._line.address}: subscribe again"
                )
            if self._heard_at != began:
                return
            if get_running_loop().time() + RETRY_SECONDS > deadline:
                raise failure
            await asyncio.sleep(RETRY_SECONDS)

    async def _starts(self, deadline: float) -> dict[int, int]:
        """For each partition, the offset up to which all names are settled."""
        line = self._line
        async with line._trouble(ConnectionLost, deadline):
            return await line._asked(self._id, self._offsets, WORD_SECONDS / 2)

    async def _offsets(self, wire: Wire) -> dict[int, int]:
        return await wire.starts(self._id, self._line.topic, range(self._partitions))

    # ------------------------------------------------------------------------------------- settling

    async def _settle(self, batch: Batch, count: int) -> None:
        known, done = self._part_of
        done = done if known is batch else 0
        self._part_of = batch, count
        self._accept(batch.source, batch.origins[done:count])

    def _accept(self, partition: int, offsets: Sequence[int]) -> None:
        if offsets:
            self._unanswered.update((partition, offset) for offset in offsets)
            self._orders.put((AcknowledgeType.ACCEPT, partition, offsets))

    def _answered(self, places: Mapping[Any, set[int]], error: Exception | None) -> None:
        """The broker's answer to names that were settled or given back; called by the thread's consumer."""
        answered = {(one.partition, offset) for one, offsets in places.items() for offset in offsets}
        mine = answered & self._unanswered
        self._unanswered -= mine
        if not error:
            self._missed -= answered
        elif mine:
            self._miss(mine, words(error, self._line.address))
        self._told_of.set()

    def _miss(self, places: set[Place], why: str) -> None:
        self._missed |= places
        self._why = why
        if not self._early:
            log.warning(
                "group %s of topic %s: %s handled here could not be settled, and may come again: %s",
                self._group,
                self._line.topic,
                counted(len(places)),
                why,
            )

    async def _confirm(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while self._unanswered:
                    self._told_of.clear()
                    await self._told_of.wait()
        except TimeoutError as error:
            why = words(error, self._line.address)
            self._miss(self._unanswered, why)
            self._unanswered = set()
            raise ConnectionLost(f"what was handled could not be settled: {why}") from error

    async def _settle_ahead(self, batch: Batch, deadline: float) -> bool:
        await self._settle(batch, len(batch.names))
        await self._confirm(deadline)
        failed = self._missed & {(batch.source, offset) for offset in batch.origins}
        self._missed -= failed
        return not failed

    async def _bury(self, poison: Poison, deadline: float) -> None:
        origin = f"{self._line.topic}-{poison.source}@{poison.origin}"
        await self._line._bury(DeadLetter(poison.body or b"", self._group, origin, poison.reason), deadline)
        self._accept(poison.source, [poison.origin])

    # -------------------------------------------------------------------------------------- leaving

    async def _part(self, deadline: float, *, clean: bool) -> None:
        if self._thread is None:
            return
        young = get_running_loop().time() - self._entered < YOUNG_SECONDS
        await self._asking_coordinator.end(RETRY_SECONDS)
        self._orders.put(None)
        await ended([self._thread], deadline)
        if not self._thread.done():
            log.warning("group %s: this member has not left: names that it holds may come late", self._group)
        elif young:
            await self._sign_off(deadline)
        if self._back:
            self._back.cancel()
        if clean and (lost := self._unanswered | self._missed):
            starts = await self._starts(deadline)  # another member may have settled it
            if late := [offset for partition, offset in lost if offset >= starts.get(partition, -1)]:
                why = self._why or f"{self._line.address} has not answered for {self._line.timeout:g} s"
                raise ConnectionLost(
                    f"{counted(len(late))} handled here could not be settled, and will come again: {why}"
                )

    async def _sign_off(self, deadline: float) -> None:
        """Leave the group, if the consumer has not: librdkafka 2.16 may forget it on a busy machine."""

        async def leave(wire: Wire) -> None:
            for client, member in await wire.members(self._id):
                if client == self._client:
                    await wire.leave(self._id, member)

        with suppress(*FAILURES):
            async with asyncio.timeout(min(WORD_SECONDS, left(deadline))):
                await self._line._asked(self._id, leave)


async def _broker(wire: Wire) -> int:
    return wire.broker


class _Sending:
    """Messages that were given to the producer together, and their results."""

    def __init__(self, count: int) -> None:
        self.accepted = 0
        self.error: Any = None
        self.done = get_running_loop().create_future()
        self._left = count
        self._loop = get_running_loop()
        self._lock = threading.Lock()

    def begun(self, producer: Any, topic: str, body: bytes, headers: Mapping[str, bytes] | None) -> bool:
        """Give one message to the producer; False while its buffer is full."""
        try:
            producer.produce(topic, body, headers=headers, on_delivery=self.told)
        except BufferError:
            return False
        except KafkaException as error:
            self.told(error.args[0], None)
        return True

    def told(self, error: Any, _: Any) -> None:
        """Called for each message, mostly in the producer's thread. An error that leaves the result open is kept."""
        with self._lock:
            self._left -= 1
            if error is None:
                self.accepted += 1
            elif self.error is None or self.error.code() in NEVER_WRITTEN:
                self.error = error
            left = self._left
        if not left:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.done.set_result, None)


def settings(address: Address, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of every client of the driver. They write nothing to standard error: errors are raised."""
    hosts = address.hosts
    found: dict[str, Any] = {
        "bootstrap.servers": ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts),
        "log_level": 0,
        "error_cb": lambda _: None,
        "socket.timeout.ms": min(
            300_000, max(500, int(address.timeout * 500))
        ),  # also the longest wait of a client that leaves
        "reconnect.backoff.max.ms": 1000,
        "security.protocol": ("SASL_" if address.user else "") + ("SSL" if address.tls else "PLAINTEXT"),
    }
    if address.user:
        found |= {"sasl.mechanism": "PLAIN", "sasl.username": address.user, "sasl.password": address.password}
    for key, name in (("ca", "ssl.ca.location"), ("cert", "ssl.certificate.location"), ("key", "ssl.key.location")):
        if key in address.options:
            found[name] = address.options[key]
    return found | dict(more or {})


def words(error: BaseException, address: Address) -> str:
    """The message for an error: what is wrong, where, and what to do."""
    if isinstance(error, Refused):
        error = KafkaException(KafkaError(error.code))
    if not isinstance(error, KafkaException):
        return next(text for kinds, text in _WORDS if isinstance(error, kinds)).format(address)
    code, said = error.args[0].code(), error.args[0].str().removeprefix("Broker: ").removeprefix("Local: ")
    if code in _CODES:
        return _CODES[code].format(address)
    if "uthorization" in said:
        return f"{said} at {address} for {address.user or 'an anonymous user'}: grant the right"
    return f"{address} says: {one_line(Exception(said))}: fix that, and try again"


LATE = (KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT, KafkaError.REQUEST_TIMED_OUT)
_LATE = "{} has not answered in time: check the broker, or raise timeout="
_LOGIN = "{} refuses the login: correct user and password, and enable PLAIN at the broker"
_CODES = {
    KafkaError.INVALID_RECORD_STATE: "they were in hand for longer than the acquisition lock: use a smaller deal=",
    **dict.fromkeys(LATE, _LATE),
    **dict.fromkeys((KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM), _LOGIN),
}
_WORDS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (ssl.SSLCertVerificationError, "the certificate of {} is refused: correct it, or the URL's host or ca="),
    ((FileNotFoundError, PermissionError), "a file for {} cannot be read: correct ca=, cert= or key="),
    (EOFError, "{} closed the connection: use Kafka 4.2 or later, and the TLS and login that it expects"),
    (TimeoutError, _LATE),
    (RuntimeError, "the driver of {} has given them up: handle them when they come again"),
    (BaseException, "no connection to {}: check that a broker runs there"),
)


async def answer(ask: Callable[[], Future[Any]]) -> Any:
    """The result from the driver's own threads; they continue if the caller is cancelled.

    A request of the driver ends earlier than the caller does, so it is repeated after a time-out.
    """
    while True:
        mine = asyncio.wrap_future(ask())
        mine.add_done_callback(looked_at)
        try:
            return await asyncio.shield(mine)
        except KafkaException as error:
            if error.args[0].code() not in LATE:
                raise
        await asyncio.sleep(RETRY_SECONDS)


def in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run `work` in a new thread; the future is done when it ends."""
    loop = get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    done.add_done_callback(looked_at)

    def finish(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    todo = [work]

    def run() -> None:
        failed: Exception | None = None
        try:
            todo.pop()()  # no reference stays, so a client is deleted here, in the thread: that takes its time
        except Exception as error:  # noqa: BLE001 - it is raised for those who wait
            failed = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, failed)

    threading.Thread(target=run, name="greet kafka+share", daemon=True).start()
    return done


async def until_stopped(work: Callable[[threading.Event], None]) -> None:
    """Run `work` in a new thread until it returns; if the caller is cancelled, tell it by the event, and wait 1 s."""
    stop = threading.Event()
    working = in_thread(lambda: work(stop))
    try:
        await asyncio.shield(working)
    finally:
        stop.set()
        await ended([working], get_running_loop().time() + WORD_SECONDS)


async def ended(threads: Sequence[Awaitable[None]], deadline: float) -> None:
    """Wait until `threads` have ended, or for the deadline, even if the caller is cancelled in the meantime."""

    async def wait() -> None:
        await asyncio.wait([asyncio.gather(*threads, return_exceptions=True)], timeout=left(deadline))

    await to_the_end(wait())
