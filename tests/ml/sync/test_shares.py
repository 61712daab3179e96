"""Two processes train one model and publish it; the deltas give the rows of a snapshot."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from upath import UPath

from ml.artifacts.predictor import TorchPredictor
from ml.artifacts.weights import weights_of
from ml.distributed.launch import launch, process_group
from ml.distributed.launchers import Processes
from ml.distributed.process_group import Ranks
from ml.recipes.online import SyncRecipe
from ml.sync.folder import Acknowledgement, Head, SyncFolder
from ml.sync.publisher import Publisher
from ml.training.passes import train_pass
from ml.training.state import new_state
from tests.helpers.training_days import make_batches, small_recipe
from tests.helpers.training_states import SCHEMA
from tests.ml.sync.test_publisher import MIXED, no_inputs, rebuilt

SYNCS = 3


def publish(root: str, tables: dict[str, Any], keys: dict[str, Any]) -> list[int]:
    """Train and publish on each rank. Returns the number of rows held back by version."""
    with process_group() as ranks:
        state = new_state(small_recipe(**tables), SCHEMA, ranks)
        state.begin_pass()
        train(state, ranks, 0)
        recipe = SyncRecipe(**keys)
        own = Publisher(
            SyncFolder.at(root), state, no_inputs, dataset="made", model="dlrm", run_id="a1", recipe=recipe, ranks=ranks
        )
        manifests = [own.snapshot().manifest]
        own.folder.acknowledge(Acknowledgement("server", "a1", 0, {}, time.time()))  # keeps all packages
        for seed in range(1, SYNCS + 1):
            train(state, ranks, seed)
            manifests.append(own.publish(None).manifest)
        while manifests[-1].pending:
            manifests.append(own.publish(None).manifest)
        assert ranks.all_gather(own.version) == [(len(manifests) - 1,)] * 2
        manifests.append(own.snapshot().manifest)
        return [one.pending for one in manifests]


def train(state: Any, ranks: Ranks, seed: int) -> None:
    """Train on a few batches of this rank; a seed has its own ids."""
    train_pass(state, list(make_batches(SCHEMA, 3, seed=2 * seed + ranks.rank)), total_steps=3, ranks=ranks)


@pytest.mark.slow
@pytest.mark.parametrize("tables", [{}, MIXED], ids=["collisionless and hashed", "static and compositional too"])
@pytest.mark.parametrize("keys", [{}, {"byte_budget": 1024}], ids=["everything", "a byte budget"])
def test_packages_of_sharded_trainers_give_their_rows_bit_for_bit(
    tmp_path: Path, tables: dict[str, Any], keys: dict[str, Any]
) -> None:
    root = tmp_path / "sync"
    pending = launch(publish, str(root), tables, keys, processes=Processes(2), scratch=UPath(tmp_path))
    assert (max(pending) > 0) == bool(keys)
    folder, last = SyncFolder.at(root), len(pending) - 2
    assert folder.head() == Head("a1", last, last)
    at_once = weights_of(TorchPredictor.load(folder.package("a1", "snapshot", last)).model)
    copied = weights_of(rebuilt(folder, begin=0).model)
    assert at_once.keys() == copied.keys()
    assert all(torch.equal(copied[name], tensor) for name, tensor in at_once.items())


def test_independent_embeddings_cannot_be_published(tmp_path: Path) -> None:
    state = new_state(small_recipe(embeddings="independent"), SCHEMA)
    with pytest.raises(ValueError, match="use sharded"):
        Publisher(
            SyncFolder.at(tmp_path),
            state,
            no_inputs,
            dataset="made",
            model="dlrm",
            run_id="a1",
            recipe=SyncRecipe(),
            ranks=Ranks(0, 2),
        )
