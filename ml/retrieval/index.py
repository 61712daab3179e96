"""An index of items by their vectors: the items with the largest dot products with a query, by FAISS.

| items            | search                                                                                      |
|------------------|---------------------------------------------------------------------------------------------|
| fewer than 50,000 | exact                                                                                      |
| from 50,000 on    | cells of an inverted file with rows of 8 bits (`IVF,SQ8`), then exact scores of the results |
| few are allowed   | exact, over the allowed items alone                                                        |

Vectors have length 1, like the vectors of a two-tower model: if norms grow with popularity, an inverted file loses recall.

An index does not change, so that threads can search it without a lock. `updated` returns a new one, which the caller puts in
place of the old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import cast

import faiss
import numpy as np
from numpy.typing import NDArray

from ml.retrieval.contexts import NOT_LIVE

EXACT_BELOW = 50_000
"""Number of items below which every search is exact."""
FILTERED_EXACTLY = 0.05
"""Share of the items at or below which a filtered search scores all allowed items."""
RECALL, RECALL_AT = 0.98, 100
"""An inverted file searches as many cells as this recall needs on a sample of queries."""
_PROBES = (4, 8, 16, 32, 64, 128, 256)
_SAMPLE = 500
_TRAINED_ON = 64  # vectors per cell for k-means
_SEED = 1234
_RESCORED = 2  # times as many results of the inverted file as asked are scored exactly


@dataclass(frozen=True)
class Found:
    """The nearest items of B queries.

    Attributes:
        ids: int64 [B, k], nearest first; `NOT_LIVE` where fewer than k items are allowed.
        scores: float32 [B, k], dot products; minus infinity in the same places.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]


class ItemIndex:
    """Items and their vectors.

    Args:
        ids: int64 [L], distinct ids of items.
        vectors: float32 [L, E], of length 1.
        exact_below: Number of items below which every search is exact.
        queries: float32 [Q, E], queries on which the number of searched cells is chosen; by default vectors of items.

    Raises:
        ValueError: An id occurs twice, or a vector is not finite.

    Example:
        >>> index = ItemIndex(np.array([7, 5]), np.eye(2, dtype=np.float32))
        >>> index.search(np.array([[0.6, 0.8]], np.float32), k=1).ids.tolist()
        [[5]]
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        vectors: NDArray[np.float32],
        exact_below: int = EXACT_BELOW,
        queries: NDArray[np.float32] | None = None,
    ) -> None:
        self.ids, self.vectors = _sorted(ids, vectors)
        self.exact_below = exact_below
        self._cells: _Cells | None = None
        if len(ids) >= exact_below:
            self._cells = _Cells.build(self.vectors, self.vectors if queries is None else queries)

    def __len__(self) -> int:
        """Number L of items."""
        return len(self.ids)

    @property
    def is_exact(self) -> bool:
        """Whether every search scores all allowed items."""
        return self._cells is None

    @property
    def probes(self) -> int:
        """Number of cells that a search without a filter looks into; 0 if searches are exact."""
        return self._cells.probes if self._cells else 0

    def search(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None = None) -> Found:
        """Find the items with the largest dot products.

        Args:
            queries: float32 [B, E].
            k: Number of results of each query.
            allowed: int64, places in `ids` of the items that may be found, ascending; by default all.

        Returns:
            The results. Those of equal scores are in no particular order.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        found = Found(np.full((len(queries), k), NOT_LIVE), np.full((len(queries), k), -np.inf, np.float32))
        count = len(self) if allowed is None else len(allowed)
        most = min(k, count)
        if not most or not len(queries):
            return found
        few = allowed is not None and count <= max(FILTERED_EXACTLY * len(self), 4 * k)
        if self._cells is None or few:
            scores, at = _exact(queries, self.vectors, most, allowed)
        else:
            at = self._cells.search(queries, _RESCORED * most, allowed)
            scores, at = _rescored(queries, self.vectors, at, most)
        there = at != NOT_LIVE
        found.ids[:, :most] = np.where(there, self.ids[at], NOT_LIVE)
        found.scores[:, :most] = np.where(there, scores, -np.inf)
        return found

    def updated(
        self, ids: NDArray[np.int64], vectors: NDArray[np.float32], removed: NDArray[np.int64] | None = None
    ) -> ItemIndex:
        """Return an index with added, changed and removed items. The cells of the last complete build are kept.

        Args:
            ids: int64 [N], items to add, or to give another vector.
            vectors: float32 [N, E].
            removed: Items to remove; those that are not in the index are ignored.
        """
        kept = ~np.isin(self.ids, ids if removed is None else np.union1d(ids, removed))
        new = copy(self)
        order = np.argsort(np.concatenate([self.ids[kept], ids]))
        new.ids, new.vectors = _sorted(
            np.concatenate([self.ids[kept], ids]), np.concatenate([self.vectors[kept], vectors.astype(np.float32)])
        )
        if self._cells is not None:
            new._cells = self._cells.updated(kept, vectors, order)
        return new


@dataclass(frozen=True)
class _Cells:
    """An inverted file over the vectors of an index.

    FAISS numbers vectors by slots, which do not change when items are added and removed, unlike places in the index.

    Attributes:
        inverted: The inverted file.
        probes: Number of cells that a search without a filter looks into.
        slots: int64 [L], slot of each place.
        place_of: int64, place of each slot, or `NOT_LIVE`.
    """

    inverted: faiss.IndexIVF
    probes: int
    slots: NDArray[np.int64]
    place_of: NDArray[np.int64]

    @classmethod
    def build(cls, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> _Cells:
        """Build the inverted file, and choose the smallest number of cells that reaches the recall on a sample of queries."""
        rng = np.random.default_rng(_SEED)
        cells = 1 << max(4, round(float(np.log2(2.3 * np.sqrt(len(vectors))))))
        factory = faiss.index_factory(vectors.shape[1], f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        inverted = cast(faiss.IndexIVF, factory)
        inverted.cp.seed = _SEED
        sample = rng.permutation(len(vectors))[: _TRAINED_ON * cells]
        with _one_thread():  # k-means on several threads gives other cells in each run
            inverted.train(vectors[np.sort(sample)])
            inverted.add(vectors)
        own = np.arange(len(vectors))
        asked = np.ascontiguousarray(queries[rng.permutation(len(queries))[:_SAMPLE]], np.float32)
        k = min(RECALL_AT, len(vectors))
        _, exact = _exact(asked, vectors, k, None)
        built = cls(inverted, _PROBES[0], own, own)
        for probes in _PROBES:
            built = replace(built, probes=probes)
            if overlap(_rescored(asked, vectors, built.search(asked, _RESCORED * k, None), k)[1], exact) >= RECALL:
                break
        return built

    def search(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Places of the approximately nearest items, int64 [B, k], or `NOT_LIVE`."""
        options = faiss.SearchParametersIVF()
        options.nprobe = self.probes
        if allowed is not None:
            # The allowed items among the nearest are spread over more cells than the nearest items themselves.
            spread = round(self.probes * len(self.slots) / len(allowed))
            mask = np.zeros(len(self.place_of), np.bool_)
            mask[self.slots[allowed]] = True
            bits = np.packbits(mask, bitorder="little")
            options.nprobe, options.sel = min(spread, self.inverted.nlist), faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg]
        _, slots = self.inverted.search(queries, k, params=options)
        return np.where(slots >= 0, self.place_of[slots], NOT_LIVE)

    def updated(self, kept: NDArray[np.bool_], vectors: NDArray[np.float32], order: NDArray[np.int64]) -> _Cells:
        """Remove the places without `kept`, add N vectors after the kept ones, and put all places in the new order."""
        inverted = cast(faiss.IndexIVF, faiss.clone_index(self.inverted))
        inverted.remove_ids(faiss.IDSelectorBatch(self.slots[~kept]))
        count = max(len(self.place_of), len(order))
        is_free = np.ones(count, np.bool_)
        is_free[self.slots[kept]] = False
        added = np.flatnonzero(is_free)[: len(vectors)]
        inverted.add_with_ids(np.ascontiguousarray(vectors, np.float32), added)
        slots = np.concatenate([self.slots[kept], added])[order]
        place_of = np.full(count, NOT_LIVE)
        place_of[slots] = np.arange(len(slots))
        return _Cells(inverted, self.probes, slots, place_of)


def overlap(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Return the share of the exact results [B, k] that were found [B, k]."""
    same = sum(len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True))
    return same / max(1, exact.size)


def recall_of(index: ItemIndex, queries: NDArray[np.float32], k: int = RECALL_AT) -> float:
    """Measure the share of the k nearest items of B queries that an index finds."""
    k = min(k, len(index))
    if not k or not len(queries):
        return 1.0
    _, exact = _exact(np.ascontiguousarray(queries, np.float32), index.vectors, k, None)
    return overlap(index.search(queries, k).ids, index.ids[exact])


def _sorted(ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    order = np.argsort(ids)
    ids, vectors = ids[order], np.ascontiguousarray(vectors[order], np.float32)
    if (ids[1:] == ids[:-1]).any():
        raise ValueError("items of an index: an id occurs twice")
    if not np.isfinite(vectors).all():
        raise ValueError("items of an index: a vector is not finite; the weights of the model have diverged")
    return ids, vectors


def _exact(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and places of the k nearest allowed items, [B, k]."""
    scores, at = faiss.knn(queries, vectors if allowed is None else vectors[allowed], k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, at if allowed is None else allowed[at]


def _rescored(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], at: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exact scores and places of the k nearest among the items at some places [B, n]."""
    scores = np.einsum("be,bne->bn", queries, vectors[at])
    scores[at == NOT_LIVE] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(at, best, 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
