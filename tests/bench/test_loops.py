"""The load: every message counted through real queues, paces kept, breaches noticed, and little cost of its own."""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import numpy as np
import pytest

import greet
from bench.contenders.asyncio_peers import CONTENDERS as PEERS
from bench.contenders.greets import CONTENDERS, Greet
from bench.measure import account, loops, run
from bench.measure.account import STRANGER, Series
from bench.measure.loops import LeanReceipts, Receive, Received, Send, Sent, bare, now, work
from bench.measure.run import session
from bench.model import Cell, Contender, Figures, Following, Place, Publisher, Session, Settings
from bench.questions.work import handled
from greet import Guarantee

OURS = [one for one in CONTENDERS if one.design == "asyncio"]
SETTINGS = Settings(("asyncio",), (*OURS, *PEERS), seconds=0.05, rounds=2)


@contextmanager
def threads() -> Any:
    """Another executor: the workers need no process of their own."""
    with ThreadPoolExecutor(4) as executor:
        yield executor


async def measure(cell: Cell, names: int) -> Figures:
    async with session(SETTINGS, threads) as opened:
        (figures,) = await opened.deliver(cell, names)
        return figures


@pytest.mark.parametrize("contender", [*OURS, *PEERS], ids=lambda one: one.label)
@pytest.mark.parametrize(("groups", "publishers", "members"), [(1, 1, 1), (3, 1, 1), (1, 3, 1), (1, 1, 2), (2, 2, 2)])
async def test_every_name_is_counted(contender: Contender, groups: int, publishers: int, members: int) -> None:
    cell = Cell(contender, Guarantee.AT_LEAST_ONCE, groups=groups, publishers=publishers, members=members)
    fields = (await measure(cell, 2_001)).fields
    assert fields["error"] is None
    assert (fields["sent"], fields["accepted"], fields["received"]) == (2_001, 2_001, 2_001 * groups)
    assert fields["lost"] == fields["duplicates"] == 0
    assert fields["reordered"] == (0 if members == 1 else None)
    assert fields["elapsed_s"] > 0
    assert fields["messages_per_s"] == pytest.approx(2_001 / fields["elapsed_s"])
    assert fields["latency_ms"] is None, "saturated throughput has no latency"


@dataclass(frozen=True)
class Faulty(Greet):
    """Does something wrong to one message."""

    fault: str = ""

    @asynccontextmanager
    async def publisher(self, place: Place) -> AsyncIterator[Publisher]:
        async with super().publisher(place) as good:

            async def publish(name: str) -> None:
                number = int(name[6:16])
                if number == 700 and self.fault == "raise":
                    raise greet.PublishFailed("not this one")
                if number == 700 and self.fault == "drop":
                    return
                if number == 700 and self.fault == "alter":
                    name = name[:-1] + "!"
                await good.publish(name)
                if number == 700 and self.fault == "twice":
                    await good.publish(name)

            yield Publisher(publish)


@pytest.mark.parametrize(
    ("fault", "breach"),
    [
        ("drop", {"lost": 1, "duplicates": 0}),
        ("twice", {"lost": 0, "duplicates": 1}),
        ("alter", {"lost": 1, "error": "1 messages came that nobody had sent"}),
        ("raise", {"lost": 0, "accepted": 700, "error": "PublishFailed: not this one"}),
    ],
)
async def test_a_breach_is_noticed(fault: str, breach: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "QUIET_S", 0.5)
    contender = Faulty("asyncio", "name", 1000, "", guarantees=OURS[0].guarantees, fault=fault)
    fields = (await measure(Cell(contender, Guarantee.AT_LEAST_ONCE), 1_000)).fields
    assert {key: fields[key] for key in breach} == breach


async def test_names_that_nobody_keeps_are_counted_and_the_memory_watched() -> None:
    cell = Cell(OURS[1], Guarantee.AT_LEAST_ONCE, lean=True)
    figures = await measure(cell, 200_000)
    assert (figures.fields["received"], figures.fields["error"], figures.fields["reordered"]) == (200_000, None, 0)
    assert figures.details["grown_mb"] >= 0
    assert (await measure(replace(cell, lean=False), 1_000)).details["grown_mb"] is None


async def test_letters_of_another_length_are_no_names() -> None:
    receipts = LeanReceipts(36)

    async def batches() -> AsyncIterator[list[str]]:
        yield ["abcd00000000000000..", "abcd000000000001"]

    await receipts.take_lists(batches(), 2)
    assert receipts.number == 2
    assert list(receipts.codes("abcd", 18)) == [STRANGER] * 2


async def test_an_open_loop_keeps_its_pace() -> None:
    figures = await measure(Cell(OURS[0], Guarantee.AT_LEAST_ONCE, rate=2_000.0), 2_000)
    assert figures.fields["target_rate"] == 2_000
    assert figures.fields["elapsed_s"] == pytest.approx(1.0, abs=0.3)
    found = figures.details["latencies"]
    assert set(found) == {"intended", "service", "publish", "late"}
    assert found["intended"]["samples"] == 1_800, "the first tenth is left out"
    assert found["intended"]["p50"] < 50
    assert found["intended"]["p50"] >= found["service"]["p50"]
    assert figures.fields["latency_ms"]["p99_9"] is None, "of 1,800 samples no p99.9 is told"


def test_lateness_is_in_the_latency_from_the_intended_send_only() -> None:
    """A loop that is due all at once: the last name waited for all others, yet its own way was short."""
    place = Place("asyncio:", "paced", Guarantee.AT_LEAST_ONCE)
    jobs: list[Send | Receive] = [
        Receive(OURS[0], place, "g0", "abcd", 18, 20_000, stamped=True),
        Send(OURS[0], place, Series("abcd", 0, 20_000), math.inf),
    ]
    received, sent = work(jobs, "select", 30)
    assert isinstance(sent, Sent)
    assert isinstance(received, Received)
    found = run._latencies([sent], [received])
    assert np.median(found["intended"]) > 5 * np.median(found["service"])
    assert found["intended"].max() <= received.last_ns - sent.started_ns + 1_000_000
    assert (found["intended"] >= found["service"]).all()


async def test_workers_share_the_clock() -> None:
    async with session(SETTINGS) as opened:
        assert await opened.clock_is_shared()


def fall(_: object) -> None:
    import os

    os._exit(3)


async def test_a_worker_that_dies_is_told_and_replaced() -> None:
    async with session(SETTINGS) as opened:
        with pytest.raises(Exception, match="terminated abruptly"):
            await opened.submit(fall, None)
        cell = Cell(OURS[1], Guarantee.AT_LEAST_ONCE)
        (broken,) = await opened.measured(cell, 100)
        assert broken.fields["error"] == "a worker process died"
        (whole,) = await opened.measured(cell, 100)
        assert whole.fields["error"] is None


@pytest.mark.parametrize("profile", ["quick", "full"])
async def test_a_repetition_that_was_too_short_is_repeated_with_more_messages(profile: str) -> None:
    """In the full profile; and one of slow messages has more of them, if that takes not twice the time."""
    settings = Settings(("asyncio",), tuple(OURS), profile=profile, seconds=1.0)
    cell = Cell(OURS[1], Guarantee.AT_LEAST_ONCE)

    def took(seconds: float) -> list[Figures]:
        return [Figures({"elapsed_s": seconds})]

    async with run.session(settings) as session:
        if profile == "quick":
            assert session.instead(cell, 10_000, took(0.5)) == 10_000
            return
        assert session.instead(cell, 10_000, took(0.5)) == int(10_000 * 2 * run.MARGIN)
        assert session.instead(cell, 10_000, took(1.0)) == 10_000
        assert session.instead(cell, 1_000, took(0.5)) == int(1_000 * 2 * run.MARGIN * 2)
        assert session.instead(replace(cell, size=65_536), 7_000, took(0.5)) == 2 * run.MOST_BYTES // 65_536
        for fixed in (replace(cell, rate=10.0), replace(cell, load=0.5), replace(cell, names=10_000)):
            assert session.instead(fixed, 10_000, took(0.5)) == 10_000
        assert session.instead(cell, 10_000, [*took(0.5), Figures({"error": "lost"})]) == 10_000


@pytest.mark.parametrize(("names", "repetitions"), [(12_000, [0, 1, 2]), (None, [0])])
async def test_what_is_thrown_away_is_told_if_it_broke_a_promise(
    names: int | None, repetitions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repetition of 12,000 messages is too short; where all lose some, the first warm-up tells."""

    async def deliver(_: object, __: Cell, number: int) -> list[Figures]:
        lost = 3 if number == names or names is None else 0
        fields = {"error": None, "messages_per_s": 10_000.0, "elapsed_s": number / 24_000, "lost": lost}
        return [Figures(fields)]

    monkeypatch.setattr(run.OpenSession, "deliver", deliver)
    settings = Settings(("asyncio",), tuple(OURS), profile="full", seconds=1.0, rounds=2)
    async with session(settings, threads) as opened:
        cells = [Cell(OURS[1], Guarantee.AT_LEAST_ONCE)]
        rows = [row async for row, _ in run.rounds(opened, "throughput", cells, "r")]
    assert [row.repetition for row in rows] == repetitions
    assert [row.wrong for row in rows] == [True] + [False] * (len(rows) - 1)
    assert rows[0].error == "3 lost, in a repetition that was to be thrown away"


@pytest.mark.parametrize(("apart", "error"), [(0.04, None), (0.06, "publishers started 0.06 s apart")])
async def test_publishers_that_started_apart_are_an_error(
    apart: float, error: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a repetition; a warm-up, in which workers may still be starting, is not counted."""

    async def deliver(_: object, __: Cell, ___: int) -> list[Figures]:
        return [Figures({"error": None, "elapsed_s": 1.0}, details={"apart_s": apart})]

    monkeypatch.setattr(run.OpenSession, "deliver", deliver)
    async with session(SETTINGS, threads) as opened:
        cell = Cell(OURS[1], Guarantee.AT_LEAST_ONCE, publishers=2)
        ((found,), _, _) = await opened.repetition(cell, 100)
        assert found.fields["error"] == error
        assert (await opened.once(cell, 100))[0].fields["error"] is None


def test_messages_are_counted_when_nobody_works_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group has its messages long before the other, whose time and CPU time the counting must not take."""
    counted: list[tuple[int, int]] = []

    def codes(*arguments: Any) -> Any:
        counted.append((now(), time.process_time_ns()))
        return account.codes(*arguments)

    monkeypatch.setattr(loops, "codes", codes)
    place = Place("asyncio:?maxsize=20000", "counted", Guarantee.AT_LEAST_ONCE)
    jobs: list[Send | Receive] = [
        Receive(OURS[0], place, "first", "abcd", 18, 10),
        Receive(OURS[0], place, "second", "abcd", 18, 20_000),
        Send(OURS[0], place, Series("abcd", 0, 20_000)),
    ]
    *received, _ = work(jobs, "asyncio", 30)
    first, spent = min(counted)
    for one in received:
        assert isinstance(one, Received)
        assert one.last_ns <= first
        assert one.usage.cpu_to <= spent


@dataclass(frozen=True)
class Slow(Greet):
    """A consumer that takes 0.3 s for each message."""

    @asynccontextmanager
    async def consumer(self, place: Place, group: str) -> AsyncIterator[AsyncIterator[Any]]:
        async with super().consumer(place, group) as names:
            following: Any = Following(handled(names.__anext__, 0.3))
            try:
                yield following
            except asyncio.CancelledError as error:
                ENDED.append([frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)])
                raise


ENDED: list[list[str]] = []
"""Of each consumer that was ended, what it was in."""


def test_nobody_is_ended_while_it_handles_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that is looked at when it has just got the last message of its group still has to handle it."""
    monkeypatch.setattr(loops, "LOOK_S", 0.5)
    ENDED.clear()
    place, slow = Place("asyncio:", "handled", Guarantee.AT_LEAST_ONCE), Slow(**vars(OURS[0]))
    jobs: list[Send | Receive] = [
        *(Receive(slow, place, "g", "abcd", 18, 8) for _ in range(2)),
        Send(OURS[0], place, Series("abcd", 0, 8)),
    ]
    *received, _ = work(jobs, "asyncio", 30)
    assert sum(len(one.codes) for one in received if isinstance(one, Received)) == 8
    assert len(ENDED) == 2
    assert not any("sleep" in calls for calls in ENDED), "it handled a message"


async def test_rounds_are_interleaved_in_an_order_that_the_seed_tells() -> None:
    async def quick(_: Session, cell: Cell, __: int) -> list[Figures]:
        return [Figures({"error": None, "messages_per_s": 1.0 + cell.size})]

    phases = ("publish", "consume")  # what is compared has the same
    cells = [
        Cell(OURS[0], Guarantee.AT_LEAST_ONCE, size=size, phase=phases[size % 2], measure=quick)
        for size in range(20, 28)
    ]
    orders = []
    for seed in (1, 1, 2):
        async with session(Settings(("asyncio",), (), rounds=5, seed=seed), threads) as opened:
            rows = [row async for row, _ in run.rounds(opened, "throughput", cells, "r")]
        assert [row.repetition for row in rows] == sorted([1, 2, 3, 4, 5] * 8)
        orders.append([row.params["size"] for row in rows])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:8] != orders[0][8:16]
    of_one_size = [Cell(OURS[0], one, size=size) for size in (20, 30) for one in Guarantee for _ in range(4)]
    order = run._interleaved(of_one_size, random.Random(1).shuffle)
    assert [len({(one.size, one.guarantee) for one in order[at : at + 4]}) for at in range(0, 24, 4)] == [1] * 6
    for start in range(0, 40, 8):
        assert [len({size % 2 for size in orders[0][at : at + 4]}) for at in (start, start + 4)] == [1, 1]


@pytest.mark.parametrize(("profile", "uneven"), [("full", [1, 2, 3, 4, 5, 6, 7, 8]), ("quick", [1, 2, 3, 4])])
async def test_a_cell_whose_repetitions_differ_much_has_as_many_once_more(
    profile: str, uneven: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the cells one is even, one is uneven from end to end, one only while it is read, and one fails."""
    done: Counter[int] = Counter()

    async def deliver(_: object, cell: Cell, __: int) -> list[Figures]:
        done[cell.size] += 1
        speeds = {"publish": 1000.0, "consume": 1000.0 * (1 + done[cell.size] % 2)}
        if cell.size == 20:
            speeds = {"together": 1000.0}
        elif cell.size == 21:
            speeds = {"together": speeds["consume"]}
        return [
            Figures(
                {"elapsed_s": 2.0, "messages_per_s": speed, "error": "broken" if cell.size == 23 else None},
                {"phase": phase},
            )
            for phase, speed in speeds.items()
        ]

    async def names_for(*_: object) -> int:
        return 2000

    monkeypatch.setattr(run.OpenSession, "deliver", deliver)
    monkeypatch.setattr(run.OpenSession, "names_for", names_for)
    async with session(Settings(("asyncio",), tuple(OURS), profile=profile, rounds=4), threads) as opened:
        cells = [Cell(OURS[1], Guarantee.AT_LEAST_ONCE, size=size) for size in (20, 21, 22, 23)]
        rows = [row async for row, _ in run.rounds(opened, "throughput", cells, "r")]
    had = {
        (size, phase): [row.repetition for row in rows if (row.params["size"], row.params["phase"]) == (size, phase)]
        for size, phase in [(20, "together"), (21, "together"), (22, "publish"), (22, "consume"), (23, "consume")]
    }
    assert [*had.values()] == [[1, 2, 3, 4], uneven, uneven, uneven, [1, 2]]
    assert opened.repeated == 2 * (len(uneven) - 4)


async def test_a_cell_that_fails_once_is_measured_on() -> None:
    failing = iter([True, False, False, True, False])

    async def once(_: Session, __: Cell, ___: int) -> list[Figures]:
        return [Figures({"error": "for once" if next(failing) else None, "messages_per_s": 1.0})]

    async with session(Settings(("asyncio",), (), rounds=5), threads) as opened:
        cells = [Cell(OURS[0], Guarantee.AT_LEAST_ONCE, measure=once)]
        rows = [row async for row, _ in run.rounds(opened, "throughput", cells, "r")]
    assert [row.repetition for row in rows if row.error] == [1, 4]
    assert [row.repetition for row in rows] == [1, 2, 3, 4]


def _with_harness(names: int) -> None:
    place = Place("asyncio:", f"harness-{now()}", Guarantee.AT_LEAST_ONCE)
    jobs: list[Send | Receive] = [
        Receive(OURS[1], place, "g", "abcd", 18, names),
        Send(OURS[1], place, Series("abcd", 0, names)),
    ]
    received, sent = work(jobs, "asyncio", 60)
    assert isinstance(sent, Sent)
    assert isinstance(received, Received)
    assert len(received.codes) == names


def _instructions(loop: Callable[[int], object], names: int) -> int:
    """The instructions of Python that `loop` executes, which no other load of the machine moves.

    What one of them costs is not seen, nor what is done in C: for times the question *ladder* has `bare` beside it.
    """
    loop(10)  # what is done only once, as imports are
    count = 0

    def look(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return look

    def seen(*_: object) -> None:
        nonlocal count
        count += 1

    if sys.version_info[:2] == (3, 12):  # its trace leaves instructions out
        monitor, tool = sys.monitoring, sys.monitoring.PROFILER_ID
        monitor.use_tool_id(tool, "instructions")
        monitor.register_callback(tool, monitor.events.INSTRUCTION, seen)
        monitor.set_events(tool, monitor.events.INSTRUCTION)
        try:
            loop(names)
        finally:
            monitor.set_events(tool, 0)
            monitor.free_tool_id(tool)
        return count
    before = sys.gettrace()
    sys.settrace(look)
    try:
        loop(names)
    finally:
        sys.settrace(before)
    return count


def test_the_harness_executes_less_than_five_per_cent_more() -> None:
    """For each message; what is done once a repetition is not counted."""
    each = [_instructions(loop, 30_000) - _instructions(loop, 10_000) for loop in (bare, _with_harness)]
    assert 20_000 < each[0] <= each[1] < 1.05 * each[0]
