"""Ids are the published XXH64 of the value, equal for every Arrow layout, and never a reserved id."""

from __future__ import annotations

import math
import struct

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ml.features.hashing import _chain, _hash_words, combine, feature_seed, hash_values, xxh64
from ml.schema import MISSING_ID, OOV_ID

INTS = st.integers(-(2**63), 2**63 - 1)


def signed(h: int) -> int:
    h = h + 2 if h < 2 else h
    return h - 2**64 if h >= 2**63 else h


def reference(feature: str, value: str | int | float | bool | None) -> int:
    """Computes the documented id of one value with another implementation of XXH64."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING_ID
    if isinstance(value, str):
        data = value.encode()
    elif isinstance(value, float):
        data = struct.pack("<d", value + 0.0)
    else:
        data = struct.pack("<q", value)
    return signed(xxhash.xxh64_intdigest(data, xxhash.xxh64_intdigest(feature.encode(), 42)))


@given(st.text(max_size=8), st.lists(st.one_of(st.none(), st.text(max_size=80)), max_size=20))
def test_strings_hash_as_documented_in_every_layout(feature: str, values: list[str | None]) -> None:
    expected = [reference(feature, value) for value in values]
    plain = pa.array(values, pa.string())
    sliced = pa.concat_arrays([pa.array(["before", None]), plain, pa.array(["after"])]).slice(2, len(plain))
    layouts = [plain, plain.cast(pa.large_string()), plain.dictionary_encode(), sliced, sliced.dictionary_encode()]
    for layout in layouts:
        assert hash_values(feature, layout).tolist() == expected


@given(st.lists(st.one_of(st.none(), st.integers(-128, 127)), max_size=20))
def test_ints_hash_by_value_for_any_width(values: list[int | None]) -> None:
    expected = [reference("n", value) for value in values]
    for width in (pa.int8(), pa.int16(), pa.int32(), pa.int64()):
        assert hash_values("n", pa.array(values, width)).tolist() == expected
    assert hash_values("n", pa.array(values, pa.int64()).dictionary_encode()).tolist() == expected


@given(st.lists(st.one_of(st.none(), INTS), max_size=10), st.lists(st.one_of(st.none(), st.floats()), max_size=10))
def test_wide_ints_and_floats(ints: list[int | None], floats: list[float | None]) -> None:
    assert hash_values("n", pa.array(ints, pa.int64())).tolist() == [reference("n", v) for v in ints]
    assert hash_values("n", pa.array(floats, pa.float64())).tolist() == [reference("n", v) for v in floats]


def test_golden_ids() -> None:
    """The ids must never change, because stored embeddings are found by them."""
    assert hash_values("country", pa.array(["BR", "", None])).tolist() == [-1260132001662114571, -7083736191936690577, 0]
    assert hash_values("user", pa.array([5, -1, None])).tolist() == [3088601091266794922, -8206938933437271655, 0]
    zero = -2855750631764972508
    assert hash_values("price", pa.array([0.5, -0.0, 0.0, math.nan])).tolist() == [-6113527519565376981, zero, zero, 0]
    assert hash_values("member", pa.array([True, False])).tolist() == [6021774440583272430, 7775139796039582768]
    assert combine(np.array([7, 7, 0]), np.array([9, 0, 9])).tolist() == [8739681903675590621, 0, 0]


def test_no_value_gets_a_reserved_id() -> None:
    # XXH64 of one word is a bijection for a given seed, so the words that hash to 0 and 1 can be computed by inverting it.
    mask = 2**64 - 1
    p1, p2, p3, p4, p5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
    inverse = {p: pow(p, -1, 2**64) for p in (p1, p2, p3)}
    seed = 12345

    def backwards(h: int) -> int:
        h ^= h >> 32
        h = h * inverse[p3] & mask
        h ^= (h >> 29) ^ (h >> 58)
        h = h * inverse[p2] & mask
        h ^= h >> 33
        h = (h - p4) * inverse[p1] & mask
        h = (h >> 27) | (h << 37) & mask
        h ^= (seed + p5 + 8) & mask
        h = h * inverse[p1] & mask
        h = (h >> 31) | (h << 33) & mask
        return h * inverse[p2] & mask

    words = np.array([backwards(0), backwards(1), backwards(2)], np.uint64)
    for word, expected in zip(words, (0, 1, 2), strict=True):
        assert xxhash.xxh64_intdigest(struct.pack("<Q", int(word)), seed) == expected
    ids = _hash_words(words.view(np.int64), np.ones(3, np.bool_), np.uint64(seed))
    assert not {MISSING_ID, OOV_ID} & set(ids.tolist())
    crossed = _chain(np.full(3, seed), words.view(np.int64))
    assert not {MISSING_ID, OOV_ID} & set(crossed.tolist())


def test_half_of_the_bits_change_with_any_bit_of_the_value() -> None:
    values = np.arange(2000)
    ids = hash_values("n", pa.array(values))
    for bit in range(0, 63, 7):
        changed = hash_values("n", pa.array(values ^ (1 << bit))) ^ ids
        assert 31.5 < np.bitwise_count(changed.view(np.uint64)).mean() < 32.5
    assert len(set((ids & 0xFFFF).tolist())) > 1900


def test_features_and_order_of_a_cross_matter() -> None:
    a, b = hash_values("x", pa.array([1, 2])), hash_values("x", pa.array([2, 1]))
    assert combine(a, b)[0] != combine(b, a)[0]
    assert combine(a, b).tolist() == combine(b, a)[::-1].tolist()
    assert hash_values("x", pa.array(["v"])) != hash_values("y", pa.array(["v"]))


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="when: cannot hash timestamp"):
        hash_values("when", pa.array([0], pa.timestamp("us")))


@pytest.mark.slow
def test_spark_sql_gives_the_same_ids(spark) -> None:  # type: ignore[no-untyped-def]
    words, numbers, floats = ["", "BR", "naïve", "x" * 100], [0, 5, -1, 2**62], [0.0, -0.0, 1.5, -1e300]
    frame = spark.createDataFrame(list(zip(words, numbers, floats, strict=True)), "w string, n long, f double")
    rows = frame.selectExpr("xxhash64('feature', w)", "xxhash64('feature', n)", "xxhash64('feature', f)").collect()
    ours = [hash_values("feature", pa.array(values)) for values in (words, numbers, floats)]
    assert [tuple(row) for row in rows] == [tuple(column[i] for column in ours) for i in range(4)]


def test_seed_is_the_hash_of_the_name() -> None:
    data = b"a feature name of more than thirty-two bytes"
    assert int(feature_seed(data.decode())) == xxhash.xxh64_intdigest(data, 42)
    assert int(xxh64(np.frombuffer(data, np.uint8), 3, 9, np.uint64(1))) == xxhash.xxh64_intdigest(data[3:9], 1)
