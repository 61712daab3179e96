"""A log of a kiosk in three specs, and raw rows of it with missing values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from tests.helpers.training_days import FIRST

HOUR = 3_600_000_000
ROWS = 600
COLUMNS = {"time": "int", "who": "int", "what": "int", "page": "int", "tags": "string", "price": "float", "member": "bool"}
KNOWN: dict[str, Any] = {
    "name": "kiosk",
    "description": "Made for tests.",
    "source": {"files": "*.csv", "format": "csv", "columns": COLUMNS},
    "time": {"column": "time", "timezone": "America/Sao_Paulo"},
    "partitions": {"start": FIRST},
    "user": "who",
    "item": "what",
    "dense": [{"name": "price", "log1p": True}, {"name": "is_member", "column": "member"}],
    "sparse": [
        {"name": "article", "column": "what"},
        "page",
        {"name": "tags", "split": "|"},
        {"name": "hour", "hour_of_day": True},
        {"name": "price_bucket", "column": "price", "bucketise": [1, 5]},
        {"name": "who_x_page", "cross": ["who", "page"]},
    ],
}
CLICKED = DatasetSpec.model_validate(
    KNOWN | {"source": KNOWN["source"] | {"columns": COLUMNS | {"clicked": "int"}}, "label": {"column": "clicked"}}
)
SAMPLED = DatasetSpec.model_validate(
    KNOWN
    | {
        "label": {"negatives": {"per_positive": 1, "window_hours": 24, "recent": {"busy": 1}}},
        "dense": [{"name": "busy"}],
        "sparse": [*KNOWN["sparse"], {"name": "read", "history": 2}],
    }
)


LIMITED = DatasetSpec.model_validate(
    CLICKED.model_dump(mode="json", exclude_unset=True)
    | {"sparse": [{"name": "page", "vocabulary": {"min_count": 60}}, {"name": "tags", "split": "|", "vocabulary": {}}, "what"]}
)


def rows_of(spec: DatasetSpec, start: int = 1_767_240_000_000_000, seed: int = 5) -> pa.Table:
    """A day's raw rows, in time order, with missing values in most columns."""
    rng = np.random.default_rng(seed)
    some: Callable[[float], np.ndarray] = lambda share: rng.random(ROWS) < share  # noqa: E731
    columns = {
        "event_time": pa.array(start + np.cumsum(rng.integers(1, HOUR // 30, ROWS))),
        "who": pa.array(rng.integers(0, 30, ROWS), mask=some(0.1)),
        "what": pa.array(rng.integers(0, 20, ROWS)),
        "page": pa.array(rng.integers(2**60, 2**60 + 5, ROWS), mask=some(0.2)),
        "tags": pa.array(rng.choice(["p|q", "q", ""], ROWS), mask=some(0.2)),
        "price": pa.array(rng.choice([0.5, 2.0, 7.0], ROWS), mask=some(0.2)),
        "member": pa.array(some(0.5), mask=some(0.2)),
        "clicked": pa.array(some(0.4).astype(np.int64)),
    }
    return pa.table({name: columns[name] for name in ("event_time", *spec.source.columns) if name != "time"}).append_column(
        "time", pa.nulls(ROWS, pa.int64())
    )


def exact(rows: pa.Table) -> pd.DataFrame:
    """A frame whose ints stay ints beside missing values."""
    return rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
