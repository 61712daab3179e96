"""Stable signed 64-bit ids of values: XXH64 over a value's bytes, seeded by its feature's name.

Here is everything that turns Arrow values into 64-bit keys; dictionaries of ids are `ml.features.vocabulary`. The function
is `xxhash64(lit(feature), value)` of Spark SQL, so that a query, or a client in any language with XXH64 (Collet, 2012),
can compute the same id:

| value                       | bytes hashed                                                                     |
|-----------------------------|----------------------------------------------------------------------------------|
| string                      | its UTF-8 bytes, whether plain, large or dictionary encoded                      |
| int of any width, bool      | the value as 8 bytes, little-endian two's complement (True is 1)                 |
| float of any width          | the value as IEEE 754 double, 8 bytes little-endian; -0.0 is 0.0                 |
| null, NaN, infinities       | none: MISSING_ID                                                                 |
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ml.compute.kernel_cache import jit
from ml.features.buffers import flat, numbers, string_bytes, validity
from ml.schema import FIRST_ID, MISSING_ID

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_EIGHT = np.uint64(8)
_SPARK_SEED = np.uint64(42)  # the seed that Spark SQL's xxhash64 begins with


@jit(inline="always")
def _rotate(x, bits):  # type: ignore[no-untyped-def]
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@jit(inline="always")
def _avalanche(h):  # type: ignore[no-untyped-def]
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@jit(inline="always")
def _round(accumulator, lane):  # type: ignore[no-untyped-def]
    return _rotate(accumulator + lane * _P2, 31) * _P1


@jit(inline="always")
def _word(data, at, width):  # type: ignore[no-untyped-def]
    word = np.uint64(0)
    for i in range(width):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return word


@jit(inline="always")
def xxh64_word(word, seed):  # type: ignore[no-untyped-def]
    """XXH64 of 8 bytes, given as a little-endian word."""
    h = (seed + _P5 + _EIGHT) ^ _round(np.uint64(0), word)
    return _avalanche(_rotate(h, 27) * _P1 + _P4)


@jit
def xxh64(data: np.ndarray, start: int, end: int, seed: np.uint64) -> np.uint64:
    """XXH64 of data[start:end] (uint8), as the published algorithm has it."""
    length = end - start
    at = start
    if length >= 32:
        v1, v2, v3, v4 = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
        while at <= end - 32:
            v1 = _round(v1, _word(data, at, 8))
            v2 = _round(v2, _word(data, at + 8, 8))
            v3 = _round(v3, _word(data, at + 16, 8))
            v4 = _round(v4, _word(data, at + 24, 8))
            at += 32
        h = _rotate(v1, 1) + _rotate(v2, 7) + _rotate(v3, 12) + _rotate(v4, 18)
        for v in (v1, v2, v3, v4):
            h = (h ^ _round(np.uint64(0), v)) * _P1 + _P4
    else:
        h = seed + _P5
    h += np.uint64(length)
    while at <= end - 8:
        h = _rotate(h ^ _round(np.uint64(0), _word(data, at, 8)), 27) * _P1 + _P4
        at += 8
    if at <= end - 4:
        h = _rotate(h ^ (_word(data, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        h = _rotate(h ^ (np.uint64(data[at]) * _P5), 11) * _P1
        at += 1
    return _avalanche(h)


@jit(inline="always")
def as_id(h):  # type: ignore[no-untyped-def]
    """The id of a hash. Hashes 0 and 1 are moved, since these ids mean missing and out of vocabulary."""
    return np.int64(h) if h > np.uint64(1) else np.int64(h) + FIRST_ID


@jit
def hash_ranges(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, valid: np.ndarray, seed: np.uint64) -> np.ndarray:
    """Ids of byte ranges: data uint8, starts and ends int [N], valid bool [N] or [0] where all are. int64 [N]."""
    ids = np.empty(len(starts), np.int64)
    for i in range(len(starts)):
        known = len(valid) == 0 or valid[i]
        ids[i] = as_id(xxh64(data, starts[i], ends[i], seed)) if known else MISSING_ID
    return ids


@jit
def _hash_words(words: np.ndarray, valid: np.ndarray, seed: np.uint64) -> np.ndarray:
    ids = np.empty(len(words), np.int64)
    for i in range(len(words)):
        known = len(valid) == 0 or valid[i]
        ids[i] = as_id(xxh64_word(np.uint64(words[i]), seed)) if known else MISSING_ID
    return ids


@jit
def _chain(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    ids = np.empty(len(left), np.int64)
    for i in range(len(left)):
        missing = left[i] == MISSING_ID or right[i] == MISSING_ID
        ids[i] = MISSING_ID if missing else as_id(xxh64_word(np.uint64(right[i]), np.uint64(left[i])))
    return ids


def feature_seed(feature: str) -> np.uint64:
    """Seed of a feature's hashes: XXH64 of its name with Spark SQL's seed, 42."""
    name = np.frombuffer(feature.encode(), np.uint8)
    return np.uint64(xxh64(name, 0, len(name), _SPARK_SEED))


def hash_values(feature: str, values: pa.Array) -> np.ndarray:
    """Ids of (feature, value). values: Arrow string, int, float, bool, or a dictionary of those, [N]. int64 [N].

    Null, NaN and infinities are MISSING_ID (0); no value's id is 0 or 1. A dictionary's values are hashed once each.
    Raises `TypeError` for other types.

    >>> hash_values("country", pa.array(["BR", None, "BR"])).tolist()
    [-1260132001662114571, 0, -1260132001662114571]
    """
    seed = feature_seed(feature)
    if isinstance(values, pa.DictionaryArray):
        return np.append(hash_values(feature, values.dictionary), MISSING_ID)[flat(values.indices, null=len(values.dictionary))]
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        data, offsets = string_bytes(values)
        return hash_ranges(data, offsets[:-1], offsets[1:], validity(values), seed)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        wide = values if pa.types.is_uint64(kind) else values.cast(pa.int64())
        return _hash_words(numbers(wide).view(np.int64), validity(values), seed)
    if pa.types.is_floating(kind):
        wide = flat(values, null=np.nan).astype(np.float64) + 0.0
        return _hash_words(wide.view(np.int64), np.isfinite(wide), seed)
    raise TypeError(f"{feature}: can not hash {kind}; expected string, int, float, bool or a dictionary of those")


def combine(*parts: np.ndarray) -> np.ndarray:
    """Ids of crosses: of each row's parts together, in order; at least one part, each int64 [N]. int64 [N].

    Each part's hash is the seed of the next one's. A cross with a missing part is MISSING_ID: what was not seen in one
    column was not seen together with another, and its known parts are features of their own.
    """
    ids = parts[0]
    for part in parts[1:]:
        ids = _chain(ids, part)
    return ids
