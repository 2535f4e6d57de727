"""What several suites do with a subscription."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from greet import Subscription


async def take(names: Subscription, count: int, *, many: bool = False, seconds: float = 20) -> list[str]:
    """The next `count` names; fewer if that takes too long."""
    taken: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while len(taken) < count:
                taken += await anext(names.batches()) if many else [await anext(names)]
    return taken
