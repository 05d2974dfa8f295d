"""A whole log in one ingest, by its paths: what tests of ingest ask for most."""

from __future__ import annotations

from typing import Any

from pipeline.data.dataset import WindowManifest
from pipeline.data.ingest import LogFile
from pipeline.data.ingest import ingest as ingest_files
from pipeline.data.sources import find_sources
from pipeline.spec.schema import Schema
from pipeline.storage.lake import Lake


def ingest(lake: Lake, dataset: str, schema: Schema, sources: list[str], **options: Any) -> list[WindowManifest]:
    """The manifests of what the files that paths name were published as."""
    files = [LogFile(source) for source in find_sources(sources)]
    return ingest_files(lake, dataset, schema, files, **options).manifests
