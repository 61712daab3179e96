"""The loss of one shard of the tables, on trained states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.artifacts.lost_shard import lose_shard, rows_lost
from ml.artifacts.snapshot import TABLES, CheckpointShard, Tensors
from ml.embeddings.collisionless.state_dict import shard_of
from ml.schema import FeatureSchema
from ml.training.loop import steps
from ml.training.state import TrainState, new_state
from ml.training.state_dict import restore, shard_of_state, state_from_metadata
from tests.helpers.training_days import HASHED, made_spec, make_batches, small_recipe

SHARDS = 3


def trained(state: TrainState, seed: int, count: int = 4) -> CheckpointShard:
    for _ in steps(state, list(make_batches(state.schema, count, seed=seed)), total_steps=count):
        pass
    return shard_of_state(state, copy=True)


@pytest.fixture
def two_states() -> tuple[CheckpointShard, CheckpointShard]:
    state = new_state(small_recipe(), FeatureSchema.of(made_spec()))
    state.begin_pass()
    return trained(state, seed=1), trained(state, seed=2)


def rows(shard: CheckpointShard, lost: int) -> tuple[Tensors, Tensors]:
    """Rows of all tables with their training state, by id: those of the lost shard, and the others."""
    found: tuple[Tensors, Tensors] = ({}, {})
    for path, tables in shard.sharded_by_id.items():
        for table in tables:
            ids = shard.weights[f"{TABLES}{path}/{table}.id"]
            columns = [
                shard.weights[f"{TABLES}{path}/{table}.weight"],
                (shard.optimizer or {})[f"{TABLES}{path}/{table}.state"],
            ]
            for number, key, row in zip(shard_of(ids.numpy(), SHARDS), ids.tolist(), torch.cat(columns, 1), strict=True):
                found[int(number != lost)][f"{table} {key}"] = row
    return found


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("lost", range(SHARDS))
def test_the_lost_shard_has_the_older_rows_and_all_others_keep_theirs(
    two_states: tuple[CheckpointShard, CheckpointShard], lost: int
) -> None:
    older, current = two_states
    after = lose_shard(current, older, lost, SHARDS)
    assert same(rows(after, lost)[0], rows(older, lost)[0]) and same(rows(after, lost)[1], rows(current, lost)[1])
    assert not same(rows(current, lost)[0], rows(older, lost)[0])
    for name, tensor in current.weights.items():
        if not name.startswith(tuple(f"{TABLES}{path}/" for path in current.sharded_by_id)):
            assert torch.equal(after.weights[name], tensor), "the dense part and other tables are not lost"
    count, whole = rows_lost(current, after)
    assert 0 < count <= len(rows(current, lost)[0]) < whole == sum(len(part) for part in rows(current, lost))


def test_the_state_after_a_loss_can_be_trained_on(two_states: tuple[CheckpointShard, CheckpointShard]) -> None:
    older, current = two_states
    after = lose_shard(current, older, 1, SHARDS)
    state = state_from_metadata(after.metadata, Path("made"))
    restore(state, after, Path("made"))
    again = shard_of_state(state, copy=True)
    assert again.weights.keys() == after.weights.keys()
    assert all(torch.equal(tensor, after.weights[name]) for name, tensor in again.weights.items())
    assert all(np.isfinite(tensor.numpy()).all() for name, tensor in trained(state, seed=3).weights.items() if "weight" in name)


def test_losing_nothing_new_changes_nothing(two_states: tuple[CheckpointShard, CheckpointShard]) -> None:
    _, current = two_states
    after = lose_shard(current, current, 0, SHARDS)
    assert rows_lost(current, after)[0] == 0
    assert all(torch.equal(tensor, after.weights[name]) for name, tensor in current.weights.items())
    assert all(torch.equal(tensor, (after.optimizer or {})[name]) for name, tensor in (current.optimizer or {}).items())


def test_what_cannot_be_lost_is_refused(two_states: tuple[CheckpointShard, CheckpointShard]) -> None:
    older, current = two_states
    with pytest.raises(ValueError, match="expected a shard from 0 to 2, found 3"):
        lose_shard(current, older, 3, SHARDS)
    with pytest.raises(ValueError, match="optimizer"):
        lose_shard(replace(current, optimizer=None), older, 0, SHARDS)
    hashed = new_state(small_recipe(tables={"default": HASHED}), FeatureSchema.of(made_spec()))
    with pytest.raises(ValueError, match="sharded by id"):
        lose_shard(shard_of_state(hashed), shard_of_state(hashed), 0, SHARDS)
