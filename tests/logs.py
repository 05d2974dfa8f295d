"""A whole log in one ingest, by its paths: what tests of ingest ask for most."""

from __future__ import annotations

from typing import Any

from pipeline.dataset import WindowManifest
from pipeline.ingest import LogFile
from pipeline.ingest import ingest as ingest_files
from pipeline.lake import Lake
from pipeline.schema import Schema
from pipeline.sources import find_sources


def ingest(lake: Lake, dataset: str, schema: Schema, sources: list[str], **options: Any) -> list[WindowManifest]:
    """The manifests of what the files that paths name were published as."""
    files = [LogFile(source) for source in find_sources(sources)]
    return ingest_files(lake, dataset, schema, files, **options).manifests
