"""The report: what it sums and what it leaves out, what it says of nothing, and what it stands on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

import bench
from bench import contenders, questions, results, tables
from bench.judge import compare, targets
from bench.model import BARE, DESIGNS, JAVA, Measurement, Settings
from bench.results import Writer
from bench.show import page, report

COUNTED: dict[str, Any] = {
    "sent": 10, "accepted": 10, "received": 10, "lost": 0, "duplicates": 0, "reordered": 0,
    "elapsed_s": 1.0, "messages_per_s": 10.0, "survives": "nothing",
}  # fmt: skip
WITHIN = "where the guarantee allows it, or in a control"
ABOUT: dict[str, Any] = {
    "machine": {"cpu": "a CPU", "usable": 2, "memory_gb": 1.0, "os": "Linux", "load_average": [0.0]},
    "python": "CPython 3.12",
    "brokers": {},
    "clients": {},
    "questions": ["throughput"],
    "elapsed_s": {"throughput": 60.0},
    "commit": "0123456789ab+",
    "settings": {
        "loop": "asyncio",
        "rounds": 1,
        "seed": 0,
        "profile": "quick",
        "defaults": {"kafka greet": "a window"},
    },
}


def row(question: str = "throughput", contender: str = "greet", design: str = "kafka", **more: Any) -> Measurement:
    params = {"way": "name", "size": 18, "load": None, "phase": "together", "again": False, "rung": "", "allowed": None}
    params |= more.pop("params", {})
    key = ("r", question, design, contender, "DURABLE", params, more.pop("repetition", 1))
    return Measurement(*key, **COUNTED | more)


def loaded(out: Path, *rows: Measurement, details: dict[str, Any] | None = None) -> pd.DataFrame:
    writer = Writer(out, {})
    for one in rows:
        writer.append(one, details)
    return results.load(writer.folder, details=True)


def test_names_are_summed_once_and_only_where_each_was_known(tmp_path: Path) -> None:
    rows = loaded(
        tmp_path,
        row(received=1),
        row(params={"phase": "publish"}, received=20),
        row(params={"phase": "consume"}, received=20),
        row(contender=JAVA, received=300),
        row("ladder", params={"rung": BARE}, received=4000),
        row("faults", params={"allowed": "lost, duplicates"}, received=50_000, lost=1300, duplicates=2),
    )
    said = report.conclusion(rows)
    total = "21 receipts, one of a message in each group, in 2 repetitions"
    assert said[0] == f"Without faults every message arrived, once and in order: {total}."
    beyond = "With faults injected: 0 lost or duplicated beyond what the guarantee allows"
    assert said[1] == f"{beyond}; {WITHIN}: 1,300 lost, 2 twice."
    assert tables.counted(rows[:3]) == "3 × all"
    assert tables.counted(rows.assign(duplicates=[1, 2, 0, 0, 0, 2])[:3]) == "3 × all, 3 duplicates"
    assert tables.counted(rows.assign(error=rows["error"].where(rows.index > 0, "x"))[:3]) == "3 × not all, 1 failed"
    assert tables.counted(rows[3:4]) == tables.counted(rows[4:5]) == "1 × all, only counted"


EXPLAINED = {
    "backlog": ("end / beginning", "MB gained", "disk MB", "beside a sleeper"),
    "fan_out": ("greetings/s",),
    "growth": ("beside the usual", "end / beginning"),
    "ladder": ("times the step that it changes",),
    "scaling": ("times one broker", "% of the limit"),
    "takeover": ("came twice", "count"),
    "work": ("members busy", "smallest share"),
    "work_sharing": ("speed-up", "smallest share"),
}
"""Columns and rungs of which nobody can tell by their names what they are."""


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return bench.reference()


@pytest.mark.parametrize("name", questions.NAMES)
def test_a_table_says_under_it_what_its_columns_are(name: str, published: pd.DataFrame) -> None:
    rows = published[published["question"].eq(name) & published["repetition"].eq(1)]
    note = questions.note(name)
    (table,) = report.answers(rows).values()
    assert f"{report.markdown_table(table)}\n\n{note}\n" in report.markdown(rows)
    assert f"<p>{escape(note)}</p>" in page.page(rows)
    console = Console(width=120, record=True, file=StringIO())
    report.terminal(console, rows)
    assert note in " ".join(console.export_text().split())
    for what in EXPLAINED.get(name, ()):
        assert f'"{what}' in note
        assert any(what in one for one in [*map(str, table.columns), *table.get("rung", [])])


def test_the_steps_of_an_older_ladder_come_last_in_its_table(tmp_path: Path) -> None:
    steps = ("an old step", "await each answer, commits each 0.1 s: what came since comes twice", "another old step")
    rows = loaded(tmp_path, *(row("ladder", "aiokafka", params={"rung": one, "window": 1}) for one in steps))
    assert [*questions.question("ladder").table(rows)["rung"]] == [steps[1], steps[0], steps[2]]


def test_a_run_that_ended_after_a_cell_that_shows_the_noise_has_an_empty_table(tmp_path: Path) -> None:
    rows = loaded(tmp_path, row("payload", params={"again": True}))
    assert report.answers(rows)["payload"].empty


def test_a_repetition_that_failed_is_counted_in_the_line_of_its_cell(tmp_path: Path) -> None:
    """It does not say what a message survives, so others do."""
    less = partial(row, contender="bare queue", design="asyncio")
    failed: dict[str, Any] = dict.fromkeys(COUNTED) | {"error": "it failed"}
    rows = loaded(tmp_path, *(less(repetition=k) for k in range(1, 5)), less(repetition=5, **failed))
    (line,) = tables.summary(rows).to_dict("records")
    assert line["contender"] == "asyncio bare queue, name (survives nothing)"
    assert line["count"] == "5 × not all, 1 failed"


def test_what_was_lost_while_nobody_read_is_counted_once(tmp_path: Path) -> None:
    rows = loaded(tmp_path, *(row(params={"phase": phase}, lost=3) for phase in ("publish", "consume")))
    assert report.conclusion(rows)[0] == "Not all went well: 3 lost; 0 of 2 repetitions failed."


def test_what_failed_is_in_no_ratio(tmp_path: Path) -> None:
    """Neither of the ladder nor of what the bench's own code costs."""
    of = {rung: {"rung": rung, "window": 1} for rung in (questions.question("ladder").LISTS, BARE)}
    good = [
        row("ladder", params=params, repetition=k, messages_per_s=speed)
        for k in range(1, 5)
        for params, speed in zip(of.values(), (90.0, 100.0), strict=True)
    ]
    bad = [row("ladder", params=params, repetition=5, error="it failed") for params in of.values()]
    bad[0] = replace(bad[0], messages_per_s=1.0)
    assert "The fastest loop is 0.90 (0.90 to 0.90) times as fast" in " ".join(
        report.conclusion(loaded(tmp_path, *good, *bad))
    )


def test_what_was_not_measured_twice_is_said(tmp_path: Path) -> None:
    said = " ".join(report.conclusion(loaded(tmp_path, row("latency", params={"load": 0.5}))))
    assert "Not measured twice: the p50 at a set rate, the p99 at a set rate. Verdicts take 25%" in said


def test_order_is_not_said_to_be_kept_where_nobody_looked(tmp_path: Path) -> None:
    rows = loaded(tmp_path, row(), row(reordered=None))
    assert "once, and in order where that is promised: 20 receipts" in report.conclusion(rows)[0]


def test_what_faults_did_beyond_the_guarantee_is_said(tmp_path: Path) -> None:
    rows = loaded(tmp_path, row("faults", params={"allowed": "duplicates"}, lost=3, duplicates=2))
    assert report.conclusion(rows)[:2] == [
        "Not all went well: 3 lost; 0 of 1 repetitions failed.",
        f"With faults injected: 3 lost beyond what the guarantee allows; {WITHIN}: 2 twice.",
    ]


def test_a_run_of_faults_alone_says_nothing_of_a_run_without(tmp_path: Path) -> None:
    said = report.conclusion(loaded(tmp_path, row("faults", params={"allowed": ""})))
    assert not [one for one in said if "Without faults" in one]


def test_memory_of_the_client_that_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    rows = loaded(
        tmp_path, row(rss_mb={"client": None, "broker": 175.0}), row(rss_mb={"client": None, "broker": 175.0})
    )
    assert list(tables.summary(rows)["MB, client + broker"]) == ["– + 175"]
    rows = loaded(tmp_path, row(design="asyncio", rss_mb={"client": None, "broker": None}))
    assert list(tables.summary(rows)["MB, client + broker"]) == ["–"]


@pytest.mark.parametrize("latency", [None, dict.fromkeys(("p50", "p90", "p99", "p99_9", "max"))])
def test_latencies_of_clocks_that_are_not_shared_are_dashes(tmp_path: Path, latency: Any) -> None:
    more = {"latency_ms": latency, "target_rate": 100.0, "params": {"load": 0.5}}
    rows = loaded(tmp_path, *(row("latency", one, **more) for one in ("greet", "aiokafka")), details={"latencies": {}})
    table = questions.question("latency").table(rows)
    assert set(table["p50 ms"]) == set(table["max ms"]) == {"–"}
    assert targets.table(rows).empty
    assert compare.compare(rows, rows) == [], "the speed of an open loop is no figure"


def test_every_question_has_a_table_when_all_of_it_failed(tmp_path: Path) -> None:
    settings = Settings(DESIGNS, tuple(contenders.every()), profile="full")
    for name in questions.FULL:
        failed = [
            Measurement(*("r", name, cell.contender.design, cell.contender.name, cell.guarantee.name, cell.params, 1),
                        error="a worker process died")
            for cell in questions.question(name).cells(settings)
        ]  # fmt: skip
        rows = loaded(tmp_path, *failed)
        assert "1 × failed" in set(questions.question(name).table(rows)["count"])
        assert report.conclusion(rows)[0].endswith(f"{len(rows)} of {len(rows)} repetitions failed.")


def test_of_nothing_it_says_so_in_every_form(tmp_path: Path) -> None:
    rows = loaded(tmp_path)
    assert rows.empty
    assert "Nothing was measured." in report.markdown(rows, ABOUT)
    assert "Nothing was measured." in page.page(rows, ABOUT)


def test_it_says_what_decides_the_figures_and_on_which_commit(tmp_path: Path) -> None:
    rows = loaded(tmp_path, row(design="asyncio", latency_ms=None))
    block, shown = report.markdown(rows, ABOUT, ABOUT), page.page(rows, ABOUT)
    table = "| contender | settings |\n|---|---|\n| kafka greet | a window |\n\n</details>"
    assert f"<details><summary>What decides each contender's figures</summary>\n\n{table}" in block
    assert "quick profile, 1 minute, commit 0123456789ab+" in block
    assert block.count(report.PAIRED) == shown.count(report.PAIRED) == 1
    assert "<details><summary>the settings</summary>" in shown
    assert "commit" not in "".join(report.ground({**ABOUT, "commit": None}))


@pytest.mark.parametrize("form", ["a page", "a screen"])
def test_the_answer_comes_before_the_workloads_that_were_tried(form: str) -> None:
    rows, abouts = bench.reference(), [*map(bench.about, results.published())]
    rows = rows[rows["question"].isin(("throughput", "latency", "workload"))]
    if form == "a page":
        shown = page.page(rows, *abouts)
    else:
        report.terminal(console := Console(file=StringIO(), width=100), rows, *abouts)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.index("Which one to take") < shown.index("Orders of a shop")


def test_the_published_runs_are_printed() -> None:
    rows = bench.reference()
    block = report.markdown(rows, *map(bench.about, results.published()))
    assert block.startswith("### The claims and their verdicts\n\n| of | claim |")
    asked = [*map(questions.asked, report.measured(rows))]
    headings = re.findall(r"^### (.+)$", block, re.MULTILINE)
    assert headings[-len(asked) - 2 :] == [*asked, "Settings", "Workloads"]


KEPT = {"messages/s", "p50 ms", "p99 ms", "s", "longest wait s", "asyncio", "rabbitmq", "kafka", "times as much"}
"""The columns that a table is for: on no screen they are left out."""


@pytest.fixture(scope="module")
def tables_of(published: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables of the published runs."""
    rows = published[published["question"] != "workload"]
    return {**report.answers(rows), "beside its peers": targets.table(rows)}


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_screen_shows_what_each_table_is_for_and_breaks_no_figure(
    width: int, tables_of: dict[str, pd.DataFrame]
) -> None:
    assert len(tables_of) > 10
    for name, table in tables_of.items():
        fitting = report.fitted(table, width)
        assert KEPT.intersection(table) <= set(fitting), name
        assert str(fitting.iloc[0, 0]) == str(table.iloc[0, 0]), "what rows have in common is the line above them"
        console = Console(width=width, record=True, file=StringIO())
        console.print(report.rich_table(fitting, name))
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width, name
        for column in map(str, fitting):
            if report.of_figures(fitting[column]):
                assert all(report.text(value) in text for value in fitting[column]), (name, column)


def test_where_output_is_not_utf_8_it_is_still_printed() -> None:
    command = [sys.executable, "-m", "bench", "report"]
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    folder = next(one for one in results.published() if one.name == "connections")
    ended = subprocess.run([*command, folder], env=plain, capture_output=True, timeout=60, check=True)
    assert b"* Without faults every message arrived" in ended.stdout
    assert ended.stderr == b""
    ended = subprocess.run([*command, "--html", folder], env=plain, capture_output=True, timeout=60, check=True)
    assert "× all".encode() in ended.stdout, "a page says of itself that it is UTF-8"


@pytest.mark.parametrize(("seconds", "said"), [(0.0475, "5 × all, 0.0475 s each"), (0.3, "5 × all")])
def test_a_table_says_how_long_its_repetitions_were_where_they_are_short(seconds: float, said: str) -> None:
    rows = bench.reference()
    one = rows[rows["question"].eq("throughput") & rows["contender"].eq("greet") & rows["design"].eq("asyncio")]
    found = tables.summary(one[one["params.way"].eq("many")].assign(elapsed_s=seconds))
    assert set(found["count"]) == {said}
