"""The promises of greet/line.py, each tried on every design and every guarantee that it gives."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import pytest
from common import take

import greet
from greet import Guarantee, Line, Subscription
from greet.designs import DESIGNS, Design

NAMES = ["Ada", "José", "Zoë", "O'Brien", "Nguyễn Thị Minh", "李小龙", "Владимир", "محمد", "שָׂרָה", "नेहा", "می‌خواهم"]
MANY = [f"name-{number:013d}" for number in range(3000)]
BAD = ["", "a\nb", "\x1b[31m", "\u202eabc", "\ud800", "\u2028", "a\x00", "x" * 65_537]
AMO, ALO, DURABLE = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE


@dataclass(frozen=True)
class Case:
    """A design with its options, under a guarantee."""

    design: Design
    guarantee: Guarantee
    query: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.design.name, self.guarantee.name.lower(), self.query.replace("=", "-"))))

    @property
    def many(self) -> list[str]:
        """Names by the thousand; fewer for a plain way, which takes a millisecond for each."""
        return MANY[:600] if "path=plain" in self.query else MANY

    @property
    def one_log(self) -> bool:
        """Whether order holds for all names, and not for those of a partition alone."""
        return self.design.ordered and "partitions" not in self.query

    @property
    def shares(self) -> bool:
        """Whether two members of a group both get names: one partition has one reader."""
        return self.design.deals_out or "partitions" in self.query


CASES = [
    *(Case(design, guarantee) for design in DESIGNS for guarantee in design.guarantees),
    *(Case(design, design.guarantees[-1], query) for design in DESIGNS for query in design.variants),
    *(Case(design, guarantee, "path=plain") for design in DESIGNS if design.fast for guarantee in design.guarantees),
]
KEEPING = pytest.mark.parametrize("case", [case for case in CASES if case.guarantee is not AMO], ids=str)
QUEUED = pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.design.in_process and case.design.deals_out and case.guarantee is not AMO],
    ids=str,
)
BROKERS = pytest.mark.parametrize("case", [case for case in CASES if not case.design.in_process], ids=str)
FREEING = pytest.mark.parametrize(  # a log in this process keeps what was read
    "case", [case for case in CASES if not (case.design.in_process and case.design.keeps_unread)], ids=str
)
Connect = Callable[[], Line]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def connect(case: Case, topic: str, request: pytest.FixtureRequest) -> Connect:
    """Makes lines of the case to a topic of this test's own."""
    product = case.design.product
    url = case.design.url(request.getfixturevalue(f"{product.name}_url") if product else f"{case.design.scheme}:")
    if case.query:
        url = f"{url}{'&' if '?' in url else '?'}{case.query}"
    return lambda: greet.connect(url, topic, guarantee=case.guarantee)


@pytest.fixture
async def line(connect: Connect) -> AsyncIterator[Line]:
    async with connect() as line:
        yield line


async def nothing_comes(line: Line, names: Subscription, case: Case) -> None:
    """No name is left over, neither doubled nor invented: in one log, what is published now would come after it."""
    if case.one_log:
        await line.publish("the end")
        assert await take(names, 1) == ["the end"]
    else:
        assert await take(names, 1, seconds=0.3) == []


def same(case: Case, got: list[str], wanted: list[str]) -> bool:
    """Equal, in order too; over several partitions, order holds for each of them."""
    return got == wanted if case.one_log else sorted(got) == sorted(wanted)


# 1. Live on entry


async def test_what_is_published_after_entry_arrives(line: Line, case: Case) -> None:
    async with line.subscribe("hello") as names:
        for name in NAMES:
            await line.publish(name)
        assert same(case, await take(names, len(NAMES)), NAMES)
        await nothing_comes(line, names, case)


async def test_a_group_keeps_its_names_while_nobody_reads(line: Line, connect: Connect, case: Case) -> None:
    async with line.subscribe("hello"):
        pass
    assert await line.publish_many(NAMES) == len(NAMES)
    async with connect() as other, other.subscribe("hello") as names:
        assert same(case, await take(names, len(NAMES)), NAMES)
        await nothing_comes(line, names, case)


async def test_two_lines_to_one_topic_meet(line: Line, connect: Connect) -> None:
    async with line.subscribe("hello") as names, connect() as other:
        await other.publish("Ada")
        assert await take(names, 1) == ["Ada"]


# 2. Groups


async def test_each_group_gets_every_name(line: Line, case: Case) -> None:
    async with line.subscribe("hello") as hellos, line.subscribe("goodbye") as goodbyes:
        await line.publish_many(NAMES)
        assert same(case, await take(hellos, len(NAMES)), NAMES)
        assert same(case, await take(goodbyes, len(NAMES)), NAMES)


async def test_members_of_a_group_share(line: Line, connect: Connect, case: Case) -> None:
    many = case.many
    async with connect() as other, line.subscribe("hello") as one, other.subscribe("hello") as two:
        shares: list[list[str]] = [[], []]
        wanted = [*many]

        async def member(names: Subscription, share: list[str]) -> None:
            async for name in names:
                share.append(name)
                await asyncio.sleep(0)  # handling takes its time: others may run meanwhile

        async with asyncio.TaskGroup() as group:
            members = [group.create_task(member(names, share)) for names, share in zip((one, two), shares, strict=True)]
            async with asyncio.timeout(20):
                for start in range(0, len(many), 100):
                    await line.publish_many(many[start : start + 100])
                while case.shares and not all(shares):  # the other one may come later
                    wanted.append(f"more-{len(wanted):08d}")
                    await line.publish(wanted[-1])
                while len(shares[0] + shares[1]) < len(wanted):
                    await asyncio.sleep(0.01)
            for task in members:
                task.cancel()
        assert sorted(shares[0] + shares[1]) == sorted(wanted)


@pytest.mark.parametrize("case", [case for case in CASES if case.design.deals_out], ids=str)
async def test_a_list_is_shared_by_all_members_that_wait(line: Line) -> None:
    """None of them has a second name before each has one."""
    count = 10
    all_have_one = asyncio.Barrier(count + 1)
    entered = asyncio.Barrier(count + 1)

    async def member() -> None:
        async with line.subscribe("hello") as names:
            await entered.wait()
            async for _ in names:
                await all_have_one.wait()
                return

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(member())
        await entered.wait()
        await asyncio.sleep(0)  # now all of them ask
        await line.publish_many(MANY[:600])
        await all_have_one.wait()


# 3. Settled when handled


class Crash(Exception):
    """What a member dies of."""


@pytest.mark.parametrize("many", [False, True], ids=["each", "batches"])
async def test_what_a_member_did_not_handle_comes_again(line: Line, case: Case, many: bool) -> None:
    async with line.subscribe("hello"):
        pass
    await line.publish_many(NAMES)
    with pytest.raises(Crash):
        async with line.subscribe("hello") as names:
            handed = await (anext(names.batches()) if many else take(names, 3))
            settled = [] if many else handed[:2]  # the third was asked for
            if case.one_log:
                assert handed == NAMES[: len(handed)]
            raise Crash
    async with line.subscribe("hello") as names:
        if case.guarantee is AMO:  # it waives the promise: what was handed out is gone
            assert not set(await take(names, len(NAMES), seconds=0.5)) & set(handed)
        else:
            unsettled = [name for name in NAMES if name not in settled]
            assert same(case, await take(names, len(unsettled)), unsettled)
            await nothing_comes(line, names, case)


@KEEPING
async def test_asking_for_the_next_list_settles_the_whole_one_before(line: Line, case: Case) -> None:
    async with line.subscribe("hello"):
        pass
    await line.publish_many(NAMES)
    with pytest.raises(Crash):
        async with line.subscribe("hello") as names:
            batches = names.batches()
            settled = await anext(batches)
            await line.publish("last")  # there may have been one list
            await anext(batches)
            raise Crash
    async with line.subscribe("hello") as names:
        unsettled = [name for name in (*NAMES, "last") if name not in settled]
        assert same(case, await take(names, len(unsettled)), unsettled)
        await nothing_comes(line, names, case)


@KEEPING
async def test_a_clean_end_settles_the_whole_list_also_after_a_break(line: Line, case: Case) -> None:
    async with line.subscribe("hello") as names:
        await line.publish_many(NAMES)
        async for settled in names.batches():
            for _ in settled:
                break
            break
    async with line.subscribe("hello") as names:
        unsettled = [name for name in NAMES if name not in settled]
        assert same(case, await take(names, len(unsettled)), unsettled)
        await nothing_comes(line, names, case)


@KEEPING
async def test_what_a_cancelled_member_did_not_handle_comes_again(line: Line) -> None:
    holding = asyncio.Event()

    async def member() -> None:
        async with line.subscribe("hello") as names:
            async for _ in names:
                holding.set()
                await asyncio.Event().wait()

    async with line.subscribe("hello"):
        pass
    await line.publish("Ada")
    task = asyncio.create_task(member())
    async with asyncio.timeout(20):
        await holding.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    async with line.subscribe("hello") as names:
        assert await take(names, 1) == ["Ada"]


@KEEPING
async def test_what_a_member_did_not_handle_comes_to_another(line: Line, connect: Connect, case: Case) -> None:
    async with connect() as other, line.subscribe("hello"):
        pass
    await line.publish_many(NAMES)
    async with connect() as other:
        with pytest.raises(Crash):
            async with line.subscribe("hello") as names:
                assert len(await take(names, 1)) == 1
                raise Crash
        async with other.subscribe("hello") as names:
            assert same(case, await take(names, len(NAMES)), NAMES)


@KEEPING
async def test_what_no_handler_settles_comes_again(line: Line, case: Case) -> None:
    """Without end, or as often as the record says: then it is kept in the dead letters."""
    async with line.subscribe("hello"):
        pass
    await line.publish("Ada")
    for _ in range(case.design.deliveries or 6):
        with pytest.raises(Crash):
            async with line.subscribe("hello") as names:
                assert await take(names, 1) == ["Ada"]
                raise Crash
    async with line.subscribe("hello") as names:
        if case.design.deliveries:
            asking = asyncio.create_task(anext(names))
            async with asyncio.timeout(10):
                while not (letters := await line.dead_letters()):
                    await asyncio.sleep(0.05)
            assert [letter.body for letter in letters] == [b"Ada"]
            await asyncio.wait([asking], timeout=0.3)
            assert asking.cancel(), "it came again"
            await asyncio.wait([asking])
        else:
            assert await take(names, 1) == ["Ada"]


async def test_a_normal_end_settles(line: Line, case: Case) -> None:
    async with line.subscribe("hello") as names:
        await line.publish_many(NAMES[:1])
        assert await take(names, 1) == NAMES[:1]
    async with line.subscribe("hello") as names:
        await nothing_comes(line, names, case)


async def test_a_member_that_has_left_says_so(line: Line) -> None:
    """Also to a task that waits for a name when another one leaves; and what comes next is for the next member."""
    async with line.subscribe("hello") as names:
        waiting = asyncio.create_task(take(names, 1))
        await asyncio.sleep(0.05)
    assert (await asyncio.wait([waiting], timeout=5))[0], "it still waits"
    with pytest.raises(greet.ConnectionLost):
        await waiting
    await line.publish("Ada")
    with pytest.raises(greet.ConnectionLost):
        await anext(names)
    async with line.subscribe("hello") as others:
        assert await take(others, 1) == ["Ada"]


@KEEPING
async def test_what_was_not_handed_out_stays(line: Line, case: Case) -> None:
    many = case.many
    async with line.subscribe("hello") as names:
        await line.publish_many(many)
        first = await take(names, 10)
    async with line.subscribe("hello") as names:
        assert same(case, first + await take(names, len(many) - 10, many=True), many)
        await nothing_comes(line, names, case)


async def test_entering_again_begins_anew(line: Line, case: Case) -> None:
    """What an earlier entry of the same subscription had in hand comes again, and is not settled by the later one."""
    names = line.subscribe("hello")
    async with names:
        await line.publish_many(NAMES)
    for _ in range(3):
        with pytest.raises(Crash):
            async with asyncio.timeout(20), names:
                assert len(await anext(names.batches())) > 0
                raise Crash
        if case.guarantee is AMO:  # it waives the promise
            return
    async with line.subscribe("hello") as others:
        assert same(case, await take(others, len(NAMES)), NAMES)
        await nothing_comes(line, others, case)


@QUEUED
async def test_names_that_two_give_back_reach_two_that_wait(line: Line) -> None:
    """At once: the handler of the first of them never ends."""
    got = asyncio.Queue[str]()

    async def member() -> None:
        async with line.subscribe("hello") as names:
            async for name in names:
                got.put_nowait(name)
                await asyncio.Event().wait()

    holding = [asyncio.create_task(member()) for _ in range(2)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        for name in NAMES[:2]:
            await line.publish(name)
            assert await got.get() == name
    waiting = [asyncio.create_task(member()) for _ in range(2)]
    await asyncio.sleep(0.05)
    for task in holding:
        task.cancel()
    async with asyncio.timeout(2):
        assert {await got.get(), await got.get()} == set(NAMES[:2])
    for task in waiting:
        task.cancel()
    await asyncio.wait(holding + waiting)


async def test_who_is_cancelled_again_while_it_leaves_has_left_all_the_same(line: Line) -> None:
    """A time-out, and then a task group that gives up: the second one does not end the leaving either."""
    entered, left = asyncio.Event(), False

    async def member() -> None:
        nonlocal left
        names = line.subscribe("hello")
        part = names._part

        async def slowly(deadline: float, *, clean: bool) -> None:
            nonlocal left
            await asyncio.sleep(0.1)
            await part(deadline, clean=clean)
            left = True

        names._part = slowly  # type: ignore[method-assign]
        async with names:
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(member())
    await entered.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    await asyncio.wait([task])
    assert left
    assert task.cancelled()


@QUEUED
async def test_many_sessions_of_one_name_leave_room_to_publish(case: Case, topic: str) -> None:
    """Each gives the rest back: nothing of that fills the queue."""
    async with greet.connect("asyncio:?maxsize=3", topic, guarantee=case.guarantee) as line:
        async with line.subscribe("hello"):
            pass
        await line.publish_many(MANY[:100])
        for name in MANY[:10]:
            async with line.subscribe("hello") as names:
                assert await take(names, 1) == [name]
        async with asyncio.timeout(2):
            await line.publish("last")


@KEEPING
async def test_who_is_cancelled_while_it_leaves_has_left_all_the_same(line: Line, case: Case) -> None:
    """What was handled is settled; what was not handed out comes again, and no part of the member stays."""
    loop = asyncio.get_running_loop()
    got: list[str] = []

    def cancel(task: asyncio.Task[None], turns: int) -> None:
        if turns:
            loop.call_soon(cancel, task, turns - 1)
        else:
            task.cancel()

    async def member(turns: int) -> None:
        async with line.subscribe("hello") as names:
            if not got:
                await line.publish_many(NAMES)
            got.append(await anext(names))
            task = asyncio.current_task()
            assert task
            cancel(task, turns)

    for turns in range(3):
        await asyncio.wait([asyncio.create_task(member(turns))])
    async with line.subscribe("hello") as names:
        assert sorted(got + await take(names, len(NAMES) - len(got))) == sorted(NAMES)
        await nothing_comes(line, names, case)


async def test_a_subscription_is_for_one_task(line: Line) -> None:
    """A second task that asks while the first waits or handles is refused at once: it would settle what is in hand."""
    async with line.subscribe("hello") as names:
        waiting = asyncio.create_task(anext(names))
        await asyncio.sleep(0.02)
        for asking in (anext(names), anext(names.batches())):
            with pytest.raises(greet.WrongUse, match="let each task subscribe to the same group"):
                await asking
        await line.publish("Ada")
        assert await waiting == "Ada"
        await line.publish_many(NAMES[1:3])
        got = await take(names, 1)
        other = asyncio.create_task(anext(names))
        with pytest.raises(greet.WrongUse, match="let each task subscribe to the same group"):
            await other
        assert sorted(got + await take(names, 1)) == sorted(NAMES[1:3])


@KEEPING
async def test_the_name_that_a_failed_task_handled_is_not_settled_by_another(line: Line) -> None:
    async def handle() -> None:
        await anext(names)
        raise Crash

    with pytest.raises(greet.WrongUse, match="failed while it handled a name"):
        async with line.subscribe("hello") as names:
            await line.publish("Ada")
            with pytest.raises(Crash):
                await asyncio.create_task(handle())
            await anext(names)
    async with line.subscribe("hello") as names:
        assert await take(names, 1) == ["Ada"]


@KEEPING
@pytest.mark.parametrize("end", ["fails", "is cancelled", "goes on"])
async def test_what_a_task_of_its_own_has_not_handled_is_not_settled_by_a_clean_end(line: Line, end: str) -> None:
    async def handle() -> None:
        await anext(names)
        in_hand.set()
        if end == "fails":
            raise Crash
        await asyncio.sleep(60)

    in_hand = asyncio.Event()
    async with line.subscribe("hello") as names:
        await line.publish("Ada")
        handling = asyncio.create_task(handle())
        await in_hand.wait()
        if end == "is cancelled":
            handling.cancel()
        if end != "goes on":
            await asyncio.wait([handling])
    handling.cancel()
    await asyncio.gather(handling, return_exceptions=True)
    async with line.subscribe("hello") as names:
        assert await take(names, 1) == ["Ada"]


async def test_a_pool_of_workers_loses_nothing(line: Line, case: Case) -> None:
    got: list[str] = []

    async def worker() -> None:
        async with line.subscribe("hello") as names:
            ready.release()
            async for name in names:
                await asyncio.sleep(0)
                got.append(name)

    ready = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as pool:
        workers = [pool.create_task(worker()) for _ in range(3)]
        for _ in workers:
            await ready.acquire()
        await line.publish_many(MANY[:300])
        async with asyncio.timeout(20):
            while len(got) < 300:
                await asyncio.sleep(0.01)
        for task in workers:
            task.cancel()
    assert set(got) == set(MANY[:300])
    if case.guarantee is AMO:
        assert len(got) == 300


async def test_the_loop_has_turns_while_a_handler_never_awaits(line: Line) -> None:
    """Else heartbeats and settlements would wait for the end of a batch, and the member be taken for dead."""
    handled, turns = 0, [0]

    async def note() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(handled)

    async with line.subscribe("hello") as names:
        await line.publish_many(MANY[:100])
        assert await take(names, 1)
        noting = asyncio.create_task(note())
        for _ in range(25):
            time.sleep(0.02)  # noqa: ASYNC251
            handled += 1
            await anext(names)
        noting.cancel()
    longest = max(later - before for before, later in pairwise([*turns, handled]))
    assert longest <= 12, "so many names without a turn: eight, and those around them"


# 4. Order


@pytest.mark.parametrize("read", ["each", "batches"])
@pytest.mark.parametrize("write", ["each", "many"])
async def test_order_of_a_publisher(line: Line, case: Case, write: str, read: str) -> None:
    async def publish() -> None:
        if write == "many":
            assert await line.publish_many(iter(case.many)) == len(case.many)
        else:
            for name in case.many[:100]:
                await line.publish(name)

    count = len(case.many) if write == "many" else 100
    async with line.subscribe("hello") as names, asyncio.TaskGroup() as group:
        group.create_task(publish())
        assert same(case, await take(names, count, many=read == "batches"), case.many[:count])


@pytest.mark.parametrize(("count", "size"), [(500, 18), (30, 60_000)], ids=["many", "more than one batch holds"])
async def test_concurrent_publishers_lose_nothing(line: Line, count: int, size: int) -> None:
    published = [name.ljust(size, "-") for name in MANY[:count]]
    async with line.subscribe("hello") as names:
        async with asyncio.TaskGroup() as group:
            for name in published:
                group.create_task(line.publish(name))
        assert sorted(await take(names, count)) == published


async def test_publish_many_takes_what_comes_by_and_by(line: Line, case: Case) -> None:
    """Names of an async iterable are sent as they come, and are not kept until a list is full."""
    go_on = asyncio.Event()

    async def some() -> AsyncIterator[str]:
        for name in MANY[:700]:
            yield name
        await go_on.wait()
        yield "last"

    async with line.subscribe("hello") as names:
        task = asyncio.create_task(line.publish_many(some()))
        assert same(case, await take(names, 700, many=True), MANY[:700])
        go_on.set()
        assert await task == 701
        assert await take(names, 1) == ["last"]


async def test_publish_many_of_names_that_are_cancelled_ends(line: Line) -> None:
    async def some() -> AsyncIterator[str]:
        yield "Ada"
        raise asyncio.CancelledError

    async with line.subscribe("hello"):
        await line.publish("Zoë")
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await line.publish_many(some())


async def test_publish_many_of_one_str_is_refused(line: Line, case: Case) -> None:
    async with line.subscribe("hello") as names:
        with pytest.raises(greet.BadName, match="a str is one name"):
            await line.publish_many("Ada")
        await nothing_comes(line, names, case)


# 5. Bounded


@BROKERS
async def test_a_slow_group_never_fills_memory(line: Line) -> None:
    """40 MB wait for a reader that takes one name: they stay on the broker. (A driver in C is not looked into.)"""
    count, size = 4000, 10_000
    async with line.subscribe("hello"):
        pass
    assert await line.publish_many(f"{number:0{size}}" for number in range(count)) == count
    tracemalloc.start()
    try:
        async with line.subscribe("hello") as names:
            assert len(await take(names, 1)) == 1
            await asyncio.sleep(0.5)  # as much comes as may come
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20_000_000


@QUEUED
async def test_a_slow_group_makes_its_publisher_wait_and_then_fail(case: Case, topic: str) -> None:
    made = 0

    def stream() -> Iterator[str]:
        nonlocal made
        for made in range(1, 2001):  # noqa: B007
            yield "x" * 10_000

    url = "asyncio:?maxsize=3&timeout=1"
    async with greet.connect(url, topic, guarantee=case.guarantee) as line, line.subscribe("hello"):
        with pytest.raises(greet.PublishFailed, match="was full for 1 s: read it"):
            await line.publish_many(stream())
        assert made <= 200  # what is taken from it at once
        async with line.subscribe("goodbye"):  # it has room, so it has the name
            with pytest.raises(greet.PublishUnknown, match="was full for 1 s: read it"):
                await line.publish("Ada")


# 6. Never silent


@pytest.mark.parametrize("many", [False, True], ids=["each", "batches"])
async def test_iteration_waits_and_survives_a_time_out(line: Line, many: bool) -> None:
    async with line.subscribe("hello") as names:
        batches = names.batches()
        for name in NAMES[:3]:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await (anext(batches) if many else anext(names))
            await line.publish(name)
            async with asyncio.timeout(10):
                assert await (anext(batches) if many else anext(names)) == ([name] if many else name)


# 7. Guarantee


async def test_the_guarantee_is_kept_in_mind(line: Line, case: Case) -> None:
    assert line.guarantee is case.guarantee
    assert case.guarantee.name in repr(line)


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_left_out_it_is_the_strongest(design: Design) -> None:
    url = f"{design.scheme}:" if design.in_process else f"{design.scheme}://localhost"
    assert greet.connect(url).guarantee is design.guarantees[-1]
    for guarantee in set(Guarantee) - set(design.guarantees):
        with pytest.raises(greet.Unsupported, match=f"cannot promise {guarantee.name}: ask for AT_MOST_ONCE or"):
            greet.connect(url, guarantee=guarantee)


# 8. Replay


async def test_replay(line: Line, case: Case) -> None:
    if not case.design.replays:
        with pytest.raises(greet.Unsupported, match="cannot replay: use "):
            line.subscribe("late", replay=True)
        return
    await line.publish_many(NAMES)
    async with line.subscribe("late", replay=True) as names:
        assert same(case, await take(names, len(NAMES)), NAMES)
    async with line.subscribe("later", replay=True) as names:
        assert same(case, await take(names, len(NAMES)), NAMES)
    async with line.subscribe("late", replay=True) as names:  # it exists, so it goes on
        await nothing_comes(line, names, case)


async def test_without_replay_a_new_group_starts_now(line: Line, case: Case) -> None:
    async with line.subscribe("early"):
        await line.publish("Ada")
        async with line.subscribe("late") as names:
            await line.publish("Zoë")
            assert await take(names, 1) == ["Zoë"]
            await nothing_comes(line, names, case)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.design.replays and case.design.product and case.guarantee is not AMO],
    ids=str,
)
async def test_a_new_group_behind_names_that_are_kept_is_told_of(
    line: Line, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "greet"]

    await line.publish_many(NAMES)
    with caplog.at_level(logging.WARNING, logger="greet"):
        async with line.subscribe("early", replay=True) as names:
            assert not told()
            assert same(case, await take(names, len(NAMES)), NAMES)
        async with line.subscribe("late"):
            (warning,) = told()
        async with line.subscribe("late"):
            assert len(told()) == 1
    skipped = re.search(r"group late is new to topic .* skips? (\d+) names that are kept; .* replay=True", warning)
    assert skipped
    assert int(skipped[1]) >= len(NAMES)  # a stream counts its marks too


# 10. Nobody reads


@pytest.mark.parametrize("many", [False, True], ids=["each", "many"])
async def test_a_topic_that_no_group_has_read(line: Line, case: Case, many: bool) -> None:
    publishing = line.publish_many(["Ada"]) if many else line.publish("Ada")
    if case.design.keeps_unread:
        await publishing
        async with line.subscribe("hello", replay=True) as names:
            assert await take(names, 1) == ["Ada"]
    else:
        with pytest.raises(greet.PublishFailed, match=r"so (it|a name) has nowhere to go: subscribe first"):
            await publishing


# Who may call what, and when


async def test_what_was_not_entered_is_refused(connect: Connect) -> None:
    line = connect()
    with pytest.raises(greet.WrongUse, match="was not entered: use `async with`"):
        await line.publish("Ada")
    with pytest.raises(greet.WrongUse, match="was not entered: use `async with`"):
        await line.publish_many(["Ada"])
    for look in (line.dead_letters, line.resend_dead_letters):
        with pytest.raises(greet.WrongUse, match="was not entered: use `async with`"):
            await look()
    with pytest.raises(greet.WrongUse, match="was not entered: use `async with`"):
        await line.subscribe("hello").__aenter__()
    async with line:
        with pytest.raises(greet.WrongUse, match="was not entered: use `async with`"):
            await anext(line.subscribe("hello"))


async def test_what_is_not_entered_yet_is_refused(connect: Connect) -> None:
    def hold(what: Line | Subscription, step: str) -> asyncio.Event:
        go_on, goes = asyncio.Event(), getattr(what, step)

        async def later(deadline: float) -> None:
            await go_on.wait()
            await goes(deadline)

        setattr(what, step, later)
        return go_on

    line = connect()
    go_on = hold(line, "_connect")
    entering = asyncio.create_task(line.__aenter__())
    await asyncio.sleep(0)
    for use in (line.publish("Ada"), line.publish_many(["Ada"]), line.dead_letters(), line.subscribe("a").__aenter__()):
        with pytest.raises(greet.WrongUse, match="this line is not entered yet"):
            await use
    go_on.set()
    await entering
    names = line.subscribe("hello")
    go_on = hold(names, "_join")
    joining = asyncio.create_task(names.__aenter__())
    await asyncio.sleep(0)
    for asking in (anext(names), anext(names.batches())):
        with pytest.raises(greet.WrongUse, match="this subscription is not entered yet"):
            await asking
    go_on.set()
    await joining
    await names.__aexit__(None, None, None)
    await line.__aexit__(None, None, None)


async def test_entered_twice_at_once_is_refused(line: Line) -> None:
    with pytest.raises(greet.WrongUse, match="entered already"):
        await line.__aenter__()
    async with line.subscribe("hello") as names:
        with pytest.raises(greet.WrongUse, match="entered already"):
            await names.__aenter__()
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]


async def test_what_still_leaves_cannot_be_entered_again(line: Line) -> None:
    names = line.subscribe("hello")
    await names.__aenter__()
    leaving = asyncio.create_task(names.__aexit__(None, None, None))
    await asyncio.sleep(0)
    with pytest.raises(greet.WrongUse, match="entered already"):
        await names.__aenter__()
    await leaving
    async with names:
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]


async def test_a_line_that_was_left_can_be_entered_again(connect: Connect) -> None:
    line = connect()
    for name in ("Ada", "Zoë"):
        async with line, line.subscribe("hello") as names:
            await line.publish(name)
            assert await take(names, 1) == [name]
        with pytest.raises(greet.PublishFailed, match="closed"):
            await line.publish("late")
        for look in (line.dead_letters, line.resend_dead_letters):
            with pytest.raises(greet.PublishFailed, match="closed"):
                await look()
        with pytest.raises(greet.ConnectFailed, match="closed"):
            await line.subscribe("hello").__aenter__()


async def test_another_loop_or_thread_is_refused(line: Line, case: Case) -> None:
    async with line.subscribe("hello") as names:
        for use in (
            *(line.publish("Ada"), line.publish_many(["Ada"]), line.dead_letters(), line.resend_dead_letters()),
            *(line.subscribe("other").__aenter__(), anext(names), anext(names.batches())),
        ):
            with pytest.raises(greet.WrongUse, match="belongs to another event loop"):
                await asyncio.to_thread(asyncio.run, use)  # type: ignore[arg-type]
        await nothing_comes(line, names, case)


@FREEING
async def test_what_was_read_is_freed_without_the_garbage_collector(line: Line) -> None:
    """A reference cycle would keep it until that runs, which on CPython 3.13 is three times as seldom as on 3.11."""
    count, size = 400, 32_768
    async with line.subscribe("hello") as names:
        assert await line.publish_many(["x" * size]) == 1  # what is imported at first use is not counted
        assert len(await take(names, 1)) == 1
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            publishing = asyncio.ensure_future(line.publish_many(f"{number:0{size}}" for number in range(count)))
            async with asyncio.timeout(60):
                for _ in range(count):
                    await anext(names)
            assert await publishing == count
            await line.publish("last")  # who asks for it lets go of the list before
            assert await take(names, 1) == ["last"]
            await asyncio.sleep(0)  # what waits for its turn to be freed
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert kept < count * size / 4


# Names


async def test_the_longest_names(line: Line) -> None:
    longest = ["a" * 65_536, "é" * 32_768, "李" * 21_845, "𝒜" * 16_384] * 3
    async with line.subscribe("hello") as names:
        assert await line.publish_many(longest) == len(longest)
        await line.publish(longest[0])
        assert sorted(await take(names, len(longest) + 1)) == sorted([*longest, longest[0]])


async def test_a_bad_name_is_not_sent(line: Line, case: Case) -> None:
    """Nor what follows it; what came before it was accepted as far as the error says."""
    sent: list[str] = []
    async with line.subscribe("hello") as names:
        for bad, before in [*((bad, NAMES) for bad in BAD), ("", case.many)]:
            with pytest.raises(greet.BadName) as single:
                await line.publish(bad)
            with pytest.raises(greet.BadName) as several:
                await line.publish_many([*before, bad, "after"])
            assert "\n" not in f"{single.value}{several.value}"
            assert str(single.value).isprintable()
            sent += before[: several.value.accepted]
        assert several.value.accepted > 0  # the lists before the one that has it
        assert same(case, await take(names, len(sent), many=True), sent)
        await nothing_comes(line, names, case)


async def test_publish_many_of_nothing(line: Line) -> None:
    async with line.subscribe("hello"):
        assert await line.publish_many([]) == 0


class End(BaseException):
    """As `pytest.fail` raises it: no `Exception`."""


def own_errors() -> list[BaseException]:
    of_another_line = [greet.PublishFailed("of another line"), greet.BadName("of another line")]
    for error in of_another_line:
        error.accepted = 7
    return [Crash(), *of_another_line, End()]


async def test_a_callers_own_error_comes_out_as_it_is(line: Line) -> None:
    def names(error: BaseException) -> Iterator[str]:
        yield "Ada"
        raise error

    async with line.subscribe("hello"):
        for error in own_errors():
            with pytest.raises(type(error)) as raised:
                await line.publish_many(names(error))
            assert raised.value is error
            assert getattr(error, "accepted", 7) == 7
        await line.publish("Zoë")


async def test_a_callers_own_error_comes_out_of_an_async_iterable_too(line: Line) -> None:
    async def names(error: BaseException) -> AsyncIterator[str]:
        yield "Ada"
        raise error

    async with line.subscribe("hello"), asyncio.timeout(10):
        for error in own_errors():
            with pytest.raises(type(error)) as raised:
                await line.publish_many(names(error))
            assert raised.value is error
            assert getattr(error, "accepted", 7) == 7
        await line.publish("Zoë")
