"""A form for a workload: rate, size, readers and needs, and beside them the answer from the figures of a run."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets
import pandas as pd

from bench.judge import estimate
from bench.measure.workload import Workload
from bench.show.page import CODE, COMMAND

START = {"rate": 300, "size": 800, "groups": 1, "members": 3, "work_ms": 5.0, "survive": "broker"}
ASKED = {
    "rate": "messages a second",
    "size": "bytes of a message",
    "groups": "groups of readers",
    "members": "readers in a group",
    "work_ms": "ms of work a message",
    "survive": "survives the kill of",
    "order": "in order",
    "replay": "read again later",
    "apart": "separate programs",
}


def form(rows: pd.DataFrame) -> widgets.HBox:
    """The form and its answer, which follows each change."""
    keys: dict[str, Any] = {
        "rate": widgets.BoundedIntText(min=1, max=10_000_000),
        "size": widgets.BoundedIntText(min=16, max=65_536),
        "groups": widgets.BoundedIntText(min=1, max=16),
        "members": widgets.BoundedIntText(min=1, max=64),
        "work_ms": widgets.BoundedFloatText(min=0, max=60_000),
        "survive": widgets.Dropdown(options=["nothing", "consumer", "broker"]),
        "order": widgets.Dropdown(options=["none", "all", "key"]),
        "replay": widgets.Checkbox(indent=False),
        "apart": widgets.Checkbox(indent=False),
    }
    for name, value in START.items():
        keys[name].value = value
    answer, run = widgets.HTML(), estimate.Remembered(rows)

    def follow(_: object = None) -> None:
        workload = Workload(**{name: one.value for name, one in keys.items()})
        lines = estimate.said(workload, estimate.estimates(run, workload))
        items = "".join(f"<li>{COMMAND.sub(CODE, escape(line))}</li>" for line in lines)
        answer.value = f'<ul style="margin: 0; padding-left: 1rem; line-height: 1.5">{items}</ul>'

    lines = []
    for name, one in keys.items():
        one.layout = widgets.Layout(width="9rem")
        one.observe(follow, "value")
        lines.append(widgets.HBox([widgets.Label(ASKED[name], layout=widgets.Layout(width="12rem")), one]))
    follow()
    answer.layout = widgets.Layout(flex="1 1 20rem", width="auto")
    return widgets.HBox(
        [widgets.VBox(lines), answer], layout=widgets.Layout(flex_flow="row wrap", grid_gap="1rem 2rem")
    )
