"""Timed runs: the AUC of the last day against the seconds that training on the days before it has taken."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """An evaluation during training.

    Attributes:
        rows: Rows trained on so far.
        cpu_seconds: CPU-seconds of the training loop so far, without evaluations.
        wall_seconds: Seconds of the training loop so far, without evaluations.
        auc: AUC of the last day.
    """

    rows: int
    cpu_seconds: float
    wall_seconds: float
    auc: float


@dataclass(frozen=True)
class TimedRun:
    """One training on all days except the last.

    Attributes:
        name: What was trained.
        curve: Evaluations on the last day, in order; the last one is at the end of training.
        by_day: AUC of each day after the first, with the model of the days before it.
    """

    name: str
    curve: tuple[Point, ...]
    by_day: Mapping[str, float]

    @property
    def end(self) -> Point:
        """The evaluation at the end of training."""
        return self.curve[-1]

    @property
    def mean_auc(self) -> float:
        """Mean of `by_day`; NaN without days."""
        return sum(self.by_day.values()) / len(self.by_day) if self.by_day else math.nan

    def reached(self, auc: float) -> Point | None:
        """Return the first evaluation that reaches an AUC; None if none does."""
        return next((point for point in self.curve if point.auc >= auc), None)

    @property
    def summary(self) -> dict[str, Any]:
        """The end of training, and the mean AUC of the days."""
        return {"name": self.name, **vars(self.end), "mean_auc": self.mean_auc, "by_day": dict(self.by_day)}


class Stopwatch:
    """Measures the CPU-seconds and the seconds of a block, except those of evaluations inside it.

    Example:
        >>> watch = Stopwatch()
        >>> with watch.running(), watch.paused():
        ...     time.sleep(0.01)
        >>> watch.wall < 0.01
        True
    """

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        self._count(-1)
        try:
            yield
        finally:
            self._count(1)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the block, which is inside one of `running`."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, sign: int) -> None:
        self.cpu += sign * time.process_time()
        self.wall += sign * time.perf_counter()


class Recorder:
    """Evaluates a training at intervals and builds its `TimedRun`.

    Args:
        name: What is trained.
        evaluate: Returns the AUC of the last day.
        per_day: Number of evaluations of each day's pass, at least 1.
    """

    def __init__(self, name: str, evaluate: Callable[[], float], per_day: int) -> None:
        self.watch, self._name, self._evaluate, self._per_day = Stopwatch(), name, evaluate, per_day
        self._curve: list[Point] = []
        self._rows, self.by_day = 0, dict[str, float]()

    def after_step(self, index: int, steps: int, rows: int) -> None:
        """Count a step of a day's pass, and evaluate if it is due.

        Args:
            index: Number of the step in the pass, from 0.
            steps: Number of steps of the pass.
            rows: Number of rows of the step.
        """
        self._rows += rows
        done = index + 1
        if done == steps or done * self._per_day // steps > index * self._per_day // steps:
            with self.watch.paused():
                cpu, wall = self.watch.cpu, self.watch.wall
                self._curve.append(Point(self._rows, cpu, wall, self._evaluate()))

    def run(self) -> TimedRun:
        """Return the run."""
        return TimedRun(self._name, tuple(self._curve), self.by_day)
