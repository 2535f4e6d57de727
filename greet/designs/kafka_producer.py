"""What a line over Kafka does besides sending: it creates the topic, keeps a producer running, and says what an error
means for a name.

- The topic is created at the first publish or subscribe, and has leaders before it is used.
- The producer is started at the first publish, so a line that only subscribes does not need the right to write. A
  producer that has failed is replaced.
- aiokafka says that a batch failed. A caller has to know more: was the name certainly not accepted
  (`PublishFailed`), or can nobody tell (`PublishUnknown`)?
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    NoError,
    OutOfOrderSequenceNumber,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownProducerId,
    for_code,
)

from greet.designs.kafka_settings import AWAY, DRIVER_ERRORS, NOBODY, RETRY_SECONDS, insist, settings, trouble, words
from greet.errors import ConnectFailed, GreetError, PublishFailed, PublishUnknown, Unsupported
from greet.line import CLOSED, Line, State
from greet.tasks import beside, left, looked_at

Tasks = Set[asyncio.Task[None]]

_stopping = set[asyncio.Task[None]]()  # clients whose broker did not answer in time


@dataclass
class Attempt:
    """The progress of one call that publishes."""

    accepted: int = 0
    handed_over: bool = False
    """Some names may have reached the broker, but are not acknowledged."""


class ProducingLine(Line):
    """A line with a producer of aiokafka."""

    _partitions: int
    _replicas: int
    """-1 for the broker's default."""
    _durable: bool

    async def _connect(self, deadline: float) -> None:
        self._producer: AIOKafkaProducer | None = None
        self._leaving: set[asyncio.Task[None]] = set()  # the tasks that stop failed producers
        self._starting: asyncio.Task[None] | None = None
        if await eager():  # with eager tasks its consumers end at once, without an error
            raise Unsupported("aiokafka does not work with eager tasks: use an event loop without that task factory")
        async with self._trouble(ConnectFailed, deadline, verb="create"):
            count = await insist(self.address, lambda: self._make_topic(self.topic, self._partitions, only_look=True))
        if "partitions" in self.address.options and count != self._partitions:
            raise ConnectFailed(f"topic {self.topic} has partitions={count}: say so, or use another topic")

    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        if self._starting:
            self._starting.cancel()
        if self._producer:
            await self._stop(self._producer, deadline)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=left(deadline))

    @abstractmethod
    def _new_producer(self) -> AIOKafkaProducer:
        """A producer with the settings of the line."""

    # ------------------------------------------------------------------------------------ the topic

    async def _make_topic(
        self, topic: str, partitions: int, config: dict[str, str] | None = None, *, only_look: bool = False
    ) -> int:
        """Create `topic` if it does not exist, wait until its partitions have leaders, and count them.

        With `only_look` it is not created; the broker only checks whether it could be.
        """
        async with self._admin() as admin:
            if topic not in await admin.list_topics():
                # aiokafka accepts -1, the broker's default, only with an (empty) assignment of replicas.
                new = NewTopic(topic, partitions, self._replicas, {} if self._replicas < 0 else None, config)
                answer = await admin.create_topics([new], validate_only=only_look)
                _, code, message = answer.topic_errors[0]
                if "All brokers are currently fenced" in (message or ""):
                    raise NodeNotReadyError(message)
                if for_code(code) not in (NoError, TopicAlreadyExistsError):
                    raise for_code(code)(message)
                if only_look and code == NoError.errno:
                    return partitions
            while True:
                (found,) = await admin.describe_topics([topic])
                error = for_code(found["error_code"])()
                if found["partitions"] and all(one["leader"] >= 0 for one in found["partitions"]):
                    return len(found["partitions"])
                if not (isinstance(error, NoError) or error.retriable):
                    raise error
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**settings(self.address))
        try:
            await admin.start()
            yield admin
        finally:  # over TLS it waits until the broker closes too: that goes on in the background
            await asyncio.wait([beside(admin.close(), _stopping)], timeout=RETRY_SECONDS)

    async def _committed(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The committed offset of `group` in each of `partitions`, or -1. Waits until the broker knows it.

        After a restart, a broker first loads the groups. Until then its answer is an error, without any
        partition. aiokafka 0.14 ignores that error: then `consumer.committed` says that nothing is
        committed, and the group would start again. The admin client leaves the partitions out.
        """
        while True:
            try:
                async with self._admin() as admin:
                    found = await admin.list_consumer_group_offsets(group, partitions=list(partitions))
                if found.keys() >= set(partitions):
                    return {one: found[one].offset for one in partitions}
            except NoError:  # aiokafka 0.14 raises this for an error of one partition: the user may not see it
                raise TopicAuthorizationFailedError from None
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    def _trouble(self, ours: type[GreetError], deadline: float, **more: str) -> AbstractAsyncContextManager[None]:
        """Raise the driver's errors and a missed deadline as `ours`."""
        return trouble(ours, deadline, self.address, self.topic, **more)

    # --------------------------------------------------------------------------------- the producer

    async def _write(self, attempt: Attempt, send: Callable[[AIOKafkaProducer], Awaitable[Any]]) -> None:
        """Call `send`, and return when the broker has acknowledged what it sent.

        With DURABLE, aiokafka retries a batch for ever. So if it is not acknowledged before the
        deadline, it may still be written later, and nobody can tell. Other batches fail after a while;
        they are sent again here.
        """
        while True:
            producer = await self._started()
            waiting = True
            try:
                written = await send(producer)
                attempt.handed_over, waiting = True, False
                written.add_done_callback(looked_at)
                await asyncio.wait([written])  # not `await written`: that would cancel it with the caller
                written.result()
            except KafkaError as error:
                if waiting and isinstance(error, KafkaTimeoutError):
                    continue  # the producer's buffer was full
                answered = isinstance(error, BrokerResponseError)
                if answered and not error.retriable and not _miscounted(error):
                    attempt.handed_over = False  # certainly not written
                if self._durable or not (answered or error.retriable):
                    self._give_up(producer)
                if self._durable or not error.retriable or self._state is State.LEFT:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
            else:
                attempt.handed_over = False
                return

    @asynccontextmanager
    async def _publishing(self, deadline: float) -> AsyncIterator[Attempt]:
        """Raise `PublishUnknown` if a batch may have been accepted, else `PublishFailed`."""
        attempt = Attempt()
        try:
            async with asyncio.timeout_at(deadline):
                yield attempt
        except DRIVER_ERRORS as error:
            why = self._why(error)
            failure: GreetError = PublishFailed(f"{why}: publish it again when that is fixed")
            if attempt.handed_over:
                failure = PublishUnknown(f"{why}: publish it again if a duplicate does no harm")
            failure.accepted = attempt.accepted
            raise failure from error

    def _why(self, error: Exception) -> str:
        if self._state is State.LEFT:
            return "the line was closed"
        if isinstance(error, TimeoutError):
            return f"{self.address} has not answered for {self.timeout:g} s"
        return words(error, self.address, self.topic)

    async def _count(self) -> int:
        """The number of partitions of the topic. The producer notices added partitions within seconds."""
        return len(await (await self._started()).partitions_for(self.topic))

    async def _started(self) -> AIOKafkaProducer:
        """The producer. It is started, and the topic created, on first use, and again after it has failed.

        So a line that only subscribes does not need the right to write.
        """
        while self._producer is None:
            if self._state is State.LEFT:
                raise PublishFailed(CLOSED)
            if self._starting is None:
                self._starting = beside(self._start_producer(), self._leaving)
            starting = self._starting
            await asyncio.wait([starting])
            if not starting.cancelled():  # it is cancelled when the line is left
                starting.result()
        return self._producer

    async def _start_producer(self) -> None:
        """Start one producer. All calls that publish in the meantime wait for it."""
        try:
            async with asyncio.timeout(self.timeout):
                await insist(self.address, self._try_producer, NOBODY + AWAY)
        finally:
            self._starting = None

    async def _try_producer(self) -> None:
        await self._make_topic(self.topic, self._partitions)
        producer = self._new_producer()
        try:
            await producer.start()
            await producer.partitions_for(self.topic)
        except BaseException:
            await self._stop(producer, 0)
            raise
        self._producer = producer

    def _give_up(self, producer: AIOKafkaProducer) -> None:
        """Stop this producer; the next publish starts another one.

        An idempotent producer cannot continue after a batch has failed. It is not waited for: its
        remaining batches must not be written after those of the next producer.
        """
        if producer is self._producer:
            self._producer = None
            beside(self._stop(producer, 0), self._leaving)

    async def _stop(
        self, client: AIOKafkaProducer | AIOKafkaConsumer, deadline: float, commits: Tasks = frozenset()
    ) -> None:
        """Stop `client`. If its broker does not answer before the deadline, this goes on in the background.

        A producer first sends what it still holds; a consumer leaves its group. `commits` are its
        commits without an answer, which are cancelled: aiokafka would repeat them for ever.
        """

        async def stop() -> None:
            try:
                await client.stop()
            finally:
                for one in commits:
                    one.cancel()

        await asyncio.wait([beside(stop(), _stopping)], timeout=left(deadline))


async def eager() -> bool:
    """Whether a new task runs before `create_task` returns, as with `asyncio.eager_task_factory`."""

    async def nothing() -> None: ...

    probe = asyncio.create_task(nothing())
    began = probe.done()
    await probe
    return began


def _miscounted(error: Exception) -> bool:
    """Whether the broker has lost the sequence of an idempotent producer, so nobody can tell what it has."""
    return isinstance(error, OutOfOrderSequenceNumber | UnknownProducerId)
