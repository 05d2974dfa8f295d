"""Against a real MLflow server: no run stays open, no outage fails or delays training, and what is missing is recorded later."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from pipeline.reporting.tracking.comparisons import record_comparison
from pipeline.reporting.tracking.recorder import MlflowRecorder
from pipeline.reporting.tracking.server import TrackingLost, close_runs, reaching
from pipeline.spec.config import OptimizerConfig, Variant
from pipeline.spec.lineup import LineUp
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.storage.leases import held
from pipeline.training.chain.evaluations import Closed
from pipeline.training.chain.steps import StepManifest
from tests.conftest import free_ports
from tests.tracking_server import Wire
from tests.trained import DAY, evaluation, lineup, metrics, publish, train, variant, windows

Chain = dict[tuple[str, Window], StepManifest]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, windows(4), rows_per_window=200)
    return lake


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An experiment of the test's own."""
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:12]


def own(name: str) -> Variant:
    """A variant that shares no step with another."""
    return variant(name, optimizer=OptimizerConfig(batch_size=128, embedding_lr=0.1, dense_lr=0.01 + len(name) / 1000))


def recorder(lake: Lake, chosen: LineUp, wire: Wire, **choices: Any) -> MlflowRecorder:
    given = {"first": DAY, "daily": False, "tracking_uri": wire.url, "pause_s": 0.0} | choices
    return MlflowRecorder(lake, chosen, **given)


def record(lake: Lake, chosen: LineUp, num: int, told: MlflowRecorder, **options: Any) -> Chain:
    """Train and record to the end."""
    made = train(lake, chosen, num, recorder=told, **options)
    told.end()
    return made


def runs(url: str, name: str, view: int = ViewType.ACTIVE_ONLY, **tags: str) -> list[Run]:
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], run_view_type=view, order_by=["attributes.start_time ASC"])
    return [run for run in found if all(run.data.tags.get(f"windrow.{k}") == v for k, v in tags.items())]


def points(url: str, run: Run, metric: str = "log_loss") -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in MlflowClient(url).get_metric_history(run.info.run_id, metric))


def test_the_curves_of_a_comparison_cost_no_request_a_point(wire: Wire, name: str) -> None:
    """Six variants, sixty windows, ten metrics: a request for each of these points took minutes."""
    names = [f"v{n}" for n in range(6)]
    chosen = lineup(*map(variant, names), name=name)
    curve = {day: {f"metric{n}": float(n) for n in range(10)} for day in windows(60)}
    record_comparison(
        chosen,
        first=DAY,
        tracking_uri=wire.url,
        summaries=dict.fromkeys(names, curve),
        headline=dict.fromkeys(names, {"gap_percent": 0.0}),
        table={"variant": names},
        figures={},
        text="",
    )
    assert len(wire.requests) < 60
    (run,) = runs(wire.url, name, kind="summary", variant="v3")
    assert len(points(wire.url, run, "metric7")) == 60


def test_recording_a_span_costs_a_few_requests_a_chain(lake: Lake, wire: Wire, name: str) -> None:
    chosen = lineup(*(variant(f"v{n}") for n in range(6)), name=name)
    step = next(iter(train(lake, chosen, 1, variants=("v0",)).values()))
    known = evaluation(lake, step)

    def told() -> int:
        wire.requests.clear()
        session = recorder(lake, chosen, wire)
        for each in chosen.variants:
            for day in windows(60):
                session.done(each, 0, Closed(step.model_copy(update={"window": day}), known), skipped=True)
        session.end()
        assert session.lost is None
        return len(wire.requests)

    assert told() <= 10 * 6
    assert told() <= 10 * 6, "and to see that all of it is there"
    assert all(len(points(wire.url, run)) == 60 for run in runs(wire.url, name, kind="variant"))


@pytest.mark.parametrize(
    ("since", "state"),
    [
        ("the start", "cut"),
        ("the middle", "jammed"),
        pytest.param("the start", "jammed", marks=pytest.mark.long),
        pytest.param("the middle", "cut", marks=pytest.mark.long),
    ],
)
def test_an_outage_neither_fails_nor_delays_training_and_the_next_job_records_what_is_missing(
    lake: Lake,
    wire: Wire,
    name: str,
    state: Literal["cut", "jammed"],
    since: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = lineup(name=name)
    session = recorder(lake, chosen, wire, pause_s=0.2)
    if since == "the middle":
        train(lake, chosen, 2, recorder=session)
    wire.set(state)
    with monkeypatch.context() as patched:
        patched.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        made = record(lake, chosen, 4, session)
    assert len(made) == 4
    assert session.lost
    assert session.seconds < 30, "bounded however long the server says nothing"
    assert len([r for r in caplog.records if "training goes on" in r.message]) == 1

    wire.set("open")
    again = recorder(lake, chosen, wire)
    record(lake, chosen, 4, again)
    assert again.lost is None
    (curve,) = runs(wire.url, name, kind="variant")
    losses = [metrics(lake, made["plain", day])["log_loss"] for day in windows(4)]
    assert points(wire.url, curve) == [(n, loss) for n, loss in enumerate(losses)]
    stages = runs(wire.url, name, kind="stage")
    told = {index for run in stages for index, _ in points(wire.url, run, "seconds/train")}
    assert told == {0, 1, 2, 3}, "each window in some stage"
    assert {run.info.status for run in runs(wire.url, name)} <= {"FINISHED", "KILLED"}
    num = len(stages)
    record(lake, chosen, 4, recorder(lake, chosen, wire))
    assert len(runs(wire.url, name, kind="stage")) == num, "once only"


def test_a_restart_of_the_server_in_the_middle_of_a_job_loses_nothing(lake: Lake, wire: Wire, name: str) -> None:
    chosen = lineup(name=name)
    session = recorder(lake, chosen, wire)
    train(lake, chosen, 2, recorder=session)
    wire.set("cut")
    made = train(lake, chosen, 3, recorder=session)
    wire.set("open")
    made = record(lake, chosen, 4, session)
    assert session.lost is None
    (curve,) = runs(wire.url, name, kind="variant")
    assert points(wire.url, curve) == [
        (n, metrics(lake, made["plain", day])["log_loss"]) for n, day in enumerate(windows(4))
    ]
    assert {run.info.status for run in runs(wire.url, name)} == {"FINISHED"}
    stages = runs(wire.url, name, kind="stage")
    assert sorted(i for run in stages for i, _ in points(wire.url, run, "seconds/train")) == [0, 1, 2, 3]


def test_workers_that_were_lost_leave_no_run_open_when_their_job_succeeds(lake: Lake, wire: Wire, name: str) -> None:
    chosen = lineup(name=name)
    train(lake, chosen, 1, recorder=recorder(lake, chosen, wire, job="one"))  # and no end: its worker died
    assert {run.info.status for run in runs(wire.url, name)} == {"RUNNING"}
    record(lake, chosen, 2, recorder(lake, chosen, wire, job="one"))  # Ray Train started another
    assert [run.info.status for run in runs(wire.url, name, kind="stage")] == ["FAILED", "FINISHED"]
    assert [run.info.status for run in runs(wire.url, name, kind="variant")] == ["FINISHED"]


def test_the_next_job_closes_what_a_dead_one_left_and_spares_who_lives(lake: Lake, wire: Wire, name: str) -> None:
    chosen = lineup(own("dead"), own("alive"), own("following"), name=name)
    for owner in ("dead", "alive"):
        session = recorder(lake, chosen, wire, job=owner)
        train(lake, chosen, 1, recorder=session, variants=(owner,))
    with held(lake, name, ("sim/alive/seed=0",), "alive"):
        record(lake, chosen, 1, recorder(lake, chosen, wire), variants=("following",))
        status = {(r.data.tags["windrow.variant"], r.info.status) for r in runs(wire.url, name)}
        assert status == {("dead", "KILLED"), ("alive", "RUNNING"), ("following", "FINISHED")}
    other = Lake(str(lake.root.parent / "other"))
    publish(other, windows(1), rows_per_window=200)
    record(other, chosen, 1, recorder(other, chosen, wire), variants=("following",))
    assert {r.info.status for r in runs(wire.url, name, variant="alive")} == {"RUNNING"}, "of another lake"


def test_a_job_that_is_stopped_closes_its_runs_and_no_others(lake: Lake, wire: Wire, name: str) -> None:
    chosen = lineup(own("mine"), own("other"), name=name)
    for owner in ("mine", "other"):
        train(lake, chosen, 1, recorder=recorder(lake, chosen, wire, job=owner), variants=(owner,))
        if owner == "mine":
            close_runs(name, "mine", wire.url, "KILLED")
    status = {(r.data.tags["windrow.variant"], r.info.status) for r in runs(wire.url, name)}
    assert status == {("mine", "KILLED"), ("other", "RUNNING")}
    wire.set("cut")
    close_runs(name, "other", wire.url, "KILLED")  # told, not raised


def test_another_recipe_under_the_same_name_is_another_run(lake: Lake, wire: Wire, name: str) -> None:
    def rates(run: Run) -> str:
        return str(run.data.params["learning_rates"])

    record(lake, lineup(name=name), 3, recorder(lake, lineup(name=name), wire))
    changed = lineup(variant(optimizer=OptimizerConfig(batch_size=128, embedding_lr=0.1, dense_lr=0.2)), name=name)
    made = record(lake, changed, 3, recorder(lake, changed, wire))
    (curve,) = runs(wire.url, name, kind="variant", variant="plain")
    assert rates(curve) == "0.1 and 0.2"
    assert points(wire.url, curve) == [
        (n, metrics(lake, made["plain", day])["log_loss"]) for n, day in enumerate(windows(3))
    ]
    (old,) = runs(wire.url, name, superseded="true")
    assert (rates(old), old.info.status, old.data.tags["windrow.kind"]) == (
        "0.1 and 0.05",
        "FINISHED",
        "earlier recipe",
    )
    again = lineup(*changed.variants, name=name, checkpoint_every=3)
    record(lake, again, 3, recorder(lake, again, wire))
    assert len(runs(wire.url, name, kind="variant")) == 1, "only another recipe makes another run"


def test_an_experiment_that_was_deleted_is_restored(lake: Lake, wire: Wire, name: str) -> None:
    chosen = lineup(name=name)
    record(lake, chosen, 1, recorder(lake, chosen, wire))
    client = MlflowClient(wire.url)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    session = recorder(lake, chosen, wire)
    record(lake, chosen, 2, session)
    assert session.lost is None
    (curve,) = runs(wire.url, name, kind="variant")
    assert [index for index, _ in points(wire.url, curve)] == [0, 1]


def test_a_comparison_names_the_server_that_does_not_take_it(wire: Wire, name: str) -> None:
    summaries: Mapping[str, Any] = {"plain": {DAY: {"log_loss": 1.0}}}
    wire.set("cut")
    started = time.monotonic()
    with pytest.raises(TrackingLost, match=wire.url), reaching(wire.url):
        record_comparison(
            lineup(name=name),
            first=DAY,
            tracking_uri=wire.url,
            summaries=summaries,
            headline={"plain": {}},
            table={},
            figures={},
            text="",
        )
    assert time.monotonic() - started < 60


def test_a_server_that_is_away_is_named_in_a_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(TrackingLost) as lost, reaching(url):
        MlflowClient(url).get_experiment_by_name("any")
    assert str(lost.value) == f"MLflow at {url} does not take it: nothing listens there"
