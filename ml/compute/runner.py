"""Running independent tasks: on Spark where a session is given, else here. The tasks are the same functions.

Spark schedules; rows never cross to the JVM: a task opens its own input, works on Arrow, writes its own output,
and returns a small result.
"""

from __future__ import annotations

import gc
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Starting a Spark task costs tens of milliseconds; so many per core still even out tasks of unequal length.
SLICES_PER_CORE = 2

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
        allowed = context.getConf().get("spark.task.maxFailures") or "4"
        attempts = 1 if str(context.master).startswith("local") else int(allowed)
        results: list[Any] = context.parallelize(list(tasks), slices).mapPartitions(partial(_run, function, attempts)).collect()
        for result in results:
            if isinstance(result, _Raised):
                raise result.error
        return results


@dataclass(frozen=True)
class _Raised:
    error: Exception


def _run(function: Callable[[T], R], attempts: int, tasks: Iterable[T]) -> Iterator[R | _Raised]:
    """Yield the results of neighbouring tasks.

    An error of the last attempt is returned as a result, because Spark itself would return only its text.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    try:
        for task in tasks:
            yield function(task)
    except Exception as error:
        if (context.attemptNumber() if context else 0) + 1 < attempts or not _travels(error):
            raise
        error.add_note(f"In a Spark task:\n{traceback.format_exc()}")
        yield _Raised(error)
    _spare_the_collector()


def _travels(error: Exception) -> bool:
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))  # noqa: S301 (its own bytes)
    except Exception:
        return False


@cache
def _spare_the_collector() -> None:
    """Exclude imported modules from garbage collection, once per worker.

    Spark collects garbage after every task; searching all modules for it takes a third of the time of a short task.
    """
    gc.freeze()
