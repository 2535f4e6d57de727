"""What a member of a consumer group does besides reading: it writes where a new group starts, and notices that the
broker is silent.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, suppress
from math import inf
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError

from greet.designs.kafka_producer import ProducingLine
from greet.designs.kafka_settings import SilentCoordinator
from greet.designs.kafka_topic import committed, start
from greet.errors import ConnectionLost, GreetError
from greet.line import Subscription
from greet.names import counted
from greet.tasks import Lasting

log = logging.getLogger("greet")


class GroupMember(Subscription):
    """A member of a consumer group, with a consumer of aiokafka."""

    _line: ProducingLine

    def _forget(self) -> None:
        super()._forget()
        self._id = self._line.topic + ":" + self._group
        self._consumer: Any = None
        self._all: list[TopicPartition] = []  # the partitions of the topic
        self._joined = asyncio.Event()  # this member has been assigned its partitions
        self._heard: dict[TopicPartition, tuple[int | None, float]] = {}  # the last fetch, and when we first saw it
        self._pause = min(1.0, self._line.timeout / 4)  # seconds of one wait for names
        self._checked = -inf  # when `_check_alive` looked last,
        self._gave = False  # and whether names were handed out since
        self._asked = -inf  # when the group's coordinator was heard of last
        self._asking_coordinator = Lasting()

    @abstractmethod
    def _new_consumer(self) -> AIOKafkaConsumer:
        """A consumer with the settings of the group."""

    async def _write_start(self) -> None:
        """Commit the start of a new group, in all partitions: it gets the names that are published from now on.

        The ends of the partitions are read first. So if two members create a group at the same time,
        both commit an offset that is not later than the moment at which either of them entered.

        This needs assigned partitions, and a consumer of its own: if `assign` is followed by `subscribe`
        while aiokafka 0.14 looks for the group's coordinator, its task that sends heartbeats and rejoins ends.
        """
        partitions, new = self._all, False
        consumer = self._new_consumer()
        consumer.assign(partitions)
        consumer.pause(*partitions)
        try:
            await start(consumer)
            oldest = await consumer.beginning_offsets(partitions)
            starts = oldest if self._replay else await consumer.end_offsets(partitions)
            while not new and await self._is_new():
                with suppress(CommitFailedError):  # the group has members already: one of them has committed it
                    await consumer.commit(starts)
                    new = True
        finally:
            await self._line._stop(consumer, 0)
        if new and (passed := sum(starts[one] - oldest[one] for one in partitions)):
            log.warning(
                "group %s is new to topic %s, or Kafka has deleted its offsets: it starts at the end and skips %s"
                " that are kept; to read them, subscribe as a new group with replay=True",
                self._group,
                self._line.topic,
                counted(passed),
            )

    async def _is_new(self) -> bool:
        return all(offset < 0 for offset in (await self._offsets(self._all)).values())

    async def _offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The committed offsets of the group; `SilentCoordinator` if the broker answers, but not for this group."""
        seconds = self._line.timeout / 2
        try:
            async with asyncio.timeout(seconds):
                return await committed(self._line.address, self._id, partitions)
        except TimeoutError:
            async with asyncio.timeout(seconds / 2):
                await self._consumer.topics()
            raise SilentCoordinator from None

    async def _check_alive(self) -> None:
        """Raise `ConnectionLost` if a broker is silent; to be called before names are asked for. Looks once a second.

        A fetch is answered within 0.2 s, with or without names. A partition of which names wait here is not
        fetched meanwhile. A member without partitions does not fetch; it asks the group's coordinator instead.
        """
        now = asyncio.get_running_loop().time()
        if (since := now - self._checked) < self._pause:
            return
        if self._gave and since > 2 * self._pause:
            self._heard.clear()  # the handler was slow: perhaps it kept the event loop from fetching
        self._checked, self._gave = now, False
        assigned = self._consumer.assignment()
        if not assigned or not self._joined.is_set():
            self._heard.clear()
            if now - self._asked > self._line.timeout / 4:
                await self._asking_coordinator.run(self._ask_coordinator)
            return
        for partition in assigned:
            last = self._consumer.last_poll_timestamp(partition)
            if partition in self._consumer._fetcher._records:
                self._heard.pop(partition, None)
            elif partition not in self._heard or self._heard[partition][0] != last:
                self._heard[partition] = (last, now)
            elif now - self._heard[partition][1] > self._line.timeout:
                self._heard.clear()
                raise ConnectionLost(f"{self._line.address} has not answered for {self._line.timeout:g} s: ask again")

    async def _ask_coordinator(self) -> None:
        async with self._trouble(ConnectionLost, self._line._deadline(), what="the group cannot be read: "):
            await self._offsets(self._all[:1])
        self._note_coordinator()

    def _note_coordinator(self) -> None:
        self._asked = asyncio.get_running_loop().time()

    def _trouble(self, ours: type[GreetError], deadline: float, **more: str) -> AbstractAsyncContextManager[None]:
        return self._line._trouble(ours, deadline, group=f"group {self._group}", verb="read", **more)
