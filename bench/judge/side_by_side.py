"""The designs side by side: what each carries, how long a message takes, how its readers share work, what a kill costs.

All figures are of one client, greet, so that two designs of one broker can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pandas as pd

from bench.judge.claims import BROKERS_MEMORY, ONE_OF_THREE, Figures, Missing, _lightly, _many
from bench.model import title_of
from bench.questions.faults import outcome
from bench.questions.takeover import KILLED
from bench.stats import ALONE, short
from greet.designs import DESIGNS, Design

TITLE = "The designs side by side"
NOTE = (
    "All by greet, with messages of 18 bytes and the strongest guarantee of the design; latency and work with"
    " AT_LEAST_ONCE. Kills: how often × lost / twice / the longest time without a message. A star says that a publisher"
    " or member ended with an error, and another took its place. Two settings make the gaps of Kafka shorter than by"
    " default: a killed member of a consumer group has a session of 6 s (`session.timeout.ms`, by default 45 s,"
    " with aiokafka 10 s), and a single broker that is killed one of 4 s (`broker.session.timeout.ms`,"
    " by default 9 s, as in the cluster of three)"
)
NONE = "–"
WORK_MS, MEMBERS = 5, 16
WEAK = "AT_LEAST_ONCE"


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each figure that the run has, a column for each design. Empty if it has only one design."""
    run = Figures(rows)
    measured = [design for design in DESIGNS if len(rows) and rows["design"].eq(design.name).any()]
    lines = [{"": label} | {title_of(one.name): _told(run, one, figure) for one in measured} for label, figure in LINES]
    kept = [line for line in lines if any(said != NONE for said in [*line.values()][1:])]
    if len(measured) < 2 or not kept:
        return pd.DataFrame()
    can = [{"": label} | {title_of(one.name): what(one) for one in measured} for label, what in CAN]
    return pd.DataFrame(kept + can)


def _told(run: Figures, design: Design, figure: Callable[[Figures, Design], str]) -> str:
    with suppress(Missing):
        return figure(run, design)
    return NONE


def _carried(column: str, way: str) -> Callable[[Figures, Design], str]:
    def told(run: Figures, design: Design) -> str:
        return short(run.median(column, **(_many(design.name, way) | {"guarantee": design.guarantees[-1].name})))

    return told


def _half(column: str) -> Callable[[Figures, Design], str]:
    return lambda run, design: short(run.median(column, "latency", design.name, load=0.5, guarantee=WEAK))


def _alone(run: Figures, design: Design) -> str:
    return short(run.median(ALONE, **_lightly(design.name)))


def _work(run: Figures, design: Design) -> str:
    cell: dict[str, Any] = {"question": "work", "design": design.name, "rung": f"{WORK_MS} ms", "members": MEMBERS}
    cell["guarantee"] = WEAK
    partitions = int(run.rows(**cell)["params.partitions"].max())
    hands = design.at_work(MEMBERS, partitions)
    return f"{short(run.speed(**cell, partitions=partitions))} by {hands}"


def _takeover(run: Figures, design: Design) -> str:
    return short(run.median("elapsed_s", "takeover", design.name, rung=KILLED, guarantee=WEAK))


def _kills(fault: str) -> Callable[[Figures, Design], str]:
    def told(run: Figures, design: Design) -> str:
        part = run.rows("faults", design.name, guarantee=design.guarantees[-1].name, fault=fault)
        return f"{int(part['params.times'].sum())} ×: {outcome(part)}"

    return told


def _in_order(design: Design) -> str:
    if not design.orders_by_key:
        return "no"
    return "yes" if design.at_work(MEMBERS) > 1 else "in order, but one member reads"


LINES: tuple[tuple[str, Callable[[Figures, Design], str]], ...] = (
    ("messages a second, one by one", _carried("messages_per_s", "name")),
    ("messages a second, in lists", _carried("messages_per_s", "many")),
    ("a message at 100 a second, ms", _alone),
    ("half of the highest rate that was held one by one, messages a second", _half("target_rate")),
    ("p50 at that rate, ms", _half("latency_ms.p50")),
    ("p99 at that rate, ms", _half("latency_ms.p99")),
    (f"{MEMBERS} members, {WORK_MS} ms of work: messages a second, by how many of them", _work),
    ("a member is killed, another goes on: the longest wait of a message, s", _takeover),
    ("a member is killed and replaced: lost / twice / gap", _kills("member killed")),
    ("the broker is killed: lost / twice / gap", _kills("broker killed")),
    ("one of three brokers is killed: lost / twice / gap", _kills(ONE_OF_THREE)),
    ("memory of the broker, MB", _carried(BROKERS_MEMORY, "many")),
)
CAN: tuple[tuple[str, Callable[[Design], str]], ...] = (
    ("kept, to be read again", lambda design: "yes" if design.replays else "no"),
    ("equal keys stay in order, with many members", _in_order),
)
