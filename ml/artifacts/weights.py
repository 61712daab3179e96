"""A model as named tensors, and back: everything that its predictions need, trained or quantised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ml.artifacts.snapshot import DENSE, TABLES, Tensors, below
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import bags_of, check_fit, dense_buffers, dense_parameters
from ml.models.frequency import BatchFrequency
from ml.models.item_bank import ItemBank

_FOR_TRAINING = (BatchFrequency, ItemBank)  # what two_tower draws and corrects its negatives with


def weights_of(model: nn.Module) -> Tensors:
    """Name everything that predictions need of a model.

    On several ranks every rank must call it, and gets its own rows of tables sharded by id.

    Returns:
        `dense/<parameter or buffer>` and `tables/<path>/<name>`. Tensors share memory with the model, except those of
        collisionless tables, which are copies.
    """
    tables = {path: bags.weights() for path, bags in bags_of(model).items()}
    tables |= {path: bags.tensors() for path, bags in quantised_of(model).items()}
    named = {f"{TABLES}{path}/{name}": tensor for path, own in tables.items() for name, tensor in own.items()}
    return named | {f"{DENSE}{name}": tensor for name, tensor in dense_of(model).items()}


def training_buffers(model: nn.Module) -> Tensors:
    """Buffers that only training reads, as `dense/<name>`."""
    paths = _paths(model, _FOR_TRAINING)
    return {f"{DENSE}{name}": buffer for name, buffer in dense_buffers(model) if name.startswith(paths)}


def load_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Fill a new model, whose quantised tables are in place and filled.

    Args:
        model: A model as it was built, with the structure of the one that was saved.
        weights: What `weights_of` gave.
        optimizer: Also the training state of its tables, as `tables/<path>/<name>`; None for inference.

    Raises:
        ValueError: The tensors are those of another model; the message names them.
    """
    for path, bags in bags_of(model).items():
        prefix = f"{TABLES}{path}/"
        try:
            bags.restore(below(weights, prefix), None if optimizer is None else below(optimizer, prefix))
        except ValueError as error:
            raise ValueError(f"tables {path}: {error}") from error
    fill(dense_of(model), below(weights, DENSE))


def fill(own: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> None:
    """Copy saved tensors into those of the same names. Raises `ValueError` unless names, shapes and dtypes are the same."""
    check_fit(own, saved)
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def bytes_of(model: nn.Module) -> int:
    """Bytes of everything that predictions need of a model."""
    return sum(tensor.nbytes for tensor in weights_of(model).values())


def quantised_of(model: nn.Module) -> dict[str, QuantisedBags]:
    """The quantised collections of a model, by their path in it."""
    return {path: module for path, module in model.named_modules() if isinstance(module, QuantisedBags)}


def dense_of(model: nn.Module) -> Tensors:
    """Name the parameters and buffers that predictions need outside of tables; they share memory with the model."""
    apart = _paths(model, (QuantisedBags, *_FOR_TRAINING))
    held = {name: parameter.data for name, parameter in dense_parameters(model)}
    return held | {name: buffer for name, buffer in dense_buffers(model) if not name.startswith(apart)}


def _paths(model: nn.Module, kinds: tuple[type, ...]) -> tuple[str, ...]:
    return tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, kinds))
