"""RabbitMQ: an exchange copies each name to one durable queue per group; the broker keeps them.

                                         ┌─► queue "names:hello"   ─► its members ─┐
    publish ─► exchange "names" (fanout) ┤                                         ├ not a name: rejected
                                         └─► queue "names:goodbye" ─► its members ─┘
                                                                                   ▼
                                                                           queue "names.dead"

A publisher knows only the exchange, not the groups. A group is a queue that is bound to the exchange.
Names that a group has not settled wait in its queue on the broker, even while the group has no member.
A message that is not a name is rejected, and the broker moves it to the queue of dead letters.

    guarantee      publish returns              message     a member acknowledges
    AT_MOST_ONCE   when it is written           transient   names before they are handed out
    AT_LEAST_ONCE  when the broker confirms it  transient   names that were handled
    DURABLE        when the broker confirms it  persistent  names that were handled

What can come twice, or out of order:
- When a member loses its connection, the broker delivers what was not acknowledged again, to any member.
  A member recognizes what it has handled itself by the message id: never give two messages the same one.
  If the broker delivers it to another member, it is handled twice, and nobody is told.
- If a node of a cluster hangs, the names that its consumers held are delivered again when RabbitMQ gives
  the node up, after about a minute. Later names are delivered before them.

AT_MOST_ONCE does not use the broker's automatic acknowledgement (`no_ack`), because it ignores the
prefetch limit. A million waiting names would be pushed into the memory of the first member, and would
be lost with it. Here it has at most `prefetch` names, and hands them out when the broker knows that
they are acknowledged.

What else it takes is in files of its own: `rabbitmq_link` opens the connection, and has the errors;
`rabbitmq_publisher` opens the exchange again after a loss; `rabbitmq_member` joins again after a loss;
`rabbitmq_topic` declares, also for a user without all rights; `rabbitmq_dead` reads the dead letters.

This is the plain path, which uses only the documented API of aio-pika. `greet.fast.rabbitmq` is
faster, and can tell two things more: under AT_MOST_ONCE, that no queue got a name, which is not
noticed here; and after a lost connection, that a name was never sent, which raises `PublishUnknown`
here, as for a name that may have arrived. The fast path also closes the connection to a broker that
sends larger frames, or more names, than were agreed on; here they are read, and may fill the memory.
And it reads a message with a property that pamqp cannot read, such as a time in microseconds; here the
connection is lost each time that it comes, and after `timeout` that is raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelClosed, DeliveryError, PublishError
from pamqp.common import FieldTable

from greet.address import Address
from greet.designs import Design
from greet.designs import rabbitmq_dead as graveyard
from greet.designs.rabbitmq_link import (
    CLOSING,
    DRIVER,
    MAYBE,
    REFUSED,
    nowhere,
    refused,
    remedy,
    rounded,
    whole,
    why,
    within,
)
from greet.designs.rabbitmq_member import LOOK, QueueMember
from greet.designs.rabbitmq_publisher import PublishingLine
from greet.designs.rabbitmq_topic import await_leader, binding, declare, exchange, exists, kept, queue, short
from greet.errors import ConnectionLost, GreetError, PublishFailed, PublishUnknown
from greet.line import DEAD, Batch, DeadLetter, Guarantee, Poison, runs, total
from greet.tasks import Lasting, looked_at

log = logging.getLogger("greet")


class RabbitMQLine(PublishingLine):
    """`amqp://user:password@host:port/vhost`, or `amqps://…` over TLS; several hosts are a cluster.

    The keys of the query:

    - `queue_type`: `classic` (the default), or `quorum`, which a majority of the cluster's nodes keeps.
    - `prefetch`: how many unsettled names a member may hold (500).
      If handling so many takes longer than the broker's `consumer_timeout` (30 minutes), the broker delivers
      them again, to any member: use a smaller number. (From RabbitMQ 4.3 on, only with quorum queues.)
    - `heartbeat`: in seconds (5). A connection counts as dead after three heartbeats and three seconds
      without an answer.
    - `ca`: the file with the authority that signed the broker's certificate.
    - `cert` and `key`: the files with our own certificate and its key.
    - `timeout`, `cleartext`, `path`: as for all designs.
    """

    ahead = 1

    def __init__(self, design: Design, address: Address, topic: str, guarantee: Guarantee | None) -> None:
        super().__init__(design, address, topic, guarantee)
        short("topic", topic)
        self.queue_type = self.address.choice("queue_type", "classic", "quorum")
        self.prefetch = whole(self.address, "prefetch", 500)
        durable = self.guarantee is Guarantee.DURABLE
        self._mode = aio_pika.DeliveryMode.PERSISTENT if durable else aio_pika.DeliveryMode.NOT_PERSISTENT

    async def _connect(self, deadline: float) -> None:
        self._safe_size = 0  # names of up to so many bytes are sent together; a longer one is sent alone
        await super()._connect(deadline)

    # Publishing

    async def _send(self, names: list[str], deadline: float) -> int:
        exchange = await self._open_exchange(deadline)
        bodies = [name.encode() for name in names]
        accepted = 0
        while accepted < len(bodies):
            part = self._together(bodies[accepted:])
            results = await asyncio.gather(*(self._publish(exchange, body, deadline) for body in part))
            accepted = total([accepted, *results])
            self._safe_size = max(self._safe_size, rounded(max(map(len, part))))
        return accepted

    def _together(self, bodies: list[bytes]) -> list[bytes]:
        """The first of `bodies`, as many as may be sent together.

        RabbitMQ closes the channel if a message is too large. Then nobody can tell what became of the others that
        were sent. So a name that is longer than all accepted before is sent alone.
        """
        safe = list(takewhile(lambda body: len(body) <= self._safe_size, bodies))
        return safe or bodies[:1]

    async def _publish(self, exchange: AbstractExchange, body: bytes, deadline: float) -> int | GreetError:
        """Publish one name; return 1, or the reason if it was not accepted."""
        message = aio_pika.Message(body, delivery_mode=self._mode)
        failure: GreetError
        self._flying += 1
        try:
            async with within(deadline):
                await exchange.publish(message, routing_key="", mandatory=True)
        except DRIVER as error:
            match error:
                case PublishError():  # the broker returned it
                    failure = PublishFailed(nowhere(self.topic))
                case DeliveryError():
                    # A channel on which RabbitMQ 3.10 refused one message may refuse all later ones too.
                    with suppress(*DRIVER):
                        async with within(deadline):
                            await self._channel.close()
                    failure = PublishUnknown(f"{REFUSED} before the confirm came; {MAYBE}")
                case TimeoutError():
                    self._mute = self._confirms and self._confirmed < deadline - self.timeout
                    failure = PublishUnknown(f"no confirm within {self.timeout:g} s; {MAYBE}")
                case ChannelClosed() if remedy(error):  # without a reply, it is closed for another reason
                    failure = refused(error, certain=self._flying == 1 and not self._blamed)
                    self._blamed = True
                case _:
                    reason = why(self.address, error)
                    failure = PublishUnknown(f"the connection was lost before the confirm came; {MAYBE}: {reason}")
            failure.__cause__ = error
            return failure
        except asyncio.CancelledError:
            self._blamed = True  # nobody can tell any more which name the broker closes the channel for
            raise
        finally:
            self._flying -= 1
        if self._confirms:
            self._heard = self._confirmed = self._time()
        return 1

    # Reading

    def _subscription(self, group: str, *, replay: bool) -> RabbitMQSubscription:
        return RabbitMQSubscription(self, short("group", group), replay=replay)

    async def _dead_letters(self) -> list[DeadLetter]:
        return await graveyard.letters(self)

    async def _resend(self) -> int:
        return await graveyard.resend(self)


class RabbitMQSubscription(QueueMember):
    """A member of a group: a consumer of the group's queue, on its own connection."""

    _line: RabbitMQLine

    def _forget(self) -> None:
        super()._forget()
        self._warned = False  # that the queue may not be bound
        self._settled_last: Any = None  # the last message that was acknowledged or rejected
        self._settlement: asyncio.Task[None] | None = None  # writes an acknowledgement or a rejection
        self._proving = Lasting()  # waits until the broker has the acknowledgements
        self._told_broker = False  # something was acknowledged or rejected on this channel
        self._behind_broker = False  # an acknowledgement could not be written

    async def _begin_to_consume(self, deadline: float) -> None:
        """Connect, declare what is missing, and consume: when this returns, the group is live."""
        await self._link.open(deadline)
        await self._declare_all()
        channel = await self._link.channel()
        await channel.set_qos(self._line.prefetch)
        queue = await channel.get_queue(self._queue)
        underlay = await channel.get_underlay_channel()
        if self._lost_before and self._line.queue_type == "quorum":
            await await_leader(channel, self._queue)
        channel.close_callbacks.add(lambda *_: self._lost(channel))
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._lost(channel))  # as when the queue is deleted
        # Acknowledgements may be lost with a connection; those of AT_MOST_ONCE were proven before.
        self._told_broker = bool(self._redelivered) and not self._early
        self._behind_broker = False
        self._settlement = None
        self._proving = Lasting()
        self._channel = channel
        await self._consume(channel, queue)

    async def _declare_all(self) -> None:
        """Declare exchange, queues and binding, with the settings of the line."""
        topic, link = self._line.topic, self._link
        kind = kept(self._line.queue_type)
        deleted = (self._channel or self._lost_before) and not await exists(link, exchange(topic))
        # Rejected messages go through the default exchange "" to the queue of this name.
        rejected: FieldTable = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{topic}{DEAD}"}
        for one in (queue(f"{topic}{DEAD}", kind), queue(self._queue, kind | rejected), exchange(topic)):
            await declare(link, one)
        if not await declare(link, binding(topic, self._queue)) and not self._warned:
            self._warned = True
            log.warning(
                "this user may not bind queue %s to exchange %s, and nobody can ask RabbitMQ whether it is bound:"
                " if it is not, no name comes; let a user with that right subscribe once",
                *(self._queue, topic),
            )
        if deleted:
            log.warning(
                "exchange %s was deleted. It is declared again, and bound for group %s. Other groups get no names until"
                " a member of theirs looks, within %g s, or subscribes",
                *(topic, self._group, LOOK),
            )

    # What the fast way replaces

    async def _consume(self, channel: AbstractChannel, queue: AbstractQueue) -> None:
        come = self._come = asyncio.Queue[AbstractIncomingMessage | None]()  # bounded by the prefetch limit

        async def take(message: AbstractIncomingMessage) -> None:
            if message.redelivered and message.message_id in self._redelivered:  # aiormq gives each message a random id
                # It was handled, but its acknowledgement was lost with the connection.
                with suppress(*DRIVER):
                    await message.ack()
            else:
                come.put_nowait(message)

        await queue.consume(take)

    def _wake(self) -> None:
        self._come.put_nowait(None)

    async def _next(self) -> Sequence[Batch | Poison]:
        while True:
            while not self._channel:  # what was begun may have ended while nobody waited, and be lost again
                await self._rejoin()
            channel = self._channel
            come = [await self._come.get()]
            while not self._come.empty():
                come.append(self._come.get_nowait())
            messages = [one for one in come if one]
            if messages and channel and channel is self._channel:  # else the broker delivers them again
                self._came()
                return runs([one.body for one in messages], messages, channel)

    async def _settle(self, batch: Batch, count: int) -> None:
        self._note(batch, count)
        await self._ack(batch, count)

    async def _settle_ahead(self, batch: Batch, deadline: float) -> bool:
        await self._ack(batch, len(batch.names))
        channel = self._channel
        if channel and not self._behind_broker:  # else another member could get the same names
            try:
                async with within(deadline):
                    await self._proving.run(partial(self._prove, channel))
            except DRIVER:
                self._behind_broker = True
                self._lost(channel)
        if not self._behind_broker:  # else they are not handed out now, and come again
            self._told_broker = False  # what it was told has arrived
            self._note(batch, len(batch.names))
        return not self._behind_broker

    async def _prove(self, channel: AbstractChannel) -> None:
        """Ask the broker for something: its answer proves that the acknowledgements before arrived."""
        await channel.set_qos(self._line.prefetch)

    async def _ack(self, batch: Batch, count: int) -> None:
        self._behind_broker = batch.source is not self._channel
        if not self._behind_broker:
            self._told_broker = True
            last = batch.origins[count - 1]
            self._write_settlement(last, last.ack, multiple=True)
            await self._settlement_written(self._line._deadline())

    async def _bury(self, poison: Poison, deadline: float) -> None:
        """Reject it: the broker moves it to the dead letters."""
        channel = self._channel
        if channel and poison.source is channel:  # else it is redelivered
            self._write_settlement(poison.origin, poison.origin.reject, requeue=False)
            if await self._settlement_written(deadline):
                self._told_broker = True
            else:
                self._behind_broker = False  # no handled name comes again for that
                self._lost(channel)

    # An acknowledgement has no answer. It is written by a task of its own, so that it is not lost with a caller that is
    # cancelled. To know that it has arrived, `_prove` asks the broker for something: it handles what comes on a channel
    # in order. Names of a channel that was lost cannot be acknowledged any more. They are delivered again.

    def _write_settlement(self, message: Any, settle: Callable[..., Coroutine[Any, Any, None]], **how: bool) -> None:
        """Acknowledge or reject `message`, as a task: it is written even if the caller is cancelled."""
        if message is not self._settled_last:  # else the caller was cancelled before, and does the same again
            self._settled_last = message
            self._settlement = asyncio.create_task(settle(**how))
            self._settlement.add_done_callback(looked_at)

    async def _settlement_written(self, deadline: float) -> bool:
        """Wait until the last acknowledgement or rejection is written; False if it could not be."""
        if self._settlement:
            try:
                async with within(deadline):
                    await asyncio.shield(self._settlement)
            except DRIVER:
                self._behind_broker = True
                return False
        return True

    async def _part(self, deadline: float, *, clean: bool) -> None:
        self._leaving.set()
        await self._again.end(CLOSING)
        if clean:
            await self._settlement_written(deadline)
        channel, self._channel = self._channel, None
        behind = self._behind_broker
        if clean and self._told_broker and not behind:
            try:
                async with within(deadline):
                    if not channel:
                        raise ConnectionError
                    if self._redelivered:  # have them come, and acknowledge them again, before the last answer
                        await channel.get_queue(self._queue)
                        await self._prove(channel)
                    await self._prove(channel)
            except DRIVER:
                behind = True
        await self._link.close(deadline)  # the broker requeues unsettled names at their old positions
        if looking := self._looking:
            # Not earlier: cancelling a call of the driver may close the connection, and lose acknowledgements.
            looking.cancel()
            await asyncio.wait([looking], timeout=CLOSING)
        if clean and behind:
            raise ConnectionLost("the line was lost before the last names were settled: they may come again")
