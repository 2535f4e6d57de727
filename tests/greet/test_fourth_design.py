"""A design costs its file and its record: the kit takes up a fourth one, written here, by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.show.plots import COLOURS
from greet.designs import DESIGNS

ROOT = Path(__file__).parents[2]
RECORD = """
    Design(
        name="memory-log",
        title="a log in memory",
        line="greet.designs.memory_log:MemoryLine",
        schemes=("memory-log",),
        ports=(0,),
        keys=(),
        guarantees=ALL[:2],
        keeps_unread=True,
    ),
)
PRODUCTS ="""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the kit with the design's file, and its record at the end of the table."""
    folder = tmp_path_factory.mktemp("kit")
    for part in ("greet", "bench", "tests", "conftest.py", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "reference"))
        else:
            shutil.copy(source, folder)
    shutil.copy(ROOT / "tests" / "greet" / "fourth" / "memory_log.py", folder / "greet" / "designs")
    table = folder / "greet" / "designs" / "__init__.py"
    before = table.read_text(encoding="utf-8")
    assert before.count("\n)\nPRODUCTS =") == 1
    table.write_text(before.replace("\n)\nPRODUCTS =", RECORD), encoding="utf-8")
    return folder


def run(kit: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(kit)}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=kit, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_the_promises(kit: Path) -> None:
    done = run(kit, "pytest", "-q", "-o", "addopts=", "tests/greet/test_contract.py", "-k", "memory-log")
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_the_command_line(kit: Path) -> None:
    done = run(kit, "greet", "run", "--via", "memory-log", "Ada")
    assert (done.returncode, sorted(done.stdout.split("\n"))) == (0, ["", "goodbye Ada", "hello Ada"]), done.stderr


def test_the_bench_and_its_pictures(kit: Path, tmp_path: Path) -> None:
    words = ("--designs", "memory-log", "--questions", "throughput", "--seconds", "0.05", "--out", str(tmp_path))
    done = run(kit, "bench", "run", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "memory-log" in done.stdout
    (folder,) = tmp_path.iterdir()
    drawn = run(kit, "bench", "report", "--pictures", str(tmp_path / "drawn"), str(folder))
    assert drawn.returncode == 0, drawn.stderr[-3000:]
    pictures = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "drawn").iterdir()}
    assert pictures.keys() == {"throughput"}
    assert COLOURS[len(DESIGNS)].lower() in pictures["throughput"]  # a colour of its own


def test_every_question_knows_what_to_do_with_it(kit: Path) -> None:
    """Its cells of all questions, and how the designs are drawn."""
    done = run(kit, "pytest", "-q", "-o", "addopts=", "tests/greet/fourth/asked.py")
    assert done.returncode == 0, done.stdout[-3000:]
