"""Small pictures for the notebooks, as SVG: they can be read on a white page and on a black one.

Each function returns a `Picture`. Its words say the same to who cannot see it. They hold nothing that varies from run
to run, so that a test of the notebook can compare them.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from bench.faults.journal import Book, Reader, Window
from bench.model import title_of

GREY = "#7a7a7a"
"""Of text and lines: its contrast with white and with black is the same."""
BLUE, ORANGE = "#0072B2", "#C25100"
"""Of the two members of a group; the second is darker than in plots.py, as white text stands on it."""
KEYS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDEST = 800
"""How wide a picture is shown, at most: JupyterLab cuts off what is wider than its page."""
COLUMNS, PITCH = 50, 11
"""Of the squares of `dealt`: how many are in a line, and how far apart."""


@dataclass(frozen=True)
class Picture:
    """An SVG for a notebook, and the same in words.

    As an image of HTML it is also shown in a notebook that JupyterLab does not trust yet, and is never wider than the
    page.
    """

    svg: str = field(repr=False)
    words: str

    def __repr__(self) -> str:
        return self.words

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        source = b64encode(self.svg.encode()).decode()
        return f'<img src="data:image/svg+xml;base64,{source}" alt="{escape(self.words)}" style="max-width:100%"/>'


def drawn(width: int, height: int, words: str, parts: Iterable[str], style: str = "") -> Picture:
    """A picture of `parts`; `style` is CSS."""
    css = f"<style>{style}</style>" if style else ""
    scale = min(1.0, WIDEST / width)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width * scale:g}"'
        f' height="{height * scale:g}" style="max-width:100%;height:auto" role="img" font-family="sans-serif"'
        f' font-size="13" fill="{GREY}">'
        f"<title>{escape(words)}</title>{css}"
    )
    return Picture(head + "".join(parts) + "</svg>", words)


def write(x: float, y: float, text: str, **style: object) -> str:
    """Text at its baseline; `style` are attributes of SVG, with `_` for `-`."""
    more = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in style.items())
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(text)}</text>'


def line(path: str, colour: str = GREY, width: float = 1.5, more: str = "") -> str:
    """The path as a line."""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{more}/>'


def title(text: str) -> str:
    """The message of a picture, at its top."""
    return write(6, 18, text, font_weight="bold", font_size=14)


def dealt(found: Mapping[str, str]) -> Picture:
    """Which member handled which name: a mark for each name, in the order published, line by line."""
    members = sorted(set(found.values()))
    lines = -(-len(found) // COLUMNS)
    paths: dict[str, list[str]] = {member: [] for member in members}
    for place, member in enumerate(found.values()):
        paths[member].append(f"M{6 + PITCH * (place % COLUMNS)} {36 + PITCH * (place // COLUMNS)}h8")
    counts = {member: len(paths[member]) for member in members}
    shared = " and ".join(f"{count:,}" for count in counts.values())
    said = (
        f"{len(members)} members share {len(found):,} names: {shared}"
        if len(members) > 1
        else f"One member handles all {len(found):,} names; the other one waits"
    )
    looks = dict(zip(("first", "second"), ((BLUE, 8.0), (ORANGE, 3.0)), strict=True))
    parts = [title(said)]
    for place, member in enumerate(members):
        colour, width = looks[member]
        parts.append(line("".join(paths[member]), colour, width))
        x, y = 6 + 190 * place, 48 + PITCH * lines
        parts += [line(f"M{x} {y}h8", colour, width), write(x + 16, y + 5, f"the {member} member")]
    words = f"{len(found):,} names; members at work: {len(members)}"
    return drawn(12 + PITCH * COLUMNS, 60 + PITCH * lines, words, parts)


def partitions(log: Sequence[tuple[str, int]]) -> Picture:
    """The names in each partition, in the order of the log; the first word of a name is its key, and has a colour."""
    rows: dict[int, list[str]] = {number: [] for number in sorted({number for _, number in log})}
    for name, number in log:
        rows[number].append(name)
    keys = list(dict.fromkeys(name.partition(" ")[0] for name, _ in log))
    widest = max(len(names) for names in rows.values())
    parts = [title("Each key is in one partition, in its order")]
    for place, (number, names) in enumerate(rows.items()):
        y = 36 + 40 * place
        parts.append(write(6, y + 18, f"partition {number}"))
        parts.append(line(f"M86 {y + 31}h{90 * widest + 8}"))
        for column, name in enumerate(names):
            colour = KEYS[keys.index(name.partition(" ")[0]) % len(KEYS)]
            x = 90 + 90 * column
            parts.append(
                f'<rect x="{x}" y="{y}" width="82" height="26" rx="5" fill="{colour}" fill-opacity="0.2"'
                f' stroke="{colour}"/>'
            )
            parts.append(write(x + 41, y + 18, name, text_anchor="middle"))
    words = "; ".join(f"partition {number}: {', '.join(names)}" for number, names in rows.items())
    return drawn(106 + 90 * widest, 36 + 40 * len(rows), words, parts)


def over_time(seen: Sequence[tuple[float, float]], message: str, unit: str) -> Picture:
    """A figure over the seconds: `seen` are pairs of when, and what it was."""
    span, most = max(seen[-1][0], 1e-9), max(value for _, value in seen) or 1
    left, top, width, height = 70, 36, 520, 150
    points = [(left + width * at / span, top + height * (1 - value / most)) for at, value in seen]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = [
        title(message),
        line(f"M{left} {top}v{height}h{width}", width=1),
        line(path, BLUE, 2),
        *(write(left - 8, top + 5 + height * (1 - part), f"{most * part:,.0f}", text_anchor="end") for part in (0, 1)),
        write(left - 8, top + 5 + height / 2, unit, text_anchor="end"),
        write(left, top + height + 18, "0 s"),
        write(left + width, top + height + 18, f"{span:.1f} s", text_anchor="end"),
    ]
    return drawn(left + width + 20, top + height + 28, f"{message}; at the end: {seen[-1][1]:,.0f}", parts)


def told(folder: Path) -> tuple[str, Book]:
    """What a trial of `bench.faults` is called, and what its journals tell, with its first injection."""
    book, trial = Book(), ""
    for path in sorted(folder.glob("*-*.jsonl")):
        first, *events = Reader(path).fresh()
        trial = f"{title_of(first['design'])} {first['guarantee']}"
        for event in events:
            book.add(event, first["group"])
    marks = Reader(folder / "fault.jsonl").fresh()
    begins, flows = (next(one["t"] for one in marks if one["event"] == what) for what in ("begins", "flows"))
    book.windows.append(Window(begins, flows))
    return trial, book


def timeline(folder: Path, harm: str) -> Picture:
    """What was accepted and what each group handled, in seconds from the harm: a block for each trial.

    `folder` has a folder with the journals of each trial. A cross is a message that was accepted and never handled.
    """
    found = [told(place) for place in sorted(folder.iterdir())]
    start = min(min(book.accepted.values()) - book.windows[0].begins for _, book in found)
    end = max(at - book.windows[0].begins for _, book in found for came in book.handled.values() for at, _ in came)
    left, width = 90, 610
    parts, words, y = [], [], 4
    for trial, book in found:
        (silence,), missed, begins = book.gaps(), book.missing(), book.windows[0].begins
        gone = {name for seen in book.seen.values() for name in book.accepted.keys() - seen}
        outcome = f"{missed} greetings never came" if missed else "no greeting is missing"
        words.append(f"{trial}: {'some greetings never came' if missed else outcome}")
        parts.append(write(6, y + 14, f"{trial}: {silence:.1f} s of silence, {outcome}", font_weight="bold"))
        handled = {group: [(name, at) for at, name in came] for group, came in book.handled.items()}
        for row, events in {"accepted": [*book.accepted.items()], **handled}.items():
            y += 26
            parts.append(write(left - 10, y + 11, row, text_anchor="end"))
            places = [(name, left + width * (at - begins - start) / (end - start)) for name, at in events]
            lost = gone if row == "accepted" else set()
            ticks = [f"M{x:.1f} {y}v13" for name, x in places if name not in lost]
            crosses = [f"M{x - 3:.1f} {y + 3}l6 6m0 -6l-6 6" for name, x in places if name in lost]
            parts += [line("".join(ticks), BLUE), line("".join(crosses), ORANGE, 2)]
        x = left - width * start / (end - start)
        parts.append(line(f"M{x:.1f} {y - 26 * len(handled) - 6}V{y + 18}", ORANGE, 2, ' stroke-dasharray="4 3"'))
        y += 44
    parts += [
        write(left, y, f"{start:.1f} s"),
        write(left + width / 2, y, f"dashed: {harm}; ×: accepted, and lost", text_anchor="middle"),
        write(left + width, y, f"{end:.1f} s", text_anchor="end"),
    ]
    return drawn(left + width + 10, y + 8, f"{harm}; {'; '.join(words)}", parts)
