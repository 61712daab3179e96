"""The spool of a batch: tasks write joined rows to files of it, and the driver merges these into the files of the stream.

Only the paths of the files pass through Spark. Rows that passed through it would be held by Java's heap, a bucket at a time.
A task that is repeated writes other files, and the files of its first attempt are never read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from upath import UPath

from ml.catalog.log_spec import LogSpec
from ml.joiner.keys import event_times, order_by
from ml.logs.external_sort import BATCH_ROWS, SortedRun, plan_parts, write_part, write_run
from ml.logs.ingest import PART_ROWS
from ml.logs.ingest_task import raw_schema
from ml.parquet import read_parquet, write_table

PART_BYTES = 64 << 20
"""Approximate bytes of rows, not compressed, of a file of examples."""
FEWEST_ROWS = 1 << 10
"""Fewest rows that are merged into a file, however wide they are."""
RUN_BATCH_BYTES = 1 << 20
"""Approximate bytes of a batch of a run. Runs are read in whole batches, so memory holds up to two batches of each partition of
which a file of examples needs a part."""
_SECONDS = ".npy"  # beside the file of a run: the arrays of its `SortedRun`


@dataclass(frozen=True)
class Spool:
    """Writes files of one batch. It is sent to tasks.

    Args:
        folder: Folder of the files.
        examples: The log of the examples.
    """

    folder: str
    examples: LogSpec

    def write_examples(self, bucket: int, part: int, table: pa.Table) -> str:
        """Writes the examples of a bucket of one partition, and returns what `merge_examples` needs to find them."""
        table, path = table.cast(raw_schema(self.examples)).combine_chunks(), self._path("examples", bucket, part)
        nbytes = sum(map(pa.ipc.get_record_batch_size, table.to_batches()))  # `table.nbytes` depends on how it was made
        run = write_run(table, path, _rows_within(nbytes, len(table), BATCH_ROWS, RUN_BATCH_BYTES, fewest=1))
        with UPath(path + _SECONDS).open("wb") as file:
            np.save(file, np.stack([run.seconds, run.rows, run.first, run.last]))
        return json.dumps([bucket, part, len(table), nbytes, run.batch_rows, path])

    def write_rows(self, what: str, bucket: int, part: int, table: pa.Table) -> str:
        """Writes rows that are in no example, and returns the path."""
        path = self._path(what, bucket, part)
        write_table(table, path)
        return path

    def _path(self, what: str, bucket: int, part: int) -> str:
        return f"{self.folder}/{what}-{bucket}-{part}-{os.urandom(8).hex()}"


def merge_examples(folder: UPath, prefix: str, spooled: Iterable[str]) -> None:
    """Merges the examples of all partitions in time order. The names of the files sort in time order too.

    The files depend on the rows alone, so a batch that is repeated writes the same ones. For each file, the rows of the
    file and one or two batches of `RUN_BATCH_BYTES` of each partition are in memory.

    Args:
        folder: Folder of the examples.
        prefix: Beginning of the names of the batch's files.
        spooled: What `Spool.write_examples` has returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs, rows, size = list[SortedRun](), 0, 0
    for _, _, count, nbytes, batch_rows, path in sorted(json.loads(text) for text in spooled):
        with UPath(path + _SECONDS).open("rb") as file:
            seconds, numbers, first, last = np.load(file, allow_pickle=False)
        runs.append(SortedRun(path, seconds, numbers, first, last, batch_rows))
        rows, size = rows + count, size + nbytes
    part_rows = _rows_within(size, rows, PART_ROWS, PART_BYTES, FEWEST_ROWS)
    for number, part in enumerate(plan_parts(runs, part_rows)):
        name = f"{prefix}-{number:04d}.parquet"
        staged = folder / f".{name}"
        write_part((str(staged), part))
        staged.rename(folder / name)


def merge_rows(folder: UPath, name: str, paths: Sequence[str]) -> None:
    """Writes rows that are in no example to one file of a batch, in time order.

    Args:
        folder: Folder of the file.
        name: Its name, without the suffix.
        paths: What `Spool.write_rows` has returned.
    """
    if not paths:
        return
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.concat_tables([read_parquet(path) for path in sorted(paths)])
    staged = folder / f".{name}.parquet"
    write_table(table.take(pa.array(order_by(table, event_times(table)))), staged)
    staged.rename(folder / f"{name}.parquet")


def delete_spool(folder: UPath) -> None:
    """Deletes the spool of a batch. A task of an interrupted batch may write one more file meanwhile, which is deleted too."""
    try:
        if folder.exists():
            folder.fs.rm(folder.path, recursive=True)
    except OSError:  # the folder was not empty after its files were deleted
        folder.fs.rm(folder.path, recursive=True)


def _rows_within(nbytes: int, rows: int, most: int, budget: int, fewest: int) -> int:
    """Returns how many rows have about `budget` bytes: `most`, or halves of it, so that it seldom changes, down to `fewest`.

    Args:
        nbytes: Bytes of all rows.
        rows: Number of all rows.
        most: Most rows, a power of two.
        budget: Bytes to stay within.
        fewest: Fewest rows, however wide they are, a power of two.
    """
    while most > fewest and most * nbytes > budget * rows:
        most //= 2
    return most
