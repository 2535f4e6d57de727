"""RabbitMQ: an exchange copies each name to one durable queue per group; the broker keeps them.

                                         ┌─► queue "names:hello"   ─► its members ─┐
    publish ─► exchange "names" (fanout) ┤                                         ├ no name: rejected
                                         └─► queue "names:goodbye" ─► its members ─┘
                                                                                   ▼
                                                                           queue "names.dead"

A publisher knows the exchange and no group; a group is a queue bound to it. What a group has not
settled waits in its queue on the broker, whether or not a member is there.

    guarantee      publish returns              message     a member acknowledges
    AT_MOST_ONCE   when it is written           transient   what has come, before it is handed out
    AT_LEAST_ONCE  when the broker confirms it  transient   names that are handled
    DURABLE        when the broker confirms it  persistent  names that are handled

AT_MOST_ONCE does without the broker's own automatic acknowledgement. That knows no limit: a million
waiting names would be pushed into the memory of the first member that comes, and be lost with it.
Here it is `prefetch` names at most.

This file is the architecture, in aio-pika's terms; `rabbitmq_wire.py` makes it fast.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError
from pamqp.common import FieldTable

from greet.designs.rabbitmq_link import DRIVER, Link, keep_trying, unusable, whole, within
from greet.designs.rabbitmq_wire import Delivery, Inbox, NotSent, Outbox, message_id, nowhere
from greet.errors import BadName, BadURL, ConnectionLost, GreetError, PublishFailed, Unsupported, one_line
from greet.line import LEFT, DeadLetter, Guarantee, Line, Subscription, chunks, plain
from greet.names import check, check_all, decode

PARCEL = 50
"""How many names of `publish_many` go together."""
AHEAD = 10
"""How many such parcels go before the first of them is confirmed."""
REST = 0.1
"""How many seconds a publisher leaves a broker alone that failed: a cluster elects a leader meanwhile."""
SETTLE = 0.2
"""How many seconds a handled name may wait for its acknowledgement."""
REMEMBER = 5000
"""How many of the names that it has handled a member knows again, at least."""
CLOSED = "this line is closed: connect again"


class RabbitMQLine(Line):
    """`amqp://user:password@host:port/vhost`, or `amqps://…` over TLS; several hosts are a cluster.

    The keys of the query: `queue_type`: classic (the default), or quorum, which is kept by a
    majority of a cluster; `prefetch`: how many unsettled names a member may hold (500);
    `heartbeat`: in seconds (5); a connection is dead that is silent for three times a second more; `ca`:
    the file of the authority that signed the broker's certificate; `cert` and `key`: the files of
    our own certificate; `timeout`; `cleartext`.
    """

    port = 5672
    keys = ("queue_type", "prefetch", "heartbeat", "ca", "cert", "key")

    def __init__(self, url: str, topic: str, guarantee: Guarantee | None) -> None:
        if url.startswith("amqps:"):
            self.port = 5671
        super().__init__(url, topic, guarantee)
        if len(topic) > 100:
            raise BadURL(f"topic {topic[:40]!a}… is too long for RabbitMQ: use up to 100 characters")
        self.queue_type = self.address.choice("queue_type", "classic", "quorum")
        self.prefetch = whole(self.address, "prefetch", 500)
        self._link = Link(self.address, f"publisher to {topic}")
        self._outbox: Outbox | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            async with within(self.timeout):
                await self._link.open()
        except DRIVER as error:
            raise unusable(self.address, error) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._outbox:
            self._outbox.close("the line was closed")
        await self._link.close()
        if self._outbox and error is None:
            self._outbox.complain()

    # Publishing

    async def publish(self, name: str) -> None:
        check(name)
        bodies = [name.encode()]
        try:
            await (await self._open_outbox()).send(bodies)
        except NotSent:
            await (await self._open_outbox()).send(bodies)  # over the next connection

    async def publish_many(self, names: Iterable[str]) -> int:
        accepted = 0
        failure: GreetError | None = None
        parcels: deque[asyncio.Future[int]] = deque()
        try:
            try:
                for chunk in chunks(names, PARCEL):
                    parcels.append((await self._open_outbox()).send([name.encode() for name in chunk]))
                    if len(parcels) == AHEAD:
                        accepted += await parcels.popleft()
            except GreetError as error:
                failure = error
                accepted += error.accepted
            while parcels:
                try:
                    accepted += await parcels.popleft()
                except GreetError as error:
                    failure = failure or error
                    accepted += error.accepted
        finally:
            for parcel in parcels:  # if this was cancelled, or `names` raised
                parcel.cancel()
        if failure:
            failure.accepted = accepted
            raise failure
        return accepted

    async def _open_outbox(self) -> Outbox:
        """The outbox; a new one where there is none yet, or its connection was lost."""
        if self._outbox and self._outbox.open:
            return self._outbox
        if self._closed:
            raise PublishFailed(CLOSED)
        try:
            async with asyncio.timeout(self.timeout):
                await self._opening.acquire()
            try:
                if not (self._outbox and self._outbox.open):
                    self._outbox = await keep_trying(self._new_outbox, self.timeout)
                return self._outbox
            finally:
                self._opening.release()
        except DRIVER as error:
            raise PublishFailed(f"not sent: {unusable(self.address, error)}") from error

    async def _new_outbox(self) -> Outbox:
        if self._outbox or not self._link.usable():  # that outbox is closed, or we were not here
            await asyncio.sleep(REST)
            await self._link.open()
        if self._closed:  # meanwhile
            await self._link.close()
            raise PublishFailed(CLOSED)
        confirms = self.guarantee is not Guarantee.AT_MOST_ONCE
        channel = await self._link.channel(confirms=confirms)
        try:
            # Members of groups declare the exchange, publishers do not: it is there if a group ever was.
            await channel.get_exchange(self.topic)
        except ChannelNotFoundEntity as error:
            raise PublishFailed(nowhere(self.topic)) from error
        underlay = await channel.get_underlay_channel()
        outbox = Outbox(
            self._link.wire,
            underlay.number,
            self.topic,
            timeout=self.timeout,
            confirms=confirms,
            persistent=self.guarantee is Guarantee.DURABLE,
            frame_max=underlay.connection.connection_tune.frame_max,
        )

        def lost(closing: asyncio.Future[None]) -> None:
            outbox.close("the connection was lost", None if closing.cancelled() else closing.exception())

        underlay.closing.add_done_callback(lost)
        return outbox

    # Reading

    def subscribe(self, group: str, *, replay: bool = False) -> RabbitMQSubscription:
        if replay:
            raise Unsupported("a queue of RabbitMQ keeps no name that was settled, so it cannot replay: use kafka")
        if len(group) > 100:
            raise BadURL(f"group {group[:40]!a}… is too long for RabbitMQ: use up to 100 characters")
        return RabbitMQSubscription(self, plain("group", group))

    async def dead_letters(self) -> list[DeadLetter]:
        letters = []

        async def read(_: AbstractChannel, message: AbstractIncomingMessage) -> None:
            origin, reason = _origin(message)
            group = origin.removeprefix(f"{self.topic}:")
            letters.append(DeadLetter(message.body, group, f"queue {origin}", _complaint(message.body) or reason))

        await self._visit_dead_letters(read)
        return letters

    async def resend_dead_letters(self) -> int:
        sent = 0

        async def send(channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
            # To the group that could not read it, not to the exchange: the others have had it.
            nonlocal sent
            origin, _ = _origin(message)
            again = aio_pika.Message(message.body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            exchange = channel.default_exchange if origin else await channel.get_exchange(self.topic)
            await exchange.publish(again, origin, mandatory=True)
            await message.ack()
            sent += 1

        try:
            await self._visit_dead_letters(send)
        except GreetError as error:
            error.accepted = sent
            raise
        return sent

    async def _visit_dead_letters(
        self, visit: Callable[[AbstractChannel, AbstractIncomingMessage], Awaitable[None]]
    ) -> None:
        """Get each of them once. What `visit` does not acknowledge goes back when the channel closes."""
        link = Link(self.address, f"dead letters of {self.topic}")
        try:
            async with within(self.timeout):
                await link.open()
                channel = await link.channel(confirms=True)
                queue = await channel.get_queue(f"{self.topic}.dead")
            for _ in range(queue.declaration_result.message_count or 0):
                async with within(self.timeout):
                    if message := await queue.get(fail=False):
                        await visit(channel, message)
        except ChannelNotFoundEntity:
            return  # no group has ever read the topic
        except DeliveryError as error:
            raise PublishFailed(f"a dead letter of {self.topic} was not taken, and stays: {one_line(error)}") from error
        except DRIVER as error:
            raise unusable(self.address, error) from error
        finally:
            await link.close()


class RabbitMQSubscription(Subscription):
    """A member of a group: a consumer of its queue, on a connection of its own."""

    _inbox: Inbox

    def __init__(self, line: RabbitMQLine, group: str) -> None:
        super().__init__()
        self._line = line
        self._queue = f"{line.topic}:{group}"
        self._link = Link(line.address, f"member of {self._queue}")
        self._early = line.guarantee is Guarantee.AT_MOST_ONCE
        self._deliveries: list[Delivery] = []  # of the names in `_batch`, one for one
        self._acknowledged = 0  # how many of them are
        self._timer: asyncio.TimerHandle | None = None
        # The headers of the names handled last.
        self._handled: deque[bytes] = deque(maxlen=max(REMEMBER, line.prefetch))
        self._known: set[str | None] = set()  # their ids, as long as they may come again

    async def __aenter__(self) -> Self:
        self._left = False
        try:
            async with within(self._line.timeout):
                await self._join()
        except BaseException as error:
            await self._link.close()
            if isinstance(error, DRIVER):
                raise unusable(self._line.address, error) from error
            raise
        return self

    async def _join(self) -> None:
        """Connect, make what is not there yet, and consume: when this returns, the group is live."""
        line = self._line
        await self._link.open()
        if self._left:  # meanwhile
            await self._link.close()
            raise ConnectionLost(LEFT)
        channel = await self._link.channel()
        await channel.set_qos(line.prefetch)
        kind: FieldTable = {"x-queue-type": line.queue_type}
        if line.queue_type == "quorum":
            # Each time a member leaves, what it held counts as a failed delivery. RabbitMQ 4 gives a
            # name up after twenty of them, and we never do.
            kind["x-delivery-limit"] = 1_000_000_000
        dead = await channel.declare_queue(f"{line.topic}.dead", durable=True, arguments=kind)
        # What is rejected goes to the exchange "", which hands it to the queue of that name.
        rejected: FieldTable = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
        queue = await channel.declare_queue(self._queue, durable=True, arguments=kind | rejected)
        exchange = await channel.declare_exchange(line.topic, aio_pika.ExchangeType.FANOUT, durable=True)
        await queue.bind(exchange)

        underlay = await channel.get_underlay_channel()
        inbox = self._inbox = Inbox(self._link.wire, underlay.number)
        underlay.closing.add_done_callback(lambda _: self._lost(inbox))
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._lost(inbox))  # as when the queue is deleted
        await queue.consume(_taken_by_the_inbox)

    def _lost(self, inbox: Inbox) -> None:
        """Drop what was not handed out yet: the broker delivers it again, to whoever reads."""
        inbox.close()
        if inbox is self._inbox:
            del self._batch[self._taken :]

    async def _receive(self) -> list[str]:
        self._settle(len(self._batch))
        self._handled.extend(delivery.header for delivery in self._deliveries[: len(self._batch)])
        self._batch, self._deliveries, self._taken, self._settled = [], [], 0, 0
        names: list[str] = []
        while not names:
            if deliveries := await self._inbox.take():
                names = self._names(deliveries)
            elif not self._inbox.open:
                await self._rejoin()
        if self._early:
            self._settle(len(names))
        elif not self._timer:
            self._timer = asyncio.get_running_loop().call_later(SETTLE, self._settle_in_time)
        return names

    def _names(self, deliveries: list[Delivery]) -> list[str]:
        """The names in `deliveries`, which become those of the batch, without what holds none."""
        if self._known:
            deliveries = [delivery for delivery in deliveries if not self._knows(delivery)]
        try:
            names = [delivery.body.decode() for delivery in deliveries]  # type: ignore[union-attr]
            check_all(names)
        except (AttributeError, UnicodeDecodeError, BadName):
            good = []
            for delivery in deliveries:
                if _complaint(delivery.body):
                    self._inbox.reject(delivery.tag)
                else:
                    good.append(delivery)
            deliveries = good
            names = [decode(delivery.body or b"") for delivery in deliveries]
        self._deliveries, self._acknowledged = deliveries, 0
        return names

    def _knows(self, delivery: Delivery) -> bool:
        """Whether it was handled before its connection was lost, and the acknowledgement with it."""
        if not delivery.redelivered or message_id(delivery.header) not in self._known:
            return False
        self._inbox.acknowledge(delivery.tag, multiple=False)
        return True

    def _settle(self, count: int) -> None:
        """Acknowledge the first `count` names of the batch, as far as they are not."""
        if count > self._acknowledged and self._inbox.open:
            self._acknowledged = count
            self._inbox.acknowledge(self._deliveries[count - 1].tag, multiple=True)

    def _settle_in_time(self) -> None:
        """A slow handler does not keep to itself what it has handled until the batch is done."""
        self._timer = None
        self._settle(self._settled)
        if self._acknowledged < len(self._batch) and self._inbox.open:
            self._timer = asyncio.get_running_loop().call_later(SETTLE, self._settle_in_time)

    async def _rejoin(self) -> None:
        """The connection was lost: begin again, where the broker knows us to be."""
        if self._left:
            raise ConnectionLost(LEFT)
        self._known = {message_id(header) for header in self._handled} - {None}
        try:
            await keep_trying(self._join, self._line.timeout)
        except BaseException as error:
            self._inbox.close()  # that of a consumer that has not begun would be waited for in vain
            if not isinstance(error, DRIVER):
                raise
            raise ConnectionLost(
                f"the line was lost and is not back in time: {unusable(self._line.address, error)}"
            ) from error

    async def _leave(self) -> None:
        self._left = True
        if self._timer:
            self._timer.cancel()
        self._settle(self._settled)
        self._inbox.close()
        await self._link.close()  # and the broker takes back what is not settled, in its order
        if self._acknowledged < self._settled and self._clean:
            raise ConnectionLost("the line was lost before the last names were settled: they come again")


def _complaint(body: bytes | None) -> str:
    """Why `body` holds no name; "" if it holds one."""
    try:
        if body is None:
            return "too long"
        decode(body)
    except BadName as error:
        return str(error)
    return ""


def _origin(message: AbstractIncomingMessage) -> tuple[str, str]:
    """The queue that a dead letter comes from and why the broker moved it, both as the broker says."""
    deaths = message.headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else {}
    return (str(first.get("queue", "")), str(first.get("reason", ""))) if isinstance(first, dict) else ("", "")


async def _taken_by_the_inbox(_: AbstractIncomingMessage) -> None:
    """What aio-pika would call for each delivery that it sees, and it sees none."""
