"""The fast path below `rabbitmq.py`: how names pass aio-pika in bulk.

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

No private part of a library is used: `aiormq.TransportFactory` is there to bring streams of one's
own, `feed_data` is where a transport leaves what it read, and AMQP lets the frames of different
channels follow each other in any order.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from random import getrandbits
from struct import Struct
from typing import Any, NamedTuple, SupportsIndex

from aiormq import TransportFactory
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Connection
from pamqp.frame import marshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat
from yarl import URL

from greet.errors import PublishFailed, PublishUnknown
from greet.names import MAX_BYTES

WINDOW = 500
"""How many names of a channel may be unconfirmed; more wait, and with them their publishers."""
WRITE = 65_536
"""How many bytes are joined for one write."""

# A frame is kind (1 byte), channel (2), size (4), payload, end (1). The payload of a method begins
# with the method's index; that of a header is class (2), weight (2), size of the body (8), properties.
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
_frame = Struct(">BHI").unpack_from
_long = Struct(">Q")
_int = Struct(">I")

MAYBE = "it may have been accepted, so publishing it again may double it"

Taker = Callable[[int, bytes], bool]
"""Is shown the kind and payload of each frame of a channel; says whether it took it from aiormq."""


def _index(method: type[Frame]) -> bytes:
    return _int.pack(method.index)


class Wire(TransportFactory):
    """Brings the streams of one connection, and keeps hold of them."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._transport: asyncio.Transport | None = None
        self.takers: dict[int, Taker] = {}
        self.full = False
        """Whether the socket takes no more for now: the broker reads too slowly, or not at all."""
        self.on_drained: Callable[[], None] = lambda: None

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; aiormq calls this."""
        loop = asyncio.get_running_loop()
        reader = _Tap(self.takers)
        protocol = _Protocol(reader, self)
        where = str(url.host), url.port or 0
        self._transport, _protocol = await loop.create_connection(lambda: protocol, *where, ssl=self._context)
        return reader, asyncio.StreamWriter(self._transport, protocol, reader, loop)

    def write(self, frames: bytes) -> None:
        """Write whole frames, unless the connection is gone."""
        if self._transport and not self._transport.is_closing():
            self._transport.write(frames)

    def abort(self) -> None:
        """Close at once, without a word to the broker."""
        if self._transport:
            self._transport.abort()


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells the wire when the socket is full."""

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


class _Tap(asyncio.StreamReader):
    """What aiormq reads from. The frames that a taker takes do not get there."""

    def __init__(self, takers: dict[int, Taker]) -> None:
        super().__init__()
        self._takers = takers
        self._rest = b""
        self._time = asyncio.get_running_loop().time
        self._fed = self._time()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        data = self._rest + bytes(data)
        start, taken = 0, False
        while (payload := start + 7) < len(data):
            kind, channel, size = _frame(data, start)
            # What is no AMQP goes to aiormq as it is, which will say so.
            end = payload + size + 1 if kind <= HEARTBEAT else len(data)
            if end > len(data):
                break
            taker = self._takers.get(channel)
            if taker and taker(kind, data[payload : end - 1]):
                taken = True
            else:
                super().feed_data(data[start:end])
            start = end
        self._rest = data[start:]
        if taken and self._time() - self._fed > 1:
            # A broker sends no heartbeats while it sends other frames. aiormq does not see these,
            # and would take the connection for dead.
            self._fed = self._time()
            super().feed_data(marshal(Heartbeat(), 0))

    def feed_eof(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            super().feed_data(rest)
        super().feed_eof()


class Delivery(NamedTuple):
    """A message that came; `body` is None where it was too long to be a name, and was not kept."""

    tag: int
    redelivered: bool
    header: bytes
    body: bytes | None


class Inbox:
    """The deliveries of a channel with one consumer, until someone takes them."""

    _deliver = _index(Basic.Deliver)

    def __init__(self, wire: Wire, channel: int) -> None:
        self.open = True
        self._wire = wire
        self._channel = channel
        self._deliveries: list[Delivery] = []
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
            if self._size <= MAX_BYTES:
                self._parts.append(payload)
        if not self._missing:
            body = b"".join(self._parts) if self._size <= MAX_BYTES else None
            self._deliveries.append(Delivery(self._tag, self._redelivered, self._header, body))
            self._wake()
        return True

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[Delivery]:
        """All that came since the last time; waits for the first. Empty once the inbox is closed."""
        while self.open and not self._deliveries:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        deliveries, self._deliveries = self._deliveries, []
        return deliveries

    def acknowledge(self, tag: int, *, multiple: bool) -> None:
        """Settle the delivery `tag`, with `multiple` also all before it."""
        self._wire.write(marshal(Basic.Ack(tag, multiple), self._channel))

    def reject(self, tag: int) -> None:
        """Refuse the delivery `tag`: the broker moves it to the dead letters."""
        self._wire.write(marshal(Basic.Reject(tag, requeue=False), self._channel))

    def close(self) -> None:
        """Forget what nobody took: the broker delivers it again, to whoever reads."""
        self.open = False
        self._deliveries.clear()
        self._wake()


class NotSent(PublishFailed):
    """The connection went before a byte of it was written."""


class Parcel:
    """Names that are published together, until each of them is confirmed or the time is over."""

    def __init__(self, bodies: list[bytes], deadline: float) -> None:
        self.bodies = bodies
        self.deadline = deadline
        self.missing = len(bodies)
        self.accepted = 0
        self.failure: PublishFailed | None = None
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def settle(self, failure: PublishFailed | None = None) -> None:
        """One more of its names is confirmed, or came back."""
        self.missing -= 1
        self.accepted += failure is None
        self.failure = self.failure or failure
        if not self.missing:
            if self.failure:
                self.fail(self.failure)
            elif not self.done.done():
                self.done.set_result(self.accepted)

    def fail(self, failure: PublishFailed | PublishUnknown, cause: BaseException | None = None) -> None:
        """Let its publisher have the error, if one still waits."""
        if not self.done.done():
            failure.__cause__ = cause
            failure.accepted = self.accepted
            self.done.set_exception(failure)
            self.done.exception()  # looked at: asyncio does not complain where the publisher was cancelled


class Outbox:
    """Publishes on a channel: numbers what it writes, and tells each parcel what became of it."""

    _ack, _nack, _return = _index(Basic.Ack), _index(Basic.Nack), _index(Basic.Return)
    _blocked, _unblocked = _index(Connection.Blocked), _index(Connection.Unblocked)

    def __init__(
        self,
        wire: Wire,
        channel: int,
        exchange: str,
        *,
        timeout: float,
        confirms: bool,
        persistent: bool,
        frame_max: int = 131_072,
    ) -> None:
        self.open = True
        self._wire = wire
        self._exchange = exchange
        self._timeout = timeout
        self._confirms = confirms
        self._refusing = ""
        self._returned = 0  # names that came back while nobody waited for their confirm
        self._waiting: deque[Parcel] = deque()
        self._pending: dict[int, Parcel] = {}
        self._last = 0  # number of the name that was written last; the broker counts likewise
        self._oldest = 1  # all numbers before it are confirmed
        self._loop = asyncio.get_running_loop()
        self._flushing: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

        # A message's frames, cut where the size of the body, the message's id and the body come.
        # The id is the number plus a base that no other channel has.
        self._base = getrandbits(88) << 40
        properties = Basic.Properties(delivery_mode=2 if persistent else 1, message_id="0" * 32)
        method = marshal(Basic.Publish(exchange=exchange, mandatory=True), channel)
        header = marshal(ContentHeader(properties=properties), channel)
        self._start = method + header[:11]
        self._middle = header[19:-33]
        self._body = marshal(ContentBody(b""), channel)[:3]
        self._room = (frame_max or 2**31) - 8

        wire.takers[channel] = self._take_frame
        wire.takers[0] = self._take_notice
        wire.on_drained = self._soon

    def send(self, bodies: list[bytes]) -> asyncio.Future[int]:
        """Publish `bodies` as soon as the window has room; the future has the count of the accepted."""
        if self._returned:
            self.complain()
        parcel = Parcel(bodies, self._loop.time() + self._timeout)
        self._waiting.append(parcel)
        if not self._timer:
            self._timer = self._loop.call_at(parcel.deadline, self._expire)
        self._soon()
        return parcel.done

    def _soon(self) -> None:
        """Write in the next turn of the loop: together with all that is published in this one."""
        if not self._flushing:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        frames: list[bytes] = []
        size = 0
        while self._waiting and not self._refusing and not self._wire.full:
            parcel = self._waiting[0]
            if self._pending and len(self._pending) + len(parcel.bodies) > WINDOW:
                break
            self._waiting.popleft()
            if parcel.done.done():  # its publisher was cancelled, or its time was over
                continue
            first = self._last + 1
            self._last += len(parcel.bodies)
            for number, body in enumerate(parcel.bodies, first):
                frames.append(self._marshal(number, body))
                size += len(frames[-1])
            if self._confirms:
                self._pending.update(dict.fromkeys(range(first, self._last + 1), parcel))
            else:
                parcel.done.set_result(len(parcel.bodies))
            if size >= WRITE:
                self._wire.write(b"".join(frames))
                frames.clear()
                size = 0
        self._wire.write(b"".join(frames))

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
                self.close("the broker refused names, as a queue is full or without a leader,")
            return index in (self._ack, self._nack, self._return)
        if kind == HEADER:  # of a message that came back
            # Its confirm comes too, but later, and is for nobody then.
            parcel = self._pending.pop(int(message_id(payload) or "0", 16) - self._base, None)
            if parcel:
                parcel.settle(PublishFailed(nowhere(self._exchange)))
            else:
                self._returned += 1
        return True

    def _confirm(self, number: int, *, multiple: bool) -> None:
        for one in range(self._oldest if multiple else number, number + 1):
            if parcel := self._pending.pop(one, None):
                parcel.settle()
        if multiple:
            self._oldest = number + 1
        if self._waiting:
            self._soon()

    def _take_notice(self, _: int, payload: bytes) -> bool:
        if payload.startswith(self._blocked):
            self._refusing = "the broker takes nothing now: its memory or disk runs out"
        elif payload.startswith(self._unblocked):
            self._refusing = ""
            self._soon()
        return False  # aiormq is to know of it too

    def _expire(self) -> None:
        """Give up what is overdue. There is one timer for all, as each has the same time."""
        now = self._loop.time()
        for parcel in self._written():
            if parcel.deadline <= now:
                why = f": {self._refusing}" if self._refusing else ""
                parcel.fail(PublishUnknown(f"no confirm within {self._timeout:g} s{why}; {MAYBE}"))
        why = self._refusing or f"{WINDOW} names wait for the broker"
        for parcel in self._waiting:
            if parcel.deadline <= now:
                parcel.fail(PublishFailed(f"not sent within {self._timeout:g} s: {why}; publish it later"))
        # What was given up, or cancelled, would else wait with its names for a broker that takes nothing.
        self._waiting = deque(parcel for parcel in self._waiting if not parcel.done.done())
        next_one = min((parcel.deadline for parcel in self._all() if not parcel.done.done()), default=None)
        self._timer = None if next_one is None else self._loop.call_at(next_one, self._expire)

    def _written(self) -> list[Parcel]:
        return list(dict.fromkeys(self._pending.values()))

    def _all(self) -> list[Parcel]:
        return [*self._written(), *self._waiting]

    def complain(self) -> None:
        """Raise if names came back of which their publisher, without confirms, was not told."""
        count, self._returned = self._returned, 0
        if count:
            raise PublishFailed(f"{count} names published before were dropped: {nowhere(self._exchange)}")

    def close(self, why: str, cause: BaseException | None = None) -> None:
        """Use it no more. Whatever was written may be accepted; whatever was not, surely is not."""
        self.open = False
        for parcel in self._written():
            parcel.fail(PublishUnknown(f"{why} before the confirm came; {MAYBE}"), cause)
        for parcel in self._waiting:
            parcel.fail(NotSent(f"{why} before it was sent: publish it again"), cause)
        self._pending.clear()
        self._waiting.clear()
        for handle in (self._timer, self._flushing):
            if handle:
                handle.cancel()


def message_id(header: bytes) -> str | None:
    """The id of the message that has this content header."""
    content = ContentHeader()
    content.unmarshal(header)
    return content.properties.message_id


def nowhere(topic: str) -> str:
    """Why a name was not accepted that no queue would get."""
    return f"no group has ever read {topic}, so it has nowhere to go: subscribe first"
