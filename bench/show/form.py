"""A form for a workload: rate, size, readers and needs, and beside them the answer from the figures of a run.

What a key may not be is told instead of an answer, in the words of a file's error.
"""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets
import pandas as pd

from bench.judge import estimate
from bench.judge.claims import Figures
from bench.measure import workload as asked
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
        "rate": widgets.FloatText(),
        "size": widgets.IntText(),
        "groups": widgets.IntText(),
        "members": widgets.IntText(),
        "work_ms": widgets.FloatText(),
        "survive": widgets.Dropdown(options=["nothing", "consumer", "broker"]),
        "order": widgets.Dropdown(options=["none", "all", "key"]),
        "replay": widgets.Checkbox(indent=False),
        "apart": widgets.Checkbox(indent=False),
    }
    for name, value in START.items():
        keys[name].value = value
    answer, run = widgets.HTML(), Figures(rows)

    def follow(_: object = None) -> None:
        try:
            said: dict[str, Any] = {
                name: asked.checked(name, _plain(one.value), ASKED[name])[0] for name, one in keys.items()
            }
        except asked.Misread as error:
            lines = [str(error)]
        else:
            workload = Workload(**said)
            lines = estimate.said(workload, estimate.estimates(run, workload))
        items = "".join(f"<li>{COMMAND.sub(CODE, escape(line))}</li>" for line in lines)
        answer.value = f'<ul style="margin: 0; padding-left: 1rem; line-height: 1.5">{items}</ul>'

    fields = []
    for name, one in keys.items():
        one.layout = widgets.Layout(width="9rem")
        one.observe(follow, "value")
        fields.append(widgets.HBox([widgets.Label(ASKED[name], layout=widgets.Layout(width="12rem")), one]))
    follow()
    answer.layout = widgets.Layout(flex="1 1 20rem", width="auto")
    return widgets.HBox(
        [widgets.VBox(fields), answer], layout=widgets.Layout(flex_flow="row wrap", grid_gap="1rem 2rem")
    )


def _plain(value: Any) -> Any:
    """A whole number without its decimal point, as the command would write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
