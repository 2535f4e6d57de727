"""How an exchange, a queue and a binding of RabbitMQ are declared, by a user with or without the right to do so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.exceptions import ChannelAccessRefused
from pamqp.common import FieldTable

from greet.designs.rabbitmq_link import Link
from greet.errors import BadURL

ELECTION = 2.0
"""The longest time in seconds that a member which lost its connection waits for the leader of its quorum queue."""
REST = 0.1
"""The pause in seconds before a broker that failed is asked again."""


def short(what: str, text: str) -> str:
    """`text`, if RabbitMQ takes it in the name of an exchange or a queue; else raise `BadURL`."""
    if what == "topic" and text.startswith("amq."):
        raise BadURL(f"topic {text} begins with amq., which RabbitMQ keeps for its own names: use another one")
    if len(text) > 100:
        raise BadURL(f"{what} {text[:40]!a}… is too long for RabbitMQ: use up to 100 characters")
    return text


@dataclass(frozen=True)
class Declared:
    """Something that is declared on a broker."""

    what: str
    declare: Callable[[AbstractChannel, bool], Awaitable[Any]]
    """With True it only checks that it exists (a passive declaration)."""


def exchange(topic: str) -> Declared:
    """The exchange of a topic: it copies each message to all queues that are bound to it."""
    return Declared(
        f"exchange {topic}",
        lambda channel, passive: channel.declare_exchange(topic, "fanout", durable=True, passive=passive),
    )


def queue(name: str, arguments: FieldTable) -> Declared:
    """A durable queue."""
    return Declared(
        f"queue {name}",
        lambda channel, passive: channel.declare_queue(name, durable=True, arguments=arguments, passive=passive),
    )


def binding(topic: str, name: str) -> Declared:
    """Binds a queue to the exchange of a topic. AMQP has no passive form of this."""

    async def bind(channel: AbstractChannel, passive: bool) -> None:
        if not passive:
            await (await channel.get_queue(name)).bind(topic)

    return Declared(f"binding of {name}", bind)


def kept(queue_type: str) -> FieldTable:
    """The arguments of a queue that drops no message because it was delivered many times."""
    kind: FieldTable = {"x-queue-type": queue_type}
    if queue_type == "quorum":
        # When a member leaves, each message that it held counts as a failed delivery. RabbitMQ 4 drops a message after
        # 20 of them. This limit is never reached.
        kind["x-delivery-limit"] = 1_000_000_000
        # If a consumer's node is down, RabbitMQ 4.3 keeps the messages of that consumer for a minute, or until the
        # node is up again, and delivers later messages before them. With 0 it requeues them at once, as before 4.3.
        kind["x-consumer-disconnected-timeout"] = 0
    return kind


async def declare(link: Link, one: Declared) -> bool:
    """Declare something; False if the user may not, but it exists already: then the user can still read."""
    refusal: ChannelAccessRefused | None = None
    if one.what not in link.refused:
        try:
            async with link.spare() as channel:
                await one.declare(channel, False)
        except ChannelAccessRefused as error:
            refusal = error
        else:
            return True
    try:
        async with link.spare() as channel:
            await one.declare(channel, True)
    except ChannelNotFoundEntity:
        if refusal:
            raise refusal from None
        raise
    link.refused.add(one.what)  # the broker need not be asked again on this connection
    return False


async def exists(link: Link, one: Declared) -> bool:
    """Whether something exists."""
    try:
        async with link.spare() as channel:
            await one.declare(channel, True)
    except ChannelNotFoundEntity:
        return False
    return True


async def declare_if_missing(link: Link, one: Declared) -> None:
    """Declare something. If it exists already, its settings stay as they are."""
    if not await exists(link, one):
        async with link.spare() as channel:
            await one.declare(channel, False)


async def await_leader(channel: AbstractChannel, group_queue: str) -> None:
    """Wait until the queue has a leader, and give the leader time to requeue the names that we held before.

    A member that consumes earlier gets newer names first, and the requeued ones after them. A queue without
    a leader reports no consumers. A leader still counts the consumers of a node that is down, ours too. A queue
    that really has no consumer makes this wait for all of `ELECTION`.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + ELECTION
    while now() < deadline:
        found = await channel.declare_queue(group_queue, passive=True)
        if found.declaration_result.consumer_count:
            break
        await asyncio.sleep(REST)
    await asyncio.sleep(REST)
