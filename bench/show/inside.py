"""Something goes wrong on a broker, and the tools that it brings are asked what: the same six questions to each.

Messages are published at a steady rate. "hello" has two members, of which one takes a message and never asks for the
next. The only member of "goodbye" was killed before the first message, so all of them wait. What is true is known
here, and an answer counts only when it is right.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pandas as pd

import greet
from bench.show import tools
from bench.show.tools import ASK_S, BEHIND, FAST, FULL, GROUPS, MEMBERS, OLDEST, QUESTIONS, STUCK, Look, Tool
from greet import brokers
from greet.designs import DESIGNS, KAFKA, RABBITMQ, Design, Product

Seen = TypeVar("Seen")
TOPIC = "orders"
RATE = 200
"""Messages a second."""
STEP = 10
"""Messages that are published together."""
PREFETCH = 10
"""Messages that a member of RabbitMQ may have in hand."""
NEAR = 0.1
"""A rate is right when it is off by no more than this share."""
LATELY_S = 5.0
"""A tool's own rate is compared with what happened in so many seconds."""
SPAN_S = 3.0
"""Seconds between two counts, at least, for a rate."""
AGE_S = 2.0
"""An age is right when it is off by no more than this."""
STILL_S = 6.0
"""A member is stuck when something waits for it, and it has handled nothing for so long: more than the 5 s between
two samples of RabbitMQ's statistics."""
PATIENCE_S = 60.0
"""Seconds from the first message that a tool has for its answers."""
PAUSE_S = 0.3
"""Between two looks of a tool."""
NOT_NOW = (OSError, LookupError, ValueError)
"""What a tool raises where something is not there yet, or is between two states."""
START: Mapping[Product, Mapping[str, Any]] = {
    RABBITMQ: {"plugins": ("rabbitmq_management", "rabbitmq_prometheus")},
    KAFKA: {},
}
TOOLS: Mapping[Product, Callable[..., Coroutine[Any, Any, tuple[list[Tool], list[str]]]]] = {
    RABBITMQ: tools.of_rabbitmq,
    KAFKA: tools.of_kafka,
}


@dataclass
class Scene:
    """What is true: clocks are monotonic, but for `first`."""

    killed: float = 0.0
    began: float = 0.0
    first: float = 0.0
    """When the first message was published, in seconds of the wall clock."""
    stuck: float = 0.0
    published: list[tuple[float, int]] = field(default_factory=list)
    """So many, at this time."""
    handled: list[tuple[float, int]] = field(default_factory=list)
    """By "hello"."""
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    """Tells the stuck member to leave."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    flows: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def counts(self) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
        """What is published, and what "hello" handles."""
        return self.published, self.handled

    def age(self, behind: int, asked: float) -> float:
        """How old it is, in seconds, that `behind` messages waited for "goodbye", when that was told at `asked`."""
        later = next((at for at, total in self.published if total > behind), asked)
        return max(0.0, asked - later)


@dataclass(frozen=True)
class Answer:
    """What a tool said to a question. `said` is empty when it told nothing that was right."""

    tool: str
    question: str
    said: str
    how: str
    late: float


@dataclass(frozen=True)
class Found:
    """The answers of a broker's tools."""

    about: str
    """The broker and its version."""
    answers: Sequence[Answer]
    missing: Sequence[str]
    """A line for each tool that could not be asked."""
    stamped: Mapping[str, bool]
    """Whether a tool tells the age of a message whose publisher wrote the time into it: of those that need that."""
    text: Mapping[str, str]
    """All that the tools said that say all at once."""

    @property
    def table(self) -> pd.DataFrame:
        """Each answer, how many seconds it was late, and how it is had; a question stands in its first line."""
        asked = [[one for one in self.answers if one.question == question] for question in QUESTIONS]
        lines = [
            {
                "question": "" if number else one.question,
                "tool": one.tool,
                "answer": one.said or "–",
                "s late": f"{one.late:.1f}" if one.said else "",
                "how": one.how,
            }
            for same in asked
            for number, one in enumerate(same)
        ]
        return pd.DataFrame(lines)

    @property
    def told(self) -> pd.DataFrame:
        """Which tool tells what."""
        return _wide(self.answers, lambda one: "✓" if one.said else "–")

    def late(self, question: str) -> dict[str, float]:
        """Seconds, by tool, of those that have answered."""
        return {one.tool: one.late for one in self.answers if one.question == question and one.said}


def overview(*found: Found) -> pd.DataFrame:
    """How many seconds late each tool tells what it tells, for each question."""
    answers = [answer for one in found for answer in one.answers]
    return _wide(answers, lambda one: f"{one.late:.1f} s" if one.said else "–")


def _wide(answers: Sequence[Answer], cell: Callable[[Answer], str]) -> pd.DataFrame:
    names = dict.fromkeys(one.tool for one in answers)
    columns = {name: {one.question: cell(one) for one in answers if one.tool == name} for name in names}
    return pd.DataFrame(columns, index=list(QUESTIONS))


async def asked(product: Product) -> Found:
    """Start a private broker, let things go wrong on it, and ask its tools; half a minute.

    Raises:
        BrokerMissing: there is none to be had.
        GreetError: what should go wrong does not; says what.
    """
    design = next(one for one in DESIGNS if one.product is product)
    async with brokers.private(product, **START[product]) as broker:
        found, missing = await TOOLS[product](broker, TOPIC)
        try:
            async with asyncio.TaskGroup() as tasks:
                return await _ask(found, missing, Stage(design, broker, tasks))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None


@dataclass(frozen=True)
class Stage:
    """Where it goes wrong: a broker of a design, and the tasks that use it."""

    design: Design
    broker: brokers.Broker
    tasks: asyncio.TaskGroup
    scene: Scene = field(default_factory=Scene)
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def line(self) -> greet.Line:
        """A new one, not entered yet."""
        return greet.connect(self.url, TOPIC)

    @property
    def url(self) -> str:
        """With two partitions, or with a prefetch of `PREFETCH`."""
        query = f"partitions={tools.PARTITIONS}" if self.design.partitioned else f"prefetch={PREFETCH}"
        return f"{self.design.url(self.broker.url)}?{query}"

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it until `gone_wrong` ends."""
        self.running.append(self.tasks.create_task(work))


@asynccontextmanager
async def gone_wrong(stage: Stage, before: Callable[[], Awaitable[Seen]]) -> AsyncIterator[Seen]:
    """All that goes wrong, as long as the `async with`; it gives what `before` has seen when all was still well."""
    scene = stage.scene
    try:
        async with _member_of_goodbye(stage) as member:
            live = [asyncio.Event() for _ in range(2)]
            stage.run(_work(stage.line(), scene, live[0]))
            stage.run(_stick(stage.line(), scene, live[1]))
            for event in live:
                await asyncio.wait_for(event.wait(), ASK_S)
            seen = await before()
            member.kill()
            scene.killed = time.monotonic()
        stage.run(_publish(stage.line(), scene))
        await asyncio.wait_for(scene.flows.wait(), ASK_S)
        yield seen
    finally:
        for one in stage.running:
            one.cancel()


async def _ask(found: Sequence[Tool], missing: Sequence[str], stage: Stage) -> Found:
    async with gone_wrong(stage, lambda: asyncio.gather(*map(_room, found))) as kept:
        answers = await _answers(found, kept, stage.scene)
        stamped = {tool.name: await tool.stamped() is not None for tool in found if tool.stamped}
        text = {tool.name: await tool.text() for tool in found if tool.text}
        return Found(f"{stage.design.title} {stage.broker.about}", answers, missing, stamped, text)


@asynccontextmanager
async def _member_of_goodbye(stage: Stage) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of its own, once it is live; its end in every case."""
    assert stage.design.product
    ready = stage.broker.folder / "ready"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "greet", "consume", "--via", stage.design.name, "--topic", TOPIC),
        *("--as", GROUPS[1], "--ready", str(ready)),
        env=os.environ | {stage.design.product.variable: stage.url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + ASK_S
        while not ready.exists():
            if process.returncode is not None or time.monotonic() > deadline:
                raise greet.ConnectFailed(f'the member of "{GROUPS[1]}" was not live within {ASK_S:.0f} s: try again')
            await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _work(line: greet.Line, scene: Scene, live: asyncio.Event) -> None:
    async with line, line.subscribe(GROUPS[0]) as names:
        live.set()
        total = 0
        async for _ in names:
            total += 1
            scene.handled.append((time.monotonic(), total))


async def _stick(line: greet.Line, scene: Scene, live: asyncio.Event) -> None:
    """Take a message, and ask for no other."""
    async with line, line.subscribe(GROUPS[0]) as names:
        live.set()
        await anext(names)
        scene.stuck = time.monotonic()
        await scene.let_go.wait()
    scene.left.set()


async def _publish(line: greet.Line, scene: Scene) -> None:
    async with line:
        scene.began, scene.first, total = time.monotonic(), time.time(), 0
        while True:
            await line.publish_many([f"order-{total + n}" for n in range(STEP)])
            total += STEP
            scene.published.append((time.monotonic(), total))
            scene.flows.set()
            await asyncio.sleep(max(0.0, scene.began + total / RATE - time.monotonic()))


async def _answers(found: Sequence[Tool], kept: Sequence[_Kept | None], scene: Scene) -> list[Answer]:
    """Each tool is asked at the same time as the others of its broker."""
    watched = await asyncio.gather(*(_watch(tool, scene) for tool in found))
    rooms = await asyncio.gather(*(_fills(tool, earlier) for tool, earlier in zip(found, kept, strict=True)))
    ages = await asyncio.gather(*(_age(tool, scene) for tool in found))
    scene.let_go.set()
    await asyncio.wait_for(scene.left.wait(), ASK_S)
    right = await asyncio.gather(*(_gone(tool, suspect) for tool, (_, suspect) in zip(found, watched, strict=True)))
    answers = []
    for tool, (told, suspect), is_right, full, old in zip(found, watched, right, rooms, ages, strict=True):
        if suspect and not is_right:
            del told[STUCK]
        told |= {question: one for question, one in ((FULL, full), (OLDEST, old)) if one}
        for question in QUESTIONS:
            said, late = told.get(question, ("", math.nan))
            answers.append(Answer(tool.name, question, said, tool.how[question], late))
    return answers


_Told = dict[str, tuple[str, float]]
"""By question what was said, and how many seconds late."""
_Kept = tuple[float, float]
"""When, and how many bytes were kept."""


async def _watch(tool: Tool, scene: Scene) -> tuple[_Told, str]:
    """Look again and again, until each question that it can answer is answered rightly; and who is said to be stuck."""
    looks: list[Look] = []
    told: _Told = {}
    suspect, ages = "", list[float]()
    while time.monotonic() < scene.began + PATIENCE_S:
        try:
            look = await tool.look()
        except NOT_NOW:
            await asyncio.sleep(PAUSE_S)
            continue
        looks.append(look)
        if look.behind is not None:
            ages.append(scene.age(look.behind, look.at))
            told[BEHIND] = (f"{look.behind:,} messages", max(ages))
        if FAST not in told and (said := _fast(looks, scene)):
            told[FAST] = (said, look.at - scene.began)
        if MEMBERS not in told and look.sizes == (2, 0):
            told[MEMBERS] = ("two, and none", look.at - scene.killed)
        if STUCK not in told and len(names := _still(looks)) == 1:
            (suspect,) = names
            told[STUCK] = ("one of the two", time.monotonic() - scene.stuck)
        can = {BEHIND: look.behind, FAST: look.rates or look.handled, MEMBERS: look.sizes, STUCK: look.members}
        if all(question in told for question, there in can.items() if there is not None):
            break
        await asyncio.sleep(PAUSE_S)
    return told, suspect


def _fast(looks: Sequence[Look], scene: Scene) -> str:
    """The rates, in and out, if they are right: those of the tool, or what its counts have risen."""
    last = looks[-1]
    told = [(rate, last.at - LATELY_S, last.at) for rate in last.rates or ()]
    told += [
        _rise([(look.at, count) for look in looks if (count := getattr(look, what)) is not None])
        for what in ("published", "handled")
        if getattr(last, what) is not None
    ]
    true = [_rate(counts, since, until) for counts, (_, since, until) in zip(scene.counts, told, strict=False)]
    if len(told) < 2 or any(abs(rate - known) > NEAR * known for (rate, *_), known in zip(told, true, strict=False)):
        return ""
    return " and ".join(f"{rate:.0f}/s {what}" for (rate, *_), what in zip(told, ("in", "out"), strict=False))


def _rise(counts: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """By how much a count rises in a second, from the first time until the last that it was seen to change."""
    changes = [(at, count) for (_, before), (at, count) in pairwise(counts) if count != before]
    if not changes or changes[-1][0] - changes[0][0] < SPAN_S:
        return 0.0, 0.0, 0.0
    (start, low), (end, high) = changes[0], changes[-1]
    return (high - low) / (end - start), start, end


def _rate(counts: Sequence[tuple[float, int]], since: float, until: float) -> float:
    """What really happened in a second; it is 1 where it is not known, which nothing that is told comes near to."""
    before, after = ([total for at, total in counts if at <= when][-1:] for when in (since, until))
    return (after[0] - before[0]) / (until - since) if before and after and since < until else 1.0


def _still(looks: Sequence[Look]) -> set[str]:
    """The members for whom something has waited all along, and who have handled nothing for `STILL_S`."""
    last = looks[-1]
    early = [n for n, look in enumerate(looks) if last.at - look.at >= STILL_S]
    if not early or last.members is None:
        return set()
    lately = [look.members or {} for look in looks[early[-1] :]]
    return {
        name
        for name, now in last.members.items()
        if all(name in then and then[name].waits > 0 and then[name].handled == now.handled for then in lately)
    }


async def _room(tool: Tool) -> _Kept | None:
    """What is kept as long as nothing is published; a new queue may have no figures for some seconds."""
    deadline = time.monotonic() + ASK_S
    while tool.room:
        try:
            kept, _ = await tool.room()
        except NOT_NOW:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(PAUSE_S)
        else:
            return time.monotonic(), kept
    return None


async def _fills(tool: Tool, earlier: _Kept | None) -> tuple[str, float] | None:
    """What is left, by how much it shrinks, and so when it is full; None where the tool does not tell what is left."""
    asked = time.monotonic()
    if tool.room is None or earlier is None:
        return None
    with suppress(*NOT_NOW):
        kept, left = await tool.room()
        now = time.monotonic()
        grows = (kept - earlier[1]) / (now - earlier[0])
        if left is not None and grows > 0:
            days = left / grows / 86_400
            return f"{left / 1e9:,.0f} GB left, {grows / 1e3:.1f} kB/s more: in {days:,.0f} days", now - asked
    return None


async def _age(tool: Tool, scene: Scene) -> tuple[str, float] | None:
    """The age of what waits longest for "goodbye", if it is right."""
    asked = time.monotonic()
    if tool.oldest is None:
        return None
    with suppress(*NOT_NOW):
        stamp = await tool.oldest()
        if stamp is not None and abs(stamp - scene.first) < AGE_S:
            return f"{time.time() - stamp:.1f} s", time.monotonic() - asked
    return None


async def _gone(tool: Tool, suspect: str) -> bool:
    """Whether it was the one that has left by now."""
    deadline = time.monotonic() + ASK_S
    while suspect and time.monotonic() < deadline:
        try:
            members = (await tool.look()).members or {}
        except NOT_NOW:
            members = {}
        if len(members) == 1:
            return suspect not in members
        await asyncio.sleep(PAUSE_S)
    return False
