"""Recall of a two-tower model: whether it finds the item that was clicked next among all live items.

Time is divided into slices. At the start of each slice, the catalogue contains the items that had a row in the hours before,
with the features of their last row. Each click of the slice is a query: all items are ranked by their scores for the user. The
baseline ranks items by their clicks in the hour before. Neither has learned from a slice before it is scored. A query uses the
user's features at the time of the click; the history among them may contain earlier clicks of the same slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ml.datasets.batch import Batch
from ml.days import MICROSECONDS_PER_HOUR
from ml.models.two_tower import TwoTower

CUTS = (10, 20, 50, 100)


@dataclass(frozen=True)
class Slice:
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

    slices: list[Slice]

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


@dataclass
class Catalogue:
    """Rows of the last hours, oldest first, which determine the live items and their clicks."""

    hours: float
    times: list[NDArray[np.int64]] = field(default_factory=list)
    ids: list[NDArray[np.int64]] = field(default_factory=list)
    clicked: list[NDArray[np.bool_]] = field(default_factory=list)
    sparse: list[NDArray[np.int64]] = field(default_factory=list)
    dense: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, batch: Batch, model: TwoTower) -> None:
        items, dense = model.item_features(batch.dense, batch.sparse)
        self.times.append(batch.event_time.numpy())
        self.ids.append(batch.sparse[model.item_id].values().numpy())
        self.clicked.append(batch.labels.numpy() > 0.5)
        self.sparse.append(items.numpy())
        self.dense.append(dense.numpy())

    def trim(self, now: int) -> None:
        """Drop batches that are older than the window."""
        while self.times and self.times[0][-1] < now - self.hours * MICROSECONDS_PER_HOUR:
            for column in (self.times, self.ids, self.clicked, self.sparse, self.dense):
                column.pop(0)

    def live(self, now: int) -> tuple[NDArray[np.int64], torch.Tensor, torch.Tensor, NDArray[np.int64]]:
        """Return the L live items.

        Returns:
            Their ids, int64 [L] ascending; the item features of their last rows, sparse int64 [L, Fi] and dense float32
            [L, Ii]; and their clicks in the last hour, int64 [L].
        """
        times, ids = np.concatenate(self.times), np.concatenate(self.ids)
        first = np.searchsorted(times, now - self.hours * MICROSECONDS_PER_HOUR)
        items, last = np.unique(ids[first:][::-1], return_index=True)
        rows = len(ids) - 1 - last
        recent = np.concatenate(self.clicked) & (times >= now - MICROSECONDS_PER_HOUR)
        recent[:first] = False
        clicks = np.bincount(np.searchsorted(items, ids[recent]), minlength=len(items))
        sparse, dense = np.concatenate(self.sparse)[rows], np.concatenate(self.dense)[rows]
        return items, torch.from_numpy(sparse), torch.from_numpy(dense), clicks


def recall_over(
    model: TwoTower,
    batches: Iterable[Batch],
    *,
    begin: int,
    minutes: float = 10.0,
    live_hours: float = 6.0,
    between: Callable[[list[Batch]], None] | None = None,
    on_result: Callable[[Slice], None] | None = None,
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
    catalogue, found = Catalogue(live_hours), []
    for start, rows in _slices(batches, begin, round(minutes * 60e6)):
        if start >= begin and catalogue.times:
            catalogue.trim(start)
            if catalogue.times:
                found.append(_score(model, catalogue, start, rows))
                if on_result is not None:
                    on_result(found[-1])
            if between is not None:
                between(rows)
        for batch in rows:
            catalogue.add(batch, model)
    return Recall(found)


@torch.no_grad()
def _score(model: TwoTower, catalogue: Catalogue, start: int, rows: Sequence[Batch]) -> Slice:
    """Score one slice. Items with equal scores, or with equal counts, keep the order of the catalogue."""
    was_training = model.training
    model.eval()
    items, sparse, dense, popular = catalogue.live(start)
    index = model.item_embedding(*model.item_rows(dense, sparse, rows[0].sparse.keys(), rows[0].dense.shape[1]))
    hits, order = {cut: 0 for cut in CUTS}, np.argsort(-popular, kind="stable")
    place = np.empty(len(items), np.int64)
    place[order] = np.arange(len(items))
    beside, clicks, missing = {cut: 0 for cut in CUTS}, 0, 0
    for batch in rows:
        clicked = batch.rows(batch.labels > 0.5)
        if not len(clicked):
            continue
        own = clicked.sparse[model.item_id].values().numpy()
        at = np.minimum(np.searchsorted(items, own), len(items) - 1)
        there = items[at] == own
        clicks, missing = clicks + len(own), missing + int((~there).sum())
        scores = model.user_embedding(clicked.dense, clicked.sparse) @ index.T
        if not bool(scores.isfinite().all()):
            raise ValueError(f"scores of the slice that begins at {start} µs are not finite: the model's weights have diverged")
        column = torch.from_numpy(at).unsqueeze(1)
        own_score, earlier = scores.gather(1, column), torch.arange(len(items)) < column
        better = ((scores > own_score) | (scores == own_score) & earlier).sum(1).numpy()
        for cut in CUTS:
            hits[cut] += int((there & (better < cut)).sum())
            beside[cut] += int((there & (place[at] < cut)).sum())
    model.train(was_training)
    return Slice(start, clicks, len(items), missing, hits, beside)


def _slices(batches: Iterable[Batch], begin: int, width: int) -> Iterator[tuple[int, list[Batch]]]:
    """Yield the start and the rows of each slice `[begin + n * width, begin + (n + 1) * width)`."""
    current, held = None, []
    for batch in batches:
        number = (batch.event_time - begin).div(width, rounding_mode="floor")
        for value in number.unique_consecutive().tolist():
            part = batch.rows(number == value)
            if current is not None and value != current:
                yield begin + current * width, held
                held = []
            current = value
            held.append(part)
    if current is not None:
        yield begin + current * width, held
