"""What a question wants to have drawn, as data, and the words of its title; `show/plots.py` draws it.

A title says what the rows say, with their figures; where they do not allow that, it is the question. The rows are
measurements with a few columns more, of which each kind of picture tells; what has no figure is not drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from bench import stats, tables
from bench.model import DESIGNS, USUAL, rank, title_of
from bench.stats import Ratio, beside, short
from greet import Guarantee
from greet.designs import named

MOST = 12
"""The rows or lines of a picture; what is more is left to the tables."""


@dataclass(frozen=True)
class Dots:
    """A row for each of "row": the median of "value" as a mark with its figure, and a bar from the least to the most.

    Where "hollow" is true the mark is hollow. Where there is "said", it stands in place of the figure.
    """

    title: str
    rows: pd.DataFrame
    unit: str
    """What a figure is, under the axis."""
    form: str = "{}"
    """How a figure is written."""
    note: str = ""
    log: bool = True
    base: float | None = None
    """What all are measured against: a line."""


@dataclass(frozen=True)
class Lines:
    """The median of "value" over "x": a panel for each of "panel", and in it a line for each of "line".

    A mark is hollow where "hollow" is true.
    """

    title: str
    rows: pd.DataFrame
    what: str
    """What "x" is."""
    unit: str
    form: str = "{}"
    note: str = ""
    ideal: tuple[float, str] | None = None
    """How steep the line is beside which all stand, and what it is called."""
    log: Literal["", "y", "xy"] = ""
    ticks: Mapping[float, str] = field(default_factory=dict)
    """Where along "x", and what is written there; left out, at each."""


@dataclass(frozen=True)
class Pace:
    """How fast each moment of a repetition was, in per cent of the whole: a panel for each of "panel"."""

    title: str
    rows: pd.DataFrame
    over: Literal["messages", "seconds"]
    note: str = ""


@dataclass(frozen=True)
class Survival:
    """A field for each fault, and each design and guarantee: a sign, how many messages, and the longest gap."""

    title: str
    rows: pd.DataFrame
    faults: Mapping[str, Collection[tuple[str, str]]]
    """The faults to show, and the designs that each means something to, each with a guarantee."""
    note: str = ""


Picture = Dots | Lines | Pace | Survival


def measured(rows: pd.DataFrame, value: str = "messages_per_s") -> pd.DataFrame:
    """The sound rows that have this figure, as "value", without those that were measured again for the noise."""
    found = rows.assign(value=tables.figures(rows, value))
    return found[found["value"].notna() & found["params.again"].eq(False) & stats.is_sound(found)]


def strongest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each design the rows at the strongest guarantee that it has here."""
    grades = rows["guarantee"].map([one.name for one in Guarantee].index)
    return rows[grades.eq(grades.groupby(rows["design"]).transform("max"))]


def of_best(rows: pd.DataFrame, *by: str, least: bool = False) -> pd.DataFrame:
    """The rows of the client whose median is the highest, or the `least`, for each design."""
    medians = rows.groupby(["design", *by, "contender"])["value"].median().reset_index()
    best = medians.sort_values("value", ascending=least).drop_duplicates(["design", *by])
    return rows.merge(best.drop(columns="value"))


def relative(rows: pd.DataFrame, base: pd.DataFrame, *by: str) -> pd.Series[float]:
    """Each "value" beside that of `base` with the same `by`: of the same round, or where it is missing their median."""

    def of_base(*keys: str) -> pd.Series[float]:
        of = {key: float(value) for key, value in base.groupby(list(keys))["value"].median().items()}
        found = [of.get(key if len(key) > 1 else key[0]) for key in zip(*(rows[one] for one in keys), strict=True)]
        return pd.Series(found, rows.index, dtype=float)

    rounds = [one for one in ("run", "repetition") if one in base]
    return rows["value"] / of_base(*by, *rounds).fillna(of_base(*by))


def headline(said: str, doc: str | None) -> str:
    """What the rows say; where that is nothing, the question: the first line of its docstring."""
    return said or (doc or "").partition("\n")[0]


def number(value: float) -> str:
    """A figure within a sentence: "59", "8.3", "0.84"."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2g}"


def listed(words: Sequence[str]) -> str:
    """ "asyncio, RabbitMQ and Kafka"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def told(designs: Iterable[str]) -> list[str]:
    """The designs that a title speaks of, in order: the usual ones, or where there are none, all."""
    known = sorted(set(designs), key=rank)
    return [one for one in known if one in USUAL] or known


def brokers(designs: Iterable[str]) -> list[str]:
    """Those that a title sets beside each other: of those it speaks of, all that have a broker."""
    return [one for one in told(designs) if one in USUAL and not in_process(one)]


def in_process(design: str) -> bool:
    """Whether a design lives in one process; one that this kit does not know, from other results, does not."""
    return design in DESIGNS and named(design).in_process


def across(values: Mapping[Any, float], unit: str = "") -> str:
    """ "0.4 ms in asyncio, 1.4 ms over RabbitMQ and 2.4 ms over Kafka"; "" of no figures."""
    return listed([f"{number(values[one])}{unit} {_place(one)}" for one in told(_with_figures(values))])


def ranked(values: Mapping[Any, float], unit: str = "") -> str:
    """ "asyncio 0.4 ms, RabbitMQ 1.4 ms and Kafka 2.4 ms"; "" of no figures."""
    return listed([f"{title_of(one)} {number(values[one])}{unit}" for one in told(_with_figures(values))])


def _with_figures(values: Mapping[Any, float]) -> list[str]:
    return [str(design) for design, value in values.items() if value > 0]


def _place(design: str) -> str:
    return f"{'in' if in_process(design) else 'over'} {title_of(design)}"


def medians(rows: pd.DataFrame) -> dict[str, float]:
    """The median "value" of each design."""
    return {str(design): float(value) for design, value in rows.groupby("design")["value"].median().items()}


def steadiness(rows: pd.DataFrame) -> dict[str, float]:
    """How fast each design was in the last quarter of a repetition beside the first."""
    found = {str(design): tables.steadiness(part) for design, part in rows.groupby("design")}
    return {design: float(said) for design, said in found.items() if said != "–"}


def carried(rows: pd.DataFrame) -> str:
    """How many times as many small messages the one broker carries as the other, each by its fastest client."""
    rows, cell = of_best(rows, "params.way"), ["design", "params.way"]
    best: Any = rows.groupby(cell)["value"].median().unstack().reindex(columns=["many", "name"]).dropna()
    both = brokers(map(str, best.index))
    if len(both) > 1:
        slow, *_, fast = sorted(both, key=lambda one: float(best.loc[one, "many"]))

        def times(way: str) -> Ratio | None:
            """Paired by round, as the verdicts are."""
            of = rows[rows["params.way"].eq(way)]
            return beside(of[of["design"].eq(fast)], of[of["design"].eq(slow)], "value")

        lists, alone = times("many"), times("name")
        if lists and alone:
            more = f"{title_of(fast)} carries {number(lists.value)} times as many small messages as {title_of(slow)}"
            return f"{more} in batches; one by one, {number(alone.value)}"
    for design in told(map(str, best.index))[:1]:
        many, name = (short(best.loc[design, way]) for way in ("many", "name"))
        return f"{title_of(design)} carries {many} small messages a second in batches; one by one, {name}"
    return ""


def guarantees(rows: pd.DataFrame) -> str:
    """The guarantee of what is drawn, or whose each is; "" where a design has several, which its rows tell apart."""
    of = rows.groupby("guarantee")["design"].unique()
    if rows.groupby("design")["guarantee"].nunique().gt(1).any():
        return ""
    if len(of) < 2:
        return "".join(f"Guarantee {one}." for one in of.index)
    return f"Guarantee {'; '.join(f'{one}: {listed(_titles(designs))}' for one, designs in of.items())}."


def _titles(designs: Iterable[str]) -> list[str]:
    return [title_of(one) for one in sorted(designs, key=rank)]


def size(number_of: float) -> str:
    """ "16 B", "4 KiB"."""
    return f"{number_of / 1024:g} KiB" if number_of >= 1024 else f"{number_of:g} B"
