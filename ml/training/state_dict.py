"""Conversion of a training state to named tensors and metadata, and back. `ml.artifacts.snapshot` writes the files.

Weights are named `dense/<parameter or buffer>` and `tables/<path>/<name>`. The optimizer part has `dense/<parameter>/<slot>`,
`dense/<buffer>` for buffers that only training reads, and `tables/<path>/<name>` for the training state of tables.
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
        state: The state; each rank holds its part.
        ranks: The processes that train together; None for one.
        copy: Whether to copy the tensors. Required if training continues while the shard is written.
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
    """Collect the tensors that training needs and predictions do not. Every rank must call it."""
    tables = {f"{TABLES}{path}/{name}": t for path, bags in state.bags.items() for name, t in bags.training_state().items()}
    return tables | _dense_slots(state) | training_buffers(state.model)


def state_from_metadata(
    metadata: Mapping[str, Any],
    folder: Path | UPath,
    recipe: Recipe | None = None,
    schema: FeatureSchema | None = None,
    ranks: Ranks | None = None,
) -> TrainState:
    """Build the state that the metadata of a snapshot describes, with new tensors.

    Args:
        metadata: Metadata of a shard from `shard_of_state`.
        folder: Folder of the snapshot, for error messages.
        recipe: See `load_snapshot`.
        schema: See `load_snapshot`.
        ranks: See `load_snapshot`.

    Raises:
        SnapshotMismatch: The recipe or the schema does not fit; the message names each key that differs.
    """
    own_recipe, own_schema = recipe_of_metadata(metadata), schema_of_metadata(metadata)
    saved, asked = {"schema": own_schema.plain()}, {"schema": (schema or own_schema).plain()}
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
        DamagedSnapshot: The tensors belong to another model; the message names them.
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


def save_snapshot(
    state: TrainState, folder: Path | UPath, ranks: Ranks | None = None, beside: Mapping[str, str] | None = None
) -> None:
    """Write a training state into an existing folder. The same state gives the same bytes.

    Every rank must call it. Writing is not atomic; call it inside `Lake.write`, which is.

    Args:
        state: The state; each rank holds its part.
        folder: An existing folder, the same for all ranks.
        ranks: The processes that train together; None for one.
        beside: SHA-256 by name of further files of the folder, which become part of the snapshot's digest.
    """
    save_shard(shard_of_state(state, ranks), folder, ranks, beside)


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
        folder: Folder that `save_snapshot` wrote with any number of ranks.
        recipe: Recipe of the training that follows; by default the snapshot's. It must give tensors the same shapes
            (`Recipe.structure`); learning rates, schedules and batch sizes may differ.
        schema: Schema of the caller's batches, which must equal the snapshot's; not checked by default.
        for_training: Whether to read the optimizer's state.
        ranks: The processes among which the tables are sharded; None for one.

    Raises:
        FileNotFoundError: The folder has no snapshot.
        SnapshotMismatch: The recipe, the schema or the format does not fit; the message names each key that differs.
        DamagedSnapshot: A file is missing, damaged or does not fit the others; the message names it.
    """
    shard = load_tensors(folder, ranks, for_training)
    state = state_from_metadata(shard.metadata, folder, recipe, schema, ranks)
    restore(state, shard, folder)
    return state


def _dense_slots(state: TrainState) -> Tensors:
    slots = state.optimizer.state
    return {f"{DENSE}{name}/{slot}": t for name, p in dense_parameters(state.model) for slot, t in slots[p].items()}
