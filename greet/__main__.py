"""The application on the command line: `python -m greet run|send|consume|dead`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import greet
from greet.names import MAX_BYTES, check, decode

T = TypeVar("T")

GREETINGS = {"hello": greet.hello, "goodbye": greet.goodbye}
AHEAD = 10_000  # names that `run` publishes ahead of its consumers
DRAIN = 5.0  # seconds that `run`, when interrupted, waits for each next greeting of what was accepted

HELP = """\
A producer provides names; one consumer prints "hello NAME", a separate one "goodbye NAME".
What carries the names is up to you: a queue in this process, RabbitMQ, or Kafka.
"""
EXAMPLES = """\
examples:
  python -m greet run Ada José 李小龙              all in one process, over an asyncio queue
  python -m greet run --via kafka Ada             the same over Kafka; starts one if none is there
  cat names.txt | python -m greet run --via rabbitmq -

  python -m greet.brokers                         keep private brokers up; prints two exports
  python -m greet consume --via kafka --as hello  then each in a terminal of its own, with the
  python -m greet consume --via kafka --as goodbye   exports: two consumers,
  python -m greet send --via kafka Ada            and a producer

exit status: 0 all well, 1 a name could not be delivered, 2 wrong use, 3 no broker to be had
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return asyncio.run(_command(arguments))
    except* greet.GreetError as group:
        status = _fail(_first(group))
    except* KeyboardInterrupt:  # on Windows; elsewhere a signal is caught, and ends it cleanly
        status = 128 + signal.SIGINT
    except* BrokenPipeError:  # whoever read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    return status


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m greet", description=HELP, epilog=EXAMPLES, formatter_class=raw)
    common = argparse.ArgumentParser(add_help=False)
    where = common.add_mutually_exclusive_group()
    where.add_argument("--via", choices=("asyncio", "rabbitmq", "kafka"), help="the design (default: asyncio)")
    where.add_argument("--url", help="a broker of your own: amqp[s]://user:password@host, kafka[+ssl]://host:9092")
    common.add_argument("--topic", default="names", help="what the names are published to (default: names)")
    common.add_argument(
        "--guarantee",
        type=_guarantee,
        metavar="{at-most-once,at-least-once,durable}",
        help="what is promised of each name (default: the strongest of the design)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | send | consume | dead")

    def add(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, parents=[common], help=what, description=what, epilog=EXAMPLES, formatter_class=raw
        )

    for name, what in {
        "run": "the whole application once: publish the names, print both greetings of each",
        "send": "the producer: publish the names to a broker",
    }.items():
        add(name, what).add_argument("names", nargs="+", metavar="NAME", help="a name; - reads names, one a line")
    consume = add("consume", "a consumer: print the greeting of each name until interrupted")
    consume.add_argument(
        "--as", dest="group", choices=GREETINGS, required=True, help="which greeting, and so which group"
    )
    consume.add_argument("--count", type=int, metavar="N", help="end after N names")
    consume.add_argument("--replay", action="store_true", help="a new group starts at the oldest name kept (kafka)")
    consume.add_argument("--ready", type=Path, metavar="FILE", help="create FILE once the consumer is live")
    dead = add("dead", "the dead letters: messages that a group could not read as a name")
    dead.add_argument("--resend", action="store_true", help="publish each once more, and forget it")
    return parser


def _guarantee(text: str) -> greet.Guarantee:
    try:
        return greet.Guarantee[text.upper().replace("-", "_")]
    except KeyError:
        known = ", ".join(one.name.lower().replace("_", "-") for one in greet.Guarantee)
        raise argparse.ArgumentTypeError(f"there is no {text!r}: choose from {known}") from None


class _Stop(asyncio.Event):
    """Set by a signal. Before the command is `working`, nothing has come of it, so a signal cancels it too."""

    working = False


async def _command(arguments: argparse.Namespace) -> int:
    """Run the command until it is done or a SIGINT or SIGTERM ends it cleanly."""
    stop = _Stop()
    caught: list[int] = []
    task = asyncio.current_task()

    def catch(number: int) -> None:
        caught.append(number)
        stop.set()
        if task and not stop.working:  # a broker is started, or does not answer
            task.cancel()

    if sys.platform != "win32":  # there, Ctrl-C is a KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, catch, number)
    names: list[str] = getattr(arguments, "names", [])
    for name in names:  # nothing is sent when one of them is bad
        check(name)
    try:
        async with _url(arguments) as url, greet.connect(url, arguments.topic, guarantee=arguments.guarantee) as line:
            if arguments.command == "dead":
                return await _dead(line, arguments.resend)
            if arguments.command == "consume":
                return await _consume(line, arguments, stop)
            source = _Source(names, stop)
            status = await (_run if arguments.command == "run" else _send)(line, source)
            return status or source.status or (128 + caught[0] if caught else 0)
    except asyncio.CancelledError:
        if not caught:
            raise
        return 128 + caught[0]


@asynccontextmanager
async def _url(arguments: argparse.Namespace) -> AsyncIterator[str]:
    """What was asked for; only `run` may start a broker, as nobody else would find it."""
    alone = arguments.command == "run"
    design = arguments.via or "asyncio"
    if (arguments.url or design).startswith("asyncio") and not alone:
        raise greet.Unsupported("an asyncio queue has one process: use `run`, or --via rabbitmq or kafka")
    if arguments.url or design == "asyncio":
        yield arguments.url or "asyncio:"
        return
    from greet import brokers  # noqa: PLC0415 - nobody waits for what is not used

    async with brokers.find(design, start=alone) as url:
        yield url


async def _run(line: greet.Line, source: _Source) -> int:
    waiting = {group: Counter[str]() for group in GREETINGS}  # sent, and not yet greeted
    progress = asyncio.Event()

    async def greeter(group: str, names: greet.Subscription) -> None:
        async for name in names:
            print(GREETINGS[group](name), flush=True)
            waiting[group][name] -= 1
            if waiting[group][name] <= 0:
                del waiting[group][name]
            progress.set()

    async def hurry() -> None:
        await source.stop.wait()
        progress.set()  # who waits for a greeting is not to wait longer than `DRAIN` from now on

    async def drained(to: int = 0) -> None:
        while any(len(left) > to for left in waiting.values()):
            progress.clear()
            async with asyncio.timeout(DRAIN if source.stop.is_set() else line.timeout):
                await progress.wait()

    async with line.subscribe("hello") as hellos, line.subscribe("goodbye") as goodbyes, asyncio.TaskGroup() as group:
        source.stop.working = True
        beside = [group.create_task(one) for one in (greeter("hello", hellos), greeter("goodbye", goodbyes), hurry())]
        with suppress(TimeoutError):
            async for names in source:
                for left in waiting.values():
                    left.update(names)
                await line.publish_many(names)
                await drained(to=AHEAD)
            await drained()
        for task in beside:
            task.cancel()
    for who, left in waiting.items():
        if left:
            print(f"greet: {left.total()} names did not reach {who}: does another consumer have them?", file=sys.stderr)
    return 1 if any(waiting.values()) else 0


async def _send(line: greet.Line, source: _Source) -> int:
    source.stop.working = True
    accepted = 0
    try:
        async for names in source:
            accepted += await line.publish_many(names)
    except greet.GreetError as error:
        accepted += error.accepted
        raise
    finally:
        print(f"greet: {accepted} names accepted ({line.guarantee.name})", file=sys.stderr)
    return 0


async def _consume(line: greet.Line, arguments: argparse.Namespace, stop: _Stop) -> int:
    async def greeter(names: greet.Subscription) -> None:
        count = 0
        async for name in names:
            print(GREETINGS[arguments.group](name), flush=True)
            count += 1
            if count == arguments.count:
                return

    async with line.subscribe(arguments.group, replay=arguments.replay) as names:
        stop.working = True
        print(f"greet: listening as {arguments.group} to {line.address} (Ctrl-C ends)", file=sys.stderr, flush=True)
        if arguments.ready:
            arguments.ready.touch()
        await _unless(stop, greeter(names))
    return 0


async def _dead(line: greet.Line, resend: bool) -> int:
    if resend:
        print(f"greet: {await line.resend_dead_letters()} sent again", file=sys.stderr)
        return 0
    for letter in await line.dead_letters():
        print(f"{letter.origin}\t{letter.group}\t{letter.reason}\t{letter.body[:80]!r}")
    return 0


class _Source:
    """The names of the command line, or of standard input, in lists; it ends early on `stop`."""

    def __init__(self, names: list[str], stop: _Stop) -> None:
        self.names = names
        self.stop = stop
        self.status = 0
        """2 when a line of standard input was no name: it is reported and the others go on."""

    async def __aiter__(self) -> AsyncIterator[list[str]]:
        if self.names != ["-"]:
            yield self.names
            return
        read: asyncio.Queue[list[bytes]] = asyncio.Queue()
        room = threading.Semaphore(2)
        threading.Thread(target=_read_lines, args=(asyncio.get_running_loop(), read, room), daemon=True).start()
        count = 0
        while not self.stop.is_set() and (lines := await _unless(self.stop, read.get())):
            room.release()
            good = []
            for line in lines:
                count += 1
                try:
                    good.append(decode(line))
                except greet.BadName as error:
                    self.status = _fail(f"line {count}: {error}")
            yield good


def _read_lines(loop: asyncio.AbstractEventLoop, read: asyncio.Queue[list[bytes]], room: threading.Semaphore) -> None:
    """Hand on the lines of standard input as they come, then an empty list.

    A thread of its own, and a daemon, as a read of a terminal can neither be awaited nor cancelled.
    """

    def hand_on(lines: list[bytes]) -> None:
        room.acquire()
        loop.call_soon_threadsafe(read.put_nowait, [line.removesuffix(b"\r") for line in lines])

    rest = b""
    with suppress(RuntimeError):  # the loop is closed: nobody wants the lines any more
        while block := os.read(sys.stdin.fileno(), 65_536):
            *lines, rest = (rest + block).split(b"\n")
            rest = rest[: MAX_BYTES + 1]  # enough of an endless line to refuse it
            if lines:
                hand_on(lines)
        if rest:
            hand_on([rest])
        hand_on([])


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns, or None if `stop` is set before."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, stopped):
            one.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


def _first(group: BaseExceptionGroup[greet.GreetError]) -> greet.GreetError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _fail(error: object) -> int:
    print(f"greet: {error}", file=sys.stderr)
    if isinstance(error, (greet.BrokerMissing, greet.ConnectFailed)):
        return 3
    if isinstance(error, (greet.PublishFailed, greet.PublishUnknown, greet.ConnectionLost)):
        return 1
    return 2


if __name__ == "__main__":
    sys.exit(main())
