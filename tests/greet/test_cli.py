"""The command line, as a user types it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import pytest
from common import started, take

import greet as kit
from bench.faults.proxy import proxy
from greet.__main__ import _parser
from greet.designs import DESIGNS, Design, named, of_url

GREET = (sys.executable, "-m", "greet")
NAMES = ["Ada", "José", "Zoë", "O'Brien", "Nguyễn Thị Minh", "李小龙", "Владимир", "محمد", "שָׂרָה", "नेहा"]


def greet(*arguments: str | bytes, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [*GREET, *arguments]
    env = os.environ | environment
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, env=env, check=False)


def greetings(names: list[str]) -> list[str]:
    return sorted(f"{word} {name}" for word in ("hello", "goodbye") for name in names)


def lines(output: bytes) -> list[str]:
    return sorted(output.decode().splitlines())


def failed(result: subprocess.CompletedProcess[bytes], status: int, says: str) -> None:
    """One line on standard error that says it, and no traceback."""
    message = result.stderr.decode()
    assert (result.returncode, message.count("\n")) == (status, 1), message
    assert says in message
    assert message.removesuffix("\n").isprintable()


def options(design: Design, request: pytest.FixtureRequest) -> list[str]:
    """The options for a design, and for a topic of this test's own."""
    topic = request.getfixturevalue("topic")
    if design.product is None:
        return ["--via", design.name, "--topic", topic]
    return ["--url", design.url(request.getfixturevalue(f"{design.product.name}_url")), "--topic", topic]


@pytest.fixture(params=DESIGNS, ids=lambda design: design.name)
def where(request: pytest.FixtureRequest) -> list[str]:
    """The options for one of the designs."""
    return options(request.param, request)


@pytest.fixture(params=[one for one in DESIGNS if one.product], ids=lambda design: design.name)
def apart(request: pytest.FixtureRequest) -> list[str]:
    """The options for one of the designs whose processes can be apart."""
    return options(request.param, request)


@pytest.fixture(params=[one for one in DESIGNS if one.product and one.usual], ids=lambda design: design.name)
def usual(request: pytest.FixtureRequest) -> list[str]:
    """The options for one design of each product, where it is not the design that matters."""
    return options(request.param, request)


def test_run_greets_every_name_twice(where: list[str]) -> None:
    result = greet("run", *where, *NAMES)
    assert (result.returncode, lines(result.stdout)) == (0, greetings(NAMES))
    assert result.stderr == b""


def test_run_reads_standard_input(where: list[str]) -> None:
    result = greet("run", *where, "-", stdin="\r\n".join(NAMES).encode())
    assert (result.returncode, lines(result.stdout)) == (0, greetings(NAMES))


@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once", "durable"])
def test_a_guarantee_can_be_asked_for(rabbitmq_url: str, topic: str, guarantee: str) -> None:
    result = greet("run", "--url", rabbitmq_url, "--topic", topic, "--guarantee", guarantee, "Ada")
    assert (result.returncode, lines(result.stdout)) == (0, greetings(["Ada"]))


def test_a_design_is_found_by_its_name(rabbitmq_url: str, topic: str) -> None:
    result = greet("run", "--via", "rabbitmq", "--topic", topic, "Ada", GREET_RABBITMQ_URL=rabbitmq_url)
    assert (result.returncode, lines(result.stdout)) == (0, greetings(["Ada"]))


def test_bad_lines_are_reported_and_the_others_go_on() -> None:
    result = greet("run", "-", stdin=b"Ada\n\nZo\xff\n\x1b[31m\nJos\xc3\xa9\n" + b"x" * 70_000 + b"\nlast")
    assert lines(result.stdout) == greetings(["Ada", "José", "last"])
    assert result.returncode == 2
    assert [line.split(":")[1] for line in result.stderr.decode().splitlines()] == [f" line {n}" for n in (2, 3, 4, 6)]


@asynccontextmanager
async def listening(*arguments: str) -> AsyncIterator[Process]:
    """A consumer that has said that it listens."""
    async with started(*GREET, "consume", *arguments) as process:
        assert process.stderr is not None
        assert b"listening as" in await process.stderr.readline()
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_three_terminals(apart: list[str], number: signal.Signals) -> None:
    """Two consumers and a producer, each a process; a signal ends a consumer cleanly."""
    async with listening(*apart, "--as", "hello") as hello, listening(*apart, "--as", "goodbye") as goodbye:
        sent = await asyncio.to_thread(greet, "send", *apart, *NAMES)
        assert (sent.returncode, sent.stdout, sent.stderr) == (0, b"", b"greet: 10 names accepted (DURABLE)\n")
        for process, word in ((hello, "hello"), (goodbye, "goodbye")):
            assert process.stdout is not None
            got = [(await process.stdout.readline()).decode() for _ in NAMES]
            assert sorted(got) == sorted(f"{word} {name}\n" for name in NAMES)
            if of_url(apart[1]).ordered:
                assert got == [f"{word} {name}\n" for name in NAMES]
            process.send_signal(number)
            rest, errors = await process.communicate()
            assert (process.returncode, rest, errors) == (0, b"", b"")


async def test_a_consumer_can_be_waited_for(apart: list[str], tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    async with listening(*apart, "--as", "hello", "--count", "2", "--ready", str(ready)) as process:
        while not ready.exists():
            await asyncio.sleep(0.01)
        await asyncio.to_thread(greet, "send", *apart, "Ada", "Zoë", "José")
        output, _ = await process.communicate()
        assert process.returncode == 0
        first = output.decode().splitlines()
    async with listening(*apart, "--as", "hello", "--count", "1") as process:  # the third was not settled
        output, _ = await process.communicate()
        got = [*first, *output.decode().splitlines()]
    wanted = ["hello Ada", "hello Zoë", "hello José"]
    assert len(first) == 2
    assert sorted(got) == sorted(wanted)
    if of_url(apart[1]).ordered:
        assert got == wanted


async def test_a_consumer_of_a_new_group_can_begin_at_the_oldest_name(apart: list[str]) -> None:
    if not of_url(apart[1]).replays:
        failed(greet("consume", *apart, "--as", "hello", "--replay"), 2, "cannot replay: use kafka")
        return
    assert greet("send", *apart, "Ada", "Zoë").returncode == 0  # nobody has read the topic
    result = greet("consume", *apart, "--as", "hello", "--replay", "--count", "2")
    assert (result.returncode, lines(result.stdout)) == (0, ["hello Ada", "hello Zoë"])


async def test_dead_letters_are_shown_and_sent_again(rabbitmq_url: str, topic: str) -> None:
    """Without what would control a terminal."""
    where = ("--url", rabbitmq_url, "--topic", topic)
    async with kit.connect(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        async with await aio_pika.connect(rabbitmq_url) as connection, await connection.channel() as channel:
            await (await channel.get_exchange(topic)).publish(aio_pika.Message(b"\x1b[31m"), "")
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        async with asyncio.timeout(10):
            while not await line.dead_letters():
                await asyncio.sleep(0.05)
        result = await asyncio.to_thread(greet, "dead", *where)
        assert (result.returncode, result.stderr) == (0, b"")
        (shown,) = result.stdout.decode().splitlines()
        origin, group, reason, body = shown.split("\t")
        assert (origin, group, body) == (f"queue {topic}:hello", "hello", r"b'\x1b[31m'")
        assert "U+001B" in reason
        result = await asyncio.to_thread(greet, "dead", *where, "--resend")
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"greet: 1 sent again\n")


async def test_run_when_interrupted_greets_what_it_took(where: list[str]) -> None:
    async with started(*GREET, "run", *where, "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Ada\n")
        got = [await process.stdout.readline(), await process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        rest, errors = await process.communicate()
        assert (sorted(got), rest, errors) == ([b"goodbye Ada\n", b"hello Ada\n"], b"", b"")
        assert process.returncode == 128 + signal.SIGINT


def test_names_come_from_one_place() -> None:
    failed(greet("run", "Ada", "-"), 2, "let it stand alone")


def test_an_empty_url_is_not_taken_for_none() -> None:
    failed(greet("run", "--url", "", "Ada"), 2, "no design has the scheme")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "1 to 65,536 bytes"),
        ("x" * 65_537, "1 to 65,536 bytes"),
        ("\x1b[31mred", "U+001B at character 1"),
        ("\u202eadA", "U+202E at character 1"),
        (b"\xed\xa0\x80", "a lone surrogate"),
        ("two\nlines", "U+000A"),
    ],
    ids=["empty", "long", "escape", "bidi", "surrogate", "newline"],
)
def test_a_bad_name_sends_nothing(name: str | bytes, says: str) -> None:
    result = greet("run", "Ada", name, "Zoë")
    failed(result, 2, says)
    assert result.stdout == b""


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["send", "Ada"], 2, "which broker? add --via rabbitmq or kafka"),
        (["consume", "--as", "hello"], 2, "which broker? add --via"),
        (["dead"], 2, "which broker? add --via"),
        (["send", "--via", "asyncio", "Ada"], 2, "one process"),
        (["consume", "--url", "ASYNCIO:", "--as", "hello"], 2, "one process"),
        (["run", "--url", "amqp://a..b/", "Ada"], 2, "'a..b' is not a host name"),
        (["run", "--url", "amqp://h/%1B[31m", "Ada"], 2, "a control or invisible character"),
        (["run", "--url", "http://localhost", "Ada"], 2, "no design has the scheme"),
        (["run", "--url", "kafka://localhost?acks=0", "Ada"], 2, "unknown key"),
        (["run", "--guarantee", "durable", "Ada"], 2, "asyncio cannot promise DURABLE"),
        (["send", "--url", "amqp://127.0.0.1:1?timeout=3", "Ada"], 3, ""),
        (["send", "--url", "kafka://127.0.0.1:1?timeout=3", "Ada"], 3, ""),
    ],
)
def test_wrong_use_gets_one_line(arguments: list[str], status: int, says: str) -> None:
    failed(greet(*arguments), status, says)


def test_an_unknown_guarantee_is_wrong_use() -> None:
    result = greet("run", "--guarantee", "eternal", "Ada")
    assert result.returncode == 2
    assert b"there is no 'eternal': choose from at-most-once, at-least-once, durable" in result.stderr
    assert b"Traceback" not in result.stderr


@asynccontextmanager
async def silence() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port that takes connections, which sets the event, and says nothing."""
    asked, closing = asyncio.Event(), asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await closing.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()[1], asked
        finally:
            closing.set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("scheme", ["amqp", "kafka"])
async def test_it_can_be_interrupted_before_a_broker_answers(scheme: str, number: signal.Signals) -> None:
    async with silence() as (port, asked):
        url = f"{scheme}://127.0.0.1:{port}?timeout=100"
        async with started(*GREET, "send", "--url", url, "Ada") as process:
            await asked.wait()
            process.send_signal(number)
            said, complained = await process.communicate()
    assert (process.returncode, said, complained) == (128 + number, b"", b"")


async def test_it_can_be_interrupted_while_a_consumer_joins(rabbitmq_url: str, topic: str) -> None:
    """The line is up, and the broker falls silent before the consumer has joined: nothing is there to be drained."""
    parts = urlsplit(rabbitmq_url)
    async with proxy("127.0.0.1", parts.port or 5672, delay_s=0.1) as between:
        url = rabbitmq_url.replace(f":{parts.port}", f":{between.port}") + "?timeout=100"
        async with started(*GREET, "consume", "--url", url, "--topic", topic, "--as", "hello") as process:
            while len(between._links) < 2:
                await asyncio.sleep(0.01)
            between.hold()
            process.send_signal(signal.SIGINT)
            said, complained = await process.communicate()
    assert (process.returncode, said, complained) == (128 + signal.SIGINT, b"", b"")


async def test_run_when_interrupted_does_not_wait_for_what_others_took(rabbitmq_url: str, topic: str) -> None:
    where = ["--url", f"{rabbitmq_url}?timeout=100", "--topic", topic]
    async with listening(*where, "--as", "goodbye") as other, started(*GREET, "run", *where, "Ada", "Zoë") as process:
        assert other.stdout is not None
        assert process.stdout is not None
        assert (await other.stdout.readline()).startswith(b"goodbye")
        got = [await process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest, complained = await process.communicate()
    assert sorted(got)[1:] == [b"hello Ada\n", "hello Zoë\n".encode()]
    assert (process.returncode, rest) == (1, b"")
    assert b"1 name did not reach goodbye" in complained


@pytest.mark.parametrize("scheme", ["amqp", "kafka"])
async def test_a_port_that_answers_something_else(scheme: str) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        failed(await asyncio.to_thread(greet, "send", "--url", f"{scheme}://127.0.0.1:{port}?timeout=3", "Ada"), 3, "")


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize(("scheme", "first"), [("amqp", "01 0000 7fffffff"), ("kafka", "7fffffff 00000001")])
async def test_a_port_that_floods(scheme: str, first: str, path: str) -> None:
    """It announces 2 GB, and sends a quarter of a GB: the plain way takes it, but only until its deadline."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes.fromhex(first))
        with suppress(ConnectionError):
            for _part in range(2**8):
                writer.write(bytes(2**20))
                await writer.drain()
            await closing.wait()
        writer.close()

    closing = asyncio.Event()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}?timeout=3&path={path}"
        started = time.monotonic()
        failed(await asyncio.to_thread(greet, "send", "--url", url, "Ada"), 3, "")
        assert time.monotonic() - started < 10
        closing.set()


@pytest.mark.parametrize("scheme", ["amqp", "kafka"])
async def test_a_port_that_never_answers(scheme: str) -> None:
    async with silence() as (port, _):
        failed(await asyncio.to_thread(greet, "send", "--url", f"{scheme}://127.0.0.1:{port}?timeout=2", "Ada"), 3, "")


def test_a_wrong_password_is_refused_and_not_repeated(rabbitmq_url: str) -> None:
    user = rabbitmq_url.partition("://")[2].partition(":")[0]
    url = f"amqp://{user}:c4nary@{rabbitmq_url.rpartition('@')[2]}"
    result = greet("send", "--url", url, "Ada")
    failed(result, 3, "")
    assert b"c4nary" not in result.stdout + result.stderr


def test_nobody_listens_to_rabbitmq(rabbitmq_url: str, topic: str) -> None:
    result = greet("send", "--url", rabbitmq_url, "--topic", topic, "Ada")
    assert result.returncode == 1
    assert f"no group reads {topic} now (none ever did".encode() in result.stderr
    assert b"0 names accepted" in result.stderr


def test_a_reader_that_goes_away() -> None:
    command = f"yes Ada | {sys.executable} -m greet run - | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, timeout=30, check=False)
    assert (result.stdout, result.stderr) == (b"hello Ada\n", b"greet: the reader of the standard output is gone\n")


GONE = "the reader of the standard output is gone"
FULL = "the standard output cannot be written: No space left on device"


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    """The status of `GREET …` in a command of the shell, what it wrote, and its complaints."""
    line = command.replace("GREET", f"{sys.executable} -m greet")
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | environment,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("GREET run Ada >&-", 1, "standard output is closed"),
        ("GREET run Ada >/dev/full", 1, FULL),
        ("GREET run - </dev/null >&-", 1, "standard output is closed"),
        ("GREET run - <&-", 2, "standard input cannot be read: it is closed"),
        ("GREET run - 0>/dev/null", 2, "standard input cannot be read: Bad file descriptor"),
        ("GREET run Ada José | true", 1, GONE),
        ("GREET run - < <(sleep 20 >/dev/null 2>&1) | true", 1, GONE),  # nothing is ever written
        ("GREET --help >/dev/full", 1, FULL),
        ("GREET run '' 2>/dev/full", 2, ""),
        ("GREET run '' 2>&-", 2, ""),
        ("GREET run Ada >&- 2>&-", 1, ""),
        ("GREET run - <&- >&- 2>&-", 2, ""),
        ("GREET run --no-such-option 2>/dev/full", 2, ""),
    ],
)
def test_a_broken_stream_gets_one_line(command: str, status: int, says: str) -> None:
    started_at = time.monotonic()
    code, said, complained = shell(command)
    assert (code, said, complained.count("\n")) == (status, "", bool(says)), complained
    assert says in complained
    assert time.monotonic() - started_at < 15


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "2>/dev/full"])
def test_a_stream_that_is_not_needed_may_be_closed(usual: list[str], closed: str) -> None:
    where = shlex.join(usual)
    assert lines(shell(f"GREET run {where} Zoë {closed}")[1].encode()) == greetings(["Zoë"])
    assert shell(f"GREET send {where} Ada >&- {closed}")[:2] == (0, "")
    assert shell(f"GREET consume {where} --as hello --count 1 {closed}")[:2] == (0, "hello Ada\n")


@pytest.mark.parametrize(
    ("end", "says"), [(">&-", "standard output is closed"), (">/dev/full", FULL), ("| true", GONE)]
)
def test_a_name_whose_greeting_was_not_written_comes_again(usual: list[str], end: str, says: str) -> None:
    where = shlex.join(usual)
    assert shell(f"GREET run {where} Zoë")[0] == 0  # makes the groups
    assert shell(f"GREET send {where} Ada")[0] == 0
    code, said, complained = shell(f"GREET consume {where} --as hello {end}")
    assert (code, said) == (1, "")
    assert says in complained
    assert "Traceback" not in complained
    assert shell(f"GREET consume {where} --as hello --count 1")[:2] == (0, "hello Ada\n")


def test_dead_letters_that_nobody_can_read(rabbitmq_url: str, topic: str) -> None:
    where = shlex.join(["--url", rabbitmq_url, "--topic", topic])
    assert shell(f"GREET dead {where}") == (0, "", f"greet: {topic} has no dead letters\n")
    assert shell(f"GREET dead {where} --resend") == (0, "", f"greet: {topic} has no dead letters\n")
    code, said, complained = shell(f"GREET dead {where} >&-")
    assert (code, said, complained.count("\n")) == (1, "", 1)


async def test_run_waits_for_a_slow_reader_of_its_greetings() -> None:
    """Its pipe and its queue are full for longer than its deadline."""
    names = "".join(f"{'x' * 70} {number}\n" for number in range(3000)).encode()
    async with started(*GREET, "run", "--url", "asyncio:?timeout=1&maxsize=5", "-") as process:
        transport = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        transport.pause_reading()
        assert process.stdin is not None
        process.stdin.write(names)
        process.stdin.close()
        await asyncio.sleep(4)
        transport.resume_reading()
        said, errors = await process.communicate()
    assert (process.returncode, said.count(b"\n"), errors) == (0, 6000, b"")


async def test_a_slow_reader_of_the_greetings_keeps_the_connection(rabbitmq_url: str, topic: str) -> None:
    """Its pipe is full for longer than two heartbeats: every greeting comes once, in order, and all are settled."""
    url = f"{rabbitmq_url}?heartbeat=1"
    names = [f"{'x' * 500} {number}" for number in range(600)]  # far more than a pipe holds
    async with listening("--url", url, "--topic", topic, "--as", "hello") as process:
        assert process.stdout is not None
        transport = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        transport.pause_reading()
        await asyncio.to_thread(greet, "send", "--url", url, "--topic", topic, "-", stdin="\n".join(names).encode())
        await asyncio.sleep(4)
        transport.resume_reading()
        got = [(await process.stdout.readline()).decode() for _ in names]
        assert got == [f"hello {name}\n" for name in names]
        process.send_signal(signal.SIGINT)
        rest, errors = await process.communicate()
        assert (process.returncode, rest, errors) == (0, b"", b"")


async def test_what_nobody_read_comes_again(rabbitmq_url: str, topic: str) -> None:
    """Interrupted while its pipe is full, a consumer has settled nothing that was not written."""
    where = ("--url", rabbitmq_url, "--topic", topic)
    names = [f"{'x' * 500} {number}" for number in range(600)]
    async with listening(*where, "--as", "hello") as process:
        transport = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
        transport.pause_reading()
        await asyncio.to_thread(greet, "send", *where, "-", stdin="\n".join(names).encode())
        await asyncio.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"nobody read the standard output for 5 s" in await process.stderr.readline()
        transport.resume_reading()
        said, _ = await process.communicate()
        assert process.returncode == 1
    seen = said.decode().split("\n")[:-1]
    async with listening(*where, "--as", "hello") as process:
        assert process.stdout is not None
        while seen[-1:] != [f"hello {names[-1]}"]:
            seen.append((await process.stdout.readline()).decode().removesuffix("\n"))
    assert set(seen) == {f"hello {name}" for name in names}
    assert len(seen) > len(names)  # what was written in part came again


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    result = greet("run", "-", stdin="\ufeffAda\nZoë".encode())
    assert (result.returncode, lines(result.stdout), result.stderr) == (0, greetings(["Ada", "Zoë"]), b"")
    assert greet("run", "-", stdin=b"\xef\xbb\xbf").returncode == 0


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("size", [65_537, 65_538, 131_072, 200_000, 1_000_000])
def test_a_long_line_is_told_by_its_length(size: int, end: bytes) -> None:
    result = greet("run", "-", stdin=b"Ada\n" + b"x" * size + end)
    failed(result, 2, f"line 2: a name has 1 to 65,536 bytes of UTF-8, this one {size:,}: shorten it")


@pytest.mark.parametrize(("via", "url"), [("kafka", "asyncio:"), ("rabbitmq", "kafka://h"), ("kafka", "amqp://h")])
def test_a_variable_that_names_another_design_is_refused(via: str, url: str) -> None:
    variable = named(via).product.variable  # type: ignore[union-attr]
    result = subprocess.run(
        [sys.executable, "-m", "greet", "run", "--via", via, "Ada"],
        capture_output=True,
        timeout=60,
        env=os.environ | {variable: url},
        check=False,
    )
    failed(result, 2, f"{variable} holds a URL of {of_url(url).name}, not of {via}: correct it")


@pytest.mark.parametrize("count", ["0", "-1", "x", "1.5"])
def test_a_count_is_positive(count: str) -> None:
    result = greet("consume", "--via", "kafka", "--as", "hello", f"--count={count}")
    assert result.returncode == 2
    assert f"'{count}' is not a positive number" in result.stderr.decode()


def test_a_file_that_cannot_be_made_gets_one_line(rabbitmq_url: str, topic: str) -> None:
    result = greet("consume", "--url", rabbitmq_url, "--topic", topic, "--as", "hello", "--ready", "/no/such/folder")
    assert (result.returncode, result.stderr.count(b"\n")) == (2, 2)  # the first says that it listens
    assert b"'/no/such/folder' cannot be made: No such file or directory" in result.stderr


@pytest.mark.parametrize("command", ["run", "send", "consume", "dead"])
def test_help_teaches(command: str) -> None:
    """Each command has examples of its own, and each of them is a command line that it takes."""
    result = greet(command, "--help")
    assert result.returncode == 0
    examples = [line.split("python -m greet ")[1] for line in result.stdout.decode().splitlines() if "m greet " in line]
    examples = [re.split("  +", line)[0] for line in examples if "[" not in line]
    assert len(examples) >= 2
    for example in examples:
        assert _parser().parse_args(shlex.split(example)).command == command


def test_the_help_of_all_has_the_four_commands_together() -> None:
    result = greet("--help")
    assert result.returncode == 0
    for command in ("run --via kafka Ada", "consume --via kafka --as hello", "send --via kafka Ada"):
        assert f"python -m greet {command}" in result.stdout.decode()
