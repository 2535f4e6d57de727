"""All pictures, and the only file that imports matplotlib, when it draws. Each function returns a `Figure`.

The colours are of Okabe and Ito (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers
too; every design has one colour and one marker throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"asyncio": "#0072B2", "rabbitmq": "#D55E00", "kafka": "#009E73"}
MARKERS = {"asyncio": "o", "rabbitmq": "s", "kafka": "^"}
TITLES = {"asyncio": "asyncio", "rabbitmq": "RabbitMQ", "kafka": "Kafka"}


def dots(rows: pd.DataFrame, unit: str, value: str = "names_per_s") -> Figure:
    """Every repetition as a dot and the median as a line, a row for each contender, a panel for each guarantee."""
    rows = rows[rows[value].notna() & rows["params.again"].eq(False)]
    guarantees = list(dict.fromkeys(rows["guarantee"]))
    labels = {name: list(dict.fromkeys(_labels(part))) for name, part in rows.groupby("guarantee")}
    heights = [max(1, len(labels[name])) for name in guarantees] or [1]
    figure = _figure(1.2 + 0.45 * sum(heights) + 0.6 * len(heights))
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, guarantee in zip(panels, guarantees, strict=False):
        part = rows[rows["guarantee"] == guarantee]
        for place, label in enumerate(labels[guarantee]):
            own = part[_labels(part) == label]
            design = own["design"].iloc[0]
            style: Any = {"color": COLOURS[design], "marker": MARKERS[design]}
            axes.plot(own[value], [place] * len(own), linestyle="", alpha=0.6, **style)
            axes.plot([own[value].median()] * 2, [place - 0.3, place + 0.3], color=COLOURS[design], linewidth=2)
        axes.set_yticks(range(len(labels[guarantee])), labels[guarantee])
        axes.set_ylim(len(labels[guarantee]) - 0.5, -0.5)
        axes.set_title(f"{unit}, guarantee {guarantee}", loc="left")
        _log(axes.xaxis, axes.set_xscale)
        axes.grid(axis="x", alpha=0.3)
    panels[-1].set_xlabel(f"{unit} (each dot a repetition, the line their median)")
    return figure


def latency_against_load(rows: pd.DataFrame) -> Figure:
    """p50 (full line) and p99 (dashed) over the rate, a line for each contender, a panel for each guarantee."""
    rows = rows[rows["target_rate"].notna()]
    guarantees = list(dict.fromkeys(rows["guarantee"])) or [""]
    figure = _figure(4 * len(guarantees))
    for axes, guarantee in zip(figure.subplots(len(guarantees), 1, squeeze=False)[:, 0], guarantees, strict=True):
        part = rows[rows["guarantee"] == guarantee]
        for label in dict.fromkeys(_labels(part)):
            own = part[_labels(part) == label]
            design = own["design"].iloc[0]
            middle = own.groupby("params.load")[["target_rate", "latency_ms.p50", "latency_ms.p99"]].median()
            style: Any = {"color": COLOURS[design], "marker": MARKERS[design]}
            axes.plot(middle["target_rate"], middle["latency_ms.p50"], label=f"{label}, p50", **style)
            axes.plot(middle["target_rate"], middle["latency_ms.p99"], "--", label=f"{label}, p99", **style)
        axes.set_title(f"Latency from the intended send, guarantee {guarantee}", loc="left")
        axes.set_ylabel("latency (ms)")
        axes.set_xlabel("names a second that are due")
        _log(axes.xaxis, axes.set_xscale)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        if part.size:
            axes.legend(fontsize="small", ncols=2)
    return figure


def distribution(details: pd.DataFrame, title: str, series: Iterable[str] = ("intended",)) -> Figure:
    """The share of names that took at least so long, both axes logarithmic: how bad, how often.

    `details` is what `bench.details` gives: a line for each row and each of `series`.
    """
    figure = _figure(4.5)
    axes = figure.subplots()
    for _, row in details.iterrows():
        label = f"{TITLES[row['design']]} {row['contender']} at {row['params.load']:.2f}"
        for what, line in zip(series, ("-", "--", ":"), strict=False):
            tail = row["latencies"].get(what, {}).get("tail") or [(1, 0)]
            shares, times = zip(*tail, strict=True)
            axes.step(times, shares, line, where="post", color=COLOURS[row["design"]], label=f"{label}, {what}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("share of names that took at least so long")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)
    if len(details):
        axes.legend(fontsize="small")
    return figure


def _labels(rows: pd.DataFrame) -> pd.Series[str]:
    """What stands beside a line or row of dots."""
    label = rows["design"].map(TITLES) + " " + rows["contender"] + ", " + rows["params.way"]
    return label + rows["params.phase"].map(lambda phase: "" if phase == "together" else f", {phase}")


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415, half a second that only pictures need

    return Figure(figsize=(8, height), layout="constrained")


def _log(axis: Any, scale: Any) -> None:
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415

    scale("log")
    axis.set_major_formatter(EngFormatter())
