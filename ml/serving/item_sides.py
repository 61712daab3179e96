"""Scores of live items by a DLRM that computes the item side once per version of items and model.

The item side of an item is computed when the item is a candidate for the first time, and used by all later requests. It belongs
to one table of live items and to one version of the model. A delta that changes a row, or another model, makes a new one, so no
score combines two versions. `ItemSides.prepare` computes it outside of requests, for the candidates of the version before.

The bundle scores all columns of each candidate itself while the rows of a delta are written, and if `SplitDLRM` does not
support the model. `ItemSides.counts` says how often, and `ItemSides.reason` why.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeGuard, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from ml.artifacts.bundle import Bundle
from ml.artifacts.predictor import Predictor, TorchPredictor
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.give_way import give_way
from ml.models.dlrm import DLRM
from ml.models.split_dlrm import FeatureSides, ItemStates, RequestState, SplitDLRM
from ml.retrieval.items import item_columns
from ml.retrieval.vectors import padded
from ml.schema import HISTORY_PREFIX

UNDERWAY = "a delta is being applied"
_ATTEMPTS = 2
"""Attempts to compute scores. The second is for a delta that was written during the first."""
_CHUNK = 128
"""Items that are prepared at once; a request for other items waits for them."""
ScoredBy = Literal["item_sides", "bundle"]
_log = logging.getLogger("evergreen")


class _ItemSide:
    """States of L live items by one version of a model, each computed when it is first read.

    Args:
        predictor: Holds the model.
        sides: What each feature depends on.
        items: The items.
        wanted: Rows of the items that requests are likely to use.

    Attributes:
        predictor: The predictor that holds the model.
        items: The items.
        wanted: The rows to prepare.
    """

    def __init__(
        self, predictor: TorchPredictor, sides: FeatureSides, items: pa.Table, wanted: NDArray[np.int64] | None = None
    ) -> None:
        self.predictor, self.items, self._changes = predictor, items, predictor.changes
        self.split = SplitDLRM(cast(DLRM, predictor.model), predictor.schema.dense, sides)
        self._states = self.split.empty_states(len(items))
        self._known, self._used = np.zeros(len(items), np.bool_), np.zeros(len(items), np.bool_)
        self.wanted = np.zeros(0, np.int64) if wanted is None else wanted
        self._lock = threading.Lock()

    def is_of(self, predictor: TorchPredictor, items: pa.Table) -> bool:
        """Return whether the states are those of the model as it is now, with no delta underway, and of a table of items."""
        same = predictor is self.predictor and predictor.changes == self._changes and items is self.items
        return same and self._changes % 2 == 0

    def states(self, rows: NDArray[np.int64], batch: Callable[[pa.Table], Batch]) -> ItemStates:
        """Return the states of all items, of which those of the given rows have been computed, for a request."""
        self._used[rows] = True
        self.compute(rows, batch)
        return self._states

    def used(self, item: str, items: pa.Table) -> NDArray[np.int64]:
        """Return the rows of the items that requests have used, in a newer table with the same column of items.

        If there were no requests, these are the wanted rows.
        """
        rows = np.flatnonzero(self._used) if self._used.any() else self.wanted
        if items is self.items:
            return rows
        used = self.items[item].take(pa.array(rows))
        return np.flatnonzero(pc.is_in(items[item], value_set=used.combine_chunks()))  # pyright: ignore[reportAttributeAccessIssue]

    def missing(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows that are not yet known."""
        return rows[~self._known[rows]]

    def compute(self, rows: NDArray[np.int64], batch: Callable[[pa.Table], Batch]) -> None:
        """Compute the states of rows that are not yet known."""
        if not len(self.missing(rows)):
            return
        with self._lock:
            missing = np.unique(self.missing(rows))
            if not len(missing):  # another thread has computed them meanwhile
                return
            found = self.split.items(batch(self.items.take(pa.array(missing))))
            for held, own in zip(self._states, found, strict=True):
                held[torch.from_numpy(missing)] = own
            self._known[missing] = True


class ItemSides:
    """Scores candidates for a request.

    Args:
        spec: A dataset with an item.
        pair_columns: Columns whose values depend on the item and on the request.

    Attributes:
        counts: Number of requests that were scored with item sides, and by the bundle.
        reason: Why the bundle scored the last request; None if it did not.
    """

    def __init__(self, spec: DatasetSpec, pair_columns: set[str]) -> None:
        self._sides, self._item = feature_sides(spec, pair_columns), spec.item or ""
        self._held: dict[int, _ItemSide] = {}  # one for each model of an experiment, by its identity
        self._prepared: list[int] = []  # the identities of the models of the last call of `prepare`, in their order
        self._lock = threading.Lock()
        self.counts: Counter[ScoredBy] = Counter()
        self.reason: str | None = None

    def score(
        self,
        ranking: Bundle,
        items: pa.Table,
        rows: NDArray[np.int64],
        request: pa.Table,
        candidates: Callable[[], Batch],
    ) -> NDArray[np.float32]:
        """Score candidates.

        Args:
            ranking: The model that ranks.
            items: The live items. The identity of the table stands for its contents.
            rows: The candidates among them, int64 [N].
            request: One row with the columns that do not describe items.
            candidates: Returns a batch of N rows with all columns. It is called only if features depend on request and item, or
                if the bundle scores.

        Returns:
            Probabilities of all labels, float32 [N, L], equal to `Bundle.score_labels` up to rounding.
        """
        predictor = ranking.predictor
        if not _is_split(predictor):
            kind = type(predictor.model if isinstance(predictor, TorchPredictor) else predictor).__name__
            return self._by_bundle(ranking, candidates, f"the model is a {kind}, and only a DLRM is split by item and request")
        for _ in range(_ATTEMPTS):
            logits = self._by_sides(ranking, predictor, items, rows, request, candidates)
            if logits is not None:
                self.counts["item_sides"] += 1
                self.reason = None
                logits[:, 0] += predictor.recipe.correction.shift  # of the main label, as in `predict_labels`
                return logits.sigmoid_().numpy()
        return self._by_bundle(ranking, candidates, UNDERWAY)

    def _by_sides(
        self,
        ranking: Bundle,
        predictor: TorchPredictor,
        items: pa.Table,
        rows: NDArray[np.int64],
        request: pa.Table,
        candidates: Callable[[], Batch],
    ) -> torch.Tensor | None:
        """Compute the logits of N candidates, float32 [N, L]; None if rows change meanwhile. Arguments as for `score`."""
        if predictor.changes % 2:
            return None
        side = self._side(predictor, items)
        states = side.states(rows, lambda some: ranking.batch(padded(ranking, some)))
        state: RequestState = side.split.request(ranking.batch(padded(ranking, request)))
        pairs = candidates() if side.split.has_pairs else None
        logits = side.split.logits(state, states, torch.from_numpy(rows), pairs)
        return logits if side.is_of(predictor, items) else None

    def prepare(self, models: Sequence[Bundle], items: pa.Table) -> None:
        """Compute the states of the items that requests have used so far, for new versions of the models or of the items.

        Without this call, the first requests after a change compute them. States of other models are dropped.

        Args:
            models: The models that rank, in the same order in each call. A model may have another predictor than in the last
                call. A model that no request has used so far is left alone.
            items: The live items.
        """
        keys = [id(model.predictor) for model in models]
        with self._lock:
            replaced = {key: self._held[old] for key, old in zip(keys, self._prepared, strict=False) if old in self._held}
            self._held = {key: side for key, side in self._held.items() if key in keys}
            self._prepared = keys
        for key, model in zip(keys, models, strict=True):
            before = replaced.get(key) or self._held.get(key)
            predictor = model.predictor
            if before is None or not _is_split(predictor) or predictor.changes % 2:
                continue
            side = self._side(predictor, items)
            if before.predictor is not predictor:
                side.wanted = before.used(self._item, items)
            missing = side.missing(side.wanted)
            for begin in range(0, len(missing), _CHUNK):
                if not side.is_of(predictor, items):
                    break
                give_way()
                side.compute(missing[begin : begin + _CHUNK], lambda some, by=model: by.batch(padded(by, some)))

    def _side(self, predictor: TorchPredictor, items: pa.Table) -> _ItemSide:
        """Return the side of a table of items and of the model as it is now."""
        with self._lock:
            side = self._held.get(id(predictor))
            if side is None or not side.is_of(predictor, items):
                side = _ItemSide(predictor, self._sides, items, side.used(self._item, items) if side else None)
                self._held[id(predictor)] = side
            return side

    def _by_bundle(self, ranking: Bundle, candidates: Callable[[], Batch], reason: str) -> NDArray[np.float32]:
        if reason != self.reason:
            _log.info("the bundle scores all columns of each candidate: %s", reason)
        self.counts["bundle"] += 1
        self.reason = reason
        return ranking.score_labels(candidates())


def _is_split(predictor: Predictor) -> TypeGuard[TorchPredictor]:
    return isinstance(predictor, TorchPredictor) and isinstance(predictor.model, DLRM)


def feature_sides(spec: DatasetSpec, pair_columns: set[str]) -> FeatureSides:
    """Divide the features of a dataset by what they depend on.

    Args:
        spec: A dataset with an item.
        pair_columns: Columns whose values depend on the item and on the request.
    """
    of_items = set(item_columns(spec))
    item, pair = set[str](), set[str]()
    for name, columns in _inputs(spec):
        of_item = [column in of_items for column in columns]
        if any(column in pair_columns for column in columns) or (any(of_item) and not all(of_item)):
            pair.add(name)
        elif any(of_item):
            item.add(name)
    return FeatureSides(frozenset(item), frozenset(pair))


def _inputs(spec: DatasetSpec) -> Iterator[tuple[str, Sequence[str]]]:
    """Return the columns that each feature is computed from."""
    for dense in spec.dense:
        yield dense.name, (dense.column,)
    for sparse in spec.sparse:
        yield sparse.name, (HISTORY_PREFIX + sparse.name,) if sparse.history else sparse.inputs
