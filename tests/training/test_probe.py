"""Nothing waits for what is not there: services and stores are asked first, and every wait has a limit and a message."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import BAD_INPUT, TRY_AGAIN, app
from pipeline.spec.errors import BadInput, Unreachable, readable
from pipeline.spec.lineup import Workers
from pipeline.spec.settings import Settings
from pipeline.storage.lake import Lake, LakeError, remote_files
from pipeline.training import probe
from pipeline.training.probe import require_cores, require_ray, require_room
from tests.conftest import Stack, free_ports
from tests.trained import lineup, listing

PROGRAM = Path(sys.executable).parent / "windrow"


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of somebody who takes calls and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A home of one's own, where no service answers."""
    ports = dict(zip(("AIRFLOW", "MLFLOW", "RAY", "RAY_DASHBOARD"), map(str, free_ports(4)), strict=True))
    given = {f"WINDROW_{name}_PORT": port for name, port in ports.items()} | {"WINDROW_HOME": str(tmp_path / "home")}
    with mock.patch.dict(os.environ, given):
        for name in ("WINDROW_LAKE", "WINDROW_LINEUP", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
        yield given


def settings(**given: Any) -> Settings:
    return Settings.of({name: str(value) for name, value in given.items()})


def written(folder: Path) -> str:
    path = folder / "lineup.yaml"
    path.write_text(yaml.safe_dump(lineup().model_dump(mode="json")))
    return str(path)


@pytest.mark.parametrize("command", ["train", "run"])
def test_training_with_nothing_running_says_what_to_start(
    environ: dict[str, str], tmp_path: Path, command: str
) -> None:
    spec = tmp_path / "spec.json"
    document = lineup().model_dump_json()
    spec.write_text(
        f'{{"kind": "train", "lineup": {document}, "first": "2024-01-01", "last": "2024-01-01", "start": "scratch"}}'
    )
    call = ["train", "--first", "2024-01-01", "-l", written(tmp_path)] if command == "train" else ["run", str(spec)]
    ran = CliRunner().invoke(app, call)
    assert ran.exit_code == TRY_AGAIN, ran.output
    assert "run `windrow up` first" in ran.output
    assert "`local` for a private one" in ran.output
    assert len(ran.output.splitlines()) == 1


def test_the_demo_without_airflow_says_what_to_start(environ: dict[str, str], tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["demo"])
    assert ran.exit_code == TRY_AGAIN, ran.output
    assert "Airflow does not answer at" in ran.output
    assert "run `windrow up` first" in ran.output
    assert len(ran.output.splitlines()) == 1


def test_a_service_that_takes_calls_and_says_nothing_is_not_waited_for(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "PROBE_S", 0.2)
    with pytest.raises(Unreachable, match="no Ray cluster answers"):
        require_ray(settings(RAY_ADDRESS=f"127.0.0.1:{silent}"))


@pytest.mark.services
def test_a_wrong_token_is_said_before_ray_is_joined(stack: Stack, tmp_path: Path) -> None:
    right = stack.settings
    require_ray(right.model_copy(update={"ray_address": f"127.0.0.1:{right.ray_port}"}))
    wrong = tmp_path / "token"
    for content, got in (("0" * 64, "another"), (None, "none")):
        wrong.unlink(missing_ok=True)
        if content is not None:
            wrong.write_text(content)
        with pytest.raises(BadInput, match=f"wants its token, got {got} from {wrong}: set RAY_AUTH_TOKEN_PATH"):
            require_ray(right.model_copy(update={"ray_token_path": wrong}))


def test_workers_without_room_are_refused_with_the_number_of_cores() -> None:
    with pytest.raises(BadInput, match="4 workers need 4 cores, got 2 on here: ask for at most 2 with --workers"):
        require_room(Workers(num_workers=4), {"CPU": 2.0}, "here")
    with pytest.raises(BadInput, match="1 workers need 1 GPUs, got 0 on here"):
        require_room(Workers(num_workers=1, use_gpu=True), {"CPU": 2.0}, "here")
    require_room(Workers(num_workers=2), {"CPU": 2.0}, "here")
    with pytest.raises(BadInput, match="on this machine"):
        require_cores(Workers(num_workers=4096), settings(RAY_ADDRESS="local"))
    require_cores(Workers(num_workers=4096), settings(RAY_ADDRESS="elsewhere:6379"))


@pytest.mark.parametrize("url", ["s3://bucket/lake", "s3://bucket/log.csv"])
def test_a_store_that_says_nothing_is_not_waited_for(silent: int, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Neither as a lake nor as a source; the clients alone would wait for minutes."""
    given = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent}",
        "AWS_ALLOW_HTTP": "true",
        "WINDROW_STORE_TIMEOUT_S": "0.3",
    }
    for name, value in (given | {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}).items():
        monkeypatch.setenv(name, value)
    opened = Lake if url.endswith("lake") else remote_files
    with pytest.raises(Unreachable, match=f"'{url}' does not answer: .*WINDROW_STORE_TIMEOUT_S .now 0.3. gives"):
        opened(url)


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "s3://", "s3:/a/b", "http://a/b", "memory://", "nonsense://x", "abfs://x"]
)
def test_a_lake_that_is_none_names_the_setting(url: str) -> None:
    with pytest.raises(LakeError, match="WINDROW_LAKE"):
        Lake(url)


SCHEMA = """label: click
event_time: {column: at}
dense: [{name: price}]
"""


def test_a_full_disk_is_said_with_its_folder(environ: dict[str, str], tmp_path: Path) -> None:
    """Writes past a size fail as they do on a full disk; the lake is as it was and the status says to try again."""
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    lines = (f"2024-01-01T{n % 24:02}:{n % 60:02}:{n % 59:02},{n % 2},{n / 7}" for n in range(20_000))
    (tmp_path / "log.csv").write_text("\n".join(["at,click,price", *lines]))
    lake = Lake(str(tmp_path / "home" / "lake"))
    before = listing(lake)
    ran = subprocess.run(
        [
            PROGRAM,
            "-q",
            "ingest",
            "--dataset",
            "x",
            "--schema",
            "schema.yaml",
            "--file",
            "log.csv",
            "--first",
            "2024-01-01",
        ],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert ran.returncode == TRY_AGAIN, ran.stderr
    assert ran.stderr.startswith("windrow: no space was left"), ran.stderr
    assert str(tmp_path) in ran.stderr
    assert "make room" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert listing(lake) == before


def test_a_long_message_keeps_its_beginning_and_its_cure() -> None:
    said = readable("what\x1b[31m " + "x" * 50_000 + " do this")
    assert said.startswith("what\\x1b[31m xxx")
    assert said.endswith("x do this")
    assert len(said) < 2_000
    lines = readable("\n".join(f"line {n}" for n in range(500))).splitlines()
    assert len(lines) <= 12
    assert (lines[0], lines[-1]) == ("line 0", "line 499")


def test_a_home_that_cannot_be_made_ends_with_2(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    ran = CliRunner().invoke(app, ["up"])
    assert ran.exit_code == BAD_INPUT, ran.output
    assert "there is a file: set WINDROW_HOME to another" in ran.output
