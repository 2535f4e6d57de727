"""The one interface that all designs share: its docstrings are the contract.

A `Line` carries names from whoever publishes to every group that subscribes:

    publish ──► Line ──► group "hello"   ──► one of its members
                    └──► group "goodbye" ──► one of its members

What is promised is written here, once: who may call what and when, deadlines, settling, the order of
leaving, dead letters. A design in `greet.designs` says how names are sent and received. It fills in
the methods whose names begin with `_` and whose bodies are empty here.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from asyncio import current_task, get_running_loop
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from greet.errors import BadName, BadURL, ConnectionLost, GreetError, PublishFailed, Unsupported, WrongUse
from greet.names import USUAL, arriving, check, check_all, chunks, decode

if TYPE_CHECKING:
    from greet.address import Address
    from greet.designs import Design

SETTLE_SECONDS = 0.1
"""How long a handled name may wait, at most, until the broker is told of it."""
TURN_SECONDS = 0.1
"""How long names are handed out, at most, before the event loop has a turn: heartbeats depend on it."""
STALL_SECONDS = 1.0
"""From which on it is said how long the event loop stood still."""
DEAD = ".dead"
"""What the topic of dead letters ends in."""
CLOSED = "this line is closed: connect again"
LEFT = "this member has left its group: subscribe again"
ONE_TASK = (
    "another task reads this subscription, and asking for a name settles the one that it handles:"
    " let each task subscribe itself, to the same group"
)
FAILED_TASK = (
    "the task that read this subscription has failed while it handled a name, and asking for the next would settle"
    " that: leave, and subscribe again"
)


class Guarantee(Enum):
    """What a publisher is promised once `publish` has returned; the value says what a name survives."""

    AT_MOST_ONCE = "nothing"
    AT_LEAST_ONCE = "a consumer's death"
    DURABLE = "a consumer's death and a broker's kill"


@dataclass(frozen=True)
class DeadLetter:
    """A message that a group could not read as a name, and where it came from."""

    body: bytes
    group: str
    origin: str
    """Where it stood on the broker: a queue, or a topic with partition and offset."""
    reason: str


class State(Enum):
    """How far what is opened by `async with` is; the value says why it cannot be used, with what it is filled in."""

    NEW = "this {} was not entered: use `async with`"
    ENTERING = "this {} is not entered yet: wait for its `async with`"
    OPEN = "this {} belongs to another event loop: make one in the loop that uses it"
    LEFT = ""


class Entered:
    """What may be used only between the two ends of its `async with`, and only in the event loop of that."""

    _what: str
    _state = State.NEW
    _loop: asyncio.AbstractEventLoop | None = None
    """That of the `async with`, as long as it can be used."""

    def _begin(self) -> None:
        if self._state in (State.ENTERING, State.OPEN):
            raise WrongUse(f"this {self._what} is entered already: make another one for this")
        self._state = State.ENTERING

    def _open(self) -> None:
        self._state, self._loop = State.OPEN, get_running_loop()

    def _close(self) -> None:
        self._state, self._loop = State.LEFT, None

    def _refusal(self) -> GreetError:
        """Why it cannot be used here and now."""
        return WrongUse(self._state.value.format(self._what))


class Line(Entered, ABC):
    """A connection to one topic, opened by `async with`; made by `greet.connect`.

    It belongs to the event loop in which it was entered. After it was left it can be entered again.
    """

    _what = "line"
    names_at_once = 500
    """How many names of `publish_many` are sent together, at most."""
    characters_at_once = 65_536
    """How many characters they have together, at most."""
    ahead = 10
    """How many such lists are sent before the first of them is accepted."""

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
            ConnectFailed: no connection came about by the address's `timeout`.
            WrongUse: it is entered already.
        """
        self._begin()
        try:
            await self._connect(self._deadline())
        except BaseException:
            self._close()
            await self._disconnect(self._deadline(), clean=False)
            raise
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect, by the address's `timeout`."""
        self._close()
        await self._disconnect(self._deadline(), clean=error is None)

    async def publish(self, name: str) -> None:
        """Return once the design has accepted `name` under the guarantee.

        Many tasks may publish at once. Names of one publisher that awaits each keep their order.
        A full queue or window makes this wait, so a slow group slows its publisher.

        Raises:
            BadName: this is no name; nothing was sent.
            PublishFailed: surely not accepted, for instance as no group has ever read the topic.
            PublishUnknown: a time-out or a lost confirm; it may have been accepted.
            WrongUse: the line was not entered, or belongs to another event loop; nothing was sent.
        """
        if get_running_loop() is not self._loop:
            raise self._refusal()
        if not (type(name) is str and 0 < len(name) <= USUAL and name.isprintable()):
            check(name)  # the usual name is spared the call
        if under_way := self._post(name):
            await under_way

    async def publish_many(self, names: Iterable[str] | AsyncIterable[str]) -> int:
        """The fast way: publish names, however many, in order; return how many were accepted.

        Each is accepted under the same guarantee as with `publish`. Memory stays bounded. What an
        async iterable has not given yet is not waited for: what has come is sent.

        Raises:
            as `publish`; the error's `accepted` says how many were surely accepted, not which: it
            is no place to go on from.
        """
        if get_running_loop() is not self._loop:
            raise self._refusal()
        if isinstance(names, str):
            raise BadName("a str is one name: publish it, or pass a list of names")
        bulk = _Bulk(self)
        try:
            try:
                if isinstance(names, AsyncIterable):
                    async with aclosing(arriving(names, self.names_at_once)) as come:
                        async for some in come:
                            for part in chunks(some, self.names_at_once, self.characters_at_once):
                                await bulk.send(part)
                else:
                    for part in chunks(names, self.names_at_once, self.characters_at_once):
                        await bulk.send(part)
            except GreetError as error:
                bulk.note(error)
            await bulk.finish()
        finally:
            await bulk.close()
        return bulk.accepted

    def subscribe(self, group: str, *, replay: bool = False) -> Subscription:
        """A member of `group`, to be entered by `async with`.

        Once it is entered, every name published from then on reaches the group, also while no
        member of it reads. Each group gets every name; members of one group share them. So tasks
        that share the work subscribe each for itself:

            async def worker(line):
                async with line.subscribe("hello") as names:
                    async for name in names:
                        await handle(name)

            async with asyncio.TaskGroup() as pool:
                for _ in range(10):
                    pool.create_task(worker(line))

        `replay=True` starts a new group at the oldest name that is still kept.

        Raises:
            Unsupported: replay, of a design that keeps nothing.
        """
        if replay and self.design.no_replay:
            raise Unsupported(self.design.no_replay)
        return self._subscription(plain("group", group), replay=replay)

    async def dead_letters(self) -> list[DeadLetter]:
        """What the groups of the topic could not read as a name, the oldest first; it stays there."""
        return []

    async def resend_dead_letters(self) -> int:
        """Publish each dead letter's body once more and remove it from the dead letters; how many.

        A queue sends it to the group that could not read it; a log to all groups, as they share it.
        """
        return 0

    # ----------------------------------------------------------------- what a design fills in

    @abstractmethod
    async def _connect(self, deadline: float) -> None:
        """Connect by `deadline`, a time of the event loop, else raise `ConnectFailed`."""

    @abstractmethod
    async def _disconnect(self, deadline: float, *, clean: bool) -> None:
        """Disconnect by `deadline`; end also what a failed `_connect` began. Whoever publishes is told.

        What `publish` was not told of is raised here, if the end is `clean`.
        """

    @abstractmethod
    async def _send(self, names: list[str], deadline: float) -> int:
        """Have `names` accepted, in order and by `deadline`; return how many there are.

        Lists that are sent one after another keep their order, also when they are under way together.

        Raises:
            PublishFailed, PublishUnknown: with `accepted`, how many of them surely are.
        """

    def _post(self, name: str) -> Awaitable[object] | None:
        """Send one name: what is returned is awaited, if it is not accepted at once. Raises as `_send` does."""
        return self._send([name], self._deadline())

    async def _prepare(self) -> None:
        """Open what the first publish would open, if anything. Raises as `publish` does."""

    @abstractmethod
    def _subscription(self, group: str, *, replay: bool) -> Subscription:
        """The design's own kind of member."""

    # ---------------------------------------------------------------------------- what they use

    def _deadline(self) -> float:
        return get_running_loop().time() + self.timeout

    def _refusal(self) -> GreetError:
        return PublishFailed(CLOSED) if self._state is State.LEFT else super()._refusal()


class _Bulk:
    """What one `publish_many` has under way."""

    def __init__(self, line: Line) -> None:
        self.accepted = 0
        self._line = line
        self._under_way: deque[asyncio.Task[int]] = deque()
        self._failure: GreetError | None = None

    async def send(self, names: list[str]) -> None:
        """Send `names` behind those that are under way; wait while these are many."""
        work = self._line._send(names, self._line._deadline())
        if self._line.ahead == 1:
            self.accepted += await work
            return
        self._under_way.append(asyncio.create_task(work))
        await asyncio.sleep(0)  # it begins, before the next names are looked at
        if len(self._under_way) == self._line.ahead:
            self.accepted += await self._under_way.popleft()

    def note(self, error: GreetError) -> None:
        """The first error is the one that is raised; what was accepted besides it counts."""
        self.accepted += error.accepted
        self._failure = self._failure or error

    async def finish(self) -> None:
        """Wait for what is under way; raise if something failed."""
        while self._under_way:
            try:
                self.accepted += await self._under_way.popleft()
            except GreetError as error:
                self.note(error)
        if self._failure:
            self._failure.accepted = self.accepted
            raise self._failure

    async def close(self) -> None:
        """After a cancellation, or an error of the caller's own: wait for nothing more."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


@dataclass(slots=True)
class Batch:
    """Names that came together, in order, and where each stands at the broker."""

    names: list[str]
    origins: Sequence[Any] = ()
    """One for each name: what the design needs to settle it."""
    source: Any = None
    """Where all of them come from, if the design needs to know: a channel, a partition."""


@dataclass(frozen=True, slots=True)
class Poison:
    """A message that holds no name."""

    body: bytes | None
    origin: Any
    reason: str
    source: Any = None


class Subscription(Entered, ABC):
    """One member of a group: an async iterator of names that does not end by itself.

    A name is settled when the next one is asked for, or when the `async with` ends without an
    exception. A member that dies, is cancelled or raises in between has not settled it: it comes
    again, to this or another member. So does a name if the task that handles it has failed, or still
    runs, when the `async with` ends. `AT_MOST_ONCE` settles names before they are handed out; of
    RabbitMQ, those that a leaving member has not handed out yet are lost then.

    Where a design lends names (`design.lends_for`), a name that takes longer to handle comes again to another
    member as well, and may be handled twice. Where it hands them out a limited number of times
    (`design.deliveries`), a name that was not settled by then is kept in the dead letters.

    It is for one task at a time. After it was left it can be entered again, and begins anew.

    Raises:
        ConnectionLost: the line is gone and could not be restored by its deadline. Also at the end of
            the `async with`, when the broker could not be told what was handled: it may come again.
        PublishFailed: a message that is no name could not be kept in the dead letters; it comes again.
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
        """Begin anew: nothing of an earlier entry counts."""
        self._batch = Batch([])  # what is handed out; its names before
        self._taken = 0  # this one were handed out,
        self._stop = 0  # up to this one they may be before the clock is looked at,
        self._settled = 0  # those before this one of them are handled too,
        self._told = 0  # and of those before this one the design was told
        self._runs: deque[Batch | Poison] = deque()  # what comes next
        self._owner: asyncio.Task[Any] | None = None  # who reads
        self._asking: asyncio.Task[Any] | None = None  # who waits for names
        self._idle = asyncio.Event()  # nothing is in hand
        self._idle.set()
        self._news = asyncio.Event()  # something is handed out, or settled and not confirmed
        self._unconfirmed = False
        self._behind = False  # the broker could not be told
        self._turned = 0.0  # when the event loop last had a turn, as far as we know
        self._looked = 0.0  # when the clock was looked at last
        self._alive = 0.0  # when it surely did not stand still
        self._stalled = 0.0  # how long the event loop stood still, at most

    async def __aenter__(self) -> Self:
        """Join the group. Raises `ConnectFailed` by the line's `timeout`, and `WrongUse` when it is entered."""
        if get_running_loop() is not self._line._loop:
            raise self._line._refusal()
        self._begin()
        self._forget()
        try:
            await self._join(self._line._deadline())
        except BaseException:
            self._close()
            with suppress(ConnectionLost):
                await self._part(self._line._deadline(), clean=False)
            raise
        self._open()
        self._turned = monotonic()
        self._settling = asyncio.create_task(self._keep_settling())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave. A clean end returns when the broker has the settlements, else it raises `ConnectionLost`."""
        clean = error is None
        if (clean and self._was_handled()) or self._early:
            self._settled = self._taken
        self._close()
        self._owner = None
        if not self._idle.is_set():
            self._notice_a_stall()
        self._idle.set()
        if self._asking and self._asking is not current_task():
            self._asking.cancel()  # it is told that the member has left
        self._settling.cancel()
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
                await self._part(self._line._deadline(), clean=clean)
        except ConnectionLost as lost:
            if clean:
                raise ConnectionLost(f"{lost}{self._stall()}") from lost

    def __aiter__(self) -> Self:
        return self

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
        """The fast way: lists of names, never empty; a list is settled as a whole by the next one."""
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
        """The task that asks becomes the one that reads; refused while another one does."""
        if get_running_loop() is not self._loop:
            raise self._refusal()
        if owner := self._owner:
            if not owner.done():
                raise WrongUse(ONE_TASK)
            if self._settled < self._taken and (owner.cancelled() or owner.exception()):
                raise WrongUse(FAILED_TASK)
        self._owner = current_task()

    def _was_handled(self) -> bool:
        """Whether what is in hand counts as handled at a clean end: another task may have failed, or be still at it."""
        owner = self._owner
        if owner in (None, current_task()):
            return True
        return owner.done() and not owner.cancelled() and owner.exception() is None

    def _refusal(self) -> GreetError:
        return ConnectionLost(LEFT) if self._state is State.LEFT else super()._refusal()

    async def _go_on(self) -> None:
        """See to it that there is a name to hand out, and that the event loop has a turn now and then.

        A handler that never awaits would else be taken for dead, as no heartbeat is sent meanwhile.
        """
        if monotonic() - self._turned > TURN_SECONDS:
            await asyncio.sleep(0.001)  # long enough for an answer of the broker
            self._turned = monotonic()
        while self._taken >= len(self._batch.names):
            await self._receive()
        # The clock is looked at before each name, or where eight take less than the turn does, each eighth.
        now, before = monotonic(), self._looked
        self._looked = now
        quick = now - before < TURN_SECONDS / 2
        self._stop = min(len(self._batch.names), self._taken + (8 if quick else 1))

    async def _receive(self) -> None:
        """Settle the batch that is handled, and get the next one."""
        if self._state is not State.OPEN:  # it has left, while this task had a turn
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
                self._settling.result()  # it ends by an error alone
            if self._behind:
                await self._confirm_by(self._line._deadline())
            while not await self._hand_out():
                pass
        except asyncio.CancelledError:
            if self._state is not State.OPEN and not task.uncancel():  # by our `__aexit__`, and by nobody else
                raise self._refusal() from None
            raise
        finally:
            self._asking = None

    async def _hand_out(self) -> bool:
        """Make the next run of names the batch; False if it was none that can be handed out."""
        if not self._runs:
            self._runs.extend(await self._next())
        run = self._runs[0]
        deadline = self._line._deadline()
        if isinstance(run, Poison):
            self._idle.clear()  # a rebalance waits for it, so that it is kept once
            try:
                await self._bury(run, deadline)
            finally:
                self._idle.set()
            self._done_with(run)
            self._unconfirmed = True
            self._news.set()
            return False
        mine = not self._early or await self._settle_ahead(run, deadline)
        if not self._done_with(run) or not mine:
            return False
        self._batch, self._taken, self._settled = run, 0, 0
        self._told = len(run.names) if self._early else 0
        self._alive = monotonic()
        self._idle.clear()
        self._news.set()
        return True

    def _done_with(self, run: Batch | Poison) -> bool:
        """Take `run` off what comes next; False if it was dropped meanwhile."""
        if self._runs and self._runs[0] is run:
            self._runs.popleft()
            return True
        return False

    def _drop(self) -> None:
        """Forget what was not handed out: it comes again from the broker, to this or another member."""
        self._runs.clear()
        del self._batch.names[self._taken :]
        self._stop = min(self._stop, self._taken)

    # -------------------------------------------------------------------------------- settling

    async def _keep_settling(self) -> None:
        """Tell the broker ten times a second what is handled: nobody waits for that, and a slow handler is told too."""
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
        except ConnectionLost:
            self._behind = self._unconfirmed = True
            raise

    def _notice_a_stall(self) -> None:
        self._stalled = max(self._stalled, monotonic() - self._alive - SETTLE_SECONDS)

    def _stall(self) -> str:
        """What to add to the news that names could not be settled."""
        if self._stalled < STALL_SECONDS:
            return ""
        return (
            f" (the event loop stood still for {self._stalled:.0f} s, in which nothing could be sent or heard:"
            " let handlers await, or run them in a thread)"
        )

    # ----------------------------------------------------------------- what a design fills in

    @abstractmethod
    async def _join(self, deadline: float) -> None:
        """Join the group; when this returns, what is published from then on reaches it. Else `ConnectFailed`."""

    @abstractmethod
    async def _next(self) -> Sequence[Batch | Poison]:
        """Wait for what comes next, at least one. It may be cancelled, and loses nothing by that.

        Raises:
            ConnectionLost: the broker was away, or silent, for longer than the line's `timeout`.
        """

    @abstractmethod
    async def _settle(self, batch: Batch, count: int) -> None:
        """The first `count` names of `batch` are handled: see to it that the broker knows them settled.

        It is called with a rising `count`, and never again with the same one.
        """

    async def _settle_ahead(self, batch: Batch, deadline: float) -> bool:  # noqa: ARG002
        """`AT_MOST_ONCE`: settle `batch` before it is handed out; False if it must not be."""
        await self._settle(batch, len(batch.names))
        return True

    async def _confirm(self, deadline: float) -> None:
        """Return when the broker has all that was settled, or raise `ConnectionLost`; called ten times a second.

        For designs whose `_settle` does not send it yet.
        """

    @abstractmethod
    async def _bury(self, poison: Poison, deadline: float) -> None:
        """Keep a message that holds no name in the dead letters, and settle it."""

    async def _give_back(self, batches: Sequence[Batch]) -> None:
        """This member has got these names, and leaves without having handled them.

        For designs where they do not come again by themselves.
        """

    @abstractmethod
    async def _part(self, deadline: float, *, clean: bool) -> None:
        """Leave the group; end also what a failed `_join` began.

        Raises:
            ConnectionLost: the end is `clean`, and the broker does not have all that was settled.
        """


class _Batches:
    """No generator: a generator that was cancelled once would end in silence when asked again."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[str]:
        return await self._subscription._next_batch()


def plain(what: str, text: str) -> str:
    """`text`, if every broker takes it as the name of a topic or group; else `BadURL`."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", text):
        raise BadURL(f"{what} {text[:40]!a} is no plain word: use up to 200 of A-Z a-z 0-9 . _ -")
    return text


def runs(bodies: Sequence[bytes | None], origins: Sequence[Any], source: Any = None) -> list[Batch | Poison]:
    """The names in the bodies of messages, apart from what is no name, in their order."""
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
    """Why `body` holds no name; empty if it holds one."""
    if body is None:
        return "a message without a body"
    try:
        decode(body)
    except BadName as error:
        return str(error)
    return ""
