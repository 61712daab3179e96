"""The region that linear constraints leave: membership, uniform samples, and the nearest point of the region.

The region is a polytope over numbers, of which some are integers. Samples are drawn by rejection where a share of the box is
large enough, else by hit-and-run (Smith 1984) from the centre of the largest inscribed ball. Integers are rounded, and moved to
the nearest integer point of the region where rounding leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, linprog, milp

from ml.tuning.definition import LinearConstraint

Numbers = NDArray[np.float64]

TOLERANCE = 1e-9  # relative to the terms of a constraint: rounding of a sum
TRIES = 64  # uniform draws for each sample, before hit-and-run
THIN = 4  # steps of hit-and-run between samples, for each dimension
FLAT = 0.01  # radius, in shares of the bounds, below which hit-and-run mixes too slowly and corners are mixed instead


class NoFeasiblePoint(ValueError):
    """The linear constraints exclude every point."""


class Region:
    """The numbers that satisfy all linear constraints.

    Args:
        bounds: Name, smallest and largest value of each number, and whether it is an integer.
        constraints: The constraints over these names.
    """

    def __init__(self, bounds: Sequence[tuple[str, float, float, bool]], constraints: Sequence[LinearConstraint]) -> None:
        self.names = [name for name, *_ in bounds]
        self._low = np.array([low for _, low, _, _ in bounds])
        self._width = np.array([high - low for _, low, high, _ in bounds])
        self._integer = np.array([integer for *_, integer in bounds], dtype=bool)
        signs = np.array([1.0 if c.kind == "less_than" else -1.0 for c in constraints])
        weights = np.array([[c.weights.get(name, 0.0) for name in self.names] for c in constraints])
        # All constraints as `weights @ numbers <= limits`. shapes: (constraints, numbers), (constraints,)
        self.weights = signs[:, None] * weights.reshape(len(constraints), len(self.names))
        self.limits = signs * np.array([c.threshold for c in constraints])

    def contains(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Return whether numbers satisfy all constraints, up to the rounding of sums.

        Args:
            numbers: shape: (..., numbers)

        Returns:
            shape: (...)
        """
        terms = numbers[..., None, :] * self.weights  # (..., constraints, numbers)
        scale = np.maximum(np.abs(terms).max(axis=-1, initial=0.0), np.abs(self.limits))
        return (terms.sum(axis=-1) - self.limits <= TOLERANCE * scale).all(axis=-1)

    def sample(self, count: int, rng: np.random.Generator) -> Numbers:
        """Draw numbers from the region.

        Returns:
            shape: (count, numbers)

        Raises:
            NoFeasiblePoint: If the region is empty.
        """
        uniform = self._low + rng.random((TRIES * count, len(self.names))) * self._width
        if self._integer.any():
            whole = self._low + np.floor(rng.random(uniform.shape) * (self._width + 1))
            uniform = np.where(self._integer, whole, uniform)
        inside = uniform[self.contains(uniform)]
        if len(inside) >= count:
            return inside[:count]
        return np.stack([self.nearest(row) for row in self._walk(count, rng)])

    def nearest(self, numbers: Numbers) -> Numbers:
        """Return the point of the region that is nearest in the sum of distances, in shares of the bounds.

        Raises:
            NoFeasiblePoint: If the region is empty.
        """
        rounded = np.where(self._integer, np.round(numbers), numbers)
        rounded = np.clip(rounded, self._low, self._low + self._width)
        if self.contains(rounded):
            return rounded
        k, scale = len(self.names), np.where(self._width > 0, self._width, 1.0)
        # Variables: numbers, and their distances d with d >= number - target and d >= target - number.
        above, below = np.hstack([np.eye(k), -np.eye(k)]), np.hstack([-np.eye(k), -np.eye(k)])
        high = np.concatenate([self._low + self._width, np.full(k, np.inf)])
        found = milp(
            np.concatenate([np.zeros(k), 1 / scale]),
            integrality=np.concatenate([self._integer, np.zeros(k)]),
            bounds=Bounds(-np.inf, np.inf),
            constraints=[
                (np.eye(2 * k), np.concatenate([self._low, np.zeros(k)]), high),
                (np.hstack([self.weights, np.zeros_like(self.weights)]), -np.inf, self.limits),
                (np.vstack([above, below]), -np.inf, np.concatenate([numbers, -numbers])),
            ],
        )
        if found.x is None:
            raise NoFeasiblePoint("The linear constraints exclude every point.")
        return self._inside(np.where(self._integer, np.round(found.x[:k]), found.x[:k]))

    def _inside(self, numbers: Numbers) -> Numbers:
        """Move a solution towards the centre, since it may violate constraints by the solver's tolerance."""
        numbers = np.clip(numbers, self._low, self._low + self._width)
        if not self._integer.all():
            centre, _ = self._centre()
            for step in (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4):
                if self.contains(numbers):
                    break
                numbers = np.where(self._integer, numbers, numbers + step * (centre - numbers))
        return numbers

    def _centre(self) -> tuple[Numbers, float]:
        """Return the centre of the largest inscribed ball, and its radius in shares of the bounds."""
        k, weights = len(self.names), self.weights * self._width
        rows = np.vstack([weights, np.eye(k), -np.eye(k)])
        norms = np.linalg.norm(rows, axis=1)
        limits = np.concatenate([self.limits - self.weights @ self._low, np.ones(k), np.zeros(k)])
        found = linprog(
            np.append(np.zeros(k), -1.0), np.hstack([rows, norms[:, None]]), limits, bounds=[(0, 1)] * k + [(0, None)]
        )
        if found.x is None:
            raise NoFeasiblePoint("The linear constraints exclude every point.")
        return self._low + found.x[:k] * self._width, float(found.x[k])

    def _walk(self, count: int, rng: np.random.Generator) -> Numbers:
        """Draw points of the polytope, whose integers are not whole yet. shape: (count, numbers)."""
        centre, radius = self._centre()
        if radius < FLAT:
            corners = self._corners(2 * len(self.names), rng)
            return rng.dirichlet(np.full(len(corners), 0.5), size=count) @ corners
        safe = np.where(self._width > 0, self._width, 1.0)
        at, weights = (centre - self._low) / safe, self.weights * self._width
        limits = self.limits - self.weights @ self._low
        points = np.empty((count, len(at)))
        for n in range(count):
            for _ in range(THIN * len(at)):
                direction = np.where(self._width > 0, rng.normal(size=len(at)), 0.0)
                direction /= max(np.linalg.norm(direction), 1e-300)
                slopes = np.concatenate([weights @ direction, direction, -direction])
                room = np.concatenate([limits - weights @ at, 1 - at, at]).clip(0)
                ahead = np.min(room[slopes > 0] / slopes[slopes > 0], initial=np.inf)
                behind = np.min(room[slopes < 0] / -slopes[slopes < 0], initial=np.inf)
                if np.isfinite(ahead + behind):
                    at = at + rng.uniform(-behind, ahead) * direction
            points[n] = at
        return self._low + points * self._width

    def _corners(self, count: int, rng: np.random.Generator) -> Numbers:
        """Return corners of the polytope in random directions. shape: (count, numbers)."""
        box = list(zip(self._low, self._low + self._width, strict=True))
        found = (
            linprog(
                rng.normal(size=len(box)) / np.where(self._width > 0, self._width, 1), self.weights, self.limits, bounds=box
            )
            for _ in range(count)
        )
        return np.stack([one.x for one in found])
