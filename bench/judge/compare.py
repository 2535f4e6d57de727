"""Two runs side by side: is the second faster, slower, or is there no difference?

Of 200 figures that are each right in 95 % of all cases, some ten are wrong whenever nothing has changed. So
the interval of each is widened until in 95 % of all comparisons all of them hold (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench import stats, tables

NOISE = 0.05
"""The least difference that is called one, also where a run's own noise floor is lower."""
OUTCOMES = {
    f"params.{name}"
    for name in (
        *("gap_s", "gap_median_s", "publish_gap_s", "refused", "unknown", "unexpected", "came_though_refused"),
        *("recovered", "raised"),
        *("in_time", "late", "samples", "due", "backlog", "pile", "catch_up_s", "stopped", "unread", "seconds"),
        *("room", "too_much", "capped", "steps"),
        "clock",
    )
}
"""What a fault did, and what became of a workload: told beside what it was, and no part of the cell."""
CELL = ("question", "design", "contender", "guarantee")
MEASURES = {
    "messages/s": ("messages_per_s", True),
    "p50 ms": ("latency_ms.p50", False),
    "p99 ms": ("latency_ms.p99", False),
}


@dataclass(frozen=True)
class Difference:
    """One measure of one cell: the ratio of the second run to the first, and what it means."""

    cell: str
    measure: str
    ratio: stats.Ratio
    verdict: str

    @property
    def change(self) -> float:
        """How far from "the same", upwards or downwards, on the logarithm; what is beyond the noise comes first."""
        beyond = self.verdict != "no difference"
        return abs(math.log(self.ratio.value)) + (1e3 if beyond else 0.0)

    @property
    def regression(self) -> bool:
        """Whether the second run is worse beyond the noise."""
        return self.verdict == "worse"


def compare(before: pd.DataFrame, after: pd.DataFrame) -> list[Difference]:
    """Every cell that both runs have, its repetitions paired by number.

    Both runs were made at different times, so pairing takes out what a round had in common only as far as
    the machine repeats itself; the noise floor of both runs must be cleared too.
    """
    return judged(list(_ratios(before, after)), noise(before, after))


def noise(*runs: pd.DataFrame) -> float:
    """The least difference that is called one: the widest noise floor of the runs, and `NOISE` at least."""
    return max([NOISE, *filter(math.isfinite, (stats.widest(stats.same_twice(run)) for run in runs))])


def gaps(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """What only one of the runs has, and what failed or lost messages in one of them: there nothing can be compared."""
    keys, groups = _cells(before, after)
    found = []
    for key in dict.fromkeys(key for group in groups for key in group):
        wrong = [_wrong(group[key]) if key in group else "missing" for group in groups]
        if bool(wrong[0]) != bool(wrong[1]):
            side, what = ("before", wrong[0]) if wrong[0] else ("after", wrong[1])
            found.append(f"{_told(dict(zip(keys, key, strict=True)))}: {what} in the run {side}")
    return found


def _wrong(rows: pd.DataFrame) -> str:
    failed = int(rows["error"].notna().sum())
    lost = tables.broken(rows).sum().sum() > 0
    return f"{failed} of {len(rows)} failed" if failed else "messages lost, doubled or reordered" if lost else ""


def judged(ratios: Sequence[tuple[str, str, stats.Ratio]], noise: float) -> list[Difference]:
    """What each ratio means, of a cell and a measure, when all of them are looked at together."""
    many = sum(ratio.rounds >= stats.FEWEST for _, _, ratio in ratios)
    return [
        Difference(cell, measure, wide, _meaning(stats.verdict(wide, noise), MEASURES[measure][1]))
        for cell, measure, ratio in ratios
        for wide in [ratio.among(many)]
    ]


def _meaning(verdict: str, more_is_better: bool) -> str:
    if verdict == "no difference":
        return verdict
    return "better" if (verdict == "more") == more_is_better else "worse"


def _ratios(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[tuple[str, str, stats.Ratio]]:
    keys, groups = _cells(before, after)
    for key in (key for key in groups[0] if key in groups[1]):
        cell = dict(zip(keys, key, strict=True))
        for measure, (column, _) in MEASURES.items():
            if column == "messages_per_s" and _paced(cell):
                continue  # an open loop carries what is due
            if found := stats.beside(groups[1][key], groups[0][key], column):
                yield _told(cell), measure, found


def _cells(*runs: pd.DataFrame) -> tuple[list[str], list[dict[tuple[str, ...], pd.DataFrame]]]:
    """What tells cells apart, and of each run the rows of each cell."""
    params = sorted({str(name) for run in runs for name in run if str(name).startswith("params.")} - OUTCOMES)
    keys = [*CELL, *params]
    groups = [list(_whole(run, keys).groupby(keys, sort=False)) if len(run) else [] for run in runs]
    return keys, [{tuple(map(str, key)): rows for key, rows in group} for group in groups]


def _whole(run: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows with all of `keys`, as text: what one run has no column for is as empty as None."""
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
    """In what machine, versions and settings differ: each a reason to doubt the comparison."""
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
    return {key: value for key, value in found.items() if key.split()[-1] not in ("load_average", "seed", "defaults")}


def could_have_seen(found: Sequence[Difference], noise: float) -> str:
    """How small a slowdown would have been found in half of the figures, as their intervals and the noise are."""
    widest = [min(one.ratio.value / one.ratio.high, one.ratio.low / one.ratio.value) for one in found]
    least = sorted(min(one, 1 / (1 + noise)) if math.isfinite(one) else 0.0 for one in widest)
    if not least or not (middle := least[len(least) // 2]):
        return "Fewer than four rounds: no change of any size would have been seen."
    return f"In half of the figures a slowdown to {middle:.2g} of the speed would have been seen, a smaller one not."


def table(found: list[Difference]) -> pd.DataFrame:
    """For people: what changed most comes first."""
    found = sorted(found, key=lambda one: -one.change)
    return pd.DataFrame(
        [
            {"cell": one.cell, "measure": one.measure, "after/before": str(one.ratio), "verdict": one.verdict}
            for one in found
        ]
    )
