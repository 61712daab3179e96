"""Static tables distributed by TorchRec.

TorchRec's planner assigns each table to a rank, and `DistributedModelParallel` exchanges ids, rows and gradients.

Tables are not split, so the ranks compute the same results as one process that trains on all of their examples. The results are
equal bit for bit if the number of ranks is a power of two, and up to rounding otherwise, because TorchRec divides gradients by
the number of ranks. The planner's other sharding types are excluded. Column-wise sharding would give a row several row-wise
Adagrad sums, and therefore different results. Data-parallel tables have an optimizer that checkpoints cannot access. Row-wise
sharding is only available on GPUs and has not been tested.
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
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ml.embeddings.delta import Delta
from ml.embeddings.fixed.base import FixedBags, module_name, row_delta
from ml.embeddings.fixed.static import StaticEmbeddingBags
from ml.embeddings.interface import TableStats, check_fit

_TABLE_WISE = ParameterConstraints(
    sharding_types=[ShardingType.TABLE_WISE.value], compute_kernels=[EmbeddingComputeKernel.FUSED.value]
)
_NO_ROWS = torch.empty(0, dtype=torch.int64)
_RESERVED = 0.15  # fraction of a rank's memory for everything except tables


class PlannedBags(FixedBags):
    """Static tables, each stored on the rank that TorchRec's planner chose. Gradients are summed over ranks.

    All ranks must make the same calls, even if their batch is empty. `stats` and `rows_touched` cover one rank's share: rows
    and bytes of the tables that it stores, and occurrences in its own batches. Their sums over ranks cover the whole
    collection.

    Args:
        whole: Static tables that were built identically on every rank. Do not use them afterwards.
        group: Process group of the ranks; by default all processes.

    Example:
        >>> import tempfile
        >>> from torchrec.modules.embedding_configs import EmbeddingBagConfig
        >>> store = dist.FileStore(tempfile.mktemp(), 1)
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> tables = [EmbeddingBagConfig(name="t", embedding_dim=4, num_embeddings=10, feature_names=["f"])]
        >>> bags = StaticEmbeddingBags(tables, init_scale=0.1, lr=0.1, eps=1e-8, initial_accumulator=0.0, seed=0)
        >>> planned = PlannedBags(bags)
        >>> planned(KeyedJaggedTensor(["f"], torch.tensor([7, 3]), lengths=torch.tensor([1, 0, 1])))["f"].shape
        torch.Size([3, 4])
        >>> dist.destroy_process_group()
    """

    def __init__(self, whole: StaticEmbeddingBags, group: dist.ProcessGroup | None = None) -> None:
        configs, weights, state = whole.embedding_bag_configs(), whole.weights(), whole.training_state()
        super().__init__(configs, whole.base_lr, {c.name: (c.num_embeddings, c.embedding_dim) for c in configs})
        self.lookup, self.row_steps = whole.lookup, whole.row_steps
        self._group, self._rank, self._size = group, dist.get_rank(group), dist.get_world_size(group)
        self._like = [{name: tensor.to("meta") for name, tensor in kind.items()} for kind in (weights, state)]
        on_gpu = "nccl" in dist.get_backend(group)
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self._dmp, placed = _distributed(whole.collection, self._device, group)
        inner = {config.name: module_name(config.name) for config in configs}
        self.owner = {table: placed[name] for table, name in inner.items()}
        held, sums = self._dmp.state_dict(), self._dmp.fused_optimizer.state_dict()["state"]
        self._own: dict[str, torch.Tensor] = {}
        for table in (table for table, owner in self.owner.items() if owner == self._rank):
            key = f"embedding_bags.{inner[table]}.weight"
            (accumulator,) = sums[key].values()
            self._own[f"{table}.weight"], self._own[f"{table}.accumulator"] = (
                shards.local_shards()[0].tensor.detach() for shards in (held[key], accumulator)
            )
        self._restore_own(weights, state)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Look up and pool the rows of this rank's examples.

        Args:
            features: Ids of at least the F features, keys in any order.

        Returns:
            Pooled rows, float32 [B, F * D]; keys are in the order of the tables, which can differ from their order in the plan.

        Raises:
            KeyError: If a feature is missing.
            ValueError: If the features have weights per sample.
        """
        rows = self.lookup.rows(features, self.training)
        pooled, keys = self._dmp(rows.to(self._device)).wait(), rows.keys()
        values = pooled.values() if pooled.keys() == keys else torch.cat([pooled[key] for key in keys], 1)
        if values.requires_grad:  # undoes TorchRec's averaging of gradients over ranks
            values.register_hook(lambda gradient: gradient * self._size)
        if self.training:
            self.lookup.mark(rows, self.row_steps, values)
        return KeyedTensor(keys, [config.embedding_dim for config in self._configs], values)

    def set_learning_rate(self, lr: float) -> None:
        for group in self._dmp.fused_optimizer.param_groups:
            group["lr"] = lr  # type: ignore[index]
        self._dmp.fused_optimizer.step()  # only passes the learning rate to the kernels: backward has already updated the rows

    def part_weights(self) -> dict[str, torch.Tensor]:
        """Return the live weights of the tables that this rank stores."""
        return self._own_tensors("weight")

    def part_accumulators(self) -> dict[str, torch.Tensor]:
        return self._own_tensors("accumulator")

    def weights(self) -> dict[str, torch.Tensor]:
        """Return copies of the tensors of `StaticEmbeddingBags.weights` for all tables, on every rank."""
        return {name: self._broadcast(name) for name in self._like[0] if name != "step"} | {
            "step": self.row_steps.clock.clone()
        }

    def training_state(self) -> dict[str, torch.Tensor]:
        """Return copies of the tensors of `StaticEmbeddingBags.training_state` for all tables, on every rank.

        Returns:
            Tensors by name. Steps are maxima over ranks; counts of occurrences are sums over ranks.
        """
        sums = {name: self._broadcast(name) for name in self._like[1] if name.endswith(".accumulator")}
        self._share_steps()
        steps = {name: tensor.clone() for name, tensor in self.row_steps.state().items()}
        return sums | steps | {"counted": self._reduced(self.lookup.counted, dist.ReduceOp.SUM)}

    def restore(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        """Restore the tables that this rank stores from the tensors of all tables.

        Args:
            weights: The tensors that `weights` returned.
            training_state: The tensors that `training_state` returned; None restores the weights only.

        Raises:
            ValueError: If names, shapes or dtypes do not match; the message names the tensors.
        """
        for like, saved in zip(self._like, (weights, training_state), strict=True):
            if saved is not None:
                check_fit(like, saved)
        self._restore_own(weights, training_state)
        self.row_steps.clock.copy_(weights["step"])
        if training_state is None:
            self.row_steps.reset()
            return
        for name, tensor in self.row_steps.state().items():
            tensor.copy_(training_state[name])
        self.lookup.counted.copy_(training_state["counted"] * (self._rank == 0))

    def stats(self) -> dict[str, TableStats]:
        """Return statistics of this rank's share by table name; `unknown` counts occurrences of ids out of vocabulary."""
        found = {}
        for config, (looked_up, unknown) in zip(self._configs, self.lookup.counted.tolist(), strict=True):
            rows = config.num_embeddings if self.owner[config.name] == self._rank else 0
            nbytes = 4 * rows * (config.embedding_dim + 1)
            found[config.name] = TableStats(rows, nbytes, looked_up=looked_up, unknown=unknown)
        return found

    def begin_pass(self) -> None:
        super().begin_pass()
        self.lookup.counted.zero_()

    def rows_touched(self) -> int:
        """Return the number of distinct rows on this rank that any rank has looked up in training since `begin_pass`."""
        self._share_steps()
        return sum(touched for name, touched in self.row_steps.touched().items() if self.owner[name] == self._rank)

    def delta(self, since: int) -> Delta:
        """Return the changes of the tables that this rank stores. All ranks must call it.

        `ml.embeddings.delta.merge_deltas` merges the deltas of all ranks.

        Args:
            since: An earlier step of this collection.

        Raises:
            Gap: If `since` is later than the current step, or if older changes are no longer available.
        """
        self._share_steps()
        changed, weights = self.row_steps.changed(since), self.part_weights()
        for config in self._configs:
            if config.name not in weights:
                changed[config.name], weights[config.name] = _NO_ROWS, torch.empty(0, config.embedding_dim)
        tables = {name: row_delta(rows, weights[name]) for name, rows in changed.items()}
        return Delta(since, self.step, self.row_steps.time, tables)

    def _write_delta(self, delta: Delta) -> None:
        """Apply this rank's share of a delta of all tables."""
        weights, steps = self.part_weights(), self.row_steps.by_table()
        for name, table in delta.tables.items():
            steps[name][table.keys] = delta.step
            if name in weights:
                weights[name][table.keys] = table.float_weights().to(self._device)
        self.row_steps.advance_to(delta.step)
        self.row_steps.set_time(delta.time)

    def _own_tensors(self, kind: str) -> dict[str, torch.Tensor]:
        names = (config.name for config in self._configs)
        return {name: self._own[f"{name}.{kind}"] for name in names if f"{name}.{kind}" in self._own}

    def _restore_own(self, weights: Mapping[str, torch.Tensor], training_state: Mapping[str, torch.Tensor] | None) -> None:
        saved = {**weights, **(training_state or {})}
        for name in self._own.keys() & saved.keys():
            self._own[name].copy_(saved[name])

    def _broadcast(self, name: str) -> torch.Tensor:
        """Copy a table's tensor from the rank that stores it to all ranks, and return it."""
        like = self._like[name.endswith(".accumulator")][name]
        found = self._own[name].clone() if name in self._own else torch.empty_like(like, device=self._device)
        dist.broadcast(found, group_src=self.owner[name.rpartition(".")[0]], group=self._group)
        return found.cpu()

    def _share_steps(self) -> None:
        """Set the row steps, the step and the event time on all ranks to the maxima over ranks."""
        for tensor in (self.row_steps.rows, self.row_steps.clock):
            tensor.copy_(self._reduced(tensor, dist.ReduceOp.MAX))

    def _reduced(self, tensor: torch.Tensor, how: dist.ReduceOp.RedOpType) -> torch.Tensor:
        found = tensor.to(self._device, copy=True)
        dist.all_reduce(found, how, self._group)
        return found.cpu()


def _distributed(
    tables: FusedEmbeddingBagCollection, device: torch.device, group: dist.ProcessGroup | None
) -> tuple[DistributedModelParallel, dict[str, int]]:
    """Distribute tables according to the planner. Returns the distributed tables, and the rank of each table by name."""
    env = ShardingEnv.from_process_group(cast(dist.ProcessGroup, group or dist.group.WORLD))
    sharders: list[ModuleSharder[Any]] = [FusedEmbeddingBagCollectionSharder()]
    planner = EmbeddingShardingPlanner(
        TopologyFactory.create_topology(
            TrainerConfig(world_size=env.world_size), kernel_config=KernelConfig(compute_device=device.type)
        ),
        storage_reservation=FixedPercentageStorageReservation(_RESERVED),
        constraints={config.name: _TABLE_WISE for config in tables.embedding_bag_configs()},
    )
    tables = tables.to("meta")  # otherwise every rank would keep a copy of all tables
    plan = planner.collective_plan(tables, sharders, env.process_group)
    placed = cast(EmbeddingModuleShardingPlan, plan.plan[""])
    owner = {name: cast(list[int], sharding.ranks)[0] for name, sharding in placed.items()}
    return DistributedModelParallel(tables, env, device, plan, sharders, init_data_parallel=False), owner
