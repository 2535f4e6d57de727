"""The pictures and tables of the notebooks: they show what happened, and what they show is counted."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

import bench
import greet
from bench.show import excerpts, film, sketch, walkthrough
from bench.show.film import Step

SVG = "{http://www.w3.org/2000/svg}"
USUAL = ["asyncio", "RabbitMQ", "Kafka"]
TRACE = [
    Step(0.0, "Ada", "sent"),
    Step(0.1, "Ada", "taken", 0),
    Step(0.1, "<b>", "sent"),
    Step(0.2, "<b>", "taken", 1),
    Step(0.2, "Ada", "dropped", 0),
    Step(0.3, "<b>", "greeted", 1),
    Step(0.3, "Ada", "taken", 1),
    Step(0.4, "Ada", "greeted", 1),
]


def names_of(picture: sketch.Picture) -> dict[str, ElementTree.Element]:
    """The names that move, each with its group of SVG."""
    groups = ElementTree.fromstring(picture.svg).iter(f"{SVG}g")
    return {"".join(one.itertext()): one for one in groups if one.get("transform")}


class TestFilm:
    def test_a_name_ends_with_the_member_that_greeted_it_and_says_that_it_came_again(self) -> None:
        names = names_of(film.film({"kafka": TRACE}))
        assert set(names) == {"↻ Ada", "<b>"}
        first, second = names["<b>"].get("transform"), names["↻ Ada"].get("transform")
        below = film.TOP + 74
        assert first == f"translate({film.LIST},{below})"
        assert second == f"translate({film.LIST + film.PITCH_X},{below})"

    def test_it_stands_still_where_it_ends(self) -> None:
        picture = film.film({"rabbitmq": TRACE})
        for name in names_of(picture).values():
            which = name.attrib["style"].removeprefix("animation-name:")
            frames = re.search(rf"@keyframes {which}\{{(.+?)\}}\}}", picture.svg)
            assert frames
            last = re.findall(r"100\.0%\{transform:translate\((.+?)px,(.+?)px\)", frames[1] + "}")[-1]
            assert name.get("transform") == "translate({},{})".format(*last)

    def test_its_words_count(self) -> None:
        assert film.film({"asyncio": TRACE}).words == "asyncio: 2 of 2 names greeted, 1 came again"
        assert film.film({"asyncio": TRACE[:5]}).words == "asyncio: 0 of 2 names greeted, 1 came again"

    def test_three_designs_of_twelve_names_are_small(self) -> None:
        names = [f"name {number:02}" for number in range(12)]
        trace = [Step(n / 10, name, "sent") for n, name in enumerate(names)]
        trace += [Step(2 + n, name, what, 1) for n, name in enumerate(names) for what in ("taken", "greeted")]
        assert len(film.film(dict.fromkeys(("asyncio", "rabbitmq", "kafka"), trace)).svg.encode()) < 60_000

    async def test_a_run_is_traced(self) -> None:
        names = [f"name {number:02}" for number in range(12)]
        trace = await walkthrough.traced("asyncio:", "film", names)
        (drop,) = [step for step in trace if step.what == "dropped"]
        assert drop.member == 0
        assert sorted(step.name for step in trace if step.what == "greeted") == names
        assert [step.member for step in trace if step.name == drop.name and step.what == "taken"] == [0, 1]

    @pytest.mark.parametrize("count", [1, 2, 4])
    async def test_a_run_of_few_names_ends(self, count: int) -> None:
        trace = await walkthrough.traced("asyncio:", "film", few := [f"name {number}" for number in range(count)])
        assert sorted(step.name for step in trace if step.what == "greeted") == few

    @pytest.mark.parametrize("names", [[], ["Ada", "Ada"]])
    async def test_names_that_cannot_be_told_apart_are_refused(self, names: list[str]) -> None:
        with pytest.raises(ValueError, match="one name or more, all different"):
            await walkthrough.traced("asyncio:", "film", names)


class TestSketch:
    def test_who_handled_what_is_counted_and_has_a_mark(self) -> None:
        picture = sketch.dealt({"a": "first", "b": "second", "c": "first"})
        assert "2 members share 3 names: 2 and 1" in picture.svg
        assert repr(picture) == picture.words == "3 names; members at work: 2"
        assert picture.svg.count("h8") == 3 + 2  # and the legend's

    def test_it_is_an_image_for_who_does_not_trust_the_notebook(self) -> None:
        picture = sketch.dealt({"<a>": "first"})
        image = ElementTree.fromstring(picture._repr_html_())
        assert image.attrib["alt"] == picture.words
        kind, _, source = image.attrib["src"].partition("base64,")
        assert (kind, b64decode(source).decode()) == ("data:image/svg+xml;", picture.svg)

    def test_one_member_alone_is_told(self) -> None:
        assert sketch.dealt({"a": "second", "b": "second"}).words == "2 names; members at work: 1"

    def test_partitions_have_their_names_in_order(self) -> None:
        picture = sketch.partitions([("Ada 1", 1), ("Zoë 1", 0), ("Ada 2", 1)])
        assert picture.words == "partition 0: Zoë 1; partition 1: Ada 1, Ada 2"
        ElementTree.fromstring(picture.svg)

    def test_a_figure_over_time_says_its_end(self) -> None:
        picture = sketch.over_time([(0.0, 0), (1.0, 500), (2.0, 3)], "it rises & falls", "lag")
        assert picture.words == "it rises & falls; at the end: 3"
        ElementTree.fromstring(picture.svg)

    @pytest.mark.parametrize(("lost", "said"), [(0, "no greeting is missing"), (1, "some greetings never came")])
    def test_a_timeline_has_a_cross_for_what_was_lost(self, tmp_path: Path, lost: int, said: str) -> None:
        names = [f"tagg00{number:010}" for number in range(4)]
        about = {"t": 0, "event": "started", "design": "rabbitmq", "guarantee": "DURABLE"}
        accepted = [{"t": number, "event": "accepted", "name": name} for number, name in enumerate(names)]
        for group, missing in (("hello", lost), ("goodbye", 0)):
            came = [{"t": n + 0.5, "event": "handled", "name": names[n]} for n in range(missing, len(names))]
            journal(tmp_path / "trial" / f"member-{group}.jsonl", about | {"group": group}, *came)
        journal(tmp_path / "trial" / "publisher-1.jsonl", about | {"group": ""}, *accepted)
        journal(tmp_path / "trial" / "fault.jsonl", {"t": 1.0, "event": "begins"}, {"t": 3.0, "event": "flows"})
        picture = sketch.timeline(tmp_path, "it is killed")
        assert picture.words == f"it is killed; RabbitMQ DURABLE: {said}"
        assert picture.svg.count("l6 6m0 -6l-6 6") == lost
        assert "1.0 s of silence" in picture.svg


def journal(path: Path, *events: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_what_does_not_hold_fails(capsys: pytest.CaptureFixture[str]) -> None:
    walkthrough.check("all came", holds=True)
    assert capsys.readouterr().out == "✓ all came\n"
    with pytest.raises(AssertionError, match="does not hold: none was lost"):
        walkthrough.check("none was lost", holds=False)


async def test_who_waits_for_names_that_were_read_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walkthrough, "SECONDS", 0.1)
    async with greet.connect("asyncio:", "read") as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        with pytest.raises(TimeoutError, match=r"1 of 2 names came in 0\.1 s: if this cell was run before"):
            await walkthrough.take(names, 2)


async def test_a_name_that_comes_twice_fails() -> None:
    async def handle(name: str) -> None:
        """A name costs nothing here."""

    async with greet.connect("asyncio:", "twice") as line:
        async with line.subscribe("hello"):
            await line.publish("Ada")  # it waits for the next member
        with pytest.raises(AssertionError, match="came twice"):
            await walkthrough.share(line, ["Ada", "Zoë"], handle)


class TestExcerpts:
    def test_each_names_the_usual_designs(self) -> None:
        rows = bench.reference()
        for found in (excerpts.kept(rows), excerpts.greetings(rows), excerpts.gains(rows), excerpts.megabytes(rows)):
            assert [one for one in found.columns if one in USUAL] == USUAL
        for found in (excerpts.rungs(rows), excerpts.worst(rows, 0.5), excerpts.woken(rows)):
            assert [one for one in found.index if one in USUAL] == USUAL
        assert not excerpts.faults(rows)["lost"].any()
        alone = excerpts.one_by_one(rows)["greet, times as many"]
        assert alone["RabbitMQ", "greet"] == 1 < alone["RabbitMQ", "aio-pika"]
        assert "RabbitMQ stream" not in alone, "it has no other client"
        assert excerpts.speeds(reference=rows).xs(excerpts.LISTS, level="way").loc["Kafka"].gt(10_000).all()
        assert excerpts.costs(rows).xs("greet", level="contender").gt(0).all().all()
        assert {*excerpts.beside_a_sleeper(rows)} == {"RabbitMQ", "Kafka"}
        assert 0.5 < excerpts.uvloop_gain(rows) < 2

    def test_a_row_that_was_measured_again_does_not_count(self) -> None:
        rows = bench.reference()
        again = rows[rows["question"].eq("throughput")].assign(**{"params.again": True, "messages_per_s": 1.0})
        both = pd.concat([rows, again], ignore_index=True)
        assert excerpts.speeds(reference=both).equals(excerpts.speeds(reference=rows))

    @pytest.mark.parametrize("wrong", [{"lost": 1}, {"error": "it broke"}])
    def test_a_row_that_is_not_sound_has_no_figure(self, wrong: dict[str, Any]) -> None:
        rows = bench.reference()
        figures: dict[str, Any] = {"messages_per_s": 1.0, "latency_ms.p50": 1e6, "latency_ms.max": 1e6, "accepted": 1}
        bad = rows[rows["question"].ne("faults")].assign(**figures, latencies=None, **wrong)
        both = pd.concat([rows, bad, bad], ignore_index=True)
        for of in (
            *(excerpts.one_by_one, excerpts.costs, excerpts.kept, excerpts.rungs, excerpts.greetings, excerpts.gains),
            *(excerpts.megabytes, excerpts.tweaks, excerpts.woken, lambda some: excerpts.worst(some, 0.5)),
        ):
            assert of(both).equals(of(rows))
        assert excerpts.uvloop_gain(both) == excerpts.uvloop_gain(rows)
        assert excerpts.beside_a_sleeper(both) == excerpts.beside_a_sleeper(rows)
        assert excerpts.lightly(both).equals(excerpts.lightly(rows))
        assert excerpts.lightly(rows).equals(excerpts.lightly(rows[rows["guarantee"].eq("AT_LEAST_ONCE")]))
        usual = excerpts.usual_round(rows, 0.5)
        assert excerpts.usual_round(both, 0.5)["latency_ms.p99"].tolist() == usual["latency_ms.p99"].tolist()
        assert usual["design"].is_unique
