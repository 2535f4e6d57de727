"""What each process writes down, and what all of it says of the messages: Jepsen's accounting.

A trial has a folder with a file for each process, `publisher-3.jsonl`, `member-1.jsonl` and, of a publisher
that pours, `flood-4.jsonl`; one JSON object a line, written at once, so that it outlives a SIGKILL of who wrote it:

    t       seconds of the machine's monotonic clock, the same for all processes
    event   of all: "started" (with role, group, design, guarantee and topic), "ended" (with error, or null),
            and "state" every few seconds (with rss_mb, fds, threads and tasks of the process)
            of a publisher: "trying", then "accepted", "refused" (surely not) or "unknown" (nobody can tell)
            of a member: "ready" when it has joined, "left" when it has left, and "taken", then "handled"
            for each message that it was handed
    name    the name: 4 characters of the trial, 2 of the lane, 10 of its number in the lane

`fault.jsonl` has "begins" and "flows" for each injection: the harm, and messages of later being handled in
every group. To count again, leaving out lane 99, the end markers: sent = tried. accepted and refused as
they say, unknown = tried and neither. For each group, over all of its members: lost = accepted and never
handled; unexpected = handled and never tried; duplicates = handled less handled once; reordered, where the
group has one member at a time = first handlings of accepted messages that come after one of a higher number in
their lane: a message that is unknown may still arrive when its publisher has gone on. A message that was taken and
not handled was in the hands of a member that died. `recount.py` does it, and nothing more.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import account

GROUPS = ("hello", "goodbye")
MARKERS = 99
"""The lane of the end markers."""
GROWTH = {"rss_mb": 15.0, "fds": 4, "threads": 2, "tasks": 4}
"""What a process may have more at the end of a soak than after its first quarter."""
ANSWERS = {"trying": "sent", "accepted": "accepted", "refused": "refused", "unknown": "unknown"}


class Journal:
    """A file that is written line by line, each at once."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: str, name: str | None = None, **more: Any) -> None:
        """Add a line."""
        line = {"t": round(time.monotonic(), 6), "event": event} | ({"name": name} if name else {}) | more
        os.write(self._handle, (json.dumps(line) + "\n").encode())

    def close(self) -> None:
        """Give the file back."""
        os.close(self._handle)


class Reader:
    """A journal that is read while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def fresh(self) -> list[dict[str, Any]]:
        """The events since the last time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines()]


@dataclass
class Window:
    """An injection: from the harm until messages of later are handled in every group."""

    begins: float
    flows: float | None = None


@dataclass
class Book:
    """The events of a trial so far, those of end markers apart."""

    sent: dict[str, float] = field(default_factory=dict)
    """When each was tried."""
    accepted: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    unknown: dict[str, float] = field(default_factory=dict)
    """Those of which the publisher has learned so: not those of a publisher that died."""
    handled: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: {group: [] for group in GROUPS})
    seen: dict[str, set[str]] = field(default_factory=lambda: {group: set() for group in GROUPS})
    marked: set[str] = field(default_factory=set)
    """The groups that have handled an end marker."""
    windows: list[Window] = field(default_factory=list)

    def add(self, event: Mapping[str, Any], group: str) -> None:
        """Take an event of a publisher, or of a member of `group`."""
        name, kind = event.get("name", ""), event["event"]
        if name[4:6] == str(MARKERS):
            if kind == "handled":
                self.marked.add(group)
        elif kind == "handled":
            self.handled[group].append((event["t"], name))
            self.seen[group].add(name)
        elif kind in ANSWERS:
            getattr(self, ANSWERS[kind])[name] = event["t"]

    def flows(self, since: float, enough: int) -> bool:
        """Whether every group has handled `enough` of the messages that were accepted after `since`."""
        fresh = set()
        for name, accepted in reversed(self.accepted.items()):
            if accepted < since - 1:  # two publishers' journals are not read in step
                break
            if accepted > since:
                fresh.add(name)
        return all(len(fresh & seen) >= enough for seen in self.seen.values())

    def missing(self) -> int:
        """How many messages are accepted and not handled, over the groups."""
        return sum(len(self.accepted.keys() - seen) for seen in self.seen.values())

    def count(self, *, ordered: bool) -> account.Count:
        """What became of the messages."""
        return reckoned(list(self.sent), list(self.accepted), [self.names(group) for group in GROUPS], ordered=ordered)

    def names(self, group: str) -> list[str]:
        """What a group has handled, in the order of time."""
        return [name for _, name in sorted(self.handled[group])]

    def gaps(self) -> list[float]:
        """For each injection the longest time without a message handled, in either group."""
        return [max(self._gap(window, [t for t, _ in self.handled[group]]) for group in GROUPS) for window in self._all]

    def publish_gaps(self) -> list[float]:
        """For each injection the longest time without a message accepted."""
        return [self._gap(window, self.accepted.values()) for window in self._all]

    @property
    def _all(self) -> list[Window]:
        return [Window(one.begins, one.flows or time.monotonic()) for one in self.windows]

    @staticmethod
    def _gap(window: Window, times: Iterable[float]) -> float:
        assert window.flows is not None
        inside = sorted(t for t in times if window.begins < t < window.flows)
        return round(max(later - earlier for earlier, later in pairwise([window.begins, *inside, window.flows])), 3)


def reckoned(
    sent: Sequence[str], accepted: Sequence[str], groups: Iterable[Sequence[str]], *, ordered: bool = True
) -> account.Count:
    """Compare what each group handled with what was accepted. All messages have the tag of the first one sent."""
    tag = sent[0][:4] if sent else "none"
    kept, tried, *got = [account.codes(names, tag, account.HEADER) for names in (accepted, sent, *groups)]
    kept = np.unique(kept)
    in_order = account.count(kept, kept, got, ordered=ordered)
    return replace(account.count(kept, tried, got), reordered=in_order.reordered)


def tampered(sent: Sequence[str], handled: Sequence[str]) -> dict[str, bool]:
    """Whether the accountant notices a message that was dropped, doubled, altered or swapped with its successor."""
    middle = len(handled) // 2
    twin = next(k for k in range(middle + 1, len(handled)) if handled[k][:6] == handled[middle][:6])
    altered, swapped = list(handled), list(handled)
    altered[middle] = handled[middle][:-1] + "x"
    swapped[middle], swapped[twin] = swapped[twin], swapped[middle]

    def count(names: Sequence[str]) -> account.Count:
        return reckoned(sent, handled, [names])

    whole = account.Count(len(set(handled)), 0, 0, 0, 0)
    return {
        "nothing": count(handled) == whole,
        "dropped": count([*handled[:middle], *handled[middle + 1 :]]).lost == 1,
        "doubled": count([*handled[:middle], handled[middle], *handled[middle:]]).duplicates == 1,
        "altered": (found := count(altered)).strangers == 1 and found.lost == 1,
        "swapped": count(swapped).reordered == 1,
    }


def grown(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """What there is more of in the last quarter of `states` than in the second, by more than `GROWTH`."""
    quarter = len(states) // 4
    if not quarter:
        return []
    found = []
    for what, allowed in GROWTH.items():
        early, late = (
            statistics.median(state[what] for state in part)
            for part in (states[quarter : 2 * quarter], states[-quarter:])
        )
        if late - early > allowed:
            found.append(f"{late:g} {what} after {early:g}")
    return found
