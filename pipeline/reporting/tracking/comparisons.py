"""Comparisons and reports in MLflow: a summary run per variant, and runs with table, figures and page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param

from pipeline.reporting.tracking.server import (
    MAX_TAG,
    job_tags,
    log_points,
    milliseconds,
    open_experiment,
    query,
    recipe_of,
)
from pipeline.spec.job import GAP_VIEW
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window


def record_comparison(
    lineup: LineUp,
    *,
    first: Window,
    tracking_uri: str,
    summaries: Mapping[str, Mapping[Window, Mapping[str, float]]],
    headline: Mapping[str, Mapping[str, float]],
    table: Mapping[str, list[Any]],
    figures: Mapping[str, Figure],
    text: str,
    stale: Mapping[str, str] | None = None,
    data: Sequence[DatasetInput] = (),
) -> str:
    """Log a comparison: a summary run per variant, to be selected and compared, and one run with table and figures.

    Args:
        lineup: names the experiment.
        first: point 0 of the curves, should the experiment be new.
        tracking_uri: the server.
        summaries: per variant and window, means over seeds and their bands.
        headline: per variant, figures over all windows.
        table: columns of the comparison's table.
        figures: by file name.
        text: the table as markdown.
        stale: per variant, what of it would be made of something else today.
        data: what they were compared on.

    Returns:
        The id of the run with table and figures.

    Raises:
        MlflowException: the server refuses, or cannot be reached.
    """
    client = MlflowClient(tracking_uri)
    experiment, origin = open_experiment(client, lineup, first)
    client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{GAP_VIEW}", json.dumps(_gap_view()))
    stale = stale or {}
    now = milliseconds()
    for variant, windows in summaries.items():
        tags = job_tags() | {"windrow.kind": "summary", "windrow.variant": variant}
        tags |= {"windrow.stale": stale[variant][:MAX_TAG]} if variant in stale else {}
        run = _renew(client, experiment, tags, f"{variant} (all seeds)", data)
        client.log_batch(run, params=[Param(k, v) for k, v in recipe_of(lineup.variant(variant)).items()])
        points = [
            Metric(name, float(value), now, window.days_since(origin))
            for window, values in windows.items()
            for name, value in values.items()
            if math.isfinite(value)
        ]
        points += [Metric(f"overall/{name}", float(value), now, 0) for name, value in headline[variant].items()]
        log_points(client, run, points)
        client.set_terminated(run)
    compared = sorted(window for windows in summaries.values() for window in windows)
    span = f"{compared[0]} to {compared[-1]}"
    tags = job_tags() | {"windrow.kind": "comparison", "windrow.windows": span, "mlflow.note.content": text}
    tags |= {"windrow.stale": "\n".join(stale.values())[:MAX_TAG]} if stale else {}
    run = _renew(client, experiment, tags, f"comparison with {lineup.reference}", data)
    client.log_table(run, dict(table), "comparison.json")
    client.log_text(run, text, "comparison.md")
    for name, figure in figures.items():
        client.log_figure(run, figure, name)
    client.set_terminated(run)
    return run


def record_report(
    lineup: LineUp,
    *,
    first: Window,
    tracking_uri: str,
    metrics: Mapping[str, float],
    headline: str,
    figures: Mapping[str, Figure],
    documents: Mapping[str, Any],
    page: str,
    data: Sequence[DatasetInput] = (),
) -> str:
    """Log what a study answers: its page, figures, the figures' numbers, and documents for programs, such as a law.

    Returns:
        The id of the run.
    """
    client = MlflowClient(tracking_uri)
    experiment, _ = open_experiment(client, lineup, first)
    tags = job_tags() | {"windrow.kind": "report", "mlflow.note.content": headline}
    run = _renew(client, experiment, tags, f"report of {lineup.name}", data)
    now = milliseconds()
    points = [Metric(name, float(value), now, 0) for name, value in metrics.items() if math.isfinite(value)]
    log_points(client, run, points)
    client.log_text(run, page, "report.html")
    for name, figure in figures.items():
        client.log_figure(run, figure, name)
    for name, document in documents.items():
        client.log_dict(run, document, f"{name}.json")
    client.set_terminated(run)
    return run


def _gap_view() -> dict[str, Any]:
    """What MLflow's pages store when a person shares a view: here, one large chart of all summaries' gaps."""
    section = {"uuid": "gaps", "name": "Against the reference", "display": True, "columns": 1, "cardHeight": 520}
    chart = {
        "uuid": "gap",
        "type": "LINE",
        "metricSectionId": section["uuid"],
        "metricKey": "gap_percent",
        "selectedMetricKeys": ["gap_percent"],
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "runsCountToCompare": 100,
    }
    return {
        "searchFilter": query({"windrow.kind": "summary"}),
        "chartsSearchFilter": "^gap_percent$",
        "compareRunSections": [section],
        "compareRunCharts": [chart],
    }


def _renew(
    client: MlflowClient, experiment: str, tags: Mapping[str, str], name: str, data: Sequence[DatasetInput]
) -> str:
    """A fresh run in the place of the one that said the same before, which is removed from the list."""
    same = {k: tags[k] for k in ("windrow.kind", "windrow.variant", "windrow.windows") if k in tags}
    before = client.search_runs([experiment], query(same))
    run = client.create_run(experiment, tags=dict(tags), run_name=name)
    if data:
        client.log_inputs(run.info.run_id, data)
    for old in before:
        client.delete_run(old.info.run_id)
    return str(run.info.run_id)
