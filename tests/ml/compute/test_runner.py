"""Both runners give the same results in the same order, and raise the error of a failed task."""

from __future__ import annotations

import operator
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner, Runner, SparkRunner

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_results_come_in_the_tasks_order(count: int, spark: SparkSession) -> None:
    tasks = list(range(count))
    assert SparkRunner(spark).map(operator.neg, tasks) == LocalRunner().map(operator.neg, tasks) == [-n for n in tasks]


@pytest.mark.slow
def test_what_a_task_raised_is_raised(spark: SparkSession) -> None:
    runners: list[Runner] = [LocalRunner(), SparkRunner(spark)]
    for runner in runners:
        with pytest.raises(ZeroDivisionError, match=r"^division by zero"):
            runner.map(partial(operator.truediv, 1), [4, 3, 2, 1, 0, 1, 2])


@pytest.mark.slow
def test_an_error_that_can_not_be_pickled_is_told_by_its_text(spark: SparkSession) -> None:
    with pytest.raises(Exception, match=r"validation errors? for DatasetSpec"):
        SparkRunner(spark).map(DatasetSpec.model_validate, [{"name": 1}])
