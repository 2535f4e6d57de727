"""The one interface that the three designs share: its docstrings are the contract.

A `Line` carries names from whoever publishes to every group that subscribes:

    publish ──► Line ──► group "hello"   ──► one of its members
                    └──► group "goodbye" ──► one of its members
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from itertools import islice
from types import TracebackType
from typing import ClassVar, Self

from greet.address import parse
from greet.errors import BadURL, Unsupported
from greet.names import check_all

CHUNK_NAMES = 500
CHUNK_CHARACTERS = 65_536
LEFT = "this member has left its group: subscribe again"


class Guarantee(Enum):
    """What a publisher is promised once `publish` has returned; the value says what a name survives."""

    AT_MOST_ONCE = "nothing"
    AT_LEAST_ONCE = "a consumer's death"
    DURABLE = "a consumer's death and a broker's kill"


@dataclass(frozen=True)
class DeadLetter:
    """A message that a group could not read as a name, and where it came from."""

    body: bytes
    group: str
    origin: str
    """Where it stood on the broker: a queue, or a topic with partition and offset."""
    reason: str


class Line(ABC):
    """A connection to one topic, opened by `async with`; made by `greet.connect`."""

    guarantees: ClassVar[tuple[Guarantee, ...]] = tuple(Guarantee)
    """What the design can promise, the strongest last."""
    port: int
    """The port of a host that names none; 0 if the design has no hosts."""
    keys: ClassVar[tuple[str, ...]]
    """The keys that the design knows in the URL's query."""

    def __init__(self, url: str, topic: str, guarantee: Guarantee | None) -> None:
        self.address = address = parse(url, import_module("greet.designs").of_url(url))
        self.timeout = address.timeout
        self.topic = plain("topic", topic)
        self.guarantee = guarantee or self.guarantees[-1]
        if self.guarantee not in self.guarantees:
            offered = " or ".join(one.name for one in self.guarantees)
            raise Unsupported(f"{address.scheme} cannot promise {self.guarantee.name}: ask for {offered}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} topic={self.topic} guarantee={self.guarantee.name}>"

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect. Raises `ConnectFailed` by the address's `timeout`."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect, by the address's `timeout`."""

    @abstractmethod
    async def publish(self, name: str) -> None:
        """Return once the design has accepted `name` under the guarantee.

        Many tasks may publish at once. Names of one publisher that awaits each keep their order.
        A full queue or window makes this wait, so a slow group slows its publisher.

        Raises:
            BadName: this is no name; nothing was sent.
            PublishFailed: surely not accepted, for instance as no group has ever read the topic.
            PublishUnknown: a time-out or a lost confirm; it may have been accepted.
        """

    @abstractmethod
    async def publish_many(self, names: Iterable[str]) -> int:
        """The fast way: publish an iterable of any length, in order; return how many were accepted.

        Each is accepted under the same guarantee as with `publish`. Memory stays bounded.

        Raises:
            as `publish`; the error's `accepted` says how many were surely accepted, not which: it
            is no place to go on from.
        """

    @abstractmethod
    def subscribe(self, group: str, *, replay: bool = False) -> Subscription:
        """A member of `group`, to be entered by `async with`.

        Once it is entered, every name published from then on reaches the group, also while no
        member of it reads. Each group gets every name; members of one group share them.
        `replay=True` starts a new group at the oldest name that is still kept.

        Raises:
            Unsupported: replay, of a design that keeps nothing.
        """

    async def dead_letters(self) -> list[DeadLetter]:
        """What the groups of the topic could not read as a name, the oldest first; it stays there."""
        return []

    async def resend_dead_letters(self) -> int:
        """Publish each dead letter's body once more and remove it from the dead letters; how many.

        RabbitMQ sends it to the group that could not read it; Kafka to all groups, as it has one log.
        """
        return 0


class Subscription(ABC):
    """One member of a group: an async iterator of names that does not end by itself.

    A name is settled when the next one is asked for, or when the `async with` ends without an
    exception. A member that dies, is cancelled or raises in between has not settled it: it comes
    again, to this or another member. `AT_MOST_ONCE` settles names before they are handed out; of
    RabbitMQ, those that a leaving member has not handed out yet are lost then.

    Raises:
        ConnectionLost: the line is gone and could not be restored by its deadline.
    """

    # A design fills `_batch`; the names before `_taken` were handed out, those before `_settled`
    # of them are handled too.
    _batch: list[str]
    _taken = 0
    _settled = 0
    _clean = True  # no exception ended the `async with`

    def __init__(self) -> None:
        self._batch = []

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Join the group."""

    @abstractmethod
    async def _receive(self) -> list[str]:
        """Settle all of `_batch`, then wait for the next names, at least one."""

    @abstractmethod
    async def _leave(self) -> None:
        """Settle the first `_settled` names of `_batch`, give back the others, leave the group."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean = error is None
        if self._clean:
            self._settled = self._taken
        await self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        self._settled = self._taken
        if self._taken == len(self._batch):
            self._batch = await self._receive()
            self._taken = self._settled = 0
        name = self._batch[self._taken]
        self._taken += 1
        return name

    def batches(self) -> AsyncIterator[list[str]]:
        """The fast way: lists of names, never empty; a list is settled as a whole by the next one."""
        return _Batches(self)

    async def _next_batch(self) -> list[str]:
        self._settled = self._taken
        if self._taken == len(self._batch):
            self._batch = await self._receive()
            self._taken = self._settled = 0
        rest = self._batch[self._taken :]
        self._taken = len(self._batch)
        return rest


class _Batches:
    """No generator: a generator that was cancelled once would end in silence when asked again."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[str]:
        return await self._subscription._next_batch()


def plain(what: str, text: str) -> str:
    """`text`, if every broker takes it as the name of a topic or group; else `BadURL`."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", text):
        raise BadURL(f"{what} {text[:40]!a} is no plain word: use up to 200 of A-Z a-z 0-9 . _ -")
    return text


def chunks(names: Iterable[str], size: int = CHUNK_NAMES) -> Iterator[list[str]]:
    """The names in lists of at most `size` names and 65,536 characters, all of them checked.

    A list is checked as a whole before it is handed out, so a bad name leaves the ones before its
    list sent, and none of its list.
    """
    names = iter(names)
    while chunk := list(islice(names, size)):
        if check_all(chunk) <= CHUNK_CHARACTERS:
            yield chunk
            continue
        start = length = 0
        for end, name in enumerate(chunk):
            if length + len(name) > CHUNK_CHARACTERS and end > start:
                yield chunk[start:end]
                start, length = end, 0
            length += len(name)
        yield chunk[start:]
