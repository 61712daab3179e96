"""Paired comparison of two ways of training, each with several seeds, on the same rows of the same days.

The error of a difference has two parts: the rows that were scored, and the seeds that were drawn. The first is estimated
as in `ml.evaluation.compare`, with influences that are averaged over the seeds. The second is the variance between the seeds'
own differences. Both are added; degrees of freedom follow Welch (1947) and Satterthwaite (1946).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from ml.evaluation.compare import Estimate, LabelledRows, Linearised, combine
from ml.training.replay import Replay
from ml.training.score import Floats

Predictions = Mapping[str, tuple[Floats, Floats]]
"""Labels and probabilities of scored days, by day."""


def predictions_by_day(replay: Replay) -> Predictions:
    """Return the predictions of a replay that has kept them."""
    return {day.day: day.predictions for day in replay.days if day.predictions is not None}


def difference(ones: Sequence[Predictions], others: Sequence[Predictions], metric: str) -> Estimate:
    """Estimate the mean difference of a metric, over days and seeds.

    Args:
        ones: Predictions of the one way of training, by seed.
        others: Predictions of the other one, with the same seeds, for the same days.
        metric: `auc` or `log_loss`.

    Returns:
        The metric of `ones` less the metric of `others`. Days are weighted by their rows of the rarer class.

    Raises:
        ValueError: The numbers of seeds, the days or the labels differ, or the metric is undefined on all days.
    """
    if len(ones) != len(others) or not ones or any(a.keys() != b.keys() for a, b in zip(ones, others, strict=True)):
        raise ValueError(f"expected the same days of the same seeds, found {len(ones)} and {len(others)} seeds")
    by_day, by_seed = [], [list[Estimate]() for _ in ones]
    for day, (labels, _) in ones[0].items():
        rows = LabelledRows(labels)
        of_seeds = [_difference(rows, one[day], other[day], metric) for one, other in zip(ones, others, strict=True)]
        known = [found for found in of_seeds if found is not None]
        if known:
            influence = np.mean([found.influence for found in known], axis=0)
            by_day.append(rows.estimate(Linearised(statistics.fmean(found.value for found in known), influence)))
            for own, found in zip(by_seed, known, strict=True):
                own.append(rows.estimate(found))
    total = combine(by_day)
    if total is None:
        raise ValueError(f"{metric} is undefined: only one class in the rows of {', '.join(ones[0])}")
    return with_seeds(total, [found.value for own in by_seed if (found := combine(own))])


def mean_of(values: Sequence[float]) -> Estimate:
    """Estimate a mean from independent values, such as one for each seed. The error of a single value is unknown.

    Example:
        >>> found = mean_of([1.0, 2.0, 3.0])
        >>> found.value, round(found.error or 0.0, 3), found.df
        (2.0, 0.577, 2)
    """
    if len(values) < 2:
        return Estimate(values[0], None, 0)
    return Estimate(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1)


def ratio(ones: Sequence[float], others: Sequence[float]) -> dict[str, float | None]:
    """Return the geometric mean of positive ratios, paired by seed, and its 95 % interval, in the form of `as_json`.

    Example:
        >>> round(ratio([2.0, 8.0], [1.0, 2.0])["value"] or 0.0, 3)
        2.828
    """
    logs = mean_of([math.log(one / other) for one, other in zip(ones, others, strict=True)])
    return {name: value if value is None else math.exp(value) for name, value in as_json(logs).items()}


def as_json(estimate: Estimate) -> dict[str, float | None]:
    """Return value and 95 % interval of an estimate as plain data."""
    low, high = estimate.interval() or (None, None)
    return {"value": estimate.value, "low": low, "high": high}


def as_text(estimate: Mapping[str, float | None], digits: int = 4) -> str:
    """Return an estimate from `as_json` as text: the value and its interval.

    Example:
        >>> as_text({"value": -0.00123, "low": -0.002, "high": -0.0004})
        '-0.0012 (-0.0020 to -0.0004)'
        >>> as_text({"value": -0.00001, "low": None, "high": None})  # without the sign of a rounded zero
        '0.0000'
    """
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    text = f"{value:z.{digits}f}"
    return text if low is None or high is None else f"{text} ({low:z.{digits}f} to {high:z.{digits}f})"


def _difference(rows: LabelledRows, one: tuple[Floats, Floats], other: tuple[Floats, Floats], metric: str) -> Linearised | None:
    if not np.array_equal(one[0] > 0.5, rows.clicked) or not np.array_equal(other[0], one[0]):
        raise ValueError("the labels differ")
    of = rows.auc if metric == "auc" else rows.log_loss
    a, b = of(one[1]), of(other[1])
    return None if a is None or b is None else a - b


def with_seeds(rows: Estimate, of_seeds: Sequence[float]) -> Estimate:
    """Add the variance between seeds to an estimate from rows. With a single seed, the error is the one over the rows."""
    seeds = mean_of(of_seeds)
    if rows.error is None or seeds.error is None:
        return rows
    by_rows, by_seeds = rows.error**2, seeds.error**2
    total = by_rows + by_seeds
    df = total**2 / (by_rows**2 / rows.df + by_seeds**2 / seeds.df) if total else rows.df
    return Estimate(rows.value, math.sqrt(total), max(1, int(df)))
