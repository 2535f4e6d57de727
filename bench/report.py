"""The answers as text: tables for a terminal, and the block of the README."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from bench import claims, contenders, questions, stats, targets
from bench.contenders import java
from bench.stats import short
from greet import Guarantee

BREACHES = ("lost", "duplicates", "reordered")
BESIDE = "greet beside its peers"
RATIOS = (
    "paired round by round, with the 95 % interval; the target set beforehand, and whether the whole interval meets it"
)
PAIRED = "Ratios are paired by round, so they may differ from the quotient of two medians."
DEFAULTS = "What decides each contender's figures"
LONG = 24  # lines of a table, beyond which the README has it folded
WIDTH = 120  # of a table that does not go to a terminal


def ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows in order, also by their params, not in the random order of their measurement."""
    return in_order(
        rows, *(str(key) for key in rows if str(key).startswith("params.") and rows[key].map(type).nunique() == 1)
    )


def in_order(rows: pd.DataFrame, *more: str) -> pd.DataFrame:
    """By guarantee and design, greet before its peers, together before apart; then by `more`, or as they come."""
    grades = [one.name for one in Guarantee]
    places = {"guarantee": grades.index, "design": contenders.DESIGNS.index}
    rank = rows.assign(**{key: rows[key].map(place) for key, place in places.items()})
    rank["peer"] = rank["contender"] != "greet"
    rank["phase"] = rows["params.phase"].map({"together": 0, "publish": 1, "consume": 2})
    by = ["guarantee", "design", "peer", "contender", "params.way", "phase", *more]
    return rows.loc[rank.sort_values(by, kind="stable").index]


def labelled(rows: pd.DataFrame) -> pd.Series[Any]:
    """What a line of a table is called: "kafka greet, many"."""
    label = rows["design"] + " " + rows["contender"] + ", " + rows["params.way"]
    return label + rows["params.phase"].map(lambda phase: "" if phase == "together" else f", {phase}")


def summary(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Names a second with their spread, the cost of a million names, and the count, a line for each of `keys`.

    CPU is in seconds for a million names, memory in MB, each the median of the repetitions. The client's
    memory is "–" where its process had other work before: what that has left behind would be in it.
    """
    found = []
    for line, part in lines(rows, *keys):
        speed = part["names_per_s"].astype(float).dropna()
        millions = figures(part, "accepted").replace(0, float("nan")) / 1e6
        line |= {
            "names/s": short(speed.median()),
            "min–max": f"{short(speed.min())}–{short(speed.max())}" if len(speed) else "",
            "CPU s/M, client + broker": _both(figures(part, f"cpu_s.{side}") / millions for side in SIDES),
            "MB, client + broker": _both(figures(part, f"rss_mb.{side}") for side in SIDES),
            "count": counted(part),
        }
        found.append(line)
    return pd.DataFrame(found)


def latencies(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Percentiles in milliseconds, each the median of the repetitions, a line for each of `keys`."""
    found = []
    for line, part in lines(rows, *keys):
        line["names/s"] = short(figures(part, "target_rate").median())
        for name in stats.PERCENTILES:
            line[f"{name.replace('_', '.')} ms"] = short(figures(part, f"latency_ms.{name}").median())
        line["count"] = counted(part)
        found.append(line)
    return pd.DataFrame(found)


def growth(rows: pd.DataFrame, key: str, derived: str, *more: str) -> pd.DataFrame:
    """Names a second as `key` grows, and what follows from it: "greetings/s", "MB/s" or "speed-up"."""
    found = summary(rows, f"params.{key}", *(f"params.{one}" for one in more))
    place, values, base = list(found.columns).index("names/s") + 1, [], 1.0
    for line, part in lines(rows, f"params.{key}", *(f"params.{one}" for one in more)):
        speed = float(figures(part, "names_per_s").median())
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


SIDES = ("client", "broker")


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
    """A line for each guarantee, contender and `keys`, with its repetitions."""
    rows = ordered(rows[rows["params.again"].eq(False)])
    by = ["guarantee", rows["design"], labelled(rows).rename("contender"), *keys]
    for (guarantee, _, label, *values), part in rows.groupby(by, sort=False, dropna=False):
        given = {key.removeprefix("params."): value for key, value in zip(keys, values, strict=True)}
        yield {"guarantee": guarantee, "contender": label, **given}, part


def counted(part: pd.DataFrame) -> str:
    """What became of the names of some rows: "5 × all" or what is wrong."""
    wrong = [f"{int(part[what].sum())} {what}" for what in BREACHES if part[what].sum() > 0]
    failed = part["error"].notna().sum()
    every = "all" if told_apart(part).all() else "all, not told apart"
    return ", ".join([*wrong, f"{failed} failed"] if failed else wrong) or f"{len(part)} × {every}"


def told_apart(rows: pd.DataFrame) -> pd.Series[bool]:
    """Of which rows each name was known; of the others there is only how many came: a tool that counts by itself
    said so, or a loop that nothing of this instrument is in."""
    return rows["contender"].ne(java.NAME) & rows["params.rung"].ne(questions.question("ladder").BARE)


def conclusion(rows: pd.DataFrame) -> list[str]:
    """What the run says, each sentence with its figure."""
    if rows.empty:
        return ["Nothing was measured."]
    found = [*_arrived(rows), *_under_faults(rows), *_fastest(rows)]
    twice = stats.same_twice(rows)
    noise = stats.widest(twice)
    if noise < math.inf:
        said = ", ".join(f"{design} {same}" for design, same in twice)
        found.append(f"Noise floor (A/A): {noise:.1%}; a smaller difference is none. The same twice: {said}.")
    elif twice:
        found.append("Noise floor (A/A): needs four rounds or more.")
    return found + _instrument(rows)


def _arrived(rows: pd.DataFrame) -> list[str]:
    """What became of the names where nothing was done to them; of all rows, where something went wrong."""
    wrong, failed = broken(rows).sum(), int(rows["error"].notna().sum())
    if wrong.any() or failed:
        return [f"Not all went well: {_said(wrong) or 'nothing lost'}; {failed} of {len(rows)} repetitions failed."]
    # what was published with nobody reading is counted where it was read
    own = rows[rows["question"].ne("faults") & rows["params.phase"].ne("publish") & told_apart(rows)]
    how = "once and in order" if own["reordered"].notna().all() else "once, and in order where that is promised"
    total = f"{own['received'].sum():,.0f} receipts, one of a name in each group, in {len(own)} repetitions"
    return [f"Without faults every name arrived, {how}: {total}."] if len(own) else []


def _under_faults(rows: pd.DataFrame) -> list[str]:
    """What became of the names where faults were injected: beyond the guarantee, and within it."""
    rows = rows[rows["question"].eq("faults") & rows["received"].notna()]
    if rows.empty:
        return []
    beyond = broken(rows).sum()
    within = rows[[*BREACHES]].sum() - beyond
    said = f"With faults injected: {_said(beyond) or '0 lost or doubled'} beyond what the guarantee allows"
    return [f"{said}; where it allows it, or a control provokes it: {_said(within) or '0 lost or doubled'}."]


def _said(counts: pd.Series[Any]) -> str:
    """ "13,832 lost, 24 twice": what of `BREACHES` there is."""
    words = zip(("lost", "twice", "out of order"), (int(counts[what]) for what in BREACHES), strict=True)
    return ", ".join(f"{count:,} {word}" for word, count in words if count)


def _instrument(rows: pd.DataFrame) -> list[str]:
    """What the instrument itself costs, from the ladder."""
    ladder = questions.question("ladder")
    own = rows[(rows["question"] == "ladder") & (rows["design"] == "asyncio")]
    if own.empty:
        return []
    measured, bare = (own[own["params.rung"].eq(rung)] for rung in (ladder.LISTS, ladder.BARE))
    ratio = stats.beside(measured, bare)
    return (
        [f"The fastest loop measured, beside the same without the instrument: {ratio} times as fast."] if ratio else []
    )


def broken(rows: pd.DataFrame) -> pd.DataFrame:
    """What no guarantee allows: a fault may cost names, and its row says which kinds."""
    allowed = rows["params.allowed"].fillna("") if "params.allowed" in rows else pd.Series("", rows.index)
    return pd.DataFrame({what: rows[what].where(~allowed.str.contains(what), 0) for what in BREACHES})


def _fastest(rows: pd.DataFrame) -> list[str]:
    found = []
    own = rows[
        (rows["question"] == "throughput") & (rows["contender"] == "greet") & rows["params.phase"].eq("together")
    ]
    own = own[own["params.again"].eq(False)]
    for (guarantee, way), part in ordered(own).groupby(["guarantee", "params.way"], sort=False):
        speeds = part.groupby("design", sort=False)["names_per_s"].median().dropna().sort_values(ascending=False)
        if len(speeds) > 1:
            said = ", ".join(f"{design} {short(speed)}" for design, speed in speeds.items())
            found.append(f"Names a second, {guarantee}, {'many at a time' if way == 'many' else 'one by one'}: {said}.")
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
    """The questions that were asked, in their order."""
    return [name for name in questions.NAMES if len(rows) and (rows["question"] == name).any()]


def terminal(console: Console, rows: pd.DataFrame, *abouts: Mapping[str, Any]) -> None:
    """Print the answers, the conclusion and what it stands on: the `abouts` of the runs that `rows` are of."""
    for name, table in answers(rows).items():
        console.print(rich_table(table, f"{name}: {questions.asked(name)}"))
    judged = claims.verdicts(rows)
    judged = judged[judged["verdict"] != claims.UNKNOWN]
    if len(judged):
        console.print(rich_table(judged, "What is usually said, and what this run says of it"))
    ratios = targets.table(rows)
    if len(ratios):
        console.print(rich_table(ratios, f"{BESIDE}: {RATIOS}"))
    for sentence in [*conclusion(rows), *errors(rows)]:
        console.print(f"• {sentence}", markup=False, highlight=False)
    for line in [*([PAIRED] if len(rows) else []), *ground(*abouts)]:
        console.print(line, style="dim", markup=False, highlight=False)


def ground(*abouts: Mapping[str, Any]) -> list[str]:
    """Where and how each run was measured."""
    return [line for about in abouts for line in _ground(about)]


def _ground(about: Mapping[str, Any]) -> list[str]:
    machine, settings = about["machine"], about["settings"]
    versions = [about["python"], *(f"{name} {found}" for name, found in about["brokers"].items())]
    versions += [f"{name} {found}" for name, found in about["clients"].items() if name in ("aio-pika", "aiokafka")]
    cores = f"{machine['usable']} cores, {machine['memory_gb']} GB"
    asked = ", ".join(name.replace("_", " ") for name in about["questions"])
    how = f"loop {settings['loop']}, {settings['rounds']} rounds, seed {settings['seed']}"
    minutes = sum(about["elapsed_s"].values()) / 60
    commit = f", commit {about['commit']}" if about.get("commit") else ""
    return [
        f"{asked}: {settings['profile']} profile, {minutes:.0f} minutes{commit}",
        f"{machine['cpu']}, {cores}, {machine['os']}, load {machine['load_average'][0]:.1f}",
        f"{', '.join(versions)}; {how}",
    ]


def defaults(*abouts: Mapping[str, Any]) -> pd.DataFrame:
    """The settings that decide the figures of each contender, as the runs have noted them."""
    noted = [pair for about in abouts for pair in about["settings"].get("defaults", {}).items()]
    return pd.DataFrame(list(dict.fromkeys(noted)), columns=["contender", "settings"])


def rich_table(frame: pd.DataFrame, title: str = "") -> Table:
    """A DataFrame for the terminal; what is the same as in the line above is left out in the first column."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for name in frame.columns:
        table.add_column(str(name), justify="right" if of_figures(frame[name]) else "left", no_wrap=name == "contender")
    above = ""
    for first, *rest in frame.itertuples(index=False):
        table.add_row("" if first == above else text(first), *map(text, rest))
        above = first
    return table


def of_figures(column: pd.Series[Any]) -> bool:
    """Whether a column of a table has figures, which stand to the right, and not words."""
    return bool(column.map(text).str.match(r"(\d|–|$)").all())


def markdown(rows: pd.DataFrame, *abouts: Mapping[str, Any]) -> str:
    """The block of the README: verdicts, ratios and short main answers in sight, the others and the settings folded."""
    parts = [markdown_table(claims.verdicts(rows))] if len(rows) else []
    parts.append("\n".join(f"- {sentence}" for sentence in [*conclusion(rows), *errors(rows)]))
    ratios = targets.table(rows)
    if len(ratios):
        parts.append(f"**{BESIDE}**: {RATIOS}\n\n{markdown_table(ratios)}")
    if len(rows):
        parts.append(PAIRED)
    for name, table in answers(rows).items():
        asked, shown = questions.asked(name), markdown_table(table)
        in_sight = name in questions.QUICK and len(table) <= LONG
        parts.append(f"**{asked}**\n\n{shown}" if in_sight else _folded(asked, shown))
    if len(decided := defaults(*abouts)):
        parts.append(_folded(DEFAULTS, markdown_table(decided)))
    return "\n\n".join([*parts, "\n".join(f"<sub>{line}</sub>  " for line in ground(*abouts))]) + "\n"


def _folded(summary: str, shown: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{shown}\n\n</details>"


def markdown_table(table: pd.DataFrame) -> str:
    """A DataFrame as a table of Markdown, without its index."""
    sides = "".join("---:|" if of_figures(table[name]) else "---|" for name in table.columns)
    head = f"| {' | '.join(map(str, table.columns))} |\n|{sides}"
    return "\n".join([head, *("| " + " | ".join(map(text, line)) + " |" for line in table.itertuples(index=False))])


def text(value: Any) -> str:
    """What stands in a field of a table."""
    return f"{value:g}" if isinstance(value, float) else str(value)
