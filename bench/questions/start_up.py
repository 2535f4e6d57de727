"""How long does it take from nothing to the first greeting?

`python -m greet run --via DESIGN Ada`, until its first line: the interpreter, the library, the connection,
and a private broker from an empty folder if none is running.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter

import pandas as pd

from bench import pictures, tables
from bench.model import LOOP, Cell, Figures, Session, Settings, failure, title_of
from bench.pictures import Dots, Picture
from greet.brokers import VARIABLES, by_default
from greet.designs import named

DEADLINE_S = 90


def cells(settings: Settings) -> list[Cell]:
    """One message through each design, with a running broker; in the full profile also with one to be started."""
    found = []
    for one in settings.of(name="greet", way="name"):
        for guarantee in settings.guarantees(one, one.guarantees[-1]):
            up = Cell(one, guarantee, names=1, loop=LOOP, measure=first_greeting)
            found.append(up)
            if settings.full and not named(one.design).in_process:
                found.append(replace(up, rung="with its broker", rounds=3))
    return found


async def first_greeting(session: Session, cell: Cell, names: int) -> list[Figures]:
    """Run the application as a user does."""
    design = cell.contender.design
    if cell.rung and await by_default(design):
        return []  # greet would use that broker, and start none
    environment = dict(os.environ)
    topic = await session.kept("first greeting", lambda: nullcontext(f"bench-{secrets.token_hex(4)}"))
    session.sites[design].made[topic] = {"hello", "goodbye"}
    if design in VARIABLES:
        environment.pop(VARIABLES[design], None)
        if not cell.rung:
            environment[VARIABLES[design]] = session.sites[design].url
    guarantee = ("--guarantee", cell.guarantee.name.lower().replace("_", "-"))
    began = perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "greet", "run", "--via", design, "--topic", topic, *guarantee, "Ada"),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert process.stdout is not None
            first = (await process.stdout.readline()).decode().strip()
            elapsed = perf_counter() - began
            rest = (await process.stdout.read()).decode().strip()
            status = await process.wait()
    except TimeoutError:
        return [failure(f"no greeting in {DEADLINE_S} s")]
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if status or {first, rest} != {"hello Ada", "goodbye Ada"}:
        return [failure(f"greet ended with {status} and said {first!a}")]
    counts = {"sent": names, "accepted": 1, "received": 2, "lost": 0, "duplicates": 0, "error": None}
    return [Figures({**counts, "elapsed_s": elapsed, "survives": cell.guarantee.value})]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds to the first greeting: the median of the repetitions, and their spread."""
    return tables.seconds(rows, "params.rung")


def picture(rows: pd.DataFrame) -> Picture:
    """Seconds, a row for each design, and for each broker that must be started."""
    rows = pictures.measured(rows, "elapsed_s")
    up = rows["params.rung"].eq("")
    said = pictures.across(pictures.medians(rows[up]), " s")
    started = pictures.across(pictures.medians(rows[~up]), " s")
    with_rung = (", " + rows["params.rung"]).mask(up, "")
    with_broker = f"; where the broker is started first, {started}" if started else ""
    return Dots(
        title=pictures.headline(said and f"From nothing to the first greeting: {said}{with_broker}", __doc__),
        rows=tables.in_order(rows.assign(row=rows["design"].map(title_of) + with_rung), "params.rung"),
        unit="seconds",
        form="{} s",
        log=False,
    )
