"""The table of the designs side by side: each figure is that of the rows, and what was not measured is a dash."""

from __future__ import annotations

import pandas as pd
import pytest

import bench
from bench.contenders.confluent_peers import CLASSIC
from bench.faults.arena import SOONER
from bench.judge import side_by_side
from bench.model import title_of
from bench.questions import work

FIRST = ""


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return bench.reference()


def lines(rows: pd.DataFrame) -> pd.DataFrame:
    return side_by_side.table(rows).set_index(FIRST)


CHANGES = {
    "messages a second, one by one": ("throughput", "messages_per_s"),
    "messages a second, in lists": ("throughput", "messages_per_s"),
    "memory of the broker, MB": ("throughput", "rss_mb.broker"),
    "half of the highest rate that was held one by one, messages a second": ("latency", "target_rate"),
    "p50 at that rate, ms": ("latency", "latency_ms.p50"),
    "p99 at that rate, ms": ("latency", "latency_ms.p99"),
    "16 members, 5 ms of work: messages a second, by how many of them": ("work", "messages_per_s"),
    "a member is killed, another goes on: the longest wait of a message, s": ("takeover", "elapsed_s"),
    "a member is killed and replaced: lost / twice / gap": ("faults", "params.gap_s"),
    "the broker is killed: lost / twice / gap": ("faults", "duplicates"),
    "one of three brokers is killed: lost / twice / gap": ("faults", "lost"),
}
"""For each line a question and a column from which it comes."""


@pytest.mark.parametrize("line", CHANGES)
def test_a_figure_follows_its_rows(rows: pd.DataFrame, line: str) -> None:
    """Kafka's figure changes if its rows do; those of the other designs stay."""
    question, column = CHANGES[line]
    kafka = rows["question"].eq(question) & rows["design"].eq("kafka")
    before, after = lines(rows), lines(rows.assign(**{column: rows[column].where(~kafka, 3 * rows[column] + 1)}))
    assert str(before.loc[line, title_of("kafka")]) != str(after.loc[line, title_of("kafka")])
    others = before.columns.drop(title_of("kafka"))
    assert before[others].equals(after[others])


def test_a_message_that_comes_alone_follows_its_details(rows: pd.DataFrame) -> None:
    kafka = rows["question"].eq("wake_up") & rows["design"].eq("kafka")
    line = "a message at 100 a second, ms"
    assert lines(rows).loc[line, title_of("kafka")] != side_by_side.NONE
    unknown = rows.assign(latencies=rows["latencies"].where(~kafka, None))
    assert lines(unknown).loc[line, title_of("kafka")] == side_by_side.NONE


def test_it_says_of_several_runs_what_their_tables_say(rows: pd.DataFrame) -> None:
    """Where rows are of two runs, each counts once, also where both have the same repetition."""
    again = rows[rows["question"].eq("work") & rows["design"].eq("kafka")]
    faster = again.assign(run="another", messages_per_s=again["messages_per_s"] * 1.5)
    rows = pd.concat([rows, faster], ignore_index=True)
    of = rows["question"].eq("work") & rows["params.rung"].eq("5 ms") & rows["params.members"].eq(16)
    own = rows[of & rows["design"].eq("kafka")]
    most = own["params.partitions"].max()
    own = own[own["params.partitions"].eq(most)]
    assert own["run"].nunique() == 2
    (shown,) = work.table(own)["messages/s"]
    assert lines(rows).loc["16 members, 5 ms of work: messages a second, by how many of them", title_of("kafka")] == (
        f"{shown} by {most:g}"
    )


def test_only_greet_counts(rows: pd.DataFrame) -> None:
    peer = rows["contender"].ne("greet")
    faster = rows.assign(messages_per_s=rows["messages_per_s"].where(~peer, 100 * rows["messages_per_s"]))
    assert lines(faster).equals(lines(rows))


def test_what_was_not_measured_is_a_dash_or_no_line(rows: pd.DataFrame) -> None:
    found = lines(rows[rows["question"].eq("work") | (rows["question"].eq("latency") & rows["design"].ne("kafka"))])
    assert found.loc["p99 at that rate, ms", title_of("kafka")] == side_by_side.NONE
    assert "memory of the broker, MB" not in found.index
    assert found.loc["kept, to be read again", title_of("kafka")] == "yes"


def test_settings_that_are_not_the_default_are_told() -> None:
    single = int(SOONER["broker.session.timeout.ms"]) // 1000
    assert f"one of {single} s (`broker.session.timeout.ms`, by default 9 s" in side_by_side.NOTE
    member = int(str(dict(CLASSIC)["session.timeout.ms"])) // 1000
    assert f"a session of {member} s (`session.timeout.ms`, by default 45 s, with aiokafka 10 s)" in side_by_side.NOTE


def test_one_design_is_beside_nothing(rows: pd.DataFrame) -> None:
    assert side_by_side.table(rows[rows["design"].eq("kafka")]).empty
    assert side_by_side.table(rows.iloc[:0]).empty
