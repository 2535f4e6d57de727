"""The command `python -m bench workload`: read a workload, measure it with each design, keep the rows, answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import contenders, results
from bench.faults.ground import grounds, repair
from bench.judge import workload as judge
from bench.measure import workload as asked
from bench.measure.surroundings import surroundings
from bench.measure.trial import Row, Trial
from bench.measure.workload import Misread, Value, Workload
from bench.model import USUAL, breaches
from bench.show import workload as show
from greet import GreetError
from greet.brokers import on_interrupt
from greet.designs import DESIGNS, Design, named

WELL, WRONG, USE, MISSING, INTERRUPTED = 0, 1, 2, 3, 130
WIDTH = 80
"""The width of output that does not go to a terminal."""
FILE = Path("workload.toml")
RUNGS = {"asked": "the load as it is", "room": "the search for its capacity", "break": "what breaks"}
Complain = Callable[[str, int], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parser() -> argparse.ArgumentParser:
    """The flags: one for each key, and those of a run."""
    found = _Parser(
        "python -m bench workload",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Which design can carry your workload in time, what capacity is left, and what does a kill cost?",
        epilog="several values, separated by commas, are tried one after the other\n"
        "examples:\n"
        "  python -m bench workload --init                   write a commented workload.toml\n"
        "  python -m bench workload workload.toml\n"
        "  python -m bench workload workloads/orders.toml --members 1,3\n"
        "  python -m bench workload --rate 300 --size 800 --survive broker --break broker\n"
        "status: 0 for each workload there is a design, 1 for one there is none, or a promise was broken or a\n"
        "        measurement failed (a line each), 2 wrong use, 3 a requested broker is not available, 130 interrupted",
    )
    found.add_argument("file", nargs="?", type=Path, metavar="FILE.toml", help="keys and values; flags override it")
    found.add_argument("--init", action="store_true", help=f"only write every key, commented, to FILE ({FILE})")
    group: Any = found
    for name, default, what, part in asked.meaning():
        group = found.add_argument_group(part) if part else group
        flags = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        more: dict[str, Any] = {"nargs": "?", "const": "true"} if isinstance(default, bool) else {}
        shown = str(default).lower() if isinstance(default, bool) else default if default != "" else "none"
        group.add_argument(
            *flags, dest=f"key_{name}", metavar="VALUE", help=f"{what} ({shown})".replace("%", "%%"), **more
        )
    run = found.add_argument_group("The run")
    known = ",".join(one.name for one in DESIGNS)
    usual = ",".join(USUAL)
    run.add_argument("--designs", metavar="NAMES", help=f"some of {known} ({usual}, if available)")
    run.add_argument("--out", type=Path, default=Path("results"), help="where runs are kept (results)")
    run.add_argument("--json", action="store_true", help="print only one JSON object a line for each measurement")
    return found


def main(words: Sequence[str], complain: Complain) -> int:
    """Run the command. `complain` prints a line to standard error and returns the status."""
    options, rest = parser().parse_known_args(words)
    if rest:
        word = rest[0].partition("=")[0]
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            try:
                asked.checked(name, "", word)
            except Misread as error:
                return complain(str(error), USE)
        return complain(f"{rest[0]!a} is one word too many: see `python -m bench workload --help`", USE)
    if options.init:
        if others := [one for one in words if one.startswith("--") and one != "--init"]:
            return complain(f"--init writes every key with its default: leave out {others[0]}, or edit the file", USE)
        return _init(options.file or FILE, complain)
    said = _said(options)
    workloads = asked.points(said)
    designs = _designs(options.designs)
    everything = os.environ.get("GREET_REQUIRE") == "all"
    required = [one.name for one in designs] if options.designs or everything else []
    samples = {path: asked.lines_of(Path(path), path) for one in workloads if (path := one.samples)}
    facts = {
        "workload": {
            "points": [asdict(one) for one in workloads],
            "dimensions": asked.dimensions(said),
            "designs": [one.name for one in designs],
            "file": options.file.name if options.file else None,
        },
        "settings": {"profile": "workload", "loop": "select", "rounds": workloads[0].rounds, "seed": 0, "defaults": {}},
        "questions": ["workload"],
        "brokers": {},
        "elapsed_s": {},
    }
    writer = results.Writer(options.out, {**surroundings(), **facts})
    case = Case(workloads, designs, samples, writer, json_lines=options.json)
    return case.main(required, complain)


def _init(path: Path, complain: Complain) -> int:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(asked.example())
    except FileExistsError:
        return complain(f"{path} exists already, and is not overwritten: name another file", USE)
    print(f"wrote {path}: edit it, then run `python -m bench workload {path}`")
    return WELL


def _said(options: argparse.Namespace) -> dict[str, tuple[Value, ...]]:
    """The values of the file, overridden by those of the flags."""
    said = asked.from_file(options.file) if options.file else {}
    for name in asked.names():
        if (text := getattr(options, f"key_{name}")) is not None:
            said[name] = asked.from_flag(name, text)
    return said


def _designs(text: str | None) -> list[Design]:
    measured = {one.design for one in contenders.every() if one.name == "greet"}
    known = [one for one in DESIGNS if one.name in measured]
    if text is None:
        return [one for one in known if one.usual]
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in [one.name for one in known]:
            raise ValueError(f"there is no design {name!a}: choose from {', '.join(one.name for one in known)}")
    return [named(name) for name in names]


class Case:
    """One run of the command."""

    def __init__(
        self,
        workloads: Sequence[Workload],
        designs: Sequence[Design],
        samples: dict[str, list[str]],
        writer: results.Writer,
        *,
        json_lines: bool,
    ) -> None:
        self.workloads = workloads
        self.designs = designs
        self.samples = samples
        self.writer = writer
        self.json_lines = json_lines
        self.missing: dict[str, str] = {}
        self.wrong: list[str] = []
        self.aside = Console(stderr=True)

    def main(self, required: Sequence[str], complain: Complain) -> int:
        """Measure, keep the rows in any case, and print the answer."""
        status, began = WELL, perf_counter()
        try:
            try:
                asyncio.run(self._measure())
            except* (OSError, ValueError, GreetError) as errors:
                status = complain(f"{_first(errors)}: stopped, and the run is INCOMPLETE", WRONG)
        except (KeyboardInterrupt, asyncio.CancelledError):
            status = INTERRUPTED
        seconds = round(perf_counter() - began, 1)
        try:
            self.writer.note(
                complete=status == WELL, missing=self.missing, total_s=seconds, elapsed_s={"workload": seconds}
            )
        except OSError as error:  # the disk is still full: run.json says as before that it is not complete
            if status == WELL:
                status = complain(f"{error.strerror}: the run is INCOMPLETE", WRONG)
        rows, about = results.load(self.writer.folder), results.about(self.writer.folder)
        if not self.json_lines:
            paper = Console() if sys.stdout and sys.stdout.isatty() else Console(width=WIDTH)
            show.terminal(paper, rows, about)
            why = {INTERRUPTED: ": interrupted, so INCOMPLETE", WRONG: ": stopped by an error, so INCOMPLETE"}
            print(f"kept in {self.writer.folder}{why.get(status, '')}")
        for what in self.wrong:
            complain(what, WRONG)
        for name, why_not in self.missing.items():
            complain(f"{name} is left out: {why_not}", MISSING)
        if status != WELL:
            return status
        if any(name in required for name in self.missing):
            return MISSING
        unmet = any(
            judge.failed(one, judge.answers(one, number, rows, about)) for number, one in enumerate(self.workloads)
        )
        return WRONG if unmet or self.wrong else WELL

    async def _measure(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        on_interrupt(lambda _: task.cancel())
        able = [one for one in self.designs if any(not judge.unable(work, one) for work in self.workloads)]
        network = any(one.break_ == "network" for one in self.workloads)
        greets = {(one.design, one.way): one for one in contenders.every() if one.name == "greet"}
        with self._progress() as tell:
            tell("starting the brokers")
            async with grounds(able, network=network) as (found, self.missing):
                self.writer.note(
                    brokers={
                        n: g.broker.version if g.broker else None for n, g in found.items() if not g.design.in_process
                    }
                )
                for number, one in enumerate(self.workloads):
                    place = f"{number + 1} of {len(self.workloads)}, " if len(self.workloads) > 1 else ""
                    for name, ground in found.items():
                        if judge.unable(one, ground.design):
                            continue
                        title = f"{place}{ground.design.title}: "
                        if ground.broker:
                            with suppress(GreetError):  # what does not come back is told by the trial
                                await repair(ground.broker)
                        trial = Trial(
                            *(self.writer.run, ground, greets[name, "name"], greets[name, "many"], one, number),
                            samples=self.samples.get(one.samples, ()),
                            tell=partial(_tell, tell, title),
                        )
                        async for row in trial.measured():
                            self._keep(row)

    def _keep(self, row: Row) -> None:
        measurement, details = row
        self.writer.append(measurement, details)
        if measurement.wrong:
            what = measurement.error or ", ".join(breaches(vars(measurement), measurement.params))
            rung = RUNGS[str(measurement.params["rung"])]
            self.wrong.append(f"{named(measurement.design).title}, {rung}: {what}")
        if self.json_lines:
            print(json.dumps(asdict(measurement)), flush=True)

    @contextmanager
    def _progress(self) -> Iterator[Callable[[str], None]]:
        """Show the progress on a line of standard error, if that is a terminal."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.aside, transient=True, disable=not self.aside.is_terminal) as progress:
            line = progress.add_task("")
            yield lambda what: progress.update(line, description=what)


def _tell(tell: Callable[[str], None], title: str, what: str) -> None:
    tell(title + what)


def _first(errors: BaseException) -> str:
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return f"{type(errors).__name__}: {' '.join(str(errors).split())}"
