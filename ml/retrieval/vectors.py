"""Vectors of items and users by the two-tower model of a bundle."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ml.artifacts.bundle import Bundle
from ml.artifacts.predictor import TorchPredictor
from ml.models.two_tower import TwoTower
from ml.schema import EVENT_TIME

BLOCK = 16_384
"""Items that are embedded at once, which bounds memory."""


def two_tower_of(bundle: Bundle) -> TwoTower:
    """Return the model of a bundle. Raises `TypeError` if it is not a two-tower model."""
    model = bundle.predictor.model if isinstance(bundle.predictor, TorchPredictor) else bundle.predictor
    if not isinstance(model, TwoTower):
        raise TypeError(f"expected a two-tower model, found {type(model).__name__}")
    return model


def item_vectors(bundle: Bundle, items: pa.Table) -> NDArray[np.float32]:
    """Embed items.

    Args:
        bundle: A two-tower model.
        items: L rows with the columns that describe items; see `ml.retrieval.items.item_columns`.

    Returns:
        float32 [L, E].
    """
    blocks = [_item_vectors(bundle, items.slice(first, BLOCK)) for first in range(0, items.num_rows, BLOCK)]
    return np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float32)


@torch.no_grad()
def _item_vectors(bundle: Bundle, items: pa.Table) -> NDArray[np.float32]:
    batch = bundle.batch(padded(bundle, items))
    return two_tower_of(bundle).item_embedding(batch.dense, batch.sparse).float().numpy()


@torch.no_grad()
def user_vectors(bundle: Bundle, rows: pa.Table) -> NDArray[np.float32]:
    """Embed the users of B requests.

    Args:
        bundle: A two-tower model.
        rows: B rows with the columns of `bundle.columns` that do not describe items, in their declared types.

    Returns:
        float32 [B, E].
    """
    batch = bundle.batch(padded(bundle, rows))
    return two_tower_of(bundle).user_embedding(batch.dense, batch.sparse).float().numpy()


def padded(bundle: Bundle, rows: pa.Table) -> pa.RecordBatch:
    """Return B rows with all columns that a bundle reads; columns that `rows` lacks hold missing values."""
    count, columns = rows.num_rows, {}
    for name, kind in bundle.columns.items():
        if name in rows.column_names:
            columns[name] = rows[name].combine_chunks()
        elif name == EVENT_TIME:  # a missing time is refused; an item has no hour
            columns[name] = pa.array(np.zeros(count, np.int64))
        elif pa.types.is_list(kind):
            empty = pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.int64()))
            columns[name] = empty
        else:
            columns[name] = pa.nulls(count, kind)
    return pa.RecordBatch.from_pydict(columns)
