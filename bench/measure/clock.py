"""Several clocks: what workers on other machines stamp is put on the clock of the machine that asked them.

Before and after each piece of work, a worker asks that machine for the time by UDP, many times in a row. The
answer that came soonest tells how far the two clocks are apart; half of its round trip is how wrong this can
be, the bound. In between, they are taken to drift evenly. Where stamps of two processes are subtracted, their
bounds add up, and a figure smaller than ten times the sum is not known.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import numpy as np

from bench.measure.loops import Receive, Received, Send, Sent, Stamps, now, work
from bench.measure.pool import Lease, Unreached

FINE = 10
"""How many times the bound a figure is at least."""
ASKED, FEWEST = 200, 10
"""Questions of one look, at most, and answers of one, at least."""
LOOK_NS, DEADLINE_NS = 100_000_000, 3_000_000_000
"""How long a look takes, and how long at most where answers are missing."""
PATIENCE_S = 0.3
"""How long one answer is waited for."""
MOST_DRIFT = 1e-3
"""A kernel slews its clock by 0.0005 at most, and a quartz is 0.0001 off: a clock that goes more wrong was set."""

_QUESTION = struct.Struct("!16sQQI")
"""Token, call, who asks, and which question it is."""
_ANSWER = struct.Struct("!Iq?")
"""Which question, the time, and whether the call is for who asked."""


class ClockMoved(Exception):
    """A clock was set while it measured."""


class Begun(Exception):
    """A call came a second time: doing it again would double its messages."""


class Echo:
    """Tells the time to who asks by UDP and knows the token. Also holds the lease of those who work for it.

    A call is for the first who asks about it: one that a scheduler hands out again is not done again.
    """

    def __init__(self, host: str) -> None:
        self._life, self._clock = (socket_for(host, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        for one in (self._life, self._clock):
            one.bind((host, 0))
        # Nobody accepts: who connects waits in the queue, and is cut off when this process closes it, or is killed.
        self._life.listen(socket.SOMAXCONN)
        self._owners: dict[int, int] = {}
        self._over = False
        life, clock = (one.getsockname()[1] for one in (self._life, self._clock))
        self.lease = Lease(host, life, clock, secrets.token_bytes(16))
        threading.Thread(target=self._answer, daemon=True).start()

    def close(self) -> None:
        """End the lease."""
        self._over = True
        self._life.close()
        with socket_for(self.lease.host, socket.SOCK_DGRAM) as awaking, suppress(OSError):
            awaking.sendto(b"", (self.lease.host, self.lease.clock_port))

    def _answer(self) -> None:
        with self._clock:
            while True:
                question, where = self._clock.recvfrom(64)
                moment = now()
                if self._over:
                    return
                if len(question) != _QUESTION.size:
                    continue
                token, call, who, turn = _QUESTION.unpack(question)
                if secrets.compare_digest(token, self.lease.token):
                    theirs = self._owners.setdefault(call, who) == who
                    with suppress(OSError):
                        self._clock.sendto(_ANSWER.pack(turn, moment, theirs), where)


def socket_for(host: str, kind: socket.SocketKind) -> socket.socket:
    """A socket of `kind` for an address like `host`."""
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)


@dataclass(frozen=True)
class Look:
    """How far the clock of this process is from that of a lease."""

    at_ns: int
    """When, by the clock of this process."""
    offset_ns: int
    """What to add to its stamps."""
    bound_ns: int
    """How wrong that can be."""
    host: str = ""
    """The address of this host towards the other."""


def look(lease: Lease, call: int = 0, who: int = 0) -> Look:
    """Compare the two clocks, for a tenth of a second at most where all is well.

    Raises:
        Unreached: there was no answer.
        Begun: the call is for somebody else.
    """
    best: Look | None = None
    heard, began = 0, now()
    with socket_for(lease.host, socket.SOCK_DGRAM) as line:
        line.settimeout(PATIENCE_S)
        for turn in range(ASKED):
            if now() - began > (LOOK_NS if heard >= FEWEST else DEADLINE_NS):
                break
            with suppress(OSError):  # none came in time, or nobody is there
                line.connect((lease.host, lease.clock_port))
                sent = now()
                line.send(_QUESTION.pack(lease.token, call, who, turn))
                answered = -1
                while answered != turn:
                    answer, came = line.recv(64), now()
                    answered, moment, ours = _ANSWER.unpack(answer)
                if not ours:
                    raise Begun("a worker had begun this before and is gone: it is not done twice")
                heard += 1
                middle, bound = (sent + came) // 2, (came - sent + 1) // 2
                if best is None or bound < best.bound_ns:
                    best = Look(middle, moment - middle, bound, line.getsockname()[0])
    if best is None:
        raise Unreached(f"{lease.host}:{lease.clock_port} by UDP")
    return best


@dataclass(frozen=True)
class Scale:
    """Between two looks: puts stamps of this process on the other clock."""

    before: Look
    after: Look

    @property
    def bound_ns(self) -> int:
        """How wrong each of them can be."""
        return max(self.before.bound_ns, self.after.bound_ns)

    def check(self) -> Scale:
        """The same. Raises `ClockMoved` where no drift explains what the two looks found."""
        moved = self.after.offset_ns - self.before.offset_ns
        span = self.after.at_ns - self.before.at_ns
        if abs(moved) > self.before.bound_ns + self.after.bound_ns + MOST_DRIFT * span:
            raise ClockMoved(f"the clock of {self.before.host} moved by {moved / 1e6:,.1f} ms in {span / 1e9:,.1f} s")
        return self

    def stamps(self, stamps: Stamps) -> Stamps:
        """The same moments on the other clock; 0 stands for none and stays."""
        since = stamps - self.before.at_ns
        span = max(1, self.after.at_ns - self.before.at_ns)
        drift = (self.after.offset_ns - self.before.offset_ns) / span
        moved: Stamps = stamps + self.before.offset_ns + np.rint(drift * since).astype(np.int64)
        return np.where(stamps == 0, 0, moved)

    def stamp(self, stamp: int) -> int:
        """One of them."""
        return int(self.stamps(np.array([stamp], np.int64))[0])

    def put(self, outcome: Sent | Received) -> Sent | Received:
        """`outcome` with its stamps on the other clock, its bound, and a process number that no other host has."""
        host = int(ip_address(self.before.host.partition("%")[0] or "0.0.0.0"))  # noqa: S104, nothing is bound
        same: dict[str, Any] = {
            "usage": replace(outcome.usage, pid=host << 32 | outcome.usage.pid),
            "progress": tuple((self.stamp(at), so_far) for at, so_far in outcome.progress),
            "started_ns": self.stamp(outcome.started_ns),
            "bound_ns": self.bound_ns,
        }
        if isinstance(outcome, Received):
            return replace(outcome, last_ns=self.stamp(outcome.last_ns), stamps=self.stamps(outcome.stamps), **same)
        same |= {name: self.stamps(getattr(outcome, name)) for name in ("intended", "actual", "confirmed")}
        return replace(outcome, ended_ns=self.stamp(outcome.ended_ns), **same)


def worked(
    lease: Lease, call: int, jobs: Sequence[Send | Receive], loop: str, deadline_s: float
) -> list[Sent | Received]:
    """`work` for a session on another machine: starts are given and stamps come back on its clock.

    Raises:
        Unreached: the clocks could not be compared.
        Begun: this call was handed to another process before.
        ClockMoved: this clock was set in the meantime.
    """
    who = secrets.randbits(63)
    before = look(lease, call, who)
    begun = [
        replace(job, start_ns=job.start_ns - before.offset_ns) if isinstance(job, Send) and job.start_ns else job
        for job in jobs
    ]
    outcomes = work(begun, loop, deadline_s)
    scale = Scale(before, look(lease, call, who)).check()
    return [scale.put(one) for one in outcomes]


def bound_ns(outcomes: Sequence[Sent | Received]) -> int:
    """How wrong the difference of two of their stamps can be; 0 where all are of one process, or of this machine."""
    worst: dict[int, int] = {}
    for one in outcomes:
        worst[one.usage.pid] = max(one.bound_ns, worst.get(one.usage.pid, 0))
    return sum(sorted(worst.values())[-2:]) if len(worst) > 1 else 0


def doubt(alone: Stamps, two: Stamps, bound: int, alike: float) -> str:
    """What is wrong with the latencies of messages by `two` clocks, beside those of the same messages by one `alone`.

    Nothing, where they differ by no more than the bound and the share `alike` of them, in the median.
    """
    if not len(alone) or len(alone) != len(two):
        return ""
    apart, one, other = (float(np.median(found)) / 1e6 for found in (two - alone, alone, two))
    if abs(apart) <= bound / 1e6 + alike * one:
        return ""
    return (
        f"a message takes {other:.2g} ms to its consumer by two clocks, but {one:.2g} ms back to its publisher by one, "
        f"of which {bound / 1e6:.2g} ms are the clocks' bound: the way is longer, or a clock is wrong"
    )


def known(percentiles: Mapping[str, float | None], bound: int) -> dict[str, float | None]:
    """Percentiles in milliseconds; None is in the place of what is smaller than ten times the bound."""
    least = FINE * bound / 1e6
    return {name: None if value is not None and value < least else value for name, value in percentiles.items()}
