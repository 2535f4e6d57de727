"""Proof of the latency method, on real brokers: a known delay and a known stall are measured as what they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from bench.contenders.greets import CONTENDERS
from bench.faults.proxy import Proxy, proxy
from bench.measure import run
from bench.measure.run import OpenSession, session
from bench.model import Cell, Contender, Figures, Settings
from greet import BrokerMissing, Guarantee
from greet.brokers import Broker, kafka, rabbitmq
from greet.brokers.process import free_ports

pytestmark = pytest.mark.timeout(180)
BY_NAME: dict[str, Contender] = {one.design: one for one in CONTENDERS if one.way == "name"}


@asynccontextmanager
async def measuring(design: str) -> AsyncIterator[OpenSession]:
    async with session(Settings((design,), tuple(BY_NAME.values()))) as opened:
        if design in opened.missing:
            pytest.skip(opened.missing[design])
        yield opened


def well(found: list[Figures]) -> Figures:
    (figures,) = found
    assert figures.fields["error"] is None
    assert figures.fields["lost"] == figures.fields["duplicates"] == 0
    return figures


@dataclass(frozen=True)
class Between:
    """A broker of ours, and the proxy before it."""

    url: str
    broker: Broker
    way: Proxy


@asynccontextmanager
async def between(design: str) -> AsyncIterator[Between]:
    if design == "rabbitmq":
        async with rabbitmq() as broker:
            parts = urlsplit(broker.url)
            async with proxy("127.0.0.1", parts.port or 5672) as found:
                yield Between(broker.url.replace(f":{parts.port}", f":{found.port}"), broker, found)
    else:
        (port,) = free_ports(1)
        async with kafka(proxy_port=port) as broker:
            assert broker.proxied
            host, _, inner = broker.proxied.rpartition(":")
            async with proxy(host, int(inner), listen=port) as found:
                yield Between(f"kafka://127.0.0.1:{port}", broker, found)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["rabbitmq", "kafka"])
async def there(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Between]]:
    """A design, and where it is, for as long as it is asked about: the parameters are grouped."""
    try:
        async with between(request.param) as found:
            yield request.param, found
    except BrokerMissing as missing:
        pytest.skip(str(missing))


async def test_fifty_milliseconds_each_way_are_a_hundred(
    there: tuple[str, Between], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message crosses the proxy twice: from its publisher, and to its consumer, if that waits for it.

    Kafka's consumer asks for more, and commits, by journeys of their own: at four messages a second they are over.
    The way is long beside what a busy machine adds, and short beside the 150 ms that a fetch waits for messages.
    """
    design, here = there
    medians = []
    monkeypatch.setenv(f"GREET_{design.upper()}_URL", here.url)
    async with measuring(design) as opened:
        cell = Cell(BY_NAME[design], Guarantee.AT_LEAST_ONCE, rate=4.0)
        try:
            for here.way.delay_s in (0.0, 0.05):
                medians.append(well(await opened.deliver(cell, 12)).details["latencies"]["service"]["p50"])
        finally:
            here.way.delay_s = 0.0
    assert 90 < medians[1] - medians[0] < 180  # counted once it is 100, counted twice 200


async def test_a_stall_of_one_second_shows_in_the_right_share(
    there: tuple[str, Between], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that were due while the broker stood still waited for it, also those not sent for that reason."""
    design, here = there
    publish, publishing = run.Delivery._publish, asyncio.Event()

    async def told(delivery: run.Delivery, sends: Any, rate: float | None) -> Any:
        publishing.set()
        return await publish(delivery, sends, rate)

    monkeypatch.setenv(f"GREET_{design.upper()}_URL", here.url)
    async with measuring(design) as opened:
        rate, seconds = 25, 6  # so slow that also a busy machine soon has carried what waited
        # A window of one: whoever waits for the stopped broker sends nothing meanwhile.
        cell = Cell(BY_NAME[design], Guarantee.AT_LEAST_ONCE, rate=float(rate), window=1)
        await opened.deliver(cell, rate)
        monkeypatch.setattr(run.Delivery, "_publish", told)

        async def stall() -> None:
            await publishing.wait()  # a busy machine needs long until readers and publisher are there
            await asyncio.sleep(2)
            await here.broker.pause()
            try:
                await asyncio.sleep(1)
            finally:
                await here.broker.resume()

        async with asyncio.TaskGroup() as both:
            stalling = both.create_task(stall())
            delivering = both.create_task(opened.deliver(cell, rate * seconds))
        assert stalling.done()
        latencies = well(delivering.result()).details["latencies"]
    counted = seconds * rate * 0.9  # the first tenth is left out
    for what, names in (("intended", rate * 0.75), ("service", 1)):
        # Of the messages due in the second, three quarters waited a quarter of a second or longer.
        shares = [share for share, milliseconds in latencies[what]["tail"] if milliseconds >= 250]
        affected = max(shares, default=0) * counted
        if what == "intended":
            assert 0.7 * names <= affected <= 2 * names, affected
            assert latencies[what]["max"] > 900
        else:
            assert affected < 10, "from the actual send, only the one that was under way is slow"


@pytest.mark.parametrize(("burst", "held"), [(600.0, 600 * 1.15**3), (2_000.0, 2_000 * 0.85**5), (1e6, None)])
async def test_a_full_load_is_a_rate_that_is_held(
    burst: float, held: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a client that carries a thousand a second in time, however many it takes at once; each other try is spoilt."""
    tried: Counter[float] = Counter()

    async def speed(*_: object) -> float:
        return burst

    async def once(_: OpenSession, cell: Cell, names: int) -> list[Figures]:
        assert cell.rate is not None
        assert names >= int(2 * cell.rate)
        tried[cell.rate] += 1
        return [Figures({"latency_ms": {"p99": 10.0 if cell.rate <= 1_000 and tried[cell.rate] == 2 else 500.0}})]

    monkeypatch.setattr(OpenSession, "_speed", speed)
    monkeypatch.setattr(OpenSession, "once", once)
    one = BY_NAME["asyncio"]
    async with session(Settings(("asyncio",), (one,), profile="full")) as opened:
        cell = Cell(one, Guarantee.AT_LEAST_ONCE, load=0.5)
        if held is None:
            with pytest.raises(run.Failed, match="no rate is held"):
                await opened.maximum(cell)
        else:
            assert await opened.maximum(cell) == pytest.approx(held)


@pytest.mark.parametrize(
    ("fields", "shared", "why", "tries"),
    [
        ({"error": None, "lost": 3}, True, "3 lost, in a repetition that was to be thrown away", 1),
        ({"error": "the broker is gone"}, True, "272 messages a second the broker is gone", 18),
        ({"error": None, "latency_ms": {"p99": 500.0}}, True, "1 in 100 takes over 100 ms", 18),
        ({"error": None}, False, "the clocks of two workers differ", 0),
    ],
)
async def test_why_no_rate_is_held_is_told_and_found_out_once(
    fields: dict[str, object], shared: bool, why: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    async def speed(*_: object) -> float:
        return 1_000.0

    async def measured(_: OpenSession, cell: Cell, __: int) -> list[Figures]:
        tried.append(cell.rate)
        return [Figures(fields)]

    monkeypatch.setattr(OpenSession, "_speed", speed)
    monkeypatch.setattr(OpenSession, "measured", measured)
    one = BY_NAME["asyncio"]
    async with session(Settings(("asyncio",), (one,), profile="full")) as opened:
        opened.clock_shared = shared
        for load in (0.5, 0.9):
            with pytest.raises(run.Failed, match=why):
                await opened.maximum(Cell(one, Guarantee.AT_LEAST_ONCE, load=load))
    assert len(tried) == tries


@pytest.mark.parametrize("design", ["rabbitmq", "kafka"])
async def test_what_comes_when_the_readers_have_given_up_is_not_lost(
    design: str, request: pytest.FixtureRequest
) -> None:
    """The second message is sent when members that share a group have heard nothing for longer than they wait, 6 s."""
    request.getfixturevalue(f"{design}_url")
    cell = Cell(BY_NAME[design], Guarantee.AT_LEAST_ONCE, members=2, rate=1 / 8)
    async with measuring(design) as opened:
        (figures,) = await opened.deliver(cell, 2)
    assert (figures.fields["received"], figures.fields["lost"]) == (2, 0)
    assert figures.fields["error"].startswith("1 messages came only to a reader that was started later")
