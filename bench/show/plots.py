"""All pictures, and the only file that imports matplotlib, when it draws. Each function returns a `Figure`.

The colours are of Okabe and Ito (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers
too; every design has one colour and one marker throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from io import BytesIO
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from bench import pictures, stats, tables
from bench.model import DESIGNS, rank, title_of
from greet.designs import named

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from greet.designs import Design

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX"
"""Of the designs, in the order of their table; behind the last one they begin anew."""


def dots(rows: pd.DataFrame, unit: str, value: str = "messages_per_s", *, cost: bool = False) -> Figure:
    """Every repetition as a dot and the median as a line, a row for each contender, a panel for each guarantee.

    greet's dots are filled, those of its peers hollow. With `cost`, beside them what a million messages cost of CPU.
    """
    rows = tables.in_order(rows[rows[value].notna() & rows["params.again"].eq(False)])
    guarantees = list(dict.fromkeys(rows["guarantee"]))
    labels = {name: list(dict.fromkeys(_labels(rows[rows["guarantee"] == name]))) for name in guarantees}
    heights = [max(1, len(labels[name])) for name in guarantees] or [1]
    figure = _figure(
        1.2 + sum(0.17 * (1 + text.count("\n")) + 0.14 for name in labels for text in labels[name]) + 0.6 * len(heights)
    )
    figure.set_figwidth(11 if cost else 8)
    columns: dict[str, Any] = {"width_ratios": [3, 2]} if cost else {}
    panels = figure.subplots(
        len(heights), 1 + cost, sharex="col", sharey="row", squeeze=False, height_ratios=heights, **columns
    )
    for (axes, *more), guarantee in zip(panels, guarantees, strict=False):
        part = rows[rows["guarantee"] == guarantee]
        for place, label in enumerate(labels[guarantee]):
            own = part[_labels(part) == label]
            colour, style = _colour(own["design"].iloc[0]), _style(own["design"].iloc[0], own["contender"].iloc[0])
            axes.plot(own[value], [place] * len(own), linestyle="", alpha=0.7, **style)
            axes.plot([own[value].median()] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
            for costs in more:
                _cost_bars(costs, place, own, colour)
        axes.set_yticks(range(len(labels[guarantee])), labels[guarantee], fontsize="small")
        axes.set_ylim(len(labels[guarantee]) - 0.5, -0.5)
        axes.set_title(f"{unit}, guarantee {guarantee}", loc="left")
        _log(axes.xaxis, axes.set_xscale)
        for costs in more:
            _log(costs.xaxis, costs.set_xscale, (1,))
        for one in (axes, *more):
            one.grid(axis="x", alpha=0.3)
    panels[-1][0].set_xlabel(f"{unit} (each dot a repetition, the line their median)")
    if cost:
        panels[-1][1].set_xlabel("CPU s for a million messages (lighter: the broker)")
    return figure


def _cost_bars(axes: Axes, place: int, own: pd.DataFrame, colour: str) -> None:
    for side, shift, alpha in (("client", -0.18, 0.9), ("broker", 0.18, 0.35)):
        spent = own.get(f"cpu_s.{side}", pd.Series(dtype=float)).astype(float) / own["accepted"].astype(float) * 1e6
        if spent.median() > 0:
            axes.barh(place + shift, spent.median(), height=0.32, color=colour, alpha=alpha)


def _colour(design: str) -> str:
    return COLOURS[rank(design) % len(COLOURS)]


def _marked(design: str) -> dict[str, Any]:
    """The colour and marker of a design."""
    return {"color": _colour(design), "marker": MARKERS[rank(design) % len(MARKERS)]}


def _style(design: str, contender: str) -> dict[str, Any]:
    """The colour and marker of a design, hollow for a peer."""
    return _marked(design) | {"markerfacecolor": _colour(design) if contender == "greet" else "white"}


def latency_against_load(rows: pd.DataFrame) -> Figure:
    """p50 (full line) and p99 (dashed) over the rate, for each contender; a panel for each design and guarantee."""
    rows = tables.in_order(rows[rows["target_rate"].notna() & rows["latency_ms.p50"].notna()])
    kinds = list(dict.fromkeys(zip(rows["guarantee"], rows["design"], strict=True))) or [("", "")]
    figure = _figure(0.4 + 2.8 * len(kinds))
    for axes, (guarantee, design) in zip(
        figure.subplots(len(kinds), 1, squeeze=False, sharex=True, sharey=True)[:, 0], kinds, strict=True
    ):
        part = rows[(rows["guarantee"] == guarantee) & (rows["design"] == design)]
        for contender, shape in zip(dict.fromkeys(part["contender"]), ("o", "D", "v", "P"), strict=False):
            own = part[part["contender"] == contender]
            middle = own.groupby("params.load")[["target_rate", "latency_ms.p50", "latency_ms.p99"]].median()
            style = _style(design, contender) | {"marker": shape}
            axes.plot(middle["target_rate"], middle["latency_ms.p50"], label=f"{contender}, p50", **style)
            axes.plot(middle["target_rate"], middle["latency_ms.p99"], "--", label=f"{contender}, p99", **style)
        axes.set_title(f"{title_of(design)}, latency from the intended send, guarantee {guarantee}", loc="left")
        axes.set_ylabel("latency (ms)")
        _log(axes.xaxis, axes.set_xscale)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        if part.size:
            axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.supxlabel("messages a second that are due", fontsize="medium")
    return figure


def growth(
    rows: pd.DataFrame,
    key: str,
    what: str,
    *,
    value: str = "messages_per_s",
    unit: str = "messages a second",
    split: str = "guarantee",
) -> Figure:
    """`value` over `key`, both axes logarithmic: a line for each design, a panel for each value of `split`."""
    rows = rows[rows[value].notna()]
    panels = list(dict.fromkeys(rows[split])) or [""]
    figure = _figure(3.6 * len(panels))
    for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        part = rows[rows[split] == panel]
        for design in _designs(part):
            own = part[part["design"] == design]
            style = _marked(design)
            axes.plot(own[key], own[value], linestyle="", alpha=0.4, **style)
            axes.plot(own.groupby(key)[value].median(), label=title_of(design), **style)
        guarantees = ", ".join(dict.fromkeys(part["guarantee"]))
        axes.set_title(f"{unit}, guarantee {guarantees}" + (f": {panel}" if split != "guarantee" else ""), loc="left")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(set(part[key])), [f"{one:g}" for one in sorted(set(part[key]))])
        axes.set_xlabel(panel if panel in what else what)  # "members" of "members or publishers"
        axes.set_ylabel(unit)
        _log(axes.yaxis, axes.set_yscale)
        axes.grid(alpha=0.3)
        if len(part):
            axes.legend(fontsize="small")
    return figure


def pace(rows: pd.DataFrame, over: Literal["messages", "seconds"]) -> Figure:
    """Messages a second over the messages or seconds so far, a line for each repetition, a panel for each phase."""
    phases = list(dict.fromkeys(rows["params.phase"])) or [""]
    figure = _figure(3.2 * len(phases))
    for axes, phase in zip(figure.subplots(len(phases), 1, squeeze=False)[:, 0], phases, strict=True):
        part = rows[rows["params.phase"] == phase]
        for design, series in zip(part["design"], part["progress_s"], strict=True):
            for progress in series if isinstance(series, list) else ():
                times, speeds = zip(*stats.pace(progress), strict=True) if len(progress) > 1 else ((), ())
                seconds, messages = np.asarray(progress, float).T
                far = times if over == "seconds" else np.interp(times, seconds, messages)
                style = _marked(design) | {"markersize": 3, "alpha": 0.7}
                label = None if title_of(design) in axes.get_legend_handles_labels()[1] else title_of(design)
                axes.plot(far, speeds, label=label, **style)
        guarantees = ", ".join(dict.fromkeys(part["guarantee"]))
        axes.set_title(f"messages a second{PHASES.get(phase, '')}, guarantee {guarantees}", loc="left")
        axes.set_xlabel(f"{over} so far")
        axes.set_ylabel("messages a second")
        low, high = axes.get_ylim()
        if 0 < low < high < 10 * low:  # what hardly changes should look so
            axes.set_ylim((low * high / 10) ** 0.5, (low * high * 10) ** 0.5)
        _log(axes.yaxis, axes.set_yscale)
        if over == "messages":
            _log(axes.xaxis, axes.set_xscale)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small")
    return figure


PHASES = {"publish": ", published with nobody reading", "consume": ", read from what waits"}


def ladder(rows: pd.DataFrame) -> Figure:
    """Messages a second of each rung as a bar with its repetitions as dots, a panel for each design, in order."""
    rows = rows[rows["messages_per_s"].notna()]
    designs = _designs(rows) or [""]
    steps = {design: list(dict.fromkeys(rows.loc[rows["design"] == design, "params.rung"])) for design in designs}
    heights = [max(1, len(rungs)) for rungs in steps.values()]
    figure = _figure(0.8 + 0.42 * sum(heights) + 0.5 * len(heights))
    panels = figure.subplots(len(designs), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0]
    for axes, design in zip(panels, designs, strict=True):
        own = rows[rows["design"] == design]
        for place, rung in enumerate(steps[design]):
            speeds = own.loc[own["params.rung"] == rung, "messages_per_s"]
            axes.barh(place, speeds.median(), color=_colour(design), alpha=0.35, height=0.7)
            axes.plot(speeds, [place] * len(speeds), linestyle="", markersize=4, alpha=0.8, **_marked(design))
        axes.set_yticks(
            range(len(steps[design])), [rung.replace(": ", ":\n", 1) for rung in steps[design]], fontsize="small"
        )
        axes.set_ylim(len(steps[design]) - 0.4, -0.6)
        guarantees = ", ".join(dict.fromkeys(own["guarantee"]))
        axes.set_title(f"{title_of(design)}, guarantee {guarantees}", loc="left")
        _log(axes.xaxis, axes.set_xscale)
        axes.grid(axis="x", alpha=0.3)
    panels[-1].set_xlabel("messages a second (each dot a repetition, the bar their median)")
    return figure


def distribution(details: pd.DataFrame, title: str, series: Iterable[str] = ("intended",)) -> Figure:
    """The share of messages that took at least so long, both axes logarithmic: how bad, how often.

    `details` are rows of `bench.load(run, details=True)`: a line for each of them and each of `series`.
    """
    figure = _figure(4.5)
    axes = figure.subplots()
    for _, row in details.sort_values("design", key=lambda names: names.map(rank)).iterrows():
        load, style = row["params.load"], _style(row["design"], row["contender"])
        at = f"{row['target_rate']:g} a second" if pd.isna(load) else f"{load:g} of its most"
        label = f"{title_of(row['design'])} {row['contender']} at {at}"
        for what, line in zip(series, ("-", "--", ":"), strict=False):
            tail = row["latencies"].get(what, {}).get("tail") or [(1, 0)]
            shares, times = zip(*tail, strict=True)
            axes.step(times, shares, line, where="post", markevery=0.1, label=f"{label}, {what}", **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("share of messages that took at least so long")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)
    if len(details):
        axes.legend(fontsize="small")
    return figure


SURVIVED = {"nothing lost": ("✓", "#56B4E9"), "came twice": ("2×", "#F0E442"), "lost": ("✗", "#CC79A7")}
"""What became of the messages: a sign and a colour of Okabe and Ito; the sign says the same as the colour."""


def survival(rows: pd.DataFrame, faults: Mapping[str, Collection[tuple[str, str]]]) -> Figure:
    """A field for each fault, and each design and guarantee: a sign, how many messages, and the longest gap.

    `faults` has the designs that each of them means something to, each with a guarantee.
    """
    from matplotlib.patches import Patch, Rectangle  # noqa: PLC0415 - nobody waits for what is not drawn

    kinds = [kind for kind in faults if kind in set(rows["params.fault"])]
    grades = {name: place for place, name in enumerate(("AT_MOST_ONCE", "AT_LEAST_ONCE", "DURABLE"))}
    found = {(design, guarantee) for design, guarantee in zip(rows["design"], rows["guarantee"], strict=True)}
    columns = sorted(found, key=lambda one: (rank(one[0]), grades[one[1]]))
    figure = _figure(1.6 + 0.45 * len(kinds))
    figure.set_size_inches(3 + 1.3 * len(columns), figure.get_figheight())
    axes = figure.subplots()
    for (x, (design, guarantee)), (y, kind) in product(enumerate(columns), enumerate(kinds)):
        part = rows[(rows["design"] == design) & (rows["guarantee"] == guarantee) & (rows["params.fault"] == kind)]
        if part.empty or part["received"].isna().all():
            why = "failed" if len(part) else "not tried" if (design, guarantee) in faults[kind] else "–"
            axes.text(x, y, why, ha="center", va="center", fontsize=7)
            continue
        lost, twice = int(part["lost"].sum()), int(part["duplicates"].sum())
        sign, colour = SURVIVED["lost" if lost else "came twice" if twice else "nothing lost"]
        axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=(colour, 0.65)))
        said = f"{sign} {lost:,} lost" if lost else f"{sign} {twice:,} twice" if twice else sign
        replaced = "" if part["params.recovered"].all() else " *"
        axes.text(x, y, f"{said}\n{part['params.gap_s'].max():.1f} s{replaced}", ha="center", va="center", fontsize=8)
    axes.set_xticks(
        range(len(columns)), [f"{title_of(design)}\n{grade.replace('_', ' ')}" for design, grade in columns]
    )
    times = rows.groupby("params.fault")["params.times"].max()
    axes.set_yticks(range(len(kinds)), [f"{kind}, {times[kind]:.0f} ×" for kind in kinds])
    axes.tick_params(length=0, labelsize=8, labeltop=True)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.set_title("What became of the messages, all tries together, and the longest time without one", loc="left")
    marks = [Patch(facecolor=(colour, 0.65), label=f"{sign} {what}") for what, (sign, colour) in SURVIVED.items()]
    marks.append(Patch(facecolor="none", label="* who carried them gave up, said so, and was replaced"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    return figure


GLANCE = {"throughput", "wake_up"}
"""The questions that it shows."""


def glance(rows: pd.DataFrame) -> Figure:
    """The designs on one sheet: messages a second, one by one and many at a time, and how long one takes."""
    own = rows[rows["contender"].eq("greet") & rows["params.again"].eq(False)]
    alone = own[own["question"].eq("wake_up") & own["params.rate"].eq(100)]
    carried = own[own["question"].eq("throughput") & own["params.phase"].eq("together")]
    designs = _designs(pd.concat([carried, alone]))
    usual = carried[carried["guarantee"].eq("AT_LEAST_ONCE")]
    same = set(usual["design"]) == set(carried["design"])  # a first look has the strongest of each alone
    durable = carried["guarantee"].eq("DURABLE")
    carried = usual if same else carried[durable | ~carried["design"].isin(carried.loc[durable, "design"])]
    figure = _figure(2.9 + 0.7 * max(0, len(designs) - 3))
    fastest = _titles(carried.groupby("design")["messages_per_s"].max().sort_values(ascending=False))
    soonest = _titles(stats.clock(alone, "service").groupby(alone["design"]).median().sort_values())
    figure.set_label(f"messages a second, the most first: {fastest}; milliseconds, the fewest first: {soonest}")
    speeds, times = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for place, design in enumerate(designs):
        for way, shift, face in (("many", -0.19, _colour(design)), ("name", 0.19, "none")):
            part = carried[carried["design"].eq(design) & carried["params.way"].eq(way)]
            _point(speeds, (part["messages_per_s"].median(), place + shift), WAYS[way], design, face)
        took = stats.clock(alone[alone["design"].eq(design)], "service").median()
        _point(times, (took, place), "ms", design, _colour(design))
    speeds.set_yticks(range(len(designs)), map(title_of, designs))
    speeds.set_ylim(len(designs) - 0.45, -0.55)
    for axes, title in ((speeds, "messages a second"), (times, "one message, 100 a second")):
        axes.set_title(title, loc="left")
        _log(axes.xaxis, axes.set_xscale, (1,))
        values = [float(line.get_xdata()[0]) for line in axes.lines] or [1.0]
        axes.set_xlim(min(values) / 2, 60 * max(values))  # with room for what is said
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel(
        f"greet, {'guarantee AT_LEAST_ONCE' if same else 'each design at its strongest guarantee'}, 18 bytes; medians",
        fontsize="small",
    )
    return figure


WAYS = {"many": "many at a time", "name": "one by one"}


def _point(axes: Axes, at: tuple[float, float], what: str, design: str, face: str) -> None:
    """A marker of the design with its figure beside it: on an axis of powers of ten a length would mean nothing."""
    value, place = at
    if value > 0:
        axes.plot([value], [place], **_marked(design), markerfacecolor=face, markersize=7)
        axes.annotate(
            f"{stats.short(value)} {what}",
            (value, place),
            (9, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )


def _labels(rows: pd.DataFrame) -> pd.Series[str]:
    """What stands beside a line or row of dots."""
    label = rows["design"].map(title_of) + " " + rows["contender"] + ", " + rows["params.way"]
    label += rows["params.rung"].map(lambda rung: f"\n{rung}" if rung else "")
    if "params.queue_type" in rows:
        label += rows["params.queue_type"].map(lambda kind: f", {kind} queue" if isinstance(kind, str) else "")
    return label + rows["params.phase"].map(lambda phase: "" if phase == "together" else f", {phase}")


def _designs(rows: pd.DataFrame) -> list[str]:
    """The designs of some rows, in the order of their table."""
    return sorted(set(rows["design"]), key=rank)


def _titles(ranked: pd.Series[float]) -> str:
    return ", ".join(title_of(str(design)) for design in ranked.index)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415, half a second that only pictures need

    return Figure(figsize=(8, height), layout="constrained")


def _log(axis: Any, scale: Any, marks: Sequence[int] = (1, 2, 5)) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    scale("log")
    axis.set_major_locator(LogLocator(subs=marks))
    axis.set_major_formatter(EngFormatter(sep="") if axis.get_view_interval()[1] > 1000 else "{x:g}")
    axis.set_minor_formatter(NullFormatter())


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


DRAWN: dict[type[Any], Callable[..., Figure]] = {
    pictures.Dots: dots,
    pictures.Loads: latency_against_load,
    pictures.Growth: growth,
    pictures.Pace: pace,
    pictures.Ladder: ladder,
    pictures.Survival: survival,
}


def draw(what: pictures.Picture) -> Figure:
    """What a question wants to have drawn."""
    return DRAWN[type(what)](**vars(what))


def picture(what: pictures.Picture | Figure, alt: str = "") -> Image:
    """The picture as a PNG for a notebook, with `alt`, or else its own label, for who cannot see it."""
    from IPython.display import Image  # noqa: PLC0415

    figure = draw(what) if isinstance(what, pictures.Picture) else what
    return Image(png(figure), alt=alt or figure.get_label())  # type: ignore[no-untyped-call]


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def svg(figure: Figure, about: str) -> bytes:
    """The figure as a file that is sharp at any size, and the same each time; `about` stands in it."""
    from matplotlib import rc_context  # noqa: PLC0415

    buffer = BytesIO()
    with rc_context({"svg.hashsalt": about}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Description": about})
    return buffer.getvalue()
