"""DCNv2 (Wang et al. 2021) from TorchRec: low-rank cross layers in the place of DLRM's dot products."""

from __future__ import annotations

from typing import Self

from torchrec.models.dlrm import DLRM_DCN

from pipeline.spec.config import ModelConfig
from pipeline.spec.documents import Frozen
from pipeline.training.models.dlrm import Dlrm, layers
from pipeline.training.models.features import Features


class Dcnv2(Dlrm):
    """Dense and sparse embeddings, cross layers, an over-arch."""

    @classmethod
    def build(cls, features: Features, config: ModelConfig, options: Frozen) -> Self:
        """TorchRec's DLRM_DCN."""
        shape, widths = layers(features, config), config.widths
        network = DLRM_DCN(**shape, dcn_num_layers=widths.cross_layers, dcn_low_rank_dim=widths.cross_rank)
        return cls(network, shape["over_arch_layer_sizes"])
