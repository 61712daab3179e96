"""Execution of independent tasks, in this process or on Spark. Both run the same functions.

Spark only schedules, and rows do not enter the JVM: a task opens its own input, works on Arrow, writes its own output and
returns a small result.
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

SLICES_PER_CORE = 2
"""Spark tasks per core. Each costs tens of milliseconds to start; two per core balance tasks of unequal length."""

T = TypeVar("T")
R = TypeVar("R")


class Runner(Protocol):
    """Runs tasks."""

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """Apply a function to each task.

        Args:
            function: A function of a module that the processes can import.
            tasks: Its arguments, which can be pickled.

        Returns:
            The results, in the order of the tasks.

        Raises:
            Exception: The error of a task that failed.
        """
        ...


class LocalRunner:
    """Runs tasks one after the other in this process. For tests and small days.

    Example:
        >>> LocalRunner().map(abs, [1, -2])
        [1, 2]
    """

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        return [function(task) for task in tasks]


class SparkRunner:
    """Runs tasks as Spark tasks on the session's master. A Spark task runs several consecutive tasks if there are many."""

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
    """Run consecutive tasks in a Spark task.

    An exception in the last of Spark's attempts is returned as a result, because Spark reports only its text.
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
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))  # noqa: S301 (pickled here)
    except Exception:
        return False


@cache
def _spare_the_collector() -> None:
    """Exclude loaded modules from garbage collection, once per worker.

    Spark collects garbage after every task, and visiting all modules takes a third of the time of a short task.
    """
    gc.freeze()
