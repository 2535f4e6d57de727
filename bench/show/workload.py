"""The answer to a workload as text that fits 80 columns: which to take, and a column of figures for each design."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.judge import workload as judge
from bench.judge.workload import Advice, Answer
from bench.measure.workload import Workload
from bench.stats import TAIL, short

NONE = "–"
FEWEST_P99 = 1_000


def terminal(console: Console, rows: pd.DataFrame, about: Mapping[str, Any]) -> None:
    """Print the answer of a run, workload by workload."""
    workloads = judge.points(about)
    found = [judge.answers(one, number, rows, about) for number, one in enumerate(workloads)]
    advised = [judge.advice(one, answers) for one, answers in zip(workloads, found, strict=True)]
    dimensions = about["workload"]["dimensions"]
    if len(workloads) > 1:
        console.print(overview(workloads, found, advised, dimensions))
    for one, answers, advice in zip(workloads, found, advised, strict=True):
        told = ", ".join(f"{key} {getattr(one, _field(key))}" for key in dimensions)
        if told:
            console.rule(Text(told), align="left", characters="-")
        _say(console, f"{one.about or 'The workload'}: {one.told()}.")
        _say(console, f"Needed: {one.needed()}.")
        console.print()
        for sentence in advice.sentences:
            _say(console, sentence)
        console.print(table(one, answers))
        for line in notes(one, answers):
            _say(console, f"* {line}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _field(key: str) -> str:
    return "break_" if key == "break" else key


def overview(
    workloads: Sequence[Workload],
    found: Sequence[Sequence[Answer]],
    advised: Sequence[Advice],
    dimensions: Sequence[str],
) -> Table:
    """A line for each workload: what it differs in, what to take, its wait and its room."""
    shown = Table(box=box.SIMPLE_HEAD)
    for name in (*dimensions, "take", "wait", "room", "also meets it"):
        shown.add_column(name)
    for one, answers, advice in zip(workloads, found, advised, strict=True):
        best = advice.take
        others = [other.title for other in answers if other is not best and not other.misses(one)]
        shown.add_row(
            *(str(getattr(one, _field(key))) for key in dimensions),
            best.title if best else "none",
            best.wait if best else NONE,
            room(best) if best else NONE,
            ", ".join(others) or NONE,
        )
    return shown


def table(workload: Workload, found: Sequence[Answer]) -> Table:
    """A column for each design."""
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("")
    for one in found:
        shown.add_column(one.title, justify="right")
    for name, cells in figures(workload, found):
        shown.add_row(name, *cells)
    return shown


def figures(workload: Workload, found: Sequence[Answer]) -> list[tuple[str, list[str]]]:
    """The lines of the table; what nobody has a figure for is left out."""
    lines: list[tuple[str, list[str]]] = [
        ("can it at all", ["no" if one.unable else "yes" for one in found]),
        ("in time", [_yes(one.in_time) for one in found]),
        *(
            (f"{name.replace('_', '.')} ms", [short((one.latency_ms or {}).get(name)) for one in found])
            for name in ("p50", "p99", "p99_9")
        ),
        ("most that waited", [_whole(one.pile) for one in found]),
        ("  and were gone after", [_seconds(one.catch_up_s) if one.pile is not None else NONE for one in found]),
        ("backlog at the end", [_whole(one.backlog) for one in found]),
        ("room, times the load", [room(one) for one in found]),
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
        ("  lost / twice", [NONE if one.received is None else f"{one.lost:,} / {one.duplicates:,}" for one in found]),
    ]
    if any(one.reordered is not None for one in found):
        lines.append(("  out of order", [_whole(one.reordered) for one in found]))
    return [line for line in lines if line[0][:2] in ("ca", "in") or set(line[1]) != {NONE}]


def room(one: Answer) -> str:
    """How many times the load is carried in time."""
    if not one.searched:
        return NONE
    if one.room is None:
        return f"< {short(one.too_much)}" if one.too_much else NONE
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
    """What the table cannot say: why a design does not do, and why a figure is not there."""
    said = [f"{one.title} does not do: {'; '.join(one.misses(workload))}." for one in found if one.misses(workload)]
    said += [f"{one.title}: the {one.broken} was not broken: {one.not_broken}." for one in found if one.not_broken]
    said += [f"{one.title}: {what}." for one in found for what in one.remarks if not one.unable]
    measured = [one for one in found if one.measured]
    if measured:
        fewest = min(one.samples for one in measured)
        for name, wanted in (("p99", FEWEST_P99), ("p99.9", TAIL)):
            if fewest < wanted:
                said.append(
                    f"{name} is not told of fewer than {wanted:,} samples; there were {fewest:,}: raise seconds."
                )
    if any(one.cpu[0] is not None and one.cpu[1] is None for one in measured if not one.design.in_process):
        said.append("What a broker costs is known only of a private one.")
    if measured:
        said.append("Latency is from when a message was due until a reader has it. CPU is of one core.")
    if any(one.searched for one in measured):
        said.append("Room is by search, in short steps; bursts keep their size and come more often.")
    return said
