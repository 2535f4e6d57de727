"""What carries messages over RabbitMQ without greet: aio-pika and aiormq as their documentation shows, FastStream.

All of them publish to a fan-out exchange with a durable queue for each group, as greet does, with the
confirms, delivery mode and acknowledgements of the guarantee.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aio_pika
import aiormq
from aiormq.abc import DeliveredMessage

from bench.contenders import access
from bench.model import Contender, Following, Place, Publisher
from greet import Guarantee

PREFETCH = 500
ACK_EVERY = 50
ACK_SECONDS = 0.1
"""How long a message that is handled may wait for its acknowledgement: as long as greet's."""


async def connected(url: str) -> aiormq.abc.AbstractConnection:
    """A connection of aiormq."""
    door = await access.rabbitmq(url)
    return await aiormq.connect(door.url, context=door.context)


async def _robust(place: Place) -> aio_pika.abc.AbstractRobustConnection:
    door = await access.rabbitmq(place.url)
    return await aio_pika.connect_robust(door.url, ssl_context=door.context)


def kind(place: Place) -> Any:
    """The arguments of its queues: the type is said, as a virtual host may have another default."""
    return {"x-queue-type": access.options(place).get("queue_type", "classic")}


def prefetch(place: Place) -> int:
    """How many messages a consumer holds, at most."""
    return int(access.options(place).get("prefetch", PREFETCH))


def _mode(place: Place) -> aio_pika.DeliveryMode:
    durable = place.guarantee is Guarantee.DURABLE
    return aio_pika.DeliveryMode.PERSISTENT if durable else aio_pika.DeliveryMode.NOT_PERSISTENT


def _confirmed(place: Place) -> bool:
    return place.guarantee is not Guarantee.AT_MOST_ONCE


class _Deliveries(ABC):
    """Messages as they come; every fiftieth acknowledges those before it too, and so does the last one in 0.1 s."""

    def __init__(self, place: Place) -> None:
        self._manual = _confirmed(place)
        self._unwrap = place.unwrap if place.options else bytes.decode
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._open = 0
        self._last: Any = None
        self._settling = asyncio.Lock()

    async def on_message(self, message: Any) -> None:
        """Keep it until it is asked for."""
        self._queue.put_nowait(message)

    @abstractmethod
    async def acknowledge(self, message: Any) -> None:
        """This one and all before it."""

    @asynccontextmanager
    async def settled(self) -> AsyncIterator[None]:
        """Acknowledge each 0.1 s meanwhile, and at the end, what was handed out."""
        settling = asyncio.create_task(self._settle_in_time())
        try:
            yield
        finally:
            settling.cancel()
            await asyncio.wait([settling])
        if not settling.cancelled():
            settling.result()
        await self._settle()

    async def _settle_in_time(self) -> None:
        while True:
            await asyncio.sleep(ACK_SECONDS)
            await self._settle()

    async def _settle(self) -> None:
        async with self._settling:  # an older tag after a newer one would end the channel
            if self._open and self._manual:
                self._open = 0
                await self.acknowledge(self._last)

    async def one(self) -> str:
        """The next."""
        if self._open >= ACK_EVERY:
            await self._settle()
        self._last = await self._queue.get()
        self._open += 1
        return self._unwrap(self._last.body)

    async def several(self) -> list[str]:
        """What is there, up to as many as are acknowledged at once."""
        if self._open >= ACK_EVERY:
            await self._settle()
        found = [await self._queue.get()]
        while len(found) + self._open < ACK_EVERY and not self._queue.empty():
            found.append(self._queue.get_nowait())
        self._last = found[-1]
        self._open += len(found)
        return [self._unwrap(message.body) for message in found]


class _AioPikaDeliveries(_Deliveries):
    async def acknowledge(self, message: Any) -> None:
        await message.ack(multiple=True)


@dataclass(frozen=True)
class AioPika(Contender):
    """https://docs.aio-pika.com: a robust connection, and a callback for each message; every fiftieth acknowledges."""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """`exchange.publish` with confirms."""
        async with await _robust(place) as connection:
            channel = await connection.channel(publisher_confirms=_confirmed(place))
            exchange = await channel.declare_exchange(place.topic, aio_pika.ExchangeType.FANOUT, durable=True)
            mode, headers = _mode(place), place.headers or None
            wrap = place.wrap if place.options else str.encode

            async def publish(name: str) -> None:
                await exchange.publish(aio_pika.Message(wrap(name), headers=headers, delivery_mode=mode), "")

            yield Publisher(publish, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A queue of its own."""
        async with await _robust(place) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=prefetch(place))
            exchange = await channel.declare_exchange(place.topic, aio_pika.ExchangeType.FANOUT, durable=True)
            queue = await channel.declare_queue(f"{place.topic}:{group}", durable=True, arguments=kind(place))
            await queue.bind(exchange)
            async with self.taking(queue, place) as names:
                yield names

    @asynccontextmanager
    async def taking(self, queue: aio_pika.abc.AbstractQueue, place: Place) -> AsyncIterator[AsyncIterator[Any]]:
        """`queue.consume`, and `message.ack(multiple=True)`."""
        deliveries = _AioPikaDeliveries(place)
        tag = await queue.consume(deliveries.on_message, no_ack=not _confirmed(place))
        following: Any = Following(deliveries.several if self.way == "many" else deliveries.one)
        async with deliveries.settled():
            yield following
        await queue.cancel(tag)


@dataclass(frozen=True)
class AioPikaSingly(AioPika):
    """The same by the queue's iterator, as its quick start has it: each message acknowledged."""

    @asynccontextmanager
    async def taking(self, queue: aio_pika.abc.AbstractQueue, place: Place) -> AsyncIterator[AsyncIterator[Any]]:
        """`queue.iterator()`, `message.process()`."""
        manual = _confirmed(place)

        async def names() -> AsyncIterator[str]:
            async with queue.iterator(no_ack=not manual) as messages:
                async for message in messages:
                    if manual:
                        async with message.process():
                            yield place.unwrap(message.body)
                    else:
                        yield place.unwrap(message.body)

        one_by_one: Any = names()
        yield one_by_one
        if manual:  # let the generator go on behind its `yield`, so that the last message is acknowledged
            with suppress(TimeoutError, StopAsyncIteration):
                async with asyncio.timeout(0.05):
                    await anext(one_by_one)


class _AiormqDeliveries(_Deliveries):
    def __init__(self, channel: aiormq.abc.AbstractChannel, place: Place) -> None:
        super().__init__(place)
        self._channel = channel

    async def acknowledge(self, message: DeliveredMessage) -> None:
        await self._channel.basic_ack(message.delivery_tag or 0, multiple=True)


@dataclass(frozen=True)
class Aiormq(Contender):
    """https://docs.aiormq.com: `basic_publish` with confirms, `basic_consume`, `basic_ack(multiple=True)`."""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """A window of `basic_publish`; that is the limit, so none waits for the socket to drain."""
        connection = await connected(place.url)
        try:
            channel: Any = await connection.channel(publisher_confirms=_confirmed(place))  # its type lacks `wait`
            await channel.exchange_declare(place.topic, exchange_type="fanout", durable=True)
            mode, wrap = int(_mode(place)), place.wrap if place.options else str.encode
            properties = aiormq.spec.Basic.Properties(delivery_mode=mode, headers=place.headers or None)

            async def publish(name: str) -> None:
                await channel.basic_publish(wrap(name), exchange=place.topic, properties=properties, wait=False)

            yield Publisher(publish, place.window)
        finally:
            await connection.close()

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """Every fiftieth message acknowledges those before it."""
        connection = await connected(place.url)
        try:
            channel = await connection.channel()
            await channel.basic_qos(prefetch_count=prefetch(place))
            await channel.exchange_declare(place.topic, exchange_type="fanout", durable=True)
            queue = f"{place.topic}:{group}"
            await channel.queue_declare(queue, durable=True, arguments=kind(place))
            await channel.queue_bind(queue, place.topic)
            deliveries = _AiormqDeliveries(channel, place)
            await channel.basic_consume(queue, deliveries.on_message, no_ack=not _confirmed(place))
            taking: Any = Following(deliveries.several if self.way == "many" else deliveries.one)
            async with deliveries.settled():
                yield taking
        finally:
            await connection.close()


@dataclass(frozen=True)
class FastStreamRabbit(Contender):
    """https://faststream.ag2.ai: a subscriber function, `broker.publish`; it acknowledges when the function returns."""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """`broker.publish` to the exchange."""
        from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange  # noqa: PLC0415, an extra
        from faststream.security import BaseSecurity  # noqa: PLC0415

        exchange = RabbitExchange(place.topic, type=ExchangeType.FANOUT, durable=True)
        persist = place.guarantee is Guarantee.DURABLE
        door = await access.rabbitmq(place.url)
        async with RabbitBroker(door.url, security=BaseSecurity(door.context), logger=None) as broker:

            async def publish(name: str) -> None:
                await broker.publish(name, exchange=exchange, persist=persist)

            yield Publisher(publish, place.window)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A subscriber that hands on each message."""
        from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue  # noqa: PLC0415
        from faststream.security import BaseSecurity  # noqa: PLC0415

        handled: asyncio.Queue[str] = asyncio.Queue()
        channel, door = Channel(prefetch_count=prefetch(place)), await access.rabbitmq(place.url)
        security = BaseSecurity(door.context)
        broker = RabbitBroker(door.url, security=security, default_channel=channel, logger=None)
        exchange = RabbitExchange(place.topic, type=ExchangeType.FANOUT, durable=True)

        @broker.subscriber(RabbitQueue(f"{place.topic}:{group}", durable=True, arguments=kind(place)), exchange)
        async def handle(name: str) -> None:
            handled.put_nowait(name)

        async with broker:
            await broker.start()
            taking: Any = Following(handled.get)
            yield taking


ACKNOWLEDGED = (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)

CONTENDERS: list[Contender] = [
    AioPika(
        *("rabbitmq", "name", 4_000, "500 unconfirmed, prefetch 500, acknowledged by 50 or each 0.1 s"),
        name="aio-pika",
        window=500,
    ),
    AioPika(
        *("rabbitmq", "many", 4_000, "500 unconfirmed, prefetch 500, acknowledged by 50 or each 0.1 s"),
        name="aio-pika",
        window=500,
        only_full=True,
    ),
    AioPikaSingly(
        *("rabbitmq", "name", 3_000, "500 unconfirmed, prefetch 500, each acknowledged"),
        name="aio-pika single acks",
        window=500,
        only_full=True,
    ),
    Aiormq(
        *("rabbitmq", "name", 5_000, "500 unconfirmed, prefetch 500, acknowledged by 50 or each 0.1 s"),
        name="aiormq",
        window=500,
    ),
    Aiormq(
        *("rabbitmq", "many", 5_000, "500 unconfirmed, prefetch 500, acknowledged by 50 or each 0.1 s"),
        name="aiormq",
        window=500,
    ),
    FastStreamRabbit(
        *("rabbitmq", "name", 1_000, "500 unconfirmed, prefetch 500, acknowledged when handled"),
        name="FastStream",
        window=500,
        needs="faststream",
        guarantees=ACKNOWLEDGED,
    ),
]
