"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("design", ["asyncio", "rabbitmq", "kafka"])
def test_the_program_prints_what_stands_under_it(design: str, request: pytest.FixtureRequest) -> None:
    program, said = blocks("python")[0], blocks("text")[0]
    if design != "asyncio":
        program = program.replace("asyncio:", request.getfixturevalue(f"{design}_url"))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout, run.stderr) == (said, "")


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.MULTILINE))
    assert {"bench", "lab", "test", "check"} <= targets
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True, timeout=30)


def test_every_command_is_understood() -> None:
    commands = re.findall(r"python -m (greet|bench)(?:\.brokers)? ?(\w*)", README)
    assert commands
    for module, subcommand in set(commands):
        arguments = [subcommand, "--help"] if subcommand else ["--help"]
        run = [sys.executable, "-m", module, *arguments]
        subprocess.run(run, cwd=ROOT, check=True, capture_output=True, timeout=30)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_screenshot_is_there_for_both_grounds_and_small() -> None:
    shown = re.findall(r'(?:src|srcset)="([^"]+)"', README)
    assert shown == ["pictures/walkthrough-dark.png", "pictures/walkthrough.png"]
    for target in shown:
        assert (ROOT / target).stat().st_size < 150_000
