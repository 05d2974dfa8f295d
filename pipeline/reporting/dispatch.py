"""What runs a job of each kind: ingest, select, train, compare and report, from its document to its outcome."""

from __future__ import annotations

# Each kind of job imports what it needs when it runs: TorchRec takes seconds, in the driver and in every helper process.
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from pipeline.data.account import FileAccount
from pipeline.spec.errors import BadInput
from pipeline.spec.job import (
    SUBMISSION_VARIABLE,
    AnyJob,
    CompareJob,
    IngestJob,
    OfVariants,
    ReportJob,
    SelectJob,
    TrainJob,
    load_job,
)
from pipeline.spec.lineup import LineUp, LogSource, SimulatedSource
from pipeline.spec.settings import Settings
from pipeline.spec.window import Window
from pipeline.storage.generation import tidy
from pipeline.storage.lake import Conflict, Lake
from pipeline.storage.paths import page_path, result_path
from pipeline.training.chain.timings import account
from pipeline.training.probe import require_cores, require_ray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.reporting.comparison import VariantComparison
    from pipeline.spec.study import Study
    from pipeline.studies.findings import Findings
    from pipeline.studies.results import Result
    from pipeline.training.chain.engine import Engine
    from pipeline.training.chain.evaluations import Closed
    from pipeline.training.chain.status import ChainStatus

log = logging.getLogger(__name__)


def run(job: AnyJob, settings: Settings) -> dict[str, Any]:
    """Do a job and leave its outcome in the lake, where its submission finds it.

    Raises:
        BadInput: the job cannot be done; the message names the cure.
    """
    lake = Lake(settings.lake)
    match job:
        case IngestJob():
            outcome = run_ingest(job, lake)
        case SelectJob():
            outcome = run_select(job, lake, settings)
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
        lake.replace(path, outcome, lake.sound(path))
    return outcome


def run_ingest(job: IngestJob, lake: Lake) -> dict[str, Any]:
    """Publish the windows of a span."""
    from pipeline.data.intake import take_in
    from pipeline.data.simulator import simulate

    windows = list(Window.span(job.first, job.last))
    files: list[FileAccount] = []
    source = job.dataset.source
    match source:
        case SimulatedSource():
            published = [
                manifest
                for name, seed in job.dataset.names(job.seeds).items()
                for manifest in simulate(
                    lake, name, source.simulator(seed), windows, force=job.force, progress=log.info
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


def run_select(job: SelectJob, lake: Lake, settings: Settings) -> dict[str, Any]:
    """Store what policies keep of a span's windows, on a group of Ray Train workers; it waits for no other job.

    Raises:
        BadInput: a window or what a policy reads is missing.
    """
    _require_workers(job, settings)
    outcome = _on_workers(select_on_worker, job, lake, settings, uuid.uuid4().hex)
    if "error" in outcome:
        raise BadInput(outcome["error"])
    for warning in outcome["warnings"]:
        log.warning("%s", warning)
    return outcome


def run_train(job: TrainJob, lake: Lake, settings: Settings) -> dict[str, Any]:
    """Train a job's steps on a group of Ray Train workers, while nobody else trains their chains.

    Raises:
        BadInput: the job cannot be done, or would go on from what is stale.
        Conflict: another job trains the same chains for too long, or published the same steps.
    """
    _require_workers(job, settings)
    from pipeline.storage.leases import chains_of, held  # below what is refused at once
    from pipeline.training.chain.status import left_behind, require_fresh

    run = uuid.uuid4().hex
    with held(lake, job.lineup.name, chains_of(job), run):
        warnings = require_fresh(lake, job)
        for warning in warnings:
            log.warning("%s", warning)
        outcome = _on_workers(train_on_worker, job, lake, settings, run)
        for kind, error in (("error", BadInput), ("conflict", Conflict)):
            if kind in outcome:
                raise error(outcome[kind])
        news = outcome["warnings"] + left_behind(lake, job)
    for warning in news:
        log.warning("%s", warning)
    return {**outcome, "warnings": warnings + news}


def _require_workers(job: OfVariants, settings: Settings) -> None:
    """Refuse at once, from a shell, what the machine has no room for or no Ray for; a submitted job is on Ray already."""
    if not os.environ.get(SUBMISSION_VARIABLE):
        require_cores(job.lineup.workers, settings)
        require_ray(settings)


def _on_workers(
    work: Callable[[dict[str, Any]], Any], job: OfVariants, lake: Lake, settings: Settings, run: str
) -> dict[str, Any]:
    """Run a job's work on its workers; whatever ends this process ends the job's MLflow runs as well."""
    from pipeline.training.workers import leave, run_on_workers

    config = {
        "job": job.model_dump_json(),
        "run": run,
        "lake": settings.lake,
        "tracking_uri": settings.tracking_uri,
        "submitted": time.time(),
        "log_level": log.getEffectiveLevel(),
    }
    status: Literal["KILLED", "FAILED"] | None = "KILLED"
    name = f"{job.lineup.name}-{job.first}-{uuid.uuid4().hex[:8]}"
    try:
        outcome: dict[str, Any] = run_on_workers(
            work,
            config,
            job.lineup.workers,
            address=settings.ray_address,
            name=name,
            storage=lake.address("ray-train"),
        )
        status = None
    except Exception:
        status = "FAILED"
        raise
    finally:
        tidy(lake, f"ray-train/{name}")
        if status is not None:
            from pipeline.reporting.tracking.server import close_runs

            if status == "KILLED":
                log.warning("Stopped. Steps that are done stay done: run the same again to go on")
            close_runs(job.lineup.name, run, settings.tracking_uri, status)
            if status == "KILLED":  # its workers may have opened another run meanwhile
                leave()
                close_runs(job.lineup.name, run, settings.tracking_uri, status)
    return outcome


def select_on_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What every Ray Train worker does for a job that selects; the process group of its lane is up.

    Returns:
        On every worker, what all lanes did.
    """
    from pipeline.training.workers import lane, of_all_lanes, quiet

    job = load_job(config["job"])
    if not isinstance(job, SelectJob):
        raise BadInput(f"only a job that selects runs here, got {job.kind}")
    quiet(config["log_level"])
    lanes: list[dict[str, Any]] = of_all_lanes(_select_lane(job, config, lane()))
    if failed := next((each for each in lanes if "error" in each), None):
        return failed
    return {
        "lineup": job.lineup.name,
        "selections": [made for each in lanes for made in each["selections"]],
        "warnings": sorted({warning for each in lanes for warning in each["warnings"]}),
    }


def _select_lane(job: SelectJob, config: dict[str, Any], lane: int) -> dict[str, Any]:
    """Store this lane's selections, and record them in MLflow, each as soon as it is there."""
    import torch.distributed as dist

    from pipeline.reporting.tracking.selection_runs import SelectionRuns
    from pipeline.storage.together import is_of_all
    from pipeline.training.chain.selections import made_ahead

    lake = Lake(config["lake"])
    runs = SelectionRuns(lake, job, config["tracking_uri"]) if dist.get_rank() == 0 else None
    found: list[dict[str, Any]] = []
    try:
        for made in made_ahead(lake, job, lane):
            if runs is not None:
                found.append(runs.add(made))
    except BadInput as error:
        if is_of_all(error) or dist.get_world_size() == 1:
            # Returned, not raised: Ray Train would start the workers again, and they would fail again.
            return {"error": str(error)}
        raise
    return {"selections": found, "warnings": [] if runs is None else runs.end()}


def train_on_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What every Ray Train worker does; the process group of its lane is up.

    Returns:
        On every worker, what all lanes did.
    """
    from pipeline.training.workers import of_all_lanes

    job = load_job(config["job"])
    if not isinstance(job, TrainJob):
        raise BadInput(f"only a train job runs on workers, got {job.kind}")
    lanes: list[dict[str, Any]] = of_all_lanes(_train_lane(job, config))
    if failed := next((lane for lane in lanes if "chains" not in lane), None):
        return failed
    order = {chain: place for place, chain in enumerate((seed, v.name) for seed, v in job.chains)}
    chains = [chain for lane in lanes for chain in lane["chains"]]
    return {
        "lineup": job.lineup.name,
        "chains": sorted(chains, key=lambda chain: order[chain["seed"], chain["variant"]]),
        "warnings": sorted({warning for lane in lanes for warning in lane["warnings"]}),
    }


def _train_lane(job: TrainJob, config: dict[str, Any]) -> dict[str, Any]:
    """Train the chains of this worker's lane."""
    began = time.time()
    from pipeline.training.workers import lane, quiet, worker_device

    quiet(config["log_level"])
    import torch.distributed as dist

    from pipeline.reporting.tracking.recorder import MlflowRecorder
    from pipeline.storage.together import is_of_all
    from pipeline.training.chain.engine import Engine

    lake, uri = Lake(config["lake"]), config["tracking_uri"]
    recorder = None
    if dist.get_rank() == 0:
        daily = job.start == "parent" and job.first == job.last
        recorder = MlflowRecorder(
            lake, job.lineup, first=job.first, daily=daily, tracking_uri=uri, job=config.get("run"), lane=lane()
        )
    engine = Engine(lake, job, recorder, worker_device(config["threads"]), lane())
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    try:
        last = _through_conflicts(engine)
        status = "FINISHED"
    except (BadInput, Conflict) as error:
        if is_of_all(error) or engine.world_size == 1:
            # Returned, not raised: Ray Train would start the workers again, and they would fail again.
            return {"error" if isinstance(error, BadInput) else "conflict": str(error)}
        raise
    finally:
        if recorder is not None:
            recorder.end(status)
            if not engine.lane:  # the others start and end beside it
                account(lake, job, submitted=config["submitted"], began=began, tracking=recorder.seconds)
    lost = None if recorder is None else recorder.lost
    cure = "run this again once it answers: done steps are skipped, and what it lacks is recorded"
    trained = [(seed, variant) for seed, variant in engine.chains if variant.start is None or variant.start <= job.last]
    return {
        "chains": [
            {
                "variant": variant.name,
                "seed": seed,
                "window": step.window.name,
                "step": step.key,
                "checkpoint": step.checkpoint,
                "total_examples": step.total_examples,
                "log_loss": evaluation.metrics.get("log_loss"),
            }
            for (seed, variant), (step, evaluation) in zip(trained, last, strict=True)
        ],
        "warnings": [f"all steps are in the lake, but MLflow at {uri} lacks some of them ({lost}): {cure}"]
        if lost
        else [],
    }


def _through_conflicts(engine: Engine) -> list[Closed]:
    """Run a job's steps; where another line-up's job publishes the same step first, go on behind it.

    Each conflict stands for a step that the other one has done, which is skipped then: there are no more of them than steps.
    """
    from pipeline.storage.together import is_of_all

    job = engine.job
    num_steps = len(list(Window.span(job.first, job.last))) * len(job.lineup.only(job.variants)) * len(job.lineup.seeds)
    left = 0 if job.force else num_steps
    while True:
        try:
            return engine.run()
        except Conflict as error:
            if not is_of_all(error) or not left:
                raise
            left -= 1
            log.info("%s; going on from what is there now", error)


def run_compare(job: CompareJob, lake: Lake, settings: Settings, folder: Path | None = None) -> dict[str, Any]:
    """Compare variants, and log table, figures and a summary run per variant; leave a copy in `folder` if one is given."""
    from pipeline.reporting import comparison_page
    from pipeline.reporting.comparison import compare, not_started
    from pipeline.reporting.tracking.comparisons import record_comparison
    from pipeline.reporting.tracking.server import data_of
    from pipeline.training.chain.status import cure, stale_lines

    compared = compare(lake, job.lineup, job.variants, job.first, job.last)
    stale = _stale(lake, job.lineup, [c.variant for c in compared], job.first, job.last)
    later = not_started(job.lineup, job.variants, job.last)
    notes = [f"{name} starts on {start}, after {job.last}: left out" for name, start in later.items()]
    notes += [*stale_lines(stale), cure(lake, job.lineup, stale)] if stale else []
    run_id = None
    if compared:
        text = comparison_page.markdown(compared, notes)
        figures = comparison_page.figures(compared, job.lineup.online_start)
        _leave(folder, job.lineup.name, {"_comparison.md": text}, figures)
        lines_by_variant = {
            c.variant: "\n".join(stale_lines(s for s in stale if s.variant == c.variant)) for c in compared
        }
        run_id = _recorded(
            lambda: record_comparison(
                job.lineup,
                first=job.first,
                tracking_uri=settings.tracking_uri,
                summaries={c.variant: _summary(c) for c in compared},
                headline={
                    c.variant: {**c.metrics, "gap_percent": c.gap.value, "examples": c.examples} for c in compared
                },
                table=comparison_page.columns(compared),
                figures=figures,
                text=text,
                stale={variant: lines for variant, lines in lines_by_variant.items() if lines},
                data=data_of(lake, job.lineup, job.first, job.last),
            ),
            settings,
            notes,
        )
    return {
        "lineup": job.lineup.name,
        "first": job.first.name,
        "last": job.last.name,
        "mlflow_run": run_id,
        "header": list(comparison_page.HEADER),
        "caption": comparison_page.caption(compared),
        "rows": [list(row) for row in comparison_page.table_rows(compared)],
        "columns": comparison_page.columns(compared),
        "stale": {f"{s.variant} seed {s.seed}": {window.name: why for window, why in s.stale.items()} for s in stale},
        "warnings": notes,
    }


def _recorded(record: Callable[[], str], settings: Settings, notes: list[str]) -> str | None:
    """The run in which MLflow has it; None, and a note for people, where it does not take it."""
    from pipeline.reporting.tracking.server import TrackingLost, reaching

    try:
        with reaching(settings.tracking_uri):
            return record()
    except TrackingLost as error:
        notes.append(f"{error}. This is not recorded there: run it again once MLflow answers")
        return None


def _stale(lake: Lake, lineup: LineUp, variants: Sequence[str], first: Window, last: Window) -> list[ChainStatus]:
    """The chains of some variants that are stale in a span."""
    from pipeline.training.chain.status import chain_statuses

    chains = chain_statuses(lake, lineup, variants, until=last) if variants else []
    return [chain for chain in chains if any(window >= first for window in chain.stale)]


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
    from pipeline.reporting.tracking.comparisons import record_report
    from pipeline.reporting.tracking.server import data_of
    from pipeline.studies import results
    from pipeline.training.chain.status import stale_lines
    from pipeline.training.chain.timings import spent

    study = job.study
    rows = results.of_study(lake, study)
    variants = [variant.name for variant in study.lineup.only(())]
    notes = stale_lines(_stale(lake, study.lineup, variants, study.first, study.last))
    findings, html = answered(study, rows, folder, notes, spent(lake, study.name))
    lake.put_text(page_path(study.name), html)
    run_id = _recorded(
        lambda: record_report(
            study.lineup,
            first=study.first,
            tracking_uri=settings.tracking_uri,
            metrics=findings.metrics,
            headline=findings.headline,
            figures=findings.figures,
            documents=findings.documents,
            page=html,
            data=data_of(lake, study.lineup, study.first, study.last),
        ),
        settings,
        notes,
    )
    for note in notes:
        log.warning("%s", note)
    return {
        "study": study.name,
        "headline": findings.headline,
        "metrics": findings.metrics,
        "page": lake.address(page_path(study.name)),
        "mlflow_run": run_id,
        "warnings": notes,
    }


def answered(
    study: Study,
    rows: Iterable[Result],
    folder: Path | None,
    notes: Sequence[str] = (),
    beside: Mapping[str, float] | None = None,
) -> tuple[Findings, str]:
    """A study's findings and its page, from its rows; a copy with the figures is left in `folder` if one is given.

    Raises:
        BadInput: the rows do not answer it.
    """
    from pipeline.reporting import study_page
    from pipeline.spec.study import StudyError
    from pipeline.studies.answering import answer
    from pipeline.studies.evidence import Evidence

    evidence = Evidence.of(study, rows)
    if left := len(study.lineup.seeds) - len(evidence.study.lineup.seeds):
        notes = [
            *notes,
            f"{left} of {len(study.lineup.seeds)} seeds are not finished and left out; they take about "
            f"{evidence.minutes_a_seed() * left / study.lineup.workers.lanes:.0f} minutes more at the pace of the others: trigger "
            "the study again",
        ]
    try:
        findings = answer(evidence)
    except ValueError as error:  # all is read by now: the statistics say what they lack
        raise StudyError(f"study {study.name!r} cannot be answered yet: {error}") from error
    findings = replace(findings, notes=(*findings.notes, *notes))
    html = study_page.render(
        evidence.study,
        findings,
        facts=evidence.facts(),
        times=evidence.wall_times(beside or {}),
        took=evidence.took(),
    )
    texts = {".html": html, ".md": findings.markdown(study.question, study.name)}
    texts |= {f"_{name}.json": json.dumps(document, indent=1) for name, document in findings.documents.items()}
    _leave(folder, study.name, texts, findings.figures)
    log.info("%s", findings.headline)
    return findings, html
