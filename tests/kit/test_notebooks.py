"""The notebooks as files: executed, checkable, short, and free of what belongs to one machine.

Whether their outputs are right is for `pytest --nbval`, which runs them; this only reads them.
"""

from __future__ import annotations

import getpass
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
UNCHECKED = {"nbval-ignore-output", "nbval-skip"}
TAGS = {*UNCHECKED, "raises-exception", "nbval-raises-exception"}
PARALLEL = ("01_asyncio", "02_rabbitmq", "03_kafka")
MOST_UNCHECKED = 0.25
MOST_LINES = 4  # the median of the code cells
LONGEST = 14
MOST_WORDS = 80  # of the title cell
LARGEST_SVG = 60_000  # bytes

BARE = re.compile(r"\A[( ]*(?:True|False)\b")
"""An output that asks for trust: a check says in words what holds."""

NOT_IN_CODE = {
    "asyncio.run": r"\basyncio\s*\.\s*run\b",
    "nest_asyncio": r"\bnest_asyncio\b",
    "pip": r"^\s*[!%]\s*pip\b",
    "sleep": r"\bsleep\b",
}
OURS = {platform.node(), getpass.getuser()} - {"", "localhost", "root", "runner", "user"}  # those are words too
NOT_IN_OUTPUT = {
    "this machine, or its user": "|".join(rf"\b{re.escape(one)}\b" for one in OURS) or r"(?!)",
    "a password": r"(?i)\bpassw(?:or)?d\b\s*[:=]",
    "a login in a URL": r"\w+://[^\s/@]+@",
    "a path of a machine": r"(?<![\w.])/(?:home|Users|root|tmp|work|var)/",
    "an address with its port": r"(?:\b127\.0\.0\.1|\blocalhost|\[::1\]):\d",
}

Cell = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def code_cells(path: Path) -> list[Cell]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def tags(cell: Cell) -> set[str]:
    return set(cell["metadata"].get("tags", ()))


def output_texts(cell: Cell) -> Iterator[str]:
    """All that a cell has printed, shown or raised, but for pictures."""
    for output in cell["outputs"]:
        yield from (text(output.get(key, "")) for key in ("text", "evalue"))
        yield from output.get("traceback", ())
        shown = {kind: data for kind, data in output.get("data", {}).items() if not kind.startswith("image/")}
        yield from (json.dumps(data) if isinstance(data, dict) else text(data) for data in shown.values())


def headings(path: Path) -> list[str]:
    cells = (text(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    return [line for source in cells for line in source.splitlines() if line.startswith("## ")]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_every_code_cell_was_executed_in_order(self, path: Path) -> None:
        counts = [cell["execution_count"] for cell in code_cells(path)]
        assert counts == list(range(1, len(counts) + 1))

    def test_no_error_is_stored(self, path: Path) -> None:
        outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
        assert [output["ename"] for output in outputs if output["output_type"] == "error"] == []

    def test_no_log_is_stored(self, path: Path) -> None:
        outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
        assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []

    def test_few_cells_are_unchecked_and_a_checked_one_follows_each(self, path: Path) -> None:
        cells = code_cells(path)
        unchecked = [bool(tags(cell) & UNCHECKED) for cell in cells]
        assert sum(unchecked) <= MOST_UNCHECKED * len(cells)
        for place, cell in enumerate(cells):
            if unchecked[place]:
                follower = cells[place + 1 : place + 2]
                assert follower, f"nothing follows:\n{text(cell['source'])}"
                assert not unchecked[place + 1], f"no checked cell follows:\n{text(cell['source'])}"
                checks = follower[0]["outputs"] or re.search(r"^\s*assert\b", text(follower[0]["source"]), re.MULTILINE)
                assert checks, f"this checks nothing:\n{text(follower[0]['source'])}"

    def test_no_output_is_a_bare_truth(self, path: Path) -> None:
        for cell in code_cells(path):
            assert not any(BARE.match(one) for one in output_texts(cell)), text(cell["source"])
            assert not re.search(r"^\s*assert\b", text(cell["source"]), re.MULTILINE), text(cell["source"])

    def test_cells_are_short(self, path: Path) -> None:
        lengths = [len(text(cell["source"]).strip().splitlines()) for cell in code_cells(path)]
        assert median(lengths) <= MOST_LINES
        assert max(lengths) <= LONGEST

    def test_it_begins_with_a_short_title_cell(self, path: Path) -> None:
        title = read(path)["cells"][0]
        words = text(title["source"]).split()
        assert title["cell_type"] == "markdown"
        assert words[0] == "#"
        assert len(words) <= MOST_WORDS
        assert all(part in text(title["source"]) for part in ("You'll do", "You'll learn", "You need"))

    @pytest.mark.parametrize("what", NOT_IN_CODE)
    def test_code_is_fit_for_a_notebook(self, path: Path, what: str) -> None:
        for cell in code_cells(path):
            assert not re.search(NOT_IN_CODE[what], text(cell["source"]), re.MULTILINE), text(cell["source"])

    @pytest.mark.parametrize("what", NOT_IN_OUTPUT)
    def test_an_output_tells_nothing_of_a_machine(self, path: Path, what: str) -> None:
        for cell in code_cells(path):
            for output in output_texts(cell):
                found = re.search(NOT_IN_OUTPUT[what], output)
                assert not found, f"{what}: {found and output[max(0, found.start() - 40) : found.end() + 40]}"

    def test_a_picture_says_what_it_shows(self, path: Path) -> None:
        for cell in code_cells(path):
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    assert output["metadata"].get("image/png", {}).get("alt"), text(cell["source"])
                if svg := text(output.get("data", {}).get("image/svg+xml", "")):
                    assert re.search(r"<title>[^<]{10,}</title>", svg), text(cell["source"])
                    assert len(svg.encode()) < LARGEST_SVG, text(cell["source"])

    def test_metadata_is_clean(self, path: Path) -> None:
        notebook = read(path)
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"  # without one, JupyterLab asks
        assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
        for cell in notebook["cells"]:
            assert set(cell["metadata"]) <= {"tags"}
            assert tags(cell) <= TAGS


def test_the_three_designs_are_told_in_parallel() -> None:
    told = {path.stem: headings(path) for path in NOTEBOOKS if path.stem in PARALLEL}
    assert set(told) == set(PARALLEL)
    assert told["01_asyncio"] == told["02_rabbitmq"] == told["03_kafka"]


@pytest.mark.parametrize(
    ("what", "bad"),
    [
        ("a password", "{password: x}"),
        ("a login in a URL", "amqp://guest:guest@host/"),
        ("a path of a machine", "/".join(("File ", "home", "ada", "x.py"))),
        ("a path of a machine", "'/tmp/greet-1'"),
        ("an address with its port", "kafka://127.0.0.1:9092"),
    ],
)
def test_what_must_not_be_shown_is_found(what: str, bad: str) -> None:
    assert re.search(NOT_IN_OUTPUT[what], bad)
