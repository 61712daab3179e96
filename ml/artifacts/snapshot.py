"""A whole training state in a folder, loadable alone: weights and optimizer state as safetensors, the rest as JSON.

    weights.safetensors    `tables/<path>/<name>` and `dense/<parameter>`: all that predictions need
    optimizer.safetensors  `tables/<path>/<name>` and `dense/<parameter>/<slot>`: all that training needs besides
    state.json             recipe, schema, counters, versions of the libraries

The same state gives the same bytes. Which folder holds which day is `ml.training.day`'s business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from upath import UPath

from ml.distributed.process_group import Ranks
from ml.embeddings.interface import dense_buffers, dense_parameters
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema
from ml.training.state import Pass, TrainState, new_state

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 6
TABLES = "tables/"
Tensors = dict[str, torch.Tensor]


class SnapshotMismatch(ValueError):
    """A snapshot is of another kind than was asked for, or its parts do not belong together."""


def save_snapshot(state: TrainState, folder: Path | UPath) -> None:
    """Write `state` into `folder`, which is there. Not atomic: `Lake.write` around it is."""
    (folder / WEIGHTS).write_bytes(save(_contiguous(weights_of(state))))
    (folder / OPTIMIZER).write_bytes(save(_contiguous(slots_of(state))))
    (folder / STATE).write_text(json.dumps(described(state), indent=1, sort_keys=True))


def load_snapshot(
    folder: Path | UPath,
    *,
    recipe: Recipe | None = None,
    schema: FeatureSchema | None = None,
    for_training: bool = True,
    ranks: Ranks | None = None,
) -> TrainState:
    """The state that was saved in `folder`, bit for bit.

    recipe: trained on under this one instead of its own, which must give the same shapes (`Recipe.structure`); rates,
    schedules and batch sizes may change from day to day. schema: must be the snapshot's own. for_training=False leaves
    the optimizer's state unread. ranks: those that share the tables out among them. Raises `SnapshotMismatch` that names what
    differs, `FileNotFoundError`.
    """
    state = state_like(json.loads((folder / STATE).read_text()), folder, recipe, schema, ranks)
    weights = load((folder / WEIGHTS).read_bytes())
    slots = load((folder / OPTIMIZER).read_bytes()) if for_training else None
    put_back(state, weights, slots, folder)
    return state


def described(state: TrainState) -> dict[str, Any]:
    """Of a state all but its tensors, as JSON has it."""
    return {
        "format": FORMAT,
        "recipe": state.recipe.model_dump(mode="json", exclude={"checkpoints", "export"}),  # what the weights do not depend on
        "schema": asdict(state.schema),
        "steps": state.steps,
        "rows": state.rows,
        "pass": asdict(state.running) if state.running else None,
        "versions": {name: version(name) for name in ("torch", "torchrec", "fbgemm-gpu-cpu")},
    }


def state_like(
    described: Mapping[str, Any],
    folder: Path | UPath,
    recipe: Recipe | None = None,
    schema: FeatureSchema | None = None,
    ranks: Ranks | None = None,
) -> TrainState:
    """A state as `described`, its tensors still to be put back. folder: where that was read, for errors; the others are as for
    `load_snapshot`. Raises `SnapshotMismatch`."""
    if described["format"] != FORMAT:
        raise SnapshotMismatch(f"{folder}: format {described['format']}, this code reads {FORMAT}; train its day again")
    own_recipe = Recipe.model_validate(described["recipe"])
    names = described["schema"]
    own_schema = FeatureSchema(*(tuple(names[k]) for k in ("dense", "single", "multi")), fingerprint=names["fingerprint"])
    faults = list(differences(asdict(own_schema), asdict(schema), "schema")) if schema else []
    if recipe:
        held, wanted = (of.structure(own_schema.sparse) for of in (own_recipe, recipe))
        faults += list(differences(held, wanted, "recipe"))
    if faults:
        way_out = "go back to what it was, or train again from the first day"
        raise SnapshotMismatch("\n".join([f"{folder} can not be trained on or scored with here; {way_out}:", *faults]))
    state = new_state(recipe or own_recipe, own_schema, ranks)
    state.steps, state.rows = described["steps"], described["rows"]
    state.running = Pass(**described["pass"]) if described["pass"] else None
    return state


def copy_for_predictions(folder: Path | UPath, target: Path) -> None:
    """Copy of a snapshot what `load_snapshot(target, for_training=False)` reads."""
    for name in (WEIGHTS, STATE):
        (target / name).write_bytes((folder / name).read_bytes())


def digest(folder: Path | UPath) -> str:
    """SHA-256 over a snapshot's files: the identity of a trained model."""
    sha = hashlib.sha256()
    for name in (WEIGHTS, OPTIMIZER, STATE):
        sha.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return sha.hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    """One line per key whose values differ, with its path."""
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{path}.{key}")
        elif a != b:
            yield f"{path}.{key}: {a!r} in the snapshot, {b!r} asked for"


def weights_of(state: TrainState) -> Tensors:
    """All that predictions need."""
    tables = {f"{TABLES}{path}/{name}": t for path, bags in state.bags.items() for name, t in bags.weights().items()}
    return tables | _dense_weights(state)


def slots_of(state: TrainState) -> Tensors:
    """All that training needs besides."""
    tables = {f"{TABLES}{path}/{name}": t for path, bags in state.bags.items() for name, t in bags.training_state().items()}
    return tables | _dense_slots(state)


def _dense_weights(state: TrainState) -> Tensors:
    held = (*dense_parameters(state.model), *dense_buffers(state.model))
    return {f"dense/{name}": tensor.data for name, tensor in held}


def _dense_slots(state: TrainState) -> Tensors:
    slots = state.optimizer.state
    return {f"dense/{name}/{slot}": t for name, p in dense_parameters(state.model) for slot, t in slots[p].items()}


def put_back(state: TrainState, weights: Tensors, slots: Tensors | None, folder: Path | UPath) -> None:
    """Let a new state take on what `weights_of` and `slots_of` gave of another.

    Raises `SnapshotMismatch`, naming `folder`, unless it belongs to such a state."""
    for path, bags in state.bags.items():
        try:
            bags.restore(_below(weights, path), _below(slots, path) if slots is not None else None)
        except ValueError as error:
            raise SnapshotMismatch(f"{folder} does not fit its {STATE}: tables {path}: {error}") from error
    _copy(folder / WEIGHTS, weights, _dense_weights(state))
    if slots is not None:
        _copy(folder / OPTIMIZER, slots, _dense_slots(state))


def _below(tensors: Tensors, path: str) -> Tensors:
    prefix = f"{TABLES}{path}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _copy(path: Path | UPath, saved: Tensors, tensors: Tensors) -> None:
    dense = {name: tensor for name, tensor in saved.items() if not name.startswith(TABLES)}
    held, wanted = ({name: (tuple(t.shape), str(t.dtype)) for name, t in side.items()} for side in (dense, tensors))
    if faults := list(differences(held, wanted, path.name)):
        raise SnapshotMismatch("\n".join([f"{path} does not fit its {STATE}:", *faults]))
    for name, tensor in tensors.items():
        tensor.copy_(dense[name])


def _contiguous(tensors: Tensors) -> Tensors:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
