"""A RabbitMQ stream: it keeps all names, and a group is a position in it. Driver: aio-pika.

                                                       ┌─► the active member of "hello"   ◄─ queue "names:hello:place"
    publish ─► exchange "names" ─► stream "names.stream" ┤
                                                       └─► the active member of "goodbye" ◄─ queue "names:goodbye:place"

A stream is a log: a name stays in it after it was read. The exchange is the same as in the design
`rabbitmq`. So names that its publishers send to the same topic are in the stream too, and names that
are published here also reach its groups.

A group's place is the offset of its next name. It is kept as a message in a queue of its own. That
queue has a single active consumer: the member that holds the message is the active member and reads
the stream, and the others stand by. If its connection closes, the broker gives the message to the
next member. To move on, the active member publishes the new place, waits until it receives it, and
acknowledges the old one. If the queue has two places, the later one counts if a member wrote it: its
move was interrupted. Of two at which members founded the group, the first one counts.

AMQP cannot ask for the offset at the end of a stream. So the first member of a new group publishes a
mark, an empty message, to the stream; the group's place is the offset after it. Readers skip marks.

What can be lost or duplicated:
- A stream keeps all names on disk, so AT_LEAST_ONCE and DURABLE are the same here: publish returns
  when the broker confirms the name. AT_MOST_ONCE does not wait for a confirm, and writes the group's
  place before names are handed out.
- Otherwise the place is written at most 0.1 s after names were handled. If a member is killed, the
  names of the last 0.1 s come again, and with `batches()` the list in hand. If it leaves, none come again.
- The stream's retention deletes names, read or not; the logger "greet" warns of names that a group
  has missed. There is no retention unless a policy sets `max-age` or `max-length-bytes`.
- If a stream is deleted and made again, a group notices it only while the new one is shorter than its place.
  Later, it skips the names before its place.
- Before RabbitMQ 4.3, a member that holds names for longer than the broker's `consumer_timeout` (30
  minutes) loses its channel, and perhaps the group's place: use a smaller `prefetch`.
- If RabbitMQ 3.10 is killed within a second after a stream or quorum queue was created, it may not
  find that queue again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import DeliveryError
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from pamqp.common import FieldTable

from greet.designs.rabbitmq import RabbitMQLine, RabbitMQSubscription
from greet.designs.rabbitmq_dead import of_a_stream, publish_again, visit
from greet.designs.rabbitmq_link import DRIVER, Link, failed, keep_trying, nowhere, within
from greet.designs.rabbitmq_topic import binding, declare, declare_if_missing, exchange, kept, queue, short
from greet.errors import ConnectFailed, ConnectionLost, GreetError, PublishFailed
from greet.line import CLOSED, DEAD, Batch, DeadLetter, Poison, State, runs
from greet.tasks import Lasting

MARK = "greet.mark"
"""The type of a mark, the message in the stream at which a group started."""
WRITTEN = "greet.place"
"""The type of a place that a member has written; one at which a group was founded has none."""
FIRST = "first"
"""The place of a group that starts at the oldest name that is kept."""
STREAM: FieldTable = {"x-queue-type": "stream"}
PLACES = 100
"""How many places the broker sends ahead. A member holds the current one and the next one."""
ANSWER = 5.0
"""The longest wait in seconds for the message before a group's place, which must be in the stream."""
LOOK_AGAIN = 0.01
"""After so many seconds a member asks again whether all places have come."""
HOLE = 10
"""So many offsets may be missing between two messages: RabbitMQ has its own records in a stream."""
log = logging.getLogger("greet")


class StreamLine(RabbitMQLine):
    """`rabbitmq+stream://user:password@host:port/vhost`, or `rabbitmq+stream+ssl://…` over TLS.

    The keys of the query:

    - `queue_type`: `classic` (the default), or `quorum`, for the groups' places and the dead letters.
      Quorum queues survive the loss of a node of the cluster; the stream itself always does.
    - `prefetch`: how many names the broker sends ahead (500); it sends whole chunks of the stream, so
      it may send a few more.
    - `heartbeat`, `ca`, `cert`, `key`, `timeout`, `cleartext`, `path`: as in the design `rabbitmq`.
    """

    @property
    def stream(self) -> str:
        """The name of the topic's stream."""
        return f"{self.topic}.stream"

    # Publishing

    async def _find_exchange(self, deadline: float) -> AbstractExchange:
        if self._state is State.LEFT:  # the line was left in the meantime
            raise PublishFailed(CLOSED)
        if not self._is_open():
            if not self._link.usable():
                await self._link.open(deadline)
            await make_topic(self._link, self)
        return await super()._find_exchange(deadline)

    async def _send(self, names: list[str], deadline: float) -> int:
        try:
            return await super()._send(names, deadline)
        except PublishFailed as error:
            if nowhere(self.topic) not in str(error):
                raise
            with suppress(*DRIVER):
                async with within(deadline):
                    await make_topic(self._link, self)
            dropped, _, _ = str(error).rpartition(nowhere(self.topic))  # the fast path tells of earlier names too
            failure = PublishFailed(f"{dropped}{self.stream} was deleted, and was created again: publish again")
            failure.accepted = error.accepted
            raise failure from error

    # Reading

    def _subscription(self, group: str, *, replay: bool) -> StreamSubscription:
        return StreamSubscription(self, short("group", group), replay=replay)

    async def _dead_letters(self) -> list[DeadLetter]:
        letters: dict[tuple[str, tuple[str, bytes]], DeadLetter] = {}

        async def read(_: AbstractChannel, message: AbstractIncomingMessage) -> None:
            if letter := _letter(message):  # a member that died may have left it, so that it was kept twice
                letters.setdefault((letter.group, letter.message), letter)

        await visit(self, read)
        return [*letters.values()]

    async def _resend(self) -> int:
        sent: set[tuple[str, bytes]] = set()

        async def send(channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
            if not (letter := _letter(message)):
                return  # it is of the design `rabbitmq`, which knows its group
            if letter.message not in sent:  # each group has kept its own copy
                await publish_again(self, channel, self.stream, message.body)
                sent.add(letter.message)
            async with within(self._deadline()):
                await message.ack()

        try:
            await visit(self, send)
        except GreetError as error:
            error.accepted = len(sent)
            raise
        return len(sent)


@dataclass(frozen=True, slots=True)
class Record:
    """A message of a stream."""

    body: bytes | None
    offset: int
    mark: bool


class StreamSubscription(RabbitMQSubscription):
    """A member of a group: a consumer of the group's place and, while it holds the place, of the stream."""

    _line: StreamLine

    def __init__(self, line: StreamLine, group: str, *, replay: bool) -> None:
        super().__init__(line, group, replay=replay)
        self._queue = f"{line.topic}:{group}:place"

    def _forget(self) -> None:
        super()._forget()
        self._come = asyncio.Queue[AbstractIncomingMessage | None]()
        self._credit: asyncio.Task[None] | None = None  # the acknowledgement that lets the broker send more
        self._called = asyncio.Event()  # set to read, or to rejoin
        self._held: list[AbstractIncomingMessage] = []  # the places that we hold; if any, we are the active member
        self._starting = Lasting()  # starts to read
        self._refused: GreetError | None = None  # the broker does not let us write the place
        self._refused_at = -inf  # when it last refused a dead letter
        self._reading = False
        self._first: list[Record] = []  # the records that came when reading started
        self._expected = 0  # the offset that comes next; 0 before the first
        self._done = 0  # all offsets before this one are handled,
        self._written = 0  # and those before this one are written as the group's place
        self._writing = asyncio.Lock()
        self._own: tuple[str, asyncio.Future[None]] | None = None  # the place that is being written

    # The group's place

    async def _join(self, deadline: float) -> None:
        try:
            await keep_trying(self._begin_to_consume, deadline)  # just after its start, a broker may lack the stream
        except DRIVER as error:
            raise self._failed(ConnectFailed, "", error) from error
        self._looking = asyncio.create_task(self._keep_looking())

    async def _begin_to_consume(self, deadline: float) -> None:
        """Connect, declare what is missing, and stand by: when this returns, the group has its place."""
        await self._link.open(deadline)
        await self._declare_all()
        channel = await self._link.channel(confirms=True)
        await channel.set_qos(PLACES)
        queue = await channel.get_queue(self._queue)
        found = queue.declaration_result
        if not found.message_count and not found.consumer_count:  # true for several members: the first place counts
            await self._found_group(channel, deadline)
        held: list[AbstractIncomingMessage] = []
        called = self._called = asyncio.Event()
        self._held, self._reading, self._channel = held, False, channel

        async def take(place: AbstractIncomingMessage) -> None:
            own = self._own and self._own[0] == place.message_id and not self._own[1].done() and self._own[1]
            if held and not own:
                # Several members have founded the group at once: the first place counts. Or one was cut off, or the
                # broker killed, while it wrote: what was written counts.
                if place.type == WRITTEN and _start(place) > _start(held[0]):
                    held[0], place = place, held[0]
                await place.ack()
                return
            held.append(place)
            if own:
                own.set_result(None)
            called.set()

        await self._watch(channel, channel)
        await queue.consume(take)

    async def _found_group(self, channel: AbstractChannel, deadline: float) -> None:
        start, skipped = self._done, 0
        if not start and not self._replay:
            start, skipped = await keep_trying(self._end, deadline)
        await channel.default_exchange.publish(_persistent(str(start or FIRST).encode()), self._queue, mandatory=True)
        if skipped:
            log.warning(
                "group %s is new to topic %s, or its place was deleted: it starts at the end and may skip %s names"
                " that are kept; to read them, subscribe as a new group with replay=True",
                *(self._group, self._line.topic, f"{skipped:,}"),
            )

    async def _declare_all(self) -> None:
        await make_topic(self._link, self._line)
        kind = kept(self._line.queue_type)
        await declare_if_missing(self._link, queue(f"{self._line.topic}{DEAD}", kind))
        await declare_if_missing(self._link, queue(self._queue, kind | {"x-single-active-consumer": True}))

    async def _watch(self, channel: AbstractChannel, main: AbstractChannel) -> None:
        """Start again when `channel` closes, or its queue is deleted."""
        underlay = await channel.get_underlay_channel()
        channel.close_callbacks.add(lambda *_: self._lost(main))
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._lost(main))
        if channel.is_closed:
            self._lost(main)

    def _lost(self, channel: AbstractChannel) -> None:
        if channel is self._channel and self._own and not self._own[1].done():
            self._own[1].set_exception(ConnectionError("the connection was lost"))
            self._own[1].exception()  # mark it as retrieved: perhaps nobody waits for it any more
        super()._lost(channel)

    async def _end(self, deadline: float) -> tuple[int, int]:
        """Publish a mark; return the offset after it, and how many messages are kept from the first name up to it."""
        mark = aio_pika.Message(b"", message_id=uuid4().hex, type=MARK)
        async with await self._link.channel(confirms=True) as channel:
            found = await self._look_for(channel, "next", lambda one: one.message_id == mark.message_id)
            await channel.default_exchange.publish(mark, self._line.stream, mandatory=True)
            end = _offset(await found)
            first = await self._look_for(channel, FIRST, lambda one: one.type != MARK or _offset(one) >= end)
            return end + 1, end - min(end, _offset(await first))

    async def _look_for(
        self, channel: AbstractChannel, start: int | str, wanted: Callable[[AbstractIncomingMessage], bool]
    ) -> asyncio.Future[AbstractIncomingMessage]:
        """Read the stream from `start` on; the future gets the first message that is wanted."""
        found: asyncio.Future[AbstractIncomingMessage] = asyncio.get_running_loop().create_future()

        async def look(message: AbstractIncomingMessage) -> None:
            if found.done():
                return  # and give no credit for more
            if wanted(message):
                found.set_result(message)
                return
            with suppress(*DRIVER):  # after the channel was closed, nobody waits for more
                await message.ack()

        channel.close_callbacks.add(lambda *_: found.cancel())
        await self._consume_stream(channel, start, look, prefetch=1)
        return found

    async def _write(self, deadline: float) -> None:
        """Write the group's place: the offset after the last handled name. Raises `DRIVER`."""
        async with within(deadline), self._writing:
            done, channel, held = self._done, self._channel, self._held
            if done <= self._written:
                return
            if not channel or not held:
                raise ConnectionError("the line was lost")
            if _start(held[0]) >= done:
                self._written = done  # another member has gone on from there
                return
            place = _persistent(str(done).encode(), kind=WRITTEN)
            self._own = str(place.message_id), asyncio.get_running_loop().create_future()
            await channel.default_exchange.publish(place, self._queue, mandatory=True)
            await self._own[1]
            older = held[:-1]
            del held[:-1]  # now, so that none is acknowledged twice
            await older[-1].ack(multiple=True)
            self._written = done

    async def _receive_places(self, main: AbstractChannel) -> None:
        """Return when all places have come: a killed broker may still have old ones, and the last one counts."""
        while main is self._channel and (await main.get_queue(self._queue)).declaration_result.message_count:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN)
        await main.set_qos(PLACES)  # when this is answered, what was on its way has come

    # The stream

    async def _consume_stream(
        self,
        channel: AbstractChannel,
        start: int | str,
        take: Callable[[AbstractIncomingMessage], Awaitable[None]],
        prefetch: int | None = None,
    ) -> None:
        try:
            await channel.set_qos(prefetch or self._line.prefetch)
            queue = await channel.get_queue(self._line.stream)
            await queue.consume(take, arguments={"x-stream-offset": start})
        except ChannelPreconditionFailed as error:  # the broker has just started: try again
            raise ConnectionError(*error.args) from error

    async def _read_on(self) -> None:
        """Start to read the stream at the group's place."""
        try:
            await keep_trying(self._open_stream, self._line._deadline())
        except DRIVER as error:
            raise self._failed(ConnectionLost, "the stream cannot be read:", error) from error
        await self._confirm(self._line._deadline())  # names that were handled before the connection was lost

    async def _open_stream(self, deadline: float) -> None:
        main = self._channel
        if not main or not self._held:
            return
        await self._receive_places(main)
        place = _start(self._held[0])
        start = max(self._done, place)
        channel = await self._link.channel()
        self._first = []
        try:
            await self._receive_from(channel, start - 1 if start else FIRST)
            if start:  # the message there, or the oldest that is kept, comes at once
                with suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER):
                        self._first = await self._take()
        except BaseException:
            with suppress(*DRIVER):
                await channel.close()
            raise
        if start and not self._first:
            await channel.close()
            raise ConnectionError(
                f"{self._line.stream} ends before offset {start - 1}, where group {self._group} is:"
                f" if the stream was created again, leave with all members, delete the queue {self._queue},"
                " and subscribe again"
            )
        if start and self._first[0].offset > start:
            self._tell_missed(start, self._first[0].offset)
            start = self._first[0].offset
        if main is not self._channel:
            raise ConnectionError("the line was lost")
        self._expected, self._reading = start, True
        self._done = max(self._done, start)  # from here the group goes on if its place is deleted
        self._written = place
        await self._watch(channel, main)

    async def _next(self) -> Sequence[Batch | Poison]:
        while True:
            if refused := self._refused:
                self._refused = None
                raise refused
            if not (channel := self._channel):
                await self._rejoin()
            elif self._reading:
                got, self._first = self._first or await self._take(), []
                fresh = [one for one in got if self._is_new(one)]
                if fresh and channel is self._channel:
                    self._came()
                    return runs([one.body for one in fresh], [one.offset for one in fresh])
            elif self._held:
                await self._starting.run(self._read_on)  # cancelling a call of aio-pika breaks the connection
            else:
                await self._called.wait()

    def _is_new(self, record: Record) -> bool:
        """Whether the group has not had this record yet, and it is not a mark."""
        if record.offset < self._expected:
            return False
        if self._expected and record.offset - self._expected > HOLE:
            self._tell_missed(self._expected, record.offset)
        self._expected = record.offset + 1
        return not record.mark

    def _tell_missed(self, start: int, end: int) -> None:
        log.warning(
            "%s's retention deleted up to %s messages before group %s had read them (offsets %s to %s)",
            *(self._line.stream, end - start, self._group, start, end - 1),
        )

    # What the fast way replaces

    async def _receive_from(self, channel: AbstractChannel, start: int | str) -> None:
        """Consume the stream from the offset `start` on, for `_take`."""
        come = self._come = asyncio.Queue[AbstractIncomingMessage | None]()  # the prefetch bounds it

        async def take(message: AbstractIncomingMessage) -> None:
            come.put_nowait(message)

        await self._consume_stream(channel, start, take)

    async def _take(self) -> list[Record]:
        """Wait for records, and let the broker send more; an empty list if the connection is lost."""
        if self._credit:
            await asyncio.wait([self._credit])
        messages = [await self._come.get()]
        while not self._come.empty():
            messages.append(self._come.get_nowait())
        if last := messages[-1]:
            self._credit = asyncio.create_task(self._acknowledge(last))
        return [Record(one.body, _offset(one), mark=one.type == MARK) for one in messages if one]

    async def _acknowledge(self, last: AbstractIncomingMessage) -> None:
        """Acknowledge: with a stream, this only gives the broker credit to send more."""
        with suppress(*DRIVER):  # a lost connection is noticed elsewhere
            async with within(self._line._deadline()):
                await last.ack(multiple=True)

    def _wake(self) -> None:
        self._called.set()
        self._come.put_nowait(None)

    # Settling

    async def _settle(self, batch: Batch, count: int) -> None:
        self._done = max(self._done, batch.origins[count - 1] + 1)

    async def _settle_ahead(self, batch: Batch, deadline: float) -> bool:
        before, ahead = self._done, False
        await self._settle(batch, len(batch.names))
        try:
            await self._confirm(deadline)
            ahead = self._written >= self._done
        finally:
            if not ahead:  # not handed out, also if the caller was cancelled
                self._done = before
        return ahead

    async def _confirm(self, deadline: float) -> None:
        """Write the place. While the connection is lost, nothing is done: it is written when this member reads again,
        or leaves.
        """
        if self._channel and self._held:
            channel = self._channel
            try:
                await self._write(deadline)
            except ChannelAccessRefused as error:  # trying again does not help
                self._refused = failed(ConnectionLost, "the group's place was refused:", self._line.address, error)
                self._lost(channel)
            except DRIVER:
                self._lost(channel)

    async def _bury(self, poison: Poison, deadline: float) -> None:
        line = self._line
        if not (channel := self._channel):
            return  # the connection is lost: it comes again
        origin = f"stream {line.stream}, offset {poison.origin}"
        headers: FieldTable = {"group": self._group, "origin": origin, "reason": poison.reason}
        letter = _persistent(poison.body or b"", headers)
        try:
            async with within(deadline):
                await channel.default_exchange.publish(letter, f"{line.topic}{DEAD}", mandatory=True)
        except (ChannelAccessRefused, DeliveryError) as error:  # a quorum queue without a leader refuses too
            self._lost(channel)
            if line._time() - self._refused_at < line.timeout / 2:
                raise failed(PublishFailed, "a dead letter was refused:", line.address, error) from error
            self._refused_at = line._time()
        except DRIVER:
            self._lost(channel)
        else:
            self._done = max(self._done, poison.origin + 1)

    async def _part(self, deadline: float, *, clean: bool) -> None:
        lost = None
        try:
            if self._done > self._written:
                await self._write(deadline)
            if self._channel and self._written:
                async with within(deadline):
                    await self._channel.set_qos(PLACES)  # its answer proves that the acknowledgement arrived
        except DRIVER as error:
            lost = error
        self._channel = None
        await self._again.end(ANSWER)
        await self._link.close(deadline)  # this also ends what the following tasks wait for
        await self._starting.end(ANSWER)
        if tasks := [task for task in (self._looking, self._credit) if task]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=ANSWER)
        if clean and lost:
            why = "the line was lost before the last names were settled: they come again"
            raise (self._refused or ConnectionLost(why)) from lost


async def make_topic(link: Link, line: StreamLine) -> None:
    """Declare exchange and stream, and bind them. If they exist, their settings stay as they are."""
    await declare_if_missing(link, exchange(line.topic))
    await declare_if_missing(link, queue(line.stream, STREAM))
    await declare(link, binding(line.topic, line.stream))  # a user may lack this right, if it is bound already


def _persistent(body: bytes, headers: FieldTable | None = None, kind: str | None = None) -> aio_pika.Message:
    mode = aio_pika.DeliveryMode.PERSISTENT
    return aio_pika.Message(body, headers=headers or {}, delivery_mode=mode, message_id=uuid4().hex, type=kind)


def _start(place: AbstractIncomingMessage) -> int:
    """The offset of the next name of the group; 0 if it starts at the oldest one that is kept."""
    return 0 if place.body == FIRST.encode() else int(place.body)


def _offset(message: AbstractIncomingMessage) -> int:
    return int(str(message.headers["x-stream-offset"]))


def _letter(message: AbstractIncomingMessage) -> DeadLetter | None:
    """The dead letter that a group of a stream has kept; None for one of another design."""
    group, origin, reason = (str(message.headers.get(key, "")) for key in ("group", "origin", "reason"))
    return DeadLetter(message.body, group, origin, reason) if of_a_stream(message) else None
