"""How many messages do the members of a group handle if each takes time?

For each message a member waits 1, 5 or 20 milliseconds, as for the answer of a database, before it asks for the
next. There are 1, 4 or 16 members in the group. A queue gives each message to any free member, so all members
work. A log has one reader for each partition: Kafka has one partition, four, or one for each member here, and a
stream has one reader.
A hash of the message chooses the partition. A repetition has few, numbered messages, so they fill 16 partitions
unevenly, and Kafka's rate is that of the fullest partition; with many more messages the shares become even.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench import pictures, tables
from bench.contenders.greets import Greet
from bench.model import Cell, Following, Place, Settings, title_of
from bench.pictures import Lines, Picture
from bench.stats import short
from greet import Guarantee
from greet.designs import named

POINTS = ((5.0, 1), (5.0, 4), (5.0, 16), (1.0, 4), (20.0, 16))
"""Milliseconds for each message, and numbers of members."""
QUICK = POINTS[:3]
FIXED = (1, 4)
"""Numbers of partitions, whatever the number of members."""
SECONDS = 2.0
"""The approximate time of the work of one repetition."""


@dataclass(frozen=True)
class Working(Greet):
    """greet, with a consumer that waits for each message before it asks for the next."""

    work_ms: float = 0.0

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        """A separate line with one subscription."""
        async with self.line(place) as line, line.subscribe(group) as names:
            following: Any = Following(handled(names.__anext__, self.work_ms / 1000))
            yield following


def handled(following: Callable[[], Awaitable[str]], seconds: float) -> Callable[[], Awaitable[str]]:
    """The next name, after the one before it was handled."""
    busy = False

    async def one() -> str:
        nonlocal busy
        if busy:
            await asyncio.sleep(seconds)
        name = await following()
        busy = True
        return name

    return one


def cells(settings: Settings) -> list[Cell]:
    """Every design, one by one; designs with partitions with one, with four, and with one for each member."""
    found = []
    for one in settings.of(name="greet", way="name"):
        design = named(one.design)
        for work_ms, members in POINTS if settings.full else QUICK:
            for partitions in sorted({*FIXED, members}) if design.partitioned and not design.deals_out else (1,):
                working = Working(**vars(one), work_ms=work_ms)
                names = int(SECONDS * 1000 / work_ms * design.at_work(members, partitions))
                more: dict[str, Any] = {"rung": f"{work_ms:g} ms", "rounds": settings.at_most(4), "names": names}
                found += [
                    Cell(working, guarantee, members=members, partitions=partitions, **more)
                    for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
                ]
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second by all members of a group together.

    "members busy" is how much of their time the members worked. "smallest share" is the part of all messages that went
    to the member with the fewest: 25% would be even among four, 6% among sixteen. Kafka's partitions are chosen by a
    hash of the message. A repetition's few, numbered messages fill them unevenly (of 1,600, the fullest of 16 has 134,
    the emptiest 72; even would be 100), and the fullest decides the rate. With many more messages the shares become
    even.
    """
    found = []
    for line, part in tables.lines(rows, "params.rung", "params.members", "params.partitions"):
        speed = float(tables.figures(part, "messages_per_s").median())
        could = line["members"] * 1000 / float(str(line["rung"]).split()[0])
        line["work"] = line.pop("rung")
        line |= {"messages/s": short(speed), "members busy": "–" if pd.isna(speed) else f"{speed / could:.0%}"}
        found.append(line | {"smallest share": tables.smallest_share(part["members"]), "count": tables.counted(part)})
    return pd.DataFrame(found)


def picture(rows: pd.DataFrame) -> Picture:
    """Messages handled a second over the number of members, beside what they could handle if all were busy."""
    work_ms = POINTS[0][0]
    rows = pictures.measured(rows[rows["params.rung"].eq(f"{work_ms:g} ms")])
    partitions = rows["params.partitions"].map("{:g} partitions".format).replace("1 partitions", "1 partition")
    told_apart = rows.groupby("design")["params.partitions"].transform("nunique").gt(1)
    line = rows["design"].map(title_of) + (" with " + partitions.astype(str)).where(told_apart, "")
    rows = rows.assign(x=rows["params.members"], panel="", line=line)
    each = rows[told_apart & rows["params.partitions"].eq(rows["x"])]
    each = each.assign(line=each["design"].map(title_of) + ", a partition each")
    rows = pd.concat([rows[rows["params.partitions"].isin(FIXED)], each])
    most = rows["x"].max()
    full = rows[rows["x"].eq(most) & rows["design"].isin(pictures.told(rows["design"]))]
    busy = full.groupby("line")["value"].median().sort_values(ascending=False) * work_ms / 1000
    said = pictures.listed([f"{one} {pictures.number(count)}" for one, count in busy.items()])
    members = f"Of {most:g} members that take {work_ms:g} ms a message, so many work at the same time"
    return Lines(
        title=pictures.headline(said and f"{members}: {said}", __doc__),
        rows=rows,
        what="members of a group",
        unit="messages handled a second",
        form="{}/s",
        note=f"greet, one by one. The line: all members are busy, {1000 / work_ms:g} messages a second each.",
        ideal=(1000 / work_ms, "all are busy"),
    )
