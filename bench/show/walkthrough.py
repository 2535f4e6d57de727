"""What the notebooks of the three designs do alike: two members at work, what waits, and a program that is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence

import greet

SECONDS = 30
"""The deadline of each wait."""


async def share(
    line: greet.Line, names: Sequence[str], handle: Callable[[str], Awaitable[object]]
) -> list[tuple[str, str]]:
    """Publish `names` to "hello", which has two members at work; each name with the member that handled it."""
    handled: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def work(member: str, mine: greet.Subscription) -> None:
        async for name in mine:
            await handle(name)
            handled.put_nowait((name, member))

    async with line.subscribe("hello") as one, line.subscribe("hello") as two, asyncio.TaskGroup() as tasks:
        members = [tasks.create_task(work(who, mine)) for who, mine in (("first", one), ("second", two))]
        await line.publish_many(names)
        async with asyncio.timeout(SECONDS):
            found = [await handled.get() for _ in names]
        for member in members:
            member.cancel()
    return found


async def drain(line: greet.Line) -> list[str]:
    """All the names that wait for "hello": what comes before a last one, which is published now."""
    async with line.subscribe("hello") as names, asyncio.timeout(SECONDS):
        await line.publish("the last")
        found = []
        while (name := await anext(names)) != "the last":
            found.append(name)
        return found


def killed(lines: int, *command: str, **environment: str) -> list[str]:
    """Run `python -m greet …`, and kill it (-9) when it has printed so many lines; all that it printed."""
    start = [sys.executable, "-m", "greet", *command]
    with subprocess.Popen(
        start, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        return printed + process.stdout.readlines()
