"""Stable signed 64-bit ids of values: XXH64 of a value's bytes, seeded by the name of its feature.

This module turns Arrow values into 64-bit keys. Dictionaries of ids are in `ml.features.vocabulary`. The hash equals
`xxhash64(lit(feature), value)` in Spark SQL, except for the hashes 0 and 1, which are moved because they are reserved ids.
A query, or a client in any language with XXH64 (Collet, 2012), can therefore compute the same id:

| value                       | bytes hashed                                                                     |
|-----------------------------|----------------------------------------------------------------------------------|
| string                      | its UTF-8 bytes, whether plain, large or dictionary encoded                      |
| int of any width, bool      | the value as 8 bytes, little-endian two's complement (True is 1)                 |
| float of any width          | the value as IEEE 754 double, 8 bytes little-endian; -0.0 is hashed as 0.0       |
| null, NaN, infinities       | none; the id is MISSING_ID                                                       |
"""

from __future__ import annotations

from functools import lru_cache

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
_SPARK_SEED = np.uint64(42)  # the first seed of Spark SQL's xxhash64


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
    """Returns the XXH64 of 8 bytes, given as a little-endian word."""
    h = (seed + _P5 + _EIGHT) ^ _round(np.uint64(0), word)
    return _avalanche(_rotate(h, 27) * _P1 + _P4)


@jit
def xxh64(data: np.ndarray, start: int, end: int, seed: np.uint64) -> np.uint64:
    """Returns the XXH64 of data[start:end] (uint8)."""
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
    """Returns the id of a hash. Hashes 0 and 1 become 2 and 3, because ids 0 and 1 mean missing and out of vocabulary."""
    return np.int64(h) if h > np.uint64(1) else np.int64(h) + FIRST_ID


@jit
def hash_ranges(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, valid: np.ndarray, seed: np.uint64) -> np.ndarray:
    """Hashes byte ranges.

    Args:
        data: uint8 bytes.
        starts: int [N], first byte of each range.
        ends: int [N], the byte after each range.
        valid: bool [N], False for a missing value; length 0 if no value is missing.
        seed: Seed of the hashes.

    Returns:
        int64 [N] ids.
    """
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


@lru_cache(maxsize=4096)
def feature_seed(feature: str) -> np.uint64:
    """Returns the seed of a feature's hashes: the XXH64 of its name, with the seed 42 of Spark SQL."""
    name = np.frombuffer(feature.encode(), np.uint8)
    return np.uint64(xxh64(name, 0, len(name), _SPARK_SEED))


def hash_values(feature: str, values: pa.Array) -> np.ndarray:
    """Computes the ids of the values of a feature.

    Args:
        feature: Name of the feature.
        values: Arrow array [N] of strings, ints, floats or bools, or a dictionary of one of these types. Each value of a
            dictionary is hashed once.

    Returns:
        int64 [N]. Null, NaN and infinities have the id MISSING_ID (0). No value has the id 0 or 1.

    Raises:
        TypeError: The array has another type.

    Example:
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
    raise TypeError(f"{feature}: cannot hash {kind}; expected string, int, float, bool or a dictionary of one of these types")


def combine(*parts: np.ndarray) -> np.ndarray:
    """Computes the ids of a cross of features.

    The hash of each part is the seed of the next hash, so the order of the parts matters.

    Args:
        *parts: One or more int64 arrays [N]: the ids of the crossed columns.

    Returns:
        int64 [N]. The id is MISSING_ID if any part is missing, because no combination of values was observed.
    """
    ids = parts[0]
    for part in parts[1:]:
        ids = _chain(ids, part)
    return ids
