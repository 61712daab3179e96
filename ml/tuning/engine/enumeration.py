"""All points of a discrete space, one after the other, without building them all.

Values of a dimension are walked from a given start, so that the first point can be anywhere. Branches that no value can bring
back into the linear constraints are not entered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from ml.tuning.definition import Value
from ml.tuning.engine.constraints import TOLERANCE
from ml.tuning.engine.space import Dimension, SearchSpace


def walk(space: SearchSpace, rng: np.random.Generator | None = None) -> Iterator[dict[str, Value]]:
    """Yield the assignments of all points of a discrete space, each once.

    Args:
        space: A space without continuous dimensions.
        rng: Chooses where the values of each dimension start; None to start with the first.

    Raises:
        ValueError: If a dimension is continuous.
    """
    for dimension in space.dimensions:
        if dimension.values is None and dimension.size > 1:
            raise ValueError(f"Parameter {dimension.name} has infinitely many values, so its values cannot be listed.")
    starts = [int(rng.integers(int(d.size))) if rng else 0 for d in space.dimensions]
    return _extend(space, starts, {}, _Bounds(space))


def count(space: SearchSpace, limit: int) -> int:
    """Return the number of points of a discrete space, at most `limit`."""
    return sum(1 for _ in islice(walk(space), limit))


class _Bounds:
    """Which values of a dimension the linear constraints allow, given the numbers chosen so far."""

    def __init__(self, space: SearchSpace) -> None:
        region = space.region
        self._weights = dict(zip(region.names, region.weights.T, strict=True))  # shape of each: (constraints,)
        self._limits = region.limits
        self._least = {
            d.name: np.minimum(self._weights[d.name] * d.low, self._weights[d.name] * d.high)
            for d in space.dimensions
            if d.name in self._weights
        }

    def allowed(self, dimension: Dimension, chosen: dict[str, Value]) -> Sequence[Value]:
        """Return the values with which all constraints can still be satisfied; they are consecutive."""
        values = dimension.values if dimension.values is not None else (dimension.low,)
        if dimension.name not in self._weights:
            return values
        others = {name: weights for name, weights in self._weights.items() if name != dimension.name}
        terms = [weights * float(chosen[name]) if name in chosen else self._least[name] for name, weights in others.items()]
        room = self._limits - np.sum(terms, axis=0)
        slack = TOLERANCE * np.abs([*terms, self._limits]).max(axis=0)
        own = self._weights[dimension.name]
        if (room[own == 0] + slack[own == 0] < 0).any():
            return ()
        ends = (room + slack)[own != 0] / own[own != 0]
        low, high = ends[own[own != 0] < 0].max(initial=dimension.low), ends[own[own != 0] > 0].min(initial=dimension.high)
        if isinstance(values, range):
            return range(math.ceil(low), math.floor(high) + 1)
        return [value for value in values if low <= float(value) <= high]


def _extend(space: SearchSpace, starts: Sequence[int], chosen: dict[str, Value], bounds: _Bounds) -> Iterator[dict[str, Value]]:
    """Yield all points that begin with chosen values; conditionals come first, so it is known which dimensions exist."""
    n = next((n for n, d in enumerate(space.dimensions) if d.name not in chosen and d.exists(chosen)), None)
    if n is None:
        if space.allows(chosen):
            yield dict(chosen)
        return
    dimension = space.dimensions[n]
    for value in _rotated(bounds.allowed(dimension, chosen), starts[n]):
        chosen[dimension.name] = value
        yield from _extend(space, starts, chosen, bounds)
        del chosen[dimension.name]


def _rotated(values: Sequence[Value], start: int) -> Iterable[Value]:
    for n in range(len(values)):
        yield values[(start + n) % len(values)]
