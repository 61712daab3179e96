"""Joins of side tables to the log: a left join that keeps the log's rows and their order.

A table that fits in a task's memory is looked up inside the task, through Arrow's hash index. A larger table is joined by a
sort-merge join in Spark SQL. Only the number and the key of each log row go to the JVM; the row itself does not. Both
strategies give the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ml.catalog.spec import ColumnType, SideTable
from ml.compute.spark import literal_path
from ml.features.buffers import flat
from ml.features.columns import plain
from ml.parquet import read_parquet
from ml.schema import ARROW_TYPES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Strategy = Literal["broadcast", "sort_merge"]

# Largest side table, in bytes (key and joined columns, in memory), that every task holds as a whole.
BROADCAST_BYTES = 256 * 1024 * 1024

# The number of a row: the task's index in the upper 32 bits, the row's position in the task in the lower. Spark sorts by it.
ROW = "row"
TASK = "evergreen_task"
TASK_SHIFT = 32
_KEY, _MATCHED = "key", "matched"


class RepeatedKey(ValueError):
    """A side table has two rows for one key, so a left join would multiply the log's rows."""


@dataclass(frozen=True)
class Joined:
    """A side table that is ready to be joined.

    Attributes:
        log_key: Key column of the log.
        table_key: Key column of the side table.
        columns: Columns of the side table that are joined.
        strategy: How the table is joined.
        path: The Parquet file of the table (broadcast), or the folder of the joined columns (sort_merge).
    """

    log_key: str
    table_key: str
    columns: tuple[str, ...]
    strategy: Strategy
    path: str


def prepare(side: SideTable, rows: pa.Table, key_type: ColumnType) -> pa.Table:
    """Selects and checks the columns of a side table that a join needs.

    Args:
        side: The join as the catalog entry declares it.
        rows: The side table.
        key_type: Type of the log's key.

    Returns:
        The key, cast to the type of the log's key, and the joined columns, without the rows that have no key.

    Raises:
        RepeatedKey: Two rows have the same key.
        TypeError: The key cannot be cast to the type of the log's key.
    """
    name = f"{side.source.files}: {side.table_key}"
    kept = rows.select(list(dict.fromkeys([side.table_key, *side.columns])))
    kept = kept.filter(kept[side.table_key].is_valid())
    try:
        keys = kept[side.table_key].cast(ARROW_TYPES[key_type])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"{name}: cannot be compared with the log's {side.log_key!r} ({key_type}): {error}") from error
    counts = keys.value_counts()
    repeated = counts.filter(pa.array(flat(counts.field("counts")) > 1))
    if len(repeated):
        raise RepeatedKey(
            f"{name} {repeated[0]['values'].as_py()!r} has {repeated[0]['counts'].as_py()} rows ({len(repeated)} keys are "
            "repeated); a side table needs one row per key"
        )
    return pa.table({side.table_key: keys} | {c: kept[c] for c in side.columns if c != side.table_key}).combine_chunks()


def strategy_for(rows: pa.Table, budget: int, spark: SparkSession | None) -> Strategy:
    """Returns "broadcast" if the rows fit in `budget` bytes, or if there is no Spark session; else "sort_merge"."""
    return "broadcast" if spark is None or rows.nbytes <= budget else "sort_merge"


def index_join(log: pa.Table, log_key: str, rows: pa.Table, table_key: str, columns: Sequence[str]) -> tuple[pa.Table, int]:
    """Joins a table to the log in memory.

    Args:
        log: N rows.
        log_key: Key column of `log`.
        rows: The side table, as `prepare` returns it.
        table_key: Key column of `rows`.
        columns: Columns of `rows` to append.

    Returns:
        The N rows of `log` in the same order, with the columns appended, which are null for rows without a match; and the
        number of rows with a match.
    """
    keys = plain(log[log_key].combine_chunks())
    # Position of each row's key in `rows`, int32 [N]; null without a match.
    at = pc.call_function("index_in", [keys], pc.SetLookupOptions(rows[table_key].combine_chunks()))
    for column in columns:
        log = log.append_column(column, rows[column].take(at))
    return log, len(at) - at.null_count


@dataclass(frozen=True)
class Matches:
    """How many rows a side table was found for. The counts of several tasks add up.

    Attributes:
        keyed: Rows that have a key.
        matched: Rows whose key is in the table.
    """

    keyed: int = 0
    matched: int = 0

    def __add__(self, other: Matches) -> Matches:
        return Matches(self.keyed + other.keyed, self.matched + other.matched)

    @property
    def rate(self) -> float | None:
        """Share of the rows with a key that have a match; None without such rows."""
        return self.matched / self.keyed if self.keyed else None


def join_all(log: pa.Table, sides: Sequence[Joined], task: int) -> tuple[pa.Table, tuple[Matches, ...]]:
    """Appends the columns of every side table to the log's rows of one task.

    Returns:
        The N rows in the same order, and how many of them each side table has a match for.
    """
    counts: list[Matches] = []
    for side in sides:
        if side.strategy == "broadcast":
            rows = read_parquet(UPath(side.path))
            log, matched = index_join(log, side.log_key, rows, side.table_key, side.columns)
        else:
            found = _read_folder(UPath(side.path) / f"{TASK}={task}").sort_by(ROW)
            matched = len(found) - found[_MATCHED].null_count
            for position, column in enumerate(side.columns):
                log = log.append_column(column, found[_value(position)])
        counts.append(Matches(len(log) - log[side.log_key].null_count, matched))
    return log, tuple(counts)


def sort_merge_join(spark: SparkSession, parts: Sequence[str], side: Joined, rows: str, target: str) -> Joined:
    """Joins a side table in Spark SQL.

    Args:
        spark: The session.
        parts: Parquet files of the log's rows, one per task, with the key and the column `ROW`.
        side: The side table.
        rows: Parquet file of the side table, as `prepare` returns it.
        target: Folder that Spark writes the joined columns to, with one subfolder per task.

    Returns:
        `side` with the strategy "sort_merge" and the folder as its path.
    """
    from pyspark.sql import functions as f

    def column(name: str, alias: str):  # type: ignore[no-untyped-def]
        return f.col("`" + name.replace("`", "``") + "`").alias(alias)

    # Own names, because the log and the side table may use any name.
    left = spark.read.parquet(*map(literal_path, parts)).select(ROW, column(side.log_key, _KEY))
    values = [column(name, _value(n)) for n, name in enumerate(side.columns)]
    right = spark.read.parquet(literal_path(rows)).select(column(side.table_key, _KEY), f.lit(True).alias(_MATCHED), *values)
    joined = left.hint("merge").join(right.hint("merge"), _KEY, "left").drop(_KEY)
    tasks = joined.withColumn(TASK, f.shiftright(ROW, TASK_SHIFT)).repartition(len(parts), TASK)
    tasks.sortWithinPartitions(TASK, ROW).write.partitionBy(TASK).parquet(target)
    return Joined(side.log_key, side.table_key, side.columns, "sort_merge", target)


def _value(position: int) -> str:
    """Returns the name, in the files that Spark writes, of the joined column at a position of `Joined.columns`."""
    return f"value_{position}"


def _read_folder(folder: UPath) -> pa.Table:
    parts = sorted(path for path in folder.iterdir() if path.name.endswith(".parquet"))
    return pa.concat_tables([read_parquet(part) for part in parts])
