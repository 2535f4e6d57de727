"""What a name is, against Unicode's own categories."""

from __future__ import annotations

import unicodedata
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greet import BadName, goodbye, hello
from greet.names import JOINERS, MAX_BYTES, check, check_all, chunks, decode

REAL = ["Ada", "José", "Zoë", "O'Brien", "Nguyễn Thị Minh", "李小龙", "Владимир", "محمد", "שָׂרָה", "नेहा", "می‌خواهم", "क्‍ष"]
anything = st.text(st.characters(), max_size=50)  # surrogates too


def allowed(text: str) -> bool:
    """The contract's sentence, word by word and slowly."""
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in JOINERS for c in text):
        return False
    return 1 <= len(text.encode()) <= 65_536


def refused(text: str) -> bool:
    try:
        check(text)
    except BadName as error:
        assert str(error).isprintable()
        return True
    return False


def test_the_two_sentences() -> None:
    assert (hello("Ada"), goodbye("Ada")) == ("hello Ada", "goodbye Ada")


@pytest.mark.parametrize("name", REAL)
def test_real_names(name: str) -> None:
    check(name)
    assert decode(name.encode()) == name


@given(anything)
def test_exactly_the_names_of_the_contract(text: str) -> None:
    assert refused(text) is not allowed(text)


@given(st.lists(anything, max_size=8))
def test_many_are_judged_as_each_is(texts: list[str]) -> None:
    if all(map(allowed, texts)):
        check_all(texts)
    else:
        with pytest.raises(BadName):
            check_all(texts)


@given(st.binary(max_size=50))
def test_what_comes_off_the_wire(body: bytes) -> None:
    try:
        name = decode(body)
    except BadName:
        assert not body or not _is_utf8(body) or not allowed(body.decode())
    else:
        assert name.encode() == body
        assert allowed(name)


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(deadline=None)  # the first long text imports numpy
@given(anything, st.sampled_from(["x" * 600, "ä" * 600, "x" * 17_000]), st.booleans())
def test_long_ones_are_judged_as_short_ones(text: str, more: str, before: bool) -> None:
    """What is long and ASCII is looked at as bytes."""
    name = more + text if before else text + more
    assert refused(name) is not allowed(name)
    if allowed(name):
        check_all([name, "Ada"])
    else:
        with pytest.raises(BadName):
            check_all([name, "Ada"])


def test_every_character_of_ascii_in_a_long_name() -> None:
    wrong = [code for code in range(128) if refused("x" * 600 + chr(code)) is (chr(code).isprintable())]
    assert wrong == []


@pytest.mark.parametrize(("name", "good"), [("x" * 65_536, True), ("x" * 65_537, False), ("ä" * 32_769, False)])
def test_the_longest_of_many(name: str, good: bool) -> None:
    if good:
        check_all([name] * 3)
    else:
        with pytest.raises(BadName):
            check_all(["Ada", name])


def test_every_character_there_is() -> None:
    wrong = [f"U+{code:04X}" for code in range(0x110000) if refused(chr(code)) is allowed(chr(code))]
    assert wrong == []


@pytest.mark.parametrize("unit", ["a", "é", "李", "𝒜"])
def test_the_length_is_counted_in_bytes(unit: str) -> None:
    most = MAX_BYTES // len(unit.encode())
    check(unit * most)
    check_all([unit * most])
    with pytest.raises(BadName, match="1 to 65,536 bytes"):
        check(unit * (most + 1))
    with pytest.raises(BadName, match="1 to 65,536 bytes"):
        check_all(["Ada", unit * (most + 1)])


@pytest.mark.parametrize("thing", [b"Ada", None, 7, ["Ada"]])
def test_only_text_is_a_name(thing: object) -> None:
    with pytest.raises(BadName, match="a name is a str, not"):
        check(thing)  # type: ignore[arg-type]
    with pytest.raises(BadName, match="a name is a str, not"):
        check_all(["Ada", thing])  # type: ignore[list-item]


def test_the_reason_names_the_offender_escaped() -> None:
    with pytest.raises(BadName, match=r"an invisible format character: U\+202E at character 3"):
        check("ab\u202ec")


@given(st.lists(st.text("aé李𝒜", min_size=1, max_size=9), max_size=30), st.integers(1, 9))
def test_chunks_keep_all_and_the_order(names: list[str], size: int) -> None:
    cut = [chunk for chunk in chunks(iter(names), size, 65_536) if isinstance(chunk, list)]
    assert list(chain.from_iterable(cut)) == names
    assert all(0 < len(chunk) <= size for chunk in cut)


def test_chunks_are_bounded_in_characters() -> None:
    names = ["x" * 40_000, "y" * 20_000, "z" * 20_000, "a"] * 50
    cut = [chunk for chunk in chunks(names, 500, 65_536) if isinstance(chunk, list)]
    assert list(chain.from_iterable(cut)) == names
    assert max(sum(map(len, chunk)) for chunk in cut) <= 65_536
