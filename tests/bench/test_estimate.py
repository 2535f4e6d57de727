"""The estimate of a workload: what limits it, whom it rules out, and the form that asks for it."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import bench
from bench import results
from bench.judge import estimate
from bench.judge import workload as judge
from bench.judge.claims import Figures
from bench.measure import workload as asked
from bench.measure.runner import told
from bench.measure.surroundings import surroundings
from bench.measure.workload import Misread, Workload
from bench.model import Settings
from bench.results import RUN, Writer
from bench.show.form import form
from greet.designs import named


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return bench.reference()


@pytest.fixture(scope="module")
def run(rows: pd.DataFrame) -> Figures:
    return Figures(rows)


def found(rows: pd.DataFrame | Figures, **keys: Any) -> dict[str, estimate.Estimate]:
    return {one.design.name: one for one in estimate.estimates(rows, Workload(**keys))}


def said(run: Figures, **keys: Any) -> str:
    workload = Workload(**keys)
    return " ".join(estimate.said(workload, estimate.estimates(run, workload)))


def test_who_cannot_do_it_is_ruled_out_with_the_reason(rows: pd.DataFrame) -> None:
    one = found(rows, survive="broker", replay=True)
    assert one["kafka"].unable == ()
    assert "replay" in one["rabbitmq"].unable[0]
    assert not one["asyncio"].enough


def test_the_work_limits_it_and_more_readers_help_as_far_as_there_are_partitions(rows: pd.DataFrame) -> None:
    few, many = (found(rows, members=members, work_ms=100, rate=30) for members in (2, 8))
    assert few["rabbitmq"].carried == pytest.approx(20)
    assert many["rabbitmq"].carried == pytest.approx(80)
    assert few["kafka"].carried == pytest.approx(20)
    assert many["kafka"].carried == pytest.approx(80)
    bound = found(rows, members=8, work_ms=100, rate=30, partitions=2)
    assert bound["kafka"].limit == "the work of 2 readers at a time"
    assert bound["kafka"].carried == few["kafka"].carried
    assert bound["rabbitmq"].carried == pytest.approx(80)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"rate": 0}, "rate: 0: a rate is above 0"),
        ({"members": 0}, "members: 0 is not a whole number from 1"),
        ({"survive": "disk"}, "survive: 'disk' is not one of nothing, consumer, broker"),
        ({"keep": "7 dayz"}, "keep: '7 dayz' is not a time"),
        ({"publish": "lists"}, "publish: 'lists' is not one of each, many"),
    ],
)
def test_a_value_that_is_none_is_not_estimated(run: Figures, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(Misread, match=f"Workload: {says}"):
        found(run, **keys)


def test_who_waits_behind_others_is_told_before_the_work_is_too_much(run: Figures) -> None:
    """The published job queue with half of the readers busy: over Kafka more than one in ten waited 100 ms or more."""
    keys: dict[str, Any] = {"rate": 20, "size": 600, "members": 6, "work_ms": 150, "apart": True}
    one = found(run, p99_ms=100, **keys)
    assert one["kafka"].room == pytest.approx(2)
    assert not one["kafka"].possible
    assert one["rabbitmq"].enough, "its readers share one queue"
    text = said(run, p99_ms=100, order="key", **keys)
    assert "Take" not in text
    assert "Not Kafka: at least 17% of the messages wait too long behind another one of their partition" in text
    assert found(run, p99_ms=2000, **keys)["kafka"].enough
    between = found(run, p99_ms=300, **keys)["kafka"]
    assert between.possible
    assert not between.enough, "it is not known: a bound says that they may wait longer"


@pytest.mark.parametrize(
    ("members", "load", "least"),
    [(1, 0.1, 0.95), (1, 0.5, 3.3), (1, 0.8, 10.1), (2, 0.3, 0.85), (6, 0.5, 0.44), (12, 0.83, 0.89)],
)
def test_the_wait_for_a_free_reader_is_bounded(members: int, load: float, least: float) -> None:
    """`least`: one in a hundred of 200,000 simulated messages waited so many times the work or more."""
    workload = Workload(rate=10 * members * load, members=members, work_ms=100)
    shared, apart = (estimate._queueing(workload, named(one)) / 100 for one in ("rabbitmq", "kafka"))
    assert least < shared < 1.5 * least + 0.3
    assert apart >= shared
    burst = replace(workload, burst=50)
    assert estimate._queueing(burst, named("rabbitmq")) == pytest.approx(100 * shared), "they are dealt out evenly"
    assert (estimate._queueing(burst, named("kafka")) > 100 * apart) == (members > 1)


def test_p99_is_what_was_measured_at_such_a_rate(rows: pd.DataFrame, run: Figures) -> None:
    """Not the median of a message that comes alone: at 45,000 a second it is at least 2.7 ms with Kafka."""
    one = found(run, rate=45_000, p99_ms=2)
    assert [name for name, each in one.items() if each.possible] == ["asyncio"]
    text = said(run, rate=45_000, p99_ms=2)
    assert "Not Kafka: one in a hundred takes 2.70 ms or more; the limit is 2 ms." in text
    assert "99 of 100 take less than 0.986 ms at 500 a second" in said(run, apart=True)
    fast: dict[str, Any] = {"size": 18, "publish": "many", "rate": 400_000}
    unknown = found(run, **fast)["kafka"]
    assert unknown.possible
    assert not unknown.enough
    text = said(run, **fast)
    assert "half of them take less than 1.25 ms at 100 a second; its p99 is not known; measure it." in text
    untimed = found(rows[rows["question"].ne("latency")])["rabbitmq"]
    assert untimed.possible
    assert untimed.doubts == ("its p99 is not known",)
    large = found(run, size=65_536, p99_ms=4)["rabbitmq"]
    assert not large.enough, "1.22 ms is the p99 of short messages"


def test_a_short_limit_is_kept_up_to_the_highest_rate_at_which_it_was_measured() -> None:
    ends, goes_on = {10.0: 1.0, 20.0: 5.0, 30.0: 50.0, 40.0: 2.0}, {10.0: 1.0, 25.0: 9.0}
    assert estimate.Times(curves=(ends,)).within(20) == 20, "not 40: it was not kept at 30"
    assert estimate.Times(curves=(ends, goes_on)).within(20) == 25, "the end of the faster client was not seen"
    assert estimate.Times(curves=(ends, goes_on), slower=2).within(20) == 12.5
    assert estimate.Times(curves=(ends, goes_on)).within(0.5) == math.inf, "lower rates were not measured"
    assert estimate.Times(curves=(ends,)).within(100) == math.inf, "longer lists keep it"


def test_one_by_one_no_more_is_carried_than_was_held(rows: pd.DataFrame, run: Figures) -> None:
    latency, rate = rows["question"].eq("latency"), rows["target_rate"]
    less = Figures(rows.assign(target_rate=rate.where(~latency, rate / 4)))
    held = estimate._held(run, named("kafka"))
    for one, carried in ((run, 295_939), (less, held / 4)):
        assert found(one, size=18)["kafka"].carried == pytest.approx(carried, rel=1e-3)
        assert found(one, size=18, publish="many")["kafka"].carried == pytest.approx(2_533_696, rel=1e-3)


def test_less_room_than_the_estimate_is_wrong_by_is_not_sure(run: Figures) -> None:
    some, more = (found(run, rate=rate, size=18)["rabbitmq"] for rate in (30_000, 10_000))
    assert 1 < (some.room or 0) < estimate.SURE < (more.room or 0)
    assert some.possible
    assert not some.enough
    assert more.enough
    text = said(run, rate=30_000, size=18)
    assert "1.39 times by measured speeds, and less than 3 is not sure; measure it." in text
    assert "An estimate: what carries less than 3 times the load is not sure." in text
    busy = said(run, rate=50, members=12, work_ms=200, p99_ms=1000)
    assert "its readers have no time to spare; measure it, or have 13 members." in busy


def test_it_takes_who_the_measured_answer_would_take(run: Figures) -> None:
    """The same rule on the published workloads, among the designs that were measured."""
    for folder in sorted(results.REFERENCE.glob("workload-*")):
        own, about = results.load(folder), results.about(folder)
        for number, one in enumerate(judge.points(about)):
            take = judge.advice(one, judge.answers(one, number, own, about)).take
            assert take
            first = estimate.said(one, estimate.estimates(run, one))[0].partition(":")[0]
            assert take.title in first.removeprefix("Take ").split(" or "), (folder, first)


def test_who_is_alike_is_named_together_and_idle_members_come_last(run: Figures) -> None:
    assert "Take RabbitMQ or Kafka: they differ in nothing that counts. RabbitMQ: it can" in said(run, apart=True)
    assert said(run).startswith("Take asyncio: it has no broker to run; it can carry")
    keyed = said(run, rate=200, order="key", members=4)
    assert keyed.startswith("Take Kafka: it can")
    assert "RabbitMQ stream is enough too" in keyed
    assert "One member of a group reads at a time, so 3 of them stand by." in keyed


def test_the_remarks_of_the_measured_answer_are_told(run: Figures) -> None:
    text = said(run, rate=5, size=60_000, keep="7 days")
    assert "5.00 messages a second, kept for 7 days, take at least 181 GB of disk for each copy." in text
    assert "By default it deletes them after 7 days, read or not: set `retention.ms`" in text


def test_members_that_would_break_the_order_are_no_advice(run: Figures) -> None:
    assert "have" not in said(run, rate=30, work_ms=100, order="all")
    assert "; have 5 members" in said(run, rate=30, work_ms=100)


def test_readers_that_are_always_busy_are_not_enough(rows: pd.DataFrame) -> None:
    keys: dict[str, Any] = {"rate": 800, "work_ms": 15, "replay": True, "order": "key"}
    busy = found(rows, members=12, **keys)
    assert busy["kafka"].room == pytest.approx(1)
    assert not busy["kafka"].possible
    said = " ".join(estimate.said(Workload(members=12, **keys), list(busy.values())))
    assert "None of them" in said
    assert "; have 18 members." in said, "with 16 they would be busy for 94 % of the time, and messages would wait"
    assert "Not RabbitMQ stream: it can carry 0.083" in said, "its one reader is too slow, whatever was measured"
    assert found(rows, members=24, **keys)["kafka"].enough


def test_larger_messages_and_more_groups_leave_less_room(rows: pd.DataFrame) -> None:
    run = Figures(rows)
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
    both = pd.concat([rows[~(chosen & rows["params.way"].eq("name"))], large])
    assert found(both, size=65_536)["rabbitmq"].carried == pytest.approx(100)
    assert (found(both, size=65_536, publish="many")["rabbitmq"].carried or 0) > 500


def test_it_is_near_what_was_measured(rows: pd.DataFrame) -> None:
    """The workloads that are published: where their capacity was found, it is at most three times off."""
    run, seen = Figures(rows), 0
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


def test_a_row_that_is_not_sound_does_not_count_for_more_groups(rows: pd.DataFrame) -> None:
    bad = rows[rows["question"].eq("fan_out") & rows["params.groups"].gt(1)].assign(messages_per_s=1.0, lost=1)
    both = pd.concat([rows, bad, bad], ignore_index=True)
    assert found(both, groups=4)["kafka"].carried == found(rows, groups=4)["kafka"].carried


def test_who_computes_shares_the_cores_with_all_groups(rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    one = found(rows, groups=8, work="compute", work_ms=5, rate=30)
    assert one["rabbitmq"].carried == pytest.approx(50)
    assert one["asyncio"].carried == pytest.approx(25)
    keys: dict[str, Any] = {"members": 3, "work": "compute", "work_ms": 10, "rate": 300}
    assert "; have " not in " ".join(estimate.said(Workload(**keys), list(found(rows, **keys).values())))


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
    assert "Times are of short messages, measured as AT_LEAST_ONCE" in " ".join(said)


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
