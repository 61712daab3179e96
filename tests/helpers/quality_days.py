"""A small dataset and days of it, written by the production code. Tests corrupt single days."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.write import write_day
from ml.days import day_bounds
from ml.features.transforms import compile_transforms
from ml.features.vocabulary import Vocabulary
from ml.lake import Lake
from ml.parquet import write_table

DAYS = [f"2026-03-{day:02d}" for day in range(1, 8)]
ROWS = 4_000

SPEC: dict[str, Any] = {
    "name": "shop",
    "description": "Clicks of a small shop.",
    "source": {
        "files": "*.csv",
        "format": "csv",
        "columns": {"time": "int", "user": "int", "item": "int", "price": "float", "country": "string", "tags": "string",
                    "clicked": "int"},
    },
    "time": {"column": "time", "unit": "ms", "timezone": "America/Sao_Paulo"},
    "partitions": {"start": "2026-03-01", "end": "2026-03-07"},
    "label": {"column": "clicked"},
    "user": "user",
    "item": "item",
    "dense": [{"name": "price", "log1p": True}],
    "sparse": ["user", "item", "country", {"name": "tags", "split": "|"}],
    "expectations": {
        "unique": ["user", "item", "event_time"],
        "columns": {"price": {"null_rate": {"max": 0.1}, "value": {"min": 0, "max": 1000}},
                    "country": {"null_rate": {"max": 0.1, "severity": "warning"}}},
    },
}  # fmt: skip

Change = Callable[[dict[str, Any]], Any]
Said = Mapping[str, Any]
NOTHING: Said = {}


def make_spec(**changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({**SPEC, **changes})


def raw_columns(spec: DatasetSpec, day: str, rows: int = ROWS) -> dict[str, Any]:
    """Columns of an intact day in time order, seeded by the day, with Zipf users and items and a tenth of rows clicked."""
    rng = np.random.default_rng(int(day.replace("-", "")))
    first, after = day_bounds(day, spec.zone)
    times = np.sort(rng.choice(after - first, rows, replace=False)) + first
    countries = rng.choice(["BR", "PT", "AO", "MZ", ""], rows, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    return {
        "event_time": pa.array(times),
        "time": pa.array(times // 1000),
        "user": pa.array(rng.zipf(1.5, rows) % 1000),
        "item": pa.array(rng.zipf(1.5, rows) % 300),
        "price": pa.array(rng.gamma(2.0, 10.0, rows), mask=rng.random(rows) < 0.05),
        "country": pa.array(countries, mask=countries == ""),
        "tags": pa.array(rng.choice(["a", "a|b", "b|c", "c"], rows)),
        "clicked": pa.array((rng.random(rows) < 0.1).astype(np.int64)),
    }


def write_raw(
    lake: Lake, spec: DatasetSpec, day: str, change: Change | None = None, rows: int = ROWS, manifest: Said = NOTHING
) -> None:
    """Writes a `raw_logs` partition of two files. `change` can spoil its columns, and `manifest` its manifest."""
    columns = raw_columns(spec, day, rows)
    if change:
        change(columns)
    table = pa.table(columns)
    half = table.num_rows // 2
    with lake.write("raw_logs", spec.name, day) as staging:
        for number, part in enumerate((table.slice(0, half), table.slice(half))):
            write_table(part.combine_chunks(), staging / "rows" / f"part-{number:05d}.parquet")
        said = {"rows": table.num_rows, "quarantined": 3, "fingerprint": spec.log.fingerprint, "seconds": 2.0} | dict(manifest)
        lake.write_manifest(staging, said)


def write_features(
    lake: Lake, spec: DatasetSpec, day: str, change: Change | None = None, rows: int = ROWS, manifest: Said = NOTHING
) -> None:
    """Writes a `cleaned_features` partition with the spec's transforms. `change` can spoil its columns."""
    batch = pa.RecordBatch.from_pydict(raw_columns(spec, day, rows))
    vocabularies = {s.name: Vocabulary.empty() for s in spec.sparse if s.vocabulary}
    transform = compile_transforms(spec, vocabularies)
    columns = dict(zip(transform.schema.names, transform(batch).columns, strict=True))
    if change:
        change(columns)
    table = pa.table(columns)
    table = table.replace_schema_metadata(transform.schema.metadata)
    with lake.write("cleaned_features", spec.name, day) as staging:
        write_table(table, staging / "rows" / "part-00000.parquet")
        lake.write_manifest(staging, {"rows": table.num_rows, "fingerprint": spec.fingerprint} | dict(manifest))


def write_mds(lake: Lake, spec: DatasetSpec, day: str) -> None:
    write_day(spec, day, lake, LocalRunner(), block_rows=256, window_blocks=4)


def write_days(lake: Lake, spec: DatasetSpec, days: list[str], *writers: Callable[..., None]) -> None:
    for day in days:
        for write in writers:
            write(lake, spec, day)
