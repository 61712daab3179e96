"""Reading of a day's feature table for the writer of training data: it checks the files and yields windows of rows.

The columns of the table are defined in `ml.schema`, and `ml.features` writes it.
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
from ml.schema import FeatureSchema
from ml.stages import CLEANED_FEATURES


@dataclass(frozen=True)
class Part:
    """One file of the table, and its number of rows."""

    path: UPath
    rows: int


def parts_of(lake: Lake, spec: DatasetSpec, day: str) -> tuple[Part, ...]:
    """Lists and checks the files of a day's table.

    Args:
        lake: Where the features are stored.
        spec: The dataset.
        day: The partition key.

    Returns:
        The files, in event-time order.

    Raises:
        MissingPartition: The day's features are not in the lake.
        StalePartition: They were made under another version of the catalog entry.
        ValueError: A file belongs to another table, or a column is missing.
    """
    parts = []
    for path in feature_parts(lake, spec, day):
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            check_file(spec, path, parquet.schema_arrow, columns_of(spec))
            parts.append(Part(path, parquet.metadata.num_rows))
    return tuple(parts)


def columns_of(spec: DatasetSpec) -> list[str]:
    """Returns the columns of the table that a batch needs."""
    schema = FeatureSchema.of(spec)
    return [*schema.training_columns, *schema.dense, *schema.sparse]


def windows_of(spec: DatasetSpec, parts: Sequence[Part], begin: int, end: int, size: int) -> Iterator[tuple[int, pa.Table]]:
    """Reads the columns of a batch for rows [begin, end) of the day, window by window.

    Memory holds one row group and one window at a time. Row groups outside the range are not read.

    Args:
        spec: The dataset.
        parts: The files of the day.
        begin: First row.
        end: The row after the last one.
        size: Rows of a window. The last window may be shorter.

    Yields:
        The position of the window's first row in the day, and the window.
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
    start = 0  # position of the first row of the part, then of the row group
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


def out_of_order(spec: DatasetSpec, day: str, position: int) -> ValueError:
    """Returns the error for a row that has an earlier event time than the preceding row."""
    return ValueError(
        f"{spec.name}/{CLEANED_FEATURES} of {day}: row {position} has an earlier event time than the preceding row; the "
        f"feature table must be in event-time order. Rerun {CLEANED_FEATURES} of the day"
    )
