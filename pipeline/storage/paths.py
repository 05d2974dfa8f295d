"""Where things lie in the lake, for whoever looks for them without opening it."""

from __future__ import annotations

from pipeline.spec.window import Window

GENERATIONS = ("windows", "steps", "evaluations", "selections", "synthetic")
"""The lake's folders whose content is published in generations, by data set."""


def manifest_path(dataset: str, window: Window) -> str:
    """Where the manifest of a window lies."""
    return f"windows/{dataset}/window={window}/manifest.json"


def head_path(dataset: str, lineup: str, variant: str, seed: int, window: Window) -> str:
    """Where a chain says which step closed a window; it exists once that step is done."""
    return f"chains/{dataset}/{lineup}/{variant}/seed={seed}/window={window}.json"


def result_path(submission_id: str) -> str:
    """Where a submitted job leaves its outcome, once it has succeeded."""
    return f"jobs/{submission_id}.json"


def page_path(study: str) -> str:
    """Where the page of a study lies."""
    return f"studies/{study}/report.html"
