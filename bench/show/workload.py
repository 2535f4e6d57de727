"""The answer to a workload as text that fits 80 columns: which to take, and a column of figures for each design."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench.judge import workload as judge
from bench.judge.workload import RULE, Answer
from bench.measure.surroundings import BUSY
from bench.measure.trial import SETTLING
from bench.measure.workload import MOST_S, Workload
from bench.stats import ENOUGH, short

NONE = "–"
IN_FULL = 3
"""Up to so many workloads of a run are shown in full on a screen. More have a line each; a report has the rest."""


@dataclass(frozen=True)
class Told:
    """The answer to one workload: the workload, which design to take, the figures, and what they do not show."""

    title: str
    asked: str
    sentences: tuple[str, ...]
    table: pd.DataFrame
    notes: tuple[str, ...]


def told(rows: pd.DataFrame, about: Mapping[str, Any]) -> list[Told]:
    """The answers of a run, workload by workload."""
    found = []
    for number, one in enumerate(judge.points(about)):
        answers = judge.answers(one, number, rows, about)
        values = ", ".join(f"{key} {getattr(one, field_of(key))}" for key in about["workload"]["dimensions"])
        title = ": ".join(filter(None, (one.about or "Your workload", values)))
        asked = f"{one.told()}. Needed: {one.needed()}."
        lines = dict(figures(one, answers))
        table = pd.DataFrame(lines, index=[answer.title for answer in answers]).T.reset_index(names="")
        said = (*full(answers, about), *notes(one, answers))
        found.append(Told(title, asked, judge.advice(one, answers).sentences, table, said))
    return found


def terminal(console: Console, rows: pd.DataFrame, about: Mapping[str, Any], *, full: bool = False) -> None:
    """Print the answer of a run. Many workloads get a line each, unless `full` is set."""
    found, busy = told(rows, about), crowded(about)
    if busy:
        _say(console, f"* {busy}\n")
    if len(found) > 1:
        console.print(_table(overview(rows, about)))
    for one in found if full or len(found) <= IN_FULL else ():
        _say(console, f"{one.title}. {one.asked}")
        console.print()
        for sentence in one.sentences:
            _say(console, sentence)
        console.print(_table(one.table))
        for line in one.notes:
            _say(console, f"* {line}")


FULL = 0.9
"""The share of all cores from which on a machine counts as full."""


def crowded(about: Mapping[str, Any]) -> str:
    """A warning that the machine had other work when the run began; empty if it had little.

    Earlier runs have only the load average, which still tells of what had just ended.
    """
    machine = about.get("machine", {})
    busy, load, cores = machine.get("busy"), machine.get("load_average", (0,))[0], machine.get("usable") or 1
    if busy is not None:
        if busy < BUSY * cores:
            return ""
        return f"Other programs used {busy:.1f} of {cores} cores as it began: it is faster alone."
    if load < cores:
        return ""
    return f"The load average was {load:.1f} on {cores} cores as it began: if that was other work, it is faster alone."


def full(found: Sequence[Answer], about: Mapping[str, Any]) -> list[str]:
    """A warning for each design that was too slow on a machine whose cores were all in use."""
    cores = about.get("machine", {}).get("usable") or 1
    used = {one.title: sum(part or 0 for part in one.cpu) for one in found if one.in_time is False}
    return [
        f"{title}: clients and broker used {cpu:.0%} CPU, and {cores} cores have {cores:.0%}: the machine was full, "
        "so it may be in time with a broker on another one."
        for title, cpu in used.items()
        if cpu >= FULL * cores
    ]


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _table(frame: pd.DataFrame) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    for place, name in enumerate(frame.columns):
        shown.add_column(str(name), justify="right" if place and frame.columns[0] == "" else "left")
    for line in frame.itertuples(index=False):
        shown.add_row(*line)
    return shown


def field_of(key: str) -> str:
    """The field of a workload for a key: `break` is a keyword of Python."""
    return "break_" if key == "break" else key


def overview(rows: pd.DataFrame, about: Mapping[str, Any]) -> pd.DataFrame:
    """A line for each workload: how it differs, which design to take, its wait and its capacity."""
    found = []
    for number, one in enumerate(judge.points(about)):
        answers = judge.answers(one, number, rows, about)
        best = judge.advice(one, answers).take
        others = [other.title for other in answers if other is not best and not other.misses(one)]
        line = {key: str(getattr(one, field_of(key))) for key in about["workload"]["dimensions"]}
        taken = (best.title, best.wait, room(best)) if best else ("none", NONE, NONE)
        line |= dict(zip(("take", "wait", "room"), taken, strict=True))
        found.append(line | {"enough too": ", ".join(others) or NONE})
    return pd.DataFrame(found)


def markdown(rows: pd.DataFrame, about: Mapping[str, Any], table_of: Callable[[pd.DataFrame], str]) -> str:
    """The answers as Markdown, their tables written by `table_of`."""
    found = told(rows, about)
    parts = [table_of(overview(rows, about))] if len(found) > 1 else []
    for one in found:
        parts += [f"**{one.title}**: {one.asked}", "\n".join(f"- {sentence}" for sentence in one.sentences)]
        parts += [table_of(one.table), *(f"<sub>{line}</sub>  " for line in one.notes)]
    return "\n\n".join([*parts, *(f"<sub>{line}</sub>" for line in [crowded(about)] if line)])


def figures(workload: Workload, found: Sequence[Answer]) -> list[tuple[str, list[str]]]:
    """The lines of the table, without those that have no figures."""
    lines: list[tuple[str, list[str]]] = [
        ("can do it", ["no" if one.unable else "yes" for one in found]),
        ("in time", [_yes(one.in_time) for one in found]),
        *(
            (f"{name.replace('_', '.')} ms", [short((one.latency_ms or {}).get(name)) for one in found])
            for name in ("p50", "p99", "p99_9")
        ),
        ("most that waited", [_whole(one.pile) for one in found]),
        ("  until none waited", [_seconds(one.catch_up_s) if one.pile is not None else NONE for one in found]),
        ("backlog at the end", [_whole(one.backlog) for one in found]),
        ("capacity, times the load", [room(one) for one in found]),
    ]
    if workload.break_:
        lines += [
            (f"{workload.break_} broken: lost", [_whole(one.break_lost) for one in found]),
            ("  came twice", [_whole(one.break_duplicates) for one in found]),
            ("  not accepted", [_whole(one.break_refused) for one in found]),
            ("  without service", [_seconds(one.gap_s) for one in found]),
        ]
    lines += [
        ("CPU, client + broker", [_both(one.cpu, "{:.0%}".format) for one in found]),
        ("MB, client + broker", [_both(one.rss_mb, "{:.0f}".format) for one in found]),
        ("received", [_whole(one.received) for one in found]),
        ("  still waiting", [NONE if not one.unread else f"{one.unread:,}" for one in found]),
        ("  of expected", [NONE if one.due in (None, one.received) else f"{one.due:,}" for one in found]),
        ("  lost / twice", [NONE if one.received is None else f"{one.lost:,} / {one.duplicates:,}" for one in found]),
    ]
    if any(one.reordered is not None for one in found):
        lines.append(("  out of order", [_whole(one.reordered) for one in found]))
    return [line for line in lines if line[0] in ("can do it", "in time") or set(line[1]) != {NONE}]


def room(one: Answer) -> str:
    """How many times the load can be carried in time."""
    if not one.searched:
        return NONE
    if one.room is None:
        return f"< {short(one.too_much)}" if one.too_much and one.more_made else NONE
    return f"{'≥ ' if one.capped else ''}{short(one.room)}"


def _yes(what: bool | None) -> str:
    return NONE if what is None else "yes" if what else "no"


def _whole(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f} s" if value < 1 else f"{short(value)} s"


def _both(sides: Sequence[float | None], form: Any) -> str:
    return " + ".join(NONE if one is None else form(one) for one in sides) if sides[0] is not None else NONE


def notes(workload: Workload, found: Sequence[Answer]) -> list[str]:
    """What the table and the advice do not say: why a figure is missing, and why a third design is not enough."""
    meeting = [one for one in found if not one.misses(workload)]
    said: dict[str, list[str]] = {}
    for one in found:
        if len(meeting) > 1 and one not in meeting:
            said.setdefault(f"not enough: {'; '.join(one.misses(workload))}", []).append(one.title)
        if one.not_broken:
            said.setdefault(f"the {one.broken} was not broken: {one.not_broken}", []).append(one.title)
        if one.not_searched:
            broken = "because a promise was broken" if "times the load" in one.not_searched else ""
            known = broken or ("so it may carry more" if one.room else "so it is not known")
            said.setdefault(f"the search for its capacity stopped early, {known}: {one.not_searched}", []).append(
                one.title
            )
        for what in one.remarks if not one.unable else ():
            said.setdefault(what, []).append(one.title)
    told_of = [f"{', '.join(titles)}: {what}." for what, titles in said.items()]
    measured = [one for one in found if one.measured]
    if not measured:
        return told_of
    fewest = min(one.samples for one in measured)
    few = {name.replace("_", "."): wanted for name, wanted in ENOUGH.items() if fewest < wanted}
    if few:
        longest = MOST_S * workload.mean_rate * workload.groups * (1 - SETTLING)
        ways = "use a longer run (--seconds)" if min(few.values()) <= longest else "at this rate no run is long enough"
        needed = " and ".join(f"{name} needs {wanted:,} samples" for name, wanted in few.items())
        told_of.append(f"{needed}, but there were {fewest:,}: {ways}.")
    if any(one.cpu[0] is not None and one.cpu[1] is None for one in measured if not one.design.in_process):
        told_of.append("The CPU and memory of a broker are known only for a private one.")
    if len(measured) > 1:
        told_of.append(RULE)
    told_of.append("Latency counts from the time a message is due until a reader has it. 100% CPU is one core.")
    told_of.append(
        '"most that waited": the largest number of messages that were due at one time and that no reader had yet; '
        '"until none waited": the time from then until no more than one waited, or as many as come in 5 ms.'
    )
    if workload.groups > 1:
        told_of.append(
            "What waited is that of the slowest group; received and lost count each message once for each group."
        )
    if unmade := [one.title for one in measured if not one.more_made]:
        told_of.append(f"{', '.join(unmade)}: this machine cannot create more load in time, so more is not known.")
    if any(one.searched for one in measured):
        told_of.append(
            "Capacity is searched in short steps: the next step was too much, or more than the readers' work allows. "
            "Bursts get frequent, not larger."
        )
    return told_of
