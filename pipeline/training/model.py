"""A click model in training: a network with its loss, built by name, its weights set by the seed alone."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline.spec.config import MODELS, ModelConfig
from pipeline.spec.errors import asked
from pipeline.spec.extensions import load_extension
from pipeline.training.batch import ClickBatch
from pipeline.training.losses import click_loss
from pipeline.training.models.features import Features
from pipeline.training.models.last_layer import last_linear
from pipeline.training.models.network import Network


class ClickModel(nn.Module):
    """A network with its loss: from a batch of B rows to the loss and the (B,) logits that it serves.

    With an auxiliary tower, a second one on the same shared layers learns from the teacher while the model trains; it
    shapes the embeddings and the layers below, and is never served (Rec-Distill, ByteDance 2026).
    """

    def __init__(
        self, network: Network, auxiliary: nn.Module | None = None, *, precision: str = ModelConfig().precision
    ) -> None:
        super().__init__()
        self.network = network
        self.auxiliary = auxiliary
        self._in_bfloat16 = precision == "bfloat16"

    def forward(self, batch: ClickBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """() loss of the batch and (B,) logits without offset, detached."""
        taught = None
        with self._multiplying():
            if self.auxiliary is None:
                logits = self.network(batch.dense, batch.sparse)
            else:
                shared = self.network.shared(batch.dense, batch.sparse)
                logits = self.network.tower(shared).squeeze(-1)
                # Also without a teacher, with weights of zero: the workers' gradients are averaged over all parameters alike.
                taught = self.auxiliary(shared).squeeze(-1).float() if self.training else None
        logits = logits.float()
        return click_loss(logits, batch, taught), logits.detach()

    def _multiplying(self) -> AbstractContextManager[object]:
        """In the model's precision; asks a weight where it lies, since `torch.fx` sees no device of a batch."""
        if not self._in_bfloat16:
            return nullcontext()
        return torch.autocast(next(self.network.tower.parameters()).device.type, torch.bfloat16)


def build_network(features: Features, config: ModelConfig) -> Network:
    """A new network of the architecture that a config names, its weights drawn from torch's default generator.

    Raises:
        BadInput: there is no such architecture, or its options are not those that it knows.
    """
    kind = load_extension(MODELS, config.arch, "model", Network)
    with asked(f"options of model {config.arch!r}"):
        options = kind.Options.model_validate(dict(config.options))
    return cast("Network", kind.build(features, config, options))


def build_model(features: Features, config: ModelConfig, *, seed: int) -> ClickModel:
    """A new model in host memory, its weights set by `seed` alone, whatever it is sharded over later."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(features, config)
        auxiliary = network.new_tower() if config.distillation_head == "auxiliary" else None
    with torch.no_grad():
        for last in (network.last_layer, *(() if auxiliary is None else (last_linear(auxiliary),))):
            last.bias.fill_(math.log(config.prior / (1 - config.prior)))
    return ClickModel(network, auxiliary, precision=config.precision)


def forward_flops(model: ClickModel, features: Features, *, training: bool = False) -> float:
    """Floating-point operations of one example's forward pass, as PyTorch counts its matrix products.

    Args:
        model: in host memory.
        features: what it sees.
        training: count the auxiliary tower too, which does not serve.
    """
    size = 8
    sparse = KeyedJaggedTensor(
        keys=features.keys,
        values=torch.zeros(size * len(features.keys), dtype=torch.long),
        lengths=torch.ones(size * len(features.keys), dtype=torch.int32),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shared = model.network.shared(torch.zeros(size, features.widths[0]), sparse)
        model.network.tower(shared)
        if training and model.auxiliary is not None:
            model.auxiliary(shared)
    return float(counter.get_total_flops()) / size
