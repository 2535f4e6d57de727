"""The estimate of a workload: what limits it, whom it rules out, and the form that asks for it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import bench
from bench import results
from bench.judge import estimate
from bench.judge import workload as judge
from bench.measure import workload as asked
from bench.measure.runner import told
from bench.measure.surroundings import surroundings
from bench.measure.workload import Workload
from bench.model import Settings
from bench.results import RUN, Writer
from bench.show.form import form


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return bench.reference()


def found(rows: pd.DataFrame | estimate.Remembered, **keys: Any) -> dict[str, estimate.Estimate]:
    return {one.design.name: one for one in estimate.estimates(rows, Workload(**keys))}


def test_who_cannot_do_it_is_ruled_out_with_the_reason(rows: pd.DataFrame) -> None:
    one = found(rows, survive="broker", replay=True)
    assert one["kafka"].unable == ()
    assert "replay" in one["rabbitmq"].unable[0]
    assert not one["asyncio"].enough


def test_the_work_limits_it_and_more_readers_help_as_far_as_there_are_partitions(rows: pd.DataFrame) -> None:
    few, many = (found(rows, members=members, work_ms=100, rate=30) for members in (2, 8))
    assert few["rabbitmq"].carried == pytest.approx(20)
    assert many["rabbitmq"].carried == pytest.approx(80)
    assert 18 < (few["kafka"].carried or 0) < 20
    assert 60 < (many["kafka"].carried or 0) < 75, "a hash fills eight partitions unevenly"
    bound = found(rows, members=8, work_ms=100, rate=30, partitions=2)
    assert bound["kafka"].limit.startswith("the work of 2 readers at a time (98% of it: a hash fills their partitions")
    assert bound["kafka"].carried == few["kafka"].carried
    assert bound["rabbitmq"].carried == pytest.approx(80)


def test_readers_of_partitions_handle_what_was_measured(rows: pd.DataFrame) -> None:
    """As many members as partitions, as in the question *work*; of members that share a queue nothing is taken off."""
    one = found(rows, members=16, work_ms=20, rate=500)
    assert one["kafka"].carried == pytest.approx(581, rel=0.01)
    assert one["rabbitmq"].carried == pytest.approx(800)
    assert one["kafka-share"].carried == pytest.approx(800)
    keys: dict[str, Any] = {"members": 16, "work_ms": 20, "rate": 700}
    said = " ".join(estimate.said(Workload(**keys), list(found(rows, **keys).values())))
    assert "a hash fills their partitions unevenly); at 100" in said
    assert "; have more than 19 members." in said
    unmeasured = found(rows[rows["question"].ne("work")], members=16, work_ms=20, rate=500)
    assert unmeasured["kafka"].carried == pytest.approx(800)


def test_readers_that_are_always_busy_are_not_enough(rows: pd.DataFrame) -> None:
    keys: dict[str, Any] = {"rate": 800, "work_ms": 15, "replay": True, "order": "key"}
    busy = found(rows, members=12, **keys)
    assert 0.7 < (busy["kafka"].room or 0) < 1
    said = " ".join(estimate.said(Workload(members=12, **keys), list(busy.values())))
    assert "None of them" in said
    assert "have more than 15 members" in said
    assert "Not RabbitMQ stream: it can carry 0.083" in said, "its one reader is too slow, whatever was measured"
    assert found(rows, members=24, **keys)["kafka"].enough


def test_larger_messages_and_more_groups_leave_less_room(rows: pd.DataFrame) -> None:
    run = estimate.Remembered(rows)
    for design in ("asyncio", "rabbitmq", "kafka"):
        for publish in ("many", "each"):
            rooms = [found(run, size=size, publish=publish, rate=1000)[design].room or 0 for size in (18, 4096, 65_536)]
            assert rooms[0] > rooms[1] > rooms[2] > 0
        one, many = (found(run, size=4096, publish=way)[design].carried or 0 for way in ("each", "many"))
        assert one < many, "one by one, each message costs as much as a short one, and its size too"
        assert (found(run, groups=4)[design].room or 0) < (found(run)[design].room or 0)


def test_what_was_measured_one_by_one_is_taken_before_a_guess(rows: pd.DataFrame) -> None:
    chosen = rows["question"].eq("payload") & rows["design"].eq("rabbitmq") & rows["params.size"].eq(65_536)
    large = rows[chosen & rows["params.way"].eq("many") & rows["params.phase"].eq("together")].copy()
    large["params.way"], large["messages_per_s"] = "name", 100.0
    both = pd.concat([rows, large])
    assert found(both, size=65_536)["rabbitmq"].carried == pytest.approx(100)
    assert (found(both, size=65_536, publish="many")["rabbitmq"].carried or 0) > 500


def test_it_is_near_what_was_measured(rows: pd.DataFrame) -> None:
    """The workloads that are published: where their capacity was found, it is at most three times off."""
    run, seen = estimate.Remembered(rows), 0
    for folder in sorted(results.REFERENCE.glob("workload-*")):
        own, about = results.load(folder), results.about(folder)
        for number, one in enumerate(judge.points(about)):
            expected = {each.design.name: each for each in estimate.estimates(run, one)}
            for answer in judge.answers(one, number, own, about):
                if answer.room and not answer.capped:
                    seen += 1
                    assert 0.8 < (expected[answer.design.name].room or 0) / answer.room < 3, (folder, answer.title)
    assert seen >= 8


def test_what_comes_at_once_must_be_read_in_time(rows: pd.DataFrame) -> None:
    keys: dict[str, Any] = {"rate": 10, "burst": 100, "work_ms": 10}
    late = found(rows, **keys)["rabbitmq"]
    assert late.room == pytest.approx(10)
    assert not late.enough
    assert "the last of 100 that come at once wait 980 ms" in " ".join(estimate.said(Workload(**keys), [late]))
    assert found(rows, members=12, **keys)["rabbitmq"].enough
    assert not found(rows, replay=True, p99_ms=0.1)["kafka"].enough, "a message that comes alone takes longer"


def test_who_computes_shares_the_cores_with_all_groups(rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    one = found(rows, groups=8, work="compute", work_ms=5, rate=30)
    assert one["rabbitmq"].carried == pytest.approx(50)
    assert one["asyncio"].carried == pytest.approx(25)
    keys: dict[str, Any] = {"members": 3, "work": "compute", "work_ms": 10, "rate": 300}
    assert "; have more" not in " ".join(estimate.said(Workload(**keys), list(found(rows, **keys).values())))


def test_the_speed_of_short_messages_is_not_that_of_long_ones(rows: pd.DataFrame) -> None:
    short = rows[rows["question"].eq("throughput")]
    assert found(short, size=65_536)["rabbitmq"].room is None
    assert found(short, size=100)["rabbitmq"].room is not None
    assert "measured as AT_LEAST_ONCE" in found(rows, size=65_536, survive="broker")["rabbitmq"].limit


def test_a_restart_that_loses_messages_is_told(rows: pd.DataFrame) -> None:
    def told(**keys: Any) -> str:
        return " ".join(estimate.said(Workload(**keys), list(found(rows, **keys).values())))

    lost = 'A restart of the broker loses waiting messages: `survive = "broker"` keeps them.'
    assert told(apart=True).count(lost) == 1, "RabbitMQ, with the default"
    assert "The end of the program loses waiting messages." in told()
    for keys in ({"survive": "nothing"}, {"survive": "broker"}, {"queue_type": "quorum"}, {"keep": "1 h"}):
        assert lost not in told(apart=True, **keys)


def test_the_latency_names_its_guarantee(rows: pd.DataFrame) -> None:
    said = estimate.said(Workload(survive="broker"), list(found(rows, survive="broker").values()))
    assert "each takes 0.554 ms, measured as AT_LEAST_ONCE" in " ".join(said)


def test_what_was_not_measured_is_not_guessed(rows: pd.DataFrame) -> None:
    one = found(rows[rows["question"].eq("wake_up")])
    assert all(each.room is None and not each.enough for each in one.values())
    assert "can do it, but this run has no figures for it" in " ".join(estimate.said(Workload(), list(one.values())))


def test_the_command_that_it_names_asks_for_the_same_workload() -> None:
    asked_for = Workload(rate=300, size=800, members=3, work_ms=5.0, survive="broker", replay=True, keep="3 days")
    words = shlex.split(estimate.command(asked_for))[4:]
    said = {}
    for flag, text in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        said[name] = asked.from_flag(name, text)
    assert asked.points(said) == [asked_for]


def test_the_form_follows_its_fields(rows: pd.DataFrame) -> None:
    shown = form(rows)
    fields, answer = shown.children
    assert "Take RabbitMQ" in answer.value
    replay = next(line.children[1] for line in fields.children if line.children[0].value == "read again later")
    replay.value = True
    assert "Take Kafka" in answer.value
    assert "Take RabbitMQ" not in answer.value


def test_the_form_says_what_a_key_may_not_be_and_takes_fractions(rows: pd.DataFrame) -> None:
    fields, answer = form(rows).children
    keys = {line.children[0].value: line.children[1] for line in fields.children}
    for label, value in (("bytes of a message", 100_000), ("messages a second", 0), ("readers in a group", 65)):
        usual, keys[label].value = keys[label].value, value
        assert f"{label}: " in answer.value
        assert "Take" not in answer.value
        keys[label].value = usual
        assert "Take" in answer.value
    keys["messages a second"].value = 3.33
    assert "--rate 3.33 " in answer.value
    keys["messages a second"].value = 20
    assert "--rate 20 " in answer.value


def test_the_latest_run_is_ones_own_if_there_is_one_that_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.latest(tmp_path)[1] == "the published run"
    facts = {"settings": told(Settings((), ())), "questions": ["throughput"], "brokers": {}, "elapsed_s": {}}
    writer = Writer(tmp_path, {**surroundings(), **facts})
    assert bench.latest(tmp_path)[1] == "the published run", "it is not complete"
    writer.note(complete=True)
    assert bench.latest(tmp_path)[1] == f"your own run {writer.run}"
    assert capsys.readouterr().err == ""
    newer = tmp_path / "99990101-000000-0000"
    newer.mkdir()
    (newer / RUN).write_text("{}")
    assert bench.latest(tmp_path)[1] == f"your own run {writer.run}"
    assert capsys.readouterr().err == f"bench: left out: {newer / RUN}: has no run\n"
