"""Side tables joined to the log: a left join that keeps the log's rows and their order.

A table that fits a task's memory is looked up inside the task (Arrow's hash index); a larger one is joined by Spark SQL,
sort-merge, on the key alone: a row's number and key go to the JVM, the row itself does not. Both give the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ml.catalog.spec import ColumnType, SideTable
from ml.features.buffers import flat
from ml.features.columns import plain
from ml.parquet import read_parquet
from ml.schema import ARROW_TYPES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Strategy = Literal["broadcast", "sort_merge"]

# Bytes of a side table (key and joined columns, in memory) up to which every task holds all of it.
BROADCAST_BYTES = 256 * 1024 * 1024

# A row's number: its task's in the upper half, its place in the task below; Spark sorts by it.
ROW = "row"
TASK = "evergreen_task"
TASK_SHIFT = 32


class RepeatedKey(ValueError):
    """A side table has two rows for one key, so a left join would multiply the log's rows."""


@dataclass(frozen=True)
class Joined:
    """A side table made ready. path: of its Parquet file (broadcast), or of the folder of joined columns (sort_merge)."""

    log_key: str
    table_key: str
    columns: tuple[str, ...]
    strategy: Strategy
    path: str


def prepare(side: SideTable, rows: pa.Table, key_type: ColumnType) -> pa.Table:
    """The key, as the log types it, and the joined columns; rows without a key left out.

    Raises `RepeatedKey`, and `TypeError` where the keys' types do not meet; both name table and column.
    """
    name = f"{side.source.files}: {side.table_key}"
    kept = rows.select(list(dict.fromkeys([side.table_key, *side.columns])))
    kept = kept.filter(kept[side.table_key].is_valid())
    try:
        keys = kept[side.table_key].cast(ARROW_TYPES[key_type])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"{name}: can not be compared with the log's {side.log_key!r} ({key_type}): {error}") from error
    counts = keys.value_counts()
    repeated = counts.filter(pa.array(flat(counts.field("counts")) > 1))
    if len(repeated):
        raise RepeatedKey(
            f"{name} {repeated[0]['values'].as_py()!r} has {repeated[0]['counts'].as_py()} rows ({len(repeated)} keys are "
            "repeated); a side table needs one row per key"
        )
    return pa.table({side.table_key: keys} | {c: kept[c] for c in side.columns if c != side.table_key}).combine_chunks()


def strategy_for(rows: pa.Table, budget: int, spark: SparkSession | None) -> Strategy:
    """Broadcast up to the budget in bytes, or where there is no Spark to do otherwise."""
    return "broadcast" if spark is None or rows.nbytes <= budget else "sort_merge"


def index_join(log: pa.Table, log_key: str, rows: pa.Table, table_key: str, columns: Sequence[str]) -> pa.Table:
    """log [N] with the columns of rows whose table_key equals its log_key, null where there is none. [N], same order."""
    keys = plain(log[log_key].combine_chunks())
    at = pc.call_function("index_in", [keys], pc.SetLookupOptions(rows[table_key].combine_chunks()))
    for column in columns:
        log = log.append_column(column, rows[column].take(at))
    return log


def join_all(log: pa.Table, sides: Sequence[Joined], task: int) -> pa.Table:
    """log [N], the rows of one task, with the columns of every side table. [N], same order."""
    for side in sides:
        if side.strategy == "broadcast":
            log = index_join(log, side.log_key, read_parquet(UPath(side.path)), side.table_key, side.columns)
        else:
            found = _read_folder(UPath(side.path) / f"{TASK}={task}").sort_by(ROW)
            for column in side.columns:
                log = log.append_column(column, found[column])
    return log


def sort_merge_join(spark: SparkSession, parts: Sequence[str], side: Joined, rows: str, target: str) -> Joined:
    """Join on Spark; gives `side` with the folder of its columns, one subfolder a task.

    parts: Parquet files with the log's rows, with `ROW` and the key; rows: the side table's Parquet file.
    """
    from pyspark.sql import functions as f

    def column(name: str):  # type: ignore[no-untyped-def]
        return f.col("`" + name.replace("`", "``") + "`")

    left = spark.read.parquet(*parts).select(ROW, column(side.log_key).alias("joined key"))
    right = spark.read.parquet(rows).select(column(side.table_key).alias("joined key"), *[column(c) for c in side.columns])
    joined = left.hint("merge").join(right.hint("merge"), "joined key", "left").drop("joined key")
    tasks = joined.withColumn(TASK, f.shiftright(ROW, TASK_SHIFT)).repartition(len(parts), TASK)
    tasks.sortWithinPartitions(TASK, ROW).write.partitionBy(TASK).parquet(target)
    return Joined(side.log_key, side.table_key, side.columns, "sort_merge", target)


def _read_folder(folder: UPath) -> pa.Table:
    parts = sorted(path for path in folder.iterdir() if path.name.endswith(".parquet"))
    return pa.concat_tables([read_parquet(part) for part in parts])
