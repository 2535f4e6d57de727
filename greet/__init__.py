"""hello and goodbye through three kinds of message queues, with the same promises.

    import greet

    async with greet.connect("kafka://127.0.0.1:9092", topic="names") as line:
        async with line.subscribe("hello") as names:
            await line.publish("Ada")
            async for name in names:
                print(greet.hello(name))  # hello Ada

Read `greet.line` for the promises, then `greet.designs` for the ways to keep them.
"""

from __future__ import annotations

from greet import designs
from greet.address import parse
from greet.errors import (
    BadName,
    BadURL,
    BrokerMissing,
    ConnectFailed,
    ConnectionLost,
    GreetError,
    PublishFailed,
    PublishUnknown,
    Unsupported,
    WrongUse,
)
from greet.line import Guarantee, Line, Subscription
from greet.names import goodbye, hello

__all__ = [
    "BadName",
    "BadURL",
    "BrokerMissing",
    "ConnectFailed",
    "ConnectionLost",
    "GreetError",
    "Guarantee",
    "Line",
    "PublishFailed",
    "PublishUnknown",
    "Subscription",
    "Unsupported",
    "WrongUse",
    "connect",
    "goodbye",
    "hello",
]


def connect(url: str, topic: str = "names", *, guarantee: Guarantee | None = None) -> Line:
    """A line to `topic`, opened by `async with`. The scheme of `url` selects the design.

    Settings of one design are in the URL's query: `kafka://host:9092?partitions=4`,
    `amqp://host/?queue_type=quorum`. The default `guarantee` is the strongest of the design.

    Raises:
        BadURL: the URL or the topic cannot be understood.
        Unsupported: the design cannot give that guarantee.
        ConnectFailed: raised by `async with` if there is no connection before the deadline.
    """
    design = designs.of_url(url)
    address = parse(url, design)
    return design.line_class(address)(design, address, topic, guarantee)
