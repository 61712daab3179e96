"""An experiment as it is stored: a definition with its name, budget and state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ml.tuning.definition import Metric, Space


@dataclass(frozen=True)
class Task:
    """A cheaper approximation of the metric, such as training on part of the data.

    Attributes:
        name: The name.
        cost: Share of the budget's unit that one observation costs, in (0, 1]. Exactly one task of an experiment costs 1.
    """

    name: str
    cost: float


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: The name.
        space: What can be suggested.
        metrics: What observations measure, in the order of their names. The only metric can have an empty name.
        kind: `offline`, `random` or `grid`.
        budget: Number of observations planned, in units of the full cost; None if unlimited.
        bandwidth: Number of parallel workers, None if it was not given.
        num_solutions: Number of different solutions that are looked for, None if it was not given.
        tasks: Tasks, if there are several.
        metadata: Data of the user.
        project: Id of the project, if there is one.
        runs_only: Whether it was created through the AI module, where runs replace suggestions and observations.
        id: The id; 0 before it is stored.
        client: Id of the client.
        state: `active` or `deleted`.
        development: Whether suggestions are only random, for tests of a caller's code.
        created: Time of creation, in Unix seconds.
        updated: Time of the last change.
    """

    name: str
    space: Space
    metrics: tuple[Metric, ...]
    kind: Literal["offline", "random", "grid"] = "offline"
    budget: float | None = None
    bandwidth: int | None = None
    num_solutions: int | None = None
    tasks: tuple[Task, ...] = ()
    metadata: Mapping[str, Any] | None = None
    project: str | None = None
    runs_only: bool = False
    id: int = 0
    client: int = 1
    state: str = "active"
    development: bool = False
    created: float = 0
    updated: float = 0

    @property
    def optimized(self) -> tuple[Metric, ...]:
        """The metrics that are optimized."""
        return tuple(metric for metric in self.metrics if metric.strategy == "optimize")

    @property
    def budget_key(self) -> str:
        """Name of the budget in the API."""
        return "budget" if self.runs_only else "observation_budget"
