"""Click models: TorchRec's DLRM and DCNv2 over a schema's features, with a logit and a loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchrec.models.dlrm import DLRM, DLRM_DCN, InteractionArch, OverArch, SparseArch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from pipeline.spec.config import ModelConfig
from pipeline.spec.errors import BadInput
from pipeline.spec.schema import Categorical, ListColumn, Schema
from pipeline.training.batch import ClickBatch
from pipeline.training.losses import click_loss


class FeatureError(BadInput):
    """A model and a schema do not fit together."""


class Features:
    """The features of a schema that a model sees, in the order of its inputs."""

    def __init__(self, schema: Schema, exclude: tuple[str, ...] = ()) -> None:
        known = [f.name for f in (*schema.dense, *schema.categorical, *schema.lists)]
        if unknown := sorted(set(exclude) - set(known)):
            raise FeatureError(f"cannot exclude {unknown}: the schema has {known}")
        self.dense = [f for f in schema.dense if f.name not in exclude]
        self.categorical = [f for f in schema.categorical if f.name not in exclude]
        self.lists = [f for f in schema.lists if f.name not in exclude]
        if not self.categorical and not self.lists:
            raise FeatureError(f"a model needs a categorical or list feature; of {known} it excludes {list(exclude)}")

    @property
    def keys(self) -> list[str]:
        """Names of the sparse features, categorical before lists."""
        return [f.name for f in (*self.categorical, *self.lists)]

    @property
    def widths(self) -> tuple[int, int, int]:
        """Numbers of dense inputs, categorical and list features (D, F, L); at least one dense input, constant zero."""
        return max(1, len(self.dense)), len(self.categorical), len(self.lists)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a reader needs for them."""
        return [f.name for f in (*self.dense, *self.categorical, *self.lists)]


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
        return torch.bmm(matrix, values), None, None


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


class ClickModel(nn.Module):
    """A DLRM or DCNv2 with its loss: from a batch of B rows to the loss and the (B,) logits that it serves.

    With an auxiliary tower, a second over-arch on the same interactions listens to the teacher while the model trains; it
    shapes the embeddings and the layers below, and is never served (Rec-Distill, ByteDance 2026).
    """

    def __init__(self, network: DLRM, auxiliary: OverArch | None = None) -> None:
        super().__init__()
        self.network = network
        self.auxiliary = auxiliary

    def forward(self, batch: ClickBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """() loss of the batch and (B,) logits without offset, detached."""
        if self.auxiliary is None:
            logits = self.network(batch.dense, batch.sparse).squeeze(-1)
            return click_loss(logits, batch), logits.detach()
        shared = shared_layers(self.network, batch.dense, batch.sparse)
        logits = self.network.over_arch(shared).squeeze(-1)
        # Also where nobody listens, with weights of zero: the workers' gradients are averaged over all parameters alike.
        heard = self.auxiliary(shared).squeeze(-1) if self.training else None
        return click_loss(logits, batch, heard), logits.detach()


def shared_layers(network: DLRM, dense: torch.Tensor, sparse: KeyedJaggedTensor) -> torch.Tensor:
    """(B, I) interactions of a batch: what the over-arch of a network takes."""
    shared: torch.Tensor = network.inter_arch(
        dense_features=network.dense_arch(dense), sparse_features=network.sparse_arch(sparse)
    )
    return shared


def build_model(features: Features, config: ModelConfig, *, seed: int) -> ClickModel:
    """A new model in host memory, its weights set by `seed` alone, whatever it is sharded over later."""
    widths = config.widths
    pooled: list[tuple[Categorical | ListColumn, PoolingType]] = [
        (feature, PoolingType.SUM) for feature in features.categorical
    ]
    pooled += [(f, PoolingType.MEAN if f.pooling == "mean" else PoolingType.SUM) for f in features.lists]
    tables = [
        EmbeddingBagConfig(
            name=f"table_{feature.name}",
            embedding_dim=widths.embedding_dim,
            num_embeddings=feature.hash_size,
            feature_names=[feature.name],
            pooling=pooling,
        )
        for feature, pooling in pooled
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embeddings = EmbeddingBagCollection(tables=tables, device=torch.device("cpu"))
        shape = {
            "embedding_bag_collection": embeddings,
            "dense_in_features": features.widths[0],
            "dense_arch_layer_sizes": [*widths.bottom, widths.embedding_dim],
            "over_arch_layer_sizes": [*widths.over, 1],
        }
        if config.arch == "dlrm":
            network = DLRM(**shape)
            network.inter_arch = PairwiseInteraction(len(tables))
        else:
            network = DLRM_DCN(**shape, dcn_num_layers=widths.cross_layers, dcn_low_rank_dim=widths.cross_rank)
        network.sparse_arch = OrderedSparse(embeddings)
        auxiliary = None
        if config.distillation_head == "auxiliary":
            width = next(network.over_arch.parameters()).shape[1]
            auxiliary = OverArch(width, shape["over_arch_layer_sizes"])
    with torch.no_grad():
        for tower in (network.over_arch, auxiliary):
            if tower is not None:
                tower.model[-1].bias.fill_(math.log(config.prior / (1 - config.prior)))
    return ClickModel(network, auxiliary)


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
        shared = shared_layers(model.network, torch.zeros(size, features.widths[0]), sparse)
        model.network.over_arch(shared)
        if training and model.auxiliary is not None:
            model.auxiliary(shared)
    return float(counter.get_total_flops()) / size
