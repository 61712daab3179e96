"""With every launcher, several processes write the same day as one process, or raise the error of the failed process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from pyspark.sql import SparkSession
from safetensors.torch import load_file

from assets.days import is_transient
from ml.distributed.launch import RankFailed, launch, process_group
from ml.distributed.launchers import Processes
from ml.distributed.process_group import Ranks
from ml.lake import Lake
from ml.training.day import DayOptions, train_day
from ml.training.report import TrainedDay
from tests.helpers.snapshots import WEIGHTS_FILE
from tests.helpers.training_days import made_spec, small_recipe, write_days

ROWS = 640
STATIC = {"features": {"b": {"kind": "static", "rows": 64}, "tags": {"kind": "hashed", "rows": 16}}}


def on_rank(root: str, day: str, fail_at: int | None = None, killed: bool = False) -> TrainedDay:
    with process_group() as ranks:
        recipe = small_recipe(tables=STATIC, checkpoints={"minutes": 1e-5})
        if fail_at is not None:
            fail_in_step(fail_at, ranks.rank, killed)
        return train_day(made_spec(), day, Lake.at(root), options=DayOptions(recipe=recipe, progress=False), ranks=ranks)


def fail_in_step(step: int, rank: int, killed: bool) -> None:
    import ml.training.loop as loop

    per_example_loss, calls = loop.per_example_loss, iter(range(10_000))

    def failing(*args):  # type: ignore[no-untyped-def]
        if next(calls) == step and rank == 1:
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("the second process fails")
        return per_example_loss(*args)

    loop.per_example_loss = failing


def weights(trained: TrainedDay) -> dict[str, torch.Tensor]:
    return load_file(f"{trained.folder}/{WEIGHTS_FILE}")


def same(one: TrainedDay, other: TrainedDay) -> None:
    assert one.report.rows == other.report.rows
    assert one.report.loss == pytest.approx(other.report.loss, rel=1e-5)
    assert one.report.rows_touched == other.report.rows_touched
    assert {name: table.rows for name, table in one.report.tables.items()} == {
        name: table.rows for name, table in other.report.tables.items()
    }
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        if not name.endswith("step"):
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-5, msg=name)


def alone(root: Path, days: int = 2) -> list[TrainedDay]:
    lake = Lake.at(root)
    written = write_days(lake, made_spec(), days=days, rows=ROWS)
    return [
        train_day(made_spec(), d, lake, options=DayOptions(recipe=small_recipe(tables=STATIC), progress=False)) for d in written
    ]


@pytest.mark.slow
def test_two_processes_write_the_days_that_one_does(lake: Lake, tmp_path: Path) -> None:
    whole = alone(tmp_path / "alone")
    for day, expected in zip(write_days(lake, made_spec(), days=2, rows=ROWS), whole, strict=True):
        same(launch(on_rank, str(lake.root), day, processes=Processes(2), scratch=lake.root), expected)
    assert not lake.days("checkpoints/dlrm", "made")


@pytest.mark.slow
def test_a_failing_rank_ends_the_job_with_its_own_traceback_and_two_or_one_go_on(lake: Lake, tmp_path: Path) -> None:
    whole = alone(tmp_path / "alone", days=1)[0]
    (day,) = write_days(lake, made_spec(), days=1, rows=ROWS)
    with pytest.raises(RankFailed, match="ZeroDivisionError: the second process fails"):
        launch(on_rank, str(lake.root), day, 9, processes=Processes(2), scratch=lake.root)
    assert not lake.days("tuned_models/dlrm", "made"), "nothing of the day is visible"
    recipe = small_recipe(tables=STATIC, checkpoints={"minutes": 1e-5})
    resumed = train_day(made_spec(), day, lake, options=DayOptions(recipe=recipe, progress=False))
    assert resumed.resumed_at == 8 * 32
    same(resumed, whole)


@pytest.mark.slow
def test_a_killed_rank_is_named_with_its_signal_and_a_day_goes_on_by_two(lake: Lake, tmp_path: Path) -> None:
    whole = alone(tmp_path / "alone", days=1)[0]
    (day,) = write_days(lake, made_spec(), days=1, rows=ROWS)
    with pytest.raises(RankFailed, match="rank 1 exited without reporting an error: SIGKILL"):
        launch(on_rank, str(lake.root), day, 18, True, processes=Processes(2), scratch=lake.root)
    resumed = launch(on_rank, str(lake.root), day, processes=Processes(2), scratch=lake.root)
    assert resumed.resumed_at in (8 * 32, 16 * 32), "the second may not have been written yet"
    same(resumed, whole)
    assert [path.name for path in Path(str(lake.root)).glob(".launched*")] == []


def test_an_error_of_another_process_is_as_passing_as_it_was_there() -> None:
    assert is_transient(RankFailed("", ["BusyPartition", "TimeoutError", "OSError", "Exception"]))
    assert not is_transient(RankFailed("", ["FileNotFoundError", "OSError", "Exception"]))
    assert not is_transient(RankFailed("", ["ZeroDivisionError", "Exception"]))


def test_batches_that_cannot_be_shared_evenly_are_refused(lake: Lake) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=ROWS)
    with pytest.raises(ValueError, match="32 rows cannot be shared evenly among 3 processes"):
        train_day(made_spec(), day, lake, options=DayOptions(recipe=small_recipe(), progress=False), ranks=Ranks(0, 3))


@pytest.mark.slow
def test_spark_starts_them_on_the_driver_and_tells_of_a_failing_rank(lake: Lake, spark: SparkSession) -> None:
    (day,) = write_days(lake, made_spec(), days=1, rows=ROWS)
    with pytest.raises(RankFailed, match=r"rank 1 failed:(?s:.*)ZeroDivisionError: the second process fails"):
        launch(on_rank, str(lake.root), day, 9, processes=Processes(2, "driver", spark), scratch=lake.root)
    assert not lake.days("tuned_models/dlrm", "made")


@pytest.mark.slow
def test_spark_starts_them_on_executors(lake: Lake, tmp_path: Path, spark: SparkSession) -> None:
    whole = alone(tmp_path / "alone", days=1)[0]
    (day,) = write_days(lake, made_spec(), days=1, rows=ROWS)
    same(launch(on_rank, str(lake.root), day, processes=Processes(2, "executors", spark), scratch=lake.root), whole)


def test_sparks_launchers_need_spark(lake: Lake) -> None:
    with pytest.raises(ValueError, match="launcher driver needs Spark: set EVERGREEN_SPARK_MASTER"):
        launch(on_rank, str(lake.root), "2026-01-01", processes=Processes(2, "driver"), scratch=lake.root)
