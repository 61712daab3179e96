"""What is trained: the model, its dense optimizer, and where in its life it stands. Stepping is `ml.training.loop`;
writing it down is `ml.artifacts.snapshot`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ml.distributed.process_group import Ranks
from ml.embeddings.distributed.sharded import shard_tables
from ml.embeddings.interface import TableStats, TrainableBags, bags_of, dense_parameters
from ml.models.build import build_model
from ml.recipes.recipe import Recipe
from ml.schema import FeatureSchema


@dataclass
class Pass:
    """How far the running pass over a day has come, and its sums so far; a resumed pass goes on with them. terms: losses."""

    steps: int = 0
    rows: int = 0
    terms: int = 0
    loss_sum: float = 0.0


@dataclass
class TrainState:
    """A model under training. steps, rows: over the whole life of the model, all days together."""

    recipe: Recipe
    schema: FeatureSchema
    model: nn.Module
    optimizer: torch.optim.Optimizer
    bags: dict[str, TrainableBags]
    steps: int = 0
    rows: int = 0
    running: Pass | None = None

    @classmethod
    def of(cls, recipe: Recipe, schema: FeatureSchema, model: nn.Module) -> TrainState:
        """A model that has not been trained yet, with its optimizer."""
        return cls(recipe, schema, model, _dense_optimizer(recipe, model), bags_of(model))

    def begin_pass(self) -> None:
        """Forget what belongs to the pass before."""
        self.running = Pass()
        for bags in self.bags.values():
            bags.begin_pass()

    def end_pass(self) -> None:
        """The pass is through: tables that forget do so."""
        for bags in self.bags.values():
            bags.end_pass()

    def set_time(self, now: int) -> None:
        """Tell the tables when a batch happened: microseconds since 1970 UTC."""
        for bags in self.bags.values():
            bags.set_time(now)

    def stats(self) -> dict[str, TableStats]:
        """By table. Sums are over the running pass."""
        return {name: figures for bags in self.bags.values() for name, figures in bags.stats().items()}

    def rows_touched(self) -> int:
        """Distinct table rows updated in the running pass."""
        return sum(bags.rows_touched() for bags in self.bags.values())

    def set_learning_rates(self, factor: float) -> dict[str, float]:
        """All optimizers' rates: the recipe's, times `factor`. Gives those of the dense part and of the embedding tables."""
        rates = {"dense": self.recipe.dense_optimizer.lr * factor, "tables": self.recipe.table_optimizer.lr * factor}
        for group in self.optimizer.param_groups:
            group["lr"] = rates["dense"]
        for bags in self.bags.values():
            bags.set_learning_rate(bags.base_lr * factor)
        return rates


def new_state(recipe: Recipe, schema: FeatureSchema, ranks: Ranks | None = None) -> TrainState:
    """An untrained model: the same bits for the same arguments. ranks: those that share its tables out among them."""
    model = build_model(recipe, schema)
    if ranks is not None:
        shard_tables(model, ranks.group, by_id=recipe.embeddings == "sharded")
    return TrainState.of(recipe, schema, model)


def _dense_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer with all its slots there and zero, so that a state has the same tensors before its first step."""
    choice = recipe.dense_optimizer
    parameters = [parameter for _, parameter in dense_parameters(model)]
    kind = {"adam": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}[choice.kind]
    optimizer = kind(parameters, lr=0.0, weight_decay=choice.weight_decay)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # with a learning rate and gradients of zero no weight moves
    optimizer.zero_grad()
    for slots in optimizer.state.values():
        for slot in slots.values():
            slot.zero_()
    return optimizer
