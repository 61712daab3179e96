"""The feature table of a day as the writer of training data takes it in: checked, and window by window.

What the table's columns are is `ml.schema`; who writes it is `ml.features`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.features.read import check_file, feature_parts
from ml.lake import Lake
from ml.schema import EVENT_TIME, LABEL, SAMPLE_RATE, FeatureSchema
from ml.stages import CLEANED_FEATURES


@dataclass(frozen=True)
class Part:
    """One file of the table."""

    path: UPath
    rows: int


def parts_of(lake: Lake, spec: DatasetSpec, day: str) -> tuple[Part, ...]:
    """The files of a day's table, in order. Raises `MissingPartition`, `StalePartition`, and `ValueError` for another table."""
    parts = []
    for path in feature_parts(lake, spec, day):
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            check_file(spec, path, parquet.schema_arrow, columns_of(spec))
            parts.append(Part(path, parquet.metadata.num_rows))
    return tuple(parts)


def columns_of(spec: DatasetSpec) -> list[str]:
    """The table's columns that a batch is made of."""
    schema = FeatureSchema.of(spec)
    return [EVENT_TIME, LABEL, SAMPLE_RATE, *schema.dense, *schema.sparse]


def windows_of(spec: DatasetSpec, parts: Sequence[Part], begin: int, end: int, size: int) -> Iterator[tuple[int, pa.Table]]:
    """Rows [begin, end) of the day in windows of `size` rows, the last one maybe shorter, each with its first position.

    Holds one row group and one window; reads no row group that it does not need, and only the columns of a batch.
    """
    kept, held = [], 0
    for table in _groups(spec, parts, begin, end):
        kept.append(table)
        held += table.num_rows
        while held >= size or (held and begin + held == end):
            table = pa.concat_tables(kept)
            window, rest = table.slice(0, size), table.slice(size)
            yield begin, window
            begin, held, kept = begin + window.num_rows, rest.num_rows, [rest]


def _groups(spec: DatasetSpec, parts: Sequence[Part], begin: int, end: int) -> Iterator[pa.Table]:
    start = 0  # position of the part's, then of the row group's first row
    for part in parts:
        if start + part.rows <= begin or start >= end:
            start += part.rows
            continue
        with part.path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                low, high = max(begin - start, 0), min(end - start, rows)
                if low < high:
                    yield parquet.read_row_group(group, columns_of(spec), use_threads=False).slice(low, high - low)
                start += rows


def late(spec: DatasetSpec, day: str, position: int) -> ValueError:
    """The error for a row that happened before the one ahead of it."""
    return ValueError(
        f"{spec.name}/{CLEANED_FEATURES} of {day}: row {position} happened before the row ahead of it; the feature "
        f"table must be in event-time order. Rerun {CLEANED_FEATURES} of the day"
    )
