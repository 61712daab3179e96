"""A dataset with every kind of feature table, and days of its log in the lake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
FIRST = 1_767_225_600_000_000
MINUTE = 60_000_000
DAY = 1440 * MINUTE

TABLES: list[dict[str, Any]] = [
    {
        "name": "item",
        "entity": ["item"],
        "values": [
            {"name": "shown", "count": {"hours": 6}},
            {"name": "idle", "recency": {"hours": 30}},
            {"name": "together", "covisitation": {"session": "visit", "hours": 12, "context": 3, "strength": 2}},
        ],
    },
    {
        "name": "user_clicks",
        "entity": ["user"],
        "where": {"column": "click", "equals": 1},
        "known_after_minutes": 30,
        "values": [
            {"name": "clicks", "count": {"hours": 24}},
            {"name": "clicked", "last": {"column": "item", "most": 3, "hours": 24}},
        ],
    },
    {
        "name": "rates",
        "entity": ["country"],
        "known_after_minutes": 30,
        "values": [{"name": "ctr", "rate": {"column": "click", "hours": 24, "prior": 0.2, "strength": 5}}],
    },
]


def table_spec(**changes: Any) -> DatasetSpec:
    """Returns the dataset, with some keys replaced."""
    dense = ["shown", "clicks", "ctr", {"name": "idle", "fill": -1}, {"name": "together", "fill": -1}]
    declared: dict[str, Any] = {
        "name": "tables",
        "description": "Made for tests.",
        "source": {
            "files": "*.csv",
            "format": "csv",
            "columns": {"time": "int", "user": "int", "item": "int", "country": "string", "click": "int", "visit": "int"},
        },
        "time": {"column": "time"},
        "partitions": {"start": DAYS[0], "end": DAYS[-1]},
        "label": {"column": "click"},
        "user": "user",
        "item": "item",
        "dense": dense,
        "sparse": ["item", {"name": "seen", "history": "clicked"}, {"name": "bucket", "column": "shown", "bucketise": [1, 4]}],
        "feature_tables": TABLES,
    }
    return DatasetSpec.model_validate(declared | changes)


def day_rows(day: int, rows: int, seed: int = 0) -> pa.Table:
    """Rows of one day in time order. Times are whole minutes, so that many are equal."""
    rng = np.random.default_rng((seed, day))
    minutes = np.sort(rng.integers(0, 1440, rows))
    return pa.table(
        {
            "event_time": FIRST + day * DAY + minutes * MINUTE,
            "time": minutes,
            "user": pa.array(rng.integers(0, 15, rows), mask=rng.random(rows) < 0.05),
            "item": pa.array(rng.integers(0, 12, rows), mask=rng.random(rows) < 0.05),
            "country": pa.array(rng.choice(["BR", "DE", "IN"], rows), mask=rng.random(rows) < 0.05),
            "click": rng.integers(0, 2, rows),
            "visit": rng.integers(0, 20, rows),
        }
    )


def write_rows(lake: Lake, spec: DatasetSpec, day: str, table: pa.Table) -> None:
    """Writes a day of the log as its stage does, in row groups of 100 rows."""
    log = spec.examples_log
    with lake.write(log.stage, spec.name, day) as staging:
        (staging / "rows").mkdir()
        pq.write_table(table, str(staging / "rows" / "part-00000.parquet"), row_group_size=100)
        lake.write_manifest(staging, {"rows": len(table), "fingerprint": log.fingerprint})


def in_time_order(*parts: pa.Table) -> pa.Table:
    """Rows of several tables in time order; rows of one instant in the order of the tables."""
    rows = pa.concat_tables(parts)
    return rows.take(pa.array(np.argsort(rows["event_time"].to_numpy(), kind="stable")))


def with_corrected_clicks(rows: pa.Table, numbers: list[int]) -> pa.Table:
    """Rows with the other label in some of them."""
    clicks = [1 - click if n in numbers else click for n, click in enumerate(rows["click"].to_pylist())]
    return rows.set_column(rows.column_names.index("click"), "click", pa.array(clicks))
