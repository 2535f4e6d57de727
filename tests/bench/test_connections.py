"""The question of connections: publishers over a connection each take turns, over a broker of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bench.contenders import every
from bench.measure.account import Series
from bench.measure.loops import Received, Sent, Usage
from bench.measure.run import session
from bench.model import Figures, Settings
from bench.questions import connections
from greet.brokers import VARIABLES


def test_a_plain_driver_is_asked_or_else_greet() -> None:
    designs = ("asyncio", "rabbitmq", "kafka", "rabbitmq-stream")
    plain = connections.cells(Settings(designs, tuple(every()), "full"))
    assert [one.contender.name for one in plain] == ["aiormq", "aiokafka"]
    own = connections.cells(Settings(designs, tuple(one for one in every() if one.name == "greet")))
    assert [(one.contender.design, one.contender.name) for one in own] == [("rabbitmq", "greet"), ("kafka", "greet")]


def test_the_cpu_time_of_the_clients_is_of_publishers_and_reader() -> None:
    codes = np.arange(connections.MESSAGES, dtype=np.int64)
    stamps = codes * 2_500_000
    series, usage = Series("conn", 0, connections.MESSAGES), Usage(1, 0, int(3e9), 9.0)
    sent = Sent(series, (connections.MESSAGES,), 0, int(4e9), usage, None, stamps, stamps, stamps)
    received = Received("g0", codes, 0, int(4e9), Usage(2, int(1e9), int(3e9), 9.0), stamps=stamps + 1)
    assert connections.figures(sent, received, []).fields["cpu_s"]["client"] == 5.0


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


def held(found: Figures) -> float:
    return float(found.fields["rss_mb"]["broker"])
