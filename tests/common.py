"""What several suites do with a subscription, and look for at a broker."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import psutil

import greet
from greet import Line, Subscription
from greet.brokers import Broker, watchdog


async def take(names: Subscription, count: int, *, many: bool = False, seconds: float = 20) -> list[str]:
    """The next `count` names; fewer if that takes too long."""
    taken: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while len(taken) < count:
                taken += await anext(names.batches()) if many else [await anext(names)]
    return taken


@asynccontextmanager
async def started(*command: str) -> AsyncIterator[Process]:
    """A process that is gone afterwards, also if the test fails before its end."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def all_wait_for(broker: Broker, url: str, topic: str) -> None:
    """A broker hangs for half of the time-out. All that is asked of it meanwhile is done."""

    async def entered(one: Line | Subscription) -> None:
        async with one:
            pass

    async def go_on() -> None:
        await asyncio.sleep(2)
        await broker.resume()

    url += ("&" if "?" in url else "?") + "timeout=4"
    await carried(url, "Ada", topic)
    async with greet.connect(url, topic) as line:
        await broker.pause()
        async with asyncio.TaskGroup() as asked:
            asked.create_task(go_on())
            asked.create_task(entered(greet.connect(url, topic)))
            asked.create_task(entered(line.subscribe("goodbye")))
            asked.create_task(line.publish("Zoë"))
            letters = asked.create_task(line.dead_letters())
        assert letters.result() == []


async def carried(url: str, name: str, topic: str = "carried") -> str:
    """What a group reads after `name` was published."""
    async with greet.connect(url, topic=topic) as line, line.subscribe("hello") as names:
        await line.publish(name)
        async with asyncio.timeout(30):
            return await anext(names)


def listening(folder: Path) -> list[tuple[str, int]]:
    """Address and port of every socket that the broker's processes wait on."""
    return [
        (end.laddr.ip, end.laddr.port)
        for one in watchdog.marked(folder)
        for end in one.net_connections("inet")
        if end.status == psutil.CONN_LISTEN or not end.raddr
    ]


def on_loopback(address: str) -> bool:
    ip = ip_address(address)
    return ((ip.ipv4_mapped if isinstance(ip, IPv6Address) else None) or ip).is_loopback
