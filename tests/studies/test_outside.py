"""A kind of study that another package brings: planned from a file, drawn as a form and a DAG, trained, answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest
import yaml

from operators.form.params import form
from pipeline.spec.errors import BadInput
from pipeline.spec.job import ReportJob, load_job
from pipeline.spec.study import Study, StudyError
from pipeline.storage.lake import Lake
from pipeline.studies.answering import answer
from pipeline.studies.declared import conf, declared
from pipeline.studies.evidence import Evidence
from pipeline.studies.jobs import study_jobs
from pipeline.studies.kinds import kind_of, kinds
from pipeline.studies.results import of_study
from pipeline.training.chain.engine import Engine
from pipeline.training.chain.steps import StepStore
from tests.dags.conftest import PARSE
from tests.planned import planned
from tests.trained import DATASET, DAY, TINY, alone, lineup, publish, variant, windows

NUM_WINDOWS = 5
FILES = {
    "fields": '''"""What a study of embedding widths asks."""

from typing import Annotated

from pydantic import Field

from pipeline.spec.documents import Few, Whole
from pipeline.spec.forms.asked import StudyFields
from pipeline.spec.forms.fields import Listed

QUESTION = "How wide must embeddings be?"
PAGE = "### How wide must embeddings be?"


class Fields(StudyFields):
    """What a study of embedding widths asks."""

    widths: Annotated[tuple[Annotated[Whole, Field(ge=4, le=64, multiple_of=4)], ...], Few, Listed()] = Field(
        default=(4,), title="Widths"
    )
    """Of every embedding row, beside the reference's 8."""
    bearable: Annotated[float, Field(ge=0, le=100)] = Field(default=1.0, title="Loss you can bear, percent")
    """A width that loses no more is wide enough."""
''',
    "cells": '''"""The cells of a study of embedding widths."""

from pipeline.spec.lineup import LineUp
from pipeline.studies.draft import Draft, plain

from widths.fields import Fields


def draft(base: LineUp, asked: Fields) -> Draft:
    """The reference, and the same model at other widths."""
    reference = plain(base, "reference", "tiny")
    found = Draft("reference")
    found.add("width", "reference", reference, reference.model.widths.embedding_dim)
    for width in asked.widths:
        narrow = reference.model.widths.model_copy(update={"embedding_dim": width})
        model = reference.model.model_copy(update={"size": narrow})
        found.add("width", f"{width} wide", reference.model_copy(update={"name": f"wide_{width}", "model": model}), width)
    return found
''',
    "answer": '''"""The answer of a study of embedding widths."""

from pipeline.studies import measures
from pipeline.studies.evidence import Evidence
from pipeline.studies.findings import Findings, Section

from widths.fields import Fields


def answer(evidence: Evidence) -> Findings:
    """What the study says."""
    bearable = Fields.of(evidence.study).bearable
    cells = evidence.study.of("width")
    losses = {cell.value: measures.judged(evidence, cell).value for cell in cells}
    enough = min(width for width, loss in losses.items() if loss <= bearable)
    table = measures.table(evidence, cells)
    return Findings(
        headline=f"{enough:g} wide is enough where {bearable:g} % can be borne.",
        metrics={f"width_{width:g}_percent": loss for width, loss in losses.items()},
        sections=(Section("Widths", "By width.", None, table),),
    )
''',
}
ANSWERS = {
    "kind": "width",
    "lineup": "base",
    "seeds": [0],
    "first": "2024-01-01",
    "online_start": "2024-01-03",
    "last": "2024-01-05",
    "widths": "4, 12",
    "bearable": 2.5,
}
"""Days are those of `tests.trained`."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package and what its installation would leave behind; it is on the path."""
    folder = tmp_path / "elsewhere"
    (folder / "widths").mkdir(parents=True)
    (folder / "widths" / "__init__.py").write_text("")
    for name, text in FILES.items():
        (folder / "widths" / f"{name}.py").write_text(text)
    info = folder / "widths-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: widths\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[windrow.studies]\nwidth = widths\n")
    monkeypatch.syspath_prepend(folder)
    invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "widths"]:
        del sys.modules[name]  # the next test has a folder of its own


@pytest.fixture
def file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of answers, and the line-up that it names."""
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(lineup(variant(model=TINY), name="daily").model_dump(mode="json")))
    monkeypatch.setenv("WINDROW_LINEUP", str(base))
    assert ANSWERS["first"] == str(DAY)
    file = tmp_path / "how_wide.yaml"
    file.write_text(yaml.safe_dump(ANSWERS))
    return file


def test_it_stands_beside_the_built_in_ones(folder: Path) -> None:
    assert list(kinds()) == [
        "distillation",
        "downsampling",
        "iso_compute",
        "ranking",
        "scaling",
        "selection",
        "tuning",
        "width",
    ]
    assert [kind.name for kind in kinds().values() if not kind.is_built_in] == ["width"]


def test_what_is_no_kind_is_refused_with_those_there_are(folder: Path) -> None:
    with pytest.raises(StudyError, match="'widht': did you mean 'width'"):
        kind_of("widht")
    (folder / "widths" / "cells.py").unlink()
    with pytest.raises(
        StudyError, match=r"'width' is a package widths with `draft` in its cells.py, got: .*docs/studies.md"
    ):
        kind_of("width").part("cells", "draft")


def test_two_packages_that_bring_one_kind_are_both_named(folder: Path) -> None:
    (folder / "widths-1.0.dist-info" / "entry_points.txt").write_text("[windrow.studies]\ntuning = widths\n")
    invalidate_caches()
    with pytest.raises(BadInput, match="one 'tuning', got widths and pipeline.studies.tuning: uninstall one"):
        kinds()


def test_a_file_is_checked_by_its_fields(file: Path) -> None:
    assert conf(file) == ("width", {name: value for name, value in ANSWERS.items() if name != "kind"} | {
        "study": "how_wide", "widths": [4, 12],
    })  # fmt: skip
    file.write_text(yaml.safe_dump(ANSWERS | {"widths": "4, 6", "bearable": 101, "axes": []}))
    with pytest.raises(BadInput, match=r"how_wide.yaml: .*no field 'axes'"):
        declared(file)
    file.write_text(yaml.safe_dump(ANSWERS | {"widths": "4, 6", "bearable": 101}))
    with pytest.raises(BadInput, match=r"widths.1: must be a multiple of 4, got 6; bearable: must be at most 100"):
        declared(file)


def test_its_form_is_made(file: Path) -> None:
    params = form(kind_of("width").fields, study="width")
    assert params["widths"].value == "4"
    assert params["widths"].schema["description_md"] == "Of every embedding row, beside the reference's 8."
    assert params["bearable"].schema["maximum"] == 100
    assert {"study", "seeds", "first", "judged", "num_workers"} <= set(params)


def test_its_dag_stands_beside_the_others(folder: Path, root: Path, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "WINDROW"))}
    environ |= {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", PARSE, str(root / "dags")]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=True)
    parsed: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT")[2])
    assert parsed["errors"] == {}
    assert parsed["heavy"] == []
    dag = parsed["dags"]["width_study"]
    assert dag["fields"]["widths"]["default"] == "4"
    assert set(dag["tasks"]) == set(parsed["dags"]["distillation_study"]["tasks"])
    assert {"distillation_study", "ingest_windows"} <= set(parsed["dags"])


def keys(lake: Lake, study: Study, name: str) -> list[str]:
    """The steps of a variant."""
    found = [StepStore(lake, DATASET).head(study.name, name, 0, day) for day in windows(NUM_WINDOWS)]
    return [step.key for step in found if step is not None]


def train(lake: Lake, study: Study) -> None:
    """Run all of a study's jobs in this process."""
    for job in study_jobs(study):
        Engine(lake, job, None, alone()).run()


def test_a_cell_that_another_study_has_too_is_trained_once_and_the_answer_comes(file: Path, tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, windows(NUM_WINDOWS))
    mine = declared(file)
    base = lineup(variant(model=TINY), name="daily")
    days = {name: ANSWERS[name] for name in ("first", "online_start", "last")}
    theirs = planned(
        "downsampling", base, study="theirs", size="tiny", rates=[0.5], centre=0.5, axes=[], seeds=[0], **days
    )
    train(lake, theirs)
    done = {path: path.stat().st_mtime_ns for path in lake.root.glob("steps/*/*/manifest.json")}
    train(lake, mine)

    assert keys(lake, mine, "reference") == keys(lake, theirs, "all_rows")
    assert len(keys(lake, mine, "reference")) == NUM_WINDOWS
    manifests = list(lake.root.glob("steps/*/*/manifest.json"))
    assert len(manifests) == len(done) + 2 * NUM_WINDOWS, "only the two other widths were trained"
    assert all(path.stat().st_mtime_ns == when for path, when in done.items()), "nothing was trained again"

    job = load_job(ReportJob(study=mine).model_dump_json())
    assert isinstance(job, ReportJob)
    findings = answer(Evidence.of(job.study, of_study(lake, job.study)))
    assert "wide is enough where 2.5 % can be borne" in findings.headline
    assert findings.metrics["width_8_percent"] == 0
    assert set(findings.metrics) == {"width_4_percent", "width_8_percent", "width_12_percent"}
