"""The stages of a job: ingest, train, compare and report, each from its document to its outcome."""

from __future__ import annotations

# Each stage imports what it needs when it runs: TorchRec takes seconds, in the driver and in every helper process.
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from pipeline.account import FileAccount
from pipeline.errors import BadInput, asked
from pipeline.job import (
    SUBMISSION_VARIABLE,
    AnyJob,
    CompareJob,
    IngestJob,
    ReportJob,
    TrainJob,
    load_job,
    page_path,
    result_path,
)
from pipeline.lake import Lake
from pipeline.lineup import LogSource, SimulatedSource
from pipeline.probe import require_cores, require_mlflow, require_ray
from pipeline.settings import Settings
from pipeline.timings import account
from pipeline.window import Window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.compare import VariantComparison

log = logging.getLogger(__name__)


def run(job: AnyJob, settings: Settings) -> dict[str, Any]:
    """Do a job and leave its outcome in the lake, where its submission finds it.

    Raises:
        BadInput: what was asked for cannot be done; the message names the cure.
    """
    lake = Lake(settings.lake)
    match job:
        case IngestJob():
            outcome = run_ingest(job, lake)
        case TrainJob():
            outcome = run_train(job, lake, settings)
        case CompareJob():
            outcome = run_compare(job, lake, settings)
        case ReportJob():
            outcome = run_report(job, lake, settings)
        case _:
            assert_never(job)
    if submission := os.environ.get(SUBMISSION_VARIABLE):
        path = result_path(submission)
        lake.replace(path, outcome, lake.read(path))
    return outcome


def run_ingest(job: IngestJob, lake: Lake) -> dict[str, Any]:
    """Publish the windows of a span."""
    from pipeline.intake import take_in
    from pipeline.simulator import SimulatorConfig, simulate

    windows = list(Window.span(job.first, job.last))
    files: list[FileAccount] = []
    source = job.dataset.source
    match source:
        case SimulatedSource():
            with asked(f"the simulator's settings of data set {job.dataset.name!r}"):
                config = SimulatorConfig(**{"origin": source.origin, **source.settings})
            published = [
                manifest
                for name, seed in job.dataset.names(job.seeds).items()
                for manifest in simulate(
                    lake,
                    name,
                    config.model_copy(update={"seed": seed}) if source.per_seed else config,
                    windows,
                    force=job.force,
                    progress=log.info,
                )
            ]
        case LogSource():
            taken = take_in(lake, job.dataset.name, source, windows, force=job.force, progress=log.info)
            published, files = taken.manifests, taken.files
        case _:
            assert_never(source)
    return {
        "dataset": job.dataset.name,
        "windows": sorted({m.window.name for m in published}),
        "rows": sum(m.num_rows for m in published),
        "positives": sum(m.num_positives for m in published),
        "quarantined": sum(sum(m.quarantined.values()) for m in published),
        "files": [asdict(account) for account in files],
    }


def run_train(job: TrainJob, lake: Lake, settings: Settings) -> dict[str, Any]:
    """Train a job's steps on a group of Ray Train workers."""
    if not os.environ.get(SUBMISSION_VARIABLE):
        require_cores(job.lineup.workers, settings)
        require_ray(settings)
    _require_mlflow(settings)
    from pipeline.workers import run_on_workers

    config = {
        "job": job.model_dump_json(),
        "lake": settings.lake,
        "tracking_uri": settings.tracking_uri,
        "submitted": time.time(),
        "log_level": log.getEffectiveLevel(),
    }
    storage = lake.address("ray-train")
    outcome: dict[str, Any] = run_on_workers(
        train_on_worker,
        config,
        job.lineup.workers,
        address=settings.ray_address,
        name=f"{job.lineup.name}-{job.first}",
        storage=storage,
    )
    if "error" in outcome:
        raise BadInput(outcome["error"])
    return outcome


def train_on_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What every Ray Train worker does; the process group is up."""
    began = time.time()
    from pipeline.workers import quiet, worker_device

    quiet(config["log_level"])
    import torch.distributed as dist

    from pipeline.chain import Engine
    from pipeline.tracking import MlflowRecorder

    job = load_job(config["job"])
    if not isinstance(job, TrainJob):
        raise BadInput(f"only a train job runs on workers, got {job.kind}")
    lake = Lake(config["lake"])
    recorder = None
    if dist.get_rank() == 0:
        daily = job.start == "parent" and job.first == job.last
        recorder = MlflowRecorder(lake, job.lineup, first=job.first, daily=daily, tracking_uri=config["tracking_uri"])
    end: Callable[[str], None] = recorder.end if recorder is not None else lambda _status: None
    engine = Engine(lake, job, recorder, worker_device(config["threads"]))
    try:
        last = engine.run()
    except BadInput as error:
        end("FAILED")
        if engine.agreed_error:
            # Returned, not raised: Ray Train would start the workers again, and they would fail again.
            return {"error": str(error)}
        raise
    except BaseException:
        end("FAILED")
        raise
    else:
        end("FINISHED")
    finally:
        if recorder is not None:
            account(lake, job, submitted=config["submitted"], began=began, tracking=recorder.seconds)
    return {
        "lineup": job.lineup.name,
        "chains": [
            {
                "variant": variant.name,
                "seed": seed,
                "window": step.window.name,
                "step": step.key,
                "checkpoint": step.checkpoint,
                "total_examples": step.total_examples,
                "log_loss": step.metrics.get("log_loss"),
            }
            for (seed, variant), step in zip(job.chains, last, strict=True)
        ],
    }


def _require_mlflow(settings: Settings) -> None:
    """Ask MLflow whether it is there, for a person; a submitted job waits for one that is starting again."""
    if not os.environ.get(SUBMISSION_VARIABLE):
        require_mlflow(settings)


def run_compare(job: CompareJob, lake: Lake, settings: Settings, folder: Path | None = None) -> dict[str, Any]:
    """Compare variants, and log table, figures and a summary run per variant; leave a copy in `folder` if one is given."""
    from pipeline import report
    from pipeline.compare import compare
    from pipeline.tracking import record_comparison

    compared = compare(lake, job.lineup, job.variants, job.first, job.last)
    text = report.markdown(compared)
    _require_mlflow(settings)
    figures = report.figures(compared, job.lineup.online_start)
    _leave(folder, job.lineup.name, {"_comparison.md": text}, figures)
    run_id = record_comparison(
        job.lineup,
        first=job.first,
        tracking_uri=settings.tracking_uri,
        summaries={c.variant: _summary(c) for c in compared},
        headline={c.variant: {**c.metrics, "gap_percent": c.gap.value, "examples": c.examples} for c in compared},
        table=report.columns(compared),
        figures=figures,
        text=text,
    )
    return {
        "lineup": job.lineup.name,
        "first": job.first.name,
        "last": job.last.name,
        "mlflow_run": run_id,
        "header": list(report.HEADER),
        "caption": report.caption(compared[0].num_seeds),
        "rows": [list(row) for row in report.table_rows(compared)],
        "columns": report.columns(compared),
    }


def _leave(folder: Path | None, name: str, texts: Mapping[str, str], figures: Mapping[str, Figure]) -> None:
    """Leave a copy for people, if they named a folder: texts by the end of their file's name, and figures."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for end, text in texts.items():
        (folder / f"{name}{end}").write_text(text)
    for figure_name, figure in figures.items():
        figure.savefig(folder / f"{name}_{figure_name}", dpi=110)


def _summary(compared: VariantComparison) -> dict[Window, dict[str, float]]:
    """Curves of a variant's summary run: means over seeds, and the gap to the reference with its band."""
    return {
        window: {
            **point.metrics,
            "gap_percent": point.gap.value,
            "gap_percent_low": point.gap.low,
            "gap_percent_high": point.gap.high,
            "examples": point.examples,
        }
        for window, point in compared.points.items()
    }


def run_report(job: ReportJob, lake: Lake, settings: Settings, folder: Path | None = None) -> dict[str, Any]:
    """Answer a study on one page, in the lake and in MLflow; leave a copy with the figures in `folder` if one is given."""
    from pipeline import page
    from pipeline.evidence import gather, wall_times
    from pipeline.studies import answer
    from pipeline.study import StudyError
    from pipeline.tracking import record_report

    study = job.study
    evidence = gather(lake, study, log.info)
    try:
        findings = answer(evidence)
    except ValueError as error:  # all is read by now: the statistics say what they lack
        raise StudyError(f"study {study.name!r} cannot be answered yet: {error}") from error
    _require_mlflow(settings)
    html = page.render(study, findings, facts=evidence.facts(), times=wall_times(lake, evidence))
    lake.put_text(page_path(study.name), html)
    figures = {f"{s.slug}.png": s.figure for s in findings.sections if s.figure is not None}
    _leave(folder, study.name, {".html": html, ".md": findings.markdown(study.question, study.name)}, figures)
    run_id = record_report(
        study.lineup,
        first=study.first,
        tracking_uri=settings.tracking_uri,
        metrics=findings.metrics,
        headline=findings.headline,
        figures=figures,
        page=html,
    )
    log.info("%s", findings.headline)
    return {
        "study": study.name,
        "headline": findings.headline,
        "metrics": findings.metrics,
        "page": lake.address(page_path(study.name)),
        "mlflow_run": run_id,
    }
