"""The producer of a line over Kafka: how it is kept running, and what its errors mean for a name.

- The producer is started at the first publish, so a line that only subscribes does not need the right to write. A
  producer that has failed is replaced.
- aiokafka says that a batch failed. A caller has to know more: was the name certainly not accepted
  (`PublishFailed`), or can nobody tell (`PublishUnknown`)?
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    KafkaTimeoutError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    UnknownError,
    UnknownProducerId,
)

from greet.designs.kafka_settings import AWAY, DRIVER_ERRORS, NOBODY, RETRY_SECONDS, insist, trouble, words
from greet.designs.kafka_topic import eager, make_topic, start, stopping
from greet.errors import ConnectFailed, GreetError, PublishFailed, PublishUnknown, Unsupported
from greet.line import CLOSED, Line, State
from greet.tasks import beside, left, looked_at

Tasks = Set[asyncio.Task[None]]


@dataclass
class Attempt:
    """The progress of one call that publishes."""

    accepted: int = 0
    handed_over: bool = False
    """Some names may have reached the broker, but are not acknowledged."""
    error: KafkaError | None = None
    """What the broker answered, the last time that it was sent."""


class ProducingLine(Line):
    """A line with a producer of aiokafka."""

    _partitions: int
    _replicas: int
    _durable: bool

    async def _connect(self, deadline: float) -> None:
        self._producer: AIOKafkaProducer | None = None
        self._background: set[asyncio.Task[None]] = set()  # the tasks that start and stop producers
        self._starting: asyncio.Task[None] | None = None
        if await eager():  # with eager tasks its consumers end at once, without an error
            raise Unsupported("aiokafka does not work with eager tasks: use an event loop without that task factory")
        async with self._trouble(ConnectFailed, deadline, verb="create"):
            count = await insist(self.address, lambda: self._make_topic(only_look=True))
        if "partitions" in self.address.options and count != self._partitions:
            raise ConnectFailed(f"topic {self.topic} has partitions={count}: say so, or use another topic")

    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        if self._starting:
            self._starting.cancel()
        if self._producer:
            await self._stop(self._producer, deadline)
        if self._background:
            await asyncio.wait(self._background, timeout=left(deadline))

    @abstractmethod
    def _new_producer(self) -> AIOKafkaProducer:
        """A producer with the settings of the line."""

    def _trouble(self, ours: type[GreetError], deadline: float, **more: str) -> AbstractAsyncContextManager[None]:
        """Raise the driver's errors and a missed deadline as `ours`."""
        return trouble(ours, deadline, self.address, self.topic, **more)

    async def _make_topic(self, *, only_look: bool = False) -> int:
        return await make_topic(self.address, self.topic, self._partitions, self._replicas, only_look=only_look)

    async def _write(self, attempt: Attempt, send: Callable[[AIOKafkaProducer], Awaitable[Any]]) -> None:
        """Call `send`, and return when the broker has acknowledged what it sent.

        If `send` cannot hand it to aiokafka, because the buffer is full or the producer was replaced, this
        tries again. If the broker refuses it, this raises. After any other error it is sent again, except
        with DURABLE: an idempotent producer cannot go on after an error, so it is replaced, and this raises.
        aiokafka itself retries a batch of DURABLE for ever. So if that is not acknowledged before the
        deadline, it may still be written later.
        """
        while True:
            producer = await self._started()
            before, not_sent_yet = attempt.handed_over, True
            try:
                written = await send(producer)
                attempt.handed_over, not_sent_yet = True, False
                written.add_done_callback(looked_at)
                await asyncio.wait([written])  # not `await written`: that would cancel it with the caller
                written.result()
            except KafkaError as error:
                if not_sent_yet and isinstance(error, KafkaTimeoutError):
                    continue  # the producer's buffer was full
                if not_sent_yet and isinstance(error, ProducerClosed) and producer is not self._producer:
                    continue  # the batch of another caller failed, and that replaced the producer
                answered = isinstance(error, BrokerResponseError)
                attempt.error = error if answered else None
                if answered and not error.retriable and not _open_ended(error):
                    attempt.handed_over = before  # this time it was certainly not written
                if self._durable or not (answered or error.retriable):
                    self._give_up(producer)
                if self._durable or not error.retriable or self._state is State.LEFT:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
            else:
                attempt.handed_over, attempt.error = False, None
                return

    @asynccontextmanager
    async def _publishing(self, deadline: float, attempt: Attempt | None = None) -> AsyncIterator[Attempt]:
        """Raise `PublishUnknown` if a batch may have been accepted, else `PublishFailed`."""
        attempt = attempt or Attempt()
        try:
            async with asyncio.timeout_at(deadline):
                yield attempt
        except (*DRIVER_ERRORS, PublishFailed) as error:  # the latter if the line was left in the meantime
            raise self._failure(error, attempt) from error

    def _failure(self, error: Exception, attempt: Attempt) -> GreetError:
        """What `error` means for the names of `attempt` that are not accepted."""
        why = self._why(error, attempt)
        failure: GreetError = PublishFailed(f"{why}: publish it again when that is fixed")
        if attempt.handed_over:
            failure = PublishUnknown(f"{why}: publish it again if a duplicate does no harm")
        elif isinstance(error, PublishFailed):
            failure = PublishFailed(*error.args)
        failure.__cause__ = error
        failure.accepted = attempt.accepted
        return failure

    def _why(self, error: Exception, attempt: Attempt) -> str:
        if self._state is State.LEFT:
            return "the line was closed"
        if isinstance(error, TimeoutError):
            if not attempt.error:
                return (
                    f"{self.address} has not acknowledged it within {self.timeout:g} s: it does not answer,"
                    " or a partition has no leader, or too few replicas are in sync"
                )
            error = attempt.error
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
                self._starting = beside(self._start_producer(), self._background)
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
        await self._make_topic()
        producer = self._new_producer()
        _count_as_kafka_does(producer)
        try:
            await start(producer)
            await producer.partitions_for(self.topic)
        except BaseException:
            await self._stop(producer, 0)
            raise
        self._producer = producer

    def _give_up(self, producer: AIOKafkaProducer) -> None:
        """Stop this producer; the next publish starts another one.

        An idempotent producer cannot continue after a batch has failed. This does not wait for it: it may
        still write what it holds. Its publishers get the result, or `PublishUnknown`.
        """
        if producer is self._producer:
            self._producer = None
            beside(self._stop(producer, self._deadline() if self._durable else 0), self._background)

    async def _stop(
        self, client: AIOKafkaProducer | AIOKafkaConsumer, deadline: float, commits: Tasks = frozenset()
    ) -> None:
        """Stop `client`. If its broker does not answer before the deadline, this goes on in the background.

        A producer first sends what it still holds; a consumer leaves its group. `commits` are its
        commits without an answer, which are cancelled: aiokafka would repeat them for ever.
        """

        async def stop() -> None:
            closing = asyncio.create_task(client.stop())
            closing.add_done_callback(looked_at)
            try:
                await asyncio.wait([closing])
                if closing.cancelled():  # aiokafka 0.14, while no broker is there: then it leaves its connections open
                    await (client.client if isinstance(client, AIOKafkaProducer) else client._client).close()
            finally:
                for one in commits:
                    one.cancel()

        await asyncio.wait([beside(stop(), stopping)], timeout=left(deadline))


def _count_as_kafka_does(producer: AIOKafkaProducer) -> None:
    """After sequence number 2**31 - 1 comes 0. aiokafka 0.14 goes on at -2**31, and the broker refuses the message."""
    if numbers := producer._txn_manager:

        def count(partition: TopicPartition, names: int) -> None:
            numbers._sequence_numbers[partition] = (numbers._sequence_numbers[partition] + names) % 2**31

        numbers.increment_sequence_number = count


def _open_ended(error: Exception) -> bool:
    """Whether nobody can tell what the broker has: it lost the sequence of an idempotent producer, or says not why."""
    return isinstance(error, OutOfOrderSequenceNumber | UnknownProducerId) or type(error) is UnknownError
