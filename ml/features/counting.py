"""A day's occurrences per value, counted in parallel, and merged into the vocabulary's state.

Each task counts its own rows; one merge per feature adds them up. A merge that fits in a task's memory is an Arrow task of its
own, so that features share the cores; a larger one is a shuffle, and Spark SQL does it. Both write the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import VocabularySpec
from ml.features.hashtable import count_distinct, slots_for
from ml.features.sparse import SparseFeature
from ml.features.storage import read_parquet, write_batches
from ml.features.vocabulary import COUNTS, STATE, STATE_ORDER, assign_ids, merge_counts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# States and partial counts beyond this many rows together are merged by Spark SQL, where there is a session.
ARROW_ROWS = 20_000_000


def count_values(feature: SparseFeature, batch: pa.RecordBatch) -> pa.Table:
    """`COUNTS` of a batch's values of one feature, missing ones left out, in order of first occurrence."""
    keys = feature.keys(batch).values
    distinct, counts, first = count_distinct(keys, slots_for(len(keys)))
    return pa.Table.from_arrays([pa.array(distinct), feature.words(batch, first), pa.array(counts)], schema=COUNTS)


@dataclass(frozen=True)
class Merge:
    """One feature's merge. previous: state before the day, None on the first; partial: its counts; target: state after it."""

    feature: str
    limits: VocabularySpec
    previous: str | None
    partial: tuple[str, ...]
    target: str

    @property
    def inputs(self) -> list[UPath]:
        return [UPath(path) for path in ((self.previous,) if self.previous else ()) + self.partial]

    def rows(self) -> int:
        """Rows to be merged, from the files' footers."""
        total = 0
        for path in self.inputs:
            with path.fs.open(path.path, "rb") as file:
                total += pq.read_metadata(file).num_rows
        return total


@dataclass(frozen=True)
class VocabularySize:
    """values: distinct values seen so far; ids: those of them that have an id."""

    values: int
    ids: int


def merge_in_arrow(merge: Merge) -> VocabularySize:
    """Write the state after the day, all of it in this process's memory."""
    previous = read_parquet(UPath(merge.previous)) if merge.previous else None
    merged = merge_counts(previous, [read_parquet(UPath(path)) for path in merge.partial])
    return _write(merged.to_batches(), merge)


def merge_on_spark(merge: Merge, spark: SparkSession, scratch: UPath) -> VocabularySize:
    """Write the same state, with the sums and the order made by Spark SQL; scratch: a folder that Spark may write to."""
    from pyspark.sql import functions as f

    ordered = UPath(scratch / f"{merge.feature}.ordered")
    columns = [f.col(name) for name in STATE.names]
    rows = spark.read.parquet(*merge.partial).withColumn("id", f.lit(None).cast("bigint")).select(*columns)
    if merge.previous:
        rows = rows.unionByName(spark.read.parquet(merge.previous).select(*columns))
    summed = rows.groupBy("key").agg(f.min("value").alias("value"), f.sum("count").alias("count"), f.max("id").alias("id"))
    order = [f.col(name).asc_nulls_last() if way == "ascending" else f.col(name).desc() for name, way in STATE_ORDER]
    summed.select(*columns).orderBy(*order).write.parquet(str(ordered))
    parts = sorted(path for path in ordered.iterdir() if path.name.endswith(".parquet"))
    batches = (batch for part in parts for batch in read_parquet(part).cast(STATE).to_batches())
    return _write(batches, merge)


def _write(ordered, merge: Merge) -> VocabularySize:  # type: ignore[no-untyped-def]
    values = ids = 0

    def counted():  # type: ignore[no-untyped-def]
        nonlocal values, ids
        for batch in assign_ids(ordered, merge.limits):
            values += len(batch)
            ids += len(batch) - batch["id"].null_count
            yield batch

    write_batches(counted(), STATE, UPath(merge.target))
    return VocabularySize(values, ids)
