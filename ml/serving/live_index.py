"""The index of the live items, which follows the items and the two-tower model without a complete build at each refresh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ml.artifacts.bundle import Bundle
from ml.artifacts.predictor import Predictor, TorchPredictor
from ml.features.columns import plain
from ml.retrieval.contexts import NOT_LIVE, places
from ml.retrieval.index import EXACT_BELOW, ItemIndex
from ml.retrieval.vectors import item_vectors

LEAST_COSINE = 0.9
"""The cells of an index are built again if the vectors of items have moved further than this since the build, on average."""
_SAMPLE = 1000


@dataclass(frozen=True)
class _Model:
    """A two-tower model as it was at a point in time. `changes` is odd while a delta is being applied."""

    predictor: Predictor
    changes: int

    @classmethod
    def of(cls, tower: Bundle) -> _Model:
        held = tower.predictor
        return cls(held, held.changes if isinstance(held, TorchPredictor) else 0)

    def gives_same_vectors(self, other: _Model | None) -> bool:
        """Return whether both give the same vectors."""
        return self == other and self.changes % 2 == 0


class LiveIndex:
    """Keeps the vectors and the index of the live items up to date. One thread at a time may call `refresh`.

    While the model stays the same, only items that are new, or whose columns have changed, are embedded. With a changed model,
    all items are. In both cases the index is changed, and its cells are built again only if they no longer fit.

    Args:
        exact_below: Number of items below which every search is exact.
    """

    def __init__(self, exact_below: int = EXACT_BELOW) -> None:
        self._exact_below = exact_below
        self._index: ItemIndex | None = None
        self._inputs = pa.table({})
        self._model: _Model | None = None
        self._sample, self._built, self._count = np.zeros(0, np.int64), np.zeros((0, 0), np.float32), 0

    def refresh(self, ids: NDArray[np.int64], items: pa.Table, tower: Bundle) -> ItemIndex:
        """Return the index of the items by a model.

        Args:
            ids: int64 [L], ascending ids of at least one item.
            items: L rows with the columns that describe items, in the same order.
            tower: A two-tower model.

        Raises:
            ValueError: A vector is not finite.
        """
        model, index = _Model.of(tower), self._index
        inputs = items.select([name for name in items.column_names if name in tower.columns])
        if index is None or not model.gives_same_vectors(self._model):
            changed = np.arange(len(ids))
            vectors = item_vectors(tower, inputs)
        else:
            changed = self._changed(index.ids, ids, inputs)
            vectors = index.vectors[places(ids, index.ids)]  # [L, E]; those of new items are replaced
            if len(changed):
                vectors[changed] = item_vectors(tower, inputs.take(pa.array(changed)))
        if index is None or not self._fits(index, ids, vectors):
            index = ItemIndex(ids, vectors, self._exact_below)
            at = np.linspace(0, len(ids) - 1, min(_SAMPLE, len(ids))).astype(np.int64)
            self._sample, self._built, self._count = ids[at], vectors[at], len(ids)
        elif len(changed) or len(ids) < len(index):
            index = index.updated(ids[changed], vectors[changed], np.setdiff1d(index.ids, ids, assume_unique=True))
        self._index, self._inputs, self._model = index, inputs, model
        return index

    def _fits(self, index: ItemIndex, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> bool:
        """Whether an index has cells if it needs them, made for most of the items, which are about where they were then."""
        if index.is_exact != (len(ids) < self._exact_below) or vectors.shape[1] != self._built.shape[1]:
            return False
        if index.is_exact:
            return True
        at = places(self._sample, ids)
        left = at != NOT_LIVE
        if not left.any() or len(ids) > 2 * self._count:
            return False
        cosines = np.einsum("ne,ne->n", vectors[at[left]], self._built[left])
        return bool(left.mean() > 0.5 and cosines.mean() >= LEAST_COSINE)

    def _changed(self, before: NDArray[np.int64], ids: NDArray[np.int64], inputs: pa.Table) -> NDArray[np.int64]:
        """Places of the items that are new, or that have another value in a column."""
        if inputs.schema != self._inputs.schema:
            return np.arange(len(ids))
        at = places(ids, before)
        differs = at == NOT_LIVE
        earlier = self._inputs.take(pa.array(at, mask=differs))
        for old, new in zip(earlier.columns, inputs.columns, strict=True):
            old, new = plain(old.combine_chunks()), plain(new.combine_chunks())
            if not pa.types.is_nested(new.type):  # an item tower reads single values
                was, is_ = (column.is_valid().to_numpy(zero_copy_only=False) for column in (old, new))
                equal = pc.call_function("equal", [old, new]).fill_null(False).to_numpy(zero_copy_only=False)
                differs |= np.where(was & is_, ~equal, was != is_)
        return np.flatnonzero(differs)
