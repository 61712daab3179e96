"""The learning rates of online training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ml.recipes.online import OnlineRecipe
from ml.recipes.optimizers import Schedule
from ml.training.state import TrainState


@contextmanager
def online_rates(state: TrainState, online: OnlineRecipe) -> Iterator[None]:
    """Let a state train with the learning rates and the schedule of the `online` section inside the block.

    Afterwards the state has its own recipe again, so that a snapshot of it describes the declared one.
    """
    recipe, rates = state.recipe, {path: bags.base_lr for path, bags in state.bags.items()}
    optimizers = (recipe.dense_optimizer, recipe.table_optimizer)
    dense, tables = (of.model_copy(update={"lr": of.lr * online.learning_rate}) for of in optimizers)
    schedule = recipe.schedule if online.schedule == "slice" else Schedule()
    state.recipe = recipe.model_copy(update={"dense_optimizer": dense, "table_optimizer": tables, "schedule": schedule})
    for path, bags in state.bags.items():
        bags.base_lr = rates[path] * online.learning_rate
    try:
        yield
    finally:
        state.recipe = recipe
        for path, bags in state.bags.items():
            bags.base_lr = rates[path]
