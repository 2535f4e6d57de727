"""A private RabbitMQ: the `rabbitmq-server` that is found here, with everything that it has in one folder."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from platformdirs import user_cache_path

from greet.brokers.process import (
    Broker,
    Node,
    environment,
    free_ports,
    launched,
    private_folder,
    together,
    write,
)
from greet.errors import BrokerMissing

FOLDERS = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)
WRAPPERS = ("/usr/sbin", "/sbin")
"""Where Debian has a wrapper that becomes another user: it comes last, also where PATH has it first."""
ENDED = Path(__file__).with_name("rabbitmq.ended")
INSTALLED = re.compile(r"rabbitmq(?:_server)?[-/](\d+(?:\.\d+)+)")
VERSION = re.compile(r"RabbitMQ (\d+\.\d+\.\d+\S*)")
PLUGINS = {"rabbitmq_management": "management.tcp", "rabbitmq_prometheus": "prometheus.tcp"}
"""What may be asked for of the plugins that RabbitMQ ships, and how the settings of their listener begin."""
IN_VAIN = {
    r"Free disk space is insufficient.*": "make room, or set TMPDIR to a folder that has 100 MB",
    r"Limiting to approx \d+ file handles \(\d sockets\)": "let more files be open, by `ulimit -n 1024`",
}


@asynccontextmanager
async def rabbitmq(
    nodes: int = 1, *, config: Mapping[str, str] | None = None, plugins: Sequence[str] = ()
) -> AsyncIterator[Broker]:
    """A private RabbitMQ of `nodes` members on loopback, ready for use, and gone afterwards.

    `config` has lines for rabbitmq.conf that replace the kit's own of the same key. `plugins` are of `PLUGINS`: each
    member has them, on ports of loopback that its node tells. The login to the management is that of the URL;
    metrics are for all on this machine.

    Raises:
        BrokerMissing: RabbitMQ is not installed, or does not start.
        ValueError: there is no such plugin.
    """
    if unknown := set(plugins) - PLUGINS.keys():
        raise ValueError(f"no plugin {', '.join(sorted(unknown))} is started here: there are {', '.join(PLUGINS)}")
    server = find_server()

    def build(folder: Path) -> Broker:
        return prepare(folder, server, nodes, config or {}, plugins)

    async with launched(build, begin) as broker:
        yield broker


def prepare(folder: Path, server: str, count: int, config: Mapping[str, str], plugins: Sequence[str] = ()) -> Broker:
    """Write the configuration of all members, with credentials of their own."""
    user, password, cookie = f"greet-{secrets.token_hex(4)}", secrets.token_urlsafe(24), secrets.token_hex(24)
    each = 2 + len(plugins)
    epmd, *ports = free_ports(1 + each * count)
    nodes = []
    for number in range(1, count + 1):
        port, distribution, *more = ports[each * (number - 1) : each * number]
        served = dict(zip(plugins, more, strict=True))
        home = private_folder(folder / f"node{number}")
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{port}",
            "default_user": user,
            "default_pass": password,
            "log.console": "true",
            "log.file": "false",
        }
        for plugin, own in served.items():
            settings |= {f"{PLUGINS[plugin]}.ip": "127.0.0.1", f"{PLUGINS[plugin]}.port": str(own)}
        if count > 1:
            # What a member that was given up knows of queues has parted from what the others know: with "ignore",
            # the default, it stays so, and a name that it has no queue for is accepted and lost. 4.3 on takes this key
            # and has no use for it: what its members know is agreed upon by a majority.
            settings["cluster_partition_handling"] = "autoheal"
        if number > 1:
            settings["cluster_formation.classic_config.nodes.1"] = "greet1@127.0.0.1"
            settings["cluster_formation.classic_config.nodes.2"] = f"greet{number}@127.0.0.1"
        settings |= config
        write(home / "rabbitmq.conf", "".join(f"{key} = {value}\n" for key, value in settings.items()))
        write(home / ".erlang.cookie", cookie)
        write(home / "enabled_plugins", f"[{','.join(plugins)}].\n")
        write(home / "log", "")
        nodes.append(
            Node(
                url=f"amqp://{user}:{password}@127.0.0.1:{port}/",
                port=port,
                command=[server],
                environment=environment(folder, "RABBITMQ_", "ERL_") | variables(home, number, epmd, distribution),
                log=home / "log",
                program="beam.smp",
                in_vain=IN_VAIN,
                plugins=served,
            )
        )
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return Broker(f"amqp://{user}:{password}@{hosts}/", "unknown", folder, nodes)


async def begin(broker: Broker) -> None:
    """Start the first member alone, then the others, which join it; return when all serve."""
    first, *others = broker.nodes
    first.start()
    await first.serving(1)
    for node in others:
        node.start()
    await together(*(node.serving(number) for number, node in enumerate(others, start=2)))
    if found := VERSION.search(first.text()):
        broker.version = found[1]
        broker.support = support(found[1])


def variables(home: Path, number: int, epmd: int, distribution: int) -> dict[str, str]:
    """What keeps a node to its folder and to loopback: `rabbitmq-server` takes all of it from the environment."""
    return {
        "HOME": str(home),  # where Erlang looks for the cookie
        "TMPDIR": str(home),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd),
        "RABBITMQ_NODENAME": f"greet{number}@127.0.0.1",
        "RABBITMQ_USE_LONGNAME": "true",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(home / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
        "RABBITMQ_LOG_BASE": str(home / "logs"),
    }


def find_server() -> str:
    """The path of `rabbitmq-server`: of GREET_RABBITMQ_SERVER, or else on PATH, or else in the usual folders.

    A current one that `make rabbitmq` has prepared is taken instead of an older one. Raises `BrokerMissing`, which
    names the command that gets one.
    """
    if sys.platform == "win32":
        raise BrokerMissing("RabbitMQ is not started on Windows: use the asyncio design, or set GREET_RABBITMQ_URL")
    if named := os.environ.get("GREET_RABBITMQ_SERVER"):
        if found := shutil.which(named):
            wraps = str(Path(found).parent) in WRAPPERS
            return (shutil.which("rabbitmq-server", path=os.pathsep.join(FOLDERS)) if wraps else None) or found
        raise BrokerMissing(f"GREET_RABBITMQ_SERVER={named!a} is not a program: give it the path of a rabbitmq-server")
    path = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder not in WRAPPERS]
    conda = os.environ.get("CONDA_PREFIX")
    folders = [*path, *([f"{conda}/bin", f"{conda}/sbin"] if conda else []), *FOLDERS, *WRAPPERS]
    own, current = shutil.which("rabbitmq-server", path=os.pathsep.join(folders)), prepared()
    found = current if current and (not own or version_of(own) < version_of(current)) else own
    if found is None:
        raise BrokerMissing(
            f"rabbitmq-server was not found: get it with `{how_to_get()}`, or set GREET_RABBITMQ_URL; a broker that is "
            "stopped or killed is always a private one, which needs it on PATH or in GREET_RABBITMQ_SERVER"
        )
    return found


def prepared() -> str | None:
    """The newest of what `rabbitmq-current.sh` has made, if this user may run it."""
    servers = sorted(user_cache_path("greet").glob("rabbitmq-*/bin/rabbitmq-server"), key=version_of)
    unshare = shutil.which("unshare") if servers else None
    allowed = unshare and not subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode
    return str(servers[-1]) if allowed else None


def version_of(server: str | Path) -> tuple[int, ...]:
    """The version of a `rabbitmq-server` by where it lies; one that does not tell is believed to be the newest."""
    programs = Path(server).parent.with_name("root") / "usr/lib/rabbitmq/bin"  # of one that was prepared
    found = INSTALLED.search(str((programs / "rabbitmq-server" if programs.exists() else Path(server)).resolve()))
    return tuple(map(int, found[1].split("."))) if found else (sys.maxsize,)


def support(version: str) -> str:
    """When the support of this version's series ended, as a part of a sentence; empty if it has not."""
    series = tuple(map(int, version.split(".")[:2]))
    ended = [line.split() for line in ENDED.read_text().splitlines() if not line.startswith("#")]
    dates = {tuple(map(int, name.split("."))): date for name, date in ended}
    if series > max(dates):
        return ""
    return f"without support since {dates[series]}" if series in dates else "long without support"


def how_to_get() -> str:
    """The one command that gets RabbitMQ on this system."""
    if os.environ.get("CONDA_PREFIX"):
        return "conda install -c conda-forge rabbitmq-server"
    if sys.platform == "darwin" and shutil.which("brew"):
        return "brew install rabbitmq"
    if shutil.which("apt-get"):
        return "make rabbitmq" if os.geteuid() == 0 else "sudo apt-get install rabbitmq-server"
    return "docker compose up -d --wait"
