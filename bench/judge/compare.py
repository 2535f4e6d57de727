"""Two runs side by side: is the second faster, slower, or is there no difference?

The rounds of two runs have nothing in common, so they are not paired: the means of their logarithms are compared
(Student). Five rounds of a cell do not show well how much a round varies, so the variance is taken to be at least
the usual one of its question. Of 200 figures that are each right in 95 % of all cases, about ten are wrong
even if nothing has changed. So each interval is widened until in 95 % of all comparisons all of them hold
(Bonferroni). A change that is smaller than the difference of a design from itself (A/A) is not a difference either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import stats

Logs = NDArray[np.float64]
NOISE = 0.1
"""The smallest difference that counts, even if a design's own noise floor is lower: with 5 ms of work a message, a
member of a Kafka group handled 174 or 192 messages a second in the repetitions of one run."""
HALF = 0.5
SAME = "no difference"
CELL = ("question", "design", "contender", "guarantee")
MEASURES = {
    "messages/s": (stats.SPEED, True),
    "p50 ms": (stats.P50, False),
    "p99 ms": (stats.P99, False),
    "s": ("elapsed_s", False),
}
TIMED = ("start_up", "takeover")
"""The questions whose figure is how long something took."""
SAME_RATE = 0.1
"""Latencies are compared if the rates of the two runs differ by less."""


@dataclass(frozen=True)
class Pair:
    """One measure of one cell in both runs: the logarithms of its rounds."""

    cell: str
    measure: str
    question: str
    floor: float
    """The smallest difference that counts: 0.05 is 5 %."""
    before: Logs = field(repr=False)
    after: Logs = field(repr=False)

    @property
    def freedom(self) -> int:
        """The degrees of freedom of its noise."""
        return len(self.before) + len(self.after) - 2

    @property
    def variance(self) -> float:
        """The variance of a round; 0 if there is only one round in each run."""
        squares = sum(float(((side - side.mean()) ** 2).sum()) for side in (self.before, self.after))
        return squares / self.freedom if self.freedom else 0.0


@dataclass(frozen=True)
class Difference:
    """One measure of one cell: the ratio of the second run to the first, and what it means."""

    cell: str
    measure: str
    ratio: stats.Ratio
    verdict: str
    seen: float
    """The smallest visible slowdown, as a share of the speed: 0.8 is better than 0.5; 0: none would be visible."""

    @property
    def change(self) -> float:
        """The distance from "the same", up or down, on a logarithmic scale. Changes beyond the noise come first."""
        beyond = self.verdict in ("better", "worse")
        return abs(math.log(self.ratio.value)) + (1e3 if beyond else 0.0)

    @property
    def regression(self) -> bool:
        """Whether the second run is worse beyond the noise."""
        return self.verdict == "worse"


def compare(before: pd.DataFrame, after: pd.DataFrame) -> list[Difference]:
    """Every cell that both runs have.

    The runs were made at different times: if the machine changed in between, many figures change.
    """
    return judged(list(pairs(before, after)))


def floor(twice: Sequence[stats.Same], question: str, design: str, figure: str) -> float:
    """The smallest difference of a figure that counts, at least `NOISE`: how far the design differed from itself.

    Of a figure that was not measured twice, it is that of the speeds.
    """
    twice = [one for one in twice if math.isfinite(one.floor)]
    known = any(one.figure == figure for one in twice)
    return stats.widest(twice, figure if known else stats.SPEED, NOISE, question, design)


def gaps(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """The cells that only one run has, or that failed or lost messages in one of them or in both."""
    keys, groups = _cells(before, after)
    found = []
    for key in dict.fromkeys(key for group in groups for key in group):
        wrong = [_wrong(group[key]) if key in group else "missing" for group in groups]
        said = [f"{what} in the run {side}" for what, side in zip(wrong, ("before", "after"), strict=True) if what]
        if said:
            found.append(f"{_told(dict(zip(keys, key, strict=True)))}: {' and '.join(said)}")
    return found


def _wrong(rows: pd.DataFrame) -> str:
    failed = int(rows["error"].notna().sum())
    lost = stats.broken(rows).sum().sum() > 0
    return f"{failed} of {len(rows)} failed" if failed else "messages lost, duplicated or reordered" if lost else ""


def judged(found: Sequence[Pair]) -> list[Difference]:
    """The verdict on each pair, as one of many that are compared together."""
    alike: dict[tuple[str, str], list[Pair]] = {}
    for one in found:
        alike.setdefault((one.question, one.measure), []).append(one)
    noise = {
        kind: (_usual([one.variance for one in ones if one.freedom]), sum(one.freedom for one in ones))
        for kind, ones in alike.items()
    }
    return [_judged(one, *noise[one.question, one.measure], len(found)) for one in found]


def _usual(variances: Sequence[float]) -> float:
    """The median variance of the cells that have one: who was measured once does not show how much a round varies."""
    return float(np.median(variances)) if variances else 0.0


def _judged(pair: Pair, usual: float, freedom: int, many: int) -> Difference:
    """`usual` is the variance of its question and measure, and `freedom` the degrees of freedom of that."""
    own = pair.freedom
    lent = min(own, freedom - own) if pair.variance <= usual else 0  # the others tell nothing of a noisier cell
    ratio = stats.unpaired(pair.before, pair.after, max(pair.variance, usual), own + lent, many)
    seen = min(ratio.low / ratio.value, 1 / (1 + pair.floor))
    meaning = _meaning(stats.verdict(ratio, pair.floor), MEASURES[pair.measure][1])
    verdict = "not known" if meaning == SAME and seen < HALF else meaning
    return Difference(pair.cell, pair.measure, ratio, verdict, seen)


def _meaning(verdict: str, more_is_better: bool) -> str:
    if verdict == SAME:
        return verdict
    return "better" if (verdict == "more") == more_is_better else "worse"


def pairs(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[Pair]:
    """Every measure of every cell of which both runs have sound rows."""
    keys, groups = _cells(*(run[_once(run)] if len(run) else run for run in (before, after)))
    twice = [same for run in (before, after) for same in stats.same_twice(run)]
    for key in (key for key in groups[0] if key in groups[1]):
        cell = dict(zip(keys, key, strict=True))
        for measure, (column, _) in MEASURES.items():
            if not _says_something(column, cell, [group[key] for group in groups]):
                continue
            sides = [_logs(group[key], column) for group in groups]
            if all(map(len, sides)):
                least = floor(twice, cell["question"], cell["design"], column)
                yield Pair(_told(cell), measure, cell["question"], least, *sides)


def _once(run: pd.DataFrame) -> pd.Series[bool]:
    """The sound rows; but not those that were measured again, which only tell the noise."""
    sound = stats.is_sound(run)
    return sound & run["params.again"].ne(True) if "params.again" in run else sound


def _says_something(column: str, cell: Mapping[str, str], sides: Sequence[pd.DataFrame]) -> bool:
    """Whether a figure of both runs can be compared."""
    if cell["question"] == "workload" and cell.get("params.rung") != "asked":
        return False  # the load that was carried, or what broke, is another one in each run
    if column == "elapsed_s":
        return cell["question"] in TIMED
    if column == stats.SPEED:
        return not _paced(cell)  # an open loop carries the rate that was set
    rates = [float(side["target_rate"].median()) for side in sides if "target_rate" in side]
    return not rates or not max(rates) > min(rates) * (1 + SAME_RATE)  # a load is a share of what a warm-up carried


def _logs(rows: pd.DataFrame, column: str) -> Logs:
    """The logarithm of the figure of each round that has one."""
    if column not in rows:
        return np.empty(0)
    found = rows[column].astype(float).groupby(rows["repetition"]).median().dropna()
    return np.log(found[found > 0].to_numpy())


def _cells(*runs: pd.DataFrame) -> tuple[list[str], list[dict[tuple[str, ...], pd.DataFrame]]]:
    """The keys of a cell, and for each run the rows of each cell."""
    params = sorted({str(name) for run in runs for name in run if str(name).startswith("params.")} - stats.OUTCOMES)
    keys = [*CELL, *params]
    groups = [list(_whole(run, keys).groupby(keys, sort=False)) if len(run) else [] for run in runs]
    return keys, [{tuple(map(str, key)): rows for key, rows in group} for group in groups]


def _whole(run: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows with all of `keys`, as text. A column that a run does not have is empty."""
    rows = run.reindex(columns=[*run.columns, *(key for key in keys if key not in run)])
    return rows.assign(**{key: rows[key].map(_plain) for key in keys})


def _plain(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _paced(cell: Mapping[str, str]) -> bool:
    return any(cell.get(name) for name in ("params.load", "params.rate"))


def _told(key: Mapping[str, str]) -> str:
    usual = {"size": "18", "publishers": "1", "groups": "1", "members": "1", "partitions": "1", "phase": "together"}
    usual |= {"again": "False", "window": key.get("params.window", "")}
    given = {name.removeprefix("params."): value for name, value in key.items() if name.startswith("params.")}
    more = [f"{name} {value}" for name, value in given.items() if value and value != usual.get(name)]
    return ", ".join([" ".join(key[name] for name in CELL), *more])


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The differences in machine, versions and settings: each is a reason to doubt the comparison."""
    one, other = (_flat(about) for about in (before, after))
    return [
        f"{key}: {one.get(key)} before, {other.get(key)} after"
        for key in {**one, **other}
        if one.get(key) != other.get(key)
    ]


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    found = {"python": about.get("python")}
    for part in ("machine", "clients", "brokers", "settings"):
        found |= {f"{part} {name}": value for name, value in about.get(part, {}).items()}
    passing = ("load_average", "busy", "seed", "defaults")
    return {key: value for key, value in found.items() if key.split()[-1] not in passing}


def could_have_seen(found: Sequence[Difference]) -> str:
    """How small a slowdown could be found with these intervals and this noise."""
    seen = sorted(one.seen for one in found)
    if not seen:
        return "These runs have no figure in common that is compared."
    if not seen[-1]:
        return "One round each: no change of any size could be seen."
    thirds, half = (sum(one >= share for one in seen) for share in (2 / 3, HALF))
    return (
        f"In half of the figures a slowdown to {seen[len(seen) // 2]:.2g} of the speed could be seen, a smaller one "
        f'could not. A slowdown to two thirds could be seen in {thirds} of {len(seen)}, to a half in {half}. "Not '
        'known": not even a slowdown to a half could be seen.'
    )


def left_out(*runs: pd.DataFrame) -> str:
    """What of a workload is not compared; "" if none of it was measured."""
    rungs = {str(rung) for run in runs if len(run) for rung in run[run["question"].eq("workload")]["params.rung"]}
    said = {"room": "capacity", "break": "outage"}
    found = [what for rung, what in said.items() if rung in rungs]
    return f"Not compared, as a run measures each only once: {' and '.join(found)} of a workload." if found else ""


def table(found: list[Difference]) -> pd.DataFrame:
    """A table for people: the largest changes come first."""
    found = sorted(found, key=lambda one: -one.change)
    return pd.DataFrame(
        [
            {"cell": one.cell, "measure": one.measure, "after/before": str(one.ratio), "verdict": one.verdict}
            for one in found
        ]
    )
