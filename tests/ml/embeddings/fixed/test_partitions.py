"""Complementary partitions distinguish all ids of their universe; hashing collides at the published rate."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml.embeddings.fixed.partitions import ALL_IDS, Partitions, partitions_for
from ml.embeddings.rules import Family

UNIQUE: list[Family] = ["quotient_remainder", "generalised", "chinese_remainder"]
IDS = st.integers(-(2**63), 2**63 - 1)
EDGES = [0, 1, 2, -1, 2**24, 2**24 + 1, 2**31 - 1, 2**31 + 5, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), -(2**63) + 1]


def codes(partitions: Partitions, ids: list[int]) -> list[tuple[int, ...]]:
    return list(map(tuple, partitions.codes(np.array(ids, np.int64)).T.tolist()))


SIZES = [(1000, 70, 2), (1000, 200, 2), (97, 97, 2), (4096, 200, 3), (50, 50, 4)]


@pytest.mark.parametrize("family", UNIQUE)
@pytest.mark.parametrize(("universe", "rows", "parts"), SIZES)
def test_every_id_of_the_universe_has_unique_codes(family: Family, universe: int, rows: int, parts: int) -> None:
    partitions = partitions_for(family, universe, rows, parts)
    found = partitions.codes(np.arange(universe))
    assert len(np.unique(found, axis=1).T) == universe
    for code, size in zip(found, partitions.sizes, strict=True):
        counts = np.bincount(code, minlength=size)
        assert len(counts) == size  # no code is out of bounds


@pytest.mark.parametrize("sizes", [(1 << 16,) * 4, (2**33, 2**31), (2**24, 2**20, 2**20)])
@settings(max_examples=300)
@example(EDGES)
@given(st.lists(IDS, min_size=2, max_size=20))
def test_no_two_64_bit_ids_share_codes(sizes: tuple[int, ...], ids: list[int]) -> None:
    found = codes(Partitions("generalised", ALL_IDS, sizes), ids)
    assert len(set(found)) == len(set(ids))
    base = [int(np.uint64(i % 2**64)) for i in ids]
    for code, whole in zip(found, base, strict=True):
        rebuilt = sum(digit * int(np.prod(sizes[:j], dtype=object)) for j, digit in enumerate(code))
        assert rebuilt == whole


@settings(max_examples=300)
@example(EDGES)
@given(st.lists(IDS, min_size=2, max_size=20))
def test_the_chinese_remainder_distinguishes_64_bit_ids(ids: list[int]) -> None:
    partitions = partitions_for("chinese_remainder", ALL_IDS, 9 * 10**6, 3)
    assert len(set(codes(partitions, ids))) == len(set(ids))


@given(st.integers(1, 2**40), st.integers(1, 10**6), st.integers(2, 5), st.sampled_from(UNIQUE))
@settings(max_examples=300, deadline=None)
def test_sizes_do_not_exceed_the_rows_and_cover_the_universe(universe: int, rows: int, parts: int, family: Family) -> None:
    try:
        partitions = partitions_for(family, universe, rows, parts)
    except ValueError as error:
        assert "cannot distinguish" in str(error)
        if family != "chinese_remainder":  # refused only if parts of equal size need more rows as well
            k = 2 if family == "quotient_remainder" else parts
            assert k * universe ** (1 / k) > rows * 0.99 - k
        return
    assert sum(partitions.sizes) <= rows


def test_partitions_that_cannot_distinguish_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="9 codes for 10 ids"):
        Partitions("quotient_remainder", 10, (3, 3))
    with pytest.raises(ValueError, match="not pairwise coprime"):
        Partitions("chinese_remainder", 20, (4, 6))
    with pytest.raises(ValueError, match=r"quotient_remainder: 10 rows cannot distinguish 1000 ids, about 64"):
        partitions_for("quotient_remainder", 1000, 10)
    with pytest.raises(ValueError, match="one partition"):
        Partitions("hash", 10, (3, 3))


@given(st.lists(IDS, min_size=1, max_size=50))
@example(EDGES)
def test_ids_outside_the_universe_are_hashed_into_it(ids: list[int]) -> None:
    partitions = partitions_for("quotient_remainder", 1000, 200)
    known = set(codes(partitions, list(range(1000))))
    assert set(codes(partitions, ids)) <= known


def test_hashing_spreads_evenly() -> None:
    found = Partitions("hash", ALL_IDS, (100,)).codes(np.arange(-50_000, 50_000))
    counts = np.bincount(found[0], minlength=100)
    assert counts.min() > 850 and counts.max() < 1150


def test_md5_into_a_million_rows_collides_as_published() -> None:
    """Liu et al. (2022, arXiv 2209.07663, table 1) report these counts for the users and movies of MovieLens-25M."""

    def distinct(ids: int) -> int:
        return len({int(hashlib.md5(str(i).encode()).hexdigest(), 16) % 10**6 for i in range(ids)})

    assert distinct(162_541) == 149_970
    assert distinct(59_047) == 57_361
