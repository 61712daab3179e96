"""The one training loop: `train_step` updates a state with one batch, and `steps` does so for a sequence of batches.

Daily training, replays and studies all iterate over `steps`. The loop does not depend on days or slices: checkpoints, progress,
early stopping and the end of a pass are the caller's responsibility (`ml.training.passes`, `ml.training.day`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.distributed.process_group import Ranks
from ml.hashing import derive_seed
from ml.recipes.recipe import Recipe
from ml.training.negative_sampling import sample_negatives
from ml.training.objectives import num_losses, per_example_loss
from ml.training.report import Step
from ml.training.state import TrainState


class DivergedError(ArithmeticError):
    """The loss is no longer a finite number."""


def train_step(state: TrainState, batch: Batch, *, total_steps: int, ranks: Ranks | None = None, first_step: int = 0) -> Step:
    """Update a state with one batch.

    Random draws (dropout, sampled negatives) depend only on the recipe's seed, the rank, and the number of steps that the
    model was trained for. The global random state is restored. torch uses `recipe.threads` threads.

    Args:
        state: A state with a running pass, updated in place.
        batch: B rows; with `ranks`, this rank's rows of the global batch, possibly none.
        total_steps: Number of steps of the learning-rate schedule: of the whole pass, unless `first_step` is given.
        ranks: The processes that train together. Each of them must make the same call.
        first_step: Step of the pass at which the schedule begins, such as the first step of a slice.

    Returns:
        The step, with the loss and the logits of the rows as they were before the update.

    Raises:
        DivergedError: The loss is not finite. The weights have not been updated.
        ValueError: The state has no running pass.
    """
    running, recipe = state.running, state.recipe
    if running is None:
        raise ValueError("the state has no running pass: call begin_pass(), or resume a checkpoint")
    read = batch
    if recipe.negative_sampling is not None:
        with threads(recipe.threads):
            batch = sample_negatives(state, read, recipe.negative_sampling, ranks)
    now, rows, losses_in_batch = batch_stats(read, batch, recipe, ranks)
    state.set_time(now)
    rates = state.set_learning_rates(recipe.schedule.factor(running.steps - first_step, total_steps))
    if not state.model.training:
        state.model.train()
    loss, logits = 0.0, None
    if losses_in_batch:
        with threads(recipe.threads), seeded_draws(state, ranks):
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                losses, logits = per_example_loss(state.model, batch, recipe, ranks, state.schema.labels[1:])
            loss = losses.detach().double().sum().item() / losses_in_batch
            if not math.isfinite(loss):
                raise DivergedError(_diverged(running.steps, batch, loss, rates))
            state.optimizer.zero_grad()
            (losses.sum() / losses_in_batch).backward()
            if ranks is not None:
                (loss,) = ranks.sum_gradients(state.dense_parameters, loss)
            if recipe.dense_optimizer.clip_norm is not None:
                nn.utils.clip_grad_norm_(state.dense_parameters, recipe.dense_optimizer.clip_norm)
            state.optimizer.step()
    step = Step(running.steps, rows, losses_in_batch, loss, rates, batch, None if logits is None else logits.detach())
    state.record_step(rows, losses_in_batch, loss)
    return step


def steps(
    state: TrainState, batches: Iterable[Batch], *, total_steps: int, ranks: Ranks | None = None, first_step: int = 0
) -> Iterator[Step]:
    """Train on batches in order, and yield each step once its update is complete.

    Between two steps the caller may save the state, score with it, or stop iterating. The batches may be a day, a slice of a
    day, or the rest of an interrupted pass, which continues at `state.running.steps`.

    On down-sampled rows the model learns the click probability among the sampled rows, which is not calibrated to the full
    log. With the recipe's `sampling_correction` the model learns the probability in the full log.

    Args:
        state: A state with a running pass, updated in place.
        batches: The batches; with `ranks`, this rank's part of each.
        total_steps: As for `train_step`.
        ranks: The processes that train together. All of them must take the same number of steps.
        first_step: As for `train_step`.

    Yields:
        A `Step` for each batch, before the next batch is read.

    Raises:
        DivergedError: The loss is not finite. The weights have not been updated.
        ValueError: The state has no running pass.

    Example:
        Progressive validation needs no second forward pass:

        >>> from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
        >>> from ml.metrics import auc
        >>> from ml.recipes.recipe import load_recipe
        >>> from ml.schema import FeatureSchema
        >>> from ml.training.state import new_state
        >>> ids = torch.tensor([1, 2, 3, 4])
        >>> batch = Batch(
        ...     dense=torch.rand(4, 1),
        ...     sparse=KeyedJaggedTensor(["item"], ids, lengths=torch.ones(4, dtype=torch.int32)),
        ...     labels=torch.tensor([0.0, 1.0, 0.0, 1.0]),
        ...     sample_rate=torch.ones(4),
        ...     event_time=torch.arange(4),
        ... )
        >>> state = new_state(load_recipe("dlrm"), FeatureSchema(("age",), ("item",), (), "f"))
        >>> state.begin_pass()
        >>> scored = [(step.batch.labels, step.logits) for step in steps(state, [batch] * 50, total_steps=50)]
        >>> labels, logits = (torch.cat(part).numpy() for part in zip(*scored))
        >>> auc(labels, logits) > 0.9
        True
    """
    for batch in batches:
        yield train_step(state, batch, total_steps=total_steps, ranks=ranks, first_step=first_step)


def batch_stats(read: Batch, kept: Batch, recipe: Recipe, ranks: Ranks | None) -> tuple[int, int, int]:
    """Return the latest event time and the number of rows of the global batch, and the number of losses of the kept rows."""
    own = (int(read.event_time.max()) if len(read) else 0, len(read), num_losses(kept, recipe))
    if ranks is None:
        return own
    times, rows, losses = zip(*ranks.all_gather(*own), strict=True)
    return max(times), sum(rows), sum(losses)


@contextmanager
def seeded_draws(state: TrainState, ranks: Ranks | None = None) -> Iterator[None]:
    """Seed random draws in the block by recipe seed, step and rank, and restore the global random state afterwards."""
    if not state.recipe.model.draws:
        yield
        return
    with torch.random.fork_rng():
        rank = (ranks.rank,) if ranks is not None and ranks.rank else ()
        torch.manual_seed(derive_seed(state.recipe.seed, "step", state.steps, *rank))
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _diverged(step: int, batch: Batch, loss: float, rates: dict[str, float]) -> str:
    day = datetime.fromtimestamp(int(batch.event_time[0]) / 1e6, UTC).date()
    return (
        f"loss is {loss} at step {step} of the pass over {day} (UTC), with learning rates {rates}: "
        "lower the recipe's learning rates, set dense_optimizer.clip_norm, or look for infinities among the dense features"
    )
