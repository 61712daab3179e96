"""Which points have been tried or are being tried, and what to suggest instead of one of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ml.tuning.definition import Assignments, Value
from ml.tuning.engine.enumeration import walk
from ml.tuning.engine.sampling import random_points
from ml.tuning.engine.space import Point, SearchSpace

NEAR = 1e-4  # distance, in shares of its bounds, below which two values of a continuous dimension are the same
MOVES = 32  # neighbours that are tried
DRAWS = 64  # random points that are tried


class Exhausted(Exception):
    """Every point of the space has a result or is open."""


class Taken:
    """The points that are not suggested again.

    Args:
        space: The space.
        assignments: Points with a result, and open points.
    """

    def __init__(self, space: SearchSpace, assignments: Iterable[Assignments]) -> None:
        self._space = space
        self._continuous = [d for d in space.dimensions if d.values is None]
        self._near: dict[tuple[tuple[str, Value], ...], list[NDArray[np.float64]]] = {}
        for one in assignments:
            key, positions = self._split(space.completed(one))
            self._near.setdefault(key, []).append(positions)

    def __contains__(self, assignments: Assignments) -> bool:
        key, positions = self._split(assignments)
        return any((np.abs(positions - other) <= NEAR).all() for other in self._near.get(key, ()))

    def _split(self, assignments: Assignments) -> tuple[tuple[tuple[str, Value], ...], NDArray[np.float64]]:
        """Return the discrete values, and the positions of the continuous ones."""
        names = {d.name for d in self._continuous}
        key = tuple(
            (d.name, assignments[d.name]) for d in self._space.dimensions if d.name in assignments and d.name not in names
        )
        return key, np.array([d.position(assignments[d.name]) for d in self._continuous if d.name in assignments])

    def free(self, point: Point, rng: np.random.Generator) -> dict[str, Value]:
        """Return the assignments of a point, or of a free point close to it, or else of any free point.

        Raises:
            Exhausted: If no point of the space is free.
        """
        assignments = self._space.assignments(point)
        if assignments not in self:
            return assignments
        for number in range(MOVES):
            moved = self._space.assignments(self._neighbour(point, 1 + number // 8, rng))
            if moved not in self and self._space.allows(moved):
                return moved
        for other in random_points(self._space, DRAWS, rng):
            assignments = self._space.assignments(other)
            if assignments not in self:
                return assignments
        if np.isfinite(self._space.size):
            return self.next_free(rng)
        raise Exhausted("No point was found that differs from all tried and open points.")

    def next_free(self, rng: np.random.Generator | None = None) -> dict[str, Value]:
        """Return the first free point of a discrete space, in order or from a random start.

        Raises:
            Exhausted: If there is none.
            ValueError: If a dimension is continuous.
        """
        for assignments in walk(self._space, rng):
            if assignments not in self:
                return assignments
        raise Exhausted("Every combination of parameters has been tried or is open.")

    def _neighbour(self, point: Point, steps: int, rng: np.random.Generator) -> Point:
        """Return a point that differs in one dimension, chosen at random; in all continuous ones if there are any."""
        moved = point.copy()
        for n in rng.permutation(len(moved)):
            dimension = self._space.dimensions[n]
            if dimension.size == 1:
                continue
            if dimension.values is None:
                moved[n] = np.clip(moved[n] + rng.normal() * 0.02 * steps, 0, 1)
            elif dimension.categorical:
                moved[n] = rng.random()
            else:
                moved[n] = np.clip(moved[n] + rng.choice((-1, 1)) * rng.integers(1, steps + 1) / dimension.size, 0, 1)
            break
        return moved
