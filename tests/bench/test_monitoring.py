"""The profile `monitoring` of compose: the real Prometheus asks what its dashboard shows, while all goes wrong."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml  # type: ignore[import-untyped]

from bench.show import inside, tools
from bench.show.inside import PREFETCH, TOPIC, Scene, Stage
from bench.show.tools import BEHIND, FAST, FULL, MEMBERS, OLDEST, QUESTIONS, STUCK
from greet import brokers
from greet.brokers import Broker
from greet.brokers.process import free_ports, listens
from greet.designs import DESIGNS, KAFKA, RABBITMQ, Product

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text(encoding="utf-8"))
JOBS = {job["job_name"]: job for job in CONFIG["scrape_configs"]}
DASHBOARD: dict[str, Any] = json.loads((ROOT / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
PROGRAMS = {name: shutil.which(name) for name in ("prometheus", "promtool", "prometheus-node-exporter")}
VOLUME = "/var/lib/kafka/data"
"""Where compose shows Kafka's volume to the node exporter."""
HELLO, GOODBYE = f"{TOPIC}:hello", f"{TOPIC}:goodbye"
WINDOW_S = 30.0
"""What the queries look back."""
LATE_S = 15.0
"""How old a figure may be: RabbitMQ's are renewed each 5 s, and are asked for each 5 s."""
PATIENCE_S = 120.0
"""Seconds from the first message that Prometheus has for its answers."""
NEAR = 0.2

Told = list[tuple[str, float]]
"""What a query gives: the queue, group or topic, and the value."""
tried = pytest.mark.skipif(
    not all(PROGRAMS.values()),
    reason="no Prometheus here: apt-get install prometheus prometheus-node-exporter, to try the dashboard",
)


# --- the files ---


def test_each_question_has_a_panel_for_each_broker() -> None:
    titles = {f"{product.title}: {question}" for product in (RABBITMQ, KAFKA) for question in QUESTIONS}
    assert titles <= PANELS.keys()
    assert len(PANELS) == len(titles) + 1, "one more says who answers Prometheus"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(PANELS)


def test_every_panel_asks_the_prometheus_that_compose_starts() -> None:
    (source,) = yaml.safe_load(COMPOSE["configs"]["grafana-datasource"]["content"])["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert f"127.0.0.1:{port}:{port}" in SERVICES[host]["ports"]
    for title, panel in PANELS.items():
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}, title
        assert panel["targets"], title


def test_prometheus_asks_what_compose_starts() -> None:
    hosts = {job["static_configs"][0]["targets"][0].partition(":")[0] for job in JOBS.values()}
    assert hosts == {"rabbitmq", "kminion", "kafka-disk"}
    for host in hosts:
        assert "monitoring" in SERVICES[host]["profiles"]
    assert SERVICES["kafka-disk"]["volumes"] == [f"kafka:{VOLUME}:ro"]
    assert any(VOLUME in target["expr"] for target in PANELS[f"Kafka: {FULL}"]["targets"])


# --- the queries ---


@tried
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("product", [RABBITMQ, KAFKA], ids=lambda product: product.name)
async def test_prometheus_answers_the_six_questions(product: Product, tmp_path: Path) -> None:
    design = next(one for one in DESIGNS if one.product is product)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(brokers.private(product, **inside.START[product]))
        exporters = of_rabbitmq if product is RABBITMQ else of_kafka
        targets = await stack.enter_async_context(exporters(broker, tmp_path))
        ask = await stack.enter_async_context(prometheus(targets, tmp_path))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stage = Stage(design, broker, tasks)
        await stack.enter_async_context(inside.gone_wrong(stage, lambda: asyncio.sleep(0)))
        left = {question: list[Told]() for question in QUESTIONS}
        while left and time.monotonic() < stage.scene.began + PATIENCE_S:
            for question in list(left):
                left[question] = [await ask(one["expr"]) for one in PANELS[f"{product.title}: {question}"]["targets"]]
                if right(question, left[question], stage.scene):
                    del left[question]
            await asyncio.sleep(1)
        up = dict(await ask("up"))
    assert left == {}
    assert up == dict.fromkeys(targets, 1.0)


def right(question: str, told: Sequence[Told], scene: Scene) -> bool:
    """Whether each query of a panel tells what is true."""
    now = time.monotonic()
    groups = [dict(one) for one in told]
    if question == BEHIND:
        return published(scene, now - LATE_S) < groups[0].get(GOODBYE, -1) <= published(scene, now)
    if question == FAST:
        since, until = now - WINDOW_S, now
        true = [inside._rate(counts, since, until) for counts in scene.counts]
        rates = [groups[0].get(HELLO) or groups[0].get(TOPIC), groups[1].get(HELLO)]
        return all(rate and abs(rate - known) < NEAR * known for rate, known in zip(rates, true, strict=True))
    if question == STUCK:
        waits = [value for name, value in told[0] if name == HELLO]
        # Of RabbitMQ what it has in hand, of Kafka what waits in its partition.
        least = 1 if len(told[0]) == 1 else published(scene, now - LATE_S) * 0.3
        return now - scene.stuck > WINDOW_S + LATE_S and len(waits) == 1 and waits[0] >= min(least, 10 * PREFETCH)
    if question == MEMBERS:
        return groups[0].get(HELLO) == 2 and groups[0].get(GOODBYE) == 0
    if question == OLDEST:
        age = now - scene.began
        stamped = groups[0].get(tools._stamped(TOPIC), age) if len(told) == 2 else age
        return abs(groups[-1].get(GOODBYE, 0) - age) < NEAR * age and abs(stamped - age) < LATE_S + tools.ASK_S
    assert question == FULL
    return [math.isfinite(value) and value > 3600 for _, value in told[0]] == [True]


def published(scene: Scene, when: float) -> int:
    return next((total for at, total in reversed(scene.published) if at <= when), 0)


# --- what is asked, and who asks ---


@asynccontextmanager
async def of_rabbitmq(broker: Broker, _: Path) -> AsyncIterator[dict[str, str]]:
    plugins = broker.nodes[0].plugins
    api = tools._http(plugins["rabbitmq_management"], *tools._login(broker.url))
    await tools._publish_stamped(api, tools._stamped(TOPIC))
    yield {"rabbitmq": f"127.0.0.1:{plugins['rabbitmq_prometheus']}"}


@asynccontextmanager
async def of_kafka(broker: Broker, folder: Path) -> AsyncIterator[dict[str, str]]:
    """KMinion, if it is on PATH; else what tells the same by the same names."""
    lag, disk = free_ports(2)
    servers = broker.url.partition("://")[2]
    node = [str(PROGRAMS["prometheus-node-exporter"]), f"--web.listen-address=127.0.0.1:{disk}"]
    node += [*SERVICES["kafka-disk"]["command"], "--collector.filesystem.fs-types-exclude=^$"]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(node, disk, folder))
        if kminion := shutil.which("kminion"):
            own = {"KAFKA_BROKERS": servers, "EXPORTER_HOST": "127.0.0.1", "EXPORTER_PORT": str(lag)}
            await stack.enter_async_context(running([kminion], lag, folder, own))
        else:
            stack.enter_context(answering(lag, lambda: as_kminion(servers, broker.folder)))
        yield {"kafka": f"127.0.0.1:{lag}", "kafka-disk": f"127.0.0.1:{disk}"}


@asynccontextmanager
async def prometheus(targets: Mapping[str, str], folder: Path) -> AsyncIterator[Callable[[str], Any]]:
    """It, with the kit's configuration but other targets; what asks it a query."""
    jobs = [JOBS[name] | {"static_configs": [{"targets": [target]}]} for name, target in targets.items()]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(CONFIG | {"scrape_configs": jobs}))
    (port,) = free_ports(1)
    command = [str(PROGRAMS["prometheus"]), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    async with running([*command, f"--web.listen-address=127.0.0.1:{port}"], port, folder):
        get = tools._http(port)
        mount = next(str(one) for one in [folder, *folder.parents] if one.is_mount())

        async def ask(query: str) -> Told:
            said = await get(f"/api/v1/query?query={quote(query.replace(VOLUME, mount))}")
            return [
                (next((one["metric"][key] for key in LABELS if key in one["metric"]), ""), float(one["value"][1]))
                for one in json.loads(said)["data"]["result"]
            ]

        yield ask


LABELS = ("queue", "group_id", "topic_name", "job")


@asynccontextmanager
async def running(
    command: Sequence[str], port: int, folder: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """A program, once it listens; and its end."""
    with (folder / Path(command[0]).name).with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env=os.environ | (environment or {}), stdout=log, stderr=log, cwd=folder
        )
    try:
        deadline = time.monotonic() + 30
        while not await listens(port):
            assert process.returncode is None, f"{command[0]} ended: its log is {log.name}"
            assert time.monotonic() < deadline, f"{command[0]} does not listen: its log is {log.name}"
            await asyncio.sleep(0.1)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextmanager
def answering(port: int, text: Callable[[], str]) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def as_kminion(servers: str, folder: Path) -> str:
    """What KMinion 2.3.5 says, as far as the dashboard asks for it."""
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
    from confluent_kafka.admin import AdminClient, OffsetSpec

    admin, lines = AdminClient({"bootstrap.servers": servers, "log_level": 0}), list[str]()

    def say(name: str, value: float, **labels: object) -> None:
        listed = ",".join(f'{key}="{label}"' for key, label in labels.items())
        lines.append(f"kminion_kafka_{name}{{{listed}}} {value}")

    parts = [TopicPartition(TOPIC, number) for number in range(tools.PARTITIONS)]
    asked = admin.list_offsets({part: OffsetSpec.latest() for part in parts})
    ends = {part.partition: found.result(30).offset for part, found in asked.items()}
    for number, end in ends.items():
        say("topic_partition_high_water_mark", end, topic_name=TOPIC, partition_id=number)
    say("topic_high_water_mark_sum", sum(ends.values()), topic_name=TOPIC)
    for group in (HELLO, GOODBYE):
        (found,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, parts)]).values()
        places = {one.partition: one.offset for one in found.result(30).topic_partitions if one.offset >= 0}
        for number, place in places.items():
            lag = max(0, ends[number] - place)
            say("consumer_group_topic_partition_lag", lag, group_id=group, topic_name=TOPIC, partition_id=number)
        if places:
            total = sum(max(0, ends[number] - place) for number, place in places.items())
            say("consumer_group_topic_lag", total, group_id=group, topic_name=TOPIC)
            say("consumer_group_topic_offset_sum", sum(places.values()), group_id=group, topic_name=TOPIC)
        (described,) = admin.describe_consumer_groups([group]).values()
        say("consumer_group_members", len(described.result(30).members), group_id=group)
    size = sum(log.stat().st_size for log in folder.glob(f"node1/data/{TOPIC}-*/*.log"))
    say("broker_log_dir_size_total_bytes", size, broker_id=1)
    return "\n".join(lines) + "\n"
