"""Decides whether a recipe should be tuned again: because of drift, a fall of quality, or wrong calibration.

| reason        | what is compared                                                                                          |
|---------------|-----------------------------------------------------------------------------------------------------------|
| `drift`       | a day's features with the days that the last tuning used, beyond how much these differ among themselves   |
| `fall`        | the model's lead over the logistic regression with the lead that the last tuning measured                |
| `calibration` | predicted with observed clicks                                                                            |
| `online`      | the AUC of the serving model within the day with the AUC of earlier days and of the daily model              |

A reason has to hold on the last days together, because one unusual day is no reason to tune. The days of some logs
always differ, such as those of a news portal, so drift counts only beyond what is usual for the log. The lead over the logistic
regression is compared instead of the metric, because some days are harder to predict for any model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ml.advisor.profiles.distributions import Distributions, drift_from, usual_drift
from ml.advisor.profiles.store import read_distributions
from ml.catalog.retune import Retune
from ml.catalog.spec import DatasetSpec
from ml.evaluation.compare import Estimate
from ml.lake import Lake
from ml.online.verdict import judge_day
from ml.stages import EVALUATION_REPORTS, FEATURE_PROFILES, online_updates, tuning_results
from ml.trials.promise import Promise, lead_of, promise_of

MOST_DAYS = 7
"""Most reported days whose lead is compared with the promise."""


@dataclass(frozen=True)
class RetuneNeed:
    """Whether one model of a dataset should be tuned again.

    Attributes:
        model: Name of the model.
        day: The last reported day that is considered.
        since: Day that the last tuning served; None if the model was never tuned.
        reasons: What each reason that holds has found, for people, by name: `drift`, `fall`, `calibration`, `online`.
        measured: Numbers that were compared, by name; absent where there is nothing to compare yet.
    """

    model: str
    day: str
    since: str | None
    reasons: Mapping[str, str]
    measured: Mapping[str, float] = field(default_factory=dict)


def retune_needs(spec: DatasetSpec, day: str, lake: Lake) -> dict[str, RetuneNeed]:
    """Decides for each model of a dataset whether it should be tuned again.

    Args:
        spec: The dataset; its key `retune` has the thresholds.
        day: A reported day. Later days are not considered.
        lake: Where profiles, reports and tunings are stored.

    Returns:
        The decision by model.
    """
    profiles = _Profiles(spec, lake)
    reports = _reports(spec, day, lake)
    return {model: _need(spec, model, day, lake, profiles, reports) for model in spec.models}


@dataclass(frozen=True)
class _Found:
    """What one reason has measured: a number, and an explanation if it is beyond its limit."""

    value: float
    reason: str | None


def _need(
    spec: DatasetSpec, model: str, day: str, lake: Lake, profiles: _Profiles, reports: Mapping[str, Mapping[str, Any]]
) -> RetuneNeed:
    limits = spec.retune
    tunings = [served for served in lake.days(tuning_results(model), spec.name) if served < day]
    since = tunings[-1] if tunings else None
    promise = promise_of(lake, spec.name, model, since) if since else None
    reference = promise.window if promise else profiles.days[: limits.reference_days]
    served = [report for known, report in reports.items() if since is None or known > since]
    every = {
        "drift": _drift(profiles, reference, day, limits),
        "fall": _fall(promise, model, served, limits),
        "calibration": _calibration(model, served[-limits.days :], limits),
        "online": _online(spec, model, since, day, lake),
    }
    found = {name: of for name, of in every.items() if of is not None}
    reasons = {name: of.reason for name, of in found.items() if of.reason is not None}
    return RetuneNeed(model, day, since, reasons, {name: of.value for name, of in found.items()})


class _Profiles:
    """Distributions of a dataset's days, each read once."""

    def __init__(self, spec: DatasetSpec, lake: Lake) -> None:
        self._spec, self._lake = spec, lake
        stored = (day for day in lake.days(FEATURE_PROFILES, spec.name) if day >= spec.first_day)
        self.days = tuple(day for day in stored if lake.is_current(FEATURE_PROFILES, spec.name, day, spec.fingerprint))
        self._vocabularies = frozenset(of.name for of in spec.sparse if of.vocabulary)
        people = {spec.user, spec.item}
        self._excluded = frozenset(of.name for of in spec.sparse if of.history or people & set(of.inputs))
        self._read: dict[str, Distributions] = {}
        self._found: dict[tuple[Sequence[str], str], dict[str, float]] = {}
        self._usual: dict[Sequence[str], dict[str, float]] = {}

    def excess(self, reference: Sequence[str], after: Sequence[str]) -> dict[str, float]:
        """Returns by feature the smallest excess over the usual drift on the last days; empty if there are too few days."""
        reference, recent = tuple(day for day in reference if day in self.days), after[-self._spec.retune.days :]
        if len(reference) < 2 or len(recent) < self._spec.retune.days:
            return {}
        if reference not in self._usual:
            self._usual[reference] = usual_drift([self._of(day) for day in reference], self._vocabularies, self._excluded)
        drifts = [self._drift(reference, day) for day in recent]
        return {name: min(of.get(name, 0.0) for of in drifts) - usual for name, usual in self._usual[reference].items()}

    def _drift(self, reference: Sequence[str], day: str) -> dict[str, float]:
        if (reference, day) not in self._found:
            before = [self._of(known) for known in reference]
            self._found[reference, day] = drift_from(self._of(day), before, self._vocabularies, self._excluded)
        return self._found[reference, day]

    def _of(self, day: str) -> Distributions:
        if day not in self._read:
            self._read[day] = read_distributions(self._lake.partition(FEATURE_PROFILES, self._spec.name, day))
        return self._read[day]


def _reports(spec: DatasetSpec, day: str, lake: Lake) -> dict[str, dict[str, Any]]:
    """Returns the last reports up to a day, by day."""
    last = [known for known in lake.days(EVALUATION_REPORTS, spec.name) if spec.first_day < known <= day]
    kept = last[-max(MOST_DAYS, spec.retune.days) :]
    return {
        known: json.loads((lake.partition(EVALUATION_REPORTS, spec.name, known) / "metrics.json").read_text()) for known in kept
    }


def _drift(profiles: _Profiles, reference: Sequence[str], day: str, limits: Retune) -> _Found | None:
    """Compares the last days' features with the reference days; None with too few days."""
    if limits.drift is None or not reference:
        return None
    excess = profiles.excess(reference, [known for known in profiles.days if reference[-1] < known <= day])
    feature = max(excess, key=excess.__getitem__, default=None)
    if feature is None:
        return None
    reason = (
        f"{feature} differs from {reference[0]} to {reference[-1]} by {excess[feature]:.3f} more than these days differ among "
        f"themselves, on each of the last {limits.days} days (retune.drift: {limits.drift:g})"
    )
    return _Found(excess[feature], reason if excess[feature] > limits.drift else None)


def _fall(promise: Promise | None, model: str, reports: Sequence[Mapping[str, Any]], limits: Retune) -> _Found | None:
    """Compares the lead of the last days with the promised one; None without a promise, or with too few days."""
    if limits.fall is None or promise is None or promise.lead is None:
        return None
    leads = [lead for report in reports if (lead := lead_of(report, model, promise.metric)) is not None]
    if len(leads) < limits.days:
        return None
    falls = promise.lead - np.array(leads)
    fall = Estimate(float(falls.mean()), float(falls.std(ddof=1) / np.sqrt(len(falls))), len(falls) - 1)
    reason = (
        f"the lead in {promise.metric} over the logistic regression is {fall.value:.4f} below the {promise.lead:.4f} that the "
        f"last tuning measured, on {len(leads)} days together (retune.fall: {limits.fall:g})"
    )
    return _Found(fall.value, reason if fall.value > limits.fall and fall.is_above(0.0) else None)


def _calibration(model: str, reports: Sequence[Mapping[str, Any]], limits: Retune) -> _Found | None:
    """Returns the factor that predictions are off by on each day, at least and on the same side; None with too few days."""
    if limits.calibration is None:
        return None
    every = [(report["models"].get(model) or {}).get("intervals") or {} for report in reports]
    known = [interval for of in every if (interval := of.get("calibration")) is not None]
    if len(known) < limits.days:
        return None
    above, below = min(low for low, _ in known), 1 / max(max(high for _, high in known), 1e-9)
    factor = max(1.0, above, below)
    reason = (
        f"predicted and observed clicks differ by a factor of {factor:.2f} or more on each of the last {limits.days} days, "
        f"beyond sampling noise (retune.calibration: {limits.calibration:g})"
    )
    return _Found(factor, reason if factor > limits.calibration else None)


def _online(spec: DatasetSpec, model: str, since: str | None, day: str, lake: Lake) -> _Found | None:
    """Counts the last days on which online training has become worse; None with too few days."""
    trained = lake.days(online_updates(model), spec.name)
    days = [known for known in trained if known <= day and (since is None or known > since)][-spec.retune.days :]
    if not spec.retune.online or len(days) < spec.retune.days:
        return None
    fallen = [known for known in days if judge_day(lake, spec, model, known).reasons]
    last = "; ".join(judge_day(lake, spec, model, days[-1]).reasons)
    reason = f"online training has become worse on each of the last {len(days)} days; on {days[-1]}, {last} (retune.online)"
    return _Found(float(len(fallen)), reason if len(fallen) == len(days) else None)
