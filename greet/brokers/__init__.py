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
from functools import partial
from importlib import import_module
from typing import Any

import greet
from greet import designs
from greet.brokers.kafka import kafka, kafka_tool
from greet.brokers.process import Broker, listens
from greet.brokers.rabbitmq import rabbitmq
from greet.designs import DESIGNS, Product
from greet.errors import BadURL, BrokerMissing, GreetError
from greet.tasks import on_interrupt

__all__ = ["PRIVATE", "VARIABLES", "Broker", "find", "kafka", "kafka_tool", "on_interrupt", "rabbitmq"]


def private(product: Product, **options: Any) -> AbstractAsyncContextManager[Broker]:
    """A private broker of `product`; `options` are those of the function that starts it, such as `nodes`."""
    module, _, function = product.start.partition(":")
    start: Callable[..., AbstractAsyncContextManager[Broker]] = getattr(import_module(module), function)
    return start(**options)


VARIABLES = {one.name: one.product.variable for one in DESIGNS if one.product}
"""The variable of the environment that names a broker of the design."""
PRIVATE: dict[str, Callable[[], AbstractAsyncContextManager[Broker]]] = {
    one.name: partial(private, one.product) for one in DESIGNS if one.product
}
"""The designs that need a broker, and what starts a private one."""


@asynccontextmanager
async def find(design: str, *, start: bool = True) -> AsyncIterator[str]:
    """The URL of `design` for a broker of its product; of one that needs no broker, its scheme.

    It is the first that there is of: the one that the environment names (`GREET_RABBITMQ_URL`,
    `GREET_KAFKA_URL`); one that serves on the default port of loopback, where docker-compose.yaml puts
    it; a private one, which is gone when the `async with` ends, unless `start` is false.

    Raises:
        BadURL: the URL in the environment is of another product.
        BrokerMissing: there is none and none can be started; says how to get one.
    """
    if design not in designs.names():
        raise BrokerMissing(f"there is no design {design!a}: use {', '.join(designs.names())}")
    record = designs.named(design)
    product = record.product
    if product is None:
        yield f"{record.scheme}:"
    elif url := os.environ.get(product.variable):
        if (other := designs.of_url(url)).product != product:
            raise BadURL(f"{product.variable} holds a URL of {other.name}, not of {design}: correct it")
        yield record.url(url)
    elif url := await by_default(design):
        yield url
    elif not start:
        raise BrokerMissing(
            f"no {product.title} was found: run `python -m greet.brokers`, then its exports in this terminal"
        )
    else:
        async with private(product) as broker:
            yield record.url(broker.url)


async def by_default(design: str) -> str | None:
    """The URL of `design` for a broker on the default port, if one lets us in there: an open port is not enough."""
    record = designs.named(design)
    if record.product is None:
        return None
    url = record.url(record.product.url)
    ((_, port),) = greet.connect(url).address.hosts
    if not await listens(port):
        return None
    try:
        async with greet.connect(f"{url}?timeout=3", topic="greet.ready"):
            return url
    except GreetError:
        return None
