"""Quantisation of trained tables: their rows in fewer bits, and how much the weights change."""

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
    """The result of quantising one table.

    Args:
        rows: Number of rows.
        format: Format of the rows.
        nbytes: Bytes of the rows.
        before: Bytes of the rows as float32.
        rms_error: Root mean square of the errors of the weights, divided by the root mean square of the weights.
        largest_error: Largest error of a weight, divided by the root mean square of the weights.
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
    """Quantise a collection; the trained tables are left as they are.

    A table with weights beyond float16 stays float32.

    Args:
        bags: Trained tables, without weights per sample.
        rows: The format of rows.
        tables: Other formats, by table.

    Returns:
        The quantised collection, and the result by table.

    Raises:
        TypeError: For tables in which several rows make an embedding.
        ValueError: For weighted bags.
    """
    kind = kind_of(bags)
    if bags.is_weighted():
        raise ValueError("weights per sample are for training alone")
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
    """Replace the tables of a model by quantised ones, where that is possible. Do not train the model afterwards.

    Args:
        model: A trained model.
        rows: The format of rows.
        tables: Other formats, by table.

    Returns:
        The result by table.
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
