"""The house stands as it is drawn: imports run one way, each driver has one room, and the texts are plain English."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from greet import designs

ROOT = Path(__file__).parents[2]
NAMES = designs.names()
# The rooms from the ground up: a module may import what stands on its own floor or on one below it.
FLOORS = {
    "greet.errors": "what can go wrong",
    "greet.names, greet.address, greet.tasks": "what a name and a URL are, and tasks of asyncio",
    "greet.line": "what every design promises",
    "greet.designs": "the designs",
    "greet": "what an application imports",
    "greet.brokers, greet.__main__": "private brokers, and the command line",
    "bench.model, bench.stats": "the data that all rooms of the bench share, and its arithmetic",
    "bench.schema, bench.results, bench.tables, bench.pictures, bench": "a run as files, tables and pictures",
    "bench.contenders": "who is measured",
    "bench.measure": "the measuring: brokers, workers, load, clock and account",
    "bench.faults": "what breaks, and the accounting of it",
    "bench.questions": "what a reader asks, a file each",
    "bench.judge": "from figures to answers",
    "bench.show": "from answers to what a person sees",
    "bench.__main__, bench.workload": "the command line",
}
MODULES = sorted(path for package in ("greet", "bench") for path in (ROOT / package).rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor(module: str) -> int:
    """The floor whose name is the longest beginning of `module`."""
    names = [(name, height) for height, names in enumerate(FLOORS) for name in names.split(", ")]
    return max((len(name), height) for name, height in names if module == name or module.startswith(name + "."))[1]


@cache
def imports(path: Path) -> set[str]:
    """All that a file imports when it runs: what stands there for the type checker alone is left out."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: an import says where it comes from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules_of(names: set[str]) -> set[str]:
    """The modules of this kit that `names` are or stand in."""
    ours = {dotted(path) for path in MODULES}
    return {module for name in names for module in (name, name.rpartition(".")[0]) if module in ours} - {
        name.rpartition(".")[0] for name in names if name in ours
    }


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_run_one_way(path: Path) -> None:
    here = dotted(path)
    for other in modules_of(imports(path)):
        assert floor(other) <= floor(here), f"{here} imports {other}, which stands above it"


def test_no_module_imports_itself_in_a_circle() -> None:
    TopologicalSorter({dotted(path): modules_of(imports(path)) - {dotted(path)} for path in MODULES}).prepare()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_driver_has_one_room(path: Path) -> None:
    """Peers are contenders of the bench: there a driver is measured bare."""
    rooms = {
        "aio_pika": ("greet.designs.rabbitmq", "greet.fast.rabbitmq"),
        "aiormq": ("greet.designs.rabbitmq", "greet.fast.rabbitmq"),
        "aiokafka": ("greet.designs.kafka", "greet.fast.kafka"),
    }
    here = dotted(path)
    for name in imports(path):
        room = rooms.get(name.partition(".")[0])
        assert room is None or here.startswith((*room, "bench.contenders")), f"{name} belongs to {room}, not {here}"
        if name.startswith("matplotlib"):
            assert here == "bench.show.plots"


NAMED_HERE = {
    "greet/designs/": "the records, and each design's own file",
    "greet/brokers/__init__.py": "its exports have the names of the products",
    "bench/contenders/*_peers.py": "each is the peer of one design",
    "bench/contenders/auto_commit.py": "a peer",
    "bench/contenders/java.py": "a peer",
    "bench/contenders/perftest.py": "a peer",
    "bench/faults/catalogue.py": "the controls: which designs lose what, where",
    "bench/judge/answer.py": "what is said of each design",
    "bench/judge/claims.py": "what is claimed of each design",
    "bench/model.py": "the event loop that is called asyncio",
    "bench/questions/ladder.py": "the steps from a first tutorial to each design",
}
"""The only files that call a design by its name, and why; all others ask its record what it can."""


def named(path: Path) -> set[int]:
    """The lines of a file with a design's name as a text of its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.lineno for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in NAMES}


def matches(path: Path, pattern: str) -> bool:
    here = path.relative_to(ROOT)
    return here.as_posix().startswith(pattern) if pattern.endswith("/") else here.match(pattern)


def test_a_design_is_known_by_its_record() -> None:
    elsewhere = [path for path in MODULES if not any(matches(path, pattern) for pattern in NAMED_HERE)]
    assert [f"{path}:{line}" for path in elsewhere for line in named(path)] == []


@pytest.mark.parametrize("pattern", NAMED_HERE)
def test_no_file_may_name_a_design_without_need(pattern: str) -> None:
    assert any(named(path) for path in MODULES if matches(path, pattern))


def test_the_bench_uses_what_greet_exports() -> None:
    for path in (ROOT / "bench").rglob("*.py"):
        inner = {name for name in modules_of(imports(path)) if name.startswith("greet.")}
        inner -= {"greet.designs", "greet.names"}  # what a design can, and what a message may be
        assert all(name.startswith("greet.brokers") for name in inner), path


@pytest.mark.parametrize("design", ["asyncio"])
def test_nobody_waits_for_a_library_that_is_not_used(design: str) -> None:
    code = f"import sys, greet; greet.connect('{design}:'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout
    assert {"aio_pika", "aiokafka", "psutil", "pandas", "matplotlib"}.isdisjoint(loaded.split())


HARD = {
    "whoever": "the member that, anybody",
    "who (?:wants?|waits|dies|publishes|subscribes|reads)(?! [^.|]*\\?)": "a reader that",
    "what waits": "waiting messages, a backlog",
    "outliv\\w+": "survive",
    "dealt|deal(?:s|ing)?(?: \\w+)? out": "deliver, share",
    "doubled|an? double": "duplicate",
    "the other way round": "say which way",
    "mend(?:s|ed)?": "fix, repair",
    "surely": "certainly",
    "in silence": "silently",
    "under way": "being sent, not acknowledged yet",
    "anew": "again",
    "at work": "working",
    "(?:stood|stands?) still": "is blocked, is stopped",
    "downfalls?": "weak point",
    "(?:is|are|was) called one": "counts",
    "be had": "is available",
    "(?:hung|hangs) up": "closed the connection",
    "so soon (?:does|is)|so long does": "within this time",
    "(?<!there\\s)(?:is|was) no (?:name|number|answer|message|program|duplicate|difference)": "is not a",
}
"""What is a riddle in a second language, as a pattern, and what to write: what manuals of brokers and pytest write."""
READ = ("greet/**/*.py", "bench/questions/*.py", "bench/judge/*.py", "bench/**/__main__.py", "bench/**/workload.py")
"""The code whose sentences a user reads: docstrings of the designs, questions, answers, help and errors."""


def sentences() -> dict[str, str]:
    """What a user reads: the README, the text of the notebooks, and the code of `READ`."""
    found = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found[path.name] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for path in sorted({path for pattern in READ for path in ROOT.glob(pattern)}):
        found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return found


def hard(text: str) -> list[str]:
    """The words of `HARD` in a text, also over the end of a line: each with its line and what to write instead."""
    found = []
    for words, instead in HARD.items():
        pattern = r"\b(?:" + words.replace(" ", r"\s+") + r")\b"
        for one in re.finditer(pattern, text, re.IGNORECASE):
            line = text.count("\n", 0, one.start()) + 1
            found.append(f"line {line}: {one[0]!r}, write: {instead}")
    return found


@pytest.mark.parametrize(("name", "text"), [pytest.param(*one, id=one[0]) for one in sentences().items()])
def test_what_a_user_reads_is_plain_english(name: str, text: str) -> None:
    assert hard(text) == [], name


@pytest.mark.parametrize("words", ["Who wants them subscribes.", "it was\n  handled in\n silence", "surely sent"])
def test_a_riddle_is_found(words: str) -> None:
    assert len(hard(words)) == 1


def test_nothing_names_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30).stdout
    for name in filter(None, listed.decode().split("\0")):
        if not (ROOT / name).is_file():
            continue  # removed, and not yet committed
        text = (ROOT / name).read_bytes().decode(errors="ignore")
        found = re.search(r"/(?:home|Users|root|work)/\w+|https?://[^ \"]*(?:/simple|/maven2)", text)
        assert not found or name == "tests/kit/test_house.py", f"{name} has {found and found[0]}"
