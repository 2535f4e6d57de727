"""A run as an HTML page that needs no other file: the answers, their pictures, light or dark as the reader has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from bench import questions
from bench.judge import answer, claims, side_by_side, targets
from bench.show import plots, report, workload


def page(rows: pd.DataFrame, *abouts: Mapping[str, Any]) -> str:
    """The page of the runs that `rows` are of."""
    parts = ["<h1>Hello, three ways</h1>"]
    cases = [part for about in abouts if "workload" in about for part in _cases(rows, about)]
    rows = rows[rows["question"].ne("workload")] if len(rows) else rows
    if len(rows) or not cases:
        judged = claims.verdicts(rows)
        if said := answer.answer(rows, judged):
            parts += ["<h2>Which one to take</h2>", *_items(said), "<h2>What decides it</h2>", _table(claims.guide())]
        parts += _contents(rows)
        parts += ["<h2>What was counted</h2>", *_items([*report.conclusion(rows), *report.errors(rows)])]
    if len(rows):
        parts += ["<h2>What people say</h2>", _table(judged[judged["verdict"] != claims.UNKNOWN])]
        left = [f"{remedy}: {' '.join(of)}" for remedy, of in answer.open_claims(judged).items()]
        parts += ["<h2>Open claims</h2>", *_items(left)] if left else []
    parts += cases
    if len(beside := side_by_side.table(rows)):
        parts += [f"<h2>{side_by_side.TITLE}</h2>", f"<p>{_prose(side_by_side.NOTE)}.</p>", _table(beside)]
    if len(ratios := targets.table(rows)):
        parts += [f"<h2>{report.BESIDE}</h2><p>{report.RATIOS}</p>", _table(ratios)]
    if len(rows):
        parts.append(f"<p>{report.PAIRED}</p>")
    for name, table in report.answers(rows).items():
        parts += [f'<h2 id="{name}">{escape(questions.asked(name))}</h2>', _picture(name, rows)]
        parts.append(_folded("the figures", table, questions.note(name)))
    if len(decided := report.defaults(*abouts)):
        parts += [f"<h2>{report.DEFAULTS}</h2>", _folded("the settings", decided)]
    parts += ["<footer>", *_items(report.ground(*abouts)), "</footer>"]
    return PAGE.replace("BODY", "\n".join(parts))


def _cases(rows: pd.DataFrame, about: Mapping[str, Any]) -> list[str]:
    """The answers of a run of `bench workload`."""
    parts = []
    for one in workload.told(report.of_run(rows, about), about):
        parts += [f"<h2>{escape(one.title)}</h2><p>{escape(one.asked)}</p>", *_items(list(one.sentences))]
        parts += [_table(one.table), *_items(list(one.notes))]
    return parts


def _picture(name: str, rows: pd.DataFrame) -> str:
    """The picture of a question within the page, where each of its marks says what it shows to who points at it."""
    figure = plots.draw(questions.question(name).picture(rows[rows["question"] == name]))
    drawn = re.sub(ALONE, "", plots.svg(figure, name).decode(), flags=re.DOTALL)
    called = f'<svg role="img" aria-label="{escape(str(figure.get_label()))}"'
    return f'<div class="wide">{drawn.replace("<svg", called, 1)}</div>'


ALONE = r'<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>| xmlns(:\w+)?="[^"]*"| id="[\w.]+_\d+"'
"""What of a picture only a file of its own needs."""


def _contents(rows: pd.DataFrame) -> list[str]:
    links = [f'<a href="#{name}">{escape(questions.asked(name))}</a>' for name in report.measured(rows)]
    return ["<h2>Contents</h2><ul>", *(f"<li>{link}</li>" for link in links), "</ul>"] if links else []


def _items(sentences: list[str]) -> list[str]:
    return ["<ul>", *(f"<li>{_prose(one)}</li>" for one in sentences), "</ul>"]


def _folded(summary: str, table: pd.DataFrame, note: str = "") -> str:
    return f"<details><summary>{summary}</summary>{_table(table)}<p>{_prose(note)}</p></details>"


def _prose(text: str) -> str:
    return COMMAND.sub(CODE, escape(text))


def _table(frame: pd.DataFrame) -> str:
    """Figures to the right; a word that is a verdict in its colour."""
    right = [report.of_figures(frame[name]) for name in frame.columns]

    def line(kind: str, cells: tuple[Any, ...]) -> str:
        marked = [(report.text(cell), "n" if side else "") for cell, side in zip(cells, right, strict=True)]
        return "".join(f'<{kind} class="{VERDICTS.get(said, mark)}">{escape(said)}</{kind}>' for said, mark in marked)

    head = line("th", tuple(frame.columns))
    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in frame.itertuples(index=False, name=None))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


COMMAND, CODE = re.compile("`(.+?)`"), r"<code>\1</code>"
VERDICTS = {claims.HOLDS: "good", "yes": "good", claims.FAILS: "bad", "no": "bad", claims.DEPENDS: "open"}

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Hello, three ways</title>
<style>
:root { color-scheme: light dark; --line: #d8dee4; --soft: #57606a; --good: #00735c; --bad: #b34700; --open: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --line: #30363d; --soft: #9198a1; --good: #4cc9a5; --bad: #ff9a57; --open: #6cb6ee }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 3rem auto; padding: 0 1rem }
h1 { font-size: 2rem; margin-bottom: 1rem }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line) }
svg { width: 100%; min-width: 38rem; max-width: 48rem; height: auto; overflow: visible } /* letters may be wider */
svg { pointer-events: none } /* but for its marks */
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .8rem; line-height: 1.35; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600; white-space: nowrap }
.n { text-align: right; white-space: nowrap }
@media (max-width: 40rem) { td:first-child { min-width: 6rem } td:last-child:not(.n) { min-width: 12rem } }
.good { color: var(--good) } .bad { color: var(--bad) } .open { color: var(--open) }
code { overflow-wrap: anywhere }
summary { cursor: pointer; color: var(--soft); margin: .5rem 0 }
footer { margin-top: 3rem; color: var(--soft); font-size: .8rem; border-top: 1px solid var(--line) }
</style>
BODY
</html>
"""
