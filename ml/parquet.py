"""How this room writes and reads Parquet: one set of options, so that equal tables are equal bytes.

Zstandard at level 1 with dictionaries: on Criteo's features it writes at nine tenths of Snappy's speed, a seventh smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

ROW_GROUP = 65_536


def write_table(table: pa.Table, path: UPath) -> None:
    """One file of row groups of `ROW_GROUP` rows."""
    write_batches(table.to_batches(), table.schema, path)


def write_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: UPath) -> None:
    """The same, from a stream: the bytes do not depend on where one batch ends and the next begins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.fs.open(path.path, "wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", compression_level=1) as writer,
    ):
        for group in _regroup(batches, schema):
            writer.write_table(group, row_group_size=ROW_GROUP)


def _regroup(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        while rows + len(batch) >= ROW_GROUP:
            held.append(batch.slice(0, ROW_GROUP - rows))
            batch = batch.slice(ROW_GROUP - rows)
            # One chunk a column: the writer's pages, and so the bytes, would follow the chunks.
            yield pa.Table.from_batches(held, schema).combine_chunks()
            held, rows = [], 0
        if len(batch):
            held.append(batch)
            rows += len(batch)
    if held:
        yield pa.Table.from_batches(held, schema).combine_chunks()


def read_parquet(
    path: UPath, columns: Sequence[str] | None = None, groups: range | None = None, dictionaries: Sequence[str] = ()
) -> pa.Table:
    """Rows of one file; groups: of these row groups alone; dictionaries: string columns to keep dictionary encoded."""
    with (
        path.fs.open(path.path, "rb") as opened,
        pq.ParquetFile(opened, read_dictionary=list(dictionaries)) as file,
    ):
        if groups is None:
            return file.read(columns=columns)
        return file.read_row_groups(list(groups), columns=columns)
