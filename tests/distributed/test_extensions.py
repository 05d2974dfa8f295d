"""A policy, a model and a line-up from outside the package: from a form and by the command, through Ray."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from operators.form import answers as form_answers
from operators.form.params import form
from operators.form.questions import Warmup
from pipeline.spec.job import TrainJob, load_job
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine
from pipeline.training.chain.steps import StepStore
from tests.conftest import Stack
from tests.trained import DATASET, DAY, alone
from tests.training.chain.test_doors import LINEUP, OUTSIDE, distribution

POINTS = "[windrow.policies]\ndisputed = outside:Disputed\n[windrow.models]\npooled = outside:Pooled\n"

pytestmark = [pytest.mark.distributed, pytest.mark.services]


def test_a_policy_and_a_model_from_outside_are_used_by_the_command_and_by_a_form(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, file = tmp_path / "site", tmp_path / "outside.yaml"
    distribution(site, "outside", OUTSIDE, POINTS)
    file.write_text(LINEUP.replace("origin: 2024-01-01}", "origin: 2024-01-01, settings: {rows_per_window: 600}}"))
    lake = Lake(str(tmp_path / "lake"))
    environ = {
        **stack.environ,
        "PYTHONPATH": str(site),
        "RAY_ADDRESS": "local",
        "WINDROW_LAKE": lake.url,
        "WINDROW_LINEUP": str(file),
    }

    def windrow(*arguments: str) -> str:
        done = subprocess.run(["windrow", *arguments], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    windrow("ingest", "--first", str(DAY), "--last", str(DAY.next()))
    made = json.loads(windrow("train", "--first", str(DAY), "--last", str(DAY), "--json"))
    assert {chain["variant"] for chain in made["chains"]} == {"plain", "pooled", "sampled"}

    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("WINDROW_LINEUP", str(file))
    params = {name: param.value for name, param in form(Warmup).items()}
    conf = {"lineup": "outside", "first": str(DAY), "last": str(DAY.next()), "variants": ["sampled"]}
    context = {
        "dag": SimpleNamespace(params=params, dag_id="historical_warmup"),
        "dag_run": SimpleNamespace(conf=conf, data_interval_start=None, data_interval_end=None),
        "params": params | conf,
    }
    monkeypatch.setattr(form_answers, "get_current_context", lambda: context)
    asked = form_answers.answers(Warmup)
    job = TrainJob(lineup=asked.chosen()[0], first=DAY, last=DAY.next(), start="scratch")
    assert load_job(job.model_dump_json()) == job, "what the form's task hands to the cluster"
    Engine(lake, job, None, alone()).run()
    step = StepStore(lake, DATASET).head("outside", "sampled", 0, DAY.next())
    assert step is not None
    assert sorted(step.selection_read) == ["loss", "one"], "two signals, of two variants"
    assert 0 < step.num_selected < step.num_rows
