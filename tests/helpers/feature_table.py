"""Feature tables of any shape, written into a lake as `cleaned_features` writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake
from ml.schema import arrow_schema

DAY = "2026-01-01"


def make_spec(dense: int = 3, single: int = 4, multi: int = 1, **splits: Any) -> DatasetSpec:
    """A dataset with a number of features of each kind."""
    columns = {f"d{i}": "float" for i in range(dense)} | {f"s{i}": "string" for i in range(single)}
    columns |= {f"m{i}": "string" for i in range(multi)} | {"time": "int", "clicked": "int"}
    return DatasetSpec.model_validate(
        {
            "name": "made",
            "description": "Made for tests.",
            "source": {"files": "*.csv", "format": "csv", "columns": columns},
            "time": {"column": "time"},
            "partitions": {"start": DAY},
            "label": {"column": "clicked"},
            "dense": [{"name": f"d{i}"} for i in range(dense)],
            "sparse": [{"name": f"s{i}"} for i in range(single)] + [{"name": f"m{i}", "split": "|"} for i in range(multi)],
            "splits": splits or {"by": "time", "validation": 0.1, "test": 0.1},
        }
    )


def make_table(spec: DatasetSpec, rows: int, seed: int = 0) -> pa.Table:
    """A feature table of distinct rows: the first sparse feature counts them from 0, times ascend with many ties."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "event_time": np.sort(rng.integers(0, max(rows // 3, 1), rows)) + 1_700_000_000_000_000,
        "label": rng.integers(0, 2, rows).astype(np.float32),
        "sample_rate": rng.random(rows, dtype=np.float32),
    }
    columns |= {dense.name: rng.standard_normal(rows, dtype=np.float32) for dense in spec.dense}
    for number, sparse in enumerate(spec.sparse):
        if sparse.is_multi_valued(spec.column_types):
            offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 5, rows))]).astype(np.int32)
            values = rng.integers(-(2**62), 2**62, offsets[-1])
            columns[sparse.name] = pa.ListArray.from_arrays(offsets, pa.array(values))
        else:
            columns[sparse.name] = np.arange(rows) if number == 0 else rng.integers(-(2**62), 2**62, rows)
    return pa.table(columns, schema=arrow_schema(spec))


def write_table(lake: Lake, spec: DatasetSpec, rows: int, day: str = DAY, seed: int = 0, parts: int = 3) -> pa.Table:
    """Write a feature table into the lake and return it. Row groups are not aligned with parts or blocks."""
    table = make_table(spec, rows, seed)
    cuts = np.linspace(0, rows, parts + 1).astype(int)
    with lake.write("cleaned_features", spec.name, day) as staging:
        (staging / "rows").mkdir()
        for i in range(parts):
            with (staging / "rows" / f"part-{i:05d}.parquet").open("wb") as file:
                pq.write_table(table.slice(cuts[i], cuts[i + 1] - cuts[i]), file, row_group_size=97)
        lake.write_manifest(staging, {"rows": rows, "fingerprint": spec.fingerprint})
    return table
