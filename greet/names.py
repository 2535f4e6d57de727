"""What a name is, and the two sentences that are made of it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from greet.errors import BadName

MAX_BYTES = 65_536
SHORT = MAX_BYTES // 4  # characters that are never more bytes than that: one has four at most
JOINERS = "\u200c\u200d"  # real names use them: Persian ZWNJ, the ZWJ of Indic scripts
_FORBIDDEN = {
    "Cc": "a control character",
    "Cf": "an invisible format character",
    "Cs": "a lone surrogate",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}


def hello(name: str) -> str:
    """The sentence of the first consumer.

    >>> hello("Ada")
    'hello Ada'
    """
    return f"hello {name}"


def goodbye(name: str) -> str:
    """The sentence of the second consumer.

    >>> goodbye("Ada")
    'goodbye Ada'
    """
    return f"goodbye {name}"


def check(name: str) -> None:
    """Raise `BadName` unless `name` is 1 to 65,536 bytes of UTF-8 without invisible characters.

    Refused are the Unicode categories Cc, Cf, Cs, Zl and Zp, but for the two joiners U+200C and
    U+200D. `str.isprintable` is false for all of these and runs in C, so that only a name with
    something unusual in it is looked at character by character.
    """
    if type(name) is str and name.isprintable() and 0 < len(name) <= SHORT:
        return
    if not isinstance(name, str):
        raise BadName(f"a name is a str, not {type(name).__name__}: pass text")
    for place, character in enumerate("" if name.isprintable() else name):
        what = _FORBIDDEN.get(unicodedata.category(character))
        if what and character not in JOINERS:
            code = f"U+{ord(character):04X}"
            raise BadName(f"a name cannot hold {what}: {code} at character {place + 1}; remove it")
    size = len(name.encode())
    if not 1 <= size <= MAX_BYTES:
        raise BadName(f"a name has 1 to {MAX_BYTES:,} bytes of UTF-8, this one {size:,}: shorten it")


def check_all(names: Sequence[str]) -> None:
    """`check` for each of `names`, many at a time: one pass in C when all of them are usual."""
    try:
        usual = "".join(names).isprintable() and min(map(len, names)) > 0 and max(map(len, names)) <= SHORT
    except (TypeError, ValueError):
        usual = False
    if not usual:
        for name in names:
            check(name)


def decode(body: bytes) -> str:
    """The name in a message's body; raises `BadName` when it holds none."""
    try:
        name = body.decode()
    except UnicodeDecodeError as error:
        raise BadName(f"a message is no UTF-8 at byte {error.start + 1}") from None
    check(name)
    return name
