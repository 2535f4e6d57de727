"""The questions that a reader asks, one file each.

A file has a docstring, whose first line is the question; `cells(settings)`, its work as data;
`table(rows)`, its answer as a DataFrame of at most ten columns, whose docstring is the note under it: it explains
columns whose names do not say what they are; and `picture(rows)`, its figure. `rows` are
the rows of this question from `bench.load(run, details=True)`. The questions in `FIRST` also have
`first(settings)`: the few cells for which the default run of three minutes has time. One that cannot be measured
everywhere has `lacking(settings)`, which says why. To add a question, add its file, and its name here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bench.model import Settings

FIRST = ("throughput", "latency", "wake_up", "payload", "backlog", "fan_out", "work_sharing", "tweaking")
"""The questions of the default run, if none is named: enough for all three conclusions."""
FULL = (
    "throughput",
    "latency",
    "fan_out",
    "work_sharing",
    "work",
    "takeover",
    "payload",
    "connections",
    "scaling",
    "durability",
    "backlog",
    "growth",
    "wake_up",
    "tweaking",
    "ladder",
    "start_up",
)
NAMES = (*FULL, "faults")
"""All questions. "faults" takes half an hour, so it must be named to be measured."""


WIDE = ("throughput", "latency", "payload", "wake_up", "work", "takeover")
"""The questions that are measured for all designs; if no design is named, the others are for the usual designs only."""


def question(name: str) -> Any:
    """The module of a question."""
    return import_module(f"bench.questions.{name}")


def asked(name: str) -> str:
    """The question in plain words: the first line of its docstring."""
    return str(question(name).__doc__).partition("\n")[0]


def note(name: str) -> str:
    """What the table of a question shows, for under it: the docstring of `table`, on one line."""
    return " ".join(str(question(name).table.__doc__).split())


def lacking(name: str, settings: Settings) -> str:
    """Why nothing of a question can be measured here, and what to do; "" where it can."""
    found = getattr(question(name), "lacking", None)
    return str(found(settings)) if found else ""
