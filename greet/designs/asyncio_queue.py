"""One process: a bounded `asyncio.Queue` for each group, and nothing else.

                       ┌─► Queue "hello"   ─► its members
    publish ─► topic ──┤
                       └─► Queue "goodbye" ─► its members

An entry of a queue is a list of names: one name from `publish`, up to 100 from `publish_many`,
which so wakes a consumer once for a hundred names. A queue holds at most `maxsize` entries
(1,000) of at most 65,536 characters each, so it cannot fill the memory: a publisher waits.

All of it lives as long as the process and its event loop: nothing survives them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from greet.errors import ConnectionLost, GreetError, PublishFailed, PublishUnknown, Unsupported
from greet.line import LEFT, Guarantee, Line, Subscription, chunks, plain
from greet.names import SHORT, check

ENTRY = 100  # names, at most, that one entry of a queue holds
PREFETCH = 100  # entries, at most, that a member takes at once: its fair share of what waits


class _Group:
    """The queue of one group, and what its members gave back."""

    def __init__(self, maxsize: int) -> None:
        self.queue: asyncio.Queue[list[str]] = asyncio.Queue(maxsize)
        self.returned: deque[list[str]] = deque()
        self.members = 0

    def give_back(self, names: list[str]) -> None:
        """What a member did not settle comes next, also to a member that already waits."""
        if self.queue.empty():
            self.queue.put_nowait(names)
        else:
            self.returned.append(names)


# The topics of each event loop: two lines to one topic share its groups, as with a broker.
_topics: dict[asyncio.AbstractEventLoop, dict[str, dict[str, _Group]]] = {}


class AsyncioLine(Line):
    """`asyncio:`, or with the size of each queue, `asyncio:?maxsize=1000`."""

    guarantees = (Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE)
    port = 0
    keys = ("maxsize",)
    _groups: dict[str, _Group]

    def __init__(self, url: str, topic: str, guarantee: Guarantee | None) -> None:
        super().__init__(url, topic, guarantee)
        self._maxsize = max(1, int(self.address.number("maxsize", 1000)))

    async def __aenter__(self) -> Self:
        for closed in [loop for loop in _topics if loop.is_closed()]:
            del _topics[closed]
        topics = _topics.setdefault(asyncio.get_running_loop(), {})
        self._groups = topics.setdefault(self.topic, {})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The groups keep their names as long as the loop lives."""

    async def publish(self, name: str) -> None:
        if not (type(name) is str and name.isprintable() and 0 < len(name) <= SHORT):
            check(name)  # the usual name is spared the call
        entry = [name]
        if full := self._put(entry):
            await self._wait_and_put(full, entry)

    async def publish_many(self, names: Iterable[str]) -> int:
        accepted = 0
        try:
            for chunk in chunks(names, ENTRY):
                if full := self._put(chunk):
                    await self._wait_and_put(full, chunk)
                accepted += len(chunk)
        except GreetError as error:
            error.accepted = accepted
            raise
        return accepted

    def _put(self, entry: list[str]) -> Sequence[_Group]:
        """Put `entry` into each queue that has room; the groups whose queue has none."""
        if not self._groups:
            raise PublishFailed(f"no group has ever read {self.topic}, so a name has nowhere to go: subscribe first")
        full: Sequence[_Group] = ()
        for group in self._groups.values():
            try:
                group.queue.put_nowait(entry)
            except asyncio.QueueFull:
                full = [*full, group]
        return full

    async def _wait_and_put(self, full: Sequence[_Group], entry: list[str]) -> None:
        failure = PublishFailed if len(full) == len(self._groups) else PublishUnknown
        for group in full:
            try:
                async with asyncio.timeout(self.timeout):
                    await group.queue.put(entry)
            except TimeoutError:
                raise failure(f"a group of {self.topic} was full for {self.timeout:g} s: read it") from None
            failure = PublishUnknown  # from here on, some group has it

    def group(self, name: str) -> _Group:
        """The group of that name, which is made when it is first asked for."""
        return self._groups.setdefault(name, _Group(self._maxsize))

    def subscribe(self, group: str, *, replay: bool = False) -> AsyncioSubscription:
        if replay:
            raise Unsupported("asyncio keeps no name that was read, so it cannot replay: use kafka")
        return AsyncioSubscription(self, plain("group", group))


class AsyncioSubscription(Subscription):
    """A member of a group: it takes entries from the group's queue."""

    _group: _Group

    def __init__(self, line: AsyncioLine, group: str) -> None:
        super().__init__()
        self._line = line
        self._name = group
        self._waiting: set[asyncio.Task[Any]] = set()  # tasks, for the queue's next entry

    async def __aenter__(self) -> Self:
        self._group = self._line.group(self._name)
        self._group.members += 1
        self._left = False
        return self

    async def _receive(self) -> list[str]:
        if self._left:
            raise ConnectionLost(LEFT)
        group = self._group
        if group.returned:
            return group.returned.popleft()
        batch = list(await self._wait() if group.queue.empty() else group.queue.get_nowait())
        for _ in range(min(group.queue.qsize() // group.members, PREFETCH)):
            batch += group.queue.get_nowait()
        return batch

    async def _wait(self) -> list[str]:
        task = asyncio.current_task()
        assert task  # there is one wherever something is awaited
        self._waiting.add(task)
        try:
            return await self._group.queue.get()
        except asyncio.CancelledError:
            if task not in self._waiting and not task.uncancel():  # by `_leave`, and by nobody else
                raise ConnectionLost(LEFT) from None
            raise
        finally:
            self._waiting.discard(task)

    async def _leave(self) -> None:
        rest = self._batch[self._taken if self._line.guarantee is Guarantee.AT_MOST_ONCE else self._settled :]
        self._batch, self._taken, self._settled, self._left = [], 0, 0, True
        self._group.members -= 1
        while self._waiting:
            self._waiting.pop().cancel()
        if rest:
            self._group.give_back(rest)
