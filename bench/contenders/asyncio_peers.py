"""The bare `asyncio.Queue`: `await queue.put(name)`, `await queue.get()`, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from bench.contenders import Contender, Following, Place, Publisher
from greet import Guarantee

_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, dict[str, asyncio.Queue[Any]]]] = WeakKeyDictionary()


class _Bodies:
    def __init__(self, queue: asyncio.Queue[bytes], place: Place) -> None:
        self._queue, self._unwrap = queue, place.unwrap

    async def __anext__(self) -> str:
        return self._unwrap(await self._queue.get())


@dataclass(frozen=True)
class BareQueue(Contender):
    """A queue for each group."""

    maxsize: int = 1000

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        """Puts into the queue of each group."""
        queues = list(self._groups(place).values())

        async def to_all(name: str) -> None:
            for queue in queues:
                await queue.put(name)

        async def wrapped(name: str) -> None:
            body = place.wrap(name)
            for queue in queues:
                await queue.put(body)

        yield Publisher(wrapped if place.options else queues[0].put if len(queues) == 1 else to_all)

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """Takes from its group's queue."""
        queue = self._groups(place).setdefault(group, asyncio.Queue(self.maxsize))
        names: Any = _Bodies(queue, place) if place.options else Following(queue.get)
        yield names

    def _groups(self, place: Place) -> dict[str, asyncio.Queue[Any]]:
        return _queues.setdefault(asyncio.get_running_loop(), {}).setdefault(place.topic, {})


CONTENDERS: list[Contender] = [
    BareQueue(
        *("asyncio", "name", 500_000, "asyncio.Queue(1000)"),
        name="bare queue",
        guarantees=(Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE),
        survives="nothing",
    ),
]
