"""What a question wants to have drawn, as data; `show/plots.py` draws it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd


@dataclass(frozen=True)
class Dots:
    """Every repetition as a dot and the median as a line, a row for each contender, a panel for each guarantee."""

    rows: pd.DataFrame
    unit: str
    value: str = "messages_per_s"
    cost: bool = False
    """Beside them, what a million messages cost of CPU."""


@dataclass(frozen=True)
class Loads:
    """p50 and p99 over the rate, for each contender; a panel for each design and guarantee."""

    rows: pd.DataFrame


@dataclass(frozen=True)
class Growth:
    """`value` over `key`, both axes logarithmic: a line for each design, a panel for each value of `split`."""

    rows: pd.DataFrame
    key: str
    what: str
    value: str = "messages_per_s"
    unit: str = "messages a second"
    split: str = "guarantee"


@dataclass(frozen=True)
class Pace:
    """Messages a second over the messages or seconds so far, a line for each repetition, a panel for each phase."""

    rows: pd.DataFrame
    over: Literal["messages", "seconds"]


@dataclass(frozen=True)
class Ladder:
    """Messages a second of each rung as a bar with its repetitions as dots, a panel for each design, in order."""

    rows: pd.DataFrame


@dataclass(frozen=True)
class Survival:
    """A field for each fault, and each design and guarantee: a sign, how many messages, and the longest gap."""

    rows: pd.DataFrame
    faults: Mapping[str, Collection[tuple[str, str]]]
    """The designs that each fault means something to, each with a guarantee."""


Picture = Dots | Loads | Growth | Pace | Ladder | Survival
