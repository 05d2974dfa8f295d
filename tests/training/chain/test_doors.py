"""What may be added without training anything again, and what others may bring: evaluations, sources, policies, models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.data.dataset import read_manifest, read_schema
from pipeline.data.share import Share
from pipeline.selection.policies.negatives import NegativeDownsampling
from pipeline.selection.stored import SelectionStore
from pipeline.selection.synthetic import BadSynthetic, MissingSynthetic, publish_synthetic, synthetic_schema
from pipeline.spec.config import Continuous, EvaluationConfig
from pipeline.spec.errors import BadInput
from pipeline.storage.lake import Lake
from pipeline.training.chain.evaluations import EvaluationStore
from pipeline.training.chain.status import chain_statuses
from pipeline.training.chain.steps import StepStore
from pipeline.training.checkpoint import load_served
from pipeline.training.loader import whole_rows
from pipeline.training.models.features import Features
from tests.trained import (
    DATASET,
    DAY,
    engine,
    evaluation,
    lineup,
    listing,
    logits,
    publish,
    steps,
    train,
    variant,
    windows,
)
from tests.training.chain.test_steps import Watcher, weights

FEW = EvaluationConfig(max_rows=100)


def test_another_evaluation_slice_adds_evaluations_and_retrains_nothing(lake: Lake) -> None:
    first = train(lake, lineup(evaluation=FEW, checkpoint_every=2), 3)
    before = {path: digest for path, digest in listing(lake).items() if path.startswith("steps/")}
    watcher = Watcher()
    second = train(lake, lineup(checkpoint_every=2), 3, recorder=watcher)
    assert watcher.trained == []
    assert {place: step.key for place, step in second.items()} == {place: step.key for place, step in first.items()}
    assert {path: digest for path, digest in listing(lake).items() if path.startswith("steps/")} == before
    for step in second.values():
        few, all_rows = evaluation(lake, step, FEW), evaluation(lake, step)
        assert few.num_rows < all_rows.num_rows == 500
        assert few.key != all_rows.key
    straight = Lake(str(Path(str(lake.root)).parent / "straight"))
    publish(straight, windows(4))
    at_once = train(straight, lineup(), 3)
    for place, step in second.items():
        assert np.array_equal(logits(lake, step), logits(straight, at_once[place])), "by the model as it stood then"


def test_a_step_that_is_trained_again_for_a_signal_is_not_evaluated_again(lake: Lake) -> None:
    train(lake, lineup(variant("teacher")), 2)
    before = {path: digest for path, digest in listing(lake).items() if path.startswith("evaluations/")}
    train(lake, lineup(variant("teacher"), variant("student", distillation=Continuous(teacher="teacher"))), 2)
    after = listing(lake)
    assert {path: after[path] for path in before} == before


def test_who_selects_alike_shares_one_stored_selection(lake: Lake) -> None:
    tenth = NegativeDownsampling(rate=0.1)
    student = variant("student", selection=tenth, distillation=Continuous(teacher="teacher"))
    made = train(lake, lineup(variant("teacher"), variant("sampled", selection=tenth), student), 2)
    manifests = [path for path in listing(lake) if path.startswith("selections/") and path.endswith("manifest.json")]
    assert len(manifests) == 2, "one a window"
    step = made["sampled", DAY]
    assert step.selection is not None
    found = SelectionStore(lake, DATASET).read(step.selection)
    assert found is not None
    assert found.num_rows == step.num_selected < 250
    assert sum(part.num_rows for part in found.files) == found.num_rows, "who trains on a tenth reads a tenth"


def synthetic(lake: Lake, day: Any, *, rows: int = 30, label: float = 0.4, weight: float = 1.0) -> Any:
    """Made rows: those of the window with soft labels."""
    manifest = read_manifest(lake, DATASET, day)
    assert manifest is not None
    schema = read_schema(lake, DATASET, manifest.schema_key)
    columns = synthetic_schema(schema)
    table = Share(lake, manifest).read(0, ["example_id", *(f.name for f in schema.features)]).slice(0, rows)
    arrays = {
        "example_id": table.column("example_id"),
        "label": pa.array(np.full(rows, label, np.float32)),
        "weight": pa.array(np.full(rows, weight, np.float32)),
    }
    arrays |= {f.name: table.column(f.name) for f in schema.features}
    batches = pa.table([arrays[name] for name in columns.names], schema=columns).combine_chunks().to_batches()
    return publish_synthetic(lake, DATASET, "memory", day, schema, batches, {"window": manifest.digest})


def test_a_step_trains_on_its_window_and_on_synthetic_rows_with_soft_labels(lake: Lake) -> None:
    both = variant("both", sources=("memory",))
    with pytest.raises(MissingSynthetic, match="'memory' of data set 'sim' are needed for 2024-01-01, got none"):
        train(lake, lineup(both), 1)
    for day in windows(2):
        synthetic(lake, day)
    chosen = lineup(
        both, variant("teacher"), variant("taught", sources=("memory",), distillation=Continuous(teacher="teacher"))
    )
    made = train(lake, chosen, 2)
    plain = train(lake, lineup(variant("plain"), name="other"), 2)
    for day in windows(2):
        assert made["both", day].num_selected == 530
        assert made["both", day].key != plain["plain", day].key
        assert made["both", day].progressive["base_rate"] != plain["plain", day].progressive["base_rate"]
    assert made["taught", DAY].num_selected == 530
    watcher = Watcher()
    train(lake, chosen, 2, recorder=watcher)
    assert watcher.trained == []
    assert all(not chain.stale for chain in chain_statuses(lake, chosen))
    synthetic(lake, DAY, label=0.5)
    stale = {chain.variant: chain.stale for chain in chain_statuses(lake, chosen)}
    assert stale["both"][DAY] == "its synthetic rows have changed"
    assert stale["teacher"] == {}


def test_synthetic_rows_without_weight_would_be_the_windows_alone_and_are_refused(lake: Lake) -> None:
    for harm, message in (({"label": 1.5}, "labels lie in"), ({"weight": 0.0}, "weights are finite and above zero")):
        with pytest.raises(BadSynthetic, match=message):
            synthetic(lake, DAY, **harm)
    assert not any(path.startswith("synthetic/") for path in listing(lake)), "nothing half-written is left"


def test_a_teacher_says_nothing_of_synthetic_rows(lake: Lake) -> None:
    """With a soft loss of any weight, labels alone teach them: another teacher's logits are none of theirs."""
    synthetic(lake, DAY)
    teacher, taught = variant("teacher"), variant("s", sources=("memory",), distillation=Continuous(teacher="teacher"))
    engine(lake, lineup(teacher, taught), 1).run()
    step = steps(lake, lineup(teacher, taught), 1)["s", DAY]
    left = StepStore(lake, DATASET).head("test", "teacher", 0, DAY)
    assert left is not None
    assert step.soft_read == (left.key, left.signals[0].digest)
    assert sum(part.num_rows for part in left.signals[0].files) == 500


SERVE = """
import sys
from pathlib import Path
import torch
from pipeline.storage.lake import Lake
from pipeline.data.dataset import read_schema
from pipeline.training.chain.steps import StepStore
from pipeline.training.checkpoint import load_served
from pipeline.training.models.features import Features
lake = Lake(sys.argv[1])
step = StepStore(lake, "sim").read(sys.argv[2])
features = Features(read_schema(lake, "sim", step.schema_key))
network = load_served(lake, step.checkpoint, step.checkpoint_files, features, step.config.model)
assert not torch.distributed.is_initialized()
print(sum(p.numel() for p in network.parameters()))
"""


@pytest.mark.parametrize("head", ["serving", "auxiliary"])
def test_a_checkpoint_serves_without_labels_and_without_a_process_group(lake: Lake, head: str) -> None:
    plain = variant()
    model = plain.model.model_copy(update={"distillation_head": head})
    made = train(lake, lineup(variant(model=model)), 2)
    step, after = made["plain", DAY], made["plain", DAY.next()]
    assert step.checkpoint is not None
    features = Features(read_schema(lake, DATASET, step.schema_key))
    network = load_served(lake, step.checkpoint, step.checkpoint_files, features, step.config.model)
    manifest = read_manifest(lake, DATASET, DAY.next())
    assert manifest is not None
    from pipeline.training.batch import Rows, assemble

    rows = Rows.concat(list(whole_rows(Share(lake, manifest), features)))
    batch = assemble(rows, features.keys, features.widths, size=len(rows), normaliser=1.0, soft_weight=0.0)
    with torch.no_grad():
        served = network(batch.dense, batch.sparse).numpy()
    assert np.allclose(served, logits(lake, after), atol=1e-5), "what was evaluated is what is served"
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(lake.root), step.key], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == sum(p.numel() for p in network.parameters())


OUTSIDE = '''
"""A policy and a model that no file of Windrow knows."""
from typing import ClassVar, Literal
import numpy as np
import torch
from torch import nn
from pipeline.selection.policy import Candidates, FeaturePolicy
from pipeline.spec.config import Rate, Read, Source
from pipeline.spec.documents import Frozen, Whole
from pipeline.training.models.network import Network


class Disputed(FeaturePolicy):
    """Keeps negatives on which two models differ."""
    kind: Literal["disputed"] = "disputed"
    rate: Rate
    one: Source
    other: Source

    def reads(self):
        return {"one": Read(self.one, 0), "loss": Read(self.other, 0, "loss")}

    def keep_probabilities(self, rows: Candidates):
        apart = np.abs(rows.signals["one"] - rows.signals["loss"]).astype(np.float64)
        return np.clip(self.rate * (0.5 + apart), 0.01, 1.0), 1.0


class Hidden(Frozen):
    units: Whole = 8


class Pooled(Network):
    """Mean of the embeddings, beside the dense features, into two layers."""
    Options: ClassVar = Hidden

    def __init__(self, bags, dim, width, units):
        super().__init__()
        self.bags, self.dim, self.width, self.units = bags, dim, width, units
        self.top = self.new_tower()

    @classmethod
    def build(cls, features, config, options):
        dim = config.widths.embedding_dim
        return cls(features.embedding_bags(dim), dim, dim + features.widths[0], options.units)

    def shared(self, dense, sparse):
        found = self.bags(sparse).values()
        return torch.cat([dense, found.reshape(dense.shape[0], -1, self.dim).mean(1)], dim=1)

    @property
    def tower(self):
        return self.top

    def new_tower(self):
        return nn.Sequential(nn.Linear(self.width, self.units), nn.ReLU(), nn.Linear(self.units, 1))
'''

LINEUP = """
name: outside
dataset: {name: sim, source: {kind: simulated, origin: 2024-01-01}}
reference: plain
online_start: 2024-01-02
evaluation: {max_rows: 10000}
variants:
  - {name: plain, model: {size: tiny, prior: 0.2}, optimizer: {batch_size: 128}}
  - {name: pooled, model: {arch: pooled, size: tiny, prior: 0.2, options: {units: 4}}, optimizer: {batch_size: 128}}
  - name: sampled
    model: {size: tiny, prior: 0.2}
    optimizer: {batch_size: 128}
    selection: {kind: disputed, rate: 0.2, one: plain, other: pooled}
"""

TRAIN = """
import sys
from pathlib import Path
from pipeline.spec.job import TrainJob
from pipeline.spec.lineup import load_lineup
from pipeline.spec.window import Window
from pipeline.storage.lake import Lake
from pipeline.training.chain.engine import Engine
from pipeline.training.chain.status import chain_statuses
from tests.trained import alone, DAY
lake, lineup = Lake(sys.argv[1]), load_lineup(sys.argv[2])
job = TrainJob(lineup=lineup, first=DAY, last=DAY.next(), start="scratch")
job = TrainJob.model_validate_json(job.model_dump_json())
made = Engine(lake, job, None, alone()).run()
assert all(not chain.stale for chain in chain_statuses(lake, lineup))
for closed in made:
    print(closed.step.num_selected, closed.step.flops.training, sorted(closed.step.selection_read), closed.step.left)
"""


def distribution(folder: Path, name: str, code: str, points: str) -> None:
    """Install a module and its entry points in a folder that is put on the path."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_a_policy_and_a_model_from_another_distribution_train_by_name(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(
        tmp_path / "site",
        "outside",
        OUTSIDE,
        "[windrow.policies]\ndisputed = outside:Disputed\n[windrow.models]\npooled = outside:Pooled\n",
    )
    (tmp_path / "lineup.yaml").write_text(LINEUP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(lake.root), str(tmp_path / "lineup.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain, pooled, sampled = done.stdout.splitlines()
    assert plain.startswith("500 ")
    assert pooled.startswith("500 ")
    assert plain.split()[1] != pooled.split()[1], "each model's own FLOPs"
    assert 100 < int(sampled.split()[0]) < 400
    assert "['loss', 'one']" in sampled
    assert "('logit', 0)" in plain
    assert "('loss', 0)" in pooled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selection": {"kind": "mine"}}, "there is no selection policy 'mine': it has all, coreset, density, "),
        ({"selection": {"rate": 0.1}}, "must be a mapping that says its kind"),
        ({"selection": {"kind": "negatives", "rate": 2}}, "rate: must be at most 1"),
        ({"model": {"arch": "dlrn"}}, "there is no model 'dlrn': did you mean 'dlrm'?"),
    ],
)
def test_what_nobody_brings_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    from pipeline.spec.config import Variant
    from pipeline.spec.errors import asked

    with pytest.raises(BadInput) as refused, asked("the line-up"):
        Variant.model_validate({"name": "v"} | change)
    assert message in str(refused.value)


def test_options_that_a_model_does_not_know_are_refused_where_it_is_built(lake: Lake) -> None:
    model = variant().model.model_copy(update={"options": (("units", 4),)})
    with pytest.raises(BadInput, match="options of model 'dlrm': .*there is no field 'units'"):
        train(lake, lineup(variant(model=model)), 1)


def test_weights_do_not_depend_on_who_else_is_evaluated(lake: Lake) -> None:
    alone_ = train(lake, lineup(), 2)["plain", DAY.next()]
    other = Lake(str(Path(str(lake.root)).parent / "other"))
    publish(other, windows(4))
    assert weights(other, train(other, lineup(evaluation=FEW), 2)["plain", DAY.next()]) == weights(lake, alone_)
    assert EvaluationStore(other, DATASET).read(alone_, FEW) is not None, "the same step, evaluated otherwise"
