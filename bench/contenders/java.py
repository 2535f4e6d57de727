"""Kafka's own ProducerPerformance and ConsumerPerformance, from the jars that the private broker runs on.

They make their own records of the same size, so they are counted by what they say and not by name.
Their clock starts when the JVM is up.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.contenders import Contender, Place, Publisher
from greet import Guarantee
from greet.brokers import kafka_tool

if TYPE_CHECKING:
    from bench.run import Cell, Figures, Session

TOOLS = "org.apache.kafka.tools."


@dataclass(frozen=True)
class Performance(Contender):
    """Publishes as ProducerPerformance, then reads the same as ConsumerPerformance."""

    def publisher(self, place: Place) -> AbstractAsyncContextManager[Publisher]:
        """It is a program of its own."""
        raise NotImplementedError

    def consumer(self, place: Place, group: str) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """It is a program of its own."""
        raise NotImplementedError

    async def measure(self, session: Session, cell: Cell, names: int) -> list[Figures]:
        """Two rows, "publish" and "consume"."""
        from bench.run import Figures, failure  # noqa: PLC0415, bench.run stands above

        place = session.place(cell)
        servers = place.address.partition("://")[2].rstrip("/")
        acks = {Guarantee.AT_MOST_ONCE: "0", Guarantee.AT_LEAST_ONCE: "1"}.get(cell.guarantee, "all")
        idempotent = str(cell.guarantee is Guarantee.DURABLE).lower()
        producing = ["--bootstrap-server", servers, "--topic", place.topic, "--num-records", str(names)]
        producing += ["--record-size", str(cell.size), "--throughput", "-1"]
        producing += ["--command-property", f"acks={acks}", f"enable.idempotence={idempotent}"]
        producing += ["batch.size=131072", "linger.ms=5"]
        consuming = [
            "--bootstrap-server",
            servers,
            "--topic",
            place.topic,
            "--num-records",
            str(names),
            "--hide-header",
        ]
        try:
            sent, cpu_sent = await _run("ProducerPerformance", *producing)
            got, cpu_got = await _run("ConsumerPerformance", *consuming)
            said = re.findall(r"(\d+) records sent, ([\d.]+) records/sec", sent)[-1]
            fields = [one.strip() for one in got.strip().splitlines()[-1].split(",")]
            accepted, rate, received, fetched = int(said[0]), float(said[1]), int(fields[4]), float(fields[9])
        except (LookupError, ValueError, TimeoutError, OSError) as error:
            return [failure(f"Kafka's tool gave no figure: {type(error).__name__}")]
        counts: dict[str, Any] = {"sent": names, "accepted": accepted, "received": received}
        counts |= {"lost": max(0, accepted - received), "error": None, "survives": cell.guarantee.value}
        return [
            Figures(
                {**counts, "names_per_s": each, "elapsed_s": names / each, "cpu_s": {"client": cpu}}, {"phase": phase}
            )
            for phase, each, cpu in (("publish", rate, cpu_sent), ("consume", fetched, cpu_got))
        ]


async def _run(tool: str, *arguments: str) -> tuple[str, float]:
    """What the tool printed, and the CPU seconds of it, the start of its JVM included."""
    command = await kafka_tool(TOOLS + tool, *arguments)
    before = os.times()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(120):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return output.decode(), spent


CONTENDERS: list[Contender] = [
    Performance(
        *("kafka", "many", 300_000, "batches of 128 KiB, linger 5 ms; defaults of its consumer"),
        name="Java's own",
        guarantees=tuple(Guarantee),
    )
]
