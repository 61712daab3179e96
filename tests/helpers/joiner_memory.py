"""A live join whose state is larger than the memory of its store, in a process of its own whose memory is sampled.

Rows are wide and do not compress, and the longest wait covers a part of the stream, so that the state is filled, joined and
filled again. To see the figures:

python -m tests.helpers.joiner_memory FOLDER IMPRESSIONS ROW_BYTES MINUTES HEAP_MB STATE_MB
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.joiner.joining import Joining
from ml.joiner.service import start_join
from ml.joiner.status import StreamStatus
from tests.helpers.joined_logs import MINUTE, START, feed

FILES = 48
CLICKED, LATE_CLICK = 5, 25  # every fifth impression is clicked, and of these every fifth after the wait


@dataclass
class JoinMemory:
    """What a join had in its state and in memory.

    Attributes:
        events: Impressions and actions.
        seconds: Time of the join, with the start of Spark.
        state_mb: Most bytes of events in the state after a batch, in MB.
        rocksdb_mb: Most memory that RocksDB reported after a batch, in MB.
        java_mb: Most resident memory of the Java process at any time.
        python_mb: Most resident memory of one Python process at any time.
        total_mb: Most memory of all processes in a sample; memory that n of them share counts 1 / n in each.
    """

    events: int
    seconds: float = 0.0
    state_mb: float = 0.0
    rocksdb_mb: float = 0.0
    java_mb: float = 0.0
    python_mb: float = 0.0
    total_mb: float = 0.0


def wide_feed() -> DatasetSpec:
    """Return the dataset `feed` with a column of text instead of `tags` in its impressions, both logs in Parquet."""
    wide = {"files": "impressions/*.parquet", "format": "parquet", "columns": {"note": "string", "tags": None}}
    return feed(source=wide, actions={"source": {"files": "actions/*.parquet", "format": "parquet"}})


def write_streams(root: Path, impressions: int, row_bytes: int, minutes: int = 360, seed: int = 1) -> tuple[pa.Table, int]:
    """Write the files of a stream in time order.

    Args:
        root: Folder of the stream.
        impressions: Number of impressions.
        row_bytes: Bytes of text in each of them.
        minutes: Event time of the stream. The longest wait is two hours, and a bucket has half an hour.
        seed: Seed of the texts and of the delays.

    Returns:
        The number and the label `clicked` of each impression, in time order; and the number of events.
    """
    rng = np.random.default_rng(seed)
    number = np.arange(impressions)
    shown = START // 1000 + number * (minutes * 60_000) // impressions
    clicked, late = number % CLICKED == 0, number % LATE_CLICK == 0
    delay = np.where(late, rng.integers(31, 100, impressions), rng.integers(0, 30, impressions)) * (MINUTE // 1000)
    done = np.flatnonzero(clicked)
    done = done[np.argsort((shown + delay)[done], kind="stable")]
    for side in ("impressions", "actions"):
        (root / side).mkdir(parents=True)
    for file, own in enumerate(np.array_split(number, FILES)):
        text = rng.integers(0, 1 << 64, (len(own), -(-row_bytes // 16)), np.uint64).tobytes().hex()
        width = len(text) // max(len(own), 1)
        note = [text[at : at + row_bytes] for at in range(0, len(text), width)]
        rows = {"shown_at": shown[own], "request": [f"r{n}" for n in own.tolist()], "item": own % 7, "user": own % 1000}
        rows |= {"price": rng.random(len(own)), "note": note}
        pq.write_table(pa.table(rows), root / "impressions" / f"{file:04d}.parquet", compression="none")
    edges = [int(of[0]) for of in np.array_split(number, FILES)][1:]
    for file, own in enumerate(np.split(done, np.searchsorted((shown + delay)[done], shown[edges]))):
        rows = {
            "at": (shown + delay)[own],
            "request": [f"r{n}" for n in own.tolist()],
            "item": own % 7,
            "kind": ["click"] * len(own),
        }
        pq.write_table(pa.table(rows), root / "actions" / f"{file:04d}.parquet")
    truth = pa.table({"request": [f"r{n}" for n in number.tolist()], "clicked": (clicked & ~late).astype(np.int64)})
    return truth, impressions + len(done)


def measure(root: Path, events: int, heap_mb: int, state_mb: int, batch_bytes: int, every: float = 1.0) -> JoinMemory:
    """Join a stream to its end, and sample memory.

    Args:
        root: Folder of the stream, as `write_streams` made it.
        events: Number of its events.
        heap_mb: Limit of Java's heap.
        state_mb: Memory of all RocksDB stores.
        batch_bytes: Approximate bytes that a batch reads of each log.
        every: Seconds between two samples.

    Raises:
        RuntimeError: The join failed.
    """
    process = multiprocessing.get_context("spawn").Process(target=_join, args=(root, heap_mb, state_mb, batch_bytes))
    found, began = JoinMemory(events), time.monotonic()
    process.start()
    assert process.pid is not None
    tree = psutil.Process(process.pid)
    try:
        while process.is_alive():
            samples = list(_samples(tree))
            java = [resident for name, resident, _ in samples if name == "java"]
            python = [resident for name, resident, _ in samples if name != "java"]
            found.java_mb = max([found.java_mb, *java])
            found.python_mb = max([found.python_mb, *python])
            found.total_mb = max(found.total_mb, sum(own for *_, own in samples))
            if status := StreamStatus.read(UPath(root / "joiner")):
                found.state_mb = max(found.state_mb, status.state_bytes / 1e6)
            time.sleep(every)
        process.join()
    finally:
        for child in [*tree.children(recursive=True), tree] if tree.is_running() else []:
            child.kill()
    if process.exitcode:
        raise RuntimeError(f"the join of {root} ended with exit status {process.exitcode}")
    found.seconds = time.monotonic() - began
    found.rocksdb_mb = max(json.loads((root / "rocksdb.json").read_text())) / 1e6
    return found


def joined(root: Path) -> pa.Table:
    """Return request and label of all examples, in the order in which they were written."""
    files = sorted(map(str, (root / "examples").glob("*.parquet")))
    return ds.dataset(files).to_table(columns=["request", "clicked"])


def _join(root: Path, heap_mb: int, state_mb: int, batch_bytes: int) -> None:
    """Join the stream to its end, and write the memory that RocksDB reported after each batch."""
    from ml.compute.spark import start_session

    os.environ["EVERGREEN_SPARK_MEMORY"] = f"{heap_mb}m"
    spark = start_session("local[2]")
    spark.conf.set("spark.sql.streaming.numRecentProgressUpdates", "10000")
    joining = Joining(wide_feed(), UPath(root), True, batch_bytes, state_mb, every_seconds=0.0)
    query = start_join(joining, spark)
    query.processAllAvailable()
    used = [of["memoryUsedBytes"] for progress in query.recentProgress for of in progress["stateOperators"]]
    (root / "rocksdb.json").write_text(json.dumps(used))
    query.stop()
    spark.stop()


def _samples(tree: psutil.Process) -> Iterator[tuple[str, float, float]]:
    """Yield name, peak of the resident memory and present share of memory, in MB, of a process and those below it."""
    for process in [tree, *tree.children(recursive=True)]:
        try:
            yield process.name(), _megabytes(process.pid, "status", "VmHWM:"), _megabytes(process.pid, "smaps_rollup", "Pss:")
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, ValueError):
            continue  # it has ended


def _megabytes(pid: int, file: str, name: str) -> float:
    """Read an entry of a file of a process. Raises `ValueError` if it has none, as for a process that has just ended."""
    _, found, rest = Path(f"/proc/{pid}/{file}").read_text().partition(name)
    if not found:
        raise ValueError(f"/proc/{pid}/{file} has no {name}")
    return int(rest.split(maxsplit=1)[0]) * 1024 / 1e6


def main() -> None:
    root, impressions, row_bytes, minutes, heap_mb, state_mb = Path(sys.argv[1]), *map(int, sys.argv[2:7])
    truth, events = write_streams(root, impressions, row_bytes, minutes)
    found = measure(root, events, heap_mb, state_mb, batch_bytes=64 << 20)
    right = joined(root).sort_by("request").equals(truth.sort_by("request"))
    sys.stdout.write(json.dumps({**asdict(found), "right": right}, indent=1) + "\n")


if __name__ == "__main__":
    main()
