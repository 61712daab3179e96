"""Tables of a fixed number of rows in TorchRec's hands: its planner says which rank has which table, and
`DistributedModelParallel` puts them there and takes ids, rows and gradients from rank to rank.

Every table stays whole, so that the ranks together do what one process would do on all of their examples: to the bit where
their number is a power of two, as TorchRec divides by it, else up to rounding. The planner's other kinds are left out. Columns
of a row would have a sum of row-wise Adagrad each, and learn something else; copies on all ranks would have an optimizer that
no checkpoint reaches; rows divided among ranks, which TorchRec offers on GPUs alone, have not been tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.fused_embeddingbag import FusedEmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import KernelConfig, ParameterConstraints, TopologyFactory, TrainerConfig
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ModuleSharder, ShardingEnv, ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TableStats, TrainableBags, check_fit, module_name

_WHOLE = ParameterConstraints(
    sharding_types=[ShardingType.TABLE_WISE.value], compute_kernels=[EmbeddingComputeKernel.FUSED.value]
)
_RESERVED = 0.15  # of a rank's memory, for all that is no table


class PlannedBags(TrainableBags):
    """whole: tables made alike on every rank, given up to this. Every rank must make the same calls, also with a batch of no
    examples. Gradients are summed over ranks.

    Figures are of this rank's share, and sums over ranks are those of the whole: rows, bytes and rows touched by anyone are
    those of the tables that it has, occurrences those of its own batches.
    """

    def __init__(self, whole: StaticEmbeddingBags, group: dist.ProcessGroup | None = None) -> None:
        super().__init__(whole.base_lr)
        self._configs, self.lookups = whole.embedding_bag_configs(), whole.lookups
        self._group, self._rank, self._size = group, dist.get_rank(group), dist.get_world_size(group)
        weights, state = whole.weights(), whole.training_state()
        self._like = [{name: tensor.to("meta") for name, tensor in kind.items()} for kind in (weights, state)]
        on_gpu = "nccl" in dist.get_backend(group)
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self._dmp, placed = _sharded(whole.collection, self._device, group)
        inner = {config.name: module_name(config.name) for config in self._configs}
        self.owner = {table: placed[name] for table, name in inner.items()}
        held, sums = self._dmp.state_dict(), self._dmp.fused_optimizer.state_dict()["state"]
        self._own: dict[str, torch.Tensor] = {}
        for table in (table for table, owner in self.owner.items() if owner == self._rank):
            key = f"embedding_bags.{inner[table]}.weight"
            (accumulator,) = sums[key].values()
            self._own[f"{table}.weight"], self._own[f"{table}.accumulator"] = (
                shards.local_shards()[0].tensor.detach() for shards in (held[key], accumulator)
            )
        self.restore(weights, state)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Pooled rows of this rank's examples: KeyedTensor with values float32 [B, F * D], keys in the order of the tables,
        whatever their order in the plan.

        The features' keys may come in any order. Raises `KeyError` where one is missing.
        """
        rows = self.lookups.rows(features, self.training)
        pooled, keys = self._dmp(rows.to(self._device)).wait(), rows.keys()
        values = pooled.values() if pooled.keys() == keys else torch.cat([pooled[key] for key in keys], 1)
        if values.requires_grad:  # TorchRec divides by the number of ranks: gradients here are summed
            values.register_hook(lambda gradient: gradient * self._size)
        return KeyedTensor(keys, [config.embedding_dim for config in self._configs], values)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def set_learning_rate(self, lr: float) -> None:
        for group in self._dmp.fused_optimizer.param_groups:
            group["lr"] = lr  # type: ignore[index]
        self._dmp.fused_optimizer.step()  # hands the rate to the kernels; the rows it left to them long ago

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole of `StaticEmbeddingBags.weights`, copied, on every rank."""
        return {name: self._whole(name) for name in self._like[0]}

    def training_state(self) -> dict[str, torch.Tensor]:
        """The whole of `StaticEmbeddingBags.training_state`, copied, on every rank: touched by any, counted by all."""
        sums = {name: self._whole(name) for name in self._like[1] if name.endswith(".accumulator")}
        return sums | {"touched": self._touched(), "counted": self._reduced(self.lookups.counted, dist.ReduceOp.SUM)}

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        """Take this rank's part of whole tensors; the first rank takes what was counted.

        Raises `ValueError`, naming the tensors, where they are not of these tables.
        """
        for like, saved in zip(self._like, (weights, training_state), strict=True):
            if saved is None:
                continue
            check_fit(like, saved)
            for name in self._own.keys() & saved.keys():
                self._own[name].copy_(saved[name])
        if training_state is not None:
            self.lookups.touched.copy_(training_state["touched"])
            self.lookups.counted.copy_(training_state["counted"] * (self._rank == 0))

    def stats(self) -> dict[str, TableStats]:
        """`unknown` counts what was out of vocabulary."""
        found = {}
        for config, (looked_up, unknown) in zip(self._configs, self.lookups.counted.tolist(), strict=True):
            rows = config.num_embeddings if self.owner[config.name] == self._rank else 0
            nbytes = 4 * rows * (config.embedding_dim + 1)
            found[config.name] = TableStats(rows, nbytes, looked_up=looked_up, unknown=unknown)
        return found

    def begin_pass(self) -> None:
        self.lookups.forget()

    def rows_touched(self) -> int:
        of_table = self._touched().split([config.num_embeddings for config in self._configs])
        tables = zip(self._configs, of_table, strict=True)
        return sum(int(touched.sum()) for config, touched in tables if self.owner[config.name] == self._rank)

    def _whole(self, name: str) -> torch.Tensor:
        """A table's tensor, from the rank that has it."""
        like = self._like[name.endswith(".accumulator")][name]
        found = self._own[name].clone() if name in self._own else torch.empty_like(like, device=self._device)
        dist.broadcast(found, group_src=self.owner[name.rpartition(".")[0]], group=self._group)
        return found.cpu()

    def _touched(self) -> torch.Tensor:
        return self._reduced(self.lookups.touched.byte(), dist.ReduceOp.MAX).bool()

    def _reduced(self, tensor: torch.Tensor, how: dist.ReduceOp.RedOpType) -> torch.Tensor:
        found = tensor.to(self._device, copy=True)
        dist.all_reduce(found, how, self._group)
        return found.cpu()


def _sharded(
    tables: FusedEmbeddingBagCollection, device: torch.device, group: dist.ProcessGroup | None
) -> tuple[DistributedModelParallel, dict[str, int]]:
    """The tables on their ranks, and whose each is."""
    env = ShardingEnv.from_process_group(cast(dist.ProcessGroup, group or dist.group.WORLD))
    sharders: list[ModuleSharder[Any]] = [FusedEmbeddingBagCollectionSharder()]
    planner = EmbeddingShardingPlanner(
        TopologyFactory.create_topology(
            TrainerConfig(world_size=env.world_size), kernel_config=KernelConfig(compute_device=device.type)
        ),
        storage_reservation=FixedPercentageStorageReservation(_RESERVED),
        constraints={config.name: _WHOLE for config in tables.embedding_bag_configs()},
    )
    tables = tables.to("meta")  # or every rank would keep the whole of them for good
    plan = planner.collective_plan(tables, sharders, env.process_group)
    placed = cast(EmbeddingModuleShardingPlan, plan.plan[""])
    owner = {name: cast(list[int], sharding.ranks)[0] for name, sharding in placed.items()}
    return DistributedModelParallel(tables, env, device, plan, sharders, init_data_parallel=False), owner
