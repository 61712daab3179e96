"""Niches of a space: good results that differ, for experiments with several solutions.

Niches are chosen by clearing (Pétrowski 1996): the best result, then the best one that is farther from all chosen ones than a
radius. The search looks for better results of one niche at a time, outside of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ml.tuning.definition import Assignments
from ml.tuning.engine.history import History
from ml.tuning.engine.space import SearchSpace

RADIUS = 0.35  # of one solution in one dimension, as a share of the bounds


@dataclass(frozen=True)
class Niches:
    """Parts of the space that belong to other solutions than the one that is improved next.

    Attributes:
        centres: Indexes of the finished points in their middle.
        radius: Distance from a centre at which they end.
        inside: Whether a finished point is in one of them. shape: (N,)
    """

    centres: list[int]
    radius: float
    inside: NDArray[np.bool_]

    def excluded_from(self, known: History) -> History:
        """Return a history in which all points of the niches failed."""
        return replace(known, failed=known.failed | self.inside)


def other_niches(space: SearchSpace, known: History, solutions: int) -> Niches | None:
    """Return the niches that the next suggestion avoids, a different choice for each suggestion.

    Returns:
        All niches except one; None if the study looks for one solution, or has only one niche or none.
    """
    feasible = np.flatnonzero(known.feasible)
    if solutions == 1 or not len(feasible):
        return None
    best = [int(feasible[n]) for n in niches(space, [known.tried[n] for n in feasible], known.losses[feasible, 0], solutions)]
    turn = (len(known.tried) + len(known.open)) % solutions
    centres = best[:turn] + best[turn + 1 :]
    if not centres:
        return None
    radius, points = niche_radius(space, solutions), positions(space, known.tried)
    return Niches(centres, radius, np.any([distances(space, points, points[n]) < radius for n in centres], axis=0))


def niche_radius(space: SearchSpace, solutions: int) -> float:
    """Return the distance from which two points count as different solutions, in units of the scaled bounds.

    It shrinks with the number of solutions S as the spacing of a grid does, and grows with the number of dimensions D as
    distances do: 0.35 * sqrt(D) * S ** (-1 / D).
    """
    dimensions = max(1, sum(dimension.size > 1 for dimension in space.dimensions))
    return RADIUS * math.sqrt(dimensions) * solutions ** (-1 / dimensions)


def positions(space: SearchSpace, tried: Sequence[Assignments]) -> NDArray[np.float64]:
    """Return the position of each assignment; NaN where it is absent or outside of the space. shape: (tried, dimensions)."""
    rows = [[(d, one.get(d.name)) for d in space.dimensions] for one in map(space.completed, tried)]
    found = [[d.position(value) if value is not None and d.contains(value) else math.nan for d, value in row] for row in rows]
    return np.array(found).reshape(len(tried), len(space.dimensions))


def distances(space: SearchSpace, points: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Euclidean distances to a point. Different categories, and unknown positions, are at a distance of 1.

    Args:
        space: The space.
        points: Positions. shape: (N, dimensions)
        point: shape: (dimensions,)

    Returns:
        shape: (N,)
    """
    gaps = np.nan_to_num(np.abs(points - point), nan=1.0)
    categorical = [dimension.categorical for dimension in space.dimensions]
    gaps[:, categorical] = gaps[:, categorical] > 0
    return np.sqrt((gaps**2).sum(axis=1))


def niches(space: SearchSpace, tried: Sequence[Assignments], losses: NDArray[np.float64], solutions: int) -> list[int]:
    """Return the indexes of results that are the best ones of their niches, best first.

    Args:
        space: The space.
        tried: Assignments of the results.
        losses: The metric; smaller is better. shape: (tried,)
        solutions: Largest number of niches.

    Example:
        >>> from ml.tuning.definition import Parameter, Space
        >>> space = SearchSpace(Space((Parameter("layers", "int", low=1, high=8),)))
        >>> niches(space, [{"layers": n} for n in (1, 5, 6, 8)], np.array([0.4, 0.1, 0.2, 0.3]), solutions=2)
        [1, 3]
    """
    radius, points = niche_radius(space, solutions), positions(space, tried)
    chosen: list[int] = []
    outside = np.ones(len(tried), dtype=bool)
    for n in np.argsort(losses, kind="stable"):
        if outside[n] and len(chosen) < solutions:
            chosen.append(int(n))
            outside &= distances(space, points, points[n]) >= radius
    return chosen
