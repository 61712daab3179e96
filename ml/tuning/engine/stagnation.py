"""Reasons to stop an experiment."""

from __future__ import annotations

from typing import Literal

from ml.tuning.definition import Study
from ml.tuning.engine.front import feasible, hypervolume, losses, optimized

Reason = Literal["observation_budget_reached", "possible_stagnation"]

LEAST = 10  # results of a study below which no stagnation is reported
LOOKBACK = 5  # latest results per parameter without progress
PROGRESS = 0.005  # relative to what was reached


def stopping_reasons(study: Study) -> list[Reason]:
    """Return why an experiment could stop; empty if it should go on.

    It stagnates if the latest five results per parameter improved the best value by less than 0.5 % of its distance to the
    first feasible value, or with two optimized metrics the hypervolume by less than 0.5 %. Without optimized metrics there is
    no stagnation. SigOpt looks back as far.

    Example:
        >>> from ml.tuning.definition import Metric, Observation, Space
        >>> tried = [Observation({}, {"auc": value}) for value in (0.5, 0.7, 0.8, *[0.8] * 9)]
        >>> stopping_reasons(Study(Space(()), (Metric("auc"),), tuple(tried), budget=30))
        ['possible_stagnation']
    """
    reasons: list[Reason] = []
    if study.budget is not None and len(study.observations) >= study.budget:
        reasons.append("observation_budget_reached")
    if len(study.observations) >= LEAST and _stagnates(study):
        reasons.append("possible_stagnation")
    return reasons


def _stagnates(study: Study) -> bool:
    before = len(study.observations) - LOOKBACK * max(1, len(study.space.parameters))
    allowed = [n for n, one in enumerate(study.observations) if feasible(study.metrics, one)]
    values = losses(study.metrics, [study.observations[n] for n in allowed])
    early = values[[n < before for n in allowed]]
    if not optimized(study.metrics) or not len(early):
        return False
    if values.shape[1] == 1:
        start, reached, now = early[0, 0], early.min(), values.min()
        return bool(reached - now <= PROGRESS * abs(start - now))
    worst = values.max(axis=0)
    reference = worst + 0.1 * (worst - values.min(axis=0)) + 1e-12
    return hypervolume(values, reference) <= (1 + PROGRESS) * hypervolume(early, reference)
