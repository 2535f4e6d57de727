"""greet beside its peers: how many times as fast, of the same work under the same guarantee in the same run.

Each line is data: two cells of a run, which are paired round by round, and what the ratio should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench import stats


@dataclass(frozen=True)
class Target:
    """A ratio, or where there is no peer a figure, and where it should be."""

    design: str
    what: str
    way: str
    peer: str
    """The contender that greet stands beside, and its way: "aiormq, many"; empty for the figure itself."""
    least: float | None
    """What was set as a target before it was measured; None where nothing was."""
    cell: Mapping[str, Any]
    """What tells the cells of both from others of the question."""
    question: str = "throughput"
    figure: str = "messages_per_s"
    at_most: bool = False
    """Whether `least` is the most, as of a latency."""


def _apart(design: str, phase: str, way: str, peer: str, least: float) -> Target:
    what = {"publish": "publishing", "consume": "reading what waits"}[phase]
    return Target(design, what, way, peer, least, {"phase": phase, "guarantee": "DURABLE"})


def _together(design: str, guarantee: str, way: str, peer: str, least: float | None) -> Target:
    return Target(design, "from end to end", way, peer, least, {"phase": "together", "guarantee": guarantee})


def _latency(design: str, peer: str) -> Target:
    cell = {"load": None, "guarantee": "AT_LEAST_ONCE"}
    return Target(*(design, "p50 at the same rate", "name", peer, 1.1, cell, "latency", "latency_ms.p50"), at_most=True)


TARGETS = (
    _together("asyncio", "AT_LEAST_ONCE", "name", "bare queue, name", 0.6),
    _together("asyncio", "AT_LEAST_ONCE", "many", "bare queue, name", 3),
    _together("asyncio", "AT_LEAST_ONCE", "many", "bare queue, many", None),
    _apart("rabbitmq", "publish", "name", "aio-pika, name", 1.5),
    _apart("rabbitmq", "publish", "many", "aiormq, many", 1),
    _apart("rabbitmq", "consume", "name", "aio-pika, name", 2),
    _apart("rabbitmq", "consume", "many", "aiormq, many", 1),
    _together("rabbitmq", "DURABLE", "name", "FastStream, name", 3),
    _latency("rabbitmq", "aio-pika, name"),
    _latency("rabbitmq", "aiormq, name"),
    _apart("kafka", "publish", "name", "aiokafka, name", 0.9),
    _apart("kafka", "publish", "many", "", 1_000_000),
    _apart("kafka", "publish", "many", "Java's own, many", 1),
    _apart("kafka", "consume", "name", "aiokafka, name", 1.3),
    _apart("kafka", "consume", "many", "aiokafka, many", 0.95),
    _together("kafka", "DURABLE", "name", "FastStream, name", 20),
    _together("kafka", "DURABLE", "many", "FastStream, many", 40),
    _latency("kafka", "aiokafka, name"),
)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each target that the run measured: the ratio, its 95 % interval, and whether all of that is met."""
    found = []
    for one in TARGETS if len(rows) else ():
        ours = _cell(rows, one, "greet", one.way)
        contender, _, way = one.peer.rpartition(", ")
        theirs = _cell(rows, one, contender, way) if one.peer else ours.assign(**{one.figure: 1.0})
        if ratio := stats.beside(ours, theirs, one.figure):
            found.append(
                {
                    "design": one.design,
                    "what": one.what,
                    "greet": one.way,
                    "beside": one.peer or "messages/s",
                    "times as much": str(ratio),
                    "target": f"{'at most' if one.at_most else 'at least'} {one.least:,}" if one.least else "–",
                    "met": _met(ratio, one),
                }
            )
    return pd.DataFrame(found)


def _cell(rows: pd.DataFrame, one: Target, contender: str, way: str) -> pd.DataFrame:
    kept = rows["question"].eq(one.question) & rows["design"].eq(one.design) & rows["contender"].eq(contender)
    kept &= rows["params.way"].eq(way) & rows["params.again"].eq(False) & rows["error"].isna()
    for key, value in one.cell.items():
        column = rows[key if key in rows else f"params.{key}"]
        kept &= column.isna() if value is None else column.eq(value)
    return rows[kept]


def _met(ratio: stats.Ratio, one: Target) -> str:
    if one.least is None:
        return "–"
    if ratio.rounds < stats.FEWEST:
        return "needs four rounds"
    met, missed = ratio.low >= one.least, ratio.high < one.least
    if one.at_most:
        met, missed = ratio.high <= one.least, ratio.low > one.least
    return "yes" if met else "no" if missed else "within the noise"
