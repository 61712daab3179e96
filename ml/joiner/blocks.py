"""Blocks of rows: packed tables, each of one partition of the keys and one bucket of event time. Spark stores them as bytes.

The state store holds a block per partition, bucket and batch rather than a row per event, so that its cost does not depend on
the number of events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ml.catalog.actions import Actions
from ml.joiner.keys import event_times, partition_of

IMPRESSIONS, ACTIONS = 0, 1
SIDES = ("impressions", "actions")
BUCKETS_PER_WAIT = 4
BLOCK_BYTES = 1 << 20
"""Approximate bytes of the rows of one block, not compressed. Java's heap holds some blocks at a time."""
ARROW_BATCH_BYTES = 4 << 20
"""Approximate bytes of blocks that pass between Python and Java at once."""
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Layout:
    """How the events of a stream are divided. It cannot change while the stream has state.

    Attributes:
        partitions: Number of partitions of the keys.
        bucket: Width of a bucket of event time in microseconds. A bucket is joined as a whole.
    """

    partitions: int
    bucket: int

    @classmethod
    def of(cls, rules: Actions, partitions: int) -> Layout:
        """Returns the layout for some rules. A bucket is a quarter of the longest wait wide."""
        return cls(partitions, max(rules.wait // BUCKETS_PER_WAIT, 1))

    def buckets_of(self, table: pa.Table) -> np.ndarray:
        """Bucket of each row, int64 [N]."""
        return event_times(table) // self.bucket


def max_example_delay(rules: Actions) -> int:
    """Returns the most microseconds from the event time of an impression to the newest event that its example waits for.

    The live join writes an example with its bucket, when an event has arrived that is newer than the end of the bucket by the
    longest wait and the lateness.
    """
    return Layout.of(rules, 1).bucket + rules.wait + rules.lateness


def pack_blocks(table: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Serialises a table as blocks of about `BLOCK_BYTES`.

    Yields:
        The number of rows of a block, and its bytes; nothing for an empty table.
    """
    most = max(len(table) * BLOCK_BYTES // max(table.nbytes, 1), 1)
    for first in range(0, len(table), most):
        rows = table.slice(first, most)
        yield len(rows), pack(rows)


def pack(table: pa.Table) -> bytes:
    """Serialises a table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def unpack(data: bytes) -> pa.Table:
    """Returns the table that `pack` serialised."""
    with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
        return reader.read_all()


def divide(table: pa.Table, key: tuple[str, ...], layout: Layout) -> Iterator[tuple[int, int, pa.Table]]:
    """Divides rows by partition and bucket.

    Args:
        table: Rows of one of the two logs, with `event_time`, in any order.
        key: Columns of the key, none of which is missing.
        layout: The partitions and buckets.

    Yields:
        Partition, bucket, and rows, in this order.
    """
    if not len(table):
        return
    place, bucket = partition_of(table, key, layout.partitions), layout.buckets_of(table)
    order = np.lexsort((bucket, place))
    place, bucket, table = place[order], bucket[order], table.take(pa.array(order))
    edges = np.flatnonzero((place[1:] != place[:-1]) | (bucket[1:] != bucket[:-1])) + 1
    for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(place)], strict=True):
        yield int(place[first]), int(bucket[first]), table.slice(first, last - first)
