"""The index of items: exact and approximate search, filters, and changes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.retrieval.contexts import NOT_LIVE
from ml.retrieval.index import ItemIndex, recall_of

E = 16


def clustered(count: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((64, E))
    vectors = centres[rng.integers(0, 64, count)] + 0.5 * rng.standard_normal((count, E))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def ids_of(count: int, seed: int = 1) -> NDArray[np.int64]:
    """Return ids over the whole range of int64, among them -1."""
    ids = np.unique(np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, 2 * count))[:count]
    ids[0] = -1
    return np.random.default_rng(seed).permutation(np.unique(np.concatenate([ids, np.arange(-count, 0)]))[-count:])


def nearest(ids: NDArray[np.int64], vectors: NDArray[np.float32], query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    return ids[np.argsort(-(vectors @ query))[:k]]


@pytest.mark.parametrize("exact_below", [10_000, 1])
def test_the_nearest_items_are_found(exact_below: int) -> None:
    ids, vectors, queries = ids_of(3000), clustered(3000), clustered(20, seed=2)
    index = ItemIndex(ids, vectors, exact_below)
    assert index.is_exact == (exact_below > 3000)
    assert recall_of(index, queries, 10) >= (1.0 if index.is_exact else 0.95)
    found = index.search(queries, 10)
    for row in range(len(queries)):
        known = dict(zip(ids.tolist(), vectors @ queries[row], strict=True))
        np.testing.assert_allclose(found.scores[row], [known[i] for i in found.ids[row].tolist()], atol=1e-6)
        assert (np.diff(found.scores[row]) <= 0).all()
    if index.is_exact:
        np.testing.assert_array_equal(found.ids[0], nearest(ids, vectors, queries[0], 10))


@pytest.mark.parametrize("exact_below", [10_000, 1])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.3])
def test_a_filter_finds_allowed_items_only(exact_below: int, share: float) -> None:
    ids, vectors, queries = ids_of(3000), clustered(3000), clustered(5, seed=3)
    index = ItemIndex(ids, vectors, exact_below)
    allowed = np.sort(np.random.default_rng(4).choice(3000, round(3000 * share), replace=False))
    found = index.search(queries, 20, allowed)
    for row, query in enumerate(queries):
        exact = nearest(index.ids[allowed], index.vectors[allowed], query, 20)
        got = found.ids[row][found.scores[row] > -np.inf]
        assert set(got.tolist()) <= set(index.ids[allowed].tolist())
        assert len(np.intersect1d(got, exact)) >= 0.9 * len(exact)
        if share <= 0.01:
            np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("exact_below", [10_000, 1])
def test_changed_items_are_found_and_removed_ones_are_not(exact_below: int) -> None:
    ids, vectors = ids_of(2000), clustered(2000)
    before = ItemIndex(ids, vectors, exact_below)
    moved, added = ids[:50], np.arange(10, 40)
    fresh = clustered(80, seed=7)
    now = before.updated(np.concatenate([moved, added]), fresh, removed=ids[50:100])
    assert len(now) == 2000 - 50 + 30
    for at, item in enumerate(np.concatenate([moved, added])):
        assert now.search(fresh[at : at + 1], 1).ids[0, 0] == item
    everything = now.search(clustered(20, seed=8), 500).ids
    assert not set(ids[50:100].tolist()) & set(everything.ravel().tolist())
    assert len(before) == 2000 and ids[60] in before.search(vectors[60:61], 1).ids  # the old index is as it was
    again = now.updated(ids[50:60], vectors[50:60])
    assert again.search(vectors[55:56], 1).ids[0, 0] == ids[55]


def test_an_index_is_the_same_each_time_it_is_built() -> None:
    ids, vectors, queries = ids_of(3000), clustered(3000), clustered(10, seed=2)
    one, two = (ItemIndex(ids, vectors, exact_below=1).search(queries, 50) for _ in range(2))
    np.testing.assert_array_equal(one.ids, two.ids)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_items_than_asked_leave_places_empty(count: int) -> None:
    index = ItemIndex(np.arange(count), clustered(count))
    found = index.search(clustered(2), 5)
    assert (found.ids[:, count:] == NOT_LIVE).all() and np.isneginf(found.scores[:, count:]).all()
    assert sorted(found.ids[0, :count].tolist()) == list(range(count))


def test_wrong_items_are_refused() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        ItemIndex(np.array([1, 1]), clustered(2))
    with pytest.raises(ValueError, match="not finite"):
        ItemIndex(np.array([1, 2]), np.full((2, E), np.nan, np.float32))
