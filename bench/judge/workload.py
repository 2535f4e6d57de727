"""From the rows of a workload to its answer: which designs meet all needs, which to take, and what would change that.

A design meets a workload if it can do it at all, carries it in time, loses nothing that it has to keep, and was
measured without an error. Of those that do, the one to take is found by the first of these that tells them apart:
nothing to run beside the program; enough room; less time without service after the break; a lower p99; less CPU.
Figures closer together than `ALIKE` are taken for the same: a single run cannot tell them apart.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from bench.measure.workload import GUARANTEES, LATE, Workload, names, told_time
from bench.schema import BadRun
from bench.stats import PERCENTILES, short
from greet import Guarantee
from greet.designs import DESIGNS, Design, named

ALIKE = 1.5
"""If two figures of a single run differ by less than this factor, they are no reason to prefer one design."""
ENOUGH = 3.0
"""A capacity of so many times the load is enough: more does not count."""
ALIKE_S = 2.0
"""Seconds without service that differ by less are the same."""
ROOMIER = 1.2
"""A capacity that is not so many times as large as another one is the same."""
COMFORT = 0.1
"""Waits that are both within this share of the limit are the same."""
RESERVE = 1.2
"""Messages are kept for so many times as long as they are needed: reading them takes time too."""
MORE = f"and {RESERVE - 1:.0%} more, so that a late reader still finds them"
RULE = (
    "How the design is chosen among those that meet every need: the first of these in which they differ decides. "
    f"No broker to run. A capacity that is {ROOMIER:g} times as large; more than {ENOUGH:g} times the load does not "
    f"count. An outage that is {ALIKE_S:g} s shorter. A wait that is at most {1 / ALIKE:.0%} as long, if the longer "
    f"one is over {COMFORT:.0%} of the limit. At most {1 / ALIKE:.0%} of the CPU."
)


def unable(workload: Workload, design: Design) -> list[str]:
    """Why `design` cannot do it at all: a text for each need that it fails; empty if it can."""
    found = []
    if GUARANTEES[workload.survive] not in design.guarantees:
        found.append(f"nothing survives its process, so no message survives a {workload.survive}'s kill")
    if workload.replay and not design.replays:
        found.append("it does not keep messages that were read, so it cannot replay")
    if workload.order == "all" and workload.members > 1 and (design.deals_out or design.partitioned):
        found.append(f"{workload.members} members of a group work side by side, so there is no common order")
    elif workload.order == "all" and workload.partitions > 1 and design.partitioned:
        found.append(f"messages are in order only within a partition, and there are {workload.partitions}")
    if workload.order != "none" and not design.ordered:
        found.append("it gives each message to any free member, so there is no order")
    elif workload.order == "key" and workload.members > 1 and not design.orders_by_key:
        found.append("messages with the same key go to any free member of its one queue, so they lose their order")
    if design.in_process and workload.kept_s:
        found.append("it keeps only what its bounded queue holds, and only as long as its process runs")
    if design.in_process and workload.apart:
        found.append("publishers and readers must share one process")
    return found


def hands(workload: Workload, design: Design) -> float:
    """How many readers of a group work at the same time. Who computes shares this machine's cores with all groups."""
    at_work = design.at_work(workload.members, workload.partitions)
    if workload.work == "wait":
        return at_work
    return min(at_work, (1 if design.in_process else os.cpu_count() or 1) / workload.groups)


def handled(workload: Workload, design: Design) -> float:
    """How many messages a second the work of a group's readers allows at most."""
    return hands(workload, design) * 1000 / workload.work_ms if workload.work_ms else math.inf


def workers(workload: Workload, design: Design) -> str:
    """What is done at the same time, in words."""
    at_work = design.at_work(workload.members, workload.partitions)
    if hands(workload, design) < at_work:
        return "the work on one core" if design.in_process else "the work on the cores of this machine"
    return f"the work of {at_work} reader{'s' * (at_work > 1)} at a time"


def more_members(workload: Workload, design: Design) -> str:
    """How many members a group needs for its work, in words; "" if it has them, or if more of them cannot help."""
    peak, grown = max(workload.rates), _grown(workload)
    if handled(workload, design) > peak or handled(grown, design) <= handled(workload, design) or unable(grown, design):
        return ""
    both = " and partitions" if design.partitioned and workload.partitions else ""
    return f"more than {math.floor(peak * workload.work_ms / 1000):,} members{both}"


def _grown(workload: Workload) -> Workload:
    """The same load for a group of one member more."""
    return replace(workload, members=workload.members + 1, partitions=0)


def forgets(workload: Workload, design: Design) -> str:
    """What is lost of messages that survive a consumer, in words; "" if nothing is, or if none has to survive."""
    if workload.guarantee is not Guarantee.AT_LEAST_ONCE:
        return ""
    if design.in_process:
        return "the end of the program loses waiting messages"
    if not design.forgets_at_restart or workload.queue_type == "quorum":
        return ""
    return 'a restart of the broker loses waiting messages: `survive = "broker"` keeps them'


def remarks(workload: Workload, design: Design) -> list[str]:
    """Facts about `design` with this workload that no figure shows."""
    found = list(filter(None, [forgets(workload, design)]))
    if (most := handled(workload, design)) <= (peak := max(workload.rates)):
        found.append(
            f"{workers(workload, design)}, {workload.work_ms:g} ms each, handles at most {short(most)} messages a "
            f"second of a group, but {short(peak)} are due: messages pile up"
        )
    idle = workload.members - design.at_work(workload.members, workload.partitions)
    if idle and design.partitioned:
        found.append(f"{idle} of {workload.members} members have no partition, so they have no work")
    elif idle:
        found.append(f"one member of a group reads at a time, so {idle} of them stand by")
    if workload.partitions and not design.partitioned:
        found.append("it has no partitions: that key changes nothing")
    if workload.queue_type and "queue_type" not in design.keys:
        found.append("it has no queue types: that key changes nothing")
    if workload.kept_s and not design.in_process:
        reserve = RESERVE if design.deletes_after_s < math.inf else 1
        held = workload.kept_s * reserve * workload.mean_rate * workload.mean_size
        kept = f"{told_time(workload.keep)}{f' and {reserve - 1:.0%} more' * (reserve > 1)}"
        found.append(
            f"{short(workload.mean_rate)} messages a second, kept for {kept}, take at least {_bytes(held)} of disk for "
            "each copy"
        )
        days = design.deletes_after_s / 86400
        if workload.kept_s * RESERVE > design.deletes_after_s:
            found.append(
                f"by default it deletes them after {days:g} days, read or not: set "
                "`retention.ms` of the topic and, for groups without members, `offsets.retention.minutes` of the broker"
            )
        elif days < math.inf:
            longer = held / (workload.kept_s * reserve) * design.deletes_after_s
            found.append(
                f"by default it keeps them for {days:g} days, which takes {_bytes(longer)}: set `retention.ms` of the "
                "topic to keep less"
            )
        elif design.replays:
            found.append("by default it never deletes them: set `max-age` in a policy, or the disk fills")
    if workload.order == "key" and workload.members > 1 and design.orders_by_key and design.partitioned:
        found.append(
            "it keeps messages with the same key in order by design; greet's key is the whole message, so this is not "
            "measured: let your program set the key, as in notebooks/03_kafka.ipynb"
        )
    if workload.break_ == "broker" and design.quorum:
        found.append(
            "what breaks is the only broker, and it comes back; to survive the loss of a broker, it needs a cluster "
            f"and `{design.quorum}`"
        )
    return found


def deployment(workload: Workload, design: Design) -> str:
    """The call of greet for this workload on a broker of your own, and what to set there; "" if it needs none."""
    if design.in_process:
        return ""
    copied = GUARANTEES[workload.survive] is Guarantee.DURABLE
    query, topic = [], []
    if design.partitioned and (partitions := workload.partitions or workload.members) > 1:
        query.append(f"partitions={partitions}")
    if copied:
        query.append(design.quorum)
    elif workload.queue_type and "queue_type" in design.keys:
        query.append(f"queue_type={workload.queue_type}")
    if workload.kept_s and design.deletes_after_s < math.inf:
        topic.append(f"`retention.ms={workload.kept_s * RESERVE * 1000:.0f}` ({told_time(workload.keep)} {MORE})")
    if copied and "replication" in design.keys:
        topic.append("`min.insync.replicas=2`")
    url = f"{design.scheme}://HOST:{design.ports[0]}/{'?' * bool(query)}{'&'.join(query)}"
    said = f'`greet.connect("{url}", guarantee=greet.Guarantee.{workload.guarantee.name})`'
    own = f"On your own {'cluster of three' if copied else 'broker'}: {said}"
    own += f"; set {' and '.join(topic)} of the topic." if topic else "."
    return f"{own} These figures are of one broker: what its copies cost was not measured." if copied else own


def _bytes(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{short(number)} {unit}"
        number /= 1000
    return f"{short(number)} TB"


@dataclass(frozen=True)
class Answer:
    """What is known about a design with a workload. A figure that was not measured is None."""

    design: Design
    unable: tuple[str, ...] = ()
    missing: str = ""
    """Why it was not measured."""
    error: str = ""
    in_time: bool | None = None
    made: bool = True
    """Whether this machine can create the load in time, without any design."""
    late: float | None = None
    samples: int = 0
    latency_ms: Mapping[str, float | None] | None = None
    backlog: int | None = None
    pile: int | None = None
    catch_up_s: float | None = None
    room: float | None = None
    too_much: float | None = None
    capped: bool = False
    more_made: bool = True
    """Whether this machine can create the load that was too much."""
    searched: bool = False
    not_searched: str = ""
    """Why the search for its capacity stopped early."""
    due: int | None = None
    """The expected number of receipts, over all groups."""
    received: int | None = None
    lost: int = 0
    unread: int = 0
    """Messages that still waited when the run ended: it is not known whether they are lost."""
    duplicates: int = 0
    reordered: int | None = None
    refused: int = 0
    cpu: tuple[float | None, float | None] = (None, None)
    """The share of a core of the clients and of the broker."""
    rss_mb: tuple[float | None, float | None] = (None, None)
    broken: str = ""
    not_broken: str = ""
    """Why nothing was broken."""
    break_lost: int | None = None
    break_unread: int = 0
    """Messages that still waited when the run ended, long after the fault."""
    break_duplicates: int | None = None
    break_refused: int | None = None
    gap_s: float | None = None
    break_error: str = ""
    may_lose: bool = False
    """Whether the guarantee allows the fault to lose messages."""
    remarks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name that people use."""
        return self.design.title

    @property
    def measured(self) -> bool:
        """Whether it was measured, with the load as given."""
        return self.in_time is not None

    def misses(self, workload: Workload) -> list[str]:
        """The needs that are not met, each with its figure. A design that was not measured meets none."""
        found = list(self.unable)
        if found:
            return found
        if not self.measured:
            return [self.error or self.missing or "it was not measured"]
        if self.error:
            found.append(self.error)
        if not self.in_time and (self.late or self.backlog or not self.error) and not self._only_lost:
            found.append(self._slow(workload))
        elif self.in_time and (piling := self._piling(workload)):
            found.append(piling)
        if self.unread:
            found.append(f"{self.unread:,} of {self.due or 0:,} receipts were still missing when the run ended")
        if self.lost:
            found.append(f"{self.lost:,} messages were lost")
        if self.reordered:
            found.append(f"{self.reordered:,} messages came out of order")
        if self.break_unread:
            found.append(f"{self.break_unread:,} receipts were still missing long after the {self.broken} broke")
        if self.break_lost and not self.may_lose:
            found.append(f"{self.break_lost:,} messages were lost when the {self.broken} broke")
        if self.break_lost is not None and self.gap_s is None:
            found.append(f"it did not come back after the {self.broken} broke")
        if self.break_error:
            found.append(f"when the {self.broken} broke: {self.break_error}")
        return found

    @property
    def _only_lost(self) -> bool:
        """Whether it was not carried because messages were lost, and for nothing else."""
        slow = (self.late or 0) > LATE or (self.backlog or 0) > (self.lost or 0)
        return bool(self.lost) and not slow and not self.refused

    def _piling(self, workload: Workload) -> str:
        """That more comes than the readers can handle; "" if not."""
        most, rate = workload.handled_at_most(self.design), workload.mean_rate
        said = f"its readers handle at most {short(most)} of {short(rate)} messages a second, so they pile up"
        return said if most < rate else ""

    def _slow(self, workload: Workload) -> str:
        if self.refused:
            return f"{self.refused:,} messages were not accepted"
        if not self.made:
            unknown = "not known: this machine cannot create such a load in time, even without any design"
            return self._piling(workload) or unknown
        if self.late and self.late > LATE:
            said = f"{self.late:.0%} of the messages were later than {workload.p99_ms:g} ms"
            return said if not self.backlog else f"{said}, and {self.backlog:,} waited at the end of the load"
        return f"{self.backlog or 0:,} messages waited at the end of the load: it was too slow"

    @property
    def wait_ms(self) -> float | None:
        """The highest percentile for which there are enough samples, up to p99."""
        known = self.latency_ms or {}
        return next((one for one in (known.get("p99"), known.get("p90"), known.get("p50")) if one is not None), None)

    @property
    def wait(self) -> str:
        """The same in words."""
        known = self.latency_ms or {}
        name = next((name for name in ("p99", "p90", "p50") if known.get(name) is not None), None)
        return f"{name} {ms(known[name])}" if name else "no latency"


def ms(value: float | None) -> str:
    """In milliseconds, or in seconds if it is long."""
    if value is None or math.isnan(value):
        return "–"
    return f"{short(value)} ms" if value < 9_999 else f"{short(value / 1000)} s"


# ------------------------------------------------------------------------------------- from rows


def points(about: Mapping[str, Any]) -> list[Workload]:
    """The workloads of a run, as its run.json keeps them. Raises `BadRun` if it does not, or in another way."""
    asked = about.get("workload") or {}
    try:
        found = [Workload(**one) for one in asked["points"]]
        for one in found:
            one.check()
        [*map(named, asked["designs"]), *map(names().index, asked["dimensions"]), *(about.get("missing") or {}).items()]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadRun("run.json does not say the workload as this version of the kit does: measure it again") from None
    return found


def answers(workload: Workload, point: int, rows: pd.DataFrame, about: Mapping[str, Any]) -> list[Answer]:
    """What is known about each design of the run."""
    asked, missing = about["workload"]["designs"], about.get("missing") or {}
    own = rows[rows["params.point"].eq(point)] if len(rows) else rows
    found = []
    for name in asked:
        design = named(name)
        part = own[own["design"].eq(name)] if len(own) else own
        start = Answer(
            design,
            unable=tuple(unable(workload, design)),
            missing=missing.get(name, "" if len(part) else "the run ended before it was measured"),
            remarks=tuple(remarks(workload, design)),
        )
        found.append(start if start.unable or not len(part) else _measured(workload, start, part))
    return found


def _measured(workload: Workload, start: Answer, rows: pd.DataFrame) -> Answer:
    known: dict[str, Any] = {}
    by_rung = {str(rung): part for rung, part in rows.groupby("params.rung", sort=False)}
    if (part := by_rung.get("asked")) is not None:
        known |= _asked(part)
    if (part := by_rung.get("room")) is not None:
        one, most = part.iloc[-1], workload.handled_at_most(start.design) / workload.mean_rate
        room = _figure(one, "params.room")
        known |= {
            "searched": True,
            "not_searched": error if isinstance(error := one.get("error"), str) else "",
            "room": room and min(room, most),  # a search of before could end above what the readers can do
            "too_much": _figure(one, "params.too_much"),
            "capped": bool(one.get("params.capped")) and (room or 0) < most,
            "more_made": pd.isna(made := one.get("params.made")) or bool(made),
        }
    if (part := by_rung.get("break")) is not None:
        known |= _broken(part[-1:])
    return Answer(start.design, start.unable, start.missing, remarks=start.remarks, **known)


def _asked(part: pd.DataFrame) -> dict[str, Any]:
    errors = [str(one) for one in part["error"].dropna()]
    good = part[part["params.in_time"].notna()] if "params.in_time" in part else part[:0]
    if good.empty:
        return {"error": "; ".join(dict.fromkeys(errors))}
    _has(good, "late", "samples", "backlog", "pile", "due", "groups", "unread", "refused", "unknown")
    elapsed = good["elapsed_s"].astype(float)
    cpu, rss = (
        tuple(_median(good[f"{what}.{side}"] / (elapsed if what == "cpu_s" else 1)) for side in ("client", "broker"))
        for what in ("cpu_s", "rss_mb")
    )
    return {
        "error": "; ".join(dict.fromkeys(errors)),
        "in_time": bool(good["params.in_time"].astype(bool).mean() > 0.5),
        "made": "params.made" not in good or not good["params.made"].eq(False).any(),
        "late": _median(good["params.late"]),
        "samples": int(good["params.samples"].min()),
        "latency_ms": {
            name: _median(good[f"latency_ms.{name}"]) for name in PERCENTILES if f"latency_ms.{name}" in good
        },
        "backlog": int(good["params.backlog"].max()),
        "pile": int(good["params.pile"].max()),
        "catch_up_s": _median(good["params.catch_up_s"]),
        "due": int((good["params.due"] * good["params.groups"]).sum()),
        "received": int(good["received"].sum()),
        "lost": int(good["lost"].fillna(0).sum()),
        "unread": int(good["params.unread"].sum()),
        "duplicates": int(good["duplicates"].sum()),
        "reordered": None if good["reordered"].isna().all() else int(good["reordered"].sum()),
        "refused": int(good["params.refused"].sum() + good["params.unknown"].sum()),
        "cpu": cpu,
        "rss_mb": rss,
    }


def _broken(last: pd.DataFrame) -> dict[str, Any]:
    one = last.iloc[0]
    why, error = one.get("params.not_measured"), one.get("error")
    known = {"broken": str(one["params.broken"]), "not_broken": why if isinstance(why, str) else ""}
    if known["not_broken"]:
        return known
    if isinstance(error, str):
        return {**known, "break_error": error}
    _has(last, "refused", "unknown")
    return {
        **known,
        "break_lost": None if pd.isna(one["lost"]) else int(one["lost"]),
        "break_unread": int(_figure(one, "params.unread") or 0),
        "break_duplicates": int(one["duplicates"]),
        "break_refused": int(one["params.refused"] + one["params.unknown"]),
        "gap_s": _figure(one, "params.gap_s"),
        "may_lose": "lost" in str(one.get("params.allowed")),
    }


def _has(rows: pd.DataFrame, *params: str) -> None:
    """Raises `BadRun` if a row does not have these numbers."""
    for column in ("received", "duplicates", *(f"params.{one}" for one in params)):
        if column not in rows or not is_numeric_dtype(rows[column]) or rows[column].isna().any():
            raise BadRun(f"measurements.jsonl: a row of a workload has no number as {column}: measure it again")


def _median(column: pd.Series[Any]) -> float | None:
    known = column.astype(float).dropna()
    return float(known.median()) if len(known) else None


def _figure(row: pd.Series[Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or pd.isna(value) else float(value)


# -------------------------------------------------------------------------------- the recommendation


@dataclass(frozen=True)
class Advice:
    """Which design to take, if any, and why, in three sentences; and how to connect to a broker of it."""

    take: Answer | None
    sentences: tuple[str, ...]


def advice(workload: Workload, found: Sequence[Answer]) -> Advice:
    """Which design to take."""
    meeting = [one for one in found if not one.misses(workload)]
    if not meeting:
        return Advice(None, tuple(_nobody(workload, found)))
    best, *others = ranked(meeting, workload.p99_ms)
    how_many = "both meet" if len(meeting) == len(found) == 2 else f"{len(meeting)} of the {len(found)} designs meet"
    if others and not told_apart(best, others[0], workload.p99_ms):
        these = "differ in nothing that counts" if len(meeting) == 2 else "these two differ in nothing that counts"
        first = f"Take {best.title} or {others[0].title}: {how_many} every need, and {these}."
    elif others and best.design.in_process and not others[0].design.in_process:
        first = f"Take {best.title}: it meets every need and is a part of the program, with no broker to run."
    elif others:
        first = f"Take {best.title}: {how_many} every need, and {_reason(best, others[0], workload.p99_ms)}."
    elif unknown := _unknown(found):
        first = f"Take {best.title}: it meets every need; {unknown} not measured."
    elif len(found) > 1:
        first = f"Take {best.title}: it alone of the {len(found)} designs meets every need."
    else:
        first = f"Take {best.title}: it meets every need, and no other design was measured."
    said = (first, _figures(workload, best), _otherwise(workload, best, others, found))
    return Advice(best, (*said, *filter(None, [deployment(workload, best.design)])))


def ranked(meeting: Sequence[Answer], limit_ms: float) -> list[Answer]:
    """The best first, by `RULE`."""
    left, order = list(meeting), []
    while left:
        best = left[0]
        for one in left[1:]:
            best = one if _better(one, best, limit_ms) else best
        order.append(best)
        left.remove(best)
    return order


def _better(one: Answer, other: Answer, limit_ms: float) -> bool:
    found = told_apart(one, other, limit_ms)
    return found is not None and found[0]


def told_apart(one: Answer, other: Answer, limit_ms: float) -> tuple[bool, str] | None:
    """Whether `one` is better, and the first criterion in which they differ; None if they differ in none."""
    if one.design.in_process != other.design.in_process:
        return one.design.in_process, "process"
    rooms = [min(side.room or (ENOUGH if not side.searched else 1.0), ENOUGH) for side in (one, other)]
    if max(rooms) / min(rooms) > ROOMIER:
        return rooms[0] > rooms[1], "room"
    if one.gap_s is not None and other.gap_s is not None and abs(one.gap_s - other.gap_s) > ALIKE_S:
        return one.gap_s < other.gap_s, "gap"
    waits = [side.wait_ms or 0.0 for side in (one, other)]
    if min(waits) > 0 and max(waits) > COMFORT * limit_ms and _apart(*waits):
        return waits[0] < waits[1], "wait"
    used = [sum(part or 0 for part in side.cpu) for side in (one, other)]
    if min(used) > 0 and _apart(*used):
        return used[0] < used[1], "cpu"
    return None


def _apart(one: float, other: float) -> bool:
    return max(one, other) / min(one, other) > ALIKE


def _reason(best: Answer, second: Answer, limit_ms: float) -> str:
    _, by = told_apart(best, second, limit_ms) or (True, "")
    if by == "room":
        return f"it can carry {_room(best)} the load, {second.title} {_room(second)}"
    if by == "gap":
        return f"after the fault it was back in {short(best.gap_s)} s, {second.title} in {short(second.gap_s)} s"
    if by == "wait":
        return f"its {best.wait} is shorter: {second.title} has {second.wait}"
    used, more = (sum(part or 0 for part in side.cpu) for side in (best, second))
    return f"it uses {used:.0%} of a core, {second.title} {more:.0%}"


def _room(one: Answer) -> str:
    if one.room is None:
        return "less than 1 times"
    return f"{'at least ' if one.capped else ''}{short(one.room)} times"


def _figures(workload: Workload, best: Answer) -> str:
    said = [f"{best.wait} at {short(workload.mean_rate)} messages a second (the limit is {workload.p99_ms:g} ms)"]
    if best.searched and best.room:
        rate = workload.mean_rate * best.room
        said.append(f"carries {'at least ' if best.capped else 'up to '}{short(rate)} a second in time")
    if best.gap_s is not None:
        said.append(
            f"when the {best.broken} broke, {best.break_lost or 0:,} were lost and {best.break_duplicates or 0:,} came "
            f"twice, after {short(best.gap_s)} s without service"
        )
    else:
        said.append(f"{best.received or 0:,} receipts counted, {best.lost:,} lost, {best.duplicates:,} twice")
    return f"{best.title}: {'; '.join(said)}."


def _otherwise(workload: Workload, best: Answer, others: Sequence[Answer], found: Sequence[Answer]) -> str:
    """The runner-up, and what would change the answer."""
    if others:
        second = others[0]
        changes = [f"if {one}" for one in _changes(workload, best, second)]
        said = " or ".join(changes) or "if you run it already"
        behind = [_behind(workload, best, one) for one in others[1:]]
        place = f"The runner-up is {second.title}" if told_apart(best, second, workload.p99_ms) else second.title
        return f"{place} ({second.wait}): take it {said}.{''.join(behind)}"
    unmet = [f"{one.title}: {'; '.join(one.misses(workload))}" for one in found if one is not best]
    if not unmet:
        return "To compare it with the others, leave out --designs."
    return f"Why not the others: {'. '.join(unmet)}.{_unasked(workload, found)}"


def _behind(workload: Workload, best: Answer, other: Answer) -> str:
    """Why a third design that meets every need is not the one to take; "" if that is said, or only due to the order."""
    better, by = told_apart(best, other, workload.p99_ms) or (True, "")
    if not by:
        return f" {best.title} and {other.title} differ in nothing that counts."
    if not better or by == "process":
        return ""
    return f" {best.title} comes before {other.title} too: {_reason(best, other, workload.p99_ms)}."


def _changes(workload: Workload, best: Answer, second: Answer) -> list[str]:
    one, other, found = best.design, second.design, []
    if best.room and second.room and second.room > best.room * ROOMIER:
        found.append(f"the load grows beyond {short(best.room * workload.mean_rate)} a second")
    if one.in_process and not other.in_process:
        found.append("messages must survive the program, or it is split in two")
    if other.replays and not one.replays:
        found.append("old messages must be read again")
    if other.deals_out and not one.deals_out and workload.work_ms:
        found.append("some messages take much longer than others")
    if other.orders_by_key and not one.orders_by_key and workload.order != "key" and not one.in_process:
        found.append("messages with the same key must stay in order")
    if best.gap_s is not None and second.gap_s is not None and second.gap_s < best.gap_s - ALIKE_S:
        found.append(f"{short(best.gap_s)} s without service are too long")
    return found[:2]


def _unknown(found: Sequence[Answer]) -> str:
    """Which designs could perhaps do it, and were not measured, up to the verb; "" if there is none."""
    titles = [one.title for one in found if one.missing and not one.unable]
    return f"{' and '.join(titles)} {'was' if len(titles) == 1 else 'were'}" if titles else ""


def _nobody(workload: Workload, found: Sequence[Answer]) -> list[str]:
    titles = ", ".join(one.title for one in found)
    if unknown := _unknown(found):
        said = [f"No design is known to meet every need: {unknown} not measured."]
    else:
        said = [f"None of {titles} meets every need." if len(found) > 1 else f"{titles} does not meet every need."]
    why = {one.title: "; ".join(one.misses(workload)) for one in found}
    alike = len(found) > 1 and len(set(why.values())) == 1
    said.append(
        f"All of them: {why[found[0].title]}." if alike else " ".join(f"{name}: {what}." for name, what in why.items())
    )
    near = [one for one in found if one.measured and not one.unable and one.made and not one.error]
    if near and any(one.room for one in near):
        best = max(near, key=lambda one: one.room or 0)
        rate = short((best.room or 0) * workload.mean_rate)
        said.append(f"The nearest is {best.title}: it carries {rate} messages a second in time.")
    elif near:
        best = min(near, key=lambda one: one.late or 0)
        helps = workload.work_ms and (best.design.deals_out or best.design.partitioned)
        helps = helps and not unable(_grown(workload), best.design)
        ways = [f"have {more_members(workload, best.design) or 'more members'}"] if helps else []
        if workload.handled_at_most(best.design) >= workload.mean_rate:  # else they pile up, whatever is allowed
            ways.insert(0, f"allow more than {workload.p99_ms:g} ms")
        said.append(f"The nearest is {best.title}: {', or '.join(ways) or 'let fewer come, or handle them faster'}.")
    elif unknown:
        pass
    elif alike:
        said.append("Give up one need, or change the workload: nothing was measured.")
    else:
        fewest = min(found, key=lambda one: len(one.misses(workload)))
        said.append(f"The nearest is {fewest.title}, which fails {len(fewest.misses(workload))} of the needs.")
    said[-1] += _unasked(workload, found)
    return said


def _unasked(workload: Workload, found: Sequence[Answer]) -> str:
    """Which other designs can do it, and were not measured."""
    rest = [one for one in DESIGNS if one not in [one.design for one in found]]
    keeping_up = [one for one in rest if handled(workload, one) > workload.mean_rate or more_members(workload, one)]
    able = [one for one in keeping_up if not unable(workload, one)]
    if not able:
        return ""
    asked = ",".join(one.name for one in [*(one.design for one in found if not one.unable), *able])
    has, was = ("has", "was") if len(able) == 1 else ("have", "were")
    can = f"{' and '.join(one.title for one in able)} {has} what it needs too"
    return f" {can}, but {was} not measured: add `--designs {asked}`."


def failed(workload: Workload, found: Sequence[Answer]) -> bool:
    """Whether no design meets the workload."""
    return all(one.misses(workload) for one in found)
