"""A verdict follows the figures: it turns when they turn, and a figure that is missing settles nothing."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.claims import CLAIMS, DEPENDS, FAILS, HOLDS, UNKNOWN, verdicts

PLAIN = {
    "contender": "greet",
    "guarantee": "DURABLE",
    "repetition": 1,
    "accepted": 1000,
    "lost": 0,
    "duplicates": 0,
    "error": None,
    "names_per_s": 1e5,
    "latency_ms.p50": 1.0,
    "rss_mb.broker": 300.0,
    "params.way": "many",
    "params.phase": "together",
    "params.again": False,
    "params.groups": 1,
    "params.members": 1,
    "params.publishers": 1,
    "params.rate": None,
    "params.fault": None,
    "params.rung": "",
}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([PLAIN | row for row in rows])


def word(rows: pd.DataFrame, of: str, beginning: str) -> str:
    table = verdicts(rows)
    (found,) = table[(table["of"] == of) & table["claim"].str.startswith(beginning)]["verdict"]
    return str(found)


def idle_and_busy(design: str, idle: float, busy: float) -> list[dict[str, Any]]:
    common = {"question": "wake_up", "design": design, "guarantee": "AT_LEAST_ONCE"}
    return [
        common | {"params.rate": 1.0, "latency_ms.p50": idle},
        common | {"params.rate": 100.0, "latency_ms.p50": busy},
    ]


def faults(design: str, guarantee: str, lost: int) -> dict[str, Any]:
    return {
        "question": "faults",
        "design": design,
        "guarantee": guarantee,
        "params.fault": "broker killed",
        "lost": lost,
    }


def throughput(design: str, way: str, speed: float, phase: str = "together") -> dict[str, Any]:
    return {
        "question": "throughput",
        "design": design,
        "params.way": way,
        "names_per_s": speed,
        "params.phase": phase,
    }


@pytest.mark.parametrize(("idle", "busy", "says"), [(0.1, 0.1, FAILS), (9.0, 0.1, HOLDS), (0.9, 0.1, FAILS)])
def test_delays_of_sleepers(idle: float, busy: float, says: str) -> None:
    rows = frame(*idle_and_busy("asyncio", idle, busy))
    assert word(rows, "asyncio", "A name is delayed") == says


@pytest.mark.parametrize(("lost", "says"), [(0, HOLDS), (1, FAILS)])
def test_one_lost_name_is_enough(lost: int, says: str) -> None:
    assert word(frame(faults("kafka", "DURABLE", lost)), "kafka", "Fault-tolerant") == says


@pytest.mark.parametrize(("kept", "transient", "says"), [(0, 300, HOLDS), (1, 300, FAILS), (0, 0, FAILS)])
def test_transient_must_lose_what_persistent_keeps(kept: int, transient: int, says: str) -> None:
    rows = frame(faults("rabbitmq", "DURABLE", kept), faults("rabbitmq", "AT_LEAST_ONCE", transient))
    assert word(rows, "rabbitmq", "Messages are persistent") == says


@pytest.mark.parametrize(
    ("many", "published", "says"), [(2e6, 3e6, HOLDS), (4e5, 1.2e6, DEPENDS), (4e5, 7e5, FAILS), (1.1e6, 9e5, DEPENDS)]
)
def test_millions(many: float, published: float, says: str) -> None:
    rows = frame(
        throughput("kafka", "name", 1e5),
        throughput("kafka", "many", many),
        throughput("kafka", "many", published, "publish"),
    )
    assert word(rows, "kafka", "Millions") == says


@pytest.mark.parametrize(("kafka", "rabbit", "says"), [(1, 2, HOLDS), (2, 1, FAILS), (1, 1.1, DEPENDS)])
def test_low_latency_is_told_against_rabbitmq(kafka: float, rabbit: float, says: str) -> None:
    rows = frame(*idle_and_busy("kafka", 9, kafka), *idle_and_busy("rabbitmq", 9, rabbit))
    assert word(rows, "kafka", "Low latency") == says


@pytest.mark.parametrize(("speed", "says"), [(3e5, HOLDS), (1.1e5, UNKNOWN)])
def test_members_that_share_one_machine_settle_nothing(speed: float, says: str) -> None:
    shared = {"question": "work_sharing", "design": "kafka", "guarantee": "AT_LEAST_ONCE"}
    rows = frame(shared, shared | {"params.members": 4, "names_per_s": speed})
    assert word(rows, "kafka", "Scalable") == says


def test_what_failed_is_no_evidence() -> None:
    broken = faults("kafka", "DURABLE", 0) | {"error": "the broker is gone"}
    assert word(frame(broken), "kafka", "Fault-tolerant") == UNKNOWN


def test_nothing_measured_settles_nothing_that_is_measured() -> None:
    table = verdicts(pd.DataFrame())
    assert len(table) == len(CLAIMS)
    shown = table["claim"].str.contains("monitoring|wildcard")
    assert set(table[~shown]["verdict"]) == {UNKNOWN}
