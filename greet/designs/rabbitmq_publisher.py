"""The publisher of a line over RabbitMQ: its connection, and the exchange, which is opened again when it was lost.

aio-pika can restore a lost connection by itself (`connect_robust`). Here the publisher notices the loss, so that it can
say of each name whether it was accepted.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import ChannelNotFoundEntity

from greet.address import Address
from greet.designs import Design
from greet.designs.rabbitmq_link import DRIVER, Link, failed, keep_trying, nowhere, within
from greet.designs.rabbitmq_topic import REST
from greet.errors import ConnectFailed, PublishFailed
from greet.line import CLOSED, Guarantee, Line, State


class PublishingLine(Line):
    """A line with a connection to RabbitMQ, and an exchange that is opened at the first publish."""

    prefetch: int
    _exchange: AbstractExchange | None
    _channel: AbstractChannel
    """The channel of the exchange."""

    def __init__(self, design: Design, address: Address, topic: str, guarantee: Guarantee | None) -> None:
        super().__init__(design, address, topic, guarantee)
        self._confirms = self.guarantee is not Guarantee.AT_MOST_ONCE
        self._link = self._new_link(f"publisher to {topic}")

    def _new_link(self, name: str) -> Link:
        return Link(self.address, name)

    async def _connect(self, deadline: float) -> None:
        self._time = asyncio.get_running_loop().time
        self._opening = asyncio.Lock()
        self._exchange = None
        self._found = False  # the exchange existed before
        self._flying = 0  # names that were published and are not confirmed yet
        self._blamed = False  # the reason why the broker closed this channel was raised already
        self._heard = 0.0  # when the broker last answered
        self._confirmed = 0.0  # when it last confirmed a name
        self._mute = False  # names wait, and none was confirmed for as long as a publish may take
        try:
            await self._link.open(deadline)
        except DRIVER as error:
            raise failed(ConnectFailed, "", self.address, error) from error

    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        await self._link.close(deadline)

    async def _prepare(self) -> None:
        await self._open_exchange(self._deadline())

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
        if self._confirms and self._flying:  # they have deadlines: a broker that is short of memory confirms late
            return True
        return self._time() - self._heard < self._link.heartbeat

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
                if self._is_open() and not self._is_mute():
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
