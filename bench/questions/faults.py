"""What becomes of the names when things break?

A publisher and two consumers, processes of their own, carry 200 names a second through a private broker
while a fault is injected: kill -9, SIGSTOP, a broken network, no memory. When all is over, end markers
follow, and each group is counted: lost is what was accepted and never handled; twice is what was handled
again; the gap is the longest time without a name. The journals of all processes are kept with the run
(their format is in bench/faults.py). Three of the trials and the accountant are controls that must find a
loss: where one finds nothing, the run is invalid. asyncio has no process to kill but its own: there a
task is cancelled, or raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from bench import plots, report, stats
from bench.run import Cell, Settings
from greet import GreetError, Guarantee

if TYPE_CHECKING:
    from matplotlib.figure import Figure

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import faults
from bench.contenders import Contender
from bench.contenders.auto_commit import CONTROL
from bench.run import Figures, Session, failure

ALWAYS = ("member killed", "publisher killed", "broker killed", "broker hangs, then killed")
"""What the quick profile tries under every guarantee; the rest only under the strongest of each design."""
ROUNDS = 2
"""Of the full profile, which takes some three hours."""
KILLS, OTHERS = 10, 3
"""In each of them: of a process, which makes 20 kills, and of everything else."""
ACCOUNTANT = "control: the accountant"


def cells(settings: Settings) -> list[Cell]:
    """Every fault that means something to a design, under every guarantee (quick: the telling ones), and controls."""
    found = [
        _cell(settings, one, guarantee, fault)
        for one in settings.of(name="greet", way="name")
        for guarantee in settings.guarantees(one, *Guarantee)
        for fault, what in faults.FAULTS.items()
        if one.design in what.designs
        if (settings.full and fault != "soak") or fault in ALWAYS or guarantee is one.guarantees[-1]
        if settings.full or fault != "soak"
    ]
    there = {(cell.rung, cell.contender.design, cell.guarantee, cell.contender.name) for cell in found}
    for fault, design, guarantee, name in faults.CONTROLS:
        if design in settings.designs and (fault, design, guarantee, name) not in there:
            of_design = [CONTROL, *settings.of(name="greet", way="name", design=design)]
            found += [
                _cell(settings, one, guarantee, fault) for one in of_design if (one.design, one.name) == (design, name)
            ]
    return found + [replace(cell, rung=ACCOUNTANT, measure=_tamper) for cell in found[:1]]


def _cell(settings: Settings, contender: Contender, guarantee: Guarantee, fault: str) -> Cell:
    trial = faults.Trial(
        *(fault, contender.design, guarantee),
        times=1 if fault == "soak" or not settings.full else KILLS if "killed" in fault else OTHERS,
        seed=settings.seed,
        pause_s=5.0 if settings.full else 2.0,
        contender=contender.name,
    )
    rounds = ROUNDS if settings.full and fault != "soak" else 1
    return Cell(contender, guarantee, rung=fault, rounds=rounds, measure=partial(_try, trial=trial))


async def _try(session: Session, cell: Cell, names: int, trial: faults.Trial) -> list[Figures]:  # noqa: ARG001
    """One trial, on a private broker that all trials of a design share."""
    began = time.monotonic()
    try:
        arena = await session.kept(f"faults {trial.design}", lambda: faults.arena(trial.design))
    except GreetError as error:
        return [failure(f"no broker to be hurt: {error}")]
    with TemporaryDirectory() as aside:
        folder = _folder(session, Path(aside), trial)
        verdict = await arena.tried(trial, folder)
    return [_figures(trial, verdict, time.monotonic() - began)]


def _folder(session: Session, aside: Path, trial: faults.Trial) -> Path:
    """Where the journals go: with the run, if it is kept."""
    said = "-".join([trial.design, trial.contender, trial.guarantee.name, trial.fault]).replace(",", "")
    kept = (session.folder or aside) / "journals" / said.lower().replace(" ", "-")
    return kept / str(len(list(kept.glob("*"))) + 1)


def _figures(trial: faults.Trial, verdict: faults.Verdict, elapsed_s: float) -> Figures:
    own = asdict(verdict)
    fields = {key: own.pop(key) for key in ("sent", "accepted", "received", "lost", "duplicates", "reordered")}
    own.pop("error")
    allowed = {"lost", "duplicates"} if faults.is_control(trial) else faults.FAULTS[trial.fault].allows(trial.guarantee)
    wrong = faults.breaches(trial, verdict)
    return Figures(
        {**fields, "elapsed_s": elapsed_s, "survives": trial.guarantee.value, "error": "; ".join(wrong) or None},
        {
            "fault": trial.fault,
            "times": trial.times,
            "pause_s": trial.pause_s,
            "seed": trial.seed,
            "control": faults.is_control(trial),
            "allowed": ", ".join(sorted(allowed)),
            **own,
        },
    )


async def _tamper(session: Session, cell: Cell, names: int) -> list[Figures]:  # noqa: ARG001
    """The accountant is fed a dropped, a doubled, an altered and a swapped name, and has to notice each."""
    handled = [f"tamp{lane:02d}{number:010d}" for number in range(1000) for lane in range(4)]
    seen = faults.tampered(handled, handled)
    blind = ", ".join(what for what, noticed in seen.items() if not noticed)
    error = f"the accountant does not notice: {blind}" if blind else None
    return [Figures({"error": error}, {"fault": ACCOUNTANT, "control": True, "allowed": ""})]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Names lost / handled twice / the longest gap, for each fault and design; "–" is not applicable."""
    rows = rows[rows["params.fault"].ne(ACCOUNTANT)]
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for (guarantee, fault, design, contender), part in report.ordered(rows).groupby(
        ["guarantee", "params.fault", "design", "contender"], sort=False
    ):
        what = str(fault) if contender == "greet" else f"{fault}: {contender}"
        lines.setdefault((str(guarantee), what), {})[str(design)] = outcome(part)
    order = list(faults.FAULTS)
    ranked = sorted(lines, key=lambda line: ([one.name for one in Guarantee].index(line[0]), _place(order, line[1])))
    designs = [design for design in ("asyncio", "rabbitmq", "kafka") if design in set(rows["design"])]
    return pd.DataFrame(
        [
            {"guarantee": guarantee, "fault": what}
            | {design: lines[guarantee, what].get(design) or _none(what, design) for design in designs}
            for guarantee, what in ranked
        ]
    )


def _none(what: str, design: str) -> str:
    """What stands where there is no row."""
    fault, _, control = what.partition(": ")
    return "–" if control or design not in faults.FAULTS[fault].designs else "not tried"


def _place(order: list[str], what: str) -> float:
    fault, _, control = what.partition(": ")
    return order.index(fault) + (0.5 if control else 0)


def outcome(part: pd.DataFrame) -> str:
    """What became of the names of some rows: lost / twice / longest gap."""
    if part["received"].isna().all():
        return "failed"
    lost, twice = (int(part[what].sum()) for what in ("lost", "duplicates"))
    gap = stats.short(float(part["params.gap_s"].max()))
    return f"{lost:,} / {twice:,} / {gap} s" + (" (control)" if part["params.control"].any() else "")


def picture(rows: pd.DataFrame) -> Figure:
    """A field for each fault, design and guarantee."""
    own = rows[rows["params.fault"].ne(ACCOUNTANT) & rows["contender"].eq("greet")]
    return plots.survival(own, {kind: what.designs for kind, what in faults.FAULTS.items()})
