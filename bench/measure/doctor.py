"""What can be had here, what a broker of one's own is like, and what would spoil the figures; with the fix for each.

A broker of one's own is looked at by a topic of ours, which is deleted; nothing else of it is changed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from time import perf_counter_ns

import numpy as np
import psutil

import greet
from bench import contenders
from bench.contenders import access, kafka_look, rabbitmq_look
from bench.contenders.cleanup import removed
from bench.contenders.kafka_peers import compiled
from bench.contenders.look import Finding, Look
from bench.measure.run import session
from bench.measure.sites import Site
from bench.measure.surroundings import BUSY, surroundings
from bench.model import DESIGNS, Settings
from greet import ConnectFailed, GreetError
from greet.brokers import VARIABLES
from greet.designs import KAFKA, RABBITMQ, Product, named, of_url

JITTER_MS = 5.0
GROUP = "hello"
TRIAL_S = 60.0
LOOKS: Mapping[Product | None, Callable[[str], AbstractAsyncContextManager[Look]]] = {
    RABBITMQ: rabbitmq_look.look,
    KAFKA: kafka_look.look,
}


async def examine() -> AsyncIterator[Finding]:
    """Look at the machine, the clock, the clients, start every broker once, and look at those that are yours."""
    about = surroundings()
    machine = about["machine"]
    cores = machine["usable"]
    yield Finding("machine", f"{machine['cpu']}, {machine['os']}, {machine['memory_gb']} GB")
    yield Finding("cores", str(cores), "" if cores > 1 else "two or more, so that broker and clients do not take turns")
    free = psutil.virtual_memory().available / 1e9
    yield Finding("free memory", f"{free:.1f} GB", "" if free > 2 else "end other programs: Kafka alone takes 1 GB")
    busy = machine["busy"] / cores
    disturbed = "" if busy < BUSY else "end other programs, or only trust ratios"
    yield Finding("in use", f"{busy:.0%} of the cores", disturbed)
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
    yield Finding("aiokafka in C", *(("loaded",) if compiled() else ("missing: 13 times slower", wheel)))
    yours: dict[Product | None, str] = {}
    async with session(Settings(DESIGNS, ())) as opened:
        shared = await opened.clock_is_shared()
        yield Finding(
            "clock of workers", "the same" if shared else "differs", "" if shared else "no latency can be had"
        )
        for design, site in opened.sites.items():
            if named(design).in_process:
                continue
            yield Finding(design, _whose(design, site))
            if site.broker is None:
                yours.setdefault(named(design).product, site.url)
        for design, what in opened.missing.items():
            yield Finding(design, "missing", what)
    for url in yours.values():
        try:
            async for finding in examine_broker(url):
                yield finding
        except GreetError as error:
            yield Finding("broker", "gone", str(error))


async def examine_broker(url: str) -> AsyncIterator[Finding]:
    """Look at the broker of `url`.

    Raises:
        ValueError: it is no URL of greet's, or of a design without a broker.
        ConnectFailed: nobody can be asked.
    """
    design = of_url(url)
    if design.in_process:
        raise ValueError(f"{design.name} has no broker to look at: give a URL of RabbitMQ or Kafka")
    topic = f"bench-doctor-{secrets.token_hex(4)}"
    line = greet.connect(url, topic)
    yield Finding("broker", str(line.address))
    reached = False
    try:
        async with LOOKS[design.product](url) as look:
            reached = True
            async for finding in look.at_broker():
                yield finding
            try:
                await look.make(topic)
                can, why = await _tried(line)
                if not why and "{topic}:{group}" in design.made:
                    async for finding in look.at_topic(topic, GROUP):
                        yield finding
            finally:
                unable = await _deleted(design.name, url, topic)
    except GreetError:
        raise
    except Exception as error:  # of whatever a driver raises
        if not reached:
            async with line:  # greet has the words for it
                pass
        kind = type(error).__name__
        raise ConnectFailed(f"{line.address} broke off ({kind}) before all was seen: look into its log") from error
    if can and not unable:
        can.append("delete")
    yield Finding("rights", ", ".join(can) or "none", "; ".join(filter(None, [why, unable if can else ""])))


async def _tried(line: greet.Line) -> tuple[list[str], str]:
    """What may be done, and why no more."""
    can: list[str] = []
    try:
        async with asyncio.timeout(TRIAL_S), line, line.subscribe(GROUP) as names:
            can.append("create")
            await line.publish("doctor")
            can.append("publish")
            await anext(names)
            can.append("read")
    except (GreetError, TimeoutError) as error:
        return can, str(error) or f"no more within {TRIAL_S:.0f} s: look into the broker's log"
    return can, ""


async def _deleted(design: str, url: str, topic: str) -> str:
    """Why our topic is still there; empty if it is gone."""
    try:
        await removed(design, url, {topic: {GROUP}})
    except Exception as error:  # noqa: BLE001, of whatever a driver raises
        return f"{topic} is left ({type(error).__name__}): grant DELETE, or delete by hand what runs leave"
    return ""


def _whose(design: str, site: Site) -> str:
    where = ", ".join(access.servers(access.address_of(site.url)))
    if site.broker:
        return f"private, {site.broker.version}, at {where}"
    by = f"by {VARIABLES[design]}" if os.environ.get(VARIABLES[design]) else "on the default port"
    return f"yours, {by}, at {where}"


def _jitter_ms() -> float:
    """The longest that a loop which does nothing but look at the clock stood still, of 300 ms."""
    stamps = [start := perf_counter_ns()]
    while stamps[-1] - start < 300_000_000:
        stamps.append(perf_counter_ns())
    return float(np.diff(stamps).max() / 1e6)
