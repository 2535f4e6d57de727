"""Names on their way through the designs: a moving picture, drawn from what happened in a run.

It moves by CSS alone. Where that is off, or a reader wants no motion, it shows the end: who greeted which name,
which names came again, and what each design keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from zlib import crc32

from bench.show.sketch import BLUE, GREY, ORANGE, Picture, drawn, line, write
from greet.designs import Design, named

LEAD_S, PLAY_S, HOLD_S, MOVE_S = 1.0, 10.0, 5.0, 0.35
"""Of the film: it waits, plays all steps, and stands; and how long a name takes from one place to the next."""
WHOLE_S = LEAD_S + PLAY_S + HOLD_S
WIDTH, HEIGHT = 880, 204
"""Of a design's part."""
CHIP, PITCH_X, PITCH_Y, DEEP = 60, 64, 23, 6
"""A name's width; how far names are apart; how many stand below each other."""
PRODUCER, HUB, WAITS, HAND, LIST, TOP = 6, 164, 232, 408, 484, 40
"""From where on the columns are, and their top."""
ACROSS = 6
"""So many names stand side by side in a member's list."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Step:
    """One thing that happened to a name."""

    at: float
    """Seconds since the first name was sent."""
    name: str
    what: str
    """"sent"; "taken" by a member, then "greeted", or "dropped" when the member ends with it in hand."""
    member: int = 0


def film(traces: Mapping[str, Sequence[Step]]) -> Picture:
    """The film of a trace for each design: up to twelve names from a producer to the two members of a group."""
    parts: list[str] = []
    rules: list[str] = []
    words: list[str] = []
    for row, (design, trace) in enumerate(traces.items()):
        scene = _Scene(row, named(design), trace)
        parts += scene.stage() + scene.names(rules)
        greeted, again = {one.name for one in trace if one.what == "greeted"}, scene.again
        words.append(
            f"{scene.design.title}: {len(greeted)} of {len(scene.sent)} names greeted, {len(again)} came again"
        )
    end = HEIGHT * len(traces) + 16
    parts.append(f'<rect x="6" y="{end - 15}" width="18" height="16" rx="8" fill="{ORANGE}"/>')
    parts.append(write(32, end - 2, "was in the hands of the member that was cancelled, and came again to the other"))
    style = f"@media(prefers-reduced-motion:no-preference){{.film{{animation:{WHOLE_S:g}s linear infinite}}"
    return drawn(WIDTH, end + 8, "; ".join(words), parts, f"{style}{''.join(rules)}}}")


class _Scene:
    """A design's part of the film: where everything stands, and the way of each name."""

    def __init__(self, row: int, design: Design, trace: Sequence[Step]) -> None:
        self.design = design
        self.sent = [one.name for one in trace if one.what == "sent"]
        self.dropped = [one for one in trace if one.what == "dropped"]
        self.again = {one.name for one in self.dropped}
        self._row = row
        self._trace = trace
        self._top = HEIGHT * row
        self._last_sent = max(one.at for one in trace if one.what == "sent")
        self._span = max(one.at for one in trace) or 1.0
        self._lists: dict[int, list[str]] = {
            member: [one.name for one in trace if one.what == "greeted" and one.member == member] for member in (0, 1)
        }

    def stage(self) -> list[str]:
        """What stands still: producer, exchange or topic, queue or partitions, and the members."""
        top, middle = self._top, self._top + TOP + PITCH_Y * DEEP / 2
        sent = write(PRODUCER, middle + 4, f"{len(self.sent)} names sent")
        fork = WAITS + 2 * PITCH_X + 2
        hub = "exchange" if self.design.product and not self.design.keeps_unread else "topic"
        box = f'fill="none" stroke="{GREY}" rx="6" height="{PITCH_Y * DEEP + 4}"'
        parts = [
            write(6, top + 18, self.design.title, font_weight="bold", font_size=15),
            write(PRODUCER, top + 35, "producer", font_size=11),
            f'<circle cx="{HUB + CHIP // 2}" cy="{middle}" r="7" fill="{GREY}"/>',
            write(HUB + CHIP // 2, middle - 14, hub, text_anchor="middle", font_size=11),
            line(f"M{PRODUCER + 2 * PITCH_X} {middle}H{WAITS - 6}"),
            *(line(f"M{fork} {middle}L{HAND - 6} {top + TOP + 10 + 74 * member}") for member in (0, 1)),
            f'<g class="film" style="animation-name:film-{self._row}-sent">{sent}</g>',
            write(WAITS - 4, top + HEIGHT - 12, self._kept(), font_size=11),
            write(WIDTH - 12, top + 18, self._told(), text_anchor="end", font_size=11),
        ]
        if self.design.partitioned:
            for number in (0, 1):
                x = WAITS - 4 + number * (PITCH_X + 2)
                parts.append(f'<rect x="{x}" y="{top + TOP - 4}" width="{PITCH_X}" {box}/>')
                parts.append(write(x + 2, top + 32, f"partition {number}", font_size=11))
        else:
            parts.append(f'<rect x="{WAITS - 4}" y="{top + TOP - 4}" width="{2 * PITCH_X + 4}" {box}/>')
            parts.append(write(WAITS, top + 32, "log" if self.design.keeps_unread else "queue", font_size=11))
        for member, which in enumerate(("first", "second")):
            parts.append(write(HAND, top + 35 + 74 * member, f"{which} member says hello to", font_size=11))
        return parts

    def _kept(self) -> str:
        return "the log keeps every name" if self.design.keeps_unread else "what is handled is gone from the queue"

    def _told(self) -> str:
        """How long it took, and until what was dropped came again."""
        said = f"{self._span:.1f} s in all"
        for drop in self.dropped:
            for step in self._trace:
                if step.name == drop.name and step.what == "taken" and step.at > drop.at:
                    return f"{said}; {drop.name} came again after {step.at - drop.at:.2f} s"
        return said

    def names(self, rules: list[str]) -> list[str]:
        """Each name where it is at the end; how it came there is added to the `rules` of CSS."""
        parts = []
        rules.append(_appears(f"film-{self._row}-sent", self._clock(self._last_sent)))
        for number, name in enumerate(self.sent):
            way = self._way(number, name)
            x, y = way[-1][1]
            which = f"film-{self._row}-{number}"
            rules.append(_moves(which, way))
            if self.design.keeps_unread:
                kept_x, kept_y = self._waits(name)
                kept = f'x="{kept_x + CHIP / 2:g}" y="{kept_y + 14:g}" text-anchor="middle" font-size="12"'
                parts.append(f'<text {kept} class="film" style="animation-name:{which}-kept">{escape(name)}</text>')
                rules.append(_appears(f"{which}-kept", way[3][0]))
            colour = ORANGE if name in self.again else BLUE
            mark = "↻ " if name in self.again else ""
            parts.append(
                f'<g class="film" style="animation-name:{which}" transform="translate({x:g},{y:g})">'
                f'<rect width="{CHIP}" height="19" rx="9" fill="{colour}"/><text x="{CHIP / 2:g}" y="14" fill="#fff"'
                f' text-anchor="middle" font-size="12">{mark}{escape(name)}</text></g>'
            )
        for drop in self.dropped:
            x, y = HAND, self._top + TOP + 16 + 74 * drop.member
            which = f"film-{self._row}-end-{drop.member}"
            rules.append(_appears(which, self._clock(drop.at)))
            parts.append(
                f'<g class="film" style="animation-name:{which}">{write(x, y, "✗", fill=ORANGE, font_size=22)}'
                f"{write(x + 20, y - 1, 'ended', fill=ORANGE, font_size=12)}</g>"
            )
        return parts

    def _clock(self, at: float) -> float:
        """When it is in the film."""
        return LEAD_S + PLAY_S * at / self._span

    def _way(self, number: int, name: str) -> list[tuple[float, Point]]:
        """When the name is where, from the producer to the end of the film."""
        start = PRODUCER + PITCH_X * (number // DEEP), self._top + TOP + PITCH_Y * (number % DEEP)
        way: list[tuple[float, Point]] = [(0.0, start)]
        for step in self._trace:
            if step.name != name:
                continue
            leaves = max(self._clock(step.at), way[-1][0])
            way.append((leaves, way[-1][1]))
            for place in self._places(step):
                leaves += MOVE_S
                way.append((leaves, place))
        return [*way, (WHOLE_S, way[-1][1])]

    def _places(self, step: Step) -> list[Point]:
        """Where a step takes a name."""
        if step.what == "sent":
            return [(HUB, self._top + TOP + PITCH_Y * DEEP / 2 - 10), self._waits(step.name)]
        if step.what == "dropped":
            return [self._waits(step.name)]
        below = self._top + TOP + 74 * step.member
        if step.what == "taken":
            return [(HAND, below)]
        place = self._lists[step.member].index(step.name)
        return [(LIST + PITCH_X * (place % ACROSS), below + PITCH_Y * (place // ACROSS))]

    def _waits(self, name: str) -> Point:
        """Its place in the queue, or in its partition."""
        number = self.sent.index(name)
        column, place = number // DEEP, number % DEEP
        if self.design.partitioned:
            column = partition(name)
            place = [one for one in self.sent if partition(one) == column].index(name)
        return WAITS + (PITCH_X + 2) * column - 2, self._top + TOP - 1 + PITCH_Y * place


def partition(name: str) -> int:
    """The one of two partitions that greet sends a name to: see greet/designs/kafka.py."""
    return crc32(name.encode()) % 2


def _moves(which: str, way: Sequence[tuple[float, Point]]) -> str:
    frames = "".join(f"{100 * at / WHOLE_S:.1f}%{{transform:translate({x:g}px,{y:g}px)}}" for at, (x, y) in way)
    return f"@keyframes {which}{{{frames}}}"


def _appears(which: str, at: float) -> str:
    share = 100 * at / WHOLE_S
    return f"@keyframes {which}{{0%,{share:.1f}%{{opacity:0}}{share + 0.5:.1f}%,100%{{opacity:1}}}}"
