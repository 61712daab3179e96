"""Measures how fast this machine trains: seconds per unit of each term of `ml.advisor.cost`.

The calibration trains small models of several shapes on random data, a few seconds in all, and solves for the rates that
explain the measured times best. Each step gathers and collates its rows with the code of the reader, as training does. A step
over tensors that are already in the processor's cache takes less time. The calibration runs in a process of its own, so that
other work of the calling process does not change what it measures, and is stored once for each kind of machine and version of
the libraries.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
import psutil
import zstandard
from scipy.optimize import nnls

from ml.advisor.cost import Speed, terms
from ml.advisor.hardware import Hardware, detect
from ml.advisor.workload import FeatureLoad, Workload
from ml.datasets.collate import batch_from_rows
from ml.datasets.rows import Rows
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.loop import train_step
from ml.training.state import TrainState, new_state

VERSION = 4  # increase it with a change of the terms or of what is measured
BATCHES = 4
SECONDS = 0.1  # processor time per shape and repetition
REPEATS = 3  # of which the median counts: the fastest is one that no day of training attains on average
READING = 2.2  # decoding a value takes this many times as long as its decompression alone, on the project's datasets
_BLOCK = 1 << 17


@dataclass(frozen=True)
class Calibration:
    """Speed of one core of a machine.

    Attributes:
        machine: `Hardware.machine` of the machine.
        made_with: Versions of what was measured. A calibration that was made with others is measured again.
        speed: Its speed.
        error: Root mean square of the relative errors of the fit.
    """

    machine: str
    made_with: str
    speed: Speed
    error: float

    def to_json(self) -> str:
        """Return JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` has written."""
        data = json.loads(text)
        return cls(**data | {"speed": Speed(**data["speed"])})


@dataclass(frozen=True)
class Shape:
    """A small training whose time is measured.

    Attributes:
        model: Recipe of the model.
        overrides: Changes to the recipe.
        dense: Number of dense features.
        sparse: Number of sparse features with one id per row.
        rows: Rows per batch.
        ids: Distinct ids of each sparse feature.
        fresh: Whether every batch has ids that no batch before it has.
    """

    model: str
    overrides: Mapping[str, Any]
    dense: int
    sparse: int
    rows: int
    ids: int
    fresh: bool = False


_STATIC = {"tables": {"default": {"kind": "static", "rows": 4096}}}
_WIDE = {"model": {"bottom": [512, 256], "top": [512, 256]}}
_TOWERS = {"model": {"user": ["s0", "s1", "s2", "d0"], "item": ["s3", "s4", "d1"], "item_id": "s3", "uniform_negatives": 0}}
SHAPES = (
    Shape("dlrm", {}, 3, 6, 256, 2_000),
    Shape("dlrm", {}, 13, 39, 256, 20_000),
    Shape("dlrm", {}, 13, 26, 1024, 20_000),
    Shape("dlrm", {}, 3, 9, 2048, 20_000),
    Shape("dlrm", {}, 13, 26, 256, 20_000, fresh=True),
    Shape("dlrm", {"model": {"embedding_dim": 64}}, 3, 9, 1024, 20_000),
    Shape("dlrm", _STATIC, 3, 9, 1024, 4_000),
    Shape("dlrm", {"tables": {"features": {"s0": {"kind": "static", "rows": 32}}}}, 3, 9, 256, 20_000),
    Shape("dlrm", _WIDE, 13, 10, 512, 2_000),
    Shape("dlrm", _WIDE | {"precision": "bfloat16"}, 13, 10, 512, 2_000),
    Shape("deepfm", {}, 13, 26, 256, 20_000),
    Shape("deepfm", {"model": {"deep": [400, 400, 400]}}, 13, 26, 256, 20_000),
    Shape("dcn_v2", {}, 13, 26, 256, 20_000),
    Shape("wide_deep", {}, 13, 26, 256, 20_000),
    Shape("two_tower", _TOWERS, 2, 5, 1024, 20_000),
)


def calibration_of(home: Path, hardware: Hardware | None = None) -> Calibration:
    """Return the calibration of this machine. It is measured if it is not stored yet.

    Args:
        home: Folder where calibrations are stored, as `calibration/<machine>.json`.
        hardware: This machine; by default, it is detected.

    Returns:
        The stored or new calibration.

    Raises:
        RuntimeError: The measurement failed; the message has its output.
    """
    machine = (hardware or detect()).machine
    if (stored := stored_calibration(home, machine)) is not None:
        return stored
    file = _file(home, machine)
    found = _measured_apart(machine)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(found.to_json(), encoding="utf-8")
    partial.replace(file)
    return found


def stored_calibration(home: Path, machine: str) -> Calibration | None:
    """Return the stored calibration of a machine; None if there is none for these versions. Nothing is measured."""
    try:
        stored = Calibration.from_json(_file(home, machine).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError):
        return None  # absent, damaged, or of another version
    return stored if (stored.machine, stored.made_with) == (machine, made_with()) else None


def _file(home: Path, machine: str) -> Path:
    return home / "calibration" / f"{machine}.json"


@cache
def made_with() -> str:
    """Return the versions that a calibration depends on."""
    return f"{VERSION} torch {version('torch')} numba {version('numba')}"


def measure(machine: str, shapes: tuple[Shape, ...] = SHAPES) -> Calibration:
    """Measure this machine with one thread. It takes a few seconds.

    Args:
        machine: `Hardware.machine` of this machine.
        shapes: What to train.

    Returns:
        The calibration.
    """
    first, *rest = shapes
    timed = [_time(first)]
    base = psutil.Process().memory_info().rss
    timed += [_time(shape) for shape in rest]
    names = sorted({name for each in timed for name in each.units} - {"values"})
    # Relative errors count: each equation is divided by its time. Columns are scaled, because units differ by powers of ten.
    matrix = np.array([[each.units.get(name, 0.0) / each.seconds for name in names] for each in timed])  # [shapes, terms]
    scale = np.maximum(matrix.max(axis=0), 1e-300)
    found, distance = nnls(matrix / scale, np.ones(len(timed)))
    rates = {name: float(rate) for name, rate in zip(names, found / scale, strict=True)}
    rates["values"] = READING * _seconds_per_value()
    return Calibration(machine, made_with(), Speed(rates, timed[0].start, base), float(distance / np.sqrt(len(timed))))


@dataclass(frozen=True)
class Timed:
    """A step of a shape.

    Attributes:
        units: Units of each term.
        seconds: Seconds.
        start: Seconds that the first steps took longer.
    """

    units: Mapping[str, float]
    seconds: float
    start: float


def _measured_apart(machine: str) -> Calibration:
    """Measure in a new process."""
    done = subprocess.run([sys.executable, "-m", __name__, machine], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"calibration of this machine failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return Calibration.from_json(done.stdout[done.stdout.index("{") :])


def _time(shape: Shape) -> Timed:
    """Train a shape, and measure its steps."""
    recipe = load_recipe(shape.model, {"batch_size": shape.rows, **shape.overrides})
    schema = _schema(shape)
    state = new_state(recipe, schema)
    state.begin_pass()
    first = _train(state, _rows(shape, 0), shape)  # loads kernels, and admits the ids
    typical = median(_repeat(state, shape, number) for number in range(1, REPEATS + 1))
    return Timed(terms(recipe, schema, _workload(shape, recipe)), typical, max(0.0, first - BATCHES * typical))


def _repeat(state: TrainState, shape: Shape, number: int) -> float:
    """Train for a while, and return seconds per step."""
    steps, spent, part = 0, 0.0, 0
    while spent < SECONDS:
        spent += _train(state, _rows(shape, number * 1000 + part), shape)
        steps, part = steps + BATCHES, part + 1
    return spent / steps


def _train(state: TrainState, rows: Rows, shape: Shape) -> float:
    """Train on rows batch by batch, as a pass does, and return the seconds."""
    order, began = np.random.default_rng(0).permutation(shape.rows), time.process_time()
    for low in range(0, len(rows), shape.rows):
        batch = batch_from_rows(rows.take(low + order), state.schema)
        train_step(state, batch, total_steps=1_000_000)
    return time.process_time() - began


def _rows(shape: Shape, part: int) -> Rows:
    """Return the rows of `BATCHES` batches."""
    generator, rows = np.random.default_rng(part), BATCHES * shape.rows
    ids = generator.integers(2, shape.ids + 2, (rows, shape.sparse))
    order, ones = np.arange(rows), np.ones(rows, np.float32)
    if shape.fresh:
        ids += (part * BATCHES + order[:, None] // shape.rows) * shape.ids
    return Rows(
        dense=generator.random((rows, shape.dense), np.float32),
        single=ids,
        multi_lengths=np.empty((rows, 0), np.int32),
        multi_values=order[:0],
        label=generator.integers(0, 2, rows).astype(np.float32),
        sample_rate=ones,
        event_time=np.zeros(rows, np.int64),
        position=order,
        further=np.empty((rows, 0), np.float32),
        weight=np.empty((rows, 0), np.float32),
    )


def _schema(shape: Shape) -> FeatureSchema:
    dense, sparse = (tuple(f"{kind}{i}" for i in range(n)) for kind, n in (("d", shape.dense), ("s", shape.sparse)))
    return FeatureSchema(dense, sparse, (), "calibration")


def _workload(shape: Shape, recipe: Recipe) -> Workload:
    """Return the workload of one step."""
    new = shape.ids * (1 - (1 - 1 / shape.ids) ** shape.rows) if shape.fresh else 0.0
    load = FeatureLoad(lookups=shape.rows, ids=max(new, 1.0), new=new)
    return Workload(recipe.batch_size, shape.rows / 2, dict.fromkeys(_schema(shape).sparse, load))


def _seconds_per_value() -> float:
    """Return the seconds that the decompression of a value takes."""
    data = np.random.default_rng(0).zipf(1.3, _BLOCK).astype(np.int64).tobytes()
    packed, unpack = zstandard.ZstdCompressor().compress(data), zstandard.ZstdDecompressor()
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(4):
            unpack.decompress(packed)
        best = min(best, time.process_time() - began)
    return best / 4 / _BLOCK


if __name__ == "__main__":
    sys.stdout.write(measure(sys.argv[1]).to_json())
