"""The live join: a Spark Structured Streaming query from the folders of two logs to the stream of examples.

Each batch writes its examples to `examples/<start>-<batch>-<part>.parquet` in time order, by rename. A batch that is repeated
after a crash writes the same files again, so every example is written once. The folder is the one that `make online` follows.
A start without a checkpoint has a later time in its names, so followers read its examples after those of earlier starts.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ml.compute.streaming import stop_query
from ml.joiner.blocks import ARROW_BATCH_BYTES, SIDES
from ml.joiner.joining import Joining
from ml.joiner.lock import only_join
from ml.joiner.processor import COUNTS, EXAMPLES, LATE, OUTPUT, READ, STATE, UNMATCHED, JoinProcessor
from ml.joiner.read_files import record
from ml.joiner.source import STOP, JoinerSource
from ml.joiner.spool import Spool, delete_spool, merge_examples, merge_rows
from ml.joiner.status import StreamStatus, next_hourly_totals, next_totals

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery


def start_join(joining: Joining, spark: SparkSession, on_batch: Callable[[StreamStatus], None] | None = None) -> StreamingQuery:
    """Starts the query of a live join, which continues where it stopped. The caller holds the lock of the stream (`only_join`).

    Args:
        joining: The settings.
        spark: The session. Its own settings are not changed.
        on_batch: Receives the status after each batch.

    Raises:
        ChangedEntry: The state was made under another version of the catalog entry.
    """
    cores = max(spark.sparkContext.defaultParallelism, 1)
    session = spark.newSession()
    for name, value in _settings(joining, cores).items():
        session.conf.set(name, value)
    spec, layout = joining.spec, joining.layout(4 * cores)
    assert spec.actions and spec.actions_log
    session.dataSource.register(JoinerSource)
    source = joining.source(layout)
    for side in SIDES:
        (joining.root / side).mkdir(parents=True, exist_ok=True)
    blocks = session.readStream.format(JoinerSource.name()).option("input", source.to_json()).load()
    spool = Spool(str(joining.spool), spec.examples_log)
    processor = JoinProcessor(spec.actions, (spec.log, spec.actions_log), layout, spool)
    (joining.folder / STOP).unlink(missing_ok=True)  # left by a process that was killed while it stopped
    joined = blocks.groupBy("part").transformWithState(processor, OUTPUT, "Append", "None")
    writer = joined.writeStream.foreachBatch(partial(_write_batch, joining, on_batch))
    writer = writer.option("checkpointLocation", str(joining.folder / "checkpoint"))
    return writer.trigger(processingTime=f"{joining.every_seconds} seconds").queryName(f"join {spec.name}").start()


def _settings(joining: Joining, cores: int) -> dict[str, str]:
    state = "spark.sql.streaming.stateStore"
    return {
        f"{state}.providerClass": "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider",
        f"{state}.rocksdb.changelogCheckpointing.enabled": "true",
        f"{state}.rocksdb.boundedMemoryUsage": "true",
        f"{state}.rocksdb.maxMemoryUsageMB": str(joining.state_megabytes),
        "spark.sql.streaming.minBatchesToRetain": "10",
        "spark.sql.shuffle.partitions": str(cores),
        # Rows are blocks of up to about a megabyte.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
        "spark.sql.execution.arrow.maxBytesPerBatch": str(ARROW_BATCH_BYTES),
    }


def _write_batch(joining: Joining, on_batch: Callable[[StreamStatus], None] | None, frame: DataFrame, batch: int) -> None:
    """Writes the output of a batch, the status last."""
    spool = joining.spool
    delete_spool(spool)  # left by a batch that was not finished
    spool.mkdir(parents=True, exist_ok=True)
    rows = frame.collect()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.what, []).append(row.text)
    last = StreamStatus.read(joining.folder)
    totals = next_totals(last, batch)
    before = dict(totals)
    for text in found.get(COUNTS, []):
        totals.update(json.loads(text))
    prefix = joining.file_prefix(batch)
    merge_examples(joining.root / "examples", prefix, found.get(EXAMPLES, []))
    merge_rows(joining.root / "unmatched", prefix, found.get(UNMATCHED, []))
    for side in SIDES:
        merge_rows(joining.root / "late", f"{prefix}-{side}", found.get(f"{LATE} {side}", []))
    files = {side: [of for text in found.get(READ, []) for of in json.loads(text).get(side, [])] for side in SIDES}
    record(joining.folder, {side: sorted(of) for side, of in files.items()})
    status = _status(found.get(STATE, []), last, batch, totals, before)
    delete_spool(spool)
    status.write(joining.folder)
    if on_batch is not None:
        on_batch(status)


def _status(
    clocks: list[str], last: StreamStatus | None, batch: int, totals: Counter[str], before: dict[str, int]
) -> StreamStatus:
    states = [json.loads(text) for text in clocks]
    newest = [max([of["newest"][side] for of in states], default=-1) for side in range(len(SIDES))]
    now = time.time()
    return StreamStatus(
        batch=batch,
        written_at=now,
        files={name: max([of["files"][side] for of in states], default="") for side, name in enumerate(SIDES)},
        newest=dict(zip(SIDES, newest, strict=True)),
        watermark=max([of["watermark"] for of in states], default=last.watermark if last else -1),
        state_rows=sum(of["rows"] for of in states),
        state_bytes=sum(of["bytes"] for of in states),
        counts={name: count for name, count in sorted(totals.items()) if count},
        before=before,
        ended=any(of["ended"] for of in states),
        ahead=max([of["ahead"] for of in states], default=0),
        hourly_totals=next_hourly_totals(last, before, now),
    )


def stop_join(joining: Joining, query: StreamingQuery, at_once: threading.Event) -> None:
    """Stops the query of a live join after its batch in progress.

    Args:
        joining: The settings of the query.
        query: The query.
        at_once: If it is set, the batch in progress is interrupted. The next start of the query repeats it.
    """
    stop = joining.folder / STOP
    stop.touch()  # else the next batch follows at once while there are unread files
    try:
        stop_query(query, at_once)
    finally:
        stop.unlink(missing_ok=True)


def run_to_end(joining: Joining, spark: SparkSession) -> StreamStatus | None:
    """Joins what is in the folders, and returns the status after the last batch; None if there was nothing.

    Raises:
        StreamInUse: Another process joins the stream.
        StreamingQueryException: A batch failed.
    """
    with only_join(joining.root):
        query: Any = start_join(joining, spark)
        try:
            query.processAllAvailable()
        finally:
            query.stop()
    return StreamStatus.read(joining.folder)
