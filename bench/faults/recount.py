"""Another accountant, who shares no code with the first: `python bench/faults/recount.py FOLDER`.

It knows of the journals in the folder of a trial what the docstring of journal.py says, and prints the
counts as a JSON object. "reordered" stands there for any trial; where a group had more than one member at a
time it says nothing.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path


def recount(folder: Path) -> dict[str, int]:
    """The counts, over both groups.

    Raises:
        FileNotFoundError: there is no journal in `folder`.
    """
    events = []
    for path in folder.glob("*-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        events += [(line["t"], line["event"], lines[0]["group"], line["name"]) for line in lines if "name" in line]
    if not events:
        raise FileNotFoundError(f"there is no journal in {folder}")
    names = defaultdict(list)
    for _, event, group, name in sorted(events):
        if name[4:6] != "99":
            names[event, group].append(name)
    tried, accepted, refused = (set(names[event, ""]) for event in ("trying", "accepted", "refused"))
    groups = [names["handled", group] for group in ("hello", "goodbye")]
    return {
        "sent": len(tried),
        "accepted": len(accepted),
        "refused": len(refused),
        "unknown": len(tried - accepted - refused),
        "received": sum(len(set(group) & tried) for group in groups),
        "lost": sum(len(accepted - set(group)) for group in groups),
        "duplicates": sum(times - 1 for group in groups for name, times in Counter(group).items() if name in tried),
        "reordered": sum(_reordered([name for name in group if name in accepted]) for group in groups),
        "unexpected": sum(name not in tried for group in groups for name in group),
    }


def _reordered(group: list[str]) -> int:
    """How many come after one of a higher number in their lane, the repeated ones left out."""
    highest: dict[str, int] = defaultdict(lambda: -1)
    late = 0
    for name in dict.fromkeys(group):
        lane, number = name[:6], int(name[6:])
        late += number < highest[lane]
        highest[lane] = max(number, highest[lane])
    return late


if __name__ == "__main__":
    print(json.dumps(recount(Path(sys.argv[1]))))
