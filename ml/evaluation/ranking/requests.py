"""Ranking of the clicked item among all live items, for the models of a dataset and for standing sources.

Time is divided into slices. At the start of each slice the catalogue holds the items that were shown or clicked in the hours
before, with the features of their last rows, and the sources have learned from the clicks before. Each click of the slice is a
request: all live items are ranked for it, and the rank of the clicked one counts. The features and the session of the request
are as of the click. Models have been trained up to the previous day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec, Ranking
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, day_bounds
from ml.evaluation.ranking.time_slices import time_slices
from ml.evaluation.rows import chunks
from ml.evaluation.scores import ItemScorer
from ml.hashing import mix64_array
from ml.lake import Lake
from ml.retrieval.catalogue import Catalogue, LiveItems
from ml.retrieval.co_visitation import CoVisitation
from ml.retrieval.contexts import NOT_LIVE, Contexts, places, session_contexts
from ml.retrieval.popularity import Popularity
from ml.retrieval.ranks import MISSED, ranks_of, ranks_without_seen
from ml.retrieval.source import CandidateSource, Clicks
from ml.schema import EVENT_TIME, ITEM_KEY, LABEL, SESSION_KEY, USER_KEY

CO_VISITATION = "co_visitation"
BLOCK = 512
"""Requests that are scored at once, which bounds memory."""


@dataclass(frozen=True)
class _Day:
    """The N clicks in reach, of which those from `first` on are the requests, and M rows of shown items."""

    clicks: Clicks
    whose: NDArray[np.int64]
    gap: NDArray[np.int64]
    first: int
    row_time: NDArray[np.int64]
    row_item: NDArray[np.int64]


@dataclass(frozen=True)
class ClickRanks:
    """Ranks that a system gave to the clicked items of R requests.

    Attributes:
        requests: int64 [R], numbers of the requests, ascending.
        ranks: int32 [R], number of live items before the clicked one, or `MISSED`.
        unseen: int32 [R], the same after the items of the request's session have been removed.
    """

    requests: NDArray[np.int64]
    ranks: NDArray[np.int32]
    unseen: NDArray[np.int32]

    @classmethod
    def join(cls, parts: Sequence[ClickRanks]) -> ClickRanks:
        """Concatenate ranks of consecutive requests."""
        none = np.zeros(0, np.int32)
        joined = [np.concatenate(of) for of in zip(*((p.requests, p.ranks, p.unseen) for p in parts), strict=True)]
        return cls(*joined) if joined else cls(np.zeros(0, np.int64), none, none)


@dataclass(frozen=True)
class RankedDay:
    """Every request of a day and how systems ranked it.

    Attributes:
        whose: int64 [N], id of the session, or of the user if the dataset has no session.
        gap: int64 [N], microseconds since the event before in the session; -1 without one.
        live: Mean number of live items over slices with clicks; None without clicks.
        reachable: Number of requests whose item was live.
        models, sources: Ranks by name.
    """

    whose: NDArray[np.int64]
    gap: NDArray[np.int64]
    live: float | None
    reachable: int
    models: dict[str, ClickRanks]
    sources: dict[str, ClickRanks]


def sources_of(asked: Ranking) -> dict[str, CandidateSource]:
    """Return the standing sources of a ranking by name: popularity of each window, and co-visitation."""
    windows = {f"popularity_{minutes:g}m": round(minutes * MICROSECONDS_PER_MINUTE) for minutes in asked.popularity_minutes}
    found: dict[str, CandidateSource] = {name: Popularity(window) for name, window in windows.items()}
    return found | {CO_VISITATION: CoVisitation(max(windows.values()))}


def rank_requests(
    spec: DatasetSpec, asked: Ranking, day: str, lake: Lake, earlier: Sequence[str], scorers: Mapping[str, ItemScorer]
) -> RankedDay:
    """Rank the clicked item of every click of a day by every system.

    Args:
        spec: The dataset.
        asked: `spec.ranked`.
        day: The day to rank, `YYYY-MM-DD`.
        lake: Where features are stored.
        earlier: Days with features before `day`, ascending. Their last hours fill the catalogue and the sources.
        scorers: Models by name.

    Raises:
        MissingPartition: The day has no features.
        ValueError: Scores are not finite.
    """
    begin, _ = day_bounds(day, spec.zone)
    live_for = round((asked.live_hours or 0.0) * MICROSECONDS_PER_HOUR)
    reach = begin - max(live_for, *(round(m * MICROSECONDS_PER_MINUTE) for m in asked.popularity_minutes))
    earlier = [other for other in earlier if day_bounds(other, spec.zone)[1] > reach]
    found = _read(spec, day, lake, earlier, reach, begin, asked)
    count = len(found.clicks) - found.first
    sampled = _sample(count, found, live_for, asked.scored_pairs)
    sources, catalogue = sources_of(asked), Catalogue(live_for)
    for source in sources.values():
        source.observe(found.clicks.rows(0, found.first))
    item_columns = list(dict.fromkeys([ITEM_KEY, *(n for scorer in scorers.values() for n in scorer.item_features)]))
    keys = [EVENT_TIME, LABEL]
    for other in earlier:
        for rows in chunks(lake, spec, other, [*keys, *item_columns]):
            rows = rows.slice(int(np.searchsorted(_times(rows), reach)))
            if rows.num_rows:
                _add(catalogue, spec, rows, item_columns)
    systems = _Systems(scorers, sources)
    done, lives, reached = found.first, [], 0
    columns = None if scorers else [*keys, *item_columns]
    held = chunks(lake, spec, day, columns)
    for start, parts in time_slices(held, _times, _cut, begin=begin, minutes=asked.slice_minutes):
        rows = pa.concat_tables(parts)
        clicked = rows.filter(pa.array(rows[LABEL].to_numpy() > 0.5))
        clicks = found.clicks.rows(done, done + clicked.num_rows)
        live = catalogue.live(start)
        if len(clicks):
            lives.append(len(live) if live else 0)
            at = places(clicks.item, live.ids) if live else np.full(len(clicks), NOT_LIVE)
            reached += int((at != NOT_LIVE).sum())
            numbers = np.arange(done, done + len(clicks)) - found.first
            systems.rank(_Requests(start, live, clicked, clicks.contexts, at, numbers), sampled)
        for source in sources.values():
            source.observe(clicks)
        _add(catalogue, spec, rows, item_columns)
        done += len(clicks)
    return RankedDay(
        whose=found.whose[found.first :],
        gap=found.gap[found.first :],
        live=float(np.mean(lives)) if lives else None,
        reachable=reached,
        models={name: ClickRanks.join(systems.of_models[name]) for name in scorers},
        sources={name: ClickRanks.join(systems.of_sources[name]) for name in sources},
    )


def _read(spec: DatasetSpec, day: str, lake: Lake, earlier: Sequence[str], reach: int, begin: int, asked: Ranking) -> _Day:
    """Read the keys of all rows in reach, and derive the contexts of all clicks."""
    owner = SESSION_KEY if spec.session else USER_KEY
    columns = [EVENT_TIME, LABEL, ITEM_KEY, owner]
    parts: list[list[NDArray[Any]]] = [[np.zeros(0, np.int64)] for _ in columns]
    for other in (*earlier, day):
        for chunk in chunks(lake, spec, other, columns):
            late = chunk[EVENT_TIME].to_numpy() >= reach
            if late.any():
                for part, name in zip(parts, columns, strict=True):
                    part.append(chunk[name].to_numpy()[late])
    time, label, item, whose = (np.concatenate(part) for part in parts)
    clicked = label > 0.5
    idle = None if spec.session else round(asked.idle_minutes * MICROSECONDS_PER_MINUTE)
    own_time, own_item = time[clicked], item[clicked]
    contexts = session_contexts(whose[clicked], own_time, own_item, asked.context, idle)
    clicks = Clicks(own_time, own_item, contexts.contexts)
    shown = clicked if spec.label.negatives else np.ones(len(time), np.bool_)
    return _Day(clicks, whose[clicked], contexts.gap, int(np.searchsorted(own_time, begin)), time[shown], item[shown])


def _sample(count: int, found: _Day, live_for: int, pairs: int) -> NDArray[np.bool_]:
    """Choose the requests that are ranked by models that score pairs: about as many as give `pairs` pairs. bool [count]."""
    if not count:
        return np.zeros(0, np.bool_)
    # The number of live items varies over the day, so it is averaged over the times of 8 requests.
    times = np.quantile(found.clicks.time[found.first :], np.linspace(0.05, 0.95, 8), method="nearest")
    live = []
    for time in times:
        start, stop = np.searchsorted(found.row_time, (time - live_for, time))
        live.append(len(np.unique(found.row_item[start:stop])))
    share = min(1.0, pairs / (count * max(1.0, float(np.mean(live)))))
    draws = mix64_array(np.arange(1, count + 1, dtype=np.uint64))
    return draws.astype(np.float64) < share * 2.0**64


@dataclass(frozen=True)
class _Requests:
    """The B > 0 clicks of a slice.

    Attributes:
        start: Start of the slice, microseconds since 1970 UTC.
        live: The live items at `start`; None or empty if there are none.
        rows: The B rows of the feature table.
        contexts: What the sessions clicked before.
        at: int64 [B], places of the clicked items among the live ones, or `NOT_LIVE`.
        numbers: int64 [B], numbers of the requests in the day.
    """

    start: int
    live: LiveItems | None
    rows: pa.Table
    contexts: Contexts
    at: NDArray[np.int64]
    numbers: NDArray[np.int64]


class _Systems:
    """Models and sources, with the ranks that they have given so far."""

    def __init__(self, scorers: Mapping[str, ItemScorer], sources: Mapping[str, CandidateSource]) -> None:
        self.scorers, self.sources = scorers, sources
        self.of_models: dict[str, list[ClickRanks]] = {name: [] for name in scorers}
        self.of_sources: dict[str, list[ClickRanks]] = {name: [] for name in sources}

    def rank(self, asked: _Requests, sampled: NDArray[np.bool_]) -> None:
        """Rank the clicks of a slice. Models that score pairs rank only those with `sampled`, bool by number of the request."""
        everything, chosen = np.arange(len(asked.at)), np.flatnonzero(sampled[asked.numbers])
        for name, source in self.sources.items():
            if asked.live is not None:
                source.refresh(asked.start, asked.live.ids)
            self.of_sources[name] += _rank(name, partial(_source_scores, source), asked, everything)
        for name, scorer in self.scorers.items():
            if asked.live:
                scorer.index(asked.live.features)
            which = chosen if scorer.by_pair else everything
            self.of_models[name] += _rank(name, partial(_model_scores, scorer), asked, which)


def _source_scores(source: CandidateSource, _: pa.Table, contexts: Contexts) -> NDArray[np.float32]:
    return source.scores(contexts)


def _model_scores(scorer: ItemScorer, rows: pa.Table, _: Contexts) -> NDArray[np.float32]:
    return scorer.scores(rows)


def _rank(
    name: str,
    score: Callable[[pa.Table, Contexts], NDArray[np.float32]],
    asked: _Requests,
    which: NDArray[np.int64],
) -> Iterator[ClickRanks]:
    """Rank some clicks of a slice by one system, block by block."""
    if not asked.live:
        missed = np.full(len(which), MISSED, np.int32)
        yield ClickRanks(asked.numbers[which], missed, missed)
        return
    for first in range(0, len(which), BLOCK):
        block = which[first : first + BLOCK]
        contexts, at = asked.contexts.take(block), asked.at[block]
        scores = score(asked.rows.take(pa.array(block)), contexts)
        if not np.isfinite(scores).all():
            raise ValueError(f"{name} at {asked.start} µs: scores are not finite; the weights of a model have diverged")
        found = ranks_of(scores, at)
        yield ClickRanks(asked.numbers[block], found, ranks_without_seen(scores, at, found, contexts, asked.live.ids))


def _times(rows: pa.Table) -> NDArray[np.int64]:
    return rows[EVENT_TIME].to_numpy()


def _cut(rows: pa.Table, first: int, stop: int) -> pa.Table:
    return rows.slice(first, stop - first)


def _add(catalogue: Catalogue, spec: DatasetSpec, rows: pa.Table, columns: Sequence[str]) -> None:
    """Add rows to the catalogue. A sampled negative was not shown, so it does not make its item live."""
    shown = rows[LABEL].to_numpy() > 0.5 if spec.label.negatives else None
    catalogue.add(rows[EVENT_TIME].to_numpy(), rows[ITEM_KEY].to_numpy(), rows.select(columns), shown)
