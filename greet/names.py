"""What a name is, and the two sentences that are made from it."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from greet.errors import BadName
from greet.tasks import looked_at

MAX_BYTES = 65_536
USUAL = 100  # a usual name has at most so many characters
SHORT = MAX_BYTES // 4  # so many characters are never more than MAX_BYTES: each has at most four bytes
JOINERS = "\u200c\u200d"  # real names use them: Persian ZWNJ, the ZWJ of Indic scripts
LONG = 8192  # from so many characters on, a name is checked by itself, and a text by numpy
_CONTROLS = "".join(map(chr, [*range(32), 127]))  # all invisible characters of ASCII
_OTHERS = bytes.maketrans(_CONTROLS.encode(), b"?" * 33)
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

    The Unicode categories Cc, Cf, Cs, Zl and Zp are refused, except the two joiners U+200C and
    U+200D. Only a name with unusual characters is checked character by character.
    """
    if type(name) is str and 0 < len(name) <= USUAL and name.isprintable():
        return  # a usual name needs no further checks
    if not isinstance(name, str):
        raise BadName(f"a name is a str, not {type(name).__name__}: pass text")
    if len(name) > MAX_BYTES:  # so it has more bytes too
        raise BadName(f"a name has 1 to {MAX_BYTES:,} bytes of UTF-8, this one {_size(name):,}: shorten it")
    if not name:
        raise BadName(f"a name has 1 to {MAX_BYTES:,} bytes of UTF-8, this one none: leave it out")
    visible = _visible(name)
    if visible and len(name) <= SHORT:
        return
    for place, character in enumerate("" if visible else name):
        what = _FORBIDDEN.get(unicodedata.category(character))
        if what and character not in JOINERS:
            code = f"U+{ord(character):04X}"
            raise BadName(f"a name cannot hold {what}: {code} at character {place + 1}; remove it")
    if (size := _size(name)) > MAX_BYTES:
        raise BadName(f"a name has 1 to {MAX_BYTES:,} bytes of UTF-8, this one {size:,}: shorten it")


def check_all(names: Sequence[str]) -> int:
    """`check` each of `names`; return the number of characters of all.

    Short names are joined and checked in one pass; long ones one by one, because joining would copy too much.
    """
    with suppress(TypeError):  # one of them is not a str: `check` raises that
        if names and len(names[0]) < LONG and len(names[-1]) < LONG:
            text = "".join(names)
            if _visible(text) and "" not in names and (len(text) <= SHORT or max(map(len, names)) <= SHORT):
                return len(text)
    for name in names:
        check(name)
    return sum(map(len, names))


def _visible(text: str) -> bool:
    """Whether `text` certainly has nothing that `check` refuses, checked in C.

    `str.isprintable` looks up each character in Unicode's tables. ASCII has 33 invisible characters, which `_clean`
    finds faster.
    """
    if len(text) <= USUAL or not text.isascii():
        return text.isprintable()
    return _clean(text.encode())


def _clean(text: bytes) -> bool:
    """Whether `text` is certainly visible ASCII.

    `translate` finds that nothing must change four times as fast as `isprintable`. numpy is about twenty times as fast
    as that, but needs about 5 µs to start, and is imported only for the first long text.
    """
    if len(text) < LONG:
        return text.isascii() and text.translate(_OTHERS) is text
    import numpy as np  # noqa: PLC0415

    codes = np.frombuffer(text, np.uint8)
    return bool(codes.min() >= ord(" ") and codes.max() <= ord("~"))


def clean(bodies: Sequence[bytes | None]) -> bool:
    """Whether each of `bodies` is certainly a name, of visible ASCII: one pass over all of them."""
    with suppress(TypeError):  # one of them is None
        text = b"".join(bodies)  # type: ignore[arg-type]
        return _clean(text) and all(bodies) and (len(text) <= MAX_BYTES or max(map(len, bodies)) <= MAX_BYTES)  # type: ignore[arg-type]
    return False


def _size(name: str) -> int:
    return len(name.encode(errors="surrogatepass"))


def counted(number: int) -> str:
    """So many names in words: "1 name", "1,200 names"."""
    return f"{number:,} name{'s' * (number != 1)}"


def decode(body: bytes) -> str:
    """The name in a message's body; raises `BadName` if it is not a name."""
    try:
        name = body.decode()
    except UnicodeDecodeError as error:
        raise BadName(f"a message is not UTF-8 at byte {error.start + 1}") from None
    check(name)
    return name


def chunks(names: Iterable[str], size: int, characters: int) -> Iterator[list[str] | BadName]:
    """The names in lists of at most `size` names and `characters` (a longer name has its own list), all checked.

    A list is checked as a whole before it is handed out. So if a name is bad, the lists before it were
    sent, and nothing of its own list. Then the error comes last, and is not raised: `names` may raise such errors too.
    """
    names, some = iter(names), min(size, 100)  # `some` follows the length of the names before: memory stays bounded
    while chunk := list(islice(names, some)):
        try:
            length = check_all(chunk)
        except BadName as error:
            yield error
            return
        some = max(1, min(size, characters * len(chunk) // length))
        if length <= characters:
            yield chunk
            continue
        start = length = 0
        for end, name in enumerate(chunk):
            if length + len(name) > characters and end > start:
                yield chunk[start:end]
                start, length = end, 0
            length += len(name)
        yield chunk[start:]


async def arriving(names: AsyncIterable[str], size: int) -> AsyncGenerator[list[str]]:
    """The names in lists of at most `size`: each has the names that came while the last list was sent."""
    come: asyncio.Queue[str | _End] = asyncio.Queue(size)

    leaving = False

    async def read() -> None:
        try:
            async for name in names:
                await come.put(name)
        except BaseException as error:  # whatever it is, the caller gets it
            if leaving:
                raise
            await come.put(_End(error))
        else:
            await come.put(_End())

    reading = asyncio.create_task(read())
    reading.add_done_callback(looked_at)
    try:
        while True:
            some = [await come.get()]
            while not come.empty():
                some.append(come.get_nowait())
            end = some.pop() if isinstance(some[-1], _End) else None
            if some:
                yield some  # type: ignore[misc]
            if isinstance(end, _End):
                if end.error:
                    raise end.error
                return
    finally:
        leaving = True
        reading.cancel()
        await asyncio.wait([reading])


@dataclass(frozen=True)
class _End:
    """The end of the names."""

    error: BaseException | None = None
