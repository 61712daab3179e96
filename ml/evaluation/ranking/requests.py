"""Ranking of the clicked item among all live items, for the models of a dataset and for standing sources.

Time is divided into slices. At the start of each slice the catalogue holds the items that were shown or clicked in the hours
before, with the features of their last rows, and the sources have learned from the clicks before. Each click of the slice is a
request: all live items are ranked for it, and the rank of the clicked one counts. The features and the session of the request
are as of the click, and so are values of feature tables. Models have been trained up to the previous day, or within the day up
to the rows that are ranked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec, Ranking
from ml.days import MICROSECONDS_PER_HOUR, MICROSECONDS_PER_MINUTE, day_bounds
from ml.evaluation.ranking.clicks import read_clicks, sampled_requests
from ml.evaluation.ranking.pair_features import PairFeatures
from ml.evaluation.ranking.rankers import Rankers
from ml.evaluation.ranking.systems import ClickRanks, Requests, Systems
from ml.evaluation.ranking.time_slices import time_slices
from ml.evaluation.rows import chunks
from ml.evaluation.scores import ItemScorer
from ml.lake import Lake
from ml.models.lambdarank import LambdaRank
from ml.retrieval.catalogue import Catalogue
from ml.retrieval.contexts import NOT_LIVE, places
from ml.schema import EVENT_TIME, ITEM_KEY, LABEL


@dataclass(frozen=True)
class RankedDay:
    """Every request of a day and how systems ranked it.

    Attributes:
        whose: int64 [N], id of the session, or of the user if the dataset has no session.
        gap: int64 [N], microseconds since the event before in the session; -1 without one.
        live: Mean number of live items over slices with clicks; None without clicks.
        reachable: Number of requests whose item was live.
        models, sources: Ranks by name.
        rankers: The comparison of rankers, see `ml.evaluation.ranking.rankers`; None without a LambdaRank.
    """

    whose: NDArray[np.int64]
    gap: NDArray[np.int64]
    live: float | None
    reachable: int
    models: dict[str, ClickRanks]
    sources: dict[str, ClickRanks]
    rankers: dict[str, Any] | None = None


def days_in_reach(spec: DatasetSpec, asked: Ranking, day: str, earlier: Sequence[str]) -> list[str]:
    """Return the days among `earlier` whose last hours fill the catalogue and the sources of a day, ascending."""
    reach, _ = _reach(spec, asked, day)
    return [other for other in earlier if day_bounds(other, spec.zone)[1] > reach]


def rank_requests(
    spec: DatasetSpec,
    asked: Ranking,
    day: str,
    lake: Lake,
    earlier: Sequence[str],
    scorers: Mapping[str, ItemScorer],
    ranker: LambdaRank | None = None,
) -> RankedDay:
    """Rank the clicked item of every click of a day by every system.

    Args:
        spec: The dataset.
        asked: `spec.ranked`.
        day: The day to rank, `YYYY-MM-DD`.
        lake: Where features are stored.
        earlier: Days with features before `day`, ascending. Their last hours fill the catalogue and the sources.
        scorers: Models by name.
        ranker: A LambdaRank that has not seen the day, to compare with the others over candidates.

    Raises:
        MissingPartition: The day has no features.
        ValueError: Scores are not finite.
    """
    ranking = DayRanking(spec, asked, day, lake, earlier, scorers, ranker=ranker)
    ranking.rank()
    return ranking.result()


class DayRanking:
    """Ranks the clicks of a day in time order, part by part. Models may change between two parts.

    The catalogue and the sources are as of the start of the slice of time, or as of the start of the part if it begins later.

    Args:
        spec: The dataset.
        asked: `spec.ranked`.
        day: The day to rank, `YYYY-MM-DD`.
        lake: Where features are stored.
        earlier: Days with features before `day`, ascending. Their last hours fill the catalogue and the sources.
        scorers: Models by name.
        with_sources: False to rank by models only.
        ranker: A LambdaRank that has not seen the day, to compare with the others over candidates.

    Raises:
        MissingPartition: The day has no features.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        asked: Ranking,
        day: str,
        lake: Lake,
        earlier: Sequence[str],
        scorers: Mapping[str, ItemScorer],
        with_sources: bool = True,
        ranker: LambdaRank | None = None,
    ) -> None:
        self._spec, self._minutes = spec, asked.slice_minutes
        reach, self._begin = _reach(spec, asked, day)
        live_for = round((asked.live_hours or 0.0) * MICROSECONDS_PER_HOUR)
        earlier = days_in_reach(spec, asked, day, earlier)
        self._clicks = found = read_clicks(spec, asked, day, lake, earlier, reach, self._begin)
        self._sampled = sampled_requests(found, live_for, asked.scored_pairs)
        self._systems, self._catalogue = Systems(asked, scorers, with_sources), Catalogue(live_for)
        self._systems.observe(found.clicks.rows(0, found.first))
        self._rankers = None
        if ranker is not None:
            pairs = [name for name, scorer in scorers.items() if scorer.by_pair]
            self._rankers = self._systems.listener = Rankers(spec, day, lake, ranker, pairs, found, self._sampled)
        self._columns = list(dict.fromkeys([ITEM_KEY, *(n for scorer in scorers.values() for n in scorer.item_features)]))
        of_pairs = sorted({name for scorer in scorers.values() for name in scorer.pair_features})
        self._pairs = PairFeatures(spec, day, lake, earlier, reach, of_pairs) if of_pairs else None
        keys = [EVENT_TIME, LABEL]
        for other in earlier:
            for rows in chunks(lake, spec, other, [*keys, *self._columns]):
                rows = rows.slice(int(np.searchsorted(_times(rows), reach)))
                if rows.num_rows:
                    self._add(rows)
        self._rows = _Rows(chunks(lake, spec, day, None if scorers else [*keys, *self._columns]))
        self._done, self._reachable, self._start = found.first, 0, -1
        self._live: list[int] = []
        self._ranks: dict[str, list[ClickRanks]] = {name: [] for name in (*self._systems.sources, *scorers)}

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources. The other names of a result are names of models."""
        return tuple(self._systems.sources)

    @property
    def sessions(self) -> NDArray[np.int64]:
        """The session of each request of the day, or the user if the dataset has no session. int64 [requests]."""
        return self._clicks.whose[self._clicks.first :]

    def rank(self, rows: int | None = None, by_models: bool = True) -> dict[str, ClickRanks]:
        """Rank the clicks among the next rows of the day.

        Args:
            rows: Number of rows of the feature table; by default all that remain.
            by_models: False to rank by sources only, because `restore` adds the ranks of the models.

        Returns:
            Ranks of these clicks by name of the source and of the model.

        Raises:
            ValueError: Scores are not finite.
        """
        parts: dict[str, list[ClickRanks]] = {name: [] for name in self._ranks}
        for start, held in time_slices(self._rows.take(rows), _times, _cut, begin=self._begin, minutes=self._minutes):
            of_slice = pa.concat_tables(held)
            now, self._start = (int(_times(of_slice)[0]) if start == self._start else start), start
            for name, ranks in self._slice(now, of_slice, by_models).items():
                parts[name].append(ranks)
        found = {name: ClickRanks.join(of) for name, of in parts.items() if by_models or name in self._systems.sources}
        for name, ranks in found.items():
            self._ranks[name].append(ranks)
        return found

    def models(self) -> dict[str, ClickRanks]:
        """Return the ranks that models have given so far, by name."""
        return {name: ClickRanks.join(self._ranks[name]) for name in self._systems.models}

    def restore(self, models: Mapping[str, ClickRanks]) -> None:
        """Take what `models` returned for the rows that were ranked with `by_models=False`."""
        for name, ranks in models.items():
            self._ranks[name] = [ranks]

    def result(self) -> RankedDay:
        """Return the ranks of the requests so far."""
        found, sources = self._clicks, self._systems.sources
        return RankedDay(
            whose=found.whose[found.first : self._done],
            gap=found.gap[found.first : self._done],
            live=float(np.mean(self._live)) if self._live else None,
            reachable=self._reachable,
            models=self.models(),
            sources={name: ClickRanks.join(self._ranks[name]) for name in sources},
            rankers=self._rankers.result() if self._rankers else None,
        )

    def _slice(self, now: int, rows: pa.Table, by_models: bool) -> dict[str, ClickRanks]:
        done, ranks = self._done, dict[str, ClickRanks]()
        clicked = rows.filter(pa.array(rows[LABEL].to_numpy() > 0.5))
        clicks = self._clicks.clicks.rows(done, done + clicked.num_rows)
        live = self._catalogue.live(now)
        if len(clicks):
            self._live.append(len(live) if live else 0)
            at = places(clicks.item, live.ids) if live else np.full(len(clicks), NOT_LIVE)
            self._reachable += int((at != NOT_LIVE).sum())
            numbers = np.arange(done, done + len(clicks)) - self._clicks.first
            pairs = self._pairs if by_models else None
            if pairs is not None and live:
                clicked = pairs.with_columns(clicked, numbers)
                pairs.index(now, live.ids)
            asked = Requests(now, live, clicked, clicks.contexts, at, numbers, pairs)
            ranks = self._systems.rank(asked, self._sampled, by_models)
        self._systems.observe(clicks)
        self._add(rows)
        self._done += len(clicks)
        return ranks

    def _add(self, rows: pa.Table) -> None:
        """Add rows to the catalogue. A sampled negative was not shown, so it does not make its item live."""
        shown = rows[LABEL].to_numpy() > 0.5 if self._spec.label.negatives else None
        self._catalogue.add(rows[EVENT_TIME].to_numpy(), rows[ITEM_KEY].to_numpy(), rows.select(self._columns), shown)


class _Rows:
    """Rows of a feature table, any number at a time."""

    def __init__(self, parts: Iterator[pa.Table]) -> None:
        self._parts, self._held = parts, pa.table({})

    def take(self, count: int | None) -> Iterator[pa.Table]:
        """Yield the next `count` rows, or all that remain."""
        left = count
        while left is None or left > 0:
            if not self._held.num_rows:
                following = next(self._parts, None)
                if following is None:
                    return
                self._held = following
                continue
            part = self._held if left is None else self._held.slice(0, left)
            self._held = self._held.slice(part.num_rows)
            left = None if left is None else left - part.num_rows
            yield part


def _reach(spec: DatasetSpec, asked: Ranking, day: str) -> tuple[int, int]:
    """Return the first event time that a ranking of a day reads, and the start of the day."""
    begin, _ = day_bounds(day, spec.zone)
    windows = [round(minutes * MICROSECONDS_PER_MINUTE) for minutes in asked.popularity_minutes]
    return begin - max(round((asked.live_hours or 0.0) * MICROSECONDS_PER_HOUR), *windows), begin


def _times(rows: pa.Table) -> NDArray[np.int64]:
    return rows[EVENT_TIME].to_numpy()


def _cut(rows: pa.Table, first: int, stop: int) -> pa.Table:
    return rows.slice(first, stop - first)
