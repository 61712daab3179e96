"""The one training loop: batch, resumed and later online training and trials all go through `train`.

It takes a state and batches, steps once per batch, and gives back a report. Where batches come from, where states are
kept and who watches is for the callers (`ml.training.day` first of all).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import nn

from ml.datasets.batch import Batch
from ml.datasets.splits import derive_seed
from ml.distributed.process_group import Ranks
from ml.embeddings.interface import TableStats, dense_parameters
from ml.recipes.recipe import Recipe
from ml.training.objectives import num_losses, per_example_loss
from ml.training.state import TrainState


class DivergedError(ArithmeticError):
    """The loss is not a finite number any more."""


@dataclass(frozen=True)
class Step:
    """One step, as watchers see it. index: in the pass, from 0. loss: mean of the batch's `terms` losses, one a row but where
    only clicked rows have one; 0 where there are none."""

    index: int
    rows: int
    terms: int
    loss: float
    learning_rates: dict[str, float]


@dataclass(frozen=True)
class TrainReport:
    """A pass over a day. Sums run over the whole pass, also where it was resumed; seconds over this process's share.

    loss: mean over rows that have one, each predicted just before it was trained on (progressive validation). rows_touched:
    distinct table rows updated; tables: figures by table, at the end of the pass; both of this rank's share. stopped_early:
    whether the pass was ended by `stop`. seconds_waiting: for batches; seconds_computing: the rest. samples_per_second: of all
    ranks, in this process's share of the pass.
    """

    rows: int
    steps: int
    loss: float | None
    rows_touched: int
    samples_per_second: float
    seconds_waiting: float
    seconds_computing: float
    stopped_early: bool = False
    learning_rates: dict[str, float] = field(default_factory=dict)
    tables: dict[str, TableStats] = field(default_factory=dict)


OnStep = Callable[[TrainState, Step], None]


def train(
    state: TrainState,
    batches: Iterable[Batch],
    *,
    total_steps: int,
    progress: Callable[[Step], None] | None = None,
    on_step: OnStep | None = None,
    stop: Callable[[TrainState], bool] | None = None,
    ranks: Ranks | None = None,
) -> TrainReport:
    """Step once on each of `batches`, in their order.

    total_steps: of the whole pass, which the schedule's shares refer to; a resumed pass goes on at `state.running.steps`.
    progress and on_step are called after each step, when the state is whole: on_step may write it down, or raise to stop.
    stop: asked after each step, whether that was enough; all ranks must say so. ranks: the processes that train together, each
    on its own part of every batch; what is told of a step, and the report's rows and loss, are of all of them.

    On down-sampled rows the model learns the click probability among the rows that came in, which ranks alike and is not
    calibrated to the log before sampling; with the recipe's `sampling_correction` it learns that of the log. What is
    learned is `ml.training.objectives`.

    Raises `DivergedError`, naming step and day, at a loss that is not finite, before its update.
    """
    running = state.running
    if running is None:
        raise ValueError("the state has no running pass; begin_pass() starts one, a checkpoint holds one")
    started, rows_before = time.perf_counter(), running.rows
    waiting, rates = 0.0, {}
    parameters = [parameter for _, parameter in dense_parameters(state.model)]
    clip, stopped = state.recipe.dense_optimizer.clip_norm, False
    state.model.train()
    with threads(state.recipe.threads), seeded_steps(state, ranks) as draw_anew:
        source = iter(batches)
        while True:
            # Before a step and not behind it: a pass that was interrupted at a look begins with that look.
            if stop is not None and running.steps and _all(stop(state), ranks):
                stopped = True
                break
            asked = time.perf_counter()
            batch = next(source, None)
            waiting += time.perf_counter() - asked
            if batch is None:
                break
            now, rows, terms = batch_stats(batch, state.recipe, ranks)
            state.set_time(now)
            rates = state.set_learning_rates(state.recipe.schedule.factor(running.steps, total_steps))
            loss = 0.0
            if terms:
                draw_anew()
                with torch.autocast("cpu", torch.bfloat16, enabled=state.recipe.precision == "bfloat16"):
                    losses = per_example_loss(state.model, batch, state.recipe, ranks)
                loss = losses.detach().double().sum().item() / terms
                if not math.isfinite(loss):
                    raise DivergedError(_diverged(running.steps, batch, loss, rates))
                state.optimizer.zero_grad()
                (losses.sum() / terms).backward()
                if ranks is not None:
                    (loss,) = ranks.sum_gradients(parameters, loss)
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                state.optimizer.step()
            step = Step(running.steps, rows, terms, loss, rates)
            running.steps, running.rows = running.steps + 1, running.rows + rows
            running.loss_sum, running.terms = running.loss_sum + loss * terms, running.terms + terms
            state.steps, state.rows = state.steps + 1, state.rows + rows
            if progress is not None:
                progress(step)
            if on_step is not None:
                on_step(state, step)
    state.end_pass()
    seconds = time.perf_counter() - started
    return TrainReport(
        rows=running.rows,
        steps=running.steps,
        loss=running.loss_sum / running.terms if running.terms else None,
        rows_touched=state.rows_touched(),
        samples_per_second=(running.rows - rows_before) / seconds,
        seconds_waiting=waiting,
        seconds_computing=seconds - waiting,
        stopped_early=stopped,
        learning_rates=rates,
        tables=state.stats(),
    )


def batch_stats(batch: Batch, recipe: Recipe, ranks: Ranks | None) -> tuple[int, int, int]:
    """Of the whole batch, over all ranks: its latest event time, its rows, and how many losses it has."""
    own = (int(batch.event_time.max()) if len(batch) else 0, len(batch), num_losses(batch, recipe))
    if ranks is None:
        return own
    times, rows, terms = zip(*ranks.all_gather(*own), strict=True)
    return max(times), sum(rows), sum(terms)


def _all(here: bool, ranks: Ranks | None) -> bool:
    return here if ranks is None else ranks.all_reduce_sum([here])[0] == ranks.size


@contextmanager
def seeded_steps(state: TrainState, ranks: Ranks | None = None) -> Iterator[Callable[[], None]]:
    """What to call before each step: what it draws then follows from seed, step and rank alone."""
    if not state.recipe.model.draws:
        yield lambda: None
        return
    with torch.random.fork_rng():
        rank = (ranks.rank,) if ranks is not None and ranks.rank else ()
        yield lambda: torch.manual_seed(derive_seed(state.recipe.seed, "step", state.steps, *rank)) and None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads while the block lasts."""
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
