"""A training state as named tensors and metadata, and back. The files are those of `ml.artifacts.snapshot`.

Tensors are called `dense/<parameter>` and `tables/<path>/<name>` among the weights; the optimizer part has
`dense/<parameter>/<slot>`, buffers that only training reads as `dense/<buffer>`, and the tables' training state as
`tables/<path>/<name>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from upath import UPath

from ml.artifacts.predictor import check_same, collections_by_id, metadata_of, recipe_of_metadata, schema_of_metadata
from ml.artifacts.snapshot import (
    DENSE,
    STATE,
    TABLES,
    CheckpointShard,
    DamagedSnapshot,
    Tensors,
    below,
    load_tensors,
    own_tensors,
    save_shard,
)
from ml.artifacts.weights import fill, load_weights, training_buffers, weights_of
from ml.distributed.process_group import Ranks
from ml.embeddings.interface import dense_parameters
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.training.state import Pass, TrainState, new_state


def shard_of_state(state: TrainState, ranks: Ranks | None = None, copy: bool = False) -> CheckpointShard:
    """Take this rank's shard of a training state. Every rank must call it.

    Args:
        state: The state, of which each rank holds its part.
        ranks: The processes that train together; None for one.
        copy: Whether training continues while the shard is written, so that it must not share memory with the state.
    """
    rank, size = (ranks.rank, ranks.size) if ranks else (0, 1)
    by_id = collections_by_id(state.model)
    weights, optimizer = (
        {name: tensor.clone() if copy else tensor for name, tensor in own_tensors(tensors, by_id, rank, size).items()}
        for tensors in (weights_of(state.model), optimizer_of(state))
    )
    metadata = metadata_of(state.recipe, state.schema) | {
        "steps": state.steps,
        "rows": state.rows,
        "pass": asdict(state.running) if state.running else None,
    }
    return CheckpointShard(weights, optimizer, metadata, by_id, independent=state.recipe.embeddings == "independent")


def optimizer_of(state: TrainState) -> Tensors:
    """Name everything that training needs and predictions do not. Every rank must call it."""
    tables = {f"{TABLES}{path}/{name}": t for path, bags in state.bags.items() for name, t in bags.training_state().items()}
    return tables | _dense_slots(state) | training_buffers(state.model)


def state_from_metadata(
    metadata: Mapping[str, Any],
    folder: Path | UPath,
    recipe: Recipe | None = None,
    schema: FeatureSchema | None = None,
    ranks: Ranks | None = None,
) -> TrainState:
    """Build a state as the metadata of a snapshot describes it, with new tensors.

    Args:
        metadata: As `shard_of_state` wrote it.
        folder: Where it was read, for error messages.
        recipe: See `load_snapshot`.
        schema: See `load_snapshot`.
        ranks: See `load_snapshot`.

    Raises:
        SnapshotMismatch: Recipe or schema do not fit; the message names each key that differs.
    """
    own_recipe, own_schema = recipe_of_metadata(metadata), schema_of_metadata(metadata)
    saved, asked = {"schema": asdict(own_schema)}, {"schema": asdict(schema or own_schema)}
    if recipe:
        saved["recipe"], asked["recipe"] = (of.structure(own_schema.sparse) for of in (own_recipe, recipe))
    check_same(folder, saved, asked)
    state = new_state(recipe or own_recipe, own_schema, ranks)
    state.steps, state.rows = metadata["steps"], metadata["rows"]
    state.running = Pass(**metadata["pass"]) if metadata["pass"] else None
    return state


def restore(state: TrainState, shard: CheckpointShard, folder: Path | UPath) -> None:
    """Fill a new state with loaded tensors. Every rank must call it.

    Raises:
        DamagedSnapshot: The tensors are those of another model; the message names them.
    """
    try:
        optimizer = shard.optimizer
        if optimizer is None:
            load_weights(state.model, shard.weights)
            return
        load_weights(state.model, shard.weights, optimizer)
        fill(below(_dense_slots(state) | training_buffers(state.model), DENSE), below(optimizer, DENSE))
    except ValueError as error:
        raise DamagedSnapshot(f"{folder}: its tensors do not fit {STATE}; train its day again: {error}") from error


def save_snapshot(state: TrainState, folder: Path | UPath, ranks: Ranks | None = None) -> None:
    """Write a training state into an existing folder. The same state gives the same bytes.

    Every rank must call it. It is not atomic: `Lake.write` around it is.

    Args:
        state: The state, of which each rank holds its part.
        folder: An existing folder, the same for all ranks.
        ranks: The processes that train together; None for one.
    """
    save_shard(shard_of_state(state, ranks), folder, ranks)


def load_snapshot(
    folder: Path | UPath,
    *,
    recipe: Recipe | None = None,
    schema: FeatureSchema | None = None,
    for_training: bool = True,
    ranks: Ranks | None = None,
) -> TrainState:
    """Load the training state that was written into a folder, bit for bit.

    Args:
        folder: What `save_snapshot` wrote, by any number of ranks.
        recipe: Train under this recipe instead of the snapshot's own. It must give the same shapes (`Recipe.structure`); rates,
            schedules and batch sizes may change from day to day.
        schema: Must be the snapshot's own.
        for_training: False leaves the optimizer's state unread.
        ranks: The processes among which the tables are sharded; None for one.

    Raises:
        FileNotFoundError: The folder holds no snapshot.
        SnapshotMismatch: Recipe, schema or format do not fit; the message names each key that differs.
        DamagedSnapshot: A file is missing, damaged or does not fit the others; the message names it.
    """
    shard = load_tensors(folder, ranks, for_training)
    state = state_from_metadata(shard.metadata, folder, recipe, schema, ranks)
    restore(state, shard, folder)
    return state


def _dense_slots(state: TrainState) -> Tensors:
    slots = state.optimizer.state
    return {f"{DENSE}{name}/{slot}": t for name, p in dense_parameters(state.model) for slot, t in slots[p].items()}
