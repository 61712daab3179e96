"""Counts a day's occurrences of each value in parallel, and merges the counts into the state of the vocabulary.

Each task counts its own rows, and one merge per feature adds the counts. A merge that fits in a task's memory is done in
Arrow, and one task does several small merges. A larger merge needs a shuffle, which Spark SQL does. Both write the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import VocabularySpec
from ml.compute.spark import literal_path
from ml.features.hashtable import count_distinct, slots_for
from ml.features.sparse import SparseFeature
from ml.features.vocabulary import COUNTS, STATE, STATE_ORDER, assign_ids, merge_counts
from ml.parquet import read_parquet, write_batches

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# If a feature's state and partial counts together have more rows than this, Spark SQL merges them (if there is a session).
ARROW_ROWS = 20_000_000

# Small merges share a task up to this many rows, because starting a task costs as much as merging that many.
ROWS_PER_TASK = 500_000

# Schema of the counts of a task. The file has one row group per feature, in the order of the features.
COUNTED = pa.schema([("feature", pa.string()), *COUNTS])


def count_values(feature: SparseFeature, batch: pa.RecordBatch) -> pa.Table:
    """Counts the values of one feature.

    Args:
        feature: The feature.
        batch: N rows.

    Returns:
        `COUNTS` of the distinct values, without missing ones, in order of first occurrence.
    """
    keys = feature.keys(batch).values
    distinct, counts, first = count_distinct(keys, slots_for(len(keys)))
    return pa.Table.from_arrays([pa.array(distinct), feature.words(batch, first), pa.array(counts)], schema=COUNTS)


def write_counts(features: Sequence[SparseFeature], batch: pa.RecordBatch, path: UPath) -> tuple[int, ...]:
    """Writes the counts of a batch.

    Args:
        features: Features with a vocabulary.
        batch: N rows.
        path: Parquet file (`COUNTED`) to write.

    Returns:
        The number of distinct values of each feature.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    counted = []
    with (
        path.fs.open(path.path, "wb") as file,
        pq.ParquetWriter(file, COUNTED, compression="lz4", use_dictionary=False) as writer,
    ):
        for feature in features:
            counts = count_values(feature, batch)
            named = counts.add_column(0, "feature", pa.array([feature.column.name] * len(counts), pa.string()))
            writer.write_table(named, row_group_size=max(1, len(counts)))
            counted.append(len(counts))
    return tuple(counted)


@dataclass(frozen=True)
class Merge:
    """The merge of one feature's counts into its state.

    Attributes:
        feature: Name of the feature.
        position: Index of the feature's row group in each file of counts.
        limits: `min_count` and `max_size` of the vocabulary.
        previous: File of the state before the day; None on the first day.
        partial: Files of the tasks' counts.
        target: File of the state after the day.
        rows: Total number of rows to merge.
    """

    feature: str
    position: int
    limits: VocabularySpec
    previous: str | None
    partial: tuple[str, ...]
    target: str
    rows: int


@dataclass(frozen=True)
class VocabularySize:
    """Size of a vocabulary.

    Attributes:
        values: Number of distinct values seen so far.
        ids: Number of values that have an id.
    """

    values: int
    ids: int


def pack(merges: Iterable[Merge]) -> list[tuple[Merge, ...]]:
    """Groups merges into tasks: each task has at most `ROWS_PER_TASK` rows to merge, or a single larger merge."""
    packs: list[tuple[Merge, ...]] = []
    room = 0
    for merge in merges:
        if not packs or merge.rows > room:
            packs.append(())
            room = ROWS_PER_TASK
        packs[-1] += (merge,)
        room -= merge.rows
    return packs


def merge_in_arrow(merges: tuple[Merge, ...]) -> list[VocabularySize]:
    """Merges in this process's memory, one merge after the other, and writes the states after the day."""
    return [_merge_in_arrow(merge) for merge in merges]


def _merge_in_arrow(merge: Merge) -> VocabularySize:
    previous = read_parquet(UPath(merge.previous)) if merge.previous else None
    group = range(merge.position, merge.position + 1)
    partial = [read_parquet(UPath(path), COUNTS.names, group) for path in merge.partial]
    return _write(merge_counts(previous, partial).to_batches(), merge)


def merge_on_spark(merge: Merge, spark: SparkSession, scratch: UPath) -> VocabularySize:
    """Merges in Spark SQL, and writes the same bytes as `merge_in_arrow`.

    Args:
        merge: The merge.
        spark: The session.
        scratch: A folder that Spark may write to.

    Returns:
        The size of the vocabulary after the day.
    """
    from pyspark.sql import functions as f

    ordered = UPath(scratch / f"{merge.feature}.ordered")
    columns = [f.col(name) for name in STATE.names]
    partial = spark.read.parquet(*map(literal_path, merge.partial)).where(f.col("feature") == merge.feature)
    rows = partial.withColumn("id", f.lit(None).cast("bigint")).select(*columns)
    if merge.previous:
        rows = rows.unionByName(spark.read.parquet(literal_path(_visible(merge.previous, scratch))).select(*columns))
    summed = rows.groupBy("key").agg(f.min("value").alias("value"), f.sum("count").alias("count"), f.max("id").alias("id"))
    order = [f.col(name).asc_nulls_last() if way == "ascending" else f.col(name).desc() for name, way in STATE_ORDER]
    summed.select(*columns).orderBy(*order).write.parquet(str(ordered))
    parts = sorted(path for path in ordered.iterdir() if path.name.endswith(".parquet"))
    batches = (batch for part in parts for batch in read_parquet(part).cast(STATE).to_batches())
    return _write(batches, merge)


def _visible(path: str, scratch: UPath) -> str:
    """Copies a file that Spark takes for hidden, because its name starts with `_`; returns the path to read."""
    source = UPath(path)
    if not source.name.startswith("_"):
        return path
    target = UPath(scratch / f"before{source.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as original, target.open("wb") as copy:
        shutil.copyfileobj(original, copy)
    return str(target)


def _write(ordered: Iterable[pa.RecordBatch], merge: Merge) -> VocabularySize:
    values = ids = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal values, ids
        for batch in assign_ids(ordered, merge.limits):
            values += len(batch)
            ids += len(batch) - batch["id"].null_count
            yield batch

    write_batches(counted(), STATE, UPath(merge.target))
    return VocabularySize(values, ids)
