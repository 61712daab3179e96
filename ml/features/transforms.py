"""Compiles the declared transforms into one function from Arrow record batch to Arrow record batch.

Spark tasks, a single process and requests to an exported model use the same function. The kinds of features are implemented
in `ml.features.dense` and `ml.features.sparse`. Negatives and joined columns are added before the function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DatasetSpec, DenseColumn, LabelRule
from ml.features.buffers import flat
from ml.features.columns import plain, take_column
from ml.features.dense import dense_values
from ml.features.hashing import hash_values
from ml.features.sparse import SparseFeature, sparse_features
from ml.features.vocabulary import Vocabulary
from ml.logs.labels import label_codes
from ml.schema import (
    EVENT_TIME,
    ITEM_KEY,
    LABEL,
    LABEL_PREFIX,
    ORACLE,
    SAMPLE_RATE,
    SAMPLE_WEIGHT,
    SESSION_KEY,
    SLICE_PREFIX,
    USER_KEY,
    arrow_schema,
)

# 1 for a logged event and 0 for a sampled negative, if a spec has negatives. No column of a log has this name.
SAMPLED_LABEL = "sampled:label"

Maker = Callable[[pa.RecordBatch], pa.Array]


class LabelError(ValueError):
    """A row without a usable label."""


@dataclass(frozen=True)
class Transform:
    """Computes feature table rows of log rows: a batch of N rows becomes a batch of N rows, in the same order.

    Attributes:
        schema: Schema of the result.
        makers: One function per column of the result.

    Example:
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
    """Checks that every feature that declares a vocabulary has one.

    Args:
        spec: The dataset.
        vocabularies: Vocabularies by feature name.

    Returns:
        The vocabularies, or an empty mapping for None.

    Raises:
        ValueError: A vocabulary is missing.
    """
    vocabularies = vocabularies or {}
    if missing := {s.name for s in spec.sparse if s.vocabulary} - set(vocabularies):
        raise ValueError(f"{spec.name}: no vocabulary given for {sorted(missing)}; use Vocabulary.empty() before the first day")
    return vocabularies


def compile_transforms(
    spec: DatasetSpec, vocabularies: Mapping[str, Vocabulary] | None = None, with_label: bool = True
) -> Transform:
    """Compiles the transforms of a dataset.

    The compiled function takes a batch with event_time (int64, microseconds since 1970-01-01 UTC), the log's columns and the
    joined columns. It returns a batch of `arrow_schema(spec)`. If the batch has no column sample_rate, the sample rate is 1.0.
    The function raises `LabelError` for a row without a usable label, `KeyError` for a missing column, `TypeError` for a
    column that cannot be read in its declared type, and `ValueError` for a row without event_time.

    Args:
        spec: The dataset.
        vocabularies: The vocabulary of each sparse feature that declares one, by feature name.
        with_label: Whether to compute label, sample_rate, session, slices and oracle. Requests do not have them.

    Returns:
        The compiled function.

    Raises:
        ValueError: A vocabulary is missing.
    """
    vocabularies = check_vocabularies(spec, vocabularies)
    types = spec.column_types
    makers: dict[str, Maker] = {EVENT_TIME: check_event_time, LABEL: _sampled_label, SAMPLE_RATE: _sample_rate}
    further = {LABEL_PREFIX + name for name in spec.labels}
    columns = (LABEL, *(LABEL_PREFIX + name for name in spec.labels)) if spec.label_rules else ()
    makers |= {column: _label(rule, spec) for column, rule in zip(columns, spec.label_rules, strict=True)}
    makers |= {SAMPLE_WEIGHT: _weight(spec.label.weight, spec)} if spec.label.weight else {}
    makers |= {d.name: _dense(d, spec) for d in spec.dense}
    makers |= {
        name: _sparse(f, vocabularies[name] if f.column.vocabulary else None) for name, f in sparse_features(spec).items()
    }
    keys = {USER_KEY: spec.user, ITEM_KEY: spec.item, SESSION_KEY: spec.session.column if spec.session else None}
    makers |= {key: _hashed(key, name, spec) for key, name in keys.items() if name}
    makers |= {
        SLICE_PREFIX + name: (lambda b, n=name: plain(take_column(b, n, types[n])).cast(pa.string())) for name in spec.slices
    }
    if oracle := spec.oracle:
        makers[ORACLE] = lambda b: take_column(b, oracle, types[oracle]).cast(pa.float32())
    schema = arrow_schema(spec)
    if not with_label:
        without = further | {
            LABEL,
            SAMPLE_RATE,
            SAMPLE_WEIGHT,
            ORACLE,
            SESSION_KEY,
            *(SLICE_PREFIX + name for name in spec.slices),
        }
        schema = pa.schema([field for field in schema if field.name not in without], metadata=schema.metadata)
    return Transform(schema, tuple(makers[name] for name in schema.names))


def check_event_time(batch: pa.RecordBatch) -> pa.Array:
    """Returns the event times of the rows, int64 [N]. Raises `ValueError` if one is missing."""
    times = take_column(batch, EVENT_TIME, "int")
    if times.null_count:
        raise ValueError(f"{EVENT_TIME}: {times.null_count} rows have none; every row needs a time")
    return times


def _sample_rate(batch: pa.RecordBatch) -> pa.Array:
    if SAMPLE_RATE in batch.schema.names:
        return batch[SAMPLE_RATE].cast(pa.float32())
    return pa.array(np.ones(len(batch), np.float32))


def _sampled_label(batch: pa.RecordBatch) -> pa.Array:
    if SAMPLED_LABEL in batch.schema.names:
        return batch[SAMPLED_LABEL].cast(pa.float32())
    return pa.array(np.ones(len(batch), np.float32))


def _label(rule: LabelRule, spec: DatasetSpec) -> Maker:
    def read(batch: pa.RecordBatch) -> pa.Array:
        values = take_column(batch, rule.column, spec.column_types[rule.column])
        codes = label_codes(values, rule)
        bad = codes < 0
        if bad.any():
            wanted = _wanted(rule)
            raise LabelError(
                f"{rule.key}.column {rule.column!r}: {int(bad.sum())} of {len(batch)} rows are not {wanted}; the first such "
                f"value is {values[int(bad.argmax())].as_py()!r}; quarantine these rows or choose another label"
            )
        return pa.array(codes.astype(np.float32))

    return read


def _wanted(rule: LabelRule) -> str:
    if rule.at_least is not None:
        return "a number"
    return "0 or 1" if rule.positive is None else "a value" if rule.known is None else f"one of {list(rule.known)}"


def _weight(name: str, spec: DatasetSpec) -> Maker:
    def read(batch: pa.RecordBatch) -> pa.Array:
        values = flat(take_column(batch, name, spec.column_types[name]).cast(pa.float64(), safe=False), null=np.nan)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            raise LabelError(f"label.weight {name!r}: {int(bad.sum())} of {len(batch)} rows are missing, negative or infinite")
        return pa.array(values.astype(np.float32))

    return read


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
