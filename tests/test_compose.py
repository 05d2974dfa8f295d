"""The production layout: no default passwords, nothing published beyond loopback, no dangling reference."""

from __future__ import annotations

import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|KEY")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[?-])?")


@pytest.fixture(scope="module")
def services(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((root / "docker" / "compose.yaml").read_text())["services"]
    return loaded


@pytest.fixture(scope="module")
def variables(root: Path) -> set[tuple[str, str]]:
    """Each variable of the compose file and how it is used: `:?` required, `:-` with a default."""
    return set(VARIABLE.findall((root / "docker" / "compose.yaml").read_text()))


def test_secrets_are_required_and_have_no_default(root: Path, variables: set[tuple[str, str]]) -> None:
    assert {name for name, use in variables if SECRET.search(name) and use != ":?"} == set()
    assert any(use == ":?" for _, use in variables)
    example = (root / "docker" / ".env.example").read_text()
    for name, use in variables:
        assert re.search(rf"^{name}=$" if use == ":?" else rf"^# {name}=", example, re.MULTILINE), name


def test_no_secret_is_written_out(services: dict[str, Any]) -> None:
    written = {
        (name, key): value
        for name, service in services.items()
        for key, value in service.get("environment", {}).items()
        if SECRET.search(key) and "${" not in value
    }
    assert written == {}


def test_whoever_reaches_into_the_object_store_has_its_credentials_and_address(services: dict[str, Any]) -> None:
    reached = {
        name: service.get("environment", {})
        for name, service in services.items()
        if "s3://" in str([service.get("environment"), service.get("command")])
    }
    assert {"mlflow", "ray-head", "ray-worker", "airflow-scheduler", "airflow-triggerer"} <= reached.keys()
    needed = services["bucket"]["environment"]
    assert needed["AWS_ENDPOINT_URL"].startswith("http://objects:")
    assert needed["AWS_ALLOW_HTTP"] == "true"
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"} <= needed.keys()
    assert {name for name, environment in reached.items() if not needed.items() <= environment.items()} == set()


def test_the_airflow_image_has_whatever_dags_and_operators_import(root: Path) -> None:
    graph = grimp.build_graph("dags", "operators", "pipeline", include_external_packages=True)
    ours = {module for module in graph.modules if module.split(".")[0] in {"dags", "operators"}}
    for called in (
        "numpy",
        "scipy",
        "pipeline.storage.hashing",
    ):  # by a policy's methods, which a scheduler never calls
        for policy in graph.find_modules_that_directly_import(called):
            if policy.startswith("pipeline.selection."):
                graph.remove_import(importer=policy, imported=called)
    reached = ours.union(*map(graph.find_upstream_modules, ours))
    assert "pipeline.storage.lake" in reached
    imported = {module for module in reached if graph.is_module_squashed(module)} - sys.stdlib_module_names
    distributions = packages_distributions()
    # A module that several distributions share comes with the first as well as with all.
    needed = {canonicalize_name(distributions[module][0]) for module in imported}
    lock = (root / "requirements" / "lock-airflow.txt").read_text()
    locked = {canonicalize_name(name) for name in re.findall(r"^(\S+)==", lock, re.MULTILINE)}
    # Airflow itself does without aiohttp, but several of the providers in its image need it.
    assert needed - locked - _brought_by("apache-airflow") == {"aiohttp"}


def _brought_by(distribution: str) -> set[str]:
    """A distribution and everything that it needs, without extras."""
    found: set[str] = set()
    to_do = [Requirement(distribution)]
    while to_do:
        asked = to_do.pop()
        if (name := canonicalize_name(asked.name)) in found:
            continue
        found.add(name)
        needs = map(Requirement, requires(name) or [])
        extras = asked.extras or {""}
        to_do += [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in extras)]
    return found


def test_ports_are_published_on_loopback_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_who_waits_for_health_waits_for_a_service_that_reports_it(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, need in service.get("depends_on", {}).items():
            if need["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert services[name].get("restart", "no") == "no"


def test_images_are_pinned_and_their_recipes_copy_what_exists(root: Path, services: dict[str, Any]) -> None:
    for service in services.values():
        if "build" not in service:
            assert re.search(r":[^:]*\d", service["image"])
            continue
        recipe = (root / service["build"]["dockerfile"]).read_text()
        assert re.search(r"^FROM \S+:[^:]*\d\S*$", recipe, re.MULTILINE)
        for copied in re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", recipe, re.MULTILINE):
            for source in copied.split():
                assert (root / source).exists(), source
