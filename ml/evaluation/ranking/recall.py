"""Recall of a two-tower model: whether it finds the item that was clicked next among all live items.

Time is divided into slices. At the start of each slice, the catalogue contains the items that had a row in the hours before,
with the features of their last row. Each click of the slice is a query: all items are ranked by their scores for the user. The
baseline ranks items by their clicks in the hour before. Neither learns from a slice before it is scored. A query uses the
user's features at the time of the click; the history among them may contain earlier clicks of the same slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from ml.datasets.batch import Batch
from ml.days import MICROSECONDS_PER_HOUR
from ml.evaluation.ranking.metrics import hits
from ml.evaluation.ranking.time_slices import time_slices
from ml.models.two_tower import TwoTower
from ml.retrieval.catalogue import Catalogue, LiveItems
from ml.retrieval.contexts import NOT_LIVE, Contexts, places
from ml.retrieval.popularity import Popularity
from ml.retrieval.ranks import ranks_of
from ml.retrieval.source import Clicks

CUTS = (10, 20, 50, 100)


@dataclass(frozen=True)
class SliceRecall:
    """Counts of one slice.

    Attributes:
        start: Microseconds since 1970-01-01 UTC.
        clicks: Number of clicks.
        live: Number of items in the catalogue.
        missing: Number of clicks on items that were not in the catalogue.
        model: By cut, number of clicks whose item was among the model's first `cut` results.
        popularity: The same for the ranking by clicks.
    """

    start: int
    clicks: int
    live: int
    missing: int
    model: dict[int, int]
    popularity: dict[int, int]


@dataclass(frozen=True)
class Recall:
    """Totals of all slices."""

    slices: list[SliceRecall]

    def at(self, cut: int, whose: str = "model") -> float:
        """Share of the clicks whose item was among the first `cut` results of the `model` or of `popularity`."""
        return sum(getattr(s, whose)[cut] for s in self.slices) / max(1, self.clicks)

    @property
    def clicks(self) -> int:
        return sum(s.clicks for s in self.slices)

    @property
    def reachable(self) -> float:
        """Share of the clicks whose item was in the catalogue."""
        return 1 - sum(s.missing for s in self.slices) / max(1, self.clicks)


def recall_over(
    model: TwoTower,
    batches: Iterable[Batch],
    *,
    begin: int,
    minutes: float = 10.0,
    live_hours: float = 6.0,
    between: Callable[[list[Batch]], None] | None = None,
    on_result: Callable[[SliceRecall], None] | None = None,
) -> Recall:
    """Score every click from `begin` on. Earlier rows fill the first catalogue.

    Args:
        model: The model that embeds users and items.
        batches: Rows in time order.
        begin: Microseconds since 1970-01-01 UTC.
        minutes: Length of a slice.
        live_hours: Hours for which an item stays in the catalogue after its last row.
        between: Called with the rows of each slice after it has been scored, to train on them (progressive validation).
        on_result: Called with the counts of each slice.

    Returns:
        The counts of all slices.

    Raises:
        ValueError: Scores are not finite.
    """
    catalogue = Catalogue(round(live_hours * MICROSECONDS_PER_HOUR))
    popularity, found = Popularity(MICROSECONDS_PER_HOUR), []
    for start, rows in time_slices(batches, lambda batch: batch.event_time.numpy(), _cut, begin=begin, minutes=minutes):
        if start >= begin:
            live = catalogue.live(start)
            if live is not None and len(live):
                popularity.refresh(start, live.ids)
                found.append(_score(model, live, popularity, start, rows))
                if on_result is not None:
                    on_result(found[-1])
            if between is not None and live is not None:
                between(rows)
        for batch in rows:
            _observe(model, catalogue, popularity, batch)
    return Recall(found)


def _observe(model: TwoTower, catalogue: Catalogue, popularity: Popularity, batch: Batch) -> None:
    sparse, dense = (features.numpy() for features in model.item_features(batch.dense, batch.sparse))
    columns = [pa.array(column) for column in (*sparse.T, *dense.T)]
    time, ids = batch.event_time.numpy(), batch.sparse[model.item_id].values().numpy()
    catalogue.add(time, ids, pa.Table.from_arrays(columns, names=[str(n) for n in range(len(columns))]))
    clicked = batch.labels.numpy() > 0.5
    popularity.observe(Clicks(time[clicked], ids[clicked], Contexts.empty(int(clicked.sum()))))


@torch.no_grad()
def _score(model: TwoTower, live: LiveItems, popularity: Popularity, start: int, rows: Sequence[Batch]) -> SliceRecall:
    """Score one slice. Items with equal scores, or with equal counts, keep the order of the catalogue."""
    was_training = model.training
    model.eval()
    columns = [column.to_numpy() for column in live.features.columns]
    many = len(model.item_sparse)
    sparse, dense = (
        torch.from_numpy(np.stack(part, 1)) if part else torch.zeros(len(live), 0) for part in (columns[:many], columns[many:])
    )
    index = model.item_embedding(*model.item_rows(dense, sparse, rows[0].sparse.keys(), rows[0].dense.shape[1]))
    of_model, of_popularity = ({cut: 0 for cut in CUTS} for _ in range(2))
    clicks = missing = 0
    for batch in rows:
        clicked = batch.rows(batch.labels > 0.5)
        if not len(clicked):
            continue
        at = places(clicked.sparse[model.item_id].values().numpy(), live.ids)
        clicks, missing = clicks + len(at), missing + int((at == NOT_LIVE).sum())
        scores = model.user_embedding(clicked.dense, clicked.sparse) @ index.T
        if not bool(scores.isfinite().all()):
            raise ValueError(f"scores of the slice that begins at {start} µs are not finite: the model's weights have diverged")
        popular = popularity.scores(Contexts.empty(len(at)))
        for counts, ranks in ((of_model, ranks_of(scores.numpy(), at)), (of_popularity, ranks_of(popular, at))):
            for cut in CUTS:
                counts[cut] += int(hits(ranks, cut).sum())
    model.train(was_training)
    return SliceRecall(start, clicks, len(live), missing, of_model, of_popularity)


def _cut(batch: Batch, first: int, stop: int) -> Batch:
    rows = torch.arange(len(batch))
    return batch.rows((rows >= first) & (rows < stop))
