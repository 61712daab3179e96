"""The online loop: for each slice, synchronise the serving model, predict and score with it, then train on the slice.

This is Algorithm 1 of Monolith (Liu et al., 2022, arXiv 2209.07663): progressive validation of the model that serves. No row is
scored after the trained model has seen it, because the serving model changes only between slices. With a label wait, a slice is
trained on when its labels are known (`ml.online.known_labels`).

Predictions run in a second thread while the slice is trained on. Their results do not depend on that: training does not change
the models that predict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ml.datasets.batch import Batch
from ml.datasets.slices import Chunk
from ml.evaluation.ranking.systems import ClickRanks
from ml.online.known_labels import Ints, WaitingSlices
from ml.online.serving import Floats, Serving, SyncStats
from ml.training.loop import steps, threads
from ml.training.report import Step
from ml.training.state import TrainState

SCORING_ROWS = 2048
"""Rows per chunk. The activations of larger batches exceed the processor's caches, and smaller ones cost more per row."""
ONLINE = "online"
"""Name of the serving model's predictions."""

Predict = Callable[[Batch], Floats]
Rank = Callable[[int], Mapping[str, ClickRanks]]


class Slice(Protocol):
    """Rows of a span of time, such as `ml.datasets.slices.DaySlice`."""

    @property
    def number(self) -> int:
        """Index of the slice in its day, from 0."""
        ...

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    def __len__(self) -> int:
        """Return the number of batches."""
        ...

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Read the rows in time order, about `rows` at a time."""
        ...


@dataclass(frozen=True)
class SliceResult:
    """Result of one slice of N rows.

    Attributes:
        number: Index of the slice in its day.
        sync: What was sent before the slice was predicted.
        events: First and last event time of the rows, in microseconds since 1970 UTC.
        loss: Mean training loss; None if no row has a loss.
        labels: float32 [N].
        predictions: Probabilities by name of the model, float32 [N] each. `online` are those of the serving model.
        times: Event times of the rows, int64 [N], in microseconds since 1970 UTC.
        learned: First and last event time of what was trained on after the prediction; None if all labels were unknown.
        ranks: Ranks of the clicked items by name of the system, if items are ranked.
        seconds: Wall-clock seconds by activity: `sync`, `train` and `score`. `score` overlaps with `train`.
    """

    number: int
    sync: SyncStats
    events: tuple[int, int]
    loss: float | None
    labels: Floats
    predictions: Mapping[str, Floats]
    times: Ints
    learned: tuple[int, int] | None
    ranks: Mapping[str, ClickRanks] = field(default_factory=dict, compare=False)
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)


def online_slices(
    state: TrainState,
    slices: Iterable[Slice],
    serving: Serving,
    *,
    beside: Mapping[str, Predict] | None = None,
    rank: Rank | None = None,
    synced: SyncStats | None = None,
    learned: tuple[int, int] | None = None,
    label_wait: int = 0,
    predicted: Mapping[int, tuple[int, int]] | None = None,
    before_training: Callable[[Slice, SyncStats], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    scoring_rows: int = SCORING_ROWS,
) -> Iterator[SliceResult]:
    """Train on slices in order, and predict each with the serving model before.

    The learning-rate schedule of the state's recipe is applied to each slice.

    Args:
        state: A state with a running pass, updated in place.
        slices: The slices. Slices without rows are skipped.
        serving: The serving model. Before the first slice it must equal the state, or lag behind it.
        beside: Further models that predict the same rows, by name. A model with two names predicts once.
        rank: Ranks all live items for the clicks of each slice by the models that predict it, given the number of its rows.
        synced: The synchronisation before the first slice, if it was already made: a run resumes at this point.
        learned: First and last event time of the slice before the first one, if the serving model does not have it yet.
        label_wait: Time from an event until its label is known, in microseconds. After the last slice, all slices that still
            wait are trained on.
        predicted: First and last event time, by number, of slices among `slices` that were predicted and not trained on before
            the run was interrupted.
        before_training: Called after each synchronisation and before the slice is trained on. It may save a checkpoint, or
            raise to stop.
        on_step: Called after each step.
        scoring_rows: Rows that are predicted at a time.

    Yields:
        The result of each slice, once it has been trained on.

    Raises:
        DivergedError: The loss is not finite.
        ValueError: The state has no running pass.
    """
    models = {ONLINE: serving.predict, **(beside or {})}
    waiting, show = WaitingSlices[Slice](label_wait), on_step or (lambda step: None)
    with ThreadPoolExecutor(1, "score") as pool, threads(state.recipe.threads):
        for part, is_last in _with_last(part for part in slices if len(part)):
            if predicted and part.number in predicted:
                waiting.add(part, predicted[part.number])
                continue
            stats = synced or serving.sync(state, part.number, learned)
            synced = None
            if before_training is not None:
                before_training(part, stats)
            result = _slice(state, part, stats, models, rank, pool, show, scoring_rows, waiting, is_last)
            learned = result.learned
            yield result


def _slice(
    state: TrainState,
    part: Slice,
    stats: SyncStats,
    models: Mapping[str, Predict],
    rank: Rank | None,
    pool: ThreadPoolExecutor,
    on_step: Callable[[Step], None],
    rows: int,
    waiting: WaitingSlices[Slice],
    is_last: bool,
) -> SliceResult:
    """Predict a slice with each model, and train on it, or on the slices whose labels are known at its end."""
    began, running = time.perf_counter(), state.running
    before = (running.steps, running.loss_sum, running.num_losses) if running else (0, 0.0, 0)
    scored: list[Future[tuple[dict[str, Floats], float]]] = []
    ranked = pool.submit(_rank, rank, part.rows, state.recipe.threads) if rank else None
    labels, times = [], []
    for chunk in part.chunks(rows):
        if scored:
            scored[-1].result()  # bounds the number of chunks in memory
        scored.append(pool.submit(_predict, models, chunk.whole, state.recipe.threads))
        labels.append(chunk.whole.labels.numpy())
        times.append(chunk.whole.event_time.numpy())
        if not waiting.wait:
            for step in steps(state, chunk.batches, total_steps=len(part), first_step=before[0]):
                on_step(step)
    moments = np.concatenate(times)
    events = (int(moments[0]), int(moments[-1]))
    learned = _train_known(state, part, events, waiting, is_last, rows, on_step) if waiting.wait else events
    trained = time.perf_counter() - began
    found = [future.result() for future in scored]
    ranks, ranking = ranked.result() if ranked else ({}, 0.0)
    assert state.running is not None
    losses = state.running.num_losses - before[2]
    return SliceResult(
        number=part.number,
        sync=stats,
        events=events,
        loss=(state.running.loss_sum - before[1]) / losses if losses else None,
        labels=np.concatenate(labels),
        predictions={name: np.concatenate([predicted[name] for predicted, _ in found]) for name in models},
        times=moments,
        learned=learned,
        ranks=ranks,
        seconds={"sync": stats.seconds, "train": trained, "score": ranking + sum(seconds for _, seconds in found)},
    )


def _train_known(
    state: TrainState,
    part: Slice,
    events: tuple[int, int],
    waiting: WaitingSlices[Slice],
    is_last: bool,
    rows: int,
    on_step: Callable[[Step], None],
) -> tuple[int, int] | None:
    """Train on the slices whose labels are known at the end of a slice. Returns the span of their events."""
    waiting.add(part, events)
    known = waiting.rest() if is_last else waiting.known(events[1])
    for one, _ in known:
        begun = state.running.steps if state.running else 0
        for chunk in one.chunks(rows):
            for step in steps(state, chunk.batches, total_steps=len(one), first_step=begun):
                on_step(step)
    return (known[0][1][0], known[-1][1][1]) if known else None


def _with_last(slices: Iterable[Slice]) -> Iterator[tuple[Slice, bool]]:
    """Yield each slice, and whether it is the last one."""
    before = None
    for part in slices:
        if before is not None:
            yield before, False
        before = part
    if before is not None:
        yield before, True


def _rank(rank: Rank, rows: int, count: int) -> tuple[Mapping[str, ClickRanks], float]:
    began = time.perf_counter()
    with threads(count):
        return rank(rows), time.perf_counter() - began


def _predict(models: Mapping[str, Predict], batch: Batch, count: int) -> tuple[dict[str, Floats], float]:
    began = time.perf_counter()
    found: dict[Predict, Floats] = {}
    with threads(count):
        for predict in models.values():
            if predict not in found:
                found[predict] = predict(batch)
    return {name: found[predict] for name, predict in models.items()}, time.perf_counter() - began
