"""Models: made by their seed alone, equal to TorchRec's, and blind to what they are not shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.models.dlrm import InteractionArch

from pipeline.spec.config import SIZES, ModelConfig, Widths
from pipeline.spec.schema import Schema
from pipeline.training.batch import Bags, ClickBatch, Rows, assemble
from pipeline.training.model import ClickModel, build_model, forward_flops
from pipeline.training.models.dlrm import PairwiseInteraction
from pipeline.training.models.features import FeatureError, Features

COLUMNS: dict[str, Any] = {
    "label": "click",
    "event_time": {"column": "at"},
    "dense": [{"name": "price"}, {"name": "age"}],
    "categorical": [{"name": "item", "hash_size": 40}, {"name": "user", "hash_size": 30}],
    "lists": [
        {"name": "tags", "hash_size": 20, "pooling": "mean"},
        {"name": "words", "hash_size": 20, "pooling": "sum"},
    ],
}
SCHEMA = Schema.of(COLUMNS, "the test")
FEATURES = Features(SCHEMA)
both_archs = pytest.mark.parametrize("arch", ["dlrm", "dcnv2"])


def bags(lists: list[list[int]]) -> Bags:
    return Bags(
        np.array([entry for each in lists for entry in each], np.int32),
        np.cumsum([0, *map(len, lists)]).astype(np.int64),
    )


def rows(count: int = 12, seed: int = 0, **columns: Any) -> Rows:
    """Examples of the schema above; the lists of every third are empty."""
    random = np.random.default_rng(seed)
    lists = [[random.integers(0, 20, n % 3).tolist() for n in range(count)] for _ in range(2)]
    plain: dict[str, Any] = {
        "example_id": np.arange(count, dtype=np.uint64),
        "position": np.arange(count),
        "label": (random.random(count) < 0.3).astype(np.float32),
        "dense": random.normal(size=(count, 2)).astype(np.float32),
        "ids": np.stack([random.integers(0, 40, count), random.integers(0, 30, count)]).astype(np.int32),
        "bags": tuple(bags(each) for each in lists),
        "importance": np.ones(count, np.float32),
        "weight": np.ones(count, np.float32),
        "offset": np.zeros(count, np.float32),
        "soft_logit": np.zeros(count, np.float32),
    }
    return Rows(**{**plain, **columns})


def batch(of: Rows, size: int | None = None) -> ClickBatch:
    return assemble(of, FEATURES.keys, FEATURES.widths, size=size or len(of), normaliser=len(of), soft_weight=0.0)


def build(seed: int = 0, **choices: Any) -> ClickModel:
    return build_model(FEATURES, ModelConfig(**{"size": "tiny", **choices}), seed=seed)


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(1, 9), num_sparse=st.integers(1, 12), width=st.integers(1, 16), seed=st.integers(0, 99))
def test_our_interaction_is_torchrecs_bit_for_bit(num_rows: int, num_sparse: int, width: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    dense = torch.randn((num_rows, width), generator=random).requires_grad_()
    sparse = torch.randn((num_rows, num_sparse, width), generator=random).requires_grad_()
    found = {}
    for kind in (InteractionArch, PairwiseInteraction):
        out = kind(num_sparse)(dense, sparse)
        found[kind] = (out, *torch.autograd.grad(out.square().sum(), (dense, sparse)))
    ours, theirs = found[PairwiseInteraction], found[InteractionArch]
    assert torch.equal(ours[0], theirs[0])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max())), (
            "the gradient, up to float32's rounding"
        )


@both_archs
def test_weights_come_from_the_seed_alone(arch: str) -> None:
    torch.manual_seed(1)
    first = build(arch=arch, seed=5).state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = build(arch=arch, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's draws move"
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = build(arch=arch, seed=6).state_dict()
    tables = [name for name in first if "embedding_bags" in name]
    assert tables
    assert not any(torch.equal(first[name], other[name]) for name in tables)


@both_archs
@pytest.mark.parametrize("size", [*SIZES, Widths(embedding_dim=4, bottom=(), over=(8,))], ids=str)
def test_every_size_learns_from_ids_numbers_and_lists(arch: str, size: Any) -> None:
    model, clicks = build(arch=arch, size=size), batch(rows())
    losses = []
    optimizer = torch.optim.Adagrad(model.parameters(), lr=2e-3)
    for _ in range(4):
        optimizer.zero_grad()
        loss, logits = model(clicks)
        loss.backward()
        losses.append(loss.item())
        assert logits.shape == (12,)
        assert not logits.requires_grad
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        assert all(
            t.weight.grad.any() for t in model.network.dlrm.sparse_arch.embedding_bag_collection.embedding_bags.values()
        )
        optimizer.step()
    assert losses[-1] < losses[0]


@both_archs
@pytest.mark.parametrize("head", ["serving", "auxiliary"])
def test_in_bfloat16_the_same_is_learned_and_all_that_is_kept_stays_in_float32(arch: str, head: str) -> None:
    clicks = batch(rows(64))
    losses = {}
    for precision in ("float32", "bfloat16"):
        model = build(arch=arch, size="small", precision=precision, distillation_head=head)
        optimizer = torch.optim.Adagrad(model.parameters(), lr=5e-3)
        multiplied: set[torch.dtype] = set()
        model.network.tower.register_forward_hook(lambda _, __, out, seen=multiplied: seen.add(out.dtype))
        losses[precision] = []
        for _ in range(5):
            optimizer.zero_grad()
            loss, logits = model(clicks)
            loss.backward()
            optimizer.step()
            losses[precision].append(loss.item())
        assert multiplied == {getattr(torch, precision)}
        assert {loss.dtype, logits.dtype} == {torch.float32}
        kept = [*model.parameters(), *(p.grad for p in model.parameters()), *model.state_dict().values()]
        assert {tensor.dtype for tensor in kept if tensor is not None and tensor.is_floating_point()} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=1e-2)
    assert losses["bfloat16"] != losses["float32"]


@both_archs
def test_a_row_is_scored_alike_in_any_batch_and_padding_looks_nothing_up(arch: str) -> None:
    model, clicks = build(arch=arch), rows()
    _, whole = model(batch(clicks))
    padded = batch(clicks, size=20)
    loss, logits = model(padded)
    assert torch.allclose(logits[:12], whole, atol=1e-6)
    assert torch.allclose(loss, model(batch(clicks))[0])
    assert padded.sparse.lengths().sum() == batch(clicks).sparse.lengths().sum()
    _, alone = model(batch(clicks.slice(7, 8)))
    assert torch.allclose(alone, whole[7:8], atol=1e-6)


def test_a_list_pools_as_the_schema_says_and_an_empty_one_adds_nothing() -> None:
    model = build()
    lists = [[3], [3, 3], []]

    def score(place: int) -> torch.Tensor:
        columns = [bags([[1]] * 3), bags([[1]] * 3)]
        columns[place] = bags(lists)
        same = rows(1).take(np.zeros(3, np.int64))
        changed = rows(3, dense=same.dense, ids=same.ids, bags=tuple(columns))
        return model(batch(changed))[1]

    mean, total = score(0), score(1)
    assert mean[0] == pytest.approx(mean[1].item()), "the mean of twice the same"
    assert abs(total[0] - total[1]) > 1e-6
    assert abs(mean[0] - mean[2]) > 1e-6
    assert torch.isfinite(mean).all()


@both_archs
def test_features_that_are_excluded_do_not_matter(arch: str) -> None:
    hidden = Features(SCHEMA, ("age", "user", "words"))
    assert hidden.columns == ["price", "item", "tags"]
    assert hidden.widths == (1, 1, 1)
    without = {**COLUMNS, "dense": COLUMNS["dense"][:1], "categorical": COLUMNS["categorical"][:1]}
    without["lists"] = COLUMNS["lists"][:1]
    plain = Features(Schema.of(without, "the test"))
    config = ModelConfig(arch=arch, size="tiny")
    blind, never = (build_model(features, config, seed=0).state_dict() for features in (hidden, plain))
    assert all(torch.equal(blind[name], never[name]) for name in never)


def test_a_model_without_numbers_still_has_a_dense_side() -> None:
    features = Features(SCHEMA, ("price", "age"))
    model = build_model(features, ModelConfig(size="tiny"), seed=0)
    clicks = rows(dense=np.zeros((12, 1), np.float32))
    given = assemble(clicks, features.keys, features.widths, size=12, normaliser=12, soft_weight=0.0)
    assert torch.isfinite(model(given)[1]).all()


@both_archs
@pytest.mark.parametrize("prior", [0.004, 0.2, 0.5])
def test_an_untrained_model_predicts_about_the_prior(arch: str, prior: float) -> None:
    means = [build(arch=arch, prior=prior, seed=s)(batch(rows(64)))[1].sigmoid().mean() for s in range(5)]
    assert float(sum(means)) / 5 == pytest.approx(prior, rel=0.35)


def test_flops_are_those_of_the_matrix_products() -> None:
    fields = 5  # the dense side and four sparse features
    bottom = 2 * 16 + 16 * 8
    interactions = fields * fields * 8
    over = (8 + fields * (fields - 1) // 2) * 16 + 16
    assert forward_flops(build(), FEATURES) == 2 * (bottom + interactions + over)
    costs = [forward_flops(build(size=size), FEATURES) for size in SIZES]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (("colour",), "cannot exclude .'colour'.: the schema has .'price', 'age', 'item', 'user', 'tags', 'words'."),
        (("item", "user", "tags", "words"), "a model needs a categorical or list feature"),
    ],
)
def test_impossible_exclusions_are_refused(exclude: tuple[str, ...], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        Features(SCHEMA, exclude)


def test_columns_of_rows_reach_the_tables_in_order() -> None:
    clicks = rows()
    sparse = batch(clicks, size=15).sparse.to_dict()
    assert list(sparse) == ["item", "user", "tags", "words"]
    for place, name in enumerate(("item", "user")):
        assert [sparse[name].to_dense()[n].tolist() for n in range(12)] == [[i] for i in clicks.ids[place].tolist()]
    for place, name in enumerate(("tags", "words")):
        column = clicks.bags[place]
        expected = [column.values[a:b].tolist() for a, b in zip(column.offsets, column.offsets[1:], strict=False)]
        assert [entries.tolist() for entries in sparse[name].to_dense()] == [*expected, [], [], []]


@both_archs
def test_an_auxiliary_tower_is_made_beside_the_serving_one_and_counted_in_training_alone(arch: Any) -> None:
    config = ModelConfig(arch=arch, size="tiny", prior=0.2)
    one = build_model(FEATURES, config, seed=5)
    two = build_model(FEATURES, config.model_copy(update={"distillation_head": "auxiliary"}), seed=5)
    shared = dict(two.named_parameters())
    assert all(torch.equal(value, shared.pop(name)) for name, value in one.named_parameters())
    assert {name.split(".")[0] for name in shared} == {"auxiliary"}
    plain = batch(rows())
    assert torch.equal(one(plain)[1], two(plain)[1])
    assert forward_flops(two, FEATURES) == forward_flops(one, FEATURES) == forward_flops(one, FEATURES, training=True)
    tower = sum(2 * value.numel() for name, value in shared.items() if name.endswith("weight"))
    assert forward_flops(two, FEATURES, training=True) - forward_flops(two, FEATURES) == tower
