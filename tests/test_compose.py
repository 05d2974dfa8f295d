"""The production layout: no default passwords, nothing published beyond loopback, no dangling reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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
