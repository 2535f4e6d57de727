"""What a member does over RabbitMQ besides reading: it joins again after its connection was lost, recognizes names that
it has handled before, and notices that the exchange was deleted.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from aio_pika.abc import AbstractChannel

from greet.designs.rabbitmq_link import DRIVER, failed, keep_trying, within
from greet.designs.rabbitmq_publisher import PublishingLine
from greet.designs.rabbitmq_topic import REST
from greet.errors import ConnectFailed, ConnectionLost, GreetError
from greet.line import Batch, Subscription
from greet.tasks import Lasting

LOOK = 10.0
"""The interval in seconds in which a member declares exchange, queues and binding again."""
REMEMBER = 5000
"""How many handled names a member remembers at least, so that it can recognize a redelivery."""


class QueueMember(Subscription):
    """A member of a group, with a connection of its own and a consumer of a queue."""

    _line: PublishingLine
    _channel: AbstractChannel | None

    def __init__(self, line: PublishingLine, group: str, *, replay: bool) -> None:
        super().__init__(line, group, replay=replay)
        self._queue = f"{line.topic}:{group}"
        self._link = line._new_link(f"member of {self._queue}")

    def _forget(self) -> None:
        super()._forget()
        self._channel = None  # the consumer's channel; None while the connection is lost
        self._lost_before = False
        self._lost_at = self._back_at = 0.0  # when the connection was lost first, and restored last,
        self._restored = 0  # and how often it was restored since then, without a message or a connection that lasted
        self._again = Lasting()  # joins again after the connection was lost
        self._looking: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._noted = Batch([]), 0  # the last batch that was added to `_handled`, and how many of its names
        self._handled: deque[Any] = deque(maxlen=max(REMEMBER, self._line.prefetch))  # the last handled messages
        self._redelivered: set[str | None] = set()  # their ids, after a lost connection: the broker may redeliver them

    async def _join(self, deadline: float) -> None:
        try:
            async with within(deadline):
                await self._begin_to_consume(deadline)
        except DRIVER as error:
            raise self._failed(ConnectFailed, "", error) from error
        self._looking = asyncio.create_task(self._keep_looking())

    @abstractmethod
    async def _begin_to_consume(self, deadline: float) -> None:
        """Connect, declare what is missing, and consume: when this returns, the group is live."""

    @abstractmethod
    async def _declare_all(self) -> None:
        """Declare exchange, queues and binding, with the settings of the line."""

    @abstractmethod
    def _wake(self) -> None:
        """End the wait for a message: the connection was lost."""

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
        """Join again. Raises `ConnectionLost` also if the line was restored and lost, again and again, for too long."""
        if self._restored > 2 and self._now() - self._lost_at > self._line.timeout:
            self._restored = 0
            raise ConnectionLost(
                f"the line to {self._line.address} is lost again each time that it is back, for"
                f" {self._line.timeout:g} s: perhaps a message of topic {self._line.topic} cannot be read"
            )
        await self._again.run(self._join_again)

    async def _join_again(self) -> None:
        """The connection was lost: connect and consume again. The broker redelivers what was not acknowledged."""
        self._lost_before = True
        self._redelivered = {self._id(one) for one in self._handled} - {None}
        deadline = self._line._deadline()
        await asyncio.sleep(REST)
        try:
            await keep_trying(self._begin_to_consume, deadline)
            self._back_at = self._now()
            self._restored += 1
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
                f"it accepted the login, but did not answer for group {self._group} within {self._line.timeout:g} s:"
                f" a queue of {self._line.topic} has no leader, or the broker hangs"
            )
        return failed(kind, what, self._line.address, error)

    def _lost(self, channel: AbstractChannel) -> None:
        """Forget the names that were not handed out: the broker delivers them again, to any member."""
        if channel is self._channel:
            self._channel = None
            if not self._restored or self._now() - self._back_at > self._line.timeout:
                self._lost_at, self._restored = self._now(), 0
            self._wake()
            if self._early:  # the current batch is settled already, so it stays
                self._runs.clear()
            else:
                self._drop()

    def _came(self) -> None:
        """Messages have come: the line works."""
        self._restored = 0

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

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
