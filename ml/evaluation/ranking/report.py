"""The key `ranking` of `metrics.json`: how models and standing sources rank all live items for the clicks of a day.

requests            clicks of the day
live_items          number of live items, mean over slices
reachable           share of the clicks whose item was live
filled_in           share of the clicks with a filled-in time; null if the dataset declares no such times
live_hours, slice_minutes    settings of the ranking
models, sources     by name: requests, recall@10, recall@20, recall@100, mrr@20, popular_auc (against items drawn in
                    proportion to their clicks in the first popularity window), standard_errors of these, `sampled`
                    (whether only a sample of the clicks was ranked), `without_seen` (the metrics after what the session
                    had clicked is removed), `true_times` and `filled_in_times` (the metrics of such clicks)
models: against     by source: recall@20 of the source on the same clicks, `difference` of the model to it, and its
                    standard_error and degrees of freedom `df`
unranked            the reason for each model that cannot rank all items
rankers             which ranker wins, see `ml.evaluation.ranking.rankers`; null without a LambdaRank of the day before
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec, Ranking
from ml.days import MICROSECONDS_PER_SECOND
from ml.evaluation.ranking.metrics import HEADLINE, METRICS, paired_difference, ranking_metrics
from ml.evaluation.ranking.requests import RankedDay, rank_requests
from ml.evaluation.ranking.systems import ClickRanks
from ml.evaluation.scores import ItemScorer
from ml.lake import Lake
from ml.models.lambdarank import LambdaRank


def rank_day(
    spec: DatasetSpec,
    day: str,
    lake: Lake,
    earlier: Sequence[str],
    models: Mapping[str, ItemScorer | str | None],
    ranker: LambdaRank | None = None,
) -> dict[str, Any] | None:
    """Rank the clicked item of every click of a day.

    Args:
        spec: The dataset.
        day: The day to rank, `YYYY-MM-DD`.
        lake: Where features are stored.
        earlier: Days with features before `day`, ascending.
        models: By name of a model, how it scores all items, or the reason why it cannot.
        ranker: A LambdaRank that has not seen the day.

    Returns:
        JSON values, described at the top of this module; None if reports of the dataset do not rank items.

    Raises:
        MissingPartition: The day has no features.
        ValueError: Scores are not finite.
    """
    asked = spec.ranked
    if asked is None:
        return None
    scorers = {name: items for name, items in models.items() if items is not None and not isinstance(items, str)}
    ranked = rank_requests(spec, asked, day, lake, earlier, scorers, ranker)
    return describe(spec, asked, ranked, {name: reason for name, reason in models.items() if isinstance(reason, str)})


def describe(spec: DatasetSpec, asked: Ranking, ranked: RankedDay, unranked: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compute the metrics of a ranked day: the JSON values that are described at the top of this module.

    Args:
        spec: The dataset.
        asked: `spec.ranked`.
        ranked: The requests and their ranks.
        unranked: The reason for each model that cannot rank all items.
    """
    filled_in, count = _filled_in(spec, ranked), len(ranked.whose)
    return {
        "requests": count,
        "live_items": ranked.live,
        "reachable": ranked.reachable / count if count else None,
        "filled_in": float(filled_in.mean()) if filled_in is not None and count else None,
        "live_hours": asked.live_hours,
        "slice_minutes": asked.slice_minutes,
        "models": {
            name: _metrics(of, ranked, filled_in) | {"against": _against(of, ranked)} for name, of in ranked.models.items()
        },
        "unranked": dict(unranked or {}),
        "sources": {name: _metrics(of, ranked, filled_in) for name, of in ranked.sources.items()},
        "rankers": ranked.rankers,
    }


def _filled_in(spec: DatasetSpec, ranked: RankedDay) -> NDArray[np.bool_] | None:
    """Return which requests have filled-in times, bool [N]; None if the dataset declares no such times."""
    if spec.session is None or spec.session.filled_in_seconds is None:
        return None
    return ranked.gap == round(spec.session.filled_in_seconds * MICROSECONDS_PER_SECOND)


def _metrics(of: ClickRanks, ranked: RankedDay, filled_in: NDArray[np.bool_] | None) -> dict[str, Any]:
    groups = ranked.whose[of.requests]
    without = ranking_metrics(of.unseen, groups)
    found = ranking_metrics(of.ranks, groups, of.above) | {
        "sampled": len(of.requests) < len(ranked.whose),
        "without_seen": {name: without[name] for name in METRICS},
        "true_times": None,
        "filled_in_times": None,
    }
    if filled_in is not None:
        late = filled_in[of.requests]
        found["true_times"] = ranking_metrics(of.ranks[~late], groups[~late], of.above[~late])
        found["filled_in_times"] = ranking_metrics(of.ranks[late], groups[late], of.above[late])
    return found


def _against(of: ClickRanks, ranked: RankedDay) -> dict[str, dict[str, Any]]:
    """Return by source its metric on the requests of a model, and the paired difference of the model to it."""
    groups, found = ranked.whose[of.requests], {}
    for name, source in ranked.sources.items():
        ranks = source.ranks[of.requests]
        difference = paired_difference(of.ranks, ranks, groups)
        found[name] = {
            HEADLINE: ranking_metrics(ranks, groups)[HEADLINE],
            "difference": difference and difference.value,
            "standard_error": difference and difference.error,
            "df": difference and difference.df,
        }
    return found
