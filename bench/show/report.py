"""The answers as text: tables for a terminal, and the block of the README."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench import questions, stats, tables
from bench.judge import answer, claims, side_by_side, targets
from bench.model import BARE, title_of
from bench.show import workload
from bench.stats import short

BESIDE = "greet beside its peers"
RATIOS = "paired by round, with the 95 % interval. A target was set beforehand; the whole interval must meet it"
BEGIN, END = "<!-- bench report --markdown: begin -->\n", "<!-- bench report --markdown: end -->"
"""The marks in a file: the Markdown is written between them."""
PAIRED = "Ratios are paired by round, so they may differ from the quotient of two medians."
DEFAULTS = "What decides each contender's figures"
LONG = 24  # lines of a table, beyond which the README has it folded
WIDTH = 120  # of a table that does not go to a terminal
LABELS = ("contender", "guarantee", "verdict")  # columns of words that stay on one line while there is room
WORDS = 22  # characters in a line of a column of words, at least
WORD = 12  # characters of a word that are not broken
AROUND = 3  # characters between two columns
LEAST_FIRST = (
    "max ms",
    "p99.9 ms",
    "MB gained, client",
    "disk MB, broker",
    "end / beginning",
    "min–max",
    "min–max s",
    "p90 ms",
    "MB, client + broker",
    "CPU s/M, client + broker",
    "target",
    "sent late, p50 ms",
    "from when it was due, p50 ms",
    "count",
    "greet",
    "times",
)
"""The columns of tables that are left out if there is no space, in this order. If that is not enough: the last one."""
TWICE = {
    stats.SPEED: "messages a second",
    stats.P50: "the p50 at a set rate",
    stats.P99: "the p99 at a set rate",
    stats.ALONE: "the p50 from the send of messages that come alone",
}
"""What is measured twice, in words."""
NEXT = (
    (
        "python -m bench workload --init mine.toml",
        "then `bench workload mine.toml`: the same question for your own messages",
    ),
    ("python -m bench run --profile full", "two and a half hours: all questions, with all peers"),
    ("python -m bench run --profile full --questions faults", "half an hour: what kills cost, and what survives"),
    ("python -m bench report --html > report.html", "this run as a page, with pictures"),
)


def conclusion(rows: pd.DataFrame) -> list[str]:
    """The conclusions of the run, each sentence with its figure."""
    if rows.empty:
        return ["Nothing was measured."]
    found = [*_arrived(rows), *_under_faults(rows), *_fastest(rows)]
    return found + _noise(rows) + _instrument(rows)


def _noise(rows: pd.DataFrame) -> list[str]:
    """For each figure that was measured twice (A/A), how far the two differ; and which figures were not."""
    twice = stats.same_twice(rows)
    found = []
    for figure, name in TWICE.items():
        same = [one for one in twice if one.figure == figure]
        if same:
            said = ", ".join(f"{title_of(one.design)} {one.what} {one.times}" for one in same)
            noise = max(one.floor for one in same)
            how = f"{noise:.1%}" if noise < math.inf else "not known of all, as that needs four rounds"
            found.append(
                f"Noise floor (A/A) of {name}: {how}; a verdict takes that of its designs, and at least "
                f"{claims.WIDE:.0%}. The same measured twice: {said}."
            )
    timed = {figure for question in set(rows["question"]) for figure in stats.FIGURES.get(question, ())}
    missing = [name for figure, name in TWICE.items() if figure in timed - {one.figure for one in twice}]
    if missing:
        found.append(f"Not measured twice: {', '.join(missing)}. Verdicts take {claims.WIDE:.0%} as their noise.")
    return found


def _arrived(rows: pd.DataFrame) -> list[str]:
    """What happened to the messages of rows without faults; of all rows, if something went wrong."""
    # messages that were published while nobody read are counted when they are read
    published = rows["params.phase"].eq("publish") & rows["received"].notna()
    wrong, failed = stats.broken(rows[~published]).sum(), int(rows["error"].notna().sum())
    if wrong.any() or failed:
        of_others = "" if failed == len(rows) else f"{_said(wrong) or 'nothing lost'}; "
        return [f"Not all went well: {of_others}{failed} of {len(rows)} repetitions failed."]
    hurt = rows["question"].isin(["faults", "takeover"])
    own = rows[~hurt & rows["params.phase"].ne("publish") & tables.told_apart(rows)]
    how = "once and in order" if own["reordered"].notna().all() else "once, and in order where that is promised"
    total = f"{own['received'].sum():,.0f} receipts, one of a message in each group, in {len(own)} repetitions"
    return [f"Without faults every message arrived, {how}: {total}."] if len(own) else []


def _under_faults(rows: pd.DataFrame) -> list[str]:
    """What happened to the messages of rows with faults: beyond the guarantee, and within it."""
    rows = rows[rows["question"].eq("faults") & rows["received"].notna()]
    if rows.empty:
        return []
    beyond = stats.broken(rows).sum()
    within = rows[[*stats.BREACHES]].sum() - beyond
    said = f"With faults injected: {_said(beyond) or '0 lost or duplicated'} beyond what the guarantee allows"
    return [f"{said}; where the guarantee allows it, or in a control: {_said(within) or '0 lost or duplicated'}."]


def _said(counts: pd.Series[Any]) -> str:
    """ "13,832 lost, 24 twice": the counts of `BREACHES` that are not 0."""
    words = zip(("lost", "twice", "out of order"), (int(counts[what]) for what in stats.BREACHES), strict=True)
    return ", ".join(f"{count:,} {word}" for word, count in words if count)


def _instrument(rows: pd.DataFrame) -> list[str]:
    """What the bench's own code costs, from the ladder."""
    ladder = questions.question("ladder")
    own = rows[rows["question"].eq("ladder") & stats.is_sound(rows)]
    measured, bare = (own[own["params.rung"].eq(rung)] for rung in (ladder.LISTS, BARE))
    if measured.empty or bare.empty:
        return []
    ratio = stats.beside(measured, bare)
    return (
        [f"The fastest loop is {ratio} times as fast with the bench's own code around it as without."] if ratio else []
    )


def _fastest(rows: pd.DataFrame) -> list[str]:
    found = []
    own = rows[
        (rows["question"] == "throughput") & (rows["contender"] == "greet") & rows["params.phase"].eq("together")
    ]
    own = own[own["params.again"].eq(False)]
    for (guarantee, way), part in tables.ordered(own).groupby(["guarantee", "params.way"], sort=False):
        speeds = (
            part[stats.is_sound(part)]
            .groupby("design", sort=False)["messages_per_s"]
            .median()
            .dropna()
            .sort_values(ascending=False)
        )
        if len(speeds) > 1:
            said = ", ".join(f"{design} {short(speed)}" for design, speed in speeds.items())
            how = "many at a time" if way == "many" else "one by one"
            found.append(f"Messages a second, {guarantee}, {how}: {said}.")
    return found


def errors(rows: pd.DataFrame) -> list[str]:
    """Each error that occurred, once."""
    if rows.empty:
        return []
    bad = rows[rows["error"].notna()]
    said = bad["question"] + ", " + bad["design"] + " " + bad["contender"] + ": " + bad["error"]
    return list(dict.fromkeys(said))


def answers(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of each question that was measured."""
    return {name: questions.question(name).table(rows[rows["question"] == name]) for name in measured(rows)}


def measured(rows: pd.DataFrame) -> list[str]:
    """The questions that were measured, in order."""
    return [name for name in questions.NAMES if len(rows) and (rows["question"] == name).any()]


def terminal(console: Console, rows: pd.DataFrame, *abouts: Mapping[str, Any]) -> None:
    """Print the answer, the next commands, and the evidence in tables that fit, for the runs of `abouts`."""
    cases = [about for about in abouts if "workload" in about]
    rest = rows[rows["question"].ne("workload")] if len(rows) else rows
    left_out: dict[str, None] = {}
    if len(rest) or not cases:
        _questions(console, rest, left_out)
    for about in cases:
        workload.terminal(console, of_run(rows, about), about, full=True)
    notes = [f"Left out here to save space: {'; '.join(left_out)}. `bench report --html` has it."] if left_out else []
    for line in [*notes, *([PAIRED] if len(rest) else []), *ground(*abouts)]:
        console.print(line, style="dim", markup=False, highlight=False)


def of_run(rows: pd.DataFrame, about: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one run."""
    return rows[rows["run"].eq(about["run"])] if len(rows) else rows


def _questions(console: Console, rows: pd.DataFrame, left_out: dict[str, None]) -> None:
    """The answer first, then the next commands, then the tables of the questions, and the conclusions."""
    judged = claims.verdicts(rows)
    said = answer.answer(rows, judged)
    if said:
        console.print("Which one to take", style="bold")
        for line in said:
            _point(console, line)
    following(console, answer.open_claims(judged) if said else {})
    judged = judged[judged["verdict"] != claims.UNKNOWN].drop(columns="of")
    tried = ~judged["claim"].isin(claims.SHOWN)
    if tried.any():
        _print(console, judged[tried], "What people say, and what this run says", left_out)
    if said and (~tried).any():
        _print(console, judged[~tried], "What a notebook shows; this run did not try it", left_out)
    for name, table in answers(rows).items():
        _print(console, table, f"{name}: {questions.asked(name)}", left_out)
        _point(console, questions.note(name), "  ", style="dim")
    ratios = targets.table(rows)
    if len(ratios):
        if len(missed := targets.beyond(ratios)):
            _print(console, missed, f"{BESIDE}, where it misses the target or nearly: {RATIOS}", left_out)
        _point(console, f"{BESIDE}: {targets.said(ratios)}")
    for sentence in [*conclusion(rows), *errors(rows)]:
        _point(console, sentence)


def following(console: Console, left: Mapping[str, list[str]]) -> None:
    """The next commands, and the open claims, by the command that decides them."""
    console.print("Next commands", style="bold")
    for command, what in NEXT:
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
        _point(console, what, "      ", style="dim")
    if left:
        console.print("Open claims", style="bold")
    for remedy, of in left.items():
        console.print(f"  {remedy}", markup=False, highlight=False, soft_wrap=True)
        for claim in of:
            _point(console, claim, "      ", style="dim")


def _point(console: Console, line: str, mark: str = "• ", style: str = "") -> None:
    """A line; where it is long, more of them, set in from the left."""
    for part in textwrap.wrap(
        line, console.width, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False
    ):
        console.print(part, style=style, markup=False, highlight=False, soft_wrap=True)


def _print(console: Console, table: pd.DataFrame, title: str, left_out: dict[str, None]) -> None:
    fitting = fitted(table, console.width)
    left_out.update(dict.fromkeys(str(name) for name in table.columns[1:] if name not in fitting))
    console.print(rich_table(fitting, title))


def fitted(table: pd.DataFrame, width: int) -> pd.DataFrame:
    """`table` with as many columns as fit into `width` without breaking a figure; less important ones are left out.

    The first column then becomes lines above the rows that have it in common.
    """

    def fits(narrowest: int = WORDS, labels: Sequence[str] = LABELS) -> bool:
        return 1 + sum(_least_width(found[name], narrowest, labels) + AROUND for name in found.columns) <= width

    found = table
    if len(found.columns) <= 3 or fits():
        return found
    found = _headed(found)
    while not fits() and (names := [name for name in LEAST_FIRST if name in found.columns]):
        found = found.drop(columns=names[0])
    while len(found.columns) > 2 and not fits(narrowest=1, labels=()):
        found = found.drop(columns=found.columns[-1])
    return found


def _headed(table: pd.DataFrame) -> pd.DataFrame:
    """The table without its first column, each value of which is a line above the rows that have it."""
    first, second, *_ = table.columns
    lines: list[dict[Any, Any]] = []
    for value, part in table.groupby(first, sort=False):
        lines += [{second: value}, *part.drop(columns=first).to_dict("records")]
    return pd.DataFrame(lines, columns=table.columns[1:], dtype=object).fillna("")


def _least_width(column: pd.Series[Any], narrowest: int = WORDS, labels: Sequence[str] = LABELS) -> int:
    """The least width of a column in characters: words may be broken into lines, figures not.

    A column of words, but for `labels`, has at least `narrowest` characters, or those of its longest word up to `WORD`.
    """
    said = [*column.map(text), *str(column.name).split()]
    longest = max(map(len, said))
    if of_figures(column) or column.name in labels:
        return longest
    word = max((len(word) for one in said for word in one.split()), default=0)
    return max(min(longest, narrowest), min(word, WORD))


def ground(*abouts: Mapping[str, Any]) -> list[str]:
    """Where and how each run was measured; what is as in the run before is not said again."""
    found: list[str] = []
    before: list[str] = []
    for about in abouts:
        what, *where = _ground(about)
        found += [what, *(line for line in where if line not in before)]
        before = where
    return found


def _ground(about: Mapping[str, Any]) -> list[str]:
    machine, settings = about["machine"], about["settings"]
    versions = [about["python"], *(f"{name} {found}" for name, found in about["brokers"].items() if found)]
    versions += [f"{name} {found}" for name, found in about["clients"].items() if name in ("aio-pika", "aiokafka")]
    cores = f"{machine['usable']} cores, {machine['memory_gb']} GB"
    asked = ", ".join(name.replace("_", " ") for name in about["questions"])
    rounds = f"{settings['rounds']} round{'s' * (settings['rounds'] != 1)}"
    how = f"loop {settings['loop']}, {rounds}, seed {settings['seed']}"
    minutes = round(sum(about["elapsed_s"].values()) / 60)
    took = "less than a minute" if minutes < 1 else "1 minute" if minutes == 1 else f"{minutes} minutes"
    commit = f", commit {about['commit']}" if about.get("commit") else ""
    load = f"load {machine['load_average'][0]:.1f} as it began"
    part = "" if about.get("complete", True) else "; INCOMPLETE: it was interrupted or stopped by an error"
    return [
        f"{asked}: {settings['profile']} profile, {took}{commit}, {load}{part}",
        f"{machine['cpu']}, {cores}, {machine['os']}",
        f"{', '.join(versions)}; {how}",
    ]


def defaults(*abouts: Mapping[str, Any]) -> pd.DataFrame:
    """The settings that decide the figures of each contender, as the runs have recorded them."""
    noted = [pair for about in abouts for pair in about["settings"].get("defaults", {}).items()]
    return pd.DataFrame(list(dict.fromkeys(noted)), columns=["contender", "settings"])


def rich_table(frame: pd.DataFrame, title: str = "") -> Table:
    """A DataFrame for the terminal. In the first column, a value is left out if it is the same as in the line above."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for name in frame.columns:
        least = _least_width(frame[name]) if of_figures(frame[name]) else None
        table.add_column(str(name), justify="right" if least else "left", width=least, overflow="fold")
    above = ""
    for first, *rest in frame.itertuples(index=False):
        table.add_row("" if first == above else text(first), *map(text, rest))
        above = first
    return table


def of_figures(column: pd.Series[Any]) -> bool:
    """Whether a column of a table has tables.figures, which stand to the right, and not words."""
    return bool(column.map(text).str.match(r"(\d|–|$)").all())


def markdown(rows: pd.DataFrame, *abouts: Mapping[str, Any]) -> str:
    """Verdicts, ratios and the short main answers are visible, the rest and the settings folded; then the workloads.

    Each part has a heading, so the outline of the page leads to it.
    """
    cases = [about for about in abouts if "workload" in about]
    told = [workload.markdown(of_run(rows, about), about, markdown_table) for about in cases]
    rows = rows[rows["question"].ne("workload")] if len(rows) else rows
    if cases and rows.empty:
        return "\n\n".join([*told, "\n".join(f"<sub>{line}</sub>  " for line in ground(*abouts))]) + "\n"
    parts = ["### The claims and their verdicts", markdown_table(claims.verdicts(rows))] if len(rows) else []
    if len(beside := side_by_side.table(rows)):
        parts += [f"### {side_by_side.TITLE}", f"{side_by_side.NOTE}.", markdown_table(beside)]
    parts += ["### In short", "\n".join(f"- {sentence}" for sentence in [*conclusion(rows), *errors(rows)])]
    ratios = targets.table(rows)
    if len(ratios):
        missed = targets.beyond(ratios)
        said = f"{RATIOS[0].upper()}{RATIOS[1:]}. {targets.said(ratios)}"
        parts += [f"### {BESIDE}", said + (" Those that do not:" if len(missed) else "")]
        parts += [markdown_table(missed)] if len(missed) else []
        parts.append(_folded(f"All {len(ratios)} comparisons", markdown_table(ratios)))
    if len(rows):
        parts.append(PAIRED)
    for name, table in answers(rows).items():
        shown = f"{markdown_table(table)}\n\n{questions.note(name)}"
        in_sight = name in questions.FIRST and len(table) <= LONG
        parts += [f"### {questions.asked(name)}", shown if in_sight else _folded(f"{name}, {len(table)} rows", shown)]
    if len(decided := defaults(*abouts)):
        parts += ["### Settings", _folded(DEFAULTS, markdown_table(decided))]
    parts += ["### Workloads"] if told else []
    return "\n\n".join([*parts, *told, "\n".join(f"<sub>{line}</sub>  " for line in ground(*abouts))]) + "\n"


def placed(block: str, text: str) -> str:
    """`text` with `block` between its marks, in place of what was there.

    Raises:
        ValueError: it has no such marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no line {BEGIN.strip()} and after it {END}: put both where the block belongs")
    return f"{before}{begin}{block}{end}{after}"


def _folded(summary: str, shown: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{shown}\n\n</details>"


def markdown_table(table: pd.DataFrame) -> str:
    """A DataFrame as a table of Markdown, without its index."""
    sides = "".join("---:|" if of_figures(table[name]) else "---|" for name in table.columns)
    head = f"| {' | '.join(map(str, table.columns))} |\n|{sides}"
    return "\n".join([head, *("| " + " | ".join(map(text, line)) + " |" for line in table.itertuples(index=False))])


def text(value: Any) -> str:
    """The text of a field of a table."""
    return f"{value:g}" if isinstance(value, float) else str(value)
