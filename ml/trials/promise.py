"""The promise of a tuning: the lead of its recipe over the logistic regression of reports, on the days that it scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.lake import Lake
from ml.stages import EVALUATION_REPORTS, tuning_results

BASELINE = "logistic_regression"
LOWER_IS_BETTER = frozenset({"log_loss"})


@dataclass(frozen=True)
class Promise:
    """The promise of one tuning.

    Attributes:
        window: The days that its trials used, in order.
        metric: `auc`, or `log_loss` if trials did not measure the AUC.
        lead: Mean lead over the logistic regression on the scored days; above 0 if the recipe is better. None if it is unknown.
    """

    window: tuple[str, ...]
    metric: str
    lead: float | None


def promise_of(lake: Lake, dataset: str, model: str, day: str) -> Promise:
    """Reads what the tuning that served a day has promised.

    If its best trial was not adopted, the promise is the result of the trial of the recipe in use, if there was one.

    Raises:
        MissingPartition: The tuning is not in the lake.
    """
    manifest = lake.manifest(tuning_results(model), dataset, day)
    values = manifest["best"]["values"] if manifest["adopted"] else manifest.get("in_use") or {}
    metric = next((name for name in ("auc", "log_loss") if name in values), "auc")
    baselines = [_baseline(lake, dataset, scored, metric) for scored in manifest["scored"]]
    known = [value for value in baselines if value is not None]
    lead = None
    if metric in values and known and len(known) == len(baselines):
        lead = _lead(values[metric], float(np.mean(known)), metric)
    return Promise(tuple(manifest["window"]), metric, lead)


def lead_of(report: Mapping[str, Any], model: str, metric: str) -> float | None:
    """Returns a model's lead over the logistic regression in a report; None if either has no such metric."""
    own = (report["models"].get(model) or {}).get(metric)
    baseline = (report["baselines"].get(BASELINE) or {}).get(metric)
    return None if own is None or baseline is None else _lead(own, baseline, metric)


def _lead(own: float, baseline: float, metric: str) -> float:
    return baseline - own if metric in LOWER_IS_BETTER else own - baseline


def _baseline(lake: Lake, dataset: str, day: str, metric: str) -> float | None:
    if not lake.has(EVALUATION_REPORTS, dataset, day):
        return None
    report = json.loads((lake.partition(EVALUATION_REPORTS, dataset, day) / "metrics.json").read_text())
    return (report["baselines"].get(BASELINE) or {}).get(metric)
