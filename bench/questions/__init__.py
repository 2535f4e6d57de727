"""The questions that a reader asks, a file each.

A file has a docstring, whose first line is the question in plain words; `cells(settings)`, its work as
data; `table(rows)`, its answer as a DataFrame of at most ten columns; `picture(rows)`, its figure.
`rows` is what `bench.load(run, details=True)` gives, of this question only. Those of `FIRST` also have
`first(settings)`: the few cells that a first look of three minutes has time for. To add a question, add
its file and its name here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

FIRST = ("throughput", "latency", "wake_up", "payload", "backlog", "fan_out", "work_sharing", "tweaking")
"""What is asked where no question is named and the profile is quick: enough for all three conclusions."""
FULL = (
    "throughput",
    "latency",
    "fan_out",
    "work_sharing",
    "work",
    "takeover",
    "payload",
    "durability",
    "backlog",
    "growth",
    "wake_up",
    "tweaking",
    "ladder",
    "start_up",
)
NAMES = (*FULL, "faults")
"""All; "faults" takes half an hour of its own, so it is asked by its name alone."""


WIDE = ("throughput", "latency", "payload", "work", "takeover")
"""Those that are asked of all designs; where none is named, the others are asked of the usual ones."""


def question(name: str) -> Any:
    """The module of a question."""
    return import_module(f"bench.questions.{name}")


def asked(name: str) -> str:
    """The question in plain words: the first line of its docstring."""
    return str(question(name).__doc__).partition("\n")[0]
