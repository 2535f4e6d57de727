"""Samples to figures: pure functions, no asyncio, no files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "max": 1.0}
ENOUGH = {"p99": 1_000, "p99_9": 10_000}
"""The fewest samples of which a percentile is told: ten lie above it."""
FEWEST = 4
"""The fewest rounds of which a ratio has an interval."""
UNSTABLE = 0.2
"""The coefficient of variation from which on a cell is called unstable."""
SURE = 0.95
"""How often an interval covers what it is of."""
BREACHES = ("lost", "duplicates", "reordered")
SPEED, P50, P99 = "messages_per_s", "latency_ms.p50", "latency_ms.p99"
ALONE = "service_p50"
"""The time of a message that comes alone: from its actual send. That a publisher woke late does not count."""
FIGURES = {"latency": (P50, P99), "wake_up": (ALONE, P50)}
"""The figures of a question for which the noise is told; of others messages a second."""
OUTCOMES = {
    f"params.{name}"
    for name in (
        *("gap_s", "gap_median_s", "publish_gap_s", "refused", "unknown", "unexpected", "came_though_refused"),
        *("recovered", "raised", "seed"),
        *("in_time", "late", "samples", "due", "backlog", "pile", "catch_up_s", "stopped", "unread", "seconds"),
        *("room", "too_much", "capped", "steps", "made"),
        "clock",
    )
}
"""The results of a fault or a workload: they are params of a row, but not part of the cell."""


def broken(rows: pd.DataFrame) -> pd.DataFrame:
    """What no guarantee allows: a fault may cost messages, and its row says which kinds."""
    allowed = rows["params.allowed"].fillna("") if "params.allowed" in rows else pd.Series("", rows.index)
    counts = rows.reindex(columns=[*BREACHES])
    return pd.DataFrame({what: counts[what].where(~allowed.str.contains(what), 0) for what in BREACHES})


def is_sound(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows have figures that count: of a repetition that did not fail, broke no promise, and was no warm-up."""
    return rows["error"].isna() & ~broken(rows).astype(float).gt(0).any(axis=1) & rows["repetition"].gt(0)


def unstable(speeds: Sequence[float]) -> bool:
    """Whether at least four differ by more than a fifth of their mean, as their standard deviation."""
    return len(speeds) >= FEWEST and float(np.std(speeds, ddof=1)) > UNSTABLE * float(np.mean(speeds))


def percentiles(samples_ns: ArrayLike) -> dict[str, float | None]:
    """p50, p90, p99, p99_9 and max in milliseconds, each a sample that occurred (nearest rank).

    A figure that the samples cannot carry is None: all of no samples, p99 and p99_9 of fewer than `ENOUGH`.
    """
    samples = np.asarray(samples_ns, np.int64)
    if not samples.size:
        return dict.fromkeys(PERCENTILES)
    found = np.quantile(samples, list(PERCENTILES.values()), method="inverted_cdf") / 1e6
    figures: dict[str, float | None] = {name: float(value) for name, value in zip(PERCENTILES, found, strict=True)}
    return {name: value if samples.size >= ENOUGH.get(name, 0) else None for name, value in figures.items()}


def tail(samples_ns: ArrayLike, points: int = 60) -> list[tuple[float, float]]:
    """The complementary distribution: (share of samples at or above, milliseconds), for a log-log plot."""
    samples = np.sort(np.asarray(samples_ns, np.int64))
    if not samples.size:
        return []
    ranks = np.unique(np.geomspace(1, samples.size, points).astype(np.int64))
    return [(float(rank / samples.size), float(samples[-rank] / 1e6)) for rank in ranks[::-1]]


def pace(progress: Sequence[tuple[float, float]], steps: int = 20) -> list[tuple[float, float]]:
    """Of (seconds, messages so far), the speed over time: (seconds, messages a second), in `steps` equal spans."""
    if len(progress) < 2:
        return []
    times, names = np.asarray(progress, float).T
    if not times[-1] > times[0]:
        return []
    edges = np.linspace(times[0], times[-1], min(steps, len(progress) - 1) + 1)
    speeds = np.diff(np.interp(edges, times, names)) / np.diff(edges)
    return [(float(time), float(speed)) for time, speed in zip(edges[1:], speeds, strict=True)]


def steadiness(progress: Sequence[tuple[float, float]]) -> float | None:
    """How fast the last quarter of the time was, beside the first; None of fewer than eight looks."""
    if len(progress) < 8:
        return None
    first, _, _, last = (speed for _, speed in pace(progress, 4))
    return last / first if first else None


@dataclass(frozen=True)
class Ratio:
    """How many times as much: the geometric mean of paired ratios and its 95 % interval."""

    value: float
    low: float
    high: float
    rounds: int
    noise: float = 0.0
    """The smallest difference that counts: 0.05 is 5 %."""

    def __str__(self) -> str:
        value, low, high = (f"{one:.2f}" if one < 10 else short(one) for one in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if self.rounds >= FEWEST else value


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Paired within rounds: `ours[i]` and `theirs[i]` were measured one after the other.

    The interval is Student's, of the logarithms: for the five rounds of a benchmark it covers what it says.
    The bootstrap does not: its percentile interval is too narrow, and its studentised one goes to the
    hundredfold as soon as one round was disturbed. Fewer than four rounds have no interval: it is from 0 to
    infinity.

    Raises:
        ValueError: the lengths differ, or a figure is not positive.
    """
    if len(ours) != len(theirs) or not ours or min(*ours, *theirs) <= 0:
        raise ValueError("a paired ratio needs as many positive figures on both sides")
    logs = np.log(np.asarray(ours, float) / np.asarray(theirs, float))
    low, high = _interval(logs)
    return Ratio(float(np.exp(logs.mean())), math.exp(low), math.exp(high), len(logs))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    n, mean = len(values), float(values.mean())
    if n < FEWEST:
        return -math.inf, math.inf
    away = _student(n - 1, SURE) * float(values.std(ddof=1)) / math.sqrt(n)
    return mean - away, mean + away


def unpaired(before: ArrayLike, after: ArrayLike, variance: float, freedom: int, many: int = 1) -> Ratio:
    """How many times as much `after` is as `before`, both logarithms of rounds that have nothing in common.

    `variance` is of a round, known from `freedom` others. It is one of so `many` that are looked at together: in
    95 % of all cases all their intervals hold. Each is Student's at the level 1 - 0.05 / many (Bonferroni), whatever
    the ratios have in common. From less than two rounds' freedom there is none: it is from 0 to infinity.
    """
    sides = [np.asarray(side, float) for side in (before, after)]
    shift = float(sides[1].mean() - sides[0].mean())
    away = math.inf
    if freedom > 1:
        error = math.sqrt(variance * sum(1 / len(side) for side in sides))
        away = _student(freedom, 1 - (1 - SURE) / many) * error
    rounds = sum(map(len, sides))
    return Ratio(math.exp(shift), math.exp(shift - away), math.exp(min(shift + away, 700.0)), rounds)


@cache
def _student(freedom: int, level: float) -> float:
    """How far on both sides of zero Student's t lies with probability `level`, from two degrees of freedom on."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # each halves what is left: then it is as exact as a float
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """The probability that |t| is at most sqrt(freedom) * tan(angle): 26.7.3 and 26.7.4 of M. Abramowitz and
    I. Stegun, Handbook of Mathematical Functions, 1964."""
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (power - 1) / power
        total += term
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


@dataclass(frozen=True)
class Same:
    """A/A: a cell that was measured twice in one run, and how much of a figure it had beside itself."""

    question: str
    design: str
    figure: str
    """A column of the rows."""
    what: str
    """In words: "64 KiB, in lists"."""
    times: Ratio

    @property
    def floor(self) -> float:
        """The noise floor: 0.05 says that 5 % is no difference; infinite if there were too few rounds."""
        return max(self.times.high, 1 / self.times.low if self.times.low else math.inf) - 1


def widest(twice: Sequence[Same], figure: str, least: float, question: str = "", *designs: str) -> float:
    """The noise floor of a figure of a question for each of `designs`, at least `least`.

    What was not measured twice of that question, or of that design, is taken from the others. It is infinite if a
    design was measured twice in too few rounds.
    """
    known = [one for one in twice if one.figure == figure]
    known = [one for one in known if one.question == question] or known
    all_of_them = [one.floor for one in known if math.isfinite(one.floor)]
    floors = [[one.floor for one in known if one.design == design] or all_of_them for design in designs or ("",)]
    return max([least, *(floor for of in floors for floor in of)])


def same_twice(rows: pd.DataFrame) -> list[Same]:
    """A/A: each figure of each cell of a run that was measured twice."""
    if rows.empty or "params.again" not in rows:
        return []
    outcomes = OUTCOMES | {"params.again"}
    params = [name for name in map(str, rows) if name.startswith("params.") and name not in outcomes]
    keys = ["question", "design", "contender", "guarantee", *params]
    found: list[Same] = []
    kinds = [rows[key] for key in keys[:4]]
    twice = rows["params.again"].eq(True).groupby(kinds).transform("any")  # few are: the rest need not be grouped
    for values, part in rows[twice & is_sound(rows)].groupby(keys, sort=False, dropna=False):
        again = part["params.again"].eq(True)
        if again.any():
            cell: dict[str, Any] = dict(zip(keys, values, strict=True))
            timed = part.assign(**{ALONE: clock(part, "service")})
            for figure in FIGURES.get(cell["question"], (SPEED,)):
                times = beside(timed[again], timed[~again], figure)
                found += [Same(cell["question"], cell["design"], figure, _what(cell), times)] if times else []
    return found


def _what(cell: dict[str, Any]) -> str:
    """The work of a cell that was measured twice, in words."""
    if cell["question"] == "wake_up":
        return f"{cell['params.rate']:g} a second"
    if cell["question"] == "latency":
        return f"load {cell['params.load']:g}"
    how = "in lists" if cell.get("params.way") == "many" else "one by one"
    return f"{cell['params.size'] / 1024:g} KiB, {how}" if cell["question"] == "payload" else how


def rounds(rows: pd.DataFrame) -> list[pd.Series[Any]]:
    """What tells the rounds of `rows` apart: those of two runs have nothing in common."""
    return [rows[name] for name in ("run", "repetition") if name in rows]


def beside(ours: pd.DataFrame, theirs: pd.DataFrame, figure: str = SPEED) -> Ratio | None:
    """How many times as much `ours` has of a figure as `theirs`, paired by round; None where nothing can be paired."""
    sides = [
        part[figure].astype(float).groupby(rounds(part)).median().dropna() for part in (ours, theirs) if figure in part
    ]
    both = sorted(set(sides[0].index) & set(sides[1].index)) if len(sides) == 2 else []
    return ratio(sides[0][both].tolist(), sides[1][both].tolist()) if both else None


def verdict(found: Ratio, noise: float = 0.0) -> str:
    """`more`, `less` or `no difference`: the interval must exclude 1, and the value clear the noise floor."""
    away = max(found.value, 1 / found.value) - 1
    if found.low <= 1 <= found.high or away <= noise:
        return "no difference"
    return "more" if found.value > 1 else "less"


def short(value: float | None) -> str:
    """Three digits, and k or M for thousands and millions; "–" for what was not measured."""
    if value is None or math.isnan(value):
        return "–"
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{_digits(value / factor)}{unit}"
    return _digits(value)


def _digits(value: float) -> str:
    places = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{places}f}" if abs(value) >= 0.9995 else f"{value:.3g}"


def clock(rows: pd.DataFrame, what: str) -> pd.Series[float]:
    """The p50 of each row in ms, from its details, on a clock: "intended", "service", "publish" or "late"."""
    kept = rows["latencies"] if "latencies" in rows else pd.Series(index=rows.index, dtype=object)
    found = [one.get(what, {}).get("p50") if isinstance(one, dict) else None for one in kept]
    return pd.Series(found, rows.index, dtype=float)
