"""Deltas of whole models: the changes between two steps, in the dense part and in each collection of tables.

A trained model creates deltas. Trained and exported models apply them. An exported model that has applied all deltas since its
export has the same tensors as a new export of the trained model.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ml.artifacts.snapshot import DENSE, TABLES
from ml.artifacts.weights import dense_of, quantised_of
from ml.embeddings.delta import Delta, DeltaReceiver, accepted, apply_deltas, merge_deltas
from ml.embeddings.inference.formats import Format
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import bags_of
from ml.models.int8 import Int8Linear


@dataclass(frozen=True)
class ModelDelta:
    """The changes of a model between two steps.

    Args:
        dense: All parameters and buffers outside of tables that predictions need, by name, in the trained model's types,
            because they change at every step; or none of them, to leave the dense part of the receiver as it is.
        tables: The delta of each collection of tables, by its path in the model.

    Example:
        >>> from ml.models.build import build_model
        >>> from ml.recipes.recipe import load_recipe
        >>> from ml.schema import FeatureSchema
        >>> recipe, schema = load_recipe("dlrm"), FeatureSchema(("age",), ("user", "item"), (), "f")
        >>> trained, server = build_model(recipe, schema), build_model(recipe, schema)
        >>> delta = model_delta(trained, since=steps_of(server))
        >>> list(delta.tables)
        ['sparse_arch.embedding_bag_collection']
        >>> apply_delta(server, ModelDelta.from_tensors(delta.to_tensors()))  # nothing was trained
        False
    """

    dense: Mapping[str, torch.Tensor]
    tables: Mapping[str, Delta]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.dense.values()) + sum(delta.nbytes for delta in self.tables.values())

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Flatten to named tensors, as safetensors stores them.

        Returns:
            `dense/<name>`, and `tables/<path>/<name>` for the tensors of `Delta.to_tensors`.
        """
        tables = {path: delta.to_tensors() for path, delta in self.tables.items()}
        named = {f"{TABLES}{path}/{name}": tensor for path, own in tables.items() for name, tensor in own.items()}
        return named | {f"{DENSE}{name}": tensor for name, tensor in self.dense.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], format: Format = "float32") -> ModelDelta:
        """Rebuild a delta from the tensors of `to_tensors`.

        Args:
            tensors: The tensors by name.
            format: Format of the rows; see `TableDelta`.

        Raises:
            ValueError: If tensors are missing, or do not belong together.
        """
        dense: dict[str, torch.Tensor] = {}
        tables: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(DENSE):
                dense[name.removeprefix(DENSE)] = tensor
            elif name.startswith(TABLES) and "/" in (rest := name.removeprefix(TABLES)):
                path, _, own = rest.partition("/")
                tables.setdefault(path, {})[own] = tensor
            else:
                raise ValueError(f"delta: expected tensors {DENSE}… and {TABLES}…, found {name!r}")
        return cls(dense, {path: Delta.from_tensors(own, format) for path, own in tables.items()})


def receivers_of(model: nn.Module) -> dict[str, DeltaReceiver]:
    """Return the collections of a trained or exported model that deltas can be applied to, by their path in it."""
    return {**bags_of(model), **quantised_of(model)}


def steps_of(model: nn.Module) -> dict[str, int]:
    """Return the step of each collection of tables of a model, by its path in it."""
    return {path: bags.step for path, bags in receivers_of(model).items()}


def model_delta(model: nn.Module, since: Mapping[str, int], dense: bool = True) -> ModelDelta:
    """Return the changes of a trained model since the given steps.

    On several ranks, every rank must call it and receives its share; `merge_model_deltas` merges the shares.

    Args:
        model: A model under training.
        since: The step of each collection, usually the receiver's `steps_of`.
        dense: Whether to include the dense part.

    Returns:
        The changes. Their tensors do not share memory with the model.

    Raises:
        Gap: If a step is after the model's, or before the oldest known change. The receiver needs a snapshot then.
        ValueError: If the steps belong to another model.
    """
    bags = bags_of(model)
    if faults := sorted(bags.keys() ^ since.keys()):
        raise ValueError(f"expected steps of the collections {sorted(bags)}; {faults} are missing or not expected")
    named = {name: tensor.clone() for name, tensor in dense_of(model).items()} if dense else {}
    return ModelDelta(named, {path: own.delta(since[path]) for path, own in bags.items()})


def register_receiver(model: nn.Module, name: str, steps: Mapping[str, int]) -> None:
    """Register a receiver, for which tombstones are kept until it acknowledges them; see `TrainableBags.register_receiver`.

    Args:
        model: A model under training.
        name: Identifies the receiver across its restarts.
        steps: The receiver's `steps_of`.
    """
    for path, bags in bags_of(model).items():
        bags.register_receiver(name, steps[path])


def acknowledge(model: nn.Module, name: str, steps: Mapping[str, int]) -> None:
    """Record the steps that a receiver has reached; see `TrainableBags.acknowledge`.

    Raises:
        Gap: If the receiver was silent for too long. It needs a snapshot then.
    """
    for path, bags in bags_of(model).items():
        bags.acknowledge(name, steps[path])


def merge_model_deltas(shares: Sequence[ModelDelta]) -> ModelDelta:
    """Merge the deltas of the ranks that train one model. The dense part is the same on all ranks."""
    first = shares[0]
    return ModelDelta(first.dense, {path: merge_deltas([share.tables[path] for share in shares]) for path in first.tables})


def apply_delta(model: nn.Module, delta: ModelDelta) -> bool:
    """Apply a delta to a trained or an exported model, completely or not at all.

    Rows are quantised to the formats of their tables, and weights of `Int8Linear` layers to 8 bits. The model is changed in
    place and cannot predict during the call; `pending_delta` is for models that do.

    Args:
        model: A model with the structure of the trained model.
        delta: Changes that begin at the model's steps.

    Returns:
        True if the delta was applied, False if the tables already have its changes. A model without tables has no steps to
        compare, so every delta is applied to it.

    Raises:
        Gap: If changes between the model's steps and the delta's beginning are missing; nothing is changed.
        ValueError: If the delta belongs to another model; nothing is changed.
    """
    _check_dense(model, delta.dense)
    receivers = receivers_of(model)
    if not apply_deltas(receivers, delta.tables) and receivers:
        return False
    _write_dense(model, delta.dense)
    return True


@dataclass(frozen=True)
class ModelUndo:
    """What a delta has replaced in a served model, with which `revert_served` restores the model bit for bit.

    Attributes:
        model: The model before. It shares its quantised tables with the model after the delta.
        tables: The rows that were replaced in each collection of quantised tables, by its path in the model.
    """

    model: nn.Module
    tables: Mapping[str, Delta]


@dataclass(frozen=True)
class PendingDelta:
    """A delta that fits a served model and is not yet written.

    Quantised tables are changed in place by `write`, and a prediction that overlaps with it may read some rows from before the
    delta and others from after it, each of them whole. Each of the two models has a dense part and collections that are not
    quantised of its own, so that a prediction uses one version of these parts.

    Attributes:
        model: The model to predict with after `write`. It shares its quantised tables with the model before.
        before: The model before.
        tables: The changes of each collection of tables, by its path in the model.
    """

    model: nn.Module
    before: nn.Module
    tables: Mapping[str, Delta]

    def write(self, undoable: bool = False) -> ModelUndo:
        """Write the rows of the tables, while other threads predict. Returns what was replaced, with rows if `undoable`."""
        undone: dict[str, Delta] = {}
        for path, receiver in receivers_of(self.model).items():
            if path not in self.tables:
                continue
            if not (undoable and isinstance(receiver, QuantisedBags)):
                receiver.apply_delta(self.tables[path])
            elif (undo := receiver.apply_undoable(self.tables[path])) is not None:
                undone[path] = undo
        return ModelUndo(self.before, undone)


def pending_delta(model: nn.Module, delta: ModelDelta) -> PendingDelta | None:
    """Prepare a delta for a model that predicts in other threads. Nothing of the model is changed.

    Args:
        model: The model, which must not be changed by other threads.
        delta: Changes that begin at the model's steps.

    Returns:
        The delta; None if the tables already have the changes.

    Raises:
        Gap: As for `apply_delta`.
        ValueError: As for `apply_delta`.
    """
    _check_dense(model, delta.dense)
    receivers, shared = receivers_of(model), quantised_of(model)
    new = accepted(receivers, delta.tables)
    if receivers and not new:
        return None
    changed = model
    if delta.dense or any(path not in shared for path in new):
        whole = [bags for path, bags in receivers.items() if path not in shared and isinstance(bags, nn.Module)]
        changed = _copy_of(model, whole, {id(bags): bags for bags in shared.values()})
        _write_dense(changed, delta.dense)
    return PendingDelta(changed, model, {path: delta.tables[path] for path in new})


def _copy_of(model: nn.Module, whole: Collection[nn.Module], memo: dict[int, Any]) -> nn.Module:
    """Copy the tensors of a model. `copy.deepcopy` also copies what describes its modules, which takes most of its time.

    Args:
        model: Its modules must refer to tensors and other modules as parameters, buffers and submodules alone.
        whole: Submodules to which this does not apply. They are copied with all that they refer to.
        memo: The copies that exist, by the identity of the original, as for `copy.deepcopy`.
    """
    if id(model) in memo or model in whole:
        return copy.deepcopy(model, memo)
    memo[id(model)] = copied = copy.copy(model)
    held = vars(copied)
    for kind in ("_parameters", "_buffers"):
        held[kind] = copy.deepcopy(held[kind], memo)
    held["_modules"] = {name: own and _copy_of(own, whole, memo) for name, own in model._modules.items()}
    return copied


def revert_served(undo: ModelUndo) -> nn.Module:
    """Restore the rows from before a delta, and return the model from before it. It may predict during the call.

    Args:
        undo: What `PendingDelta.write` returned for the last delta that was not yet reverted, with `undoable`.
    """
    for path, bags in quantised_of(undo.model).items():
        if path in undo.tables:
            bags.revert(undo.tables[path])
    return undo.model


def _parts_of(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Int8Linear]]:
    """Return the dense tensors of a model outside of 8-bit layers, by name, and these layers, by path."""
    layers = {path: module for path, module in model.named_modules() if isinstance(module, Int8Linear)}
    return {name: t for name, t in dense_of(model).items() if name.rpartition(".")[0] not in layers}, layers


def _write_dense(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Replace the dense part of a model; without tensors, leave it as it is."""
    if not saved:
        return
    plain, layers = _parts_of(model)
    for name, tensor in plain.items():
        tensor.copy_(saved[name])
    for path, layer in layers.items():
        layer.set_weights(saved[f"{path}.weight"], saved.get(f"{path}.bias"))


def _check_dense(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Raises `ValueError`, naming the tensors, unless a delta's dense part is empty or fits a model."""
    if not saved:
        return
    plain, layers = _parts_of(model)
    wanted = {name: tuple(tensor.shape) for name, tensor in plain.items()}
    for path, layer in layers.items():
        wanted[f"{path}.weight"] = tuple(reversed(layer.weight.shape))
        if f"{path}.bias" in saved:
            wanted[f"{path}.bias"] = tuple(layer.bias.shape)
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if faults := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        name = faults[0]
        raise ValueError(
            f"the delta belongs to another model: {len(faults)} dense tensors differ, the first is {name}: "
            f"expected {wanted.get(name, 'none')}, found {found.get(name, 'none')}"
        )
