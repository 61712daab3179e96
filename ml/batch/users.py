"""The users of a log: the distinct values of its column of users."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import Runner
from ml.days import shift_day, trailing_days
from ml.features.hashing import hash_values
from ml.lake import Lake
from ml.logs.read import raw_parts
from ml.parquet import read_parquet
from ml.schema import ARROW_TYPES, MISSING_ID


def user_days(spec: DatasetSpec, lake: Lake, day: str, count: int) -> list[str]:
    """Return the days of the lake, ascending, among `count` days that end with a day; the day itself even if it is missing."""
    stage, earlier = spec.examples_log.stage, trailing_days(shift_day(day, 1), count)[:-1]
    return [*(other for other in earlier if other >= spec.first_day and lake.has(stage, spec.name, other)), day]


def users_of(spec: DatasetSpec, lake: Lake, days: list[str], runner: Runner) -> pa.Array:
    """Read the users of some days.

    Args:
        spec: A dataset with a user.
        lake: Where the log is stored.
        days: Days of the log.
        runner: Reads the files.

    Returns:
        The distinct users as logged, ascending. Missing values are left out.

    Raises:
        MissingPartition: A day has not been ingested.
    """
    assert spec.user is not None
    stage = spec.examples_log.stage
    parts = [part for day in days for part in raw_parts(lake, spec.name, day, stage)]
    found = runner.map(partial(_distinct, spec.user), parts)
    kind = ARROW_TYPES[spec.examples_log.source.columns[spec.user]]
    users = pa.chunked_array(found, kind).unique()
    return users.sort()


def _distinct(column: str, part: str) -> pa.Array:
    users = read_parquet(part, [column])[column].unique()
    return users.filter(pa.array(np.asarray(hash_values("user", users) != MISSING_ID)))
