"""What `doctor` looks at on a RabbitMQ, over AMQP alone: what it does not tell is tried on a queue of our own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiormq
from aiormq.abc import AbstractConnection

from bench.contenders import access
from bench.contenders.look import Finding, Look, encryption, round_trip
from bench.contenders.rabbitmq_peers import connected
from greet.brokers.rabbitmq import support

KEPT = 1_000
"""Messages that are published to see whether they are kept."""
LARGEST = 65_536
"""Bytes of the longest name."""
RETURNS = 30
"""How often a message is given back: RabbitMQ 4 gives it up after 20 deliveries by default."""
CONFIRM_S = 10.0


@asynccontextmanager
async def look(url: str) -> AsyncIterator[Look]:
    """Connected to it. Raises whatever aiormq does."""
    connection = await connected(url)
    try:
        yield RabbitMQLook(url, connection)
    finally:
        await connection.close()


class RabbitMQLook(Look):
    """A node as one client sees it."""

    def __init__(self, url: str, connection: AbstractConnection) -> None:
        self._url, self._connection = url, connection
        self._address = access.address_of(url)

    async def at_broker(self) -> AsyncIterator[Finding]:
        """Version, and how many hosts are named."""
        told: dict[str, Any] = self._connection.server_properties
        product, number = str(told.get("product", "?")), str(told.get("version", "?"))
        if product == "RabbitMQ":
            ended = support(number)
            fix = "measure on a version that is supported, or read figures as of the past" if ended else ""
            yield Finding(product, f"{number}, {ended}" if ended else number, fix)
        else:
            yield Finding("broker", f"{product} {number}", "figures are of this product, and not of RabbitMQ")
        yield await encryption(self._url)
        hosts = len(self._address.hosts)
        yield Finding("hosts", f"{hosts} named" + (", of which the first that listens is used" if hosts > 1 else ""))
        yield await self._alarms()

    async def make(self, topic: str) -> None:
        """A group makes it."""

    async def at_topic(self, topic: str, group: str) -> AsyncIterator[Finding]:
        """Copies, what is kept, how often a message is delivered, and how far the broker is."""
        queue = f"{topic}:{group}"
        kind = self._address.options.get("queue_type", "classic")
        yield self._replication(kind)
        channel = await self._connection.channel(publisher_confirms=True)
        yield await round_trip(lambda: channel.queue_declare(queue, passive=True))
        kept = await self._kept(channel, topic, queue)
        yield kept
        if not kept.fix:
            yield await self._deliveries(channel, topic, queue, kind)
            yield await self._largest(topic)

    async def _alarms(self) -> Finding:
        """Whether a message is answered: one to nowhere, as no queue has the name of its key."""
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=False)
        try:
            async with asyncio.timeout(CONFIRM_S):
                await channel.basic_publish(b"doctor", routing_key=f"bench-doctor-{secrets.token_hex(8)}")
        except TimeoutError:
            return Finding("alarms", f"publishers are blocked: no confirm within {CONFIRM_S:.0f} s", ALARM)
        except aiormq.exceptions.ChannelAccessRefused:
            return Finding("alarms", "not told: this user may not publish to the default exchange")
        return Finding("alarms", "none")

    def _replication(self, kind: str) -> Finding:
        if kind == "quorum":
            return Finding("replication", "quorum queues: `rabbitmq-queues quorum_status QUEUE` names the members")
        several = len(self._address.hosts) > 1
        fix = "DURABLE does not survive the loss of a node, and costs less than it will: say queue_type=quorum"
        return Finding("replication", f"none: {kind} queues are on one node", fix if several else "")

    async def _kept(self, channel: Any, topic: str, queue: str) -> Finding:
        """Whether so many messages stay, and are confirmed at all."""
        try:
            async with asyncio.timeout(CONFIRM_S):
                for _ in range(0, KEPT, 100):
                    await asyncio.gather(*(channel.basic_publish(b"doctor", exchange=topic) for _ in range(100)))
        except TimeoutError:
            return Finding("retention", f"{KEPT:,} messages are not confirmed within {CONFIRM_S:.0f} s", ALARM)
        except aiormq.exceptions.DeliveryError:
            return Finding("retention", f"of {KEPT:,} messages some are refused", LIMITED)
        await asyncio.sleep(1)
        found = (await channel.queue_declare(queue, passive=True)).message_count or 0
        return Finding("retention", f"{found:,} of {KEPT:,} messages are there after 1 s", LIMITED * (found < KEPT))

    async def _deliveries(self, channel: Any, topic: str, queue: str, kind: str) -> Finding:
        """Give one message back, again and again, and see whether it comes again."""
        await channel.queue_purge(queue)
        await channel.basic_publish(b"doctor", exchange=topic)
        for count in range(RETURNS + 1):
            message = await channel.basic_get(queue)
            if not isinstance(message.delivery, aiormq.spec.Basic.GetOk):
                fix = "a message that is given back as often is lost or buried: raise delivery-limit in its policy"
                return Finding("delivery limit", f"{count} deliveries", fix)
            await channel.basic_reject(message.delivery_tag, requeue=True)
        return Finding("delivery limit", f"none, or more than {RETURNS}, of {kind} queues as greet makes them")

    async def _largest(self, topic: str) -> Finding:
        channel = await self._connection.channel(publisher_confirms=True)
        try:
            async with asyncio.timeout(CONFIRM_S):
                await channel.basic_publish(bytes(LARGEST), exchange=topic)
        except aiormq.exceptions.AMQPError:
            fix = f"the question about payloads has failed rows: raise max_message_size to {LARGEST} or more"
            return Finding("largest message", f"less than {LARGEST:,} bytes", fix)
        return Finding("largest message", f"{LARGEST:,} bytes and more")


ALARM = "an alarm for memory or disk stops them: `rabbitmqctl status` says which, and how much is missing"
LIMITED = "a policy limits the length or age of queues, and what it drops counts as lost: take the limit away"
