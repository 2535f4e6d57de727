"""Apache Kafka: a topic with partitions, and a consumer group for each group. Driver: aiokafka.

                            topic "names"
                       ┌─► partition 0 ─┐   ┌─► group "names:hello"   ─► its members
    publish ─► crc32 ──┤                ├───┤
                       └─► partition 1 ─┘   └─► group "names:goodbye" ─► its members
                                                  │
                        topic "names.dead" ◄──────┘ messages that are not names, with their origin

A partition is a log: a name stays in it after it was read. A group does not have a queue. It has a
position in each partition: the offset of its next name. The broker keeps these offsets under the
group's id, `topic:group`. (A topic's name has no colon, so two topics never share a group.) The
members of a group divide the partitions among themselves, and each partition has one reader at a
time. With one partition, the default, one member works and the others wait to take over.

The partition of a name is its crc32 modulo the number of partitions, as librdkafka does it with a key. So equal names
go to the same partition and stay in order. Different names stay in order only within a partition.

What can be lost or duplicated:
- DURABLE waits for all in-sync replicas, and its producer is idempotent: a retry makes no duplicate.
- AT_LEAST_ONCE waits for the leader only. A retry after a lost answer may make duplicates.
- AT_MOST_ONCE does not wait. Offsets are committed before the names are handed out.
- With the two others, offsets are committed at most 0.1 s after names were handled. If a member is killed, the
  names of the last 0.1 s come again, and with `batches()` the list in hand. None do if it leaves, or at a rebalance.
- During a rebalance, a name that takes longer than 5 s to handle may come again. So may the name in
  hand of a member whose event loop is blocked for 6 s: the broker considers this member dead.
- The topic's retention (by default 7 days) deletes names, read or not. The offsets of a group without
  members are deleted too, after `offsets.retention.minutes` (by default 7 days). Such a group starts
  again at the end of the topic, and the logger "greet" warns how many names it skips.
- If a topic is deleted and made again, a group notices it only while the new one is shorter than its
  position. Later, it skips the names before its position.
- aiokafka cannot read a message with a header whose key is not UTF-8. A group stops there with an error.

What else it takes is in files of its own: `kafka_producer` starts and replaces the producer and waits for
acknowledgements; `kafka_group` writes where a new group starts, and notices a silent broker; `kafka_topic`
creates topics; `kafka_dead` keeps the dead letters; `kafka_settings` has the settings and the errors.

This is the plain path. It uses the documented API of aiokafka, except for what this does not offer:
whether the group still has this member, what the fetcher holds, and heartbeats during a rebalance.
`greet.fast.kafka` is faster. It also refuses answers that are too long; here they are read until the
request times out, and unpacked whole.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any
from zlib import crc32

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, MessageSizeTooLargeError

from greet.address import Address
from greet.designs import Design
from greet.designs.kafka_dead import LARGEST_BODY, Graveyard
from greet.designs.kafka_group import GroupMember, log
from greet.designs.kafka_producer import Attempt, ProducingLine
from greet.designs.kafka_settings import DRIVER_ERRORS, RETRY_SECONDS, UNREADABLE, codec, insist, login, settings
from greet.designs.kafka_topic import committed, start
from greet.errors import ConnectFailed, ConnectionLost
from greet.line import Batch, DeadLetter, Guarantee, Poison, runs, total
from greet.tasks import beside

ACKS = {Guarantee.AT_MOST_ONCE: 0, Guarantee.AT_LEAST_ONCE: 1, Guarantee.DURABLE: "all"}
BATCH_BYTES = 1_000_000  # the size of a batch: by default a topic accepts up to 1,048,588
FETCH_BYTES = 2**20  # how much of a partition is fetched at once
FAREWELL_SECONDS = 1.0  # how long closing a client may take
HOLD_SECONDS = 5.0  # how long a rebalance waits for the names in hand
JOIN_SECONDS = 1.0  # how long entering waits for partitions; a rebalance may take longer


class KafkaLine(ProducingLine):
    """`kafka://host:9092,host:9092?partitions=1&replication=1`, or `kafka+ssl://` for TLS.

    Name several brokers of a cluster: when a group rebalances, or a producer has failed, greet asks
    those of the URL again. `partitions` and `replication` are used when the topic is created: at the
    first publish or subscribe. The other keys are `compression=gzip`, snappy, lz4 or zstd; `sasl=PLAIN`,
    `SCRAM-SHA-256` or `SCRAM-SHA-512` for the user and password; `token_file=` for OAUTHBEARER; and
    `ca=`, `cert=` and `key=`, files for TLS. Clients also log in at the hosts that the brokers advertise:
    without TLS, only the hosts of the URL are checked to be this machine's.
    """

    names_at_once = 10_000  # so many short names fill a batch
    characters_at_once = BATCH_BYTES * 3 // 4
    ahead = 3

    def __init__(self, design: Design, address: Address, topic: str, guarantee: Guarantee | None) -> None:
        super().__init__(design, address, topic, guarantee)
        self._partitions = int(address.number("partitions", 1))
        self._replicas = int(address.number("replication", 1)) if "replication" in address.options else -1
        self._codec = codec(address)
        self._durable = self.guarantee is Guarantee.DURABLE
        login(address)

    async def _connect(self, deadline: float) -> None:
        self._lanes = defaultdict[int, asyncio.Lock](asyncio.Lock)  # for each partition: one batch at a time
        self._batch_bytes = BATCH_BYTES  # reduced when the topic refuses a batch as too large
        self._graveyard = Graveyard(self)
        await super()._connect(deadline)

    # ------------------------------------------------------------------------------------ publishing

    def _post(self, name: str) -> Awaitable[None]:
        return self._send_one(name)

    async def _prepare(self) -> None:
        async with self._publishing(self._deadline()):
            await self._count()

    async def _send_one(self, name: str) -> None:
        """Publish one name. aiokafka puts names that are sent at the same time into one batch."""
        body, deadline = name.encode(), self._deadline()
        async with self._publishing(deadline) as attempt:
            number = crc32(body) % await self._count()
            with suppress(MessageSizeTooLargeError):  # perhaps only the batch that it shared was too large
                await self._write(attempt, lambda producer: producer.send(self.topic, body, partition=number))
                return
        await self._send_share(number, [body], deadline)

    async def _send(self, names: list[str], deadline: float) -> int:
        return await self._send_bodies([name.encode() for name in names], deadline)

    async def _send_bodies(self, bodies: list[bytes], deadline: float) -> int:
        shares = defaultdict[int, list[bytes]](list)
        async with self._publishing(deadline):
            count = await self._count()
            if count == 1:
                shares[0] = bodies
            else:
                for body in bodies:
                    shares[crc32(body) % count].append(body)
        sending = [self._send_share(number, share, deadline) for number, share in shares.items()]
        return total(await asyncio.gather(*sending, return_exceptions=True))

    async def _send_share(
        self, number: int, bodies: list[bytes], deadline: float, attempt: Attempt | None = None
    ) -> int:
        """Publish `bodies` to partition `number`, one batch after another, and wait until all are accepted.

        If a batch is too large for the topic, it is split and sent again: only a name that is too
        large by itself fails.
        """
        attempt = attempt or Attempt()
        async with self._publishing(deadline, attempt):
            ready = self._filled((await self._started()).create_batch(), bodies, 0)  # before it waits for its turn
            async with self._lanes[number]:
                while attempt.accepted < len(bodies):
                    batch: Any = None

                    async def send(producer: AIOKafkaProducer) -> asyncio.Future[Any]:
                        nonlocal batch, ready
                        batch, ready = ready or self._filled(producer.create_batch(), bodies, attempt.accepted), None
                        written: asyncio.Future[Any] = await producer.send_batch(batch, self.topic, partition=number)
                        return written

                    try:
                        await self._write(attempt, send)
                        attempt.accepted += batch.record_count()
                    except MessageSizeTooLargeError:
                        if batch.record_count() == 1:
                            raise
                        self._batch_bytes = min(self._batch_bytes, batch.size() // 2)
        return attempt.accepted

    def _filled(self, batch: Any, bodies: list[bytes], start: int) -> Any:
        """Fill `batch` with as many of `bodies`, from number `start` on, as it has room for."""
        for body in islice(bodies, start, None):
            if batch.record_count() and batch.size() + len(body) > self._batch_bytes:
                break
            if batch.append(timestamp=None, key=None, value=body) is None:
                break
        return batch

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **settings(self.address),
            acks=ACKS[self.guarantee],
            enable_idempotence=self._durable,
            compression_type=self._codec,
            max_batch_size=BATCH_BYTES,
            max_request_size=LARGEST_BODY,
        )

    # ------------------------------------------------------------------------- reading, dead letters

    def _subscription(self, group: str, *, replay: bool) -> KafkaSubscription:
        """As `Line.subscribe`. With `replay`, a group that exists already continues at its position."""
        return KafkaSubscription(self, group, replay=replay)

    async def _dead_letters(self) -> list[DeadLetter]:
        return await self._graveyard.letters()

    async def _resend(self) -> int:
        return await self._graveyard.resend()


class KafkaSubscription(GroupMember, ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a consumer group. aiokafka tells it when the group rebalances."""

    _line: KafkaLine

    async def _join(self, deadline: float) -> None:
        self._generation = 0  # counts the rebalances
        self._starts: dict[TopicPartition, int] = {}  # the offset at which this member began to read
        self._positions: dict[TopicPartition, int] = {}  # the offset after the last name that was settled
        self._committed: dict[TopicPartition, int] = {}  # the offset that the broker has, as far as known
        self._committing = asyncio.Lock()
        self._commits: set[asyncio.Task[None]] = set()  # commits without an answer yet
        self._missed = False  # a handled name can no longer be settled by this member
        self._unread = False  # partitions were assigned, and what is committed for them is not known yet
        self._parted = False  # this member has settled what it could, and leaves the group
        line = self._line
        async with line._trouble(ConnectFailed, deadline, verb="create"):
            count = await insist(line.address, line._make_topic)
        self._all = [TopicPartition(line.topic, number) for number in range(count)]
        async with self._trouble(ConnectFailed, deadline):
            await insist(line.address, self._start)
        # The group is live now. Do not wait for this member's partitions for long: a rebalance waits for the
        # names in hand, and this same task may hold one of them as another member.
        with suppress(TimeoutError):
            async with asyncio.timeout(JOIN_SECONDS):
                await self._joined.wait()

    async def _start(self) -> None:
        if self._consumer:
            await self._line._stop(self._consumer, 0)
        self._consumer = self._new_consumer()
        await start(self._consumer)
        if await self._is_new():
            await self._write_start()
        self._note_coordinator()
        self._consumer.subscribe([self._line.topic], listener=self)

    def _new_consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **settings(self._line.address),
            group_id=self._id,
            enable_auto_commit=False,  # it would commit names that are still in hand
            auto_offset_reset="earliest",  # for partitions that are added to the topic later
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_bytes=4 * FETCH_BYTES,
            # A rebalance waits for a fetch to return. And aiokafka 0.14 looks around every 200 ms: if a fetch ends
            # in the same turn of the event loop, the next one is 200 ms late.
            fetch_max_wait_ms=150,
            session_timeout_ms=6000,  # the minimum of brokers: a dead member is replaced after this time
            heartbeat_interval_ms=250,  # a member learns of a rebalance within this time
            rebalance_timeout_ms=int(HOLD_SECONDS * 2000),
            max_poll_interval_ms=2**31 - 1,  # a slow handler is not a dead member
        )

    # -------------------------------------------------------------------------------------- reading

    async def _next(self) -> Sequence[Batch | Poison]:
        while True:
            await self._check_alive()  # first: so who asks with a short time-out each time learns of it too
            async with self._trouble(ConnectionLost, self._line._deadline(), what="the group cannot be read: "):
                generation = self._generation
                if fetched := await self._fetch(self._pause):
                    self._gave = True
                    if generation == self._generation:
                        self._notice_a_new_log(fetched)
                    return fetched

    def _notice_a_new_log(self, fetched: Sequence[Batch | Poison]) -> None:
        """If a partition begins again before what was read, its topic was made again: its old offsets mean nothing."""
        for run in fetched:
            partition, first = run.source, run.origins[0] if isinstance(run, Batch) else run.origin
            if first < max(self._starts.get(partition, 0), self._positions.get(partition, 0)):
                for offsets in (self._starts, self._positions, self._committed):
                    offsets.pop(partition, None)
                log.warning(
                    "topic %s was deleted and created again: group %s reads partition %s from offset %s on",
                    *(partition.topic, self._group, partition.partition, first),
                )

    async def _fetch(self, seconds: float) -> Sequence[Batch | Poison]:
        """The names that have come, for each partition; nothing if that takes longer than `seconds`."""
        try:
            async with asyncio.timeout(2 * seconds + 0.1):  # `timeout_ms` has no effect during a rebalance
                fetched = await self._consumer.getmany(timeout_ms=int(seconds * 1000))
        except TimeoutError:
            return []
        except asyncio.CancelledError:
            for one in self._consumer._fetcher._fetch_waiters:  # aiokafka 0.14 would keep one for each cancelled call
                one.cancel()
            raise
        except UNREADABLE:
            # aiokafka has dropped what it had taken from other partitions before: go back, so that it comes again.
            for one in self._consumer.assignment() & self._starts.keys():
                self._consumer.seek(one, max(self._starts[one], self._positions.get(one, 0)))
            raise
        return [
            run
            for partition, records in fetched.items()
            for run in runs([one.value for one in records], [one.offset for one in records], partition)
        ]

    async def _bury(self, poison: Poison, deadline: float) -> None:
        generation = self._generation
        partition, offset = poison.source, poison.origin
        origin = f"{partition.topic}-{partition.partition}@{offset}"
        letter = DeadLetter(poison.body or b"", self._group, origin, poison.reason)
        await self._line._graveyard.bury(letter, deadline)
        if generation == self._generation or not self._joined.is_set():  # else another member may own the partition
            self._positions[partition] = offset + 1

    # ------------------------------------------------------------------------------------- settling

    async def _settle(self, batch: Batch, count: int) -> None:
        if batch.source is None:
            self._missed = True
        else:
            # Not back: another member may have had the partition since, and committed more.
            self._positions[batch.source] = max(self._positions.get(batch.source, 0), batch.origins[count - 1] + 1)

    async def _settle_ahead(self, batch: Batch, deadline: float) -> bool:
        generation, partition, end = self._generation, batch.source, batch.origins[-1] + 1
        self._idle.clear()  # a rebalance waits until this is done
        ahead = False
        try:
            self._positions[partition] = end
            await self._confirm(deadline)
            ahead = generation == self._generation and self._committed.get(partition) == end
        finally:
            if not ahead and (generation == self._generation or not self._joined.is_set()):
                # Not handed out: move the position back. Nobody knows which one the broker has, so commit this one.
                self._positions[partition] = batch.origins[0]
                self._committed.pop(partition, None)
            self._idle.set()
        return ahead

    async def _give_back(self, batches: Sequence[Batch]) -> None:
        """With `AT_MOST_ONCE` they are settled already: move the position back."""
        for partition, offset in [(one.source, one.origins[0]) for one in batches if one.names]:
            if self._early and self._positions.get(partition, 0) > offset:
                self._positions[partition] = offset

    def _unwritten(self) -> dict[TopicPartition, int]:
        """The offsets that are settled and not committed yet."""
        return {one: offset for one, offset in self._positions.items() if offset != self._committed.get(one)}

    async def _confirm(self, deadline: float) -> None:
        if self._joined.is_set():  # else it is done after the rebalance
            await self._commit_settled(deadline)

    async def _commit_settled(self, deadline: float) -> None:
        if self._unread:  # another member may have committed more
            return
        what = "what was handled could not be settled: "
        async with self._trouble(ConnectionLost, deadline, what=what), self._committing:
            mine = self._consumer.assignment()
            news = {one: offset for one, offset in self._unwritten().items() if one in mine}
            if not news:
                return
            with suppress(CommitFailedError, IllegalStateError):  # the group rebalances, and then it is committed
                await self._commit(news)
                self._committed.update(news)

    async def _commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit offsets; `CommitFailedError` if the group has rebalanced."""
        while self._commits:  # an earlier commit whose caller did not wait must not come after this one
            await asyncio.wait(self._commits)
        if self._consumer._coordinator.generation < 0:  # the group has put this member out: an empty one would take it
            raise CommitFailedError("this member is not in the group")
        committing = beside(self._consumer.commit(positions), self._commits)
        await asyncio.wait([committing])  # not `await committing`: that would cancel it with the caller
        committing.result()

    # --------------------------------------------------------------------------------- rebalancing

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """A rebalance begins: wait for the name in hand and settle it; drop names that were not handed out.

        Without that wait the next owner of the partition would get the name in hand again.
        """
        self._generation += 1
        self._joined.clear()
        self._note_coordinator()
        taken, batch = self._taken, self._batch
        await self._give_back([Batch(batch.names[taken:], batch.origins[taken:], batch.source)])
        self._drop()
        with suppress(TimeoutError):
            async with asyncio.timeout(HOLD_SECONDS):
                await self._idle.wait()
        with suppress(ConnectionLost):
            await self._commit_settled(self._line._deadline())

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """The rebalance is over: continue where this member was; in new partitions, at the committed offset."""
        consumer, partitions = self._consumer, assigned
        consumer.pause(*partitions)  # fetch nothing before the offsets are known
        self._unread = True
        consumer._coordinator._start_heartbeat_task()  # aiokafka 0.14 starts it only when this has returned
        known = await self._known(partitions)
        if known is None:
            return
        self._unread = False
        batch = self._batch
        self._missed |= bool(self._unwritten().keys() - partitions)
        if batch.source not in partitions:
            batch.source = None  # its handler took too long: the name comes again, to another member
        self._positions = {one: offset for one, offset in self._positions.items() if one in partitions}
        self._heard.clear()
        starts = self._starts = dict(self._positions)
        if batch.source and batch.names:
            starts[batch.source] = max(starts.get(batch.source, 0), batch.origins[len(batch.names) - 1] + 1)
        for partition, offset in known.items():
            starts[partition] = max(offset, starts.get(partition, 0))
            consumer.seek(partition, starts[partition])
            if partition in self._positions or partition == batch.source:
                # Another member may have had it since, and committed more.
                self._positions[partition] = max(offset, self._positions.get(partition, 0))
        self._committed = known
        consumer.resume(*partitions)
        self._joined.set()
        self._unconfirmed = True
        self._news.set()

    async def _known(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int] | None:
        """Their committed offsets. This repeats until they can be read; None if the member is out of the group.

        `_check_alive` tells the reader why they cannot: it asks the same of the coordinator.
        """
        consumer, coordinator = self._consumer, self._consumer._coordinator
        if not partitions:
            return {}
        while True:
            with suppress(*DRIVER_ERRORS):
                async with asyncio.timeout(self._line.timeout / 4):
                    known = await committed(self._line.address, self._id, partitions)
                    if await coordinator._do_heartbeat():  # so nobody else has had the partitions when they were read
                        return known
            if self._parted or self._consumer is not consumer or coordinator.generation < 0:
                return None
            await asyncio.sleep(RETRY_SECONDS)

    # -------------------------------------------------------------------------------------- leaving

    async def _part(self, deadline: float, *, clean: bool) -> None:
        if self._consumer is None:
            return
        await self._asking_coordinator.end(0.1)
        try:
            await self._settle_last(deadline - min(FAREWELL_SECONDS, self._line.timeout / 4), clean=clean)
        finally:
            self._parted = True
            await self._line._stop(self._consumer, deadline, self._commits)

    async def _settle_last(self, deadline: float, *, clean: bool) -> None:
        """Commit. At a clean end, also wait for a rebalance: this member may have caused it by its silence."""
        async with self._trouble(ConnectionLost, deadline, what="what was handled could not be settled: "):
            if self._unread and self._unwritten():  # it cannot be committed before that is known
                await self._joined.wait()
            await self._commit_settled(deadline)
            while clean and self._unwritten() and not self._missed:
                await asyncio.sleep(RETRY_SECONDS)
                await self._commit_settled(deadline)
            if clean and self._missed:
                raise CommitFailedError
