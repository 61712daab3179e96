"""The declared transforms for requests: one compiled pass from a record batch to the arrays of a batch.

`ml.features.transforms` computes the columns of the feature table one by one, which is fast for many rows. This module writes
the same values directly into the arrays that a model reads, which is fast for few rows. The compiled pass does not support
hours, split strings, histories, and columns whose Arrow type differs from the declared one. The code of the feature table
computes these features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ml.catalog.spec import DatasetSpec, DenseColumn
from ml.features.arrow_memory import export
from ml.features.columns import take_column
from ml.features.dense import dense_values
from ml.features.fused_kernel import BOOL, FLOAT, INT, STRING, fill_dense, fill_ids
from ml.features.hashing import feature_seed
from ml.features.sparse import SparseFeature, sparse_features
from ml.features.transforms import check_event_time, check_vocabularies
from ml.features.vocabulary import Vocabulary
from ml.schema import ARROW_TYPES

_KINDS = {ARROW_TYPES["int"]: INT, ARROW_TYPES["float"]: FLOAT, ARROW_TYPES["bool"]: BOOL, ARROW_TYPES["string"]: STRING}


@dataclass(frozen=True)
class FeatureArrays:
    """Features of B rows, in the order of `FeatureSchema`.

    Args:
        dense: float32 [B, I].
        ids: int64 [V], key-major: B ids of each single-valued feature, then the ids of the multi-valued features.
        lengths: int32 [F * B], number of ids of each row of each feature.
    """

    dense: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Plan:
    """Arguments of the kernels for batches of one Arrow schema, and the features that the kernels do not support."""

    schema: pa.Schema
    dense_columns: npt.NDArray[np.int64]
    dense_numbers: npt.NDArray[np.float64]
    features: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.uint64]
    edges: npt.NDArray[np.float64]
    tables: npt.NDArray[np.int64]
    other_dense: tuple[tuple[int, DenseColumn], ...]
    other_single: tuple[tuple[int, SparseFeature], ...]


class FusedTransform:
    """Computes the features of raw rows without labels. The values are those of `compile_transforms`, bit for bit.

    Args:
        spec: The dataset.
        vocabularies: The vocabulary of each sparse feature that declares one, by feature name.

    Raises:
        ValueError: A vocabulary is missing.

    Example:
        >>> from ml.catalog.load import load_catalog
        >>> spec = load_catalog()["criteo"]
        >>> rows = pa.RecordBatch.from_pylist([dict.fromkeys(spec.column_types)], pa.schema(
        ...     [(name, ARROW_TYPES[kind]) for name, kind in spec.column_types.items()]))
        >>> FusedTransform(spec)(rows).dense.shape
        (1, 13)
    """

    def __init__(self, spec: DatasetSpec, vocabularies: Mapping[str, Vocabulary] | None = None) -> None:
        self._types = spec.column_types
        self._dense = spec.dense
        self._vocabularies = dict(check_vocabularies(spec, vocabularies))  # a copy: kernels read its arrays by address
        features = list(sparse_features(spec).values())
        self._single = [feature for feature in features if not feature.is_multi_valued]
        self._multi = [feature for feature in features if feature.is_multi_valued]
        self._needs_time = any(feature.column.hour_of_day for feature in features)
        self._plan: _Plan | None = None

    def __call__(self, batch: pa.RecordBatch) -> FeatureArrays:
        """Transforms B rows.

        Args:
            batch: The columns that features are computed from, and event_time (int64, microseconds since 1970-01-01 UTC) if a
                feature is the hour of the day. Other columns are ignored.

        Returns:
            The features of the B rows.

        Raises:
            KeyError: A column is missing.
            TypeError: A column cannot be read in its declared type.
            ValueError: A feature needs event_time, and a row has none.
        """
        plan = self._plan
        if plan is None or not batch.schema.equals(plan.schema):
            plan = self._plan = self._compile(batch.schema)
        rows = batch.num_rows
        dense = np.empty((rows, len(self._dense)), np.float32)
        single = np.empty((len(self._single), rows), np.int64)
        owner, address = export(batch)
        fill_dense(address, plan.dense_columns, plan.dense_numbers, dense)
        fill_ids(address, plan.features, plan.parts, plan.seeds, plan.edges, plan.tables, single)
        del owner
        if self._needs_time:
            check_event_time(batch)
        for target, column in plan.other_dense:
            dense[:, target] = dense_values(column, take_column(batch, column.column, self._types[column.column]))
        for target, feature in plan.other_single:
            single[target] = self._ids(feature, feature.keys(batch).values)
        ids, lengths = [single.reshape(-1)], [np.ones(single.size, np.int32)]
        for feature in self._multi:
            keys = feature.keys(batch)
            ids.append(self._ids(feature, keys.values))
            lengths.append(keys.lengths)
        if not self._multi:
            return FeatureArrays(dense, ids[0], lengths[0])
        return FeatureArrays(dense, np.concatenate(ids), np.concatenate(lengths))

    def _ids(self, feature: SparseFeature, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._vocabularies[feature.column.name].lookup(keys) if feature.column.vocabulary else keys

    def _compile(self, schema: pa.Schema) -> _Plan:
        """Decides which features the kernels compute, and which the code of the feature table."""
        found = {name: schema.get_field_index(name) for name in self._types}
        plain = {n: at for n, at in found.items() if at >= 0 and schema.field(at).type.equals(ARROW_TYPES[self._types[n]])}
        dense_columns, dense_numbers, other_dense = [], [], []
        for target, column in enumerate(self._dense):
            if column.column in plain and self._types[column.column] != "string":
                dense_columns.append((plain[column.column], _KINDS[schema.field(column.column).type], target))
                dense_numbers.append(_numbers(column))
            else:
                other_dense.append((target, column))
        features, parts, seeds, edges, tables, other_single = [], [], [], [], [], []
        for target, feature in enumerate(self._single):
            inputs, edges_of = feature.column.inputs, feature.column.bucketise or ()
            if not inputs or any(name not in plain for name in inputs) or (edges_of and self._types[inputs[0]] == "string"):
                other_single.append((target, feature))
                continue
            features.append((target, len(parts), len(parts) + len(inputs), len(edges), len(edges) + len(edges_of)))
            parts += [(plain[name], _KINDS[schema.field(plain[name]).type]) for name in inputs]
            seeds.append(feature_seed(feature.seed))
            edges += edges_of
            tables.append(self._table(feature))
        return _Plan(
            schema,
            np.array(dense_columns, np.int64).reshape(-1, 3),
            np.array(dense_numbers, np.float64).reshape(-1, 5),
            np.array(features, np.int64).reshape(-1, 5),
            np.array(parts, np.int64).reshape(-1, 2),
            np.array(seeds, np.uint64),
            np.array(edges, np.float64),
            np.array(tables, np.int64).reshape(-1, 5),
            tuple(other_dense),
            tuple(other_single),
        )

    def _table(self, feature: SparseFeature) -> tuple[int, int, int, int, int]:
        if not feature.column.vocabulary:
            return 0, 0, 0, 0, 0
        words = self._vocabularies[feature.column.name]
        slots, places, ids = (array.ctypes.data for array in (words.slots, words.places, words.ids))
        return slots, places, ids, len(words.slots), len(words)


def _numbers(column: DenseColumn) -> tuple[float, float, float, float, float]:
    low, high = column.clip or (None, None)
    bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return float(column.fill), *bounds, float(column.log1p), float(column.scale)
