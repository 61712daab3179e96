"""Conversion of a model, trained or quantised, to the named tensors that predictions need, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ml.artifacts.snapshot import DENSE, TABLES, Tensors, below
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import bags_of, check_fit, dense_buffers, dense_parameters
from ml.models.frequency import BatchFrequency
from ml.models.item_bank import ItemBank

_FOR_TRAINING = (BatchFrequency, ItemBank)  # modules with which two_tower draws negatives and corrects their logits


def weights_of(model: nn.Module) -> Tensors:
    """Collect the tensors of a model that predictions need.

    On several ranks, every rank must call it and receives its own rows of tables sharded by id.

    Returns:
        `dense/<parameter or buffer>` and `tables/<path>/<name>`. Tensors share memory with the model, except those of
        collisionless tables, which are copies.
    """
    quantised = {path: bags.tensors() for path, bags in quantised_of(model).items()}
    return _named(TABLES, quantised) | unquantised_weights(model)


def unquantised_weights(model: nn.Module) -> Tensors:
    """Collect the tensors of `weights_of` that are not in quantised tables."""
    tables = {path: bags.weights() for path, bags in bags_of(model).items()}
    return _named(TABLES, tables) | {f"{DENSE}{name}": tensor for name, tensor in dense_of(model).items()}


def training_buffers(model: nn.Module) -> Tensors:
    """Return the buffers that only training reads, as `dense/<name>`."""
    paths = _paths(model, _FOR_TRAINING)
    return {f"{DENSE}{name}": buffer for name, buffer in dense_buffers(model) if name.startswith(paths)}


def load_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Fill a new model. Its quantised tables must have been filled before.

    Args:
        model: An untrained model with the structure of the saved one.
        weights: The tensors of `weights_of`.
        optimizer: Training state of the tables, as `tables/<path>/<name>`; None for inference.

    Raises:
        ValueError: The tensors belong to another model; the message names them.
    """
    for path, bags in bags_of(model).items():
        prefix = f"{TABLES}{path}/"
        try:
            bags.restore(below(weights, prefix), None if optimizer is None else below(optimizer, prefix))
        except ValueError as error:
            raise ValueError(f"tables {path}: {error}") from error
    fill(dense_of(model), below(weights, DENSE))


def fill(own: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor]) -> None:
    """Copy saved tensors into the tensors of the same names. Raises `ValueError` if names, shapes or dtypes differ."""
    check_fit(own, saved)
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def bytes_of(model: nn.Module) -> int:
    """Count the bytes of all tensors of a model that predictions need."""
    return sum(tensor.nbytes for tensor in weights_of(model).values())


def quantised_of(model: nn.Module) -> dict[str, QuantisedBags]:
    """Return the quantised collections of a model, by their path in it."""
    return {path: module for path, module in model.named_modules() if isinstance(module, QuantisedBags)}


def dense_of(model: nn.Module) -> Tensors:
    """Return the parameters and buffers outside of tables that predictions need. They share memory with the model."""
    apart = _paths(model, (QuantisedBags, *_FOR_TRAINING))
    held = {name: parameter.data for name, parameter in dense_parameters(model)}
    return held | {name: buffer for name, buffer in dense_buffers(model) if not name.startswith(apart)}


def _named(prefix: str, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> Tensors:
    return {f"{prefix}{path}/{name}": tensor for path, own in tensors.items() for name, tensor in own.items()}


def _paths(model: nn.Module, kinds: tuple[type, ...]) -> tuple[str, ...]:
    return tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, kinds))
