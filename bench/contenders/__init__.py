"""Who is measured: greet's designs and their peers, behind one small interface.

A contender is data that can be sent to another process. It opens a `Publisher` and a consumer. A
consumer is an async iterator of messages, or for `way="many"` of lists of messages, which acknowledges what
it gave when the next is asked for or its `async with` ends.

To add one: a file here with a subclass of `Contender` and a list `CONTENDERS` of its instances, and
its name in `MODULES`.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec

import greet
from bench.model import Contender
from greet import GreetError
from greet.brokers import VARIABLES
from greet.designs import KAFKA, RABBITMQ, named

MODULES = ("greets", "asyncio_peers", "rabbitmq_peers", "kafka_peers", "confluent_peers", "java", "perftest")
OF_NO_WEIGHT = {"timeout", "cleartext", "heartbeat", "partitions"}
"""Keys of a URL's query that peers need not know: for the last, a cell says how many."""


def every() -> list[Contender]:
    """All contenders whose libraries are installed and who can use the broker that is named, greet's first."""
    installed = [one for one in _known() if not one.needs or find_spec(one.needs)]
    return [one for one in installed if one.name == "greet" or not _only_greet(one.design)]


def missing() -> dict[str, str]:
    """The peers that `every` leaves out, and how to have them."""
    lacking = {one.name for one in _known() if one.needs and not find_spec(one.needs)}
    found = dict.fromkeys(sorted(lacking), "pip install 'greet[peers]'")
    with_peers = {one.design for one in _known() if one.name != "greet"}
    for design, variable in VARIABLES.items():
        if design in with_peers and (what := _only_greet(design)):
            found[f"peers of {design}"] = f"name a broker in {variable} without {what}"
    return found


def _only_greet(design: str) -> str:
    """What the URL in the environment says and only greet is told; empty if a peer can do the same work there.

    A URL that greet refuses leaves nobody out: who connects to it is told why.
    """
    try:
        address = greet.connect(os.environ.get(VARIABLES.get(design, "")) or "asyncio:").address
    except GreetError:
        return ""
    if address.tls:
        return "TLS"
    product = named(design).product
    if product is KAFKA and address.user:
        return "a login"
    if product is RABBITMQ and len(address.hosts) > 1:
        return "several hosts"
    return ", ".join(sorted(set(address.options) - OF_NO_WEIGHT))


def _known() -> list[Contender]:
    found: list[Contender] = []
    for name in MODULES:
        found += import_module(f"bench.contenders.{name}").CONTENDERS
    return found
