"""A workload as its user describes it: keys from a TOML file or flags, each checked, with one line for an error.

The fields of `Workload` are the keys: their defaults, what they mean, and what they may be. Where a file or a
flag has a list, each of its values is tried: `points` makes one `Workload` of each combination.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greet import BadName, Guarantee
from greet.designs import Design
from greet.names import MAX_BYTES, check

HEADER = 16
"""The first bytes of each message are its number, which is used to count it."""
MOST = 2_000_000
"""The largest number of messages in one run."""
LARGER = (
    "store a larger body elsewhere and send a reference; by default RabbitMQ 4 takes up to 16 MiB (max_message_size), "
    "Kafka 1 MiB (message.max.bytes)"
)
"""What to do with larger messages."""
LATE = 0.01
"""The share of messages that may be later than the p99 that is asked for."""
SAMPLES = 1_250
"""The number of messages of a run, if its time allows: a p99 needs 1,000, and the first tenth is left out."""
SHORTEST_S, LONGEST_S = 3.0, 10.0
"""The bounds of a run whose seconds are not given."""
MOST_S = 600
"""The largest number of seconds of a run."""
SPAN = ".."
DAY = 86_400.0
UNITS = {"s": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0, "day": DAY}
GUARANTEES = {
    "nothing": Guarantee.AT_MOST_ONCE,
    "consumer": Guarantee.AT_LEAST_ONCE,
    "broker": Guarantee.DURABLE,
}
"""What a message must survive, and the weakest guarantee for that."""

Value = int | float | str | bool
Offsets = NDArray[np.int64]
"""Nanoseconds from the start of a run, in order."""


class Misread(ValueError):
    """An invalid key or value: `place` is where it was read, such as "orders.toml:3"."""

    def __init__(self, place: str, text: str) -> None:
        super().__init__(f"{place}: {text}")


def _number(least: float, most: float, *, whole: bool = False) -> Callable[[Value], Value]:
    kind = "a whole number" if whole else "a number"

    def read(value: Value) -> Value:
        good = isinstance(value, int) or (isinstance(value, float) and not whole)
        if isinstance(value, bool) or not good or not least <= float(value) <= most:
            raise ValueError(f"{value!a} is not {kind} from {least:,g} to {most:,g}")
        return value

    return read


def _one_of(*known: str) -> Callable[[Value], Value]:
    def read(value: Value) -> Value:
        if value not in known or isinstance(value, bool):
            raise ValueError(f"{value!a} is not one of {', '.join(filter(None, known))}")
        return value

    return read


def _yes_or_no(value: Value) -> Value:
    if not isinstance(value, bool):
        raise ValueError(f"{value!a} is neither true nor false")  # noqa: TRY004, as for every value
    return value


def _text(value: Value) -> Value:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{value!a} is not one line of text")
    return value


def _sizes(value: Value) -> Value:
    try:
        sizes = _parsed_sizes(value)
    except ValueError:
        raise ValueError(f'{value!a} is not a size in bytes: say 800, "200..1000" or "100+4000"') from None
    if not all(HEADER <= size <= MAX_BYTES for size in sizes):
        larger = f": {LARGER}" if max(sizes) > MAX_BYTES else ""
        raise ValueError(f"{value!a}: a message has {HEADER} to {MAX_BYTES:,} bytes here{larger}")
    if SPAN in str(value) and sizes[0] > sizes[-1]:
        raise ValueError(f"{value!a} goes down: say the smaller size first")
    return value


def _parsed_sizes(value: Value) -> tuple[int, ...]:
    text = str(value)
    if SPAN in text:
        least, most = text.split(SPAN)
        return int(least), int(most)
    return tuple(int(one) for one in text.split("+"))


def _rates(value: Value) -> Value:
    try:
        rates = _parsed_rates(value)
    except ValueError:
        raise ValueError(f'{value!a} is not a rate: say 300, or a curve such as "100..1000..100"') from None
    if not all(0 <= rate <= 1_000_000 for rate in rates) or not any(rates):
        raise ValueError(f"{value!a}: a rate is above 0 and at most 1,000,000 messages a second")
    return value


def _parsed_rates(value: Value) -> tuple[float, ...]:
    return tuple(float(one) for one in str(value).split(SPAN))


def _duration(value: Value) -> Value:
    try:
        parsed_duration(value)
    except (ValueError, KeyError):
        raise ValueError(f'{value!a} is not a time: say 0, "30 s", "10 min", "2 h" or "7 days"') from None
    return value


def parsed_duration(value: Value) -> float:
    """The time in seconds. Raises `ValueError` or `KeyError` if it is not a time."""
    if isinstance(value, str):
        number, _, unit = value.strip().partition(" ")
        unit = unit.strip()
        seconds = float(number) * UNITS[unit if unit in UNITS else unit.removesuffix("s")]
    else:
        seconds = float(value)
    if isinstance(value, bool) or not 0 <= seconds < 1e10:
        raise ValueError
    return seconds


def _key(read: Callable[[Value], Value], what: str, part: str = "") -> dict[str, Any]:
    """How a key is read, what it means, and the heading in a file before it."""
    return {"read": read, "what": what, "part": part}


@dataclass(frozen=True)
class Workload:
    """A workload: the messages, how many, the readers, and what is needed."""

    about: str = field(default="", metadata=_key(_text, "one line of description", "The workload"))
    size: Value = field(
        default=200,
        metadata=_key(_sizes, 'bytes of a message; "200..1000" is a range, "100+4000" a mix', "The message"),
    )
    samples: str = field(
        default="",
        metadata=_key(_text, "or a file of sample messages, one a line; its path is relative to this file"),
    )
    rate: Value = field(
        default=100,
        metadata=_key(_rates, 'messages a second in total; "100..1000..100" rises and falls again', "The load"),
    )
    burst: int = field(
        default=1,
        metadata=_key(_number(1, 100_000, whole=True), "messages that are due at the same time; 1 is an even flow"),
    )
    publishers: int = field(
        default=1, metadata=_key(_number(1, 16, whole=True), "publishers that share the load, 16 at most")
    )
    publish: str = field(
        default="each",
        metadata=_key(
            _one_of("each", "many"),
            '"each" by itself, or "many": all due messages as a list (order = "all" does this too)',
        ),
    )
    seconds: float = field(
        default=0,
        metadata=_key(
            _number(0, MOST_S), f"seconds of a run; 0: as long as a p99 needs, {SHORTEST_S:g} to {LONGEST_S:g}"
        ),
    )
    groups: int = field(
        default=1,
        metadata=_key(_number(1, 16, whole=True), "groups, 16 at most; each group gets every message", "The readers"),
    )
    members: int = field(
        default=1, metadata=_key(_number(1, 64, whole=True), "readers that share the messages of a group, 64 at most")
    )
    work_ms: float = field(default=0, metadata=_key(_number(0, 60_000), "milliseconds of work for each message"))
    work: str = field(
        default="wait",
        metadata=_key(_one_of("wait", "compute"), 'the work is to "wait" for something, or to "compute"'),
    )
    survive: str = field(
        default="consumer",
        metadata=_key(
            _one_of(*GUARANTEES),
            'what a message survives: "nothing", a "consumer" or a "broker" killed (RabbitMQ: only then on disk)',
            "The needs",
        ),
    )
    replay: bool = field(
        default=False, metadata=_key(_yes_or_no, "a new group can read again all messages that are kept")
    )
    order: str = field(
        default="none",
        metadata=_key(_one_of("none", "all", "key"), 'order of the messages: "none", "all" of them, or for each "key"'),
    )
    p99_ms: float = field(
        default=100, metadata=_key(_number(0.1, 600_000), "99 of 100 messages must reach a reader within so many ms")
    )
    keep: Value = field(
        default=0,
        metadata=_key(_duration, 'how long messages wait, on disk, for a group that does not read: "30 s", "7 days"'),
    )
    apart: bool = field(
        default=False, metadata=_key(_yes_or_no, "publishers and readers are separate programs or machines")
    )
    partitions: int = field(
        default=0,
        metadata=_key(
            _number(0, 1000, whole=True),
            "partitions of a topic, if the design has them; 0: one for each member",
            "The brokers",
        ),
    )
    queue_type: str = field(
        default="", metadata=_key(_one_of("", "classic", "quorum"), 'type of a RabbitMQ queue: "classic" or "quorum"')
    )
    break_: str = field(
        default="",
        metadata=_key(
            _one_of("", "broker", "consumer", "network"),
            'what breaks: "broker", "consumer" or "network"',
            "What breaks, in a separate run",
        ),
    )
    break_at: float = field(default=1.0, metadata=_key(_number(0.1, 600), "seconds from the start"))
    break_for: float = field(default=2.0, metadata=_key(_number(0.1, 60), "seconds without network"))
    room: bool = field(
        default=True,
        metadata=_key(_yes_or_no, "also search how much more load can be carried", "What is measured"),
    )
    rounds: int = field(
        default=1, metadata=_key(_number(1, 50, whole=True), "repetitions of this load; `compare` needs four or more")
    )

    def check(self) -> None:
        """Raises `Misread` if a value is invalid. One from a file or a flag was checked when it was read."""
        for one in fields(self):
            checked(one.name.rstrip("_"), getattr(self, one.name), type(self).__name__)

    @property
    def guarantee(self) -> Guarantee:
        """The weakest guarantee with which a message survives what it must; what is kept is kept on disk."""
        return Guarantee.DURABLE if self.kept_s else GUARANTEES[self.survive]

    @property
    def lists(self) -> bool:
        """Whether all due messages are published in one call: they stay in order, and one call waits for the next."""
        return self.publish == "many" or self.order == "all"

    @property
    def kept_s(self) -> float:
        """How long messages must be kept for a group that does not read."""
        return parsed_duration(self.keep)

    @property
    def rates(self) -> tuple[float, ...]:
        """The corners of the curve, in messages a second; one corner is a steady rate."""
        return _parsed_rates(self.rate)

    @property
    def mean_rate(self) -> float:
        """Messages a second over a whole run."""
        rates = self.rates
        return float(np.trapezoid(rates)) / (len(rates) - 1) if len(rates) > 1 else rates[0]

    @property
    def for_s(self) -> float:
        """Seconds of a run: as given, or as long as a p99 needs, within bounds."""
        return self.seconds or min(max(SAMPLES / self.mean_rate, SHORTEST_S), LONGEST_S)

    def handled_at_most(self, design: Design) -> float:
        """How many messages a second the readers of a group handle at most, were there a core for each of them."""
        return design.at_work(self.members, self.partitions) * 1000 / self.work_ms if self.work_ms else math.inf

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of a mix, or the ends of a range."""
        return _parsed_sizes(self.size)

    def due(self, seconds: float, factor: float = 1.0) -> Offsets:
        """When each message is due, with all rates times `factor`. Bursts keep their size and come more often.

        A burst stands in the middle of the time that its messages would have taken one by one.
        """
        rates = np.asarray(self.rates if len(self.rates) > 1 else self.rates * 2) * factor
        times = np.linspace(0, seconds, 100 * (len(rates) - 1) + 1)
        speeds = np.interp(times, np.linspace(0, seconds, len(rates)), rates)
        so_far = np.concatenate([[0], np.cumsum((speeds[1:] + speeds[:-1]) / 2 * np.diff(times))])
        number = np.arange(max(1, round(so_far[-1])), dtype=float)
        first = number // self.burst * self.burst
        middle = first + np.minimum(self.burst, len(number) - first) / 2
        rising = np.maximum.accumulate(so_far + np.arange(len(so_far)) * 1e-9)
        found: Offsets = (np.interp(middle, rising, times) * 1e9).astype(np.int64)
        return found

    def bodies(self, number: int, sample: Lines = ()) -> list[int] | list[str]:
        """What follows the header of each message: how many bytes, or the rest of a sample."""
        if sample:
            return [sample[k % len(sample)] for k in range(number)]
        sizes = np.asarray(self.sizes)
        if SPAN in str(self.size):
            found = np.random.default_rng(0).integers(sizes[0], sizes[1], number, endpoint=True)
        else:
            found = sizes[np.arange(number) % len(sizes)]
        rest: list[int] = (found - HEADER).tolist()
        return rest

    @property
    def mean_size(self) -> float:
        """Bytes of a message."""
        return float(np.mean(self.sizes))

    def told(self) -> str:
        """The workload in words, on one line."""
        burst = f" in bursts of {self.burst:,}" if self.burst > 1 else ""
        readers = _many(self.members, "reader")
        if self.groups > 1:
            readers = f"{self.groups} groups of {readers}"
        work = f", {self.work_ms:g} ms of {'waiting' if self.work == 'wait' else 'computing'} each"
        size = f"like {Path(self.samples).name}" if self.samples else f"of {self.size} bytes"
        publishers = "" if self.publishers == 1 else f" from {self.publishers} publishers"
        return f"{self.rate} messages a second {size}{burst}{publishers} to {readers}{work if self.work_ms else ''}"

    def needed(self) -> str:
        """What is needed, in words."""
        needs = [f"p99 within {self.p99_ms:g} ms"]
        if self.survive != "nothing":
            needs.append(f"survives a {self.survive}'s kill")
        needs += ["replay"] if self.replay else []
        needs += [{"all": "order", "key": "order by key"}[self.order]] if self.order != "none" else []
        needs += [f"kept for {told_time(self.keep)}"] if self.kept_s else []
        needs += ["separate programs"] if self.apart else []
        return ", ".join(needs)


Lines = tuple[str, ...] | list[str]


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def told_time(value: Value) -> str:
    """A time as it was written."""
    return value if isinstance(value, str) else f"{value:g} s"


def names() -> tuple[str, ...]:
    """The keys, in order."""
    return tuple(one.name.rstrip("_") for one in fields(Workload))


def meaning() -> Iterator[tuple[str, Value, str, str]]:
    """For each key: its name, its default, what it means, and the heading in the file before it, or ""."""
    for one in fields(Workload):
        default: Any = one.default
        yield one.name.rstrip("_"), default, one.metadata["what"], one.metadata["part"]


def example() -> str:
    """A file with every key, its meaning and its default."""
    lines = ["# A workload: `python -m bench workload THIS_FILE`. A list instead of a value tries each of its values."]
    for name, default, what, part in meaning():
        if part:
            lines += ["", f"# {part}"]
        value = str(default).lower() if isinstance(default, bool) else f'"{default}"'
        value = value if isinstance(default, str | bool) else f"{default:g}"
        lines.append(f"{f'{name} = {value}':<24}# {what}")
    return "\n".join(lines) + "\n"


Said = Mapping[str, tuple[Value, ...]]
"""The values to try of each key that is given."""


def from_file(path: Path) -> dict[str, tuple[Value, ...]]:
    """The keys and values of a TOML file.

    Raises:
        Misread: a key or value that is none, with file and line.
        OSError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise Misread(str(path), f"{error.strerror}: `python -m bench workload --init {path}` writes one") from None
    except UnicodeDecodeError as error:
        raise Misread(str(path), f"is not UTF-8 at byte {error.start + 1}") from None
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        line = re.search(r" \(at line (\d+), column \d+\)", said)
        ended = text.count("\n") + (not text.endswith("\n"))
        place = f"{path}:{line[1] if line else ended}"
        hint = ": each key needs a value, and text needs quotes" if said.startswith("Invalid value") else ""
        raise Misread(place, f"is not TOML: {said.partition(' (at')[0]}{hint}") from None
    said_of = {}
    for key, value in found.items():
        place = f"{path}:{_line(text, key)}"
        said_of[key] = checked(key, value, place)
        if key == "samples":
            said_of[key] = tuple(str(path.parent / str(one)) if one else one for one in said_of[key])
            for one in filter(None, said_of[key]):
                lines_of(Path(str(one)), place)
    return said_of


def _line(text: str, key: str) -> int:
    """The line of a key at the top level of a file, as a key or a table."""
    wanted = re.compile(rf"""\s*(\[\s*)*["']?{re.escape(key)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(text.splitlines(), start=1) if wanted.match(line)), 1)


def from_flag(key: str, text: str) -> tuple[Value, ...]:
    """The values of `--KEY TEXT`: one, or several separated by commas. Raises `Misread`."""
    place = f"--{key.replace('_', '-')}"
    words = [text] if key in ("about", "samples") else text.split(",")
    found = checked(key, [_plain(word.strip()) for word in words], place)
    if key == "samples" and text:
        lines_of(Path(text), place)
    return found


def _plain(word: str) -> Value:
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def checked(key: str, value: Any, place: str) -> tuple[Value, ...]:
    """The values to try of `key`. Raises `Misread`."""
    by_name = {one.name.rstrip("_"): one for one in fields(Workload)}
    if key not in by_name:
        if isinstance(value, dict):
            raise Misread(place, f"[{key}] is a table: write its keys without one")
        raise Misread(place, f"there is no key {key!a}{_nearest(key)}")
    values = value if isinstance(value, list) else [value]
    if not values:
        raise Misread(place, f"{key} has no value")
    read, found = by_name[key].metadata["read"], []
    for one in values:
        if not isinstance(one, int | float | str):
            raise Misread(place, f"{key}: {one!a} is not a single value")
        try:
            found.append(read(one))
        except ValueError as error:
            raise Misread(place, str(error) if place.startswith("--") else f"{key}: {error}") from None
    return tuple(dict.fromkeys(found))


def _nearest(key: str) -> str:
    close = get_close_matches(key, names(), n=1, cutoff=0.5)
    return f": do you mean {close[0]}?" if close else f": use {', '.join(names())}"


def lines_of(path: Path, place: str) -> list[str]:
    """The sample messages of a file, each without the first characters, which its number replaces.

    Raises:
        Misread: it cannot be read, is empty, or a line is not a message: with its file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misread(place, f"samples: {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Misread(place, f"samples: {path} is not UTF-8 at byte {error.start + 1}") from None
    found = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        try:
            check(line.removesuffix("\r"))
        except BadName as error:
            raise Misread(f"{path}:{number}", str(error)) from None
        found.append(_after_header(line.removesuffix("\r")))
    if not found:
        raise Misread(place, f"samples: {path} is empty")
    return found


def _after_header(line: str) -> str:
    taken = 0
    for place, character in enumerate(line):
        if taken >= HEADER:
            return line[place:]
        taken += len(character.encode())
    return ""


def _mean_size(path: str) -> int:
    """Bytes of a message of a file of samples, on average."""
    rest = lines_of(Path(path), path)
    return round(HEADER + sum(len(line.encode()) for line in rest) / len(rest))


def points(said: Said) -> list[Workload]:
    """A workload for each combination of the values.

    Raises:
        ValueError: one of them says two things that do not go together.
    """
    sizes = {path: _mean_size(str(path)) for path in said.get("samples", ()) if path}
    keys = [one.name for one in fields(Workload) if one.name.rstrip("_") in said]
    found = []
    for values in product(*(said[key.rstrip("_")] for key in keys)):
        chosen: dict[str, Any] = dict(zip(keys, values, strict=True))
        one = Workload(**chosen)
        if one.samples:  # their size counts, not what is said of the size
            one = replace(one, size=sizes[one.samples])
        number = one.mean_rate * one.for_s
        if number > MOST:
            raise ValueError(f"{number:,.0f} messages in a run are more than {MOST:,}: lower the rate or the seconds")
        if one.burst > number:
            raise ValueError(
                f"a run of {one.for_s:g} seconds has {number:,.0f} messages, and no burst of {one.burst:,}: "
                "lower the burst, or raise the rate or the seconds"
            )
        if one.break_ and one.break_at * 1e9 >= one.due(one.for_s)[-1]:
            raise ValueError(
                f"break_at {one.break_at:g} is not before the last message of the run of {one.for_s:g} seconds"
            )
        found.append(one)
    return found


def dimensions(said: Said) -> tuple[str, ...]:
    """The keys that have more than one value."""
    return tuple(key for key, values in said.items() if len(values) > 1)
