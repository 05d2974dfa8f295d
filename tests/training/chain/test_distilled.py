"""Distilled windows: few rows with the labels of a model that has closed the window, trained on like any selection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.dataset import require_manifest
from pipeline.data.share import Share
from pipeline.selection.policies.distilled import Distilled
from pipeline.selection.stored import LABEL, SelectionStore
from pipeline.spec.config import OptimizerConfig
from pipeline.spec.errors import BadInput
from pipeline.storage import parquet
from pipeline.storage.lake import Lake
from pipeline.training.signals import SignalReader
from tests.trained import DATASET, DAY, STEPS, lineup, metrics, publish, train, variant, windows


def test_a_student_learns_what_the_pilot_says_once_it_has_closed_the_window(lake: Lake) -> None:
    student = variant("student", selection=Distilled(rate=0.2, pilot="pilot"))
    done = train(lake, lineup(variant("pilot"), student), 2)
    step, pilot = done["student", DAY], done["pilot", DAY]
    assert step.num_selected < 200 < step.num_rows
    hindsight = pilot.signal("logit", -1)
    assert hindsight is not None
    assert step.selection_read["pilot"] == (pilot.key, hindsight.digest)
    manifest = require_manifest(lake, DATASET, DAY)
    (selection,) = SelectionStore(lake, DATASET).of_window(manifest)
    reader, share = SignalReader(lake, hindsight, manifest.digest), Share(lake, manifest)
    for group, place in enumerate(selection.places):
        assert place is not None
        table = parquet.read_row_group(lake, selection.files[place[0]], place[1])
        ids = share.read(group, ["example_id"]).column(0).to_numpy()
        said = dict(zip(ids, 1 / (1 + np.exp(-reader(group, ids).astype(float))), strict=True))
        expected = [said[each] for each in table.column("example_id").to_numpy()]
        assert np.allclose(table.column(LABEL).to_numpy(), expected, atol=1e-6)
        assert pa.types.is_integer(table.column("label").type), "the window's own label stays beside it"


def test_soft_labels_teach_more_than_the_labels_of_as_many_rows(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    publish(lake, windows(6), rows_per_window=4000, group=1000)
    few = {"optimizer": OptimizerConfig(**STEPS.model_dump() | {"batch_size": 16})}
    chosen = lineup(
        variant("pilot"),
        variant("distilled", selection=Distilled(rate=0.03, pilot="pilot"), **few),
        variant("uniform", selection={"kind": "uniform", "rate": 0.03}, **few),
    )
    done = train(lake, chosen, 6)
    last = {name: metrics(lake, done[name, DAY.shift(5)])["auc"] for name in ("distilled", "uniform")}
    assert last["distilled"] > last["uniform"] + 0.01


def test_a_pilot_that_stopped_is_named_before_anybody_trains(lake: Lake) -> None:
    chosen = lineup(variant("pilot"), variant("student", selection=Distilled(rate=0.2, pilot="pilot")))
    with pytest.raises(BadInput, match=r"'student' .*'pilot'"):
        train(lake, chosen, 1, variants=("student",))
