"""Who is measured: greet's designs and their peers, behind one small interface.

A contender is data that can be sent to another process. It opens a `Publisher` and a consumer. A
consumer is an async iterator of messages, or for `way="many"` of lists of messages, which acknowledges what
it gave when the next is asked for or its `async with` ends.

To add one: a file here with a subclass of `Contender` and a list `CONTENDERS` of its instances, and
its name in `MODULES`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from bench.contenders import access
from bench.model import JAVA, PERFTEST, Contender
from greet import GreetError
from greet.brokers import VARIABLES

MODULES = ("greets", "asyncio_peers", "rabbitmq_peers", "kafka_peers", "confluent_peers", "java", "perftest")
UNABLE = {JAVA: access.no_java, PERFTEST: access.no_perftest}
"""Peers that cannot be used with every URL, and what says why."""


def every() -> list[Contender]:
    """All contenders whose libraries are installed and who can use the broker that is named, greet's first."""
    return [one for one in _known() if (not one.needs or find_spec(one.needs)) and not _unable(one)]


def missing() -> dict[str, str]:
    """The peers that `every` leaves out, and how to have them."""
    lacking = {one.name for one in _known() if one.needs and not find_spec(one.needs)}
    unable = {one.name: why for one in _known() if (why := _unable(one))}
    return dict.fromkeys(sorted(lacking), "pip install -e '.[peers]'") | unable


def _unable(one: Contender) -> str:
    """Why a peer cannot use the broker that the environment names; empty if it can.

    A URL that greet refuses leaves nobody out: who connects to it is told why.
    """
    url = os.environ.get(VARIABLES.get(one.design, ""))
    if url and one.name in UNABLE:
        with suppress(GreetError):
            return UNABLE[one.name](access.address_of(url))
    return ""


def _known() -> list[Contender]:
    found: list[Contender] = []
    for name in MODULES:
        found += import_module(f"bench.contenders.{name}").CONTENDERS
    return found
