"""The application on the command line: `python -m greet run|send|consume|dead`."""

from __future__ import annotations

import argparse
import asyncio
import codecs
import os
import select
import signal
import stat
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import greet
from greet import designs
from greet.names import MAX_BYTES, check, counted, decode
from greet.tasks import on_interrupt

T = TypeVar("T")

GREETINGS = {"hello": greet.hello, "goodbye": greet.goodbye}
AHEAD = 10_000  # names that `run` publishes ahead of its consumers
DRAIN = 5.0  # seconds that an interrupted command waits for each next greeting of what it took

IN_PROCESS = tuple(one.name for one in designs.DESIGNS if one.in_process)
BROKERS = tuple(one.name for one in designs.DESIGNS if not one.in_process)
ONE, OTHER = BROKERS[0], BROKERS[1]  # for the examples
HELP = f"""\
A producer provides names; one consumer prints "hello NAME", a separate one "goodbye NAME".
Choose what carries the names: --via {", ".join(designs.names())}.
"""
EXAMPLES = f"""\
examples:
  python -m greet run Ada José 李小龙              all in one process, over an asyncio queue
  python -m greet run --via {OTHER} Ada             the same over {OTHER}; starts one if none is there

  python -m greet.brokers                         keeps private brokers running; prints exports
  python -m greet consume --via {OTHER} --as hello  with these exports, in other terminals:
  python -m greet consume --via {OTHER} --as goodbye   two consumers
  python -m greet send --via {OTHER} Ada            and a producer

exit status: 0 success, 1 a name could not be delivered, 2 wrong use, 3 no broker available
"""
EXAMPLES_OF = {
    "run": f"""\
  python -m greet run Ada José 李小龙                       over a queue in this process
  python -m greet run --via {OTHER} Ada                      over {OTHER}; starts one if none is there
  cat names.txt | python -m greet run --via {ONE} -    the names of a file, one a line
""",
    "send": f"""\
  python -m greet send --via {OTHER} Ada José                to the broker on this machine, or that an export names
  python -m greet send --url {designs.named(ONE).scheme}://host Ada            to your own; export a URL with a password
  cat names.txt | python -m greet send --via {ONE} -   the names of a file, one a line
""",
    "consume": f"""\
  python -m greet consume --via {OTHER} --as hello           until Ctrl-C
  python -m greet consume --via {ONE} --as goodbye --count 3
""",
    "dead": f"""\
  python -m greet dead --via {OTHER}                         list them: origin, group, reason, body
  python -m greet dead --via {OTHER} --resend                publish each again, and remove it
""",
}


class OutputLost(greet.GreetError):
    """Standard output cannot be written, so no greeting can be printed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    for number in range(3):  # if a standard stream is closed, a socket could get its number, and then our text
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = _status(_parser().parse_args(argv))
    except SystemExit as end:  # of argparse
        status = int(end.code or 0)
    return _flushed(status)


def _status(arguments: argparse.Namespace) -> int:
    try:
        return asyncio.run(_command(arguments))
    except* greet.GreetError as group:
        status = _fail(_first(group))
    except* KeyboardInterrupt:  # only on Windows; on other systems a signal ends the command cleanly
        status = 128 + signal.SIGINT
    return status


def _flushed(status: int) -> int:
    """The status. Output that a stream does not accept is dropped, or Python would complain when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout:
                status = status or _fail(_lost(error))
    return status


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: Any = None) -> None:
        """As argparse does, but it fails if the help cannot be written."""
        try:
            print(self.format_help(), end="", file=file, flush=True)
        except OSError as error:
            self.exit(_fail(_lost(error)))


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("python -m greet", description=HELP, epilog=EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | send | consume | dead")

    def add(name: str, what: str, via: tuple[str, ...]) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=what, description=what, epilog="examples:\n" + EXAMPLES_OF[name], formatter_class=raw
        )
        where = command.add_mutually_exclusive_group()
        where.add_argument(
            "--via",
            choices=designs.names(),
            metavar="{" + ",".join(via) + "}",
            help=f"the design (default: {via[0]})" if via[0] in IN_PROCESS else "the design; this or --url is needed",
        )
        schemes = ", ".join(f"{one.scheme}://host" for one in designs.DESIGNS if one.name in BROKERS)
        where.add_argument("--url", help=f"your own broker: {schemes}")
        command.add_argument("--topic", default="names", help="the topic of the names (default: names)")
        command.add_argument(
            "--guarantee",
            type=_guarantee,
            metavar="{at-most-once,at-least-once,durable}",
            help="the guarantee for each name (default: the strongest of the design)",
        )
        return command

    run = add("run", "the whole application once: publish the names, print both greetings of each", designs.names())
    send = add("send", "the producer: publish the names to a broker", BROKERS)
    for producer in (run, send):
        producer.add_argument("names", nargs="+", metavar="NAME", help="a name; - reads names, one a line")
    consume = add("consume", "a consumer: print the greeting of each name until interrupted", BROKERS)
    consume.add_argument(
        "--as", dest="group", choices=GREETINGS, required=True, help="which greeting, and so which group"
    )
    consume.add_argument("--count", type=_positive, metavar="N", help="end after N names")
    replays = ", ".join(one.name for one in designs.DESIGNS if one.replays)
    consume.add_argument(
        "--replay", action="store_true", help=f"a new group starts at the oldest name kept ({replays})"
    )
    consume.add_argument("--ready", type=Path, metavar="FILE", help="create FILE once the consumer is live")
    dead = add("dead", "the dead letters: messages that a group could not read as a name", BROKERS)
    dead.add_argument("--resend", action="store_true", help="publish each again, and remove it")
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!a} is not a positive number")
    return int(text)


def _guarantee(text: str) -> greet.Guarantee:
    try:
        return greet.Guarantee[text.upper().replace("-", "_")]
    except KeyError:
        known = ", ".join(one.name.lower().replace("_", "-") for one in greet.Guarantee)
        raise argparse.ArgumentTypeError(f"there is no {text!r}: choose from {known}") from None


class _Stop(asyncio.Event):
    """Set by a signal. Before the command is `working`, it has no effect yet, so a signal cancels it too."""

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

    on_interrupt(catch)
    names: list[str] = getattr(arguments, "names", [])
    if names == ["-"]:
        _check_input()
    elif "-" in names:
        raise greet.BadName("- reads names from standard input: let it stand alone")
    for name in names:  # nothing is sent when one of them is bad
        check(name)
    try:
        output = None if arguments.command == "send" else _Output(stop)
        async with _url(arguments) as url, greet.connect(url, arguments.topic, guarantee=arguments.guarantee) as line:
            if output and arguments.command == "dead":
                return await _dead(line, arguments.resend, output)
            if output and arguments.command == "consume":
                return await _consume(line, arguments, stop, output)
            source = _Source(names, stop)
            status = await (_run(line, source, output) if output else _send(line, source))
            return status or source.status or (128 + caught[0] if caught else 0)
    except asyncio.CancelledError:
        if not caught:
            raise
        return 128 + caught[0]


@asynccontextmanager
async def _url(arguments: argparse.Namespace) -> AsyncIterator[str]:
    """The URL for the arguments. Only `run` starts a broker, because other commands would not find it."""
    alone = arguments.command == "run"
    brokers_of = " or ".join(BROKERS)
    if arguments.url is not None:
        design = designs.of_url(arguments.url)
    elif arguments.via or alone:
        design = designs.named(arguments.via or IN_PROCESS[0])
    else:
        raise greet.GreetError(f"which broker? add --via {brokers_of}, or --url with your own")
    if design.in_process and not alone:
        raise greet.Unsupported(f"{design.name} works only within one process: use `run`, or --via {brokers_of}")
    if arguments.url is not None or not design.product:
        yield arguments.url or f"{design.scheme}:"
        return
    from greet import brokers  # noqa: PLC0415 - nobody waits for what is not used

    async with brokers.find(design.name, start=alone) as found:
        url = design.url(found)
        if (other := designs.of_url(url)) != design:
            raise greet.BadURL(
                f"{design.product.variable} holds a URL of {other.name}, not of {design.name}: correct it"
            )
        yield url


class _Output:
    """Standard output, written by a separate thread: a slow reader never blocks the event loop.

    A daemon thread, because a write to a full pipe can be neither awaited nor cancelled.
    """

    def __init__(self, stop: _Stop) -> None:
        """Raises `OutputLost` when it is closed; sets `stop` when the reader of a pipe goes away."""
        if sys.stdout is None:
            raise OutputLost("standard output is closed, so nobody would see a greeting: open it")
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        # Not buffered: a thread that is stuck in the buffer's lock would end Python with a crash.
        self._raw = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
        self._encoding = sys.stdout.encoding
        self._wanted: SimpleQueue[tuple[bytes, asyncio.Future[OSError | None]]] = SimpleQueue()
        self._writing: set[asyncio.Future[OSError | None]] = set()
        self._gone = False
        threading.Thread(target=self._write_all, daemon=True).start()
        if sys.platform != "win32" and stat.S_ISFIFO(os.fstat(self._raw.fileno()).st_mode):
            with suppress(OSError):
                self._loop.add_reader(self._raw.fileno(), self._look)

    @property
    def busy(self) -> bool:
        """Whether some output is not written yet."""
        return bool(self._writing)

    async def write(self, lines: Iterable[str]) -> None:
        """Return once the lines are written; raises `OutputLost`. They are written even if this is cancelled."""
        text = "".join(f"{line}{os.linesep}" for line in lines)
        done = self._loop.create_future()
        self._writing.add(done)
        done.add_done_callback(self._writing.discard)
        self._wanted.put((text.encode(self._encoding, "backslashreplace"), done))
        if error := await asyncio.shield(done):
            raise _lost(error)

    async def close(self) -> None:
        """Wait up to `DRAIN` until all is written; raises `OutputLost` if it is not, or if the reader is gone."""
        if self._writing:
            done, left = await asyncio.wait(self._writing, timeout=DRAIN)
            if left:
                raise OutputLost(f"nobody read the standard output for {DRAIN:g} s: the names in it come again")
            for error in filter(None, (one.result() for one in done)):
                raise _lost(error)
        if self._gone:
            raise _lost(BrokenPipeError())

    def _write_all(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            while True:
                text, done = self._wanted.get()
                error = None
                try:
                    _write(self._raw, text)
                except OSError as lost:
                    error = lost
                self._loop.call_soon_threadsafe(done.set_result, error)

    def _look(self) -> None:
        """Check once whether the pipe has lost its reader: then `poll` reports an error."""
        self._loop.remove_reader(self._raw.fileno())
        poll = select.poll()
        poll.register(self._raw.fileno(), 0)
        if poll.poll(0):
            self._gone = True
            self._stop.set()


def _write(raw: Any, text: bytes) -> None:
    left = memoryview(text)
    while left:
        written = raw.write(left)
        if written is None:  # someone else has made the file non-blocking
            select.select((), (raw,), ())
        left = left[written or 0 :]


def _lost(error: OSError) -> OutputLost:
    if isinstance(error, BrokenPipeError):
        return OutputLost("the reader of the standard output is gone")
    return OutputLost(f"the standard output cannot be written: {error.strerror or error}")


async def _run(line: greet.Line, source: _Source, output: _Output) -> int:
    waiting = {group: Counter[str]() for group in GREETINGS}  # sent, and not yet greeted
    progress, over = asyncio.Event(), asyncio.Event()
    # In one process a slow reader of our output would fill the queue until a publish fails.
    ahead = 0 if line.design.in_process else AHEAD

    async def greeter(group: str, subscription: greet.Subscription) -> None:
        left = waiting[group]
        async for names in _until(over, subscription.batches()):
            await output.write(map(GREETINGS[group], names))
            left.subtract(names)
            for name in {name for name in names if left[name] <= 0}:
                del left[name]
            progress.set()

    async def hurry() -> None:
        await source.stop.wait()
        progress.set()  # from now on, wait no longer than `DRAIN` for a greeting

    async def drained(to: int = 0) -> None:
        while any(len(left) > to for left in waiting.values()):
            progress.clear()
            try:
                async with asyncio.timeout(DRAIN if source.stop.is_set() else line.timeout):
                    await progress.wait()
            except TimeoutError:
                if source.stop.is_set() or not output.busy:  # else the reader of our output is slow, not the line
                    raise

    async with line.subscribe("hello") as hellos, line.subscribe("goodbye") as goodbyes, asyncio.TaskGroup() as group:
        source.stop.working = True
        hurrying, *_ = [
            group.create_task(one) for one in (hurry(), greeter("hello", hellos), greeter("goodbye", goodbyes))
        ]
        with suppress(TimeoutError):
            async for names in source:
                for left in waiting.values():
                    left.update(names)
                await line.publish_many(names)
                await drained(to=ahead)
            await drained()
        await output.close()
        over.set()
        hurrying.cancel()
    for who, left in waiting.items():
        if left:
            _tell(f"{counted(left.total())} did not reach {who}: does another consumer have them?")
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
        # Not `counted`: scripts read this number, so it has no commas.
        _tell(f"{accepted} name{'s' * (accepted != 1)} accepted ({line.guarantee.name})")
    return 0


async def _consume(line: greet.Line, arguments: argparse.Namespace, stop: _Stop, output: _Output) -> int:
    async with line.subscribe(arguments.group, replay=arguments.replay) as subscription:
        stop.working = True
        again = "; --replay is for a new group, and one that has read before goes on" if arguments.replay else ""
        _tell(f"listening as {arguments.group} to {line.address} (Ctrl-C ends){again}")
        if arguments.ready:
            try:
                arguments.ready.touch()
            except OSError as error:
                raise greet.GreetError(f"--ready {str(arguments.ready)!a} cannot be made: {error.strerror}") from None
        counted = _one_by_one(subscription, arguments.count) if arguments.count else subscription.batches()
        async for names in _until(stop, counted):
            await _unless(stop, output.write(map(GREETINGS[arguments.group], names)))
        await output.close()  # else names whose greeting was not read would be settled
    return 0


async def _one_by_one(names: greet.Subscription, count: int) -> AsyncIterator[list[str]]:
    """The first `count` names: a list would be settled as a whole."""
    for _ in range(count):
        yield [await anext(names)]


async def _until(stop: asyncio.Event, lists: AsyncIterator[list[str]]) -> AsyncIterator[list[str]]:
    """What `lists` gives until `stop` is set, or it ends."""

    async def following() -> list[str] | None:
        return await anext(lists, None)

    while not stop.is_set() and (names := await _unless(stop, following())):
        yield names


async def _dead(line: greet.Line, resend: bool, output: _Output) -> int:
    if resend and (count := await line.resend_dead_letters()):
        _tell(f"{count} sent again")
    elif not resend and (letters := await line.dead_letters()):
        # Anybody may have written these texts to the broker: escape what could control a terminal.
        rows = ((letter.origin, letter.group, letter.reason, repr(letter.body[:80])) for letter in letters)
        await output.write("\t".join(map(_visible, row)) for row in rows)
    else:
        _tell(f"{line.topic} has no dead letters")
    return 0


class _Source:
    """The names of the command line, or of standard input, in lists; it ends early on `stop`."""

    def __init__(self, names: list[str], stop: _Stop) -> None:
        self.names = names
        self.stop = stop
        self.status = 0
        """2 if a line of standard input was not a name: it is reported, and the others are sent."""

    async def __aiter__(self) -> AsyncIterator[list[str]]:
        if self.names != ["-"]:
            yield self.names
            return
        read: asyncio.Queue[list[bytes | int] | OSError] = asyncio.Queue()
        room = threading.Semaphore(2)
        threading.Thread(target=_hand_on, args=(asyncio.get_running_loop(), read, room), daemon=True).start()
        count = 0
        while not self.stop.is_set() and (lines := await _unless(self.stop, read.get())):
            if isinstance(lines, OSError):
                self.status = _fail(_unreadable(lines))
                return
            room.release()
            good = []
            for line in lines:
                count += 1
                try:
                    good.append(_name(line))
                except greet.BadName as error:
                    self.status = _fail(f"line {count}: {error}")
            yield good


def _name(line: bytes | int) -> str:
    if isinstance(line, int):
        raise greet.BadName(f"a name has 1 to {MAX_BYTES:,} bytes of UTF-8, this one {line:,}: shorten it")
    return decode(line)


def _check_input() -> None:
    """Raise `GreetError` when standard input cannot be read."""
    if sys.stdin is None:
        raise greet.GreetError("standard input cannot be read: it is closed")
    try:
        os.read(sys.stdin.fileno(), 0)
    except OSError as error:
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> greet.GreetError:
    return greet.GreetError(f"standard input cannot be read: {error.strerror}")


def _hand_on(
    loop: asyncio.AbstractEventLoop, read: asyncio.Queue[list[bytes | int] | OSError], room: threading.Semaphore
) -> None:
    """Pass on the lines of standard input as they come, then an empty list, or the error that ended it.

    A separate daemon thread, because a read from a terminal can be neither awaited nor cancelled.
    """
    with suppress(RuntimeError):  # the loop is closed: nobody needs the lines any more
        try:
            for lines in _lines(sys.stdin.fileno()):
                room.acquire()
                loop.call_soon_threadsafe(read.put_nowait, lines)
            loop.call_soon_threadsafe(read.put_nowait, [])
        except OSError as error:
            loop.call_soon_threadsafe(read.put_nowait, error)


def _lines(file: int) -> Iterator[list[bytes | int]]:
    """The lines of a file as they come. For a line that is much too long for a name, only its length."""
    rest, cut, begun = b"", 0, False
    while block := _read(file):
        rest += block
        if not begun and len(rest) < len(codecs.BOM_UTF8) and codecs.BOM_UTF8.startswith(rest):
            continue
        if not begun:
            rest, begun = rest.removeprefix(codecs.BOM_UTF8), True
        *whole, rest = rest.split(b"\n")
        if whole:
            bodies = [line.removesuffix(b"\r") for line in whole]
            yield [cut + len(bodies[0]) if cut else bodies[0], *bodies[1:]]
            cut = 0
        if (more := len(rest) - MAX_BYTES - 1) > 0:
            rest, cut = rest[more:], cut + more
    if rest:
        rest = rest.removesuffix(b"\r")
        yield [cut + len(rest) if cut else rest]


def _read(file: int) -> bytes:
    while True:
        try:
            return os.read(file, 65_536)
        except BlockingIOError:  # someone else has made the file non-blocking
            select.select((file,), (), ())


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None if `stop` is set before."""
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


def _tell(text: str) -> None:
    """Print one line to standard error, if that is open."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"greet: {_visible(text)}", file=sys.stderr, flush=True)


def _visible(text: str) -> str:
    """`text`, with all characters escaped that could control a terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _fail(error: object) -> int:
    _tell(str(error))
    if isinstance(error, (greet.BrokerMissing, greet.ConnectFailed)):
        return 3
    if isinstance(error, (OutputLost, greet.PublishFailed, greet.PublishUnknown, greet.ConnectionLost)):
        return 1
    return 2


if __name__ == "__main__":
    sys.exit(main())
