"""What can be had here, and what would spoil the figures; with the fix for each fault."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
import psutil

from bench import contenders
from bench.contenders.kafka_peers import advertised, compiled
from bench.measure.run import session
from bench.measure.sites import Site
from bench.measure.surroundings import surroundings
from bench.model import DESIGNS, Settings
from greet.brokers import VARIABLES
from greet.designs import named

BUSY = 0.3
JITTER_MS = 5.0


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and if it is a fault, what to do."""

    what: str
    found: str
    fix: str = ""


async def examine() -> AsyncIterator[Finding]:
    """Look at the machine, the clock, the clients, and start every broker once."""
    about = surroundings()
    machine = about["machine"]
    cores = machine["usable"]
    yield Finding("machine", f"{machine['cpu']}, {machine['os']}, {machine['memory_gb']} GB")
    yield Finding("cores", str(cores), "" if cores > 1 else "two or more, so that broker and clients do not take turns")
    free = psutil.virtual_memory().available / 1e9
    yield Finding("free memory", f"{free:.1f} GB", "" if free > 2 else "end other programs: Kafka alone takes 1 GB")
    load = machine["load_average"][0] / cores
    yield Finding("load", f"{load:.0%} of the cores", "" if load < BUSY else "end other programs, or only trust ratios")
    late = _jitter_ms()
    yield Finding(
        "noise", f"a busy loop stood still for {late:.1f} ms", "" if late < JITTER_MS else "end other programs"
    )
    clock = about["clock"]
    yield Finding("clock", f"{clock['name']}, {clock['resolution_s'] * 1e9:g} ns")
    for name, version in about["clients"].items():
        yield Finding(name, version)
    for name, command in contenders.missing().items():
        yield Finding(name, "missing", command)
    wheel = "pip install --force-reinstall aiokafka, as a wheel for this platform"
    yield Finding("aiokafka's C extensions", *(("loaded",) if compiled() else ("missing: 13 times slower", wheel)))
    async with session(Settings(DESIGNS, ())) as opened:
        shared = await opened.clock_is_shared()
        yield Finding(
            "clock of workers", "the same" if shared else "differs", "" if shared else "no latency can be had"
        )
        for design, site in opened.sites.items():
            if named(design).in_process:
                continue
            where = await advertised(site.url)
            reached = await _open(where)
            yield Finding(design, f"{_whose(design, site)}, at {where}", "" if reached else _LISTEN)
        for design, what in opened.missing.items():
            yield Finding(design, "missing", what)


_LISTEN = "it says to connect to that address, which does not answer: set advertised.listeners"


def _whose(design: str, site: Site) -> str:
    if site.broker:
        return f"private, {site.broker.version}"
    return f"yours, by {VARIABLES[design]}" if os.environ.get(VARIABLES[design]) else "yours, on the default port"


async def _open(where: str) -> bool:
    host, _, port = where.rpartition(":")
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _jitter_ms() -> float:
    """The longest that a loop which does nothing but look at the clock stood still, of 300 ms."""
    stamps = [start := perf_counter_ns()]
    while stamps[-1] - start < 300_000_000:
        stamps.append(perf_counter_ns())
    return float(np.diff(stamps).max() / 1e6)
