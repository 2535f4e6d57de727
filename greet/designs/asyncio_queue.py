"""One process: a bounded `asyncio.Queue` for each group, and nothing else.

                       ┌─► Queue "hello"   ─► its members
    publish ─► topic ──┤
                       └─► Queue "goodbye" ─► its members

An entry of a queue is a list of names: one name from `publish`, up to 200 names from `publish_many`.
So `publish_many` wakes a consumer once for 200 names, not 200 times. If other members wait, each gets
its share of them. A queue holds at most `maxsize` entries (1,000) of at most 65,536 characters each.
When it is full, the publisher waits, so it cannot fill the memory.

The queues belong to the process and its event loop. When these end, all names in them are gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from greet.address import Address
from greet.designs import Design
from greet.errors import PublishFailed, PublishUnknown
from greet.line import Batch, Guarantee, Line, Poison, Subscription

PREFETCH = 50  # a member takes its fair share of the queue at once, but at most so many entries


class _Group:
    """The queue of one group, and the names that its members gave back, or have left to others."""

    def __init__(self, maxsize: int) -> None:
        self.queue: asyncio.Queue[list[str]] = asyncio.Queue(maxsize)
        self.returned: deque[list[str]] = deque()
        self.members = 0
        self.waiting = 0  # members that wait for the queue

    async def take(self) -> list[str]:
        """The next names. Names that were given back, or left to others, come first."""
        while not self.returned:
            self.waiting += 1
            try:
                names = await self.queue.get()
            finally:
                self.waiting -= 1
            if names:
                return self._part([*names], self.waiting)  # a copy: all groups share the list
        return self._part(self.returned.popleft(), self.members - 1)

    def _part(self, names: list[str], others: int) -> list[str]:
        """The first of `names`; as much is left to each of the `others`."""
        if others and len(names) > 1:
            count = max(1, len(names) // (others + 1))
            self.returned.appendleft(names[count:])
            del names[count:]
        return names

    def give_back(self, names: list[str]) -> None:
        """Names that a member did not settle are delivered next, also to a member that is waiting."""
        self.returned.append(names)
        self.wake()

    def wake(self) -> None:
        """Wake the members that wait, as far as names were given back: an empty list says so."""
        for _ in range(min(len(self.returned), self.waiting - self.queue.qsize())):
            with suppress(asyncio.QueueFull):
                self.queue.put_nowait([])


# The topics of each event loop. Two lines to the same topic share its groups, as with a broker.
_topics: dict[asyncio.AbstractEventLoop, dict[str, dict[str, _Group]]] = {}


class AsyncioLine(Line):
    """`asyncio:`, or `asyncio:?maxsize=1000` with the size of each queue."""

    names_at_once = 200
    ahead = 1
    _groups: dict[str, _Group]

    def __init__(self, design: Design, address: Address, topic: str, guarantee: Guarantee | None) -> None:
        super().__init__(design, address, topic, guarantee)
        self._maxsize = max(1, int(self.address.number("maxsize", 1000)))

    async def _connect(self, deadline: float) -> None:
        for loop in [*_topics]:  # other threads have event loops too
            if loop.is_closed():
                _topics.pop(loop, None)
        topics = _topics.setdefault(asyncio.get_running_loop(), {})
        self._groups = topics.setdefault(self.topic, {})

    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        """Nothing to do: the groups keep their names as long as the event loop exists."""

    def _post(self, name: str) -> Coroutine[Any, Any, None] | None:
        return self._put([name])

    async def _send(self, names: list[str], deadline: float) -> int:
        if waiting := self._put(names):
            await waiting
        return len(names)

    def _put(self, names: list[str]) -> Coroutine[Any, Any, None] | None:
        """Put `names` into the queue of each group. If some are full, return what to await until they have room."""
        if not self._groups:
            raise PublishFailed(f"no group has ever read {self.topic}, so a name has nowhere to go: subscribe first")
        full: Sequence[_Group] = ()
        for group in self._groups.values():
            try:
                group.queue.put_nowait(names)
            except asyncio.QueueFull:
                full = (*full, group)
        return self._wait_for_room(full, names, self._deadline()) if full else None

    async def _wait_for_room(self, full: Sequence[_Group], names: list[str], deadline: float) -> None:
        failure = PublishFailed if len(full) == len(self._groups) else PublishUnknown
        for group in full:
            try:
                async with asyncio.timeout_at(deadline):
                    await group.queue.put(names)
            except TimeoutError:
                raise failure(f"a group of {self.topic} was full for {self.timeout:g} s: read it") from None
            failure = PublishUnknown  # from here on, at least one group has the names

    def _subscription(self, group: str, *, replay: bool) -> AsyncioSubscription:
        return AsyncioSubscription(self, group, replay=replay)


class AsyncioSubscription(Subscription):
    """A member of a group: it takes entries from the group's queue."""

    _line: AsyncioLine
    _shared: _Group

    async def _join(self, deadline: float) -> None:
        self._shared = self._line._groups.setdefault(self._group, _Group(self._line._maxsize))
        self._shared.members += 1

    async def _next(self) -> list[Batch | Poison]:
        group = self._shared
        names = await group.take()
        if not group.returned:  # else it is their turn
            for _ in range(min(group.queue.qsize() // group.members, PREFETCH)):
                names += group.queue.get_nowait()
        group.wake()  # perhaps this took what was to wake another member
        return [Batch(names)]

    async def _settle(self, batch: Batch, count: int) -> None:
        """Nothing to do: the names were taken out of the queue when they were read."""

    async def _bury(self, poison: Poison, deadline: float) -> None:
        """Never called: all entries are lists of names."""

    async def _give_back(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self._shared.give_back(batch.names)

    async def _part(self, deadline: float, *, clean: bool) -> None:
        self._shared.members -= 1
