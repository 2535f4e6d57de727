"""The published runs: they are whole, what went wrong is told, and RESULTS.md and README.md say what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench import results, stats
from bench.judge import answer, claims
from bench.judge.claims import DEPENDS, FAILS, HOLDS, UNKNOWN, verdicts
from bench.model import JAVA, PERFTEST
from bench.show import plots, report
from bench.show.plots import GLANCE
from greet.designs import names

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return bench.reference()


def test_they_are_whole_and_all_went_well_but_for_faults_that_are_told(rows: pd.DataFrame) -> None:
    assert all(bench.about(folder)["complete"] for folder in results.published())
    wrong = rows["error"].notna()
    assert not stats.broken(rows[~wrong]).sum().any()
    assert set(rows["design"]) == set(names())
    by_hand = (ROOT / "RESULTS.md").read_text(encoding="utf-8").partition("## The published run")[0]
    for one in rows[wrong].to_dict("records"):
        assert one["question"] == "faults"
        assert f"{one['error'].split()[0]} `{one['guarantee']}` messages" in by_hand


def test_every_ready_workload_is_answered() -> None:
    said = [bench.about(folder) for folder in results.published()]
    answered = [about["workload"]["file"] for about in said if "workload" in about]
    assert sorted(answered) == sorted(path.name for path in (ROOT / "workloads").glob("*.toml"))


def test_rows_of_before_say_what_is_true() -> None:
    """As new ones do: else `compare` would find no cell in common."""
    rows = bench.reference()
    tools = rows["contender"].isin((JAVA, PERFTEST))
    assert set(rows[tools]["params.loop"]) == {"Java"}
    assert set(rows[rows["question"].isin(("scaling", "takeover")) & ~tools]["params.loop"]) == {"select"}
    assert set(rows[rows["contender"].eq(PERFTEST)]["params.window"]) == {500}
    paced = rows[rows["contender"].eq(PERFTEST) & rows["target_rate"].notna()]
    assert len(paced) >= 5
    assert paced[["sent", "accepted", "received", "lost"]].isna().all(axis=None), "it tells no counts at a rate"


def test_the_results_say_what_they_say() -> None:
    """To mend it: `python -m bench report --markdown --into RESULTS.md bench/reference/*`."""
    folders, text = results.published(), (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    block = report.markdown(bench.load(*folders, details=True), *map(bench.about, folders))
    assert text == report.placed(block, text)


def test_a_file_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="put both where the block belongs"):
        report.placed("block", "# Results\n")


def test_the_pictures_are_of_them(rows: pd.DataFrame) -> None:
    """To draw them anew: `python -m bench report --pictures pictures bench/reference/*`."""
    assert "0.85 ms over RabbitMQ" in str(plots.glance(rows).get_label()), "kept in memory, as its caption says"
    runs = rows.groupby("question")["run"].agg(lambda some: ", ".join(some.unique())).to_dict()
    drawn = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "pictures").glob("*.svg")}
    runs["glance"] = ", ".join(rows[rows["question"].isin(GLANCE)]["run"].unique())
    assert drawn.keys() == runs.keys()
    assert [name for name, text in drawn.items() if f"<dc:description>{runs[name]}<" not in text] == []
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md")]
    shown = {name for text in texts for name in re.findall(r"\]\(pictures/(\w+)\.svg\)", text)}
    assert shown == drawn.keys()


def test_memory_does_not_grow_with_what_is_published_or_waits(rows: pd.DataFrame) -> None:
    """By millions of names from a generator, and as many that wait for a consumer: at most 100 MB."""
    grown = rows[rows["question"].eq("backlog") & rows["grown_mb"].notna()]
    assert set(grown["design"]) == {"asyncio", "rabbitmq", "kafka"}
    assert grown.groupby("design")["sent"].max().min() >= 1_000_000
    assert grown["grown_mb"].max() < 100


def test_a_verdict_that_turns_is_seen(rows: pd.DataFrame) -> None:
    """The block follows the rows: a thousand times slower, RabbitMQ no longer does thousands a second."""
    slower = rows.assign(
        messages_per_s=rows["messages_per_s"].where(rows["design"] != "rabbitmq", rows["messages_per_s"] / 1000)
    )
    before, after = (verdicts(frame).set_index("claim")["verdict"] for frame in (rows, slower))
    thousands = "Thousands of messages a second."
    assert before[thousands] == HOLDS
    assert after[thousands] != HOLDS


def test_a_comparison_says_what_it_is_of(rows: pd.DataFrame) -> None:
    """The guarantee of each lead, the interval of what may be no difference, and a rate that is not the same."""
    said = verdicts(rows).set_index("claim")["evidence"]
    volumes = said["For large volumes and distributed systems: Kafka."]
    assert "DURABLE with greet, Kafka carries" in volumes
    assert "as AT_LEAST_ONCE, transient in RabbitMQ," in volumes
    assert (
        "by the best of the other Python clients 2.18 (1.87 to 2.54) times (confluent-kafka beside aiormq)" in volumes
    )
    assert "of messages of 16 bytes 55.1 (48.3 to 62.9) times" in volumes
    assert "as RabbitMQ, both DURABLE (Kafka: greet" in said["Kafka is faster."]
    assert "if each is awaited before the next one is sent, 1.40 (1.03 to 1.89) times" in said["Kafka is faster."]
    assert "0.78 (0.50 to 1.23) and 0.89 (0.76 to 1.04) times if" in said["Scalable over partitions and brokers."]
    assert "Kafka, at the nearest higher rate that was measured for it, median" in said["Low latency."]
    lines = answer.answer(rows, verdicts(rows))
    assert "; at 100 a second a transient message takes 0.85 ms" in lines[1]
    assert lines[3].endswith("with PerfTest, transient.")


WORD = f"({HOLDS}|{FAILS}|{DEPENDS}|{UNKNOWN})"
CONCLUDED = re.compile(rf"\*\*([^*]+)\*\*: {WORD}\b|\| ([^|]+) \| {WORD} \|")
"""How a text says what became of a claim."""


def texts() -> dict[str, str]:
    found = {"README": (ROOT / "README.md").read_text(encoding="utf-8")}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found[path.stem] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return found


def test_what_is_concluded_is_the_verdict(rows: pd.DataFrame) -> None:
    """In the README and the notebooks; what the runs left open, a notebook may have shown."""
    judged = verdicts(rows).set_index("claim")["verdict"]
    said = {
        (place, bold or cell): word or verdict
        for place, text in texts().items()
        for bold, word, cell, verdict in CONCLUDED.findall(" ".join(text.split()))
    }
    wrong = {key: word for key, word in said.items() if judged.get(f"{key[1]}.") not in (word, UNKNOWN)}
    assert wrong == {}
    concluded = {f"{statement}." for _, statement in said}
    assert {"Kafka is faster.", "Management and monitoring are incomplete."} <= concluded
    assert "Topics cannot be selected by wildcard." in concluded


def test_the_readme_asks_what_the_notebook_asks() -> None:
    """The guide that 07_choose shows; and what is named as measured is in the results."""
    readme, results_ = texts()["README"], (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert report.markdown_table(claims.guide()) in readme
    measured = {"FastStream": "kafka FastStream, name", "confluent-kafka": "kafka confluent-kafka, many"}
    for peer, line in measured.items():
        assert peer in readme
        assert line in results_


def test_the_figures_of_the_readme_are_in_the_results(rows: pd.DataFrame) -> None:
    """Each figure with its unit, of the answer and the decision, stands so in the published block or the answer."""
    readme, results_ = texts()["README"], (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    section = readme.partition("## Which one do I take?")[2].partition("\n## ")[0]
    known = " ".join([results_, *answer.answer(rows, verdicts(rows))])
    figures = re.findall(r"\d[\d,]*(?:\.\d+)?(?:[kM]\b| (?:ms|times|MB|GB)\b| ?%)", section)
    assert len(figures) > 12
    assert [one for one in figures if not re.search(rf"(?<![\d.,]){re.escape(one)}", known)] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 12 * 1024
