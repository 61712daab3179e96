"""Time from an event to served weights. Events arrive at a steady rate, and a receiver applies what was learned from them.

The trainer (`make online` on a stream), the receiver and the source of the events are separate processes, and the receiver
predicts meanwhile. Each event waits until its file is complete, one second of events, and until the trainer reads it. Labels
arrive with the events. The baseline are empty deltas between the same processes, from the call that publishes to the
prediction with the new version.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from benchmarks._sync_latency import BEFORE, DATASET, EMPTY, MODEL, REQUEST_ROWS, REQUESTS, read_log, serve, train
from benchmarks.result import Result
from ml.artifacts.snapshot import digest
from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.read import raw_table
from ml.logs.synthetic import simulate
from ml.online.feeder import file_name, write_arriving
from ml.online.stream import stream_folder
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.stages import tuned_models
from ml.training.state import new_state
from ml.training.state_dict import save_snapshot

DAY = "2026-01-02"
ROWS = 5_000_000  # of the tables
RATE = 2_000  # events a second
WARM_UP, SECONDS, EMPTIES = 5, 120, 40
PARTS = ("wait", "train", "publish", "apply")


def run() -> list[Result]:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root, spec = Path(folder), load_catalog()[DATASET]
        rows = _prepare(root, spec)
        trainer = spawn.Process(target=train, args=(root, EMPTIES, 1.0))
        receiver = spawn.Process(target=serve, args=(root, root / "requests.parquet"))
        began = _feed(root, rows, trainer, receiver)
        events = _of_events(root, began)
        empty = _of_empties(root)
        read = [of["seconds"] for of in read_log(root / "read")]
        sent = read_log(root / "trained")[WARM_UP:]
    parts = np.median(events, 0)
    latency, floor = events.sum(1), np.array(empty)
    at = {q: (float(np.percentile(latency, q)), float(np.percentile(floor, q))) for q in (50, 99)}
    split = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in zip(PARTS, parts, strict=True))
    changed, nbytes = (statistics.median(of[name] for of in sent) for name in ("rows", "nbytes"))
    note = {
        50: f"medians: {split}; deltas of {changed:,.0f} rows, {nbytes / 1e3:,.0f} kB",
        99: f"of predictions of {REQUEST_ROWS} rows, {REQUESTS} a second: {np.percentile(read, 99) * 1e3:.0f} ms",
    }
    return [
        Result(
            f"event to served weight, {RATE:,} events/s, {ROWS / 1e6:g}M rows: {name} {at[q][0]:.2f} s",
            "per s",
            1 / at[q][0],
            1 / at[q][1],
            f"an empty delta ({at[q][1]:.2f} s)",
            note=note[q],
        )
        for q, name in ((50, "median"), (99, "99th percentile"))
    ]


def _prepare(root: Path, spec: DatasetSpec) -> pa.Table:
    """Write the state from which the trainer starts, and requests. Returns the rows of the day."""
    lake, landing = Lake.at(root / "lake"), root / "landing"
    landing.mkdir()
    simulate.write_day(spec.log, DAY, landing)
    ingest_day(spec.log, DAY, str(landing), lake, LocalRunner())
    rows = raw_table(lake, DATASET, DAY).combine_chunks()
    state = new_state(recipe_of(spec, MODEL), FeatureSchema.of(spec))
    state.begin_pass()
    bags = next(one for one in state.bags.values() if isinstance(one, CollisionlessEmbeddingBags))
    ids = np.unique(np.random.default_rng(0).integers(-(2**62), 2**62, ROWS))
    bags.store.insert(np.zeros(len(ids), np.int64), ids)
    state.end_pass()
    with lake.write(tuned_models(MODEL), DATASET, BEFORE) as staging:
        save_snapshot(state, staging)
        Lake.write_manifest(staging, {"digest": digest(staging), "fingerprint": state.schema.fingerprint})
    pq.write_table(rows.slice(len(rows) - 100 * REQUEST_ROWS), root / "requests.parquet")
    return rows


def _feed(root: Path, rows: pa.Table, trainer: Any, receiver: Any) -> float:
    """Let the processes work. Returns the time of the first event after the warm-up."""
    stream = stream_folder(UPath(root), DATASET)
    stream.mkdir(parents=True)
    files = [rows.slice(number * RATE, RATE) for number in range(WARM_UP + SECONDS)]
    for number in range(WARM_UP):
        write_arriving(files[number], stream / file_name(DAY, number))
    try:
        trainer.start()
        receiver.start()
        _until(lambda: _version(root) >= WARM_UP, trainer, receiver)
        began = time.time()
        for number in range(WARM_UP, len(files)):
            time.sleep(max(began + (number - WARM_UP + 1) - time.time(), 0))
            write_arriving(files[number], stream / file_name(DAY, number))
        _until(lambda: _version(root) >= len(files), trainer, receiver)
        (root / "stop").touch()
        _until(lambda: _version(root, EMPTY) >= EMPTIES, receiver)
        (root / "end").touch()
        trainer.join(60)
        receiver.join(60)
    finally:
        for process in (trainer, receiver):
            process.kill()
    return began


def _until(reached: Any, *processes: Any) -> None:
    limit = time.monotonic() + 300
    while not reached():
        if time.monotonic() > limit or not all(process.is_alive() for process in processes):
            raise RuntimeError("the trainer or the receiver has stopped, or is too slow")
        time.sleep(0.2)


def _version(root: Path, run_id: str | None = None) -> int:
    done = [of for of in read_log(root / "applied") if run_id is None or of["run_id"] == run_id]
    return done[-1]["version"] if done else -1


def _applied_at(root: Path, empty: bool) -> dict[int, float]:
    """Return the time at which each version was served."""
    found: dict[int, float] = {}
    last = -1
    for of in read_log(root / "applied"):
        if (of["run_id"] == EMPTY) == empty:
            for version in range(last + 1, of["version"] + 1):
                found[version] = of["applied_at"]
            last = of["version"]
    return found


def _of_events(root: Path, began: float) -> NDArray[np.float64]:
    """Return the seconds of each activity by event, float64 [N, P]."""
    served = _applied_at(root, empty=False)
    found = []
    for number, of in enumerate(read_log(root / "trained")[WARM_UP:]):
        happened = began + number + (np.arange(RATE) + 1) / RATE
        taken = of["at"] - of["publish"] - of["train"]
        parts = np.empty((RATE, len(PARTS)))
        parts[:, 0], parts[:, 1:] = taken - happened, (of["train"], of["publish"], served[of["version"]] - of["at"])
        found.append(parts)
    return np.concatenate(found)


def _of_empties(root: Path) -> list[float]:
    """Return the seconds from publishing an empty delta until it is served."""
    served = _applied_at(root, empty=True)
    return [served[of["version"]] - of["began"] for of in read_log(root / "empties")]
