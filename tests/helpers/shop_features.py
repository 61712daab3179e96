"""Small specs and days of logs for tests of features."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.schema import ARROW_TYPES

DAY_0 = int(np.datetime64("2020-01-01", "us").astype(np.int64))
DAY = 86_400_000_000


def shop(**changes: Any) -> DatasetSpec:
    """A spec with every kind of transform."""
    declared: dict[str, Any] = {
        "name": "shop",
        "description": "a shop",
        "source": {
            "files": "log.csv",
            "format": "csv",
            "columns": {
                "user": "int",
                "item": "int",
                "country": "string",
                "tags": "string",
                "price": "float",
                "count": "int",
                "member": "bool",
                "click": "int",
            },
        },
        "time": {"by_position": True, "timezone": "America/Sao_Paulo"},
        "partitions": {"start": "2020-01-01", "end": "2020-01-09"},
        "user": "user",
        "item": "item",
        "label": {"column": "click"},
        "dense": [
            {"name": "price_log", "column": "price", "fill": 3.0, "clip": [0.5, 100], "log1p": True},
            {"name": "count", "fill": -1, "scale": 0.5},
            {"name": "is_member", "column": "member"},
        ],
        "sparse": [
            {"name": "item_id", "column": "item"},
            {"name": "country_id", "column": "country", "vocabulary": {"min_count": 3, "max_size": 4}},
            {"name": "tag_ids", "column": "tags", "split": "||", "max_values": 3},
            {"name": "tag_words", "column": "tags", "split": "||", "vocabulary": {"min_count": 2}},
            {"name": "price_bucket", "column": "price", "bucketise": [1, 10, 50]},
            {"name": "country_x_member", "cross": ["country", "member"]},
            {"name": "country_x_count", "cross": ["country", "count"], "vocabulary": {"min_count": 2}},
            {"name": "hour", "hour_of_day": True},
            {"name": "price_id", "column": "price"},
        ],
        "slices": ["country", "count"],
    }
    return DatasetSpec.model_validate(declared | changes)


def shop_day(spec: DatasetSpec, day: int, rows: int, seed: int = 0) -> pa.Table:
    """A day's rows as in `raw_logs`, in time order, with missing values, NaN and infinities."""
    rng = np.random.default_rng((seed, day))
    countries = np.array(
        ["BR", "DE", "IN", "", "naïve", "JP", "US", "a very long name of a country, beyond 32 bytes", "x" * 33]
    )
    tags = np.array(["a", "b||c", "||a||", "", "||", "a||b||c||d||e", "ü", "a|b"])
    columns = {
        "user": pa.array(rng.integers(0, 20, rows), mask=rng.random(rows) < 0.05),
        "item": pa.array((rng.zipf(1.5, rows) % 50) - 5, mask=rng.random(rows) < 0.02),
        "country": pa.array(countries[rng.zipf(1.6, rows) % len(countries)], mask=rng.random(rows) < 0.1),
        "tags": pa.array(rng.choice(tags, rows), mask=rng.random(rows) < 0.1),
        "price": pa.array(rng.choice([0.0, -0.0, 1.0, 9.99, 50.0, 1e300, -5.0, np.nan, np.inf, -np.inf], rows)),
        "count": pa.array(rng.integers(-3, 6, rows), mask=rng.random(rows) < 0.2),
        "member": pa.array(rng.random(rows) < 0.5, mask=rng.random(rows) < 0.1),
        "click": pa.array((rng.random(rows) < 0.3).astype(np.int64)),
    }
    times = DAY_0 + day * DAY + np.sort(rng.integers(0, DAY, rows))
    typed = [columns[name].cast(ARROW_TYPES[kind]) for name, kind in spec.source.columns.items()]
    return pa.table([pa.array(times), *typed], names=["event_time", *spec.source.columns])


def digests(folder: UPath) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
