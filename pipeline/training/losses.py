"""The loss of a click model: labels and, beside them, a teacher's soft labels, under one correction."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from pipeline.training.batch import ClickBatch


def click_loss(logits: torch.Tensor, batch: ClickBatch, auxiliary: torch.Tensor | None = None) -> torch.Tensor:
    """Weighted hard plus soft cross-entropy of a batch.

    The offset is added to the student's logit and to the teacher's raw logit alike, so that both losses are taken on
    the scale of the sampled examples (Rec-Distill 2026); cross-entropy on soft labels, whose gradient is sigma(s) -
    sigma(t), does not vanish where predictions saturate, as the square of their difference does.

    With an auxiliary tower the serving one sees labels alone, and the auxiliary one labels and teacher, on the rows that
    have a soft label (Rec-Distill 2026).

    Args:
        logits: (B,) what the model serves, without the offset.
        batch: B rows; their weights are already divided by the update's normaliser.
        auxiliary: (B,) logits of the auxiliary tower, if the model has one.

    Returns:
        () the sum over the batch.
    """
    sampled = logits + batch.offset
    hard = cross_entropy(sampled, batch.label, weight=batch.weight, reduction="sum")
    taught_logits = sampled
    if auxiliary is not None:
        taught_logits = auxiliary + batch.offset
        taught = torch.zeros_like(batch.weight) if batch.soft_weight is None else batch.weight * (batch.soft_weight > 0)
        hard = hard + cross_entropy(taught_logits, batch.label, weight=taught, reduction="sum")
    if batch.soft_weight is None:
        return hard
    soft_label = torch.sigmoid(batch.soft_logit + batch.offset)
    soft = cross_entropy(taught_logits, soft_label, weight=batch.soft_weight, reduction="sum")
    return hard + soft
