"""The declared transforms, compiled: one function from Arrow record batch to Arrow record batch.

A Spark task, a single machine and a serving request call the very same function. What each kind of feature does is in
`ml.features.dense` and `ml.features.sparse`; which rows there are (negatives, joined columns) is settled before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DatasetSpec, DenseColumn
from ml.features.buffers import flat
from ml.features.columns import plain, take_column
from ml.features.dense import dense_values
from ml.features.hashing import hash_values
from ml.features.sparse import SparseFeature, sparse_features
from ml.features.vocabulary import Vocabulary
from ml.schema import EVENT_TIME, ITEM_KEY, LABEL, ORACLE, SAMPLE_RATE, SLICE_PREFIX, USER_KEY, arrow_schema

# 1 for a logged event and 0 for a sampled negative, where a spec has negatives; no log's column is called so.
SAMPLED_LABEL = "sampled:label"

Maker = Callable[[pa.RecordBatch], pa.Array]


class LabelError(ValueError):
    """A row without a usable label."""


@dataclass(frozen=True)
class Transform:
    """N rows in, N rows out, in order. schema: of what comes out. makers: one per column.

    >>> from ml.catalog.load import load_catalog
    >>> transform = compile_transforms(load_catalog()["criteo"], with_label=False)
    >>> transform.schema.names[:2]
    ['event_time', 'I1']
    """

    schema: pa.Schema
    makers: tuple[Maker, ...]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([make(batch) for make in self.makers], schema=self.schema)


def check_vocabularies(spec: DatasetSpec, vocabularies: Mapping[str, Vocabulary] | None) -> Mapping[str, Vocabulary]:
    """Raises `ValueError` unless every feature that asks for a vocabulary has one."""
    vocabularies = vocabularies or {}
    if missing := {s.name for s in spec.sparse if s.vocabulary} - set(vocabularies):
        raise ValueError(
            f"{spec.name}: no vocabulary given for {sorted(missing)}; before the first day it is Vocabulary.empty()"
        )
    return vocabularies


def compile_transforms(
    spec: DatasetSpec, vocabularies: Mapping[str, Vocabulary] | None = None, with_label: bool = True
) -> Transform:
    """The function from batches of log columns to batches of `arrow_schema(spec)`.

    A batch holds event_time (int64 µs UTC), the log's columns and the joined ones, and may hold sample_rate (else 1.0).
    vocabularies: one for each sparse feature that asks for one, else `ValueError`. with_label=False, for requests: label,
    sample_rate, slices and oracle are neither read nor made. The function raises `LabelError`, `KeyError` (a missing column)
    and `TypeError` (a column of another type).
    """
    vocabularies = check_vocabularies(spec, vocabularies)
    types = spec.column_types
    makers: dict[str, Maker] = {EVENT_TIME: check_event_time, LABEL: _label(spec), SAMPLE_RATE: _sample_rate}
    makers |= {d.name: _dense(d, spec) for d in spec.dense}
    makers |= {
        name: _sparse(f, vocabularies[name] if f.column.vocabulary else None) for name, f in sparse_features(spec).items()
    }
    makers |= {key: _hashed(key, name, spec) for key, name in ((USER_KEY, spec.user), (ITEM_KEY, spec.item)) if name}
    makers |= {
        SLICE_PREFIX + name: (lambda b, n=name: plain(take_column(b, n, types[n])).cast(pa.string())) for name in spec.slices
    }
    if oracle := spec.oracle:
        makers[ORACLE] = lambda b: take_column(b, oracle, types[oracle]).cast(pa.float32())
    schema = arrow_schema(spec)
    if not with_label:
        without = {LABEL, SAMPLE_RATE, ORACLE, *(SLICE_PREFIX + name for name in spec.slices)}
        schema = pa.schema([field for field in schema if field.name not in without], metadata=schema.metadata)
    return Transform(schema, tuple(makers[name] for name in schema.names))


def check_event_time(batch: pa.RecordBatch) -> pa.Array:
    """The rows' event times, int64 [N]. Raises `ValueError` if one is missing."""
    times = take_column(batch, EVENT_TIME, "int")
    if times.null_count:
        raise ValueError(f"{EVENT_TIME}: {times.null_count} rows have none; every row of a day has its time")
    return times


def _sample_rate(batch: pa.RecordBatch) -> pa.Array:
    if SAMPLE_RATE in batch.schema.names:
        return batch[SAMPLE_RATE].cast(pa.float32())
    return pa.array(np.ones(len(batch), np.float32))


def _label(spec: DatasetSpec) -> Maker:
    name, at_least = spec.label.column, spec.label.at_least

    def sampled(batch: pa.RecordBatch) -> pa.Array:
        if SAMPLED_LABEL in batch.schema.names:
            return batch[SAMPLED_LABEL].cast(pa.float32())
        return pa.array(np.ones(len(batch), np.float32))

    def read(batch: pa.RecordBatch) -> pa.Array:
        values = take_column(batch, name or "", spec.column_types[name or ""]).cast(pa.float64(), safe=False)
        numbers = flat(values, null=np.nan)
        bad = np.isnan(numbers) if at_least is not None else (numbers != 0) & (numbers != 1)
        if bad.any():
            wanted = "a number" if at_least is not None else "0 or 1"
            raise LabelError(
                f"label.column {name!r}: {int(bad.sum())} of {len(batch)} rows are not {wanted}, the first of them holds "
                f"{values[int(bad.argmax())].as_py()!r}; quarantine such rows or choose another label"
            )
        return pa.array((numbers >= at_least if at_least is not None else numbers).astype(np.float32))

    return read if name else sampled


def _dense(column: DenseColumn, spec: DatasetSpec) -> Maker:
    declared = spec.column_types[column.column]
    return lambda batch: pa.array(dense_values(column, take_column(batch, column.column, declared)))


def _sparse(feature: SparseFeature, vocabulary: Vocabulary | None) -> Maker:
    def make(batch: pa.RecordBatch) -> pa.Array:
        keys = feature.keys(batch)
        return keys.to_arrow(keys.values if vocabulary is None else vocabulary.lookup(keys.values))

    return make


def _hashed(key: str, name: str, spec: DatasetSpec) -> Maker:
    declared = spec.column_types[name]
    return lambda batch: pa.array(hash_values(key, take_column(batch, name, declared)))
