"""The live join: a Spark Structured Streaming query from the folders of two logs to the stream of examples.

Each batch writes its examples to `examples/<start>-<batch>-<part>.parquet` in time order, by rename. A batch that is repeated
after a crash writes the same files again, so every example is written once. The folder is the one that `make online` follows.
A start without a checkpoint has a later time in its names, so followers read its examples after those of earlier starts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.blocks import SIDES, Layout
from ml.joiner.lock import only_join
from ml.joiner.processor import COUNTS, EXAMPLES, LATE, OUTPUT, READ, STATE, UNMATCHED, JoinProcessor
from ml.joiner.read_files import record
from ml.joiner.source import STOP, JoinerSource, StreamInput
from ml.joiner.spool import Spool, delete_spool, merge_examples, merge_rows
from ml.joiner.status import StreamStatus, next_hours, next_totals

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

BATCH_BYTES = 64 << 20
ARROW_BYTES = 4 << 20
"""Approximate bytes of blocks that pass from Java to Python at once."""
_POLL_SECONDS = 0.02
_STATE_FORMAT = 2  # increase it when a checkpoint of an earlier version can no longer be read
_LAYOUT = "layout.json"
_log = logging.getLogger("evergreen")


class ChangedEntry(ValueError):
    """The state of a stream was made under another catalog entry."""


@dataclass(frozen=True)
class Joining:
    """The settings of a live join.

    Attributes:
        spec: A dataset with `actions`.
        root: `<home>/stream/<dataset>`.
        ends: Whether the stream ends with the files that are there. The last examples are then written too, although events of
            their wait could still arrive.
        batch_bytes: Approximate bytes that a batch reads from each of the two folders.
        state_megabytes: Memory of all RocksDB stores of a process; the rest of the state is on disk.
        every_seconds: Shortest time between two batches.
    """

    spec: DatasetSpec
    root: UPath
    ends: bool = False
    batch_bytes: int = BATCH_BYTES
    state_megabytes: int = 256
    every_seconds: float = 1.0

    @property
    def folder(self) -> UPath:
        """Folder of the checkpoint and the status."""
        return self.root / "joiner"

    @property
    def spool(self) -> UPath:
        """Folder of the files that tasks write during a batch."""
        return self.folder / "spool"

    def source(self, layout: Layout) -> StreamInput:
        """Returns the settings of the source."""
        assert self.spec.actions and self.spec.actions_log
        logs = (self.spec.log, self.spec.actions_log)
        return StreamInput(str(self.root), logs, self.spec.actions.key, layout, self.batch_bytes, self.ends)

    def name_of(self, batch: int) -> str:
        """Returns the beginning of the names of a batch's files. The start of the stream, which has a layout, decides it."""
        # Streams that were started before names had the time of the start keep the names that followers know.
        started = json.loads((self.folder / _LAYOUT).read_text()).get("started")
        return f"{started}-{batch:012d}" if started else f"{batch:012d}"

    def layout(self, partitions: int) -> Layout:
        """Returns how the state is divided. The first start of the stream decides it.

        Raises:
            ChangedEntry: The catalog entry has changed since then, or the state has another format.
        """
        assert self.spec.actions
        rules = f"{self.spec.examples_log.fingerprint} {self.spec.actions.lateness}"
        identity = hashlib.sha256(rules.encode()).hexdigest()[:16]
        path = self.folder / _LAYOUT
        if not path.exists():
            layout = Layout.of(self.spec.actions, partitions)
            self.folder.mkdir(parents=True, exist_ok=True)
            staged = self.folder / f".{_LAYOUT}"
            made = {"format": _STATE_FORMAT, "entry": identity, "partitions": layout.partitions, "bucket": layout.bucket}
            earlier = max((file.name for file in (self.root / "examples").glob("*.parquet")), default="")
            started = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            # Followers read only names after those that they have read, even if a clock has been set back.
            made |= {"started": started if started > earlier else f"{earlier.partition('-')[0]}0"}
            if earlier:
                _log.warning("%s/examples has examples of an earlier start; all files of both logs are joined again", self.root)
            staged.write_text(json.dumps(made))
            staged.rename(path)
            return layout
        found = json.loads(path.read_text())
        way_out = (
            f"move files that were joined (read.jsonl lists them) out of {self.root}/impressions and {self.root}/actions, or "
            f"they are joined again; then delete {self.folder}, and start the stream again"
        )
        if found.get("format") != _STATE_FORMAT:
            raise ChangedEntry(f"{self.folder}: the state was written by another version of Evergreen; {way_out}")
        if found["entry"] != identity:
            raise ChangedEntry(
                f"{self.folder}: the state belongs to another version of the catalog entry {self.spec.name}. Restore the entry "
                f"as it was; or {way_out}"
            )
        return Layout(found["partitions"], found["bucket"])


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
        "spark.sql.execution.arrow.maxBytesPerBatch": str(ARROW_BYTES),
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
    name = joining.name_of(batch)
    merge_examples(joining.root / "examples", name, found.get(EXAMPLES, []))
    merge_rows(joining.root / "unmatched", name, found.get(UNMATCHED, []))
    for side in SIDES:
        merge_rows(joining.root / "late", f"{name}-{side}", found.get(f"{LATE} {side}", []))
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
        hours=next_hours(last, before, now),
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


def stop_query(query: StreamingQuery, at_once: threading.Event, seconds: float = math.inf) -> None:
    """Stops a query when it has no batch in progress. If a batch is interrupted, Spark's processes print errors.

    Args:
        query: The query.
        at_once: If it is set, the query is not waited for.
        seconds: How long it is waited for at most.
    """
    until = time.monotonic() + seconds
    while is_busy(query) and time.monotonic() < until and not at_once.wait(_POLL_SECONDS):
        pass
    query.stop()


def is_busy(query: StreamingQuery) -> bool:
    """Returns whether a query starts, looks for files, or has a batch in progress."""
    status = query.status
    return query.isActive and (status["isTriggerActive"] or not status["message"].startswith("Waiting for"))


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
