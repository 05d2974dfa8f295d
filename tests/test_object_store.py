"""A lake in an object store: documents appear whole, are replaced by whoever read them last, and operators find them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from moto.server import ThreadedMotoServer

from operators.inputs import still_missing
from pipeline.lake import Conflict, Lake

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


def test_of_two_that_replace_at_the_same_moment_one_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
