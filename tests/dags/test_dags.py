"""The DAGs parse without error and without weight, cover whole days, and explain themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from inspect import Parameter, signature
from typing import Any

import jsonschema
import pytest

from pipeline.studies.declared import RECIPES

DAGS = [
    "distillation_study",
    "downsampling_study",
    "historical_warmup",
    "ingest_windows",
    "online_training",
    "tuning_study",
]


def test_all_dags_are_read_without_error_and_without_a_heavy_import(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert parsed["heavy"] == []
    assert sorted(parsed["dags"]) == DAGS


@pytest.mark.parametrize("dag_id", ["ingest_windows", "online_training"])
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


@pytest.mark.parametrize("kind", sorted(RECIPES))
def test_a_study_from_its_form_and_one_from_a_file_have_the_same_defaults(parsed: dict[str, Any], kind: str) -> None:
    fields = parsed["dags"][f"{kind}_study"]["fields"]
    asked = signature(RECIPES[kind]).parameters
    shared = {name for name in asked if name in fields and asked[name].default is not Parameter.empty}
    assert len(shared) >= 6
    assert set(asked) - set(fields) == {"base", "name"}, "the form asks for everything else"
    for name in shared - {"seeds"} | ({"seeds"} if kind == "tuning" else set()):
        default = asked[name].default
        assert fields[name]["default"] == (list(default) if isinstance(default, tuple) else default), name


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_dag_and_task_says_what_it_does(parsed: dict[str, Any], dag_id: str) -> None:
    assert len(parsed["dags"][dag_id]["doc_md"]) > 300
    for task_id, task in parsed["dags"][dag_id]["tasks"].items():
        assert task["doc_md"], task_id


@pytest.mark.parametrize(
    ("dag_id", "chain"),
    [
        ("ingest_windows", ["plan", "await_inputs", "ingest"]),
        ("historical_warmup", ["plan", "train"]),
        ("online_training", ["plan", "await_inputs", "train", "compare"]),
        ("distillation_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
        ("downsampling_study", ["plan", "ingest", "teacher", "students", "compare", "report"]),
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
