"""Damaged files of a run: each is one line that says where, and whatever is in them, never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.__main__ import main
from bench.results import DETAILS, MEASUREMENTS, REFERENCE, RUN

WILD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 3.5, -2.5, 1e300, 10**30, "", "kafka", "a|b\n", "together", "AT_LEAST_ONCE"),
    *([], [1], {}, {"a": 1}, [[1, 2]], [["a"]]),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows of each question and design of the published runs."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(REFERENCE / "throughput" / RUN, folder)
    kept: dict[tuple[str, str], int] = {}
    for source in sorted(REFERENCE.iterdir()):
        texts = [(source / file).read_text().splitlines() for file in (MEASUREMENTS, DETAILS)]
        for row, details in zip(*texts, strict=True):
            key = (json.loads(row)["question"], json.loads(row)["design"])
            kept[key] = kept.get(key, 0) + 1
            if kept[key] <= 2:
                for file, line in ((MEASUREMENTS, row), (DETAILS, details)):
                    with (folder / file).open("a") as opened:
                        opened.write(line + "\n")
    return folder


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "damaged"))


def lines(file: Path, change: Callable[[list[str]], object]) -> None:
    text = file.read_text().splitlines()
    change(text)
    file.write_text("\n".join(text) + "\n")


def row(number: int, **fields: Any) -> Callable[[list[str]], None]:
    def change(text: list[str]) -> None:
        text[number - 1] = json.dumps(json.loads(text[number - 1]) | fields)

    return change


def idle(text: list[str]) -> str:
    about = json.loads("\n".join(text))
    return json.dumps(about | {"machine": about["machine"] | {"load_average": []}})


@pytest.mark.parametrize(("name", "change", "said"), [
    (RUN, lambda text: text.__setitem__(slice(None), ["{}"]), "run.json: has no run"),
    (RUN, lambda text: text.__setitem__(slice(None), ["[]"]), "run.json: is not an object, but []"),
    (RUN, lambda text: text.__setitem__(4, "?"), "run.json, line 5: not JSON: "),
    (MEASUREMENTS, lambda text: text.insert(2, "[1, 2]"), "measurements.jsonl, line 3: is not an object, but [1, 2]"),
    (MEASUREMENTS, lambda text: text.__setitem__(4, text[4][:50]), "measurements.jsonl, line 5: not JSON: "),
    (MEASUREMENTS, lambda text: text.insert(1, ""), "measurements.jsonl, line 2: not JSON: "),
    (MEASUREMENTS, row(7, sent="many"), "line 7: sent must be a whole number from 0 on or null, but is \"many\""),
    (MEASUREMENTS, row(7, names_per_s=-1), "line 7: messages_per_s must be a positive number or null, but is -1"),
    (MEASUREMENTS, row(7, guarantee="SOMETIMES"), "line 7: guarantee must be one of AT_MOST_ONCE, AT_LEAST_ONCE"),
    (MEASUREMENTS, row(7, params={"way": "name"}), "line 7: has no params.phase"),
    (MEASUREMENTS, row(7, params=[]), "line 7: params must be an object"),
    (DETAILS, row(2, progress_s=[[1]]), "details.jsonl, line 2: progress_s must be a list, each a list of pairs"),
    (DETAILS, row(2, latencies=3), "details.jsonl, line 2: latencies must be an object of percentiles, but is 3"),
    (DETAILS, row(2, latencies={"service": {"p50": -0.1}}), "line 2: latencies must be an object of percentiles"),
    (DETAILS, row(2, latencies={"late": {"p50": [1]}}), "line 2: latencies must be an object of percentiles"),
    (DETAILS, row(2, **{"cpu_s.client": 1}), "details.jsonl, line 2: has a field with a dot: \"cpu_s.client\""),
    (MEASUREMENTS, row(7, question="work"), "line 7: params.rung must be a number and its unit, but is \"\""),
    (RUN, lambda text: text.__setitem__(slice(None), [idle(text)]), "machine.load_average must be a list of numbers"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_a_damaged_file_is_named_with_the_line(
    damaged: Path, capsys: pytest.CaptureFixture[str], name: str, change: Callable[[list[str]], object], said: str
) -> None:
    lines(damaged / name, change)
    assert main(["report", str(damaged)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bench: {damaged / name}")
    assert said in error
    assert error.count("\n") == 1


def places(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value in some JSON; of a list to its first ones."""
    inner = found.items() if isinstance(found, dict) else enumerate(found[:3]) if isinstance(found, list) else ()
    return [*([path] if path else []), *(one for key, value in inner for one in places(value, (*path, key)))]


def changed(text: str, chance: random.Random) -> str:
    found = json.loads(text)
    *above, last = chance.choice(places(found) or [("", "")])
    within = found
    for key in above:
        within = within[key] if key != "" else within
    if isinstance(within, dict) and chance.random() < 0.3:
        within.pop(last, None)
    else:
        within[last] = chance.choice(WILD)
    return json.dumps(found)


def damage(folder: Path, chance: random.Random) -> None:
    """Change a value, in one line or in all of them, or bytes, or the order, or cut the file."""
    file = folder / chance.choice([RUN, MEASUREMENTS, MEASUREMENTS, MEASUREMENTS, DETAILS])
    text, kind = file.read_bytes(), chance.random()
    if kind < 0.1:
        file.write_bytes(text[: chance.randrange(len(text))])
    elif kind < 0.2:
        raw = bytearray(text)
        for _ in range(chance.choice([1, 20])):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        file.write_bytes(raw)
    elif file.name == RUN:
        file.write_text(changed(text.decode(), chance))
    elif kind < 0.25:
        lines(file, chance.shuffle)
    elif kind < 0.5:
        seed = chance.random()
        lines(file, lambda found: found.__setitem__(slice(None), [changed(one, random.Random(seed)) for one in found]))
    else:
        lines(file, lambda found: found.__setitem__(0, changed(found[chance.randrange(len(found))], chance)))


@pytest.mark.parametrize("seed", range(16))
def test_no_damage_gives_a_traceback(run: Path, damaged: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m bench report` and `compare` show what can be shown, or say in a line which file is damaged."""
    damage(damaged, random.Random(seed))
    for words in (["report", str(damaged)], ["compare", str(run), str(damaged)]):
        status = main(words)
        error = capsys.readouterr().err
        assert status in (0, 1) or any(f"bench: {damaged / name}" in error for name in (RUN, MEASUREMENTS, DETAILS))


def test_what_is_missing_or_failed_in_one_run_is_listed(
    run: Path, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(run), str(damaged)]) == 0
    assert "None of the cells are missing or failed" in capsys.readouterr().out

    rows = [json.loads(line) for line in (run / MEASUREMENTS).read_text().splitlines()]
    groups = next(
        one["params"]["groups"]
        for one in rows
        if (one["question"], one["design"], one["contender"]) == ("fan_out", "kafka", "greet")
    )

    def without(text: list[str]) -> None:
        text[:] = [line for line in text if json.loads(line)["design"] != "kafka"]

    lines(damaged / MEASUREMENTS, without)
    for words, side in (([run, damaged], "after"), ([damaged, run], "before")):
        assert main(["compare", *map(str, words)]) == 1
        assert (
            f"- fan_out kafka greet AT_LEAST_ONCE, groups {groups}, loop asyncio, way many: missing in the run {side}\n"
            in (said := capsys.readouterr().out)
        )
        assert "rabbitmq greet" not in said.partition("\n- ")[2]


def test_a_run_that_only_failed_is_not_green(run: Path, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {"error": "the broker is gone", "names_per_s": None, "latency_ms": None}

    def fail(text: list[str]) -> None:
        text[:] = [json.dumps(json.loads(line) | failed) for line in text]

    lines(damaged / MEASUREMENTS, fail)
    assert main(["compare", str(run), str(damaged)]) == 1
    assert " failed in the run after\n" in capsys.readouterr().out
    assert main(["compare", str(damaged), str(damaged)]) == 1
    said = capsys.readouterr().out
    assert " failed in the run before and " in said
    assert "None of 0 figures" in said


def test_a_run_of_before_is_read_under_the_names_of_today(run: Path, damaged: Path) -> None:
    """As it was when messages were called names."""
    file = damaged / MEASUREMENTS
    now, before = file.read_text(), file.read_text().replace('"messages_per_s"', '"names_per_s"')
    assert now != before
    file.write_text(before)
    params = json.loads(now.partition("\n")[0])["params"]
    lines(file, row(1, params=params | {"rung": "getmany: a batch is settled as a whole"}))
    rows, expected = bench.load(damaged), bench.load(run)
    assert "names_per_s" not in rows
    assert rows["messages_per_s"].equals(expected["messages_per_s"])
    assert rows["params.rung"][0] == "getmany: a batch is committed as a whole"
