"""Quantised models: AUC lost, bytes saved, and the speed of look-ups and of scoring rows."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks._criteo_days import ALL, criteo_days
from benchmarks.result import Result
from ml.artifacts.weights import bytes_of
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.embeddings.inference.formats import Format
from ml.embeddings.inference.quantise import quantise_tables
from ml.export.accuracy import accuracy_of
from ml.lake import Lake
from ml.models.int8 import quantise_layers
from ml.recipes.recipe import recipe_of
from ml.schema import FeatureSchema
from ml.training.loop import threads
from ml.training.passes import train_pass
from ml.training.state import new_state

FORMATS: tuple[Format, ...] = ("float32", "float16", "int8", "int4")
ROWS, FEW = 1024, 64  # of a batch
TRAINED, BOTH = "as trained", "int8 rows, int8 layers"
ROUNDS = 7


def run() -> list[Result]:
    results: list[Result] = []
    with criteo_days() as (spec, lake), threads(1):
        last = spec.days()[-1]
        (whole,), many, few = (list(_reader(spec, lake, last, size)) for size in (1 << 20, ROWS, FEW))
        few = few[: len(few) // 4]
        for name in spec.models:
            models = _formats(_trained(spec, lake, name), all_of_them=name == spec.primary)
            if name == spec.primary:
                tables = {made: model.get_submodule("sparse_arch.embedding_bag_collection") for made, model in models.items()}
                read = {made: partial(_read, bags, [b.sparse for b in many]) for made, bags in tables.items() if made != BOTH}
                results += _compared(f"{name}, bags read", "bags/s", read, len(whole) * len(whole.sparse.keys()))
            notes = _notes(models, whole)
            for batches in (many, few):
                scored = {made: partial(_score, model, batches) for made, model in models.items()}
                title, rows = f"{name}, rows scored, {len(batches[0])} at a time", sum(map(len, batches))
                results += _compared(title, "rows/s", scored, rows, notes if batches is many else {})
            results.append(_beside_torch(name, models[TRAINED], whole, many))
    return results


def _reader(spec: DatasetSpec, lake: Lake, day: str, size: int) -> BlockReader:
    return BlockReader(lake, spec, [day], splits=ALL, batch_size=size, order="time")


def _trained(spec: DatasetSpec, lake: Lake, name: str) -> nn.Module:
    """Train a model on all days except the last."""
    recipe = recipe_of(spec, name)
    state = new_state(recipe, FeatureSchema.of(spec))
    for day in spec.days()[:-1]:
        state.begin_pass()
        reader = _reader(spec, lake, day, recipe.batch_size)
        train_pass(state, reader, total_steps=len(reader))
    return state.model.eval()


def _formats(model: nn.Module, all_of_them: bool) -> dict[str, nn.Module]:
    found = {TRAINED: model}
    for rows in FORMATS if all_of_them else ("int8",):
        found[f"{rows} rows"] = copy.deepcopy(model)
        quantise_tables(found[f"{rows} rows"], rows)
    found[BOTH] = copy.deepcopy(found["int8 rows"])
    quantise_layers(found[BOTH])
    return found


def _notes(models: Mapping[str, nn.Module], whole: Batch) -> dict[str, str]:
    """Describe the AUC lost and the bytes saved by each model, on a day that no model was trained on."""
    trained, before = accuracy_of(models[TRAINED], whole), bytes_of(models[TRAINED])
    found = {}
    for made, model in models.items():
        lost, share = trained.lost(accuracy_of(model, whole)), bytes_of(model) / before
        found[made] = f"AUC {trained.auc:.4f}, {lost:+.5f} lost; {share:.2f} of the bytes, including ids and layers"
    return found


def _compared(
    title: str, unit: str, work: Mapping[str, Callable[[], None]], count: int, notes: Mapping[str, str] | None = None
) -> list[Result]:
    """Compare the rate of each model with the rate of the trained one."""
    rates, notes = _rates(work, count), notes or {}
    baseline = rates.pop(TRAINED)
    return [Result(f"{made}: {title}", unit, rate, baseline, TRAINED, note=notes.get(made, "")) for made, rate in rates.items()]


def _beside_torch(name: str, model: nn.Module, whole: Batch, batches: Sequence[Batch]) -> Result:
    """Compare our int8 layers with torch.ao's, on unquantised tables."""
    ours = copy.deepcopy(model)
    quantise_layers(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    rates = _rates({"ours": partial(_score, ours, batches), "theirs": partial(_score, theirs, batches)}, len(whole))
    lost = [accuracy_of(model, whole).lost(accuracy_of(one, whole)) for one in (ours, theirs)]
    note = f"AUC lost: {lost[0]:+.5f} with ours, {lost[1]:+.5f} with torch's"
    return Result(f"int8 layers: {name}, rows scored", "rows/s", rates["ours"], rates["theirs"], "torch.ao dynamic", note=note)


def _rates(work: Mapping[str, Callable[[], None]], count: int) -> dict[str, float]:
    """Return items per second, the best of several rounds. Models take turns, so that other load affects all of them."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(ROUNDS):
        for made, once in work.items():
            began = time.perf_counter()
            once()
            best[made] = min(best[made], time.perf_counter() - began)
    return {made: count / seconds for made, seconds in best.items()}


@torch.no_grad()
def _read(tables: nn.Module, features: Sequence[KeyedJaggedTensor]) -> None:
    for one in features:
        tables(one)


@torch.no_grad()
def _score(model: nn.Module, batches: Sequence[Batch]) -> None:
    for batch in batches:
        model(batch.dense, batch.sparse)
