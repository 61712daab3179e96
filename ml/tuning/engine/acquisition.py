"""Acquisition functions: the expected improvement of the best results, times the probability of meeting all limits.

The processes and acquisition functions are Optuna's. Its sampler is not used, for three reasons: it measures the hypervolume of
two metrics from the worst result rather than from the thresholds, it cannot model failed points, and it ignores open points as
long as no result is feasible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from optuna._gp import acqf, gp
from optuna._gp.prior import DEFAULT_MINIMUM_NOISE_VAR, default_log_prior
from optuna._gp.search_space import SearchSpace as OptunaSpace

from ml.tuning.engine.history import History
from ml.tuning.engine.niches import Niches

Rows = NDArray[np.float64]

SAMPLES = 128  # quasi-random draws of an expectation
STOPPED = 0.75  # quantile of the losses that a stopped point counts as
FAILED, SUCCEEDED = 1.5, -0.5  # around the limit of zero: points closer to a failure than to a success are avoided

SOFT = 0.2  # width of a ball's border, as a share of its radius
TINY = 1e-12  # keeps the gradient of a distance of zero finite


@dataclass(frozen=True)
class _Process:
    """A fitted process over scores, which are standardized and greater when better.

    Attributes:
        regressor: The process.
        scores: What it was fitted to. shape: (results,)
        limit: The score at which the limit is met.
    """

    regressor: gp.GPRegressor
    scores: Rows
    limit: float


def acquisition(
    space: OptunaSpace,
    points: Rows,
    open_points: Rows,
    known: History,
    *,
    caution: int,
    seed: int,
    others: Niches | None = None,
) -> acqf.BaseAcquisitionFunc:
    """Return the acquisition function of a study.

    Args:
        space: The space in Optuna's terms.
        points: Normalized parameters of the finished points. shape: (N, free)
        open_points: Those of the open points. shape: (M, free)
        known: The results. At least one point did not fail.
        caution: Power of the probability of meeting the limits.
        seed: Seed of the expectations' draws.
        others: Niches in which no improvement is looked for, of a study with one metric.
    """
    good = ~known.failed
    # Failed points count as the worst result, so that no improvement is extrapolated into the region of failures. Stopped ones
    # were worse than the median of others, so they count as the median of the worse half.
    objectives = [
        _fit(space, points, np.select([good, known.stopped], [loss, np.quantile(loss[good], STOPPED)], loss[good].max()))
        for loss in known.losses.T
    ]
    limits = [_fit(space, points[good], values) for values in known.constraints[good].T]
    ended = ~known.stopped
    if known.failed[ended].any():
        limits.append(_fit(space, points[ended], np.where(known.failed[ended], FAILED, SUCCEEDED)))
    limits = [*(process for process, has in zip(objectives, known.bounded, strict=True) if has), *limits]
    feasible = known.feasible
    if not feasible.any():
        return _probability(space, objectives, limits, open_points)
    limits = limits * caution
    if others is not None:
        rivals = objectives[0].scores[feasible & ~others.inside]
        best = rivals.max() if len(rivals) else objectives[0].scores[feasible].min()
        function = _improvement(space, objectives[0], limits, float(best), open_points, seed)
        return _Outside(function, points[others.centres], others.radius)
    if len(objectives) == 1:
        return _improvement(space, objectives[0], limits, float(objectives[0].scores[feasible].max()), open_points, seed)
    return _hypervolume(space, objectives, known.bounded, limits, feasible, open_points, seed)


def _fit(space: OptunaSpace, points: Rows, losses: Rows) -> _Process:
    mean, deviation = losses.mean(), max(losses.std(), 1e-10)
    scores = (mean - losses) / deviation
    regressor = gp.fit_kernel_params(
        X=points,
        Y=scores,
        is_categorical=space.is_categorical,
        log_prior=default_log_prior,
        minimum_noise=DEFAULT_MINIMUM_NOISE_VAR,
        deterministic_objective=False,
    )
    return _Process(regressor, scores, float(mean / deviation))


def _probability(space: OptunaSpace, objectives: list[_Process], limits: list[_Process], open_points: Rows) -> acqf.LogCEHVI:
    """Return the probability of meeting all limits. Open points count as average ones, so that other points are preferred."""
    if len(open_points):
        for process in limits:
            process.regressor.append_running_data(
                torch.from_numpy(open_points), torch.zeros(len(open_points), dtype=torch.float64)
            )
    return acqf.LogCEHVI(
        gpr_list=[process.regressor for process in objectives],
        search_space=space,
        Y_feasible=None,
        n_qmc_samples=SAMPLES,
        qmc_seed=0,
        constraints_gpr_list=[process.regressor for process in limits],
        constraints_threshold_list=[process.limit for process in limits],
    )


def _improvement(
    space: OptunaSpace, objective: _Process, limits: list[_Process], best: float, open_points: Rows, seed: int
) -> acqf.BaseAcquisitionFunc:
    """Return the expected improvement of one metric over the score `best`."""
    bounds = [process.regressor for process in limits], [process.limit for process in limits]
    if not len(open_points):
        if not limits:
            return acqf.LogEI(objective.regressor, space, best)
        return acqf.LogCEI(objective.regressor, space, best, *bounds)
    if not limits:
        return acqf.qLogEI(objective.regressor, space, best, SAMPLES, seed, open_points)
    return acqf.qLogCEI(objective.regressor, space, best, SAMPLES, seed, *bounds, open_points)


def _hypervolume(
    space: OptunaSpace,
    objectives: list[_Process],
    bounded: NDArray[np.bool_],
    limits: list[_Process],
    feasible: NDArray[np.bool_],
    open_points: Rows,
    seed: int,
) -> acqf.BaseAcquisitionFunc:
    """Return the expected improvement of the hypervolume between the front and the thresholds of two metrics.

    Optuna measures from the worst row, so the corner of the thresholds is added as one; it dominates no feasible result.
    """
    scores = np.stack([process.scores[feasible] for process in objectives], axis=1)
    corner = [
        process.limit if has else scores[:, n].min() for n, (process, has) in enumerate(zip(objectives, bounded, strict=True))
    ]
    rows = torch.from_numpy(np.vstack([scores, corner]))
    regressors = [process.regressor for process in objectives]
    bounds = [process.regressor for process in limits], [process.limit for process in limits]
    if not len(open_points):
        if not limits:
            return acqf.LogEHVI(regressors, space, rows, SAMPLES, seed)
        return acqf.LogCEHVI(regressors, space, rows, SAMPLES, seed, *bounds)
    if not limits:
        return acqf.qLogEHVI(regressors, space, rows, SAMPLES, seed, open_points)
    return acqf.qLogCEHVI(regressors, space, rows, SAMPLES, seed, *bounds, open_points)


class _Outside(acqf.BaseAcquisitionFunc):
    """An acquisition function outside of balls with soft borders (local penalization, González et al. 2016).

    Its logarithm is lowered by -log Phi((distance - radius) / (SOFT * radius)) for each ball, whose gradient leads outside.
    """

    def __init__(self, function: acqf.BaseAcquisitionFunc, centres: Rows, radius: float) -> None:
        super().__init__(function.length_scales, function.search_space)
        self._function, self._radius = function, radius
        self._centres = torch.from_numpy(centres)  # shape: (balls, free)
        self._categorical = torch.from_numpy(self.search_space.is_categorical)

    def eval_acqf(self, x: torch.Tensor) -> torch.Tensor:
        gaps = x.unsqueeze(-2) - self._centres  # shape: (..., balls, free)
        gaps = torch.where(self._categorical, (gaps != 0).to(gaps.dtype), gaps)
        distances = (gaps.square().sum(dim=-1) + TINY).sqrt()
        outside = torch.special.log_ndtr((distances - self._radius) / (SOFT * self._radius))
        return self._function.eval_acqf(x) + outside.sum(dim=-1)
