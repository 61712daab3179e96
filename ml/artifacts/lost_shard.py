"""The loss of one of S shards of the tables: its rows fall back to an older snapshot, and all other tensors stay as they are.

Rows belong to shards by id, as on S ranks (`ml.embeddings.collisionless.state_dict.shard_of`). The dense part, and tables that
are not sharded by id, are not lost.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ml.artifacts.snapshot import TABLES, CheckpointShard, Tensors, below
from ml.embeddings.collisionless import state_dict


def lose_shard(current: CheckpointShard, older: CheckpointShard, index: int, shards: int) -> CheckpointShard:
    """Replace the rows of one shard with the rows of an older snapshot.

    Rows that were created since the snapshot are missing afterwards, and rows that were deleted since are back.

    Args:
        current: The whole state, as one shard with optimizer state.
        older: The whole state at an earlier step of the same training.
        index: The shard that is lost, in [0, shards).
        shards: Number of shards.

    Returns:
        The state after the loss. It shares tensors with `current`.

    Raises:
        ValueError: A state has no optimizer state, no table is sharded by id, or there is no such shard.
    """
    if current.optimizer is None or older.optimizer is None:
        raise ValueError("expected two states with optimizer state")
    if not current.sharded_by_id:
        raise ValueError("no table of the model is sharded by id, so that no shard of its rows can be lost")
    if not 0 <= index < shards:
        raise ValueError(f"index: expected a shard from 0 to {shards - 1}, found {index}")
    weights, optimizer = dict(current.weights), dict(current.optimizer)
    for path, tables in current.sharded_by_id.items():
        prefix = f"{TABLES}{path}/"
        now, before = _columns(current, prefix), _columns(older, prefix)
        parts = [state_dict.shard(before if number == index else now, tables, number, shards) for number in range(shards)]
        for name, tensor in state_dict.merge_shards(parts, tables).items():
            target = weights if f"{prefix}{name}" in weights else optimizer
            target[f"{prefix}{name}"] = tensor
    return replace(current, weights=weights, optimizer=optimizer)


def rows_lost(current: CheckpointShard, after: CheckpointShard) -> tuple[int, int]:
    """Count the rows that a loss has set back.

    Args:
        current: The state before the loss.
        after: What `lose_shard` returned.

    Returns:
        The number of rows of `current` that are missing or have other weights in `after`, and the number of rows of `current`;
        both of tables that are sharded by id.
    """
    lost, rows = 0, 0
    for path, tables in current.sharded_by_id.items():
        for table in tables:
            (ids, weights), (left, older) = (
                (of.weights[f"{TABLES}{path}/{table}.id"], of.weights[f"{TABLES}{path}/{table}.weight"])
                for of in (current, after)
            )
            there = torch.isin(ids, left)
            same = (weights[there] == older[torch.searchsorted(left, ids[there])]).all(1)
            rows, lost = rows + len(ids), lost + len(ids) - int(same.sum())
    return lost, rows


def _columns(shard: CheckpointShard, prefix: str) -> Tensors:
    return below(shard.weights, prefix) | below(shard.optimizer or {}, prefix)
