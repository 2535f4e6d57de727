"""Who was sent, accepted and received: messages that carry their number, and the count afterwards.

A message is 16 characters, then a filling up to the size that is asked for:

    t a g 4 | 0 0 | 0 0 0 0 0 1 2 3 4 5 | bana-dina=1234;…
    tag       publisher  number           filling

The tag is of one repetition, so a late name of an earlier one is a stranger and not counted as
received. Nothing here runs in a timed loop: `codes` turns the messages into numbers afterwards, and
`count` compares the numbers with what the publishers had accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import shake_256
from itertools import islice
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

HEADER = 16
STRANGER = -1
SHIFT = 40  # a code is publisher << 40 | number
_BLOCK = 1 << 24  # characters that are looked at in one go

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Series:
    """The messages of one publisher: `number` of them, each of `size` bytes (16 at least)."""

    tag: str
    publisher: int
    number: int
    size: int = 18

    def __post_init__(self) -> None:
        if len(self.tag) != 4 or not 0 <= self.publisher < 100 or self.size < HEADER or self.number >= 10**10:
            raise ValueError(f"a tag has 4 characters, a message {HEADER} or more, publishers are 0 to 99: {self}")

    def names(self) -> list[str]:
        """All messages in order, made before the clock starts."""
        return list(self.each())

    def each(self) -> Iterator[str]:
        """The messages one by one, in order, each made as it is asked for."""
        head, width = f"{self.tag}{self.publisher:02d}", self.size - HEADER
        thousands = (f"{head}{number:07d}" for number in range(self.number // 1000 + 1))
        tails = [f"{number:03d}{filling(number, width)}" for number in range(1000)]
        return islice((thousand + tail for thousand in thousands for tail in tails), self.number)


def filling(number: int, width: int) -> str:
    """What fills a message of this number: its last three digits choose the text, so near messages have others."""
    at = _place(number, width)
    return _text()[at : at + width].decode()


def _place(number: Any, width: int) -> Any:
    """Where the filling begins in the text, of a number or of an array of them."""
    return number % 1000 * width % (len(_text()) - width)


@cache
def _text() -> bytes:
    """It compresses as real messages do, by zstd and gzip to about a third.

    It is made of hashes, so that it is the same on each machine and with each Python.
    """
    noise, rows = shake_256(b"greet").digest(6 * 70_000), []
    words = [one + other + "na" for one in "bdfgklmn" for other in "aeiou"]
    for start in range(0, len(noise), 6):
        first, second, *others = noise[start : start + 6]
        rows.append(f"{words[first % 40]}-{words[second % 20]}={int.from_bytes(others) % 10_000:04d};")
    return "".join(rows).encode()


@dataclass(frozen=True)
class Count:
    """What became of the messages, over all groups; `reordered` is None where no order is promised.

    `received` counts each message once a group; `strangers` are messages that nobody sent or that
    arrived altered.
    """

    received: int
    lost: int
    duplicates: int
    reordered: int | None
    strangers: int


def codes(names: Sequence[str], tag: str, size: int) -> Codes:
    """The code of each message, in order of receipt; `STRANGER` for what is none of this repetition."""
    result = np.full(len(names), STRANGER, np.int64)
    step = max(1, _BLOCK // size)
    for start in range(0, len(names), step):
        block = names[start : start + step]
        result[start : start + len(block)] = _block(block, tag, size)
    return result


def _block(names: Sequence[str], tag: str, size: int) -> Codes:
    if set(map(len, names)) == {size} and (text := "".join(names)).isascii():
        return _letters(text.encode(), tag, size)
    fits = np.fromiter((len(name) == size and name.isascii() for name in names), bool, len(names))
    result = np.full(len(names), STRANGER, np.int64)
    fitting = "".join(name for name, fit in zip(names, fits, strict=True) if fit)
    result[fits] = _letters(fitting.encode(), tag, size)
    return result


def letters(text: bytes | memoryview, tag: str, size: int) -> Codes:
    """The codes of messages that stand one behind the other, each of `size` bytes; what is left over is a stranger."""
    step = max(1, _BLOCK // size) * size
    whole = len(text) // size * size
    found = [_letters(text[start : min(start + step, whole)], tag, size) for start in range(0, whole, step)]
    rest = [np.full(1, STRANGER, np.int64)] if whole < len(text) else []
    return np.concatenate([np.empty(0, np.int64), *found, *rest])


def _letters(text: bytes | memoryview, tag: str, size: int) -> Codes:
    block = np.frombuffer(text, np.uint8).reshape(-1, size)
    digits = block[:, 4:HEADER] - np.uint8(ord("0"))
    good = (block[:, :4] == np.frombuffer(tag.encode(), np.uint8)).all(axis=1)
    good &= (digits < 10).all(axis=1)
    found = np.zeros(len(block), np.int64)
    for place in range(2, 12):
        found = found * 10 + digits[:, place]
    if width := size - HEADER:
        texts = sliding_window_view(np.frombuffer(_text(), np.uint8), width)
        good &= (block[:, HEADER:] == texts[_place(found, width)]).all(axis=1)
    found |= (digits[:, 0].astype(np.int64) * 10 + digits[:, 1]) << SHIFT
    return np.where(good, found, STRANGER)


def numbers(received: Codes) -> Codes:
    """The number of each message within its publisher's series."""
    return received & ((1 << SHIFT) - 1)


def accepted_codes(publisher: int, number: int, lanes: Sequence[int]) -> Codes:
    """The codes that `publisher` surely got accepted: in lane k of n, the first `lanes[k]` of k, k + n, k + 2n …

    A lane is a task that awaits each of its messages, so its messages keep their order.
    """
    of_lane = [np.arange(lane, number, len(lanes), dtype=np.int64)[:done] for lane, done in enumerate(lanes)]
    found = np.concatenate(of_lane) if of_lane else np.empty(0, np.int64)
    return (found if len(of_lane) == 1 else np.sort(found)) | (publisher << SHIFT)


def count(accepted: Codes, sent: Codes, groups: Sequence[Codes], lanes: int = 1, *, ordered: bool = True) -> Count:
    """Compare what each group received with what was accepted.

    `sent` has what was handed to a publisher, accepted or not: such a message is no stranger.
    Order is looked at within each lane of each publisher, among first receipts: a message counts as
    reordered when a later one of its lane came before it.
    """
    received = lost = duplicates = reordered = strangers = 0
    for group in groups:
        if np.array_equal(group, accepted):  # all of them in the order of their numbers
            received += len(group)
            continue
        known = group[np.isin(group, sent)]
        strangers += len(group) - len(known)
        unique, first = np.unique(known, return_index=True)
        received += len(unique)
        duplicates += len(known) - len(unique)
        lost += len(np.setdiff1d(accepted, unique, assume_unique=True))
        reordered += _reordered(known[np.sort(first)], lanes)
    return Count(received, lost, duplicates, reordered if ordered else None, strangers)


def _reordered(arrivals: Codes, lanes: int) -> int:
    if not len(arrivals):
        return 0
    lane = (arrivals >> SHIFT) * lanes + numbers(arrivals) % lanes
    by_lane = np.argsort(lane, kind="stable")
    ranked = (lane[by_lane] << SHIFT) | numbers(arrivals)[by_lane]
    return int((ranked < np.maximum.accumulate(ranked)).sum())
