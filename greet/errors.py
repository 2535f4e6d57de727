"""The errors of greet: one tree, each with a one-line message that says what to do next.

    GreetError
    ├── BadName           this is no name; it was not sent
    ├── BadURL            this address cannot be understood
    ├── Unsupported       the design cannot do that, by its nature
    ├── WrongUse          not entered, entered twice, or used by another task or event loop; nothing was done
    ├── BrokerMissing     no broker was found and none could be started
    ├── ConnectFailed     a broker was named, but no usable connection came about
    ├── PublishFailed     surely not accepted: publishing again makes no duplicate
    ├── PublishUnknown    nobody can tell: publishing again may make a duplicate
    └── ConnectionLost    a line that worked is gone, and did not come back in time

A driver's own exception never leaves greet: it is chained as the cause of one of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class GreetError(Exception):
    """Whatever greet raises on purpose.

    `accepted` counts the names that a failed `Line.publish_many` had surely got accepted.
    """

    accepted = 0


class BadName(GreetError, ValueError):
    """The text is no name; it was not sent."""


class BadURL(GreetError, ValueError):
    """The address cannot be understood."""


class Unsupported(GreetError):
    """The design cannot do that, by its nature."""


class WrongUse(GreetError, RuntimeError):
    """Not entered, entered twice at once, or used by another task, event loop or thread. Nothing was done."""


class BrokerMissing(GreetError):
    """No broker was found and none could be started."""


class ConnectFailed(GreetError):
    """A broker was named, but no usable connection came about."""


class PublishFailed(GreetError):
    """Surely not accepted: publishing again makes no duplicate."""


class PublishUnknown(GreetError):
    """A time-out or a lost confirm, so nobody can tell: publishing again may make a duplicate."""


class ConnectionLost(GreetError):
    """A line that worked is gone, and did not come back in time."""


def one_line(error: BaseException) -> str:
    """What `error` says, on one line, without a password that a URL in it may hold."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


@contextmanager
def translated(kinds: tuple[type[Exception], ...], ours: type[GreetError], what: str) -> Iterator[None]:
    """Raise `ours` in place of a driver's exception of `kinds`, chained to it.

    Only calls of a driver belong under it, never a `yield` to the user's code: the user's own
    exceptions would come out as ours.
    """
    try:
        yield
    except kinds as error:
        raise ours(f"{what}: {one_line(error)}") from error
