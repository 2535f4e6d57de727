"""The command line of the bench: `python -m bench`."""

from __future__ import annotations

import argparse
import asyncio
import codecs
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import greet
from bench import contenders, questions, results, workload
from bench.judge import compare
from bench.measure import doctor, runner, workers
from bench.measure.loops import said
from bench.measure.pool import processes
from bench.measure.surroundings import surroundings
from bench.model import DESIGNS, LOOP, ROUNDS, USUAL, Cell, Contender, Settings
from bench.schema import MOST
from bench.show import page, plots, progress, report
from greet import GreetError, Guarantee
from greet.brokers import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10
"""The number of figures of a comparison that are printed without --all."""
HERE = ("start_up", "takeover", "connections", "scaling", "faults")
"""Questions that are always measured on this machine, even with --workers."""
PLAIN = {"•": "*", "–": "-", "×": "x", "µ": "u", "≥": ">", "…": "...", "→": "->", "✓": "x", "✗": "!"}
WELL, WRONG, USE, MISSING, INTERRUPTED = 0, 1, 2, 3, 130

RECIPES = """\
URLs of managed clusters, for GREET_KAFKA_URL and GREET_RABBITMQ_URL:
  Confluent Cloud     kafka+ssl://KEY:SECRET@HOST:9092?replication=3
  Amazon MSK, SCRAM   kafka+ssl://USER:PASSWORD@HOST:9096,HOST:9096
                      ?sasl=SCRAM-SHA-512&replication=3
  Amazon MSK, IAM     kafka+ssl://HOST:9098,HOST:9098
                      ?token_file=FILE&replication=3
                      FILE holds a token of aws-msk-iam-sasl-signer-python;
                      write it again every 10 minutes
  Strimzi, SCRAM      kafka+ssl://USER:PASSWORD@HOST:9093
                      ?sasl=SCRAM-SHA-512&replication=3&ca=ca.crt
  Strimzi, TLS        kafka+ssl://HOST:9093
                      ?replication=3&ca=ca.crt&cert=user.crt&key=user.key
  Amazon MQ           amqps://USER:PASSWORD@HOST:5671/?queue_type=quorum
  CloudAMQP           amqps://USER:PASSWORD@HOST/VHOST?queue_type=quorum
  RabbitMQ operator   amqps://USER:PASSWORD@HOST:5671/
                      ?queue_type=quorum&ca=ca.crt
Write each URL on one line. In a user or password write @ / ? # % as
%40 %2F %3F %23 %25. Export the URL and leave it out here: other users of this
machine can see arguments. Each form was tried on a private broker that demands
the same mechanism, and not on the service itself.

status with a URL: 0 no faults; 1 something would disturb the figures;
  2 wrong use; 3 the broker is not available
status without a URL: 0, even if there are faults
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, 1 something measured is wrong, 2 wrong use, 3 a broker is missing."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="plain")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    return _flushed(_status(words))


def _status(words: list[str]) -> int:
    try:
        if words[0] == "workload":  # its flags are its keys: it says itself what is none
            return workload.main(words[1:], _complain)
        options = _parser().parse_args(words)
        return int(options.command(options))
    except ValueError as error:
        return _complain(str(error), USE)
    except OSError as error:
        return _complain(_told_of(error), USE)
    except GreetError as error:
        return _complain(_told_of(error), WRONG)
    except KeyboardInterrupt:
        return INTERRUPTED


def _flushed(status: int) -> int:
    """The status. Output that cannot be written is dropped, or Python would complain of it when it exits."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status or _complain(_told_of(error), WRONG)
    return status


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What is printed where standard output is not UTF-8 and has no such character."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(one, "?") for one in error.object[error.start : error.end]), error.end


def _complain(text: str, status: int) -> int:
    """Print one line of printable characters to standard error; return the status."""
    print(f"bench: {text if text.isprintable() else ascii(text)[1:-1]}", file=sys.stderr)
    return status


def _told_of(error: BaseException) -> str:
    """An error in one line: for a file its name and the problem; for a group its first error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return said(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m bench", description="Measure the designs side by side: run is the default."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _run_parser(commands)
    commands.add_parser("workload", help="your own workload: which designs can do it in time, and what is left")
    report_ = commands.add_parser("report", help="show a run again, or several as one: as text, Markdown or HTML")
    report_.add_argument(
        "runs", nargs="*", help="folders; the newest of results/ if left out", type=Path, metavar="RUN"
    )
    form = report_.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown, as in RESULTS.md")
    form.add_argument("--html", action="store_true", help="print a page with pictures that needs no other file")
    form.add_argument("--pictures", type=Path, metavar="FOLDER", help="write the pictures, one file for each question")
    report_.add_argument(
        "--into", type=Path, metavar="FILE", help="with --markdown: write it into FILE, between its marks"
    )
    report_.set_defaults(command=_report)
    compare_ = commands.add_parser(
        "compare",
        help="compare runs: is the second one faster, slower, or is there no difference",
        description="Compare two runs cell by cell, each ratio with its interval. With more than two, compare each "
        "with the one before it. Of many figures some differ by chance, so the intervals are widened (Bonferroni, over "
        "all figures of the comparison) until in 95 % of all comparisons all of them hold.",
        epilog="status: 0 nothing got worse; 1 something got worse beyond the noise, is missing in one run, or failed; "
        "2 nothing to compare, or a damaged file",
    )
    compare_.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="two folders or more, the oldest first")
    compare_.add_argument("--all", action="store_true", help=f"show all figures, not only the {SHOWN} largest changes")
    compare_.set_defaults(command=_compare)
    doctor_ = commands.add_parser(
        "doctor",
        help="check what is available, what a broker is like, what would disturb the figures, and how to fix it",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Check this machine, its clients and its brokers. With a URL, check only that\n"
        "broker: this uses a topic of its own, which is deleted at the end.",
        epilog=RECIPES,
    )
    doctor_.add_argument(
        "url", nargs="?", metavar="URL", help="the broker; without it, those in GREET_*_URL are checked"
    )
    doctor_.set_defaults(command=_doctor)
    list_ = commands.add_parser("list", help="list the questions and the contenders")
    list_.set_defaults(command=_list)
    return parser


def _run_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="measure, print the answers and keep them (the default)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Send messages through the designs, count each of them, and measure the time.",
        epilog="examples:\n"
        "  python -m bench                                   the main questions, three designs, 3 minutes\n"
        "  python -m bench run --designs kafka --questions latency\n"
        "  python -m bench run --profile full --contenders all\n"
        "  python -m bench run --profile full --questions faults     kills brokers and clients, half an hour\n"
        "  python -m bench run --json | jq .messages_per_s\n"
        "  python -m bench run --workers dask:tcp://10.0.0.1:8786    load from other machines, needs GREET_*_URL\n"
        "status: 0 success, 1 a message was lost, a repetition failed or the run had to stop, 2 wrong use,\n"
        "        3 a requested broker or worker is not available, 130 interrupted",
    )
    parser.add_argument(
        "--designs",
        type=_words(DESIGNS),
        help=f"some of {','.join(DESIGNS)} ({','.join(USUAL)}; with --questions or --profile full, questions about "
        "speed are asked of all that are available)",
    )
    parser.add_argument("--questions", type=_words(questions.NAMES), help="some of the questions that `list` shows")
    parser.add_argument(
        "--profile",
        choices=("quick", "full"),
        default="quick",
        help="short or long; without --questions, the main questions in 3 minutes, or all except faults",
    )
    parser.add_argument(
        "--contenders",
        choices=("greet", "all"),
        help="with or without the peers (all; greet for single questions of the quick profile)",
    )
    parser.add_argument(
        "--guarantee", type=_guarantee, help="at_most_once, at_least_once or durable (as the question needs)"
    )
    parser.add_argument(
        "--seconds", type=_positive(float), help="length of a repetition (full 1, quick 0.5, main questions 0.4)"
    )
    parser.add_argument("--rounds", type=_positive(int), help="repetitions (5; main and slow questions fewer)")
    parser.add_argument("--seed", type=_seed, default=0, help="seed for the order within the rounds (0)")
    parser.add_argument("--loop", choices=(LOOP, "uvloop"), default=LOOP, help=f"event loop of the workers ({LOOP})")
    parser.add_argument(
        "--workers",
        type=_workers,
        metavar="dask:ADDRESS",
        help="let a Dask cluster publish and consume: its scheduler as tcp://HOST:PORT, its scheduler file, or nothing "
        "for DASK_SCHEDULER_ADDRESS; start its workers with --resources seat=4 (this machine)",
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="where runs are kept (results)")
    parser.add_argument("--json", action="store_true", help="print only one JSON object a line for each repetition")
    parser.set_defaults(command=_run)


def _words(known: Sequence[str]) -> Any:
    def words(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(text.split(",")))
        if unknown := [word for word in found if word not in known]:
            raise argparse.ArgumentTypeError(f"there is no {unknown[0]!a}: choose from {', '.join(known)}")
        return found

    return words


def _workers(text: str) -> str:
    kind, colon, where = text.partition(":")
    if kind != "dask" or not colon:
        raise argparse.ArgumentTypeError(
            f"there are no workers {text!a}: give dask:tcp://HOST:8786, dask:FILE of its scheduler, or dask: alone"
        )
    return where


def _positive(kind: Any) -> Any:
    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < 1e6:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!a} is not {what} above 0 and below 1,000,000")
        return value

    return number


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = round(MOST)
    if not -MOST < value < MOST:
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number of at most 15 digits")
    return value


def _guarantee(text: str) -> Guarantee:
    try:
        return Guarantee[text.upper().replace("-", "_")]
    except KeyError:
        raise argparse.ArgumentTypeError(
            f"there is no {text!a}: choose from {', '.join(g.name for g in Guarantee).lower()}"
        ) from None


def _run(options: argparse.Namespace) -> int:
    if options.workers is None:
        return _measured(options, None)
    try:
        with workers.dask(options.workers) as cluster:
            return _measured(options, cluster)
    except workers.NoWorkers as error:
        return _complain(str(error), MISSING)


def _measured(options: argparse.Namespace, cluster: workers.Cluster | None) -> int:
    full = options.profile == "full"
    first = not full and not options.questions
    chosen = options.contenders or ("all" if full or first else "greet")
    able = [one for one in contenders.every() if chosen == "all" or one.name == "greet"]
    tools = [one for one in able if cluster and type(one).measure is not Contender.measure]
    settings = Settings(
        designs=options.designs or (USUAL if first else DESIGNS),
        contenders=tuple(one for one in able if one not in tools),
        profile=options.profile,
        guarantee=options.guarantee,
        seconds=options.seconds or (1.0 if full else 0.4 if first else 0.5),
        rounds=options.rounds or (4 if first else ROUNDS),
        loop=options.loop,
        seed=options.seed,
    )
    asked = options.questions or (questions.FULL if full else questions.FIRST)
    aside = [name for name in asked if cluster and name in HERE]
    if cluster:
        _check_reach(cluster, settings.designs)
        if options.questions and aside:
            raise ValueError(f"{aside[0]} runs only on this machine: measure it without --workers")
        asked = [name for name in asked if name not in aside]
    lacking = {name: why for name in asked if (why := questions.lacking(name, settings))}
    asked = [name for name in asked if name not in lacking]
    work = {name: partial(_cells, name, options.designs, first=first) for name in asked}
    if not any(cells(settings) for cells in work.values()):
        why = f"{', '.join(settings.designs)} does not offer that guarantee, or only a peer has such a question"
        why += ": try --contenders all" if chosen != "all" else ""
        raise ValueError(f"nothing to measure: {'; '.join(f'{name}: {why}' for name, why in lacking.items()) or why}")
    required = options.designs or (settings.designs if os.environ.get("GREET_REQUIRE") == "all" else ())
    facts = {"settings": runner.told(settings), "questions": list(asked), "brokers": {}, "elapsed_s": {}}
    facts |= {"workers": cluster.told} if cluster else {}
    writer = results.Writer(options.out, {**surroundings(), **facts})
    watch = progress.Watch(json_lines=options.json)
    try:
        with watch.shown():
            outcome = runner.measured(settings, work, writer, watch, cluster.executor if cluster else processes)
        status = _ended(outcome, writer, show=not options.json)
    except runner.TROUBLE as error:  # an error of the output, after the measurement
        return _complain(f"{_told_of(error)}: what was measured is kept in {writer.folder}", WRONG)
    left = dict.fromkeys([*(one.name for one in tools), *aside], "it runs only on this machine") | lacking
    for who, what in {**outcome.missing, **left, **(contenders.missing() if chosen == "all" else {})}.items():
        watch.say(f"{who} is left out: {what}")
    if outcome.complete and any(design in required for design in outcome.missing):
        return MISSING
    return status


def _check_reach(cluster: workers.Cluster, designs: Sequence[str]) -> None:
    """See whether workers on other machines can reach the brokers, which none on loopback lets them.

    Raises:
        ValueError: they cannot.
    """
    for variable in dict.fromkeys(VARIABLES[one] for one in designs if one in VARIABLES):
        url = os.environ.get(variable)
        if cluster.elsewhere and (not url or _on_loopback(url)):
            raise ValueError(
                f"a worker at {cluster.elsewhere[0]} cannot reach a broker on the loopback of this machine: "
                f"set {variable} to a broker that it reaches, or choose other --designs"
            )


def _on_loopback(url: str) -> bool:
    with suppress(GreetError):  # an error is raised when it is used
        return any(workers.on_loopback(host) for host, _ in greet.connect(url).address.hosts)
    return False


def _cells(name: str, chosen: Sequence[str] | None, settings: Settings, *, first: bool) -> list[Cell]:
    """The cells of a question. If no designs were chosen, it may be only for the usual ones."""
    if not chosen and name not in questions.WIDE:
        settings = replace(settings, designs=tuple(one for one in settings.designs if one in USUAL))
    question = questions.question(name)
    return list((question.first if first else question.cells)(settings))


def _ended(outcome: runner.Outcome, writer: results.Writer, *, show: bool) -> int:
    """Print the results, and how the run ended."""
    status, why = (WRONG if outcome.wrong else WELL), ""
    if outcome.interrupted:
        status, why = INTERRUPTED, ": interrupted, so INCOMPLETE"
    elif outcome.trouble:
        status, why = WRONG, ": stopped by an error, so INCOMPLETE"
        _complain(f"{_told_of(outcome.trouble)}: stopped, and the run is INCOMPLETE", WRONG)
    if show:
        report.terminal(_paper(), results.load(writer.folder, details=True), results.about(writer.folder))
        print(f"kept in {writer.folder}{why}")
    return status


def _paper() -> Console:
    """Standard output. A pipe or file gets lines of a fixed width."""
    return Console() if sys.stdout and sys.stdout.isatty() else Console(width=report.WIDTH)


def _report(options: argparse.Namespace) -> int:
    folders = options.runs or list(filter(None, [results.newest(Path("results"))]))
    if not folders:
        raise ValueError("there is no run in results: start one with `python -m bench`")
    if options.into and not options.markdown:
        raise ValueError("--into needs --markdown")
    rows, abouts = results.load(*folders, details=True), [results.about(folder) for folder in folders]
    if options.into:
        text = options.into.read_text(encoding="utf-8")
        options.into.write_text(report.placed(report.markdown(rows, *abouts), text), encoding="utf-8")
    elif options.markdown:
        print(report.markdown(rows, *abouts), end="")
    elif options.html:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as the page says of itself
        print(page.page(rows, *abouts), end="")
    elif options.pictures:
        _draw(rows, options.pictures)
    else:
        report.terminal(_paper(), rows, *abouts)
    return WELL


def _draw(rows: pd.DataFrame, folder: Path) -> None:
    """A file for each question, with the ids of its runs, and one file with the main figures of all."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: rows[rows["question"] == name] for name in report.measured(rows)}
    figures = {name: plots.draw(questions.question(name).picture(part)) for name, part in parts.items()}
    if parts.keys() >= plots.GLANCE:
        figures["glance"] = plots.glance(rows)
        parts["glance"] = rows[rows["question"].isin(plots.GLANCE)]
    for name, figure in figures.items():
        path = folder / f"{name}.svg"
        path.write_bytes(plots.svg(figure, ", ".join(parts[name]["run"].unique())))
        print(path)


def _compare(options: argparse.Namespace) -> int:
    if len(options.runs) < 2:
        raise ValueError("one run cannot be compared: name the folders of two or more")
    statuses = []
    for before, after in pairwise(options.runs):
        if len(options.runs) > 2:
            print(f"{before.name} → {after.name}")
        statuses.append(_compared(before, after, everything=options.all))
    return max(statuses)


def _compared(before: Path, after: Path, *, everything: bool) -> int:
    for line in compare.differences(results.about(before), results.about(after)):
        print(f"bench: warning: {line}", file=sys.stderr)
    runs = [results.load(before), results.load(after)]
    found, gaps = compare.compare(*runs), compare.gaps(*runs)
    if not any(map(len, runs)):
        raise ValueError("nothing was measured in either of the two runs")
    if found:
        table = compare.table(found)
        _paper().print(report.rich_table(table if everything else table.head(SHOWN)))
        if len(table) > SHOWN and not everything:
            print(f"{len(table) - SHOWN} more figures changed less: --all shows them.")
    for gap in gaps:
        print(f"- {gap}")
    worse = sum(one.regression for one in found)
    if left := compare.left_out(*runs):
        print(left)
    print(
        f"The intervals are so wide that in 95 % of all comparisons all {len(found)} of them hold (Bonferroni).",
        compare.could_have_seen(found),
        f"{worse or 'None'} of {len(found)} figures got worse beyond the noise.",
        f"{len(gaps) or 'None'} of the cells {'is' if len(gaps) == 1 else 'are'} missing or failed.",
        sep="\n",
    )
    return WRONG if worse or gaps else WELL


def _doctor(options: argparse.Namespace) -> int:
    console, faults = _paper(), 0

    async def look() -> None:
        nonlocal faults
        async for finding in doctor.examine() if options.url is None else doctor.examine_broker(options.url):
            faults += bool(finding.fix)
            _tell(console, finding.what, finding.found, "")
            if finding.fix:
                _tell(console, "", finding.fix, "✗ ")

    try:
        asyncio.run(look())
    except GreetError as error:
        return _complain(str(error), USE if isinstance(error, ValueError) else MISSING)
    console.print(f"{faults or 'no'} fault{'' if faults == 1 else 's'}", highlight=False)
    return WRONG if options.url and faults else WELL


def _tell(console: Console, what: str, found: str, mark: str) -> None:
    """A line, or more of them where it is long, set in from the left."""
    first = f"{what:<18}{mark}"
    for line in textwrap.wrap(found, console.width - 1, initial_indent=first, subsequent_indent=" " * len(first)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _list(_: argparse.Namespace) -> int:
    console = _paper()
    for name in questions.NAMES:
        kind = "quick" if name in questions.FIRST else "" if name in questions.FULL else "alone"
        console.print(f"{name:<14}{kind:<6}{questions.asked(name)}")
    width = max(map(len, DESIGNS)) + 2
    for one in contenders.every():
        console.print(f"{one.design:<{width}}{one.label:<20}{one.defaults}")
    for name, command in contenders.missing().items():
        console.print(f"{name}: left out, {command}", markup=False, highlight=False, soft_wrap=True)
    return WELL


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
