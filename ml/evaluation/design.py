"""The design matrix of the logistic regression: each (feature, id) is hashed to a bucket, dense features are standardised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ml.hashing import GOLDEN, mix64_array
from ml.schema import FeatureSchema

BUCKETS = 2**20
CLIP = 4.0  # standard deviations, so that an outlier does not dominate the solver's step


@dataclass(frozen=True)
class Design:
    """Maps rows of the feature table to a matrix [N, BUCKETS + I], with mean and deviation of the I dense training features."""

    schema: FeatureSchema
    mean: NDArray[np.float64]  # [I]
    deviation: NDArray[np.float64]  # [I], 1 where a feature is constant

    @classmethod
    def of(cls, schema: FeatureSchema, table: pa.Table) -> Design:
        dense = _dense(schema, table)
        deviation = dense.std(axis=0)
        return cls(schema, dense.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def matrix(self, table: pa.Table) -> csr_matrix:
        """Build a float32 matrix [N, BUCKETS + I]. Features that share a bucket are added (Weinberger et al., 2009)."""
        every, dense = np.arange(table.num_rows), len(self.schema.dense)
        rows, columns = [], []
        for seed, name in enumerate(self.schema.sparse):
            ids = table.column(name).combine_chunks()
            if name in self.schema.multi:
                rows.append(ids.value_parent_indices().to_numpy())
                ids = ids.flatten()
            else:
                rows.append(every)
            columns.append(_bucket(ids.to_numpy(), seed))
        standard = np.clip((_dense(self.schema, table) - self.mean) / self.deviation, -CLIP, CLIP)
        values = np.concatenate([np.ones(sum(map(len, rows))), standard.ravel(order="F")]).astype(np.float32)
        rows += [every] * dense
        columns += [np.full(table.num_rows, BUCKETS + i) for i in range(dense)]
        shape = (table.num_rows, BUCKETS + dense)
        return csr_matrix((values, (np.concatenate(rows), np.concatenate(columns))), shape=shape)


def _dense(schema: FeatureSchema, table: pa.Table) -> NDArray[np.float64]:
    columns = [table.column(name).to_numpy().astype(np.float64) for name in schema.dense]
    return np.stack(columns, axis=1) if columns else np.zeros((table.num_rows, 0))


def _bucket(ids: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Hash the ids of one feature, int64 [N], to buckets, int64 [N]."""
    shift = np.uint64(GOLDEN * (seed + 1) % 2**64)
    return (mix64_array(ids.view(np.uint64) + shift) % np.uint64(BUCKETS)).astype(np.int64)
