"""Sync: 200,000 of 5 million rows from a trainer to a receiver as a delta, compared with a snapshot of all rows.

Both sides end when the receiver serves the rows, and include files: creation, digests, writing, flushing to disk, reading,
verification and application. The floor writes, flushes and reads the bytes of the delta, and computes their digest twice.

Deltas of several sizes are also created from a record of the touched rows, and compared with reading the step of every row. The
floor copies the rows.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.result import Result
from ml.artifacts.bundle import write_inputs
from ml.catalog.spec import DatasetSpec
from ml.embeddings.collisionless.bags import CollisionlessEmbeddingBags
from ml.embeddings.collisionless.deltas import create_delta, trim_tombstones
from ml.embeddings.collisionless.row_layout import WEIGHTS, copy_rows
from ml.recipes.online import SyncRecipe
from ml.recipes.recipe import load_recipe
from ml.schema import FeatureSchema
from ml.sync.folder import SyncFolder
from ml.sync.manifest import RowFormat
from ml.sync.publisher import Publisher
from ml.sync.receiver import Receiver
from ml.sync.rows import DELTA_FILE
from ml.training.loop import threads
from ml.training.state import TrainState, new_state

ROWS, UPDATED, DIM, ROUNDS = 5_000_000, 200_000, 16, 5
FORMATS: tuple[RowFormat, ...] = ("float32", "int8")
Seconds = dict[str, list[float]]


def run() -> list[Result]:
    return [*(_run(rows) for rows in FORMATS), *_create()]


def _run(rows: RowFormat) -> Result:
    size: list[str] = []
    with tempfile.TemporaryDirectory() as root, threads(2):
        state, bags, ids = _state()
        recipe = SyncRecipe(rows=rows)
        inputs = partial(write_inputs, spec=_spec(), states={})
        own = Publisher(SyncFolder.at(root), state, inputs, dataset="made", model="dlrm", run_id="bench", recipe=recipe)
        own.snapshot()
        receiver = Receiver(own.folder, "server")
        receiver.load()
        deltas, snapshots = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
        floors: list[float] = []
        for number in range(1 + ROUNDS):
            _train(bags, ids, seed=number)
            sent = _delta(own, receiver, deltas)
            floors.append(_floor(own, Path(root)))  # before the snapshot, which deletes the delta
            size = [f"{count / 1e6:.1f} MB" for count in (sent, _snapshot(own, snapshots))]
    ours, baseline, floor = (statistics.median(each[1:]) for each in (deltas["all"], snapshots["all"], floors))
    note = f"{size[0]}: {_parts(deltas)}; snapshot {size[1]}: {_parts(snapshots)}; floor: the delta's bytes, files only"
    what = f"sync: 200k {rows} rows of 5M, trainer to receiver"
    return Result(what, "per s", 1 / ours, 1 / baseline, "a snapshot", 1 / floor, note)


def _create() -> list[Result]:
    """Compare the creation of deltas from the record of touched rows with reading all steps, in turn, by number of rows."""
    found = []
    with threads(2):
        _, bags, ids = _state()
        for rows in (UPDATED, UPDATED // 10, UPDATED // 100):
            seconds = defaultdict[str, list[float]](list)
            for number in range(2 * ROUNDS):
                since = bags.store.step
                create_delta(bags.store, since)
                trim_tombstones(bags.store)
                _train(bags, ids, seed=number, rows=rows)
                touched = bags.store.touched.since(since)
                assert touched is not None
                words = np.empty((rows, WEIGHTS + DIM), np.int32)
                began = time.perf_counter()
                copy_rows(bags.store.array.words, touched, words)
                seconds["floor"].append(time.perf_counter() - began)
                for way in ("record", "steps"):
                    if way == "steps":
                        bags.store.touched.clear()
                    began = time.perf_counter()
                    assert create_delta(bags.store, since).rows == rows
                    seconds[way].append(time.perf_counter() - began)
            ours, baseline, floor = (statistics.median(seconds[way][1:]) for way in ("record", "steps", "floor"))
            note = f"{1000 * ours:.2f} ms and {1000 * baseline:.1f} ms"
            what = f"create a delta of {rows:,} of 5M rows"
            found.append(Result(what, "per s", 1 / ours, 1 / baseline, "reading all steps", 1 / floor, note))
    return found


def _state() -> tuple[TrainState, CollisionlessEmbeddingBags, np.ndarray]:
    """Build a model with one collisionless table of `ROWS` rows."""
    state = new_state(load_recipe("dlrm", {"model": {"embedding_dim": DIM}}), FeatureSchema.of(_spec()))
    state.begin_pass()
    (bags,) = (one for one in state.bags.values() if isinstance(one, CollisionlessEmbeddingBags))
    ids = np.unique(np.random.default_rng(0).integers(-(2**62), 2**62, ROWS))
    bags.store.insert(np.zeros(len(ids), np.int64), ids)
    return state, bags, ids


def _spec() -> DatasetSpec:
    return DatasetSpec.model_validate(
        {
            "name": "made",
            "description": "One feature with many ids.",
            "source": {"files": "*.csv", "format": "csv", "columns": {"d": "float", "a": "string", "t": "int", "y": "int"}},
            "time": {"column": "t"},
            "partitions": {"start": "2026-01-01"},
            "label": {"column": "y"},
            "dense": [{"name": "d"}],
            "sparse": ["a"],
        }
    )


def _train(bags: CollisionlessEmbeddingBags, ids: np.ndarray, seed: int, rows: int = UPDATED) -> None:
    """Update `rows` random rows."""
    chosen = torch.from_numpy(np.random.default_rng(seed).choice(ids, rows, replace=False))
    features = KeyedJaggedTensor(["a"], chosen, lengths=torch.ones(rows, dtype=torch.int32))
    bags(features).values().square().sum().backward()


def _delta(own: Publisher, receiver: Receiver, seconds: Seconds) -> int:
    """Send the changes to the receiver. Returns their bytes."""
    began = time.perf_counter()
    published = own.publish(None)
    applied = receiver.poll()
    seconds["all"].append(time.perf_counter() - began)
    assert applied is not None and applied.rows == published.manifest.rows == UPDATED
    for name, spent in published.seconds.items():
        seconds[name].append(spent)
    seconds["receive"].append(seconds["all"][-1] - sum(published.seconds.values()))
    return published.manifest.nbytes


def _snapshot(own: Publisher, seconds: Seconds) -> int:
    """Send all rows to a new receiver. Returns their bytes."""
    began = time.perf_counter()
    published = own.snapshot()
    Receiver(own.folder, "other").load()
    seconds["all"].append(time.perf_counter() - began)
    for name, spent in published.seconds.items():
        seconds[name].append(spent)
    seconds["receive"].append(seconds["all"][-1] - sum(published.seconds.values()))
    return published.manifest.nbytes


def _floor(own: Publisher, root: Path) -> float:
    """Return the seconds that a file of the delta's size takes to be written, flushed, read and verified."""
    manifest = own.folder.manifest(own.run_id, "delta", own.version)
    data = own.folder.read(manifest, DELTA_FILE)
    began = time.perf_counter()
    hashlib.sha256(data).hexdigest()
    with (root / "floor").open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    hashlib.sha256((root / "floor").read_bytes()).hexdigest()
    return time.perf_counter() - began


def _parts(seconds: Seconds) -> str:
    """Describe where the time goes: the median of each part, in ms."""
    return ", ".join(f"{name} {1000 * statistics.median(each[1:]):.0f} ms" for name, each in seconds.items() if name != "all")
