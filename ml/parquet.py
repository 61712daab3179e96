"""Parquet files of the lake, written so that equal rows give equal bytes.

Files are compressed with Zstandard at level 1, after dictionary encoding. On Criteo's features this writes at nine tenths of
Snappy's speed, and files are a seventh smaller.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.disk import fsync

ROW_GROUP = 65_536


def write_table(table: pa.Table, path: str | UPath) -> None:
    """Writes a table to one file; see `write_batches`."""
    write_batches(table.to_batches(), table.schema, path)


def write_batches(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    path: str | UPath,
    *,
    row_group: int = ROW_GROUP,
    statistics: bool | Sequence[str] = True,
) -> None:
    """Writes a stream of record batches to one file.

    The bytes depend on the rows and the options alone, not on where one batch ends and the next begins. At most one row group
    and one batch are held in memory.

    Args:
        batches: Rows, in order. An empty stream gives a file without rows.
        schema: Schema of every batch.
        path: The file, local or of any fsspec filesystem. Its folder is created.
        row_group: Number of rows of each row group except the last.
        statistics: Columns whose minimum and maximum are stored, or whether to store them for all columns.
    """
    path = UPath(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.fs.open(path.path, "wb") as file:
        _write(batches, schema, file, row_group, statistics)


def replace_table(table: pa.Table, path: Path, *, durable: bool = False) -> None:
    """Writes a table to a local file that readers find either complete or not at all; see `write_table`.

    Args:
        table: The rows.
        path: The file. Its folder is created, and a file of this name is replaced.
        durable: Whether to wait until the file and its name are on disk, so that a crash of the machine leaves it complete.
    """
    beside = path.with_name(f".{path.name}")
    write_table(table, str(beside))
    if durable:
        fsync(beside)
    beside.replace(path)
    if durable:
        fsync(path.parent)


def table_bytes(table: pa.Table) -> bytes:
    """Serialise a table to the bytes of the file that `write_table` writes."""
    buffer = io.BytesIO()
    _write(table.to_batches(), table.schema, buffer, ROW_GROUP, True)
    return buffer.getvalue()


def _write(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, file: Any, row_group: int, statistics: bool | Sequence[str]
) -> None:
    kept: Any = statistics if isinstance(statistics, bool) else list(statistics)  # pyarrow's annotation lacks lists
    with pq.ParquetWriter(file, schema, compression="zstd", compression_level=1, write_statistics=kept) as writer:
        for group in _regroup(batches, schema, row_group):
            writer.write_table(group, row_group_size=row_group)


def _regroup(batches: Iterable[pa.RecordBatch], schema: pa.Schema, row_group: int) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        while rows + len(batch) >= row_group:
            held.append(batch.slice(0, row_group - rows))
            batch = batch.slice(row_group - rows)
            # The writer begins a page at each chunk, so the bytes depend on the chunks: write one chunk per column.
            yield pa.Table.from_batches(held, schema).combine_chunks()
            held, rows = [], 0
        if len(batch):
            held.append(batch)
            rows += len(batch)
    if held:
        yield pa.Table.from_batches(held, schema).combine_chunks()


def read_parquet(
    path: str | UPath, columns: Sequence[str] | None = None, groups: range | None = None, dictionaries: Sequence[str] = ()
) -> pa.Table:
    """Reads one file.

    Args:
        path: The file, local or of any fsspec filesystem.
        columns: Columns to read; all by default.
        groups: Row groups to read; all by default.
        dictionaries: String columns to return dictionary-encoded.

    Returns:
        The rows in the order in which they were written.
    """
    path = UPath(path)
    with (
        path.fs.open(path.path, "rb") as opened,
        pq.ParquetFile(opened, read_dictionary=list(dictionaries)) as file,
    ):
        if groups is None:
            return file.read(columns=columns)
        return file.read_row_groups(list(groups), columns=columns)
