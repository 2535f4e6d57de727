"""Real brokers: those that are here already, or private ones that are started for a while.

    async with greet.brokers.find("kafka") as url:
        async with greet.connect(url) as line: ...

    async with greet.brokers.rabbitmq(nodes=3) as broker:
        await broker.kill(2)
        await broker.restart(2)

A private broker listens on free ports of loopback only, keeps all its data in one temporary folder,
and is gone afterwards: after an exception, SIGINT, SIGTERM, and also after a SIGKILL of its owner.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import greet
from greet.brokers.kafka import kafka, kafka_tool
from greet.brokers.process import Broker, listens
from greet.brokers.rabbitmq import rabbitmq
from greet.errors import BrokerMissing, GreetError

__all__ = ["PRIVATE", "VARIABLES", "Broker", "find", "kafka", "kafka_tool", "rabbitmq"]

PRIVATE: dict[str, Callable[[], AbstractAsyncContextManager[Broker]]] = {"rabbitmq": rabbitmq, "kafka": kafka}
"""The designs that need a broker, and what starts a private one."""
VARIABLES = {"rabbitmq": "GREET_RABBITMQ_URL", "kafka": "GREET_KAFKA_URL"}
"""The variable of the environment that names a broker of the design."""
DEFAULTS = {
    "rabbitmq": (5672, "amqp://guest:guest@127.0.0.1:5672/"),
    "kafka": (9092, "kafka://127.0.0.1:9092"),
}


@asynccontextmanager
async def find(design: str, *, start: bool = True) -> AsyncIterator[str]:
    """The URL of a broker for `design`: "asyncio", "rabbitmq" or "kafka".

    It is the first that there is of: the one that the environment names (`GREET_RABBITMQ_URL`,
    `GREET_KAFKA_URL`); one that serves on the default port of loopback, where docker-compose.yaml puts
    it; a private one, which is gone when the `async with` ends, unless `start` is false.

    Raises:
        BrokerMissing: there is none and none can be started; says how to get one.
    """
    if design == "asyncio":
        yield "asyncio:"
    elif design not in PRIVATE:
        raise BrokerMissing(f"there is no design {design!a}: use asyncio, {', '.join(PRIVATE)}")
    elif url := os.environ.get(VARIABLES[design]) or await by_default(design):
        yield url
    elif not start:
        raise BrokerMissing(f"no {design} is here: run `python -m greet.brokers`, and its exports in this terminal")
    else:
        async with PRIVATE[design]() as broker:
            yield broker.url


async def by_default(design: str) -> str | None:
    """The URL of a broker of `design` on the default port, if one lets us in there: an open port is not enough."""
    port, url = DEFAULTS[design]
    if not await listens(port):
        return None
    try:
        async with greet.connect(f"{url}?timeout=3", topic="greet.ready"):
            return url
    except GreetError:
        return None
