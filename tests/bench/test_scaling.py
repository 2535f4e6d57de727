"""The question of scaling: a quota is real and goes away, and what is told of clusters is what their rows say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import psutil
import pytest

from bench import questions
from bench.contenders import every
from bench.judge import claims
from bench.measure import run
from bench.model import Settings
from bench.questions import scaling
from bench.questions.scaling import Keyed, Story, figures
from greet.brokers import VARIABLES, quota

DESIGNS = ("asyncio", "rabbitmq", "kafka", "rabbitmq-stream")
FULL = Settings(DESIGNS, tuple(every()), "full")
SECOND = 1_000_000_000
needs_quota = pytest.mark.skipif(quota.find() is None, reason=quota.MISSING)


@contextmanager
def busy() -> Iterator[psutil.Process]:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()


def cpu_of(process: psutil.Process, seconds: float) -> float:
    """The share of a core that it uses for so long."""
    before, began = sum(process.cpu_times()[:2]), time.perf_counter()
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - began)


def own() -> list[Path]:
    """The cgroups that this process has made."""
    control = quota.find()
    return list(control.parent.glob(f"greet-{os.getpid()}-*")) if control else []


@needs_quota
def test_a_quota_is_real_and_gone_afterwards() -> None:
    with busy() as one, busy() as other, quota.limited([[one], [other]], 0.05):
        time.sleep(0.2)
        assert len(own()) == 2
        assert 0.02 < cpu_of(one, 1.5) < 0.1
    assert not own()


@needs_quota
def test_a_child_of_a_limited_process_is_limited_too() -> None:
    script = "import subprocess, sys; input(); subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as parent:
        process = psutil.Process(parent.pid)
        with quota.limited([[process]], 0.05):
            assert parent.stdin
            parent.stdin.write(b"\n")
            parent.stdin.flush()
            while not (children := process.children()):
                time.sleep(0.05)
            assert cpu_of(children[0], 1.5) < 0.1
            children[0].kill()
        parent.kill()
    assert not own()


@needs_quota
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_cgroup_goes_after_an_error_too(error: type[BaseException]) -> None:
    with busy() as one, pytest.raises(error), quota.limited([[one]], 0.2):
        assert own()
        raise error
    assert not own()


def test_each_cgroup_is_removed_also_where_another_one_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def remove(_: quota.Control, made: Path) -> None:
        tried.append(made)
        raise OSError("it is busy")

    monkeypatch.setattr(quota, "find", lambda: quota.Control(tmp_path, tmp_path, unified=True))
    monkeypatch.setattr(quota.Control, "remove", remove)
    with pytest.raises(OSError, match="it is busy"), quota.limited([[], []], 0.2):
        pass
    assert sorted(tried) == sorted(tmp_path.iterdir())
    assert len(tried) == 2


def test_the_second_version_of_cgroups(tmp_path: Path) -> None:
    """The nearest group that gives its children the controller is the parent."""
    home = tmp_path / "user" / "session"
    home.mkdir(parents=True)
    for folder, controllers in ((tmp_path, "cpu io"), (tmp_path / "user", "cpu"), (home, "")):
        (folder / "cgroup.subtree_control").write_text(controllers)
    (listed := tmp_path / "own").write_text("0::/user/session\n")
    control = quota._first(tmp_path, quota._paths(listed))
    assert control == quota.Control(tmp_path / "user", home, unified=True)
    assert (control.make(0.2) / "cpu.max").read_text() == f"{quota.PERIOD_US // 5} {quota.PERIOD_US}"
    (tmp_path / "user" / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.subtree_control").write_text("")
    assert quota._first(tmp_path, quota._paths(listed)) is None
    listed.write_text("4:memory:/x\n1:cpu,cpuacct:/of/the/host\n0::/\n")
    (tmp_path / "cpu,cpuacct").mkdir()
    inside = tmp_path / "cpu,cpuacct"
    assert quota._first(tmp_path, quota._paths(listed)) == quota.Control(inside, inside, unified=False)


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--profile full" in questions.lacking("scaling", replace(FULL, profile="quick"))
    monkeypatch.setattr(quota, "find", lambda: None)
    assert questions.lacking("scaling", FULL) == quota.MISSING
    assert questions.lacking("growth", FULL) == ""
    with pytest.raises(OSError, match="as root on Linux"), quota.limited([], 0.2):
        pass


def test_each_usual_broker_is_asked_in_three_sizes() -> None:
    found = [(one.contender.design, one.contender.name, one.rung) for one in scaling.cells(FULL)]
    assert found == [(design, "greet", rung) for design in ("rabbitmq", "kafka") for rung in scaling.RUNGS.values()]
    assert scaling.cells(replace(FULL, profile="quick")) == []


def test_the_messages_of_a_publisher_go_to_one_partition() -> None:
    (one,) = FULL.of(design="kafka", name="greet", way="name")
    for partition in range(6):
        keyed = Keyed(one.design, one.way, one.guess, one.defaults, of=one, partition=partition)
        names = [f"abcd00{number:010d}" for number in range(500)]
        assert {crc32((name + keyed.end(name, 6)).encode()) % 6 for name in names} == {partition}


def story(accepted: list[float], done: list[float], handled: list[int]) -> Story:
    """Moments in seconds; a message that was not accepted has 0."""
    stamps = (np.array(accepted) * SECOND).astype(np.int64)
    received = (np.array(done) * SECOND).astype(np.int64)
    return Story(np.where(stamps > 0, stamps - 1, 0), stamps, np.array(handled), received)


def test_the_lower_rate_counts_and_every_message_is_counted() -> None:
    told = story([1, 2, 2.5, 3, 3.5, 9], [1.5, 2.2, 2.3, 5, 6, 9], [0, 1, 2, 3, 4, 5])
    found = figures(told, 2 * SECOND, 4 * SECOND).fields
    assert (found["messages_per_s"], found["elapsed_s"]) == (1.0, 2.0), "four were accepted, two received"
    assert (found["sent"], found["accepted"], found["received"], found["lost"]) == (6, 6, 6, 0)
    fewer = figures(story([1, 9, 9, 3, 0], [2, 2, 3, 3.5], [0, 0, 1, 3]), 2 * SECOND, 4 * SECOND).fields
    assert fewer["messages_per_s"] == 0.5, "one was accepted, four received"
    assert (fewer["lost"], fewer["duplicates"], fewer["accepted"]) == (1, 1, 4)


def rows(spread: str = "", **speeds: float) -> pd.DataFrame:
    """Four rounds of Kafka's clusters, of one, two and three brokers: `one`, `two` and `three` messages a second."""
    found: list[dict[str, Any]] = []
    for rung, speed in zip(scaling.RUNGS.values(), speeds.values(), strict=True):
        for repetition in range(1, 5):
            size = int(rung.split()[0])
            cell = {"question": "scaling", "design": "kafka", "contender": "greet", "guarantee": "AT_LEAST_ONCE"}
            params = {
                "params.rung": rung + spread,
                "params.way": "name",
                "params.phase": "together",
                "params.again": False,
            }
            cpu = {"elapsed_s": 5.0, "cpu_s.broker": size * 0.9, "cpu_s.client": 0.5}
            count = {"accepted": 9, "received": 9, "lost": 0, "duplicates": 0, "reordered": None, "error": None}
            found.append({**cell, **params, **cpu, **count, "messages_per_s": speed, "repetition": repetition})
    return pd.DataFrame(found)


def test_the_table_sets_clusters_beside_one_broker() -> None:
    table = scaling.table(rows(one=1_000, two=1_900, three=2_500))
    assert [*table["brokers"]] == [1, 2, 3]
    assert [*table["messages/s"]] == ["1.00k", "1.90k", "2.50k"]
    assert [one.split()[0] for one in table["times one broker"][1:]] == ["1.90", "2.50"]
    assert [*table["% of the limit, brokers"]] == ["90.0"] * 3
    assert [*table["CPU %, clients"]] == ["10.0"] * 3


def test_each_way_to_publish_stands_beside_its_own_broker() -> None:
    both = pd.concat([rows(one=1_000, two=1_900, three=2_500), rows(claims.TO_ALL, one=500, two=600, three=750)])
    table = scaling.table(both)
    assert [one.split()[0] for one in table["times one broker"] if one] == ["1.90", "1.20", "2.50", "1.50"]
    assert [*table["each publisher"]] == ["to one queue or partition", "to all partitions"] * 3
    drawn = scaling.picture(both).rows
    assert drawn.groupby(["line", "x"])["value"].median().loc["Kafka, to all partitions", 3] == 1.5


def test_the_picture_says_how_many_times() -> None:
    picture = scaling.picture(rows(one=1_000, two=1_900, three=2_500))
    assert picture.title == "3 brokers carry so many times as much as one: Kafka 2.5"
    assert picture.rows.groupby("x")["value"].median().to_dict() == {1: 1.0, 2: 1.9, 3: 2.5}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WARM": 500, "SETTLE_S": 0.5, "COUNT_S": 1.5}.items():
        monkeypatch.setattr(scaling, name, value)


@needs_quota
@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("brief")
async def test_kafka_is_measured_by_each_way_to_choose_a_partition() -> None:
    settings = replace(FULL, designs=("kafka",), rounds=1)
    cell = next(one for one in scaling.cells(settings) if one.rung == "1 broker")
    async with run.session(settings) as session:
        found = await session.measured(cell, 0)
    rungs = [one.params.get("rung", cell.rung) for one in found]
    assert rungs == ["1 broker", *(f"1 broker, {spread}" for spread in (scaling.TO_ALL, *scaling.OTHERS))]
    for one in found:
        assert (one.fields["error"], one.fields["lost"], one.fields["duplicates"]) == (None, 0, 0)
        assert one.fields["messages_per_s"] > 10


@needs_quota
@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("brief")
async def test_two_brokers_are_measured(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["rabbitmq"], rabbitmq_url)
    settings = replace(FULL, designs=("rabbitmq",), rounds=1)
    cell = next(one for one in scaling.cells(settings) if one.rung == "2 brokers")
    async with run.session(settings) as session:
        (found,) = await session.measured(cell, 0)
    assert (found.fields["error"], found.fields["lost"], found.fields["duplicates"]) == (None, 0, 0)
    assert found.fields["messages_per_s"] > 100
    assert found.fields["cpu_s"]["broker"] / 1.5 < 2 * scaling.SHARE * 1.3
    assert not own()


@pytest.mark.parametrize("question", ["scaling", "takeover", "connections", "start_up"])
def test_a_row_names_the_loop_that_it_ran_on(question: str) -> None:
    """Whatever loop the run asks for: these have workers of their own."""
    settings = replace(FULL, contenders=tuple(every()), loop="uvloop")
    loops = {cell.loop for cell in questions.question(question).cells(settings)}
    assert loops == {"select" if question in ("scaling", "takeover") else "asyncio"}
