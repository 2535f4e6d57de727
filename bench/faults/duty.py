"""What a publisher or a member does, in a process of its own that may be killed at any moment.

Processes are forked from one that has imported everything, so a new one is there at once. Each does one
duty after the other: over a pipe it is told a `Duty`, then words for it, and it ends with its pipe.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import psutil

import greet
from bench.contenders import auto_commit, greets
from bench.faults.journal import Journal
from bench.model import Contender, Place
from greet import Guarantee

STATE_S = 5.0
MOST_FLOOD = 400_000
"""Names that are poured at most, so that a design without a limit does not take the machine with it."""

Word = Literal["work", "away", "hold", "crash", "end"]
"""What it is told: to work, to leave its group for a while, to stand still in the middle of handling, to raise
there, or to finish what it is at and end."""


@dataclass(frozen=True)
class Duty:
    """What a publisher, a member or a flood does; it is told over a pipe, as the URL may hold a password."""

    role: Literal["publisher", "member", "flood"]
    url: str = field(repr=False)
    topic: str
    tag: str
    journal: str
    design: str
    guarantee: str
    contender: str = "greet"
    group: str = ""
    first_lane: int = 0
    lanes: int = 4
    rate: float = 50.0
    """Messages a second of a publisher."""
    handling_s: float = 0.002
    """How long a member handles a message."""


class Crash(Exception):
    """What a member that shall fail raises in the middle of handling."""


class Orders:
    """The word that holds, and its change."""

    def __init__(self) -> None:
        self.word: Word = "work"
        self._changed = asyncio.Event()

    def tell(self, word: Word) -> None:
        """From now on."""
        self.word = word
        self._changed.set()

    async def other_than(self, *words: Word) -> None:
        """Return when another word holds."""
        while self.word in words:
            self._changed.clear()
            await self._changed.wait()


def contender(duty: Duty) -> Contender:
    """Who carries the messages: greet, or a control."""
    if duty.contender == auto_commit.CONTROL.name:
        return auto_commit.CONTROL
    return next(one for one in greets.CONTENDERS if (one.design, one.way) == (duty.design, "name"))


async def work(duty: Duty, orders: Orders) -> None:
    """Publish, or read, until the word is "end"; whatever ends it is in the journal."""
    journal = Journal(Path(duty.journal))
    told = {key: getattr(duty, key) for key in ("role", "group", "design", "guarantee", "topic")}
    journal.write("started", **told, pid=os.getpid())
    telling = asyncio.create_task(_tell_state(journal))
    error: str | None = "killed"
    try:
        await {"publisher": _publish, "member": _read, "flood": _flood}[duty.role](duty, journal, orders)
        error = None
    except* Exception as errors:  # noqa: BLE001, of any driver: it is in the journal, and ends the duty
        error = "; ".join(f"{type(one).__name__}: {one_line(one)}" for one in _leaves(errors))
    finally:
        telling.cancel()
        _state(journal)
        journal.write("ended", error=error)
        journal.close()


async def _tell_state(journal: Journal) -> None:
    while True:
        _state(journal)
        await asyncio.sleep(STATE_S)


def _state(journal: Journal) -> None:
    me = psutil.Process()
    held: dict[str, Any] = {"fds": me.num_fds(), "threads": me.num_threads(), "tasks": len(asyncio.all_tasks())}
    journal.write("state", rss_mb=round(me.memory_info().rss / 1e6, 1), **held)


def _place(duty: Duty) -> Place:
    return Place(duty.url, duty.topic, Guarantee[duty.guarantee])


async def _publish(duty: Duty, journal: Journal, orders: Orders) -> None:
    async with contender(duty).publisher(_place(duty)) as publisher, asyncio.TaskGroup() as lanes:
        for lane in range(duty.first_lane, duty.first_lane + duty.lanes):
            lanes.create_task(_lane(duty, lane, publisher.publish, journal, orders))


async def _lane(
    duty: Duty, lane: int, publish: Callable[[str], Awaitable[object]], journal: Journal, orders: Orders
) -> None:
    """Each message once: one that was refused or is unknown is not tried again, the next one is."""
    for number in count():
        name = f"{duty.tag}{lane:02d}{number:010d}"
        journal.write("trying", name)
        try:
            await publish(name)
        except greet.PublishFailed as error:
            journal.write("refused", name, error=one_line(error))
        except greet.PublishUnknown as error:
            journal.write("unknown", name, error=one_line(error))
        else:
            journal.write("accepted", name)
        with suppress(TimeoutError):
            async with asyncio.timeout(duty.lanes / duty.rate):
                await orders.other_than("work")
        if orders.word == "end":
            return


async def _flood(duty: Duty, journal: Journal, orders: Orders) -> None:
    """All at once, as fast as it goes, from "work" to "end": it is told "away" before it begins."""
    poured: list[str] = []

    def names() -> Iterator[str]:
        while orders.word == "work" and len(poured) < MOST_FLOOD:
            name = f"{duty.tag}{duty.first_lane:02d}{len(poured):010d}"
            journal.write("trying", name)
            poured.append(name)
            yield name

    async with greet.connect(duty.url, duty.topic, guarantee=Guarantee[duty.guarantee]) as line:
        journal.write("ready")
        await orders.other_than("away")
        try:
            await line.publish_many(names())
        except (greet.PublishUnknown, greet.PublishFailed) as error:
            journal.write("unknown", poured[-1], error=one_line(error))  # and which others, is not told
        else:
            for name in poured:
                journal.write("accepted", name)


async def _read(duty: Duty, journal: Journal, orders: Orders) -> None:
    while orders.word != "end":
        async with contender(duty).consumer(_place(duty), duty.group) as names:
            journal.write("ready")
            await _handle(duty, names, journal, orders)
        journal.write("left")
        await orders.other_than("away")


async def _handle(duty: Duty, names: AsyncIterator[str], journal: Journal, orders: Orders) -> None:
    """Message by message; it leaves between two messages, and holds or raises in the middle of one."""
    leaving = asyncio.ensure_future(orders.other_than("work", "hold", "crash"))
    following: asyncio.Future[str] | None = None
    try:
        while not leaving.done():
            following = asyncio.ensure_future(anext(names))
            await asyncio.wait((following, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                await asyncio.wait((following,))
                if following.cancelled():
                    return
            name = following.result()
            journal.write("taken", name)
            await asyncio.sleep(duty.handling_s)
            await orders.other_than("hold")
            if orders.word == "crash":
                raise Crash
            journal.write("handled", name)
    finally:
        leaving.cancel()
        if following:
            following.cancel()


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


def _leaves(errors: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [
        leaf for one in errors.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    ]


def serve(pipe: Connection) -> None:
    """The life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent to handle
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what a driver complains of is for nobody: the journal says what matters
    os.dup2(nowhere, 2)
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    told: asyncio.Queue[Duty | Word | None] = asyncio.Queue()

    def hear() -> None:
        try:
            told.put_nowait(pipe.recv())
        except EOFError:
            loop.remove_reader(pipe.fileno())
            told.put_nowait(None)

    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.fileno(), hear)
    doing: asyncio.Task[None] | None = None
    orders = Orders()
    while (what := await told.get()) is not None:
        if isinstance(what, Duty):
            orders = Orders()
            doing = asyncio.create_task(work(what, orders))
        else:
            orders.tell(what)
    if doing:
        orders.tell("end")
        await doing
