"""The features of a schema that a model sees, and the embedding tables that they ask for."""

from __future__ import annotations

import math
from typing import Self

import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from pipeline.spec.config import ModelConfig
from pipeline.spec.errors import BadInput
from pipeline.spec.schema import Categorical, ListColumn, Schema


class FeatureError(BadInput):
    """A model and a schema do not fit together."""


class Features:
    """The features of a schema that a model sees, in the order of its inputs."""

    def __init__(self, schema: Schema, exclude: tuple[str, ...] = (), table_share: float = 1.0) -> None:
        self._table_share = table_share
        known = [f.name for f in (*schema.dense, *schema.categorical, *schema.lists)]
        if unknown := sorted(set(exclude) - set(known)):
            raise FeatureError(f"cannot exclude {unknown}: the schema has {known}")
        self.dense = [f for f in schema.dense if f.name not in exclude]
        self.categorical = [f for f in schema.categorical if f.name not in exclude]
        self.lists = [f for f in schema.lists if f.name not in exclude]
        if not self.categorical and not self.lists:
            raise FeatureError(f"a model needs a categorical or list feature; of {known} it excludes {list(exclude)}")

    @classmethod
    def of(cls, schema: Schema, model: ModelConfig) -> Self:
        """What a model sees of a schema, in tables of the sizes that its config says."""
        return cls(schema, model.exclude, model.table_share)

    @property
    def keys(self) -> list[str]:
        """Names of the sparse features, categorical before lists."""
        return [f.name for f in (*self.categorical, *self.lists)]

    @property
    def widths(self) -> tuple[int, int, int]:
        """Numbers of dense inputs, categorical and list features (D, F, L); at least one dense input, constant zero."""
        return max(1, len(self.dense)), len(self.categorical), len(self.lists)

    def table_rows(self, feature: Categorical | ListColumn) -> int:
        """Rows of a feature's table; its ids are taken modulo that."""
        return math.ceil(feature.hash_size * self._table_share)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a reader needs for them."""
        return [f.name for f in (*self.dense, *self.categorical, *self.lists)]

    def embedding_bags(self, embedding_dim: int) -> EmbeddingBagCollection:
        """A table per sparse feature, in the order of `keys`, in host memory."""
        pooled: list[tuple[Categorical | ListColumn, PoolingType]] = [
            (feature, PoolingType.SUM) for feature in self.categorical
        ]
        pooled += [(f, PoolingType.MEAN if f.pooling == "mean" else PoolingType.SUM) for f in self.lists]
        tables = [
            EmbeddingBagConfig(
                name=f"table_{feature.name}",
                embedding_dim=embedding_dim,
                num_embeddings=self.table_rows(feature),
                feature_names=[feature.name],
                pooling=pooling,
            )
            for feature, pooling in pooled
        ]
        return EmbeddingBagCollection(tables=tables, device=torch.device("cpu"))
