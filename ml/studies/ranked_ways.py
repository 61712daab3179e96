"""Rankings of all live items in the ways of `ml.studies.sync_interval`: metrics, and differences on the same clicks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
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
TIMES = ("true_times", "filled_in_times")
"""Clicks whose times are true, and clicks whose times the publisher filled in."""
GAINS = ("over_retrained", "over_stale", "over_fewer_slices")
"""Gains of a way of `ml.studies.sync_interval`, in the order of the tables."""


def sources(spec: DatasetSpec, ranked: RankedDays) -> dict[str, dict[str, float | None]]:
    """Return the mean over days of each metric of the standing sources, and `TIMES` as in `ranking_of_way`."""
    assert spec.ranked is not None
    by_day = [describe(spec, spec.ranked, of)["sources"] for of in ranked.values()]
    found = {}
    for name in by_day[0]:
        days = [of[name] for of in by_day]
        found[name] = {metric: statistics.fmean(of[metric] for of in days) for metric in METRICS} | _by_times(days)
    return found


def ranking_of_way(
    spec: DatasetSpec, ones: Sequence[RankedDays], others: Mapping[str, Sequence[RankedDays] | None]
) -> dict[str, Any]:
    """Summarise the rankings of one way.

    Args:
        spec: The dataset.
        ones: Rankings of the way, by seed.
        others: Rankings of other ways with the same seeds, by name of the gain over them; None if the gain is undefined.

    Returns:
        `requests` of the days. By metric: the mean `value` over days and seeds, its `spread` over seeds, and the gains over
        `others` with their 95 % intervals over sessions and seeds. `true_times` and `filled_in_times`: mean recall@20 of such
        clicks; None if the log does not have filled-in times.
    """
    assert spec.ranked is not None
    by_seed = [[describe(spec, spec.ranked, of)["models"][ONLINE] for of in days.values()] for days in ones]
    found: dict[str, Any] = {"requests": sum(of["requests"] for of in by_seed[0])}
    for metric in METRICS:
        values = [statistics.fmean(of[metric] for of in days) for days in by_seed]
        found[metric] = {
            "value": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
            **{gain: _gain(ones, of, metric) if of else None for gain, of in others.items()},
        }
    return found | _by_times([of for days in by_seed for of in days])


def ranking_rows(ways: Mapping[str, Mapping[str, Any]], standing: Mapping[str, Mapping[str, float | None]]) -> list[list[str]]:
    """Format rankings for a table: recall@20 with its gains, the other metrics, `TIMES`, and the sources below."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    rows = []
    for way, of in ways.items():
        first = of[METRICS[0]]
        values = [f"{of[metric]['value']:.4f} ± {of[metric]['spread']:.4f}" for metric in METRICS]
        rows.append([way, values[0], *(gain_as_text(first[gain]) for gain in GAINS), *values[1:]])
        rows[-1] += [number(of[times]) for times in TIMES]
    for name, of in standing.items():
        first, *others = (number(of[metric]) for metric in (*METRICS, *TIMES))
        rows.append([name, first, *([""] * len(GAINS)), *others])
    return rows


def _by_times(parts: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    return {
        times: statistics.fmean(of[times][METRICS[0]] for of in parts) if all(of[times] for of in parts) else None
        for times in TIMES
    }


def recall_by_time(ranked: RankedDays, parts: int) -> list[float]:
    """Return recall@20 of `parts` equal numbers of clicks of each day, in time order; NaN of a part without clicks."""
    hits = (values_of(of.models[ONLINE].ranks)[METRICS[0]] for of in ranked.values())
    return [float(part.mean()) if len(part) else math.nan for of in hits for part in np.array_split(of, parts)]


def gain_as_json(gain: Estimate) -> dict[str, Any]:
    """Return a gain with its 95 % interval and the probability of no gain as plain data."""
    return {"value": gain.value, "error": gain.error, "interval": list(gain.interval() or ()), "p": gain.p_above(0.0)}


def gain_as_text(gain: Mapping[str, Any] | None) -> str:
    """Return a gain from `gain_as_json` as text: the value and half of its 95 % interval.

    Example:
        >>> gain_as_text({"value": 0.0123, "interval": [0.0113, 0.0133]})
        '+0.0123 ± 0.0010'
    """
    if gain is None:
        return "–"
    low, high = gain["interval"] or (gain["value"], gain["value"])
    return f"{gain['value']:+.4f} ± {(high - low) / 2:.4f}"


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
    return gain_as_json(with_seeds(total, [found.value for own in by_seed if (found := combine(own))]))


def _values(ranked: RankedDay, metric: str) -> NDArray[np.float64]:
    """Return what a metric is the mean of, float64 [R]; NaN for clicks that do not count."""
    of = ranked.models[ONLINE]
    return of.above.astype(np.float64) if metric == POPULAR_AUC else values_of(of.ranks)[metric]


def _mean(values: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    known = ~np.isnan(values)
    return clustered_mean(values[known], groups[known])
