"""The command `windrow`: the whole pipeline for whoever works without Airflow, and the local services."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from pydantic_core import to_json
from rich.console import Console
from rich.table import Table

from pipeline.errors import BadInput, asked
from pipeline.job import AnyJob, CompareJob, IngestJob, ReportJob, TrainJob, load_job, study_jobs
from pipeline.lake import Conflict, Lake
from pipeline.lineup import DatasetConfig, LineUp, LogSource, SimulatedSource, load_lineup
from pipeline.services import environment
from pipeline.settings import Settings
from pipeline.window import Window

app = typer.Typer(
    name="windrow",
    help="Data-efficient continuous training for large recommendation models.\n\n"
    "A line-up (YAML) names a data set, its variants and their workers. Typical use without Airflow: "
    "`windrow up`, `windrow ingest`, `windrow train`, `windrow compare`. Where things are comes from environment "
    "variables; `windrow settings` lists them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

BAD_INPUT = 2
"""Exit status when what was given must change: trying again does not help. Schedulers read it."""

TRY_AGAIN = 1
"""Exit status when the same may succeed the next time."""

LineUpFile = Annotated[
    Path | None, typer.Option("--lineup", "-l", help="The line-up's YAML file. [default: $WINDROW_LINEUP]")
]
Day = Annotated[str, typer.Option(help="A window, YYYY-MM-DD.", metavar="DATE")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs.")]
Force = Annotated[bool, typer.Option("--force", help="Do again what is done, as a new generation.")]
Variants = Annotated[
    list[str] | None, typer.Option("--variant", "-v", help="A variant of the line-up; repeatable. [default: all]")
]

out = Console(width=max(120, Console().width))
"""A comparison's row takes 110 columns, also where the output is a file."""


@contextmanager
def _told() -> Iterator[None]:
    """Bad input ends the program with its message, not with a traceback."""
    try:
        yield
    except BadInput as error:
        typer.secho(f"windrow: {error}", fg="red", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except Conflict as error:
        typer.secho(f"windrow: {error}", fg="red", err=True)
        raise typer.Exit(TRY_AGAIN) from None


def _answer(document: dict[str, Any], as_json: bool, table: Table | None = None) -> None:
    if as_json or table is None:
        # Strict JSON has neither NaN nor infinity.
        sys.stdout.write(to_json(document, indent=1, inf_nan_mode="null").decode() + "\n")
    else:
        out.print(table)


def _lineup(path: Path | None) -> LineUp:
    return load_lineup(path or Settings().lineup)


def _run(job: AnyJob) -> dict[str, Any]:
    # Imported here: torch and Ray take seconds, and most commands need neither.
    settings = Settings()
    _join(settings)

    from pipeline.stages import run

    return run(job, settings)


def _join(settings: Settings) -> None:
    """Let this process find and enter the local services; Ray reads its part when it is imported."""
    for name, value in environment(settings).items():
        if name.startswith(("RAY_", "MLFLOW_", "GLOO_")):
            os.environ.setdefault(name, value)
        elif name.lower() == "no_proxy":
            os.environ[name] = value


@app.callback()
def main(quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False) -> None:
    """Set up the log."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pipeline").setLevel(logging.WARNING if quiet else logging.INFO)


@app.command()
def ingest(
    first: Day,
    last: Annotated[str | None, typer.Option(help="The span's last window. [default: the first]")] = None,
    lineup: LineUpFile = None,
    dataset: Annotated[str | None, typer.Option(help="Ingest --file by --schema under this name instead.")] = None,
    schema: Annotated[str | None, typer.Option(help="criteo, obd, upworthy, or a YAML file.")] = None,
    file: Annotated[list[str] | None, typer.Option(help="Path, glob or URL; {date} is the day. Repeatable.")] = None,
    cut: Annotated[str, typer.Option(help="How rows get their window: event_time, file_per_window or equal.")] = (
        "event_time"
    ),
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Publish windows of a raw log (or of the simulator) in the lake.

    With --lineup, the source is the line-up's. With --dataset, --schema and --file it is any CSV, TSV or Parquet log.
    Windows that hold the same rows already are left as they are.
    """
    with _told():
        seeds: tuple[int, ...] = (0,)
        if dataset is not None:
            if schema is None or not file:
                raise BadInput(f"--dataset needs --schema and --file too, got schema {schema!r} and files {file!r}")
            document: dict[str, Any] = {"schema_file": schema, "files": tuple(file), "cut": cut}
            if cut != "event_time" and not any("{date}" in path for path in file):
                document["first"] = first
            if cut == "equal" and "first" in document:
                document["count"] = len(list(Window.span(Window.of(first), Window.of(last or first))))
            with asked("the options"):
                source = LogSource.model_validate(document)
                chosen = DatasetConfig(name=dataset, source=source)
        else:
            named = _lineup(lineup)
            chosen, seeds = named.dataset, named.seeds
        job = IngestJob(dataset=chosen, first=Window.of(first), last=Window.of(last or first), seeds=seeds, force=force)
        outcome = _run(job)
    table = Table("data set", "windows", "rows", "positives", "quarantined")
    table.add_row(
        outcome["dataset"],
        str(len(outcome["windows"])),
        *(f"{outcome[name]:,}" for name in ("rows", "positives", "quarantined")),
    )
    _answer(outcome, as_json, table)


@app.command()
def train(
    first: Day,
    last: Annotated[str | None, typer.Option(help="The span's last window. [default: the first]")] = None,
    lineup: LineUpFile = None,
    variant: Variants = None,
    scratch: Annotated[
        bool, typer.Option("--scratch/--go-on", help="New weights, or the checkpoint of the window before.")
    ] = True,
    workers: Annotated[int | None, typer.Option(help="Number of workers. [default: the line-up's]", min=1)] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train variants over a span of windows, one chronological pass, on Ray Train workers.

    Steps that are done are skipped. Curves and stages appear in MLflow.
    """
    with _told():
        chosen = _lineup(lineup)
        if workers is not None:
            size = chosen.workers.model_copy(update={"num_workers": workers})
            with asked("--workers"):
                chosen = LineUp.model_validate({**chosen.model_dump(), "workers": size.model_dump()})
        with asked("the options"):
            job = TrainJob(
                lineup=chosen,
                variants=tuple(variant or ()),
                first=Window.of(first),
                last=Window.of(last or first),
                start="scratch" if scratch else "parent",
                force=force,
            )
        outcome = _run(job)
    table = Table("window", "step", "examples", "log-loss before training")
    for chain in outcome["chains"]:
        table.add_row(
            chain["window"],
            chain["step"][:16],
            f"{chain['total_examples']:,}",
            f"{chain['log_loss'] or float('nan'):.5f}",
        )
    _answer(outcome, as_json, table)


@app.command()
def compare(
    first: Day,
    last: Day,
    lineup: LineUpFile = None,
    variant: Variants = None,
    folder: Annotated[Path | None, typer.Option(help="Leave a copy of table and figures here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare variants with the line-up's reference on the same rows, with 95 % intervals."""
    from pipeline.stages import run_compare

    with _told():
        chosen = _lineup(lineup)
        with asked("the options"):
            job = CompareJob(lineup=chosen, variants=tuple(variant or ()), first=Window.of(first), last=Window.of(last))
        settings = Settings()
        _join(settings)
        outcome = run_compare(job, Lake(settings.lake), settings, folder)
    _answer(outcome, as_json, _comparison(outcome))


@app.command()
def study(
    answers: Annotated[
        Path, typer.Argument(help="YAML or JSON file: `kind`, and the fields of that study's form (see dags/studies).")
    ],
    folder: Annotated[Path | None, typer.Option(help="Leave a copy of page, table and figures here.")] = None,
    airflow: Annotated[
        bool,
        typer.Option("--airflow", help="Trigger the study's DAG with these answers (`windrow up` first), and wait."),
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Answer from what is trained already; train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study: ingest, train what is missing, and answer on one page.

    The file's fields are those of the DAG's form. With --airflow the DAG does the work, else this process.
    """
    from pipeline.recipes import declared
    from pipeline.stages import run_report

    with _told():
        asked = declared(answers)
        settings = Settings()
        _join(settings)
        if airflow:
            _trigger(answers)
        elif not report_only:
            lineup = asked.lineup
            _run(IngestJob(dataset=lineup.dataset, first=asked.first, last=asked.last, seeds=lineup.seeds))
            for job in study_jobs(asked):
                _run(job)
        outcome = run_report(ReportJob(study=asked), Lake(settings.lake), settings, folder)
    _answer(outcome, as_json=True) if as_json else out.print(f"{outcome['headline']}\n\nPage: {outcome['page']}")


def _trigger(answers: Path) -> None:
    """Let Airflow run a study."""
    from pipeline.demo import Airflow, MainJobFailed
    from pipeline.recipes import conf
    from pipeline.services import addresses

    kind, given = conf(answers)
    try:
        Airflow.login(addresses()).trigger(f"{kind}_study", given, partial(typer.echo, err=True))
    except (MainJobFailed, httpx.HTTPError) as error:
        typer.secho(f"windrow: {error}", fg="red", err=True)
        raise typer.Exit(TRY_AGAIN) from None


def _comparison(outcome: dict[str, Any]) -> Table:
    table = Table(
        *outcome["header"],
        title=f"{outcome['lineup']}, windows {outcome['first']} to {outcome['last']}",
        title_justify="left",
    )
    for row in outcome["rows"]:
        table.add_row(*row)
    return table


@app.command("run")
def run_spec(
    spec: Annotated[Path, typer.Argument(help="A job's JSON document; - reads it from standard input.")],
) -> None:
    """Run a job from its document: what the DAGs submit to the cluster.

    Ends with status 2 when the document or its data must change first.
    """
    with _told():
        try:
            text = sys.stdin.read() if str(spec) == "-" else spec.read_text()
        except OSError as error:
            raise BadInput(f"cannot read {spec}: {error.strerror}") from None
        job = load_job(text)
        outcome = _run(job)
    if isinstance(job, CompareJob):
        out.print(_comparison(outcome))
    else:
        _answer(outcome, as_json=True)


@app.command()
def status(lineup: LineUpFile = None, as_json: AsJson = False) -> None:
    """Show each chain of a line-up: what is done, what is missing, what is stale and why; and the local services."""
    from pipeline.services import services_status
    from pipeline.status import chain_statuses

    with _told():
        settings = Settings()
        chosen = _lineup(lineup)
        chains = chain_statuses(Lake(settings.lake), chosen)
        services = services_status(settings)
    document = {
        "lineup": chosen.name,
        "lake": settings.lake,
        "chains": [
            {
                "variant": c.variant,
                "seed": c.seed,
                "first": c.first and c.first.name,
                "last": c.last and c.last.name,
                "windows": c.num_windows,
                "missing": [w.name for w in c.missing],
                "stale": {w.name: why for w, why in c.stale.items()},
            }
            for c in chains
        ],
        "services": [asdict(s) for s in services],
    }
    table = Table("variant", "seed", "first", "last", "windows", "missing", "stale", title=f"line-up {chosen.name}")
    for c in chains:
        table.add_row(
            c.variant,
            str(c.seed),
            str(c.first or "-"),
            str(c.last or "-"),
            str(c.num_windows),
            ", ".join(w.name for w in c.missing) or "-",
            "; ".join(f"{w}: {why}" for w, why in c.stale.items()) or "-",
        )
    _answer(document, as_json, table)
    if not as_json:
        for s in services:
            line = f"{s.name:24} {'up' if s.healthy else 'down':5} {s.address}"
            out.print(line if s.healthy else f"{line}  {s.detail}", markup=False, soft_wrap=True)


@app.command()
def up(as_json: AsJson = False) -> None:
    """Start Airflow, MLflow and a one-node Ray cluster on loopback."""
    from pipeline import services

    try:
        found = services.up()
    except services.ServiceError as error:
        typer.secho(f"windrow: {error}", fg="red", err=True)
        raise typer.Exit(TRY_AGAIN) from None
    if as_json:
        _answer({"airflow": found.airflow, "mlflow": found.mlflow, "ray": found.ray, "user": found.user}, True)


@app.command()
def down() -> None:
    """End the local services and everything they started."""
    from pipeline import services

    services.down()


@app.command()
def demo(
    lineup: LineUpFile = None,
    first: Annotated[str | None, typer.Option(help="Start of history. [default: the simulated log's day zero]")] = None,
    online: Annotated[int, typer.Option(help="Number of online windows to backfill.", min=1)] = 6,
    as_json: AsJson = False,
) -> None:
    """Run the main job through Airflow (`windrow up` first): ingest, warm-up, daily runs by backfill, comparison.

    Ends with the comparison of the line-up's variants over the online windows, and the addresses to open.
    """
    from pipeline import services
    from pipeline.compare import compare as compare_variants
    from pipeline.demo import Airflow, MainJobFailed, curves_page, main_job
    from pipeline.report import HEADER, columns, table_rows

    with _told():
        path = lineup or Settings().lineup
        chosen = load_lineup(path)
        source = chosen.dataset.source
        start = source.origin if isinstance(source, SimulatedSource) else None
        if first is not None:
            start = Window.of(first)
        if start is None:
            raise BadInput(f"--first is needed: {chosen.dataset.name!r} is a log, whose first window only you know")
        last = chosen.online_start.shift(online - 1)
        say = partial(typer.echo, err=True)
        found = services.addresses()
        try:
            main_job(Airflow.login(found), path.stem, chosen, start, last, say)
        except (MainJobFailed, httpx.HTTPError) as error:
            typer.secho(f"windrow: {error}", fg="red", err=True)
            raise typer.Exit(1) from None
        compared = compare_variants(Lake(Settings().lake), chosen, (), chosen.online_start, last)
    span = {"lineup": chosen.name, "first": chosen.online_start.name, "last": last.name}
    rows = {"header": list(HEADER), "rows": [list(row) for row in table_rows(compared)]}
    _answer({**span, "columns": columns(compared)}, as_json, _comparison({**span, **rows}))
    if not as_json:
        out.print(f"\nAirflow  {found.airflow}  user {found.user}, password {found.password}")
        out.print(f"MLflow   {curves_page(found.mlflow, chosen.name)}", soft_wrap=True)
        out.print(f"Ray      {found.ray}  token in {Settings().ray_token_path}\nEnd everything with `make down`.")


@app.command()
def settings(as_json: AsJson = False) -> None:
    """List the environment variables that say where things are."""
    from pipeline.settings import settings_table

    rows = settings_table()
    table = Table("variable", "default", "meaning")
    for row in rows:
        table.add_row(*row)
    _answer({name: {"default": default, "meaning": meaning} for name, default, meaning in rows}, as_json, table)
