"""The question of connections: publishers over a connection each take turns, over a broker of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import pytest

from bench.contenders import every
from bench.measure.account import Series
from bench.measure.loops import Received, Sent, Usage
from bench.measure.run import session
from bench.model import Figures, Session, Settings
from bench.questions import connections, scaling, work
from greet import brokers
from greet.brokers import VARIABLES


def test_a_plain_driver_is_asked_or_else_greet() -> None:
    designs = ("asyncio", "rabbitmq", "kafka", "rabbitmq-stream")
    plain = connections.cells(Settings(designs, tuple(every()), "full"))
    assert [one.contender.name for one in plain] == ["aiormq", "aiokafka"]
    own = connections.cells(Settings(designs, tuple(one for one in every() if one.name == "greet")))
    assert [(one.contender.design, one.contender.name) for one in own] == [("rabbitmq", "greet"), ("kafka", "greet")]


@pytest.mark.parametrize(("asked", "has"), [(5, 4), (2, 2), (10, 10)])
def test_a_slow_question_has_fewer_rounds_unless_more_were_asked_for(asked: int, has: int) -> None:
    for question in (connections, scaling, work):
        settings = Settings(("kafka",), tuple(every()), "full", rounds=asked)
        assert {settings.rounds_of(cell) for cell in question.cells(settings)} == {has}


def test_the_cpu_time_of_the_clients_is_of_publishers_and_reader() -> None:
    codes = np.arange(connections.MESSAGES, dtype=np.int64)
    stamps = codes * 2_500_000
    series, usage = Series("conn", 0, connections.MESSAGES), Usage(1, 0, int(3e9), 9.0)
    sent = Sent(series, (connections.MESSAGES,), 0, int(4e9), usage, None, stamps, stamps, stamps)
    received = Received("g0", codes, 0, int(4e9), Usage(2, int(1e9), int(3e9), 9.0), stamps=stamps + 1)
    assert connections.figures(sent, received, []).fields["cpu_s"]["client"] == 5.0


def test_the_clock_stops_at_the_last_receipt() -> None:
    usage = Usage(0, 0, 10**9, 1.0)
    stamps = np.arange(connections.MESSAGES, dtype=np.int64) * 10**6
    series = Series("abcd", 0, connections.MESSAGES)
    sent = Sent(series, (connections.MESSAGES,), 0, 2 * 10**9, usage, intended=stamps, actual=stamps)
    received = Received("g0", np.arange(connections.MESSAGES), 0, 5 * 10**9, usage, stamps=stamps + 10**6)
    assert connections.figures(sent, received, []).fields["elapsed_s"] == 5.0


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_more_connections_carry_the_same(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["rabbitmq"], rabbitmq_url)
    monkeypatch.setattr(connections, "LEVELS", (2, 300))
    monkeypatch.setattr(connections, "WARM_S", 0.1)
    settings = Settings(("rabbitmq",), tuple(every()))
    (cell,) = connections.cells(settings)
    async with session(settings, ThreadPoolExecutor) as opened:
        few, many = await opened.measured(cell, 0)
    for found in (few, many):
        assert (found.fields["error"], found.fields["lost"], found.fields["duplicates"]) == (None, 0, 0)
        assert found.fields["received"] == connections.MESSAGES
        assert found.fields["latency_ms"]["p99"] > 0
    assert [one.params["publishers"] for one in (few, many)] == [2, 300]
    assert held(many) > held(few)


@pytest.mark.parametrize(("loses", "told"), [(0, [3]), (1, [3, 0]), (3, [3, 0])])
async def test_what_is_lost_in_a_repetition_that_is_thrown_away_is_told(
    loses: int, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the warm-up, or when the fewest connections are measured the first or the second time."""
    calls = iter(range(4))

    @asynccontextmanager
    async def private(_: object) -> AsyncIterator[None]:
        yield

    async def together(*_: object) -> Figures:
        return Figures({"error": None, "lost": 3 if next(calls) == loses else 0, "rss_mb": {}})

    monkeypatch.setattr(brokers, "private", private)
    monkeypatch.setattr(connections, "_together", together)
    monkeypatch.setattr(connections, "LEVELS", (2, 300))
    moments = iter([0.0, 1.0, connections.WARM_S + 1])
    monkeypatch.setattr(connections, "monotonic", lambda: next(moments))
    (cell,) = connections.cells(Settings(("rabbitmq",), tuple(every())))
    found = await connections.climb(cast("Session", None), cell, 0)
    assert [one.fields["lost"] for one in found] == told
    assert found[0].fields["error"] == "3 lost, in a repetition that was to be thrown away"


def held(found: Figures) -> float:
    return float(found.fields["rss_mb"]["broker"])
