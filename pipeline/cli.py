"""The command `windrow`: the whole pipeline for whoever works without Airflow, and the local services."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import TypeAdapter
from pydantic_core import to_json
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from pipeline.spec.config import Name
from pipeline.spec.documents import as_yaml, decoded, parse_yaml, read_text
from pipeline.spec.errors import BadInput, TryAgain, asked, named, readable
from pipeline.spec.forms.fields import worded
from pipeline.spec.job import AnyJob, CompareJob, IngestJob, ReportJob, SelectJob, TrainJob, load_job
from pipeline.spec.lineup import DatasetConfig, LineUp, LogSource, SimulatedSource, document, load_lineup
from pipeline.spec.lineups import ONLINE_DAYS, at_home, is_homemade, lineup_path, yesterday
from pipeline.spec.schema import EventTime, Schema
from pipeline.spec.settings import CANNOT, Settings, make_folder, without_password
from pipeline.spec.study import Study
from pipeline.spec.window import Window
from pipeline.studies.kinds import kind_of, kinds

if TYPE_CHECKING:
    from pipeline.selection.inspection import Inspected
    from pipeline.studies.iso_compute.horizon import Quarter


class _Commands(TyperGroup):
    """The commands; whatever goes wrong in reading them or in running them ends in one message."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command as a program and end it with its status."""
        given = arguments[0] if arguments else options.pop("args", None)
        with _errors_as_messages():
            status = super().main(
                (sys.argv[1:] if given is None else given) or ["--help"],
                *arguments[1:],
                **{**options, "standalone_mode": False},
            )
        sys.exit(status if isinstance(status, int) else 0)


app = typer.Typer(
    name="windrow",
    cls=_Commands,
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

MAX_LISTED = 50
"""Rows of a table that could be of any length."""
MAX_SPEC_BYTES = 1 << 24

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SERVICES = ("httpx", "mlflow", "obstore", "ray")
"""Libraries whose errors are those of a service or a store; their tracebacks help nobody."""

LineUpFile = Annotated[
    Path | None, typer.Option("--lineup", "-l", help="The line-up's YAML file. [default: $WINDROW_LINEUP]")
]
Day = Annotated[str, typer.Option(help="A window, YYYY-MM-DD.", metavar="DATE")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON, for programs.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again, as a new generation, even if it is done.")]
Variants = Annotated[
    list[str] | None, typer.Option("--variant", "-v", help="A variant of the line-up; repeatable. [default: all]")
]

out = Console(width=max(100, Console().width) if sys.stdout.isatty() else 160)
"""A file is as wide as the widest table."""
WIDE = 140
"""Columns from which a gap and its interval stand in one line."""


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    """What cannot be done ends the program with its message, not with a traceback; a fault of our own has one."""
    try:
        yield
    except BadInput as error:
        _end(str(error), BAD_INPUT)
    except TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "windrow")
        _end(f"{error.format_message().rstrip('.')}: see `{command} --help`", BAD_INPUT)
    except TryAgain as error:
        _end(str(error), TRY_AGAIN)
    except OSError as error:
        _end(_of_the_machine(error), BAD_INPUT if error.errno in CANNOT else TRY_AGAIN)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in SERVICES:
            raise
        _end(_of_a_service(error), TRY_AGAIN)


def _of_the_machine(error: OSError) -> str:
    """What the operating system refused, with the path."""
    if error.errno in FULL or "os error 28" in str(error):
        return _full(error)
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or str(error).splitlines()[0]}{where}: free it or give another path, and try again"


def _full(error: Exception) -> str:
    """No space is left, and where."""
    lake = Settings().lake
    folders = {"WINDROW_LAKE": lake, "WINDROW_HOME": str(Settings().home), "TMPDIR": tempfile.gettempdir()}
    there = {name: folder for name, folder in folders.items() if os.path.isdir(folder)}
    fullest = min(there, key=lambda name: shutil.disk_usage(there[name]).free)
    free = shutil.disk_usage(there[fullest]).free
    return (
        f"no space was left ({str(error).splitlines()[0]:.300}); the disk of {there[fullest]} has {free:,} bytes free now: "
        f"make room there, or set {fullest} to another folder, and try again"
    )


def _of_a_service(error: Exception) -> str:
    """What a service or a store refused."""
    if "os error 28" in str(error):
        return _full(error)
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return f"a service failed: {said}: see `windrow status`, run `windrow up` if one is down, and try again"


def _end(message: str, status: int) -> NoReturn:
    typer.secho(f"windrow: {readable(message)}", fg="red", err=True)
    sys.exit(status)


def _answer(document: dict[str, Any], as_json: bool, table: Table | None = None) -> None:
    if as_json or table is None:
        # Strict JSON has neither NaN nor infinity.
        sys.stdout.write(to_json(document, indent=1, inf_nan_mode="null").decode() + "\n")
    else:
        out.print(table)


def _lineup(path: Path | None) -> LineUp:
    return load_lineup(path or at_home(Settings()))


def _run(job: AnyJob) -> dict[str, Any]:
    # Imported here, as in every command: torch and Ray take seconds, and a refusal needs neither.
    settings = Settings()
    _join(settings)

    from pipeline.reporting.dispatch import run

    return run(job, settings)


def _join(settings: Settings) -> None:
    """Let this process find and enter the local services; Ray reads its part when it is imported."""
    from pipeline.local.services import environment

    for name, value in environment(settings).items():
        if name.startswith(("RAY_", "MLFLOW_", "GLOO_")):
            os.environ.setdefault(name, value)
        elif name.lower() == "no_proxy":
            os.environ[name] = value
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # it takes the lines of several windows for one


def _show_version(wanted: bool) -> None:
    """Show Windrow's version, and end."""
    if wanted:
        typer.echo(f"windrow {version('windrow')}")
        raise typer.Exit


@app.callback()
def main(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    _: Annotated[
        bool, typer.Option("--version", help="Show the version, and end.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Set up the log."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pipeline").setLevel(logging.WARNING if quiet else logging.INFO)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="What to call the line-up and its data set.")],
    files: Annotated[
        list[str], typer.Option("--from", help="The log's files: path, glob or URL, in quotes. Repeatable.")
    ],
    label: Annotated[str | None, typer.Option(help="The column of clicks, where that is not clear.")] = None,
    time: Annotated[str | None, typer.Option(help="The column that says when an example happened.")] = None,
    zone: Annotated[
        str | None, typer.Option(help="IANA zone of times that carry none, e.g. Europe/Copenhagen.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="The column by which rows must be resampled together.")] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="A column that no model may see, such as what is known only later. Repeatable."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where to write the two files.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the two files if they exist.")] = False,
) -> None:
    """Propose a schema and a line-up for a log of your own, from a sample of it."""
    with _errors_as_messages():
        from pipeline.data.start.files import proposed
        from pipeline.data.start.roles import Given, roles
        from pipeline.data.start.sample import read_sample

        with asked("the name"):
            TypeAdapter(Name).validate_python(name)
        paths = [folder / f"{name}.schema.yaml", folder / f"{name}.yaml"]
        if there := [path for path in paths if path.exists() and not force]:
            raise BadInput(f"{there[0]} is there already: choose another name, or overwrite it with --force")
        if zone is not None:
            with asked("--zone"):
                EventTime(column="any", zone=zone)
        sample = read_sample(files)
        given = Given(label=label, time=time, zone=zone, cluster=cluster, leave_out=tuple(leave_out or ()))
        found = proposed(name, sample, roles(sample, given))
        Schema.of(parse_yaml(found.schema, str(paths[0])), "what this log has")
        make_folder(folder, "the folder of a line-up", "--folder")
        for path, text in zip(paths, (found.schema, found.lineup), strict=True):
            path.write_text(text)
        load_lineup(paths[1])
    span = f"--lineup {paths[1]} --first {found.first} --last {found.last}"
    out.print(f"Read these, and change what is wrong:\n  {paths[0]}\n  {paths[1]}\n", soft_wrap=True, highlight=False)
    out.print(
        "Then:",
        *(f"  windrow {step} {span}" for step in ("ingest", "train", "compare")),
        sep="\n",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def ingest(
    first: Day,
    last: Annotated[str | None, typer.Option(help="The span's last window. [default: the first]")] = None,
    lineup: LineUpFile = None,
    dataset: Annotated[str | None, typer.Option(help="Ingest --file by --schema under this name instead.")] = None,
    schema: Annotated[str | None, typer.Option(help="criteo, ebnerd, obd, upworthy, or a YAML file.")] = None,
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
    with _errors_as_messages():
        seeds: tuple[int, ...] = (0,)
        where = "the options"
        if dataset is not None:
            if schema is None or not file:
                raise BadInput(f"--dataset needs --schema and --file too, got schema {schema!r} and files {file!r}")
            document: dict[str, Any] = {"schema_file": schema, "files": tuple(file), "cut": cut}
            if Path(schema).suffix or os.path.exists(schema):
                document["schema_file"] = str(Path(schema).absolute())
            if cut != "event_time" and not any("{date}" in path for path in file):
                document["first"] = first
            if cut == "equal" and "first" in document:
                document["count"] = len(list(Window.span(Window.of(first), Window.of(last or first))))
            with asked(
                "the options", {"name": "--dataset", "schema_file": "--schema", "files": "--file", "cut": "--cut"}
            ):
                source = LogSource.model_validate(document)
                chosen = DatasetConfig(name=dataset, source=source)
        else:
            of_lineup = _lineup(lineup)
            chosen, seeds = of_lineup.dataset, of_lineup.seeds
            where = str(lineup or Settings().lineup)
        with asked("the options"):
            job = IngestJob(
                dataset=chosen, first=Window.of(first), last=Window.of(last or first), seeds=seeds, force=force
            )
        with named(where):
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
    despite_stale: Annotated[
        bool,
        typer.Option("--despite-stale", help="Go on from stale checkpoints as they are, now and on later days."),
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train variants over a span of windows, one chronological pass, on Ray Train workers.

    Steps that are done are skipped. Curves and stages (a run per phase) appear in MLflow. With --go-on, a checkpoint whose chain is stale
    (`windrow status`) is refused.
    """
    with _errors_as_messages():
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
                despite_stale=despite_stale,
            )
        outcome = _run(job)
    table = Table(Column("variant", overflow="fold"), "seed", "window", "examples", "log-loss before training")
    for chain in outcome["chains"]:
        table.add_row(
            chain["variant"],
            str(chain["seed"]),
            chain["window"],
            f"{chain['total_examples']:,}",
            f"{chain['log_loss'] or float('nan'):.5f}",
        )
    _answer(outcome, as_json, table)


@app.command()
def select(
    first: Day,
    last: Annotated[str | None, typer.Option(help="The span's last window. [default: the first]")] = None,
    lineup: LineUpFile = None,
    variant: Variants = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Store what the policies of a line-up's variants keep of a span of windows, ahead of training.

    Training makes the selections that it needs by itself, and takes those that are there. A policy that asks a pilot needs the pilot's
    steps on these windows. What was kept, and what it was made of, appears in MLflow; `windrow inspect` shows more of it.
    """
    with _errors_as_messages():
        chosen = _lineup(lineup)
        with asked("the options"):
            job = SelectJob(
                lineup=chosen,
                variants=tuple(variant or ()),
                first=Window.of(first),
                last=Window.of(last or first),
                force=force,
            )
        outcome = _run(job)
    table = Table(Column("variant", overflow="fold"), "seed", "window", "kept", "of the rows", "of the clicks")
    for made in outcome["selections"]:
        shares = (f"{made['share']:.2%}", f"{made['clicks_kept']:.2%}")
        table.add_row(made["variant"], str(made["seed"]), made["window"], f"{made['num_rows']:,}", *shares)
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
    with _errors_as_messages():
        chosen = _lineup(lineup)
        with asked("the options"):
            job = CompareJob(lineup=chosen, variants=tuple(variant or ()), first=Window.of(first), last=Window.of(last))
        from pipeline.reporting.dispatch import run_compare
        from pipeline.storage.lake import Lake

        settings = Settings()
        _join(settings)
        outcome = run_compare(job, Lake(settings.lake), settings, folder)
    _answer(outcome, as_json, _comparison(outcome))


class _Study(TyperCommand):
    """The command `study`, whose help lists the kinds."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        listed = "\n\n".join(f"- `{kind.name}`: {kind.question}" for kind in kinds().values())
        self.help = f"{self.help}\n\nKinds of study, whose fields --fields shows:\n\n{listed}"
        super().format_help(ctx, formatter)


def _show_fields(name: str | None) -> None:
    """Show the fields of a kind of study, and end."""
    if name is None:
        return
    kind = kind_of(name)
    table = Table(Column("field", no_wrap=True), "what it is", "default", box=box.SIMPLE_HEAD, show_lines=True)
    for field, schema in kind.fields.described().items():
        default = "must be given" if kind.fields.model_fields[field].is_required() else schema.get("default")
        shown = ", ".join(default) if isinstance(default, list) else "" if default is None else str(default)
        help_text = f"{schema['title']}: {worded(schema)}. {schema['description']}"
        table.add_row(field, Text(help_text), Text(shown))
    out.print(
        Text(
            f"{kind.question}\n\nA file has `kind: {kind.name}` and any of these fields; `study` is the file's name unless it is given:"
        )
    )
    out.print(table)
    raise typer.Exit


@app.command(cls=_Study)
def study(
    answers: Annotated[
        Path | None,
        typer.Argument(help="YAML or JSON file: `kind`, and the fields of that study's form (see dags/studies)."),
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option(
            help="Show the fields of a kind of study, and end.", metavar="KIND", is_eager=True, callback=_show_fields
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="In place of the file's, e.g. 0-5 or 1,4.", metavar="SEEDS")] = None,
    cells: Annotated[
        Path | None,
        typer.Option(
            help="Train seed by seed, and write a file for each seed into this folder, with a row per cell and window. "
            "A seed that has its file is skipped. With --from: the file into which all rows are put together."
        ),
    ] = None,
    discard: Annotated[
        bool,
        typer.Option("--discard", help="With --cells: delete a seed's windows and models once its file is written."),
    ] = False,
    rows: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="Answer from these files of rows, or all of a folder, without a lake. Repeat for more."
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Leave a copy of page, table and figures here.")] = None,
    airflow: Annotated[
        bool,
        typer.Option("--airflow", help="Trigger the study's DAG with these answers (`windrow up` first), and wait."),
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Answer from what is trained already; train nothing.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it will take in time, disk and compute; train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study: ingest, train what is missing, and answer on one page.

    The file's fields are those of the DAG's form. With --airflow the DAG does the work, else this process.
    """
    with _errors_as_messages():
        if answers is None:
            raise BadInput(
                "a study is a file of answers, got none: name one, such as dags/studies/distillation_drift.yaml"
            )
        from pipeline.storage.lake import Lake
        from pipeline.studies.declared import declared
        from pipeline.studies.estimate import estimate

        asked = declared(answers, seeds)
        _one_way(cells=cells is not None, rows=bool(rows), airflow=airflow, report_only=report_only, discard=discard)
        if plan:
            out.print(estimate(asked, Lake(Settings().lake)).words())
            return
        if rows:
            _say(_answer_from(rows, asked, cells, folder, every_seed=seeds is None), as_json=as_json)
            return
        settings = Settings()
        _join(settings)
        from pipeline.reporting.dispatch import run_report
        from pipeline.studies.jobs import study_jobs

        if cells is not None:
            from pipeline.reporting import by_seed

            by_seed.train(asked, settings, cells, discard=discard, progress=partial(typer.echo, err=True))
            return
        if airflow:
            _trigger(answers, seeds)
        elif not report_only:
            typer.echo(estimate(asked, Lake(settings.lake)).words(), err=True)
            lineup = asked.lineup
            _run(IngestJob(dataset=lineup.dataset, first=asked.first, last=asked.last, seeds=lineup.seeds))
            for job in study_jobs(asked):
                _run(job)
        outcome = run_report(ReportJob(study=asked), Lake(settings.lake), settings, folder)
    _say(outcome, as_json=as_json)


def _say(outcome: dict[str, Any], *, as_json: bool) -> None:
    """A study's headline, and where its page lies."""
    _answer(outcome, as_json=True) if as_json else out.print(f"{outcome['headline']}\n\nPage: {outcome['page']}")


def _one_way(*, cells: bool, rows: bool, airflow: bool, report_only: bool, discard: bool) -> None:
    """Refuse options of a study that contradict each other.

    Raises:
        BadInput: says which.
    """
    if discard and (rows or not cells):
        raise BadInput("--discard deletes what --cells has written down: give --cells FOLDER, and leave out --from")
    chosen = [
        name for name, given in (("--airflow", airflow), ("--report-only", report_only), ("--from", rows)) if given
    ]
    if cells and not rows:
        chosen.append("--cells")
    if len(chosen) > 1:
        raise BadInput(f"a study is run or answered in one way, got {' and '.join(chosen)}: leave out all but one")


def _answer_from(
    rows: list[Path], asked: Study, cells: Path | None, folder: Path | None, *, every_seed: bool
) -> dict[str, str]:
    """Answer a study from files of rows, under its own seeds or every one that they have; put them together in `cells`.

    Returns:
        The headline, and where the page lies.
    """
    from pipeline.reporting.dispatch import answered
    from pipeline.studies import results

    found = results.read(rows)
    if cells is not None:
        results.write(found, cells)
    study = asked.under(tuple(sorted({row.seed for row in found}))) if every_seed else asked
    findings, _ = answered(study, found, folder or Path())
    return {"headline": findings.headline, "page": str((folder or Path()) / f"{study.name}.html")}


@app.command()
def plan(
    answers: Annotated[
        Path, typer.Argument(help="The file of an iso_compute study that is finished (see dags/studies).")
    ],
    budget: Annotated[
        str, typer.Option(help="What may be spent: FLOPs, such as 5e14, or hours of a core, such as 2core-h.")
    ],
    rows: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="Take the study's rows from these files or folders, without a lake. Repeat for more."
        ),
    ] = None,
    beyond: Annotated[
        float | None,
        typer.Option(min=1, help="How many times outside the study's budgets the budget may lie. [default: 4]"),
    ] = None,
    unsure: Annotated[
        bool, typer.Option("--unsure", help="Plan also where no interval is known, as from a single log.")
    ] = False,
    growth: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=10,
            help="Plan ahead too: by what share the log grows in a year, e.g. 0.5 for half as much again.",
        ),
    ] = None,
    quarters: Annotated[int, typer.Option(min=1, max=20, help="With --growth: how many quarters of a year ahead.")] = 4,
    write: Annotated[
        Path | None,
        typer.Option(help="Write the proposal as a line-up to this file, for `windrow train` and the DAGs."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how large a model to train on how many rows for a budget, by the law of an iso_compute study."""
    with _errors_as_messages():
        from pipeline.storage.lake import Lake
        from pipeline.studies import results
        from pipeline.studies.declared import read
        from pipeline.studies.evidence import Evidence
        from pipeline.studies.iso_compute.fields import budget_of
        from pipeline.studies.iso_compute.horizon import horizon
        from pipeline.studies.iso_compute.proposal import Ground, propose

        budget_of(budget)  # refused before anything is read
        kind, asked = read(answers)
        if kind.name != "iso_compute":
            raise BadInput(
                f"a plan takes the law of an iso_compute study, got one of {kind.name} in {answers}: run an iso_compute study first"
            )
        with named(str(answers)):
            base = asked.on_workers()
            study = kind.study(base, asked)
        found = results.read(rows) if rows else results.of_study(Lake(Settings().lake), study)
        ground = Ground.of(Evidence.of(study, found), base, budget)
        proposal = propose(ground, beyond=beyond, unsure=unsure)
        later = [] if growth is None else horizon(ground, proposal, growth, quarters, beyond=beyond)
        if write is not None:
            write.write_text(as_yaml(document(proposal.lineup)))
    if as_json:
        _answer({**proposal.figures(), "quarters": [asdict(each) for each in later]}, as_json=True)
        return
    out.print(proposal.words())
    if later:
        out.print(_quarters(later))
    if write is not None:
        first, last = proposal.span
        out.print(f"\nwindrow train --lineup {write} --first {first} --last {last}", soft_wrap=True)


def _quarters(later: list[Quarter]) -> Table:
    """What each quarter of a year wants."""
    from pipeline.studies.iso_compute.valleys import shown_width
    from pipeline.studies.measures import many, percent

    table = Table(
        "quarter", "rows a window", "best width (95 %)", "FLOPs", "minutes of a core", "cores", "loss, % (95 %)"
    )
    for each in later:
        row = (many(each.rows_per_window), shown_width(each.width), f"{each.flops:.2g}", f"{each.core_minutes:,.1f}")
        table.add_row("now" if each.ahead == 0 else f"+{each.ahead}", *row, f"{each.cores:.1f}", percent(each.loss))
    return table


def _trigger(answers: Path, seeds: str | None) -> None:
    """Let Airflow run a study."""
    from pipeline.local.demo import Airflow
    from pipeline.local.services import addresses
    from pipeline.studies.declared import conf

    kind, given = conf(answers, seeds)
    Airflow.login(addresses()).trigger(f"{kind}_study", given, partial(typer.echo, err=True))


def _comparison(outcome: dict[str, Any]) -> Table:
    """A comparison as a table that fits 100 columns; variants' names break, and no column is cut."""
    variant, *numbers, gap = outcome["header"]
    table = Table(
        Column(variant, overflow="fold"),
        *(Column(name, justify="right", no_wrap=True) for name in numbers),
        Column(gap.replace(", ", ",\n"), justify="right", no_wrap=True),
        title=f"{outcome['lineup']}, windows {outcome['first']} to {outcome['last']}",
        title_justify="left",
        caption=Text("\n".join([outcome["caption"], *(outcome.get("warnings") or [])])),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0),
    )
    for *row, found in outcome["rows"]:
        table.add_row(*row, found if out.width >= WIDE else found.replace(" (", "\n("))
    return table


@app.command("run")
def run_spec(
    spec: Annotated[Path, typer.Argument(help="A job's JSON document; - reads it from standard input.")],
) -> None:
    """Run a job from its document: what the DAGs submit to the cluster.

    Ends with status 2 when the document or its data must change first.
    """
    with _errors_as_messages():
        if str(spec) == "-":
            text = decoded(sys.stdin.buffer.read(), "standard input")
        else:
            text = read_text(spec, "a job's document", max_bytes=MAX_SPEC_BYTES)
        job = load_job(text)
        outcome = _run(job)
    if isinstance(job, CompareJob):
        out.print(_comparison(outcome))
    else:
        _answer(outcome, as_json=True)


@app.command()
def status(lineup: LineUpFile = None, as_json: AsJson = False) -> None:
    """Show each chain of a line-up: what is done, what is missing, what is stale and why; and the local services."""
    with _errors_as_messages():
        settings = Settings()
        chosen = _lineup(lineup)
        from pipeline.storage.lake import Lake

        lake = Lake(settings.lake)
        from pipeline.local.services import services_status
        from pipeline.training.chain.status import chain_statuses, cure

        chains = chain_statuses(lake, chosen)
        cures = cure(lake, chosen, stale) if (stale := [c for c in chains if c.stale]) else ""
        services = services_status(settings)
    source = chosen.dataset.source
    begins = source.origin.name if isinstance(source, SimulatedSource) else None
    document = {
        "lineup": chosen.name,
        "dataset": chosen.dataset.name,
        "simulated_from": begins,
        "online_start": chosen.online_start.name,
        "lake": without_password(settings.lake),
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
        "cure": cures,
        "services": [asdict(s) for s in services],
    }
    dates = (f"simulated from {begins}, " if begins else "") + f"online from {chosen.online_start}"
    title = f"line-up {chosen.name}: {dates}"
    table = Table("variant", "seed", "first", "last", "windows", "missing", "stale", title=title, title_justify="left")
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
        if cures:
            out.print(Text(cures), soft_wrap=True)
            if "`airflow " in cures and (home := settings.home / "airflow").is_dir():
                out.print(f"`airflow` needs a shell with `export AIRFLOW_HOME={home}`.", markup=False, soft_wrap=True)
        for s in services:
            line = f"{s.name:24} {'up' if s.healthy else 'down':5} {s.address}"
            out.print(line if s.healthy else f"{line}  {s.detail}", markup=False, soft_wrap=True)


@app.command()
def inspect(
    date: Annotated[str, typer.Argument(metavar="WINDOW", help="The day to look at, e.g. 2024-01-31.")],
    lineup: LineUpFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what the policies of a line-up kept of a window, and what they left out.

    Selections are made by `windrow select`, or when a variant with a policy trains on the window. A rare id has at most ten rows in the window.
    """
    with _errors_as_messages():
        from pipeline.selection.inspection import inspect as look
        from pipeline.storage.lake import Lake

        with asked("the options"):
            window = Window.of(date)
        chosen, lake = _lineup(lineup), Lake(Settings().lake)
        policies = [
            variant.selection.in_window(window, online=window >= chosen.online_start) for variant in chosen.variants
        ]
        found = [
            look(lake, name, window, seeds=chosen.seeds, policies=policies)
            for name in chosen.dataset.names(chosen.seeds)
        ]
    if as_json:
        _answer({"windows": [asdict(each) for each in found]}, as_json=True)
        return
    for each in found:
        out.print(_selections(each))


def _selections(found: Inspected) -> Table:
    """What was kept of a window."""
    table = Table(
        Column("policy", overflow="fold"),
        *("seed", "rows", "of all", "clicks kept", "click rate", "weighted", "effective rows", "rare ids kept"),
        title=f"{found.dataset}, {found.window}: {found.num_rows:,} rows, click rate {found.click_rate:.4f}",
        title_justify="left",
        caption=None
        if found.kept
        else "no selection of this window is stored: make it with `windrow select`, or train a variant that has a policy",
    )
    for each in found.kept:
        rare = list(each.rare_ids_kept.values())
        table.add_row(
            each.policy,
            str(each.seed),
            f"{each.num_rows:,}",
            f"{each.share:.1%}",
            f"{each.clicks_kept:.1%}",
            f"{each.click_rate:.4f}",
            f"{each.weighted_click_rate:.4f}",
            f"{each.effective_rows:,.0f}",
            f"{sum(rare) / len(rare):.0%}" if rare else "",
        )
    return table


@app.command()
def gc(
    older_than: Annotated[
        int,
        typer.Option(help="Only what has not changed for so many hours: running jobs' files are not named yet.", min=1),
    ] = 24,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed. [default: list it only]")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is not needed any more: files of attempts that died or were replaced, old records and locks.

    Old selections go too, except coresets: training makes them again. Job results stay at least a week.
    """
    from pipeline.storage.lake import Lake
    from pipeline.training.upkeep.gc import leftovers, sweep

    with _errors_as_messages():
        lake = Lake(Settings().lake)
        found = leftovers(lake, timedelta(hours=older_than))
        if delete:
            found = sweep(lake, found)
    num_files, num_bytes = sum(each.num_files for each in found), sum(each.num_bytes for each in found)
    total = {"places": len(found), "files": num_files, "bytes": num_bytes}
    document = {
        "lake": lake.url,
        "deleted": delete,
        "total": total,
        "leftovers": [
            {"path": e.path, "kind": e.kind, "newest": e.newest, "files": e.num_files, "bytes": e.num_bytes}
            for e in found
        ],
    }
    table = Table(
        "path", "kind", "last change", "files", "bytes", title=f"{'deleted from' if delete else 'in'} {lake.url}"
    )
    for each in found[:MAX_LISTED]:
        newest = each.newest.strftime("%Y-%m-%d %H:%M")
        table.add_row(each.path, each.kind, newest, f"{each.num_files:,}", f"{each.num_bytes:,}")
    if len(found) > MAX_LISTED:
        table.add_row(f"and {len(found) - MAX_LISTED} more, which --json lists")
    table.add_row(f"total: {len(found)}", "", "", f"{num_files:,}", f"{num_bytes:,}")
    _answer(document, as_json, table)
    if found and not delete and not as_json:
        out.print("Nothing was removed: --delete does.")


@app.command()
def verify(
    lineup: Annotated[
        Path | None, typer.Option("--lineup", "-l", help="Only this line-up's data sets and chains. [default: all]")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set of the lake. [default: all]")] = None,
    as_json: AsJson = False,
) -> None:
    """Read the lake again, and list each file that is missing or is not what was written, with its cure.

    Ends with status 2 if there is one. Reads every byte once: a tenth of a terabyte takes minutes.
    """
    from pipeline.storage.lake import Lake
    from pipeline.training.upkeep.verify import documents
    from pipeline.training.upkeep.verify import verify as read_again

    with _errors_as_messages():
        if lineup is not None and dataset is not None:
            raise BadInput(f"either --lineup or --dataset, got both, {lineup} and {dataset!r}")
        lake = Lake(Settings().lake)
        chosen = None if lineup is None else load_lineup(lineup)
        paths = documents(lake, dataset=dataset, lineup=chosen)
        progress = logging.getLogger("pipeline.training.upkeep.verify").info
        found = read_again(lake, paths, progress, None if chosen is None else chosen.evaluation)
    faults = list(found.faults.values())
    if as_json:
        counts = {"documents": found.num_documents, "files": found.num_files, "bytes": found.num_bytes}
        _answer({"lake": lake.url, **counts, "broken": [asdict(fault) for fault in faults]}, as_json)
    else:
        for fault in faults:
            out.print(
                f"{fault.file}\n  {fault.what}\n  cure: {fault.cure}", soft_wrap=True, highlight=False, markup=False
            )
        counted = (
            f"{found.num_documents:,} documents, {found.num_files:,} files, {found.num_bytes / 2**20:,.1f} MiB read: "
        )
        out.print(counted + (f"{len(faults):,} broken" if faults else "all sound"), highlight=False)
    if faults:
        raise typer.Exit(BAD_INPUT)


@app.command()
def up(as_json: AsJson = False) -> None:
    """Start Airflow, MLflow and a one-node Ray cluster on loopback."""
    from pipeline.local import services

    with _errors_as_messages():
        make_folder(Settings().home, "the home of the services", "WINDROW_HOME")
        found = services.up()
    if as_json:
        _answer({"airflow": found.airflow, "mlflow": found.mlflow, "ray": found.ray, "user": found.user}, True)


@app.command()
def down() -> None:
    """End the local services and everything they started."""
    from pipeline.local import services

    with _errors_as_messages():
        services.down()


@app.command()
def demo(
    lineup: LineUpFile = None,
    first: Annotated[str | None, typer.Option(help="Start of history. [default: the simulated log's day zero]")] = None,
    online: Annotated[
        int | None,
        typer.Option(help="Number of online windows. [default: 12; the home's own demo: until yesterday]", min=1),
    ] = None,
    daily: Annotated[
        int,
        typer.Option(
            help="How many of the last windows are separate daily runs; one job trains all before them.", min=1
        ),
    ] = 2,
    as_json: AsJson = False,
) -> None:
    """Run the main job through Airflow (`windrow up` first): ingest, warm-up, daily runs by backfill, comparison.

    Ends with the comparison of the line-up's variants over the online windows, and the addresses to open. What is done
    already is skipped. From then on the daily runs go on by themselves.
    """
    from pipeline.local import services
    from pipeline.local.demo import Airflow, Span, main_job, pages
    from pipeline.reporting.comparison import compare as compare_variants
    from pipeline.reporting.comparison_page import HEADER, caption, columns, table_rows
    from pipeline.storage.lake import Lake

    with _errors_as_messages():
        path, ends_now = _of_the_forms(lineup)
        chosen = load_lineup(path)
        until = yesterday() if ends_now and online is None else chosen.online_start.shift((online or ONLINE_DAYS) - 1)
        span = Span.of(chosen, first=first, last=max(until, chosen.online_start), daily=daily)
        found = services.addresses()
        main_job(Airflow.login(found), path.stem, span, partial(typer.echo, err=True))
        compared = compare_variants(Lake(Settings().lake), chosen, (), span.online_start, span.last)
    span_of = {"lineup": chosen.name, "first": span.online_start.name, "last": span.last.name}
    rows = {
        "header": list(HEADER),
        "caption": caption(compared),
        "rows": [list(row) for row in table_rows(compared)],
    }
    _answer({**span_of, "columns": columns(compared)}, as_json, _comparison({**span_of, **rows}))
    if not as_json:
        shown = {
            "Airflow": f"{found.airflow}  user {found.user}, password {found.password}",
            **pages(found.mlflow, chosen.name),
            "Ray": f"{found.ray}  token in {Settings().ray_token_path}",
        }
        out.print("", *(f"{name:8} {where}" for name, where in shown.items()), sep="\n", soft_wrap=True)
        out.print("Airflow goes on every day from now on. End everything with `make down`.")


def _of_the_forms(lineup: Path | None) -> tuple[Path, bool]:
    """The line-up's file, which must be the one that Airflow's forms mean by its name, and whether it is the home's demo.

    Raises:
        BadInput: they mean another.
    """
    settings = Settings()
    path = lineup or at_home(settings)
    meant = lineup_path(path.stem, settings)
    if meant.resolve() != path.resolve():
        raise BadInput(f"Airflow's forms mean {meant} by {path.stem!r}, not {path}: give it another name")
    return path, is_homemade(meant, settings)


@app.command()
def settings(as_json: AsJson = False) -> None:
    """Show what is in use: the environment variables that say where things are, and the value of each."""
    from pipeline.spec.settings import settings_in_use, settings_table

    with _errors_as_messages():
        used = settings_in_use()
    table = Table("variable", "in use", "from", "meaning")
    shown = {}
    for name, default, meaning in settings_table():
        value, source = used[name]
        table.add_row(name, Text(value), source, meaning)
        shown[name] = {"in_use": value, "from": source, "default": default, "meaning": meaning}
    _answer(shown, as_json, table)
