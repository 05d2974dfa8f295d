"""Where the embedding tables lie: planned and sharded by TorchRec, updated inside the backward pass."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ModuleSharder
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from pipeline.config import OptimizerConfig


def shard(
    model: nn.Module, config: OptimizerConfig, device: torch.device
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Spread a model over the workers of the default process group.

    Tables lie whole or by columns on CPUs, by rows too on GPUs, as the planner chooses; dense layers are replicated and
    their gradients averaged. Row-wise Adagrad runs inside the embeddings' backward pass (one accumulator per row).

    Returns:
        The sharded model and the optimizer that holds all of its state.
    """
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            apply_optimizer_in_backward(
                RowWiseAdagrad, module.parameters(), {"lr": config.embedding_lr, "eps": config.eps}
            )
    sharders = [cast("ModuleSharder[nn.Module]", EmbeddingBagCollectionSharder())]
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=dist.get_world_size()),
        HardwareConfig(),
        KernelConfig(compute_device=device.type),
    )
    planner = EmbeddingShardingPlanner(topology=topology)
    plan = planner.collective_plan(model, sharders, dist.GroupMember.WORLD)
    sharded = DistributedModelParallel(module=model, device=device, plan=plan, sharders=sharders)
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(sharded.named_parameters())),
        lambda params: torch.optim.Adagrad(params, lr=config.dense_lr, eps=config.eps),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])
