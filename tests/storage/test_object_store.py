"""A lake in an object store: documents appear whole, are replaced by whoever read them last, and operators find them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from moto.server import ThreadedMotoServer

from operators.inputs import still_missing
from pipeline.storage.lake import Conflict, Lake
from pipeline.storage.tensors import INDEX, Stored
from pipeline.training.upkeep.gc import leftovers, sweep
from tests.trained import DAY, lineup, publish, train, windows

PATH = "windows/clicks/window=2026-01-01/manifest.json"


@pytest.fixture
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A lake of this test's own in a store that knows conditional puts, reached by the variables of docker/compose.yaml."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        httpx.put(f"http://{host}:{port}/windrow", trust_env=False).raise_for_status()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "windrow",
            "AWS_SECRET_ACCESS_KEY": "not a secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": host,
        }.items():
            monkeypatch.setenv(name, value)
        yield f"s3://windrow/{request.node.name}"
    finally:
        server.stop()


def test_a_document_is_created_once_and_replaced_by_whoever_read_it_last(url: str) -> None:
    first, second = Lake(url), Lake(url)
    assert first.read(PATH) is None
    first.create(PATH, {"rows": 1})
    with pytest.raises(Conflict):
        second.create(PATH, {"rows": 2})
    read = second.read(PATH)
    first.replace(PATH, {"rows": 3}, {"rows": 1})
    with pytest.raises(Conflict):
        second.replace(PATH, {"rows": 4}, read)
    assert second.read(PATH) == {"rows": 3}
    assert first.names("windows/clicks/window=2026-01-01") == [PATH]


def test_of_two_that_replace_at_the_same_moment_one_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read the same document; the store itself refuses the second."""
    first, second = Lake(url), Lake(url)
    first.create(PATH, {"rows": 1})
    found, read_now = second._get(PATH), second._get
    answers = iter([found])
    first.replace(PATH, {"rows": 2}, {"rows": 1})
    monkeypatch.setattr(second, "_get", lambda *asked: next(answers, None) or read_now(*asked))
    with pytest.raises(Conflict):
        second.replace(PATH, {"rows": 3}, {"rows": 1})
    assert first.read(PATH) == {"rows": 2}


def test_an_operator_finds_what_it_waits_for(url: str) -> None:
    needed = {PATH: ("window 2026-01-01", "ingest it"), "heads/none.json": ("a checkpoint", "train it")}
    assert still_missing(url, needed) == needed
    Lake(url).create(PATH, {"rows": 1})
    assert still_missing(url, needed).keys() == {"heads/none.json"}


def test_a_chain_goes_on_from_its_checkpoint_and_what_nobody_names_goes(url: str) -> None:
    """Bit for bit as on a disk, and without a directory to make or to remove."""
    lake = Lake(url)
    publish(lake, windows(2))
    train(lake, lineup(), 1)
    (made,) = train(lake, lineup(), 1, first=DAY.shift(1), start="parent").values()
    assert made.checkpoint is not None
    stored = Stored(lake, made.checkpoint, made.checkpoint_files)
    assert sum(len(stored.tensors(name)) for name in made.checkpoint_files if name != INDEX) > 10
    lake.put_bytes("steps/sim/0123456789abcdef/gen-dead/checkpoint/x", b"12345")
    later = datetime.now(UTC) + timedelta(days=2)
    before = {file.path for file in lake.files_below("steps")}
    assert [each.path for each in sweep(lake, leftovers(lake, timedelta(hours=24), later))] == [
        "steps/sim/0123456789abcdef/gen-dead"
    ]
    assert before - {file.path for file in lake.files_below("steps")} == {
        "steps/sim/0123456789abcdef/gen-dead/checkpoint/x"
    }
    assert len(train(lake, lineup(), 2)) == 2
