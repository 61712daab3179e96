"""Measures a partition of Parquet files in one vectorised pass. MDS data is measured by `ml.quality.scan_mds`."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute generates its functions at import, so the type checker does not see them)

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.labels import MAIN
from ml.catalog.spec import DatasetSpec, LabelRule
from ml.features.column_profile import ColumnProfile, column_profile
from ml.features.hashing import combine, hash_values
from ml.logs.labels import POSITIVE, label_codes
from ml.quality.content import content_of
from ml.quality.histogram import Histogram, Ids, histogram_of
from ml.quality.profile import Profile
from ml.schema import EVENT_TIME, LABEL, MISSING_ID, FeatureSchema
from ml.stages import RAW_LOGS


def scan_parquet(
    spec: DatasetSpec, stage: str, partition: UPath, manifest: Mapping[str, Any], bounds: tuple[int, int]
) -> Profile:
    """Measures a day of raw logs or features.

    Args:
        spec: The dataset.
        stage: The stage that the partition belongs to.
        partition: The partition's folder.
        manifest: Its manifest.
        bounds: First microsecond of the day and of the next day, since 1970-01-01 UTC.

    Raises:
        ValueError: A file is not readable as Parquet; the message names it.
    """
    tally = _Tally(spec, stage, bounds)
    for path in sorted((partition / "rows").glob("part-*.parquet"), key=str):
        with path.fs.open(path.path, "rb") as file:
            try:
                footer = pq.read_metadata(file)
                names = [name for name in tally.dictionaries if name in footer.schema.names]
                tally.add_file(pq.ParquetFile(file, metadata=footer, read_dictionary=names))
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path}: not readable as Parquet: {error}") from error
    return tally.profile(manifest)


class _Tally:
    """Sums over the row groups of a day, which are added in time order."""

    def __init__(self, spec: DatasetSpec, stage: str, bounds: tuple[int, int]) -> None:
        self.spec, self.bounds, self.is_raw = spec, bounds, stage == RAW_LOGS
        self.columns: dict[str, ColumnProfile] = {}
        self.histograms: dict[str, Histogram] = {}
        self.rows = self.positives = self.bad_labels = self.outside = self.disordered = 0
        self.last_time = -(2**63)
        self.content = 0
        self.keys: list[Ids] = []
        of_features = LabelRule(MAIN, "label", LABEL)
        self.label = next((r for r in spec.label_rules if r.name == MAIN), None) if self.is_raw else of_features
        self.label_is_text = self.is_raw and self.label is not None and spec.column_types[self.label.column] == "string"
        self.drifting = _raw_categories(spec) if self.is_raw else tuple(s.name for s in spec.sparse)
        types = spec.column_types
        self.dictionaries = [name for name in self.drifting if self.is_raw and types[name] == "string"]

    def add_file(self, file: pq.ParquetFile) -> None:
        for name in file.schema_arrow.names:  # a file without row groups has types as well
            self._merge(name, column_profile(pa.nulls(0, file.schema_arrow.field(name).type)))
        for group in range(file.num_row_groups):
            footer = file.metadata.row_group(group)
            counted = self._nulls_in_footer(file, footer)
            names = [name for name in file.schema_arrow.names if name not in counted]
            for name, nulls in counted.items():
                self._merge(name, ColumnProfile(self.columns[name].type, nulls))
            table = file.read_row_group(group, columns=names)
            self.rows += footer.num_rows
            for name in names:
                self._merge(name, column_profile(_one_chunk(table, name)))
            self._add_rows(lambda name, table=table: _one_chunk(table, name) if name in table.column_names else None)
            if not self.is_raw:
                self.content = (self.content + _content(self.spec, table)) % 2**64

    def _nulls_in_footer(self, file: pq.ParquetFile, footer: pq.RowGroupMetaData) -> dict[str, int]:
        """Numbers of missing values, from the footer, of columns of which nothing else is measured. They need not be read."""
        used = {*self.drifting, *(self.spec.expectations.unique if self.is_raw else ())}
        used |= {self.label.column} if self.label else set()
        counts: dict[str, int] = {}
        for i in range(footer.num_columns):
            chunk = footer.column(i)
            name = chunk.path_in_schema
            if (
                name not in file.schema_arrow.names
                or name in used
                or not pa.types.is_string(file.schema_arrow.field(name).type)
            ):
                continue
            if chunk.is_stats_set and chunk.statistics.has_null_count:
                counts[name] = chunk.statistics.null_count
        return counts

    def _merge(self, name: str, profile: ColumnProfile) -> None:
        self.columns[name] = self.columns[name] + profile if name in self.columns else profile

    def _add_rows(self, column: Callable[[str], pa.Array | None]) -> None:
        self._add_times(column(EVENT_TIME))
        self._add_labels(column)
        for name in self.drifting:
            if (values := column(name)) is not None:
                ids = hash_values(name, values) if self.is_raw else _ids(values)
                found = histogram_of(ids)
                self.histograms[name] = self.histograms[name] + found if name in self.histograms else found
        if self.is_raw and self.spec.expectations.unique:
            parts = [column(name) for name in self.spec.expectations.unique]
            if all(part is not None for part in parts):
                self.keys.append(combine(*[hash_values("unique", part) for part in parts]))

    def _add_times(self, column: pa.Array | None) -> None:
        if column is None or not pa.types.is_integer(column.type):
            return
        times = column.drop_null().to_numpy()
        if times.size == 0:
            return
        first, after = self.bounds
        self.outside += int(np.count_nonzero((times < first) | (times >= after)))
        self.disordered += int(np.count_nonzero(np.diff(times) < 0)) + int(times[0] < self.last_time)
        self.last_time = int(times[-1])

    def _add_labels(self, column: Callable[[str], pa.Array | None]) -> None:
        rule = self.label
        values = column(rule.column) if rule else None
        if rule is None or values is None or pa.types.is_string(values.type) != self.label_is_text:
            return
        codes = label_codes(values, rule)
        self.positives += int(np.count_nonzero(codes == POSITIVE))
        self.bad_labels += int(np.count_nonzero(codes < 0))

    def profile(self, manifest: Mapping[str, Any]) -> Profile:
        return Profile(
            rows=self.rows,
            columns=self.columns,
            histograms=self.histograms,
            positives=self.positives,
            bad_labels=self.bad_labels,
            duplicates=_duplicates(self.keys),
            outside_day=self.outside,
            out_of_order=self.disordered,
            content=self.content,
            manifest=manifest,
        )


def _content(spec: DatasetSpec, table: pa.Table) -> int:
    """Hash of the columns that models see. 0 if one is missing, which the `schema` check reports."""
    schema = FeatureSchema.of(spec)
    singles = [*schema.training_columns, *schema.dense, *schema.single]
    if not {*singles, *schema.multi} <= set(table.column_names):
        return 0
    columns: list[tuple[str, npt.NDArray[Any], npt.NDArray[Any] | None]] = [
        (name, _one_chunk(table, name).to_numpy(zero_copy_only=False), None) for name in singles
    ]
    for name in schema.multi:
        lists = _one_chunk(table, name)
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        columns.append((name, lists.flatten().to_numpy(zero_copy_only=False), lengths))
    return content_of(table.num_rows, columns)


def _raw_categories(spec: DatasetSpec) -> tuple[str, ...]:
    """Columns of the log that sparse features use as categories, except users and items, in the order of the log."""
    wanted = {name for sparse in spec.sparse if not sparse.bucketise for name in sparse.inputs} - {spec.user, spec.item}
    return tuple(name for name, kind in spec.source.columns.items() if name in wanted and kind in ("int", "string", "bool"))


def _one_chunk(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _ids(column: pa.Array) -> Ids:
    parts = column.flatten() if pa.types.is_list(column.type) else column
    return parts.fill_null(MISSING_ID).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def _duplicates(keys: list[Ids]) -> int:
    """Number of rows that repeat an earlier key. Keys are 64-bit hashes; two of N collide with probability N² / 2^65."""
    if not keys:
        return 0
    known = np.concatenate(keys)
    known = known[known != MISSING_ID]
    return int(known.size - np.unique(known).size)
