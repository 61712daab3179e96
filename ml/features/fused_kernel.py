"""Kernels of `ml.features.fused`: two calls compute all dense values and all ids of a record batch."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ml.compute.kernel_cache import jit
from ml.features.arrow_memory import bit_at, bytes_at, column_at, floats_at, offsets_at, words_at
from ml.features.dense import finite_float32
from ml.features.hashing import as_id, xxh64, xxh64_word
from ml.features.hashtable import find_one
from ml.schema import FIRST_ID, MISSING_ID

INT: Final = 0
FLOAT: Final = 1
BOOL: Final = 2
STRING: Final = 3


@jit(inline="always")
def _number(kind, data, index):  # type: ignore[no-untyped-def]
    """Returns a number of a column as float64."""
    if kind == INT:
        return np.float64(words_at(data, index + 1)[index])
    if kind == FLOAT:
        return floats_at(data, index + 1)[index]
    return np.float64(bit_at(data, index))


@jit(inline="always")
def _hash(kind, first, second, index, seed):  # type: ignore[no-untyped-def]
    """Returns the id of a value that is not null, as `ml.features.hashing` defines it."""
    if kind == STRING:
        offsets = offsets_at(first, index + 2)
        end = np.int64(offsets[index + 1])
        return as_id(xxh64(bytes_at(second, end), np.int64(offsets[index]), end, seed))
    if kind == INT:
        return as_id(xxh64_word(np.uint64(words_at(first, index + 1)[index]), seed))
    if kind == BOOL:
        return as_id(xxh64_word(np.uint64(bit_at(first, index)), seed))
    value = floats_at(first, index + 1)[index]
    if not math.isfinite(value):
        return np.int64(MISSING_ID)
    word = words_at(first, index + 1)[index] if value != 0.0 else np.int64(0)  # -0.0 and 0.0 have one id
    return as_id(xxh64_word(np.uint64(word), seed))


@jit(inline="always")
def _bucket(kind, data, index, edges):  # type: ignore[no-untyped-def]
    """Returns the id of a number's bucket. A number equal to an edge belongs to the bucket above it."""
    value = _number(kind, data, index)
    if not math.isfinite(value):
        return np.int64(MISSING_ID)
    return np.int64(np.searchsorted(edges, value, side="right")) + FIRST_ID


@jit(nogil=True)
def fill_dense(batch, columns, numbers, dense):  # type: ignore[no-untyped-def]
    """Writes dense values.

    Args:
        batch: Address of the exported record batch.
        columns: int64 [D, 3]: index of the column in the batch, its kind, and its column in `dense`.
        numbers: float64 [D, 5]: fill, lower bound, upper bound, 1.0 for log1p (else 0.0), scale.
        dense: float32 [B, I], written in place.
    """
    for d in range(len(columns)):
        kind, target = columns[d, 1], columns[d, 2]
        fill, low, high, log1p, scale = numbers[d, 0], numbers[d, 1], numbers[d, 2], numbers[d, 3] != 0.0, numbers[d, 4]
        offset, validity, data, _ = column_at(batch, columns[d, 0])
        for i in range(len(dense)):
            known = validity == 0 or bit_at(validity, offset + i) != 0
            value = _number(kind, data, offset + i) if known else math.nan
            dense[i, target] = finite_float32(value, fill, low, high, log1p, scale)


@jit(nogil=True)
def fill_ids(batch, features, parts, seeds, edges, tables, ids):  # type: ignore[no-untyped-def]
    """Writes ids of features with one value per row.

    Args:
        batch: Address of the exported record batch.
        features: int64 [F, 5]: row of `ids`, begin and end of the feature's rows in `parts`, begin and end of its edges in
            `edges`; ends are exclusive.
        parts: int64 [P, 2]: index of the column in the batch, and its kind. A cross has several parts.
        seeds: uint64 [F], seeds of the hashes.
        edges: float64 [E], bucket edges of all features.
        tables: int64 [F, 5]: addresses of the vocabulary's slots, places and ids, its number of slots and its number of
            values; zeros if the feature has no vocabulary.
        ids: int64 [F', B], written in place.
    """
    rows = ids.shape[1]
    for f in range(len(features)):
        target, begin, end, low, high = features[f, 0], features[f, 1], features[f, 2], features[f, 3], features[f, 4]
        seed = seeds[f]
        for p in range(begin, end):
            kind = parts[p, 1]
            offset, validity, first, second = column_at(batch, parts[p, 0])
            for i in range(rows):
                key = np.int64(MISSING_ID)
                if validity == 0 or bit_at(validity, offset + i) != 0:
                    if high > low:
                        key = _bucket(kind, first, offset + i, edges[low:high])
                    else:
                        key = _hash(kind, first, second, offset + i, seed)
                if p > begin:  # a cross: the hash so far is the seed of the next hash
                    left = ids[target, i]
                    missing = left == MISSING_ID or key == MISSING_ID
                    key = np.int64(MISSING_ID) if missing else as_id(xxh64_word(np.uint64(key), np.uint64(left)))
                ids[target, i] = key
        size = tables[f, 4]
        if tables[f, 3] > 0:
            slots, places = words_at(tables[f, 0], tables[f, 3]), words_at(tables[f, 1], tables[f, 3])
            known = words_at(tables[f, 2], size + 1)
            for i in range(rows):
                if ids[target, i] != MISSING_ID:
                    ids[target, i] = known[find_one(slots, places, ids[target, i], size)]
