"""The answer of a run in at most five lines: which design to take, why, and how certain that is."""

from __future__ import annotations

import re
from contextlib import suppress

import pandas as pd

from bench.judge import claims
from bench.judge.claims import Figures, Missing, _large, _many
from bench.stats import SPEED, short

BUSY = 0.5
"""If the noise is larger than this, the machine had other work."""


def answer(rows: pd.DataFrame, judged: pd.DataFrame) -> list[str]:
    """One line for each decision that the run has figures for, then how certain they are. Empty if it has none."""
    run = Figures(rows)
    lines = []
    for line in (_one_program, _several_programs, _large_volumes, _large_messages):
        with suppress(Missing):
            lines.append(line(run))
    return [*lines, _sure(run, rows, judged)] if lines else []


FAULTS = "`python -m bench run --profile full --questions faults`, half an hour"
ASKING = "`python -m bench run --contenders all --questions {}`, some minutes"


def open_claims(judged: pd.DataFrame) -> dict[str, list[str]]:
    """The open claims of `verdicts`, by what decides them: a command with its minutes, or the reason why nothing does.

    Claims that a notebook shows are not among them.
    """
    found: dict[str, list[str]] = {}
    for claim, why in judged.loc[judged["verdict"] == claims.UNKNOWN, ["claim", "evidence"]].itertuples(index=False):
        asked = re.search(r"--questions ([a-z_,]+)", why)
        remedy = why if not asked else FAULTS if asked[1] == "faults" else ASKING.format(asked[1])
        found.setdefault(remedy, []).append(claim)
    return found


def _one_program(run: Figures) -> str:
    cell = {"question": "throughput", "design": "asyncio", "guarantee": "AT_LEAST_ONCE"}
    one, many = (run.best(**cell, way=way) for way in ("name", "many"))
    said = f"One program: asyncio. {short(run.speed(**one))} messages a second one by one{run.clients(one)}, "
    said += f"{short(run.speed(**many))} in lists{run.clients(many)}"
    return f"{said}{_alone(run, 'asyncio')}. Nothing survives its process."


def _several_programs(run: Figures) -> str:
    one, many = (run.best(**_many("rabbitmq", way)) for way in ("name", "many"))
    said = f"Several programs that share work: RabbitMQ. Persistent and confirmed, {short(run.speed(**one))} a second "
    said += f"one by one{run.clients(one)}, {short(run.speed(**many))} in lists{run.clients(many)}"
    with suppress(Missing):
        lost, of = run.lost("rabbitmq", guarantee="DURABLE", fault="broker killed")
        said += f"; kill -9 of the broker lost {lost:,} of {of:,}"
    return f"{said}{_alone(run, 'rabbitmq', 'transient ')}."


def _large_volumes(run: Figures) -> str:
    pairs = {way: [run.best(**_many(design, way)) for design in ("kafka", "rabbitmq")] for way in ("many", "name")}
    many, one = (run.speed(**pairs[way][0]) for way in ("many", "name"))
    more = run.more(run.times("messages_per_s", *pairs["many"]))
    what = "Large volumes, or reading again: Kafka"
    if not more:
        what = f"Reading again: Kafka. For volume it is {'not faster' if more is False else 'not known to be faster'}"
    said = f"{what}. {short(many)} a second in batches{_beside(run, pairs['many'])}, "
    said += f"{short(one)} one by one{_beside(run, pairs['name'])}, with the same guarantee"
    return f"{said}{_alone(run, 'kafka', how=' with acks=1')}."


def _large_messages(run: Figures) -> str:
    cells = [_large(design) for design in ("kafka", "rabbitmq")]
    if not all(len(run.measured(**cell)) > 1 for cell in cells):
        raise Missing("greet alone says nothing about a broker")
    best = [run.best(**cell) for cell in cells]
    kafka, rabbitmq = (f"{short(run.speed(**cell))} a second" for cell in best)
    said = f"Messages of 64 KiB: Kafka {kafka}{_beside(run, best)}, RabbitMQ {rabbitmq} with {best[1]['contender']}"
    return f"{said}, transient."


def _beside(run: Figures, pair: list[dict[str, object]]) -> str:
    times = run.times("messages_per_s", *pair)
    low, high = (f"{value:.2g}" if value < 10 else f"{value:,.0f}" for value in (times.low, times.high))
    return f" with {pair[0]['contender']} ({low} to {high} times RabbitMQ's)"


def _alone(run: Figures, design: str, kind: str = "", how: str = "") -> str:
    with suppress(Missing):
        _, (wait,) = claims._alone(run, design)
        return f"; at 100 a second a {kind}message{how} takes {wait}"
    return ""


def _sure(run: Figures, rows: pd.DataFrame, judged: pd.DataFrame) -> str:
    settled = int((judged["verdict"] != claims.UNKNOWN).sum())
    rounds = int(rows["repetition"].max())
    said = (
        f"How certain: medians of up to {rounds} rounds, in which {_where(rows)}; a difference below "
        f"{claims.WIDE:.0%} does not count{_noisy(run)}; {settled} of {len(judged)} claims have a verdict, "
        f"{len(claims.SHOWN)} of them from a notebook."
    )
    return said if run.noise(SPEED) < BUSY else f"{said} The machine was busy: run it again when it is idle."


def _noisy(run: Figures) -> str:
    """What else does not count, if a design differs from itself by more."""
    noise = run.noise(SPEED)
    return f", nor one in speed below a design's own noise, up to {noise:.0%}" if noise > claims.WIDE else ""


def _where(rows: pd.DataFrame) -> str:
    """Where broker and clients ran: those of `--workers` have a bound of their clocks."""
    bound = float(rows["clock_bound_ms"].max()) if "clock_bound_ms" in rows else 0.0
    if bound > 0:
        return f"Dask workers were the clients, their clocks known to {short(bound)} ms"
    away = rows.loc[rows["broker_elsewhere"].eq(True), "design"].unique() if "broker_elsewhere" in rows else ()
    if len(away):
        return f"the clients ran on this machine, the broker of {' and '.join(away)} on another"
    return "broker and clients shared this machine"
