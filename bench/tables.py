"""Rows to the lines of tables: in order, put together, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

import pandas as pd

from bench import stats
from bench.model import BARE, JAVA, PERFTEST, rank
from bench.stats import BREACHES, short
from greet import Guarantee


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows in order, also by their params, not in the random order of their measurement."""
    return in_order(
        rows, *(str(key) for key in rows if str(key).startswith("params.") and rows[key].map(type).nunique() == 1)
    )


def in_order(rows: pd.DataFrame, *more: str) -> pd.DataFrame:
    """By guarantee and design, greet before its peers, together before apart; then by `more`, or as they come."""
    grades = [one.name for one in Guarantee]
    places: dict[str, Any] = {"guarantee": grades.index, "design": rank}
    ranked = rows.assign(**{key: rows[key].map(place) for key, place in places.items()})
    ranked["peer"] = ranked["contender"] != "greet"
    ranked["phase"] = rows["params.phase"].map({"together": 0, "publish": 1, "consume": 2})
    by = ["guarantee", "design", "peer", "contender", "params.way", "phase", *more]
    return rows.loc[ranked.sort_values(by, kind="stable").index]


def labelled(rows: pd.DataFrame) -> pd.Series[Any]:
    """What a line of a table is called: "kafka greet, many". It tells of a contender that keeps less than asked."""
    label = rows["design"] + " " + rows["contender"] + ", " + rows["params.way"]
    label += rows["params.phase"].map(lambda phase: "" if phase == "together" else f", {phase}")
    if "survives" not in rows:
        return label
    promised = rows["guarantee"].map({one.name: one.value for one in Guarantee})
    survives = kept_by(rows)
    return label.mask(survives.ne(promised), label + " (survives " + survives + ")")


def kept_by(rows: pd.DataFrame) -> pd.Series[Any]:
    """What a message survives with each row's contender: a repetition that failed does not tell it, so others do."""
    promised = rows["guarantee"].map({one.name: one.value for one in Guarantee})
    cell = [rows[name] for name in ("question", "design", "contender", "guarantee")]
    return rows["survives"].groupby(cell).transform("first").fillna(promised)


def summary(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Messages a second with their spread, the cost of a million messages, and the count, a line for each of `keys`.

    CPU is in seconds for a million messages, memory in MB, each the median of the repetitions. The client's
    memory is "–" where its process had other work before: what that has left behind would be in it. So is the CPU of
    tools that start anew each time: most of it is their start.
    """
    found = []
    for line, part in lines(rows, *keys):
        speed = figures(part, "messages_per_s").dropna()
        millions = figures(part, "accepted").replace(0, float("nan")) / 1e6
        used = [figures(part, f"cpu_s.{side}") / millions for side in SIDES]
        line |= {
            "messages/s": short(speed.median()),
            "min–max": f"{short(speed.min())}–{short(speed.max())}" if len(speed) else "",
            "CPU s/M, client + broker": "–" if starts_anew(part).any() else _both(used),
            "MB, client + broker": _both(figures(part, f"rss_mb.{side}") for side in SIDES),
            "count": counted(part) + _short(part),
        }
        found.append(line)
    return pd.DataFrame(found)


SHORT_S = 0.25
"""The seconds below which a table says how long a repetition was: its messages are limited by memory."""


def _short(part: pd.DataFrame) -> str:
    """ ", 0.0475 s each" where repetitions are short."""
    seconds = figures(part, "elapsed_s").median()
    return f", {short(seconds)} s each" if seconds < SHORT_S else ""


def latencies(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Percentiles in milliseconds, each the median of the repetitions, a line for each of `keys`."""
    found = []
    for line, part in lines(rows, *keys):
        line["messages/s"] = short(figures(part, "target_rate").median())
        for name in stats.PERCENTILES:
            line[f"{name.replace('_', '.')} ms"] = short(figures(part, f"latency_ms.{name}").median())
        line["count"] = counted(part)
        found.append(line)
    return pd.DataFrame(found)


def growth(rows: pd.DataFrame, key: str, derived: str, *more: str) -> pd.DataFrame:
    """Messages a second as `key` grows, and what follows from it: "greetings/s", "MB/s" or "speed-up"."""
    found = summary(rows, f"params.{key}", *(f"params.{one}" for one in more))
    if found.empty:  # of a run that was interrupted
        return found
    place, values = list(found.columns).index("messages/s") + 1, []
    base, of = float("nan"), None
    for line, part in lines(rows, f"params.{key}", *(f"params.{one}" for one in more)):
        speed = float(figures(part, "messages_per_s").median())
        who = [line[one] for one in line if one not in (key, *more)]
        if who != of:
            base, of = float("nan"), who
        base = speed if line[key] == 1 and all(line[one] == 1 for one in more) else base
        factor = {"greetings/s": line[key], "MB/s": line[key] / 1e6 if key == "size" else 1, "speed-up": 1 / base}[
            derived
        ]
        values.append(short(speed * factor))
    found.insert(place, derived, values)
    return found.drop(columns=["MB, client + broker", "min–max"])


def seconds(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """How long it took: median and spread."""
    found = []
    for line, part in lines(rows, *keys):
        times = figures(part, "elapsed_s")
        found.append(line | {"s": short(times.median()), "min–max s": f"{short(times.min())}–{short(times.max())}"})
        found[-1]["count"] = counted(part)
    return pd.DataFrame(found)


def smallest_share(members: pd.Series[Any]) -> str:
    """The share of the member that got least, the median of the repetitions: fair would be 1 of all members."""
    share = pd.Series([min(one) / max(1, sum(one)) for one in members if isinstance(one, list)], dtype=float).median()
    return "–" if pd.isna(share) else f"{share:.0%}"


SIDES = ("client", "broker")
FIGURES = ("messages_per_s", "elapsed_s", "latency_ms.", "cpu_s.", "rss_mb.", "progress_s", "grown_mb", "disk_mb")
"""How the columns begin that are no counts."""


def steadiness(part: pd.DataFrame) -> str:
    """How fast the last quarter of a repetition was beside its first: the median of the repetitions."""
    series = [one for kept in part.get("progress_s", []) if isinstance(kept, list) for one in kept]
    found = [one for one in map(stats.steadiness, series) if one is not None]
    return f"{median(found):.2f}" if found else "–"


def _both(columns: Iterable[pd.Series[float]]) -> str:
    """The medians of client and broker; a broker that was not looked at is left out."""
    return " + ".join(short(column.median()) for column in columns).removesuffix(" + –")


def figures(part: pd.DataFrame, name: str) -> pd.Series[float]:
    """A column of figures, which is not there when nothing of it was measured."""
    return part[name].astype(float) if name in part else pd.Series(float("nan"), part.index)


def lines(rows: pd.DataFrame, *keys: str) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """A line for each guarantee, contender and `keys`, with its repetitions; of those that are not sound the counts."""
    rows = ordered(rows[rows["params.again"].eq(False)])
    sound = stats.is_sound(rows)
    rows = rows.assign(**{str(one): rows[one].where(sound) for one in rows if str(one).startswith(FIGURES)})
    by = ["guarantee", rows["design"], labelled(rows).rename("contender"), *keys]
    for (guarantee, _, label, *values), part in rows.groupby(by, sort=False, dropna=False):
        given = {key.removeprefix("params."): value for key, value in zip(keys, values, strict=True)}
        yield {"guarantee": guarantee, "contender": label, **given}, part


def counted(part: pd.DataFrame) -> str:
    """How many repetitions, and what became of their messages: "5 × all", "5 × all, 22 duplicates", "5 × failed"."""
    wrong = [f"{int(part[what].sum())} {what}" for what in BREACHES if part[what].sum() > 0]
    failed = int(part["error"].notna().sum())
    every = "all" if told_apart(part).all() else "all, only counted"
    every = "not all" if failed or part["lost"].gt(0).any() else every
    every = "not counted" if part["received"].isna().all() else every
    every = "failed" if failed == len(part) else every
    wrong += [f"{failed} failed"] * (0 < failed < len(part)) + ["unstable"] * is_unstable(part)
    return ", ".join([f"{len(part)} × {every}", *wrong])


def is_unstable(part: pd.DataFrame) -> bool:
    """Whether the speeds of its repetitions are (`stats.unstable`); at a set rate, their p50."""
    paced = any(part[one].notna().any() for one in ("params.load", "params.rate") if one in part)
    return stats.unstable([*figures(part, stats.P50 if paced else stats.SPEED).dropna()])


def told_apart(rows: pd.DataFrame) -> pd.Series[bool]:
    """Of which rows each message was known; of the others there is only how many came: a tool that counts by itself
    said so, or a loop that nothing of this instrument is in."""
    return ~starts_anew(rows) & rows["params.rung"].ne(BARE)


def starts_anew(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are of a program in Java that starts for each of them."""
    return rows["contender"].isin([JAVA, PERFTEST])
