"""The loss: an offset moves both losses to the sampled scale, and weights alone decide what counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline.training.batch import ClickBatch
from pipeline.training.losses import click_loss

ROWS = 6
finite = st.lists(st.floats(-20, 20, width=32), min_size=ROWS, max_size=ROWS).map(torch.tensor)
labels = st.lists(st.sampled_from([0.0, 1.0]), min_size=ROWS, max_size=ROWS).map(torch.tensor)
NOTHING = KeyedJaggedTensor(keys=["f"], values=torch.empty(0).long(), lengths=torch.zeros(ROWS, dtype=torch.int32))


def batch(**columns: torch.Tensor) -> ClickBatch:
    """A batch with weights of one and neither teacher nor offset, but as given."""
    plain: dict[str, Any] = dict.fromkeys(("label", "soft_weight", "offset", "soft_logit"), torch.zeros(ROWS))
    plain |= {"weight": torch.ones(ROWS), "dense": torch.zeros((ROWS, 1)), "sparse": NOTHING}
    return ClickBatch(**{**plain, **columns})


def gradient(logits: torch.Tensor, given: ClickBatch) -> torch.Tensor:
    student = logits.clone().requires_grad_()
    click_loss(student, given).backward()
    assert student.grad is not None
    return student.grad


@settings(max_examples=40, deadline=None)
@given(logits=finite, offset=finite, label=labels)
def test_an_offset_trains_on_the_scale_of_the_sample(
    logits: torch.Tensor, offset: torch.Tensor, label: torch.Tensor
) -> None:
    with_offset = batch(label=label, offset=offset)
    assert torch.equal(click_loss(logits, with_offset), click_loss(logits + offset, batch(label=label)))
    assert torch.allclose(gradient(logits, with_offset), torch.sigmoid(logits + offset) - label, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(logits=finite, teacher=finite, offset=finite)
def test_the_soft_loss_pulls_to_the_teacher_on_the_students_scale(
    logits: torch.Tensor, teacher: torch.Tensor, offset: torch.Tensor
) -> None:
    soft = batch(weight=torch.zeros(ROWS), soft_weight=torch.full((ROWS,), 0.7), offset=offset, soft_logit=teacher)
    pull = torch.sigmoid(logits + offset) - torch.sigmoid(teacher + offset)
    assert torch.allclose(gradient(logits, soft), 0.7 * pull, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(teacher=finite, offset=finite)
def test_a_student_that_says_what_its_teacher_says_is_not_moved(teacher: torch.Tensor, offset: torch.Tensor) -> None:
    soft = batch(weight=torch.zeros(ROWS), soft_weight=torch.ones(ROWS), offset=offset, soft_logit=teacher)
    assert gradient(teacher, soft).abs().max() < 1e-6


@settings(max_examples=40, deadline=None)
@given(logits=finite, teacher=finite, offset=finite, label=labels)
def test_rows_of_weight_zero_have_a_gradient_of_exactly_zero(
    logits: torch.Tensor, teacher: torch.Tensor, offset: torch.Tensor, label: torch.Tensor
) -> None:
    weight = torch.tensor([1.0, 0, 0.5, 0, 0, 2])
    given = batch(label=label, weight=weight, soft_weight=weight, offset=offset, soft_logit=teacher)
    found = gradient(logits, given)
    assert (found[weight == 0] == 0).all()
    counted = weight > 0
    only = batch(
        label=label[counted],
        weight=weight[counted],
        soft_weight=weight[counted],
        offset=offset[counted],
        soft_logit=teacher[counted],
    )
    assert click_loss(logits, given) == pytest.approx(float(click_loss(logits[counted], only)), rel=1e-5)


def test_losses_add_up_row_by_row() -> None:
    torch.manual_seed(0)
    logits, offset, teacher, weight = torch.randn(4, ROWS)
    label, weight = (torch.rand(ROWS) < 0.5).float(), weight.abs()
    p, q = torch.sigmoid(logits + offset), torch.sigmoid(teacher + offset)
    hard = -(label * p.log() + (1 - label) * (1 - p).log())
    soft = -(q * p.log() + (1 - q) * (1 - p).log())
    given = batch(label=label, weight=weight, soft_weight=0.3 * weight, offset=offset, soft_logit=teacher)
    assert click_loss(logits, given) == pytest.approx(float((weight * (hard + 0.3 * soft)).sum()), rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(logits=finite, other=finite, teacher=finite, offset=finite, label=labels)
def test_an_auxiliary_tower_learns_from_the_teacher_and_the_serving_one_sees_labels_alone(
    logits: torch.Tensor, other: torch.Tensor, teacher: torch.Tensor, offset: torch.Tensor, label: torch.Tensor
) -> None:
    weight = torch.tensor([1.0, 0, 0.5, 2, 1, 1])
    given = batch(label=label, weight=weight, soft_weight=0.3 * weight, offset=offset, soft_logit=teacher)
    serving, auxiliary = logits.clone().requires_grad_(), other.clone().requires_grad_()
    click_loss(serving, given, auxiliary).backward()
    assert serving.grad is not None
    assert auxiliary.grad is not None
    assert torch.equal(serving.grad, gradient(logits, batch(label=label, weight=weight, offset=offset)))
    assert torch.equal(auxiliary.grad, gradient(other, given))


@settings(max_examples=40, deadline=None)
@given(logits=finite, other=finite, label=labels)
def test_an_auxiliary_tower_that_hears_nobody_has_a_gradient_of_exactly_zero(
    logits: torch.Tensor, other: torch.Tensor, label: torch.Tensor
) -> None:
    auxiliary = other.clone().requires_grad_()
    plain = batch(label=label)
    loss = click_loss(logits.clone().requires_grad_(), plain, auxiliary)
    loss.backward()
    assert auxiliary.grad is not None
    assert (auxiliary.grad == 0).all()
    assert float(loss.detach()) == float(click_loss(logits, plain))


def test_saturated_predictions_still_learn() -> None:
    """The square of the difference of probabilities would have no gradient here; cross-entropy has."""
    soft = batch(weight=torch.zeros(ROWS), soft_weight=torch.ones(ROWS), soft_logit=torch.full((ROWS,), 30.0))
    assert gradient(torch.full((ROWS,), -30.0), soft) == pytest.approx(-1.0)
    assert torch.isfinite(click_loss(torch.full((ROWS,), 1e4), batch()))
