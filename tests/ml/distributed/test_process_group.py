"""Two processes give the same losses, dense weights, rows and optimizer state as one, with every kind of table."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from upath import UPath

from ml.artifacts.weights import weights_of
from ml.datasets.batch import Batch
from ml.distributed.launch import launch, process_group
from ml.distributed.launchers import Processes
from ml.distributed.process_group import Ranks
from ml.recipes.recipe import EarlyStop, Recipe, load_recipe
from ml.schema import FeatureSchema
from ml.training.early_stop import EarlyStopping
from ml.training.passes import train_pass
from ml.training.state import TrainState, new_state
from ml.training.state_dict import load_snapshot, optimizer_of, save_snapshot
from tests.helpers.training_days import make_batches, small_recipe

SCHEMA = FeatureSchema(("x", "y"), ("a", "b", "c"), ("m",), "f")
TABLES = {
    "a": {"kind": "collisionless", "min_count": 2, "ttl_seconds": 3600.0},
    "b": {"kind": "hashed", "rows": 16},
    "c": {"kind": "static", "rows": 64},
    "m": {"kind": "compositional", "rows": 40, "universe": 100},
}
PROJECTED = {"kind": "compositional", "rows": 40, "family": "hash", "operation": "project", "dim": 4}
SIDES = {"user": ["a", "x", "m"], "item": ["b", "c", "y"], "item_id": "b"}


def tables(**of: Any) -> dict[str, Any]:
    return {"tables": {"init_scale": 0.3, "features": {}, **of}}


RECIPES = {
    "collisionless": small_recipe(**tables()),
    "adam": small_recipe(**tables(), table_optimizer={"kind": "adam"}),
    "every kind": small_recipe(**tables(features=TABLES)),
    "projected in bfloat16": small_recipe(**tables(default=PROJECTED), model={"embedding_dim": 8}, precision="bfloat16"),
    "wide and deep": load_recipe("wide_deep", {"model": {"embedding_dim": 4, "deep": [8]}, "batch_size": 32, **tables()}),
    "negatives among all ranks' rows": load_recipe(
        "two_tower",
        {"model": {**SIDES, "embedding_dim": 4, "hidden": [8], "out": 4, "uniform_negatives": 8}, "batch_size": 32, **tables()},
    ),
    "independent": small_recipe(**tables(), embeddings="independent"),
}
CAPPED = small_recipe(**tables(features={"a": {"kind": "collisionless", "max_rows": 11, "evict": "never"}}))
STEPS, WORLD, ENOUGH = 12, 2, 5
Losses = tuple[list[float], int]


def whole_batches(recipe: Recipe) -> list[Batch]:
    """In one nobody clicked, in one nobody among the first rank's rows; the last has fewer rows than there are ranks.

    Ranks that learn each for itself do not meet the same ids: then they too learn what one process does.
    """
    *full, last = make_batches(SCHEMA, STEPS)
    full[3].labels[:] = 0.0
    full[5].labels[: -(-len(full[5]) // WORLD)] = 0.0
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


def trained(recipe: Recipe, ranks: Ranks | None = None) -> tuple[TrainState, Losses]:
    state, losses = new_state(recipe, SCHEMA, ranks), []
    state.begin_pass()
    batches = [share(batch, ranks.rank) if ranks else batch for batch in whole_batches(recipe)]
    report = train_pass(state, batches, total_steps=STEPS, after_step=lambda step: losses.append(step.loss), ranks=ranks)
    return state, (losses, report.rows)


def on_rank(folder: str) -> tuple[dict[str, Losses], int]:
    """Writes what it has of every state; tells of the passes, and at which step ranks that do not agree at first stopped."""
    torch.set_num_threads(1)
    found = {}
    with process_group() as ranks:
        for name, recipe in {**RECIPES, "capped": CAPPED}.items():
            state, found[name] = trained(recipe, ranks)
            save_snapshot(state, UPath(folder, name), ranks)
        state = new_state(RECIPES["independent"], SCHEMA, ranks)
        state.begin_pass()
        batches = [share(batch, ranks.rank) for batch in make_batches(SCHEMA, STEPS)]
        evaluations = itertools.count(1)
        rule = EarlyStop(metric="log_loss", target=1e9, every=1 / STEPS)  # any rows reach it, and no rows do not
        held_out = lambda: batches[:1] if next(evaluations) >= ENOUGH or ranks.rank == 0 else []  # noqa: E731
        stopping = EarlyStopping(rule, held_out, STEPS, ranks)
        report = train_pass(state, batches, total_steps=STEPS, early_stopping=stopping, ranks=ranks)
    return found, report.steps


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Losses], int]:
    folder = tmp_path_factory.mktemp("together")
    for name in (*RECIPES, "capped"):
        (folder / name).mkdir()
    return folder, *launch(on_rank, str(folder), processes=Processes(WORLD), scratch=UPath(folder))


def put_together(folder: Path, name: str, recipe: Recipe) -> TrainState:
    return load_snapshot(UPath(folder, name), recipe=recipe, schema=SCHEMA)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_train_what_one_does(name: str, together: tuple[Path, dict[str, Losses], int]) -> None:
    folder, found, _ = together
    alone, (losses, rows) = trained(RECIPES[name])
    rtol, atol = (2e-2, 1e-2) if RECIPES[name].precision == "bfloat16" else (1e-4, 1e-5)
    assert found[name][1] == rows
    torch.testing.assert_close(found[name][0], losses, rtol=rtol, atol=atol)
    whole = put_together(folder, name, RECIPES[name])
    assert whole.rows_touched() == alone.rows_touched()
    assert whole.stats().keys() == alone.stats().keys()
    for of in (lambda state: weights_of(state.model), optimizer_of):
        mine, theirs = of(alone), of(whole)
        assert mine.keys() == theirs.keys()
        for tensor in mine:
            # Of what comes from batches, not of clocks: ranks count their own look-ups and updates.
            if not tensor.endswith(("/step", ".step", "/pass", "/oldest_delta_step")):
                torch.testing.assert_close(
                    theirs[tensor], mine[tensor], rtol=rtol, atol=atol, msg=lambda text, t=tensor: f"{t}: {text}"
                )


@pytest.mark.slow
def test_all_ranks_together_keep_to_a_tables_cap(together: tuple[Path, dict[str, Losses], int]) -> None:
    whole = put_together(together[0], "capped", CAPPED)
    assert 0 < whole.stats()["a"].rows <= 11 < whole.stats()["c"].rows


@pytest.mark.slow
def test_ranks_stop_together(together: tuple[Path, dict[str, Losses], int]) -> None:
    assert together[2] == ENOUGH
