"""The command line of the bench, as a user types it: its statuses, its messages, and what it keeps."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import bench
from bench import results, tables
from bench.__main__ import main
from bench.judge import compare
from bench.measure.runner import told
from bench.measure.surroundings import surroundings
from bench.model import Measurement, Settings
from bench.results import MEASUREMENTS, RUN, Writer
from bench.show import report
from greet import Guarantee
from greet.brokers import VARIABLES

ROOT = Path(__file__).parents[2]
SHORT = ("--designs", "asyncio", "--questions", "throughput", "--seconds", "0.02", "--rounds", "2")
FIELDS = (
    *("run", "question", "design", "contender", "guarantee", "params", "repetition", "sent", "accepted", "received"),
    *("lost", "duplicates", "reordered", "elapsed_s", "messages_per_s", "latency_ms", "target_rate", "cpu_s", "rss_mb"),
    *("survives", "error"),
)

pytestmark = pytest.mark.timeout(180)


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "bench", *map(str, words)]


def call(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the real command."""
    out = tmp_path_factory.mktemp("results")
    ended = call("run", *SHORT, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert "every message arrived, once and in order" in ended.stdout
    assert ended.stderr == "", "progress is for a terminal only"
    (folder,) = out.iterdir()
    assert f"kept in {folder}" in ended.stdout
    return folder


def test_a_row_has_the_fields_of_the_contract(done: Path) -> None:
    rows = [json.loads(line) for line in (done / MEASUREMENTS).read_text().splitlines()]
    assert len(rows) == 2 * 3, "two ways, and one of them twice for A/A"
    for row in rows:
        assert tuple(row) == FIELDS
        assert row["sent"] == row["accepted"] == row["received"] > 0
        assert row["latency_ms"] is None
        assert row["target_rate"] is None
        assert row["cpu_s"]["client"] > 0
        assert row["cpu_s"]["broker"] is None, "asyncio has none: null, not zero"
        assert row["survives"] == Guarantee.AT_LEAST_ONCE.value


def test_run_json_tells_where_and_how_and_no_more(done: Path) -> None:
    about = bench.about(done)
    assert about["complete"] is True
    assert about["clock_shared"] is True
    assert about["machine"]["usable"] >= 1
    assert about["settings"]["rounds"] == 2
    assert set(about["elapsed_s"]) == {"throughput"}
    text = (done / RUN).read_text() + (done / MEASUREMENTS).read_text()
    for secret in (os.uname().nodename, str(Path.home()), str(ROOT), str(done)):
        assert len(secret) < 3 or secret not in text


def test_load_gives_a_data_frame(done: Path) -> None:
    frame = bench.load(done)
    assert len(frame) == 6
    assert {"messages_per_s", "cpu_s.client", "params.way"} <= set(frame)
    assert bench.load(done / MEASUREMENTS).equals(frame)
    assert "progress_s" in bench.load(done, details=True)


def test_json_prints_the_rows_and_nothing_else(tmp_path: Path) -> None:
    ended = call("run", *SHORT, "--json", "--out", tmp_path)
    (folder,) = tmp_path.iterdir()
    assert ended.stdout == (folder / MEASUREMENTS).read_text()


def test_report_in_four_forms(done: Path, tmp_path: Path) -> None:
    assert "How many messages a second" in call("report", done).stdout
    block = call("report", done, "--markdown").stdout
    assert block.startswith("### The claims and their verdicts\n\n| of | claim | verdict | evidence |")
    assert "\n### How many messages a second" in block
    assert "### greet beside its peers" not in block, "no peer was measured"
    assert block == report.markdown(bench.load(done, details=True), bench.about(done))
    page = call("report", done, "--html").stdout
    assert page.count("<svg ") == 1
    assert page.count("<title>asyncio, greet: ") == 2, "its two ways"
    assert "://" not in page, "it stands alone"
    answer, contents = page.index("Which one to take"), page.index('href="#throughput"')
    assert answer < page.index("What decides it") < contents < page.index('id="throughput"')
    (picture,) = call("report", done, "--pictures", tmp_path / "new").stdout.splitlines()
    assert picture.endswith("throughput.svg")
    assert done.name in Path(picture).read_text(encoding="utf-8")


def test_list_names_every_question_and_contender() -> None:
    text = call("list").stdout
    for word in ("throughput", "latency", "ladder", "start_up", "bare queue", "aio-pika", "confluent-kafka"):
        assert word in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--designs", "pigeon"], "there is no 'pigeon': choose from asyncio, rabbitmq, kafka"),
        (["run", "--questions", "why"], "there is no 'why'"),
        (["run", "--seconds", "0"], "'0' is not a number above 0"),
        (["run", "--seconds", "nan"], "'nan' is not a number above 0"),
        (["run", "--guarantee", "eternal"], "there is no 'eternal'"),
        (["run", "--seed", "1000000000000000"], "'1000000000000000' is not a whole number of at most 15 digits"),
        (["run", "--designs", "asyncio", "--guarantee", "durable", "--questions", "throughput"], "nothing to measure"),
        (["run", *SHORT, "--out", "/proc/results"], "/proc/results"),
        (["run", *SHORT, "--out", "/dev/null"], "/dev/null"),
        (["report", "/nowhere"], "/nowhere"),
        (["compare", "/nowhere", "/nowhere"], "/nowhere"),
        (["compare", "/nowhere"], "one run cannot be compared"),
        (["report", "\x1b[31m\u202e"], "No such file"),
        (["fly"], "invalid choice"),
        (["doctor", "asyncio:"], "asyncio has no broker to look at: give a URL of RabbitMQ or Kafka"),
        (["doctor", ""], "no design has the scheme ''"),
        (["doctor", "http://h"], "no design has the scheme 'http'"),
        (["doctor", "kafka://127.0.0.1:1?x=y"], "unknown key 'x' in the URL"),
        (["doctor", "amqp://u:Pa55@h/"], "would cross the network unencrypted"),
    ],
)
def test_wrong_use_is_one_line_and_two(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main(words)
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    assert status == 2
    assert said in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err
    assert "\x1b" not in printed.err
    assert printed.out == ""


def test_wrong_use_of_the_real_command() -> None:
    ended = call("doctor", "asyncio:")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "bench: asyncio has no broker to look at: give a URL of RabbitMQ or Kafka\n"


@pytest.mark.parametrize("words", [[], ["run"], ["compare"], ["report"], ["doctor"], ["list"]])
def test_help_teaches(words: list[str]) -> None:
    ended = call(*words, "--help")
    assert ended.returncode == 0
    assert "usage: python -m bench" in ended.stdout


@pytest.mark.parametrize("url", ["kafka://127.0.0.1:1?timeout=2", "amqp://127.0.0.1:1?timeout=2"])
def test_doctor_of_a_broker_that_is_not_there_is_one_line_and_three(url: str) -> None:
    ended = call("doctor", url)
    assert ended.returncode == 3
    (line,) = ended.stderr.splitlines()
    assert "127.0.0.1:1" in line


def unreachable(**more: str) -> dict[str, str]:
    """An environment in which no Kafka can be had: the one that is named does not answer."""
    return {"GREET_KAFKA_URL": "kafka://127.0.0.1:1?timeout=2", **more}


def test_what_cannot_be_had_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    words = ["run", "--questions", "throughput", "--seconds", "0.02", "--rounds", "1", "--out", tmp_path]
    environment = unreachable(GREET_RABBITMQ_URL="amqp://127.0.0.1:1?timeout=2", GREET_REQUIRE="")
    ended = call(*words, **environment)
    assert ended.returncode == 0, ended.stderr
    assert "asyncio greet" in ended.stdout
    assert "bench: kafka is left out: " in ended.stderr
    assert call(*words, "--designs", "kafka,asyncio", **environment).returncode == 3
    assert call(*words, **{**environment, "GREET_REQUIRE": "all"}).returncode == 3


def start(tmp_path: Path, *words: object, wait_for_rows: int = 2) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    ours = {
        key: value for key, value in os.environ.items() if key not in VARIABLES.values()
    }  # else it starts no broker
    process = subprocess.Popen(
        command("run", "--seconds", "0.05", "--rounds", "500", "--questions", "throughput", "--out", tmp_path, *words),
        cwd=ROOT, env=ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while sum(len(file.read_text().splitlines()) for file in tmp_path.glob(f"*/{MEASUREMENTS}")) < wait_for_rows:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    return process, psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    left = psutil.wait_procs(processes, timeout=10)[1]
    return not [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path, interrupt: signal.Signals) -> None:
    process, family = start(tmp_path, "--designs", "asyncio")
    process.send_signal(interrupt)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted, so INCOMPLETE" in printed
    assert errors == ""
    assert gone(family)
    (folder,) = tmp_path.iterdir()
    assert bench.about(folder)["complete"] is False
    assert len(bench.load(folder)) >= 2


@pytest.mark.skipif(not hasattr(psutil.Process, "memory_maps"), reason="psutil has no memory maps on this system")
def test_an_interrupt_before_all_is_imported_gives_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--out", str(tmp_path / "none"), "--designs", "asyncio"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not any("pandas" in one.path for one in psutil.Process(process.pid).memory_maps()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=30)
    assert (process.returncode, printed, errors) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("design", ["asyncio", "rabbitmq"])
def test_kill_leaves_neither_worker_nor_broker(tmp_path: Path, design: str) -> None:
    process, family = start(tmp_path, "--designs", design)
    process.kill()
    process.communicate(timeout=30)
    assert len(family) >= 2
    assert gone(family)
    (folder,) = tmp_path.iterdir()
    assert bench.about(folder)["complete"] is False


@pytest.mark.long
def test_a_broker_killed_in_mid_run_is_an_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    words = ("--designs", "rabbitmq,asyncio", "--guarantee", "at_least_once", "--rounds", "10", "--seconds", "0.2")
    process, family = start(tmp_path, *words)
    brokers = [one for one in family if one.name() == "beam.smp"]
    for one in brokers:
        one.kill()
    printed, errors = process.communicate(timeout=150)
    assert brokers, [one.name() for one in family]
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert "bench: throughput, rabbitmq greet: " in errors
    (folder,) = tmp_path.iterdir()
    rows = bench.load(folder)
    assert (rows["error"].notna() & (rows["design"] == "rabbitmq")).any()
    assert (rows["design"] == "asyncio").sum() == 10 * 3
    assert bench.about(folder)["complete"] is True
    assert "Not all went well" in printed
    assert gone(family)


def stopped(ended: subprocess.CompletedProcess[str], folder: Path, why: str) -> None:
    """It prints what there is, says what happened in a line, and that it is not all."""
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("bench: ")
    assert why in line
    assert line.endswith("stopped, and the run is INCOMPLETE")
    assert "every message arrived, once and in order" in ended.stdout
    assert ended.stdout.endswith(f"{folder.name}: stopped by an error, so INCOMPLETE\n")
    assert bench.about(folder)["complete"] is False
    assert len(bench.load(folder)) >= 2


def test_a_report_that_cannot_be_printed_is_one_line_that_says_where_the_run_is(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command("run", *SHORT, "--out", tmp_path), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    (folder,) = tmp_path.iterdir()
    assert ended.returncode == 1
    assert ended.stderr == f"bench: No space left on device: what was measured is kept in {folder}\n"
    assert bench.about(folder)["complete"] is True


LONG = ("run", "--designs", "asyncio", "--questions", "throughput", "--seconds", "0.02", "--rounds", "2000")


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=40k tmpfs "$1" || exit 77
"${@:3}"
status=$?
cp -R "$1/." "$2"
exit $status
"""
"""In a mount namespace of its own, so that the disk is gone with it, whatever becomes of the test."""


def test_a_disk_that_fills_up_ends_a_run_and_what_was_measured_is_printed(tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    words = ["unshare", "--mount", "bash", "-c", ON_A_SMALL_DISK, "bash", str(disk), str(kept)]
    try:
        ended = subprocess.run(
            [*words, *command(*LONG, "--out", disk)], cwd=ROOT, capture_output=True, text=True, timeout=150
        )
    except FileNotFoundError:
        pytest.skip("this system has no unshare")
    if ended.returncode == 77 or ended.stderr.startswith("unshare: "):
        pytest.skip("no disk can be mounted here")
    (folder,) = kept.iterdir()
    assert f"kept in {disk / folder.name}: stopped" in ended.stdout
    stopped(ended, folder, "No space left on device")


@pytest.mark.long
def test_a_file_that_may_not_grow_ends_a_run_and_what_was_measured_is_printed(tmp_path: Path) -> None:
    ended = subprocess.run(
        command(*LONG, "--out", tmp_path),
        cwd=ROOT, capture_output=True, text=True, timeout=150,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    (folder,) = tmp_path.iterdir()
    stopped(ended, folder, str(folder))


def rows(speed: float, run: str = "r", rung: str = "", **more: Any) -> list[Measurement]:
    params = {"way": "name", "size": 18, "load": None, "phase": "together", "again": False, "rung": rung}
    wobble = (0.99, 1.0, 1.01, 1.0, 0.99, 1.01)
    fields: dict[str, Any] = {"sent": 10, "accepted": 10, "received": 10, "lost": 0, "duplicates": 0, "reordered": 0}
    key = (run, "throughput", "asyncio", "greet", "AT_LEAST_ONCE", params)
    return [Measurement(*key, i, messages_per_s=speed * by, **{**fields, **more}) for i, by in enumerate(wobble)]


def written(out: Path, measurements: list[Measurement]) -> Path:
    writer = Writer(out, {**surroundings(), "settings": told(Settings((), ())), "brokers": {}})
    for one in measurements:
        writer.append(one)
    writer.note(complete=True)
    return writer.folder


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (0.97, 0), (1.5, 0), (0.5, 1)])
def test_compare_tells_a_regression_from_noise(tmp_path: Path, factor: float, status: int) -> None:
    before, after = written(tmp_path, rows(1000)), written(tmp_path, rows(1000 * factor))
    ended = call("compare", before, after)
    assert ended.returncode == status, ended.stdout + ended.stderr
    assert "in 95 % of all comparisons all 1 of them hold (Bonferroni)" in ended.stdout
    expected = "better" if factor > 1 else "worse" if status else "no difference"
    assert [one.verdict for one in compare.compare(bench.load(before), bench.load(after))] == [expected]


def test_compare_shows_first_what_changed_most_and_a_history_of_more_than_two(tmp_path: Path) -> None:
    def run(by: float) -> Path:
        cells = [rows(1000 * (by if kind == 7 else 1), rung=str(kind)) for kind in range(12)]
        return written(tmp_path, [one for cell in cells for one in cell])

    first, second, third = run(1), run(1), run(0.5)
    ended = call("compare", first, second, third)
    assert ended.returncode == 1
    older, newer = ended.stdout.split(f"{second.name} → {third.name}")
    assert "worse" not in older.partition("The intervals")[0]
    lines = [line for line in newer.splitlines() if "messages/s" in line]
    assert len(lines) == 10
    assert "rung 7" in lines[0]
    assert "2 more figures changed less: --all shows them." in newer
    assert "a slowdown to 0.9" in newer, "what it could have seen"
    every = call("compare", second, third, "--all").stdout
    assert len([line for line in every.splitlines() if "messages/s" in line]) == 12


def test_compare_warns_of_another_machine() -> None:
    here = {"machine": {"cpu": "a", "load_average": [1]}, "python": "CPython 3.11"}
    there = {"machine": {"cpu": "b", "load_average": [2]}, "python": "CPython 3.11"}
    assert compare.differences(here, there) == ["machine cpu: a before, b after"]


def test_a_lost_name_is_told_and_a_null_is_no_zero(tmp_path: Path) -> None:
    folder = written(tmp_path, rows(1000, lost=1))
    assert rows(1000, lost=1)[0].wrong
    frame = bench.load(folder, details=True)
    assert tables.counted(frame) == "6 × not all, 6 lost"
    assert "6 lost" in report.conclusion(frame)[0]
    assert frame["elapsed_s"].isna().all()


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    folder = written(tmp_path, rows(1000))
    with (folder / MEASUREMENTS).open("a") as file:
        file.write('{"run": "r", "quest')
    assert len(bench.load(folder)) == 6
    assert results.newest(tmp_path) == folder


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    folder = written(tmp_path, rows(1000))
    (folder / MEASUREMENTS).unlink()
    (folder / MEASUREMENTS).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        results._append(folder / MEASUREMENTS, {"a": 1})


async def test_a_live_run_is_loaded_or_says_what_went_wrong() -> None:
    rows = await bench.live("throughput", designs="asyncio", seconds=0.02, rounds=1)
    assert set(rows["contender"]) == {"greet"}
    assert rows["received"].gt(0).all()
    assert "progress_s" in rows
    with pytest.raises(RuntimeError, match="there is no 'pigeon'"):
        await bench.live("throughput", designs="pigeon")


def test_several_runs_are_shown_as_one(done: Path, tmp_path: Path) -> None:
    other = written(tmp_path, rows(1000))
    both = bench.load(done, other, details=True)
    assert len(both) == 6 + 6
    assert both["run"].nunique() == 2
    assert both["progress_s"].isna().sum() == 6
    one = bench.about(done)
    what, machine, versions = report.ground(one)
    assert report.ground(one, one) == [what, machine, versions, what]  # what is as before is not said again
    newer = {**one, "python": "CPython 3.99"}
    assert [line.split(",")[0] for line in report.ground(one, newer)[3:]] == [what.split(",")[0], "CPython 3.99"]


def test_a_first_look_over_one_design_is_answered(tmp_path: Path) -> None:
    ended = call("--designs", "asyncio", "--rounds", "1", "--seconds", "0.02", "--out", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("Which one to take\n• One program: asyncio.")
    assert "wake_up: How long" in ended.stdout
    (folder,) = tmp_path.iterdir()
    assert call("report", folder, "--html").returncode == 0
