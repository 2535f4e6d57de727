"""A run from its start to its files: whatever happens, what was measured is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

from bench.measure import run
from bench.measure.pool import processes
from bench.model import Cell, Measurement, Settings
from bench.results import Writer, about
from greet import GreetError
from greet.brokers import on_interrupt

TROUBLE = (OSError, ValueError, GreetError, BrokenExecutor)
"""What may go wrong while measuring, such as a full disk, and ends a run without a traceback."""
Questions = Mapping[str, Callable[[Settings], list[Cell]]]
"""The name of each question, and its cells."""
Workers = Callable[[], AbstractContextManager[Executor]]
"""What gives a run its workers."""


class Watcher(Protocol):
    """Who is told how far a run is."""

    def begins(self, repetitions: int) -> None:
        """So many repetitions there will be, as far as is known: it may become more."""

    def asks(self, question: str) -> None:
        """This question comes now."""

    def sees(self, row: Measurement) -> None:
        """This was measured, and is kept."""


@dataclass
class Outcome:
    """How a run ended."""

    missing: dict[str, str] = field(default_factory=dict)
    """The designs that could not be had, and what to do."""
    wrong: bool = False
    """A promise was broken, or a repetition failed."""
    interrupted: bool = False
    trouble: BaseException | None = None
    """What made it stop."""

    @property
    def complete(self) -> bool:
        """Whether all was measured."""
        return not self.interrupted and self.trouble is None


def measured(
    settings: Settings, questions: Questions, writer: Writer, watcher: Watcher, executor: Workers = processes
) -> Outcome:
    """Measure all there is to, and note how it ended."""
    outcome, began = Outcome(), perf_counter()
    try:
        try:
            asyncio.run(_measure(settings, questions, writer, watcher, outcome, executor=executor))
        except* TROUBLE as errors:
            outcome.trouble = errors
    except (KeyboardInterrupt, asyncio.CancelledError):
        outcome.interrupted = True
    try:
        total = round(perf_counter() - began, 1)
        writer.note(complete=outcome.complete, missing=outcome.missing, total_s=total)
    except OSError as error:  # the disk is still full: run.json says as before that it is not complete
        if outcome.complete:
            outcome.trouble = error
    return outcome


async def _measure(
    settings: Settings, questions: Questions, writer: Writer, watcher: Watcher, outcome: Outcome, *, executor: Workers
) -> None:
    task = asyncio.current_task()
    assert task is not None
    on_interrupt(lambda _: task.cancel())
    async with run.session(settings, executor) as session:
        outcome.missing = session.missing
        session.folder = writer.folder
        brokers = {name: site.broker and site.broker.version for name, site in session.sites.items() if site.control}
        writer.note(brokers=brokers, clock_shared=await session.clock_is_shared())
        had = tuple(design for design in settings.designs if design in session.sites)
        settings = session.settings = replace(settings, designs=had)
        work = {name: cells(settings) for name, cells in questions.items()}
        watcher.begins(planned := sum(settings.rounds_of(cell) for cells in work.values() for cell in cells))
        for name, cells in work.items():
            watcher.asks(name)
            began = perf_counter()
            async for row, details in run.rounds(session, name, cells, writer.run):
                writer.append(row, details)
                outcome.wrong |= row.wrong
                watcher.begins(planned + session.repeated)
                watcher.sees(row)
            await session.let_go()  # else the brokers of a question would run beside the next ones
            elapsed = about(writer.folder)["elapsed_s"] | {name: round(perf_counter() - began, 1)}
            writer.note(elapsed_s=elapsed)


def told(settings: Settings) -> dict[str, Any]:
    """The settings for run.json, with what decides each contender's figures."""
    return {
        "profile": settings.profile,
        "designs": settings.designs,
        "guarantee": settings.guarantee and settings.guarantee.name,
        "seconds": settings.seconds,
        "rounds": settings.rounds,
        "loop": settings.loop,
        "seed": settings.seed,
        "defaults": {f"{one.design} {one.label}": one.defaults for one in settings.of()},
    }
