"""All pictures, and the only file that imports matplotlib, when it draws. Each function returns a `Figure`.

They lie on whatever is behind them, white or nearly black: the ground is transparent, and text and lines are of a grey
that stands out from both. The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind
readers tell apart too; what was too light for white, or black, has another. Every design has one colour and one
marker throughout, and its name beside them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from io import BytesIO
from itertools import product
from textwrap import fill
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import pandas as pd

from bench import pictures, stats
from bench.model import DESIGNS, rank, title_of
from greet.designs import named

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from greet.designs import Design

P = ParamSpec("P")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B58900", "#2F93C9", "#8A6FD1")
MARKERS = "os^DvPX"
"""Of the designs, in the order of their table; behind the last one they begin anew."""
INK = "#797979"
"""Of all text and lines: as far from white as from the ground of a dark page (4.3 to 1 from #ffffff and #0d1117)."""
STYLE: Any = {
    **{f"{part}.facecolor": "none" for part in ("figure", "axes", "savefig")},
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "grid.alpha": 0.25,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
}
WIDTH = 8.0
"""Inches: 768 pixels, which GitHub shows as they are."""
LETTER = 0.072
"""Inches that a letter of small text takes, about."""
TIP = "tip:"
"""What stands before the identity of a mark that says what it shows; see `svg`."""


def _styled(drawing: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of this file, whatever is set elsewhere."""

    @wraps(drawing)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        from matplotlib import rc_context  # noqa: PLC0415, half a second that only pictures need

        with rc_context(STYLE):
            return drawing(*args, **kwargs)

    return styled


@_styled
def dots(what: pictures.Dots) -> Figure:
    """A row for each label: the median as a mark with its figure, and a pale bar from the least to the most."""
    rows = _drawn(what.rows)
    labels = list(dict.fromkeys(rows["row"]))
    figure = _figure(0.7 + sum(0.27 + 0.15 * label.count("\n") for label in labels), what.title, _note(what, SPREAD))
    axes = figure.subplots()
    if what.base is not None:
        axes.axvline(what.base, color=INK, linestyle="--", linewidth=1)
    words: list[Room] = [(what.base, 0, 0)] if what.base is not None else []
    for place, label in enumerate(labels):
        own = rows[rows["row"] == label]
        middles = own.groupby("hollow")["value"].median()
        axes.plot(middles, [place] * len(middles), color=_colour(own["design"].iloc[0]), linewidth=1, alpha=0.6)
        for hollow, part in own.groupby("hollow"):
            middle = float(part["value"].median())
            figure_said = what.form.format(stats.short(middle))
            said = part["said"].iloc[0] if "said" in part else figure_said
            _bar(axes, part["value"], place, part)
            _mark(axes, (middle, place), part, f"{label}: {figure_said}, {what.unit}", hollow=bool(hollow))
            side = -1 if middle < middles.max() else 1
            end = float(own["value"].min() if side < 0 else own["value"].max())
            words.append((end, len(said) if side < 0 else 0, len(said) if side > 0 else 0))
            _say(axes, said, (end, place), side)
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(what.unit, fontsize="small")
    axes.grid(axis="x")
    widest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    words += [(float(value), 0, 0) for value in rows["value"]]
    _room(axes, words, WIDTH - 0.4 - LETTER * widest, log=what.log)
    return figure


def _drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a figure, each with whether its mark is hollow."""
    found = rows[rows["value"].gt(0)]
    return found if "hollow" in found else found.assign(hollow=False)


Room = tuple[float, float, float]
"""What lies on the x axis: its place, and the letters that stand to its left and to its right."""


def _room(axes: Axes, words: Sequence[Room], inches: float, *, log: bool) -> None:
    """Set the limits of an x axis of so many inches so that all that stands beside its marks has room within it."""
    scaled = math.log10 if log else float
    marks = [(scaled(at), *(0.2 + LETTER * letters for letters in around)) for at, *around in words or [(1.0, 0, 0)]]
    low, high = min(at for at, _, _ in marks), max(at for at, _, _ in marks)
    for _ in range(30):  # the more room there is, the more of it a word takes: it settles
        inch = (high - low) / inches
        low = min(at - left * inch for at, left, _ in marks) if log else 0.0
        high = max(low + 0.5 * log, *(at + right * inch for at, _, right in marks))
    if log:
        axes.set_xscale("log")
    axes.set_xlim(*((10**low, 10**high) if log else (low, high)))
    _ticks(axes.xaxis, log=log)


def _ticks(axis: Any, *, log: bool) -> None:
    """Few ticks, at round figures, so that none touches the next."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator  # noqa: PLC0415

    if log:
        low, high = map(math.log10, axis.get_view_interval())
        marks = (1.0,) if high - low > 2 else (1.0, 2.0, 5.0) if high - low > 0.8 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axis.set_major_locator(LogLocator(subs=marks, numticks=12))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _round(value)))


def _round(value: float) -> str:
    """A round figure at a tick: "10k"."""
    factor, unit = next(((by, name) for by, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if abs(value) >= by), (1, ""))
    return f"{value / factor:g}{unit}"


def _colour(design: str) -> str:
    return COLOURS[rank(design) % len(COLOURS)]


def _marked(design: str, *, hollow: bool = False) -> dict[str, Any]:
    """The colour and marker of a design."""
    return {
        "color": _colour(design),
        "marker": MARKERS[rank(design) % len(MARKERS)],
        "markerfacecolor": "none" if hollow else _colour(design),
        "markeredgewidth": 1.5,
    }


def _mark(axes: Axes, at: tuple[float, float], part: pd.DataFrame, said: str, *, hollow: bool, size: float = 7) -> None:
    """The marker of a design, which tells its figure, its client and its rounds to who points at it."""
    client = " or ".join(dict.fromkeys(part["contender"]))
    tip = f"{said}; {client}, {_rounds(part)}"
    axes.plot([at[0]], [at[1]], **_marked(part["design"].iloc[0], hollow=hollow), markersize=size, gid=_tip(tip))


def _rounds(part: pd.DataFrame) -> str:
    least, most = (stats.short(float(end)) for end in (part["value"].min(), part["value"].max()))
    return f"median of {len(part)} rounds from {least} to {most}" if len(part) > 1 else "1 round"


def _tip(said: str) -> str:
    """The identity of a mark that says this."""
    return TIP + " ".join(said.split()).replace('"', "'")


def _bar(axes: Axes, values: pd.Series[Any], place: float, part: pd.DataFrame, *, upright: bool = False) -> None:
    """A pale bar from the least to the most."""
    ends, at = [values.min(), values.max()], [place, place]
    line = (at, ends) if upright else (ends, at)
    axes.plot(*line, color=_colour(part["design"].iloc[0]), linewidth=5, alpha=0.3, solid_capstyle="butt", zorder=1.5)


def _say(axes: Axes, said: str, at: tuple[float, float], side: int) -> None:
    """Write beside a mark: to its left if `side` is negative."""
    axes.annotate(
        said, at, (9 * side, 0), textcoords="offset points", ha="left" if side > 0 else "right", va="center",
        fontsize="small",
    )  # fmt: skip


@_styled
def lines(what: pictures.Lines) -> Figure:
    """A line for each label over x, named at its end, a panel beside the other; and the ideal line, if there is one."""
    rows = _drawn(what.rows)
    panels = list(dict.fromkeys(rows["panel"])) or [""]
    figure = _figure(3.4, what.title, _note(what, SPREAD))
    top = [*rows["value"], *(what.ideal[0] * rows["x"] if what.ideal else ())] or [1.0]
    limits = (min(top) / 1.3, max(top) * 1.3) if what.log else (0.0, max(top) * 1.05)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        part = rows[rows["panel"] == panel]
        axes.set_title(panel)
        if what.log == "xy":
            axes.set_xscale("log")
        if what.log:
            axes.set_yscale("log")
        axes.set_ylim(*limits)
        _ticks(axes.yaxis, log=bool(what.log))
        places = sorted(set(part["x"]))
        axes.set_xticks(places, [what.ticks.get(one, f"{one:g}") for one in places])
        axes.minorticks_off()
        axes.grid()
        ends = [_line(axes, part[part["line"] == line], what) for line in dict.fromkeys(part["line"])]
        if what.ideal and places:
            steep, called = what.ideal
            axes.plot(places, [steep * one for one in places], color=INK, linestyle=":", linewidth=2)
            ends.append((places[-1], steep * places[-1], called, INK))
        _name(axes, ends)
    first = figure.axes[0]
    first.set_xlabel(what.what, fontsize="small", loc="left")
    first.set_ylabel(what.unit, fontsize="small")
    return figure


def _note(what: pictures.Dots | pictures.Lines | pictures.Pace, spread: str) -> str:
    """What stands at the foot of a picture."""
    return " ".join(filter(None, [what.note, pictures.guarantees(what.rows), spread]))


End = tuple[float, float, str, str]
"""Where a line ends, what it is called there, and its colour."""


def _line(axes: Axes, own: pd.DataFrame, what: pictures.Lines) -> End:
    """Draw a line; a second one of the same design is dashed."""
    design, label = own["design"].iloc[0], own["line"].iloc[0]
    middle = own.groupby("x")["value"].median()
    dashed = "--" if any(line.get_label() == design for line in axes.lines) else "-"
    axes.plot(middle, dashed, color=_colour(design), linewidth=1.5, label=design)
    for x, y in zip(map(float, middle.index), middle, strict=True):
        part = own[own["x"].eq(x)]
        _bar(axes, part["value"], x, part, upright=True)
        said = f"{label}, {what.ticks.get(x, f'{x:g}')}: {what.form.format(stats.short(y))}"
        _mark(axes, (x, y), part, said, hollow=bool(part["hollow"].all()), size=6)
    last = float(middle.iloc[-1])
    return float(middle.index[-1]), last, f"{label} {what.form.format(stats.short(last))}", _colour(design)


def _name(axes: Axes, ends: Sequence[End]) -> None:
    """Write what each line is called beside its end, none over another."""
    scaled = math.log if axes.get_yscale() == "log" else float
    low, high = map(scaled, axes.get_ylim())
    heights = _apart([(scaled(y) - low) / (high - low) for _, y, _, _ in ends], 0.062)
    for (x, y, said, colour), height in zip(ends, heights, strict=True):
        leads = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkB": 5, "relpos": (0, 0.5)}
        axes.annotate(
            said, (x, y), (1.05, height), textcoords="axes fraction", va="center", color=colour, fontsize="small",
            fontweight="bold", arrowprops=leads,
        )  # fmt: skip


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """The places, in their order, moved as little as it takes to be `gap` apart: half of it up, half of it down."""
    order = sorted(range(len(places)), key=places.__getitem__)
    up = [places[one] for one in order]
    down = list(up)
    for one in range(1, len(order)):
        up[one] = max(up[one], up[one - 1] + gap)
        down[-one - 1] = min(down[-one - 1], down[-one] - gap)
    moved = dict(zip(order, ((high + low) / 2 for high, low in zip(up, down, strict=True)), strict=True))
    return [moved[one] for one in range(len(places))]


STEPS = 10
"""The spans of a repetition whose speed is shown."""


@_styled
def pace(what: pictures.Pace) -> Figure:
    """How fast each tenth of a repetition was, in per cent of the whole: the median and all between least and most."""
    panels = list(dict.fromkeys(what.rows["panel"])) or [""]
    columns = min(3, len(panels))
    across = "Line: the median of the rounds; shade: from the least to the most."
    figure = _figure(0.3 + 2.0 * math.ceil(len(panels) / columns), what.title, _note(what, across))
    grid = [*figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False, sharey=True).flat]
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, panels, strict=False):
        own = what.rows[what.rows["panel"] == panel]
        curves = _curves(own["progress_s"], what.over)
        axes.set_title(panel)
        axes.axhline(100, color=INK, linestyle="--", linewidth=1)
        if len(curves):
            design = str(own["design"].iloc[0])
            far, least = np.median(curves[:, 0], axis=0), curves[:, 1].min(axis=0)
            middle, most = np.median(curves[:, 1], axis=0), curves[:, 1].max(axis=0)
            axes.fill_between(far, least, most, color=_colour(design), alpha=0.25, linewidth=0)
            axes.plot(far, middle, color=_colour(design), linewidth=1.5)
            for x, low, y, high in zip(far, least, middle, most, strict=True):
                said = f"{panel}, after {stats.short(x)} {what.over}: {y:.0f} % of the whole; {len(curves)} rounds"
                tip = _tip(f"{said}, {low:.0f} to {high:.0f}")
                axes.plot([x], [y], **_marked(design), markersize=4, gid=tip)
        axes.set_ylim(0, 200)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{what.over} so far", fontsize="small")
        _ticks(axes.xaxis, log=False)
        axes.grid(axis="y")
    figure.axes[0].set_ylabel("per cent of its whole speed", fontsize="small")
    return figure


def _curves(kept: Iterable[Any], over: str) -> Any:
    """For each repetition how far it was, and how fast beside all of it: repetitions, these two, steps."""
    series = [one for each in kept if isinstance(each, list) for one in each]
    steps = min([STEPS, *(len(one) - 1 for one in series)])
    found = []
    for progress in series if steps > 1 else ():
        seconds, messages = np.asarray(progress, float).T
        times, speeds = np.asarray(stats.pace(progress, steps)).T
        whole = (messages[-1] - messages[0]) / (seconds[-1] - seconds[0])
        found.append((times if over == "seconds" else np.interp(times, seconds, messages), 100 * speeds / whole))
    return np.asarray(found)


SURVIVED = {"nothing lost": ("✓", "#56B4E9"), "came twice": ("2×", "#F0E442"), "lost": ("✗", "#CC79A7")}
"""What became of the messages: a sign and a colour of Okabe and Ito; the sign says the same as the colour."""
DARK = "#111111"
"""Of what stands on these colours."""
GRADES = {"AT_MOST_ONCE": "at most\nonce", "AT_LEAST_ONCE": "at least\nonce", "DURABLE": "durable"}


@_styled
def survival(what: pictures.Survival) -> Figure:
    """A field for each fault, and each design and guarantee: a sign, how many messages, and the longest gap."""
    from matplotlib.patches import Patch, Rectangle  # noqa: PLC0415 - nobody waits for what is not drawn

    rows = what.rows
    kinds = [kind for kind in what.faults if kind in set(rows["params.fault"])]
    found = {(design, guarantee) for design, guarantee in zip(rows["design"], rows["guarantee"], strict=True)}
    columns = sorted(found, key=lambda one: (rank(one[0]), [*GRADES].index(one[1])))
    all_tries = f"All tries together, and below the longest time without a message. {what.note}"
    figure = _figure(1.1 + 0.38 * len(kinds), what.title, all_tries)
    axes = figure.subplots()
    small = 8 if len(columns) < 11 else 6
    for (x, (design, guarantee)), (y, kind) in product(enumerate(columns), enumerate(kinds)):
        part = rows[(rows["design"] == design) & (rows["guarantee"] == guarantee) & (rows["params.fault"] == kind)]
        if part.empty or part["lost"].isna().any():
            why = "failed" if len(part) else "not\ntried" if (design, guarantee) in what.faults[kind] else "–"
            axes.text(x, y, why, ha="center", va="center", fontsize=small)
            continue
        lost, twice = int(part["lost"].sum()), int(part["duplicates"].sum())
        sign, colour = SURVIVED["lost" if lost else "came twice" if twice else "nothing lost"]
        gap = f"{part['params.gap_s'].max():.1f} s"
        replaced = "" if part["params.recovered"].all() else " *"
        said = f"{title_of(design)}, {guarantee}, {kind}: {lost:,} lost, {twice:,} twice, {gap} without any"
        tip = _tip(f"{said}; {int(part['params.times'].sum())} tries")
        axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, gid=tip))
        count = f"{sign} {lost or twice:,}" if lost or twice else sign
        text = f"{count}\n{gap}{replaced}"
        axes.text(x, y, text, ha="center", va="center", fontsize=small, color=DARK, gid=tip, linespacing=1.1)
    axes.set_xticks(
        range(len(columns)), [title_of(design).replace(" ", "\n") + f"\n{GRADES[grade]}" for design, grade in columns]
    )
    times = rows.groupby(["params.fault", "design", "guarantee"])["params.times"].sum().groupby("params.fault").max()
    axes.set_yticks(range(len(kinds)), [f"{kind}, {times[kind]:.0f} ×" for kind in kinds])
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    axes.tick_params(axis="x", labelsize=small)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    marks = [Patch(facecolor=colour, label=f"{sign} {name}") for name, (sign, colour) in SURVIVED.items()]
    marks.append(Patch(facecolor="none", label="* gave up, said so, was replaced"))
    axes.legend(handles=marks, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=len(marks), fontsize=8)
    return figure


@_styled
def distribution(details: pd.DataFrame, title: str, series: Iterable[str] = ("intended",)) -> Figure:
    """The share of messages that took at least so long, both axes logarithmic: how bad, how often.

    `details` are rows of `bench.load(run, details=True)`: a line for each of them and each of `series`.
    """
    figure = _figure(4.5)
    axes, clocks = figure.subplots(), [*series]
    for _, row in details.sort_values("design", key=lambda names: names.map(rank)).iterrows():
        style = _marked(row["design"], hollow=row["contender"] != "greet")
        label = f"{title_of(row['design'])} {row['contender']} at {row['target_rate']:,.0f} a second"
        for what, line in zip(clocks, ("-", "--", ":"), strict=False):
            tail = row["latencies"].get(what, {}).get("tail") or [(1, 0)]
            shares, times = zip(*tail, strict=True)
            clock = f", {what}" if len(clocks) > 1 else ""
            axes.step(
                times, [100 * one for one in shares], line, where="post", markevery=0.1, label=label + clock, **style
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("messages that took at least so long")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)
    if len(details):
        axes.legend(fontsize="small")
    return figure


GLANCE = {"throughput", "wake_up"}
"""The questions that it shows."""


@_styled
def glance(rows: pd.DataFrame) -> Figure:
    """The designs on one sheet: messages a second, one by one and many at a time, and how long one takes."""
    alone = rows[rows["question"].eq("wake_up") & rows["params.rate"].eq(100) & rows["guarantee"].eq("AT_LEAST_ONCE")]
    alone = pictures.measured(alone.assign(service=stats.clock(alone, "service")), "service")
    alone = pictures.of_best(alone, least=True)
    carried = pictures.measured(rows[rows["question"].eq("throughput") & rows["params.phase"].eq("together")])
    carried = pictures.of_best(pictures.strongest(carried), "params.way")
    designs = _designs(pd.concat([carried, alone]))
    said = [pictures.carried(carried), pictures.across(pictures.medians(alone), " ms")]
    title = f"{said[0]};\none alone takes {said[1]}" if all(said) else "Messages a second, and how long one takes"
    note = (
        f"Messages of 18 bytes, medians, by the fastest client of each: {_clients(carried)}; "
        f"alone (AT_LEAST_ONCE) {_clients(alone)}. {pictures.guarantees(carried)}"
    )
    figure = _figure(2.3 + 0.7 * max(0, len(designs) - 3), title, note)
    fastest = _titles(carried.groupby("design")["value"].max().sort_values(ascending=False))
    soonest = _titles(alone.groupby("design")["value"].median().sort_values())
    figure.set_label(
        f"{figure.get_label()}. Messages, the most first: {fastest}; milliseconds, the fewest first: {soonest}"
    )
    speeds, times = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for place, design in enumerate(designs):
        for way, shift in (("many", -0.19), ("name", 0.19)):
            part = carried[carried["design"].eq(design) & carried["params.way"].eq(way)]
            _point(speeds, place + shift, part, WAYS[way], hollow=way == "name")
        _point(times, place, alone[alone["design"].eq(design)], "ms", hollow=False)
    speeds.set_yticks(range(len(designs)), map(title_of, designs))
    speeds.set_ylim(max(1, len(designs)) - 0.45, -0.55)
    for axes, name, inches in ((speeds, "messages a second", 3.9), (times, "one message, 100 a second", 2.6)):
        axes.set_title(name)
        axes.tick_params(axis="y", length=0)
        beside: list[Any] = axes.texts
        _room(axes, [(one.xy[0], 0, len(one.get_text())) for one in beside], inches, log=True)
        axes.grid(axis="x")
    return figure


def _clients(rows: pd.DataFrame) -> str:
    """Who they are, for each design: "bare queue (asyncio) or greet"."""
    of = rows.groupby("contender")["design"].unique()
    usual = ["greet"] if "greet" in of.index else []
    others = [f"{one} ({', '.join(map(title_of, designs))})" for one, designs in of.items() if one != "greet"]
    return ", ".join(others + usual)


WAYS = {"many": "many at a time", "name": "one by one"}


def _point(axes: Axes, place: float, part: pd.DataFrame, what: str, *, hollow: bool) -> None:
    """A mark with its figure beside it: on an axis of powers of ten a length would mean nothing."""
    value = float(part["value"].median())
    if value > 0:
        said = f"{stats.short(value)} {what}"
        _mark(axes, (value, place), part, f"{title_of(part['design'].iloc[0])}: {said}", hollow=hollow)
        _say(axes, said, (value, place), 1)


def _designs(rows: pd.DataFrame) -> list[str]:
    """The designs of some rows, in the order of their table."""
    return sorted(set(rows["design"]), key=rank)


def _titles(ranked: pd.Series[float]) -> str:
    return ", ".join(title_of(str(design)) for design in ranked.index)


def _figure(height: float, title: str = "", note: str = "") -> Figure:
    """An empty one, so many inches high without its title, and without the note at its foot."""
    from matplotlib.figure import Figure  # noqa: PLC0415, half a second that only pictures need

    called = " ".join(title.split())
    title = "\n".join(fill(TIED.sub("\u00a0", line), 86) for line in title.split("\n"))
    note = fill(note, 122)
    above, below = (0.2 * (1 + said.count("\n")) if said else 0.0 for said in (title, note))
    figure = Figure(figsize=(WIDTH, height + above + below), layout="constrained")
    figure.set_label(called)
    if title:
        figure.suptitle(title, x=0.008, ha="left", fontsize=10.5, fontweight="bold")
    if note:
        figure.supxlabel(note, x=0.008, ha="left", fontsize=8)
    return figure


TIED = re.compile(r"(?<=[a-zA-Z]) (?=\d)|(?<=\d) (?=(?:KiB|B|%|ms|µs|s|MB|times)(?![a-z]))")
"""The space between a figure and whose it is, or its unit: they stay on one line."""
SPREAD = "Bar: from the least to the most of the rounds; mark: their median."


@_styled
def architectures(*designs: str) -> Figure:
    """The designs drawn alike: where a message waits between its publisher and its consumers."""
    chosen = [named(design) for design in designs or DESIGNS]
    figure = _figure(2.3 * len(chosen))
    figure.set_label("; ".join(_said(design) for design in chosen))
    for axes, design in zip(figure.subplots(len(chosen), 1, squeeze=False)[:, 0], chosen, strict=True):
        axes.set(xlim=(0, 10), ylim=(0, 3))
        axes.set_axis_off()
        colour = _colour(design.name)
        axes.set_title(design.title, loc="left", color=colour)
        _box(axes, (0.9, 1.5), "producer", colour)
        _box(axes, (9.1, 2.3), "hello", colour)
        _box(axes, (9.1, 0.7), "goodbye", colour)
        whole = (0.05, 0.05, 9.9, 2.85) if design.in_process else (2.1, 0.05, 5.8, 2.85)
        axes.add_patch(_rectangle(whole, colour))
        place = "one process" if design.in_process else "the broker, on disk" if design.keeps_unread else "the broker"
        axes.text(whole[0] + 0.1, 0.15, place, fontsize="small")
        if design.keeps_unread:
            for offset, name in enumerate(["Ada", "José", "Zoë", "…"]):
                _box(axes, (3.4 + 1.1 * offset, 1.5), name, colour, width=1.1)
            partition = "partition 0: " if design.partitioned else ""
            axes.text(3.0, 2.0, f"{partition}one log, that every group reads", fontsize="small")
            _arrow(axes, (1.7, 1.5), (2.85, 1.5), colour)
            _arrow(axes, (5.6, 1.86), (8.35, 2.3), colour)  # hello has read as far as Zoë,
            _arrow(axes, (4.5, 1.14), (8.35, 0.7), colour)  # goodbye as far as José
            continue
        hub, wait = ("topic", "Queue") if design.in_process else ("exchange", "queue")
        _box(axes, (3.1, 1.5), hub, colour)
        _arrow(axes, (1.7, 1.5), (2.3, 1.5), colour)
        for height, group in ((2.3, "hello"), (0.7, "goodbye")):
            _box(axes, (6.1, height), f"{wait}\n{group}", colour, width=2.4)
            _arrow(axes, (3.9, 1.5), (4.9, height), colour)
            _arrow(axes, (7.3, height), (8.35, height), colour)
    return figure


def _said(design: Design) -> str:
    """The drawing of a design in words."""
    place = "one process" if design.in_process else "the broker"
    if design.keeps_unread:
        return f"{design.title}: one log in {place}, which both groups read, each at its own place"
    hub = "a topic" if design.in_process else "an exchange"
    return f"{design.title}: {hub} and a queue for each group, all in {place}"


def _box(axes: Axes, centre: tuple[float, float], text: str, colour: str, width: float = 1.5) -> None:
    axes.add_patch(_rectangle((centre[0] - width / 2, centre[1] - 0.36, width, 0.72), colour, alpha=0.15))
    axes.text(*centre, text, ha="center", va="center", fontsize="small")


def _rectangle(place: tuple[float, float, float, float], colour: str, alpha: float = 0.05) -> Rectangle:
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - nobody waits for what is not drawn

    x, y, width, height = place
    return Rectangle((x, y), width, height, facecolor=(colour, alpha), edgecolor=colour)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour})


DRAWN: dict[type[Any], Callable[[Any], Figure]] = {
    pictures.Dots: dots,
    pictures.Lines: lines,
    pictures.Pace: pace,
    pictures.Survival: survival,
}


def draw(what: pictures.Picture) -> Figure:
    """What a question wants to have drawn."""
    return DRAWN[type(what)](what)


def picture(what: pictures.Picture | Figure, alt: str = "") -> Image:
    """The picture as a PNG for a notebook, with `alt`, or else its own label, for who cannot see it."""
    from IPython.display import Image  # noqa: PLC0415

    figure = draw(what) if isinstance(what, pictures.Picture) else what
    return Image(png(figure), alt=alt or figure.get_label())  # type: ignore[no-untyped-call]


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    from matplotlib import rc_context  # noqa: PLC0415

    buffer = BytesIO()
    with rc_context(STYLE):  # ticks are made as they are drawn
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def svg(figure: Figure, about: str) -> bytes:
    """The figure as a file that is sharp at any size, and the same each time; `about` stands in it.

    Each mark has its title, which a browser shows to who points at it where the picture stands within a page.
    """
    from matplotlib import rc_context  # noqa: PLC0415

    buffer = BytesIO()
    with rc_context({**STYLE, "svg.hashsalt": about}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Description": about})
    marked = re.sub(f'<g id="{TIP}([^"]*)">', r'<g pointer-events="all"><title>\1</title>', buffer.getvalue().decode())
    return marked.encode()
