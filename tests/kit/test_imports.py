"""What is imported is declared: nobody gets a library only because another one happens to need it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [*PROJECT["dependencies"], *EXTRAS["peers"], *EXTRAS["workers"]]


def plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


DECLARED = {plain(re.split(r"[^\w.-]", one)[0]) for one in REQUIREMENTS}


def imported(package: str) -> set[str]:
    """The first word of all that the files of a package import, wherever in a file."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"greet", "bench"}


@pytest.mark.parametrize("package", ["greet", "bench"])
def test_what_is_imported_is_declared(package: str) -> None:
    providers = packages_distributions()
    names = imported(package)
    assert names
    for name in names:
        assert {plain(one) for one in providers.get(name, [name])} & DECLARED, f"{name} is not in pyproject.toml"
