"""Measures one part of a day: a row group of the features' Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ml.advisor.profiles.id_counts import count_ids
from ml.advisor.profiles.profile import HOURS
from ml.advisor.profiles.row_sample import RowSample, chosen_rows, short_hash
from ml.advisor.profiles.sketch import DenseSketch, Sketch, SparseSketch
from ml.advisor.profiles.value_counts import count_floats
from ml.catalog.spec import DatasetSpec
from ml.days import MICROSECONDS_PER_MINUTE, day_bounds
from ml.features.dense import dense_values
from ml.parquet import read_parquet
from ml.quality.histogram import histogram_of
from ml.schema import EVENT_TIME, FIRST_ID, LABEL, MISSING_ID, FeatureSchema

STEP = 15 * MICROSECONDS_PER_MINUTE  # clocks change at multiples of it


@dataclass(frozen=True)
class Columns:
    """The columns that are measured. It is small, because each task receives a copy.

    Attributes:
        dataset: Name of the dataset.
        day: The partition key.
        dense: Dense features, with the value that each has where its input is missing.
        single: Sparse features with one id per row.
        multi: Sparse features with any number of ids per row.
        first: The first instant of the day.
        hours: Hour of the day in each quarter of an hour since then, in the dataset's time zone.
    """

    dataset: str
    day: str
    dense: Mapping[str, float]
    single: tuple[str, ...]
    multi: tuple[str, ...]
    first: int
    hours: tuple[int, ...]

    @classmethod
    def of(cls, spec: DatasetSpec, day: str) -> Columns:
        """Returns the columns of a day of a dataset."""
        schema, (first, after) = FeatureSchema.of(spec), day_bounds(day, spec.zone)
        nothing = pa.nulls(1, pa.float64())
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        instants = (epoch + timedelta(microseconds=at) for at in range(first, after, STEP))
        return cls(
            dataset=spec.name,
            day=day,
            dense={column.name: float(dense_values(column, nothing)[0]) for column in spec.dense},
            single=schema.single,
            multi=schema.multi,
            first=first,
            hours=tuple(instant.astimezone(spec.zone).hour for instant in instants),
        )

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [EVENT_TIME, LABEL, *self.dense, *self.single, *self.multi]


@dataclass(frozen=True)
class Part:
    """A row group.

    Attributes:
        path: The file.
        group: Index of the row group in the file.
        first_row: Position of its first row in the day.
    """

    path: str
    group: int
    first_row: int


def measure_part(columns: Columns, part: Part) -> Sketch:
    """Reads and measures a row group."""
    return measure_table(columns, read_parquet(part.path, columns.names, range(part.group, part.group + 1)), part.first_row)


def measure_table(columns: Columns, table: pa.Table, first_row: int = 0) -> Sketch:
    """Measures rows of the feature table.

    Args:
        columns: What to measure.
        table: N rows.
        first_row: Position of the first row in the day.
    """
    labels = _numpy(table, LABEL) == 1
    dense = {name: _numpy(table, name) for name in columns.dense}
    single = {name: _numpy(table, name) for name in columns.single}
    quarters = (_numpy(table, EVENT_TIME) - columns.first) // STEP
    hours = np.asarray(columns.hours)[np.clip(quarters, 0, len(columns.hours) - 1)]
    sampled, priorities = chosen_rows(columns.day, first_row, table.num_rows)
    sample = RowSample(
        priorities,
        labels[sampled],
        {name: values[sampled] for name, values in dense.items()},
        {name: short_hash(ids[sampled]) for name, ids in single.items()},
    )
    return Sketch(
        dataset=columns.dataset,
        days=(columns.day,),
        rows=np.bincount(hours, minlength=HOURS),
        positives=np.bincount(hours[labels], minlength=HOURS),
        dense={name: _dense(values, columns.dense[name]) for name, values in dense.items()},
        sparse={name: _single(ids) for name, ids in single.items()} | {name: _multi(table, name) for name in columns.multi},
        sample=sample,
    )


def _numpy(table: pa.Table, name: str) -> npt.NDArray:
    return table.column(name).to_numpy()


def _dense(values: npt.NDArray[np.float32], missing: float) -> DenseSketch:
    counts = count_floats(values)
    wide = counts.values.astype(np.float64)
    mean = float(wide @ counts.counts) / max(len(values), 1)
    return DenseSketch(
        values=counts,
        missing=int(counts.counts[counts.values == np.float32(missing)].sum()),
        integers=bool((np.trunc(wide) == wide).all()),
        mean=mean,
        squares=float((wide - mean) ** 2 @ counts.counts),
    )


def _single(ids: npt.NDArray[np.int64]) -> SparseSketch:
    return _sparse(ids, int(np.count_nonzero(ids == MISSING_ID)))


def _multi(table: pa.Table, name: str) -> SparseSketch:
    lists = table.column(name).combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    ids = lists.flatten().to_numpy(zero_copy_only=False)
    known = np.concatenate(([0], np.cumsum(ids != MISSING_ID)))  # ids before each position
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    return _sparse(ids, int(np.count_nonzero(known[offsets[1:]] == known[offsets[:-1]])))


def _sparse(ids: npt.NDArray[np.int64], empty: int) -> SparseSketch:
    return SparseSketch(count_ids(ids[(ids < MISSING_ID) | (ids >= FIRST_ID)]), histogram_of(ids), empty)
