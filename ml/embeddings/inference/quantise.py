"""Quantisation of trained tables, which stores rows in fewer bits, and the quantisation error of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ml.embeddings.inference.formats import Format, fitting
from ml.embeddings.inference.kinds import kind_of, quantisable
from ml.embeddings.inference.pack import LARGEST, pack, unpack
from ml.embeddings.inference.quantised import QuantisedBags
from ml.embeddings.interface import TrainableBags


@dataclass(frozen=True)
class QuantisedTable:
    """Size and error of one quantised table.

    Args:
        rows: Number of rows.
        format: Format of the rows.
        nbytes: Size of the rows in bytes.
        before: Size of the float32 rows in bytes.
        rms_error: Root mean square error of the weights, divided by the root mean square of the weights.
        largest_error: Largest absolute error of a weight, divided by the root mean square of the weights.
    """

    rows: int
    format: Format
    nbytes: int
    before: int
    rms_error: float
    largest_error: float


def quantise_bags(
    bags: TrainableBags, rows: Format, tables: Mapping[str, Format] | None = None
) -> tuple[QuantisedBags, dict[str, QuantisedTable]]:
    """Quantise a collection without changing it.

    A table with weights outside the range of float16 stays float32.

    Args:
        bags: Trained tables, without weights per sample.
        rows: Format of the rows.
        tables: Formats by table name that replace `rows`.

    Returns:
        The quantised collection, and the size and error of each table by name.

    Raises:
        TypeError: If an embedding combines several rows.
        ValueError: If the features have weights per sample.
    """
    kind = kind_of(bags)
    if bags.is_weighted():
        raise ValueError("quantised tables do not support weights per sample")
    configs, held = bags.embedding_bag_configs(), bags.weights()
    formats: list[Format] = []
    packed: list[torch.Tensor] = []
    results: dict[str, QuantisedTable] = {}
    for config in configs:
        weights = held[f"{config.name}.weight"].detach()
        requested = (tables or {}).get(config.name, rows)
        within = bool((weights.abs() <= LARGEST).all())
        formats.append(fitting(requested, config.embedding_dim) if within else "float32")
        packed.append(pack(weights, formats[-1]))
        results[config.name] = _compare(weights, formats[-1], packed[-1])
    ids = [held[f"{config.name}.id"] for config in configs if f"{config.name}.id" in held]
    return QuantisedBags(configs, kind, formats, packed, ids, held["step"]), results


def quantise_tables(model: nn.Module, rows: Format, tables: Mapping[str, Format] | None = None) -> dict[str, QuantisedTable]:
    """Replace the table collections of a model that can be quantised. Do not train the model afterwards.

    Args:
        model: A trained model.
        rows: Format of the rows.
        tables: Formats by table name that replace `rows`.

    Returns:
        The size and error of each quantised table, by name.
    """
    found: dict[str, QuantisedTable] = {}
    for path, bags in quantisable(model).items():
        quantised, results = quantise_bags(bags, rows, tables)
        model.set_submodule(path, quantised)
        found |= results
    return found


def _compare(weights: torch.Tensor, format: Format, packed: torch.Tensor) -> QuantisedTable:
    size, error = weights.square().mean().sqrt(), unpack(packed, format) - weights
    known = len(weights) > 0 and bool(size > 0)
    return QuantisedTable(
        len(weights),
        format,
        nbytes=packed.numel(),
        before=weights.nbytes,
        rms_error=float(error.square().mean().sqrt() / size) if known else 0.0,
        largest_error=float(error.abs().max() / size) if known else 0.0,
    )
