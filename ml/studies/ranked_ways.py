"""Rankings of all live items in the ways of `ml.studies.sync_interval`: metrics, and differences on the same clicks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.catalog.spec import DatasetSpec
from ml.evaluation.compare import Estimate, combine
from ml.evaluation.ranking.metrics import POPULAR_AUC, clustered_mean, values_of
from ml.evaluation.ranking.report import describe
from ml.evaluation.ranking.requests import RankedDay
from ml.online.loop import ONLINE
from ml.online.ranking import METRICS
from ml.studies.paired import with_seeds

RankedDays = Mapping[str, RankedDay]
"""The ranks that one model, called `online`, gave to the clicks of each day."""


def without_sources(ranked: RankedDays) -> dict[str, RankedDay]:
    """Drop the ranks of standing sources, which are the same in every way."""
    return {day: replace(of, sources={}) for day, of in ranked.items()}


def sources(spec: DatasetSpec, ranked: RankedDays) -> dict[str, dict[str, float]]:
    """Return the mean over days of each metric of the standing sources."""
    assert spec.ranked is not None
    by_day = [describe(spec, spec.ranked, of)["sources"] for of in ranked.values()]
    return {name: {metric: statistics.fmean(of[name][metric] for of in by_day) for metric in METRICS} for name in by_day[0]}


def ranking_of_way(
    spec: DatasetSpec, ones: Sequence[RankedDays], stale: Sequence[RankedDays] | None, retrained: Sequence[RankedDays] | None
) -> dict[str, Any]:
    """Summarise the rankings of one way.

    Args:
        spec: The dataset.
        ones: Rankings of the way, by seed.
        stale: Those of the model after the batch days, with the same seeds; None if these are `ones`.
        retrained: Those of the daily models, with the same seeds; None if these are `ones`.

    Returns:
        `requests` of the days. By metric: the mean `value` over days and seeds, its `spread` over seeds, and the gains
        `over_stale` and `over_retrained` with their 95 % intervals over sessions and seeds. `true_times` and `filled_in_times`:
        mean recall@20 of such clicks; None if the log does not have filled-in times.
    """
    assert spec.ranked is not None
    by_seed = [[describe(spec, spec.ranked, of)["models"][ONLINE] for of in days.values()] for days in ones]
    found: dict[str, Any] = {"requests": sum(of["requests"] for of in by_seed[0])}
    for metric in METRICS:
        values = [statistics.fmean(of[metric] for of in days) for days in by_seed]
        found[metric] = {
            "value": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
            "over_stale": _gain(ones, stale, metric) if stale else None,
            "over_retrained": _gain(ones, retrained, metric) if retrained else None,
        }
    for times in ("true_times", "filled_in_times"):
        parts = [of[times] for days in by_seed for of in days]
        found[times] = statistics.fmean(of["recall@20"] for of in parts) if all(parts) else None
    return found


def ranking_rows(ways: Mapping[str, Mapping[str, Any]], standing: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Format rankings for a table: recall@20 with its gains, then the other metrics, and the sources below."""

    def gain(of: Mapping[str, Any] | None) -> str:
        return "–" if of is None else f"{of['value']:+.4f} ± {1.96 * (of['error'] or 0.0):.4f}"

    rows = []
    for way, of in ways.items():
        first = of[METRICS[0]]
        values = [f"{of[metric]['value']:.4f} ± {of[metric]['spread']:.4f}" for metric in METRICS]
        rows.append([way, values[0], gain(first["over_retrained"]), gain(first["over_stale"]), *values[1:]])
    for name, of in standing.items():
        rows.append([name, f"{of[METRICS[0]]:.4f}", "", "", *(f"{of[metric]:.4f}" for metric in METRICS[1:])])
    return rows


def _gain(ones: Sequence[RankedDays], others: Sequence[RankedDays], metric: str) -> dict[str, Any]:
    by_day: list[Estimate] = []
    by_seed: list[list[Estimate]] = [[] for _ in ones]
    for day, first in ones[0].items():
        groups = first.whose[first.models[ONLINE].requests]
        differences = [_values(one[day], metric) - _values(other[day], metric) for one, other in zip(ones, others, strict=True)]
        for own, of in zip(by_seed, differences, strict=True):
            own.append(_mean(of, groups))
        by_day.append(_mean(np.mean(differences, axis=0), groups))
    total = combine(by_day)
    if total is None:
        raise ValueError(f"{metric} has no standard error: every day has clicks of fewer than two sessions")
    better = with_seeds(total, [found.value for own in by_seed if (found := combine(own))])
    return {"value": better.value, "error": better.error, "interval": list(better.interval() or ()), "p": better.p_above(0.0)}


def _values(ranked: RankedDay, metric: str) -> NDArray[np.float64]:
    """Return what a metric is the mean of, float64 [R]; NaN for clicks that do not count."""
    of = ranked.models[ONLINE]
    return of.above.astype(np.float64) if metric == POPULAR_AUC else values_of(of.ranks)[metric]


def _mean(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    known = ~np.isnan(values)
    return clustered_mean(values[known], groups[known])
