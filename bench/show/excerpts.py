"""What the notebooks look up in the rows of a run: small tables with plain names, medians over the rounds."""

from __future__ import annotations

import pandas as pd

from bench import pictures, stats, tables
from bench.model import BARE, DESIGNS, rank, title_of
from bench.questions import ladder
from bench.show.plots import WAYS

LISTS, ALONE = WAYS["many"], WAYS["name"]
KEEPS = ["AT_MOST_ONCE", "AT_LEAST_ONCE", "DURABLE"]


def speeds(**runs: pd.DataFrame) -> pd.DataFrame:
    """Messages a second of greet at AT_LEAST_ONCE, which all designs have: a column for each run."""
    found = {}
    for name, rows in runs.items():
        own = _of(rows, "throughput", contender="greet", guarantee="AT_LEAST_ONCE")
        found[name] = own.groupby(["design", "way"])["messages_per_s"].median()
    return _ranked(pd.DataFrame(found))


def of_greet(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of greet alone, without its peers."""
    return rows[rows["contender"] == "greet"]


def strongest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all clients at DURABLE, publisher and consumer together."""
    return rows[rows["guarantee"].eq("DURABLE") & rows["params.phase"].eq("together")]


def one_by_one(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second one by one at DURABLE, of each client of a broker, and how many times as many greet carries."""
    own = _of(strongest(rows), "throughput")
    speed = own[own["way"].eq(ALONE)].groupby(["design", "contender"])["messages_per_s"].median()
    greets = speed.xs("greet", level="contender")
    found = pd.DataFrame({"messages a second": speed})
    found["greet, times as many"] = greets.reindex(speed.index, level="design") / speed
    return _ranked(found[speed.groupby(level="design").transform("size").gt(1)])


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Microseconds of CPU for a message at DURABLE: of all clients together, and of the broker, where it is known."""
    own = _of(strongest(rows), "throughput")
    own = own[~tables.starts_anew(own)]
    sums = own.groupby(["design", "contender", "way"])[["cpu_s.client", "cpu_s.broker", "accepted"]].sum()
    found = 1e6 * sums[["cpu_s.client", "cpu_s.broker"]].div(sums["accepted"], axis=0)
    found.columns = pd.Index(["clients", "broker"])
    return _ranked(found[found["broker"].gt(0)])


def kept(rows: pd.DataFrame) -> pd.DataFrame:
    """Which share of the speed of AT_MOST_ONCE each guarantee leaves; of RabbitMQ over its usual queue."""
    own = _of(rows, "durability", contender="greet")
    usual = own[own["params.queue_type"].isna()] if "params.queue_type" in own else own
    usual = usual.assign(value=usual["messages_per_s"])
    share = usual.assign(share=pictures.relative(usual, usual[usual["guarantee"].eq(KEEPS[0])], "design"))
    found = share.pivot_table("share", "guarantee", "design", "median")
    return found[_order(found)].loc[KEEPS]


def rungs(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each design the first, the slowest and the fastest step of the ladder, and how many times the first it is."""
    own = _of(rows, "ladder")
    own = own.assign(value=own["messages_per_s"])
    lines = {}
    for name in filter(lambda one: own["design"].eq(title_of(one)).any(), DESIGNS):
        design, first = title_of(name), ladder.first(name).said
        steps = own[own["design"].eq(design)]
        times = pictures.relative(steps, steps[steps["params.rung"].eq(first)], "design")
        middle = times.groupby(steps["params.rung"]).median().drop(BARE, errors="ignore")
        lines[design] = {"first": first, "slowest": middle.idxmin(), "fastest": middle.idxmax(), "times": middle.max()}
    return pd.DataFrame(lines).T


def uvloop_gain(rows: pd.DataFrame) -> float:
    """How many times the fastest other step of a design uvloop carries, at most."""
    own = _of(rows, "ladder")
    middle = own.groupby(["design", "params.rung"])["messages_per_s"].median().unstack("design")
    faster = middle.index.str.startswith("uvloop")
    return float((middle[faster].max() / middle[~faster].max()).max())


def greetings(rows: pd.DataFrame) -> pd.DataFrame:
    """Greetings a second over the number of groups: each group greets every message."""
    own = _of(rows, "fan_out", contender="greet")
    own = own.assign(greetings=own["messages_per_s"] * own["params.groups"])
    found = own.pivot_table("greetings", "params.groups", "design", "median")
    return found[_order(found)].rename_axis(index="groups")


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """How many times what one member and one publisher carry more of them do."""
    own = _of(rows, "work_sharing", contender="greet")
    found = own.pivot_table("messages_per_s", ["params.members", "params.publishers"], "design", "median")
    return found.div(found.iloc[0])[_order(found)].rename_axis(index=["members", "publishers"])


def megabytes(rows: pd.DataFrame) -> pd.DataFrame:
    """Megabytes a second over the bytes of a message."""
    own = _of(rows, "payload", contender="greet")
    own = own[own["params.phase"].eq("together") & own["params.way"].eq("many")]
    own = own.assign(mb=own["messages_per_s"] * own["params.size"] / 1e6)
    found = own.pivot_table("mb", "params.size", "design", "median")
    return found[_order(found)].rename_axis(index="bytes")


def tweaks(rows: pd.DataFrame) -> pd.DataFrame:
    """Messages a second of the plain clients, bare and with what is added to a message."""
    own = _of(rows, "tweaking")
    found = own.pivot_table("messages_per_s", "params.rung", "design", "median")
    return found[_order(found)].rename_axis(index="with")


def beside_a_sleeper(rows: pd.DataFrame) -> dict[str, float]:
    """Which share of a design's speed is left beside a group that does not read."""
    own = rows[rows["params.rung"].isin(["alone", "beside a sleeper"]) & stats.is_sound(rows)]
    speed = own.pivot_table("messages_per_s", "params.rung", "design", "median")
    left = speed.loc["beside a sleeper"] / speed.loc["alone"]
    return {title_of(str(design)): float(left[design]) for design in sorted(left.index, key=rank)}


def lightly(rows: pd.DataFrame) -> pd.Series[float]:
    """p50 in ms at 100 messages a second, from when a message was due."""
    own = rows[rows["question"].eq("wake_up") & rows["contender"].eq("greet") & stats.is_sound(rows)]
    own = own[own["guarantee"].eq("AT_LEAST_ONCE") & own["params.rate"].eq(100) & own["params.again"].ne(True)]
    return own.groupby("design")["latency_ms.p50"].median()


def usual_round(rows: pd.DataFrame, load: float) -> pd.DataFrame:
    """Of each design the round with the median p99, at a share of its most, for `plots.distribution`."""
    chosen = rows["question"].eq("latency") & rows["contender"].eq("greet") & stats.is_sound(rows)
    own = rows[chosen & rows["params.load"].eq(load)]
    p99 = own.groupby("design")["latency_ms.p99"]
    return own[p99.rank(method="first").eq((p99.transform("count") + 1) // 2)]


def worst(rows: pd.DataFrame, load: float) -> pd.DataFrame:
    """p50, p99 and the longest in ms, at a share of each design's most; and how many times p50 the longest is."""
    own = _of(rows, "latency", contender="greet")
    points = {f"latency_ms.{point}": f"{point} ms" for point in ("p50", "p99", "max")}
    found = own[own["params.load"].eq(load)].groupby("design")[[*points]].median().rename(columns=points)
    found["max / p50"] = found["max ms"] / found["p50 ms"]
    return found.loc[_order(found.T)]


def woken(rows: pd.DataFrame) -> pd.DataFrame:
    """p50 in ms from when a message was sent, at 1 and at 100 a second."""
    own = _of(rows, "wake_up", contender="greet", guarantee="AT_LEAST_ONCE")
    found = own.assign(ms=stats.clock(own, "service")).pivot_table("ms", "design", "params.rate", "median")
    found.columns = pd.Index([f"{rate:g} a second" for rate in found.columns])
    return found.loc[_order(found.T)]


def faults(rows: pd.DataFrame) -> pd.DataFrame:
    """The tries of all faults over greet at DURABLE: how many, what was lost, and what greet did not promise."""
    tried = rows["question"].eq("faults") & rows["contender"].eq("greet") & rows["guarantee"].eq("DURABLE")
    own = rows[tried].groupby(rows["design"].map(title_of))
    found = pd.DataFrame({"lost": own["lost"].sum().astype(int), "broken promises": own["error"].count()})
    return found.loc[_order(found.T)]


def _of(rows: pd.DataFrame, question: str, **keys: str) -> pd.DataFrame:
    """The sound rows of a question, but those that were measured again; designs and ways have their plain names."""
    chosen = rows["question"].eq(question) & rows["params.again"].ne(True) & stats.is_sound(rows)
    for key, value in keys.items():
        chosen &= rows[key].eq(value)
    own = rows[chosen]
    return own.assign(design=own["design"].map(title_of), way=own["params.way"].map(WAYS))


def _order(table: pd.DataFrame) -> list[str]:
    """The columns of a table, in the order of the designs."""
    return sorted(table.columns, key=_place)


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table, in the order of the designs."""
    return table.loc[sorted(table.index, key=lambda keys: (_place(keys[0]), keys[1:]))]


def _place(title: str) -> int:
    titles = [title_of(name) for name in DESIGNS]
    return titles.index(title) if title in titles else len(titles)
