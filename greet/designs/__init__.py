"""The designs, one record each: all that the rest of the kit knows about a design.

The kit asks what a design can do (`if design.replays`), never what it is called. To add a design, add
its file to this folder and its record to `DESIGNS`. The shortest example is a log in memory, of 75
lines: `tests/greet/fourth/memory_log.py`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from math import inf
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
    """Where it listens on loopback if `docker-compose.yaml` has started it."""
    start: str
    """The function that starts a private one, as "module:function"."""
    slow_at_first_s: float = 0.0
    """For how long it is slower after a start: Java compiles what is used often."""


@dataclass(frozen=True)
class Design:
    """One way to carry names. All differences between designs that the kit needs are fields of this record."""

    name: str
    title: str
    line: str
    """The class of its line, as "module:class"; imported on first use."""
    schemes: tuple[str, ...]
    """The schemes of its URL. If there are two, the second one encrypts."""
    ports: tuple[int, ...]
    """The default port for each scheme; 0 if the design has no hosts."""
    keys: tuple[str, ...]
    """The keys that it accepts in the query of its URL, besides those that all designs accept."""
    guarantees: tuple[Guarantee, ...]
    """The guarantees that it offers, the strongest last."""
    fast: str = ""
    """The class of its faster line, if there is one. It is the default; `path=plain` in the URL takes the plain one."""
    fast_for: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The versions of the drivers for which the faster line was written; with others the plain one is used."""
    product: Product | None = None
    """The broker that it needs; None if it runs in one process."""
    made: tuple[str, ...] = ("{topic}:{group}",)
    """What it creates on the broker for a topic and its groups, besides the topic itself and its dead letters."""
    usual: bool = True
    """Whether it is measured by default. If not, only by the questions about speed, in the full profile."""

    # What it can do.
    no_replay: str = ""
    """Why a new group cannot start at the oldest name that is kept; empty if it can."""
    keeps_unread: bool = False
    """It keeps names on a topic that no group has ever read."""
    deals_out: bool = False
    """Each name goes to any member that is free, so any number of members share the work."""
    partitioned: bool = False
    """A topic has as many partitions as `?partitions=` says; each has one reader of a group at a time."""
    orders_by_key: bool = False
    """Equal names stay in order, however many members share the work."""
    ordered: bool = True
    """Names of one publisher reach a group with a single member in the order in which they were published."""
    deliveries: int = 0
    """How often a name is delivered, at most. If it is not settled by then, it is a dead letter. 0: no limit."""
    deletes_after_s: float = inf
    """For how many seconds the broker keeps a name by default, whether it was read or not."""
    forgets_at_restart: bool = False
    """With less than `DURABLE` the broker keeps names in memory only, so its restart loses them; not with `quorum`."""
    waits_to_settle_early: bool = False
    """With `AT_MOST_ONCE` a member waits so long for the broker that `AT_LEAST_ONCE` costs less."""
    lends_for: float = 0.0
    """For how many seconds a member has a name; after that it is delivered again. 0: as long as the member lives."""
    variants: tuple[str, ...] = ()
    """Queries of the URL that change how names travel. The promises hold for each of them."""
    quorum: str = ""
    """The query of the URL with which a topic survives the loss of a member of a cluster."""

    @property
    def replays(self) -> bool:
        """Whether a new group can start at the oldest name that is still kept."""
        return not self.no_replay

    @property
    def in_process(self) -> bool:
        """Whether it runs in one process, without a broker."""
        return self.product is None

    @property
    def survives_a_kill(self) -> bool:
        """Whether names can survive if the process that keeps them is killed."""
        return Guarantee.DURABLE in self.guarantees

    def at_work(self, members: int, partitions: int = 0) -> int:
        """How many of the `members` of a group get names at the same time. 0 partitions: one for each member."""
        if self.deals_out:
            return members
        return min(members, partitions or members) if self.partitioned else 1

    @property
    def scheme(self) -> str:
        """The scheme of a URL without encryption."""
        return self.schemes[0]

    def line_class(self, address: Address) -> type[Line]:
        """The class of a line to `address`: the fast one, or the plain one if its query says `path=plain`."""
        path = address.choice("path", "fast", "plain")
        name = self.fast if self.fast and path == "fast" and self._knows_drivers() else self.line
        module, _, of_module = name.partition(":")
        found: type[Line] = getattr(import_module(module), of_module)
        return found

    def _knows_drivers(self) -> bool:
        for driver, known in self.fast_for:
            if (here := version(driver)) not in known:
                warnings.warn(
                    f"greet uses its plain path for {self.title}: the fast one is for {driver} {' and '.join(known)},"
                    f" and {here} is installed",
                    RuntimeWarning,
                    stacklevel=4,
                )
                return False
        return True

    def url(self, of_product: str) -> str:
        """The URL of this design for the broker at `of_product`, which is a URL of any design of the same product."""
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
    slow_at_first_s=20.0,
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
        no_replay="asyncio keeps no name that was read, so it cannot replay: use kafka:// or rabbitmq+stream://",
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
        forgets_at_restart=True,
        no_replay="a queue of RabbitMQ keeps no name that was settled, so it cannot replay: use kafka:// or "
        "rabbitmq+stream://",
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
        deletes_after_s=7 * 86400,
        waits_to_settle_early=True,
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
        waits_to_settle_early=True,
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
        deletes_after_s=7 * 86400,
        made=("{topic}:{group}:share",),
        usual=False,
        waits_to_settle_early=True,
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
    """The design with that name; raises `KeyError` if there is none."""
    return {one.name: one for one in DESIGNS}[name]


def with_scheme(scheme: str) -> Design | None:
    """The design whose URLs begin with `scheme`, in upper or lower case."""
    return next((one for one in DESIGNS if scheme.lower() in one.schemes), None)


def of_url(url: str) -> Design:
    """The design of `url`; raises `BadURL` if no design has its scheme."""
    scheme = url.partition(":")[0]
    if found := with_scheme(scheme):
        return found
    known = ", ".join(scheme for one in DESIGNS for scheme in one.schemes)
    raise BadURL(f"no design has the scheme {scheme[:40]!a}: use one of {known}")
