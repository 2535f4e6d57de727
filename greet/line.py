"""The one interface that all designs share: its docstrings are the contract.

A `Line` carries names from publishers to every group that subscribes:

    publish ──► Line ──► group "hello"   ──► one of its members
                    └──► group "goodbye" ──► one of its members

The promises are written and kept here, once: who may call what and when, deadlines, settling, the
order in which a member leaves, dead letters. A design in `greet.designs` only says how names are sent
and received: it fills in the abstract methods, whose names begin with `_`.

A few words that all files use. A *member* is one consumer of a group. A name is *settled* once the
broker knows that it was handled (RabbitMQ: acknowledged; Kafka: its offset is committed). A name is
*in hand* while it has been handed out and is not settled yet.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from asyncio import current_task, get_running_loop
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import Enum, auto
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from greet.errors import (
    BadName,
    BadURL,
    ConnectFailed,
    ConnectionLost,
    GreetError,
    PublishFailed,
    PublishUnknown,
    Unsupported,
    WrongUse,
)
from greet.names import USUAL, arriving, check, check_all, chunks, decode
from greet.tasks import looked_at, to_the_end

if TYPE_CHECKING:
    from greet.address import Address
    from greet.designs import Design

SETTLE_SECONDS = 0.1
"""The longest time until the broker is told that a name was handled."""
TURN_SECONDS = 0.1
"""After this time, the event loop gets a turn before the next name is handed out: heartbeats depend on it."""
STALL_SECONDS = 1.0
"""An error mentions a blocked event loop only if it was blocked for longer than this."""
DEAD = ".dead"
"""The suffix of the topic of dead letters."""
MOST_ARRIVED = 500
"""Names of an async iterable that are taken ahead; each may have 64 KiB."""
CLOSED = "this line is closed: connect again"
LEFT = "this member has left its group: subscribe again"
ONE_TASK = (
    "another task reads this subscription: to share the work, let each task subscribe to the same group for itself"
    " (before Python 3.12, asyncio.wait_for makes a task of its own: use asyncio.timeout)"
)
FAILED_TASK = (
    "the task that read this subscription failed while it handled a name: leave, and subscribe again;"
    " then the name is delivered again"
)


class Guarantee(Enum):
    """What `publish` promises once it has returned. The value says what a name survives."""

    AT_MOST_ONCE = "nothing"
    AT_LEAST_ONCE = "a consumer's death"
    DURABLE = "a consumer's death and a broker's kill"


@dataclass(frozen=True)
class DeadLetter:
    """A message that a group could not read as a name, and where it comes from."""

    body: bytes
    group: str
    origin: str
    """Where it was on the broker: a queue, or a topic with partition and offset."""
    reason: str

    @property
    def message(self) -> tuple[str, bytes]:
        """Which message it was. An origin alone does not say it, if the topic was deleted and created again."""
        return self.origin, self.body


class State(Enum):
    """The state of an object that `async with` opens."""

    NEW = auto()
    ENTERING = auto()
    OPEN = auto()
    LEFT = auto()


REFUSALS = {
    State.NEW: "this {} was not entered: use `async with`",
    State.ENTERING: "this {} is not entered yet: wait for its `async with`",
    State.OPEN: "this {} belongs to another event loop: make one in the loop that uses it",
}
"""Why an object cannot be used in a state; LEFT is refused by the object itself."""


class Entered:
    """An object that may be used only inside its `async with`, and only in the event loop that entered it."""

    _what: str
    _state = State.NEW
    _loop: asyncio.AbstractEventLoop | None = None
    """The loop that entered it; None when it cannot be used."""
    _ending = False
    """It was left, and what follows from that is not done yet."""

    def _begin(self) -> None:
        if self._ending or self._state in (State.ENTERING, State.OPEN):
            raise WrongUse(f"this {self._what} is entered already: make another one for this")
        self._state = State.ENTERING

    def _open(self) -> None:
        self._state, self._loop = State.OPEN, get_running_loop()

    async def _close(self, work: Coroutine[Any, Any, None]) -> None:
        """It is left at once. Until `work`, which follows from that, is done, it cannot be entered again."""
        self._state, self._loop, self._ending = State.LEFT, None, True
        try:
            await to_the_end(work)
        finally:
            self._ending = False

    def _refusal(self) -> GreetError:
        """Why it cannot be used here and now."""
        return WrongUse(REFUSALS[self._state].format(self._what))


class Line(Entered, ABC):
    """A connection to one topic. `greet.connect` makes it, `async with` opens it.

    It belongs to the event loop in which it was entered. After it was left, it can be entered again.
    """

    _what = "line"
    names_at_once = 500
    """The largest number of names that `publish_many` sends together."""
    characters_at_once = 65_536
    """The largest number of characters that it sends together."""
    ahead = 10
    """How many such lists may be sent before the first of them is accepted."""

    def __init__(self, design: Design, address: Address, topic: str, guarantee: Guarantee | None) -> None:
        self.design = design
        self.address = address
        self.timeout = address.timeout
        self.topic = plain("topic", topic)
        if topic.endswith(DEAD) and not design.in_process:
            raise BadURL(f"topic {topic} ends in {DEAD}, where dead letters are kept: use another one")
        self.guarantee = guarantee or design.guarantees[-1]
        if self.guarantee not in design.guarantees:
            offered = " or ".join(one.name for one in design.guarantees)
            raise Unsupported(f"{design.title} cannot promise {self.guarantee.name}: ask for {offered}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} topic={self.topic} guarantee={self.guarantee.name}>"

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectFailed: there was no connection within the address's `timeout`.
            WrongUse: it was already entered.
        """
        self._begin()
        try:
            await self._connect(self._deadline())
        except BaseException:
            await self._close(self._disconnect(self._deadline(), clean=False))
            raise
        self._open()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Disconnect within the address's `timeout`. Leave the members of the line first: this does not end them.

        A `publish` that still waits is accepted, fails, or raises `PublishUnknown`.

        Raises:
            PublishFailed: at a clean end under `AT_MOST_ONCE`, if names were dropped after `publish` had returned, and
                no later call has said so.
        """
        await self._close(self._disconnect(self._deadline(), clean=error is None))

    async def publish(self, name: str) -> None:
        """Return once the design has accepted `name` under the guarantee.

        Many tasks may publish at the same time. The names of one publisher stay in order if it awaits
        each of them. With asyncio, this waits while the queue of a group is full. A broker keeps the names
        that a slow group has not read; there, this waits only for the broker.

        Raises:
            BadName: this is not a name. Nothing was sent.
            PublishFailed: it was not accepted, for example because no group has ever read the topic, or
                because the line was left.
            PublishUnknown: a time-out or a lost confirm. It may or may not have been accepted.
            WrongUse: the line was not entered, or belongs to another event loop. Nothing was sent.
        """
        if get_running_loop() is not self._loop:
            raise self._refusal()
        if not (type(name) is str and 0 < len(name) <= USUAL and name.isprintable()):
            check(name)  # not called for a usual name: that is faster
        if under_way := self._post(name):
            await under_way

    async def publish_many(self, names: Iterable[str] | AsyncIterable[str]) -> int:
        """The fast way: publish any number of names, in order; return how many were accepted.

        Each name has the same guarantee as with `publish`. Memory stays bounded. With an async
        iterable, the names that have come are sent without waiting for more. Do not pass a
        subscription: it settles a name when the next is asked for, before the name is accepted here.

        Raises:
            As `publish`; `PublishUnknown` if this is true for any name. The error's `accepted` says how
            many names were certainly accepted, but not which: do not use it to continue in the middle
            of the names. An error of `names` itself, or a cancellation, is raised as it is; then nobody
            can tell which of the last names were accepted.
        """
        if get_running_loop() is not self._loop:
            raise self._refusal()
        if isinstance(names, str):
            raise BadName("a str is one name: publish it, or pass a list of names")
        bulk = _Bulk(self)
        try:
            if isinstance(names, AsyncIterable):
                async with aclosing(arriving(names, min(self.names_at_once, MOST_ARRIVED))) as come:
                    async for some in come:
                        if not await bulk.send(some):
                            break
            else:
                await bulk.send(names)
            return await bulk.finish()
        finally:
            await bulk.close()

    def subscribe(self, group: str, *, replay: bool = False) -> Subscription:
        """A member of `group`; open it by `async with`.

        Once it is entered, every name published from then on reaches the group, even while no
        member reads. Each group gets every name; the members of one group share the names. So if
        several tasks share the work, each task subscribes for itself:

            async def worker(line):
                async with line.subscribe("hello") as names:
                    async for name in names:
                        await handle(name)

            async with asyncio.TaskGroup() as pool:
                for _ in range(10):
                    pool.create_task(worker(line))

        `replay=True` starts a new group at the oldest name that is still kept.

        Raises:
            Unsupported: `replay` with a design that does not keep names that were read.
        """
        if replay and self.design.no_replay:
            raise Unsupported(self.design.no_replay)
        return self._subscription(plain("group", group), replay=replay)

    async def dead_letters(self) -> list[DeadLetter]:
        """The messages that the groups of the topic could not read as a name, the oldest first. They are kept.

        One program at a time: over RabbitMQ, two that read them at the same time get a part each.

        Raises:
            ConnectFailed, ConnectionLost: they could not be read.
            PublishFailed: the line was left.
            WrongUse: the line was not entered, or belongs to another event loop.
        """
        if get_running_loop() is not self._loop:
            raise self._refusal()
        return await self._dead_letters()

    async def resend_dead_letters(self) -> int:
        """Publish the body of each dead letter again and remove the dead letter; return how many.

        If it is interrupted, some that were sent may not be removed yet: the next call sends them again.

        With a queue it goes to the group that could not read it. With a log it goes to all groups, as
        they share the log.

        Raises:
            As `publish`, and as `dead_letters`. The error's `accepted` says how many were sent.
        """
        if get_running_loop() is not self._loop:
            raise self._refusal()
        return await self._resend()

    # ----------------------------------------------------------------- what a design fills in

    @abstractmethod
    async def _connect(self, deadline: float) -> None:
        """Connect before `deadline`, a time of the event loop, or raise `ConnectFailed`."""

    @abstractmethod
    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        """Disconnect before `deadline`; also end what a failed `_connect` began. No call may wait for ever after it.

        If the end is `clean`, raise the error of a publish that has not been raised yet.
        """

    @abstractmethod
    async def _send(self, names: list[str], deadline: float) -> int:
        """Publish `names` in order, and return their number when all are accepted, before `deadline`.

        Lists that are sent one after another keep their order, even if the next one is sent before
        the first is accepted.

        Raises:
            PublishFailed, PublishUnknown: `accepted` says how many of them were certainly accepted.
        """

    def _post(self, name: str) -> Awaitable[object] | None:
        """Send one name. If it is not accepted at once, return what to await. Raises as `_send` does."""
        return self._send([name], self._deadline())

    async def _prepare(self) -> None:
        """Open now what the first publish would open, if anything. Raises as `publish` does."""

    @abstractmethod
    def _subscription(self, group: str, *, replay: bool) -> Subscription:
        """The design's own class of member."""

    async def _dead_letters(self) -> list[DeadLetter]:
        """As `dead_letters`, for designs that can get a message that is not a name."""
        return []

    async def _resend(self) -> int:
        """As `resend_dead_letters`."""
        return 0

    # ---------------------------------------------------------------------------- what they use

    def _deadline(self) -> float:
        return get_running_loop().time() + self.timeout

    def _refusal(self) -> GreetError:
        return PublishFailed(CLOSED) if self._state is State.LEFT else super()._refusal()


class _Bulk:
    """The lists that one `publish_many` has sent, and that are not accepted yet."""

    def __init__(self, line: Line) -> None:
        self._failure: GreetError | None = None
        self._accepted = 0
        self._line = line
        self._under_way: deque[asyncio.Task[int]] = deque()

    async def send(self, names: Iterable[str]) -> bool:
        """Send `names` in lists, after those that are being sent; False after a failure: then send no more."""
        line = self._line
        for some in chunks(names, line.names_at_once, line.characters_at_once):
            try:
                if isinstance(some, BadName):
                    raise some
                await self._send(some)
            except GreetError as error:
                self._failure = error
                return False
        return True

    async def _send(self, names: list[str]) -> None:
        """Send one list. If `ahead` lists are being sent, wait for the first."""
        while self._under_way and self._under_way[0].done():  # it may have failed
            self._accepted += await self._under_way.popleft()
        work = self._line._send(names, self._line._deadline())
        if self._line.ahead == 1:
            self._accepted += await work
            return
        self._under_way.append(asyncio.create_task(work))
        await asyncio.sleep(0)  # let it begin before the next names are checked
        if len(self._under_way) == self._line.ahead:
            self._accepted += await self._under_way.popleft()

    async def finish(self) -> int:
        """Wait until all lists are accepted. Names that were accepted after an error count too."""
        rest = await asyncio.gather(*self._under_way, return_exceptions=True)
        return total([self._accepted, *([self._failure] if self._failure else []), *rest])

    async def close(self) -> None:
        """Cancel what is still being sent, after a cancellation or an error of the caller."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


@dataclass(slots=True)
class Batch:
    """Names that came together, in order, and where each of them is on the broker."""

    names: list[str]
    origins: Sequence[Any] = ()
    """For each name, what the design needs to settle it: a message, an offset."""
    source: Any = None
    """Where all of them come from, if the design needs it: a channel, a partition."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A message whose body is not a name."""

    body: bytes | None
    origin: Any
    reason: str
    source: Any = None


class Subscription(Entered, AsyncIterator[str]):
    """One member of a group: an async iterator of names that does not end by itself.

    A name is settled when the next one is asked for, or when the `async with` ends without an
    exception. If the member dies, is cancelled or raises before that, the name is not settled: it
    is delivered again, to this or another member. The same happens if the task that handles the name
    has failed, or still runs, when the `async with` ends. `AT_MOST_ONCE` settles names before they
    are handed out. With RabbitMQ, as a queue or a stream, and with a share group of Kafka, names that
    such a member has settled but not handed out are lost when it leaves.

    Some designs give a name to a member for a limited time (`design.lends_for`). If handling takes
    longer, another member gets the name too, and it may be handled twice. Some deliver a name a
    limited number of times (`design.deliveries`). If it is not settled by then, it is kept in the
    dead letters.

    Only one task may read it at a time. (Before Python 3.12, `asyncio.wait_for` makes a task of its
    own: use `asyncio.timeout`.) After it was left it can be entered again, and starts afresh. A
    cancellation waits until the member has left, as any other end does.

    Raises:
        ConnectionLost: the connection was lost and could not be restored before the deadline, or the
            member has left. Also at the end of the `async with`, if the broker could not be told what
            was handled: those names may come again.
        PublishFailed: a message that is not a name could not be kept in the dead letters. It comes again.
        WrongUse: it was not entered, or another task reads it.
    """

    _what = "subscription"

    def __init__(self, line: Line, group: str, *, replay: bool) -> None:
        self._line = line
        self._group = group
        self._replay = replay
        self._early = line.guarantee is Guarantee.AT_MOST_ONCE
        self._forget()

    def _forget(self) -> None:
        """Reset all state: nothing of an earlier entry remains."""
        self._batch = Batch([])  # the names that are being handed out
        self._taken = 0  # how many of them were handed out
        self._stop = 0  # when so many were handed out, the clock is read again
        self._settled = 0  # how many of them were handled: the next name was asked for
        self._told = 0  # how many of them were passed to `_settle`
        self._runs: deque[Batch | Poison] = deque()  # the batches that come next
        self._owner: asyncio.Task[Any] | None = None  # the task that reads
        self._asking: asyncio.Task[Any] | None = None  # the task that waits for names
        self._idle = asyncio.Event()  # no name is in hand
        self._idle.set()
        self._news = asyncio.Event()  # there is something for the task that settles in the background
        self._unconfirmed = False  # names were passed to `_settle`, and `_confirm` has not returned since
        self._behind = False  # the last `_confirm` failed
        self._turned = 0.0  # when the event loop last had a turn, as far as we know
        self._looked = 0.0  # when the clock was read last
        self._alive = 0.0  # the last time at which the event loop was certainly not blocked
        self._stalled = 0.0  # the longest time for which the event loop was blocked

    async def __aenter__(self) -> Self:
        """Join the group. Raises `ConnectFailed` after the line's `timeout`, and `WrongUse` if already entered."""
        if get_running_loop() is not self._line._loop:
            raise ConnectFailed(CLOSED) if self._line._state is State.LEFT else self._line._refusal()
        self._begin()
        self._forget()
        try:
            await self._join(self._line._deadline())
        except BaseException:
            with suppress(ConnectionLost):
                await self._close(self._part(self._line._deadline(), clean=False))
            raise
        self._open()
        self._turned = monotonic()
        self._settling = asyncio.create_task(self._keep_settling())
        self._settling.add_done_callback(looked_at)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Leave the group. A clean end returns once the broker has all settlements, or raises `ConnectionLost`."""
        clean = error is None
        if (clean and self._was_handled()) or self._early:
            self._settled = self._taken
        self._owner = None
        if not self._idle.is_set():
            self._notice_a_stall()
        if self._asking and self._asking is not current_task():
            self._asking.cancel()  # its call raises that the member has left
        self._settling.cancel()
        await self._close(self._leave(clean=clean))

    async def _leave(self, *, clean: bool) -> None:
        await asyncio.wait([self._settling], timeout=self._line.timeout)
        batch, count, told = self._batch, self._settled, self._told
        rest = [Batch(batch.names[count:], batch.origins[count:], batch.source), *self._runs]
        self._batch, self._taken, self._stop = Batch([]), 0, 0
        self._runs.clear()
        try:
            try:
                if count > told:
                    await self._settle(batch, count)
                await self._give_back([one for one in rest if isinstance(one, Batch) and one.names])
            finally:
                self._idle.set()  # only now may a rebalance go on: else the next owner gets what was handled again
                await self._part(self._line._deadline(), clean=clean)
        except ConnectionLost as lost:
            if clean:
                raise ConnectionLost(f"{lost}{self._stall()}") from lost
        if clean and self._settling.done() and not self._settling.cancelled():
            self._settling.result()  # it ends only by an error, which is raised here

    async def __anext__(self) -> str:
        if current_task() is not self._owner:
            self._take_over()
        self._settled = self._taken
        if self._taken >= self._stop:
            await self._go_on()
        taken = self._taken
        self._taken = taken + 1
        return self._batch.names[taken]

    def batches(self) -> AsyncIterator[list[str]]:
        """The fast way: lists of names, never empty.

        Asking for the next list settles the whole list before it. So does a clean end of the `async with`, even
        after a `break` in the middle of a list: raise, if the list is to come again.
        """
        return _Batches(self)

    async def _next_batch(self) -> list[str]:
        if current_task() is not self._owner:
            self._take_over()
        self._settled = self._taken
        await self._go_on()
        names = self._batch.names
        rest = names[self._taken :] if self._taken else names.copy()
        self._taken = self._stop = len(names)
        return rest

    # ------------------------------------------------------------------ who may ask, and when

    def _take_over(self) -> None:
        """Make the calling task the one that reads; refused while another task reads."""
        if get_running_loop() is not self._loop:
            raise self._refusal()
        if owner := self._owner:
            if not owner.done():
                raise WrongUse(ONE_TASK)
            if self._settled < self._taken and (owner.cancelled() or owner.exception()):
                raise WrongUse(FAILED_TASK)
        self._owner = current_task()

    def _was_handled(self) -> bool:
        """Whether the name in hand counts as handled at a clean end: not if another task failed on it or still runs."""
        owner = self._owner
        if owner in (None, current_task()):
            return True
        return owner.done() and not owner.cancelled() and owner.exception() is None

    def _refusal(self) -> GreetError:
        return ConnectionLost(LEFT) if self._state is State.LEFT else super()._refusal()

    async def _go_on(self) -> None:
        """Make sure that there is a name to hand out, and that the event loop gets a turn now and then.

        Without that turn no heartbeat is sent while a handler never awaits, and the broker would take
        the member for dead.
        """
        if monotonic() - self._turned > TURN_SECONDS:
            await asyncio.sleep(0.001)  # long enough for an answer of the broker
            self._turned = monotonic()
        while self._taken >= len(self._batch.names):
            await self._receive()
        # Reading the clock costs as much as handing out a name. If the names since the last reading took less than half
        # a turn, the next eight are handed out without one. So eight names may pass without a turn of the loop.
        now, before = monotonic(), self._looked
        self._looked = now
        quick = now - before < TURN_SECONDS / 2
        self._stop = min(len(self._batch.names), self._taken + (8 if quick else 1))

    async def _receive(self) -> None:
        """Settle the batch that was handled, and get the next one."""
        if self._state is not State.OPEN:  # it left while another task had a turn
            raise self._refusal()
        self._asking = task = current_task()
        assert task
        try:
            if self._told < (count := len(self._batch.names)):
                self._told = count
                await self._settle(self._batch, count)
                self._unconfirmed = True
            self._idle.set()
            if self._settling.done():
                self._settling.result()  # it ends only by an error, which is raised here
            if self._behind:
                await self._confirm_by(self._line._deadline())
            while not await self._hand_out():
                pass
        except asyncio.CancelledError:
            if self._state is not State.OPEN and not task.uncancel():  # cancelled only by our `__aexit__`
                raise self._refusal() from None
            raise
        finally:
            self._asking = None

    async def _hand_out(self) -> bool:
        """Make the next run of names the current batch; False if there is nothing in it to hand out."""
        if not self._runs:
            self._runs.extend(await self._next())
        run = self._runs[0]
        deadline = self._line._deadline()
        if isinstance(run, Poison):
            self._idle.clear()  # a rebalance waits until it is kept: else the next owner keeps a second copy
            try:
                await self._bury(run, deadline)
            finally:
                self._idle.set()
            self._done_with(run)
            self._unconfirmed = True
            self._news.set()
            return False
        settled = not self._early or await self._settle_ahead(run, deadline)
        still_there = self._done_with(run)  # False if the connection was lost, or a rebalance began, in the meantime
        if not (settled and still_there):
            return False
        self._batch, self._taken, self._settled = run, 0, 0
        self._told = len(run.names) if self._early else 0
        self._alive = monotonic()
        self._idle.clear()
        self._news.set()
        return True

    def _done_with(self, run: Batch | Poison) -> bool:
        """Remove `run` from the batches that come next; False if it was dropped in the meantime."""
        if self._runs and self._runs[0] is run:
            self._runs.popleft()
            return True
        return False

    def _drop(self) -> None:
        """Forget the names that were not handed out: the broker delivers them again, to this or another member."""
        self._runs.clear()
        del self._batch.names[self._taken :]
        self._stop = min(self._stop, self._taken)

    # -------------------------------------------------------------------------------- settling

    async def _keep_settling(self) -> None:
        """Settle ten times a second, in the background: so no reader waits for it, and slow handlers settle in time."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unconfirmed or self._told < len(self._batch.names):
                self._alive = monotonic()
                await asyncio.sleep(SETTLE_SECONDS)
                self._notice_a_stall()
                with suppress(ConnectionLost):  # raised when the next names are asked for
                    if self._told < self._settled:
                        self._told = self._settled
                        await self._settle(self._batch, self._settled)
                        self._unconfirmed = True
                    if self._unconfirmed:
                        await self._confirm_by(self._line._deadline())

    async def _confirm_by(self, deadline: float) -> None:
        self._unconfirmed = False
        try:
            await self._confirm(deadline)
            self._behind = False
        except BaseException as error:
            self._unconfirmed = True
            self._behind |= isinstance(error, ConnectionLost)
            raise

    def _notice_a_stall(self) -> None:
        self._stalled = max(self._stalled, monotonic() - self._alive - SETTLE_SECONDS)

    def _stall(self) -> str:
        """What to add to an error about names that could not be settled."""
        if self._stalled < STALL_SECONDS:
            return ""
        return (
            f" (the event loop was blocked for {self._stalled:.0f} s, so nothing could be sent or received:"
            " let handlers await, or run them in a thread)"
        )

    # ----------------------------------------------------------------- what a design fills in

    @abstractmethod
    async def _join(self, deadline: float) -> None:
        """Join the group. Names that are published after this returns reach it. Raises `ConnectFailed`."""

    @abstractmethod
    async def _next(self) -> Sequence[Batch | Poison]:
        """Wait for the next batches, at least one. If this is cancelled, nothing is lost.

        Raises:
            ConnectionLost: the broker was down or silent for longer than the line's `timeout`.
        """

    @abstractmethod
    async def _settle(self, batch: Batch, count: int) -> None:
        """The first `count` names of `batch` were handled: have the broker settle them.

        For one batch it is called with a rising `count`, and never twice with the same one.
        """

    async def _settle_ahead(self, batch: Batch, deadline: float) -> bool:  # noqa: ARG002
        """`AT_MOST_ONCE`: settle `batch` before it is handed out; False if it must not be handed out."""
        await self._settle(batch, len(batch.names))
        return True

    async def _confirm(self, deadline: float) -> None:
        """Return when the broker has all settlements, or raise `ConnectionLost`. Called ten times a second.

        For designs whose `_settle` only takes note.
        """

    @abstractmethod
    async def _bury(self, poison: Poison, deadline: float) -> None:
        """Keep a message that is not a name in the dead letters, and settle it."""

    async def _give_back(self, batches: Sequence[Batch]) -> None:
        """Give back names that this member has received and not handled, as it leaves: they come again, in order.

        For designs whose broker does not deliver them again by itself.
        """

    @abstractmethod
    async def _part(self, deadline: float, *, clean: bool) -> None:
        """Leave the group; also end what a failed `_join` began.

        Raises:
            ConnectionLost: the end is `clean`, and the broker does not have all settlements.
        """


class _Batches(AsyncIterator[list[str]]):
    """Not a generator: a generator that was cancelled would end silently when it is asked again."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def __anext__(self) -> list[str]:
        return await self._subscription._next_batch()


def plain(what: str, text: str) -> str:
    """`text`, if every broker accepts it as the name of a topic or group; else raise `BadURL`."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", text):
        raise BadURL(f"{what} {text[:40]!a} is not allowed: use up to 200 of A-Z a-z 0-9 . _ -")
    return text


def total(results: Sequence[int | BaseException]) -> int:
    """How many names were accepted. If some failed, raise that error; a `PublishUnknown` before others."""
    accepted = sum(one if isinstance(one, int) else getattr(one, "accepted", 0) for one in results)
    failures = [one for one in results if isinstance(one, BaseException)]
    for failure in sorted(failures, key=lambda one: not isinstance(one, PublishUnknown)):
        if isinstance(failure, GreetError):
            failure.accepted = accepted
        raise failure
    return accepted


def runs(bodies: Sequence[bytes | None], origins: Sequence[Any], source: Any = None) -> list[Batch | Poison]:
    """The bodies of messages as batches of names, in order; a body that is not a name becomes a `Poison`."""
    try:
        names = [body.decode() for body in bodies]  # type: ignore[union-attr]
        check_all(names)
        return [Batch(names, origins, source)]
    except (AttributeError, UnicodeDecodeError, BadName):
        pass
    found: list[Batch | Poison] = []
    for body, origin in zip(bodies, origins, strict=True):
        if reason := complaint(body):
            found.append(Poison(body, origin, reason, source))
        elif found and isinstance(found[-1], Batch):
            found[-1].names.append((body or b"").decode())
            found[-1].origins.append(origin)  # type: ignore[attr-defined]
        else:
            found.append(Batch([(body or b"").decode()], [origin], source))
    return found


def complaint(body: bytes | None) -> str:
    """Why `body` is not a name; empty if it is one."""
    if body is None:
        return "a message without a body"
    try:
        decode(body)
    except BadName as error:
        return str(error)
    return ""
