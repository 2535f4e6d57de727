"""greet beside its peers: the ratio is of the right cells, and it is met only where all of the interval is."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.judge import targets

PLAIN = {
    "question": "throughput",
    "design": "asyncio",
    "guarantee": "AT_LEAST_ONCE",
    "error": None,
    "params.way": "name",
    "params.phase": "together",
    "params.again": False,
    "params.load": None,
}
WOBBLE = (0.98, 1.0, 1.02, 0.99, 1.01)


def cell(
    contender: str, figure: float, column: str = "messages_per_s", rounds: int = 5, **more: Any
) -> list[dict[str, Any]]:
    told = {key.replace("_", ".", 1) if key.startswith("params_") else key: value for key, value in more.items()}
    return [
        PLAIN | {"contender": contender, column: figure * by, "repetition": number} | told
        for number, by in enumerate(WOBBLE[:rounds])
    ]


def alone(contender: str, service: float) -> list[dict[str, Any]]:
    """Messages that come alone: what counts is the time from their send, not from when they were due."""
    rows = cell(contender, service, "p50", question="wake_up", design="kafka", params_rate=100.0)
    return [row | {"latency_ms.p50": 9.0, "latencies": {"service": {"p50": row["p50"]}}} for row in rows]


def line(rows: list[dict[str, Any]]) -> dict[str, str]:
    (found,) = targets.table(pd.DataFrame(rows)).to_dict("records")
    return {str(key): str(value) for key, value in found.items()}


@pytest.mark.parametrize(("speed", "met"), [(70, "yes"), (50, "no")])
def test_a_ratio_that_is_or_is_not_reached(speed: float, met: str) -> None:
    found = line(cell("greet", speed) + cell("bare queue", 100))
    assert found["met"] == met
    assert found["target"] == "at least 0.6"
    assert found["times as much"].startswith(f"0.{speed}")


def test_a_ratio_whose_interval_holds_the_bar_is_open() -> None:
    noisy = [
        {**row, "messages_per_s": row["messages_per_s"] * by}
        for row, by in zip(cell("bare queue", 100), (1, 2, 1, 0.5, 1), strict=True)
    ]
    assert line(cell("greet", 62) + noisy)["met"] == "within the noise"


def test_the_same_twice_and_failures_are_left_out() -> None:
    good = cell("greet", 70) + cell("bare queue", 100)
    bad = cell("greet", 1, params_again=True) + cell("greet", 1, error="the broker is gone")
    assert line(good + bad) == line(good)


def test_a_latency_should_be_at_most() -> None:
    told: dict[str, Any] = {"question": "latency", "design": "kafka", "column": "latency_ms.p50", "params_rate": 500.0}
    assert line(cell("greet", 1.05, **told) + cell("aiokafka", 1.0, **told))["met"] == "yes"
    assert line(cell("greet", 1.3, **told) + cell("aiokafka", 1.0, **told))["met"] == "no"
    assert line(alone("greet", 1.05) + alone("confluent-kafka", 1.0))["met"] == "no"
    assert line(alone("greet", 0.95) + alone("confluent-kafka", 1.0))["met"] == "yes"
    assert targets.table(pd.DataFrame(cell("greet", 1.0, **told) + cell("confluent-kafka", 9.0, **told))).empty


def test_only_the_same_work_stands_side_by_side() -> None:
    """The same size, phase, way, number of groups; and never a share of what each can carry."""
    ours = cell("greet", 1, params_size=65536)
    for other in ({"params_size": 16}, {"params_phase": "publish"}, {"params_way": "many"}, {"params_groups": 8}):
        told: dict[str, Any] = {"params_size": 65536} | other
        assert targets.table(pd.DataFrame(ours + cell("aiokafka", 9, **told))).empty, other
    assert line(ours + cell("aiokafka", 9, params_size=65536))["what"] == "from end to end, 64 KiB"
    loaded: dict[str, Any] = {"question": "latency", "column": "latency_ms.p50", "params_load": 0.5}
    assert targets.table(pd.DataFrame(cell("greet", 1, **loaded) + cell("aiokafka", 1, **loaded))).empty


def test_what_is_lost_comes_first_and_is_counted() -> None:
    told: dict[str, Any] = {"design": "kafka", "params_size": 1024, "params_way": "many"}
    rows = [*cell("greet", 100, **told), *cell("aiokafka", 50, **told)]
    rows += [*cell("confluent-kafka", 900, **told), *cell("Java's own", 300, **told)]
    found = targets.table(pd.DataFrame(rows))
    assert list(found["beside"]) == ["confluent-kafka, many", "Java's own, many", "aiokafka, many"]
    assert list(found["met"]) == ["no", "no", "yes"]
    assert len(targets.beyond(found)) == 2
    assert targets.said(found) == "1 of 3 comparisons certainly meet the target."


def test_few_rounds_settle_nothing_and_no_peer_shows_nothing() -> None:
    assert line(cell("greet", 70, rounds=3) + cell("bare queue", 100, rounds=3))["met"] == "needs four rounds"
    assert targets.table(pd.DataFrame(cell("greet", 70))).empty
    assert targets.table(pd.DataFrame()).empty
