"""What a click model is: features in, logits out, in two halves so that a second tower can share the first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline.spec.config import ModelConfig
from pipeline.spec.documents import Frozen
from pipeline.training.models.features import Features
from pipeline.training.models.last_layer import last_linear


class NoOptions(Frozen):
    """Nothing beside the widths."""


class Network(nn.Module, ABC):
    """A click model as it serves: no labels, no loss. Extend it in one file, and name that as an entry point.

    Its embeddings are those of `Features.embedding_bags`, which are sharded and updated in backward; all else is replicated.
    `torch.fx` traces it where several workers or a GPU train it: no loop over a tensor or over what the embeddings return.
    """

    Options: ClassVar[type[Frozen]] = NoOptions
    """What `options` of its config may say."""

    @classmethod
    @abstractmethod
    def build(cls, features: Features, config: ModelConfig, options: Frozen) -> Self:
        """A new network in host memory, its weights drawn from torch's default generator.

        Args:
            features: what it sees.
            config: its widths among other things.
            options: of its own class `Options`.
        """

    @abstractmethod
    def shared(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """(B, I) from (B, D) dense features and B rows of sparse ones: what towers take."""

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """From (B, I) to (B, 1): the logit that is served. Its last linear layer has a bias."""

    @abstractmethod
    def new_tower(self) -> nn.Module:
        """Another tower of the same shape, for a loss of its own."""

    @property
    def last_layer(self) -> nn.Linear:
        """The layer of the tower whose output is the logit: the last one that it was made of, unless a network says another."""
        return last_linear(self.tower)

    def forward(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """(B,) logits of (B, D) dense features and B rows of sparse ones."""
        logits: torch.Tensor = self.tower(self.shared(dense, sparse)).squeeze(-1)
        return logits
