"""A verdict follows the figures: it turns when they turn, and a figure that is missing settles nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from bench import questions
from bench.contenders import every
from bench.judge.answer import answer
from bench.judge.claims import (
    CLAIMS,
    DEPENDS,
    FAILS,
    HOLDS,
    IN_TURN,
    TO_ALL,
    UNKNOWN,
    Figures,
    _many,
    fast_enough,
    verdicts,
)
from bench.model import DESIGNS, Settings
from bench.questions import scaling

Row = dict[str, Any]
PLAIN: Row = {
    "contender": "greet",
    "guarantee": "DURABLE",
    "accepted": 1000,
    "received": 1000,
    "lost": 0,
    "duplicates": 0,
    "error": None,
    "survives": "a consumer's death",
    "messages_per_s": 1e5,
    "target_rate": None,
    "latency_ms.p50": 1.0,
    "latencies": None,
    "rss_mb.broker": 300.0,
    "cpu_s.broker": None,
    "cpu_s.client": None,
    "params.way": "many",
    "params.phase": "together",
    "params.again": False,
    "params.groups": 1,
    "params.members": 1,
    "params.publishers": 1,
    "params.load": None,
    "params.rate": None,
    "params.fault": None,
    "params.times": 1,
    "params.rung": "",
    "params.size": 18,
    "params.allowed": "",
    "params.gap_s": None,
}
OPEN_AFTER_A_FIRST_LOOK = {
    "Messages are persistent or transient.",
    "Fault-tolerant and durable.",
    "Scalable over partitions and brokers.",
    "High concurrency.",
}
JUDGED_BY_A_NOTEBOOK = {
    "Nothing survives its process.",
    "Management and monitoring are incomplete.",
    "Topics cannot be selected by wildcard.",
}


def frame(*rows: Row, rounds: int = 5) -> pd.DataFrame:
    return pd.DataFrame([PLAIN | {"repetition": n} | row for row in rows for n in range(1, rounds + 1)])


def word(rows: pd.DataFrame, of: str, beginning: str) -> str:
    table = verdicts(rows)
    (found,) = table[(table["of"] == of) & table["claim"].str.startswith(beginning)]["verdict"]
    return str(found)


def carried(design: str, way: str, speed: float, **more: Any) -> Row:
    return {"question": "throughput", "design": design, "params.way": way, "messages_per_s": speed} | more


def lightly(design: str, busy: float, idle: float = 9.0) -> list[Row]:
    common = {"question": "wake_up", "design": design, "guarantee": "AT_LEAST_ONCE"}
    return [
        common | {"params.rate": 1.0, "latencies": {"service": {"p50": idle}}},
        common | {"params.rate": 100.0, "latencies": {"service": {"p50": busy}}},
    ]


def loaded(design: str, load: float, rate: float, p50: float) -> Row:
    cell = {"question": "latency", "design": design, "guarantee": "AT_LEAST_ONCE"}
    return cell | {"params.load": load, "target_rate": rate, "latency_ms.p50": p50, "latency_ms.p99": 2 * p50}


def fault(design: str, guarantee: str, lost: int) -> Row:
    cell = {"question": "faults", "design": design, "guarantee": guarantee, "params.fault": "broker killed"}
    return cell | {"lost": lost, "params.recovered": True}


def overhead(one: float, lists: float) -> list[Row]:
    least: Row = {"guarantee": "AT_LEAST_ONCE"}
    return [
        carried("asyncio", "name", one, contender="bare queue", **least),
        carried("asyncio", "many", lists, **least),
    ]


def spread(design: str, **wrong: int) -> list[Row]:
    shared = {"question": "work_sharing", "design": design, "guarantee": "AT_LEAST_ONCE", "params.members": 4}
    return [shared | wrong, {"question": "fan_out", "design": design, "params.groups": 8}]


def shared(one: float, four: float, **wrong: Any) -> list[Row]:
    cell = {"question": "work_sharing", "design": "kafka", "guarantee": "AT_LEAST_ONCE"} | wrong
    return [cell | {"messages_per_s": one}, cell | {"params.members": 4, "messages_per_s": four}]


def at_work(times: float, four: float) -> list[Row]:
    """Members that wait 5 ms on each message: four carry so many times what one does; of messages without work too."""
    cell: Row = {"question": "work", "design": "kafka", "guarantee": "AT_LEAST_ONCE"}
    cell |= {"params.rung": "5 ms", "params.partitions": 4}
    waiting = [cell | {"params.members": n, "messages_per_s": 187 * by} for n, by in ((1, 1), (4, times))]
    return [*shared(1e5, 1e5 * four), *waiting]


def clusters(
    two: float, three: float, *, by: Sequence[float] = (1, 1, 1, 1), spread: str = "", busy: float = 0.9
) -> list[Row]:
    """Two and three brokers carry so many times as much as one, and in each round that times `by`.

    One broker uses the share `busy` of what it may.
    """
    cell: Row = {
        "question": "scaling",
        "design": "kafka",
        "guarantee": "AT_LEAST_ONCE",
        "params.rung": f"1 broker{spread}",
    }
    more = [
        cell | {"params.rung": f"{size} brokers{spread}", "messages_per_s": 1e3 * times * this, "repetition": n}
        for size, times in ((2, two), (3, three))
        for n, this in enumerate(by, 1)
    ]
    return [cell | {"messages_per_s": 1e3, "elapsed_s": 5.0, "cpu_s.broker": 5 * scaling.SHARE * busy}, *more]


def tweaked(headers: float, json: float, gzip: float, zstd: float | None = None) -> list[Row]:
    cell = {"question": "tweaking", "guarantee": "AT_LEAST_ONCE"}
    ours = {"bare": 1e5, "10 headers": 1e5 / headers, "JSON": 1e5 / json, "1 KiB": 1e5, "1 KiB, gzip": 1e5 / gzip}
    if zstd:
        ours["1 KiB, zstd"] = 1e5 / zstd
    kafka = [
        {"design": "kafka", "contender": "aiokafka", "params.rung": rung, "messages_per_s": each}
        for rung, each in ours.items()
    ]
    rabbit = [{"design": "rabbitmq", "contender": "aiormq", "params.rung": rung} for rung in ("bare", "10 headers")]
    return [cell | row for row in kafka + rabbit]


def simple(asyncio: float, rabbitmq: float, kafka: float, megabytes: float) -> list[Row]:
    quick = [*lightly("asyncio", asyncio), *lightly("rabbitmq", rabbitmq), *lightly("kafka", kafka)]
    return [*quick, carried("rabbitmq", "many", 1e5, **{"rss_mb.broker": megabytes}), carried("kafka", "many", 1e5)]


def by_another(alone: float) -> list[Row]:
    """As `simple`, where a client that is not greet is the quickest over Kafka."""
    peer = [row | {"contender": "confluent-kafka"} for row in lightly("kafka", alone)]
    return [*simple(0.1, 0.9, 2, 100), *peer]


def installed(rabbitmq: float, kafka: float, **more: Any) -> list[Row]:
    """As `simple`, where greet is quicker over RabbitMQ, and with the clients that can be installed."""
    peers = [("rabbitmq", "aiormq", rabbitmq), ("kafka", "aiokafka", kafka), ("rabbitmq", "PerfTest", 0.3)]
    others = [row | {"contender": who} | more for design, who, ms in peers for row in lightly(design, ms)]
    return [*simple(0.1, 0.5, 2, 100), *others]


def waiting(kafka: float, rabbitmq: float, lost: int = 0) -> list[Row]:
    rows = []
    for design, speed in (("kafka", kafka), ("rabbitmq", rabbitmq)):
        cell = {"question": "backlog", "design": design, "messages_per_s": speed}
        rows += [cell | {"params.rung": "alone"}, cell | {"params.phase": "consume", "lost": lost}]
    return rows


def large(design: str, speed: float, greet: float = 1.0) -> list[Row]:
    """A client of the design, and greet, which carries `greet` times as much."""
    cell = {"question": "payload", "design": design, "guarantee": "AT_LEAST_ONCE", "params.size": 65_536}
    return [cell | {"messages_per_s": speed * greet}, cell | {"messages_per_s": speed, "contender": "another"}]


def many_at_once(publishers: int, carry: float, **wrong: Any) -> list[Row]:
    """One publisher, and many, which together carry `carry` times as much; as many members at another time."""
    cell = {"question": "work_sharing", "design": "kafka", "guarantee": "AT_LEAST_ONCE", "params.members": 1} | wrong
    several = [
        cell | {"params.publishers": publishers, "messages_per_s": 1e5 * carry},
        cell | {"params.members": publishers},
    ]
    return [cell, *several]


def crowded(times: float, *, disturbed: bool = False, **wrong: Any) -> list[Row]:
    """10 connections and a thousand: the p99 is `times` as long; RabbitMQ's is 3 ms."""
    cell: Row = {"question": "connections", "guarantee": "AT_LEAST_ONCE", "design": "kafka", "contender": "aiokafka"}
    few, many = (cell | {"params.publishers": n} for n in (10, 1_000))
    waits: list[Row] = [many | {"latency_ms.p99": 2 * times} | wrong]
    if disturbed:
        waits = [many | {"latency_ms.p99": 2 * times * by, "repetition": n} for n, by in enumerate((0.3, 3, 0.4, 2), 1)]
    theirs = many | {"design": "rabbitmq", "contender": "aiormq", "latency_ms.p99": 3.0}
    return [few | {"latency_ms.p99": 2.0}, *waits, theirs]


def cluster(gap: float) -> Row:
    cell = fault("kafka", "DURABLE", 0) | {"params.fault": "cluster: leader killed", "params.gap_s": gap}
    return cell | {"params.allowed": "duplicates", "duplicates": 2}


def faster(many: float, one: float, slower: float) -> list[Row]:
    rows = [carried("rabbitmq", way, 1e4) for way in ("many", "name")]
    rows += [carried("kafka", "many", 1e4 * many), carried("kafka", "name", 1e4 * one)]
    return [*rows, *lightly("rabbitmq", 1.0), *lightly("kafka", slower)]


QUICK = [*lightly("kafka", 1), *lightly("rabbitmq", 2)]
SLOW = [*lightly("kafka", 2), *lightly("rabbitmq", 1)]
WAVERING = [row | {"repetition": n} for n, by in enumerate((0.2, 5, 1, 4, 2), 1) for row in lightly("kafka", by)]
"""Rounds that do not agree whether Kafka is slower."""
KEPT, TRANSIENT = fault("rabbitmq", "DURABLE", 0), fault("rabbitmq", "AT_LEAST_ONCE", 300)
CASES: list[tuple[str, str, list[Row], str]] = [
    ("asyncio", "It has an overhead", overhead(1e6, 1.1e6), HOLDS),
    ("asyncio", "It has an overhead", overhead(1e6, 8e6), DEPENDS),
    ("asyncio", "It has an overhead", overhead(2e7, 2e7), FAILS),
    ("asyncio", "A message is delayed", lightly("asyncio", 0.1, 0.1), FAILS),
    ("asyncio", "A message is delayed", lightly("asyncio", 0.1, 0.12), FAILS),
    ("asyncio", "A message is delayed", lightly("asyncio", 0.1, 0.6), HOLDS),
    ("asyncio", "A message is delayed", [*lightly("asyncio", 0.1, 0.6), *lightly("kafka", 1, 3)], HOLDS),
    ("rabbitmq", "One to one", spread("rabbitmq"), HOLDS),
    ("rabbitmq", "One to one", spread("rabbitmq", lost=1), FAILS),
    ("rabbitmq", "Messages are persistent", [KEPT, TRANSIENT], HOLDS),
    ("rabbitmq", "Messages are persistent", [fault("rabbitmq", "DURABLE", 1), TRANSIENT], FAILS),
    ("rabbitmq", "Messages are persistent", [KEPT, fault("rabbitmq", "AT_LEAST_ONCE", 0)], UNKNOWN),
    ("rabbitmq", "Thousands", [carried("rabbitmq", "name", 2e3), carried("rabbitmq", "many", 4e3)], HOLDS),
    ("rabbitmq", "Thousands", [carried("rabbitmq", "name", 9e2), carried("rabbitmq", "many", 4e3)], FAILS),
    ("kafka", "One to many", spread("kafka"), HOLDS),
    ("kafka", "One to many", spread("kafka", duplicates=1), DEPENDS),
    ("kafka", "One to many", spread("kafka", lost=1), FAILS),
    ("kafka", "One to many", [*spread("kafka"), at_work(1, 1)[-1] | {"duplicates": 2}], DEPENDS),
    ("kafka", "One to many", [*spread("kafka"), spread("kafka")[0] | {"error": "3 that nobody had sent"}], UNKNOWN),
    ("kafka", "Messages are kept", [*waiting(1, 1), fault("kafka", "DURABLE", 0)], HOLDS),
    ("kafka", "Messages are kept", waiting(1, 1), HOLDS),
    ("kafka", "Messages are kept", [*waiting(1, 1), fault("kafka", "DURABLE", 1)], FAILS),
    ("kafka", "Messages are kept", [*waiting(1, 1, lost=1), fault("kafka", "DURABLE", 0)], FAILS),
    ("kafka", "Millions", [carried("kafka", "name", 2e6), carried("kafka", "many", 2e6)], HOLDS),
    ("kafka", "Millions", [carried("kafka", "name", 1e5), carried("kafka", "many", 2e6)], DEPENDS),
    ("kafka", "Millions", [carried("kafka", "name", 1e5), carried("kafka", "many", 9e5)], FAILS),
    ("kafka", "Low latency", QUICK, HOLDS),
    ("kafka", "Low latency", [*WAVERING, *lightly("rabbitmq", 1)], UNKNOWN),
    ("kafka", "Low latency", SLOW, FAILS),
    ("kafka", "Low latency", [*lightly("kafka", 1.1), *lightly("rabbitmq", 1)], HOLDS),
    ("kafka", "Low latency", [*QUICK, loaded("rabbitmq", 0.9, 4e4, 20), loaded("kafka", 0.5, 1e5, 5)], HOLDS),
    ("kafka", "Low latency", [*QUICK, loaded("rabbitmq", 0.5, 4e4, 5), loaded("kafka", 0.5, 1e5, 20)], DEPENDS),
    ("kafka", "Low latency", [*QUICK, loaded("rabbitmq", 1.05, 4e4, 5), loaded("kafka", 0.5, 1e5, 20)], HOLDS),
    ("kafka", "Low latency", [*SLOW, loaded("rabbitmq", 0.9, 4e4, 20), loaded("kafka", 0.5, 1e5, 5)], DEPENDS),
    ("kafka", "Low latency", [*SLOW, loaded("rabbitmq", 0.9, 4e4, 20), loaded("kafka", 0.5, 3e4, 5)], FAILS),
    ("kafka", "Fault-tolerant", [fault("kafka", "DURABLE", 0)], HOLDS),
    ("kafka", "Fault-tolerant", [fault("kafka", "DURABLE", 1)], FAILS),
    ("kafka", "Fault-tolerant", [fault("kafka", "DURABLE", 0) | {"duplicates": 1}], DEPENDS),
    ("kafka", "Fault-tolerant", [cluster(11), cluster(11) | {"design": "rabbitmq"}], HOLDS),
    ("kafka", "Fault-tolerant", [cluster(90), cluster(11) | {"design": "rabbitmq"}], DEPENDS),
    ("kafka", "Fault-tolerant", [cluster(90)], DEPENDS),
    ("kafka", "Fault-tolerant", [fault("kafka", "DURABLE", 0) | {"error": "4 reordered"}], DEPENDS),
    ("kafka", "Fault-tolerant", [fault("kafka", "DURABLE", 0), cluster(1) | {"error": "hung", "lost": None}], DEPENDS),
    ("kafka", "Fault-tolerant", [fault("kafka", "DURABLE", 1) | {"error": "1 lost"}], FAILS),
    (
        "kafka",
        "Fault-tolerant",
        [fault("kafka", "DURABLE", 0) | {"error": "the broker is gone", "lost": None}],
        UNKNOWN,
    ),
    ("kafka", "Scalable", shared(1e5, 3e5), HOLDS),
    ("kafka", "Scalable", shared(1e5, 1.1e5), UNKNOWN),
    ("kafka", "Scalable", shared(1e5, 5e4), UNKNOWN),
    ("kafka", "Scalable", at_work(3.6, 1.1), HOLDS),
    ("kafka", "Scalable", at_work(3.6, 0.7), DEPENDS),
    ("kafka", "Scalable", at_work(1.1, 0.7), FAILS),
    ("kafka", "Scalable", [*at_work(1.1, 0.7), *clusters(1.9, 2.6)], HOLDS),
    ("kafka", "Scalable", [*at_work(3.6, 1.1), *clusters(1.4, 2.6)], FAILS),
    ("kafka", "Scalable", clusters(1.9, 2.0), FAILS),
    ("kafka", "Scalable", clusters(1.5, 2.6, by=(0.9, 1.1, 1, 1)), UNKNOWN),
    ("kafka", "Scalable", clusters(1.3, 2.6, by=(0.9, 1.1, 1, 1)), FAILS),
    ("kafka", "Scalable", clusters(1.7, 2.6, by=(0.9, 1.1, 1, 1)), UNKNOWN),
    ("kafka", "Scalable", clusters(2.0, 2.8, by=(0.9, 1.1, 1, 1)), HOLDS),
    ("kafka", "Scalable", clusters(1.9, 2.6, by=(9, 0.5, 2, 0.5)), UNKNOWN),
    ("kafka", "Scalable", [*clusters(1.9, 2.6), *clusters(1.8, 2.4, spread=TO_ALL)], HOLDS),
    ("kafka", "Scalable", [*clusters(1.9, 2.6), *clusters(1.1, 1.2, spread=TO_ALL)], DEPENDS),
    ("kafka", "Scalable", [*clusters(1.1, 1.2), *clusters(1.1, 1.2, spread=TO_ALL)], FAILS),
    ("kafka", "Scalable", [*clusters(1.9, 2.6), *clusters(1.8, 2.4, spread=IN_TURN)], HOLDS),
    ("kafka", "Scalable", [*clusters(1.9, 2.6), *clusters(1.1, 1.2, spread=IN_TURN)], DEPENDS),
    ("kafka", "Scalable", [*clusters(1.9, 2.6), *clusters(1.9, 2.6, by=(9, 0.5, 2, 0.5), spread=TO_ALL)], UNKNOWN),
    ("kafka", "Scalable", clusters(1.9, 2.6, busy=0.5), UNKNOWN),
    ("kafka", "Scalable", [*clusters(1.9, 2.6), *clusters(1.1, 1.2, spread=IN_TURN, busy=0.5)], UNKNOWN),
    ("kafka", "High concurrency", many_at_once(4, 1), UNKNOWN),
    ("kafka", "High concurrency", many_at_once(100, 1), HOLDS),
    ("kafka", "High concurrency", many_at_once(100, 0.3), FAILS),
    ("kafka", "High concurrency", many_at_once(100, 1, lost=1), FAILS),
    ("kafka", "High concurrency", crowded(1.2), HOLDS),
    ("kafka", "High concurrency", crowded(3), FAILS),
    ("kafka", "High concurrency", crowded(1.2, lost=1), FAILS),
    ("kafka", "High concurrency", crowded(2, disturbed=True), UNKNOWN),
    ("kafka", "High concurrency", [*many_at_once(4, 1), *crowded(1.2)], HOLDS),
    ("kafka", "High concurrency", [*many_at_once(4, 1), *crowded(3)], FAILS),
    ("kafka", "High concurrency", [*many_at_once(4, 0.3), *crowded(1.2)], DEPENDS),
    ("kafka", "High concurrency", [*many_at_once(4, 1, lost=1), *crowded(1.2)], FAILS),
    ("kafka", "Tweaking", tweaked(2, 2, 2), HOLDS),
    ("kafka", "Tweaking", tweaked(2, 1.1, 2), DEPENDS),
    ("kafka", "Tweaking", tweaked(2, 2, 2, 2), HOLDS),
    ("kafka", "Tweaking", tweaked(2, 2, 2, 1), DEPENDS),
    ("kafka", "Tweaking", tweaked(1, 1, 1), FAILS),
    ("conclusion", "For simple", simple(0.1, 0.5, 1, 100), HOLDS),
    ("conclusion", "For simple", simple(0.1, 0.9, 1, 100), DEPENDS),
    ("conclusion", "For simple", simple(2, 2, 1, 900), FAILS),
    ("conclusion", "For simple", by_another(1.0), DEPENDS),
    ("conclusion", "For simple", installed(1.0, 2.0), HOLDS),
    ("conclusion", "For simple", installed(1.0, 1.0), DEPENDS),
    ("conclusion", "For simple", installed(1.0, 2.0, guarantee="DURABLE"), HOLDS),
    ("conclusion", "For simple", installed(0.9, 0.2, guarantee="DURABLE"), DEPENDS),
    ("conclusion", "For simple", by_another(1.9), HOLDS),
    ("conclusion", "For large", waiting(1e6, 5e4), HOLDS),
    ("conclusion", "For large", waiting(5e4, 5e4), FAILS),
    ("conclusion", "For large", [*waiting(1e6, 5e4), *large("kafka", 2e3), *large("rabbitmq", 1e3)], HOLDS),
    ("conclusion", "For large", [*waiting(1e6, 5e4), *large("kafka", 5e2), *large("rabbitmq", 1e3)], DEPENDS),
    ("conclusion", "For large", [*waiting(1e6, 5e4), *large("kafka", 2e3, 0.1), *large("rabbitmq", 1e3)], HOLDS),
    ("conclusion", "For large", [*waiting(1e6, 5e4), large("kafka", 5e2)[0], large("rabbitmq", 1e3)[0]], HOLDS),
    ("conclusion", "Kafka is faster", faster(40, 6, 0.5), HOLDS),
    ("conclusion", "Kafka is faster", faster(40, 6, 2), DEPENDS),
    ("conclusion", "Kafka is faster", faster(0.5, 0.5, 2), FAILS),
]


@pytest.mark.parametrize(("of", "beginning", "rows", "says"), CASES)
def test_a_verdict_follows_the_figures(of: str, beginning: str, rows: list[Row], says: str) -> None:
    assert word(frame(*rows), of, beginning) == says


def test_each_verdict_can_come_out_differently() -> None:
    """By the cases above; what no figure decides is compared with what its notebook concludes."""
    for claim in CLAIMS:
        said = {says for of, start, _, says in CASES if of == claim.design and claim.statement.startswith(start)}
        assert len(said - {UNKNOWN}) > 1 or {HOLDS, UNKNOWN} == said or claim.statement in JUDGED_BY_A_NOTEBOOK


def test_what_is_open_of_a_cluster_says_why() -> None:
    wavering = clusters(1.9, 2.6, by=(9, 0.5, 2, 0.5), spread=TO_ALL)
    idle = clusters(1.1, 1.2, spread=IN_TURN, busy=0.5)
    disagree, limit = "; the rounds do not agree", "; one broker was not busy, so its clients were the limit"
    for rows, why in ((wavering, disagree), (idle, limit), ([*wavering, *idle], disagree + limit)):
        found = verdicts(frame(*clusters(1.9, 2.6), *rows))
        (said,) = found[found["claim"].str.startswith("Scalable")]["evidence"]
        assert said.endswith(why)
        assert "".join(one for one in (disagree, limit) if one in said) == why


def test_a_difference_within_the_noise_of_the_run_settles_nothing() -> None:
    """The same cell twice, once half as fast: what is 1.6 times as much may be chance, and it may be more."""
    noisy = [carried("asyncio", "name", speed, **{"params.again": again}) for speed, again in ((1, False), (2, True))]
    assert word(frame(*faster(1.6, 1.6, 2)), "conclusion", "Kafka is faster") == DEPENDS
    assert word(frame(*faster(1.6, 1.6, 2), *noisy), "conclusion", "Kafka is faster") == UNKNOWN
    assert word(frame(*faster(1.1, 1.1, 2), *noisy), "conclusion", "Kafka is faster") == FAILS


def test_each_figure_has_its_own_noise() -> None:
    """Speeds that differ from themselves say nothing against a time, nor the other way round."""
    slow = [*SLOW, loaded("rabbitmq", 0.9, 4e4, 20), loaded("kafka", 0.5, 5e4, 32)]
    speeds = [carried("asyncio", "name", speed, **{"params.again": again}) for speed, again in ((1, False), (2, True))]
    times = [loaded("asyncio", 0.5, 1, p50) | {"params.again": again} for p50, again in ((1, False), (2, True))]
    assert word(frame(*slow, *speeds), "kafka", "Low latency") == FAILS
    assert word(frame(*slow, *times), "kafka", "Low latency") == UNKNOWN
    assert word(frame(*faster(1.6, 1.6, 2), *times), "conclusion", "Kafka is faster") == DEPENDS


def test_a_difference_that_the_rounds_do_not_agree_on_settles_nothing() -> None:
    rows = frame(*waiting(2e5, 5e4))
    seldom = rows["design"].eq("kafka") & rows["repetition"].isin([2, 3])
    assert word(rows, "conclusion", "For large") == HOLDS
    slower = rows["messages_per_s"].mask(seldom, 4e4)
    assert word(rows.assign(messages_per_s=slower), "conclusion", "For large") == UNKNOWN
    assert word(frame(*waiting(5e4, 5e4)), "conclusion", "For large") == FAILS


def test_rounds_that_do_not_agree_are_no_firm_yes() -> None:
    """Lists may be cheaper, or not: nobody knows whether the overhead can be avoided."""
    lists = [overhead(1e6, 1e6 * by)[1] | {"repetition": n} for n, by in enumerate((0.5, 4, 0.6, 5, 1), 1)]
    assert word(frame(overhead(1e6, 1e6)[0], *lists), "asyncio", "It has an overhead") == UNKNOWN


def test_rounds_of_two_runs_are_not_paired() -> None:
    """Five rounds each, of runs that have only one design: there is no round in which both were measured."""
    runs = [frame(row, rounds=5).assign(run=row["design"]) for row in waiting(1e6, 5e4)]
    rows = pd.concat(runs, ignore_index=True)
    assert word(rows.assign(run="one"), "conclusion", "For large") == HOLDS
    assert word(rows, "conclusion", "For large") == UNKNOWN


def test_what_failed_is_not_called_unmeasured() -> None:
    rows = frame(*(row | {"error": "the broker is gone"} for row in waiting(1e6, 5e4)))
    (evidence,) = verdicts(rows).query("claim.str.startswith('For large volumes')")["evidence"]
    assert evidence == "all repetitions of backlog failed for kafka: the broker is gone"


def test_what_only_illustrates_may_be_missing() -> None:
    rows = frame(*(row for row in tweaked(2, 2, 2) if row["design"] == "kafka"))
    assert word(rows, "kafka", "Tweaking") == HOLDS


def test_the_answer_follows_the_figures() -> None:
    """If Kafka carries less, the line for large volumes does not name it for its speed."""

    def lines(times: float, lost: int, *more: Row) -> str:
        rows = frame(*faster(times, 1, 1), fault("rabbitmq", "DURABLE", lost), *more)
        return " ".join(answer(rows.assign(broker_elsewhere=None), verdicts(rows)))

    assert "Large volumes, or reading again: Kafka." in lines(40, 0)
    assert "For volume it is not faster." in lines(0.5, 0)
    noisy = [carried("asyncio", "name", speed, **{"params.again": again}) for speed, again in ((1, False), (2, True))]
    assert "For volume it is not known to be faster." in lines(1.6, 0, *noisy)
    assert "kill -9 of the broker lost 0 of 5,000" in lines(40, 0)
    assert "kill -9 of the broker lost 10 of 5,000" in lines(40, 2)


def test_three_rounds_settle_no_difference() -> None:
    assert word(frame(*waiting(1e6, 5e4), rounds=3), "conclusion", "For large") == UNKNOWN


def test_it_says_where_the_limit_of_rabbitmq_lies() -> None:
    busy: Row = {"cpu_s.broker": 0.03, "cpu_s.client": 0.01}
    rows = frame(carried("rabbitmq", "name", 2e4, **busy), carried("rabbitmq", "many", 3e4, **busy))
    (evidence,) = verdicts(rows).query("claim.str.startswith('Thousands')")["evidence"]
    assert "busy for 30 µs, the clients for 10 µs with greet" in evidence


def test_each_figure_names_its_client_and_what_another_one_gets() -> None:
    cells = [
        ("kafka", "greet", 4e5),
        ("kafka", "aiokafka", 1e5),
        ("rabbitmq", "greet", 2e4),
        ("rabbitmq", "PerfTest", 4e4),
    ]
    rows = frame(*(carried(design, "many", speed, contender=who) for design, who, speed in cells))
    run = Figures(rows)
    best = [run.best(**_many(design)) for design in ("kafka", "rabbitmq")]
    assert run.clients(best[0]) == " (greet; with aiokafka 0.25 times as many)"
    assert run.clients(*best) == (
        " (Kafka: greet; with aiokafka 0.25 times as many. RabbitMQ: PerfTest; with greet 0.5 times as many)"
    )


def test_a_tool_that_publishes_one_by_one_stands_beside_those_who_do() -> None:
    """PerfTest was measured once, as many: what Python's clients need one by one says little about the broker."""
    clients = [("kafka", "aiokafka", "name", 2e5), ("rabbitmq", "aiormq", "name", 1e4)]
    clients += [("kafka", "aiokafka", "many", 1e6), ("rabbitmq", "PerfTest", "many", 4e4)]
    rows = [carried(design, way, speed, contender=who) for design, who, way, speed in clients]
    alone = [
        row | {"contender": who}
        for who, design in (("aiokafka", "kafka"), ("aiormq", "rabbitmq"))
        for row in lightly(design, 1.0)
    ]
    table = verdicts(frame(*faster(40, 6, 0.5), *rows, *alone)).set_index("claim")["evidence"]
    said = table["Kafka is faster."]
    assert (
        "one by one 20 times (aiokafka beside aiormq), 5 times beside PerfTest, which publishes one by one too" in said
    )


def test_nothing_measured_settles_nothing_that_is_measured() -> None:
    table = verdicts(pd.DataFrame())
    assert len(table) == len(CLAIMS)
    shown = table["claim"].isin(JUDGED_BY_A_NOTEBOOK)
    assert shown.sum() == len(JUDGED_BY_A_NOTEBOOK)
    assert set(table[~shown]["verdict"]) == {UNKNOWN}
    assert table[shown]["evidence"].str.contains("no figure of this run").all()


def test_twice_the_rate_is_fast_enough() -> None:
    rows = frame(
        carried("asyncio", "name", 1e6, guarantee="AT_LEAST_ONCE"),
        carried("rabbitmq", "name", 3e4),
        carried("kafka", "name", 2e5),
        carried("kafka", "name", 9e6, **{"params.phase": "publish"}),
        *(carried(design, "many", 1e6) for design in ("rabbitmq", "kafka")),
        carried("asyncio", "many", 1e5, guarantee="AT_LEAST_ONCE"),
    )
    assert fast_enough(rows, 1e4) == ["asyncio", "rabbitmq", "kafka"]
    assert fast_enough(rows, 2e4) == ["asyncio", "kafka"]
    assert fast_enough(rows, 2e5) == ["asyncio"]
    assert fast_enough(rows, 2e5, "many") == ["rabbitmq", "kafka"]


def test_a_first_look_asks_enough_for_fifteen_claims_and_all_conclusions() -> None:
    settings = Settings(DESIGNS, tuple(every()), rounds=4)
    rows = []
    for name in questions.FIRST:
        for cell in questions.question(name).first(settings):
            phases = ("publish", "consume") if cell.phase == "apart" else (cell.phase,)
            row = {"question": name, "design": cell.contender.design, "contender": cell.contender.name}
            row |= {"guarantee": cell.guarantee.name, "latencies": {"service": {"p50": 1.0}}}
            for phase in phases:
                params = {f"params.{key}": value for key, value in (cell.params | {"phase": phase}).items()}
                rows.append(frame(row | params, rounds=settings.rounds_of(cell)))
    judged = verdicts(pd.concat(rows))
    left = judged[judged["verdict"] == UNKNOWN]
    assert set(left["claim"]) == OPEN_AFTER_A_FIRST_LOOK
    assert left["evidence"].str.contains("`--questions [a-z_,]+`").all()  # what to type
    assert len(judged) - len(left) >= 15
