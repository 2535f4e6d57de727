"""The dead letters of RabbitMQ: a queue of messages that the groups of a topic have rejected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError

from greet.designs.rabbitmq_link import DRIVER, Link, failed, within
from greet.errors import ConnectFailed, GreetError, PublishFailed, one_line
from greet.line import DEAD, DeadLetter, complaint

if TYPE_CHECKING:
    from greet.designs.rabbitmq import RabbitMQLine


async def letters(line: RabbitMQLine) -> list[DeadLetter]:
    """The dead letters of the line's topic, the oldest first."""
    found = []

    async def read(_: AbstractChannel, message: AbstractIncomingMessage) -> None:
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
        origin, _ = _origin(message)
        again = aio_pika.Message(message.body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        exchange = channel.default_exchange if origin else await channel.get_exchange(line.topic)
        try:
            await exchange.publish(again, origin, mandatory=True)
        except PublishError as error:
            gone = error
            return
        await message.ack()
        sent += 1

    try:
        await visit(line, send)
        if gone:
            raise PublishFailed(f"dead letters of {line.topic} stay, because their group was deleted") from gone
    except GreetError as error:
        error.accepted = sent
        raise
    return sent


async def visit(
    line: RabbitMQLine, what: Callable[[AbstractChannel, AbstractIncomingMessage], Awaitable[None]]
) -> None:
    """Call `what` for each dead letter once. Those that it does not acknowledge go back when the channel closes."""
    link = Link(line.address, f"dead letters of {line.topic}")
    try:
        async with within(line._deadline()):
            await link.open(line._deadline())
            channel = await link.channel(confirms=True)
            queue = await channel.get_queue(f"{line.topic}{DEAD}")
        for _ in range(queue.declaration_result.message_count or 0):
            async with within(line._deadline()):
                if message := await queue.get(fail=False):
                    await what(channel, message)
    except ChannelNotFoundEntity:
        return  # no group has ever read the topic
    except DeliveryError as error:
        raise PublishFailed(f"a dead letter of {line.topic} was not taken, and stays: {one_line(error)}") from error
    except DRIVER as error:
        raise failed(ConnectFailed, "", line.address, error) from error
    finally:
        await link.close(line._deadline())


def _origin(message: AbstractIncomingMessage) -> tuple[str, str]:
    """The queue that a dead letter comes from, and why the broker moved it, from the message's `x-death` header."""
    deaths = message.headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else {}
    return (str(first.get("queue", "")), str(first.get("reason", ""))) if isinstance(first, dict) else ("", "")
