"""How long do messages wait when a member of their group is killed, joins or leaves?

A publisher sends 200 messages a second, to two partitions if the design has partitions, and one member handles them.
A second member joins, and the first leaves; a third one joins, and the second is killed (SIGKILL). So the older member
goes; with a stream this is the member that reads. For each step the table shows the longest time that a message was on
its way, and how many messages came twice. If the members share a topic by partitions, half of the messages wait for
the member that takes over a partition; the others may continue.

RabbitMQ and a share group notice that the connection of a killed member has ended. A Kafka consumer group waits until
the member's session times out, so this time is measured: 6 s here, with a heartbeat each 0.25 s, as in greet. The
default is 45 s, with a heartbeat each 3 s in the classic protocol and each 5 s in the new one (KIP-848), where the
broker sets it, not the client. So Kafka's groups use a separate broker with the same settings. confluent-kafka is
measured beside greet, with the classic and with the new protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from bench import pictures, tables
from bench.contenders.confluent_peers import MEMBERS
from bench.measure.account import SHIFT
from bench.measure.carry import Hand, Publish, Read, Stamps, now
from bench.model import Cell, Contender, Figures, Place, Session, Settings, title_of
from bench.pictures import Dots, Picture
from bench.stats import short
from greet import Guarantee, brokers
from greet.designs import KAFKA, named

RATE = 200.0
"""Messages a second."""
ROUNDS = 3
JOINS, LEAVES, KILLED = "joins", "leaves", "is killed"
LIFE = ((JOINS, 1), (LEAVES, 0), (JOINS, 2), (KILLED, 1))
"""What is done to the group, one after the other, and which member does it or suffers it; number 0 was there before."""
CALM_S = 1.0
"""How long nothing may be late before the next is done."""
LATE_S = 0.3
"""What is not handled so long after it was accepted is late."""
WORK_S = 10.0
"""How long a member that has joined is waited for until it has its first message."""
PATIENCE_S = 20.0
"""How long is waited until nothing is late any more."""
LONGEST_S = 120.0
"""How long messages are published, at most: they are stopped when all is done."""
LEAD_S = 0.3
LOOK_S = 0.05
SESSION = {
    **dict.fromkeys(("group.consumer.session.timeout.ms", "group.consumer.min.session.timeout.ms"), "6000"),
    **dict.fromkeys(("group.consumer.heartbeat.interval.ms", "group.consumer.min.heartbeat.interval.ms"), "250"),
}
"""The new protocol's session and heartbeat: as short as greet has them in the classic one."""


def cells(settings: Settings) -> list[Cell]:
    """greet over every design that has a broker; where the peers are asked, also confluent-kafka by both protocols."""
    groups = [one for one in settings.of(name="greet", way="name") if not named(one.design).in_process]
    groups += [one for one in MEMBERS if settings.includes(one)]
    return [
        Cell(
            *(one, guarantee),
            members=2,
            partitions=2 if named(one.design).partitioned else 1,
            rate=RATE,
            rung=KILLED,
            loop="select",
            rounds=settings.at_most(ROUNDS) if settings.full else 1,
            measure=lived,
        )
        for one in groups
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        if guarantee is not Guarantee.AT_MOST_ONCE  # it loses what a member has that is killed
    ]


async def lived(session: Session, cell: Cell, names: int) -> list[Figures]:  # noqa: ARG001
    """A row for each thing that was done to the group."""
    place, design = session.place(cell), named(cell.contender.design)
    if design.product is KAFKA:
        broker = await session.kept("takeover", partial(brokers.private, KAFKA, config=SESSION))
        place = replace(place, url=design.url(broker.url))
    with TemporaryDirectory() as folder:
        group = _Group(cell.contender, place, Path(folder))
        try:
            async with asyncio.timeout(LONGEST_S):
                moments = await group.live(all_work=design.at_work(2, cell.partitions) > 1)
            story, errors = group.story(), group.errors()
        finally:
            group.end()
    ends = [*(begin for _, begin in moments[1:]), 2**62]
    found = [during(story, what, begin, end) for (what, begin), end in zip(moments, ends, strict=True)]
    if cell.contender in MEMBERS:  # what a group promises at a rebalance is greet's promise
        found = [replace(one, params={**one.params, "allowed": "duplicates"}) for one in found]
    common = {"target_rate": RATE, "survives": cell.guarantee.value, "error": errors or None}
    return [replace(one, fields={**one.fields, **common}) for one in found]


@dataclass(frozen=True)
class Story:
    """What became of the messages; stamps of one clock, in nanoseconds."""

    due: Stamps = field(repr=False)
    """When each was due, by its number."""
    sent: Stamps = field(repr=False)
    """When each was sent; 0 of one that was not."""
    accepted: Stamps = field(repr=False)
    """When each was accepted; 0 or less of one that was not."""
    handled: Stamps = field(repr=False)
    """The numbers in the order in which they were handled, as often as they were."""
    done: Stamps = field(repr=False)
    """When that was."""


def during(story: Story, what: str, begin: int, end: int) -> Figures:
    """What became of the messages that were handled from `begin` on, until the next thing was done, at `end`.

    `elapsed_s` is how long the one of them that waited longest had been sent. What was never handled is told by when
    it was due.
    """
    numbers, first = np.unique(story.handled, return_index=True)
    came = np.full(len(story.due), -1, np.int64)
    came[numbers] = story.done[first]
    moment = np.where(came < 0, story.due, came)
    mine = (story.sent > 0) & (moment >= begin) & (moment < end)
    accepted, got, again = mine & (story.accepted > 0), mine & (came >= 0), np.delete(story.done, first)
    return Figures(
        {
            "sent": int(mine.sum()),
            "accepted": int(accepted.sum()),
            "received": int(got.sum()),
            "lost": int((accepted & ~got).sum()),
            "duplicates": int(((again >= begin) & (again < end)).sum()),
            "elapsed_s": float((came - story.sent)[got].max()) / 1e9 if got.any() else None,
        },
        # Who leaves is cancelled, as by SIGTERM: what it has in hand then comes again.
        {"rung": what, "allowed": "" if what == JOINS else "duplicates"},
    )


class _Group:
    """A publisher and the members of a group, each a process of its own with a journal that survives it."""

    def __init__(self, contender: Contender, place: Place, folder: Path) -> None:
        self._contender, self._place, self._folder = contender, place, folder
        due = (np.arange(int(LONGEST_S * RATE)) * (1e9 / RATE)).astype(np.int64)
        journal = self._journal("published", 2 * len(due))
        self._publish = Publish(contender, place, f"{place.topic[-4:]}00", due, [2] * len(due), journal)
        self._reads: list[Read] = []
        self._publisher, *self._members = self._hands = [Hand() for _ in range(4)]
        self._began = 0

    def _journal(self, name: str, numbers: int) -> str:
        path = self._folder / name
        with path.open("wb") as file:
            file.truncate(8 * numbers)
        return str(path)

    async def live(self, *, all_work: bool) -> list[tuple[str, int]]:
        """All that is done to the group, and when each was begun; `all_work` where two members both get messages."""
        await self._join(self._members[0])
        self._publisher.do([self._publish])
        await _ready(self._publisher)
        self._began = now() + int(LEAD_S * 1e9)
        self._publisher.tell("start", self._began)
        await self._calm()
        moments: list[tuple[str, int]] = []
        for what, number in LIFE:
            member = self._members[number]
            moments.append((what, now()))
            if what == JOINS:
                journal = await self._join(member)
                if all_work:
                    await _until(partial(_works, journal), WORK_S)
            elif what == LEAVES:
                await _leave(member)
            else:
                await asyncio.to_thread(member.kill)
            await self._calm()
        self._publisher.tell("stop")
        await self._publisher.says("published")
        await self._calm()
        await _leave(self._members[-1])
        return moments

    async def _join(self, member: Hand) -> str:
        """Have it read, once it is there; its journal."""
        most = 2 * len(self._publish.due)
        journal = self._journal(f"member {len(self._reads)}", 1 + 3 * most)
        read = Read(self._contender, self._place, "g0", self._place.topic[-4:], most, journal=journal)
        self._reads.append(read)
        member.do([read])
        await _ready(member)
        return journal

    async def _calm(self) -> None:
        """Return when nothing was late for a while; or is late for good."""
        disturbed = now()

        def calm() -> bool:
            nonlocal disturbed
            if errors := self.errors():
                raise RuntimeError(errors)
            disturbed = now() if self._late() else disturbed
            return now() - disturbed > CALM_S * 1e9

        await _until(calm, PATIENCE_S)

    def _late(self) -> bool:
        story = self.story()
        waits = story.accepted > 0
        waits[story.handled] = False
        return bool((story.accepted[waits] < now() - LATE_S * 1e9).any())

    def story(self) -> Story:
        """What became of the messages so far."""
        sent, accepted = np.fromfile(self._publish.journal, np.int64).reshape(-1, 2).T
        rows = np.concatenate([_handled(read.journal) for read in self._reads])
        rows = rows[np.argsort(rows[:, 2], kind="stable")]
        return Story(self._publish.due + self._began, sent, accepted, rows[:, 0] & ((1 << SHIFT) - 1), rows[:, 2])

    def errors(self) -> str:
        """What went wrong with any of them."""
        return "; ".join(dict.fromkeys(error for hand in self._hands for error in hand.errors))

    def end(self) -> None:
        """Nobody is left."""
        for hand in self._hands:
            hand.kill()


def _handled(journal: str) -> Stamps:
    """Code, arrival and end of work of each message that a member has handled."""
    numbers = np.memmap(journal, np.int64, "r")
    return np.array(numbers[1 : 1 + 3 * numbers[0]]).reshape(-1, 3)


def _works(journal: str) -> bool:
    return len(_handled(journal)) > 0


async def _ready(hand: Hand) -> None:
    if await hand.says("ready", "error") != "ready":
        raise RuntimeError(hand.errors[0] if hand.errors else "a process ended before it was ready")


async def _leave(hand: Hand) -> None:
    hand.tell("end")
    await hand.says("left")


async def _until(there: Callable[[], bool], seconds: float) -> None:
    """Look again and again, for so long at most."""
    limit = now() + int(seconds * 1e9)
    while not there() and now() < limit:  # noqa: ASYNC110, what others have written is looked at
        await asyncio.sleep(LOOK_S)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """What happens when "a member" joins, leaves or is killed: the median of the repetitions, and the worst of them.

    "longest wait" is the longest time that a message was on its way. "came twice" is how many messages did, which is
    allowed when a member leaves or is killed; "count" has the sum of all repetitions.
    """
    found = []
    for line, part in tables.lines(rows, "params.rung"):
        line["a member"] = line.pop("rung")
        waits, twice = tables.figures(part, "elapsed_s"), part["duplicates"].astype(float)
        for what, figures in (("longest wait s", waits), ("came twice", twice)):
            line |= {what: short(figures.median()), f"{what}, worst": short(figures.max())}
        found.append(line | {"count": tables.counted(part)})
    return pd.DataFrame(found)


def picture(rows: pd.DataFrame) -> Picture:
    """The longest wait in ms, a row for each client: when a member is killed, and when one joins or leaves."""
    rows = pictures.measured(rows, "elapsed_s")
    rows = rows.assign(value=1e3 * rows["value"])
    killed, own = rows["params.rung"].eq(KILLED), rows["contender"].eq("greet")
    said, moved = (
        pictures.across(part.groupby("design")["value"].max().to_dict(), " ms")
        for part in (rows[killed & own], rows[~killed & own])
    )
    or_moved = f"; when one joins or leaves, up to {moved}" if moved else ""
    return Dots(
        title=pictures.headline(
            said and f"If a member is killed, a message of greet waits up to {said}{or_moved}", __doc__
        ),
        rows=tables.in_order(rows.assign(row=rows["design"].map(title_of) + ", " + rows["contender"], hollow=~killed)),
        unit="ms, the longest wait of a message",
        form="{} ms",
        note="Filled: a member is killed. Hollow: one joins or leaves. Sessions of Kafka's groups: 6 s, by default 45"
        " (aiokafka 10).",
    )
