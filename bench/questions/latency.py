"""How long does a message take from its publisher to its consumer?

Open loop: message i is due at `start + i / rate`, even if the messages before it are late. The rates are shares
of the highest rate that the same contender held for two seconds, with 99 of 100 messages within 100 ms; without the
full profile, of what it carried in half a second. Latency counts from the time when a message was due, because this
is how long a user waits. The latency from the actual send and the publish delay are in the details. At a load of
1.05, more messages are due than were held: if that was the limit, messages pile up. In the full profile, greet and
the plain clients are also measured at the same rate: a tenth of what a plain client carries with that broker on two
cores. So is RabbitMQ's PerfTest, which counts from the actual send.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bench import pictures, tables
from bench.measure.run import SAMPLES
from bench.model import PERFTEST, Cell, Contender, Settings, title_of
from bench.pictures import Dots, Lines, Picture
from greet import Guarantee
from greet.designs import KAFKA, RABBITMQ, named

QUICK = (0.1, 0.5, 0.9)
FULL = (0.1, 0.25, 0.5, 0.75, 0.9, 1.05)
PEERS = (0.5, 0.9)
TWICE = 0.5
"""The load at which the noise is measured."""
OTHERS = ("FastStream", "aio-pika single acks", "confluent-kafka", "confluent-kafka aio")
"""Peers whose own faster form is measured, or that are measured for their throughput; and those whose reports come
from a thread: at thousands of single messages a second they are late, probably by that thread and not by the client.
`wake_up` asks them at a hundred a second."""
RATES = {RABBITMQ: 500.0, KAFKA: 7_000.0}
"""A rate in messages a second at which all contenders of a product can be compared."""


FIRST_RATE = 1_000.0
"""The rate of the default run in messages a second, the same for all designs."""


def first(settings: Settings) -> list[Cell]:
    """greet with each design at the same rate, with the thousand messages that a p99 needs."""
    return [
        Cell(one, guarantee, rate=FIRST_RATE, names=1_120, rounds=3)
        for one in settings.of(way="name", name="greet")
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
    ]


def cells(settings: Settings) -> list[Cell]:
    """Every contender, message by message: a message that waits for a batch is not measured here. A/A at one load."""
    seconds = max(settings.seconds, 1.0)
    all_of_them = [
        (one, guarantee)
        for one in settings.of(way="name")
        if one.name not in OTHERS
        for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
    ]
    found = [
        Cell(one.paced(), guarantee, load=load, seconds=seconds)
        for one, guarantee in all_of_them
        for load in _loads(settings, one)
    ]
    if settings.full:
        found += [
            replace(one, again=True)
            for one in found
            if one.contender.name == "greet" and one.load == TWICE and named(one.contender.design).usual
        ]
        found += [
            Cell(one.paced(), guarantee, rate=rate, seconds=max(seconds, SAMPLES / rate))
            for one, guarantee in all_of_them
            if (product := named(one.design).product) and (rate := RATES.get(product)) and named(one.design).usual
        ]
        found += [
            Cell(one, guarantee, rate=RATES[RABBITMQ])
            for one in settings.of(name=PERFTEST)
            for guarantee in settings.guarantees(one, Guarantee.AT_LEAST_ONCE)
        ]
    return found


def _loads(settings: Settings, one: Contender) -> tuple[float, ...]:
    if not settings.full:
        return QUICK
    return FULL if one.name == "greet" and named(one.design).usual else PEERS


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Percentiles in milliseconds, each the median of the repetitions.

    "load" is the share of the highest rate that the contender held; "same rate": all clients of a broker had this one.
    """
    asked = rows["params.load"].map("{:g}".format, na_action="ignore").fillna("same rate")
    return tables.latencies(rows.assign(load=asked), "load")


def picture(rows: pd.DataFrame) -> Picture:
    """greet's p50 and p99 over the load of each design; if all had the same rate, a row for each design."""
    own = rows[rows["contender"].eq("greet")]
    middle, slowest = (pictures.measured(own, f"latency_ms.{name}") for name in ("p50", "p99"))
    if (loaded := middle["params.load"].notna()).any():
        at = {load: pictures.medians(middle[middle["params.load"].eq(load)]) for load in (0.5, 0.9)}
        both = {one: value for one, value in at[0.5].items() if one in at[0.9]}
        near = pictures.listed([pictures.number(at[0.9][one]) for one in pictures.told(both)])
        said = pictures.across(both, " ms")
        loads = f"{said} at half of the most that each carries, and {near} ms at nine tenths"
        panels = {"p50: half of the messages took less": middle[loaded]}
        panels["p99: one in a hundred took longer"] = slowest[slowest["params.load"].notna()]
        shown = pd.concat([part.assign(panel=panel) for panel, part in panels.items()])
        return Lines(
            title=pictures.headline(said and f"A message takes {loads}", __doc__),
            rows=shown.assign(line=shown["design"].map(title_of), x=100 * shown["params.load"].astype(float)),
            what="messages that are due, in per cent of the full load that was found before, one by one",
            unit="ms",
            form="{} ms",
            note="greet.",
            log="y",
        )
    said = pictures.across(pictures.medians(slowest), " ms")
    rates = ", ".join(f"{rate:,.0f}" for rate in sorted(set(own["params.rate"].dropna())))
    shown = pd.concat([middle.assign(hollow=True), slowest.assign(hollow=False)])
    return Dots(
        title=pictures.headline(said and f"One message in a hundred takes longer than {said}", __doc__),
        rows=shown.assign(row=shown["design"].map(title_of)),
        unit="ms",
        form="{} ms",
        note=f"greet, {rates} messages a second. Hollow: p50. Filled: p99, one in a hundred took longer.",
    )
