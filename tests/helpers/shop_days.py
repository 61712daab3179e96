"""Small feature tables for tests of evaluation, written as `cleaned_features` writes them."""

from __future__ import annotations

from datetime import datetime, time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.schema import arrow_schema

SPEC: dict[str, Any] = {
    "name": "shop",
    "description": "A shop & its <visitors>.",
    "source": {
        "files": "*.csv",
        "format": "csv",
        "columns": {"time": "int", "user": "int", "item": "int", "place": "string", "price": "float", "tags": "string",
                    "clicked": "int", "truth": "float"},
    },
    "time": {"column": "time", "unit": "s", "timezone": "America/Sao_Paulo"},
    "partitions": {"start": "2026-01-01", "end": "2026-01-31"},
    "user": "user",
    "item": "item",
    "label": {"column": "clicked"},
    "oracle": "truth",
    "simulation": {},
    "dense": [{"name": "price"}],
    "sparse": ["user", "item", "place", {"name": "tags", "split": "|"}],
    "slices": ["place"],
}  # fmt: skip


def spec_of(**changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({**SPEC, **changes})


def shop_day(spec: DatasetSpec, day: str, rows: int, seed: int = 0, **columns: Any) -> pa.Table:
    """`rows` visits whose click probability depends on item, price and place; `columns` replace those drawn."""
    rng = np.random.default_rng([seed, int(day[-2:])])
    start = datetime.combine(datetime.fromisoformat(day), time(), spec.zone).timestamp()
    item, price, place = rng.integers(2, 40, rows), rng.normal(size=rows), rng.integers(0, 3, rows)
    truth = 1 / (1 + np.exp(1.5 - np.sin(item) - 0.8 * price - 0.3 * place))
    tags = [rng.integers(2, 9, n).tolist() for n in rng.integers(1, 4, rows)]
    drawn: dict[str, Any] = {
        "event_time": np.sort(rng.integers(0, 86_400_000_000, rows)) + round(start * 1e6),
        "label": (rng.random(rows) < truth).astype(np.float32),
        "sample_rate": np.ones(rows, np.float32),
        "price": price.astype(np.float32),
        "user": rng.integers(2, 500, rows),
        "item": item,
        "place": place + 2,
        "tags": tags,
        "key:user": rng.integers(2, 500, rows),
        "key:item": item,
        "slice:place": np.array(["market", "street", "online"])[place],
        "oracle": truth.astype(np.float32),
    }
    drawn |= columns
    schema = arrow_schema(spec)
    return pa.table({name: pa.array(drawn[name], schema.field(name).type) for name in schema.names}, schema=schema)


def put_day(lake: Lake, spec: DatasetSpec, day: str, table: pa.Table, parts: int = 2) -> None:
    with lake.write("cleaned_features", spec.name, day) as staging:
        folder = Path(staging / "rows")
        folder.mkdir()
        edges = np.linspace(0, table.num_rows, parts + 1).astype(int)
        for part, (low, high) in enumerate(pairwise(edges.tolist())):
            pq.write_table(table.slice(low, high - low), folder / f"part-{part:05d}.parquet")
        lake.write_manifest(staging, {"rows": table.num_rows, "fingerprint": spec.fingerprint})
