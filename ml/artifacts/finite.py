"""Checks that all weights of a model, or of a delta, are finite numbers, before a server takes them."""

from __future__ import annotations

import torch
from torch import nn

from ml.artifacts.delta import ModelDelta
from ml.artifacts.snapshot import TABLES
from ml.artifacts.weights import quantised_of, weights_of
from ml.embeddings.inference.formats import Format
from ml.embeddings.inference.pack import unpack

_CHECKED = 1 << 16  # rows that are checked at a time


class NotFinite(ValueError):
    """A weight is not a finite number; the message names its tensor."""


def check_model(model: nn.Module) -> None:
    """Check all weights that predictions need. Raises `NotFinite`.

    Args:
        model: A model, as trained or quantised.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> check_model(layer)
        >>> _ = nn.init.constant_(layer.bias, float("nan"))
        >>> check_model(layer)
        Traceback (most recent call last):
        ...
        ml.artifacts.finite.NotFinite: dense/bias has a weight that is not a finite number
    """
    packed: dict[str, Format] = {
        f"{TABLES}{path}/{config.name}.rows": format
        for path, bags in quantised_of(model).items()
        for config, format in zip(bags.embedding_bag_configs(), bags.formats, strict=True)
    }
    for name, tensor in weights_of(model).items():
        _check(name, tensor, packed.get(name))


def check_delta(delta: ModelDelta) -> None:
    """Check all weights of a delta. Raises `NotFinite`."""
    for name, tensor in delta.dense.items():
        _check(f"dense/{name}", tensor)
    for path, own in delta.tables.items():
        for name, table in own.tables.items():
            _check(f"{TABLES}{path}/{name}", table.weights, None if table.weights.is_floating_point() else table.format)


def _check(name: str, tensor: torch.Tensor, packed: Format | None = None) -> None:
    """Check the numbers of a tensor, or of packed rows."""
    if packed is None and not tensor.is_floating_point():
        return
    for part in tensor.split(_CHECKED) if tensor.ndim else (tensor,):
        numbers = part if packed is None else unpack(part, packed)
        if not torch.isfinite(numbers).all():
            raise NotFinite(f"{name} has a weight that is not a finite number")
