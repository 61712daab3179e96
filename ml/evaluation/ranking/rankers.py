"""Which ranker wins: the rankers of a recommendation and the standing sources, on the same sample of the clicks of a day.

For each sampled click, the sources of `ml.retrieval.signals` find candidates as of the start of the slice of time, as the
service does. The LambdaRank and each model that scores pairs order these candidates. Two-tower models and the standing sources
order all live items. The user's last items are left out in both cases. The clicked item is missed if it was not live, was left
out, or was not a candidate.

The key `rankers` of a ranking:

requests, sampled   number of clicks, and whether they are a sample
candidates          number of candidates, mean over clicks
found               share of the clicks whose item was a candidate
systems             by name: `of`, what it orders (`candidates` or `live items`); recall@10, recall@20, recall@100, mrr@20,
                    standard_errors of these; and `behind`, the recall@20 of the best system less its own on the same clicks:
                    difference, standard_error and degrees of freedom `df` (null for the best system)
best                the system with the highest recall@20
winner              the best system if its recall@20 is significantly higher than that of every other; else null
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.evaluation.compare import Estimate
from ml.evaluation.ranking.clicks import DayClicks
from ml.evaluation.ranking.metrics import HEADLINE, METRICS, paired_difference, ranking_metrics
from ml.evaluation.ranking.systems import Requests
from ml.features.hashing import hash_values
from ml.lake import Lake
from ml.models.lambdarank import LambdaRank
from ml.retrieval.candidate_lists import reach
from ml.retrieval.contexts import NOT_LIVE, places
from ml.retrieval.interactions import context_columns, interactions_of, positive, read_rows
from ml.retrieval.items import item_column
from ml.retrieval.ranks import MISSED, ranks_of
from ml.retrieval.signals import CandidateSignals
from ml.schema import EVENT_TIME, ITEM_KEY

LAMBDARANK = "lambdarank"
CANDIDATES, LIVE_ITEMS = "candidates", "live items"


class Rankers:
    """Orders candidates, and live items, for a sample of the clicks of a day.

    Args:
        spec: A dataset with an item and a user.
        day: The day of the clicks, `YYYY-MM-DD`.
        lake: Where raw logs are stored.
        ranker: A LambdaRank that has not seen the day.
        of_candidates: Names of the models that order candidates. All other systems order live items.
        found: The clicks of the day.
        sampled: bool [requests], the sample.

    Raises:
        MissingPartition: The log of the day is not in the lake.
        ValueError: The clicks are not those of the log, or the LambdaRank has other signals.

    Attributes:
        sampled: bool [requests], clicks of the sample that have an item.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        day: str,
        lake: Lake,
        ranker: LambdaRank,
        of_candidates: Sequence[str],
        found: DayClicks,
        sampled: NDArray[np.bool_],
    ) -> None:
        self._ranker, self._of_candidates = ranker, {*of_candidates, LAMBDARANK}
        self._signals = CandidateSignals(context_columns(spec))
        if ranker.names != self._signals.names:
            raise ValueError(
                f"{spec.name}: the LambdaRank before {day} has the signals {ranker.names}, expected {self._signals.names}; "
                "materialise candidate_index of the day before again"
            )
        rows = read_rows(spec, day, lake, reach(spec, day))
        self._events, items = interactions_of(spec, rows), rows[item_column(spec)].combine_chunks()
        self._keys, first = np.unique(hash_values(ITEM_KEY, items), return_index=True)
        self._ids = hash_values("item", items)[first]  # signals order equal items by the ids that the service uses
        clicked = np.flatnonzero(positive(spec, rows))
        clicked = clicked[rows[EVENT_TIME].to_numpy()[clicked] >= day_bounds(day, spec.zone)[0]]
        if not np.array_equal(rows[EVENT_TIME].to_numpy()[clicked], found.clicks.time[found.first :]):
            raise ValueError(f"{spec.name} {day}: the clicks of the features are not those of the log; make the features again")
        at = np.searchsorted(self._events.row, clicked)
        self._at = np.where(np.isin(clicked, self._events.row), at, -1)  # of each click, its place among the events
        self.sampled = sampled & (self._at >= 0)  # a click without an item has no event
        self._whose, self._done = found.whose[found.first :], 0
        self._ranks: dict[str, NDArray[np.int32]] = {}
        self._sizes, self._found = np.zeros(len(sampled), np.int64), np.zeros(len(sampled), np.bool_)

    def rank(self, asked: Requests, scores: Mapping[str, NDArray[np.float32]]) -> None:
        """Order candidates and live items for the sampled clicks of a slice.

        Args:
            asked: The clicks of the slice, which has live items.
            scores: float32 [B, L] by system: its scores of all live items for the B sampled clicks.
        """
        chosen = np.flatnonzero(self.sampled[asked.numbers])
        if not asked.live or not len(chosen):
            return
        until = int(np.searchsorted(self._events.clicks.time, asked.start))
        self._signals.observe(self._events.rows(self._done, until))
        self._done = until
        known = places(asked.live.ids, self._keys)
        if (known == NOT_LIVE).any():
            raise ValueError("a live item has no row in the log; make the features again")
        ids = self._ids[known]
        order = np.argsort(ids)
        items, numbers, at = ids[order], asked.numbers[chosen], asked.at[chosen]
        at = np.where(at == NOT_LIVE, NOT_LIVE, np.argsort(order)[at])
        self._signals.refresh(asked.start, items)
        requests = self._events.requests.take(self._at[numbers])
        listed = self._signals.candidates(requests)
        shape = len(chosen), len(asked.live)
        b, seen = np.repeat(np.arange(len(chosen)), np.diff(listed.offsets)), requests.past.places(items)
        is_candidate, unseen, of_ranker = np.zeros(shape, np.bool_), np.ones(shape, np.bool_), np.zeros(shape, np.float32)
        is_candidate[b, listed.places] = True
        of_ranker[b, listed.places] = self._ranker.scores(listed.signals)
        owner = np.repeat(np.arange(len(chosen)), np.diff(requests.past.offsets))
        unseen[owner[seen != NOT_LIVE], seen[seen != NOT_LIVE]] = False
        self._sizes[numbers], self._found[numbers] = np.diff(listed.offsets), _among(is_candidate, at)
        for name, held in {LAMBDARANK: of_ranker, **{name: of[:, order] for name, of in scores.items()}}.items():
            allowed = is_candidate if name in self._of_candidates else unseen
            ranks = ranks_of(np.where(allowed, held, np.float32(-np.inf)), np.where(_among(allowed, at), at, NOT_LIVE))
            self._ranks.setdefault(name, np.full(len(self.sampled), MISSED, np.int32))[numbers] = ranks

    def result(self) -> dict[str, Any]:
        """Compare the systems: the JSON values that are described at the top of this module."""
        which = self.sampled
        count = int(which.sum())
        compared = compare_rankers({name: of[which] for name, of in self._ranks.items()}, self._whose[which])
        for name, of in compared["systems"].items():
            of["of"] = CANDIDATES if name in self._of_candidates else LIVE_ITEMS
        return {
            "requests": count,
            "sampled": count < len(which),
            "candidates": float(self._sizes[which].mean()) if count else None,
            "found": float(self._found[which].mean()) if count else None,
            **compared,
        }


def compare_rankers(ranks: Mapping[str, NDArray[np.int32]], groups: NDArray[np.int64]) -> dict[str, Any]:
    """Compare systems on the same N requests.

    Args:
        ranks: int32 [N] by system, number of items before the clicked one, or `MISSED`.
        groups: int64 [N]. Requests of one group, such as a session, are not independent.

    Returns:
        `systems` without `of`, `best` and `winner`, as described at the top of this module.

    Example:
        >>> ranks = {"one": np.array([0, 3, 1, 0], np.int32), "other": np.array([40, 2, 50, 0], np.int32)}
        >>> found = compare_rankers(ranks, np.arange(4))
        >>> found["best"], found["winner"], found["systems"]["other"]["behind"]["difference"]
        ('one', None, 0.5)
    """
    metrics = {name: ranking_metrics(of, groups) for name, of in ranks.items()}
    best = max(metrics, key=lambda name: metrics[name][HEADLINE] or 0.0, default=None)
    behind = {name: paired_difference(ranks[best], of, groups) for name, of in ranks.items() if best and name != best}
    systems = {
        name: {metric: of[metric] for metric in (*METRICS, "standard_errors")} | {"behind": _described(behind.get(name))}
        for name, of in metrics.items()
    }
    return {"systems": systems, "best": best, "winner": best if all(_is_above(of) for of in behind.values()) else None}


def _among(allowed: NDArray[np.bool_], at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the places [B] are live and allowed [B, L]."""
    return (at != NOT_LIVE) & allowed[np.arange(len(at)), at]


def _is_above(difference: Estimate | None) -> bool:
    """Whether a difference is significant. Few requests can all have one difference, so an error of 0 counts as unknown."""
    return difference is not None and bool(difference.error) and difference.is_above()


def _described(difference: Estimate | None) -> dict[str, Any] | None:
    return difference and {"difference": difference.value, "standard_error": difference.error, "df": difference.df}
