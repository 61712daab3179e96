"""Suggestions of Gaussian processes: the free point at which the acquisition function is greatest.

Candidates are drawn from the region that the linear constraints leave, and around the best results. The most promising ones are
improved by Optuna's local search, and the best one that is neither tried nor open is returned.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna._gp.optim_mixed import local_search_mixed_batched
from optuna._gp.search_space import SearchSpace as OptunaSpace
from optuna.distributions import BaseDistribution, FloatDistribution
from threadpoolctl import threadpool_limits

from ml.tuning.engine.acquisition import acquisition
from ml.tuning.engine.duplicates import Taken
from ml.tuning.engine.history import History
from ml.tuning.engine.niches import Niches
from ml.tuning.engine.optuna_study import distribution, free_dimensions
from ml.tuning.engine.sampling import low_discrepancy_points
from ml.tuning.engine.space import Dimension, Point, SearchSpace

CANDIDATES = 1024  # points at which the acquisition function is computed first
CENTRES, NEIGHBOURS = 5, 32  # further candidates around good results
SPREAD = (0.02, 0.1)  # standard deviations of neighbours, in shares of the bounds
STARTS = 8  # local searches
TOLERANCE = 1e-4
WIDE = 1000  # integers from which a range is searched like a continuous one, because a local search lists all of a shorter one

_one_at_a_time = threading.Lock()  # the number of threads belongs to the whole process


def gaussian_process_point(
    space: SearchSpace, known: History, taken: Taken, caution: int, rng: np.random.Generator, others: Niches | None = None
) -> Point:
    """Return the free point of the greatest acquisition function.

    Args:
        space: A space without conditions.
        known: The results. At least one point did not fail.
        taken: Points that are not suggested again.
        caution: Power of the probability of meeting the thresholds, in the acquisition function.
        rng: Source of all draws.
        others: Niches of other solutions, outside of which a point is looked for.

    Returns:
        A point within the linear constraints. It can be taken if the space is nearly exhausted.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    scale = _Scale(space)
    finished, opened = scale.of_assignments(known.tried), scale.of_assignments(known.open)
    with _one_thread():
        seed = int(rng.integers(2**30))
        function = acquisition(scale.space, finished, opened, known, caution=caution, seed=seed, others=others)
        good = finished[_best(known, rng, others)]
        candidates = scale.normalized(_candidates(space, scale.points(good), rng))
        values = function.eval_acqf_no_grad(candidates)
        starts = np.vstack([good, candidates[_drawn(values, STARTS - len(good), rng)]])
        found, _ = local_search_mixed_batched(function, starts, tol=TOLERANCE)
        found = scale.normalized(space.repaired(scale.points(found)))
        values = np.concatenate([function.eval_acqf_no_grad(found), values])
    everything = scale.points(np.vstack([found, candidates]))[np.argsort(-values, kind="stable")]
    return next((point for point in everything if space.assignments(point) not in taken), everything[0])


class _Scale:
    """Parameters as Optuna normalizes them: positions for numbers, indexes for categories; without dimensions of one value."""

    def __init__(self, space: SearchSpace) -> None:
        free = free_dimensions(space)
        self.space = OptunaSpace({dimension.name: _searched(dimension) for dimension in free})
        self._whole = space
        self._columns = [space.dimensions.index(dimension) for dimension in free]

    def of_assignments(self, tried: list[dict[str, float | int | str]]) -> NDArray[np.float64]:
        """Return the parameters of assignments. shape: (n, free)."""
        points = [self._whole.point(one) for one in tried]
        return self.normalized(np.array(points).reshape(len(tried), len(self._whole.dimensions)))

    def normalized(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the parameters of points, at positions where there are values. shape: (n, free)."""
        columns = []
        for n in self._columns:
            dimension = self._whole.dimensions[n]
            if dimension.categorical:
                columns.append(np.minimum(np.floor(points[:, n] * dimension.size), dimension.size - 1))
            elif dimension.values is None:
                columns.append(points[:, n])
            else:
                columns.append(np.array([dimension.position(dimension.value(x)) for x in points[:, n]]))
        return np.stack(columns, axis=1).reshape(len(points), len(columns))

    def points(self, normalized: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the points of parameters. shape: (n, dimensions)."""
        points = np.full((len(normalized), len(self._whole.dimensions)), 0.5)
        for column, n in enumerate(self._columns):
            dimension = self._whole.dimensions[n]
            values = normalized[:, column]
            points[:, n] = (values + 0.5) / dimension.size if dimension.categorical else values
        return points


def _searched(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension.values, range) and dimension.size > WIDE:
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return distribution(dimension)


def _best(known: History, rng: np.random.Generator, others: Niches | None) -> NDArray[np.int64]:
    """Return a few of the feasible results that no other one dominates; none if no result is feasible."""
    feasible = np.flatnonzero(known.feasible if others is None else known.feasible & ~others.inside)
    losses = known.losses[feasible]
    worse = (losses[:, None] >= losses[None]).all(axis=2) & (losses[:, None] > losses[None]).any(axis=2)
    front = feasible[~worse.any(axis=1)]
    return rng.permutation(front)[:CENTRES]


def _candidates(space: SearchSpace, centres: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return points of the region: a low-discrepancy sequence, and neighbours of good results. shape: (n, dimensions)."""
    points = low_discrepancy_points(space, CANDIDATES, int(rng.integers(2**31)), priors=False)
    middles = np.repeat(centres, NEIGHBOURS, axis=0)
    widths = rng.choice(SPREAD, size=(len(middles), 1))
    moved = rng.random(middles.shape) < max(0.3, 1 / middles.shape[1])
    near = np.where(moved, middles + rng.normal(size=middles.shape) * widths, middles).clip(0, 1)
    return np.vstack([points, space.repaired(near)])


def _drawn(values: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the best candidate and others, drawn by their value."""
    best = int(np.argmax(values))
    weights = np.exp(values - values[best])
    weights[best] = 0.0
    others = min(count - 1, int(np.count_nonzero(weights)))
    drawn = rng.choice(len(values), size=others, replace=False, p=weights / weights.sum()) if others else []
    return np.array([best, *drawn], dtype=np.int64)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread for the operations of PyTorch, NumPy and SciPy, which are small."""
    with _one_at_a_time, threadpool_limits(1):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
