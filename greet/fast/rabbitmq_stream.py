"""The fast way to a stream of RabbitMQ: names pass aio-pika in bulk, as in `greet.fast.rabbitmq`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from aio_pika.abc import AbstractChannel
from pamqp.header import ContentHeader

from greet.designs.rabbitmq_link import DRIVER, within
from greet.designs.rabbitmq_stream import MARK, Record, StreamLine, StreamSubscription
from greet.designs.rabbitmq_topic import short
from greet.fast.rabbitmq import FastLink, FastRabbitMQLine, Inbox, _taken_by_the_inbox
from greet.line import Poison, complaint

OFFSET = b"\x0fx-stream-offsetl"  # in a header, the offset follows as eight bytes
TYPE = bytes([len(MARK)]) + MARK.encode()  # the last property of a mark
CHUNK = 10_000
"""How many messages a stream may send beyond the prefetch: the rest of what it has stored together."""


class FastStreamLine(StreamLine, FastRabbitMQLine):
    """As `StreamLine`, with `publish` and `publish_many` past aio-pika."""

    def _subscription(self, group: str, *, replay: bool) -> FastStreamSubscription:  # type: ignore[override]
        return FastStreamSubscription(self, short("group", group), replay=replay)


class FastStreamSubscription(StreamSubscription):
    """As `StreamSubscription`, with deliveries past aio-pika."""

    _link: FastLink
    _inbox: Inbox | None = None

    async def _receive_from(self, channel: AbstractChannel, start: int | str) -> None:
        main = self._channel
        underlay = await channel.get_underlay_channel()
        self._inbox = Inbox(self._link.wire, underlay.number, self._line.prefetch + CHUNK)
        if main:
            self._link.wire.on_lost = partial(self._lost, main)
        await self._consume_stream(channel, start, _taken_by_the_inbox)

    async def _take(self) -> list[Record]:
        assert self._inbox
        bodies, origins = await self._inbox.take()
        if origins:
            tag, _ = origins[-1]
            self._inbox.acknowledge(tag)
        return [
            Record(body, _offset(header), mark=header.endswith(TYPE))
            for body, (_, header) in zip(bodies, origins, strict=True)
        ]

    def _wake(self) -> None:
        self._called.set()
        if self._inbox:
            self._inbox.close()

    async def _bury(self, poison: Poison, deadline: float) -> None:
        channel = self._channel
        if channel and poison.body is None:  # the inbox keeps nothing that is longer than any name
            try:
                async with within(deadline), await self._link.channel() as other:
                    found = await self._look_for(other, poison.origin, lambda _: True)
                    body = (await found).body
                    poison = replace(poison, body=body, reason=complaint(body))
            except DRIVER:
                self._lost(channel)
                return
        await super()._bury(poison, deadline)


def _offset(header: bytes) -> int:
    if header.count(OFFSET) != 1:  # in another type than RabbitMQ writes, or in a header of the publisher too
        content = ContentHeader()
        content.unmarshal(header)
        return int(str((content.properties.headers or {})["x-stream-offset"]))
    start = header.index(OFFSET) + len(OFFSET)
    return int.from_bytes(header[start : start + 8], "big")
