"""The errors of greet: one tree, each with a one-line message that says what to do next.

    GreetError
    ├── BadName           this is not a name; it was not sent
    ├── BadURL            this address cannot be understood
    ├── Unsupported       the design cannot do that, by its nature
    ├── WrongUse          not entered, entered twice, or used by another task or event loop; nothing was done
    ├── BrokerMissing     no broker was found and none could be started
    ├── ConnectFailed     a broker was named, but there is no usable connection to it
    ├── PublishFailed     certainly not accepted: publishing again makes no duplicate
    ├── PublishUnknown    perhaps accepted: publishing again may make a duplicate
    └── ConnectionLost    a connection that worked was lost, and did not come back in time

A driver's own exception never leaves greet: it is chained as the cause of one of these.
"""

from __future__ import annotations

import re


class GreetError(Exception):
    """All errors that greet raises on purpose.

    `accepted` is the number of names that were certainly accepted before a `Line.publish_many` failed.
    """

    accepted = 0


class BadName(GreetError, ValueError):
    """The text is not a name; it was not sent."""


class BadURL(GreetError, ValueError):
    """The address cannot be understood."""


class Unsupported(GreetError):
    """The design cannot do that, by its nature."""


class WrongUse(GreetError, RuntimeError):
    """Not entered, entered twice at once, or used by another task, event loop or thread. Nothing was done."""


class BrokerMissing(GreetError):
    """No broker was found and none could be started."""


class ConnectFailed(GreetError):
    """A broker was named, but there is no usable connection to it."""


class PublishFailed(GreetError):
    """Certainly not accepted: publishing again makes no duplicate."""


class PublishUnknown(GreetError):
    """A time-out or a lost confirm: perhaps it was accepted, and publishing again may make a duplicate."""


class ConnectionLost(GreetError):
    """A connection that worked was lost, and did not come back in time."""


def one_line(error: BaseException) -> str:
    """The text of `error` on one line, without any password of a URL in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
