"""hello and goodbye through queues of three architectures, with the same promises.

    import greet

    async with greet.connect("kafka://127.0.0.1:9092", topic="names") as line:
        async with line.subscribe("hello") as names:
            await line.publish("Ada")
            async for name in names:
                print(greet.hello(name))  # hello Ada

Read `greet.line` for the promises, then `greet.designs` for the three ways to keep them.
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
    """A line to `topic` over the design that the scheme of `url` names, opened by `async with`.

    What only one design has is said in the URL's query: `kafka://host:9092?partitions=4`,
    `amqp://host/?queue_type=quorum`. Without a `guarantee` it is the strongest of the design.

    Raises:
        BadURL: the URL or the topic cannot be understood.
        Unsupported: the design cannot give that guarantee.
        ConnectFailed: by `async with`, when no connection comes about by the deadline.
    """
    design = designs.of_url(url)
    address = parse(url, design)
    return design.line_class(address)(design, address, topic, guarantee)
