"""The designs, one record each: all that the rest of the kit knows of a design, and what it can.

The kit asks what a design can (`if design.replays`), and never what it is called. To add a design:
its file in this folder, and its record in `DESIGNS`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from greet.errors import BadURL
from greet.line import Guarantee

if TYPE_CHECKING:
    from greet.address import Address
    from greet.line import Line

ALL = (Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)


@dataclass(frozen=True)
class Product:
    """A broker that designs use; the designs of one product share its address."""

    name: str
    title: str
    variable: str
    """The environment variable that holds its URL."""
    url: str
    """Where it listens on loopback when `docker-compose.yaml` has started it."""
    start: str
    """What starts a private one, as "module:function"."""


@dataclass(frozen=True)
class Design:
    """One way to carry names. What differs between designs is said here, as data."""

    name: str
    title: str
    line: str
    """The class of its line, as "module:class"; imported when it is first asked for."""
    schemes: tuple[str, ...]
    """Of its URL; the one that encrypts is the last of two."""
    ports: tuple[int, ...]
    """The port of a host that names none, for each scheme; 0 where the design has no hosts."""
    keys: tuple[str, ...]
    """The keys that it knows in the query of its URL, besides those that all know."""
    guarantees: tuple[Guarantee, ...]
    """What it can promise, the strongest last."""
    fast: str = ""
    """The class of its line by a faster way, if there is one: that is taken unless the URL says `path=plain`."""
    fast_for: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The versions of the drivers that the faster way knows; with others the plain way is taken."""
    product: Product | None = None
    """The broker that it needs; None if it lives in one process."""
    made: tuple[str, ...] = ("{topic}:{group}",)
    """What is made on the broker for a topic and its groups, besides the topic itself and its dead letters."""
    usual: bool = True
    """Whether it is measured where no designs are named. If not, then only by questions about speed, at length."""

    # What it can.
    no_replay: str = ""
    """Why a new group cannot start at the oldest name that is kept; empty if it can."""
    keeps_unread: bool = False
    """Names are kept on a topic that no group has ever read."""
    deals_out: bool = False
    """Names go one by one to whichever member is free, so any number of members share the work."""
    partitioned: bool = False
    """A topic has as many partitions as `?partitions=` says; each has one reader of a group at a time."""
    orders_by_key: bool = False
    """Equal names keep their order, however many members share the work."""
    ordered: bool = True
    """Names of one publisher reach a group with a single member in the order published."""
    deliveries: int = 0
    """How often a name is handed out, at most; what is not settled by then is kept in the dead letters. 0: no limit."""
    lends_for: float = 0.0
    """For how many seconds: a name that takes longer to handle comes again. 0: as long as its member lives."""
    variants: tuple[str, ...] = ()
    """What else the query of the URL may say that changes how names travel; the promises hold for each."""
    quorum: str = ""
    """What the query of the URL says so that a topic survives the loss of a member of a cluster."""

    @property
    def replays(self) -> bool:
        """Whether a new group can start at the oldest name that is kept."""
        return not self.no_replay

    @property
    def in_process(self) -> bool:
        """Whether it lives in one process, and needs no broker."""
        return self.product is None

    @property
    def survives_a_kill(self) -> bool:
        """Whether names can outlive the kill of whatever keeps them."""
        return Guarantee.DURABLE in self.guarantees

    def at_work(self, members: int, partitions: int = 0) -> int:
        """How many of the `members` of a group get names at a time; 0 partitions are one for each member."""
        if self.deals_out:
            return members
        return min(members, partitions or members) if self.partitioned else 1

    @property
    def scheme(self) -> str:
        """The scheme of a URL that is not encrypted."""
        return self.schemes[0]

    def line_class(self, address: Address) -> type[Line]:
        """The class of a line to `address`, by the way that its `path` names: fast (the default), or plain."""
        path = address.choice("path", "fast", "plain")
        name = self.fast if self.fast and path == "fast" and self._knows_drivers() else self.line
        module, _, of_module = name.partition(":")
        found: type[Line] = getattr(import_module(module), of_module)
        return found

    def _knows_drivers(self) -> bool:
        for driver, known in self.fast_for:
            if (here := version(driver)) not in known:
                warnings.warn(
                    f"greet takes the plain way over {self.title}: its fast one knows {driver} {' and '.join(known)},"
                    f" and this is {here}",
                    RuntimeWarning,
                    stacklevel=4,
                )
                return False
        return True

    def url(self, of_product: str) -> str:
        """The URL of this design for a broker whose URL, of any design of its product, is `of_product`."""
        scheme, colon, rest = of_product.partition(":")
        found = with_scheme(scheme)
        if found is None or found.product != self.product:
            return of_product
        return self.schemes[found.schemes.index(scheme.lower())] + colon + rest


RABBITMQ = Product(
    name="rabbitmq",
    title="RabbitMQ",
    variable="GREET_RABBITMQ_URL",
    url="amqp://guest:guest@127.0.0.1:5672/",
    start="greet.brokers.rabbitmq:rabbitmq",
)
KAFKA = Product(
    name="kafka",
    title="Kafka",
    variable="GREET_KAFKA_URL",
    url="kafka://127.0.0.1:9092",
    start="greet.brokers.kafka:kafka",
)

DESIGNS = (
    Design(
        name="asyncio",
        title="asyncio",
        line="greet.designs.asyncio_queue:AsyncioLine",
        schemes=("asyncio",),
        ports=(0,),
        keys=("maxsize",),
        guarantees=ALL[:2],
        no_replay="asyncio keeps no name that was read, so it cannot replay: use kafka",
        deals_out=True,
    ),
    Design(
        name="rabbitmq",
        title="RabbitMQ",
        line="greet.designs.rabbitmq:RabbitMQLine",
        fast="greet.fast.rabbitmq:FastRabbitMQLine",
        fast_for=(("aio-pika", ("10.2.0", "10.2.1")), ("aiormq", ("7.2.3", "7.2.4"))),
        schemes=("amqp", "amqps"),
        ports=(5672, 5671),
        keys=("queue_type", "prefetch", "heartbeat", "ca", "cert", "key"),
        guarantees=ALL,
        product=RABBITMQ,
        no_replay="a queue of RabbitMQ keeps no name that was settled, so it cannot replay: use kafka",
        deals_out=True,
        variants=("queue_type=quorum",),
        quorum="queue_type=quorum",
    ),
    Design(
        name="kafka",
        title="Kafka",
        line="greet.designs.kafka:KafkaLine",
        fast="greet.fast.kafka:FastKafkaLine",
        fast_for=(("aiokafka", ("0.14.0",)),),
        schemes=("kafka", "kafka+ssl"),
        ports=(9092, 9092),
        keys=("partitions", "replication", "compression", "sasl", "ca", "cert", "key", "token_file"),
        guarantees=ALL,
        product=KAFKA,
        keeps_unread=True,
        partitioned=True,
        orders_by_key=True,
        variants=("partitions=4",),
        quorum="replication=3",
    ),
    Design(
        name="rabbitmq-stream",
        title="RabbitMQ stream",
        line="greet.designs.rabbitmq_stream:StreamLine",
        fast="greet.fast.rabbitmq_stream:FastStreamLine",
        fast_for=(("aio-pika", ("10.2.1",)), ("aiormq", ("7.2.4",))),
        schemes=("rabbitmq+stream", "rabbitmq+stream+ssl"),
        ports=(5672, 5671),
        keys=("queue_type", "prefetch", "heartbeat", "ca", "cert", "key"),
        guarantees=ALL,
        product=RABBITMQ,
        made=("{topic}.stream", "{topic}:{group}:place"),
        usual=False,
        keeps_unread=True,
        orders_by_key=True,
        quorum="queue_type=quorum",
    ),
    Design(
        name="kafka-share",
        title="Kafka share group",
        line="greet.designs.kafka_share:KafkaShareLine",
        schemes=("kafka+share", "kafka+share+ssl"),
        ports=(9092, 9092),
        keys=("partitions", "replication", "deal", "compression", "ca", "cert", "key"),
        guarantees=ALL,
        product=KAFKA,
        made=("{topic}:{group}:share",),
        usual=False,
        keeps_unread=True,
        deals_out=True,
        ordered=False,
        deliveries=8,
        lends_for=60.0,
        variants=("partitions=4",),
        quorum="replication=3",
    ),
)
PRODUCTS = tuple(dict.fromkeys(one.product for one in DESIGNS if one.product))


def names() -> tuple[str, ...]:
    """The names of all designs, in the order in which they are shown."""
    return tuple(one.name for one in DESIGNS)


def named(name: str) -> Design:
    """The design of that name; raises `KeyError` when there is none."""
    return {one.name: one for one in DESIGNS}[name]


def with_scheme(scheme: str) -> Design | None:
    """The design whose URLs begin with `scheme`, in any case of letters."""
    return next((one for one in DESIGNS if scheme.lower() in one.schemes), None)


def of_url(url: str) -> Design:
    """The design of `url`; raises `BadURL` when none has its scheme."""
    scheme = url.partition(":")[0]
    if found := with_scheme(scheme):
        return found
    known = ", ".join(scheme for one in DESIGNS for scheme in one.schemes)
    raise BadURL(f"no design has the scheme {scheme[:40]!a}: use one of {known}")
