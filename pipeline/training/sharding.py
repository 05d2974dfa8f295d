"""Where the embedding tables lie: planned and sharded by TorchRec, updated inside the backward pass."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DataParallelWrapper
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.types import (
    HardwareConfig,
    KernelConfig,
    ParameterConstraints,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ModuleSharder, ParameterSharding, ShardingEnv, ShardingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from pipeline.spec.config import OptimizerConfig

SHARDING_TYPES = {
    "cpu": (ShardingType.TABLE_WISE,),
    "cuda": (ShardingType.TABLE_WISE, ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE),
}
"""How tables may lie. FBGEMM's CPU kernels know no sharding by rows. By columns, row-wise Adagrad would keep an
accumulator per row *and shard*: another optimizer for each number of workers, whose checkpoints no other could read."""


class OwnTables(ShardedEmbeddingBagCollection):
    """The tables of a CPU worker that is alone: its ids and embeddings are at their place, so it looks up and no more.

    TorchRec would send them through a process group of one, bitwise the same at several times the cost of the lookup.
    """

    _has_uninitialized_input_dist: bool

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """From ids to pooled embeddings, (B, F x D)."""
        if self._has_uninitialized_input_dist:
            self._create_input_dist(features.keys())
            self._has_uninitialized_input_dist = False
        if self._has_features_permute:
            features = features.permute(self._features_order, self._features_order_tensor)
        (lookup,) = self._lookups
        return KeyedTensor(self._embedding_names, self._embedding_dims, lookup(features))


class OwnTablesSharder(EmbeddingBagCollectionSharder):
    """Makes `OwnTables`."""

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> OwnTables:
        """The tables in the place of a plain collection's."""
        return OwnTables(module, params, env, fused_params=self.fused_params, device=device, module_fqn=module_fqn)


class NoReplicas(DataParallelWrapper):
    """Leaves the dense layers as they are: the only worker has nobody's gradients to average with."""

    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        """Nothing."""


class PlainAdagrad(torch.optim.Adagrad):
    """Torch's Adagrad on a CPU, bit for bit: in a small model, torch's takes longer to choose among its kernels than to run."""

    def __init__(self, params: list[nn.Parameter], *, lr: float, eps: float) -> None:
        super().__init__(params, lr=lr, eps=eps)
        self._counts = torch.zeros(len(self.state))  # of calls, a place for each parameter: they move together
        for state, count in zip(self.state.values(), self._counts.unbind(), strict=True):
            state["step"] = count

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        self._counts.add_(1)
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in moved]
            sums = [self.state[parameter]["sum"] for parameter in moved]
            torch._foreach_addcmul_(sums, gradients, gradients)
            scales = torch._foreach_sqrt(sums)
            torch._foreach_add_(scales, group["eps"])
            torch._foreach_addcdiv_(moved, gradients, scales, value=-group["lr"])

    step.hooked = True  # type: ignore[attr-defined]  # torch leaves a step alone that has its hooks, or needs none


def is_alone(device: torch.device) -> bool:
    """Whether this process and its CPU do everything: nothing is sent, and there is nobody to overlap work with."""
    return device.type == "cpu" and dist.get_world_size() == 1


def shard(
    model: nn.Module, config: OptimizerConfig, device: torch.device
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Spread a model over the workers of the default process group.

    Tables lie whole, on GPUs by rows too, as the planner chooses; dense layers are replicated and
    their gradients averaged. Row-wise Adagrad runs inside the embeddings' backward pass (one accumulator per row).

    Returns:
        The sharded model and the optimizer that holds all of its state.
    """
    constraints: dict[str, ParameterConstraints] = {}
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            apply_optimizer_in_backward(
                RowWiseAdagrad, module.parameters(), {"lr": config.embedding_lr, "eps": config.eps}
            )
            # Never replicated: a data-parallel table is not updated in backward, and its state lies elsewhere.
            allowed = [kind.value for kind in SHARDING_TYPES[device.type]]
            constraints |= {
                table.name: ParameterConstraints(
                    sharding_types=allowed, compute_kernels=[EmbeddingComputeKernel.FUSED.value]
                )
                for table in module.embedding_bag_configs()
            }
    alone = is_alone(device)
    made = OwnTablesSharder() if alone else EmbeddingBagCollectionSharder()
    sharders = [cast("ModuleSharder[nn.Module]", made)]
    topology = TopologyFactory.create_topology(
        TrainerConfig(world_size=dist.get_world_size()),
        HardwareConfig(hbm_cap_bytes=_gpu_bytes(device)),
        KernelConfig(compute_device=device.type),
    )
    planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
    plan = planner.collective_plan(model, sharders, dist.GroupMember.WORLD)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    sharded = DistributedModelParallel(
        module=model,
        device=device,
        plan=plan,
        sharders=sharders,
        data_parallel_wrapper=NoReplicas() if alone else None,
    )
    _set_tables(sharded, weights)
    adagrad = PlainAdagrad if device.type == "cpu" else torch.optim.Adagrad
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(sharded.named_parameters())),
        lambda params: adagrad(params, lr=config.dense_lr, eps=config.eps),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


def _gpu_bytes(device: torch.device) -> int | None:
    """The memory of this worker's GPU; the planner would take any for a small one."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


@torch.no_grad()
def _set_tables(sharded: DistributedModelParallel, weights: dict[str, torch.Tensor]) -> None:
    """Give each shard its part of the whole table: TorchRec draws sharded tables by itself, differently in each world."""
    for name, value in sharded.state_dict().items():
        if isinstance(value, ShardedTensor):
            for piece in value.local_shards():
                (row, column), (rows, columns) = piece.metadata.shard_offsets, piece.metadata.shard_sizes
                piece.tensor.copy_(weights[name][row : row + rows, column : column + columns])
