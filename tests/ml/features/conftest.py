"""Fixtures of the feature tests: raw logs in the layout of `raw_logs`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.catalog.spec import DatasetSpec
from ml.lake import Lake

WriteRaw = Callable[..., None]


@pytest.fixture
def write_raw() -> WriteRaw:
    """Writes a day of raw logs: `write_raw(lake, spec, day, table, parts=1, row_group=1000)`."""

    def write(lake: Lake, spec: DatasetSpec, day: str, table: pa.Table, parts: int = 1, row_group: int = 1000) -> None:
        with lake.write("raw_logs", spec.name, day) as staging:
            (staging / "rows").mkdir()
            edges = np.linspace(0, len(table), parts + 1).astype(int)
            for n in range(parts):
                part = table.slice(edges[n], edges[n + 1] - edges[n])
                pq.write_table(part, str(staging / "rows" / f"part-{n:05d}.parquet"), row_group_size=row_group)
            lake.write_manifest(staging, {"rows": len(table), "fingerprint": spec.log.fingerprint})

    return write
