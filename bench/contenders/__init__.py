"""Who is measured: greet's designs and their peers, behind one small interface.

A contender is data that can be sent to another process. It opens a `Publisher` and a consumer. A
consumer is an async iterator of names, or for `way="many"` of lists of names, which settles what
it gave when the next is asked for or its `async with` ends.

To add one: a file here with a subclass of `Contender` and a list `CONTENDERS` of its instances, and
its name in `MODULES`.
"""

from __future__ import annotations

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import greet
from greet import GreetError, Guarantee
from greet.brokers import VARIABLES

if TYPE_CHECKING:
    from bench.run import Cell, Figures, Session

MODULES = ("greets", "asyncio_peers", "rabbitmq_peers", "kafka_peers", "java")
DESIGNS = ("asyncio", "rabbitmq", "kafka")
OF_NO_WEIGHT = {"timeout", "cleartext", "heartbeat", "partitions"}
"""Keys of a URL's query that peers need not know: for the last, a cell says how many."""


@dataclass(frozen=True)
class Place:
    """Where and how the names travel; `url` may hold a password and is not shown."""

    url: str = field(repr=False)
    topic: str
    guarantee: Guarantee
    partitions: int = 1
    window: int = 1
    """How many names a publisher that sends them one by one has unconfirmed at a time."""
    options: tuple[tuple[str, str], ...] = ()
    """What the question adds to greet's URL, such as ("queue_type", "quorum"), or asks of a peer."""

    @property
    def address(self) -> str:
        """The URL without greet's query."""
        return self.url.partition("?")[0]

    @property
    def servers(self) -> str:
        """The "host:port,host:port" of the URL, and nothing of a user or password."""
        return self.url.rpartition("@")[2].rpartition("://")[2].partition("?")[0].partition("/")[0]

    def wrap(self, name: str) -> bytes:
        """The body of a message: the name, or as the option "body" says, JSON that holds it."""
        return (json.dumps({"name": name}) if ("body", "json") in self.options else name).encode()

    def unwrap(self, body: bytes) -> str:
        """The name in a body."""
        return str(json.loads(body)["name"]) if ("body", "json") in self.options else body.decode()

    @property
    def headers(self) -> dict[str, Any]:
        """As many as the option "headers" says, of 16 bytes each."""
        return {f"header-{k}": "sixteen bytes.." for k in range(int(dict(self.options).get("headers", "0")))}


class Publisher:
    """One publisher; after `publish_all`, also a failed one, `accepted` tells how far each lane came."""

    def __init__(self, publish: Callable[[str], Awaitable[object]], window: int = 1) -> None:
        self.publish = publish
        """Return once the name is accepted."""
        self.window = window
        self.accepted: list[int] = []

    async def publish_all(self, names: Iterable[str]) -> None:
        """Have at most `window` names unconfirmed: as many tasks, each with every `window`-th name."""
        self.accepted = [0] * self.window
        shares = [names]
        if self.window > 1:
            known = list(names)
            shares = [known[lane :: self.window] for lane in range(self.window)]
        async with asyncio.TaskGroup() as lanes:
            for lane, share in enumerate(shares):
                lanes.create_task(self._lane(lane, share))

    async def _lane(self, lane: int, names: Iterable[str]) -> None:
        publish, done = self.publish, 0
        try:
            for name in names:
                await publish(name)
                done += 1
        finally:
            self.accepted[lane] = done


class Following:
    """An async iterator out of a function that waits for the next: no call of ours between."""

    def __init__(self, following: Callable[[], Awaitable[Any]]) -> None:
        self.__anext__ = following


@dataclass(frozen=True)
class Contender(ABC):
    """One way to carry names."""

    design: str
    way: Literal["name", "many"]
    guess: int
    """Names a second that the first warm-up counts on; what it measures takes its place."""
    defaults: str
    """The settings that decide the figure, stated beside it."""
    window: int = 1
    """Names unconfirmed at a time, where they are published one by one."""
    name: str = "greet"
    guarantees: tuple[Guarantee, ...] = tuple(Guarantee)
    needs: str = ""
    """The module of a peer, which is an extra."""
    survives: str = ""
    """What a name survives, where the guarantee does not say it."""

    async def measure(self, session: Session, cell: Cell, names: int) -> list[Figures]:
        """One repetition of `cell`; a contender that is a program of its own has its own way."""
        return await session.deliver(cell, names)

    @property
    def label(self) -> str:
        """Its name in tables and pictures: "greet, many"."""
        return f"{self.name}, many" if self.way == "many" else self.name

    @abstractmethod
    def publisher(self, place: Place) -> AbstractAsyncContextManager[Publisher]:
        """Connect a publisher."""

    @abstractmethod
    def consumer(self, place: Place, group: str) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Join `group`: once entered, every name published from then on reaches it."""


def every() -> list[Contender]:
    """All contenders whose libraries are installed and who can use the broker that is named, greet's first."""
    installed = [one for one in _known() if not one.needs or find_spec(one.needs)]
    return [one for one in installed if one.name == "greet" or not _only_greet(one.design)]


def missing() -> dict[str, str]:
    """The peers that `every` leaves out, and how to have them."""
    lacking = {one.name for one in _known() if one.needs and not find_spec(one.needs)}
    found = dict.fromkeys(sorted(lacking), "pip install 'greet[peers]'")
    for design, variable in VARIABLES.items():
        if what := _only_greet(design):
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
    if design == "kafka" and address.user:
        return "a login"
    if design == "rabbitmq" and len(address.hosts) > 1:
        return "several hosts"
    return ", ".join(sorted(set(address.options) - OF_NO_WEIGHT))


def _known() -> list[Contender]:
    found: list[Contender] = []
    for name in MODULES:
        found += import_module(f"bench.contenders.{name}").CONTENDERS
    return found
