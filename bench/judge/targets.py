"""greet beside its peers: how many times as fast it is, with the same work and guarantee in the same run.

If a peer was measured beside greet, its cell and greet's are paired round by round. The target for the ratio was set
before it was measured: as fast as any Python client of that broker, and 0.7 times as fast as any client at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench import stats
from bench.model import JAVA, PERFTEST, rank
from bench.questions.latency import OTHERS
from bench.stats import ALONE, P50, SPEED

FIGURES = {"throughput": SPEED, "payload": SPEED, "fan_out": SPEED, "latency": P50, "wake_up": ALONE}
"""The questions that are measured with peers, and the figure that is compared. The others compare by themselves."""
SAME = ("question", "design", "guarantee", "params.way", "params.phase", "params.size", "params.groups", "params.rate")
"""What both cells have in common."""
PYTHON = ("aio-pika", "aio-pika single acks", "aiormq", "aiokafka", "FastStream")
PHASES = {"together": "from end to end", "publish": "publishing", "consume": "reading a backlog"}
SHORT = (16, 18)
"""The sizes of short messages in bytes."""
OPEN = "needs four rounds"
ORDER = ("no", "within the noise", OPEN, "yes", "–")
"""Missed targets come first."""


@dataclass(frozen=True)
class Bar:
    """The target of a ratio; None if there is no target."""

    value: float | None
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.value:g}" if self.value else "–"

    def met(self, ratio: stats.Ratio) -> str:
        """Whether the whole interval meets the target."""
        if self.value is None:
            return "–"
        if ratio.rounds < stats.FEWEST:
            return OPEN
        met, missed = ratio.low >= self.value, ratio.high < self.value
        if self.at_most:
            met, missed = ratio.high <= self.value, ratio.low > self.value
        return "yes" if met else "no" if missed else "within the noise"

    def short_of(self, ratio: stats.Ratio) -> float:
        """The share of the target that is reached: less than 1 is too little."""
        if self.value is None:
            return math.inf
        return self.value / ratio.value if self.at_most else ratio.value / self.value


def bar(peer: str, way: str, figure: str, phase: str, size: float) -> Bar:
    """The target of greet beside `peer`."""
    if figure != SPEED:
        return Bar(1.1 if peer in (*PYTHON, "bare queue") else 1.0, at_most=True)
    if peer == "bare queue":  # it keeps no promises
        return Bar(0.6 if way == "name" else None)
    if peer in PYTHON:
        return Bar(1.0)
    if size in SHORT and (peer, phase) in ((JAVA, "publish"), (PERFTEST, "together")):
        return Bar(1.0)
    return Bar(0.8 if size in SHORT and (peer, phase) == (JAVA, "consume") else 0.7)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each comparison, missed targets first: the ratio, its 95 % interval, whether the target is met."""
    if rows.empty or "params.way" not in rows:
        return pd.DataFrame()
    rows = rows.assign(**{ALONE: stats.clock(rows, "service")})
    kept = rows[rows["question"].isin(FIGURES) & stats.is_sound(rows) & rows["params.again"].ne(True)]
    if "params.load" in kept:  # a load is a share of each client's highest rate, so the rates differ
        kept = kept[kept["params.load"].isna()]
    same = [name for name in SAME if name in kept]
    found = []
    for values, part in kept.groupby(same, sort=False, dropna=False):
        cell: dict[str, Any] = dict(zip(same, values, strict=True))
        figure, ours = FIGURES[cell["question"]], part[part["contender"] == "greet"]
        for peer in [one for one in part["contender"].unique() if one != "greet" and len(ours)]:
            ratio = stats.beside(ours, part[part["contender"] == peer], figure)
            if ratio is None or (cell["question"] == "latency" and peer in OTHERS):
                continue
            way, phase, size = (cell.get(f"params.{key}") for key in ("way", "phase", "size"))
            wanted = bar(str(peer), str(way), figure, str(phase), 18 if size is None else float(size))
            met = wanted.met(ratio)
            line = {"design": cell["design"], "what": _what(cell), "greet": way, "beside": f"{peer}, {way}"}
            line |= {"times as much": str(ratio), "target": str(wanted), "met": met}
            place = (ORDER.index(met), rank(str(cell["design"])), wanted.short_of(ratio))
            found.append((place, line))
    return pd.DataFrame([line for _, line in sorted(found, key=lambda one: one[0])])


def _what(cell: dict[str, Any]) -> str:
    """The work in words: "publishing, 1 KiB"."""
    durable = ["DURABLE"] if cell["guarantee"] == "DURABLE" else []
    if cell["question"] == "wake_up":
        return ", ".join([f"p50 from the send, at {cell['params.rate']:g} a second", *durable])
    if cell["question"] == "latency":
        return f"p50 at {cell['params.rate']:g} a second"
    size, groups = cell.get("params.size", 18), cell.get("params.groups", 1)
    said = [
        PHASES[str(cell.get("params.phase", "together"))],
        f"{size / 1024:g} KiB" if size >= 1024 else f"{size:g} B",
    ]
    said += [f"{groups:g} groups"] if groups > 1 else []
    return ", ".join(said + durable)


def beyond(found: pd.DataFrame) -> pd.DataFrame:
    """The lines of `table` that do not certainly meet their target."""
    return found[found["met"].isin(ORDER[:2])] if len(found) else found


def said(found: pd.DataFrame) -> str:
    """How many comparisons meet their target, in a sentence."""
    counts = found["met"].value_counts()
    set_ = sum(int(counts.get(word, 0)) for word in ORDER if word != "–")
    word = ", ".join(f"{counts[one]} {one}" for one in ORDER[1:2] if one in counts)
    return f"{counts.get('yes', 0)} of {set_} comparisons certainly meet the target{f', {word}' if word else ''}."
