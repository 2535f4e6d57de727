"""The faults of a cluster of three, which keeps each message on a majority: DURABLE only.

A cluster is private and all on loopback: Kafka with three replicas, two of them in step at least; RabbitMQ with
quorum queues. One is cut off by SIGSTOP: its connections stay open and it answers nobody, neither clients nor
the other two, as if its cables were pulled; it does not itself see the others go.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import greet
from bench.contenders.leader import leader_and_followers
from bench.faults.injections import control
from bench.faults.journal import GROUPS
from bench.faults.stage import BACK_S, LANES, Fault, Scene, Stage, until
from greet import Guarantee
from greet.brokers.process import together
from greet.brokers.watchdog import runs
from greet.designs import KAFKA, RABBITMQ, Design, Product, named

NODES = 3
ALONE_S = 60.0
"""How long publishers may take to say that two of three are gone."""


async def kill_leader(scene: Scene) -> None:
    """The others take over; then it comes back and catches up."""
    assert scene.broker
    leader = await _in_step(scene)
    scene.strike()
    await scene.broker.kill(leader)
    await scene.flowing()
    await scene.broker.restart(leader)
    await _in_step(scene)


async def kill_two(scene: Scene) -> None:
    """The leader, and then the one that took over: from then on nothing may be accepted, until they are back."""
    assert scene.broker
    first = await _in_step(scene)
    scene.strike()
    await scene.broker.kill(first)
    await scene.flowing()
    second = await _leader(scene, lambda leader, _: leader != first, first)
    scene.strike()
    await scene.broker.kill(second)
    alone = time.monotonic()
    await scene.each(lambda stage: _says_so(stage, alone))
    await together(scene.broker.restart(first), scene.broker.restart(second))
    await scene.flowing()
    await _in_step(scene)


async def _says_so(stage: Stage, alone: float) -> None:
    """Return when as many messages as a publisher has lanes were refused or are unknown, and note what was accepted."""
    book = stage.book

    def answered() -> bool:
        return sum(book.sent[name] > alone for name in (*book.refused, *book.unknown)) >= LANES

    await stage.until(answered, "publishers did not say that two of three are gone", ALONE_S)
    if false := sum(tried > alone for name, tried in book.sent.items() if name in book.accepted):
        stage.errors.append(f"{false} messages were accepted with two of three gone")


async def cut_off(scene: Scene) -> None:
    """The leader, by SIGSTOP, until the others have taken over; then it goes on, and catches up.

    RabbitMQ's others take its silence of more than a minute for a network that is parted. When it is back, it
    starts anew: up to RabbitMQ 4.2, as `autoheal` in their configuration says.
    """
    assert scene.broker
    leader = await _in_step(scene)
    scene.strike()
    await scene.broker.pause(leader)
    try:
        await scene.flowing()
    finally:
        await scene.broker.resume(leader)
    await scene.flowing()
    await _in_step(scene)


async def restart_in_turn(scene: Scene) -> None:
    """Each in turn is asked to end, by SIGTERM, and started again when it has."""
    assert scene.broker
    for number, node in enumerate(scene.broker.nodes, start=1):
        scene.strike()
        server = node.real()
        server.terminate()
        await until(lambda server=server: not runs(server), BACK_S, "a node does not end")  # type: ignore[misc]
        await scene.broker.restart(number)
        await scene.flowing()
        await _in_step(scene)


async def _in_step(scene: Scene) -> int:
    """Who leads, when all three have what was accepted, so that the next one may go."""
    return await _leader(scene, lambda _, members: len(members) == NODES)


async def _leader(scene: Scene, true: Callable[[int, set[int]], bool], *gone: int) -> int:
    """Who leads the topic, or of RabbitMQ the queue of "hello", once `true` of it and of who is in step."""
    async with asyncio.timeout(BACK_S):
        while True:
            with suppress(greet.GreetError, ChildProcessError, LookupError, ValueError):  # or a queue has no leader now
                leader, members = await _state(scene, *gone)
                if true(leader, members):
                    return leader
            await asyncio.sleep(0.5)


async def _state(scene: Scene, *gone: int) -> tuple[int, set[int]]:
    """Who leads, and who is in step."""
    product = named(scene.stages[0].trial.design).product
    assert product
    return await LOOKS[product](scene, *gone)


async def _state_of_kafka(scene: Scene, *_: int) -> tuple[int, set[int]]:
    assert scene.broker
    (stage,) = scene.stages
    return await leader_and_followers(scene.broker.url, stage.topic)


async def _state_of_rabbitmq(scene: Scene, *gone: int) -> tuple[int, set[int]]:
    assert scene.broker
    (stage,) = scene.stages
    asked = next(node for number, node in enumerate(scene.broker.nodes, start=1) if number not in gone)
    said = await control(asked, "list_queues", "name", "leader", "online", "--formatter", "json")
    queues = {queue["name"]: queue for queue in json.loads(said)}
    made = dict.fromkeys(
        one.format(topic=stage.topic, group=group) for one in named(stage.trial.design).made for group in GROUPS
    )
    mine = [queues[name] for name in made]
    return _number(mine[0]["leader"]), set.intersection(
        *({_number(name) for name in queue["online"]} for queue in mine)
    )


def _number(name: str) -> int:
    """Of the node called "greet2@localhost"."""
    return int(name.partition("@")[0].removeprefix("greet"))


LOOKS: Mapping[Product, Callable[..., Awaitable[tuple[int, set[int]]]]] = {
    RABBITMQ: _state_of_rabbitmq,
    KAFKA: _state_of_kafka,
}


def survives_a_member(design: Design) -> bool:
    """Whether a topic can survive the loss of a member of a cluster, and we know how to ask who leads it."""
    return bool(design.quorum) and design.product in LOOKS


RULES: Any = {"meant_for": survives_a_member, "guarantees": (Guarantee.DURABLE,), "kills": "broker", "nodes": NODES}
FAULTS: dict[str, Fault] = {
    "cluster: leader killed": Fault(kill_leader, times=5, **RULES),
    "cluster: the next one killed too": Fault(kill_two, quick=False, query="timeout=10", **RULES),
    "cluster: one cut off": Fault(cut_off, quick=False, **RULES),
    "cluster: restarted in turn": Fault(restart_in_turn, times=2, quick=False, **RULES),
}
