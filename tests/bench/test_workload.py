"""A workload: how it is read, what of it each design can, how its figures come about, and the answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from math import inf
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import bench
import greet
from bench import contenders
from bench.__main__ import main
from bench.faults import ground
from bench.faults.arena import Arenas
from bench.faults.proxy import Proxy
from bench.faults.stage import Pool
from bench.judge import compare
from bench.judge import workload as judge
from bench.judge.workload import Answer
from bench.measure import account
from bench.measure.account import SHIFT
from bench.measure.carry import Crew, Nothing, Outcome, Publish, Run, _Pace, _Worker, now
from bench.measure.trial import Trial, enough, figures, gap, grows, pile
from bench.measure.workload import Misread, Workload, example, from_file, from_flag, lines_of, meaning, points
from bench.model import Figures, Place
from bench.results import MEASUREMENTS, RUN
from bench.schema import BadRun
from bench.show import workload as show
from greet import Guarantee, brokers
from greet.brokers import VARIABLES, Broker, rabbitmq
from greet.brokers.process import PRIVATE_PORTS
from greet.designs import DESIGNS, Design, named

ROOT = Path(__file__).parents[2]
STREAM = {"workload": {"designs": ["rabbitmq-stream"]}}
THREE = ("asyncio", "rabbitmq", "kafka")

pytestmark = pytest.mark.timeout(180)


# ------------------------------------------------------------------------------------------- how it is read


def written(folder: Path, text: str) -> Path:
    file = folder / "case.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_file_of_init_says_every_key_and_its_default(tmp_path: Path) -> None:
    said = from_file(written(tmp_path, example()))
    assert list(said) == [name for name, *_ in meaning()]
    assert points(said) == [Workload()]


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("rate = 5\nsise = 8", 2, "there is no key 'sise': do you mean size?"),
        ("xyzzy = 8", 1, "there is no key 'xyzzy': use about, size, samples"),
        ("\n[load]\nrate = 5", 2, "[load] is a table: write its keys without one"),
        ("rate = -5", 1, "rate: -5: a rate is above 0"),
        ("rate = 0", 1, "a rate is above 0"),
        ("rate = nan", 1, "a rate is above 0"),
        ('rate = "100..-1"', 1, "a rate is above 0"),
        ("rate = true", 1, "True is not a rate"),
        ('rate = "fast"', 1, "'fast' is not a rate"),
        ("size = 15", 1, "15: a message has 16 to 65,536 bytes here"),
        ("size = 65537", 1, "a message has 16 to 65,536 bytes here: store a larger body elsewhere"),
        ('size = "100+70000"', 1, "a message has 16 to 65,536 bytes"),
        ('size = "900..100"', 1, "goes down"),
        ("size = 20.5", 1, "20.5 is not a size"),
        ('size = "2KB"', 1, "'2KB' is not a size in bytes: say 800"),
        ("members = 0", 1, "0 is not a whole number from 1 to 64"),
        ("members = 1.5", 1, "1.5 is not a whole number"),
        ("members = true", 1, "True is not a whole number"),
        ("members = []", 1, "members has no value"),
        ("members = [1, [2]]", 1, "[2] is not a single value"),
        ("members = [1, 0]", 1, "0 is not a whole number"),
        ('survive = "all"', 1, "'all' is not one of nothing, consumer, broker"),
        ('apart = "yes"', 1, "'yes' is neither true nor false"),
        ('keep = "3 weeks"', 1, "'3 weeks' is not a time"),
        ("keep = -1", 1, "-1 is not a time"),
        ('about = "a\\u001bb"', 1, "is not one line of text"),
        ("rate = 5\nrate = 6", 2, "is not TOML"),
        ("rate = 5\nsize = ", 2, "is not TOML: Invalid value: each key needs a value, and text needs quotes"),
        ("survive = broker", 1, "text needs quotes"),
        ("rate = 1979-05-27", 1, "is not a single value"),
        ('samples = "missing.txt"', 1, "missing.txt: No such file or directory"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, line: int, told: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(Misread) as error:
        from_file(file)
    assert str(error.value).startswith(f"{file}:{line}: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_the_size_is_that_of_the_samples(tmp_path: Path) -> None:
    """As it says how much disk they take, and how many fit into a step of the search."""
    samples = tmp_path / "some.txt"
    samples.write_text(f"{'a' * 1_000}\n{'ö' * 1_000}\n", encoding="utf-8")
    (one,) = points({"samples": (str(samples),), "keep": ("8 days",), "rate": ("100",)})
    assert one.mean_size == 1_500
    (kept, deleted) = judge.remarks(one, named("kafka"))
    assert kept == "100 messages a second, kept for 8 days and 20% more, take at least 124 GB of disk for each copy"
    assert "after 7 days, read or not" in deleted
    assert len(judge.remarks(one, named("rabbitmq"))) == 1


def test_samples_are_seen_from_the_file_and_each_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("héllo, this is a longer message\nshort\n", encoding="utf-8")
    (path,) = from_file(written(tmp_path, 'samples = "some.txt"'))["samples"]
    assert lines_of(Path(str(path)), "") == ["a longer message", ""], "what its number takes is left out"
    (tmp_path / "some.txt").write_bytes(b"good\nbad\x07\n")
    with pytest.raises(Misread, match=r"some\.txt:2: .*control character"):
        from_file(written(tmp_path, 'samples = "some.txt"'))
    (tmp_path / "some.txt").write_text("good\n\n")
    with pytest.raises(Misread, match=r"some\.txt:2: a name has 1 to"):
        from_file(written(tmp_path, 'samples = "some.txt"'))
    (tmp_path / "some.txt").write_bytes(b"")
    with pytest.raises(Misread, match="is empty"):
        from_file(written(tmp_path, 'samples = "some.txt"'))
    (tmp_path / "some.txt").write_bytes(b"\xff\n")
    with pytest.raises(Misread, match="is not UTF-8"):
        from_file(written(tmp_path, 'samples = "some.txt"'))


def test_a_list_is_a_dimension(tmp_path: Path) -> None:
    said = from_file(written(tmp_path, 'members = [1, 3]\nrate = [10, "10..20"]\nbreak = "broker"\nsize = 100'))
    found = [(one.rate, one.members) for one in points(said)]
    assert found == [(10, 1), (10, 3), ("10..20", 1), ("10..20", 3)]
    assert from_flag("members", "1, 3") == (1, 3)
    assert from_flag("about", "one, two") == ("one, two",)
    assert from_flag("apart", "true") == (True,)
    with pytest.raises(Misread, match="--p99-ms: 'soon'"):
        from_flag("p99_ms", "soon")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"rate": (1_000_000,), "seconds": (10,)}, "are more than 2,000,000"),
        (
            {"break": ("broker",), "break_at": (5,), "seconds": (3,)},
            "break_at 5 is not before the last message of the run",
        ),
        (
            {"rate": ("100..0",), "break": ("broker",), "break_at": (2.95,), "seconds": (3,)},
            "not before the last message",
        ),
        (
            {"rate": (2,), "burst": (1000,)},
            "a run of 10 seconds has 20 messages, and no burst of 1,000: lower the burst",
        ),
    ],
)
def test_what_does_not_go_together_is_told(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        points(said)


# ------------------------------------------------------------------------------------------- the timetable


def test_an_even_flow_and_its_multiple() -> None:
    due = Workload(rate=100).due(2.0)
    assert len(due) == 200
    assert np.allclose(np.diff(due), 1e7, rtol=1e-3)
    assert 0 <= due[0] < due[-1] < 2e9
    assert len(Workload(rate=100).due(2.0, 3.0)) == 600


def test_bursts_are_due_at_one_moment_in_the_middle_of_their_time() -> None:
    due = Workload(rate=100, burst=50).due(1.0)
    moments, sizes = np.unique(due, return_counts=True)
    assert sizes.tolist() == [50, 50]
    assert moments == pytest.approx([0.25e9, 0.75e9], rel=1e-6)
    assert np.unique(Workload(rate=100, burst=50).due(1.0, 2.0), return_counts=True)[1].tolist() == [50] * 4


def test_a_curve_goes_up_and_down_again() -> None:
    one = Workload(rate="0..400..0")
    due = one.due(4.0)
    assert one.mean_rate == 200
    assert len(due) == 800
    by_second = np.histogram(due / 1e9, bins=4, range=(0, 4))[0]
    assert by_second == pytest.approx([100, 300, 300, 100], abs=2)
    assert (np.diff(due) >= 0).all()


def test_sizes_are_as_asked_and_the_same_each_time() -> None:
    assert set(Workload(size=100).bodies(5)) == {84}
    assert Workload(size="100+200").bodies(4) == [84, 184, 84, 184]
    spread = Workload(size="100..200").bodies(5000)
    assert spread == Workload(size="100..200").bodies(5000)
    assert min(spread) == 84
    assert max(spread) == 184
    assert Workload().bodies(3, ["a", "b"]) == ["a", "b", "a"]


def test_a_run_is_as_long_as_a_p99_takes_within_bounds() -> None:
    assert Workload(rate=250).for_s == pytest.approx(5.0)
    assert Workload(rate=10_000).for_s == 3.0
    assert Workload(rate=1).for_s == 10.0
    assert Workload(rate=1, seconds=2).for_s == 2


# --------------------------------------------------------------------------------------------- the figures

MS = 1_000_000


def outcome(waits: Sequence[int], rate: float = 1000.0, **more: Any) -> Outcome:
    """One group that has each message so many ns after it was due; -1 is never."""
    due = (np.arange(len(waits)) * 1e9 / rate).astype(np.int64)
    came = np.where(np.asarray(waits) < 0, -1, due + np.asarray(waits))
    codes = np.arange(len(waits), dtype=np.int64)
    got = codes[came >= 0][np.argsort(came[came >= 0], kind="stable")]
    start = Outcome(due, codes, due + 1, due + 2, (came,), (got,), (np.sort(came[came >= 0]) + 5,), (len(got),))
    return replace(start, seconds=len(waits) / rate, **more)


def told(found: Outcome, **more: Any) -> Any:
    return figures(found, Workload(**{"p99_ms": 10, **more}), Guarantee.AT_LEAST_ONCE, 1, ordered=True)


def test_latency_is_from_when_a_message_was_due() -> None:
    found = told(outcome([MS] * 1100 + [5 * MS] * 900))
    assert found.fields["latency_ms"]["p50"] == pytest.approx(1)
    assert found.fields["latency_ms"]["p99"] == pytest.approx(5)
    assert found.fields["latency_ms"]["p99_9"] is None, "that takes 10,000 samples"
    assert found.params["in_time"] is True
    assert found.fields["lost"] == found.fields["duplicates"] == found.fields["reordered"] == 0
    assert found.fields["sent"] == found.fields["accepted"] == found.fields["received"] == 2000


def test_what_is_not_enough_samples_is_none() -> None:
    assert told(outcome([MS] * 900)).fields["latency_ms"]["p99"] is None
    assert enough({"p50": 1.0, "p99": 2.0, "p99_9": 3.0}, 9_999) == {"p50": 1.0, "p99": 2.0, "p99_9": None}


def test_one_in_a_hundred_may_be_late_and_no_more() -> None:
    assert told(outcome([MS] * 1991 + [11 * MS] * 9)).params["in_time"] is True
    late = told(outcome([MS] * 1900 + [11 * MS] * 100))
    assert late.params["in_time"] is False
    assert late.params["late"] == pytest.approx(100 / 1800)


def test_a_message_that_never_comes_is_late_and_lost() -> None:
    found = told(outcome([MS] * 1900 + [-1] * 100))
    assert found.fields["lost"] == 100
    assert found.params["late"] == pytest.approx(100 / 1800)
    assert found.params["in_time"] is False


def test_a_load_of_which_a_message_is_lost_was_not_carried() -> None:
    found = told(outcome([MS] * 1999 + [-1]))
    assert found.params["late"] < 0.01
    assert found.params["in_time"] is False


def test_what_was_not_waited_for_is_not_lost() -> None:
    found = told(outcome([MS] * 1900 + [-1] * 100, cut=True))
    assert found.fields["lost"] is None
    assert found.params["unread"] == 100
    assert found.params["in_time"] is False


def test_a_growing_backlog_is_not_in_time_whatever_the_limit() -> None:
    waits = [int(k * 0.3 * MS) for k in range(2000)]  # each 0.3 ms later than the one before
    found = told(outcome(waits), p99_ms=60_000)
    assert found.params["late"] == 0
    assert found.params["backlog"] > 400
    assert found.params["in_time"] is False


def test_a_backlog_that_grows_within_the_limit_is_not_in_time_either() -> None:
    """At 1,009 a second for readers that handle 920, as published once: in 1.5 s no message waits for long."""
    waits = [MS + int(k * (1e9 / 920 - 1e9 / 1009)) for k in range(1514)]
    found = told(outcome(waits, rate=1009), p99_ms=250)
    assert found.params["late"] == 0
    assert found.params["backlog"] < 0.1 * 1514, "that was allowed"
    assert found.params["in_time"] is False


def served(due: Any, each_ns: int, pause: tuple[int, int] = (0, 0)) -> Any:
    """When each message comes if one reader takes so long for each, and none comes during a pause."""
    free, came = 0, []
    for one in due.tolist():
        at = max(one + MS, free)
        at = pause[1] if pause[0] <= at < pause[1] else at
        came.append(at)
        free = at + each_ns
    return np.array(came)


@pytest.mark.parametrize(
    ("rate", "burst", "falls_behind"),
    [
        *[(500, 1, False), (960, 1, False), (1040, 1, True), (1200, 1, True)],
        *[(500, 250, False), (960, 250, False), (1040, 250, True), (1200, 250, True)],
        *[("200..960", 1, False), ("300..1500", 1, True), ("200..960..200", 10, False)],
    ],
)
def test_readers_that_handle_a_thousand_a_second_fall_behind_a_larger_load(
    rate: int | str, burst: int, falls_behind: bool
) -> None:
    due = Workload(rate=rate, burst=burst).due(1.5)
    assert grows(due, served(due, MS), 1.5, burst) is falls_behind


def test_a_pause_or_many_that_are_under_way_are_no_growth() -> None:
    due = Workload(rate=500).due(1.5)
    for began in (100, 600, 1200):
        assert not grows(due, served(due, MS, (began * MS, (began + 100) * MS)), 1.5)
    assert not grows(due, due + 400 * MS, 1.5), "200 are under way from the beginning on"
    rising = Workload(rate="1000..100000").due(1.5)
    assert not grows(rising, rising + 20 * MS, 1.5), "a wait of 20 ms is more messages at a higher rate"


def test_what_came_twice_or_out_of_order_is_counted() -> None:
    good = outcome([MS] * 1000)
    twice = replace(good, handled=(np.concatenate([good.handled[0], good.handled[0][:3]]),))
    assert told(twice).fields["duplicates"] == 3
    order = good.handled[0].copy()
    order[[10, 11]] = order[[11, 10]]
    assert told(replace(good, handled=(order,))).fields["reordered"] == 1
    stranger = replace(good, handled=(np.concatenate([good.handled[0], [7 << SHIFT]]),))
    assert "nobody had sent" in told(stranger).fields["error"]


def test_what_was_refused_or_is_unknown_is_neither_accepted_nor_lost() -> None:
    good = outcome([MS] * 1000)
    accepted = good.accepted.copy()
    accepted[:5], accepted[5:8] = -1, -2
    found = told(replace(good, accepted=accepted))
    assert (found.fields["accepted"], found.params["refused"], found.params["unknown"]) == (992, 5, 3)
    assert found.fields["lost"] == 0
    assert found.params["in_time"] is False


def test_the_pile_of_a_burst_and_how_long_it_takes() -> None:
    due = np.repeat(np.array([1_000 * MS, 2_000 * MS]), [50, 60])
    came = due + np.concatenate([np.arange(1, 51) * MS, np.arange(1, 61) * 2 * MS])
    piled, late = pile(due, came, 50.0)
    assert piled == 60
    assert late == pytest.approx(0.118), "one may wait: it is under way"
    assert pile(due, np.where(came < 1_500 * MS, came, -1), 50.0) == (60, None), "it never was gone"


def test_the_gap_is_the_longest_time_without_a_message_after_the_break() -> None:
    good = outcome([MS] * 1000)
    done = good.done[0]
    late = np.where((done > 300 * MS) & (done < 700 * MS), done + 400 * MS, done)
    assert gap(good) is None
    assert gap(replace(good, done=(np.sort(late),), hurt=(0.25, 0.3))) == pytest.approx(0.4, abs=0.01)
    assert gap(replace(good, hurt=(0.25, 0.3))) == pytest.approx(0.001, abs=0.001)


def test_a_service_that_handles_one_message_more_and_stops_has_not_come_back() -> None:
    broken = (0.25, 0.3)
    assert gap(replace(outcome([MS] * 300 + [-1] * 700), hurt=broken)) is None
    assert gap(replace(outcome([MS] * 250 + [-1] * 750), hurt=broken)) is None
    lost = outcome([MS] * 300 + [-1] * 300 + [MS] * 400)
    assert gap(replace(lost, hurt=broken)) == pytest.approx(0.3, abs=0.01), "a loss, but it came back"
    refused = replace(outcome([MS] * 300 + [-1] * 700), hurt=broken)
    refused.accepted[300:] = -1
    assert gap(refused) is None, "nor is it back where all are refused"
    assert gap(replace(outcome([MS] * 200), hurt=broken)) == 0.0, "nothing was due any more"


def test_a_gap_counts_from_when_a_message_was_due() -> None:
    """At one message a second the way from one to the next is no time without service."""
    seldom = outcome([MS] * 5, rate=1)
    assert gap(replace(seldom, hurt=(1.5, 1.6))) == pytest.approx(0.001, abs=1e-6)
    seldom.done[0][2] += 400 * MS
    assert gap(replace(seldom, hurt=(1.5, 1.6))) == pytest.approx(0.401)
    assert gap(replace(seldom, hurt=(2.1, 2.2))) == pytest.approx(0.301), "from the break on"


# ------------------------------------------------------------------------------------------ the load itself


async def test_what_fills_messages_is_made_before_the_first_one_is_due(tmp_path: Path) -> None:
    said: list[tuple[object, int]] = []
    account._text.cache_clear()
    worker = _Worker(lambda what: said.append((what, account._text.cache_info().currsize)))
    (journal := tmp_path / "journal").write_bytes(bytes(16))
    nobody, place = Nothing("asyncio", "name", 0, "", window=1), Place("", "text", Guarantee.AT_LEAST_ONCE)
    worker.begin([Publish(nobody, place, "ab1200", np.zeros(1, np.int64), [100], str(journal))])
    async with asyncio.timeout(30):
        while not said:
            await asyncio.sleep(0)
    worker.start.set_result(now())
    await asyncio.gather(*worker.tasks)
    assert said == [("ready", 1), ("published", 1)]


@pytest.mark.parametrize("publish", ["each", "many"])
@pytest.mark.parametrize("read", [True, False], ids=["read", "sent"])
async def test_the_load_alone_is_counted_message_by_message(publish: str, read: bool) -> None:
    one = Workload(rate=2000, burst=50, size="20..400", publish=publish, groups=2, members=2, publishers=2, p99_ms=9e4)
    nobody = Nothing("asyncio", "many" if one.lists else "name", 0, "", window=3)
    place = Place("", "alone", Guarantee.AT_LEAST_ONCE, window=3)
    found = await Run(one, nobody, nobody if read else None, place, in_process=read, seconds=0.5).carried()
    assert len(found.handled) == (2 if read else 1), "each group has all"
    counted = told(found, p99_ms=9e4)
    assert counted.fields["sent"] == counted.fields["accepted"] == 1000
    assert counted.fields["received"] == 1000 * len(found.handled)
    assert counted.fields["lost"] == counted.fields["duplicates"] == 0
    assert counted.fields["error"] is None
    assert counted.params["in_time"] is True


@pytest.mark.parametrize(
    ("design", "survive", "guarantee"),
    [
        ("asyncio", "nothing", Guarantee.AT_MOST_ONCE),
        ("rabbitmq", "nothing", Guarantee.AT_MOST_ONCE),
        ("kafka", "nothing", Guarantee.AT_LEAST_ONCE),
        ("rabbitmq-stream", "nothing", Guarantee.AT_LEAST_ONCE),
        ("kafka-share", "nothing", Guarantee.AT_LEAST_ONCE),
        ("kafka", "broker", Guarantee.DURABLE),
    ],
)
def test_the_guarantee_is_the_cheapest_that_is_enough(design: str, survive: str, guarantee: Guarantee) -> None:
    here = ground.Ground(named(design), "", None)
    who = Nothing(design, "name", 0, "", 1)
    assert Trial("r", here, who, who, Workload(survive=survive)).guarantee is guarantee
    assert Trial("r", here, who, who, Workload(survive=survive, keep="1 day")).guarantee is Guarantee.DURABLE


def test_what_must_be_kept_is_no_matter_of_a_kill() -> None:
    kept = Workload(survive="consumer", keep="1 day")
    assert judge.unable(kept, named("asyncio")) == [
        "it keeps only what its bounded queue holds, and only as long as its process runs"
    ]
    said = judge.deployment(kept, named("rabbitmq"))
    assert said.startswith("On your own broker: ")
    assert "Guarantee.DURABLE" in said


@dataclass(frozen=True)
class Warming(Trial):
    """A trial that writes down what it would carry: how many messages a second, and for how many seconds."""

    carried: list[tuple[object, float]] = field(default_factory=list)

    async def _tried(self, seconds: float, *_: Any, **__: Any) -> Figures:
        self.carried.append((self.workload.rate, seconds))
        return Figures({}, {})


@pytest.mark.parametrize(
    ("design", "ours", "carried"),
    [
        ("kafka", True, [(1000, 20.0), (7, 1.0)]),
        ("kafka-share", True, [(1000, 20.0), (7, 1.0)]),
        ("kafka", False, [(7, 1.0)]),
        ("rabbitmq", True, [(7, 1.0)]),
        ("asyncio", True, [(7, 1.0)]),
    ],
)
async def test_a_broker_that_is_slow_at_first_is_warmed_up_if_it_was_just_started(
    design: str, ours: bool, carried: list[tuple[float, float]]
) -> None:
    there = ground.Ground(named(design), "", cast("Broker", object()) if ours else None)
    who = Nothing(design, "name", 0, "", 1)
    trial = Warming("r", there, who, who, Workload(rate=7))
    await trial._warmed()
    assert trial.carried == carried


@dataclass(frozen=True)
class Searching(Trial):
    """A search over a design that carries so many times the load, and of which each step takes so many seconds."""

    carries: float = 1.0
    made: bool = True
    clock: list[float] = field(default_factory=lambda: [0.0])

    async def _step(self, factor: float) -> Figures:
        self.clock[0] += 8.0
        return Figures({"error": None, "sent": 1}, {"in_time": factor <= self.carries, "late": 1.0, "made": True})

    async def _can_be_made(self, factor: float) -> bool:
        return self.made


@pytest.mark.parametrize("carries", [0.2, 0.7, 0.99, 1.0, 1.15, 3.9, 4.0, 7.5, 30.0, 300.0])
async def test_a_search_ends_close_to_what_is_carried_also_where_steps_are_slow(
    monkeypatch: pytest.MonkeyPatch, carries: float
) -> None:
    nobody = Nothing("asyncio", "name", 0, "")
    there = ground.Ground(named("asyncio"), "", None)
    trial = Searching("r", there, nobody, nobody, Workload(rate=100), carries=carries)
    monkeypatch.setattr("bench.measure.trial.time.monotonic", lambda: trial.clock[0])
    found = (await trial._room(await trial._step(1.0))).params
    assert found["room"] <= carries < found["too_much"] <= 1.2 * found["room"]
    assert found["capped"] is False
    unmade = replace(trial, made=False, clock=trial.clock)
    assert (await unmade._room(await unmade._step(1.0))).params["capped"] is (carries != 0.99)


@pytest.mark.parametrize(
    ("design", "rate", "work_ms", "limit"),
    [("kafka", 300, 2, 1000), ("rabbitmq-stream", 300, 2, 500), ("asyncio", 20, 0.001, 2e6), ("kafka", 7, 400, 5)],
)
@pytest.mark.parametrize("carries", [0.2, 0.9, 1.3, inf])
async def test_a_search_finds_no_more_than_the_readers_can_do(
    monkeypatch: pytest.MonkeyPatch, design: str, rate: float, work_ms: float, limit: float, carries: float
) -> None:
    """However good its short steps look: two readers, of which over a stream one works."""
    nobody = Nothing(design, "name", 0, "")
    case = Workload(rate=rate, members=2, work_ms=work_ms)
    trial = Searching("r", ground.Ground(named(design), "", None), nobody, nobody, case, carries=carries)
    monkeypatch.setattr("bench.measure.trial.time.monotonic", lambda: trial.clock[0])
    found = (await trial._room(await trial._step(1.0))).params
    assert found["room"] <= carries
    assert found["room"] * rate <= limit
    close = found["room"] * 1.2 >= min(carries, limit / rate)
    assert close is not found["capped"], "at least so much, where the most that may be tried was carried"
    assert close or design == "asyncio"
    assert found["too_much"] <= limit / rate


@dataclass(frozen=True)
class Losing(Trial):
    """A trial that loses three messages of each run of so many seconds or times the load."""

    loses: tuple[float, ...] = ()

    async def _tried(self, seconds: float, factor: float = 1.0, **_: Any) -> Figures:
        lost = 3 if {seconds, factor} & {*self.loses} else 0
        return Figures({"error": None, "sent": 1, "lost": lost}, {"in_time": True, "late": 0.0})


@pytest.mark.parametrize("loses", [20.0, 1.0])
async def test_what_is_lost_while_it_warms_up_is_told(loses: float) -> None:
    there = ground.Ground(named("kafka"), "", cast("Broker", object()))
    nobody = Nothing("kafka", "name", 0, "")
    trial = Losing("r", there, nobody, nobody, Workload(rate=7, seconds=3, room=False), loses=(loses,))
    ((found, _),) = [row async for row in trial.measured()]
    assert found.error == "3 lost, in a repetition that was to be thrown away"


async def test_a_search_in_which_messages_are_lost_says_so() -> None:
    there = ground.Ground(named("asyncio"), "", None)
    nobody = Nothing("asyncio", "name", 0, "")
    trial = Losing("r", there, nobody, nobody, Workload(rate=100, seconds=3), loses=(16.0,))
    rows = [row async for row, _ in trial.measured()]
    assert [row.error for row in rows] == [None, "3 lost at 16.00 times the load"]
    assert (rows[1].params["room"], rows[1].params["too_much"]) == (4.0, None)


@dataclass(frozen=True)
class Dying(Trial):
    """A trial whose broker is killed in the middle of the first step of the search."""

    running: list[Broker] = field(default_factory=list)

    async def _step(self, factor: float) -> Figures:
        async def strike() -> None:
            await asyncio.sleep(1)
            await self.running.pop().kill()

        striking = [asyncio.create_task(strike()) for _ in self.running]
        found = await super()._step(factor)
        await asyncio.gather(*striking)
        return found


@pytest.mark.long
async def test_a_search_whose_broker_dies_says_why_there_is_no_figure() -> None:
    """It keeps what was carried before, calls no load too much, and the run is not a good one."""
    greets = {one.way: one for one in contenders.every() if one.name == "greet" and one.design == "rabbitmq"}
    case = Workload(rate=200, seconds=1, p99_ms=5000)
    async with rabbitmq() as broker:
        here = ground.Ground(named("rabbitmq"), f"{broker.url}?timeout=3", broker)
        trial = Dying("r", here, greets["name"], greets["many"], case, running=[broker])
        rows = [one async for one, _ in trial.measured()]
    asked, room = rows
    assert (asked.wrong, asked.params["in_time"]) == (False, True)
    assert room.wrong
    assert room.error is not None
    assert "ConnectFailed" in room.error
    assert room.params["room"] == 1.0
    assert room.params["too_much"] is None
    console = Console(width=80, record=True, file=StringIO())
    told_of = {"workload": {"designs": ["rabbitmq"], "points": [asdict(case)], "dimensions": []}}
    show.terminal(console, pd.json_normalize([asdict(one) for one in rows], max_level=1), told_of)
    said = " ".join(console.export_text().split())
    assert "RabbitMQ: the search for its capacity stopped early, so it may carry more: ConnectFailed" in said


# ---------------------------------------------------------------------------------------- can it at all


@pytest.mark.parametrize(
    ("needs", "able"),
    [
        ({}, THREE),
        ({"survive": "broker"}, ("rabbitmq", "kafka")),
        ({"replay": True}, ("kafka",)),
        ({"order": "all"}, THREE),
        ({"order": "all", "members": 2}, ()),
        ({"order": "all", "partitions": 2}, ("asyncio", "rabbitmq")),
        ({"order": "key"}, THREE),
        ({"order": "key", "members": 2}, ("kafka",)),
        ({"keep": "1 day"}, ("rabbitmq", "kafka")),
        ({"apart": True}, ("rabbitmq", "kafka")),
        ({"replay": True, "order": "all", "members": 2}, ()),
    ],
)
def test_what_a_design_can_is_read_from_its_record(needs: dict[str, Any], able: tuple[str, ...]) -> None:
    one = Workload(**needs)
    assert tuple(name for name in THREE if not judge.unable(one, named(name))) == able


def test_a_log_with_one_reader_keeps_one_order_while_others_stand_by() -> None:
    (stream,) = (one for one in DESIGNS if not one.deals_out and not one.partitioned)
    many = Workload(order="all", members=3)
    assert judge.unable(many, stream) == []
    assert judge.remarks(many, stream) == ["one member of a group reads at a time, so 2 of them stand by"]


def test_what_deals_out_in_no_order_is_ruled_out_where_order_is_needed() -> None:
    (share,) = (one for one in DESIGNS if not one.ordered)
    for order in ("all", "key"):
        assert judge.unable(Workload(order=order), share) == [
            "it gives each message to any free member, so there is no order"
        ]


def test_every_design_of_the_table_can_the_least() -> None:
    assert not any(judge.unable(Workload(survive="nothing"), design) for design in DESIGNS)


def test_remarks_say_what_no_figure_does() -> None:
    assert "2 of 4 members have no partition" in judge.remarks(Workload(members=4, partitions=2), named("kafka"))[0]
    assert judge.remarks(Workload(keep="7 days", rate=50, size=820), named("rabbitmq")) == [
        "50.0 messages a second, kept for 7 days, take at least 24.8 GB of disk for each copy"
    ]
    month = judge.remarks(Workload(keep="30 days", rate=300, size=2000), named("kafka"))
    assert "at least 1.87 TB" in month[0], "with the reserve, and never more than it is"
    assert "deletes them after 7 days" in month[1]
    week = judge.remarks(Workload(keep="3 days", rate=800, size=2000), named("kafka"))
    assert "at least 498 GB" in week[0]
    assert "keeps them for 7 days, which takes 968 GB" in week[1]
    (key,) = judge.remarks(Workload(order="key", members=2), named("kafka"))
    assert "greet's key is the whole message" in key
    for design, said in (("kafka", "replication=3"), ("rabbitmq", "queue_type=quorum")):
        assert f"needs a cluster and `{said}`" in judge.remarks(Workload(break_="broker"), named(design))[-1]
    assert "never deletes them" in judge.remarks(Workload(keep="3 days"), named("rabbitmq-stream"))[1]
    assert judge.remarks(Workload(partitions=2), named("asyncio")) == [
        "the end of the program loses waiting messages",
        "it has no partitions: that key changes nothing",
    ]
    lost = 'a restart of the broker loses waiting messages: `survive = "broker"` keeps them'
    assert [one.name for one in DESIGNS if lost in judge.remarks(Workload(), one)] == ["rabbitmq"]
    assert lost not in judge.remarks(Workload(survive="broker"), named("rabbitmq"))
    assert "deletes them after 7 days" in judge.remarks(Workload(keep="6 days"), named("kafka"))[1], "no reserve"


@pytest.mark.parametrize(
    ("design", "keys", "told_of"),
    [
        (
            "kafka",
            {"members": 12},
            "the work of 12 readers at a time, 15 ms each, handles at most 800 messages a second",
        ),
        ("kafka", {"members": 24, "partitions": 12}, "12 readers at a time"),
        ("kafka", {"members": 13}, None),
        ("rabbitmq", {"members": 13, "rate": "100..1000..100"}, "but 1.00k are due: messages pile up"),
        ("rabbitmq-stream", {"members": 24}, "the work of 1 reader at a time, 15 ms each, handles at most 66.7"),
        ("rabbitmq-stream", {"members": 24, "rate": 60}, None),
    ],
)
def test_readers_that_cannot_keep_up_are_told_without_a_measurement(
    design: str, keys: dict[str, Any], told_of: str | None
) -> None:
    found = [
        one for one in judge.remarks(Workload(**{"rate": 800, "work_ms": 15, **keys}), named(design)) if "due" in one
    ]
    assert len(found) == (told_of is not None)
    assert not told_of or told_of in found[0]


# ------------------------------------------------------------------------------------------- the answer


def row(design: str, rung: str = "asked", point: int = 0, **more: Any) -> dict[str, Any]:
    """A row of a run as `bench.load` gives it."""
    params: dict[str, Any] = {
        "in_time": True,
        "due": 1250,
        "groups": 1,
        "late": 0.0,
        "samples": 1100,
        "backlog": 0,
        "pile": 3,
        "catch_up_s": 0.01,
    }
    params |= {"unread": 0, "refused": 0, "unknown": 0, "room": None, "capped": None, "too_much": None, "broken": None}
    params |= {"not_measured": None, "gap_s": None, "allowed": None}
    found: dict[str, Any] = {
        "run": "r", "question": "workload", "design": design, "contender": "greet", "repetition": 1, "sent": 1250,
        "accepted": 1250, "received": 1250, "lost": 0, "duplicates": 0, "reordered": None, "elapsed_s": 5.0,
        "latency_ms.p50": 1.0, "latency_ms.p90": 2.0, "latency_ms.p99": 4.0, "latency_ms.p99_9": None,
        "cpu_s.client": 0.5, "cpu_s.broker": None, "rss_mb.client": 50.0, "rss_mb.broker": None, "error": None,
        "params.rung": rung, "params.point": point,
    }  # fmt: skip
    found |= {f"params.{key}": value for key, value in params.items()}
    return found | {(key if key in found else f"params.{key}"): value for key, value in more.items()}


def answered(workload: Workload, *rows: dict[str, Any], **about: Any) -> list[Answer]:
    told_of = {"workload": {"designs": THREE}, **about}
    return judge.answers(workload, 0, pd.DataFrame(list(rows)), told_of)


def advised(workload: Workload, *rows: dict[str, Any]) -> judge.Advice:
    return judge.advice(workload, answered(workload, *rows))


def test_where_all_meet_it_the_part_of_the_program_is_taken_and_the_runner_up_is_named() -> None:
    found = advised(Workload(), *(row(name) for name in THREE))
    assert found.take
    assert found.take.title == "asyncio"
    assert "no broker to run" in found.sentences[0]
    assert "Kafka" not in found.sentences[2], "the same reason is not said again"
    assert "The runner-up is RabbitMQ" in found.sentences[2]
    assert "if messages must survive the program" in found.sentences[2]
    assert len(found.sentences) == 3


def test_what_was_not_measured_is_not_said_to_fail() -> None:
    missing = {"rabbitmq": "no RabbitMQ here", "kafka": "no Kafka here"}
    one = Workload()
    found = judge.advice(one, answered(one, row("asyncio"), missing=missing))
    assert found.sentences[0] == "Take asyncio: it meets every need; RabbitMQ and Kafka were not measured."


@pytest.mark.parametrize(
    ("keys", "rows", "says"),
    [
        ({"p99_ms": 0.2}, {"in_time": False, "late": 1.0}, "The nearest is RabbitMQ: allow more than 0.2 ms."),
        ({"work_ms": 1}, {"in_time": False, "late": 1.0}, "allow more than 100 ms, or have more members"),
        ({"work_ms": 1}, {"in_time": False, "late": 1.0, "error": "ConnectFailed: it is gone"}, "which fails"),
    ],
)
def test_no_way_is_named_that_does_not_help(keys: dict[str, Any], rows: dict[str, Any], says: str) -> None:
    one = Workload(**keys)
    told_of = {"workload": {"designs": ["rabbitmq"]}}
    found = judge.answers(one, 0, pd.DataFrame([row("rabbitmq", **rows)]), told_of)
    assert says in judge.advice(one, found).sentences[-1]


def test_more_than_the_readers_can_handle_is_not_laid_at_the_machine() -> None:
    late: dict[str, Any] = {"in_time": False, "late": 1.0, "backlog": 900, "made": False}
    one = Workload(rate=3000, work_ms=1)
    (missed,) = answered(one, row("asyncio", **late))[0].misses(one)
    assert missed == "its readers handle at most 1.00k of 3.00k messages a second, so they pile up"


@pytest.mark.parametrize("column", ["params.pile", "params.late", "duplicates"])
@pytest.mark.parametrize("value", [None, "abc"])
def test_a_row_without_its_numbers_is_damaged(column: str, value: Any) -> None:
    with pytest.raises(BadRun, match=f"a row of a workload has no number as {column}"):
        answered(Workload(), {**row("kafka"), column: value})


@pytest.mark.parametrize(
    "damage",
    [{"designs": ["zz"]}, {"dimensions": ["zz"]}, {"points": [{"rate": 0}]}, {"points": [{"survive": "abc"}]}],
)
def test_a_workload_that_cannot_be_is_a_damaged_run(damage: dict[str, Any]) -> None:
    good: dict[str, Any] = {"points": [{}], "designs": [*THREE], "dimensions": []}
    assert judge.points({"workload": good}) == [Workload()]
    with pytest.raises(BadRun, match="measure it again"):
        judge.points({"workload": good | damage})
    with pytest.raises(BadRun, match="measure it again"):
        judge.points({"workload": good, "missing": [1]})


@pytest.mark.parametrize(("rate", "says"), [(1, "at this rate no run is long enough"), (10, "use a longer run")])
def test_a_longer_run_is_advised_only_where_it_helps(rate: float, says: str) -> None:
    one = Workload(rate=rate)
    assert any(says in said for said in show.notes(one, answered(one, row("asyncio", samples=9))))


def test_where_one_meets_it_that_one_is_taken_and_the_others_are_ruled_out_with_their_reason() -> None:
    found = advised(Workload(replay=True), row("kafka"))
    assert found.take
    assert found.take.title == "Kafka"
    assert "it alone of the 3 designs" in found.sentences[0]
    assert found.sentences[2].count("it cannot replay") == 2
    assert found.sentences[2].endswith(
        " RabbitMQ stream and Kafka share group have what it needs too, but were not measured: add "
        "`--designs kafka,rabbitmq-stream,kafka-share`."
    )


def test_where_none_meets_it_each_has_its_reason() -> None:
    one = Workload(order="all", members=2)
    found = advised(one)
    assert found.take is None
    assert found.sentences[0] == "None of asyncio, RabbitMQ, Kafka meets every need."
    assert found.sentences[1].count("side by side") == 1, "what is true of each is said once"
    assert judge.failed(one, answered(one))


def test_where_none_is_fast_enough_the_nearest_says_what_it_carries() -> None:
    slow: dict[str, Any] = {"in_time": False, "late": 0.4, "backlog": 900}
    rows = [row("kafka", **slow), row("kafka", "room", room=0.5, too_much=0.6, capped=False), row("rabbitmq", **slow)]
    found = advised(Workload(survive="broker", rate=1000), *rows)
    assert found.take is None
    assert "40% of the messages were later than 100 ms, and 900 waited at the end of the load" in found.sentences[1]
    assert found.sentences[2].startswith(
        "The nearest is Kafka: it carries 500 messages a second in time. RabbitMQ stream"
    )


@pytest.mark.parametrize("design", DESIGNS, ids=lambda one: one.name)
@pytest.mark.parametrize("survive", ["nothing", "consumer", "broker"])
def test_the_call_for_your_own_broker_is_one_that_greet_takes(design: Design, survive: str) -> None:
    workload = Workload(survive=survive, members=3, keep="3 days")
    if not (said := judge.deployment(workload, design)):
        assert design.in_process
        return
    call = said.split("`")[1]
    line = eval(call, {"greet": greet})
    assert (line.guarantee, line.address.hosts) == (workload.guarantee, (("host", design.ports[0]),))
    assert line.address.options.get("partitions") == ("3" if design.partitioned else None)
    assert (design.quorum in call) == (survive == "broker")
    kept = "`retention.ms=311040000` (3 days and 20% more"
    assert (kept in said) == (design.deletes_after_s < inf)


def test_the_call_for_your_own_broker_is_told_of_the_design_to_take() -> None:
    found = advised(Workload(replay=True, members=2), row("kafka"))
    assert found.sentences[3] == judge.deployment(Workload(members=2), named("kafka"))


@pytest.mark.parametrize(
    ("rabbitmq", "kafka", "taken", "why"),
    [
        (
            {"room": 20.0},
            {"room": 1.4},
            "RabbitMQ",
            "2 of the 3 designs meet every need, and it can carry 20.0 times the load, Kafka 1",
        ),
        (
            {"room": 4.0},
            {"room": 90.0},
            "RabbitMQ",
            "2 of the 3 designs meet every need, and differ in nothing that counts",
        ),
        ({"latency_ms.p99": 90.0}, {"latency_ms.p99": 40.0}, "Kafka", "p99 40.0 ms is shorter"),
        ({"latency_ms.p99": 50.0}, {"latency_ms.p99": 40.0}, "RabbitMQ", "differ in nothing that counts"),
        ({"latency_ms.p99": 9.0}, {"latency_ms.p99": 4.0}, "RabbitMQ", "differ in nothing that counts"),
        ({"cpu_s.client": 4.0}, {"cpu_s.client": 1.0}, "Kafka", "20% of a core, RabbitMQ 80%"),
        ({"gap_s": 14.0}, {"gap_s": 5.0}, "Kafka", "back in 5.00 s, RabbitMQ in 14.0 s"),
    ],
)
def test_the_first_figure_that_tells_two_apart_decides(
    rabbitmq: dict[str, Any], kafka: dict[str, Any], taken: str, why: str
) -> None:
    rows = []
    for name, figures_ in (("rabbitmq", rabbitmq), ("kafka", kafka)):
        rows.append(row(name, **{key: value for key, value in figures_.items() if key not in ("room", "gap_s")}))
        if "room" in figures_:
            rows.append(row(name, "room", room=figures_["room"], capped=False))
        if "gap_s" in figures_:
            rows.append(row(name, "break", broken="broker", gap_s=figures_["gap_s"], allowed="duplicates"))
    found = advised(Workload(survive="broker"), *rows)
    assert found.take
    assert found.take.title == taken
    assert why in found.sentences[0]


def test_what_an_older_run_found_beyond_its_readers_work_is_cut() -> None:
    """Its steps of 1.5 s took a growing backlog for one that is carried: 2 readers and 2 ms are 1,000 a second."""
    case = Workload(rate=300, members=2, work_ms=2, replay=True)
    rows = [row("kafka"), row("kafka", "room", room=3.36, too_much=4.0, capped=True)]
    rows += [row("rabbitmq-stream"), row("rabbitmq-stream", "room", room=1.2, too_much=1.4, capped=True)]
    about = {"workload": {"designs": ["kafka", "rabbitmq-stream"]}}
    kafka, stream = found = judge.answers(case, 0, pd.DataFrame(rows), about)
    assert kafka.room == pytest.approx(1000 / 300)
    assert not kafka.capped, "more is not possible"
    assert (stream.room, stream.capped) == (1.2, True)
    assert "carries up to 1.00k a second in time" in judge.advice(case, found).sentences[1]
    assert show.room(kafka) == "3.33"


def test_a_runner_up_with_more_room_is_for_a_load_that_grows() -> None:
    rows = [row("rabbitmq"), row("rabbitmq", "room", room=4.0, capped=False)]
    rows += [row("kafka"), row("kafka", "room", room=90.0, capped=False)]
    found = advised(Workload(survive="broker", rate=1000), *rows)
    assert "take it if the load grows beyond 4.00k a second" in found.sentences[2]


def test_of_three_that_meet_it_each_has_its_reason() -> None:
    about = {"workload": {"designs": ["kafka", "rabbitmq-stream", "kafka-share"]}}
    cpu: dict[str, Any] = {"kafka": 1.0, "kafka-share": 2.0, "rabbitmq-stream": 1.0}
    rows = [row(name, **{"cpu_s.client": used}) for name, used in cpu.items()]
    rows += [row(name, "room", room=room, capped=False) for name, room in (("kafka", 9.0), ("kafka-share", 9.0))]
    rows += [row("rabbitmq-stream", "room", room=1.5, capped=False)]
    one = Workload(survive="broker", replay=True)
    said = judge.advice(one, judge.answers(one, 0, pd.DataFrame(rows), about)).sentences
    assert (
        said[0] == "Take Kafka: 3 of the 3 designs meet every need, and it uses 20% of a core, Kafka share group 40%."
    )
    assert said[2].endswith(
        " Kafka comes before RabbitMQ stream too: it can carry 9.00 times the load, RabbitMQ stream 1.50 times."
    )


def test_what_is_lost_in_a_break_counts_unless_it_was_allowed() -> None:
    def broken(allowed: str) -> Answer:
        rows = [row("kafka"), row("kafka", "break", broken="broker", lost=7, gap_s=5.0, allowed=allowed)]
        return answered(Workload(survive="broker"), *rows)[2]

    assert broken("duplicates").misses(Workload(survive="broker")) == ["7 messages were lost when the broker broke"]
    assert broken("lost, duplicates").misses(Workload(survive="broker")) == []


def test_what_still_waits_long_after_a_break_is_no_outage_that_ended() -> None:
    rows = [row("kafka"), row("kafka", "break", broken="broker", lost=None, unread=9)]
    (missed,) = answered(one := Workload(survive="broker"), *rows)[2].misses(one)
    assert missed == "9 receipts were still missing long after the broker broke"


@pytest.mark.parametrize("allowed", ["duplicates", "lost, duplicates"])
def test_what_does_not_come_back_after_a_break_does_not_meet_the_need(allowed: str) -> None:
    rows = [row("kafka"), row("kafka", "break", broken="broker", lost=7, gap_s=None, allowed=allowed)]
    missed = answered(one := Workload(survive="broker"), *rows)[2].misses(one)
    assert missed[-1] == "it did not come back after the broker broke"


@pytest.mark.parametrize(("rate", "met"), [(21, False), (20, True), ("1..41..1", False)])
def test_readers_that_fall_behind_a_little_do_not_meet_the_need(rate: Any, met: bool) -> None:
    """A run of some seconds is still in time then."""
    one = Workload(rate=rate, members=3, work_ms=150, p99_ms=2000)
    missed = answered(one, row("kafka"))[2].misses(one)
    assert missed == ([] if met else ["its readers handle at most 20.0 of 21.0 messages a second, so they pile up"])
    assert answered(one, row("kafka", in_time=False, late=0.5))[2].misses(one)[0].startswith("50% of the messages")


def test_an_error_is_not_told_as_a_delay() -> None:
    rows = [row("kafka", in_time=False, error="1 messages came that nobody had sent")]
    (missed,) = answered(one := Workload(survive="broker"), *rows)[2].misses(one)
    assert missed == "1 messages came that nobody had sent"


def test_a_load_that_is_late_by_itself_is_laid_at_no_design() -> None:
    late: dict[str, Any] = {"in_time": False, "late": 1.0, "backlog": 900}
    ends: dict[str, Any] = {"room": None, "too_much": 0.125, "capped": True}
    rows = [row("asyncio", **late, made=False), row("asyncio", "room", **ends, made=False)]
    rows += [row("kafka", **late, made=True), row("kafka", "room", **ends, made=True)]
    found = answered(one := Workload(p99_ms=5), *rows)
    assert found[0].misses(one) == [
        "not known: this machine cannot create such a load in time, even without any design"
    ]
    assert found[2].misses(one) == ["100% of the messages were later than 5 ms, and 900 waited at the end of the load"]
    assert [show.room(answer) for answer in found] == ["–", "–", "< 0.125"]
    assert "asyncio: this machine cannot create more load in time, so more is not known." in show.notes(one, found)


def test_what_was_not_measured_meets_nothing_and_says_why() -> None:
    one = Workload(survive="broker")
    found = answered(one, row("kafka", in_time=None, error="no"), missing={"rabbitmq": "install it"})
    assert [answer.misses(one) for answer in found[1:]] == [["install it"], ["no"]]
    assert answered(one)[1].misses(one) == ["the run ended before it was measured"]
    said = advised(Workload(replay=True)).sentences
    assert said[0] == "No design is known to meet every need: Kafka was not measured."
    assert "fails" not in " ".join(said)


def test_a_loss_is_not_told_as_slowness() -> None:
    one = Workload()
    lost: dict[str, Any] = {"in_time": False, "late": 0.0, "lost": 2}
    (answer,) = (each for each in answered(one, row("kafka", **lost, backlog=2)) if each.design.name == "kafka")
    assert answer.misses(one) == ["2 messages were lost"]
    (answer,) = (each for each in answered(one, row("kafka", **lost, backlog=90)) if each.design.name == "kafka")
    assert answer.misses(one) == [
        "90 messages waited at the end of the load: it was too slow",
        "2 messages were lost",
    ]


def test_the_nearest_says_how_many_members_the_work_needs() -> None:
    slow: dict[str, Any] = {"in_time": False, "late": 1.0, "backlog": 900}
    one = Workload(rate=800, members=12, work_ms=15, replay=True, order="key", p99_ms=250)
    found = advised(one, row("kafka", **slow))
    assert found.sentences[2] == "The nearest is Kafka: allow more than 250 ms, or have more than 12 members."
    quick = advised(replace(one, work_ms=1), row("kafka", **slow))
    assert "or have more members. RabbitMQ stream has what it needs too" in quick.sentences[2]
    only = judge.advice(one, judge.answers(one, 0, pd.DataFrame([row("rabbitmq-stream", **slow)]), STREAM))
    assert only.sentences[2].startswith(
        "The nearest is RabbitMQ stream: let fewer come, or handle them faster. Kafka has what it needs too"
    )


@pytest.mark.parametrize(("order", "name"), [("all", "kafka"), ("all", "rabbitmq"), ("key", "rabbitmq")])
def test_the_nearest_is_not_told_to_have_members_that_break_the_order(order: str, name: str) -> None:
    slow = row(name, in_time=False, late=1.0, backlog=900)
    one = Workload(rate=800, work_ms=15, order=order, p99_ms=250)
    nearest = advised(one, slow).sentences[2]
    assert nearest.startswith("The nearest is ")
    assert "let fewer come, or handle them faster" in nearest
    assert "members" not in nearest
    assert "members" in advised(replace(one, order="none"), slow).sentences[2]


def printed(
    workloads: Sequence[Workload], *rows: dict[str, Any], width: int = 80, dimensions: Sequence[str] = (), **more: Any
) -> str:
    console = Console(width=width, record=True, file=StringIO())
    points_ = [vars(one) for one in workloads]
    about = {"run": "r", "workload": {"designs": THREE, "points": points_, "dimensions": dimensions}, **more}
    show.terminal(console, pd.DataFrame(list(rows)), about)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 60])
def test_the_answer_fits_the_screen(width: int) -> None:
    big: dict[str, Any] = {"sent": 1_250_000, "received": 1_250_000, "cpu_s.broker": 7.0, "rss_mb.broker": 1240.0}
    rows = [row(name, **big) for name in THREE]
    rows += [row(name, "break", broken="broker", gap_s=14.0, duplicates=12_345) for name in THREE]
    rows += [row(name, "room", room=123.4, capped=True) for name in THREE]
    text = printed([Workload(break_="broker")], *rows, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("1,250,000") == 3
    assert "≥ 123" in text


def test_a_figure_that_is_not_there_says_why() -> None:
    few: dict[str, Any] = {"samples": 120, "latency_ms.p99": None}
    text = printed([Workload()], *(row(name, **few) for name in THREE))
    assert "p99 needs 1,000 samples and p99.9 needs 10,000 samples, but there were 120" in " ".join(text.split())
    assert "p99 ms" not in text
    text = printed(
        [Workload(survive="broker")], row("kafka"), row("rabbitmq", "break", broken="broker", not_measured="x")
    )
    assert "the broker was not broken: x" in text
    for line in ("most that waited", "until none waited"):
        assert text.count(line) == 2, "in the table, and explained under it"


def test_several_workloads_are_shown_as_a_table_first() -> None:
    rows = [row(name, point=k) for k in (0, 1) for name in THREE]
    text = printed([Workload(rate=10), Workload(rate=20, order="all", members=2)], *rows, dimensions=("rate",))
    first, second = [line.split()[:2] for line in text.splitlines() if line.strip().startswith(("10 ", "20 "))][:2]
    assert first == ["10", "asyncio"]
    assert second == ["20", "none"]


def test_compare_pairs_a_workload_with_itself_whatever_came_of_it() -> None:
    def run(p99: float, backlog: int) -> pd.DataFrame:
        more: dict[str, Any] = {"guarantee": "DURABLE", "messages_per_s": 100.0}
        more |= {"params.rate": 100.0, "params.load": None, "params.again": False}
        rows = []
        for k in range(1, 6):
            figures: dict[str, Any] = {"latency_ms.p99": p99 * (1 + k / 100), "backlog": backlog}
            rows.append(row("kafka", **figures) | {"repetition": k})
        return pd.DataFrame(rows).assign(**more)

    found = {one.measure: one.verdict for one in compare.compare(run(4.0, 1), run(8.0, 7))}
    assert found["p99 ms"] == "worse"
    assert found["p50 ms"] == "no difference"


def test_compare_leaves_out_what_of_a_workload_is_measured_once_and_says_so() -> None:
    def run(p99: float) -> pd.DataFrame:
        more: dict[str, Any] = {"guarantee": "DURABLE", "messages_per_s": 100.0, "params.load": None}
        slow: dict[str, Any] = {"latency_ms.p99": p99}
        rows = [row("kafka", rung, **slow) for rung in ("asked", "room", "break")]
        return pd.DataFrame(rows).assign(**more)

    assert {one.cell.partition("rung ")[2] for one in compare.compare(run(4.0), run(8.0))} == {"asked"}
    assert compare.left_out(run(4.0)).endswith(": capacity and outage of a workload.")
    assert compare.left_out(run(4.0)[:1], bench.reference(), pd.DataFrame()) == ""


def test_a_busy_machine_is_told_before_the_answer() -> None:
    about: dict[str, Any] = {"machine": {"load_average": [7.5, 1.0, 1.0], "usable": 2}}
    text = printed([Workload()], *(row(name) for name in THREE), **about)
    assert text.startswith("* The load average was 7.5")
    assert "load average was 7.5 on 2 cores" in show.crowded(about)
    assert show.crowded({"machine": {"load_average": [0.5, 1.0, 1.0], "usable": 2}}) == ""


def test_what_had_just_ended_is_no_other_work() -> None:
    """The load average still tells of it: in the published run, of the workload before."""
    machine = {"load_average": [7.5, 1.0, 1.0], "usable": 2}
    assert show.crowded({"machine": {**machine, "busy": 0.1}}) == ""
    assert show.crowded({"machine": {**machine, "busy": 0.9}}).startswith("Other programs used 0.9 of 2 cores")


def test_a_design_that_was_late_on_a_full_machine_may_not_be_to_blame() -> None:
    late = Answer(named("kafka"), in_time=False, cpu=(1.09, 0.79))
    about = {"machine": {"usable": 2}}
    (said,) = show.full([late, Answer(named("rabbitmq"), in_time=True, cpu=(1.09, 0.79))], about)
    assert said.startswith("Kafka: clients and broker used 188% CPU, and 2 cores have 200%")
    assert show.full([late], {"machine": {"usable": 4}}) == []
    assert show.full([replace(late, cpu=(1.09, None))], about) == []


# --------------------------------------------------------------------------------------- the real command


def call(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "workload", *map(str, words)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip


@pytest.mark.usefixtures("rabbitmq_url", "kafka_url")
def test_all_designs_carry_a_small_load_and_every_message_is_counted(tmp_path: Path) -> None:
    """All that this machine has meet it."""
    ended = call("--rate", 200, "--seconds", 1, "--groups", 2, "--p99-ms", 2000, "--room", "false", "--out", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Take asyncio: it meets every need") == 1
    assert max(map(len, ended.stdout.splitlines()[:-1])) <= 80
    (folder,) = tmp_path.iterdir()
    rows = bench.load(folder)
    assert set(rows["design"]) >= {"asyncio"}
    assert (rows["sent"] == 200).all()
    assert (rows["received"] == 400).all()
    assert (rows["lost"] + rows["duplicates"] == 0).all()
    assert rows["latency_ms.p50"].gt(0).all()
    assert rows["latency_ms.p99"].isna().all(), "of 360 samples there is none"
    for form in ([], ["--markdown"], ["--html"]):
        again = subprocess.run(
            [sys.executable, "-m", "bench", "report", *form, str(folder)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert "Take asyncio: it meets every need" in " ".join(again.stdout.split())
        assert "What people say" not in again.stdout, "nothing of it was measured"


@pytest.mark.parametrize(
    ("fields", "wrong"), [({"duplicates": 3}, "3 duplicates"), ({"error": "it broke"}, "it broke"), ({}, "")]
)
def test_what_makes_the_status_1_is_told(
    fields: dict[str, Any],
    wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def tried(*_: object, **__: object) -> Figures:
        good: Figures = told(outcome([MS] * 2000))
        return replace(good, fields={**good.fields, **fields})

    async def warmed(_: Trial) -> Figures:
        return Figures({"error": None})

    monkeypatch.setattr(Trial, "_tried", tried)
    monkeypatch.setattr(Trial, "_warmed", warmed)
    status = main(["workload", "--designs", "asyncio", "--room", "false", "--out", str(tmp_path)])
    said = f"bench: asyncio, the load as it is: {wrong}\n" if wrong else ""
    assert (status, capsys.readouterr().err) == (int(bool(wrong)), said)


def test_what_no_design_can_needs_no_broker_and_is_status_1(tmp_path: Path) -> None:
    words = ("--order", "all", "--members", 2, "--designs", "asyncio,rabbitmq,kafka", "--out", tmp_path)
    ended = call(*words, GREET_KAFKA_URL="kafka://127.0.0.1:1?timeout=1")
    assert ended.returncode == 1
    assert "None of asyncio, RabbitMQ, Kafka meets every need." in " ".join(ended.stdout.split())
    assert ended.stderr == ""


@pytest.mark.usefixtures("rabbitmq_url", "kafka_url")
def test_what_one_design_alone_can(tmp_path: Path) -> None:
    words = ("--replay", "--rate", 200, "--seconds", 1, "--p99-ms", 5000, "--room", "false", "--out", tmp_path)
    ended = call(*words, "--designs", "asyncio,rabbitmq,kafka")
    assert ended.returncode == 0, ended.stderr
    assert "Take Kafka: it alone of" in ended.stdout
    assert set(bench.load(*tmp_path.iterdir())["design"]) == {"kafka"}


@pytest.mark.parametrize("room", ["false", pytest.param("true", marks=pytest.mark.long)])
def test_a_load_beyond_all_is_met_by_none_and_ends_in_time(room: str, tmp_path: Path) -> None:
    words = ("--rate", 100, "--work-ms", 20, "--seconds", 1, "--designs", "asyncio", "--room", room)
    ended = call(*words, "--out", tmp_path)
    assert ended.returncode == 1, ended.stdout
    (folder,) = tmp_path.iterdir()
    rows = bench.load(folder).set_index("params.rung")
    assert not rows.loc["asked", "params.in_time"]
    assert rows.loc["asked", "lost"] == 0
    if room == "true":
        assert 0.35 <= rows["params.room"].astype(float)["room"] <= 0.53, "20 ms of work are 50 a second"


@pytest.mark.usefixtures("rabbitmq_url")
def test_a_reader_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    words = ("--rate", 200, "--seconds", 2, "--members", 2, "--work-ms", 2, "--break", "consumer", "--room", "false")
    ended = call(*words, "--p99-ms", 60000, "--designs", "asyncio,rabbitmq", "--out", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = bench.load(*tmp_path.iterdir())
    broken = rows[rows["params.rung"] == "break"]
    assert len(broken) == 2
    assert (broken["lost"] == 0).all()
    assert (broken["received"] == 400).all()
    assert broken["params.gap_s"].notna().all()


def test_json_prints_the_rows_and_nothing_else(tmp_path: Path) -> None:
    words = ("--rate", "10,20", "--seconds", 0.5, "--designs", "asyncio", "--room", "false", "--p99-ms", 5000)
    ended = call(*words, "--json", "--out", tmp_path)
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [one["params"]["rate"] for one in found] == [10, 20]
    (folder,) = tmp_path.iterdir()
    assert (folder / MEASUREMENTS).read_text().splitlines() == ended.stdout.splitlines()
    about = bench.about(folder)
    assert about["workload"]["dimensions"] == ["rate"]
    assert about["complete"] is True


@pytest.mark.parametrize(
    ("words", "told_of"),
    [
        (("--sise", "5"), "--sise: there is no key 'sise': do you mean size?"),
        (("--rate", "-5"), "bench: --rate: -5: a rate is above 0"),
        (("missing.toml",), "missing.toml: No such file or directory: `python -m bench workload --init missing.toml`"),
        (("a.toml", "b.toml"), "'b.toml' is one word too many"),
        (("--designs", "mqtt"), "there is no design 'mqtt': choose from asyncio"),
        (("--size", "5"), "16 to 65,536 bytes"),
        (("--rate",), "bench: argument --rate: expected one argument"),
        (("--init", "--rate=5"), "leave out --rate=5, or edit the file"),
    ],
)
def test_wrong_use_is_one_line_and_two(
    words: tuple[str, ...], told_of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["workload", *words]) == 2
    said = capsys.readouterr()
    assert told_of in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_wrong_use_of_the_real_command() -> None:
    ended = call("--sise", "5")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "bench: --sise: there is no key 'sise': do you mean size?\n"


def test_init_writes_a_file_that_is_good_and_overwrites_none(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert call("--init", file).returncode == 0
    assert points(from_file(file)) == [Workload()]
    file.write_text("rate = 5")
    again = call("--init", file)
    assert again.returncode == 2
    assert "is not overwritten" in again.stderr
    assert file.read_text() == "rate = 5"


def test_a_broker_that_was_asked_for_and_is_not_there_is_status_3(tmp_path: Path) -> None:
    words = ("--rate", 100, "--seconds", 0.5, "--room", "false", "--out", tmp_path)
    there_is_none = {"GREET_KAFKA_URL": "kafka://127.0.0.1:1?timeout=1", "GREET_REQUIRE": ""}
    ended = call(*words, "--designs", "kafka", **there_is_none)
    assert ended.returncode == 3
    assert "bench: kafka is left out: " in ended.stderr


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    words = ("--rate", "100,101,102,103", "--seconds", "1", "--designs", "asyncio", "--out", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "workload", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(file.read_text() for file in tmp_path.glob(f"*/{MEASUREMENTS}")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == ""
    assert "interrupted, so INCOMPLETE" in said
    (folder,) = tmp_path.iterdir()
    assert bench.about(folder)["complete"] is False
    assert len(bench.load(folder)) >= 1


def test_a_ctrl_c_in_a_terminal_ends_it_well_also_while_its_processes_start(tmp_path: Path) -> None:
    """It reaches all of its processes, also the server that they are forked from."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "workload", "--designs", "asyncio", "--out", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(f"*/{RUN}")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
    assert "interrupted, so INCOMPLETE" in said


async def test_a_network_that_was_broken_is_whole_also_after_an_error() -> None:
    between = Proxy()
    between.release()
    (rabbitmq_,) = (one for one in DESIGNS if one.name == "rabbitmq")
    here = ground.Ground(rabbitmq_, "amqp://", proxy=between)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await here.broken("network", Workload(break_for=9.0), cast("Crew", None))
    assert between._open.is_set()


async def test_a_broker_that_stayed_dead_is_started_again_for_the_next_trial() -> None:
    class Dead:
        def real(self) -> None:
            raise greet.ConnectFailed("it does not run")

    class Kept:
        nodes = (Dead(), Dead())
        started: list[int] = []  # noqa: RUF012

        async def restart(self, number: int) -> None:
            self.started.append(number)

    await ground.repair(cast("Broker", Kept()))
    assert Kept.started == [1, 2]


async def test_the_port_of_a_proxy_is_none_that_a_client_could_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the proxy listens there, minutes may pass in which ends of connections come and go."""
    asked: list[int] = []

    def started(*, proxy_port: int, **_: object) -> None:
        asked.append(proxy_port)
        raise greet.BrokerMissing("enough")

    monkeypatch.delenv(VARIABLES["kafka"], raising=False)
    monkeypatch.setattr(ground, "by_default", AsyncMock(return_value=None))
    monkeypatch.setattr(ground, "kafka", started)
    monkeypatch.setattr(brokers, "kafka", started)
    async with AsyncExitStack() as stack:
        with pytest.raises(greet.BrokerMissing):
            await ground._ground(named("kafka"), stack, network=True)
        with pytest.raises(greet.BrokerMissing):
            await Arenas(Pool(), stack, {}).at("kafka", 1)
    assert len(asked) == 2
    assert set(asked) <= set(PRIVATE_PORTS)


@pytest.mark.parametrize("file", sorted((ROOT / "workloads").glob("*.toml")), ids=lambda path: path.stem)
def test_the_ready_files_are_good(file: Path) -> None:
    found = points(from_file(file))
    assert all(one.about for one in found)


@pytest.mark.parametrize("kept", [{}, {"points": [{}], "designs": []}, {"points": [{"size_of": 3}]}, {"points": 3}])
def test_a_run_of_another_version_is_told_so(kept: dict[str, Any]) -> None:
    with pytest.raises(BadRun, match="measure it again"):
        judge.points({"workload": kept})


def test_messages_are_filled_with_text_that_compresses_as_real_ones_do() -> None:
    """A broker of the user may compress them: dots would shrink to a hundredth."""
    contender = contenders.every()[0]
    place = Place("asyncio:", "t", greet.Guarantee.AT_LEAST_ONCE)
    job = Publish(contender, place, "ab1200", np.zeros(600, np.int64), [1000] * 600)
    pace = _Pace(job, memoryview(b""), 0, lambda: False)
    messages = [pace._message(number) for number in range(600)]
    assert {len(one) for one in messages} == {1016}
    assert messages[7].startswith("ab12000000000007")
    text = "".join(messages).encode()
    assert 0.25 < len(gzip.compress(text)) / len(text) < 0.45
