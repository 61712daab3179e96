"""Two processes train what one does: the same losses, dense weights, rows and optimizer state, over every kind of table."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from made_days import make_batches, small_recipe

from ml.datasets.batch import Batch
from ml.embeddings import columns
from ml.embeddings.replicas import merge
from ml.embeddings.sharded import ShardedBags
from ml.features.schema import FeatureSchema
from ml.recipes.recipe import Recipe, load_recipe
from ml.training.loop import train
from ml.training.ranks import Ranks
from ml.training.state import TrainState, new_state

SCHEMA = FeatureSchema(("x", "y"), ("a", "b", "c"), ("m",), "f")
TABLES = {
    "a": {"kind": "collisionless", "admit_after": 2, "ttl_seconds": 3600.0},
    "b": {"kind": "hashed", "rows": 16},
    "c": {"kind": "static", "rows": 64},
    "m": {"kind": "compositional", "rows": 40, "universe": 100},
}
TWO_TOWER = {"embedding_dim": 4, "user": ["a", "x", "m"], "item": ["b", "c", "y"], "item_id": "b", "hidden": [8], "out": 4}
RECIPES = {
    "collisionless": small_recipe(tables={"features": {}, "init_scale": 0.3}),
    "every kind": small_recipe(tables={"features": TABLES, "init_scale": 0.3}),
    "negatives among all ranks' rows": load_recipe(
        "two_tower",
        {
            "model": {**TWO_TOWER, "uniform_negatives": 8},
            "tables": {"init_scale": 0.3},
            "batch_size": 32,
            "correct_sampling": False,
        },
    ),
    "independent": small_recipe(tables={"features": {}, "init_scale": 0.3}, embeddings="independent"),
}
STEPS, WORLD = 12, 2


def state_of(recipe: Recipe, ranks: Ranks | None = None) -> TrainState:
    state = new_state(recipe, SCHEMA, ranks)
    state.begin_pass()
    return state


def whole_batches(recipe: Recipe) -> list[Batch]:
    """The last is smaller than the ranks are many: one of them has no row of it. Ranks that learn each for itself do not meet
    the same ids: then they too learn what one process does."""
    *full, last = make_batches(SCHEMA, STEPS)
    one = torch.zeros(len(last), dtype=torch.bool)
    one[0] = True
    batches = [*full, last.rows(one)]
    if recipe.embeddings == "independent":
        for batch in batches:
            of_row = torch.arange(len(batch)).repeat(len(batch.sparse.keys()))
            later = (of_row >= -(-len(batch) // WORLD)).repeat_interleave(batch.sparse.lengths())
            batch.sparse.values()[later] += 1 << 40
    return batches


def share(batch: Batch, rank: int) -> Batch:
    each, more = divmod(len(batch), WORLD)
    begin = rank * each + min(rank, more)
    kept = torch.zeros(len(batch), dtype=torch.bool)
    kept[begin : begin + each + (rank < more)] = True
    return batch.rows(kept)


def told(state: TrainState) -> dict[str, torch.Tensor]:
    found = {f"dense/{name}": p.detach() for name, p in state.model.named_parameters() if p.numel() and ".kinds." not in name}
    for path, bags in state.bags.items():
        found |= {f"{path}/{name}": tensor for name, tensor in (bags.weights() | bags.training_state()).items()}
    return found


def work(rank: int, port: int, recipe: Recipe, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    state = state_of(recipe, Ranks.of())
    losses: list[float] = []
    batches = [share(batch, rank) for batch in whole_batches(recipe)]
    report = train(state, batches, total_steps=STEPS, on_step=lambda _, step: losses.append(step.loss), ranks=Ranks.of())
    torch.save((losses, report.rows, told(state)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_two_processes_train_what_one_does(recipe: Recipe, tmp_path: Path) -> None:
    alone, losses = state_of(recipe), []
    report = train(alone, whole_batches(recipe), total_steps=STEPS, on_step=lambda _, step: losses.append(step.loss))
    mp.start_processes(work, (free_port(), recipe, str(tmp_path)), nprocs=WORLD, start_method="spawn")  # type: ignore[no-untyped-call]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    wanted = told(alone)
    for theirs, rows, _ in ranks:
        assert rows == report.rows
        assert theirs == pytest.approx(losses, rel=1e-5)
    parts = [part for _, _, part in ranks]
    for name, tensor in wanted.items():
        if name.startswith("dense/"):
            for part in parts:
                torch.testing.assert_close(part[name], tensor, rtol=1e-4, atol=1e-5)
    for path, bags in alone.bags.items():
        mine = {name.removeprefix(f"{path}/"): t for name, t in wanted.items() if name.startswith(f"{path}/")}
        of_ranks = [{n.removeprefix(f"{path}/"): t for n, t in part.items() if n.startswith(f"{path}/")} for part in parts]
        if bags.divided_by_id:
            tables = [config.name for config in bags.embedding_bag_configs()]
            whole = (merge if recipe.embeddings == "independent" else columns.unite)(of_ranks, tables)
            assert all(len(part[f"{table}.id"]) < len(mine[f"{table}.id"]) for part in of_ranks for table in tables)
            for name in ("id", "weight", "count", "seen", "slot"):
                for table in tables:
                    torch.testing.assert_close(whole[f"{table}.{name}"], mine[f"{table}.{name}"], rtol=1e-4, atol=1e-5)
            assert torch.equal(whole["waiting"][:, :2], mine["waiting"][:, :2])
        else:
            keys = [feature for config in bags.embedding_bag_configs() for feature in config.feature_names]
            for number, table in enumerate(keys):
                for name in (n for n in mine if n.startswith(f"{table}.")):
                    torch.testing.assert_close(of_ranks[number % WORLD][name], mine[name], rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, ShardedBags) for module in alone.model.modules())
