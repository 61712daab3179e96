"""The space that the engine searches: one dimension for each conditional and each parameter, over the unit cube.

A point of the cube has one position for each dimension. Positions of ordered values are the centres of equal cells, so uniform
positions give uniform values. `log` parameters are uniform in their logarithm. This module knows neither history nor samplers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml.tuning.definition import Assignments, Parameter, Prior, Space, Value
from ml.tuning.engine.constraints import Region

Point = NDArray[np.float64]
"""Position for each dimension. shape: (dimensions,)"""


@dataclass(frozen=True)
class Dimension:
    """One conditional or parameter.

    Attributes:
        name: The name.
        low: Smallest value of a number.
        high: Largest value of a number.
        log: Whether the logarithm is searched.
        values: All values; None if the dimension is continuous.
        categorical: Whether the values have no order.
        conditions: Values of conditionals under which the dimension exists.
        prior: Belief about the best value.
        default: Value for observations that lack the dimension.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: Sequence[Value] | None = None
    categorical: bool = False
    conditions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prior: Prior | None = None
    default: Value | None = None

    @property
    def size(self) -> float:
        """Number of values."""
        if self.values is not None:
            return len(self.values)
        return math.inf if self.low < self.high else 1

    @property
    def grid(self) -> bool:
        """Whether the values are numbers that are listed."""
        return not self.categorical and self.values is not None and not isinstance(self.values, range)

    @property
    def _bounds(self) -> tuple[float, float]:
        """Values at positions 0 and 1 of a dimension of numbers that is not a grid."""
        half = 0.0 if self.values is None else 0.5
        low, high = self.low - half, self.high + half
        return (math.log(low), math.log(high)) if self.log else (low, high)

    def value(self, position: float) -> Value:
        """Return the value at a position between 0 and 1."""
        position = min(max(position, 0.0), 1.0)
        if self.values is not None and not (self.log and isinstance(self.values, range)):
            return self.values[min(int(position * len(self.values)), len(self.values) - 1)]
        low, high = self._bounds
        number = low + position * (high - low)
        number = min(max(math.exp(number) if self.log else number, self.low), self.high)
        return number if self.values is None else min(max(round(number), int(self.low)), int(self.high))

    def position(self, value: Value) -> float:
        """Return the position of a value. It is outside of 0 and 1 if a number is outside of the bounds."""
        if self.values is not None and not isinstance(self.values, range):
            return (self.values.index(value) + 0.5) / len(self.values)
        low, high = self._bounds
        if low >= high:
            return 0.5
        return ((math.log(float(value)) if self.log else float(value)) - low) / (high - low)

    def contains(self, value: object) -> bool:
        """Whether the dimension has a value."""
        if self.categorical:
            return isinstance(value, str) and self.values is not None and value in self.values
        if isinstance(value, bool | str) or not isinstance(value, int | float):
            return False
        if isinstance(self.values, range):
            return self.low <= value <= self.high and value == int(value)
        return self.low <= value <= self.high if self.values is None else value in self.values

    def exists(self, assignments: Assignments) -> bool:
        """Whether all conditions are met."""
        return all(assignments.get(name) in allowed for name, allowed in self.conditions.items())


class SearchSpace:
    """All points that an experiment can suggest.

    Args:
        space: The definition.
    """

    def __init__(self, space: Space) -> None:
        conditionals = (Dimension(c.name, values=c.values, categorical=True) for c in space.conditionals)
        self.dimensions = (*conditionals, *(_dimension(parameter) for parameter in space.parameters))
        by_name = {dimension.name: n for n, dimension in enumerate(self.dimensions)}
        names = dict.fromkeys(name for constraint in space.constraints for name in constraint.weights)
        self._constrained = [by_name[name] for name in names]  # dimensions that occur in a linear constraint
        bounded = [self.dimensions[n] for n in self._constrained]
        self.region = Region([(d.name, float(d.low), float(d.high), d.values is not None) for d in bounded], space.constraints)

    @property
    def size(self) -> float:
        """Number of points if there were neither conditions nor constraints; infinite if one dimension is continuous."""
        return math.prod(dimension.size for dimension in self.dimensions)

    def assignments(self, point: Point) -> dict[str, Value]:
        """Return the values at a point, without the dimensions whose conditions are not met."""
        values = {dimension.name: dimension.value(float(x)) for dimension, x in zip(self.dimensions, point, strict=True)}
        return {dimension.name: values[dimension.name] for dimension in self.dimensions if dimension.exists(values)}

    def point(self, assignments: Assignments) -> Point:
        """Return the point of assignments; dimensions that are absent are in the middle."""
        given = ((d, assignments.get(d.name)) for d in self.dimensions)
        return np.array([0.5 if value is None else d.position(value) for d, value in given])

    def contains(self, assignments: Assignments) -> bool:
        """Whether assignments have exactly the dimensions that exist, with values within the space and its constraints."""
        existing = {dimension.name for dimension in self.dimensions if dimension.exists(assignments)}
        return (
            set(assignments) == existing
            and all(d.contains(assignments[d.name]) for d in self.dimensions if d.name in existing)
            and self.allows(assignments)
        )

    def allows(self, assignments: Assignments) -> bool:
        """Whether assignments satisfy the linear constraints."""
        if not self._constrained:
            return True
        return bool(self.region.contains(np.array([float(assignments[name]) for name in self.region.names])))

    def completed(self, assignments: Assignments) -> dict[str, Value]:
        """Return assignments with the defaults of dimensions that they lack, without those that do not exist."""
        filled = {d.name: assignments.get(d.name, d.default) for d in self.dimensions}
        values = {name: value for name, value in filled.items() if value is not None}
        return {d.name: values[d.name] for d in self.dimensions if d.name in values and d.exists(values)}

    def place(self, points: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points whose constrained dimensions have other values.

        Args:
            points: shape: (n, dimensions)
            numbers: Values of the constrained dimensions, in the order of `region.names`. shape: (n, constrained)
        """
        placed = points.copy()
        for column, n in enumerate(self._constrained):
            placed[:, n] = [self.dimensions[n].position(float(number)) for number in numbers[:, column]]
        return placed

    def repaired(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points; those that violate a linear constraint are moved to the nearest ones that do not.

        Args:
            points: shape: (n, dimensions)

        Returns:
            shape: (n, dimensions)

        Raises:
            NoFeasiblePoint: If the constraints exclude every point.
        """
        if not self._constrained:
            return points
        numbers = self.numbers(points)
        outside = ~self.region.contains(numbers)
        if not outside.any():
            return points
        repaired = points.copy()
        nearest = np.stack([self.region.nearest(row) for row in numbers[outside]])
        repaired[outside] = self.place(points[outside], nearest)
        return repaired

    def numbers(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values of the constrained dimensions at points.

        Args:
            points: shape: (n, dimensions)

        Returns:
            shape: (n, constrained)
        """
        columns = [[float(self.dimensions[n].value(x)) for x in points[:, n]] for n in self._constrained]
        return np.array(columns).T.reshape(len(points), len(self._constrained))


def _dimension(parameter: Parameter) -> Dimension:
    kept = {"conditions": parameter.conditions, "prior": parameter.prior, "default": parameter.default}
    if parameter.kind == "categorical":
        return Dimension(parameter.name, values=parameter.categories, categorical=True, **kept)
    if parameter.grid:
        return Dimension(parameter.name, parameter.grid[0], parameter.grid[-1], values=parameter.grid, **kept)
    if parameter.low is None or parameter.high is None:
        raise ValueError(f"Parameter {parameter.name} has neither bounds nor a grid.")
    if parameter.kind == "double":
        return Dimension(parameter.name, float(parameter.low), float(parameter.high), parameter.log, **kept)
    low, high = int(parameter.low), int(parameter.high)
    return Dimension(parameter.name, low, high, parameter.log, values=range(low, high + 1), **kept)
