"""Reads the feature table in chunks for evaluation, and finds the earlier days that may be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from ml.catalog.spec import DatasetSpec
from ml.days import trailing_days
from ml.features.read import check_file, feature_parts
from ml.lake import Lake
from ml.schema import arrow_schema
from ml.stages import CLEANED_FEATURES

CHUNK = 65_536


def earlier_days(lake: Lake, dataset: str, day: str, window: int) -> list[str]:
    """Return the days among the `window` calendar days before `day` that have features, ascending."""
    there = set(lake.days(CLEANED_FEATURES, dataset))
    return [other for other in trailing_days(day, window) if other in there]


def count_rows(lake: Lake, spec: DatasetSpec, day: str) -> int:
    """Count the rows of a day's feature table. Raises `MissingPartition` or `StalePartition`."""
    rows = 0
    for path in feature_parts(lake, spec, day):
        with path.fs.open(path.path, "rb") as file, pq.ParquetFile(file) as parquet:
            rows += parquet.metadata.num_rows
    return rows


def chunks(lake: Lake, spec: DatasetSpec, day: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read a day's feature table in event-time order, at most `CHUNK` rows at a time.

    Args:
        lake: Where features are stored.
        spec: The dataset.
        day: `YYYY-MM-DD`.
        columns: Columns to read; by default all.

    Yields:
        Tables of at most `CHUNK` rows.

    Raises:
        MissingPartition: The day has no features.
        StalePartition: The features have another fingerprint.
        ValueError: A file does not have the columns of the spec.
    """
    wanted = arrow_schema(spec).names if columns is None else list(columns)
    for path in feature_parts(lake, spec, day):
        with path.fs.open(path.path, "rb") as file, pq.ParquetFile(file) as parquet:
            check_file(spec, path, parquet.schema_arrow, wanted)
            for batch in parquet.iter_batches(batch_size=CHUNK, columns=wanted):
                yield pa.Table.from_batches([batch])
