"""The accountant: whatever is done to one message in a million is caught."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measure.account import STRANGER, Codes, Count, Series, accepted_codes, codes, count, letters

MILLION = 1_000_000
SERIES = Series("ab12", 7, MILLION)


@pytest.fixture(scope="module")
def names() -> list[str]:
    return SERIES.names()


def counted(received: list[str], lanes: tuple[int, ...] = (MILLION,), series: Series = SERIES) -> Count:
    accepted = accepted_codes(series.publisher, series.number, lanes)
    sent = accepted_codes(series.publisher, series.number, (series.number,))
    return count(accepted, sent, [codes(received, series.tag, series.size)], len(lanes))


def test_names_are_unique_valid_and_of_their_size(names: list[str]) -> None:
    assert len(set(names)) == MILLION
    assert {len(name.encode()) for name in names} == {18}
    assert names[3][:16] == "ab12070000000003"


def test_what_fills_a_message_compresses_as_real_ones_do() -> None:
    """Dots would compress to a hundredth, and cost a codec less. A batch has many messages, with texts of their own."""
    for size in (1024, 65_536):
        names = Series("ab12", 7, 1_000_000 // size, size).names()
        text = "".join(names).encode()
        assert 0.25 < len(gzip.compress(text)) / len(text) < 0.45
        altered = names[1][:-1] + chr(ord(names[1][-1]) ^ 1)
        assert list(codes([names[0], altered, names[2]], "ab12", size) == STRANGER) == [False, True, False]


def test_letters_one_behind_the_other_are_names_too(names: list[str]) -> None:
    text = "".join(names[:2500]).encode()
    assert np.array_equal(letters(text, "ab12", 18), codes(names[:2500], "ab12", 18))
    assert list(letters(text[:-1], "ab12", 18)[-1:]) == [STRANGER]
    assert list(letters(b"", "ab12", 18)) == []


def test_a_letter_that_moved_to_the_name_before_is_noticed(names: list[str]) -> None:
    """All letters are there, and all numbers: only where one message ends and the next begins is wrong."""
    moved = [names[0] + names[1][0], names[1][1:], *names[2:100]]
    assert list(codes(moved, "ab12", 18)[:3] == STRANGER) == [True, True, False]


def test_all_is_well(names: list[str]) -> None:
    assert counted(names) == Count(MILLION, 0, 0, 0, 0)


MUTATIONS: dict[str, tuple[Callable[[list[str], int], object], Count]] = {
    "drop": (lambda names, i: names.pop(i), Count(MILLION - 1, 1, 0, 0, 0)),
    "duplicate": (lambda names, i: names.insert(i + 5, names[i]), Count(MILLION, 0, 1, 0, 0)),
    "swap": (
        lambda names, i: names.__setitem__(slice(i, i + 2), [names[i + 1], names[i]]),
        Count(MILLION, 0, 0, 1, 0),
    ),
    "alter the filling": (
        lambda names, i: names.__setitem__(i, names[i][:-1] + "!"),
        Count(MILLION - 1, 1, 0, 0, 1),
    ),
    "alter the tag": (lambda names, i: names.__setitem__(i, "ab13" + names[i][4:]), Count(MILLION - 1, 1, 0, 0, 1)),
    "alter the publisher": (
        lambda names, i: names.__setitem__(i, f"ab1208{names[i][6:]}"),
        Count(MILLION - 1, 1, 0, 0, 1),
    ),
    "alter the number": (
        lambda names, i: names.__setitem__(i, f"{names[i][:6]}{MILLION + i:010d}.."),
        Count(MILLION - 1, 1, 0, 0, 1),
    ),
    "no digits": (
        lambda names, i: names.__setitem__(i, names[i][:8] + "x" + names[i][9:]),
        Count(MILLION - 1, 1, 0, 0, 1),
    ),
    "shorten": (lambda names, i: names.__setitem__(i, names[i][:-1]), Count(MILLION - 1, 1, 0, 0, 1)),
    "lengthen": (lambda names, i: names.__setitem__(i, names[i] + "."), Count(MILLION - 1, 1, 0, 0, 1)),
    "another script": (
        lambda names, i: names.__setitem__(i, names[i][:15] + "٣.."),
        Count(MILLION - 1, 1, 0, 0, 1),
    ),
    "a stranger": (lambda names, i: names.insert(i, "李小龙"), Count(MILLION, 0, 0, 0, 1)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("place", [0, 654_321, MILLION - 2])
def test_one_in_a_million_is_caught(names: list[str], mutation: str, place: int) -> None:
    change, expected = MUTATIONS[mutation]
    received = list(names)
    change(received, place)
    assert counted(received) == expected


def test_what_was_not_accepted_is_not_lost_and_no_stranger_either() -> None:
    series = Series("ab12", 0, 10)
    names = series.names()
    assert counted(names[:6], (6,), series) == Count(6, 0, 0, 0, 0)
    assert counted(names[:8], (6,), series) == Count(8, 0, 0, 0, 0)
    assert counted(names[:5], (6,), series) == Count(5, 1, 0, 0, 0)


def test_order_is_looked_at_within_a_lane() -> None:
    series = Series("ab12", 0, 6)
    names = series.names()
    lanes = (2, 2, 2)  # 0 and 3, 1 and 4, 2 and 5
    assert counted([names[i] for i in (2, 1, 0, 5, 3, 4)], lanes, series).reordered == 0
    assert counted([names[i] for i in (3, 1, 2, 0, 4, 5)], lanes, series).reordered == 1


def test_groups_are_summed_and_each_must_have_all() -> None:
    series = Series("ab12", 0, 4)
    accepted = accepted_codes(0, 4, (4,))
    groups = [codes(series.names(), "ab12", 18), codes(series.names()[1:], "ab12", 18)]
    assert count(accepted, accepted, groups, ordered=False) == Count(7, 1, 0, None, 0)


def test_two_publishers_are_kept_apart() -> None:
    both = [Series("ab12", k, 3) for k in (0, 1)]
    accepted = np.concatenate([accepted_codes(one.publisher, 3, (3,)) for one in both])
    first, second = (one.names() for one in both)
    mixed = [second[0], first[0], first[1], second[1], second[2], first[2]]
    assert count(accepted, accepted, [codes(mixed, "ab12", 18)]) == Count(6, 0, 0, 0, 0)


@given(st.lists(st.integers(0, 30), max_size=80), st.integers(1, 4))
def test_it_agrees_with_a_slow_and_plain_count(arrivals: list[int], lanes: int) -> None:
    series = Series("ab12", 3, 31)
    names = series.names()
    done = tuple(len(range(lane, 31, lanes)) for lane in range(lanes))
    first = list(dict.fromkeys(arrivals))
    late = sum(any(other > one and other % lanes == one % lanes for other in first[:i]) for i, one in enumerate(first))
    expected = Count(len(first), 31 - len(first), len(arrivals) - len(first), late, 0)
    assert counted([names[i] for i in arrivals], done, series) == expected


@pytest.mark.parametrize("size", [16, 17, 1000, 65_536])
def test_any_payload(size: int) -> None:
    series = Series("zzzz", 0, 40, size)
    names = series.names()
    assert counted(names, (40,), series) == Count(40, 0, 0, 0, 0)
    if size > 16:
        names[5] = names[5][:-1] + ":"
        assert counted(names, (40,), series).strangers == 1


@pytest.mark.parametrize("bad", [("abc", 0, 1, 18), ("abcd", 100, 1, 18), ("abcd", 0, 1, 15)])
def test_impossible_series_are_refused(bad: tuple[str, int, int, int]) -> None:
    with pytest.raises(ValueError, match="a tag has 4"):
        Series(*bad)


def test_nothing_at_all() -> None:
    nothing: Codes = np.empty(0, np.int64)
    assert count(nothing, nothing, [nothing]) == Count(0, 0, 0, 0, 0)
    assert len(codes([], "ab12", 18)) == 0
