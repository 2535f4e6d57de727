"""The dead letters of RabbitMQ: a queue of messages that the groups of a topic have rejected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError

from greet.designs.rabbitmq_link import DRIVER, MAYBE, NOT_AMQP, Link, failed, within
from greet.errors import ConnectFailed, ConnectionLost, GreetError, PublishFailed, PublishUnknown, one_line
from greet.line import DEAD, DeadLetter, complaint

if TYPE_CHECKING:
    from greet.designs.rabbitmq import RabbitMQLine


async def letters(line: RabbitMQLine) -> list[DeadLetter]:
    """The dead letters of the line's topic, the oldest first."""
    found = []

    async def read(_: AbstractChannel, message: AbstractIncomingMessage) -> None:
        if not of_a_stream(message):
            origin, reason = _origin(message)
            group = origin.removeprefix(f"{line.topic}:")
            found.append(DeadLetter(message.body, group, f"queue {origin}", complaint(message.body) or reason))

    await visit(line, read)
    return found


async def resend(line: RabbitMQLine) -> int:
    """Publish each of them again, to the queue of the group that could not read it; return how many.

    Not to the exchange: the other groups have had it. Those of a group that was deleted stay.
    """
    sent = 0
    gone: PublishError | None = None

    async def send(channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
        nonlocal sent, gone
        if of_a_stream(message):
            return
        try:
            await publish_again(line, channel, _origin(message)[0], message.body)
        except PublishError as error:
            gone = error
            return
        sent += 1
        async with within(line._deadline()):
            await message.ack()

    try:
        await visit(line, send)
        if gone:
            raise PublishFailed(f"dead letters of {line.topic} stay, because their group was deleted") from gone
    except GreetError as error:
        error.accepted = sent
        raise
    return sent


async def publish_again(line: RabbitMQLine, channel: AbstractChannel, queue: str, body: bytes) -> None:
    """Publish the body of a dead letter to `queue`. Raises `PublishUnknown` if it may have been accepted."""
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    try:
        async with within(line._deadline()):
            await channel.default_exchange.publish(message, queue, mandatory=True)
    except DeliveryError:
        raise
    except DRIVER as error:
        raise PublishUnknown(f"a dead letter of {line.topic} may have been sent; {MAYBE}") from error


async def visit(
    line: RabbitMQLine, what: Callable[[AbstractChannel, AbstractIncomingMessage], Awaitable[None]]
) -> None:
    """Call `what` for each dead letter once. Those that it does not acknowledge go back when the channel closes."""
    link = Link(line.address, f"dead letters of {line.topic}")
    try:
        try:
            async with within(line._deadline()):
                await link.open(line._deadline())
                channel = await link.channel(confirms=True)
                queue = await channel.get_queue(f"{line.topic}{DEAD}")
        except ChannelNotFoundEntity:
            return  # no group has ever read the topic
        for _ in range(queue.declaration_result.message_count or 0):
            async with within(line._deadline()):
                try:
                    message = await queue.get(fail=False)
                except NOT_AMQP as error:  # pamqp cannot read a property that another publisher has set
                    raise ConnectionLost(f"a dead letter of {line.topic} cannot be read: {one_line(error)}") from error
            if message:
                await what(channel, message)
    except DeliveryError as error:
        raise PublishFailed(f"a dead letter of {line.topic} was not taken, and stays: {one_line(error)}") from error
    except DRIVER as error:
        raise failed(ConnectFailed, "", line.address, error) from error
    finally:
        await link.close(line._deadline())


def of_a_stream(message: AbstractIncomingMessage) -> bool:
    """Whether a group of a stream has kept it, which shares this queue. RabbitMQ has rejected the others itself."""
    return "origin" in message.headers and "x-death" not in message.headers


def _origin(message: AbstractIncomingMessage) -> tuple[str, str]:
    """The queue that a dead letter comes from, and why the broker moved it, from the message's `x-death` header."""
    deaths = message.headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else {}
    return (str(first.get("queue", "")), str(first.get("reason", ""))) if isinstance(first, dict) else ("", "")
