"""Measures the speed of reading on this machine: seconds to open a day, and seconds per decoded value.

A small day is written and read with the project's own writer and reader, in a temporary lake.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.reader import BlockReader
from ml.datasets.splits import SPLITS
from ml.datasets.write import write_day
from ml.lake import Lake
from ml.schema import arrow_schema
from ml.stages import CLEANED_FEATURES

DAYS = {"2026-01-01": 64, "2026-01-02": 32_768}  # rows of the two days whose times are compared
DENSE, SPARSE, REPEATS = 4, 8, 5


@dataclass(frozen=True)
class Reading:
    """Speed of reading with one core.

    Attributes:
        seconds_per_pass: CPU-seconds that reading a day takes, however few rows it has.
        seconds_per_value: CPU-seconds for each value: a dense value, or an id of a sparse feature.
    """

    seconds_per_pass: float
    seconds_per_value: float


def measure_reading() -> Reading:
    """Measure the reader of training data. It takes about a second."""
    spec = _spec()
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.at(folder)
        for day, rows in DAYS.items():
            _write(lake, spec, day, rows)
        few, many = (_typical(lambda day=day: _read(lake, spec, day)) for day in DAYS)
    small, large = (rows * (DENSE + SPARSE) for rows in DAYS.values())
    per_value = max(0.0, many - few) / (large - small)
    return Reading(max(0.0, few - small * per_value), per_value)


def _read(lake: Lake, spec: DatasetSpec, day: str) -> None:
    """Open a day and decode it; the batch of one row keeps collation out of the time, which is part of a step."""
    next(iter(BlockReader(lake, spec, [day], splits=SPLITS, batch_size=1)))


def _typical(call: Callable[[], None]) -> float:
    """Return the median CPU-seconds of a call, after one that fills caches."""
    call()
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
    return median(spent)


def _spec() -> DatasetSpec:
    names = [f"d{i}" for i in range(DENSE)], [f"s{i}" for i in range(SPARSE)]
    columns = dict.fromkeys(names[0], "float") | dict.fromkeys(names[1], "int") | {"time": "int", "label": "int"}
    return DatasetSpec.model_validate(
        {
            "name": "calibration",
            "description": "Random rows.",
            "source": {"files": "*.csv", "format": "csv", "columns": columns},
            "time": {"column": "time"},
            "partitions": {"start": min(DAYS), "end": max(DAYS)},
            "label": {"column": "label"},
            "dense": [{"name": name} for name in names[0]],
            "sparse": names[1],
        }
    )


def _write(lake: Lake, spec: DatasetSpec, day: str, rows: int) -> None:
    """Write the features of random rows as `cleaned_features`, and then as `mds_datasets`."""
    generator, schema = np.random.default_rng(0), arrow_schema(spec)
    columns = {name: generator.zipf(1.3, rows).astype(np.int64) for name in (f"s{i}" for i in range(SPARSE))}
    columns |= {f"d{i}": generator.random(rows, np.float32) for i in range(DENSE)}
    columns |= {"label": generator.integers(0, 2, rows).astype(np.float32), "sample_rate": np.ones(rows, np.float32)}
    columns["event_time"] = np.datetime64(day, "us").astype(np.int64) + np.arange(rows)
    with lake.write(CLEANED_FEATURES, spec.name, day) as folder:
        (folder / "rows").mkdir()
        with (folder / "rows" / "part-00000.parquet").open("wb") as file:
            pq.write_table(pa.table({name: columns[name] for name in schema.names}, schema=schema), file)
        lake.write_manifest(folder, {"rows": rows, "fingerprint": spec.fingerprint})
    write_day(spec, day, lake, LocalRunner())
