"""A log in memory: names stay where they are, and a group is a place in it. It can be read again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from greet.line import Batch, Line, Poison, Subscription

AT_ONCE = 1000  # names that a member takes, at most
_topics: dict[tuple[asyncio.AbstractEventLoop, str], _Log] = {}


@dataclass
class _Log:
    names: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)  # of each group: its next name
    readers: dict[str, asyncio.Lock] = field(default_factory=dict)  # one member of a group reads at a time
    grown: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryLine(Line):
    """`memory-log:`."""

    async def _connect(self, deadline: float) -> None:
        self._log = _topics.setdefault((asyncio.get_running_loop(), self.topic), _Log())

    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        """The log stays."""

    async def _send(self, names: list[str], deadline: float) -> int:
        self._log.names += names
        self._log.grown.set()
        return len(names)

    def _subscription(self, group: str, *, replay: bool) -> Subscription:
        return MemorySubscription(self, group, replay=replay)


class MemorySubscription(Subscription):
    """The member that holds the lock of its group reads; the others stand by."""

    _line: MemoryLine

    async def _join(self, deadline: float) -> None:
        self._log = self._line._log
        self._log.places.setdefault(self._group, 0 if self._replay else len(self._log.names))
        self._lock = self._log.readers.setdefault(self._group, asyncio.Lock())
        self._reads, self._next_place = False, 0

    async def _next(self) -> list[Batch | Poison]:
        if not self._reads:
            await self._lock.acquire()
            self._reads, self._next_place = True, self._log.places[self._group]
        while self._next_place == len(self._log.names):
            self._log.grown.clear()
            await self._log.grown.wait()
        start = self._next_place
        names = self._log.names[start : start + AT_ONCE]
        self._next_place += len(names)
        return [Batch(names, range(start, self._next_place))]

    async def _settle(self, batch: Batch, count: int) -> None:
        self._log.places[self._group] = batch.origins[count - 1] + 1

    async def _give_back(self, batches: list[Batch]) -> None:  # type: ignore[override]
        self._log.places[self._group] = batches[0].origins[0] if batches else self._log.places[self._group]

    async def _bury(self, poison: Poison, deadline: float) -> None:
        """No message is other than a name here."""

    async def _part(self, deadline: float, *, clean: bool) -> None:
        if self._reads:
            self._reads = False
            self._lock.release()
