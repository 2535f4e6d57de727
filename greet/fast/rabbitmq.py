"""The fast way to RabbitMQ: names pass aio-pika in bulk. The architecture stands in `greet.designs.rabbitmq`.

aio-pika opens the connection and does all that is rare: login, channels, exchanges, queues,
heartbeats, errors. What is done for every name goes past it, on the same connection:

    publish ──► Outbox ───── the frames of many names in one write ─────► socket ──► broker
    receive ◄── Inbox ◄────── deliveries ─┐
                Outbox ◄─────── confirms ─┼── Tap ◄────────────────────── socket ◄── broker
                aio-pika ◄── other frames ┘

Why it is fast:

- One publish differs from the next in its number, its size and its body. The rest is marshalled
  once, by pamqp, and what is published in one turn of the event loop is written at once.
- A confirm or a delivery is read from what the socket gave, which is some hundred frames at a
  time. aiormq reads each frame by three coroutines and two queues, and starts a task for each
  delivery; that costs more than the broker's own work.
- One acknowledgement settles a batch, one future serves a hundred names of `publish_many`.

AMQP lets the frames of different channels follow each other in any order. The following names of
the drivers are public, but not documented:

    name                                       what for                       what would break
    aio_pika.Connection.kwargs                 hands aiormq the Wire          nothing is tapped: `_open_outbox` waits
    aiormq.TransportFactory.create             brings streams of our own      the connection
    aiormq.Connection.connection_tune          the size of a frame            long names: the broker closes
    aiormq.Channel.number                      the channel in each frame      the broker closes
    asyncio.StreamReader.feed_data, feed_eof   where a transport puts bytes   aiormq hears nothing
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from random import getrandbits
from struct import Struct
from typing import Any, SupportsIndex

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractQueue
from aiormq import TransportFactory
from aiormq.exceptions import AMQPError
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Connection
from pamqp.frame import marshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat
from yarl import URL

from greet.designs.rabbitmq import RabbitMQLine, RabbitMQSubscription
from greet.designs.rabbitmq_link import MAYBE, REFUSED, Link, nowhere, refused, rounded
from greet.designs.rabbitmq_topic import short
from greet.errors import GreetError, PublishFailed, PublishUnknown
from greet.line import Batch, Poison, runs
from greet.names import MAX_BYTES, counted
from greet.tasks import LAST

WINDOW = 500
"""How many names of a channel may be unconfirmed; more wait, and with them their publishers."""
WINDOW_BYTES = 8_388_608
"""How many bytes they may have together, besides the first list of them."""
WRITE = 65_536
"""How many bytes are joined for one write."""
LEAST_FRAME = 4096
"""What AMQP 0-9-1 lets a broker ask for as the size of a frame, at least."""
MOST_FRAME = 2**29
"""The size of a message that RabbitMQ takes, at most, and so of a frame where it sets no limit."""

# A frame is kind (1 byte), channel (2), size (4), payload, end (1). The payload of a method begins
# with the method's index; that of a header is class (2), weight (2), size of the body (8), properties.
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
_frame = Struct(">BHI").unpack_from
_long = Struct(">Q")
_int = Struct(">I")

Taker = Callable[[int, bytes], bool]
"""Is shown the kind and payload of each frame of a channel; says whether it took it from aiormq."""


def _index(method: type[Frame]) -> bytes:
    return _int.pack(method.index)


class FastRabbitMQLine(RabbitMQLine):
    """As `RabbitMQLine`, with `publish` and `publish_many` past aio-pika."""

    names_at_once = 50
    characters_at_once = WINDOW_BYTES // 10
    ahead = 10
    _link: FastLink
    _outbox: Outbox | None

    def _new_link(self, name: str) -> FastLink:
        return FastLink(self.address, name)

    async def _connect(self, deadline: float) -> None:
        self._outbox = None
        self._openers = 0  # how many wait for the exchange,
        self._queue: list[asyncio.Future[None]] | None = None  # while one of them opens it, the others
        await super()._connect(deadline)

    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        if self._outbox:
            self._outbox.close("the line was closed")
        await super()._disconnect(deadline, clean=clean)
        if self._outbox and clean:
            self._outbox.complain()

    async def _send(self, names: list[str], deadline: float) -> int:
        bodies = [name.encode() for name in names]
        accepted = 0
        while True:
            if self._openers or not self._usable():
                self._openers += 1
                try:
                    await self._wait_for_exchange(deadline)
                except GreetError as error:
                    error.accepted += accepted
                    raise
                finally:
                    self._openers -= 1
            if outbox := self._outbox:
                try:
                    return accepted + await outbox.send(bodies[accepted:], deadline)
                except NotSent as error:  # so the rest goes over the next connection
                    accepted += error.accepted
                except GreetError as error:
                    error.accepted += accepted
                    raise

    async def _wait_for_exchange(self, deadline: float) -> None:
        """One opens the exchange; then all who wait go on together, in their order."""
        in_turn = self._openers == 1
        while True:
            if self._queue is not None:
                waiter = asyncio.get_running_loop().create_future()
                self._queue.append(waiter)
                try:
                    async with asyncio.timeout_at(deadline):
                        await waiter
                except TimeoutError:
                    await self._open_exchange(deadline)  # says why it is not there
                in_turn = True
            elif not in_turn:  # those who waited are woken, and go first
                await asyncio.sleep(0)
                in_turn = True
            elif self._usable():
                return
            else:
                await self._open_for_all(deadline)
                return

    async def _open_for_all(self, deadline: float) -> None:
        queue: list[asyncio.Future[None]] = []
        self._queue = queue
        try:
            await self._open_exchange(deadline)
        finally:
            self._queue = None
            for one in queue:
                if not one.done():
                    one.set_result(None)

    def _usable(self) -> bool:
        outbox = self._outbox
        # A broker sends something twice in each heartbeat. If nothing was read for longer, it is silent, or our
        # loop was blocked: then it may have closed the connection, and it is asked first.
        return (
            outbox is not None
            and outbox.open
            and not outbox.mute
            and self._time() - self._link.wire.heard < self._link.heartbeat
        )

    def _is_mute(self) -> bool:
        return self._outbox is not None and self._outbox.mute

    def _is_open(self) -> bool:
        return self._outbox is not None and self._outbox.open and super()._is_open()

    async def _find_exchange(self, deadline: float) -> AbstractExchange:
        exchange = await super()._find_exchange(deadline)
        if not self._is_open():
            underlay = await self._channel.get_underlay_channel()
            if not self._link.wire.open:
                raise ConnectionError("the connection was lost")
            self._outbox = Outbox(
                self._link.wire,
                underlay.number,
                self.topic,
                timeout=self.timeout,
                confirms=self._confirms,
                persistent=self._mode is aio_pika.DeliveryMode.PERSISTENT,
                returned=self._outbox.returned if self._outbox else 0,
            )
        return exchange

    def _subscription(self, group: str, *, replay: bool) -> FastRabbitMQSubscription:
        return FastRabbitMQSubscription(self, short("group", group), replay=replay)


class FastRabbitMQSubscription(RabbitMQSubscription):
    """As `RabbitMQSubscription`, with deliveries and acknowledgements past aio-pika."""

    _link: FastLink
    _inbox: Inbox

    async def _consume(self, channel: AbstractChannel, queue: AbstractQueue) -> None:
        underlay = await channel.get_underlay_channel()
        self._inbox = Inbox(self._link.wire, underlay.number, self._line.prefetch, self._redelivered)
        self._link.wire.on_lost = lambda: self._lost(channel)
        await queue.consume(_taken_by_the_inbox)

    def _wake(self) -> None:
        self._inbox.close()

    async def _next(self) -> Sequence[Batch | Poison]:
        while True:
            if not self._channel:
                await self._rejoin()
            bodies, origins = await self._inbox.take()
            if bodies:
                self._came()
                return runs(bodies, origins, self._channel)

    def _marks(self, messages: Sequence[Any]) -> Iterable[Any]:
        return [header for _, header in messages]

    def _id(self, mark: Any) -> str | None:
        return message_id(mark)  # only now: it takes longer than all else

    async def _ack(self, batch: Batch, count: int) -> None:
        self._behind_broker = batch.source is not self._channel or not self._link.wire.open
        if not self._behind_broker:
            self._told_broker = True
            last = batch.origins[count - 1]
            if last is not self._settled_last:  # else the caller was cancelled while it waited for the broker
                self._settled_last = last
                self._inbox.acknowledge(last[0])

    async def _bury(self, poison: Poison, deadline: float) -> None:
        if poison.source is self._channel:  # else it comes again
            tag, _ = poison.origin
            self._inbox.reject(tag)
            self._told_broker = True


class FastLink(Link):
    """A connection whose streams are a `Wire`."""

    wire: Wire

    def usable(self) -> bool:
        return super().usable() and self.wire.open

    async def _connect(self, url: URL) -> AbstractConnection:
        connection = aio_pika.Connection(url, client_properties=self._properties)
        wire = connection.kwargs["transport_factory"] = Wire(self._tls)
        try:
            await connection.connect()
            wire.tune(connection.transport.connection.connection_tune.frame_max)  # type: ignore[union-attr]
        except BaseException:
            await self._end(connection, 0)  # its farewell goes on beside us
            raise
        self.wire = wire
        return connection

    async def _end(self, connection: AbstractConnection, deadline: float) -> None:
        try:
            await super()._end(connection, deadline)
        finally:
            connection.kwargs["transport_factory"].abort()


class Wire(TransportFactory):
    """Brings the streams of one connection, and keeps hold of them."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._transport: asyncio.Transport | None = None
        self.takers: dict[int, Taker] = {}
        self.open = True
        self.full = False
        """Whether the socket takes no more for now: the broker reads too slowly, or not at all."""
        self.heard = 0.0
        """When something came, as a time of the event loop."""
        self.frame_max = 131_072
        self.on_drained: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; aiormq calls this."""
        loop = asyncio.get_running_loop()
        reader = _Tap(self)
        protocol = _Protocol(reader, self)
        where = str(url.host), url.port or 0
        farewell = LAST if self._context else None  # asyncio would wait 30 s for a broker that hangs
        self._transport, _protocol = await loop.create_connection(
            lambda: protocol, *where, ssl=self._context, ssl_shutdown_timeout=farewell
        )
        return reader, asyncio.StreamWriter(self._transport, protocol, reader, loop)

    def tune(self, frame_max: int) -> None:
        """Take the size of frames that the broker asks for, 0 of which is no limit."""
        if 0 < frame_max < LEAST_FRAME:
            raise ConnectionError(f"it asks for frames of {frame_max} bytes, and AMQP has {LEAST_FRAME} at least")
        self.frame_max = min(frame_max or MOST_FRAME, MOST_FRAME)

    def write(self, frames: bytes) -> None:
        """Write whole frames, unless the connection is gone."""
        if self._transport and not self._transport.is_closing():
            self._transport.write(frames)

    def abort(self) -> None:
        """Close at once, without a word to the broker."""
        if self._transport:
            self._transport.abort()

    def lost(self) -> None:
        """The broker, or the network, has ended the connection."""
        if self.open:
            self.open = False
            self.on_lost()


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells the wire when the socket is full, and when it is gone."""

    def __init__(self, reader: _Tap, wire: Wire) -> None:
        super().__init__(reader)
        self._wire = wire

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wire.full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wire.full = False
        self._wire.on_drained()

    def eof_received(self) -> bool:
        more = super().eof_received()
        self._wire.lost()
        return bool(more)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wire.lost()


class _Tap(asyncio.StreamReader):
    """What aiormq reads from. The frames that a taker takes do not get there."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire
        self._rest = b""
        self._strange = 0  # bytes that are no AMQP
        self._time = asyncio.get_running_loop().time
        self._fed = wire.heard = self._time()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self._wire.heard = self._time()
        try:
            taken = self._feed(self._rest + bytes(data))
        except (ValueError, IndexError, struct.error):  # no AMQP, or more of it than was asked for
            self._rest = b""
            self._wire.abort()
            return
        if taken and self._time() - self._fed > 1:
            # A broker sends no heartbeats while it sends other frames. aiormq does not see these,
            # and would take the connection for dead.
            self._fed = self._time()
            super().feed_data(marshal(Heartbeat(), 0))

    def _feed(self, data: bytes) -> bool:
        start, taken = 0, False
        takers = self._wire.takers
        while (payload := start + 7) < len(data):
            kind, channel, size = _frame(data, start)
            if kind > HEARTBEAT or self._strange:
                # What is no AMQP goes to aiormq as it is, which will say so; but not without end.
                self._strange += len(data) - start
                if self._strange > self._wire.frame_max:
                    raise ValueError("no AMQP")
                super().feed_data(data[start:])
                start = len(data)
                break
            end = payload + size + 1
            if end > len(data):
                if size > self._wire.frame_max:
                    raise ValueError(f"a frame of {size} bytes")
                break
            taker = takers.get(channel)
            if taker and taker(kind, data[payload : end - 1]):
                taken = True
            else:
                super().feed_data(data[start:end])
            start = end
        self._rest = data[start:]
        return taken

    def feed_eof(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            super().feed_data(rest)
        super().feed_eof()


class Inbox:
    """The deliveries of a channel with one consumer, until someone takes them."""

    _deliver = _index(Basic.Deliver)

    def __init__(self, wire: Wire, channel: int, prefetch: int, known: Iterable[str | None] = ()) -> None:
        self.open = True
        self._wire = wire
        self._channel = channel
        self._prefetch = prefetch
        self._known = known  # ids of what was handled before, and is only to be acknowledged
        self._bodies: list[bytes | None] = []
        self._origins: list[tuple[int, bytes]] = []
        self._waiter: asyncio.Future[None] | None = None
        # The delivery whose frames are just coming in:
        self._tag, self._redelivered, self._header = 0, False, b""
        self._size = self._missing = 0
        self._parts: list[bytes] = []
        wire.takers[channel] = self._take_frame

    def _take_frame(self, kind: int, payload: bytes) -> bool:
        if kind == METHOD:
            if not payload.startswith(self._deliver):
                return False
            start = 5 + payload[4]  # after the consumer's tag
            (self._tag,) = _long.unpack_from(payload, start)
            self._redelivered = payload[start + 8] == 1
            return True
        if kind == HEADER:
            self._header, self._parts = payload, []
            (self._size,) = _long.unpack_from(payload, 4)
            self._missing = self._size
        else:
            self._missing -= len(payload)
            if self._missing < 0 or not payload:
                raise ValueError("a body that is longer than was said, or never ends")
            if self._size <= MAX_BYTES:
                self._parts.append(payload)
        if not self._missing:
            self._arrived()
        return True

    def _arrived(self) -> None:
        if self._redelivered and self._known and message_id(self._header) in self._known:
            # It was handled before the connection was lost, and the acknowledgement with it.
            self.acknowledge(self._tag, multiple=False)
            return
        if len(self._bodies) >= self._prefetch:
            raise ValueError("more deliveries than the prefetch allows")
        self._bodies.append(b"".join(self._parts) if self._size <= MAX_BYTES else None)
        self._origins.append((self._tag, self._header))
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> tuple[list[bytes | None], list[tuple[int, bytes]]]:
        """The bodies that came since the last time, None for one that is too long, and for each its tag and header.

        It waits for the first. Both are empty once the inbox is closed.
        """
        while self.open and not self._bodies:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken = self._bodies, self._origins
        self._bodies, self._origins = [], []
        return taken

    def acknowledge(self, tag: int, *, multiple: bool = True) -> None:
        """Settle the delivery `tag`, with `multiple` also all before it."""
        self._wire.write(marshal(Basic.Ack(tag, multiple), self._channel))

    def reject(self, tag: int) -> None:
        """Refuse the delivery `tag`: the broker moves it to the dead letters."""
        self._wire.write(marshal(Basic.Reject(tag, requeue=False), self._channel))

    def close(self) -> None:
        """Forget the messages that nobody took: the broker delivers them again, to any member."""
        self.open = False
        self._bodies, self._origins = [], []
        self._wake()


class NotSent(PublishFailed):
    """The connection went before a byte of it was written, but for what counts as accepted."""


class Parcel:
    """Names that are published together, until each of them is confirmed or the time is over."""

    def __init__(self, bodies: list[bytes], deadline: float) -> None:
        self.bodies = bodies
        self.deadline = deadline
        sizes = list(map(len, bodies))
        self.largest = max(sizes)
        self.size = sum(sizes)
        self.written = 0  # names that are written, each of which is
        self.missing = 0  # confirmed but for these
        self.accepted = 0
        self.failure: PublishFailed | None = None
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def settle(self, failure: PublishFailed | None = None) -> bool:
        """One more of its names is confirmed, or came back; whether that is all of them."""
        self.missing -= 1
        self.accepted += failure is None
        self.failure = self.failure or failure
        if self.missing or self.written < len(self.bodies):
            return False
        if self.failure:
            self.fail(self.failure)
        elif not self.done.done():
            self.done.set_result(self.accepted)
        return True

    def fail(self, failure: PublishFailed | PublishUnknown, cause: BaseException | None = None) -> None:
        """Let its publisher have the error, if one still waits."""
        if not self.done.done():
            failure.__cause__ = cause
            failure.accepted = self.accepted
            self.done.set_exception(failure)
            self.done.exception()  # looked at: asyncio does not complain where the publisher was cancelled


class Outbox:
    """Publishes on a channel: numbers what it writes, and tells each parcel what became of it.

    What the broker may refuse goes alone, so that it is known what it refused: the first name, and
    one that is longer, by steps of 4 KiB, than those that it took.
    """

    _ack, _nack, _return = _index(Basic.Ack), _index(Basic.Nack), _index(Basic.Return)
    _blocked, _unblocked = _index(Connection.Blocked), _index(Connection.Unblocked)
    _channel_closed, _connection_closed = _index(Channel.Close), _index(Connection.Close)

    def __init__(
        self,
        wire: Wire,
        channel: int,
        exchange: str,
        *,
        timeout: float,
        confirms: bool,
        persistent: bool,
        returned: int = 0,
    ) -> None:
        self.open = True
        self.returned = returned
        """Names that came back while nobody waited for their confirm."""
        self._wire = wire
        self._exchange = exchange
        self._timeout = timeout
        self._confirms = confirms
        self._refusing = ""
        self._waiting: deque[Parcel] = deque()
        self._pending: dict[int, Parcel] = {}
        self._bytes = 0  # of the parcels that have pending names
        self._safe_size = 0  # bytes: no longer name needs to go alone
        self._alone = 0  # bytes of the name that goes alone now
        self._last = 0  # number of the name that was written last; the broker counts likewise
        self._oldest = 1  # all numbers before it are confirmed
        self._loop = asyncio.get_running_loop()
        self._flushing: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._confirmed = 0.0  # when the last name was
        self.mute = False
        """Whether the broker is heard, but has confirmed nothing for as long as a publish may take."""

        # A message's frames, cut where the size of the body, the message's id and the body come.
        # The id is the number plus a base that no other channel has.
        self._base = getrandbits(88) << 40
        properties = Basic.Properties(delivery_mode=2 if persistent else 1, message_id="0" * 32)
        method = marshal(Basic.Publish(exchange=exchange, mandatory=True), channel)
        header = marshal(ContentHeader(properties=properties), channel)
        self._start = method + header[:11]
        self._middle = header[19:-33]
        self._body = marshal(ContentBody(b""), channel)[:3]
        self._room = wire.frame_max - 8

        wire.takers[channel] = self._take_frame
        wire.takers[0] = self._take_notice
        wire.on_drained = self._soon
        wire.on_lost = lambda: self.close("the connection was lost")

    def send(self, bodies: list[bytes], deadline: float) -> asyncio.Future[int]:
        """Publish `bodies` as soon as the window has room; the future has the count of the accepted."""
        if self.returned:
            self.complain()
        parcel = Parcel(bodies, deadline)
        self._waiting.append(parcel)
        if not self._timer or deadline < self._timer.when():
            self._wait_until(deadline)
        self._soon()
        return parcel.done

    def _soon(self) -> None:
        """Write in the next turn of the loop: together with all that is published in this one."""
        if not self._flushing and self.open:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        frames: list[bytes] = []
        size = 0
        while self._waiting and not self._refusing and not self._wire.full:
            parcel = self._waiting[0]
            if parcel.done.done():  # its publisher was cancelled, or its time was over
                self._give_up(self._waiting.popleft())
                continue
            if not (count := self._room_for(parcel)):
                break
            start = parcel.written
            bodies = parcel.bodies[start : start + count]
            first = self._last + 1
            for number, body in enumerate(bodies, first):
                frames.append(self._marshal(number, body))
                size += len(frames[-1])
            self._last += count
            parcel.written += count
            if self._confirms:
                self._bytes += 0 if start else parcel.size
                parcel.missing += count
                self._pending.update(dict.fromkeys(range(first, self._last + 1), parcel))
            else:
                parcel.done.set_result(count)
            if parcel.written == len(parcel.bodies):
                self._waiting.popleft()
            if size >= WRITE:
                self._wire.write(b"".join(frames))
                frames.clear()
                size = 0
        self._wire.write(b"".join(frames))

    def _room_for(self, parcel: Parcel) -> int:
        """How many more names of `parcel` may be written now."""
        start = parcel.written
        count = len(parcel.bodies) - start
        if not self._confirms:
            return count
        if self._pending and (
            self._alone
            or parcel.largest > self._safe_size
            or len(self._pending) + count > WINDOW
            or self._bytes + parcel.size > WINDOW_BYTES
        ):
            return 0
        if parcel.largest > self._safe_size:
            sizes = map(len, parcel.bodies[start:])
            count = next((place for place, size in enumerate(sizes) if size > self._safe_size), count)
            if not count:
                self._alone = len(parcel.bodies[start])
                return 1
        return count

    def _marshal(self, number: int, body: bytes) -> bytes:
        """The frames of a message: method, header and body, which is in pieces if it is longer than a frame may be."""
        size = len(body)
        head = b"%b%b%b%032x\xce" % (self._start, _long.pack(size), self._middle, self._base + number)
        if size <= self._room:
            return b"%b%b%b%b\xce" % (head, self._body, _int.pack(size), body)
        pieces = [body[start : start + self._room] for start in range(0, size, self._room)]
        return head + b"".join(b"%b%b%b\xce" % (self._body, _int.pack(len(piece)), piece) for piece in pieces)

    def _take_frame(self, kind: int, payload: bytes) -> bool:
        if kind == METHOD:
            index = payload[:4]
            if index == self._ack:
                (number,) = _long.unpack_from(payload, 4)
                self._confirm(number, multiple=payload[12] == 1)
            elif index == self._nack:
                # RabbitMQ 3.10 refuses for ever on a channel that was opened while a quorum queue
                # had no leader, even when it has one again. So a channel that refused is given up.
                self.close(REFUSED)
            elif index == self._channel_closed:
                self._closed(payload, channel=True)
            return index in (self._ack, self._nack, self._return)
        if kind == HEADER:  # of a message that came back
            # Its confirm comes too, but later, and is for nobody then.
            parcel = self._pending.pop(int(message_id(payload) or "0", 16) - self._base, None)
            if parcel:
                self._settle(parcel, PublishFailed(nowhere(self._exchange)))
            elif not self._confirms:  # else its publisher was told before
                self.returned += 1
        return True

    def _confirm(self, number: int, *, multiple: bool) -> None:
        if number > self._last:  # of none that we sent
            return
        self._confirmed = self._loop.time()
        for one in range(self._oldest if multiple else number, number + 1):
            if parcel := self._pending.pop(one, None):
                self._settle(parcel)
        if multiple:
            self._oldest = max(self._oldest, number + 1)
        elif number == self._oldest:
            while self._oldest <= self._last and self._oldest not in self._pending:
                self._oldest += 1
        if self._waiting:
            self._soon()

    def _settle(self, parcel: Parcel, failure: PublishFailed | None = None) -> None:
        if parcel.settle(failure):
            self._bytes -= parcel.size
        if self._alone and not self._pending:
            self._safe_size, self._alone = rounded(self._alone), 0

    def _take_notice(self, _: int, payload: bytes) -> bool:
        if payload.startswith(self._blocked):
            self._refusing = "the broker takes nothing now: its memory or disk runs out"
        elif payload.startswith(self._unblocked):
            self._refusing = ""
            self._soon()
        elif payload.startswith(self._connection_closed):
            self._closed(payload, channel=False)
        return False  # aiormq is to know of it too

    def _closed(self, payload: bytes, *, channel: bool) -> None:
        """The broker closes the channel, or the connection, and says why."""
        text = payload[7 : 7 + payload[6]].decode(errors="replace")
        self.close(text, AMQPError(text), certain=channel and len(self._pending) == 1)

    def _wait_until(self, deadline: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        """Give up what is overdue. There is one timer for all."""
        self._timer = None
        now = self._loop.time()
        for parcel in self._written():
            if parcel.deadline <= now:
                self.mute = not self._refusing and self._confirmed < parcel.deadline - self._timeout < self._wire.heard
                reason = f": {self._refusing}" if self._refusing else ""
                parcel.fail(PublishUnknown(f"no confirm within {self._timeout:g} s{reason}; {MAYBE}"))
        reason = self._refusing or f"{counted(len(self._pending))} waiting for the broker"
        for parcel in self._waiting:
            if parcel.deadline <= now:
                parcel.fail(PublishFailed(f"not sent within {self._timeout:g} s: {reason}; publish it later"))
        # What was given up, or cancelled, would else wait with its names for a broker that takes nothing.
        waiting, self._waiting = self._waiting, deque()
        for parcel in waiting:
            if parcel.done.done():
                self._give_up(parcel)
            else:
                self._waiting.append(parcel)
        deadlines = [parcel.deadline for parcel in (*self._written(), *self._waiting) if not parcel.done.done()]
        if deadlines:
            self._wait_until(min(deadlines))

    def _give_up(self, parcel: Parcel) -> None:
        """No more of it is written; what is written may still be confirmed."""
        del parcel.bodies[parcel.written :]
        if parcel.written and not parcel.missing:
            self._bytes -= parcel.size

    def _written(self) -> list[Parcel]:
        return list(dict.fromkeys(self._pending.values()))

    def complain(self) -> None:
        """Raise if names came back of which their publisher, without confirms, was not told."""
        count, self.returned = self.returned, 0
        if count:
            raise PublishFailed(f"RabbitMQ dropped {counted(count)} published before: {nowhere(self._exchange)}")

    def close(self, reason: str, reply: BaseException | None = None, *, certain: bool = False) -> None:
        """Use it no more. Names that were written may be accepted; all others are certainly not.

        `reply` is the broker's. It is `certain` that it has not accepted a name that was alone on a channel, if it
        closed that channel. If it closes the connection, that has nothing to do with the name.
        """
        if not self.open:
            return
        self.open = False
        for parcel in self._written():
            if reply:
                parcel.fail(refused(reply, certain=certain), reply)
            else:
                parcel.fail(PublishUnknown(f"{reason} before the confirm came; {MAYBE}"))
        for parcel in self._waiting:  # one of which a name came back is not sent again: nobody knows which it was
            parcel.fail(parcel.failure or NotSent(f"{reason} before it was sent: publish it again"))
        self._pending.clear()
        self._waiting.clear()
        for handle in (self._timer, self._flushing):
            if handle:
                handle.cancel()


def message_id(header: bytes) -> str | None:
    """The id of the message that has this content header; None if it has none, or pamqp cannot read the header.

    RabbitMQ delivers what others publish as it is: a time in microseconds, or a text that is not UTF-8.
    """
    content = ContentHeader()
    with suppress(Exception):
        content.unmarshal(header)
        return content.properties.message_id
    return None


async def _taken_by_the_inbox(_: object) -> None:
    """What aio-pika would call for each delivery that it sees, and it sees none."""
