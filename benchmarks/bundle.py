"""Predictions of a bundle from raw Criteo rows, compared with the model alone on prepared tensors."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.result import Result
from ml.artifacts.bundle import Bundle, write_inputs
from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.raw_columns import RawColumns
from ml.catalog.load import load_catalog
from ml.models.build import build_model
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.training.loop import threads

ROUNDS = {1: 400, 500: 100}  # rows per call -> number of calls, of which the fastest is reported


def run() -> list[Result]:
    bundle = _bundle()
    with threads(1):
        return [result for rows in ROUNDS for result in _measured(bundle, rows)]


def _bundle() -> Bundle:
    """An untrained DLRM of the recipe's size. Every id is unknown; looking it up takes as long as looking up a known one."""
    spec = load_catalog()["criteo"]
    recipe, schema = recipe_of(spec, "dlrm"), FeatureSchema.of(spec)
    with tempfile.TemporaryDirectory() as folder:
        TorchPredictor(build_model(recipe, schema), recipe, schema).save(Path(folder), write_inputs(Path(folder), spec, {}))
        return Bundle.load(Path(folder))


def _measured(bundle: Bundle, rows: int) -> list[Result]:
    check = RawColumns(bundle.spec)
    sent = _rows(bundle, rows)
    frame, raw = sent.to_pandas(), check(sent)
    batch = bundle.batch(raw)
    ms = {
        "record batch": _best(lambda: bundle.predict(sent), rows),
        "pandas frame": _best(lambda: bundle.predict(frame), rows),
        "checks": _best(lambda: check(sent), rows),
        "transforms and tensors": _best(lambda: bundle.batch(raw), rows),
        "model": _best(lambda: bundle.score(batch), rows),
    }
    note = ", ".join(f"{what} {ms[what]:.3f} ms" for what in ("checks", "transforms and tensors", "model"))
    title, model = "1 row" if rows == 1 else f"{rows} rows", 1e3 * rows / ms["model"]
    return [
        Result(f"bundle, {title} as a {kind}", "rows/s", 1e3 * rows / ms[kind], model, "the model alone", note=said)
        for kind, said in (("record batch", note), ("pandas frame", ""))
    ]


def _rows(bundle: Bundle, count: int) -> pa.RecordBatch:
    rng = np.random.default_rng(0)

    def values(kind: pa.DataType) -> pa.Array:
        if pa.types.is_integer(kind):
            return pa.array(rng.integers(0, 1000, count))
        return pa.array([f"{number:08x}" for number in rng.integers(0, 2**32, count)])

    return pa.RecordBatch.from_pydict({name: values(kind) for name, kind in bundle.columns.items()})


def _best(call: Callable[[], object], rows: int) -> float:
    """Milliseconds of the fastest call."""
    best = float("inf")
    for _ in range(ROUNDS[rows]):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return 1e3 * best
