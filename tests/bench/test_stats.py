"""The statistics, against known distributions, numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bench import stats
from bench.judge import compare
from bench.stats import Ratio, floor, percentiles, ratio, tail, verdict


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
    assert percentiles(range(stats.TAIL - 1))["p99_9"] is None
    assert percentiles(range(stats.TAIL))["p99_9"] is not None
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
    low, high = scipy_stats.t.interval(1 - 0.05 / 230, rounds - 1, logs.mean(), scipy_stats.sem(logs))
    wide = found.among(230)
    assert [math.log(wide.low), math.log(wide.high)] == pytest.approx([low, high])
    assert found.among(1) == found


@pytest.mark.parametrize("level", [0.5, 0.95, 1 - 1e-6])
@pytest.mark.parametrize("freedom", [2, 3, 4, 5, 10, 99, 100])
def test_the_quantiles_are_students(freedom: int, level: float) -> None:
    assert stats._student(freedom, level) == pytest.approx(scipy_stats.t.ppf((1 + level) / 2, freedom))


def compared(source: np.random.Generator, rounds: int, scatter: float, *factors: float) -> list[compare.Difference]:
    """Two runs of 230 cells: the second is faster by `factors`, and the others as fast as before."""
    sides = source.lognormal(0, scatter, (2, 230, rounds))
    sides[1, : len(factors)] *= np.reshape(factors, (-1, 1))
    ratios = [
        (str(cell), "messages/s", ratio(after.tolist(), before.tolist()))
        for cell, (before, after) in enumerate(zip(*sides, strict=True))
    ]
    return compare.judged(ratios, compare.NOISE)


def test_of_equal_runs_hardly_any_is_called_worse() -> None:
    source, trials = np.random.default_rng(6), 200
    wrong = sum(any(one.regression for one in compared(source, 5, 0.1)) for _ in range(trials))
    assert wrong / trials <= 0.07


def test_a_cell_that_takes_twice_as_long_is_found_among_many() -> None:
    source = np.random.default_rng(7)
    for _ in range(20):
        worse = [one.cell for one in compared(source, 8, 0.05, 0.5) if one.regression]
        assert worse == ["0"]


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
    assert found.among(230) == found
    assert verdict(found) == "no difference"


def test_the_floor_and_the_verdict() -> None:
    assert floor(Ratio(1.0, 0.96, 1.02, 5)) == pytest.approx(1 / 0.96 - 1)
    assert floor(Ratio(1.0, 0.0, math.inf, 1)) == math.inf
    assert verdict(Ratio(1.2, 1.1, 1.3, 5), 0.05) == "more"
    assert verdict(Ratio(0.8, 0.7, 0.9, 5), 0.05) == "less"
    assert verdict(Ratio(1.2, 0.9, 1.5, 5), 0.05) == "no difference"
    assert verdict(Ratio(1.03, 1.02, 1.04, 5), 0.05) == "no difference"
    assert verdict(Ratio(1 / 1.03, 0.96, 0.98, 5), 0.05) == "no difference"
