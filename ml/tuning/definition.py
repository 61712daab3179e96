"""What an experiment searches: its parameters, their constraints, and the metrics of an observation.

The terms and rules are SigOpt's. `ml.tuning.parse` reads definitions from JSON and refuses invalid ones, so every value here is
valid: bounds are ordered, grids are sorted, and conditions name conditionals that exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Value = float | int | str
Assignments = Mapping[str, Value]
"""Values by parameter, and by conditional. A parameter whose conditions are not met is absent."""


@dataclass(frozen=True)
class Prior:
    """Prior belief about the best value of a double parameter.

    Attributes:
        name: `normal` over the parameter's values, or `beta` over their position between the bounds.
        first: Mean of `normal`; shape a of `beta`.
        second: Standard deviation of `normal`; shape b of `beta`.
    """

    name: Literal["normal", "beta"]
    first: float
    second: float


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: The name.
        kind: Type of the values.
        low: Smallest value; of a grid, its first. Absent for `categorical`.
        high: Largest value.
        log: Whether the logarithm of the value is searched.
        grid: The only values, in ascending order; empty if all values between the bounds are allowed.
        categories: Values of a `categorical`, in the order of their names.
        prior: Belief about the best value.
        conditions: Values of conditionals under which the parameter exists; all have to hold.
        default: Value for observations that were made before the parameter was added.
    """

    name: str
    kind: Literal["double", "int", "categorical"]
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    grid: tuple[float | int, ...] = ()
    categories: tuple[str, ...] = ()
    prior: Prior | None = None
    conditions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default: Value | None = None


@dataclass(frozen=True)
class Conditional:
    """A categorical choice on which parameters can depend."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class LinearConstraint:
    """Bounds a weighted sum of parameters.

    Attributes:
        weights: Weights by parameter.
        threshold: The bound.
        kind: `less_than` for a sum of at most the threshold, `greater_than` for at least.
    """

    weights: Mapping[str, float]
    threshold: float
    kind: Literal["less_than", "greater_than"]


@dataclass(frozen=True)
class Metric:
    """One metric of an observation.

    Attributes:
        name: The name.
        objective: Which values are better.
        strategy: `optimize`; `constraint` if only the threshold matters; `store` if the metric is only recorded.
        threshold: Worst acceptable value.
    """

    name: str
    objective: Literal["maximize", "minimize"] = "maximize"
    strategy: Literal["optimize", "constraint", "store"] = "optimize"
    threshold: float | None = None

    def meets(self, value: float) -> bool:
        """Whether a value is acceptable."""
        if self.threshold is None:
            return True
        return value >= self.threshold if self.objective == "maximize" else value <= self.threshold


@dataclass(frozen=True)
class Space:
    """All that an experiment can suggest."""

    parameters: tuple[Parameter, ...]
    conditionals: tuple[Conditional, ...] = ()
    constraints: tuple[LinearConstraint, ...] = ()


@dataclass(frozen=True)
class Observation:
    """Result of one suggestion.

    Attributes:
        assignments: What was tried.
        values: Values by metric; empty if it failed.
        deviations: Standard deviations by metric, where they are known.
        failed: Whether it has no result, for example because the training diverged.
        stopped: Whether it has none because it was stopped early, as worse than others.
    """

    assignments: Assignments
    values: Mapping[str, float]
    deviations: Mapping[str, float] = field(default_factory=dict)
    failed: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class Study:
    """All that an engine knows when it suggests.

    Attributes:
        space: What can be suggested.
        metrics: The metrics, at most two of them with `strategy: optimize`.
        observations: Results so far, in order.
        open: Suggestions without a result, which parallel workers are trying.
        budget: Number of observations planned; None if unlimited.
        bandwidth: Number of parallel workers.
        kind: `offline` searches by model, `random` draws, `grid` walks all combinations.
        solutions: Number of good points, far from each other, that are looked for.
        seed: Seed of all draws. The same study gives the same suggestion.
    """

    space: Space
    metrics: tuple[Metric, ...]
    observations: tuple[Observation, ...] = ()
    open: tuple[Assignments, ...] = ()
    budget: int | None = None
    bandwidth: int = 1
    kind: Literal["offline", "random", "grid"] = "offline"
    solutions: int = 1
    seed: int = 0
