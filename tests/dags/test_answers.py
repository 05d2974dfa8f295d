"""Forms, confs and intervals lead to one window and one line-up, or to an error that names the field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import yaml

from operators.form import answers as operators_answers
from operators.form.answers import answers, interval
from operators.form.params import form
from operators.form.questions import Ingest, Online, Select, Warmup
from operators.form.run_window import resolve_window
from operators.inputs import missing_lines, needed_paths, still_missing
from pipeline.spec.config import Variant
from pipeline.spec.errors import BadInput
from pipeline.spec.forms.fields import Fields
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import load_lineup
from pipeline.spec.lineups import lineup_paths
from pipeline.spec.simulated import SimulatorConfig
from pipeline.spec.window import DAY, Window
from pipeline.storage.lake import Lake
from pipeline.storage.paths import head_path, manifest_path
from pipeline.studies.selection.fields import WAYS

START = datetime(2024, 1, 9, tzinfo=UTC)
F = TypeVar("F", bound=Fields)


@pytest.fixture(autouse=True)
def _lineups(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("WINDROW_LINEUP", str(root / "dags" / "lineups" / "demo.yaml"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The answers of a run with some conf, as its task finds them."""

    def run(fields: type[F], conf: dict[str, Any], start: datetime | None = START) -> F:
        params = {name: param.value for name, param in form(fields).items()}
        context = {
            "dag": SimpleNamespace(params=params, dag_id="mine"),
            "dag_run": SimpleNamespace(
                conf=conf, data_interval_start=start, data_interval_end=start + DAY if start else None
            ),
            "params": params | conf,
        }
        monkeypatch.setattr(operators_answers, "get_current_context", lambda: context)
        return answers(fields)

    return run


def test_the_window_is_the_date_given_else_the_interval_else_an_error(asked: Any) -> None:
    def window(conf: dict[str, Any], start: datetime | None = START) -> Window:
        return resolve_window(asked(Online, conf, start).window_date, interval())

    assert window({"window_date": "2024-02-01"}) == Window.of("2024-02-01")
    assert window({}) == window({"window_date": ""}) == Window.of("2024-01-09")
    with pytest.raises(ValueError, match="window's date"):
        window({}, start=None)


@pytest.mark.parametrize("length", [timedelta(0), timedelta(hours=23), timedelta(hours=25)])
def test_an_interval_that_is_no_day_is_refused(length: timedelta) -> None:
    with pytest.raises(ValueError, match="one day"):
        resolve_window(None, (START, START + length))


def test_an_unknown_field_is_refused_with_the_nearest_name(asked: Any) -> None:
    with pytest.raises(ValueError, match="'varients'.*'variants'"):
        asked(Online, {"varients": ["teacher"]})


def test_the_conf_overrides_the_line_up(asked: Any) -> None:
    found = asked(Online, {"lineup": "upworthy", "variants": ["baseline"], "num_workers": 2, "hardware": "GPU"})
    assert found.on_workers().name == "upworthy"
    assert found.on_workers().workers.num_workers == 2
    assert found.on_workers().workers.use_gpu
    assert found.variants == ("baseline",)
    assert asked(Online, {}).on_workers() == load_lineup(lineup_paths()["demo"])


def test_an_unknown_line_up_is_refused_with_the_nearest_name(asked: Any) -> None:
    with pytest.raises(BadInput, match="got 'dmeo': did you mean 'demo'"):
        asked(Online, {"lineup": "dmeo"}).base()


@pytest.mark.parametrize("span", [{"first": "2024-01-01"}, {"last": "2024-01-01"}])
def test_half_a_span_is_refused(asked: Any, span: dict[str, str]) -> None:
    for fields in (Ingest, Select):
        with pytest.raises(ValueError, match="both"):
            asked(fields, span).span(interval())


@pytest.mark.parametrize("seeds", ["3, 1", " 3,1 ", [3, 1]])
def test_seeds_come_as_a_person_types_them_or_as_a_list(asked: Any, seeds: Any) -> None:
    assert asked(Warmup, {"seeds": seeds}).chosen()[0].seeds == (3, 1)
    assert asked(Warmup, {}).chosen()[0].seeds == load_lineup(lineup_paths()["demo"]).seeds


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ("zero, 1", "seeds.0: must be a whole number, got 'zero'"),
        ("1, 2, 1", "seeds: each value is given once, got 1 twice: take one out"),
        ("-1", "seeds.0: must be at least 0, got -1"),
        ("1.5", "seeds.0: must be a whole number, got 1.5"),
    ],
)
def test_what_cannot_be_a_seed_is_named_with_its_field(asked: Any, seeds: str, words: str) -> None:
    with pytest.raises(BadInput, match="the form of mine: ") as error:
        asked(Warmup, {"seeds": seeds})
    assert words in str(error.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("teacher", [None, "teacher"])
def test_any_policy_is_tried_by_name_alone_and_with_a_teacher(asked: Any, way: str, teacher: str | None) -> None:
    """In the line-up that both daily DAGs train: at the fraction of all rows that was asked for, with a batch that fits."""
    conf = {"policy": way, "keep": 0.5, "teacher": teacher}
    (lineup, variants), (daily, _) = asked(Warmup, conf).chosen(), asked(Online, conf).chosen()
    assert asked(Select, conf).chosen()[0] == daily
    name = f"{way}_50" if teacher is None else f"{way}_50_of_teacher"
    added, reference = lineup.variant(name), lineup.variant(lineup.reference)
    assert daily.variant(name) == added
    assert variants == (), "all are trained, the added one too"
    some = asked(Warmup, {**conf, "variants": ["teacher"]}).chosen()[1]
    assert (some[0], some[-1]) == ("teacher", name)
    assert {read.source for read in added.reads} <= set(some), "whom it reads is trained with it"
    assert added.selection.share(reference.model.prior) == pytest.approx(0.5)
    assert added.optimizer.batch_size == pytest.approx(0.5 * reference.optimizer.batch_size, abs=1)
    assert added.teacher == teacher
    assert {read.source for read in added.selection.reads().values()} <= {lineup.reference}


def test_what_the_reference_has_besides_model_and_optimizer_is_left_behind(
    asked: Any, monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    """A reference that is taught lends no teacher to a variant that was to have none; one that selects is refused."""
    given = yaml.safe_load((root / "dags" / "lineups" / "demo.yaml").read_text())
    file = tmp_path / "own.yaml"
    monkeypatch.setenv("WINDROW_LINEUP", str(file))
    file.write_text(yaml.safe_dump({**given, "name": "own", "reference": "continuous"}))
    lineup, _ = asked(Warmup, {"lineup": "own", "policy": "uniform", "keep": 0.5}).chosen()
    assert lineup.variant("uniform_50").teacher is None
    file.write_text(yaml.safe_dump({**given, "name": "own", "reference": "downsampled_50"}))
    with pytest.raises(BadInput, match="which selects by 'negatives' itself"):
        asked(Warmup, {"lineup": "own", "policy": "uniform"}).chosen()


def test_the_added_variant_goes_on_from_what_the_log_shows(asked: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        lineup, _ = asked(Warmup, {"policy": "negatives", "keep": 0.3}).chosen()
    (variant,) = yaml.safe_load(caplog.text.split("as the line-up's file takes it:\n")[1])
    assert Variant.model_validate(variant) == lineup.variant("negatives_30")


def test_a_policy_that_cannot_be_tried_says_why(asked: Any) -> None:
    for conf, words in (
        ({"policy": "od"}, "'od'"),
        ({"policy": "odds", "keep": 0.9, "teacher": "nobody"}, "nobody"),
        ({"policy": "odds", "keep": 0.05}, "odds keeps all clicks.*keep at least 0.4"),
        ({"policy": "odds", "keep": 0}, "keep"),
        ({"teacher": "teacher"}, "no policy: choose one"),
        ({"policy": "uniform", "teacher": " pilot "}, "name"),
        ({"policy": "uniform", "teacher": "x" * 60}, "name"),
    ):
        with pytest.raises(BadInput, match=words):
            asked(Warmup, conf).chosen()


def test_every_checked_in_line_up_can_be_run(root: Path) -> None:
    for path in (root / "dags" / "lineups").glob("*.yaml"):
        lineup = load_lineup(path)
        assert lineup.name == path.stem
        if lineup.dataset.source.kind == "simulated":
            SimulatorConfig(origin=lineup.dataset.source.origin, **lineup.dataset.source.settings)


def test_a_training_job_waits_for_its_window_and_every_parent_and_names_the_cure(root: Path, tmp_path: Path) -> None:
    lineup = load_lineup(root / "dags" / "lineups" / "demo.yaml")
    window = Window.of("2024-01-09")
    job = TrainJob(lineup=lineup, variants=("teacher", "continuous"), first=window, last=window, start="parent")
    needed = needed_paths(job.model_dump(mode="json"))
    lake = Lake(str(tmp_path))
    assert still_missing(str(tmp_path), needed) == needed

    lake.create(manifest_path(lineup.dataset.name, window), {})
    lake.create(head_path(lineup.dataset.name, "demo", "teacher", 0, window.previous()), {})
    cure = missing_lines(still_missing(str(tmp_path), needed))
    assert "'teacher'" not in cure
    assert "'continuous'" in cure
    assert "historical_warmup" in cure
    assert "2024-01-08" in cure

    lake.create(head_path(lineup.dataset.name, "demo", "continuous", 0, window.previous()), {})
    assert still_missing(str(tmp_path), needed) == {}
