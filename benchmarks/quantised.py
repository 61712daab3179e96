"""A trained DLRM's tables in fewer bits: what that costs in AUC, what it saves in bytes, how fast bags are read."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from benchmarks._criteo_days import ALL, criteo_days
from benchmarks.result import Result
from ml.catalog.spec import DatasetSpec
from ml.datasets.batch import Batch
from ml.datasets.reader import BlockReader
from ml.embeddings.quantised import Bits, quantise_tables
from ml.evaluation.metrics import auc
from ml.features.schema import FeatureSchema
from ml.lake import Lake
from ml.recipes.recipe import recipe_of
from ml.training.loop import threads, train
from ml.training.predict import predict
from ml.training.state import new_state

KINDS: tuple[Bits, ...] = ("fp32", "fp16", "int8", "int4")
B = 1024


def run() -> list[Result]:
    with criteo_days() as found, threads(1):
        if found is None:
            return []
        spec, lake = found
        model = _trained(spec, lake)
        batches = list(_reader(spec, lake, spec.days()[-1]))
        labels = np.concatenate([batch.labels.numpy() for batch in batches])
        whole, as_trained, results = auc(labels, predict(model, batches)) or 0.0, _rate(model, batches), []
        for bits in KINDS:
            small = copy.deepcopy(model)
            losses = quantise_tables(small, bits).values()
            lost = whole - (auc(labels, predict(small, batches)) or 0.0)
            nbytes, before = sum(loss.nbytes for loss in losses), sum(loss.before for loss in losses)
            worst = max(loss.error for loss in losses)
            note = (
                f"AUC {whole:.4f}, {lost:+.5f} lost; rows take {nbytes / before:.3f} of float32's bytes; "
                f"the worst table is off by {worst:.2%} of its weights"
            )
            rate = _rate(small, batches)
            results.append(Result(f"quantised rows: {bits}, bags read", "bags/s", rate, as_trained, "as trained", note=note))
    return results


def _trained(spec: DatasetSpec, lake: Lake) -> nn.Module:
    recipe = recipe_of(spec, "dlrm")
    state = new_state(recipe, FeatureSchema.of(spec))
    for day in spec.days()[:-1]:
        state.begin_pass()
        reader = BlockReader(lake, spec, [day], splits=ALL, batch_size=recipe.batch_size, order="time")
        train(state, reader, total_steps=len(reader))
    return state.model.eval()


def _reader(spec: DatasetSpec, lake: Lake, day: str) -> Iterator[Batch]:
    return iter(BlockReader(lake, spec, [day], splits=ALL, batch_size=B, order="time"))


@torch.no_grad()
def _rate(model: nn.Module, batches: list[Batch]) -> float:
    """Bags per second of the model's tables, the best of three passes."""
    tables, best = model.get_submodule("sparse_arch.embedding_bag_collection"), float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for batch in batches:
            tables(batch.sparse)
        best = min(best, time.perf_counter() - began)
    return sum(len(batch) * len(batch.sparse.keys()) for batch in batches) / best
