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
from greet import Subscription
from greet.brokers import watchdog


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
