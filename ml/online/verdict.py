"""Judges a day of online training: whether the AUC of the serving model has fallen."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from ml.catalog.spec import DatasetSpec
from ml.days import trailing_days
from ml.evaluation.compare import Estimate
from ml.lake import Lake
from ml.online.loop import ONLINE
from ml.online.rivals import RETRAINED
from ml.stages import online_updates

LAST_DAYS = 7
FEWEST_DAYS = 3
"""Days before the day that its AUC is compared with: at most the first number, and at least the second."""
MARGIN = 0.005
"""Falls of AUC up to this are ignored, as in the check of the champion."""


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

    A day fails if its AUC is significantly lower than the AUC of the daily model of the day before on the same rows, or if it
    is significantly and by more than `MARGIN` below the mean of the last days. The second comparison takes the spread of these
    days into account, because days differ by more than the sampling error.

    Raises:
        MissingPartition: The day was not trained online.
    """
    stage = online_updates(model)
    manifest = lake.manifest(stage, spec.name, day)
    scores = manifest["scores"].get(ONLINE, {})
    values: dict[str, float | None] = {"auc": scores.get("auc")}
    reasons = []
    gain = _estimate(manifest["gains"].get(RETRAINED, {}).get("auc"))
    if gain is not None:
        values["gain_over_retrained"] = gain.value
        if gain.is_below():
            reasons.append(f"the daily model of the day before has a significantly higher AUC, by {-gain.value:.4f}")
    there = set(lake.days(stage, spec.name)) & set(trailing_days(day, LAST_DAYS))
    earlier = [lake.manifest(stage, spec.name, other)["scores"].get(ONLINE, {}).get("auc") for other in sorted(there)]
    known = [area for area in earlier if area is not None]
    if values["auc"] is not None and len(known) >= FEWEST_DAYS:
        mean = values["mean_of_last_days"] = statistics.fmean(known)
        error = math.hypot(scores["auc_error"] or 0.0, statistics.stdev(known) * math.sqrt(1 + 1 / len(known)))
        change = Estimate(values["auc"] - mean, error, len(known) - 1)
        if change.value < -MARGIN and change.is_below():
            reasons.append(f"the AUC is {-change.value:.4f} below its mean over the last {len(known)} days, {mean:.4f}")
    return OnlineVerdict(values, reasons)


def _estimate(found: dict[str, Any] | None) -> Estimate | None:
    return Estimate(found["value"], found["error"], found["df"]) if found else None
