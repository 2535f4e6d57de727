"""RabbitMQ's own PerfTest: https://github.com/rabbitmq/rabbitmq-perf-test, its jars by perftest.lock.

The lock has what `mvn dependency:list -DincludeScope=runtime` finds for com.rabbitmq:perf-test. It makes its own
messages of the same size, so they are counted by what it says and by what is left in the queue, and not by name. A
JVM is slow until it has compiled what it runs, so the figure is that of its reports, one a second, behind the first
two fifths of its time. A report tells what was received in that second; where it only publishes, what was confirmed.
If it has carried all before its first report, the figure is its own average.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from bench.contenders import access
from bench.contenders.java import JAVAS_OWN, LIMIT_S, WARM_UP, run_tool
from bench.contenders.rabbitmq_peers import ACK_EVERY, connected, kind, prefetch
from bench.model import PERFTEST, Cell, Contender, Figures, Place, Publisher, Session, failure, more
from greet import BrokerMissing, Guarantee
from greet.brokers.jars import cached, locked
from greet.brokers.kafka import find_java

LOCK = Path(__file__).with_name("perftest.lock")
MESSAGES = 300_000
BYTES = 3_000_000_000
"""So many of both in a repetition, at most: a JVM needs some ten seconds to show what it can."""
REPORT = re.compile(r"time ([\d.]+) s,(.*)")
PERCENTILES = re.compile(r"consumer latency: \d+/(\d+)/\d+/\d+/(\d+) ")
LOOK_S = 4
"""Seconds of a report where messages are paced; the first is the warm-up, the second the figure."""


@dataclass(frozen=True)
class PerfTest(Contender):
    """Publishes and consumes at once; for the phase "apart" one after the other."""

    def publisher(self, place: Place) -> AbstractAsyncContextManager[Publisher]:
        """It is a program of its own."""
        raise NotImplementedError

    def consumer(self, place: Place, group: str) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """It is a program of its own."""
        raise NotImplementedError

    def names(self, size: int) -> int:
        """Some ten seconds' worth."""
        return min(MESSAGES, BYTES // size) // ACK_EVERY * ACK_EVERY

    async def measure(self, session: Session, cell: Cell, names: int) -> list[Figures]:
        """A row; for "apart" two, "publish" and "consume"."""
        place, site, rows = session.place(cell), session.sites[self.design], list[Figures]()
        try:
            queue = await _queue(place)
            for phase in ("publish", "consume") if cell.phase == "apart" else ("together",):
                before = site.used()
                output, cpu = await _perftest(place, queue, phase, cell, names)
                after, left = site.used(), await _left(place, queue)
                fields = paced(output, cell.rate) if cell.rate else counted(output, phase, names, left)
                fields |= {"cpu_s": {"client": cpu, "broker": more(before[0], after[0])}, "error": None}
                fields |= {"rss_mb": {"client": None, "broker": after[1]}, "survives": cell.guarantee.value}
                # Its latency counts from the actual send, whatever was due.
                details = {"latencies": {"service": fields["latency_ms"]}} if cell.rate else {}
                params = {"loop": JAVAS_OWN} | ({} if phase == "together" else {"phase": phase})
                rows.append(Figures(fields, params, details))
        except BrokerMissing as error:
            return [failure(f"PerfTest cannot be had: {error}")]
        except (LookupError, ValueError, ZeroDivisionError, TimeoutError, OSError) as error:
            return [failure(f"PerfTest gave no figure: {type(error).__name__} {error}")]
        return rows


async def _perftest(place: Place, queue: str, phase: str, cell: Cell, names: int) -> tuple[str, float]:
    """Run it: what it printed, and its CPU seconds. The URL, which may hold a password, is not in its command line."""
    program, jars = find_java(), locked(LOCK)  # first, as it says where none is started
    version = next(jar.version for jar in jars if jar.artifact == "perf-test")
    paths = ":".join(map(str, await cached(jars, f"PerfTest {version}")))
    words = ["-p", "-u", queue, "-e", place.topic, "-t", "fanout", "-k", "", "-s", str(cell.size)]
    words += ["-x", str(int(phase != "consume")), "-y", str(int(phase != "publish")), "-q", str(prefetch(place))]
    if cell.guarantee is Guarantee.AT_MOST_ONCE:
        words.append("-a")
    else:
        words += ["-c", str(place.window), "-A", str(ACK_EVERY)]
    if cell.guarantee is Guarantee.DURABLE:
        words += ["-f", "persistent"]
    if cell.rate:
        words += ["-r", f"{cell.rate:.0f}", "-i", str(LOOK_S), "-z", str(2 * LOOK_S)]
    else:
        words += ["-C", str(names), "-D", str(names), "-z", f"{LIMIT_S - 20:.0f}"]
    door = await access.rabbitmq(place.url)
    with TemporaryDirectory() as folder:
        java = [program, *(await _trusting(door, Path(folder)) if door.context else []), "-cp", paths]
        return await run_tool([*java, "com.rabbitmq.perf.PerfTest", *words], {"URI": uri(door.url)})


async def _trusting(door: access.Door, folder: Path) -> list[str]:
    """Options of Java by which PerfTest trusts the certificate that was verified for this host, and no other.

    By itself it would look at no certificate, and with a store of authorities at no name of a host.
    """
    store = folder / "trusted.jks"
    store.write_bytes(access.truststore(await door.certificate()))
    return [f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStoreType=JKS"]


def uri(url: str) -> str:
    """The URL as Java's client reads it: "/" is no virtual host to it, and one in a name is %2F."""
    parts = urlsplit(url)
    host = quote(unquote(parts.path.removeprefix("/")), safe="")
    return parts._replace(path=f"/{host}" if host else "", query="").geturl()


def counted(output: str, phase: str, names: int, left: int) -> dict[str, Any]:
    """The fields of a row. Raises `ValueError` unless it stopped because all were carried."""
    what = "Producer" if phase == "publish" else "Consumer"
    if f"{what} reached message limit" not in output:
        raise ValueError("it did not carry all in time")
    column = "received" if phase != "publish" else "confirmed" if "confirmed" in output else "sent"
    reports = [(float(at), int(found[1])) for at, said in REPORT.findall(output) if (found := _column(column, said))]
    while reports and not reports[-1][1]:
        reports.pop()  # it had carried all before
    if not reports:  # all was carried before the first one: its average over the whole time is left
        average = re.search(rf"{'sending' if phase == 'publish' else 'receiving'} rate avg: ([1-9]\d*) msg/s", output)
        if not average:
            raise ValueError("no message in its reports")
        reports = [(1.0, int(average[1]))]
    spans = [(now - before, each) for (before, _), (now, each) in zip([(0.0, 0), *reports], reports, strict=False)]
    cold = sum(at - span < reports[-1][0] * WARM_UP for (at, _), (span, _) in zip(reports, spans, strict=True))
    warm = spans[min(cold, len(spans) - 1) :]
    rate = sum(span * each for span, each in warm) / sum(span for span, _ in warm)
    arrived = left if phase == "publish" else names
    counts = {"sent": names, "accepted": names, "received": arrived, "lost": names - arrived}
    return counts | {"duplicates": 0 if phase == "publish" else left, "messages_per_s": rate, "elapsed_s": names / rate}


def _column(name: str, report: str) -> re.Match[str] | None:
    return re.search(rf"{name}: (\d+) msg/s", report)


def paced(output: str, rate: float) -> dict[str, Any]:
    """The fields of a row: what its second report says, counted from the actual send. It tells no counts."""
    (_, _), (_, said) = REPORT.findall(output)[:2]
    found, got = PERCENTILES.search(said), _column("received", said)
    if not found or not got:
        raise ValueError("no latency in its report")
    p50, p99 = (int(one) / 1000 for one in found.groups())
    figures = {"messages_per_s": int(got[1]), "elapsed_s": LOOK_S, "latency_ms": {"p50": p50, "p99": p99}}
    return {**figures, "target_rate": rate}


async def _queue(place: Place) -> str:
    """A durable queue on a fan-out exchange, as greet has them: RabbitMQ 4.3 refuses what PerfTest would make."""
    queue = f"{place.topic}:g0"
    connection = await connected(place.url)
    try:
        channel = await connection.channel()
        await channel.exchange_declare(place.topic, exchange_type="fanout", durable=True)
        await channel.queue_declare(queue, durable=True, arguments=kind(place))
        await channel.queue_bind(queue, place.topic)
    finally:
        await connection.close()
    return queue


async def _left(place: Place, queue: str) -> int:
    """How many messages wait in the queue."""
    connection = await connected(place.url)
    try:
        channel = await connection.channel()
        return (await channel.queue_declare(queue, passive=True)).message_count or 0
    finally:
        await connection.close()


CONTENDERS: list[Contender] = [
    PerfTest(
        *("rabbitmq", "many", 60_000, "500 unconfirmed, prefetch 500, acknowledged by 50, a warm JVM", 500),
        name=PERFTEST,
        only_full=True,
    )
]
