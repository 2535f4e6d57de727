"""The statistics, against known distributions, numpy and scipy."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

import bench
from bench import pictures, stats, tables
from bench.judge import compare
from bench.judge.claims import Figures
from bench.stats import Ratio, percentiles, ratio, tail, verdict


def test_percentiles_of_known_samples() -> None:
    samples = np.random.default_rng(1).permutation(np.arange(1, 10_001)) * 1_000_000
    assert percentiles(samples) == {"p50": 5000.0, "p90": 9000.0, "p99": 9900.0, "p99_9": 9990.0, "max": 10_000.0}


def test_percentiles_are_samples_as_numpy_finds_them() -> None:
    samples = np.random.default_rng(2).exponential(1e6, 20_001).astype(np.int64)
    found = percentiles(samples)
    for name, share in stats.PERCENTILES.items():
        assert found[name] == np.quantile(samples, share, method="higher") / 1e6
    assert found["p50"] == pytest.approx(math.log(2), rel=0.03)
    assert found["p99"] == pytest.approx(math.log(100), rel=0.05)


def test_what_the_samples_cannot_carry_is_null() -> None:
    for name, enough in stats.ENOUGH.items():
        assert percentiles(range(enough - 1))[name] is None
        assert percentiles(range(enough))[name] is not None
    assert percentiles(range(999))["p90"] is not None
    assert set(percentiles([]).values()) == {None}


def test_the_tail_is_the_complementary_distribution() -> None:
    samples = np.arange(1, 1001) * 1_000_000
    shares = {ms: share for share, ms in tail(samples)}
    assert shares[1000.0] == 0.001
    assert shares[1.0] == 1.0
    assert all((samples >= ms * 1e6).mean() == pytest.approx(share) for ms, share in shares.items())
    assert tail([]) == []


def test_the_pace_is_the_speed_in_equal_spans() -> None:
    steady = [(second, 100 * second) for second in range(11)]
    assert stats.pace(steady, 5) == [(2.0, 100.0), (4.0, 100.0), (6.0, 100.0), (8.0, 100.0), (10.0, 100.0)]
    assert stats.pace([(0, 0)]) == []
    slower = [*steady, *((10 + second, 1000 + 50 * second) for second in range(1, 11))]
    assert stats.steadiness(steady) == pytest.approx(1)
    assert stats.steadiness(slower) == pytest.approx(0.5)
    assert stats.steadiness(steady[:7]) is None


def test_rows_are_paired_by_round() -> None:
    ours = pd.DataFrame({"repetition": [3, 1, 2, 4], "messages_per_s": [6.0, 2.0, 4.0, 8.0]})
    theirs = pd.DataFrame({"repetition": [1, 2, 3, 4, 5], "messages_per_s": [1.0, 2.0, 3.0, 4.0, None]})
    assert stats.beside(ours, theirs) == Ratio(2.0, 2.0, 2.0, 4)
    assert stats.beside(ours, theirs[:0]) is None
    assert stats.beside(ours, theirs, "latency_ms.p50") is None


def test_a_ratio_is_the_geometric_mean_of_pairs() -> None:
    found = ratio([2, 8, 4, 3], [1, 2, 2, 1])
    assert found.value == pytest.approx(scipy_stats.gmean([2, 4, 2, 3]))
    assert found.low <= found.value <= found.high
    assert ratio([3.0] * 5, [1.5] * 5) == Ratio(2.0, 2.0, 2.0, 5)


def test_noise_that_both_share_does_not_widen_a_paired_ratio() -> None:
    noise = np.random.default_rng(3).lognormal(0, 1, 10)
    found = ratio((1.1 * noise).tolist(), noise.tolist())
    assert [found.low, found.high] == pytest.approx([1.1, 1.1])


@pytest.mark.parametrize("rounds", [5, 10, 40])
def test_the_interval_covers_as_often_as_it_says(rounds: int) -> None:
    source, hits, trials = np.random.default_rng(4), 0, 400
    for _ in range(trials):
        sides = source.lognormal(0, 0.1, (2, rounds))
        found = ratio((1.5 * sides[0]).tolist(), sides[1].tolist())
        hits += found.low <= 1.5 <= found.high
    assert 0.91 <= hits / trials <= 0.985


@pytest.mark.parametrize("rounds", [4, 5, 10, 200])
def test_the_interval_is_students(rounds: int) -> None:
    source = np.random.default_rng(5)
    ours, theirs = source.lognormal(0.2, 0.1, rounds), source.lognormal(0, 0.1, rounds)
    logs = np.log(ours / theirs)
    low, high = scipy_stats.t.interval(0.95, rounds - 1, logs.mean(), scipy_stats.sem(logs))
    found = ratio(ours.tolist(), theirs.tolist())
    assert [math.log(found.low), math.log(found.high)] == pytest.approx([low, high])


@pytest.mark.parametrize("sizes", [(5, 5), (4, 7), (2, 2)])
def test_the_interval_of_two_runs_is_students_among_many(sizes: tuple[int, int]) -> None:
    source = np.random.default_rng(5)
    before, after = source.normal(0, 0.1, sizes[0]), source.normal(0.2, 0.1, sizes[1])
    freedom = sum(sizes) - 2
    variance = (before.var() * sizes[0] + after.var() * sizes[1]) / freedom
    theirs = scipy_stats.ttest_ind(after, before).confidence_interval(1 - 0.05 / 230)
    found = stats.unpaired(before, after, variance, freedom, 230)
    assert [math.log(found.low), math.log(found.high)] == pytest.approx([theirs.low, theirs.high])
    assert math.log(found.value) == pytest.approx(after.mean() - before.mean())


@pytest.mark.parametrize("level", [0.5, 0.95, 1 - 1e-6])
@pytest.mark.parametrize("freedom", [2, 3, 4, 5, 10, 99, 100])
def test_the_quantiles_are_students(freedom: int, level: float) -> None:
    assert stats._student(freedom, level) == pytest.approx(scipy_stats.t.ppf((1 + level) / 2, freedom))


def compared(source: np.random.Generator, rounds: int, scatter: float, *factors: float) -> list[compare.Difference]:
    """Two runs of 230 cells: the second is faster by `factors`, and the others as fast as before."""
    sides = source.normal(0, scatter, (2, 230, rounds))
    sides[1, : len(factors)] += np.log(np.reshape(factors, (-1, 1)))
    return compare.judged(
        [
            compare.Pair(str(cell), "messages/s", "throughput", compare.NOISE, before, after)
            for cell, (before, after) in enumerate(zip(*sides, strict=True))
        ]
    )


def test_of_equal_runs_hardly_any_is_called_worse() -> None:
    source, trials = np.random.default_rng(6), 100
    wrong = sum(any(one.regression for one in compared(source, 5, 0.1)) for _ in range(trials))
    assert wrong / trials <= 0.07


@pytest.mark.parametrize(("rounds", "factor"), [(8, 0.8), (5, 2 / 3)])
def test_a_cell_that_is_slower_is_found_among_many(rounds: int, factor: float) -> None:
    source = np.random.default_rng(7)
    for _ in range(20):
        worse = [one.cell for one in compared(source, rounds, 0.05, factor) if one.regression]
        assert worse == ["0"]


def test_what_could_not_have_been_seen_is_not_known() -> None:
    source = np.random.default_rng(8)
    noisy = compared(source, 5, 0.5)
    assert {one.verdict for one in noisy} == {"not known"}
    assert "A slowdown to two thirds could be seen in 0 of 230, to a half in 0" in compare.could_have_seen(noisy)
    once = compared(source, 1, 0.05)
    assert {one.verdict for one in once} == {"not known"}
    assert "One round each" in compare.could_have_seen(once)
    calm = compared(source, 5, 0.02)
    assert {one.verdict for one in calm} == {"no difference"}
    assert "A slowdown to two thirds could be seen in 230 of 230" in compare.could_have_seen(calm)


def test_cells_of_one_round_do_not_hide_how_much_a_round_varies() -> None:
    source = np.random.default_rng(1)
    noisy = [source.normal(10, 0.5, 5) for _ in range(6)]
    several = [compare.Pair("n", "messages/s", "backlog", 0.05, one, one) for one in noisy[:2]]
    calm = compare.Pair("calm", "messages/s", "backlog", 0.05, np.full(5, 10.0), np.full(5, 9.9))
    once = [compare.Pair("o", "messages/s", "backlog", 0.05, one[:1], one[:1]) for one in noisy]
    alone, beside = (compare.judged([calm, *several, *more])[0] for more in ((), once))
    assert beside.ratio.low <= alone.ratio.low


def test_latencies_at_other_rates_are_not_compared() -> None:
    rows = bench.reference()
    loaded = rows[rows["question"].eq("latency") & rows["params.load"].notna() & rows["params.again"].ne(True)]
    same, half = (list(compare.pairs(loaded, loaded.assign(target_rate=loaded["target_rate"] / by))) for by in (1, 2))
    assert {one.measure for one in same} == {"p50 ms", "p99 ms"}
    assert half == []


@pytest.mark.parametrize("question", ["start_up", "takeover"])
def test_how_long_something_took_is_compared(question: str) -> None:
    rows = bench.reference()
    timed = rows[rows["question"].eq(question)]
    found = compare.compare(timed, timed.assign(elapsed_s=100 * timed["elapsed_s"].astype(float)))
    assert {one.measure for one in found} == {"s"}
    assert any(one.regression for one in found)


def test_of_no_figures_nothing_is_said_of_rounds() -> None:
    assert compare.could_have_seen([]) == "These runs have no figure in common that is compared."


def twice(question: str, design: str, figure: str, by: float) -> pd.DataFrame:
    """A cell that was measured twice, and had `by` times as much of a figure the second time."""
    cell: dict[str, Any] = {"question": question, "design": design, "contender": "greet", "guarantee": "DURABLE"}
    cell |= {"error": None}
    cell |= {"params.load": 0.5, "params.rate": 100.0, "params.size": 65_536, "params.way": "many"}
    rows = [
        cell | {"params.again": again, "repetition": k, figure: value}
        for k in range(1, 6)
        for again, value in ((False, 100.0), (True, 100.0 * by))
    ]
    return pd.DataFrame(rows)


def test_each_figure_has_the_noise_floor_of_its_design_and_else_the_widest() -> None:
    runs = [twice("throughput", "asyncio", stats.SPEED, 1.01), twice("payload", "kafka", stats.SPEED, 1.2)]
    runs.append(twice("latency", "kafka", stats.P99, 1 / 1.5))
    found = [same for run in runs for same in stats.same_twice(run)]
    assert [one.what for one in found] == ["in lists", "64 KiB, in lists", "load 0.5"]

    def floor(question: str, design: str, figure: str) -> float:
        return compare.floor(found, question, design, figure)

    assert floor("payload", "kafka", stats.SPEED) == pytest.approx(0.2)
    assert floor("throughput", "asyncio", stats.SPEED) == compare.NOISE
    assert floor("payload", "rabbitmq", stats.SPEED) == pytest.approx(0.2)
    assert floor("fan_out", "rabbitmq", stats.SPEED) == pytest.approx(0.2)
    assert floor("latency", "rabbitmq", stats.P99) == pytest.approx(0.5)
    assert floor("takeover", "kafka", "elapsed_s") == pytest.approx(0.2)
    assert floor("takeover", "asyncio", "elapsed_s") == compare.NOISE
    assert compare.floor([], "throughput", "kafka", stats.SPEED) == compare.NOISE


def test_what_was_measured_twice_in_too_few_rounds_has_no_floor() -> None:
    """Not that of another design: nobody knows how much this one differs from itself."""
    calm, wild = twice("throughput", "rabbitmq", stats.SPEED, 1.0), twice("throughput", "kafka", stats.SPEED, 1.0)
    found = stats.same_twice(pd.concat([calm, wild[wild["repetition"] < 4]]))
    widest = partial(stats.widest, found, stats.SPEED, 0.25, "throughput")
    assert (widest("rabbitmq"), widest("rabbitmq", "kafka"), widest("asyncio")) == (0.25, math.inf, 0.25)
    assert compare.floor(found, "throughput", "kafka", stats.SPEED) == compare.NOISE


def test_a_remark_about_the_clocks_does_not_tell_cells_apart() -> None:
    rows = twice("latency", "kafka", stats.P50, 1.2)
    remarks = pd.Series([f"below ten times the {number} ms of the clocks" for number in range(len(rows))])
    assert stats.same_twice(rows.assign(**{"params.clock": remarks})) == stats.same_twice(rows)


def test_the_noise_of_a_message_alone_is_of_its_actual_send() -> None:
    rows = twice("wake_up", "kafka", "latency_ms.p50", 3.0)
    clocks = [{"service": {"p50": 2.0 if again else 1.0}} for again in rows["params.again"]]
    same, due = stats.same_twice(rows.assign(latencies=pd.Series(clocks)))
    assert (same.figure, same.what, due.figure) == (stats.ALONE, "100 a second", stats.P50)
    assert same.times.value == pytest.approx(2.0)
    assert due.times.value == pytest.approx(3.0)


def test_a_comparison_needs_more_than_the_noise_of_its_own_figure() -> None:
    """A p99 that differs by half from itself hides a p99, and no speed."""
    noisy = twice("latency", "kafka", stats.P99, 1.5).assign(target_rate=50.0)
    noisy[stats.P50] = 1.0
    slow = noisy.copy()
    slow[[stats.P50, stats.P99]] *= 1.4
    assert {one.measure: one.verdict for one in compare.compare(noisy, slow)} == {
        "p50 ms": "worse",
        "p99 ms": compare.SAME,
    }


@pytest.fixture(scope="module")
def reference() -> list[compare.Pair]:
    """The published run beside itself, without the questions of outages and clusters, whose rounds differ more."""
    run = bench.reference()
    run = run[~run["question"].isin(["faults", "scaling", "takeover", "connections"])]
    return [one for one in compare.pairs(run, run) if len(one.before) > 1]


def slowed(pair: compare.Pair) -> compare.Pair:
    """To two thirds of the speed, or half as long again."""
    _, more_is_better = compare.MEASURES[pair.measure]
    return replace(pair, after=pair.after + math.log(2 / 3 if more_is_better else 3 / 2))


def test_in_twenty_shuffles_of_the_published_rounds_nothing_is_called_a_difference(
    reference: list[compare.Pair],
) -> None:
    source = np.random.default_rng(9)
    for _ in range(20):
        halves = [np.array_split(source.permutation(one.before), 2) for one in reference]
        shuffled = [
            replace(one, before=first, after=second) for one, (first, second) in zip(reference, halves, strict=True)
        ]
        assert [one.cell for one in compare.judged(shuffled) if one.verdict in ("better", "worse")] == []


@pytest.mark.parametrize(("rounds", "share"), [(5, 0.8), (8, 0.9)])
def test_most_speeds_of_the_published_run_are_found_when_slowed_to_two_thirds(
    reference: list[compare.Pair], rounds: int, share: float
) -> None:
    """Each cell by itself: what the others do does not touch its verdict.

    Rounds are drawn anew, as of other runs: they too would have twice as many of a cell whose speeds are unstable.
    """
    source, found = np.random.default_rng(10), list[bool]()
    for _ in range(5):
        drawn = []
        for one in reference:
            number = rounds if len(one.before) <= 5 else 2 * rounds
            before, after = (source.choice(side, number) for side in (one.before, one.after))
            drawn.append(slowed(replace(one, before=before, after=after)))
        seen = compare.judged(drawn)
        assert not any(one.verdict == "better" for one in seen)
        found += [one.regression for one in seen if one.measure == "messages/s"]
    assert np.mean(found) > share


def test_one_disturbed_round_does_not_make_the_interval_boundless() -> None:
    found = ratio([0.69, 1.03, 0.88, 1.04, 1.035], [1.0] * 5)
    assert 0.7 < found.low < 1 < found.high < 1.2


@pytest.mark.parametrize("sides", [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_no_ratio_without_pairs_of_positive_figures(sides: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="positive"):
        ratio(*sides)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_few_rounds_have_no_interval(rounds: int) -> None:
    found = ratio([2.0] * rounds, [1.0] * rounds)
    assert (found.low, found.high) == (0.0, math.inf)
    assert verdict(found) == "no difference"


def test_the_floor_and_the_verdict() -> None:
    same = partial(stats.Same, "throughput", "kafka", stats.SPEED, "in lists")
    assert same(Ratio(1.0, 0.96, 1.02, 5)).floor == pytest.approx(1 / 0.96 - 1)
    assert same(Ratio(1.0, 0.0, math.inf, 1)).floor == math.inf
    assert verdict(Ratio(1.2, 1.1, 1.3, 5), 0.05) == "more"
    assert verdict(Ratio(0.8, 0.7, 0.9, 5), 0.05) == "less"
    assert verdict(Ratio(1.2, 0.9, 1.5, 5), 0.05) == "no difference"
    assert verdict(Ratio(1.03, 1.02, 1.04, 5), 0.05) == "no difference"
    assert verdict(Ratio(1 / 1.03, 0.96, 0.98, 5), 0.05) == "no difference"


@pytest.mark.parametrize(
    "wrong", [{"error": "it failed"}, {"lost": 3}, {"duplicates": 1}, {"reordered": 2}, {"repetition": 0}]
)
def test_a_repetition_that_failed_or_broke_a_promise_has_no_figures(wrong: dict[str, Any]) -> None:
    """Not in a comparison, not in a table, not in a picture, and not for the noise."""
    source = bench.reference()
    kafka = source[source["question"].eq("throughput") & source["design"].eq("kafka")]
    one = kafka[kafka["contender"].eq("greet") & kafka["params.way"].eq("many") & kafka["guarantee"].eq("DURABLE")]
    one = one[one["params.phase"].eq("together")].reset_index(drop=True)
    fast = one.loc[[0]].assign(**{"messages_per_s": 9e9, "repetition": 99, **wrong})
    rows = pd.concat([one, fast], ignore_index=True)
    assert compare.compare(one, rows) == compare.compare(one, one)
    speeds = ["messages/s", "min–max"]
    assert tables.summary(rows)[speeds].equals(tables.summary(one)[speeds])
    assert pictures.measured(rows)["value"].max() < 9e9
    assert Figures(rows).speed("throughput", "kafka") == one["messages_per_s"].median()
    again = pd.concat([rows, one.assign(**{"params.again": True}), fast.assign(**{"params.again": True})])
    assert [same.times.rounds for same in stats.same_twice(again)] == [len(one)]


def test_a_loss_that_a_guarantee_allows_leaves_the_figures() -> None:
    rows = pd.DataFrame({"error": [None] * 2, "repetition": [1, 1], "lost": [3, 3], "params.allowed": ["lost", ""]})
    assert stats.is_sound(rows).tolist() == [True, False]
