"""The faults of a single broker and of the processes at it, and what each may do to the messages."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.faults.duty import MOST_FLOOD
from bench.faults.journal import GROUPS
from bench.faults.stage import LEAVE_S, STEADY, Fault, Scene, Stage, Worker
from greet import Guarantee
from greet.brokers.process import Node
from greet.designs import KAFKA, RABBITMQ, Design

HOLD_S = 0.3
"""How long a member is in the middle of handling when it is killed: longer than any client waits to commit."""
HANG_S = 1.0
"""How long a broker hangs that is then killed."""
CALM_S = 1.0
"""A flood is held back when nothing more of it goes out for so long."""
FLOOD_MB = 100.0
"""What a publisher may need more that is held back."""
KILLS = 20


async def kill_member(scene: Scene) -> None:
    """The member of "hello" is gone; another one takes its place.

    The first time, and then each other time, it has stood in the middle of handling for so long that all it had
    handled before is acknowledged. The other times it is at work, and what it has just handled may not be.
    """
    killed = [stage.of("member", GROUPS[0])[0] for stage in scene.alive]
    if not any(len(stage.book.windows) % 2 for stage in scene.alive):
        for member in killed:
            member.tell("hold")
        await scene.each(lambda stage: stage.until(lambda: _holds(stage), "a member handles no message"))
    scene.pool.prepare(len(killed))
    scene.strike()
    for member in killed:
        await member.kill()
    for stage in scene.alive:
        stage.member(GROUPS[0])


def _holds(stage: Stage) -> bool:
    (member,) = stage.of("member", GROUPS[0])
    return member.in_hand is not None and time.monotonic() - member.in_hand > HOLD_S


async def crash_member(scene: Scene) -> None:
    """Handling raises; another member takes the place."""

    async def crash(stage: Stage) -> None:
        (member,) = stage.of("member", GROUPS[0])
        member.tell("crash")
        await stage.until(lambda: member.over, "the member did not crash", LEAVE_S)
        stage.member(GROUPS[0])

    scene.strike()
    await scene.each(crash)


async def come_and_go(scene: Scene) -> None:
    """Another member of "hello" joins under load, works a moment, and leaves as it should."""

    async def join_and_leave(stage: Stage) -> None:
        other = stage.member(GROUPS[0])
        await stage.ready(other)
        await asyncio.sleep(0.5)
        other.tell("end")
        await stage.until(lambda: other.over, "a member did not leave", LEAVE_S)

    scene.strike()
    await scene.each(join_and_leave)


async def kill_publisher(scene: Scene) -> None:
    """The publisher is gone with what it had not got confirmed; another one goes on with messages of its own."""
    publishers = [stage.of("publisher")[0] for stage in scene.alive]
    scene.pool.prepare(len(publishers))
    scene.strike()
    for publisher in publishers:
        await publisher.kill()
    for stage in scene.alive:
        stage.publisher()


async def kill_broker(scene: Scene, hang_s: float = 0.0) -> None:
    """SIGKILL while "hello" reads what is published and "goodbye" lets it wait; and a start on the same data."""
    assert scene.broker
    away = await _names_wait(scene)
    scene.strike()
    if hang_s:
        await scene.broker.pause()
        await asyncio.sleep(hang_s)
    await scene.broker.kill()
    await scene.broker.restart()
    for member in away:
        member.tell("work")


async def hang_and_kill_broker(scene: Scene) -> None:
    """The same of a broker that has not answered for a while, as with a full disk."""
    await kill_broker(scene, HANG_S)


async def _names_wait(scene: Scene) -> list[Worker]:
    """Have the members of "goodbye" leave, until messages wait for them in the broker."""
    away: list[Worker] = []

    async def leave(stage: Stage) -> None:
        (member,) = stage.of("member", GROUPS[1])
        before = member.left
        member.tell("away")
        # It is over if it ended by an error: that what it handled could not be settled. `flowing` replaces it.
        await stage.until(lambda: member.left > before or member.over, "a member did not leave", LEAVE_S)
        waiting = len(stage.book.accepted) + STEADY
        await stage.until(lambda: len(stage.book.accepted) >= waiting, "no messages were accepted")
        away.append(member)

    await scene.each(leave)
    return away


async def stop_broker(scene: Scene) -> None:
    """SIGSTOP and, later, SIGCONT: connections stay open and nothing answers."""
    assert scene.broker
    scene.strike()
    await scene.broker.hang(scene.pause_s)


async def cut(scene: Scene) -> None:
    """All connections are reset."""
    assert scene.proxy
    scene.strike()
    scene.proxy.drop()


async def half_open(scene: Scene) -> None:
    """No byte gets through the present connections, and no end of them is told."""
    assert scene.proxy
    scene.strike()
    scene.proxy.silence()


async def slow(scene: Scene) -> None:
    """Each piece of data takes 50 ms more, both ways."""
    assert scene.proxy
    scene.strike()
    scene.proxy.delay_s = 0.05
    try:
        await asyncio.sleep(scene.pause_s)
    finally:
        scene.proxy.delay_s = 0.0


async def drop_responses(scene: Scene) -> None:
    """Requests reach the broker and the answers are lost; then the connections are reset."""
    assert scene.proxy
    scene.strike()
    scene.proxy.deafen()
    await asyncio.sleep(0.5)
    scene.proxy.drop()


async def alarm(scene: Scene) -> None:
    """RabbitMQ is told that it has no memory left, so it reads from no publisher, while one pours out messages."""
    broker = scene.broker
    assert broker
    node = broker.nodes[0]
    before = await control(node, "eval", "vm_memory_monitor:get_vm_memory_high_watermark().")

    async def limit(share: str) -> None:
        await control(node, "set_vm_memory_high_watermark", share)

    async def again() -> None:
        try:
            await limit(before.strip())
        except ChildProcessError:
            await broker.restart()  # which has its own limit then
            raise

    await _flood(scene, lambda: limit("0.00001"), again)


async def full_buffers(scene: Scene) -> None:
    """The broker is stopped while a publisher pours out messages, until nothing more goes into its buffers."""
    assert scene.broker
    await _flood(scene, scene.broker.pause, scene.broker.resume)


async def _flood(scene: Scene, close: Callable[[], Awaitable[None]], again: Callable[[], Awaitable[None]]) -> None:
    """Pour while the broker takes nothing. A publisher without a limit is an error."""
    floods = {stage: stage.flood() for stage in scene.alive}
    await scene.each(lambda stage: stage.ready(floods[stage]))
    scene.strike()
    try:
        await close()
        for flood in floods.values():
            flood.tell("work")
        await asyncio.sleep(scene.pause_s)
        for stage, flood in floods.items():
            stage.look()
            poured = [t for name, t in stage.book.sent.items() if int(name[4:6]) == flood.duty.first_lane]
            if not poured or len(poured) == MOST_FLOOD or time.monotonic() - poured[-1] < CALM_S:
                stage.errors.append(f"{len(poured):,} messages went out to a broker that takes none, and more would")
    finally:
        for flood in floods.values():
            flood.tell("end")  # what is under way still goes out, and no more
        await again()

    async def over(stage: Stage) -> None:
        flood = floods[stage]
        await stage.until(lambda: flood.over, "a publisher that was held back did not go on")
        more = flood.states[-1]["rss_mb"] - flood.states[0]["rss_mb"]
        if more > FLOOD_MB:
            stage.errors.append(f"a publisher that was held back took {more:.0f} MB")

    await scene.each(over)


CONTROL_S = 60.0
"""How long rabbitmqctl may take."""


async def control(node: Node, *words: str) -> str:
    """What `rabbitmqctl` says of a node; raises `ChildProcessError` when it fails."""
    tool = Path(node.command[0]).with_name("rabbitmqctl")
    if not tool.exists():
        raise ChildProcessError(f"there is no rabbitmqctl beside {node.command[0]}: set GREET_RABBITMQ_SERVER to one")
    process = await asyncio.create_subprocess_exec(
        *(str(tool), "-q", "-n", node.environment["RABBITMQ_NODENAME"], *words),
        env=dict(node.environment) | {"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(CONTROL_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise ChildProcessError(f"rabbitmqctl {words[0]} has not answered for {CONTROL_S:g} s") from None
    finally:
        if process.returncode is None:  # nobody waits for its answer any more
            process.kill()
            await process.wait()
    if process.returncode:
        raise ChildProcessError(f"rabbitmqctl {words[0]} failed")
    return said.decode()


def every(_: Design) -> bool:
    """Means something to all designs."""
    return True


FAULTS: dict[str, Fault] = {
    "member killed": Fault(kill_member, every, KILLS, kills="member"),
    "member raises": Fault(crash_member, lambda design: design.in_process, KILLS, kills="member"),
    "members come and go": Fault(come_and_go, every, shares=True),
    "publisher killed": Fault(kill_publisher, times=KILLS),
    "broker killed": Fault(kill_broker, times=KILLS, kills="broker", quiet_s=5.0),
    "broker hangs, then killed": Fault(hang_and_kill_broker, times=KILLS, kills="broker", quiet_s=5.0),
    "broker stopped": Fault(stop_broker),
    "connection cut": Fault(cut, kills="connection", routed=True),
    "connection half-open": Fault(half_open, kills="connection", routed=True),
    "connection slow": Fault(slow, routed=True),
    "responses dropped": Fault(drop_responses, kills="connection", routed=True),
    "memory alarm": Fault(alarm, lambda design: design.product is RABBITMQ, handling_s=0.0),
    "full buffers": Fault(
        full_buffers, lambda design: design.product is KAFKA, guarantees=(Guarantee.DURABLE,), handling_s=0.0
    ),
}
