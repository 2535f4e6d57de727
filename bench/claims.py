"""What is usually said of the three designs: each claim as data, how it is judged, and its verdict on a run.

A claim is judged by the figures of one run, with margins wider than the run's own noise. What a run
did not measure is "not measurable here", with the reason: a quick run leaves many claims open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench import stats

HOLDS, FAILS, DEPENDS, UNKNOWN = "holds", "does not hold", "depends", "not measurable here"
WIDE = 1.25
"""A ratio below it settles nothing: runs on a small machine differ by as much."""


@dataclass(frozen=True)
class Verdict:
    """One of the four words, and the figures that say so."""

    word: str
    evidence: str


@dataclass(frozen=True)
class Claim:
    """A sentence that people say of a design, and how it is tried."""

    design: str
    statement: str
    judged: str
    """How, in plain words."""
    judge: Callable[[Figures], Verdict]
    shown: str
    """The notebook that tries it."""


class Missing(Exception):
    """The run has no such figure."""


class Figures:
    """The rows of a run, asked for medians and counts.

    Raises:
        Missing: by any method, when nothing of that was measured.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self._rows = rows

    def rows(self, question: str, design: str, contender: str = "greet", **params: Any) -> pd.DataFrame:
        """The repetitions of a question that went well, of one contender, with these `params`."""
        rows = self._rows
        if rows.empty:
            raise Missing("nothing was measured")
        kept = (rows["question"] == question) & (rows["design"] == design) & (rows["contender"] == contender)
        kept &= rows["error"].isna()
        if "params.again" in rows and question != "faults":
            kept &= rows["params.again"].eq(False)
        for key, value in params.items():
            column = key if key == "guarantee" else f"params.{key}"
            kept &= rows[column].eq(value) if column in rows else False
        if not kept.any():
            raise Missing(f"this run did not measure {question.replace('_', ' ')} for {design}")
        return rows[kept]

    def median(self, column: str, question: str, design: str, contender: str = "greet", **params: Any) -> float:
        """The median of a column over the repetitions."""
        values = self.rows(question, design, contender, **params)[column].dropna()
        if values.empty:
            raise Missing(f"this run has no {column} of {question.replace('_', ' ')} for {design}")
        return float(values.median())

    def speed(self, question: str, design: str, contender: str = "greet", **params: Any) -> float:
        """Names a second."""
        return self.median("names_per_s", question, design, contender, **params)

    def lost(self, design: str, **params: Any) -> tuple[int, int]:
        """Names lost and accepted over all repetitions of some faults."""
        rows = self.rows("faults", design, **params)
        return int(rows["lost"].sum()), int(rows["accepted"].sum())


def _times(value: float) -> str:
    return f"{value:.2g} times" if value < 10 else f"{value:,.0f} times"


def _overhead(run: Figures) -> Verdict:
    bare = 1e6 / run.speed("throughput", "asyncio", "bare queue", guarantee="AT_LEAST_ONCE")
    lists = 1e6 / run.speed("throughput", "asyncio", way="many", guarantee="AT_LEAST_ONCE")
    word = DEPENDS if bare / lists > WIDE else HOLDS
    return Verdict(word, f"on how names are put: {bare:.2f} µs a name one by one, {lists:.2f} µs in lists of 100")


def _sleeping(run: Figures) -> Verdict:
    idle, busy = (run.median("latency_ms.p50", "wake_up", "asyncio", rate=rate) for rate in (1.0, 100.0))
    word = HOLDS if idle > 1 and idle > 2 * busy else FAILS
    return Verdict(word, f"{idle:.2g} ms when all were idle, {busy:.2g} ms when not: the event loop wakes at once")


def _nothing_survives(run: Figures) -> Verdict:
    refused = not len(run.rows("throughput", "asyncio").query("guarantee == 'DURABLE'"))
    return Verdict(HOLDS if refused else FAILS, "the queue is the process's memory; DURABLE is refused")


def _one_to_one_and_many(design: str) -> Callable[[Figures], Verdict]:
    def judge(run: Figures) -> Verdict:
        shared = run.rows("work_sharing", design).query("`params.members` > 1")
        copied = run.rows("fan_out", design).query("`params.groups` > 1")
        wrong = int(sum(rows[what].sum() for rows in (shared, copied) for what in ("lost", "duplicates")))
        groups, members = int(copied["params.groups"].max()), int(shared["params.members"].max())
        evidence = f"to {groups} groups, and shared by {members} members: {wrong} names lost or doubled"
        return Verdict(FAILS if wrong else HOLDS, evidence)

    return judge


def _persistent_and_transient(run: Figures) -> Verdict:
    kept, of = run.lost("rabbitmq", guarantee="DURABLE", fault="broker killed")
    gone, all_of = run.lost("rabbitmq", guarantee="AT_LEAST_ONCE", fault="broker killed")
    word = HOLDS if not kept and gone else FAILS
    return Verdict(
        word, f"over kill -9 of the broker, persistent lost {kept} of {of:,}, transient {gone:,} of {all_of:,}"
    )


def _thousands(run: Figures) -> Verdict:
    one = run.speed("throughput", "rabbitmq", way="name", guarantee="DURABLE", phase="together")
    many = run.speed("throughput", "rabbitmq", way="many", guarantee="DURABLE", phase="together")
    word = HOLDS if one >= 1000 * WIDE else FAILS
    return Verdict(word, f"{stats.short(one)} a second one by one, {stats.short(many)} many at a time, confirmed")


def _read_again(run: Figures) -> Verdict:
    lost, of = run.lost("kafka", guarantee="DURABLE", fault="broker killed")
    waiting = run.rows("backlog", "kafka", phase="consume")
    names = int(waiting["accepted"].max())
    wrong = int(waiting["lost"].sum()) + lost
    evidence = f"{names:,} names waited and were all read; kill -9 of the broker lost {lost} of {of:,}"
    return Verdict(FAILS if wrong else HOLDS, evidence)


def _millions(run: Figures) -> Verdict:
    one = run.speed("throughput", "kafka", way="name", guarantee="DURABLE", phase="together")
    many = run.speed("throughput", "kafka", way="many", guarantee="DURABLE", phase="together")
    phases = run.rows("throughput", "kafka", way="many", guarantee="DURABLE").groupby("params.phase")["names_per_s"]
    best = float(phases.median().max())
    word = HOLDS if many > 1e6 * WIDE else DEPENDS if best > 1e6 else FAILS
    evidence = f"{stats.short(many)} a second from end to end in batches, {stats.short(one)} one by one"
    return Verdict(word, evidence if best == many else f"{evidence}; {stats.short(best)} where only published or read")


def _low_latency(run: Figures) -> Verdict:
    kafka, rabbit = (
        run.median("latency_ms.p50", "wake_up", design, rate=100.0, guarantee="AT_LEAST_ONCE")
        for design in ("kafka", "rabbitmq")
    )
    word = HOLDS if kafka * WIDE < rabbit else FAILS if kafka > rabbit * WIDE else DEPENDS
    return Verdict(word, f"at 100 names a second p50 is {kafka:.2g} ms, RabbitMQ's {rabbit:.2g} ms")


def _fault_tolerant(run: Figures) -> Verdict:
    rows = run.rows("faults", "kafka", guarantee="DURABLE")
    lost, of = int(rows["lost"].sum()), int(rows["accepted"].sum())
    faults = rows["params.fault"].nunique()
    return Verdict(FAILS if lost else HOLDS, f"{faults} kinds of fault, {len(rows)} times: {lost} of {of:,} names lost")


def _scalable(run: Figures) -> Verdict:
    one, four = (
        run.speed("work_sharing", "kafka", members=members, publishers=1, guarantee="AT_LEAST_ONCE")
        for members in (1, 4)
    )
    evidence = f"four members of four partitions carry {_times(four / one)} what one does"
    if four / one > WIDE:
        return Verdict(HOLDS, evidence)
    return Verdict(UNKNOWN, f"{evidence}, where broker, publisher and members share the cores of one machine")


def _concurrent(run: Figures) -> Verdict:
    rows = run.rows("work_sharing", "kafka")
    wrong = int(rows["lost"].sum() + rows["duplicates"].sum())
    most = int(rows["params.publishers"].max())
    return Verdict(FAILS if wrong else HOLDS, f"{most} publishers at once, 4 members at once: {wrong} lost or doubled")


def _tweaks(run: Figures) -> Verdict:
    found = {}
    for rung in ("bare", "10 headers", "JSON"):
        found[rung] = run.speed("tweaking", "kafka", "aiokafka", rung=rung, guarantee="AT_LEAST_ONCE")
    headers, text = (found["bare"] / found[rung] for rung in ("10 headers", "JSON"))
    word = HOLDS if min(headers, text) > WIDE else FAILS if max(headers, text) < WIDE else DEPENDS
    theirs = run.speed("tweaking", "rabbitmq", "aiormq", rung="bare", guarantee="AT_LEAST_ONCE") / run.speed(
        "tweaking", "rabbitmq", "aiormq", rung="10 headers", guarantee="AT_LEAST_ONCE"
    )
    evidence = f"on the tweak: a bare name is {_times(headers)} as fast as one with ten headers, {_times(text)} as JSON"
    return Verdict(word, f"{evidence}; RabbitMQ's headers cost {_times(theirs)}")


def _simple(run: Figures) -> Verdict:
    designs = ("asyncio", "rabbitmq", "kafka")
    one = {design: run.median("latency_ms.p50", "wake_up", design, rate=100.0) for design in designs}
    memory = {design: run.median("rss_mb.broker", "throughput", design) for design in ("rabbitmq", "kafka")}
    near = max(one["asyncio"], one["rabbitmq"]) < one["kafka"] * WIDE
    word = HOLDS if near and memory["rabbitmq"] * WIDE < memory["kafka"] else DEPENDS
    times = ", ".join(f"{design} {value:.2g} ms" for design, value in one.items())
    sizes = f"RabbitMQ's broker holds {memory['rabbitmq']:.0f} MB, Kafka's {memory['kafka']:.0f} MB"
    return Verdict(word, f"a name takes {times}; {sizes}")


def _volumes(run: Figures) -> Verdict:
    kafka, rabbit = (run.speed("backlog", design, phase="consume") for design in ("kafka", "rabbitmq"))
    names = int(run.rows("backlog", "kafka", phase="consume")["accepted"].max())
    word = HOLDS if kafka > rabbit * WIDE else FAILS
    speeds = f"Kafka's readers take {stats.short(kafka)} a second, RabbitMQ's {stats.short(rabbit)}"
    return Verdict(word, f"of {names:,} waiting names {speeds}; only Kafka can read them again")


def _faster(run: Figures) -> Verdict:
    many, one = (stats.ratio(*_paired(run, way)) for way in ("many", "name"))
    quick = run.median("latency_ms.p50", "wake_up", "kafka", rate=100.0) / run.median(
        "latency_ms.p50", "wake_up", "rabbitmq", rate=100.0
    )
    word = DEPENDS if not (many.low > WIDE and one.low > WIDE and quick < 1 / WIDE) else HOLDS
    evidence = f"on what is asked: against RabbitMQ it carries {many.value:.1f} times as many names a second in batches"
    return Verdict(
        word, f"{evidence} and {one.value:.1f} times one by one; a single name takes {_times(quick)} as long"
    )


def _paired(run: Figures, way: str) -> tuple[list[float], list[float]]:
    sides = [
        run.rows("throughput", design, way=way, guarantee="DURABLE", phase="together").set_index("repetition")[
            "names_per_s"
        ]
        for design in ("kafka", "rabbitmq")
    ]
    both = sorted(set(sides[0].index) & set(sides[1].index))
    return sides[0][both].tolist(), sides[1][both].tolist()


def _shown(word: str, evidence: str) -> Callable[[Figures], Verdict]:
    """A claim that no figure decides: a notebook shows it, and its cells are run as tests."""
    return lambda _: Verdict(word, evidence)


CLAIMS = (
    Claim(
        "asyncio",
        "It has an overhead that cannot be avoided.",
        "bare queue against lists of names",
        _overhead,
        "01_asyncio",
    ),
    Claim(
        "asyncio",
        "A name is delayed when all consumers sleep as it arrives.",
        "p50 at 1 and at 100 names a second",
        _sleeping,
        "05_latency",
    ),
    Claim("asyncio", "Nothing survives its process.", "by its guarantees", _nothing_survives, "01_asyncio"),
    Claim(
        "rabbitmq",
        "One to one, and one to many.",
        "nothing lost or doubled",
        _one_to_one_and_many("rabbitmq"),
        "02_rabbitmq",
    ),
    Claim(
        "rabbitmq",
        "Messages are persistent or transient.",
        "kill -9 of the broker",
        _persistent_and_transient,
        "06_when_things_break",
    ),
    Claim("rabbitmq", "Thousands of messages a second.", "names carried, one by one", _thousands, "04_throughput"),
    Claim(
        "kafka",
        "One to many, and also one to one.",
        "nothing lost or doubled",
        _one_to_one_and_many("kafka"),
        "03_kafka",
    ),
    Claim(
        "kafka",
        "Messages are kept, and can be read again.",
        "a backlog, and kill -9 of the broker",
        _read_again,
        "03_kafka",
    ),
    Claim("kafka", "Millions of messages a second.", "names published, and carried", _millions, "04_throughput"),
    Claim("kafka", "Low latency.", "p50 at 100 names a second against RabbitMQ's", _low_latency, "05_latency"),
    Claim("kafka", "Fault-tolerant and durable.", "every fault, nothing lost", _fault_tolerant, "06_when_things_break"),
    Claim("kafka", "Scalable over partitions and brokers.", "one member against four", _scalable, "04_throughput"),
    Claim("kafka", "High concurrency.", "many publishers and members, nothing lost", _concurrent, "04_throughput"),
    Claim(
        "kafka",
        "Management and monitoring are incomplete.",
        "what a client can ask a broker",
        _shown(DEPENDS, "on the question: any client can work out a group's lag; no client is told a rate"),
        "03_kafka",
    ),
    Claim(
        "kafka",
        "Tweaking messages costs performance.",
        "headers and JSON against a bare name",
        _tweaks,
        "04_throughput",
    ),
    Claim(
        "kafka",
        "Topics cannot be selected by wildcard.",
        "a pattern that matches two topics",
        _shown(FAILS, "aiokafka subscribes by a pattern, and reads both topics; RabbitMQ has topic exchanges"),
        "03_kafka",
    ),
    Claim(
        "conclusion",
        "For simple messaging: asyncio or RabbitMQ.",
        "the time of one name, and the broker's memory",
        _simple,
        "07_choose",
    ),
    Claim(
        "conclusion", "For large volumes and distributed systems: Kafka.", "a backlog drained", _volumes, "07_choose"
    ),
    Claim("conclusion", "Kafka is faster.", "names a second, and the time of one", _faster, "07_choose"),
)


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Each claim with its verdict and evidence on the rows of a run."""
    run = Figures(rows)
    found = []
    for claim in CLAIMS:
        try:
            verdict = claim.judge(run)
        except Missing as reason:
            verdict = Verdict(UNKNOWN, f"{reason}: run the full profile")
        found.append(
            {"of": claim.design, "claim": claim.statement, "verdict": verdict.word, "evidence": verdict.evidence}
        )
    return pd.DataFrame(found)
