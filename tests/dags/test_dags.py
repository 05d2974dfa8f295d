"""The DAGs parse without error and without weight, cover whole days, and explain themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest

from pipeline.spec.forms.asked import NO_PRESET, StudyFields
from pipeline.studies.declared import presets
from pipeline.studies.kinds import kind_of, kinds

DAGS = [
    "distillation_study",
    "downsampling_study",
    "historical_warmup",
    "ingest_windows",
    "iso_compute_study",
    "online_training",
    "ranking_study",
    "scaling_study",
    "select_windows",
    "selection_study",
    "tuning_study",
]


def test_all_dags_are_read_without_error_and_without_a_heavy_import(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert parsed["heavy"] == []
    assert sorted(parsed["dags"]) == DAGS


@pytest.mark.parametrize("dag_id", ["ingest_windows", "online_training", "select_windows"])
def test_the_daily_runs_cover_exactly_the_day_before(parsed: dict[str, Any], dag_id: str) -> None:
    start, end = map(datetime.fromisoformat, parsed["dags"][dag_id]["interval"])
    assert start == datetime(2014, 10, 25, tzinfo=UTC)
    assert end - start == timedelta(hours=24)


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_field_has_title_help_and_a_valid_default(parsed: dict[str, Any], dag_id: str) -> None:
    for name, field in parsed["dags"][dag_id]["fields"].items():
        schema = field["schema"]
        assert schema.get("title"), name
        assert schema.get("description_md"), name
        jsonschema.validate(field["default"], schema)
        if field["default"] in ("", None):  # Airflow lets nobody trigger a form whose field is empty and has a star
            assert "null" in schema["type"], name


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_a_form_asks_for_every_field_of_its_kind_and_its_defaults_are_those_of_a_file(
    parsed: dict[str, Any], kind: str
) -> None:
    form = parsed["dags"][f"{kind}_study"]["fields"]
    fields = kind_of(kind).fields
    assert set(form) == set(fields.model_fields)
    asked = fields.model_validate({name: field["default"] for name, field in form.items()})
    for name, field in fields.model_fields.items():
        if not field.is_required() and name != "lineup":
            assert getattr(asked, name) == field.default, name


def test_a_form_offers_the_presets_of_its_kind_and_none(parsed: dict[str, Any]) -> None:
    offered = parsed["dags"]["downsampling_study"]["fields"]["preset"]["schema"]["enum"]
    assert offered[0] == NO_PRESET
    assert {"downsampling_first_look", "downsampling_published"} <= set(offered)
    assert offered[1:] == list(presets("downsampling"))


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_every_field_is_one_that_a_person_can_fill_in(parsed: dict[str, Any], kind: str) -> None:
    """As Airflow draws them: lists of numbers in one line, dates from a calendar, choices from a list; none as raw JSON."""
    for name, field in parsed["dags"][f"{kind}_study"]["fields"].items():
        schema = field["schema"]
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        shown = [each for each in types if each != "null"]
        if shown == ["string", "array"]:
            assert schema["examples"], f"{name} would be shown as JSON"
            names = schema["items"]["type"] == "string"
            for typed in ("a; b", "a b", "a,,b") if names else ("zero", "0, one", "0;1"):
                with pytest.raises(jsonschema.ValidationError):
                    jsonschema.validate(typed, schema)
            jsonschema.validate("kept_10, both,a" if names else "1, 1,1", schema)
            jsonschema.validate(["both"] if names else [1], schema)
        else:
            assert len(shown) == 1, name
            assert shown != ["array"] or schema["examples"], name
            assert shown != ["object"]
    assert {"first", "online_start", "last", "judged"} == {
        name
        for name, field in parsed["dags"][f"{kind}_study"]["fields"].items()
        if field["schema"].get("format") == "date"
    }


def test_what_every_study_asks_is_declared_once() -> None:
    for kind in kinds().values():
        assert set(StudyFields.model_fields) <= set(kind.fields.model_fields)


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_dag_and_task_says_what_it_does(parsed: dict[str, Any], dag_id: str) -> None:
    assert len(parsed["dags"][dag_id]["doc_md"]) > 300
    for task_id, task in parsed["dags"][dag_id]["tasks"].items():
        assert task["doc_md"], task_id


@pytest.mark.parametrize(
    ("dag_id", "chain"),
    [
        ("ingest_windows", ["plan", "await_inputs", "ingest"]),
        ("select_windows", ["plan", "await_inputs", "select"]),
        ("historical_warmup", ["plan", "train"]),
        ("online_training", ["plan", "await_inputs", "train", "compare"]),
        ("distillation_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
        ("downsampling_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
        ("iso_compute_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
        ("ranking_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
        ("scaling_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
        ("selection_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
        ("tuning_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
    ],
)
def test_the_graph_is_a_chain(parsed: dict[str, Any], dag_id: str, chain: list[str]) -> None:
    tasks = parsed["dags"][dag_id]["tasks"]
    assert set(tasks) == set(chain)
    for task_id, next_id in zip(chain, chain[1:], strict=False):
        # Only what is mapped over has to be drawn from the plan, too.
        assert set(tasks[task_id]["downstream"]) - {"students"} == {next_id} - {"students"}
        assert next_id in tasks[task_id]["downstream"]
    assert tasks[chain[-1]]["downstream"] == []


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_job_passes_through_the_pool_of_the_cluster(parsed: dict[str, Any], dag_id: str) -> None:
    jobs = [task for task in parsed["dags"][dag_id]["tasks"].values() if task["task_type"] == "RayJobOperator"]
    assert jobs
    assert {task["pool"] for task in jobs} == {"windrow_ray"}
