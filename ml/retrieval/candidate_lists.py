"""Candidate lists of a past day, as the candidate stage would have made them, with the item that was taken.

Time is divided into the slices of `ranking.slice_minutes`. The sources use the events before the start of a slice, and a
request uses its user's events before the request. Nothing else is used, so a list never depends on the future.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.catalog.ranking import LambdaRankOptions
from ml.catalog.spec import DatasetSpec, Ranking
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, day_bounds
from ml.hashing import mix64_array
from ml.lake import Lake
from ml.models.lambdarank import LambdaRank
from ml.retrieval.contexts import NOT_LIVE, places
from ml.retrieval.interactions import SIGNAL_HOURS, ReadLog, context_columns, read_interactions
from ml.retrieval.signals import Candidates, CandidateSignals
from ml.schema import MISSING_ID

BLOCK = 256
"""Requests whose candidates are found at once, which bounds memory."""


@dataclass(frozen=True)
class CandidateLists:
    """Candidates of the B sampled requests of a part of a slice.

    Attributes:
        start: Start of the slice, microseconds since 1970 UTC.
        candidates: The lists.
        taken: bool [R], the candidates that were taken: at most one of each list.
        requests: int64 [B], numbers of the requests among the positive events of the day.
        is_live: bool [B], whether the item that was taken was live.
    """

    start: int
    candidates: Candidates
    taken: NDArray[np.bool_]
    requests: NDArray[np.int64]
    is_live: NDArray[np.bool_]


def live_items(spec: DatasetSpec, log: ReadLog, now: int) -> NDArray[np.int64]:
    """Return the items that are live at a point in time, int64 [L], ascending."""
    since = now - round(spec.live_hours * MICROSECONDS_PER_HOUR)
    first, end = np.searchsorted(log.time, (since, now))
    items = np.unique(log.item[first:end])
    return items[items != MISSING_ID]


def candidate_lists(
    spec: DatasetSpec, day: str, lake: Lake, queries: int, seed: int = 0, log: ReadLog | None = None
) -> Iterator[CandidateLists]:
    """Make the candidate lists of a sample of a day's positive events.

    Args:
        spec: A dataset with an item and a user.
        day: `YYYY-MM-DD`.
        lake: Where raw logs are stored.
        queries: Approximate number of sampled requests.
        seed: Chooses the sample.
        log: The rows, from `read_interactions`; by default they are read.

    Raises:
        MissingPartition: The day has not been ingested.
    """
    ranking, (begin, end) = spec.ranked or Ranking(), day_bounds(day, spec.zone)
    log = log or read_interactions(spec, day, lake, reach(spec, day))
    events, width = log.events, round(ranking.slice_minutes * MICROSECONDS_PER_MINUTE)
    signals, time = CandidateSignals(context_columns(spec)), log.events.clicks.time
    first, stop = (int(at) for at in np.searchsorted(time, (begin, end)))
    draws = mix64_array(np.arange(1, stop - first + 1, dtype=np.uint64) + np.uint64(seed) * np.uint64(1 << 32))
    chosen = draws.astype(np.float64) < min(1.0, queries / max(1, stop - first)) * 2.0**64
    done = 0
    for start in range(begin, end, width):
        until, last = (int(at) for at in np.searchsorted(time, (start, start + width)))
        rows = until + np.flatnonzero(chosen[until - first : last - first])
        if not len(rows):
            continue
        signals.observe(events.rows(done, until))
        done, live = until, live_items(spec, log, start)
        signals.refresh(start, live)
        for at in range(0, len(rows), BLOCK):
            block = rows[at : at + BLOCK]
            found = signals.candidates(events.requests.take(block))
            wanted = places(events.clicks.item[block], live)
            taken = found.places == np.repeat(wanted, np.diff(found.offsets))
            yield CandidateLists(start, found, taken, block - first, wanted != NOT_LIVE)


def reach(spec: DatasetSpec, day: str) -> int:
    """Return the first event time that candidate lists of a day read, in microseconds."""
    return day_bounds(day, spec.zone)[0] - round(max(SIGNAL_HOURS, spec.live_hours) * MICROSECONDS_PER_HOUR)


def train_ranker(spec: DatasetSpec, day: str, lake: Lake, options: LambdaRankOptions) -> LambdaRank | None:
    """Train a LambdaRank on the candidate lists of a day; None if no list has an item that was taken.

    Args:
        spec: A dataset with an item and a user.
        day: `YYYY-MM-DD`.
        lake: Where raw logs are stored.
        options: Size of the sample, and settings of the trees.

    Raises:
        MissingPartition: The day has not been ingested.
    """
    lists = list(candidate_lists(spec, day, lake, options.queries, options.seed))
    if not any(of.taken.any() for of in lists):
        return None
    sizes = np.concatenate([np.diff(of.candidates.offsets) for of in lists])
    signals = np.concatenate([of.candidates.signals for of in lists])
    names = CandidateSignals(context_columns(spec)).names
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return LambdaRank.train(signals, np.concatenate([of.taken for of in lists]), offsets, names, options)
