"""A day trained online in slices, scoring included, compared with the batch loop on the same rows.

Both sides start from the same state and read the same day. Online training synchronises a serving copy before each slice and
predicts the slice with it, in a second thread. Rates are of wall-clock time, because the second thread is part of the design;
the note has the ratio by CPU time, which charges all of it.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.result import Result
from ml.catalog.load import load_catalog
from ml.catalog.spec import DatasetSpec
from ml.compute.runner import LocalRunner
from ml.datasets.reader import BlockReader
from ml.datasets.write import write_day
from ml.features.clean import clean_day
from ml.lake import Lake
from ml.logs.ingest import ingest_day
from ml.logs.synthetic import simulate
from ml.online.loop import online_slices
from ml.online.serving import ServingCopy
from ml.recipes.recipe import Recipe, recipe_of
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import TrainState, new_state

SLICES, ROUNDS = (50, 10), 3
Measured = tuple[float, float, str]  # wall-clock seconds, CPU seconds, a note


def run() -> list[Result]:
    spec = load_catalog()["synthetic"]
    recipe = recipe_of(spec, spec.primary)
    with tempfile.TemporaryDirectory() as folder:
        lake, (first, second) = _days(spec, Path(folder))
        state = new_state(recipe, FeatureSchema.of(spec))
        _batch(copy.deepcopy(state), _reader(lake, spec, first, recipe))  # compiles kernels
        _online(copy.deepcopy(state), _reader(lake, spec, first, recipe), recipe, 2)
        _batch(state, _reader(lake, spec, first, recipe))
        rows = _reader(lake, spec, second, recipe).rows
        results = []
        for count in SLICES:
            batch, online = [], []
            for _ in range(ROUNDS):  # in turns, so that both sides meet the same other load
                batch.append(_batch(copy.deepcopy(state), _reader(lake, spec, second, recipe)))
                online.append(_online(copy.deepcopy(state), _reader(lake, spec, second, recipe), recipe, count))
            wall, cpu = (
                statistics.median(one[of] / other[of] for one, other in zip(batch, online, strict=True)) for of in (0, 1)
            )
            rate = rows / statistics.median(of[0] for of in batch)
            note = f"median of {ROUNDS}; by CPU time {cpu:.2f}; {online[-1][2]}"
            what = f"a day online in {count} slices, scored"
            results.append(Result(what, "samples/s", wall * rate, rate, "the batch loop", note=note))
    return results


def _days(spec: DatasetSpec, folder: Path) -> tuple[Lake, list[str]]:
    """Simulate two days, and make their training data."""
    lake, landing, days = Lake.at(folder / "lake"), folder / "landing", spec.days()[:2]
    landing.mkdir()
    for day in days:
        simulate.write_day(spec.log, day, landing)
        ingest_day(spec.log, day, str(landing), lake, LocalRunner())
        clean_day(spec, day, lake, str(landing), LocalRunner())
        write_day(spec, day, lake, LocalRunner())
    return lake, days


def _reader(lake: Lake, spec: DatasetSpec, day: str, recipe: Recipe) -> BlockReader:
    return BlockReader(lake, spec, [day], splits=recipe.splits, batch_size=recipe.batch_size, order="time")


def _batch(state: TrainState, reader: BlockReader) -> Measured:
    def work() -> str:
        state.begin_pass()
        train_pass(state, reader, total_steps=len(reader))
        return ""

    return _timed(work)


def _online(state: TrainState, reader: BlockReader, recipe: Recipe, count: int) -> Measured:
    def work() -> str:
        state.begin_pass()
        serving = ServingCopy(state, recipe.online.sync)
        results = list(online_slices(state, reader.slices(count=count), serving))
        sync, score = (sum(of.seconds[name] for of in results) for name in ("sync", "score"))
        sent = sum(of.sync.nbytes for of in results) / 1e6
        return f"{sync:.2f} s synchronising ({sent:.0f} MB), {score:.2f} s predicting beside the training"

    return _timed(work)


def _timed(work: Callable[[], str]) -> Measured:
    wall, cpu = time.perf_counter(), time.process_time()
    note = work()
    return time.perf_counter() - wall, time.process_time() - cpu, note
