"""The house stands as it is drawn: imports run one way, and each driver has one room."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up: a module may import what stands to its left, and its own floor.
FLOORS = [
    ("greet.errors",),
    ("greet.names", "greet.address"),
    ("greet.line",),
    ("greet.designs",),
    ("greet",),
    ("greet.brokers", "greet.__main__"),
    ("bench",),
]
MODULES = sorted(path for package in ("greet", "bench") for path in (ROOT / package).rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor(module: str) -> int:
    """The floor whose name is the longest beginning of `module`."""
    names = [(name, height) for height, names in enumerate(FLOORS) for name in names]
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
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def modules_of(names: set[str]) -> set[str]:
    """Of `names`, those that are modules of this kit; a name in a module is dropped."""
    ours = {dotted(path) for path in MODULES}
    return {name for name in names if name in ours}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_run_one_way(path: Path) -> None:
    here = dotted(path)
    for other in modules_of(imports(path)) - {"greet"} if floor(here) < floor("greet") else modules_of(imports(path)):
        assert floor(other) <= floor(here), f"{here} imports {other}, which stands above it"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_driver_has_one_room(path: Path) -> None:
    """Peers are contenders of the bench: there a driver is measured bare."""
    rooms = {
        "aio_pika": "greet.designs.rabbitmq",
        "aiormq": "greet.designs.rabbitmq",
        "aiokafka": "greet.designs.kafka",
    }
    here = dotted(path)
    for name in imports(path):
        room = rooms.get(name.partition(".")[0])
        assert room is None or here.startswith((room, "bench.contenders")), f"{name} belongs to {room}, not {here}"
        if name.startswith("matplotlib"):
            assert here == "bench.plots"


def test_the_bench_uses_what_greet_exports() -> None:
    for path in (ROOT / "bench").rglob("*.py"):
        inner = {name for name in modules_of(imports(path)) if name.startswith("greet.")}
        assert all(name.startswith("greet.brokers") for name in inner), path


@pytest.mark.parametrize("design", ["asyncio"])
def test_nobody_waits_for_a_library_that_is_not_used(design: str) -> None:
    code = f"import sys, greet; greet.connect('{design}:'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout
    assert {"aio_pika", "aiokafka", "psutil", "pandas", "matplotlib"}.isdisjoint(loaded.split())


def test_nothing_names_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30).stdout
    for name in filter(None, listed.decode().split("\0")):
        if not (ROOT / name).is_file():
            continue  # removed, and not yet committed
        text = (ROOT / name).read_bytes().decode(errors="ignore")
        found = re.search(r"/(?:home|Users|root|work)/\w+|https?://[^ \"]*(?:/simple|/maven2)", text)
        assert not found or name == "tests/test_house.py", f"{name} has {found and found[0]}"
