"""What the files of a run hold: checked here, once, where they are read, so that nobody after has to look again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from bench.model import JAVA, PERFTEST, Measurement
from greet import Guarantee

MOST = 1e15
"""No figure of a run is larger."""


class BadRun(ValueError):
    """A file of a run is damaged: its name, the line, and what is wrong there."""


@dataclass(frozen=True)
class Kind:
    """What a value has to be."""

    said: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST < value < MOST


def _is_figure(value: Any) -> bool:
    """Of the details: null, a number, a text, or lists and objects of those."""
    if isinstance(value, list):
        return all(map(_is_figure, value))
    if isinstance(value, dict):
        return all(map(_is_figure, value.values()))
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _is_latencies(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, dict)
        and all(
            _is_curve(of) if key == "tail" else of is None or (_is_number(of) and (of > 0 or what not in TIMES))
            for key, of in one.items()
        )
        for what, one in value.items()
    )


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(_is_number, point)) for point in value
    )


def _optional(kind: Kind) -> Kind:
    return Kind(f"{kind.said} or null", lambda value: value is None or kind.holds(value))


def _each(kind: Kind) -> Kind:
    return Kind(
        f"an object, each value {kind.said}",
        lambda value: isinstance(value, dict) and all(map(kind.holds, value.values())),
    )


def _listed(kind: Kind) -> Kind:
    return Kind(f"a list, each {kind.said}", lambda value: isinstance(value, list) and all(map(kind.holds, value)))


def _one_of(*known: str) -> Kind:
    return Kind(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known)


TIMES = ("intended", "service")
"""The clocks of a message; how late it was sent may be nothing, too."""
TEXT = Kind("a text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a whole number from 0 on", lambda value: _is_number(value) and isinstance(value, int) and value >= 0)
NUMBER = Kind("a number", _is_number)
FROM_0 = Kind("a number from 0 on", lambda value: _is_number(value) and value >= 0)
POSITIVE = Kind("a positive number", lambda value: _is_number(value) and value > 0)
SCALAR = Kind(
    "a text, a number, true, false or null", lambda value: not isinstance(value, list | dict) and _is_figure(value)
)
CURVE = Kind("a list of pairs of numbers", _is_curve)
LATENCIES = Kind("an object of percentiles", _is_latencies)
NUMBERED = Kind("a number and its unit", lambda value: isinstance(value, str) and bool(re.match(r"\d+ \S", value)))
RENAMED = {"names_per_s": "messages_per_s"}
"""Fields of a row in the runs of before, and what they are called now."""
REWORDED = {
    "bare queue: a cancelled reader loses its name": "bare queue: a cancelled reader loses its message",
    **dict.fromkeys(
        ("lists of 100: settled by the hundred", "lists of 100: acknowledged by the hundred"),
        "in lists: acknowledged by the list",
    ),
    "getmany: a batch is settled as a whole": "getmany: a batch is committed as a whole",
}
"""Rungs of the ladder in the runs of before."""
ROW = {
    **dict.fromkeys(("run", "question", "design", "contender"), TEXT),
    "guarantee": _one_of(*(one.name for one in Guarantee)),
    "params": _each(SCALAR),
    "repetition": COUNT,
    **dict.fromkeys(("sent", "accepted", "received", "lost", "duplicates", "reordered"), _optional(COUNT)),
    **dict.fromkeys(("elapsed_s", "messages_per_s", "target_rate"), _optional(POSITIVE)),
    "latency_ms": _optional(_each(_optional(POSITIVE))),
    **dict.fromkeys(("cpu_s", "rss_mb"), _optional(_each(_optional(NUMBER)))),
    **dict.fromkeys(("survives", "error"), _optional(TEXT)),
}
PARAMS = {
    "way": TEXT,
    "phase": _one_of("together", "publish", "consume", "apart"),
    "again": FLAG,
    **dict.fromkeys(("size", "publishers", "groups", "members", "partitions"), POSITIVE),
    **dict.fromkeys(("window", "load", "rate"), _optional(POSITIVE)),
    "rung": TEXT,
    "loop": TEXT,
    **dict.fromkeys(("fault", "allowed"), _optional(TEXT)),
    "control": FLAG,
    "recovered": FLAG,
    "times": COUNT,
    **dict.fromkeys(("gap_s", "pause_s"), _optional(FROM_0)),
}
USUAL = {
    "load": None,
    "rate": None,
    "rung": "",
    "size": 18,
    "publishers": 1,
    "groups": 1,
    "members": 1,
    "partitions": 1,
}
"""What a row without these params is of."""
OF_FAULTS = {"fault": "", "times": 0, "allowed": "", "control": False, "recovered": True, "gap_s": None}
DETAILS = {
    "latencies": LATENCIES,
    "members": _listed(COUNT),
    "progress_s": _listed(CURVE),
    **dict.fromkeys(("grown_mb", "disk_mb"), _optional(NUMBER)),
}
ABOUT = {
    **dict.fromkeys(("run", "python"), TEXT),
    "complete": FLAG,
    "machine": _each(Kind("a figure or a list of them", _is_figure)),
    "clients": _each(TEXT),
    "brokers": _each(_optional(TEXT)),
    "settings": _each(Kind("a figure, a list or an object of them", _is_figure)),
    "questions": _listed(TEXT),
    "elapsed_s": _each(FROM_0),
    "commit": _optional(TEXT),
}
MACHINE = {
    "cpu": TEXT,
    "usable": COUNT,
    "memory_gb": FROM_0,
    "os": TEXT,
    "load_average": Kind("a list of numbers from 0 on", lambda value: _listed(FROM_0).holds(value) and bool(value)),
    "busy": _optional(FROM_0),
}
SETTINGS = {"profile": TEXT, "rounds": COUNT, "loop": TEXT, "seed": NUMBER, "defaults": _each(TEXT)}


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a measurements.jsonl, each with all its fields, under the names that they have today."""
    found = []
    for where, line in lines(file):
        row = {RENAMED.get(key, key): value for key, value in line.items()}
        row = {one.name: None for one in fields(Measurement) if one.default is not MISSING} | row
        _check(where, row, ROW)
        usual = USUAL | (OF_FAULTS if row["question"] == "faults" else {})
        params = row["params"] = {
            **row["params"],
            **{key: one for key, one in usual.items() if key not in row["params"]},
        }
        if row["question"] in ("scaling", "work"):
            _check(where, params, {"rung": NUMBERED}, "params.")
        needed = ("way", "phase", "again")
        _check(where, params, {key: kind for key, kind in PARAMS.items() if key in params or key in needed}, "params.")
        params["rung"] = REWORDED.get(params["rung"], params["rung"])
        _correct(row, params)
        found.append({key: row[key] for key in ROW})
    return found


def _correct(row: dict[str, Any], params: dict[str, Any]) -> None:
    """Say what is true where older runs said something else: of the loop, the window and the counts of some rows."""
    if row["contender"] in (JAVA, PERFTEST):
        params["loop"] = "Java"
    elif row["question"] in ("scaling", "takeover"):
        params["loop"] = "select"
    if row["contender"] == PERFTEST:
        params["window"] = 500
        if row["target_rate"]:  # at a rate it tells none
            row.update(dict.fromkeys(("sent", "accepted", "received", "lost", "duplicates", "reordered")))


def details(file: Path) -> list[dict[str, Any]]:
    """The lines of a details.jsonl."""
    found = []
    for where, line in lines(file):
        _check(where, line, {key: kind for key, kind in DETAILS.items() if key in line})
        if dotted := [key for key in line if "." in key]:
            raise BadRun(f"{where}: has a field with a dot: {_short(dotted[0])}")
        found.append({key: value for key, value in line.items() if key not in ROW})
    return found


def about(file: Path) -> dict[str, Any]:
    """What a run.json says."""
    found = _object(f"{file}", file.read_bytes())
    found = {"questions": [], "elapsed_s": {}, "commit": None} | found
    _check(f"{file}", found, ABOUT)
    found["machine"].setdefault("busy", None)  # of an earlier run
    _check(f"{file}", found["machine"], MACHINE, "machine.")
    found["settings"].setdefault("defaults", {})
    _check(f"{file}", found["settings"], SETTINGS, "settings.")
    return found


def lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line is, and its object. A last one that was cut short, by a full disk or a power cut, is left out."""
    parts = file.read_bytes().split(b"\n")
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        try:
            if part or not last:
                yield f"{file}, line {number}", _object(f"{file}, line {number}", part)
        except BadRun:
            if not last:
                raise


def _object(where: str, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        at = f", line {error.lineno}" if error.lineno > 1 else ""
        raise BadRun(f"{where}{at}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise BadRun(f"{where}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadRun(f"{where}: is not an object, but {_short(found)}")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _check(where: str, found: Mapping[str, Any], kinds: Mapping[str, Kind], within: str = "") -> None:
    for key, kind in kinds.items():
        if key not in found:
            raise BadRun(f"{where}: has no {within}{key}")
        if not kind.holds(found[key]):
            raise BadRun(f"{where}: {within}{key} must be {kind.said}, but is {_short(found[key])}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
