"""Points of the space that depend on no result: uniform draws, draws from priors, and a low-discrepancy sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, ndtri
from scipy.stats import qmc

from ml.tuning.definition import Prior
from ml.tuning.engine.space import Dimension, SearchSpace

Points = NDArray[np.float64]
"""Points of the unit cube. shape: (n, dimensions)"""

STENCIL = 512  # points of the low-discrepancy sequence that are tried under linear constraints
EDGE = 1e-12


def random_points(space: SearchSpace, count: int, rng: np.random.Generator) -> Points:
    """Draw points that satisfy the linear constraints, from the priors where there are priors.

    Raises:
        NoFeasiblePoint: If the constraints exclude every point.
    """
    points = from_priors(space, rng.random((count, len(space.dimensions))))
    return _within_constraints(space, points, rng)


def low_discrepancy_points(space: SearchSpace, count: int, seed: int, *, priors: bool = True) -> Points:
    """Return the first points of a scrambled Sobol sequence (Owen 1998) that satisfy the linear constraints.

    Points follow the priors, if `priors` is set. Where the constraints leave too small a share of the space, further points are
    random.
    """
    rng = np.random.default_rng(seed)
    size = 1 << (max(count, STENCIL if space.region.names else 1) - 1).bit_length()
    sequence = qmc.Sobol(len(space.dimensions), rng=np.random.default_rng(seed)).random(size)
    points = from_priors(space, sequence) if priors else sequence
    if not space.region.names:
        return points[:count]
    inside = points[space.region.contains(space.numbers(points))]
    missing = max(count - len(inside), 0)
    return np.concatenate([inside[:count], random_points(space, missing, rng)]) if missing else inside[:count]


def from_priors(space: SearchSpace, uniform: Points) -> Points:
    """Move uniform points so that dimensions with a prior follow it."""
    moved = uniform.copy()
    for n, dimension in enumerate(space.dimensions):
        if dimension.prior:
            moved[:, n] = _quantiles(dimension, dimension.prior, uniform[:, n])
    return moved


def _quantiles(dimension: Dimension, prior: Prior, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the positions at shares of a prior's mass between the bounds."""
    if prior.name == "beta":
        return betaincinv(prior.first, prior.second, shares)
    low, high = (ndtr((bound - prior.first) / prior.second) for bound in (dimension.low, dimension.high))
    inner = low + shares * (high - low)
    if high - low < EDGE:  # the bounds are in a tail, where the distribution function has no resolution
        return shares
    values = prior.first + prior.second * ndtri(np.clip(inner, EDGE, 1 - EDGE))
    return np.clip((values - dimension.low) / (dimension.high - dimension.low), 0, 1)


def _within_constraints(space: SearchSpace, points: Points, rng: np.random.Generator) -> Points:
    """Replace the constrained dimensions of points that violate a constraint."""
    if not space.region.names:
        return points
    outside = ~space.region.contains(space.numbers(points))
    if outside.any():
        points[outside] = space.place(points[outside], space.region.sample(int(outside.sum()), rng))
    return points
