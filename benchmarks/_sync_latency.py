"""The processes of `benchmarks.sync_latency`: a trainer of arriving rows, and a receiver that predicts while it applies.

Both write one JSON line for each event to a file. Times are in seconds since 1970 UTC.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ml.artifacts.bundle import write_inputs
from ml.catalog.load import load_catalog
from ml.lake import Lake
from ml.online.arriving import follow
from ml.online.arriving_day import ArrivingOptions
from ml.online.stream import StreamFolder, stream_folder
from ml.recipes.online import SyncRecipe
from ml.stages import tuned_models
from ml.sync.folder import SyncFolder
from ml.sync.publisher import Publisher
from ml.sync.receiver import Receiver
from ml.training.state_dict import load_snapshot

DATASET, MODEL, BEFORE = "synthetic", "dlrm", "2026-01-01"
EMPTY = "empty"
"""Run id of the empty deltas."""
POLL = 0.1  # seconds between two polls of the receiver
REQUESTS, REQUEST_ROWS = 100, 100  # requests a second, and rows of a request


class Log:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def write(self, **keys: Any) -> None:
        self._file.write(json.dumps(keys) + "\n")
        self._file.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a log; none if it was not created yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def train(root: Path, empties: int, cadence: float) -> None:
    """Train on the stream until the file `stop` appears, then publish empty deltas of the same model."""
    spec, lake, log = load_catalog()[DATASET], Lake.at(root / "lake"), Log(root / "trained")
    stream, folder = StreamFolder.of(spec, stream_folder(UPath(root), DATASET)), SyncFolder.at(root / "sync")
    wait = _waiting(root / "stop")
    for done in follow(spec, lake, stream, folder, str(root), wait, MODEL, ArrivingOptions(on_message=lambda text: None)):
        stats = done.published
        log.write(version=stats.version, at=done.published_at, rows=stats.rows, nbytes=stats.nbytes, **done.seconds)
    state = load_snapshot(lake.partition(tuned_models(MODEL), DATASET, BEFORE))
    state.begin_pass()
    inputs = partial(write_inputs, spec=spec, states={})
    own = Publisher(folder, state, inputs, dataset=DATASET, model=MODEL, run_id=EMPTY, recipe=SyncRecipe())
    own.begin()
    log = Log(root / "empties")
    for _ in range(empties):
        time.sleep(cadence)
        began = time.time()
        published = own.publish(None, dense=False)
        log.write(version=own.version, began=began, at=time.time(), nbytes=published.manifest.nbytes)


def serve(root: Path, rows: Path) -> None:
    """Follow the sync folder until the file `end` appears, and predict at a steady rate."""
    log, stop = Log(root / "applied"), Event()
    receiver = Receiver(SyncFolder.at(root / "sync"), "server")
    reader = Thread(target=_predict, args=(receiver, pq.read_table(rows), Log(root / "read"), stop))
    reader.start()
    while not (root / "end").exists():
        applied = receiver.poll()
        if applied is not None:
            log.write(**asdict(applied))
        time.sleep(POLL)
    stop.set()
    reader.join()


def _waiting(stop: Path) -> Callable[[float], bool]:
    def wait(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not (found := stop.exists()) and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return found

    return wait


def _predict(receiver: Receiver, rows: pa.Table, log: Log, stop: Event) -> None:
    """Predict `REQUESTS` requests a second, and log the time of each."""
    requests = [part.combine_chunks().to_batches()[0] for part in _cut(rows)]
    number, due = 0, time.monotonic()
    while not stop.wait(max(due - time.monotonic(), 0.0)):
        due += 1 / REQUESTS
        try:
            bundle = receiver.bundle
        except LookupError:
            continue
        began = time.perf_counter()
        bundle.predict(requests[number % len(requests)])
        log.write(seconds=time.perf_counter() - began)
        number += 1
        due = max(due, time.monotonic() - 1.0)


def _cut(rows: pa.Table) -> list[pa.Table]:
    return [rows.slice(start, REQUEST_ROWS) for start in range(0, len(rows) - REQUEST_ROWS + 1, REQUEST_ROWS)]
