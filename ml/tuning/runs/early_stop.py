"""Whether a run should stop early, from its own checkpoints and the checkpoints of the other runs of its experiment.

Runs are compared at the same checkpoint, so checkpoints have to be logged at the same points of a training, for example after
each tenth of the pass. Both rules also hold for experiments with two optimized metrics, which Optuna's pruners do not support.
The answer is advice: the training decides what it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from ml.tuning.definition import Metric

Values = Mapping[str, float]
"""Values by metric."""

MIN_RUNS = 4  # other runs that a rule needs before it says anything
MIN_CHECKPOINTS = 3  # own checkpoints before a trend counts


@dataclass(frozen=True)
class Progress:
    """One run.

    Attributes:
        checkpoints: Values at each checkpoint, in order.
        final: Values that the run reported at its end; empty while it is active.
    """

    checkpoints: Sequence[Values]
    final: Values = field(default_factory=dict)


def stopping_reasons(metrics: Sequence[Metric], run: Progress, others: Sequence[Progress]) -> dict[str, bool]:
    """Apply all rules to the newest checkpoint of a run.

    Args:
        metrics: Metrics of the experiment.
        run: The run, with at least one checkpoint.
        others: The other runs of the experiment, also active ones.

    Returns:
        Whether each rule asks the run to stop, by the rule's name. `median_rule`: every optimized metric is worse than the
        median of the other runs at the same checkpoint. `threshold_rule`: a metric will miss its threshold even if the rest of
        the run goes as well as in the best of the completed runs.

    Example:
        >>> others = [Progress([{"auc": value}]) for value in (0.70, 0.71, 0.72, 0.73)]
        >>> stopping_reasons([Metric("auc")], Progress([{"auc": 0.69}]), others)
        {'median_rule': True, 'threshold_rule': False}
    """
    return {"median_rule": _below_median(metrics, run, others), "threshold_rule": _misses_threshold(metrics, run, others)}


def _worse(metric: Metric, value: float, than: float) -> bool:
    return value < than if metric.objective == "maximize" else value > than


def _below_median(metrics: Sequence[Metric], run: Progress, others: Sequence[Progress]) -> bool:
    """Median rule (Golovin et al., Google Vizier, KDD 2017, section 3.2.2), for all optimized metrics together."""
    index = len(run.checkpoints) - 1
    optimized = [metric for metric in metrics if metric.strategy == "optimize"]
    for metric in optimized:
        value = run.checkpoints[index].get(metric.name)
        rivals = [other.checkpoints[index][metric.name] for other in others if _has(other, index, metric)]
        if value is None or len(rivals) < MIN_RUNS or not _worse(metric, value, median(rivals)):
            return False
    return bool(optimized)


def _misses_threshold(metrics: Sequence[Metric], run: Progress, others: Sequence[Progress]) -> bool:
    index = len(run.checkpoints) - 1
    for metric in metrics:
        value = run.checkpoints[index].get(metric.name)
        if metric.threshold is None or value is None:
            continue
        completed = [other for other in others if _has(other, index, metric) and metric.name in other.final]
        if len(completed) >= MIN_RUNS:
            ends = [
                end for other in completed for end in _projections(value, other.checkpoints[index][metric.name], other, metric)
            ]
            if not any(metric.meets(end) for end in ends):
                return True
        elif not metric.meets(value) and _only_worsens(metric, run):
            return True
    return False


def _projections(value: float, at_checkpoint: float, other: Progress, metric: Metric) -> list[float]:
    """Final values if the run continues as another did: by the same difference and, for positive values, by the same factor."""
    final = other.final[metric.name]
    ends = [value + final - at_checkpoint]
    if min(value, final, at_checkpoint) > 0:
        ends.append(value * final / at_checkpoint)
    return ends


def _only_worsens(metric: Metric, run: Progress) -> bool:
    """Whether a metric got worse at every checkpoint, as the training time does, so that a missed threshold stays missed."""
    values = [checkpoint[metric.name] for checkpoint in run.checkpoints if metric.name in checkpoint]
    return len(values) >= MIN_CHECKPOINTS and all(_worse(metric, after, before) for before, after in pairwise(values))


def _has(run: Progress, index: int, metric: Metric) -> bool:
    return index < len(run.checkpoints) and metric.name in run.checkpoints[index]
