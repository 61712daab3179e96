"""The two stages of a recommendation: several sources find candidates among the live items, and a model ranks their union.

| source          | candidates                                                             |
|-----------------|------------------------------------------------------------------------|
| `two_tower`     | the items with the nearest vectors to the user's                       |
| `popularity`    | the most clicked items of the last hour                                |
| `co_visitation` | items that were clicked in the same sessions as the user's last items  |
| `history`       | what the user took before, unless seen items are left out              |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.artifacts.bundle import Bundle
from ml.artifacts.raw_columns import raw_columns
from ml.catalog.spec import DatasetSpec, Ranking
from ml.datasets.batch import Batch
from ml.days import MICROSECONDS_PER_MINUTE
from ml.features.hashing import hash_values
from ml.models.lambdarank import LambdaRank
from ml.retrieval.contexts import NOT_LIVE, Contexts, places
from ml.retrieval.interactions import Requests, codes_of, context_columns, running_session
from ml.retrieval.items import item_columns
from ml.retrieval.signals import Candidates
from ml.schema import ARROW_TYPES, EVENT_TIME, HISTORY_PREFIX, LABEL
from ml.serving.batches import batch_of, scalar, table_of
from ml.serving.catalogue import LiveCatalogue, ServedItems
from ml.serving.events import EventWindow, UserEvent
from ml.serving.faults import WrongColumn
from ml.serving.item_sides import ItemSides
from ml.serving.rows import by_label
from ml.serving.served_log import current_request
from ml.serving.side_rows import SideRows
from ml.serving.typed_values import typed_array

PER_SOURCE = {"two_tower": 300, "popularity": 100, "co_visitation": 200}
"""Number of candidates that each source finds."""
_CACHED_TEXT = 200
CONTEXT = 20
"""Number of the user's last items that candidate sources use."""


@dataclass(frozen=True)
class Ranked:
    """One recommended item.

    Attributes:
        item: The item as logged.
        score: Probability of a positive event by the ranking model, or the score of a LambdaRank, which only orders items.
        sources: The sources that found it.
        columns: The columns that describe it.
        labels: Probability of each label; None if the model predicts one, or if a LambdaRank has ranked.
        place: Place of the candidate in the request; None if the service found the item.
    """

    item: Any
    score: float
    sources: list[str]
    columns: dict[str, Any]
    labels: dict[str, float] | None = None
    place: int | None = None


@dataclass
class Recommendation:
    """The answer to a request.

    Attributes:
        items: The items, best first.
        candidates: Number of candidates that each source found.
        filled: Columns that the request left out and the service knew from earlier events.
        missing: Columns that neither knew.
        context: The user's last items, newest first.
        reasons: For each item the contribution of each signal to its score, the largest first; None unless a LambdaRank has
            ranked and reasons were asked for.
        by_ranker: Whether a LambdaRank has ranked.
        ranked: Number of distinct candidates that were ranked.
    """

    items: list[Ranked]
    candidates: dict[str, int] = field(default_factory=dict)
    filled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    context: list[UserEvent] = field(default_factory=list)
    reasons: list[dict[str, float]] | None = None
    by_ranker: bool = False
    ranked: int = 0


class Recommender:
    """Recommends items to users.

    Args:
        spec: A dataset with an item.
        window: The events of the last hours.
        source: The live items.
        sides: The joined columns of each side table, in the order of `spec.join`.
    """

    def __init__(self, spec: DatasetSpec, window: EventWindow, source: LiveCatalogue, sides: Sequence[pa.Table] = ()) -> None:
        self.spec, self.window, self.source, self.tables = spec, window, source, source.tables
        self._item_columns = {*item_columns(spec), *source.tables.item_columns}
        self._signal_columns = context_columns(spec)
        self._idle = round((spec.ranked or Ranking()).idle_minutes * MICROSECONDS_PER_MINUTE)
        of_context = [
            (side, held) for side, held in zip(spec.join, sides, strict=False) if side.log_key not in self._item_columns
        ]
        self._sides = [SideRows(side, held) for side, held in of_context]
        self._cached_hash = lru_cache(maxsize=4096, typed=True)(self._hash_value)
        self.item_sides = ItemSides(spec, source.tables.item_columns)

    @property
    def context_columns(self) -> list[str]:
        """Columns of the log that a request describes, and that the user's last events supply if it leaves them out."""
        used = raw_columns(self.spec)
        used |= dict.fromkeys(sorted(self.tables.context_columns))
        return [name for name in used if name in self.spec.source.columns and name not in {*self._item_columns, self.spec.user}]

    def recommend(
        self,
        ranking: Bundle,
        user: Any,
        context: Mapping[str, Any],
        k: int,
        now: int,
        filters: Mapping[str, Sequence[Any]] | None = None,
        exclude_seen: bool = True,
        ranker: LambdaRank | None = None,
        explain: bool = False,
    ) -> Recommendation:
        """Find candidates and rank them.

        Args:
            ranking: The model that ranks.
            user: The user as logged; None for an unknown one.
            context: Columns of the log that describe the request. The user's last events supply the columns that are left out.
            k: Number of items.
            now: Time of the request, in microseconds since 1970 UTC.
            filters: Allowed values by column of the item.
            exclude_seen: Whether to leave out the user's last items.
            ranker: Ranks by signals of the candidate sources in place of `ranking`.
            explain: Whether to return the reasons of the ranker.

        Raises:
            WrongColumn: A column of the context does not exist or describes items, or a value has another type.
            UnknownColumn: A filter names a column that items do not have.
        """
        live, past = self.source.live, self.window.last_of(user, now, CONTEXT)
        given = self.columns_of_request(user, context, now)
        self._check_context(ranking, context)
        seen = [event.id for event in past]
        allowed = self.source.allowed(live, filters or {}, seen if exclude_seen else [])
        if ranker is not None:
            requests = self._requests(given, past, now)
            listed = self.source.candidates(live, requests, allowed, exclude_seen)
            result = self._by_signals(live, ranker, listed, k, explain)
            result.filled, result.missing = self._filled_and_missing(ranking, context, self._earlier(given))
            result.context = past
            return result
        row, filled, missing = self._user_row(ranking, user, context, given, past, now)
        found = self._candidates(live, row, seen, allowed, exclude_seen)
        union = np.unique(np.concatenate([*found.values(), np.zeros(0, np.int64)]).astype(np.int64))
        counts = {name: len(at) for name, at in found.items()}
        result = Recommendation([], counts, filled, missing, past, ranked=len(union))
        if len(union):
            scores = self._score_live(ranking, live, union, row, given, now)
            best = np.argsort(-scores[:, 0], kind="stable")[:k]
            result.items = self._ranked(live, union[best], scores[best], found, ranking.labels)
        return result

    def rank(
        self, ranking: Bundle, user: Any, context: Mapping[str, Any], candidates: Sequence[Any], now: int
    ) -> Recommendation:
        """Rank given items, those that are not live as well. Arguments as for `recommend`."""
        past, live = self.window.last_of(user, now, CONTEXT), self.source.live
        given = self.columns_of_request(user, context, now)
        self._check_context(ranking, context)
        row, filled, missing = self._user_row(ranking, user, context, given, past, now)
        at, items = self._described(live, candidates)
        if (at != NOT_LIVE).all():
            scores = self._score_live(ranking, live, at, row, given, now)
        else:
            scores = ranking.score_labels(batch_of(ranking, row, self._with_tables(items, given, now)))
        order = np.argsort(-scores[:, 0], kind="stable")
        rows = items.take(pa.array(order)).to_pylist()
        ranked = [
            Ranked(candidates[at], float(scores[at, 0]), [], columns, by_label(ranking.labels, scores[at]), at)
            for at, columns in zip(order.tolist(), rows, strict=True)
        ]
        return Recommendation(ranked, {}, filled, missing, past)

    def _score_live(
        self,
        ranking: Bundle,
        live: ServedItems,
        at: NDArray[np.int64],
        row: Mapping[str, pa.Scalar],
        given: Mapping[str, Any],
        now: int,
    ) -> NDArray[np.float32]:
        """Score the live items at N places for one user: the probabilities of L labels, float32 [N, L]."""

        def candidates() -> Batch:
            return batch_of(ranking, row, self._with_tables(live.items.take(pa.array(at)), given, now))

        scores = self.item_sides.score(ranking, live.items, at, table_of(row), candidates)
        if (noted := current_request()) is not None and noted.items is None:  # no feature needed the columns of candidates
            self._with_tables(live.items.take(pa.array(at)), given, now)
        return scores

    def row_of(self, ranking: Bundle, user: Any, context: Mapping[str, Any], now: int) -> dict[str, pa.Scalar]:
        """Return the columns of a request that do not describe items, as `batch_of` takes them."""
        past, given = self.window.last_of(user, now, CONTEXT), self.columns_of_request(user, context, now)
        return self._user_row(ranking, user, context, given, past, now)[0]

    def with_tables(self, items: pa.Table, user: Any, context: Mapping[str, Any], now: int) -> pa.Table:
        """Append to L items the values of feature tables that depend on the item, as of a request."""
        return self._with_tables(items, self.columns_of_request(user, context, now), now)

    def _with_tables(self, items: pa.Table, given: Mapping[str, Any], now: int) -> pa.Table:
        return self.tables.of_items(items, given, now) if self.spec.feature_tables else items

    def columns_of_request(self, user: Any, context: Mapping[str, Any], now: int) -> dict[str, Any]:
        """Return the columns of the log that describe a request: those that it has, and those of the user's last events."""
        return {**self.window.known_of(user, now), **context, **({self.spec.user: user} if self.spec.user else {})}

    def _user_row(
        self,
        ranking: Bundle,
        user: Any,
        context: Mapping[str, Any],
        given: Mapping[str, Any],
        past: Sequence[UserEvent],
        now: int,
    ) -> tuple[dict[str, pa.Scalar], list[str], list[str]]:
        """Columns that do not describe items, in their declared types; which were filled in; and which are missing."""
        of_tables = self.tables.request_columns
        computed = self.tables.of_request(given, now) if of_tables else {}
        earlier = self._earlier(given)
        row: dict[str, pa.Scalar] = {}
        for name, kind in ranking.columns.items():
            if name in self._item_columns:
                continue
            if name == EVENT_TIME:
                row[name] = pa.scalar(now, pa.int64())
            elif name in computed:
                row[name] = computed[name][0]
            elif name.startswith(HISTORY_PREFIX):
                row[name] = self._history(name, past, now)
            elif name == self.spec.user:
                row[name] = scalar(name, user, kind)
            else:
                row[name] = scalar(f"context.{name}", context.get(name, earlier.get(name)), kind)
        return row, *self._filled_and_missing(ranking, context, earlier)

    def _earlier(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Columns known for a request: its own, those of the user's last events, and those of side tables."""
        earlier = dict(given)
        for side in self._sides:
            earlier |= side.columns_of(given.get(side.log_key))
        return earlier

    def _filled_and_missing(
        self, ranking: Bundle, context: Mapping[str, Any], earlier: Mapping[str, Any]
    ) -> tuple[list[str], list[str]]:
        """Columns that the context leaves out: those that the user's last events supply, and those that are missing."""
        known = {*self._item_columns, *self.tables.request_columns, *context, EVENT_TIME, self.spec.user}
        asked = [name for name in ranking.columns if name not in known and not name.startswith(HISTORY_PREFIX)]
        filled = [name for name in asked if earlier.get(name) is not None]
        return filled, [name for name in asked if earlier.get(name) is None]

    def _check_context(self, ranking: Bundle, context: Mapping[str, Any]) -> None:
        """Raise `WrongColumn` if the context has a column that requests do not describe, or a value of another type."""
        known = self.spec.column_types
        if unknown := [name for name in context if name not in known]:
            raise WrongColumn(
                f"context.{unknown[0]}: no such column; the columns are {sorted(set(known) - self._item_columns)}"
            )
        if wrong := [name for name in context if name in self._item_columns]:
            raise WrongColumn(f"context.{wrong[0]}: describes items, which the service knows; leave it out")
        of_tables = self.tables.request_columns
        if wrong := [name for name in context if name in of_tables]:
            raise WrongColumn(f"context.{wrong[0]}: a value of a feature table, which the service computes; leave it out")
        for name, value in context.items():  # also those that only find other values, such as the key of a side table
            if name != self.spec.user:
                scalar(f"context.{name}", value, ranking.columns.get(name, ARROW_TYPES[known[name]]))

    def _history(self, name: str, past: Sequence[UserEvent], now: int) -> pa.Scalar:
        """The ids of the user's last items, as the feature of the item has them."""
        feature = next(f for f in self.spec.sparse if HISTORY_PREFIX + f.name == name)
        column, most = self.spec.history_of(feature)
        since = self.window.history_since(now)
        known = [event.item for event in past[:most] if event.time >= since] if column == self.spec.item else []
        items = pa.array(known, self.window.types[self.window.item])
        return pa.scalar(hash_values(self.spec.item_feature or "", items).tolist(), pa.list_(pa.int64()))

    def _requests(self, given: Mapping[str, Any], past: Sequence[UserEvent], now: int) -> Requests:
        """What signals use of a request, as `interactions_of` derives it from the log."""
        session = running_session([event.time for event in past], now, self._idle)
        values = [(name, given.get(name)) for name in self._signal_columns]
        codes = [self._cached_hash(*of) if _is_cached(of[1]) else self._hash_value(*of) for of in values]
        return Requests(Contexts.of([[event.id for event in past]]), np.array([session]), np.array([codes], np.int64))

    def _hash_value(self, column: str, value: Any) -> int:
        """Hash a value of the context, as `codes_of` hashes a column of the log."""
        held = pa.array([scalar(f"context.{column}", value, self.window.types[column])])
        return int(codes_of([column], pa.table({column: held}))[0, 0])

    def _by_signals(self, live: ServedItems, ranker: LambdaRank, listed: Candidates, k: int, explain: bool) -> Recommendation:
        """Rank candidates by their signals."""
        scores = ranker.scores(listed.signals)
        best = np.argsort(-scores, kind="stable")[:k]
        found = {name: listed.places[of] for name, of in listed.found.items()}
        items = self._ranked(live, listed.places[best], scores[best, np.newaxis], found, [LABEL])
        result = Recommendation(items, by_ranker=True, ranked=len(listed.places))
        result.candidates = {name: len(at) for name, at in found.items()}
        if explain and len(best):
            parts = ranker.contributions(listed.signals[best])
            by_item = [dict(zip(ranker.names, of.tolist(), strict=True)) for of in parts]
            result.reasons = [dict(sorted(of.items(), key=lambda pair: -abs(pair[1]))) for of in by_item]
        return result

    def _candidates(
        self,
        live: ServedItems,
        row: Mapping[str, pa.Scalar],
        seen: Sequence[int],
        allowed: NDArray[np.bool_] | None,
        exclude_seen: bool,
    ) -> dict[str, NDArray[np.int64]]:
        """Places of the candidates of each source."""
        found: dict[str, NDArray[np.int64]] = {}
        is_allowed = np.ones(len(live), np.bool_) if allowed is None else allowed
        if live.index is not None:
            found["two_tower"] = live.nearest(row, PER_SOURCE["two_tower"], allowed)
        found["popularity"] = live.popular[is_allowed[live.popular]][: PER_SOURCE["popularity"]]
        if seen:
            scores = np.where(is_allowed, self.source.together(live, seen), -np.inf)
            best = np.argsort(-scores, kind="stable")[: PER_SOURCE["co_visitation"]]
            found["co_visitation"] = best[scores[best] > 0]
        if not exclude_seen and seen:
            at = places(np.array(seen, np.int64), live.ids)
            at = at[at != NOT_LIVE]
            found["history"] = at[is_allowed[at]]
        return found

    def _ranked(
        self,
        live: ServedItems,
        at: NDArray[np.int64],
        scores: NDArray[np.float32],
        found: Mapping[str, NDArray[np.int64]],
        labels: Sequence[str],
    ) -> list[Ranked]:
        """Describe the items at N places, with their scores, float32 [N, L]."""
        rows = live.items.take(pa.array(at)).to_pylist()
        sets = {name: set(where.tolist()) for name, where in found.items()}
        return [
            Ranked(
                columns[self.spec.item or ""],
                float(score[0]),
                [name for name, held in sets.items() if place in held],
                columns,
                by_label(labels, score),
            )
            for place, score, columns in zip(at.tolist(), scores, rows, strict=True)
        ]

    def _described(self, live: ServedItems, candidates: Sequence[Any]) -> tuple[NDArray[np.int64], pa.Table]:
        """Places and columns of N items; those that are not live are described by what is known without an event."""
        item = self.spec.item or ""
        try:
            given = typed_array(candidates, self.window.types[item])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise WrongColumn(f"candidates: {error}") from error
        at = places(hash_values("item", given), live.ids)
        is_live = at != NOT_LIVE
        if is_live.all():
            return at, live.items.take(pa.array(at))
        others = self.source.describe(live, given.filter(pa.array(~is_live)))
        # [N]: rows of the live items, followed by those of the others.
        rows = np.where(is_live, at, len(live) + np.cumsum(~is_live) - 1)
        return at, pa.concat_tables([live.items, others], promote_options="default").take(pa.array(rows))


def _is_cached(value: Any) -> bool:
    """Whether the hash of a value is kept. A list, which is refused, cannot be a key, and long texts take much memory."""
    return not isinstance(value, list) and not (isinstance(value, str) and len(value) > _CACHED_TEXT)
