"""The data that every room of the bench shares: who is measured, of what, how, and what came of it.

Nothing here measures, judges or shows.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from greet import Guarantee, designs

DESIGNS = designs.names()
USUAL = tuple(one.name for one in designs.DESIGNS if one.usual)
"""The designs of a first look, and of questions that are asked of all only where designs are named."""
LINES = sorted({one.line.partition(":")[0] for one in designs.DESIGNS})
"""The modules of all designs, to load before processes are forked; one whose driver is not there is passed over."""
ROUNDS = 5
"""The usual number of repetitions."""
LOOP = "asyncio"
"""The event loop that is taken where no other is asked for."""
JAVA, PERFTEST = "Java's own", "PerfTest"
BARE = "without this instrument: not counted"
"""Contenders and a rung of the ladder of which it is known how many messages came, and not which."""

T = TypeVar("T")

Used = tuple[float | None, float | None]
"""A broker's CPU seconds so far and its resident memory in MB; None if it is not ours or gone."""


def rank(design: str) -> int:
    """The place of a design in the table; one that this kit does not know, from another's results, comes last."""
    return DESIGNS.index(design) if design in DESIGNS else len(DESIGNS)


def title_of(design: str) -> str:
    """What a design is called where people read it."""
    return designs.named(design).title if design in DESIGNS else design


def more(before: float | None, after: float | None) -> float | None:
    """What was added between two looks at a broker; None where nobody looked."""
    return None if before is None or after is None else after - before


def with_query(url: str, query: str) -> str:
    """`url` with the keys of `query`, in place of those that it had: each key stands once."""
    where, _, before = url.partition("?")
    pairs = dict(one.partition("=")[::2] for one in [*before.split("&"), *query.split("&")] if one)
    return f"{where}?{'&'.join(f'{key}={value}' for key, value in pairs.items())}" if pairs else url


@dataclass(frozen=True)
class Place:
    """Where and how the messages travel; `url` may hold a password and is not shown."""

    url: str = field(repr=False)
    topic: str
    guarantee: Guarantee
    partitions: int = 1
    window: int = 1
    """How many messages a publisher that sends them one by one has unconfirmed at a time."""
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
        """Have at most `window` messages unconfirmed: as many tasks, each with every `window`-th message."""
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
    """An async iterator out of a function that waits for the next: no call of ours between, unless by `async for`."""

    def __init__(self, following: Callable[[], Awaitable[Any]]) -> None:
        self.__anext__ = following

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            yield await self.__anext__()


@dataclass(frozen=True)
class Contender(ABC):
    """One way to carry messages."""

    design: str
    way: Literal["name", "many"]
    guess: int
    """Messages a second that the first warm-up counts on; what it measures takes its place."""
    defaults: str
    """The settings that decide the figure, stated beside it."""
    window: int = 1
    """Names unconfirmed at a time, where they are published one by one."""
    name: str = "greet"
    guarantees: tuple[Guarantee, ...] = tuple(Guarantee)
    needs: str = ""
    """The module of a peer, which is an extra."""
    survives: str = ""
    """What a message survives, where the guarantee does not say it."""
    only_full: bool = False
    """Whether the quick profile leaves it out."""

    async def measure(self, session: Session, cell: Cell, names: int) -> list[Figures]:
        """One repetition of `cell`; a contender that is a program of its own has its own way."""
        return await session.deliver(cell, names)

    def names(self, size: int) -> int | None:  # noqa: ARG002, for those who say so
        """How many messages of `size` bytes a repetition has, where it is not for the seconds of the run to say."""
        return None

    def paced(self) -> Contender:
        """The same, set for messages that come now and then, where that makes a difference."""
        return self

    @property
    def label(self) -> str:
        """Its name in tables and pictures: "greet, many"."""
        return f"{self.name}, many" if self.way == "many" else self.name

    @abstractmethod
    def publisher(self, place: Place) -> AbstractAsyncContextManager[Publisher]:
        """Connect a publisher."""

    @abstractmethod
    def consumer(self, place: Place, group: str) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Join `group`: once entered, every message published from then on reaches it."""


@dataclass(frozen=True)
class Cell:
    """One point of a question, measured once a round."""

    contender: Contender
    guarantee: Guarantee
    size: int = 18
    """Bytes of a message."""
    publishers: int = 1
    groups: int = 1
    members: int = 1
    """Consumers that share each group."""
    partitions: int = 1
    """Of the topic; only Kafka has them."""
    phase: str = "together"
    """"together", or "apart": publish with nobody reading, then read. That makes two rows, "publish" and
    "consume"; where one of those is the phase, that row alone is kept."""
    supply: Contender | None = None
    """Who publishes what is then read, where only that is timed; left out, the contender itself."""
    load: float | None = None
    """The share of the measured maximum at which messages are due; None is the closed loop."""
    rate: float | None = None
    """Messages a second that are due, where it is no share of the maximum."""
    window: int | None = None
    """Names unconfirmed at a time, published one by one; left out, the contender's."""
    rung: str = ""
    """What a step of a ladder is called."""
    again: bool = False
    """The same once more, for the noise floor (A/A)."""
    lean: bool = False
    """Publish from a generator and keep no message, for more of them than should be in memory, and watch the memory."""
    fresh: bool = False
    """In new worker processes: memory that others have freed would hide what this one takes."""
    names: int | None = None
    """How many; left out, what the warm-up says that fit in the run's seconds."""
    seconds: float | None = None
    """How long a repetition is to take; left out, what the run says."""
    loop: str | None = None
    """The event loop; left out, what the run says. The publishers of an open loop always have asyncio's on select."""
    options: tuple[tuple[str, str], ...] = ()
    """What is added to the query of greet's URL, or asked of a peer."""
    rounds: int | None = None
    """How many repetitions; left out, as many as the run says."""
    measure: Callable[[Session, Cell, int], Awaitable[list[Figures]]] | None = None
    """Where a question measures in its own way, without a warm-up: the session, the cell, its messages or 0."""

    @property
    def params(self) -> dict[str, Any]:
        """What tells this cell from others of its contender and guarantee: `params` of its rows."""
        kept = (
            "size",
            "publishers",
            "groups",
            "members",
            "partitions",
            "phase",
            "load",
            "rate",
            "rung",
            "again",
        )
        supply = self.supply and f"{self.supply.name}, {self.supply.way}"
        found = {"way": self.contender.way, "window": self.window or self.contender.window, "supply": supply}
        return found | {key: getattr(self, key) for key in kept} | dict(self.options)


@dataclass(frozen=True)
class Figures:
    """What one repetition gave: fields of its `Measurement`, `params` to add, and details for their own file."""

    fields: Mapping[str, Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    designs: tuple[str, ...]
    contenders: tuple[Contender, ...]
    profile: str = "quick"
    guarantee: Guarantee | None = None
    """None is what each question thinks best."""
    seconds: float = 0.6
    rounds: int = ROUNDS
    loop: str = LOOP
    seed: int = 0

    @property
    def full(self) -> bool:
        """Whether there is time for all of it."""
        return self.profile == "full"

    def of(self, **wanted: str) -> list[Contender]:
        """The contenders with these properties, such as `of(way="many")`."""
        return [
            one
            for one in self.contenders
            if one.design in self.designs
            and (self.full or not one.only_full)
            and all(getattr(one, key) == value for key, value in wanted.items())
        ]

    def includes(self, peer: Contender) -> bool:
        """Whether peers are measured, and the module that this one needs is there."""
        return peer.needs in {one.needs for one in self.of()}

    def at_most(self, rounds: int) -> int:
        """The usual number of repetitions, but no more than `rounds`; or the number that was asked for instead."""
        return min(rounds, self.rounds) if self.rounds <= ROUNDS else self.rounds

    def rounds_of(self, cell: Cell) -> int:
        """How many repetitions `cell` has."""
        return cell.rounds or self.rounds

    def guarantees(self, contender: Contender, *usual: Guarantee) -> list[Guarantee]:
        """Those to measure `contender` with: the one that was asked for or else `usual`, as far as it has them."""
        return [one for one in ((self.guarantee,) if self.guarantee else usual) if one in contender.guarantees]


def breaches(fields: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """What became of messages that `params["allowed"]` does not name, such as "3 lost"."""
    allowed = params.get("allowed") or ""
    counts = {what: fields.get(what) for what in ("lost", "duplicates", "reordered") if what not in allowed}
    return [f"{count} {what}" for what, count in counts.items() if count]


def with_error(figures: Figures, what: str) -> Figures:
    """The same, with `what` before the error that it may have."""
    error = "; ".join(filter(None, (what, figures.fields.get("error"))))
    return replace(figures, fields={**figures.fields, "error": error})


def thrown_away(figures: Figures) -> Figures:
    """The same, of a repetition that is thrown away: what it broke becomes its error, so that this at least is told."""
    broken = ", ".join(breaches(figures.fields, figures.params))
    return with_error(figures, f"{broken}, in a repetition that was to be thrown away") if broken else figures


def failure(text: str) -> Figures:
    """A repetition of which nothing but the error is known."""
    return Figures({"error": text})


@dataclass(frozen=True)
class Measurement:
    """One repetition: a row. Units are in the messages of the fields; what was not measured is None.

    `messages_per_s` counts a message once, however many groups it reached; `received`, `lost` and
    `duplicates` are summed over the groups. `latency_ms` is from the moment a message was meant to be
    sent; latency from the actual send and the publish delay are in the details.
    """

    run: str
    question: str
    design: str
    contender: str
    guarantee: str
    params: Mapping[str, Any]
    repetition: int
    sent: int | None = None
    accepted: int | None = None
    received: int | None = None
    lost: int | None = None
    duplicates: int | None = None
    reordered: int | None = None
    elapsed_s: float | None = None
    messages_per_s: float | None = None
    latency_ms: Mapping[str, float | None] | None = None
    target_rate: float | None = None
    cpu_s: Mapping[str, float | None] | None = None
    rss_mb: Mapping[str, float | None] | None = None
    survives: str | None = None
    error: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether a promise was broken or the measurement failed.

        A fault may do to messages what no guarantee rules out: that is in `params["allowed"]`.
        """
        return bool(self.error or breaches(vars(self), self.params))


class Site(Protocol):
    """Where a design is, as far as others than the measuring need to know."""

    @property
    def url(self) -> str:
        """The URL of its broker."""

    @property
    def made(self) -> dict[str, set[str]]:
        """The groups of each topic that was made: where the broker stays, they are removed in the end."""

    def used(self) -> Used:
        """What its broker has used."""


class Session(Protocol):
    """A run that goes on, as a contender or a question sees it."""

    @property
    def settings(self) -> Settings:
        """What was asked for."""

    @property
    def sites(self) -> Mapping[str, Site]:
        """Where each design is."""

    @property
    def folder(self) -> Path | None:
        """Where the run is kept, if it is: a question may add files of its own."""

    def place(self, cell: Cell) -> Place:
        """A topic of its own for a repetition of `cell`."""

    def submit(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run `function` in a worker process."""

    async def kept(self, key: str, open_it: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """What a question opens once a run, and what is closed when the run ends."""

    async def names_for(self, cell: Cell) -> int:
        """How many messages a repetition of `cell` takes."""

    async def make_groups(self, cell: Cell) -> None:
        """Have the groups of `cell` on a topic of its own, with nobody in them."""

    async def deliver(self, cell: Cell, names: int, *, sleepers: int = 0) -> list[Figures]:
        """Carry so many messages once and count them; the last `sleepers` of the groups read after the clock."""
