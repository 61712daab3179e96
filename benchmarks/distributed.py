"""Several processes on one machine compared with one process, on the same batches of Criteo's sample in the same order.

Both train two days like `ml.training.launch`, with one thread per process; the first day is not measured. With `sharded`,
tables are sharded by id, and processes exchange ids and rows at every step. With `independent`, each process learns its own
embeddings, and only gradients of dense layers are exchanged. The time of messages includes waiting for the other processes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from upath import UPath

from benchmarks._criteo_days import ALL, criteo_days
from benchmarks.result import Result
from ml.catalog.spec import DatasetSpec
from ml.datasets.reader import BlockReader
from ml.distributed.launch import launch, process_group
from ml.distributed.launchers import Processes
from ml.lake import Lake
from ml.recipes.recipe import Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.passes import train_pass
from ml.training.state import new_state

PROCESSES = 2
BATCH = 2048  # of all processes together
LARGE = {"bottom": [512, 256], "top": [512, 256], "embedding_dim": 16, "linear_shortcut": True}
_EXCHANGES = ("all_to_all_single", "all_gather_single", "all_reduce")


def run() -> list[Result]:
    with criteo_days() as (spec, lake):
        results = []
        for name, model in (("the catalog's DLRM", {}), ("MLPs 512-256", LARGE)):
            recipe = load_recipe("dlrm", {"model": model, "batch_size": BATCH, "precision": "bfloat16"})
            alone, _ = _samples(spec, lake, recipe, 1)
            floor, _ = _samples(spec, lake, recipe, PROCESSES, unrelated=True)
            for how in ("sharded", "independent"):
                together, share = _samples(spec, lake, recipe.model_copy(update={"embeddings": how}), PROCESSES)
                what = f"{name}, {PROCESSES} processes, {how}"
                note = f"messages take {share:.0%} of a step; floor: two processes that do not communicate"
                results.append(Result(what, "samples/s", together, alone, "one process", floor, note))
    return results


def _samples(spec: DatasetSpec, lake: Lake, recipe: Recipe, processes: int, unrelated: bool = False) -> tuple[float, float]:
    """Return samples per second of all processes, and the share of time in messages. Unrelated processes send none."""
    with tempfile.TemporaryDirectory() as scratch:
        return launch(_rank, spec, str(lake.root), recipe, unrelated, processes=Processes(processes), scratch=UPath(scratch))


def _rank(spec: DatasetSpec, root: str, recipe: Recipe, unrelated: bool) -> tuple[float, float]:
    lake, schema = Lake.at(root), FeatureSchema.of(spec)
    with process_group() as ranks:
        together = ranks if ranks.size > 1 and not unrelated else None
        state = new_state(recipe, schema, together)
        spent = _timed_exchanges()
        measured = (0.0, 0.0)
        for day in spec.days()[:2]:
            each = BATCH // ranks.size
            reader = BlockReader(
                lake, spec, [day], splits=ALL, batch_size=each, order="time", rank=ranks.rank, world_size=ranks.size
            )
            state.begin_pass()
            ranks.barrier()
            began, spent[:] = time.perf_counter(), [0.0]
            train_pass(state, reader, total_steps=len(reader), ranks=together)
            share = spent[0]
            ranks.barrier()
            seconds = time.perf_counter() - began
            measured = (reader.rows / seconds, share / seconds)
    return measured


def _timed_exchanges() -> list[float]:
    """Wrap the collectives of this process, and return a list with the seconds spent in them."""
    spent = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                spent[0] += time.perf_counter() - began

        return timing

    for name in _EXCHANGES:
        setattr(dist, name, timed(getattr(dist, name)))
    torch.set_num_threads(1)
    return spent
