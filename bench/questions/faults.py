"""What happens to messages when things break?

Publishers and two groups of consumers run as separate processes. They send 40 messages a second for each
guarantee through private brokers, while a fault is injected into all of them at the same time: kill -9,
SIGSTOP, a broken network, no memory; and in a cluster of three brokers, one member after another. At the end
come end markers, and each group is counted, so the same message can be lost twice. "Lost" was accepted and
never handled, "twice" was handled again, and the gap is the longest time without a message after the fault.
When a single broker is killed, the members of one group are away, so that messages wait in the broker. They are
told to come back when it serves again, so their gap is the time of its start and of their joining.

In the full profile, a single broker and all its clients are killed 20 times. A cluster's leader is killed 5
times, and each of its members restarted twice, because that takes longer. All other faults are tried 3 times,
and a soak takes 10 minutes. A single Kafka broker can register again 4 s after its kill
(`broker.session.timeout.ms`, by default 9 s). When two of a cluster's three are killed, clients give up after 10 s,
not 30. All other settings are the defaults. To fill buffers, one more publisher sends messages as fast as it can. All
designs are hurt side by side on the same machine, so their gaps are longer than those of one alone.

The journals of all processes are kept with the run (their format is in bench/faults/journal.py, and
bench/faults/recount.py counts them again). Three of the trials and the accountant are controls that must find
a loss: if one finds none, the run is invalid. asyncio has no process to kill except its own, so a task is
cancelled there, or raises.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from bench import pictures, stats, tables
from bench.contenders.auto_commit import CONTROL
from bench.faults.arena import Campaign, arenas
from bench.faults.catalogue import CONTROLS, FAULTS, breaches
from bench.faults.journal import GROUPS, tampered
from bench.faults.stage import Trial, Verdict
from bench.model import USUAL, Cell, Figures, Session, Settings, failure, rank
from bench.pictures import Picture, Survival
from greet import Guarantee

ACCOUNTANT = "control: the accountant"


def lacking(settings: Settings) -> str:  # noqa: ARG001
    """Why nothing of this is measured; "" where it is."""
    return "its processes are forked, which Windows cannot do" if sys.platform == "win32" else ""


def cells(settings: Settings) -> list[Cell]:
    """For each fault a campaign, with a cell for each design and guarantee. Quick: only the short faults, once each."""
    greets = {one.design: one for one in settings.of(name="greet", way="name")}
    found = []
    for fault, what in FAULTS.items():
        trials = [
            Trial(fault, design, guarantee)
            for design, one in greets.items()
            for guarantee in settings.guarantees(one, *Guarantee)
            if design in what.designs and guarantee in what.guarantees
            if settings.full or what.quick
            if fault != "soak" or guarantee is one.guarantees[-1]
        ]
        trials += [one for one in CONTROLS if one.fault == fault and one.design in greets and one not in trials]
        campaign = Campaign(fault, tuple(trials), what.times if settings.full else 1, settings.seed)
        for trial in trials:
            contender = CONTROL if trial.contender == CONTROL.name else greets[trial.design]
            measure = partial(_try, campaign=campaign, trial=trial)
            found.append(Cell(contender, trial.guarantee, groups=len(GROUPS), rung=fault, rounds=1, measure=measure))
    return found + [Cell(one.contender, one.guarantee, rung=ACCOUNTANT, rounds=1, measure=_tamper) for one in found[:1]]


async def _try(
    session: Session,
    cell: Cell,  # noqa: ARG001
    names: int,  # noqa: ARG001
    *,
    campaign: Campaign,
    trial: Trial,
) -> list[Figures]:
    """One trial's part of its campaign. The first one that is asked for runs the campaign."""
    found, elapsed_s = await session.kept(f"faults {campaign.fault}", lambda: _fought(session, campaign))
    verdict = found[trial]
    if isinstance(verdict, str):
        return [replace(failure(verdict), params=_params(campaign, trial))]
    return [_figures(campaign, trial, verdict, elapsed_s)]


@asynccontextmanager
async def _fought(session: Session, campaign: Campaign) -> AsyncIterator[tuple[dict[Trial, Verdict | str], float]]:
    """The campaign's verdicts, and how long it took. The journals stay with the run, if the run is kept."""
    began = time.monotonic()
    ground = await session.kept("faults", arenas)
    with TemporaryDirectory() as aside:
        place = campaign.fault.lower().replace(" ", "-").replace(",", "").replace(":", "")
        found = await ground.fight(campaign, (session.folder or Path(aside)) / "journals" / place)
        yield found, time.monotonic() - began


def _figures(campaign: Campaign, trial: Trial, verdict: Verdict, elapsed_s: float) -> Figures:
    own = asdict(verdict)
    fields = {key: own.pop(key) for key in ("sent", "accepted", "received", "lost", "duplicates", "reordered")}
    own.pop("error")
    wrong = breaches(trial, verdict)
    return Figures(
        {**fields, "elapsed_s": elapsed_s, "survives": trial.guarantee.value, "error": "; ".join(wrong) or None},
        {**_params(campaign, trial), **own},
    )


def _params(campaign: Campaign, trial: Trial) -> dict[str, Any]:
    control = trial in CONTROLS
    allowed = {"lost", "duplicates"} if control else FAULTS[trial.fault].allows(trial.guarantee)
    return {
        "fault": trial.fault,
        "times": campaign.times,
        "pause_s": campaign.pause_s,
        "seed": campaign.seed,
        "control": control,
        "allowed": ", ".join(sorted(allowed)),
    }


async def _tamper(session: Session, cell: Cell, names: int) -> list[Figures]:  # noqa: ARG001
    """The accountant gets a dropped, a duplicate, an altered and a swapped name, and must notice each."""
    handled = [f"tamp{lane:02d}{number:010d}" for number in range(1000) for lane in range(4)]
    seen = tampered(handled, handled)
    blind = ", ".join(what for what, noticed in seen.items() if not noticed)
    error = f"the accountant does not notice: {blind}" if blind else None
    return [Figures({"error": error}, {"fault": ACCOUNTANT, "control": True, "allowed": ""})]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages lost / handled twice / the longest gap, for each fault and design; "–" means not applicable.

    Where a "*" stands, a publisher or member ended with an error that says so, and another took its place.
    """
    rows = rows[rows["params.fault"].ne(ACCOUNTANT)]
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for (guarantee, fault, design, contender), part in tables.ordered(rows).groupby(
        ["guarantee", "params.fault", "design", "contender"], sort=False
    ):
        what = str(fault) if contender == "greet" else f"{fault}: {contender}"
        line = lines.setdefault((str(guarantee), what), {})
        line[str(design)] = outcome(part)
        line["times"] = str(int(part["params.times"].sum()))
    grades = [one.name for one in Guarantee]
    ranked = sorted(lines, key=lambda line: (grades.index(line[0]), _place(line[1])))
    designs = sorted(set(rows["design"]), key=rank)
    return pd.DataFrame(
        [
            {"guarantee": guarantee, "fault": what, "times": lines[guarantee, what]["times"]}
            | {design: lines[guarantee, what].get(design) or _none(what, design, guarantee) for design in designs}
            for guarantee, what in ranked
        ]
    )


def _fault(what: str) -> str:
    """The fault of a line; for a control, followed by its contender."""
    return what if what in FAULTS else what.rpartition(": ")[0]


def _none(what: str, design: str, guarantee: str) -> str:
    """The text for a field without a row."""
    return "not tried" if what in FAULTS and (design, guarantee) in FAULTS[what].means else "–"


def _place(what: str) -> float:
    known = [*FAULTS]
    fault = _fault(what)
    return (known.index(fault) if fault in known else len(known)) + (what not in FAULTS) / 2


def outcome(part: pd.DataFrame) -> str:
    """The result of some rows: lost / twice / longest gap."""
    if part["lost"].isna().any():
        return "failed"
    lost, twice = (int(part[what].sum()) for what in ("lost", "duplicates"))
    gap = stats.short(float(part["params.gap_s"].max()))
    marks = ("" if part["params.recovered"].all() else "*") + (" (control)" if part["params.control"].any() else "")
    return f"{lost:,} / {twice:,} / {gap} s{marks}"


def picture(rows: pd.DataFrame) -> Picture:
    """A field for each fault, design and guarantee, for the faults that cost most.

    Of the usual designs, if they were tried: with more columns nobody can read it. The table has all.
    """
    own = rows[rows["params.fault"].ne(ACCOUNTANT) & rows["contender"].eq("greet")]
    usual = own["design"].isin(USUAL)
    own = own[usual | (not usual.any())]
    harm = own.assign(bad=~own["lost"].eq(0), again=own["duplicates"].gt(0)).groupby("params.fault")
    cost = harm.agg({"bad": "sum", "again": "sum", "params.gap_s": "max"})
    worst = [*cost.sort_values(["bad", "again", "params.gap_s"], ascending=False).index]
    shown = {fault: what.means for fault, what in FAULTS.items() if fault in worst[: pictures.MOST]}
    others = [fault for fault in FAULTS if fault in worst[pictures.MOST :]]
    counted = own[own["lost"].notna()]
    lost = counted.groupby("guarantee")["lost"].sum()
    said = pictures.listed([f"{one.name} {lost[one.name]:,.0f}" for one in reversed(Guarantee) if one.name in lost])
    return Survival(
        title=pictures.headline(
            said and f"Messages lost under {counted['params.fault'].nunique()} faults: {said}", __doc__
        ),
        rows=own,
        faults=shown,
        note=f"These cost less and are in the table: {pictures.listed(others)}." if others else "",
    )
