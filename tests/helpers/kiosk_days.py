"""Days of clicks of a small shop whose log holds positives alone, as feature tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog.spec import DatasetSpec
from ml.days import day_bounds
from ml.lake import Lake
from ml.schema import arrow_schema

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")


def kiosk(**changes: Any) -> DatasetSpec:
    declared: dict[str, Any] = {
        "name": "kiosk",
        "description": "Made for tests.",
        "source": {
            "files": "*.csv",
            "format": "csv",
            "columns": {"time": "int", "user": "int", "item": "int", "visit": "int", "place": "string"},
        },
        "time": {"column": "time"},
        "partitions": {"start": DAYS[0], "end": DAYS[-1]},
        "user": "user",
        "item": "item",
        "session": {"column": "visit", "filled_in_seconds": 30},
        "label": {"negatives": {"per_positive": 1, "window_hours": 3, "recent": {"clicks_1h": 1}}},
        "dense": [{"name": "clicks_1h"}],
        "sparse": ["user", "item", "place", {"name": "history", "history": 3}],
        "ranking": {"slice_minutes": 30, "popularity_minutes": [60, 20]},
    }
    return DatasetSpec.model_validate(declared | changes)


def kiosk_day(spec: DatasetSpec, day: str, clicks: int = 300, seed: int = 0, items: int = 25) -> pa.Table:
    """A day of clicks, each with one sampled negative behind it. Items have consecutive keys from 2."""
    rng = np.random.default_rng([seed, int(day[-2:])])
    begin, end = day_bounds(day, spec.zone)
    time = begin + np.sort(rng.integers(0, (end - begin) // 1_000_000, clicks)) * 1_000_000
    visit = rng.integers(1, max(2, clicks // 5), clicks) + 1000 * int(day[-2:])
    time[1::9] = np.minimum(time[:-1:9][: len(time[1::9])] + 30_000_000, end - 1)
    visit[1::9] = visit[:-1:9][: len(visit[1::9])]
    order = np.argsort(time, kind="stable")
    item = 2 + rng.zipf(1.3, clicks) % items
    rows = {"time": time[order], "visit": visit[order], "item": item, "label": np.ones(clicks)}
    both = {name: np.repeat(values, 2) for name, values in rows.items()}
    both["label"][1::2], both["item"][1::2] = 0, rng.integers(2, items + 2, clicks)
    count = 2 * clicks
    user = both["visit"] % 17 + 2
    drawn: dict[str, Any] = {
        "event_time": both["time"],
        "label": both["label"].astype(np.float32),
        "sample_rate": np.full(count, 0.5, np.float32),
        "clicks_1h": rng.integers(0, 9, count).astype(np.float32),
        "user": user,
        "item": both["item"],
        "place": rng.integers(2, 5, count),
        "history": [[2, 3]] * count,
        "key:user": user,
        "key:item": both["item"],
        "key:session": both["visit"],
    }
    schema = arrow_schema(spec)
    return pa.table({name: pa.array(drawn[name], schema.field(name).type) for name in schema.names}, schema=schema)


def put_features(lake: Lake, spec: DatasetSpec, day: str, table: pa.Table) -> None:
    with lake.write("cleaned_features", spec.name, day) as staging:
        folder = Path(staging / "rows")
        folder.mkdir()
        cut = len(table) // 3
        for part, rows in enumerate((table.slice(0, cut), table.slice(cut))):
            pq.write_table(rows, folder / f"part-{part:05d}.parquet", row_group_size=64)
        lake.write_manifest(staging, {"rows": len(table), "fingerprint": spec.fingerprint})
