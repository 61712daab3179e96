"""Building a `Batch`: from rows of blocks for training, from the feature table for evaluation. No files, no order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ml.datasets.batch import Batch
from ml.datasets.rows import Rows, gather_runs
from ml.schema import FeatureSchema


def batch_from_rows(rows: Rows, schema: FeatureSchema) -> Batch:
    """A batch of B = len(rows), in the rows' order. Its tensors share memory with `rows` where the layout is the same."""
    return Batch(
        dense=torch.from_numpy(rows.dense),
        sparse=_keyed(rows, schema),
        labels=torch.from_numpy(rows.label),
        sample_rate=torch.from_numpy(rows.sample_rate),
        event_time=torch.from_numpy(rows.event_time),
    )


def batch_from_arrow(table: pa.Table | pa.RecordBatch, schema: FeatureSchema) -> Batch:
    """A batch of all rows of a feature table, in its order.

    Raises `ValueError`, naming the column, where one is missing, of another type, null, or a list without a value.
    """
    whole = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    rows = Rows.from_table(whole, schema)
    return batch_from_rows(rows.take(rows.position), schema)  # arrow's own buffers are read-only


def _keyed(rows: Rows, schema: FeatureSchema) -> KeyedJaggedTensor:
    """Ids key after key (B of each single-valued one, then the multi-valued), lengths int32 [F * B], stride B."""
    single = np.ascontiguousarray(rows.single.T).ravel()
    lengths = np.ones(single.size, np.int32)
    values = single
    if schema.multi:
        counts = rows.multi_lengths.ravel()
        starts = (np.cumsum(counts, dtype=np.int64) - counts).reshape(rows.multi_lengths.shape)
        by_key = np.ascontiguousarray(rows.multi_lengths.T).ravel()
        values = np.concatenate([single, gather_runs(rows.multi_values, starts.T.ravel(), by_key)])
        lengths = np.concatenate([lengths, by_key])
    return KeyedJaggedTensor(
        keys=list(schema.sparse), values=torch.from_numpy(values), lengths=torch.from_numpy(lengths), stride=len(rows)
    )
