"""The bare `asyncio.Queue`: `await queue.put(name)`, `await queue.get()`, and nothing else.

For many at a time, an entry is a list of 200 messages, and the queue holds as many entries: greet's bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

from bench.model import Contender, Following, Place, Publisher
from greet import Guarantee

ENTRY = 200
"""Names in an entry of a queue, for many at a time."""
_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, dict[str, asyncio.Queue[Any]]]] = WeakKeyDictionary()


class _Bodies:
    def __init__(self, queue: asyncio.Queue[bytes], place: Place) -> None:
        self._queue, self._unwrap = queue, place.unwrap

    async def __anext__(self) -> str:
        return self._unwrap(await self._queue.get())


class _Lists(Publisher):
    def __init__(self, put: Callable[[list[str]], Awaitable[object]]) -> None:
        super().__init__(lambda name: put([name]))
        self._put = put

    async def publish_all(self, names: Iterable[str]) -> None:
        self.accepted, rest = [0], iter(names)
        while entry := list(islice(rest, ENTRY)):
            await self._put(entry)
            self.accepted[0] += len(entry)


@dataclass(frozen=True)
class BareQueue(Contender):
    """A queue for each group."""

    maxsize: int = 1000

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """Puts into the queue of each group."""
        queues = list(self._groups(place).values())

        async def to_all(entry: Any) -> None:
            for queue in queues:
                await queue.put(entry)

        async def wrapped(name: str) -> None:
            await put(place.wrap(name))

        put = queues[0].put if len(queues) == 1 else to_all
        yield _Lists(put) if self.way == "many" else Publisher(wrapped if place.options else put)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """Takes from its group's queue."""
        queue = self._groups(place).setdefault(group, asyncio.Queue(self.maxsize))
        names: Any = _Bodies(queue, place) if place.options else Following(queue.get)
        yield names

    def _groups(self, place: Place) -> dict[str, asyncio.Queue[Any]]:
        return _queues.setdefault(asyncio.get_running_loop(), {}).setdefault(place.topic, {})


IN_PROCESS = (Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE)

CONTENDERS: list[Contender] = [
    BareQueue(
        *("asyncio", "name", 500_000, "asyncio.Queue(1000)"),
        name="bare queue",
        guarantees=IN_PROCESS,
        survives="nothing",
    ),
    BareQueue(
        *("asyncio", "many", 2_000_000, "asyncio.Queue(1000) of lists of 200 names"),
        name="bare queue",
        guarantees=IN_PROCESS,
        survives="nothing",
    ),
]
