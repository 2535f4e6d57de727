"""The published runs: they are whole, nothing went wrong in them, and the README says what they say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import bench
from bench import report, results
from bench.claims import HOLDS, verdicts

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- bench report --markdown: begin -->\n", "<!-- bench report --markdown: end -->"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return bench.reference()


def test_they_are_whole_and_all_went_well(rows: pd.DataFrame) -> None:
    assert all(bench.about(folder)["complete"] for folder in results.published())
    assert rows["error"].isna().all()
    assert not report.broken(rows).sum().any()
    assert set(rows["design"]) == {"asyncio", "rabbitmq", "kafka"}


def test_the_readme_says_what_they_say(rows: pd.DataFrame) -> None:
    """To mend it: `python -m bench report --markdown bench/reference/*`, between the two marks."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.partition(BEGIN)[2].partition(END)[0] == report.markdown(rows, *map(bench.about, results.published()))


def test_a_verdict_that_turns_is_seen(rows: pd.DataFrame) -> None:
    """The README's block follows the rows: a thousand times slower, RabbitMQ no longer does thousands a second."""
    slower = rows.assign(
        names_per_s=rows["names_per_s"].where(rows["design"] != "rabbitmq", rows["names_per_s"] / 1000)
    )
    before, after = (verdicts(frame).set_index("claim")["verdict"] for frame in (rows, slower))
    thousands = "Thousands of messages a second."
    assert before[thousands] == HOLDS
    assert after[thousands] != HOLDS
