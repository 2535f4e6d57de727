"""Kafka's own ProducerPerformance and ConsumerPerformance, from the jars that the private broker runs on.

They publish one record of the same size again and again, so they are counted by what they say and not by name. (Told a
size instead, the producer makes the random bytes of each record while its clock runs.) A JVM
is slow until it has compiled what it runs, so the first two fifths of the records are a warm-up. The producer leaves
them out by itself; the consumer's figure is that of its reports, ten a second, behind them. Kafka's EndToEndLatency is
no peer: its percentiles are of whole milliseconds, of which the median has none, and it sends the next record when the
last has come, at no rate.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from tempfile import NamedTemporaryFile
from typing import Any

from aiokafka.errors import KafkaError

from bench.contenders import access
from bench.contenders.kafka_peers import make_topic
from bench.model import JAVA, Cell, Contender, Figures, Place, Publisher, Session, failure, more
from greet import BrokerMissing, Guarantee
from greet.brokers import kafka_tool

TOOLS = "org.apache.kafka.tools."
RECORDS = 15_000_000
BYTES = 3_000_000_000
"""So many of either in a repetition, at most."""
WARM_UP = 0.4
"""The share of them that no figure counts."""
REPORT_MS = 100
"""Between two reports of the consumer."""
REPORT = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d:\d{3}), \d+, [\d.]+, [\d.]+, (\d+),", re.MULTILINE)
"""Its time, and how many records have come so far."""
CONSUMED = re.compile(r"records-consumed-total:\{client-id=[^,}]*\}\s*: (\d+)")
JAVAS_OWN = "Java"
"""What their rows say of the event loop."""
LIMIT_S = 120.0
"""Seconds that a tool has, at most."""


@dataclass(frozen=True)
class Performance(Contender):
    """Publishes as ProducerPerformance, then reads the same as ConsumerPerformance."""

    def publisher(self, place: Place) -> AbstractAsyncContextManager[Publisher]:
        """It is a program of its own."""
        raise NotImplementedError

    def consumer(self, place: Place, group: str) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """It is a program of its own."""
        raise NotImplementedError

    def names(self, size: int) -> int:
        """Some ten seconds' worth."""
        return min(RECORDS, BYTES // size)

    async def measure(self, session: Session, cell: Cell, names: int) -> list[Figures]:
        """Two rows, "publish" and "consume"."""
        place = session.place(cell)
        where = ["--bootstrap-server", ",".join(access.servers(access.address_of(place.url))), "--topic", place.topic]
        acks = {Guarantee.AT_MOST_ONCE: "0", Guarantee.AT_LEAST_ONCE: "1"}.get(cell.guarantee, "all")
        idempotent = str(cell.guarantee is Guarantee.DURABLE).lower()
        producing = [*where, "--num-records", str(names), "--throughput", "-1"]
        producing += ["--command-property", f"acks={acks}", f"enable.idempotence={idempotent}"]
        producing += ["batch.size=1000000", "linger.ms=5", f"compression.type={access.compression(place) or 'none'}"]
        producing += ["--warmup-records", str(int(names * WARM_UP))]
        consuming = [*where, "--num-records", str(names), "--group", f"{place.topic}:g0"]
        consuming += ["--show-detailed-stats", "--reporting-interval", str(REPORT_MS), "--print-metrics"]
        site = session.sites[self.design]
        try:
            await make_topic(place)
            before = site.used()
            with NamedTemporaryFile("w", prefix="greet-", suffix=".txt") as payload:
                payload.write("x" * cell.size)
                payload.flush()
                producing += ["--payload-file", payload.name]
                sent, cpu_sent = await _run("ProducerPerformance", place.url, *producing)
            middle = site.used()
            got, cpu_got = await _run("ConsumerPerformance", place.url, *consuming)
            after = site.used()
            accepted = int(re.findall(r"^(\d+) records sent", sent, re.MULTILINE)[-1])
            rate = float(re.findall(r"steady state records sent, ([\d.]+) records/sec", sent)[-1])
            received, fetched = int(CONSUMED.findall(got)[-1]), warm_rate(got, names)
        except BrokerMissing as error:
            return [failure(f"Kafka's tools cannot be had: {error}")]
        except (LookupError, ValueError, TimeoutError, OSError, KafkaError) as error:
            return [failure(f"Kafka's tool gave no figure: {type(error).__name__} {error}")]
        counts: dict[str, Any] = {"sent": names, "accepted": accepted, "received": received}
        counts |= {"lost": max(0, accepted - received), "error": None, "survives": cell.guarantee.value}
        return [
            Figures(
                {
                    **counts,
                    "messages_per_s": each,
                    "elapsed_s": names / each,
                    "cpu_s": {"client": cpu, "broker": more(then[0], now[0])},
                    "rss_mb": {"client": None, "broker": now[1]},
                },
                {"phase": phase, "loop": JAVAS_OWN},
            )
            for phase, each, cpu, then, now in (
                ("publish", rate, cpu_sent, before, middle),
                ("consume", fetched, cpu_got, middle, after),
            )
        ]


def warm_rate(output: str, names: int) -> float:
    """Records a second from the first report behind the warm-up to the last one.

    Raises:
        ValueError: there are no two such reports.
    """
    reports = [(at, int(so_far)) for at, so_far in REPORT.findall(output)]
    warm = [(_local(at), so_far) for at, so_far in reports if so_far >= names * WARM_UP]
    if len(warm) < 2:
        raise ValueError(f"{names} records are read too soon for two reports")
    (began, before), (ended, after) = warm[0], warm[-1]
    return (after - before) / (ended - began).total_seconds()


def _local(at: str) -> datetime:
    return datetime.strptime(at, "%Y-%m-%d %H:%M:%S:%f").astimezone()


async def _run(tool: str, url: str, *arguments: str) -> tuple[str, float]:
    with access.properties(url) as (path, pipe):
        return await run_tool(await kafka_tool(TOOLS + tool, *arguments, "--command-config", path), pipes=[pipe])


async def run_tool(
    command: Sequence[str], environment: Mapping[str, str] | None = None, pipes: Sequence[int] = ()
) -> tuple[str, float]:
    """What a program printed, and the CPU seconds of it, the start of its JVM included; it gets the ends of `pipes`.

    Raises:
        TimeoutError: it took longer than `LIMIT_S`.
    """
    before = os.times()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environment, pass_fds=pipes
    )
    try:
        async with asyncio.timeout(LIMIT_S):
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
        *(
            "kafka",
            "many",
            1_000_000,
            "acks and batches of 1,000,000 bytes as greet's, linger 5 ms; the consumer: no CRC check, no commit; warm",
        ),
        name=JAVA,
        guarantees=tuple(Guarantee),
    )
]
