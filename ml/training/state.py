"""The state of training: the model, its dense optimizer and its counters.

`ml.training.loop` updates a state; `ml.training.state_dict` saves and loads it.
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
    """Progress of the running pass, and its sums so far; a resumed pass continues them.

    Attributes:
        steps: optimizer steps.
        rows: rows trained on, over all ranks.
        num_losses: losses so far: one for each row, or one for each clicked row with `loss: softmax`.
        loss_sum: sum of these losses.
    """

    steps: int = 0
    rows: int = 0
    num_losses: int = 0
    loss_sum: float = 0.0


@dataclass
class TrainState:
    """A model under training, with everything that the next step depends on besides its batch.

    Attributes:
        recipe: how it is trained.
        schema: the features it reads.
        model: `forward(dense [B, I], sparse KJT) -> logits [B]`.
        optimizer: of the dense parameters; tables update themselves in backward.
        bags: the collections of tables by their path in the model.
        steps: optimizer steps over the life of the model, all days together.
        rows: rows trained on over the life of the model.
        running: the pass in progress, or the last one; None before the first.
    """

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
        """Wrap a model that has not been trained yet, and make its optimizer."""
        return cls(recipe, schema, model, _dense_optimizer(recipe, model), bags_of(model))

    @property
    def dense_parameters(self) -> list[nn.Parameter]:
        """Parameters of the dense part, in the model's order."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def begin_pass(self) -> None:
        """Start a pass: counters and the tables' statistics restart."""
        self.running = Pass()
        for bags in self.bags.values():
            bags.begin_pass()

    def end_pass(self) -> None:
        """End the pass: tables with a time to live delete expired rows."""
        for bags in self.bags.values():
            bags.end_pass()

    def record_step(self, rows: int, num_losses: int, loss: float) -> None:
        """Count a step over `rows` rows, whose `num_losses` losses have the mean `loss`."""
        running = self.running
        assert running is not None
        running.steps, running.rows = running.steps + 1, running.rows + rows
        running.loss_sum, running.num_losses = running.loss_sum + loss * num_losses, running.num_losses + num_losses
        self.steps, self.rows = self.steps + 1, self.rows + rows

    def set_time(self, now: int) -> None:
        """Set the tables' clock to the event time of a batch, in microseconds since 1970-01-01 UTC."""
        for bags in self.bags.values():
            bags.set_time(now)

    def stats(self) -> dict[str, TableStats]:
        """Statistics by table; sums cover the running pass."""
        return {name: stats for bags in self.bags.values() for name, stats in bags.stats().items()}

    def rows_touched(self) -> int:
        """Count the distinct table rows updated in the running pass."""
        return sum(bags.rows_touched() for bags in self.bags.values())

    def set_learning_rates(self, factor: float) -> dict[str, float]:
        """Set all learning rates to the recipe's, times `factor`. Returns those of the dense part and of the tables."""
        rates = {"dense": self.recipe.dense_optimizer.lr * factor, "tables": self.recipe.table_optimizer.lr * factor}
        for group in self.optimizer.param_groups:
            group["lr"] = rates["dense"]
        for bags in self.bags.values():
            bags.set_learning_rate(bags.base_lr * factor)
        return rates


def new_state(recipe: Recipe, schema: FeatureSchema, ranks: Ranks | None = None) -> TrainState:
    """Build an untrained model with its optimizer.

    Args:
        recipe: how it is built and trained; its seed fixes the initial weights.
        schema: the features it reads.
        ranks: the processes among which its tables are sharded.

    Returns:
        The same bits for the same arguments.

    Raises:
        ValueError: the recipe names features that the schema does not have.

    Example:
        >>> from ml.recipes.recipe import load_recipe
        >>> schema = FeatureSchema(dense=("age",), single=("user", "item"), multi=(), fingerprint="f")
        >>> state = new_state(load_recipe("dlrm"), schema)
        >>> state.begin_pass()
        >>> state.steps, state.running.rows
        (0, 0)
    """
    model = build_model(recipe, schema)
    if ranks is not None:
        shard_tables(model, ranks.group, by_id=recipe.embeddings == "sharded")
    return TrainState.of(recipe, schema, model)


def _dense_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer with all of its state allocated and zero, so that a state has the same tensors at every step."""
    choice = recipe.dense_optimizer
    parameters = [parameter for _, parameter in dense_parameters(model)]
    kind = {"adam": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}[choice.kind]
    optimizer = kind(parameters, lr=0.0, weight_decay=choice.weight_decay)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # with a learning rate of zero and zero gradients no weight changes
    optimizer.zero_grad()
    for slots in optimizer.state.values():
        for slot in slots.values():
            slot.zero_()
    return optimizer
