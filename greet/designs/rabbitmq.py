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

What can come twice, or out of order: when a member loses its connection, the broker delivers what it had not
acknowledged again, to any member. A name that it had handled, and whose acknowledgement was lost, it recognizes by
its message id; another member does not know it. If a node of a cluster hangs, RabbitMQ keeps the names of that
node's consumers back until it gives the node up, after about a minute. Later names are delivered before them.

AT_MOST_ONCE does not use the broker's automatic acknowledgement (`no_ack`), because it ignores the
prefetch limit. A million waiting names would be pushed into the memory of the first member, and would
be lost with it. Here it has at most `prefetch` names, and hands them out when the broker knows that
they are acknowledged.

How the connection is opened is in `rabbitmq_link`, how a user without all rights declares in
`rabbitmq_topic`, and how dead letters are read in `rabbitmq_dead`.

This is the plain path, which uses only the documented API of aio-pika. `greet.fast.rabbitmq` is
faster, and can tell two things more: under AT_MOST_ONCE, that no queue got a name, which is not
noticed here; and after a lost connection, that a name was never sent, which raises `PublishUnknown`
here, as for a name that may have arrived. The fast path also closes the connection to a broker that
sends larger frames, or more names, than were agreed on; here they are read, and may fill the memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity, DeliveryError, PublishError
from pamqp.common import FieldTable

from greet.address import Address
from greet.designs import Design
from greet.designs import rabbitmq_dead as graveyard
from greet.designs.rabbitmq_link import (
    CLOSING,
    DRIVER,
    MAYBE,
    REFUSED,
    Link,
    failed,
    keep_trying,
    nowhere,
    refused,
    remedy,
    rounded,
    whole,
    why,
    within,
)
from greet.designs.rabbitmq_topic import REST, await_leader, binding, declare, exchange, exists, kept, queue, short
from greet.errors import ConnectFailed, ConnectionLost, GreetError, PublishFailed, PublishUnknown
from greet.line import CLOSED, DEAD, Batch, DeadLetter, Guarantee, Line, Poison, State, Subscription, runs
from greet.tasks import Lasting, looked_at

LOOK = 10.0
"""The interval in seconds in which a member declares exchange, queues and binding again."""
log = logging.getLogger("greet")
REMEMBER = 5000
"""How many handled names a member remembers at least, so that it can recognize a redelivery."""


class RabbitMQLine(Line):
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
    _exchange: AbstractExchange | None
    _channel: AbstractChannel
    """The channel of the exchange."""

    def __init__(self, design: Design, address: Address, topic: str, guarantee: Guarantee | None) -> None:
        super().__init__(design, address, topic, guarantee)
        short("topic", topic)
        self.queue_type = self.address.choice("queue_type", "classic", "quorum")
        self.prefetch = whole(self.address, "prefetch", 500)
        self._confirms = self.guarantee is not Guarantee.AT_MOST_ONCE
        durable = self.guarantee is Guarantee.DURABLE
        self._mode = aio_pika.DeliveryMode.PERSISTENT if durable else aio_pika.DeliveryMode.NOT_PERSISTENT
        self._link = self._new_link(f"publisher to {topic}")

    def _new_link(self, name: str) -> Link:
        return Link(self.address, name)

    async def _connect(self, deadline: float) -> None:
        self._time = asyncio.get_running_loop().time
        self._opening = asyncio.Lock()
        self._exchange = None
        self._found = False  # the exchange existed before
        self._safe_size = 0  # names of up to so many bytes are sent together; a longer one is sent alone
        self._flying = 0  # names that were published and are not confirmed yet
        self._blamed = False  # the reason why the broker closed the channel was raised already
        self._heard = 0.0  # when the broker last answered
        self._confirmed = 0.0  # when it last confirmed a name
        self._mute = False  # names wait, and none was confirmed for as long as a publish may take
        try:
            await self._link.open(deadline)
        except DRIVER as error:
            raise failed(ConnectFailed, "", self.address, error) from error

    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        await self._link.close(deadline)

    # Publishing

    async def _prepare(self) -> None:
        await self._open_exchange(self._deadline())

    async def _send(self, names: list[str], deadline: float) -> int:
        exchange = await self._open_exchange(deadline)
        bodies = [name.encode() for name in names]
        accepted = 0
        while accepted < len(bodies):
            part = self._together(bodies[accepted:])
            results = await asyncio.gather(*(self._publish(exchange, body, deadline) for body in part))
            failures = [one for one in results if one]
            accepted += len(part) - len(failures)
            if failures:
                failure = next((one for one in failures if isinstance(one, PublishUnknown)), failures[0])
                failure.accepted = accepted
                raise failure
            self._safe_size = max(self._safe_size, rounded(max(map(len, part))))
        return accepted

    def _together(self, bodies: list[bytes]) -> list[bytes]:
        """The first of `bodies`, as many as may be sent together.

        RabbitMQ closes the channel if a message is too large. Then nobody can tell what became of the others that
        were sent. So a name that is longer than all accepted before is sent alone.
        """
        safe = list(takewhile(lambda body: len(body) <= self._safe_size, bodies))
        return safe or bodies[:1]

    async def _publish(
        self, exchange: AbstractExchange, body: bytes, deadline: float
    ) -> PublishFailed | PublishUnknown | None:
        """Publish one name; return the reason if it was not accepted."""
        message = aio_pika.Message(body, delivery_mode=self._mode)
        failure: PublishFailed | PublishUnknown
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
        return None

    async def _open_exchange(self, deadline: float) -> AbstractExchange:
        """The exchange, on a channel with confirms. If the channel was lost, a new one is opened."""
        try:
            async with within(deadline), self._opening:
                if not self._exchange or not self._usable():
                    self._exchange = await keep_trying(self._find_exchange, deadline)
                return self._exchange
        except ChannelNotFoundEntity as error:
            raise PublishFailed(nowhere(self.topic)) from error
        except DRIVER as error:
            raise failed(PublishFailed, "not sent:", self.address, error) from error

    def _usable(self) -> bool:
        """Whether the channel is open, and the broker answered recently: if not, it may have closed the connection."""
        if not self._is_open() or self._is_mute():
            return False
        # Names that wait for a confirm have deadlines of their own. A broker that is short of memory confirms late.
        return self._flying > 0 or self._time() - self._heard < self._link.heartbeat

    def _is_mute(self) -> bool:
        """Whether the broker confirms nothing on this channel.

        A channel can stay so after a quorum queue had no leader, even when it has one again (seen with 4.3.6).
        """
        return self._mute

    def _is_open(self) -> bool:
        return self._exchange is not None and not self._channel.is_closed

    async def _find_exchange(self, deadline: float) -> AbstractExchange:
        """The exchange, on an open channel.

        If the broker has not answered for a heartbeat, it is asked first; if it does not answer, this connects again.
        Members declare the exchange, publishers do not: so it exists only if the topic ever had a group.
        """
        self._refuse_if_left()
        if self._exchange and self._is_open():
            with suppress(*DRIVER):
                # On another channel: if this is cancelled, the driver closes the channel, and names wait on ours.
                async with within(self._time() + self._link.heartbeat), self._link.spare() as channel:
                    await channel.get_exchange(self.topic)
                self._heard = self._time()
                if not self._is_mute():
                    return self._exchange
            await self._link.close(deadline)
        if self._exchange:
            self._exchange = None
            if self._link.usable():  # the channel may still be open: a full queue refused a name
                with suppress(*DRIVER):
                    async with within(self._time() + self._link.heartbeat):
                        await self._channel.close()
            await asyncio.sleep(REST)
        if not self._link.usable():
            self._refuse_if_left()  # once more: nobody would close the connection
            await self._link.open(deadline)
        channel = await self._link.channel(confirms=self._confirms)
        try:
            exchange = await channel.get_exchange(self.topic)
        except ChannelNotFoundEntity as error:
            if self._found:  # it was deleted: its members declare it again
                raise
            raise PublishFailed(nowhere(self.topic)) from error
        self._found = True
        self._heard = self._time()
        self._channel, self._exchange, self._blamed, self._mute = channel, exchange, False, False
        return exchange

    def _refuse_if_left(self) -> None:
        if self._state is State.LEFT:  # in the meantime
            raise PublishFailed(CLOSED)

    # Reading

    def _subscription(self, group: str, *, replay: bool) -> RabbitMQSubscription:
        return RabbitMQSubscription(self, short("group", group), replay=replay)

    async def _dead_letters(self) -> list[DeadLetter]:
        return await graveyard.letters(self)

    async def _resend(self) -> int:
        return await graveyard.resend(self)


class RabbitMQSubscription(Subscription):
    """A member of a group: a consumer of the group's queue, on its own connection."""

    _line: RabbitMQLine
    _channel: AbstractChannel | None

    def __init__(self, line: RabbitMQLine, group: str, *, replay: bool) -> None:
        super().__init__(line, group, replay=replay)
        self._queue = f"{line.topic}:{group}"
        self._link = line._new_link(f"member of {self._queue}")

    def _forget(self) -> None:
        super()._forget()
        self._channel = None  # the consumer's channel; None while the connection is lost
        self._lost_before = False
        self._warned = False  # that the queue may not be bound
        self._again = Lasting()  # joins again after the connection was lost
        self._settled_last: Any = None  # the last message that was acknowledged or rejected
        self._looking: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._noted = Batch([]), 0  # the last batch that was added to `_handled`, and how many of its names
        self._handled: deque[Any] = deque(maxlen=max(REMEMBER, self._line.prefetch))  # the last handled messages
        self._redelivered: set[str | None] = set()  # their ids, after a lost connection: the broker may redeliver them
        self._settlement: asyncio.Task[None] | None = None  # writes an acknowledgement or a rejection
        self._proving = Lasting()  # waits until the broker has the acknowledgements
        self._told_broker = False  # something was acknowledged or rejected on this channel
        self._behind_broker = False  # an acknowledgement could not be written

    async def _join(self, deadline: float) -> None:
        try:
            async with within(deadline):
                await self._begin_to_consume(deadline)
        except DRIVER as error:
            raise self._failed(ConnectFailed, "", error) from error
        self._looking = asyncio.create_task(self._keep_looking())

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
        self._told_broker = self._behind_broker = False
        self._settlement = None
        self._proving = Lasting()
        self._channel = channel
        await self._consume(channel, queue)

    async def _declare_all(self) -> None:
        """Declare exchange, queues and binding, with the settings of the line."""
        topic, link = self._line.topic, self._link
        kind = kept(self._line.queue_type)
        deleted = self._channel and not await exists(link, exchange(topic))
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
                "exchange %s was deleted. It is declared again, and bound for group %s. A group that has no member now"
                " gets no names until it subscribes again",
                *(topic, self._group),
            )

    async def _keep_looking(self) -> None:
        """Declare them regularly: nobody tells a consumer that the exchange was deleted, and no name would come."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK, self._line.timeout / 3)):
                    await self._leaving.wait()
                    return
            if channel := self._channel:
                try:
                    async with within(self._line._deadline()):
                        await self._declare_all()
                except DRIVER:
                    self._lost(channel)

    async def _rejoin(self) -> None:
        await self._again.run(self._join_again)

    async def _join_again(self) -> None:
        """The connection was lost: connect and consume again. The broker redelivers what was not acknowledged."""
        self._lost_before = True
        self._redelivered = {self._id(one) for one in self._handled} - {None}
        deadline = self._line._deadline()
        await asyncio.sleep(REST)
        try:
            await keep_trying(self._begin_to_consume, deadline)
        except BaseException as error:
            if self._channel:
                self._lost(self._channel)  # the consumer has not started: nobody may wait for its messages
            if not isinstance(error, DRIVER):
                raise
            raise self._failed(ConnectionLost, "the line was lost and is not back in time:", error) from error

    def _failed(self, kind: type[GreetError], what: str, error: BaseException) -> GreetError:
        """As `failed`. A time-out after a successful login has another reason than a broker that does not answer."""
        if isinstance(error, TimeoutError) and self._link.usable():
            error = TimeoutError(
                f"it accepted the login, but did not answer for queue {self._queue} within {self._line.timeout:g} s:"
                " the queue has no leader, or the broker hangs"
            )
        return failed(kind, what, self._line.address, error)

    def _lost(self, channel: AbstractChannel) -> None:
        """Forget the names that were not handed out: the broker delivers them again, to any member."""
        if channel is self._channel:
            self._channel = None
            self._wake()
            if self._early:  # the current batch is settled already, so it stays
                self._runs.clear()
            else:
                self._drop()

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
                return runs([one.body for one in messages], messages, channel)

    def _marks(self, messages: Sequence[Any]) -> Iterable[Any]:
        """What to remember of messages that were handled."""
        return [one.message_id for one in messages]

    def _id(self, mark: Any) -> str | None:
        """The id of a message, from what was remembered of it."""
        return str(mark) if mark else None

    def _note(self, batch: Batch, count: int) -> None:
        """Remember the handled messages, to recognize them if they are redelivered."""
        noted, before = self._noted
        self._handled.extend(self._marks(batch.origins[before if noted is batch else 0 : count]))
        self._noted = batch, count

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
            self._told_broker = True
            self._write_settlement(poison.origin, poison.origin.reject, requeue=False)
            await self._settlement_written(deadline)
            if self._behind_broker:
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

    async def _settlement_written(self, deadline: float) -> None:
        """Wait until the last acknowledgement or rejection is written."""
        if self._settlement:
            try:
                async with within(deadline):
                    await asyncio.shield(self._settlement)
            except DRIVER:
                self._behind_broker = True

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
