"""All faults, what must find a loss, and what breaks a promise."""

from __future__ import annotations

import asyncio
import time

from bench.faults import cluster, injections
from bench.faults.journal import grown
from bench.faults.stage import Fault, Scene, Trial, Verdict
from greet import Guarantee


async def soak(scene: Scene) -> None:
    """Faults at random, one after the other; those who carry the messages live through all of it and must not grow."""
    design = scene.stages[0].trial.design
    kinds = [kind for kind in ENDURED if design in FAULTS[kind].designs]
    deadline = time.monotonic() + scene.soak_s
    while scene.alive and time.monotonic() < deadline:
        await FAULTS[scene.random.choice(kinds)].inject(scene)
        await scene.flowing()
        await asyncio.sleep(scene.random.uniform(0, 2))
    for stage in scene.alive:
        for worker in stage.of("publisher") + stage.of("member"):
            if worker.hand:  # a task of asyncio shares this process, which holds the accounts and the proxies too
                stage.errors += [f"a {worker.duty.role} has {what}" for what in grown(worker.states)]


FAULTS: dict[str, Fault] = {
    **injections.FAULTS,
    **cluster.FAULTS,
    "soak": Fault(soak, injections.every, 1, quick=False, kills="broker", routed=True, shares=True),
}
ENDURED = (
    *("members come and go", "broker killed", "broker stopped", "connection cut", "connection half-open"),
    *("connection slow", "responses dropped", "memory alarm"),
)
"""What happens in a soak."""

CONTROLS = (
    Trial("broker killed", "rabbitmq", Guarantee.AT_LEAST_ONCE),
    Trial("broker hangs, then killed", "kafka", Guarantee.AT_MOST_ONCE),
    Trial("member killed", "kafka", Guarantee.AT_LEAST_ONCE, "auto-commit"),
)
"""What must lose messages, or the instrument cannot see a loss: transient messages over a broker's kill, `acks=0`
over a broker that hangs and is killed, and auto-commit over a consumer's kill."""


def breaches(trial: Trial, verdict: Verdict) -> list[str]:
    """What the verdict says against the promises, or of a control against the instrument; empty if all is well."""
    found = [verdict.error] if verdict.error else []
    if trial in CONTROLS:
        return found if verdict.lost else [*found, "the control lost nothing, so this run proves nothing"]
    allowed = FAULTS[trial.fault].allows(trial.guarantee)
    counts = ("lost", "duplicates", "reordered", "unexpected", "came_though_refused")
    found += [
        f"{count} {what.replace('_', ' ')}"
        for what in counts
        if (count := getattr(verdict, what)) and what not in allowed
    ]
    if not verdict.recovered and not (verdict.raised or verdict.error):
        found.append("it did not come back by itself, and said nothing")
    return found
