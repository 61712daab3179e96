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
    """Counts and sums of the running pass. A resumed pass continues them.

    Attributes:
        steps: Number of optimizer steps.
        rows: Number of rows trained on, over all ranks.
        num_losses: Number of losses: one for each row, or one for each clicked row with `loss: softmax`.
        loss_sum: Sum of these losses.
    """

    steps: int = 0
    rows: int = 0
    num_losses: int = 0
    loss_sum: float = 0.0


@dataclass
class TrainState:
    """A model under training, with everything except the batch that the next step depends on.

    Attributes:
        recipe: How the model is trained.
        schema: The features that the model reads.
        model: `forward(dense [B, I], sparse KJT) -> logits [B]`.
        optimizer: Optimizer of the dense parameters. Tables are updated in the backward pass.
        bags: The collections of tables by their path in the model.
        steps: Number of optimizer steps over the life of the model, all days together.
        rows: Number of rows trained on over the life of the model.
        running: The pass in progress, or the last one; None before the first.
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
        """Wrap an untrained model, and create its optimizer."""
        return cls(recipe, schema, model, _dense_optimizer(recipe, model), bags_of(model))

    @property
    def dense_parameters(self) -> list[nn.Parameter]:
        """Parameters of the dense part, in the model's order."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def begin_pass(self) -> None:
        """Start a pass: reset the counters and the statistics of the tables."""
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
        """Set learning rates to the recipe's, times `factor`. Returns them as `dense` and `tables`."""
        rates = {"dense": self.recipe.dense_optimizer.lr * factor, "tables": self.recipe.table_optimizer.lr * factor}
        for group in self.optimizer.param_groups:
            group["lr"] = rates["dense"]
        for bags in self.bags.values():
            bags.set_learning_rate(bags.base_lr * factor)
        return rates


def new_state(recipe: Recipe, schema: FeatureSchema, ranks: Ranks | None = None) -> TrainState:
    """Build an untrained model with its optimizer.

    Args:
        recipe: How the model is built and trained; its seed fixes the initial weights.
        schema: The features that the model reads.
        ranks: The processes among which the tables are sharded.

    Returns:
        A state without a pass. Equal arguments give equal bits.

    Raises:
        ValueError: The recipe names features that the schema does not have.

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
    """Create the optimizer with all of its state allocated and zero, so that a state has the same tensors at every step."""
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
