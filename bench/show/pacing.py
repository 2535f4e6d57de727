"""Names at a steady rate, measured in a notebook by the bench's own processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench import contenders
from bench.measure.run import OpenSession, session
from bench.model import Cell, Contender, Figures, Settings
from greet import Guarantee
from greet.brokers import Broker


@dataclass(frozen=True)
class Paced:
    """What became of names that were due at a steady rate."""

    design: str
    rate: float
    figures: Figures

    @property
    def received(self) -> int:
        """How many names arrived."""
        return int(self.figures.fields["received"])

    @property
    def lost(self) -> int:
        """How many did not."""
        return int(self.figures.fields["lost"])

    @property
    def p50_ms(self) -> float:
        """The median, from when a name was due."""
        return float(self.figures.fields["latency_ms"]["p50"])

    @property
    def longest_ms(self) -> float:
        """The longest, from when a name was due."""
        return float(self._clock("intended")["max"])

    @property
    def row(self) -> pd.DataFrame:
        """A row for `plots.distribution`."""
        about = {"design": self.design, "contender": "greet", "params.load": None, "target_rate": self.rate}
        return pd.DataFrame([about | dict(self.figures.details)])

    def slower(self, ms: float, clock: str) -> int:
        """How many names took at least so long on a clock: "intended" or "service"."""
        of = self._clock(clock)
        share: float = max((share for share, took in of["tail"] if took >= ms), default=0.0)
        return round(share * int(of["samples"]))

    def _clock(self, clock: str) -> Any:
        return self.figures.details["latencies"][clock]


class Pacing:
    """Brokers up, and workers at hand."""

    def __init__(self, measuring: OpenSession, clients: dict[str, Contender]) -> None:
        self._measuring = measuring
        self._clients = clients

    @staticmethod
    @asynccontextmanager
    async def over(*designs: str) -> AsyncIterator[Pacing]:
        """For these designs."""
        clients = {one.design: one for one in contenders.every() if (one.name, one.way) == ("greet", "name")}
        async with session(Settings(designs, tuple(clients.values()))) as measuring:
            yield Pacing(measuring, clients)

    async def of(self, design: str, rate: float, names: int, *, window: int | None = None) -> Paced:
        """Carry so many names at so many a second at AT_LEAST_ONCE; `window` of them are under way at a time.

        Raises:
            RuntimeError: it failed.
        """
        cell = Cell(self._clients[design], Guarantee.AT_LEAST_ONCE, rate=float(rate), window=window)
        (figures,) = await self._measuring.deliver(cell, names)
        if figures.fields["error"]:
            raise RuntimeError(figures.fields["error"])
        return Paced(design, float(rate), figures)


async def stop(broker: Broker, *, after_s: float, for_s: float) -> None:
    """Stop a private broker after some seconds, for some seconds; then it goes on."""
    await asyncio.sleep(after_s)
    await broker.hang(for_s)
