"""What surrounds the program: make, the locks, Docker Compose, conda. Nothing is started here."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.questions import FULL

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = ("requirements.lock", "requirements-app.lock")
TARGETS = ("bench", "test", "test-all", "lab", "check", "reference", "lock", "clean")


def active(profile: str) -> set[str]:
    return {name for name, service in SERVICES.items() if profile in service["profiles"]}


def pins(lock: str) -> dict[str, set[str]]:
    """Package to the versions that a lock holds of it: more than one where Pythons differ."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.\[\]-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


# --- make ---


def run_make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # The tests may themselves run under make, whose flags and variables are not for this one.
    clean = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "PYTHON"}}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=30, check=False
    )


def make(*arguments: str) -> str:
    done = run_make(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_lists_every_target() -> None:
    assert re.findall(r"^make ([\w-]+)", make("--no-print-directory"), re.MULTILINE) == list(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_planned(target: str) -> None:
    assert make("-n", target)


def test_clean_keeps_results() -> None:
    removed = [line for line in make("-n", "clean").splitlines() if "rm -rf" in line]
    assert ".venv" in removed[0]
    assert not any("results" in line for line in removed)


def test_bench_and_test_pass_arguments_on() -> None:
    assert "-m bench run --profile full" in make("-n", "bench", "ARGS=run --profile full")
    assert '-m pytest -m "not long" -n 4 --dist loadfile -k names' in make("-n", "test", "ARGS=-k names")


def test_the_reference_has_every_question_as_a_part_of_its_own() -> None:
    """So who stops it after an hour has lost one question, not all."""
    found = re.search(r"^FULL +:= (.+?)\nREADY", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    parts = found[1].replace("\\", "").split()
    assert parts == list(FULL)
    for part in (*parts, "faults"):
        assert f"--contenders all --questions {part} " in make("-n", f"results/reference/{part}")


def test_nothing_calls_sudo_unasked() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in makefile.splitlines():
        if "sudo" in line:
            assert "echo" in line or line.startswith("#"), line


def test_an_unusable_python_is_named(tmp_path: Path) -> None:
    """A shim that exists and fails is what pyenv leaves for a version that is not installed."""
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = run_make("check", f"PYTHON={shim}", folder=tmp_path)
    assert done.returncode != 0
    assert "No Python 3.11 or later" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_skips_nothing() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert "GREET_REQUIRE=all make test-all" in script
    assert re.search(r"^GREET_REQUIRE=all make --jobs setup check$", script, re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True, timeout=10)


# --- the locks ---


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    requirements = re.split(r"\n(?=[\w])", "\n" + re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE))[1:]
    assert requirements
    for requirement in requirements:
        assert "==" in requirement
        assert "--hash=sha256:" in requirement, requirement


def test_the_lock_is_of_this_pyproject() -> None:
    locked = pins("requirements.lock")
    asked = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, asked):
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not locked: make lock"
        assert all(requirement.specifier.contains(v) for v in versions), f"{requirement} is locked as {versions}"


def test_the_lock_can_install_the_kit_itself() -> None:
    """`pip install --no-build-isolation -e .` finds its build back-end, and what that needs, in the lock."""
    assert {"hatchling", "editables"} <= pins("requirements.lock").keys()


def test_the_images_lock_is_cut_from_the_lock() -> None:
    whole = pins("requirements.lock")
    for name, versions in pins("requirements-app.lock").items():
        assert versions <= whole[name], f"{name}: make lock"


def test_the_image_holds_what_a_deployed_greet_imports() -> None:
    """Everything but greet/brokers, which the image never imports: it is given a --url."""
    given = {name.replace("-", "_") for name in pins("requirements-app.lock")}
    for path in [*(ROOT / "greet").glob("*.py"), *(ROOT / "greet" / "designs").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and node.level == 0
                else []
            )
            for top in {name.split(".")[0] for name in names}:
                assert top == "greet" or top in sys.stdlib_module_names or top in given, f"{path.name} imports {top}"


# --- Docker Compose ---


def test_every_port_is_bound_to_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert "127.0.0.1:5672:5672" in ports
    assert "127.0.0.1:9092:9092" in ports
    for port in ports:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    assert not any("network_mode" in service for service in SERVICES.values())


def test_images_are_pinned_to_a_release() -> None:
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    base = re.search(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert base
    for image in {*images, base[1]}:
        assert re.search(r":v?\d+\.\d+\.\d+(-[\w-]+)?$", image), image


def test_no_profile_means_the_two_brokers() -> None:
    assert "COMPOSE_PROFILES=brokers" in (ROOT / ".env").read_text().splitlines()
    assert active("brokers") == {"rabbitmq", "kafka"}
    assert all(service["profiles"] for service in SERVICES.values())


@pytest.mark.parametrize("design", ["rabbitmq", "kafka"])
def test_a_profile_is_a_deployment(design: str) -> None:
    assert active(design) == {design, f"{design}-hello", f"{design}-goodbye", f"{design}-send"}
    consumers = {f"{design}-hello", f"{design}-goodbye"}
    for consumer in consumers:
        assert SERVICES[consumer]["depends_on"] == {design: {"condition": "service_healthy"}}
        ready = SERVICES[consumer]["healthcheck"]["test"][-1]
        assert SERVICES[consumer]["command"][-2:] == ["--ready", ready]
        assert ready.startswith(SERVICES[consumer]["tmpfs"] + "/"), "an old file must not outlive a restart"
    # RabbitMQ refuses a name that no group is there for: the producer waits for both.
    producer = SERVICES[f"{design}-send"]["depends_on"]
    assert producer == {consumer: {"condition": "service_healthy"} for consumer in consumers}


def test_asyncio_is_one_service() -> None:
    assert active("asyncio") == {"asyncio"}
    assert SERVICES["asyncio"]["command"][:3] == ["run", "--via", "asyncio"]


@pytest.mark.parametrize("name", sorted(n for n, s in SERVICES.items() if s["image"] == "greet" and "command" in s))
def test_a_service_gives_greet_a_command_line_that_it_takes(name: str) -> None:
    from greet.__main__ import _parser  # only this test needs it

    arguments = _parser().parse_args(SERVICES[name]["command"])
    for url in filter(None, [arguments.url]):
        host = re.search(r"@?(\w+):\d+", url.split("://")[1].split("@")[-1])
        assert host
        assert host[1] in SERVICES, url


def test_brokers_say_when_they_serve() -> None:
    brokers = {n: s for n, s in SERVICES.items() if s.get("image", "").startswith(("rabbitmq:", "apache/kafka:"))}
    assert len(brokers) == 2 + 6
    for name, broker in brokers.items():
        health = broker["healthcheck"]
        assert health["start_interval"] == "1s", name
        assert health["interval"] == "5m", f"{name}: a probe starts a virtual machine and costs CPU"


def test_kafka_sends_each_client_where_it_can_go() -> None:
    for name in ("kafka", "kafka-1", "kafka-2", "kafka-3"):
        environment, (published,) = SERVICES[name]["environment"], SERVICES[name]["ports"]
        advertised = dict(entry.split("://") for entry in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
        listeners = dict(entry.split("://") for entry in environment["KAFKA_LISTENERS"].split(","))
        assert advertised["HOST"] == published.rpartition(":")[0], "clients of this machine: the published port"
        assert listeners["HOST"] == ":" + published.rpartition(":")[2]
        assert advertised["COMPOSE"] == name + listeners["COMPOSE"], "containers: the service's name"
        assert len(environment["CLUSTER_ID"]) == 22, "a UUID in 22 characters of base64"
        assert f"{environment['KAFKA_NODE_ID']}@{name}:9093" in environment["KAFKA_CONTROLLER_QUORUM_VOTERS"]


def test_one_kafka_node_is_asked_for_one_replica() -> None:
    environment = SERVICES["kafka"]["environment"]
    for key in ("OFFSETS_TOPIC", "TRANSACTION_STATE_LOG", "SHARE_COORDINATOR_STATE_TOPIC"):
        assert environment[f"KAFKA_{key}_REPLICATION_FACTOR"] == 1


def test_monitoring_has_both_brokers_and_what_watches_them() -> None:
    assert active("monitoring") == {"rabbitmq", "kafka", "kminion", "kafka-disk", "prometheus", "grafana"}
    for name in active("monitoring"):
        for volume in SERVICES[name].get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_file(), volume


def test_grafana_has_no_password_that_everybody_knows() -> None:
    """It has no user at all: who is on this machine looks, as nobody, and may change nothing."""
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert "GF_AUTH_ANONYMOUS_ORG_ROLE" not in environment, "the default is Viewer"
    dashboard = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert f"./monitoring/dashboard.json:{dashboard}:ro" in SERVICES["grafana"]["volumes"]
    (provider,) = yaml.safe_load(COMPOSE["configs"]["grafana-dashboards"]["content"])["providers"]
    assert Path(dashboard).parent == Path(provider["options"]["path"])


def test_a_cluster_of_rabbitmq_mends_itself_after_a_parting() -> None:
    assert "cluster_partition_handling = autoheal" in COMPOSE["configs"]["rabbitmq-cluster"]["content"]


def test_the_image_is_built_from_a_few_files_and_runs_as_nobody_special() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == {"greet", "requirements-app.lock"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes" in dockerfile
    assert re.search(r"^USER (?!root)\w+", dockerfile, re.MULTILINE)


# --- conda ---


def test_conda_takes_conda_forge_alone() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "greet"
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert not any("::" in d for d in environment["dependencies"] if isinstance(d, str))
    packages = {d.split("=")[0] for d in environment["dependencies"] if isinstance(d, str)}
    assert packages == {"python", "openjdk", "rabbitmq-server", "pip"}
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-e .[dev,peers,workers]"]
    assert {"dev", "peers", "workers"} <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize(
    ("reason", "required", "status"),
    [
        ("no disk can be mounted here", "all", 0),
        ("could not import 'that'", "all", 1),
        ("could not import 'that'", "", 0),
    ],
)
def test_where_all_is_required_a_skip_is_a_failure(reason: str, required: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(f'import pytest\ndef test_it():\n    pytest.skip("{reason}")\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "--rootdir", tmp_path, tmp_path],
        cwd=ROOT,
        env=os.environ | {"GREET_REQUIRE": required, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "-o addopts="},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stdout
    assert (f"a test was skipped: {reason}" in done.stdout) == bool(status)
