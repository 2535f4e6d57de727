"""What the notebooks have in common: waits with an end, checks, two members at work, and programs that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import greet
from bench import questions
from bench.judge import claims
from bench.model import with_query
from bench.show import plots, report
from bench.show.film import Step
from greet import designs

if TYPE_CHECKING:
    from IPython.display import Image, Markdown

SECONDS = 30
"""The deadline of each wait."""
PACE_S, HANDLING_S = 0.06, 0.16
"""Of a run that is filmed: how long from name to name, and how long a member handles one."""
BURST_S = 0.4
"""From burst to burst."""
LAST = 3
"""The name with which the first member is cancelled."""


def check(what: str, holds: object) -> None:
    """Print what holds; raises `AssertionError` if it does not."""
    if not holds:
        raise AssertionError(f"this does not hold: {what}")
    print("✓", what)


@contextmanager
def shown(*kinds: type[Exception], hide: str = "") -> Iterator[None]:
    """Print the error that ends the block: one of greet, or of `kinds`. `hide` is shown as "…"."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (greet.GreetError, *kinds)):
            raise
        text = f"{type(error).__name__}: {error}"
        print(text.replace(hide, "…") if hide else text)


async def take(names: greet.Subscription, count: int) -> list[str]:
    """The next `count` names; raises `TimeoutError` after half a minute."""
    taken: list[str] = []
    try:
        async with asyncio.timeout(SECONDS):
            while len(taken) < count:
                taken.append(await anext(names))
    except TimeoutError:
        again = "if this cell was run before, first run the cells again that publish"
        raise TimeoutError(f"{len(taken)} of {count} names came in {SECONDS} s: {again}") from None
    return taken


async def drain(line: greet.Line) -> list[str]:
    """All the names that wait for "hello": what comes before a last one, which is published now."""
    async with line.subscribe("hello") as names, asyncio.timeout(SECONDS):
        await line.publish("the last")
        found = []
        while (name := await anext(names)) != "the last":
            found.append(name)
        return found


async def share(line: greet.Line, names: Sequence[str], handle: Callable[[str], Awaitable[object]]) -> dict[str, str]:
    """Publish `names` to "hello", which has two members at work: which of them handled each name.

    Raises:
        TimeoutError: a name has not come after half a minute.
        AssertionError: a name came twice.
    """
    handled: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def work(member: str, mine: greet.Subscription) -> None:
        async for name in mine:
            await handle(name)
            handled.put_nowait((name, member))

    async with line.subscribe("hello") as one, line.subscribe("hello") as two, asyncio.TaskGroup() as tasks:
        members = [tasks.create_task(work(who, mine)) for who, mine in (("first", one), ("second", two))]
        await line.publish_many(names)
        async with asyncio.timeout(SECONDS):
            found = dict([await handled.get() for _ in names])
        for member in members:
            member.cancel()
    assert len(found) == len(names), "a name came twice"
    return {name: found[name] for name in names}


async def traced(url: str, topic: str, names: Sequence[str]) -> list[Step]:
    """Send `names` to a group with two members; the first is cancelled with its third name in hand. What happened.

    A topic with partitions has two of them.

    Raises:
        ValueError: there are no names, or two are the same.
    """
    if not names or len({*names}) < len(names):
        raise ValueError("send one name or more, all different")
    if designs.of_url(url).partitioned:
        url = with_query(url, "partitions=2")
    steps: list[Step] = []
    left, done, joined = set(names), asyncio.Event(), asyncio.Barrier(3)
    clock = asyncio.get_running_loop().time

    async def work(member: int, last: int | None = None) -> None:
        async with line.subscribe("hello") as mine:
            await joined.wait()
            taken = 0
            async for name in mine:
                taken += 1
                steps.append(Step(clock(), name, "taken", member))
                await asyncio.sleep(HANDLING_S / 2)
                if taken == last:
                    steps.append(Step(clock(), name, "dropped", member))
                    asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(HANDLING_S / 2)
                steps.append(Step(clock(), name, "greeted", member))
                left.discard(name)
                if not left:
                    done.set()

    async with greet.connect(url, topic) as line, asyncio.TaskGroup() as tasks, asyncio.timeout(SECONDS):
        members = [tasks.create_task(work(0, LAST)), tasks.create_task(work(1))]
        await joined.wait()
        for name in names:
            steps.append(Step(clock(), name, "sent"))
            await line.publish(name)
            await asyncio.sleep(PACE_S)
        await done.wait()
        for member in members:
            member.cancel()
    return [replace(step, at=step.at - steps[0].at) for step in steps]


async def watched(figure: Callable[[], Awaitable[float]], *work: Awaitable[object]) -> list[tuple[float, float]]:
    """Do all of `work` at once, and look at `figure` ten times a second: when, and what it was."""
    clock = asyncio.get_running_loop().time
    start = clock()
    doing = asyncio.gather(*work)
    seen = []
    while not doing.done():
        seen.append((clock() - start, await figure()))
        await asyncio.wait([doing], timeout=0.1)
    await doing
    return [*seen, (clock() - start, await figure())]


async def in_bursts(line: greet.Line, names: Sequence[str], bursts: int) -> None:
    """Publish `names` in so many parts, `BURST_S` apart."""
    size = -(-len(names) // bursts)
    for first in range(0, len(names), size):
        await line.publish_many(names[first : first + size])
        await asyncio.sleep(BURST_S)


async def slowly(line: greet.Line, count: int) -> None:
    """Be a member of "hello" that takes a millisecond for each of `count` names."""
    async with line.subscribe("hello") as names:
        for _ in range(count):
            await take(names, 1)
            await asyncio.sleep(0.001)


def killed(lines: int, *command: str, **environment: str) -> list[str]:
    """Run `python -m greet …`, and kill it (-9) when it has printed so many lines; all whole lines that it printed."""
    start = [sys.executable, "-m", "greet", *command]
    with subprocess.Popen(
        start, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        return [line for line in (*printed, *process.stdout) if line.endswith("\n")]


def pictured(rows: pd.DataFrame, question: str, alt: str) -> Image | str:
    """The picture of a question on some rows of a run, or words where the run did not ask it."""
    asked = rows[rows["question"] == question]
    return plots.picture(questions.question(question).picture(asked), alt) if len(asked) else "the run did not ask this"


def table(frame: pd.DataFrame) -> Markdown:
    """A table of text."""
    from IPython.display import Markdown  # noqa: PLC0415 - as in plots.py: nobody waits for what is not shown

    return Markdown(report.markdown_table(frame))  # type: ignore[no-untyped-call]


def said(rows: pd.DataFrame, notebook: str = "") -> Markdown:
    """The claims that a notebook tries, or all, each with its verdict and its evidence in a run."""
    judged = claims.verdicts(rows)
    if notebook:
        return table(judged[[claim.shown == notebook for claim in claims.CLAIMS]])
    return table(judged.assign(**{"tried in": [linked(claim.shown) for claim in claims.CLAIMS]}))


def needs() -> Markdown:
    """The questions to ask before speed, the designs that each answer leaves, and where it is tried."""
    return table(claims.guide().assign(**{"tried in": [linked(need.shown) for need in claims.NEEDS]}))


def linked(notebook: str) -> str:
    """A link to another notebook."""
    return f"[{notebook}]({notebook}.ipynb)"


def raw(notebook: Path) -> list[str]:
    """The lines of code between a notebook's headings of the raw library and of greet."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    heads = ("## The raw library", "## The same with greet")
    first, last = (next(n for n, (_, text) in enumerate(sources) if text.startswith(head)) for head in heads)
    return [line for kind, text in sources[first:last] if kind == "code" for line in text.splitlines() if line]


def lines_kept(*notebooks: Path) -> pd.DataFrame:
    """How many lines of each notebook's raw program stand in the other ones too."""
    programs = {notebook.stem[3:]: Counter(raw(notebook)) for notebook in notebooks}
    kept = {a: {b: (one & other).total() for b, other in programs.items()} for a, one in programs.items()}
    return pd.DataFrame(kept).T.rename(index="lines of {}".format, columns="kept by {}".format)
