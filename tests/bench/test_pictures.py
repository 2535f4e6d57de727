"""The pictures: each says in its title what its rows say, and can be read on any ground, at the width of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import bench
from bench import contenders, pictures, questions
from bench.model import DESIGNS, USUAL, Cell, Measurement, Settings
from bench.pictures import Dots, Lines, Pace, Picture, Survival
from bench.show import plots

CELL = (
    *("design", "contender", "guarantee", "params.way", "params.rung", "params.size", "params.groups", "params.load"),
    *("params.members", "params.publishers", "params.partitions", "params.rate", "params.phase"),
)
SECONDS = np.linspace(0, 10, 21)


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    return bench.reference()


def made(question: str, cells: Iterable[Cell]) -> pd.DataFrame:
    """Rows as `bench.load(…, details=True)` has them, two rounds of each cell."""
    found, details = [], []
    for number, (cell, round_) in enumerate((cell, round_) for cell in cells for round_ in (1, 2)):
        for phase in ("publish", "consume") if cell.phase == "apart" else (cell.phase,):
            params = {**cell.params, "phase": phase, "loop": "asyncio"}
            if question == "faults":
                params |= {"fault": cell.rung, "times": 3, "gap_s": 0.1 + number, "recovered": True}
            key: Any = ("r", question, cell.contender.design, cell.contender.name, cell.guarantee.name, params, round_)
            some = 1.0 + number % 7
            figures: dict[str, Any] = {
                "sent": 9,
                "accepted": 9,
                "received": 9,
                "lost": number % 3 if question == "faults" else 0,
                "duplicates": int(question == "faults"),
                "elapsed_s": some,
                "messages_per_s": cell.contender.guess * some,
                "target_rate": cell.rate,
                "latency_ms": {"p50": some, "p99": 9 * some},
            }
            found.append(asdict(Measurement(*key, **figures)))
            progress = [(second, second * (some + second)) for second in SECONDS]
            details.append({"latencies": {"service": {"p50": some}}, "progress_s": [progress], "members": [[1]]})
    return pd.json_normalize(found, max_level=1).join(pd.DataFrame(details))


@cache
def everything(question: str) -> pd.DataFrame:
    return made(question, questions.question(question).cells(Settings(DESIGNS, tuple(contenders.every()), "full")))


def drawn(question: str, rows: pd.DataFrame) -> tuple[Picture, Figure]:
    picture = questions.question(question).picture(rows[rows["question"] == question])
    return picture, plots.draw(picture)


def turned(rows: pd.DataFrame) -> pd.DataFrame:
    """The same with other figures: each cell's are changed in its own way."""
    rows = rows.copy()
    keys = [key for key in CELL if key in rows]
    factor = 1 + 3 * (rows.groupby(keys, dropna=False).ngroup() % 13)
    for figure in ("messages_per_s", "elapsed_s", "latency_ms.p50", "latency_ms.p99"):
        rows[figure] = rows[figure].astype(float) * factor
    rows["lost"] += factor
    latencies = [
        {clock: {**of, "p50": (of["p50"] or 0) * by} for clock, of in kept.items()} if isinstance(kept, dict) else kept
        for kept, by in zip(rows["latencies"], factor, strict=True)
    ]
    progress = [
        [[(at, so_far**2) for at, so_far in one] for one in kept] if isinstance(kept, list) else kept
        for kept in rows["progress_s"]
    ]
    return rows.assign(
        latencies=pd.Series(latencies, rows.index, dtype=object),
        progress_s=pd.Series(progress, rows.index, dtype=object),
    )


@pytest.mark.parametrize("name", questions.NAMES)
def test_a_title_says_what_the_rows_say(reference: pd.DataFrame, name: str) -> None:
    rows = reference[reference["question"] == name]
    rows = rows if len(rows) else everything(name)  # the published runs may not have asked it yet
    picture, figure = drawn(name, rows)
    assert picture.title != questions.asked(name)
    assert re.search(r"\d", picture.title)
    assert figure.get_label() == picture.title
    assert drawn(name, turned(rows))[0].title != picture.title
    assert "nan" not in picture.title


@pytest.mark.parametrize("name", questions.FIRST)
def test_a_first_look_has_its_messages_too(name: str) -> None:
    settings = Settings(USUAL, tuple(contenders.every()))
    picture, _ = drawn(name, made(name, questions.question(name).first(settings)))
    assert picture.title != questions.asked(name)


@pytest.mark.parametrize("name", questions.NAMES)
def test_where_all_failed_the_title_is_the_question(name: str) -> None:
    rows = everything(name).copy()
    nothing = ["sent", "accepted", "received", "lost", "duplicates", "elapsed_s", "messages_per_s", "latencies"]
    rows[[*nothing, "latency_ms.p50", "latency_ms.p99", "progress_s"]] = None
    picture, figure = drawn(name, rows)
    assert plots.svg(figure, "r")
    if name != "faults":  # whose count of what is lost is 0 then, and each field says that it failed
        assert picture.title == questions.asked(name)


def test_the_title_names_who_carries_more(reference: pd.DataFrame) -> None:
    rows = reference[reference["question"] == "throughput"]
    assert drawn("throughput", rows)[0].title.startswith("Kafka carries ")
    slower = rows.assign(messages_per_s=rows["messages_per_s"].where(rows["design"] != "kafka", 10.0))
    assert drawn("throughput", slower)[0].title.startswith("RabbitMQ carries ")


@pytest.mark.parametrize("name", questions.NAMES)
def test_at_most_a_dozen_rows_of_all_designs_and_peers(name: str) -> None:
    match drawn(name, everything(name))[0]:
        case Dots(rows=rows):
            count = rows["row"].nunique()
        case Lines(rows=rows):
            count = rows.groupby("panel")["line"].nunique().max()
        case Pace(rows=rows):
            count = rows["panel"].nunique()
        case Survival(faults=faults):
            count = len(faults)
    assert 0 < count <= pictures.MOST


@pytest.mark.parametrize("name", questions.NAMES)
def test_nothing_is_written_over_anything(reference: pd.DataFrame, name: str) -> None:
    """Of the published runs, and of all designs: ticks, what stands beside marks and lines, and the edges."""
    rows = reference[reference["question"] == name]
    for figure in (drawn(name, each)[1] for each in (rows, everything(name)) if len(each)):
        figure.draw_without_rendering()
        assert_apart(figure, [text for axes in figure.axes if (text := vars(axes)["_left_title"]).get_text()])
        for axes in filter(lambda one: one.get_visible(), figure.axes):
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                shown = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                assert_apart(figure, [one for one in shown if one.get_visible() and one.get_text()])
            assert_apart(figure, [one for one in axes.texts if one.get_text()])


def assert_apart(figure: Figure, texts: Sequence[Any]) -> None:
    boxes = [(one.get_text(), Text.get_window_extent(one)) for one in texts]  # without what leads to a mark
    for (one, box), (other, beside) in combinations(boxes, 2):
        assert not box.padded(-1).overlaps(beside.padded(-1)), f"{one} over {other}"
    for said, box in boxes:
        assert -2 <= box.x0 <= box.x1 <= figure.bbox.width + 2, f"{said} leaves the picture"


def luminance(colour: str) -> float:
    """As WCAG 2.2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(luminance(colour) for colour in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("ground", ["#ffffff", "#0d1117"], ids=["light", "dark"])
def test_it_is_read_on_a_light_and_on_a_dark_page(ground: str) -> None:
    assert contrast(plots.INK, ground) > 4.3
    assert min(contrast(colour, ground) for colour in plots.COLOURS) > 3
    assert min(contrast(plots.DARK, colour) for _, colour in plots.SURVIVED.values()) > 4.5


def test_designs_are_told_apart_without_colour() -> None:
    assert len(set(plots.COLOURS)) == len(set(plots.MARKERS)) == len(plots.COLOURS) >= len(DESIGNS)


@pytest.mark.parametrize("name", questions.NAMES)
def test_a_file_has_no_ground_of_its_own_and_each_mark_its_figure(reference: pd.DataFrame, name: str) -> None:
    rows = reference[reference["question"] == name]
    text = plots.svg(drawn(name, rows if len(rows) else everything(name))[1], "the run").decode()
    assert "<dc:description>the run<" in text
    assert plots.TIP not in text
    assert not re.search(r"fill: *(#ffffff|#000000|white|black)", text)
    said = re.findall(r'<g pointer-events="all"><title>([^<]+)</title>', text)
    assert len(said) >= 3
    assert all(re.search(r"\d", one) for one in said)


def test_names_stand_apart_and_in_their_order() -> None:
    moved = plots._apart([0.5, 0.1, 0.5, 0.52], 0.1)
    assert moved[1] == 0.1
    assert all(high - low > 0.099 for low, high in pairwise(sorted(moved)))
    assert moved.index(max(moved)) == 3


def test_a_figure_is_set_beside_that_of_its_own_round() -> None:
    rows = pd.DataFrame({"design": ["a", "a", "b"], "repetition": [1, 2, 1], "value": [2.0, 6.0, 9.0]})
    base = pd.DataFrame({"design": ["a", "a", "b"], "repetition": [1, 3, 2], "value": [1.0, 3.0, 3.0]})
    assert pictures.relative(rows, base, "design").tolist() == [2.0, 3.0, 3.0]
    assert pictures.relative(rows, base[:0], "design").isna().all()


def test_rounds_of_two_runs_are_not_paired_in_a_title(reference: pd.DataFrame) -> None:
    """Each run has one design: nothing was measured side by side, and the title is of one design."""
    rows = reference[reference["question"].eq("throughput")]
    assert "times as many small messages" in pictures.carried(pictures.measured(rows))
    said = pictures.carried(pictures.measured(rows.assign(run=rows["design"])))
    assert "times as many" not in said
    assert "a second in batches; one by one," in said


def test_the_words_of_titles() -> None:
    assert [pictures.listed(list(one)) for one in ("", "a", "abc")] == ["", "a", "a, b and c"]
    assert [pictures.number(one) for one in (12345.6, 59.3, 8.34, 1, 0.844)] == ["12,346", "59", "8.3", "1.0", "0.84"]
    assert pictures.across({"kafka": 2.4, "asyncio": 0.44}, " ms") == "0.44 ms in asyncio and 2.4 ms over Kafka"
    assert pictures.ranked({"kafka": 2.4, "rabbitmq": float("nan"), "kafka-share": 1.0}) == "Kafka 2.4"
    assert pictures.ranked({"kafka-share": 1.0}) == "Kafka share group 1.0", "where there is no usual one"
    assert pictures.ranked({}) == ""
    assert pictures.size(65_536) == "64 KiB"
