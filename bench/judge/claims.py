"""What people say about the three designs: each claim as data, how it is judged, and its verdict on a run.

A claim is judged by the figures of one run. A difference counts only if the 95 % interval over the rounds
excludes "no difference", and if it is larger than the noise of its figure. Claims that a run did not measure are
"not measurable here", with the reason: a quick run leaves many claims open. At the end of this file are the
questions to ask before you choose a design.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bench import stats
from bench.model import PERFTEST, title_of
from bench.questions import ladder, scaling
from bench.questions.payload import SIZES
from bench.stats import ALONE, P99
from greet.designs import DESIGNS, RABBITMQ, Design

HOLDS, FAILS, DEPENDS, UNKNOWN = "holds", "does not hold", "depends", "not measurable here"
WIDE = 0.25
"""The smallest difference that counts, even if the noise of a run is lower: two runs can differ by that much."""
CALL_US = 0.1
"""Less than this is not an overhead: a function call of Python takes about half of it."""
LIGHT = 100.0
"""A rate in messages a second at which no message has to wait for another."""
BUSY = {0.5: "half", 0.9: "nine tenths"}
"""Loads at which latencies are compared, as shares of the highest rate that RabbitMQ held."""
GIVEN_UP = 30.0
"""Seconds without service after which a client of greet gives up: its time-out."""
ONE_OF_THREE = "cluster: leader killed"
"""The fault that a cluster should survive."""
HIGH = 100
"""From so many publishers and members on, concurrency is high."""
CROWD, FEW = 1_000, 10
"""Connections that are many, and few."""
MOSTLY = 0.75
"""The share of its limit that a broker uses at least, if it is the limit."""
MORE_BROKERS = {"2 brokers": 1.6, "3 brokers": 2.2}
"""How many times as much as one broker they must carry."""
TO_ALL, IN_TURN = f", {scaling.TO_ALL}", f", {scaling.IN_TURN}"
"""In the rung of clusters whose publishers do not send to one partition each."""
SPREADS = {
    TO_ALL: "to all by a hash (greet)",
    IN_TURN: "to one after another (confluent-kafka, without a key)",
}
"""The same in words, with the client that publishes."""
TWICE = 2.0
"""How many times as long a message may take over many connections."""
BROKERS_MEMORY = "rss_mb.broker"


@dataclass(frozen=True)
class Verdict:
    """One of the four words, and the figures behind it."""

    word: str
    evidence: str


@dataclass(frozen=True)
class Claim:
    """A sentence that people say about a design, and how it is judged."""

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
    """The rows of a run, asked for medians, counts and ratios.

    A cell is named by question, design, contender (by default greet) and further parameters.

    Raises:
        Missing: any method raises this if the figure was not measured.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        if len(rows):
            rows = rows.assign(**{ALONE: stats.clock(rows, "service")}).assign(**{SOUND: stats.is_sound(rows)})
        parts = rows.groupby(["question", "design", "contender"], sort=False) if len(rows) else ()
        self._cells = {(str(question), str(design), str(who)): part for (question, design, who), part in parts}
        self._none = rows[:0]
        self._known: dict[tuple[object, ...], pd.DataFrame | Missing] = {}
        self._twice = stats.same_twice(rows)

    def noise(self, column: str, question: str = "", *designs: str) -> float:
        """The smallest difference of a column that counts in this run, between these designs or between any."""
        return stats.widest(self._twice, column, WIDE, question, *designs)

    def rows(self, question: str, design: str, contender: str = "greet", **params: Any) -> pd.DataFrame:
        """The repetitions of a cell that went well; of faults also those that broke a promise, if they were counted."""
        cell = (question, design, contender, *sorted(params.items()))
        if cell not in self._known:  # many ask for the same one
            self._known[cell] = self._found(question, design, contender, params)
        found = self._known[cell]
        if isinstance(found, Missing):
            raise Missing(*found.args)
        return found

    def _found(self, question: str, design: str, contender: str, params: Mapping[str, Any]) -> pd.DataFrame | Missing:
        rows = self._tried(question, design, contender, params)
        kept = rows[rows["lost"].notna() if question == "faults" else rows["error"].isna()]
        if len(kept):
            return kept
        if len(rows):
            what = question.replace("_", " ")
            return Missing(f"all repetitions of {what} failed for {design}: {rows['error'].iloc[0]}")
        return Missing(f"this run did not measure it for {design}: `--questions {question}` does")

    def failed(self, question: str, design: str, contender: str = "greet", **params: Any) -> list[str]:
        """Why repetitions of a cell failed or broke a promise, an error for each."""
        return [str(one) for one in self._tried(question, design, contender, params)["error"].dropna()]

    def _tried(self, question: str, design: str, contender: str, params: Mapping[str, Any]) -> pd.DataFrame:
        """All repetitions of a cell. Those that were only measured again, for the noise, are not among them."""
        if not self._cells:
            raise Missing("nothing was measured")
        rows = self._cells.get((question, design, contender), self._none)
        kept = rows["params.again"].ne(True)
        for key, value in params.items():
            column = key if key == "guarantee" else f"params.{key}"
            kept &= rows[column].eq(value) if column in rows else False
        return rows[kept]

    def values(
        self, column: str, question: str, design: str, *contender: str, **params: Any
    ) -> tuple[pd.Series[float], list[pd.Series[Any]]]:
        """A column of a cell, a value for each row, and the round of each row."""
        rows = self.rows(question, design, *contender, **params)
        if question != "faults":  # there a trial that broke a promise has its figures too
            rows = rows[rows[SOUND]]
        values = rows[column].astype(float).dropna() if column in rows else pd.Series(dtype=float)
        if values.empty:
            what = "memory of the broker (known only of a private one)" if column == BROKERS_MEMORY else column
            raise Missing(f"this run has no {what.replace('_', ' ')} of {question.replace('_', ' ')} for {design}")
        return values, stats.rounds(rows)

    def rounds(self, column: str, *cell: str, **params: Any) -> pd.Series[float]:
        """A column of a cell, by round."""
        values, rounds = self.values(column, *cell, **params)
        return values.groupby(rounds).median()

    def median(self, column: str, *cell: str, **params: Any) -> float:
        """The median of a column over all rows of a cell, as in the table of the question: also of several runs."""
        return float(self.values(column, *cell, **params)[0].median())

    def speed(self, *cell: str, **params: Any) -> float:
        """Messages a second."""
        return self.median("messages_per_s", *cell, **params)

    def times(self, column: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> stats.Ratio:
        """The ratio of a column between two cells, paired by round, and how much of it is noise.

        With fewer than four rounds there is no interval, so the figure is missing.
        """
        both = pd.concat([self.rounds(column, **one), self.rounds(column, **other)], axis=1).dropna()
        if len(both) < 4:
            raise Missing(f"fewer than four rounds are not enough: `--questions {one['question']}` has more")
        noise = self.noise(column, one["question"], one["design"], other["design"])
        return replace(stats.ratio(*both.to_numpy().T.tolist()), noise=noise)

    def more(self, times: stats.Ratio) -> bool | None:
        """Whether it is more, by more than its noise (at least `WIDE`); None if the rounds do not agree.

        The noise makes no firm no: it is certainly not more if the whole interval is below a difference of `WIDE`.
        """
        if stats.verdict(times, times.noise) == "more":
            return True
        return False if times.high <= 1 + WIDE else None

    def less(self, times: stats.Ratio) -> bool | None:
        """Whether it is less, in the same way."""
        high = 1 / times.low if times.low else math.inf
        return self.more(replace(times, value=1 / times.value, low=1 / times.high, high=high))

    def best(self, **cell: Any) -> dict[str, Any]:
        """The cell of the client that carried the most messages a second: a verdict is about the design, not a client.

        These cells differ only by contender: greet, a plain client, a C client, the broker's own tool.
        """
        return self._client(max, "messages_per_s", cell)

    def quickest(self, **cell: Any) -> dict[str, Any]:
        """The cell of the client with which a message that comes alone takes the shortest time."""
        return self._client(min, ALONE, cell)

    def without_greet(self, column: str, *cells: Mapping[str, Any], but: Sequence[str] = ()) -> tuple[stats.Ratio, str]:
        """The ratio of two cells by the best of the other clients, and whose it is: "aiokafka beside PerfTest"."""
        choose: Callable[..., str] = min if column == ALONE else max
        same = [{key: value for key, value in cell.items() if key != "contender"} for cell in cells]
        one, other = (self._client(choose, column, cell, but=("greet", *but)) for cell in same)
        return self.times(column, one, other), f"{one['contender']} beside {other['contender']}"

    def _client(
        self, choose: Callable[..., str], column: str, cell: Mapping[str, Any], but: Sequence[str] = ()
    ) -> dict[str, Any]:
        found = {one: value for one, value in self._medians(column, cell).items() if one not in but}
        if not found:
            raise Missing(f"this run did not measure it for {cell['design']}: `--questions {cell['question']}` does")
        return {**cell, "contender": choose(found, key=found.__getitem__)}

    def _medians(self, column: str, cell: Mapping[str, Any]) -> dict[str, float]:
        """The median of each contender that has one."""
        found = {}
        for one in self.measured(**cell):
            with suppress(Missing):
                found[one] = self.median(column, **cell, contender=one)
        return found

    def measured(self, **cell: Any) -> list[str]:
        """The contenders for which the cell was measured."""
        found = []
        for question, design, contender in self._cells:
            if (question, design) == (cell["question"], cell["design"]):
                with suppress(Missing):
                    self.rows(**cell, contender=contender)
                    found.append(contender)
        return found

    def clients(self, *cells: Mapping[str, Any], column: str = "messages_per_s") -> str:
        """Whose figures these are, and what another client gets: " (greet; with aiormq 1.8 times as long)".

        The other one is greet, or the best of the rest if it is greet's figure.
        """
        what = "as long" if column == ALONE else "as many"
        choose: Callable[..., str] = min if column == ALONE else max
        said = []
        for cell in cells:
            name = cell.get("contender", "greet")
            same = {key: value for key, value in cell.items() if key != "contender"}
            others = {one: value for one, value in self._medians(column, same).items() if one != name}
            other = "greet" if "greet" in others else choose(others, key=others.__getitem__, default="")
            told = name
            if other:
                told += f"; with {other} {_two(others[other] / self.median(column, **cell))} times {what}"
            said.append(f"{title_of(cell['design'])}: {told}" if len(cells) > 1 else told)
        return f" ({'. '.join(said)})"

    def above(self, least: float, **cell: Any) -> bool | None:
        """Whether the messages a second are more than `least`; None if the rounds do not agree."""
        speeds = self.rounds("messages_per_s", **cell).tolist()
        if len(speeds) < 4:
            raise Missing(f"fewer than four rounds are not enough: `--questions {cell['question']}` has more")
        found = stats.ratio(speeds, [least] * len(speeds))
        return None if found.low <= 1 <= found.high else found.low > 1

    def lost(self, design: str, **params: Any) -> tuple[int, int]:
        """Messages lost, and messages expected, over all groups and repetitions of some faults."""
        rows = self.rows("faults", design, **params)
        return int(rows["lost"].sum()), int((rows["accepted"] * rows["params.groups"]).sum())


def _settled(evidence: str, *settled: bool | None, on: str = "") -> Verdict:
    """It holds in every respect, in none, or it depends `on` which.

    A respect in which the rounds do not agree is None: there it does not certainly hold, and does not certainly fail.
    """
    if all(settled):
        return Verdict(HOLDS, evidence)
    if any(settled):
        return Verdict(DEPENDS, f"on {on}: {evidence}" if on else evidence)
    open_ = f"{evidence}; the rounds do not agree, or the difference is within the noise"
    return Verdict(UNKNOWN, open_) if None in settled else Verdict(FAILS, evidence)


def _times(found: stats.Ratio) -> str:
    return f"{_two(found.value) if _two(found.value) != '1' else '1.0'} times"


def _two(value: float) -> str:
    """Two digits, or all digits before the decimal point."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def _many(design: str, way: str = "many") -> dict[str, Any]:
    """Throughput with the strongest guarantee of brokers, while publishers and consumers work at the same time."""
    return {"question": "throughput", "design": design, "way": way, "guarantee": "DURABLE", "phase": "together"}


SOUND = "sound"
"""Whether a row's figures count."""


def _lightly(design: str, rate: float = LIGHT) -> dict[str, Any]:
    """Latency at a low rate."""
    return {"question": "wake_up", "design": design, "rate": rate, "guarantee": "AT_LEAST_ONCE"}


def _alone(run: Figures, *designs: str) -> tuple[list[dict[str, Any]], list[str]]:
    """For each design the cell of its quickest client, and how long a message takes with it: "0.93 ms (aiormq)"."""
    cells = [run.quickest(**_lightly(design)) for design in designs]
    return cells, [f"{_two(run.median(ALONE, **cell))} ms{run.clients(cell, column=ALONE)}" for cell in cells]


def _overhead(run: Figures) -> Verdict:
    cell = {"question": "throughput", "design": "asyncio", "guarantee": "AT_LEAST_ONCE"}
    ways = {"contender": "bare queue", "way": "name"}, {"contender": "greet", "way": "many"}
    one, lists = (1e6 / run.speed(**cell, **way) for way in ways)
    avoided = run.times("messages_per_s", cell | ways[1], cell | ways[0])
    evidence = f"a message costs {one:.2f} µs in a bare queue one by one, {lists:.2f} µs with greet in lists"
    if one < CALL_US:
        return Verdict(FAILS, evidence)
    cheaper = run.more(avoided)
    if cheaper is None:
        return _settled(evidence, cheaper)
    return _settled(evidence, True, not cheaper, on="whether messages are put one by one or in lists")


def _sleeping(run: Figures) -> Verdict:
    """Sleeping processes must be woken up: is that slower than at 100 messages a second, which keep them awake?"""
    longer = run.times(ALONE, _lightly("asyncio", 1.0), _lightly("asyncio"))
    evidence = f"a message takes {_idle_and_busy(run, 'asyncio')} ms at {LIGHT:g} a second"
    for design, called in (("rabbitmq", "RabbitMQ"), ("kafka", "Kafka")):
        with suppress(Missing):
            evidence += f"; {called} {_idle_and_busy(run, design)} ms"
    return _settled(evidence, run.more(longer))


def _idle_and_busy(run: Figures, design: str) -> str:
    idle, busy = (run.median(ALONE, **_lightly(design, rate)) for rate in (1.0, LIGHT))
    how = " ms at 1 message a second" if design == "asyncio" else ""
    return f"{_two(idle)}{how} and {_two(busy)}"


def _one_to_one_and_many(design: str) -> Callable[[Figures], Verdict]:
    def judge(run: Figures) -> Verdict:
        shared = run.rows("work_sharing", design).query("`params.members` > 1")
        copied = run.rows("fan_out", design).query("`params.groups` > 1")
        if shared.empty or copied.empty:
            raise Missing(f"this run did not measure it for {design}: `--questions fan_out,work_sharing` does")
        counted = [shared, copied]
        with suppress(Missing):
            counted.append(run.rows("work", design))
        lost, twice = (int(sum(rows[what].sum() for rows in counted)) for what in ("lost", "duplicates"))
        received = int(sum(rows["received"].sum() for rows in counted))
        groups, members = int(copied["params.groups"].max()), int(shared["params.members"].max())
        evidence = f"copied to {groups} groups, shared by {members} members: of {stats.short(received)} messages"
        evidence += f" {lost} lost, {twice} came twice"
        if lost:
            return Verdict(FAILS, evidence)
        if failed := [*run.failed("fan_out", design), *run.failed("work_sharing", design)]:
            return Verdict(UNKNOWN, f"{evidence}; {len(failed)} repetitions failed: {failed[0]}")
        return _settled(evidence, True, not twice, on="whether one may come twice")

    return judge


def _persistent_and_transient(run: Figures) -> Verdict:
    kept, of = run.lost("rabbitmq", guarantee="DURABLE", fault="broker killed")
    gone, all_of = run.lost("rabbitmq", guarantee="AT_LEAST_ONCE", fault="broker killed")
    word = FAILS if kept else HOLDS if gone else UNKNOWN
    evidence = f"kill -9 of the broker lost {kept} of {of:,} persistent messages, {gone:,} of {all_of:,} transient ones"
    return Verdict(word, evidence)


def _thousands(run: Figures) -> Verdict:
    best, many = (run.best(**_many("rabbitmq", way)) for way in ("name", "many"))
    evidence = f"persistent and confirmed, {stats.short(run.speed(**best))} a second one by one{run.clients(best)}"
    evidence += f", {stats.short(run.speed(**many))} many at a time{run.clients(many)}"
    with suppress(Missing):  # of a broker that is not ours, or where the peers were left out
        own, plain = (_many("rabbitmq", "name") | {"contender": one} for one in ("greet", "aio-pika"))
        evidence += f"; one by one, a message keeps the broker busy for {_microseconds(run, 'broker', own):.0f} µs"
        evidence += f", the clients for {_microseconds(run, 'client', own):.0f} µs with greet"
        evidence += f" and {_microseconds(run, 'client', plain):.0f} µs with plain aio-pika"
    return _settled(evidence, run.above(1000, **best))


def _microseconds(run: Figures, side: str, cell: Mapping[str, Any]) -> float:
    """The CPU time of the clients or the broker for one message."""
    return 1e6 * run.median(f"cpu_s.{side}", **cell) / run.median("accepted", **cell)


def _read_again(run: Figures) -> Verdict:
    waiting = run.rows("backlog", "kafka", phase="consume")
    if waiting["accepted"].isna().all():
        raise Missing("this run did not count the messages of backlog")
    messages, wrong = int(waiting["accepted"].max()), int(waiting["lost"].sum())
    evidence = (
        f"{messages:,} messages waited and were all read" if not wrong else f"of {messages:,} {wrong:,} were lost"
    )
    with suppress(Missing):
        lost, of = run.lost("kafka", guarantee="DURABLE", fault="broker killed")
        wrong += lost
        evidence += f"; kill -9 of the broker lost {lost} of {of:,}"
    return Verdict(FAILS if wrong else HOLDS, f"{evidence}; the notebook reads messages a second time")


def _millions(run: Figures) -> Verdict:
    ways = [run.best(**_many("kafka", way)) for way in ("many", "name")]
    many, one = (run.speed(**way) for way in ways)
    evidence = f"from end to end, {stats.short(many)} a second in batches{run.clients(ways[0])},"
    evidence += f" {stats.short(one)} one by one{run.clients(ways[1])}"
    with suppress(Missing):
        plain = [stats.short(run.speed(**_many("kafka", way), contender="aiokafka")) for way in ("many", "name")]
        evidence += "; with plain aiokafka {} and {}".format(*plain)
    return _settled(evidence, *(run.above(1e6, **way) for way in ways), on="how they are sent")


def _low_latency(run: Figures) -> Verdict:
    """Alone, and at rates that keep RabbitMQ busy; Kafka then gets at least the same rate."""
    cells, (ours, theirs) = _alone(run, "kafka", "rabbitmq")
    evidence = f"at {LIGHT:g} messages a second Kafka's median is {ours}, RabbitMQ's {theirs}"
    compared = [run.times(ALONE, *cells)]
    for load, share in BUSY.items():
        with suppress(Missing):  # a quick run has one rate for all
            there = {"question": "latency", "design": "rabbitmq", "guarantee": "AT_LEAST_ONCE", "load": load}
            here = there | {"design": "kafka", "load": _load_of(run, run.median("target_rate", **there))}
            compared += [run.times(f"latency_ms.{part}", here, there) for part in ("p50", "p99")]
            middle, slowest = compared[-2:]
            evidence += f"; with greet one by one, at {share} of what RabbitMQ carries: RabbitMQ {_waits(run, there)}"
            evidence += f", Kafka, at the nearest higher rate that was measured for it, {_waits(run, here)}: the median"
            evidence += f" {middle} times as long, the p99 {slowest} times"
    slower = [run.more(one) for one in compared]
    if None in slower and not any(slower):
        return _settled(evidence, None)
    return _settled(evidence, *(None if slow is None else not slow for slow in slower), on="the load")


def _load_of(run: Figures, rate: float) -> float:
    """The lowest load at which Kafka gets at least this rate."""
    loads = run.rows("latency", "kafka", guarantee="AT_LEAST_ONCE").groupby("params.load")["target_rate"].median()
    return float(loads[(loads >= rate) & (loads.index < 1)].index.min())  # none: a cell that is missing


def _waits(run: Figures, cell: Mapping[str, Any]) -> str:
    """The percentiles of a cell, and its rate."""
    middle, slowest = (_two(run.median(f"latency_ms.{part}", **cell)) for part in ("p50", "p99"))
    return f"median {middle} ms and p99 {slowest} ms at {stats.short(run.median('target_rate', **cell))} a second"


def _fault_tolerant(run: Figures) -> Verdict:
    """Nothing is lost, nothing comes twice if that is promised, and a cluster that loses one member goes on."""
    rows = run.rows("faults", "kafka", guarantee="DURABLE")
    lost, of = run.lost("kafka", guarantee="DURABLE")
    with suppress(Missing):  # most of those messages were only sent to fill the buffers
        of -= run.lost("kafka", guarantee="DURABLE", fault="full buffers")[1]
    promised = ~rows["params.allowed"].fillna("").str.contains("duplicates")
    twice, unallowed = int(rows["duplicates"].sum()), int(rows.loc[promised, "duplicates"].sum())
    kinds, times = rows["params.fault"].nunique(), int(rows["params.times"].sum())
    evidence = f"{times} faults of {kinds} kinds: {lost} of {of:,} messages lost, {twice:,} came twice"
    settled = [not lost, not unallowed]
    if failed := run.failed("faults", "kafka", guarantee="DURABLE"):
        settled.append(False)
        evidence += f"; {len(failed)} trials broke a promise or failed: {failed[0]}"
    with suppress(Missing):
        gap = run.median("params.gap_s", "faults", "kafka", fault=ONE_OF_THREE)
        settled.append(gap <= GIVEN_UP)
        evidence += f"; the process of one of three brokers killed: up to {gap:.1f} s without service"
        if not run.rows("faults", "kafka", fault=ONE_OF_THREE)["params.recovered"].all():
            evidence += " (a client gave up, and was replaced)"
        theirs = run.median("params.gap_s", "faults", "rabbitmq", fault=ONE_OF_THREE)
        evidence += f", RabbitMQ up to {theirs:.1f} s"
    return Verdict(FAILS, evidence) if lost else _settled(evidence, *settled, on="what you need")


def _scalable(run: Figures) -> Verdict:
    """Whether more brokers carry more, if a run has limited brokers; else whether more members handle more."""
    with suppress(Missing):
        return _more_brokers(run)
    return _more_members(run)


def _more_brokers(run: Figures) -> Verdict:
    """Two and three brokers must carry most of two and three times as much as one: the whole interval decides.

    By each way to choose a partition; if only some of them scale, it depends on that.
    """

    def times(design: str, spread: str = "") -> list[stats.Ratio]:
        cell = {"question": "scaling", "design": design, "guarantee": "AT_LEAST_ONCE"}
        one = cell | {"rung": f"1 broker{spread}"}
        return [run.times("messages_per_s", cell | {"rung": rung + spread}, one) for rung in MORE_BROKERS]

    def said(found: Sequence[stats.Ratio]) -> str:
        return " and ".join(map(str, found))

    def busy(spread: str = "") -> bool:
        """Whether one broker used most of what it may. Else its clients are the limit, and more brokers get more."""
        rows = run.rows("scaling", "kafka", rung=f"1 broker{spread}")
        rows = rows[rows[SOUND]]
        return bool((rows["cpu_s.broker"] / rows["elapsed_s"]).median() > MOSTLY * scaling.SHARE)

    def word(found: Sequence[stats.Ratio], spread: str = "") -> str:
        beside = list(zip(found, MORE_BROKERS.values(), strict=True))
        if not busy(spread):
            reasons.append("one broker was not busy, so its clients were the limit")
            return UNKNOWN
        if any(one.high < least for one, least in beside):
            return FAILS
        if all(one.low >= least for one, least in beside):
            return HOLDS
        reasons.append("the rounds do not agree")
        return UNKNOWN

    reasons: list[str] = []
    found = times("kafka")
    judged = word(found)
    evidence = f"two and three brokers carry {said(found)} times as much as one, each limited to a share of a core"
    words, ways = {judged}, ["if each publisher sends to one partition"]
    for way, what in SPREADS.items():
        with suppress(Missing):
            spread = times("kafka", way)
            words.add(word(spread, way))
            idle = "" if busy(way) else " (not its brokers but its publishers were the limit)"
            ways.append(f"{said(spread)} times if it sends {what}{idle}")
    if len(ways) > 1:
        evidence += f", {'; '.join(ways)}"
    if words >= {HOLDS, FAILS}:
        judged, evidence = DEPENDS, f"on the publishers: {evidence}"
    elif UNKNOWN in words:
        judged = UNKNOWN
    with suppress(Missing):
        evidence += f"; with RabbitMQ, over queues, {said(times('rabbitmq'))} times"
    why = "; ".join(dict.fromkeys(reasons))
    return Verdict(judged, f"{evidence}; {why}" if judged == UNKNOWN else evidence)


def _more_members(run: Figures) -> Verdict:
    """Whether four members handle more than one: of messages with work that waits, and of messages without work.

    Without work, only a speed-up says something, because the members share the cores.
    """
    shared = {"question": "work_sharing", "design": "kafka", "guarantee": "AT_LEAST_ONCE", "publishers": 1}
    found = run.times("messages_per_s", shared | {"members": 4}, shared | {"members": 1})
    evidence = f"{{}}four members with four partitions carry {_times(found)} as much as one{{}}"
    limits = ", while broker, publisher and members share the cores of one machine"
    try:
        work = {"question": "work", "design": "kafka", "guarantee": "AT_LEAST_ONCE", "rung": "5 ms", "partitions": 4}
        waiting = run.times("messages_per_s", work | {"members": 4}, work | {"members": 1})
    except Missing:
        return Verdict(HOLDS if run.more(found) else UNKNOWN, evidence.format("", limits))
    handled = f"with 5 ms of work a message, four members with four partitions handle {_times(waiting)} as much as one"
    evidence = evidence.format(f"{handled}; without work ", f"{limits}; more brokers were not tried")
    if run.more(waiting) and run.less(found):
        return Verdict(DEPENDS, f"on the work for each message: {evidence}")
    return _settled(evidence, run.more(waiting))


Told = tuple[str, bool, bool | None]
"""Evidence, whether messages were lost or duplicated, and whether it kept up: None settles nothing."""


def _concurrent(run: Figures) -> Verdict:
    """Counts must be right; many publishers must not carry less than half of what one does; and with many connections
    a message must not take more than twice as long as with few."""
    told, missing = list[Told](), list[Missing]()
    for part in (_many_publishers, _many_connections):
        try:
            told.append(part(run))
        except Missing as reason:
            missing.append(reason)
    if not told:
        raise missing[0]
    evidence = "; ".join(said for said, _, _ in told)
    settled = [kept for _, _, kept in told if kept is not None]
    if any(wrong for _, wrong, _ in told):
        return Verdict(FAILS, evidence)
    if settled:
        return _settled(evidence, *settled, on="whether publishers or connections are many")
    few = "a few processes on a few cores are not high concurrency: `--questions connections` has a thousand"
    return Verdict(UNKNOWN, f"{evidence}; {few}" if missing else evidence)


def _many_publishers(run: Figures) -> Told:
    rows = run.rows("work_sharing", "kafka")
    wrong = int(rows["lost"].sum() + rows["duplicates"].sum())
    publishers, members = (int(rows[f"params.{who}"].max()) for who in ("publishers", "members"))
    evidence = f"with {publishers} publishers or {members} members at once, {wrong} of"
    evidence += f" {stats.short(rows['received'].sum())} messages were lost or duplicated"
    if wrong:
        return evidence, True, None
    shared = {"question": "work_sharing", "design": "kafka", "guarantee": "AT_LEAST_ONCE"}
    slowed = run.times(
        "messages_per_s", shared | {"publishers": publishers, "members": 1}, shared | {"publishers": 1, "members": 1}
    )
    evidence += f", and {publishers} publishers together carry {_times(slowed)} as much as one"
    if slowed.high < 1 / 2:
        return evidence, False, False
    return evidence, False, True if min(publishers, members) >= HIGH else None


def _crowd(design: str, connections: int) -> dict[str, Any]:
    """So many connections, mostly idle."""
    cell = {"question": "connections", "design": design, "guarantee": "AT_LEAST_ONCE"}
    return cell | {"publishers": connections}


def _many_connections(run: Figures) -> Told:
    crowds = [_crowd("kafka", number) for number in (CROWD, FEW)]
    rows = [run.rows(**crowd, contender=one) for crowd in crowds for one in run.measured(**crowd)]
    if wrong := int(sum(part["lost"].sum() + part["duplicates"].sum() for part in rows)):
        return f"with {CROWD:,} or {FEW} connections {wrong} messages were lost or duplicated", True, None
    many = run._client(min, P99, crowds[0])
    few = many | {"publishers": FEW}
    longer = run.times(P99, many, few)
    waits = [_two(run.median(P99, **cell)) for cell in (many, few)]
    evidence = f"with {CROWD:,} connections, most of them idle, the p99 is {waits[0]} ms, and with {FEW} connections"
    evidence += f" {waits[1]} ms ({many['contender']}); 0 messages were lost or duplicated"
    with suppress(Missing):  # of a broker whose memory was not seen
        sizes = [run.median(BROKERS_MEMORY, **cell) for cell in (many, few)]
        evidence += f"; the broker uses {sizes[0]:.0f} MB with {CROWD:,} connections, {sizes[1]:.0f} MB with {FEW}"
    agreed = not longer.low < TWICE < longer.high
    if not agreed:
        evidence += "; the rounds do not agree whether the p99 is twice as long"
    with suppress(Missing):
        theirs = run._client(min, P99, _crowd("rabbitmq", CROWD))
        evidence += f"; RabbitMQ's p99 with {CROWD:,} connections is {_two(run.median(P99, **theirs))} ms"
    return evidence, False, longer.high <= TWICE if agreed else None


def _tweaks(run: Figures) -> Verdict:
    def cost(design: str, contender: str, tweak: str, plain: str = "bare") -> stats.Ratio:
        cell = {"question": "tweaking", "design": design, "contender": contender, "guarantee": "AT_LEAST_ONCE"}
        return run.times("messages_per_s", cell | {"rung": plain}, cell | {"rung": tweak})

    def added(design: str, contender: str, tweak: str) -> str:
        """Microseconds that it adds to a message."""
        cell = {"question": "tweaking", "design": design, "contender": contender, "guarantee": "AT_LEAST_ONCE"}
        plain, tweaked = (1e6 / run.speed(**cell, rung=rung) for rung in ("bare", tweak))
        return f"{max(0.0, tweaked - plain):.0f} µs to the {plain:.0f} µs of a message"

    found = {"ten headers": cost("kafka", "aiokafka", "10 headers"), "JSON": cost("kafka", "aiokafka", "JSON")}
    found["gzip"] = cost("kafka", "aiokafka", "1 KiB, gzip", "1 KiB")
    for codec in ("lz4", "snappy", "zstd"):
        with suppress(Missing):  # not all are installed everywhere
            found[codec] = cost("kafka", "aiokafka", f"1 KiB, {codec}", "1 KiB")
    longer = [f"{_times(times)} with {tweak}" for tweak, times in found.items() if run.more(times)]
    same = [tweak for tweak, times in found.items() if not run.more(times)]
    parts = [f"how many times as long a message of aiokafka takes: {', '.join(longer)}"] if longer else []
    parts += [f"not certainly longer with {', '.join(same)}"] if same else []
    evidence = "; ".join(parts)
    evidence += f"; ten headers add {added('kafka', 'aiokafka', '10 headers')}"
    with suppress(Missing):  # of a run without RabbitMQ
        evidence += f", and with aiormq over RabbitMQ {added('rabbitmq', 'aiormq', '10 headers')}"
    return _settled(evidence, *map(run.more, found.values()), on="the tweak")


def _simple(run: Figures) -> Verdict:
    """Of RabbitMQ beside Kafka: asyncio has no broker, so it is quicker than both in any case."""
    (*cells, last), waits = _alone(run, "asyncio", "rabbitmq", "kafka")
    quicker = [run.times(ALONE, cells[-1], last)]
    brokers = [_many(design) for design in ("rabbitmq", "kafka")]
    with suppress(Missing):  # of the same age, which counts: Java's heap fills until it is cleaned up
        brokers = [run._client(min, P99, _crowd(design, FEW)) for design in ("rabbitmq", "kafka")]
    smaller = run.times(BROKERS_MEMORY, *brokers)
    sizes = [run.median(BROKERS_MEMORY, **cell) for cell in brokers]
    evidence = "a message takes {} with asyncio, {} with RabbitMQ, {} with Kafka".format(*waits)
    with suppress(Missing):  # greet is a library to learn from, and PerfTest a tool: these can be installed
        beside, who = run.without_greet(ALONE, cells[-1], last, but=[PERFTEST])
        quicker.append(beside)
        evidence += (
            f"; by the best of the other Python clients, RabbitMQ's takes {beside} times as long as Kafka's ({who})"
        )
    with suppress(Missing):  # a quick run has one guarantee
        kept = [run.quickest(**_lightly(design) | {"guarantee": "DURABLE"}) for design in ("rabbitmq", "kafka")]
        quicker.append(run.times(ALONE, *kept))
        alone = [f"{_two(run.median(ALONE, **cell))} ms ({cell['contender']})" for cell in kept]
        evidence += "; one that survives a kill of the broker takes {} with RabbitMQ, {} with Kafka".format(*alone)
    evidence += "; the broker uses {:.0f} MB (RabbitMQ) or {:.0f} MB (Kafka, with its usual heap of 1 GB)".format(
        *sizes
    )
    return _settled(evidence, *map(run.less, (*quicker, smaller)), on="what you need")


def _volumes(run: Figures) -> Verdict:
    """Many messages, and many bytes: the larger the messages are, the less it matters how many go together."""
    both = [{"question": "backlog", "design": one, "guarantee": "DURABLE"} for one in ("kafka", "rabbitmq")]
    more = run.times("messages_per_s", *(cell | {"rung": "alone"} for cell in both))
    evidence = f"DURABLE with greet, Kafka carries {_times(more)} as many short messages a second as RabbitMQ"
    evidence += " while a reader works"
    often = [{**_many(cell["design"]), "contender": "greet"} for cell in both]
    for waiting in (often, both):  # a quick run has the latter only, in one round
        with suppress(Missing):
            reading = [stats.short(run.speed(**cell | {"phase": "consume"})) for cell in waiting]
            evidence += "; from a backlog, a reader gets {} a second from Kafka, {} from RabbitMQ".format(*reading)
            break
    settled = [run.more(more)]
    with suppress(Missing):  # a quick run leaves payload out
        large = [run.best(**_large(design)) for design in ("kafka", "rabbitmq")]
        if not all(len(run.measured(**_large(design))) > 1 for design in ("kafka", "rabbitmq")):
            raise Missing(
                "with greet alone this says nothing about a broker: use `--questions payload --contenders all`"
            )
        times = run.times("messages_per_s", *large)
        settled.append(run.more(times))
        evidence += f"; as AT_LEAST_ONCE, transient in RabbitMQ, Kafka carries {times} times as many messages"
        evidence += f" of 64 KiB{run.clients(*large)}"
        with suppress(Missing):  # PerfTest is a tool of Java
            plain, who = run.without_greet("messages_per_s", *large, but=[PERFTEST])
            evidence += f", and by the best of the other Python clients {plain} times ({who})"
        between = []
        for size in SIZES[:-1]:
            with suppress(Missing):
                pair = [run.best(**_large(design) | {"size": size}) for design in ("kafka", "rabbitmq")]
                between.append(f"{size:,} bytes {run.times('messages_per_s', *pair)} times")
        evidence += f"; of messages of {', of '.join(between)}" if between else ""
    return _settled(evidence, *settled, on="the size of a message")


def _large(design: str) -> dict[str, Any]:
    """The throughput of the largest messages."""
    cell = {"question": "payload", "design": design, "guarantee": "AT_LEAST_ONCE"}
    return cell | {"way": "many", "size": 65_536, "phase": "together"}


def _faster(run: Figures) -> Verdict:
    cells = [[run.best(**_many(design, way)) for design in ("kafka", "rabbitmq")] for way in ("many", "name")]
    many, one = (run.times("messages_per_s", *pair) for pair in cells)
    alone, _ = _alone(run, "kafka", "rabbitmq")
    slower = run.times(ALONE, *alone)
    evidence = (
        f"in batches, Kafka carries {_times(many)} as many messages of 18 bytes a second as RabbitMQ, both DURABLE"
    )
    evidence += f"{run.clients(*cells[0])}; one by one, {_times(one)} as many{run.clients(*cells[1])}; "
    evidence += f"at 100 messages a second, a message takes {slower} times as long with Kafka as with RabbitMQ"
    evidence += run.clients(*alone, column=ALONE)
    with suppress(Missing):  # greet is a library to learn from: the others can be installed
        pairs = [run.without_greet("messages_per_s", *pair) for pair in cells] + [run.without_greet(ALONE, *alone)]
        others = [f"{_times(times)} ({who})" for times, who in pairs[:2]]
        evidence += "; without greet, by the best of the other clients: in batches {}, one by one {}".format(*others)
        with suppress(Missing):  # PerfTest has one row, among those in lists, but it publishes one by one
            plain = run._client(max, "messages_per_s", _many("kafka", "name"), but=["greet"])
            tool = run.times("messages_per_s", plain, _many("rabbitmq") | {"contender": PERFTEST})
            evidence += f", {_times(tool)} beside PerfTest, which publishes one by one too"
        evidence += ", and a message takes {} times as long ({})".format(*pairs[2])
    with suppress(Missing):  # a quick run has no ladder
        awaited = run.times("messages_per_s", *(_awaited(design) for design in ("kafka", "rabbitmq")))
        evidence += (
            f"; if each is awaited before the next one is sent, {awaited} times as many (aiokafka beside aio-pika)"
        )
    return _settled(evidence, run.more(many), run.more(one), run.less(slower), on="what you need")


def _awaited(design: str) -> dict[str, Any]:
    """The first step of *ladder*: a loop that awaits what it publishes, as in a first tutorial."""
    first = ladder.first(design)
    cell = {"question": "ladder", "design": design, "contender": first.contender, "guarantee": "DURABLE"}
    return cell | {"rung": first.said}


def _shown(word: str, evidence: str) -> Callable[[Figures], Verdict]:
    """A claim that no figure decides. A notebook shows it, and its cells are run as tests."""
    return lambda _: Verdict(word, evidence)


CLAIMS = (
    Claim(
        "asyncio",
        "It has an overhead that cannot be avoided.",
        "a bare queue, one by one, against lists of messages",
        _overhead,
        "01_asyncio",
    ),
    Claim(
        "asyncio",
        "A message is delayed if all consumers sleep when it arrives.",
        "the median time from the send to the receipt, at 1 and at 100 messages a second",
        _sleeping,
        "05_latency",
    ),
    Claim(
        "asyncio",
        "Nothing survives its process.",
        "a process is killed while messages wait in it",
        _shown(HOLDS, "all messages that waited in the killed process are gone; DURABLE is refused"),
        "01_asyncio",
    ),
    Claim(
        "rabbitmq",
        "One to one, and one to many.",
        "nothing lost or duplicated",
        _one_to_one_and_many("rabbitmq"),
        "02_rabbitmq",
    ),
    Claim(
        "rabbitmq",
        "Messages are persistent or transient.",
        "messages lost by kill -9 of the broker",
        _persistent_and_transient,
        "06_when_things_break",
    ),
    Claim(
        "rabbitmq",
        "Thousands of messages a second.",
        "messages carried one by one, and the CPU time of each side",
        _thousands,
        "04_throughput",
    ),
    Claim(
        "kafka",
        "One to many, and also one to one.",
        "nothing lost or duplicated",
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
    Claim(
        "kafka",
        "Millions of messages a second.",
        "messages carried in batches, and one by one",
        _millions,
        "04_throughput",
    ),
    Claim(
        "kafka",
        "Low latency.",
        "against RabbitMQ: the median at a low rate; median and p99 at half and nine tenths of what RabbitMQ carries",
        _low_latency,
        "05_latency",
    ),
    Claim("kafka", "Fault-tolerant and durable.", "every fault, nothing lost", _fault_tolerant, "06_when_things_break"),
    Claim(
        "kafka",
        "Scalable over partitions and brokers.",
        "one broker against two and three, or one member against four",
        _scalable,
        "04_throughput",
    ),
    Claim("kafka", "High concurrency.", "many publishers, members and connections", _concurrent, "04_throughput"),
    Claim(
        "kafka",
        "Management and monitoring are incomplete.",
        "six questions to three tools of each broker, while one member is stuck and one group has no member",
        _shown(
            DEPENDS,
            "on the tool: Kafka's command-line tools and admin API show the lag, rates, members, the stuck member and "
            "the age of the oldest message, but the free disk space only to a client of Java (not tried); JMX shows "
            "the rates of topics but no groups; RabbitMQ's tools show all except the age, for which the publisher or "
            "a setting of the broker must add a timestamp",
        ),
        "08_see_inside",
    ),
    Claim(
        "kafka",
        "Tweaking messages costs performance.",
        "headers, JSON and compression against a plain name",
        _tweaks,
        "04_throughput",
    ),
    Claim(
        "kafka",
        "Topics cannot be selected by wildcard.",
        "a pattern that matches two topics",
        _shown(FAILS, "aiokafka subscribes to a pattern, and reads both topics; RabbitMQ has topic exchanges"),
        "03_kafka",
    ),
    Claim(
        "conclusion",
        "For simple messaging: asyncio or RabbitMQ.",
        "RabbitMQ beside Kafka: the time of one message, with greet and without it, and the broker's memory",
        _simple,
        "07_choose",
    ),
    Claim(
        "conclusion",
        "For large volumes and distributed systems: Kafka.",
        "a million messages and more, and the largest messages",
        _volumes,
        "07_choose",
    ),
    Claim("conclusion", "Kafka is faster.", "messages a second, and the time of one", _faster, "07_choose"),
)


SHOWN = frozenset(
    (
        "Nothing survives its process.",
        "Management and monitoring are incomplete.",
        "Topics cannot be selected by wildcard.",
    )
)
"""The claims that no figure decides. A notebook shows them, and its cells are run as tests."""


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Each claim with its verdict and evidence on the rows of a run."""
    run = Figures(rows)
    found = []
    for claim in CLAIMS:
        try:
            verdict = claim.judge(run)
        except Missing as reason:
            verdict = Verdict(UNKNOWN, str(reason))
        evidence = verdict.evidence
        if claim.statement in SHOWN:
            evidence += f" (no figure of this run: notebook {claim.shown})"
        found.append({"of": claim.design, "claim": claim.statement, "verdict": verdict.word, "evidence": evidence})
    return pd.DataFrame(found)


@dataclass(frozen=True)
class Need:
    """A question to ask before you choose, and the designs that are left if the answer is yes."""

    asked: str
    left: Callable[[Design], bool]
    shown: str
    """The notebook that tries it."""


NEEDS = (
    Need("Must it run without a server?", lambda one: one.in_process, "01_asyncio"),
    Need("Are producer and consumer separate programs?", lambda one: not one.in_process, "02_rabbitmq"),
    Need(
        "Must waiting messages survive the end of a program, or a crash?",
        lambda one: one.survives_a_kill,
        "06_when_things_break",
    ),
    Need("Must messages be read again, or by readers that join later?", lambda one: one.replays, "03_kafka"),
    Need(
        "Must messages with the same key stay in order while many consumers share the work?",
        lambda one: one.partitioned and one.orders_by_key,
        "03_kafka",
    ),
    Need("Must a free consumer get the next message, whichever it is?", lambda one: one.deals_out, "02_rabbitmq"),
    Need("Must consumers choose messages of a topic by a pattern?", lambda one: one.product is RABBITMQ, "02_rabbitmq"),
)


def guide() -> pd.DataFrame:
    """Each question, with a tick for each design that is left if the answer is yes."""
    lines = [
        {"if yes, take a design with ✓": need.asked} | {one.title: "✓" if need.left(one) else "–" for one in DESIGNS}
        for need in NEEDS
    ]
    return pd.DataFrame(lines)


def fast_enough(rows: pd.DataFrame, rate: float, way: str = "name") -> list[str]:
    """The designs that carried more than twice `rate` messages a second, with their strongest guarantee, in this `way`.

    Raises:
        Missing: the run did not measure that of some design.
    """
    run = Figures(rows)
    strongest = {"asyncio": "AT_LEAST_ONCE", "rabbitmq": "DURABLE", "kafka": "DURABLE"}
    return [
        design
        for design, guarantee in strongest.items()
        if run.speed("throughput", design, way=way, guarantee=guarantee, phase="together") > 2 * rate
    ]
