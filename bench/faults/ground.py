"""Where a workload is measured, and what breaks there: the broker, a reader, or the network between."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import psutil

import greet
from bench.contenders.cleanup import remove
from bench.faults.proxy import Proxy, proxy
from bench.measure.carry import Crew
from bench.measure.sites import by_broker, used
from bench.measure.workload import Workload
from bench.model import Used
from greet import GreetError
from greet.brokers import PRIVATE, VARIABLES, Broker, by_default, kafka
from greet.brokers.process import free_ports
from greet.designs import KAFKA, Design


async def repair(broker: Broker) -> None:
    """Start again, or let go on, what a failed trial left dead or stopped. Raises `ConnectFailed`."""
    for number, node in enumerate(broker.nodes, start=1):
        try:
            node.real().resume()
        except (GreetError, psutil.Error):
            await broker.restart(number)


@dataclass(frozen=True)
class Ground:
    """Where a design is measured: a broker, ours or not; none for a design that lives in one process."""

    design: Design
    url: str = field(repr=False)
    broker: Broker | None = None
    """None where it is not ours: it is not killed then, and what it costs is not known."""
    proxy: Proxy | None = None
    made: dict[str, set[str]] = field(default_factory=dict)
    """The groups of each topic that was made: where the broker stays, they are removed in the end."""

    def used(self) -> Used:
        """CPU seconds and MB of the broker so far."""
        return used(self.broker)

    def not_broken(self, what: str) -> str:
        """Why `what` is not broken here; empty if it can be."""
        if what == "consumer" or not what:
            return ""
        if self.design.in_process:
            return f"it lives in one process, so there is no {what} to break"
        if what == "broker" and self.broker is None:
            return f"this broker is not ours to kill: {self._make_way()}, and a private one is started"
        if what == "network" and self.proxy is None:
            return f"no proxy can stand before this broker: {self._make_way()}, and a private one is started"
        return ""

    def _make_way(self) -> str:
        """What to do so that a broker of ours is used."""
        product = self.design.product
        if product and product.variable in os.environ:
            return "unset its variable"
        return "stop the one on its default port"

    @property
    def through(self) -> str:
        """The URL with the proxy in place of host and port."""
        if self.proxy is None:
            return self.url
        scheme, _, rest = self.url.partition("://")
        login, at, where = rest.rpartition("@")
        _, slash, path = where.partition("/")
        return f"{scheme}://{login}{at}127.0.0.1:{self.proxy.port}{slash}{path}"

    async def broken(self, what: str, workload: Workload, crew: Crew) -> None:
        """Break it, and mend it at once, the network after a while: SIGKILL of a broker and a start on its data,
        SIGKILL of a reader, whose place another takes, or a reset of all connections."""
        if what == "consumer":
            await crew.replace_reader()
        elif what == "broker" and self.broker:
            await self.broker.kill()
            await self.broker.restart()
        elif self.proxy:
            self.proxy.hold()
            try:
                self.proxy.drop()
                await asyncio.sleep(workload.break_for)
            finally:
                self.proxy.release()


@asynccontextmanager
async def grounds(
    designs: Iterable[Design], *, network: bool
) -> AsyncIterator[tuple[dict[str, Ground], dict[str, str]]]:
    """Where each design is, started side by side, and for each that cannot be had what to do.

    With `network` a proxy stands before each broker whose clients can be led through it.
    """
    found: dict[str, Ground] = {}
    missing: dict[str, str] = {}

    async def enter(alike: Sequence[Design], stack: AsyncExitStack) -> None:
        try:
            ground = await _ground(alike[0], stack, network=network)
        except GreetError as error:
            missing.update(dict.fromkeys((one.name for one in alike), str(error)))
            return
        for design in alike:
            url = design.url(ground.url)
            try:
                greet.connect(url)  # it has what it needs
                here = found[design.name] = replace(ground, design=design, url=url, made={})
                if not design.in_process and ground.broker is None:
                    stack.push_async_callback(remove, design.name, url, here.made)
            except GreetError as error:
                missing[design.name] = str(error)

    async with AsyncExitStack() as stack:
        await asyncio.gather(*(enter(alike, stack) for alike in by_broker(designs)))
        yield {one.name: found[one.name] for one in designs if one.name in found}, missing


async def _ground(design: Design, stack: AsyncExitStack, *, network: bool) -> Ground:
    if design.in_process:
        return Ground(design, f"{design.scheme}:")
    led = design.product is KAFKA  # its clients follow the address that the broker tells
    if url := os.environ.get(VARIABLES[design.name]) or await by_default(design.name):
        async with greet.connect(url, f"bench-{secrets.token_hex(4)}") as line:
            here = line.address
        between = None
        if network and not led and len(here.hosts) == 1 and not here.tls:
            host, port = here.hosts[0]
            between = await stack.enter_async_context(proxy(host, port))
        return Ground(design, url, None, between)
    if network and led:
        (port,) = free_ports(1)
        broker = await stack.enter_async_context(kafka(proxy_port=port))
        inner = int(str(broker.proxied).rpartition(":")[2])
        between = await stack.enter_async_context(proxy("127.0.0.1", inner, listen=port))
        return Ground(design, broker.url, broker, between)
    broker = await stack.enter_async_context(PRIVATE[design.name]())
    between = await stack.enter_async_context(proxy("127.0.0.1", broker.nodes[0].port)) if network else None
    return Ground(design, broker.url, broker, between)
