"""The brokers of a run, and the line on which consumers tell that they are ready."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import psutil

import greet
from bench.contenders.cleanup import remove
from bench.measure.workers import on_this_machine
from bench.model import Used
from greet import BrokerMissing, GreetError
from greet.brokers import PRIVATE, VARIABLES, Broker, by_default
from greet.designs import Design, named


def used(broker: Broker | None) -> Used:
    """CPU seconds and MB of a broker so far; None where it is not ours, or is gone."""
    if broker:
        with suppress(psutil.Error):
            found = [psutil.Process(pid) for pid in broker.pids]
            times = [one.cpu_times() for one in found]
            if found:
                memory = sum(one.memory_info().rss for one in found) / 1e6
                return sum(one.user + one.system for one in times), memory
    return None, None


@dataclass
class Site:
    """Where a design is: its broker, ours or not; none for a design that lives in one process."""

    url: str = field(repr=False)
    broker: Broker | None = None
    """None where the broker is not ours: what it costs is then not known."""
    control: str = ""
    """The topic on which consumers tell that they are ready; empty where there is no broker."""
    lost: str | None = None
    """Why it cannot be used any more."""
    made: dict[str, set[str]] = field(default_factory=dict)
    """The groups of each topic that was made: where the broker stays, they are removed in the end."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    ready: set[str] = field(default_factory=set)
    elsewhere: bool = False
    """Whether its broker is on another machine."""

    async def wait_ready(self, who: Iterable[str]) -> None:
        """Return when all of `who` have told that they are ready, or the site is lost."""
        wanted = set(who)
        async with self.changed:
            await self.changed.wait_for(lambda: wanted <= self.ready or self.lost)
        self.ready -= wanted

    async def listen(self, line: greet.Line) -> None:
        """Hear who is ready, until cancelled; when this fails, the site is lost."""
        try:
            async with line.subscribe("bench") as names:
                await self._heard("")
                async for name in names:
                    await self._heard(name)
        except GreetError as error:
            self.lost = f"{type(error).__name__}: {error}"
            await self._heard("")

    async def _heard(self, name: str) -> None:
        async with self.changed:
            self.ready.add(name)
            self.changed.notify_all()

    def used(self) -> Used:
        """What the broker has used."""
        return used(self.broker)

    def disk_mb(self) -> float | None:
        """The disk that the broker holds; None if it is not ours."""
        if self.broker is None:
            return None
        held = 0
        for file in self.broker.folder.rglob("*"):
            with suppress(OSError):
                held += file.stat().st_blocks * 512 if file.is_file() else 0
        return held / 1e6


def by_broker(designs: Iterable[Design]) -> list[list[Design]]:
    """The designs of one product together, as they share its broker; each that needs none by itself."""
    found: dict[object, list[Design]] = {}
    for design in designs:
        found.setdefault(design.product or design, []).append(design)
    return list(found.values())


@asynccontextmanager
async def sites(designs: Iterable[str]) -> AsyncIterator[tuple[dict[str, Site], dict[str, str]]]:
    """The sites of `designs`, started side by side, and for each that cannot be had, what to do."""
    found: dict[str, Site] = {}
    missing: dict[str, str] = {}

    async def enter(alike: Sequence[Design], stack: AsyncExitStack) -> None:
        try:
            url, broker = await _broker(alike[0].name, stack)
        except GreetError as error:
            missing.update(dict.fromkeys((one.name for one in alike), str(error)))
            return
        for design in alike:
            try:
                found[design.name] = await _site(design.name, url, broker, stack)
            except GreetError as error:
                missing[design.name] = str(error)

    async with AsyncExitStack() as stack:
        await asyncio.gather(*(enter(alike, stack) for alike in by_broker(map(named, designs))))
        yield found, missing


async def _broker(design: str, stack: AsyncExitStack) -> tuple[str, Broker | None]:
    """The URL of a broker of the product of `design`, and the broker if it is ours."""
    if named(design).in_process:
        return "", None
    if url := os.environ.get(VARIABLES[design]) or await by_default(design):
        return url, None
    broker = await stack.enter_async_context(PRIVATE[design]())
    return broker.url, broker


async def _site(design: str, url: str, broker: Broker | None, stack: AsyncExitStack) -> Site:
    record = named(design)
    if record.in_process:
        return Site(f"{record.scheme}:")
    found = Site(record.url(url), broker)
    if broker is None:
        stack.push_async_callback(remove, design, found.url, found.made)
    found.control = f"bench-ready-{secrets.token_hex(4)}"
    line = await stack.enter_async_context(greet.connect(found.url, found.control))
    found.made[found.control] = {"bench"}  # a broker that is not there has nothing to remove
    hearing = asyncio.create_task(found.listen(line))
    stack.push_async_callback(_end, hearing)
    await found.wait_ready([""])
    if found.lost:
        raise BrokerMissing(found.lost)
    with suppress(OSError):  # of a host among several that has no address
        found.elsewhere = not any(on_this_machine(host) for host, _ in line.address.hosts)
    return found


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
