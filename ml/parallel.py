"""Running independent tasks: on Spark where a session is given, else here. The tasks are the same functions.

Spark schedules; rows never cross to the JVM: a task opens its own input, works on Arrow, writes its own output,
and returns a small result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Starting a Spark task costs tens of milliseconds; so many per core still even out tasks of unequal length.
SLICES_PER_CORE = 4

T = TypeVar("T")
R = TypeVar("R")


class Runner(Protocol):
    """Applies a function to each task and gives back the results in the tasks' order. Raises what a task raised."""

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]: ...


class LocalRunner:
    """One task after the other in this process: for tests, for one request, and where a day is a few thousand rows."""

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        return [function(task) for task in tasks]


class SparkRunner:
    """Tasks as Spark tasks, neighbours together where there are many, on whatever master the session has."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        if not tasks:
            return []
        context = self.spark.sparkContext
        slices = min(len(tasks), SLICES_PER_CORE * context.defaultParallelism)
        return context.parallelize(list(tasks), slices).map(function).collect()
