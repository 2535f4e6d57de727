"""What `doctor` finds, and what it looks at on every broker; no contender."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from bench.contenders import access

TRIPS = 30
FAR_MS = 5.0
"""A round trip that takes longer is a part of every figure."""
WINDOW = 500
"""Messages that peers have unconfirmed."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and if it is a fault, what to do."""

    what: str
    found: str
    fix: str = ""


class Look(ABC):
    """A broker that is not ours, looked at; nothing of it is changed but a topic of our own."""

    @abstractmethod
    def at_broker(self) -> AsyncIterator[Finding]:
        """What it is."""

    @abstractmethod
    async def make(self, topic: str) -> None:
        """Make the topic as the look needs it, where that can be done; greet makes it otherwise."""

    @abstractmethod
    def at_topic(self, topic: str, group: str) -> AsyncIterator[Finding]:
        """What a topic of our own is like there, and a group that has read it."""


async def encryption(url: str) -> Finding:
    """How the connection to the first host that listens is encrypted."""
    address = access.address_of(url)
    context = access.tls(address)
    if context is None:
        return Finding("encryption", "none")
    host, port = await access.listening(address)
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    cipher, version, _ = writer.get_extra_info("cipher")
    writer.close()
    return Finding("encryption", f"{version}, {cipher}; the certificate is verified")


async def round_trip(ask: Callable[[], Awaitable[object]]) -> Finding:
    """How long the broker takes to answer, one question at a time."""
    taken = []
    for _ in range(TRIPS):
        began = perf_counter()
        await ask()
        taken.append((perf_counter() - began) * 1000)
    return of_trips(taken)


def of_trips(taken: Sequence[float]) -> Finding:
    """What round trips of so many milliseconds mean."""
    typical = median(taken)
    fix = ""
    if typical > FAR_MS:
        most = WINDOW / typical * 1000
        fix = (
            f"{WINDOW} unconfirmed messages are {most:,.0f} a second at most, however fast the broker is: "
            "measure from machines beside it, by `run --workers`"
        )
    return Finding("round trip", f"{typical:.2g} ms, the best {min(taken):.2g} ms, of {len(taken)}", fix)


async def unreached(places: Iterable[tuple[str, int]]) -> list[str]:
    """Those that nobody answers at."""
    there = list(places)
    answers = await asyncio.gather(*(access.listens(host, port) for host, port in there))
    return [f"{host}:{port}" for (host, port), answered in zip(there, answers, strict=True) if not answered]


def duration(milliseconds: float) -> str:
    """As people say it: "7 days", "90 s", "for ever"."""
    if math.isinf(milliseconds):
        return "for ever"
    for unit, each in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if milliseconds >= 2 * each:
            return f"{milliseconds / each:.3g} {unit}"
    return f"{milliseconds / 1000:.3g} s"
