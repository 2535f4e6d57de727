"""Where brokers are hurt, and the campaigns: a fault against all designs and guarantees at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import greet
from bench.faults.catalogue import FAULTS
from bench.faults.ground import repair
from bench.faults.proxy import Proxy, proxy
from bench.faults.stage import TROUBLE, Pool, Scene, Stage, Trial, Verdict
from bench.measure.loops import said
from bench.model import with_query
from greet import brokers
from greet.brokers import Broker
from greet.brokers.process import free_ports
from greet.designs import KAFKA, named

SOONER = {"broker.session.timeout.ms": "4000", "broker.heartbeat.interval.ms": "500"}
"""A single Kafka that was killed is let in again after 4 s, not 9: it has nobody to be a stranger to. One that is
stopped for less keeps what it leads, as by default."""


@dataclass(frozen=True)
class Campaign:
    """A fault, how often it is injected, and into what, all at once; `seed` decides when."""

    fault: str
    trials: tuple[Trial, ...]
    times: int = 1
    seed: int = 0
    pause_s: float = 3.0
    soak_s: float = 600.0
    options: tuple[tuple[str, str], ...] = ()
    """What is added to the query of a design's URL."""


@dataclass(frozen=True)
class Arena:
    """A private broker that may be hurt, and a proxy before it; neither for a design that lives in one process."""

    url: str = field(repr=False)
    broker: Broker | None = None
    proxy: Proxy | None = None

    def through(self) -> str:
        """The URL with the proxy in place of host and port."""
        if not self.proxy:
            return self.url
        scheme, _, rest = self.url.partition("://")
        login, at, where = rest.rpartition("@")
        _, slash, path = where.partition("/")
        return f"{scheme}://{login}{at}127.0.0.1:{self.proxy.port}{slash}{path}"


class Arenas:
    """The brokers and processes of many campaigns; each is started when it is first needed."""

    def __init__(self, pool: Pool, stack: AsyncExitStack, config: Mapping[str, str]) -> None:
        self._pool = pool
        self._stack = stack
        self._config = config
        self._open: dict[tuple[str, int], Arena] = {}

    async def at(self, design: str, nodes: int) -> Arena:
        """Where `design` is hurt, whole again if a trial left it hurt. Raises `BrokerMissing`, or `ConnectFailed`."""
        key = design, nodes
        if key not in self._open:
            self._open[key] = await self._start(design, nodes)
        arena = self._open[key]
        if arena.broker:
            await repair(arena.broker)
        return arena

    async def _start(self, design: str, nodes: int) -> Arena:
        record = named(design)
        product = record.product
        if product is None:
            return Arena(f"{record.scheme}:")
        if nodes > 1:
            own = {"config": self._config} if product is KAFKA else {}
            broker = await self._enter(brokers.private(product, nodes=nodes, **own))
            url = with_query(record.url(broker.url), record.quorum)
            async with greet.connect(url, "first") as line, line.subscribe("first"):
                pass  # the cluster makes its internal topics now, which may take longer than a fault's clients wait
            return Arena(url, broker)
        if product is not KAFKA:
            broker, port = await self._enter(brokers.private(product)), 0
            inner = broker.nodes[0].port
        else:  # its clients follow the address that the broker tells
            (port,) = free_ports(1)
            broker = await self._enter(brokers.kafka(config={**SOONER, **self._config}, proxy_port=port))
            inner = int(str(broker.proxied).rpartition(":")[2])
        between = await self._stack.enter_async_context(proxy("127.0.0.1", inner, listen=port))
        return Arena(record.url(broker.url), broker, between)

    async def _enter(self, start: AbstractAsyncContextManager[Broker]) -> Broker:
        return await self._stack.enter_async_context(start)

    async def fight(self, campaign: Campaign, folder: Path) -> dict[Trial, Verdict | str]:
        """Carry messages in all trials, inject the fault into all of them, let messages flow again, drain, and count.

        What could not be tried, or failed in a way that no fault explains, has a text that says why. The journals
        are in `folder`.
        """
        self._pool.prepare(3 * sum(not named(trial.design).in_process for trial in campaign.trials))
        found: dict[Trial, Verdict | str] = {}
        ready: list[tuple[list[Trial], Arena]] = []
        for name in dict.fromkeys(trial.design for trial in campaign.trials):
            trials = [trial for trial in campaign.trials if trial.design == name]
            try:  # one after the other, and all of them first: twelve servers that start would disturb who is timed
                ready.append((trials, await self.at(name, FAULTS[campaign.fault].nodes)))
            except (greet.GreetError, OSError) as error:
                found.update(dict.fromkeys(trials, f"no broker to be hurt: {error}"))

        async def hurt(trials: list[Trial], arena: Arena) -> None:
            try:
                found.update(await self._hurt(campaign, trials, arena, folder))
            except Exception as error:  # noqa: BLE001 - fought again, it would read the journals of the first time
                found.update(dict.fromkeys(trials, said(error)))

        async with asyncio.TaskGroup() as side_by_side:
            for trials, arena in ready:
                side_by_side.create_task(hurt(trials, arena))
        return found

    async def _hurt(
        self, campaign: Campaign, trials: Sequence[Trial], arena: Arena, folder: Path
    ) -> dict[Trial, Verdict | str]:
        """One design's part."""
        fault = FAULTS[campaign.fault]
        option = dict(campaign.options).get(trials[0].design, "")
        url = with_query(arena.through() if fault.routed else arena.url, f"{fault.query}&{option}")
        stages = [Stage(trial, fault, folder / str(trial), self._pool, url=url, around=arena.url) for trial in trials]
        chance = random.Random(f"{campaign.seed} {campaign.fault} {trials[0].design}")  # noqa: S311, repeatable
        scene = Scene(stages, self._pool, chance, arena.broker, arena.proxy, campaign.pause_s, campaign.soak_s)
        try:
            await scene.each(Stage.begin)
            try:
                for _ in range(campaign.times if scene.alive else 0):
                    await asyncio.sleep(scene.random.uniform(0, 0.3))  # somewhere in the middle of the work
                    await fault.inject(scene)
                    await scene.flowing()
            except TROUBLE as trouble:  # of the broker, which is nobody's own
                for stage in scene.alive:
                    stage.fail(trouble)
            await scene.each(Stage.drain)
            for stage in stages:
                await stage.dismiss("publisher", "member", "flood")
            return {stage.trial: stage.verdict() for stage in stages}
        finally:
            for stage in stages:
                await stage.close()


@asynccontextmanager
async def arenas(config: Mapping[str, str] | None = None) -> AsyncIterator[Arenas]:
    """Brokers to be hurt, and processes to carry messages; `config` is for Kafka's server.properties."""
    with Pool() as pool:
        async with AsyncExitStack() as stack:
            yield Arenas(pool, stack, config or {})
