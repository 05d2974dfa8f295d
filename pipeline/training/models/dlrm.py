"""DLRM (Naumov et al. 2019) from TorchRec, with a faster interaction on CPUs."""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import nn
from torchrec.models.dlrm import DLRM, InteractionArch, OverArch, SparseArch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from pipeline.spec.config import ModelConfig
from pipeline.spec.documents import Frozen
from pipeline.training.models.features import Features
from pipeline.training.models.network import Network


@torch.fx.wrap
def _in_order(pooled: KeyedTensor, keys: list[str]) -> torch.Tensor:
    """(B, F x D) embeddings in the order of `keys`; as they are where that is theirs."""
    if pooled.keys() == keys:
        return pooled.values()  # type: ignore[no-any-return]
    by_key = pooled.to_dict()
    return torch.cat([by_key[key] for key in keys], dim=1)


class OrderedSparse(SparseArch):
    """TorchRec's lookup of a batch's ids, without its cutting and joining of what already lies in order."""

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        """From ids to (B, F, D)."""
        pooled = _in_order(self.embedding_bag_collection(features), self.sparse_feature_names)
        return pooled.reshape(-1, self.F, self.D)


class _PairProducts(torch.autograd.Function):
    """Dot products of every pair of F + 1 vectors; the gradient's matrix is symmetric, so one product with it suffices.

    Autograd would multiply the upper triangle and its transpose apart and add: the same up to rounding.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, pairs: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """From (B, F + 1, D) to (B, F + 1 choose 2)."""
        ctx.save_for_backward(values, places)
        return torch.bmm(values, values.transpose(1, 2)).flatten(1).index_select(1, pairs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """From (B, F + 1 choose 2) to (B, F + 1, D)."""
        values, places = ctx.saved_tensors
        size = values.shape[1]
        matrix = nn.functional.pad(grad, (0, 1)).index_select(1, places).view(-1, size, size)
        # Under autocast the gradient comes in another precision than the vectors.
        return torch.bmm(matrix, values.to(grad.dtype)).to(values.dtype), None, None


class PairwiseInteraction(InteractionArch):
    """DLRM's dot products of every pair of embeddings, gathered by one flat index.

    Forward bitwise equal to TorchRec's gather by two indices, backward equal up to rounding, and in both half as
    expensive on a CPU.
    """

    def __init__(self, num_sparse_features: int) -> None:
        super().__init__(num_sparse_features)
        rows, columns = self.triu_indices
        size = self.F + 1
        self.register_buffer("pairs", rows * size + columns, persistent=False)
        places = torch.full((size, size), len(rows))  # the diagonal reads the zero behind the last pair
        places[rows, columns] = places[columns, rows] = torch.arange(len(rows))
        self.register_buffer("places", places.flatten(), persistent=False)

    def forward(self, dense_features: torch.Tensor, sparse_features: torch.Tensor) -> torch.Tensor:
        """From (B, D) and (B, F, D) to (B, D + F + F choose 2)."""
        values = torch.cat((dense_features.unsqueeze(1), sparse_features), dim=1)
        flat: torch.Tensor = _PairProducts.apply(values, self.pairs, self.places)  # type: ignore[no-untyped-call]
        return torch.cat((dense_features, flat), dim=1)


class Dlrm(Network):
    """Dense and sparse embeddings, their dot products, an over-arch."""

    def __init__(self, dlrm: DLRM, over_layers: list[int]) -> None:
        super().__init__()
        self.dlrm = dlrm
        dlrm.sparse_arch = OrderedSparse(dlrm.sparse_arch.embedding_bag_collection)
        self._over_layers = over_layers

    @classmethod
    def build(cls, features: Features, config: ModelConfig, options: Frozen) -> Self:
        """TorchRec's DLRM."""
        shape = layers(features, config)
        dlrm = DLRM(**shape)
        dlrm.inter_arch = PairwiseInteraction(len(features.keys))
        return cls(dlrm, shape["over_arch_layer_sizes"])

    def shared(self, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """(B, I) interactions."""
        found: torch.Tensor = self.dlrm.inter_arch(
            dense_features=self.dlrm.dense_arch(dense), sparse_features=self.dlrm.sparse_arch(sparse)
        )
        return found

    @property
    def tower(self) -> nn.Module:
        """The over-arch."""
        return cast("nn.Module", self.dlrm.over_arch)

    def new_tower(self) -> nn.Module:
        """Another over-arch."""
        other: nn.Module = OverArch(next(self.dlrm.over_arch.parameters()).shape[1], self._over_layers)
        return other


def layers(features: Features, config: ModelConfig) -> dict[str, Any]:
    """What TorchRec's DLRM and DCNv2 are built of."""
    widths = config.widths
    return {
        "embedding_bag_collection": features.embedding_bags(widths.embedding_dim),
        "dense_in_features": features.widths[0],
        "dense_arch_layer_sizes": [*widths.bottom, widths.embedding_dim],
        "over_arch_layer_sizes": [*widths.over, 1],
    }
