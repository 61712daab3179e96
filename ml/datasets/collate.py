"""Builds a `Batch` from rows of blocks (for training) or from the feature table (for evaluation). It opens no file.

`ml.datasets.request` builds the batches of requests, which have raw log columns.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.datasets.rows import Array, Rows, column_from_table, features_from_table, gather_runs
from ml.schema import EVENT_TIME, LABEL, SAMPLE_RATE, SAMPLE_WEIGHT, FeatureSchema


def batch_from_rows(rows: Rows, schema: FeatureSchema) -> Batch:
    """Builds a batch of rows, in their order.

    Args:
        rows: B rows. The tensors share memory with arrays of the same layout.
        schema: Names of the features.
    """
    return Batch(
        dense=torch.from_numpy(rows.dense),
        sparse=_keyed(rows.single, rows.multi_lengths, rows.multi_values, schema),
        labels=torch.from_numpy(rows.label),
        sample_rate=torch.from_numpy(rows.sample_rate),
        event_time=torch.from_numpy(rows.event_time),
        further=torch.from_numpy(rows.further) if len(schema.labels) > 1 else None,
        weight=torch.from_numpy(rows.weight[:, 0]) if schema.weighted else None,
    )


def batch_from_arrow(table: pa.Table | pa.RecordBatch, schema: FeatureSchema) -> Batch:
    """Builds a batch of all rows of a feature table, in its order.

    Args:
        table: B rows. Without a column `label` the batch is unlabelled.
        schema: Names of the features.

    Raises:
        ValueError: A column is missing, has another type or has nulls, or a list is empty. The message names the column.
    """
    whole = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    features = features_from_table(whole, schema)
    dense = torch.from_numpy(features["dense"])
    sparse = _keyed(features["single"], features["multi_lengths"], features["multi_values"], schema)
    if LABEL not in whole.schema.names:
        return Batch(dense, sparse)

    def column(name: str) -> torch.Tensor:
        # Arrow's buffers are read-only, which torch does not support.
        return torch.from_numpy(column_from_table(whole, name, pa.int64() if name == EVENT_TIME else pa.float32()).copy())

    return Batch(
        dense,
        sparse,
        labels=column(LABEL),
        sample_rate=column(SAMPLE_RATE),
        event_time=column(EVENT_TIME),
        further=torch.stack([column(name) for name in schema.further_columns], 1) if schema.further_columns else None,
        weight=column(SAMPLE_WEIGHT) if schema.weighted else None,
    )


def _keyed(single: Array, multi_lengths: Array, multi_values: Array, schema: FeatureSchema) -> KeyedJaggedTensor:
    """Builds the tensor: ids key-major (single-valued features first), lengths int32 [F * B], stride B."""
    rows = len(single)
    values = np.ascontiguousarray(single.T).ravel()  # [B, F1] -> [F1 * B]
    lengths = np.ones(values.size, np.int32)
    if schema.multi:
        counts = multi_lengths.ravel()  # [B * F2], row after row
        starts = (np.cumsum(counts, dtype=np.int64) - counts).reshape(multi_lengths.shape)  # [B, F2]
        by_key = np.ascontiguousarray(multi_lengths.T).ravel()  # [F2 * B]
        values = np.concatenate([values, gather_runs(multi_values, starts.T.ravel(), by_key)])
        lengths = np.concatenate([lengths, by_key])
    return KeyedJaggedTensor(
        keys=list(schema.sparse), values=torch.from_numpy(values), lengths=torch.from_numpy(lengths), stride=rows
    )
