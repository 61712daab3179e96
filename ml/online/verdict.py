"""Judges a day of online training: whether the serving model has become worse.

The measure is the headline of the day's record: recall@20 if the day's clicks were ranked, as for retrieval models, and the AUC
otherwise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml.catalog.spec import DatasetSpec
from ml.days import trailing_days
from ml.evaluation.compare import Estimate
from ml.evaluation.ranking.metrics import HEADLINE, POPULAR_AUC
from ml.lake import Lake
from ml.online.loop import ONLINE
from ml.online.rivals import RETRAINED
from ml.stages import online_updates

LAST_DAYS = 7
FEWEST_DAYS = 3
"""Days before the day that it is compared with: at most the first number, and at least the second."""
MARGIN = 0.005
"""Falls up to this are ignored, as in the check of the champion."""
AUC = "auc"


@dataclass(frozen=True)
class OnlineVerdict:
    """The verdict on a day.

    Attributes:
        values: Numbers that the verdict depends on, by name; None if undefined.
        reasons: Why the day fails, in words; empty if it passes.
    """

    values: dict[str, float | None]
    reasons: list[str] = field(default_factory=list)


def judge_day(lake: Lake, spec: DatasetSpec, model: str, day: str) -> OnlineVerdict:
    """Judge a day in the lake.

    The measure is recall@20 for days that are ranked, otherwise AUC. A day fails if the daily model of the day before is
    significantly better on the same clicks or rows. It also fails if it is significantly, and by more than `MARGIN`, below the
    mean of the last days with the same measure. This comparison includes the spread of these days, because days differ by more
    than the sampling error.

    Raises:
        MissingPartition: The day was not trained online.
    """
    stage = online_updates(model)
    manifest = lake.manifest(stage, spec.name, day)
    metric = HEADLINE if manifest.get("ranking") else AUC
    title = metric.replace(AUC, "AUC")
    value, sampling_error = _measured(manifest, metric)
    values: dict[str, float | None] = {metric: value}
    if metric == HEADLINE:
        values[POPULAR_AUC] = manifest["ranking"]["models"].get(ONLINE, {}).get(POPULAR_AUC)
    reasons = []
    gain = _estimate(manifest["gains"].get(RETRAINED, {}).get(metric))
    if gain is not None:
        values["gain_over_retrained"] = gain.value
        if gain.is_below():
            reasons.append(f"the daily model of the day before has a significantly higher {title}, by {-gain.value:.4f}")
    there = set(lake.days(stage, spec.name)) & set(trailing_days(day, LAST_DAYS))
    earlier = [_measured(lake.manifest(stage, spec.name, other), metric)[0] for other in sorted(there)]
    known = [one for one in earlier if one is not None]
    if value is not None and len(known) >= FEWEST_DAYS:
        mean = values["mean_of_last_days"] = statistics.fmean(known)
        error = math.hypot(sampling_error or 0.0, statistics.stdev(known) * math.sqrt(1 + 1 / len(known)))
        change = Estimate(value - mean, error, len(known) - 1)
        if change.value < -MARGIN and change.is_below():
            reasons.append(f"the {title} is {-change.value:.4f} below its mean over the last {len(known)} days, {mean:.4f}")
    return OnlineVerdict(values, reasons)


def _measured(manifest: Mapping[str, Any], metric: str) -> tuple[float | None, float | None]:
    """Return a metric of the serving model on a day, and its standard error; None if it was not measured."""
    if metric == AUC:
        scores = manifest["scores"].get(ONLINE, {})
        return scores.get("auc"), scores.get("auc_error")
    ranked = (manifest.get("ranking") or {"models": {}})["models"].get(ONLINE)
    return (ranked[metric], ranked["standard_errors"][metric]) if ranked else (None, None)


def _estimate(found: dict[str, Any] | None) -> Estimate | None:
    return Estimate(found["value"], found["error"], found["df"]) if found else None
